// Package usage counts what tasks use of the machine: processor time, page
// faults, sleeps (getrusage(2)), and what they read and write (proc(5)).
//
// A Clock belongs to one task, which alone writes it as it goes from application
// code to the kernel, to sleep and back; anybody reads it. Resources is a sum of
// such readings. There are no locks, and a switch between application and kernel
// costs one look at the clock and one plain store.
package usage

import (
	"sync/atomic"
	"time"

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
	clock *clock.Keeper
	// awake is all of the task's time but that asleep, user what of it is the
	// application's. Each is one word, so that a switch between application and
	// kernel stores one.
	awake, user stopwatch
	// stops is odd while awake is being stopped: from before the clock is read for that, so
	// that who has read it later, and awake before, sees that it isn't the end yet.
	stops               atomic.Int64
	begun               bool
	faults, sleeps      atomic.Int64
	readBytes, reads    atomic.Int64
	writtenBytes, wrote atomic.Int64
}

// stopwatch is a sum of stretches of time. Its word is the sum, doubled, while it
// stands; while it runs it is the time at which it would have been started for
// that sum, doubled, and one. Only the task changes it.
type stopwatch struct {
	word atomic.Int64
	was  int64 // the sum when it was started last
}

func (s *stopwatch) start(now int64) {
	s.was = s.word.Load() >> 1
	publish(&s.word, (now-s.was)<<1|1)
}
func (s *stopwatch) stop(now int64) {
	publish(&s.word, max(now-s.word.Load()>>1, s.was)<<1)
}

// sum is what word says at the time now.
func sum(word, now int64) int64 {
	if word&1 != 0 {
		return max(now-word>>1, 0)
	}
	return word >> 1
}

// Init says what the time is read from.
func (u *Clock) Init(c *clock.Keeper) { u.clock = c }

// Begin starts the first stretch.
func (u *Clock) Begin() {
	u.begun = true
	u.awake.start(u.clock.Monotonic())
}

// EnterUser comes before a run of application code, LeaveUser after it.
func (u *Clock) EnterUser() { u.user.start(u.clock.MonotonicAbout()) }

// LeaveUser: see EnterUser.
func (u *Clock) LeaveUser() { u.user.stop(u.clock.MonotonicAbout()) }

// SleepBegins comes before a sleep, SleepEnds after it.
func (u *Clock) SleepBegins() {
	if u.begun { // a task may sleep before: in its first exec
		u.stops.Add(1)
		u.awake.stop(u.clock.Monotonic())
		publish(&u.stops, u.stops.Load()+1)
	}
	publish(&u.sleeps, u.sleeps.Load()+1)
}

// SleepEnds: see SleepBegins.
func (u *Clock) SleepEnds() {
	if u.begun {
		u.awake.start(u.clock.Monotonic())
	}
}

// Fault counts a page fault.
func (u *Clock) Fault() { publish(&u.faults, u.faults.Load()+1) }

// CountRead counts a call that read n bytes. Only the task calls it: nobody else
// adds at the same time.
func (u *Clock) CountRead(n uint64) {
	publish(&u.readBytes, u.readBytes.Load()+int64(n))
	publish(&u.reads, u.reads.Load()+1)
}

// CountWrite counts one that wrote n bytes.
func (u *Clock) CountWrite(n uint64) {
	publish(&u.writtenBytes, u.writtenBytes.Load()+int64(n))
	publish(&u.wrote, u.wrote.Load()+1)
}

// stopping is how often to look whether a stretch that is about to end has ended.
const stopping = 20 * time.Microsecond

// Read returns what was used up to now.
func (u *Clock) Read() Resources {
	var awake, user int64
	// What is read in between two changes is of one moment. A task that changes
	// all the time isn't waited for, and the application's part is off by one stretch then;
	// but for the end of a stretch, which may be earlier than now.
	for i := 0; ; i++ {
		stops := u.stops.Load()
		a, w := u.awake.word.Load(), u.user.word.Load()
		now := u.clock.Monotonic()
		awake, user = sum(a, now), sum(w, now)
		if stops&1 != 0 || stops != u.stops.Load() {
			if i > 8 {
				time.Sleep(stopping) // the host has taken its processor away
			}
		} else if i >= 16 || a == u.awake.word.Load() && w == u.user.word.Load() {
			break
		}
	}
	user = min(user, awake)
	return Resources{
		User: user, System: awake - user,
		MinorFaults: uint64(u.faults.Load()), Voluntary: uint64(u.sleeps.Load()),
		IO: IO{uint64(u.readBytes.Load()), uint64(u.writtenBytes.Load()), uint64(u.reads.Load()), uint64(u.wrote.Load())},
	}
}

// Total returns the CPU time up to now.
func (u *Clock) Total() int64 {
	n := u.Read()
	return n.User + n.System
}
