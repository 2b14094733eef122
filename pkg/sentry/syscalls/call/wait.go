package call

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// WaitFor does op, waiting while it returns EAGAIN, for up to timeout
// nanoseconds unless that is zero: EAGAIN then. With a time-out a signal gives
// EINTR, without it the call can be restarted (signal(7)).
func WaitFor(t *kernel.Task, f *vfs.File, mask waiter.Mask, timeout int64, nonblock bool, op func() error) error {
	if nonblock {
		return op()
	}
	end := kernel.Forever
	if timeout > 0 {
		end = Deadline(t, timeout)
	}
	return WaitEnd(t.WaitFor(f, mask, end, op), timeout)
}

// WaitEnd says what the end of a wait is to the application.
func WaitEnd(err error, timeout int64) error {
	switch {
	case err == kernel.ErrTimeout:
		return unix.EAGAIN
	case err == kernel.RestartSys && timeout > 0:
		return unix.EINTR
	}
	return err
}

// IOTimeout returns SO_RCVTIMEO or SO_SNDTIMEO of f, which read(2) and write(2)
// honour too; zero for all that isn't a socket.
func IOTimeout(f *vfs.File, send bool) int64 {
	s, err := socket.Of(f)
	if err != nil {
		return 0
	}
	in, out := s.Options().Timeouts()
	if send {
		return out
	}
	return in
}

// ReadMask and WriteMask are what a blocking read or write waits for.
const ReadMask, WriteMask = waiter.Readable | waiter.RdHup, waiter.Writable

// TimeLimit is the time-out of a call that writes back what is left of it.
type TimeLimit struct {
	at usermem.Addr // NULL: forever
	// End is on the monotonic clock; zero for a call that doesn't wait.
	End int64
	put func(w *Writer, ns int64)
}

// newTimeLimit starts a time-out of ns nanoseconds.
func newTimeLimit(t *kernel.Task, at usermem.Addr, ns int64, put func(*Writer, int64)) TimeLimit {
	l := TimeLimit{at: at, put: put}
	if ns != 0 {
		l.End = Deadline(t, ns)
	}
	return l
}

// SpecLimit reads a time-out in a struct timespec; NULL is none.
func SpecLimit(t *kernel.Task, at usermem.Addr) (TimeLimit, error) {
	if at == 0 {
		return TimeLimit{End: kernel.Forever}, nil
	}
	ns, err := ReadTimespec(t, at)
	if err != nil {
		return TimeLimit{}, err
	}
	return newTimeLimit(t, at, ns, (*Writer).Timespec), nil
}

// ValLimit reads one in a struct timeval.
func ValLimit(t *kernel.Task, at usermem.Addr) (TimeLimit, error) {
	if at == 0 {
		return TimeLimit{End: kernel.Forever}, nil
	}
	var b [16]byte
	if _, err := t.MM().CopyIn(at, b[:]); err != nil {
		return TimeLimit{}, err
	}
	s, us := int64(U64(b[:])), int64(U64(b[8:]))
	// Whole seconds among the microseconds are taken as such (select(2) of
	// Linux, unlike other systems).
	s, us = s+us/1_000_000, us%1_000_000
	ns, err := nanoseconds(s, us, 1000)
	if err != nil {
		return TimeLimit{}, err
	}
	return newTimeLimit(t, at, ns, (*Writer).Timeval), nil
}

// stickyTimeouts is STICKY_TIMEOUTS of personality(2).
const stickyTimeouts = 0x4000000

// Finish writes back what is left and turns EINTR into what select(2) and
// ppoll(2) return. A time-out that can't be written makes the call end
// for good.
func (l *TimeLimit) Finish(t *kernel.Task, err error) error {
	if err == unix.EINTR {
		err = kernel.RestartNoHand
	}
	if l.at == 0 || l.End == 0 {
		return err
	}
	if t.Personality().Load()&stickyTimeouts == 0 {
		var w Writer
		l.put(&w, max(l.End-t.Kernel().Clock.Monotonic(), 0))
		if w.To(t, l.at) == nil {
			return err
		}
	}
	if err == kernel.RestartNoHand {
		err = unix.EINTR
	}
	return err
}

// Deadline turns a time-out from now into a time on the monotonic clock.
func Deadline(t *kernel.Task, timeout int64) int64 {
	now := t.Kernel().Clock.Monotonic()
	if timeout > math.MaxInt64-now {
		return kernel.Forever
	}
	return now + timeout
}
