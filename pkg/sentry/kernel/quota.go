package kernel

import (
	"sync/atomic"
)

// A container's share of processor time (cpu.max of cgroups(7)), where no cgroup of
// the host holds it: one of several containers in a sandbox.
//
// A goroutine looks, after each period, at what the container has used in it. Beyond
// the quota all its tasks stop, as in a pause, until they would have earned what
// they used. While all of them sleep it sleeps too: the first that wakes up wakes
// it.

// quota is a container's limit and who holds it.
type quota struct {
	limit, period int64 // nanoseconds
	// idle says that nobody looks; a task that runs then puts a token into runs.
	idle atomic.Bool
	runs chan struct{}
	tick chan struct{}
	stop chan struct{}
}

// SetQuota bounds the processor time of the container's tasks, in nanoseconds a
// period; zero is no bound. It is safe for concurrent use. Who has set a bound takes
// it away when the container has ended.
func (c *Container) SetQuota(k *Kernel, limit, period int64) {
	var q *quota
	if limit > 0 && period > 0 {
		q = &quota{limit: limit, period: period, runs: make(chan struct{}, 1), tick: make(chan struct{}, 1), stop: make(chan struct{})}
	}
	if old := c.quota.Swap(q); old != nil {
		close(old.stop)
	}
	if q != nil {
		go q.hold(k, c)
	}
}

// taskRuns tells the one who holds the quota that a task runs.
func (c *Container) taskRuns() {
	if q := c.quota.Load(); q != nil && q.idle.Load() {
		select {
		case q.runs <- struct{}{}:
		default:
		}
	}
}

// hold keeps the container within its quota until it is stopped.
func (q *quota) hold(k *Kernel, c *Container) {
	timer := k.Timers.NewTimer(func() {
		select {
		case q.tick <- struct{}{}:
		default:
		}
	})
	sleep := func(d int64) bool {
		timer.Set(k.Clock.Monotonic() + d)
		select {
		case <-q.tick:
			return true
		case <-q.stop:
			timer.Stop()
			return false
		}
	}
	for {
		q.idle.Store(true)
		if !c.awake(k) {
			select {
			case <-q.runs:
			case <-q.stop:
				return
			}
		}
		q.idle.Store(false)
		before := c.spentTime(k)
		if !sleep(q.period) {
			return
		}
		over := c.spentTime(k) - before - q.limit
		if over <= 0 {
			continue
		}
		c.throttled.freeze()
		c.interrupt(k)
		ok := sleep(int64(float64(over) * float64(q.period) / float64(q.limit)))
		c.throttled.thaw()
		if !ok {
			return
		}
	}
}

// awake reports whether a task of the container isn't asleep.
func (c *Container) awake(k *Kernel) bool {
	k.tree.RLock()
	defer k.tree.RUnlock()
	for _, t := range k.RootPIDNS.tasks {
		if t.container == c && !t.dead && !t.blocked.Load() {
			return true
		}
	}
	return false
}

// spentTime is the processor time that the container's tasks have used, those that
// have ended included, in nanoseconds.
func (c *Container) spentTime(k *Kernel) int64 {
	u := c.Usage(k)
	return u.User + u.System
}
