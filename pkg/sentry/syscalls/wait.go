package syscalls

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// socketWait does op, waiting while it returns EAGAIN, for up to timeout
// nanoseconds unless that is zero: EAGAIN then. With a time-out a signal gives
// EINTR, without it the call can be restarted (signal(7)).
func socketWait(t *kernel.Task, f *vfs.File, mask waiter.Mask, timeout int64, nonblock bool, op func() error) error {
	err := op()
	if err != unix.EAGAIN || nonblock {
		return err
	}
	end := kernel.Forever
	if timeout > 0 {
		end = deadline(t, timeout)
	}
	return socketEnd(t.WaitFor(f, mask, end, op), timeout)
}

// socketEnd says what the end of a wait is to the application.
func socketEnd(err error, timeout int64) error {
	switch {
	case err == kernel.ErrTimeout:
		return unix.EAGAIN
	case err == kernel.RestartSys && timeout > 0:
		return unix.EINTR
	}
	return err
}

// ioTimeout returns SO_RCVTIMEO or SO_SNDTIMEO of f, which read(2) and write(2)
// honour too; zero for all that isn't a socket.
func ioTimeout(f *vfs.File, send bool) int64 {
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

const inMask, outMask = waiter.Readable | waiter.RdHup, waiter.Writable

// timeLimit is the time-out of a call that writes back what is left of it.
type timeLimit struct {
	at  Addr // NULL: forever
	end int64
	put func(w *writer, ns int64)
}

// newTimeLimit starts a time-out of ns nanoseconds.
func newTimeLimit(t *kernel.Task, at Addr, ns int64, put func(*writer, int64)) timeLimit {
	l := timeLimit{at: at, put: put}
	if ns != 0 {
		l.end = deadline(t, ns)
	}
	return l
}

// specLimit and valLimit read a time-out; NULL is none.
func specLimit(t *kernel.Task, at Addr) (timeLimit, error) {
	if at == 0 {
		return timeLimit{end: kernel.Forever}, nil
	}
	ns, err := readTimespec(t, at)
	if err != nil {
		return timeLimit{}, err
	}
	return newTimeLimit(t, at, ns, (*writer).timespec), nil
}

func valLimit(t *kernel.Task, at Addr) (timeLimit, error) {
	if at == 0 {
		return timeLimit{end: kernel.Forever}, nil
	}
	var b [16]byte
	if _, err := t.MM().CopyIn(at, b[:]); err != nil {
		return timeLimit{}, err
	}
	s, us := int64(le64(b[:])), int64(le64(b[8:]))
	// Whole seconds among the microseconds are taken as such (select(2) of
	// Linux, unlike other systems).
	s, us = s+us/1_000_000, us%1_000_000
	ns, err := nanoseconds(s, us, 1000)
	if err != nil {
		return timeLimit{}, err
	}
	return newTimeLimit(t, at, ns, (*writer).timeval), nil
}

// stickyTimeouts is STICKY_TIMEOUTS of personality(2).
const stickyTimeouts = 0x4000000

// finish writes back what is left and turns EINTR into what select(2) and
// ppoll(2) return. A time-out that can't be written makes the call end
// for good.
func (l *timeLimit) finish(t *kernel.Task, err error) error {
	if err == unix.EINTR {
		err = kernel.RestartNoHand
	}
	if l.at == 0 || l.end == 0 {
		return err
	}
	if t.Personality().Load()&stickyTimeouts == 0 {
		var w writer
		l.put(&w, max(l.end-t.Kernel().Clock.Monotonic(), 0))
		if w.to(t, l.at) == nil {
			return err
		}
	}
	if err == kernel.RestartNoHand {
		err = unix.EINTR
	}
	return err
}

// deadline turns a time-out from now into a time on the monotonic clock.
func deadline(t *kernel.Task, timeout int64) int64 {
	now := t.Kernel().Clock.Monotonic()
	if timeout > math.MaxInt64-now {
		return kernel.Forever
	}
	return now + timeout
}
