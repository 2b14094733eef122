package kernel

import "vitrine/pkg/sentry/usage"

// CountRead and CountWrite count a call of read(2), write(2) or their relations
// that moved n bytes; only the task itself calls them.
func (t *Task) CountRead(n uint64)  { t.usage.CountRead(n) }
func (t *Task) CountWrite(n uint64) { t.usage.CountWrite(n) }

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
