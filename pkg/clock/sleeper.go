package clock

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sleeper lets one goroutine sleep until a deadline or until it is woken. The
// zero Sleeper is ready. It occupies a host thread while it sleeps: it is for
// waits of up to a few milliseconds, where being on time matters; see Queue for
// the others.
//
// Sleep is called by one goroutine at a time; Wake by anybody.
type Sleeper struct {
	state atomic.Uint32 // asleep, awake or woken
}

const (
	awake uint32 = iota
	asleep
	woken
)

// Sleep returns true when Wake was called since the last Sleep returned,
// and false when CLOCK_MONOTONIC has reached deadline, in nanoseconds.
func (s *Sleeper) Sleep(deadline int64) bool {
	deadline = max(deadline, 0)
	if s.state.CompareAndSwap(awake, asleep) {
		for sleepUntil(&s.state, asleep, deadline) == unix.EINTR {
		}
	}
	return s.state.Swap(awake) == woken
}

// Wake ends the Sleep that is under way, or the next one.
func (s *Sleeper) Wake() {
	if s.state.Swap(woken) == asleep {
		futexWakeOne(&s.state)
	}
}

// How late the host's timers are, at the least: the time an interrupt takes to
// get through to a sleeping thread. It is learned from each sleep, and sleeps
// end that much earlier; what may then be left is waited for awake.
const (
	maxLead  = 20_000 // nanoseconds: never be awake for longer
	leadStep = 2_000  // what one late sleep can prove
)

var lead atomic.Int64

// sleepUntil is futexSleep that returns ETIMEDOUT on time: not before deadline
// and, on an idle machine, within a few microseconds of it.
func sleepUntil(word *atomic.Uint32, val uint32, deadline int64) unix.Errno {
	if deadline < 0 {
		return futexSleep(word, val, deadline)
	}
	early := lead.Load()
	target := deadline - early
	now := hostNow(Monotonic)
	if now < target {
		if errno := futexSleep(word, val, target); errno != unix.ETIMEDOUT {
			return errno
		}
		now = hostNow(Monotonic)
		// Down at once, up slowly: half of the sleeps being late by more is no reason
		// to be awake in the other half.
		late := now - target
		if late < early {
			lead.Store(max(late, 0))
		} else {
			lead.Store(min(early+min(late-early, leadStep)/16, maxLead))
		}
	}
	for now < deadline {
		if word.Load() != val {
			return unix.EAGAIN
		}
		now = hostNow(Monotonic)
	}
	return unix.ETIMEDOUT
}
