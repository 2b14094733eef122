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
		for futexSleep(&s.state, asleep, deadline) == unix.EINTR {
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
