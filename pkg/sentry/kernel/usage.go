package kernel

import "vitrine/pkg/sentry/usage"

// Usage returns what the task has used.
func (t *Task) Usage() usage.Resources { return t.usage.Read() }

// usageLocked returns what the process has used, without its children. tree is
// held.
func (tg *ThreadGroup) usageLocked() usage.Resources {
	sum := tg.deadUsage
	for _, t := range tg.tasks {
		sum.Add(t.usage.Read())
	}
	return sum
}

// Usage returns what the process has used; ChildUsage what children it has
// waited for have.
func (tg *ThreadGroup) Usage() usage.Resources {
	tg.k.tree.RLock()
	u := tg.usageLocked()
	tg.k.tree.RUnlock()
	return u
}

func (tg *ThreadGroup) ChildUsage() usage.Resources {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.childUsage
}
