package kernel

import (
	"vitrine/pkg/sentry/throttle"
	"vitrine/pkg/sentry/usage"
)

// Container is what the tasks of one container have in common beyond their
// namespaces. Children inherit it.
type Container struct {
	ID       string
	throttle throttle.Throttle
	// tasks is how many there are, limit how many there may be, zero for any
	// number; ended is what those have used that have ended. Guarded by
	// Kernel.tree.
	tasks, limit int
	ended        usage.Resources
}

// SetLimit bounds the tasks of the container (the pids cgroup); zero is no bound.
func (c *Container) SetLimit(k *Kernel, n int) {
	k.tree.Lock()
	c.limit = n
	k.tree.Unlock()
}

// Count returns how many tasks the container has, zombies included, and their
// limit.
func (c *Container) Count(k *Kernel) (tasks, limit int) {
	k.tree.RLock()
	defer k.tree.RUnlock()
	return c.tasks, c.limit
}

// Usage returns what all tasks of the container have used, those that are gone
// included.
func (c *Container) Usage(k *Kernel) usage.Resources {
	k.tree.RLock()
	defer k.tree.RUnlock()
	sum := c.ended
	for t := range k.RootPIDNS.TasksHeld() {
		if t.container == c && !t.dead {
			sum.Add(t.usage.Read())
		}
	}
	return sum
}

// Has reports whether t is one of the container's tasks.
func (c *Container) Has(t *Task) bool { return t.container == c }

// Container returns the ID of the task's container.
func (t *Task) Container() string { return t.container.ID }

// members is a container as its throttle knows it.
type members struct {
	c *Container
	k *Kernel
}

func (m members) Interrupt() {
	for _, t := range m.k.RootPIDNS.Tasks() {
		if t.container == m.c {
			t.interrupt()
		}
	}
}

func (m members) Awake() bool {
	m.k.tree.RLock()
	defer m.k.tree.RUnlock()
	for t := range m.k.RootPIDNS.TasksHeld() {
		if t.container == m.c && !t.dead && !t.blocked.Load() {
			return true
		}
	}
	return false
}

func (m members) Spent() int64 {
	u := m.c.Usage(m.k)
	return u.User + u.System
}

// Pause stops all tasks of the container, unseen by them, until Resume. Those
// that are in a system call stop when it is done.
func (c *Container) Pause(k *Kernel) { c.throttle.Pause(members{c, k}) }

// Resume lets them go on.
func (c *Container) Resume() { c.throttle.Resume() }

// SetQuota bounds the processor time of the container's tasks, in nanoseconds a
// period; zero is no bound. It is safe for concurrent use. Who has set a bound takes
// it away when the container has ended.
func (c *Container) SetQuota(k *Kernel, limit, period int64) {
	c.throttle.SetQuota(members{c, k}, k.Timers, k.Clock.Monotonic, limit, period)
}

// thaw waits while the task's container is paused or throttled. It reports false when the
// task is to end.
func (t *Task) thaw() bool {
	for {
		gate := t.container.throttle.Held()
		if gate == nil {
			return true
		}
		if t.dying() {
			return false
		}
		t.stopped(gate, t.dying)
	}
}

// StateLetter is the state as /proc/PID/stat shows it.
func (t *Task) StateLetter() byte {
	t.k.tree.RLock()
	dead, traced := t.dead, t.trace.Stopped()
	t.k.tree.RUnlock()
	switch {
	case dead:
		return 'Z'
	case traced:
		return 't'
	case t.tg.Stopped():
		return 'T'
	case t.blocked.Load():
		return 'S'
	}
	return 'R'
}
