// Package throttle holds the tasks of a container back: while it is paused, and
// where it has a share of processor time (cpu.max of cgroups(7)) that no cgroup of the
// host holds, as one of several containers in a sandbox has.
//
// A Throttle doesn't stop anybody: it tells who asks, before it runs application code,
// what to wait for (Held), and has Members interrupted when that begins.
//
// Of a quota: a goroutine looks, after each period, at what the members have used in
// it. Beyond the quota all of them stop, until they would have earned what they
// used. While all of them sleep it sleeps too: the first that wakes up wakes it (Runs).
//
// All methods are safe for concurrent use; there are no locks. Members' are called
// with none of this package's.
package throttle

import (
	"sync/atomic"

	"vitrine/pkg/clock"
	"vitrine/pkg/waiter"
)

// Members is whose tasks they are.
type Members interface {
	// Awake reports whether one of them isn't asleep.
	Awake() bool
	// Spent is the processor time that they have used, those that have ended
	// included, in nanoseconds.
	Spent() int64
	// Interrupt makes all of them look at Held.
	Interrupt()
}

// Throttle is of one container. The zero Throttle holds nobody.
type Throttle struct {
	// paused is for Pause and Resume, spent for the quota: tasks stop while either
	// is frozen.
	paused, spent freezer
	quota         atomic.Pointer[quota]
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

// Pause holds all of m from now on, until Resume.
func (t *Throttle) Pause(m Members) {
	if t.paused.freeze() {
		m.Interrupt()
	}
}

// Resume lets them go on.
func (t *Throttle) Resume() { t.paused.thaw() }

// Held returns what opens when they go on, nil while they aren't held.
func (t *Throttle) Held() *waiter.Gate {
	if g := t.paused.gate.Load(); g != nil {
		return g
	}
	return t.spent.gate.Load()
}

// quota is a limit and who holds it.
type quota struct {
	limit, period int64 // nanoseconds
	// idle says that nobody looks; a task that runs then puts a token into runs.
	idle atomic.Bool
	runs chan struct{}
	tick chan struct{}
	stop chan struct{}
}

// SetQuota bounds the processor time of m, in nanoseconds a period of time on timers,
// whose clock is now; zero is no bound. Who has set a bound takes it away when the
// last of m has ended.
func (t *Throttle) SetQuota(m Members, timers *clock.Queue, now func() int64, limit, period int64) {
	var q *quota
	if limit > 0 && period > 0 {
		q = &quota{limit: limit, period: period, runs: make(chan struct{}, 1), tick: make(chan struct{}, 1), stop: make(chan struct{})}
	}
	if old := t.quota.Swap(q); old != nil {
		close(old.stop)
	}
	if q != nil {
		go q.hold(&t.spent, m, timers, now)
	}
}

// Runs tells the one who holds the quota that a member runs.
func (t *Throttle) Runs() {
	if q := t.quota.Load(); q != nil && q.idle.Load() {
		select {
		case q.runs <- struct{}{}:
		default:
		}
	}
}

// hold keeps m within its quota until it is stopped.
func (q *quota) hold(f *freezer, m Members, timers *clock.Queue, now func() int64) {
	timer := timers.NewTimer(func() {
		select {
		case q.tick <- struct{}{}:
		default:
		}
	})
	sleep := func(d int64) bool {
		timer.Set(now() + d)
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
		if !m.Awake() {
			select {
			case <-q.runs:
			case <-q.stop:
				return
			}
		}
		q.idle.Store(false)
		before := m.Spent()
		if !sleep(q.period) {
			return
		}
		over := m.Spent() - before - q.limit
		if over <= 0 {
			continue
		}
		f.freeze()
		m.Interrupt()
		ok := sleep(int64(float64(over) * float64(q.period) / float64(q.limit)))
		f.thaw()
		if !ok {
			return
		}
	}
}
