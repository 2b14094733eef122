// Package usage counts what tasks use of the machine: processor time, page
// faults, sleeps (getrusage(2)), and what they read and write (proc(5)).
//
// A Clock belongs to one task, which alone writes it as it goes from application
// code to the kernel, to sleep and back; anybody reads it. Resources is a sum of
// such readings. There are no locks: a reader may see a stretch of time that is
// just being booked missing, never twice.
package usage

import (
	"sync/atomic"

	"vitrine/pkg/clock"
)

// Resources is what getrusage(2) tells; times are in nanoseconds.
type Resources struct {
	User, System         int64
	MinorFaults          uint64
	Voluntary, Preempted uint64
	MaxRSS               uint64 // bytes
	IO                   IO
}

// IO counts read(2), write(2) and their relations, as /proc/PID/io shows them:
// the bytes that went through them, and the calls.
type IO struct{ ReadBytes, WrittenBytes, Reads, Writes uint64 }

// Add adds o.
func (i *IO) Add(o IO) {
	i.ReadBytes += o.ReadBytes
	i.WrittenBytes += o.WrittenBytes
	i.Reads += o.Reads
	i.Writes += o.Writes
}

// Add adds o, of whose MaxRSS the larger counts.
func (u *Resources) Add(o Resources) {
	u.User += o.User
	u.System += o.System
	u.MinorFaults += o.MinorFaults
	u.Voluntary += o.Voluntary
	u.Preempted += o.Preempted
	u.MaxRSS = max(u.MaxRSS, o.MaxRSS)
	u.IO.Add(o.IO)
}

// Clock measures a task's time, in nanoseconds; time asleep counts as neither
// the application's nor the kernel's. Init comes before all else.
type Clock struct {
	clock        *clock.Keeper
	user, system atomic.Int64
	since        atomic.Int64 // when the current stretch began; 0 asleep
	inUser       atomic.Bool
	faults       atomic.Uint64
	sleeps       atomic.Uint64

	readBytes, writtenBytes, reads, writes atomic.Uint64
}

// Init says what the time is read from.
func (u *Clock) Init(c *clock.Keeper) { u.clock = c }

// Begin starts the first stretch.
func (u *Clock) Begin() { u.since.Store(u.clock.Monotonic()) }

// EnterUser comes before a run of application code, LeaveUser after it.
func (u *Clock) EnterUser() {
	now := u.clock.Monotonic()
	u.system.Store(u.system.Load() + now - u.since.Load())
	u.since.Store(now)
	u.inUser.Store(true)
}

// LeaveUser: see EnterUser.
func (u *Clock) LeaveUser() {
	now := u.clock.Monotonic()
	u.user.Store(u.user.Load() + now - u.since.Load())
	u.since.Store(now)
	u.inUser.Store(false)
}

// SleepBegins comes before a sleep, SleepEnds after it.
func (u *Clock) SleepBegins() {
	if since := u.since.Load(); since != 0 { // a task may sleep before it has begun: in its first exec
		u.system.Store(u.system.Load() + u.clock.Monotonic() - since)
	}
	u.since.Store(0)
	u.sleeps.Add(1)
}

// SleepEnds: see SleepBegins.
func (u *Clock) SleepEnds() { u.since.Store(u.clock.Monotonic()) }

// Fault counts a page fault.
func (u *Clock) Fault() { u.faults.Add(1) }

// CountRead counts a call that read n bytes. Only the task calls it: nobody else
// adds at the same time.
func (u *Clock) CountRead(n uint64) {
	u.readBytes.Store(u.readBytes.Load() + n)
	u.reads.Store(u.reads.Load() + 1)
}

// CountWrite counts one that wrote n bytes.
func (u *Clock) CountWrite(n uint64) {
	u.writtenBytes.Store(u.writtenBytes.Load() + n)
	u.writes.Store(u.writes.Load() + 1)
}

// Read returns what was used up to now.
func (u *Clock) Read() Resources {
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
	return Resources{
		User: user, System: system,
		MinorFaults: u.faults.Load(), Voluntary: u.sleeps.Load(),
		IO: IO{u.readBytes.Load(), u.writtenBytes.Load(), u.reads.Load(), u.writes.Load()},
	}
}

// Total returns the CPU time up to now.
func (u *Clock) Total() int64 {
	n := u.Read()
	return n.User + n.System
}
