package kernel

import (
	"sync/atomic"

	"vitrine/pkg/clock"
)

// tick is how many nanoseconds a clock tick of times(2) has (USER_HZ is 100).
const tick = 10_000_000

// Usage is what getrusage(2) tells; times are in nanoseconds.
type Usage struct {
	User, System         int64
	MinorFaults          uint64
	Voluntary, Preempted uint64
	MaxRSS               uint64 // bytes
}

func (u *Usage) add(o Usage) {
	u.User += o.User
	u.System += o.System
	u.MinorFaults += o.MinorFaults
	u.Voluntary += o.Voluntary
	u.Preempted += o.Preempted
	u.MaxRSS = max(u.MaxRSS, o.MaxRSS)
}

// usageClock measures a task's time. The task writes it, anybody reads it. It
// counts nanoseconds; time asleep counts as neither.
type usageClock struct {
	clock        *clock.Keeper
	user, system atomic.Int64
	since        atomic.Int64 // when the current stretch began; 0 asleep
	inUser       atomic.Bool
	faults       atomic.Uint64
	sleeps       atomic.Uint64
}

func (u *usageClock) begin() { u.since.Store(u.clock.Monotonic()) }

// enterUser and leaveUser frame a run of application code.
func (u *usageClock) enterUser() {
	now := u.clock.Monotonic()
	u.system.Store(u.system.Load() + now - u.since.Load())
	u.since.Store(now)
	u.inUser.Store(true)
}

func (u *usageClock) leaveUser() {
	now := u.clock.Monotonic()
	u.user.Store(u.user.Load() + now - u.since.Load())
	u.since.Store(now)
	u.inUser.Store(false)
}

// sleepBegins and sleepEnds frame a sleep.
func (u *usageClock) sleepBegins() {
	if since := u.since.Load(); since != 0 { // a task may sleep before it has begun: in its first exec
		u.system.Store(u.system.Load() + u.clock.Monotonic() - since)
	}
	u.since.Store(0)
	u.sleeps.Add(1)
}

func (u *usageClock) sleepEnds() { u.since.Store(u.clock.Monotonic()) }

// read returns the usage up to now.
func (u *usageClock) read() Usage {
	user, system := u.user.Load(), u.system.Load()
	if since := u.since.Load(); since != 0 {
		if now := u.clock.Monotonic(); now > since {
			if u.inUser.Load() {
				user += now - since
			} else {
				system += now - since
			}
		}
	}
	return Usage{
		User: user, System: system,
		MinorFaults: u.faults.Load(), Voluntary: u.sleeps.Load(),
	}
}

// total returns the CPU time up to now.
func (u *usageClock) total() int64 {
	n := u.read()
	return n.User + n.System
}

// Usage returns what the task has used.
func (t *Task) Usage() Usage { return t.usage.read() }

// usageLocked returns what the process has used, without its children. tree is
// held.
func (tg *ThreadGroup) usageLocked() Usage {
	sum := tg.deadUsage
	for _, t := range tg.tasks {
		sum.add(t.usage.read())
	}
	return sum
}

// Usage returns what the process has used; ChildUsage what children it has
// waited for have.
func (tg *ThreadGroup) Usage() Usage {
	tg.k.tree.RLock()
	u := tg.usageLocked()
	tg.k.tree.RUnlock()
	return u
}

func (tg *ThreadGroup) ChildUsage() Usage {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.childUsage
}
