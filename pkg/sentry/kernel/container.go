package kernel

import (
	"strings"
	"sync/atomic"

	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/waiter"
)

// Container is what the tasks of one container have in common beyond their
// namespaces. Children inherit it.
type Container struct {
	ID string
	// paused is for Pause and Resume, throttled for the quota: tasks stop while
	// either is frozen.
	paused, throttled freezer
	quota             atomic.Pointer[quota]
	// tasks is how many there are, limit how many there may be, zero for any
	// number; ended is what those have used that have ended. Guarded by
	// Kernel.tree.
	tasks, limit int
	ended        usage.Resources
}

// freezer stops tasks. What it holds is not nil while it does, and opened when they
// go on.
type freezer struct{ gate atomic.Pointer[waiter.Gate] }

// freeze reports whether it wasn't frozen before.
func (f *freezer) freeze() bool {
	return f.gate.CompareAndSwap(nil, new(waiter.Gate))
}

func (f *freezer) thaw() {
	if g := f.gate.Swap(nil); g != nil {
		g.Open()
	}
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
	for _, t := range k.RootPIDNS.tasks {
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

// Pause stops all tasks of the container, unseen by them, until Resume. Those
// that are in a system call stop when it is done.
func (c *Container) Pause(k *Kernel) {
	if c.paused.freeze() {
		c.interrupt(k)
	}
}

// interrupt makes all tasks of the container look whether they are to stop.
func (c *Container) interrupt(k *Kernel) {
	for _, t := range k.RootPIDNS.Tasks() {
		if t.container == c {
			t.interrupt()
		}
	}
}

// Resume lets them go on.
func (c *Container) Resume() {
	c.paused.thaw()
}

// held returns what the container's tasks wait for before they go on, or nil.
func (c *Container) held() *waiter.Gate {
	if g := c.paused.gate.Load(); g != nil {
		return g
	}
	return c.throttled.gate.Load()
}

// thaw waits while the task's container is paused or throttled. It reports false when the
// task is to end.
func (t *Task) thaw() bool {
	for {
		gate := t.container.held()
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
	dead, traced := t.dead, t.trace.stopped
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

// CommandLine returns the arguments the process was started with, as far as the
// first limit bytes go, or nil where its memory is gone.
func (t *Task) CommandLine(limit int) []string {
	m := t.SharedMM()
	if m == nil {
		return nil
	}
	defer m.DecUsers()
	args, _ := m.Args()
	b := make([]byte, min(args.Len(), uint64(limit)))
	n, _ := m.CopyInForce(args.Start, b)
	return strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00")
}
