// Package timerfd is the timer of timerfd_create(2), which is read like a file.
//
// What time it is and who calls when it is up comes from a Clock: the package
// asks no clock of the host. Expirations of a periodic timer are counted when
// somebody looks, so that a timer that nobody reads costs one wake-up, and not
// one per period, unless somebody waits for it.
//
// Lock order: TimerFD.mu, then the Clock's; the Clock calls back without locks.
package timerfd

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Clock is a clock with timers. Safe for concurrent use.
type Clock interface {
	// Now is the time in nanoseconds, on the clock's own scale.
	Now() int64
	// NewTimer returns a stopped timer that calls f when it is up.
	NewTimer(f func()) Timer
}

// Timer is a timer of a Clock. Safe for concurrent use.
type Timer interface {
	// Start makes the timer call f once, at or after the clock shows at, in
	// place of what was started before. f runs on another goroutine and may
	// come though the timer was stopped or started anew meanwhile.
	Start(at int64)
	Stop()
}

// OnQueue returns a Clock whose timers are q's. monotonic is the clock that q
// goes by, now the one that is shown; whoever sets that calls ClockWasSet.
func OnQueue(q *clock.Queue, monotonic, now func() int64) Clock {
	return &queueClock{q, monotonic, now}
}

type queueClock struct {
	q              *clock.Queue
	monotonic, now func() int64
}

type queueTimer struct {
	c *queueClock
	t *clock.Timer
}

func (c *queueClock) Now() int64              { return c.now() }
func (c *queueClock) NewTimer(f func()) Timer { return &queueTimer{c, c.q.NewTimer(f)} }

func (t *queueTimer) Start(at int64) {
	// Far from now on either clock is far on the other; it must not overflow.
	m := t.c.monotonic()
	left := at - t.c.now()
	if left > math.MaxInt64-m {
		left = math.MaxInt64 - m
	}
	t.t.Set(m + left)
}

func (t *queueTimer) Stop() { t.t.Stop() }

// TimerFD is a timer. Safe for concurrent use.
type TimerFD struct {
	queue waiter.Queue
	id    int32
	clock Clock

	mu       locks.Mutex[locks.TimerFD]
	timer    Timer
	next     int64 // when it is up next; zero when disarmed
	interval int64
	expired  uint64 // counted and not read
	// absolute and cancel are the flags of the last Set; canceled says that
	// the clock was set since.
	absolute, cancel, canceled bool
}

// New returns the file of timerfd_create(2). id is the clock's number as the
// application gave it; flags has TFD_NONBLOCK.
func New(clock Clock, id int32, flags uint32, c *auth.Credentials) (*vfs.File, error) {
	if flags&^(unix.TFD_NONBLOCK|unix.TFD_CLOEXEC) != 0 {
		return nil, unix.EINVAL
	}
	t := &TimerFD{clock: clock, id: id}
	t.timer = clock.NewTimer(t.up)
	return anon.NewFile("[timerfd]", t, unix.O_RDWR|flags&unix.TFD_NONBLOCK, c), nil
}

// Of returns the timer behind f, or nil.
func Of(f *vfs.File) *TimerFD { t, _ := f.Impl().(*TimerFD); return t }

// Setting is an itimerspec in nanoseconds.
type Setting struct{ Value, Interval int64 }

// ClockID returns the number given to New.
func (t *TimerFD) ClockID() int32 { return t.id }

// advance counts what expired until now. mu is held.
func (t *TimerFD) advance() {
	if t.next == 0 {
		return
	}
	now := t.clock.Now()
	if now < t.next {
		return
	}
	if t.interval == 0 {
		t.expired++
		t.next = 0
		return
	}
	n := (now-t.next)/t.interval + 1
	t.expired += uint64(n)
	if t.next += n * t.interval; t.next < now { // beyond the end of time
		t.next = 0
	}
}

// up is called by the clock.
func (t *TimerFD) up() {
	t.mu.Lock()
	before := t.next
	t.advance()
	ready := t.expired > 0
	if !ready && before != 0 {
		t.timer.Start(before) // early, or for an older setting
	}
	t.mu.Unlock()
	if ready {
		t.queue.Notify(waiter.Readable)
	}
}

// Set does timerfd_settime(2) and returns the old setting. EINVAL for negative
// values and unknown flags.
func (t *TimerFD) Set(s Setting, flags uint32) (Setting, error) {
	const cancelOnSet = 2 // TFD_TIMER_CANCEL_ON_SET
	if flags&^(unix.TFD_TIMER_ABSTIME|cancelOnSet) != 0 || s.Value < 0 || s.Interval < 0 {
		return Setting{}, unix.EINVAL
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.get()
	t.absolute = flags&unix.TFD_TIMER_ABSTIME != 0
	t.cancel = t.absolute && flags&cancelOnSet != 0
	t.canceled, t.expired = false, 0
	t.interval = s.Interval
	if s.Value == 0 {
		t.next = 0
		t.timer.Stop()
		return old, nil
	}
	t.next = s.Value
	if !t.absolute {
		now := t.clock.Now()
		if t.next = now + s.Value; t.next < now {
			t.next = math.MaxInt64
		}
	}
	t.timer.Start(t.next)
	return old, nil
}

// get returns the setting as timerfd_gettime(2) shows it. mu is held.
func (t *TimerFD) get() Setting {
	t.advance()
	s := Setting{Interval: t.interval}
	if t.next != 0 {
		s.Value = max(t.next-t.clock.Now(), 1)
	}
	return s
}

// Get does timerfd_gettime(2).
func (t *TimerFD) Get() Setting {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.get()
	t.rearm()
	return s
}

// Ticks returns how many expirations nobody has read, and the flags of the last
// Set, for /proc/PID/fdinfo.
func (t *TimerFD) Ticks() (n uint64, flags uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance()
	if t.absolute {
		flags |= unix.TFD_TIMER_ABSTIME
	}
	if t.cancel {
		flags |= unix.TFD_TIMER_CANCEL_ON_SET
	}
	return t.expired, flags
}

// rearm makes the clock call for the next expiration, if what expired so far
// has been read. mu is held.
func (t *TimerFD) rearm() {
	if t.next != 0 {
		t.timer.Start(t.next)
	}
}

// ClockWasSet tells of a jump of the clock (TFD_TIMER_CANCEL_ON_SET).
func (t *TimerFD) ClockWasSet() {
	t.mu.Lock()
	cancel := t.cancel
	t.canceled = t.canceled || cancel
	if t.absolute {
		t.rearm()
	}
	t.mu.Unlock()
	if cancel {
		t.queue.Notify(waiter.Readable)
	}
}

// Read implements vfs.Reader.
func (t *TimerFD) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	if dst.Len() < 8 {
		return 0, unix.EINVAL
	}
	t.mu.Lock()
	if t.canceled {
		t.canceled, t.expired = false, 0
		t.mu.Unlock()
		return 0, unix.ECANCELED
	}
	t.advance()
	n := t.expired
	t.expired = 0
	t.rearm()
	t.mu.Unlock()
	if n == 0 {
		return 0, vfs.ErrWouldBlock
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	k, err := dst.Write(b[:])
	return int64(k), err
}

// Ioctl implements vfs.Ioctler: TFD_IOC_SET_TICKS.
func (t *TimerFD) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	const setTicks = 0x40085400
	if cmd != setTicks {
		return 0, unix.ENOTTY
	}
	n, err := usermem.CopyInUint64(ctx.Memory(), usermem.Addr(arg))
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, unix.EINVAL
	}
	t.mu.Lock()
	t.expired = n
	t.mu.Unlock()
	t.queue.Notify(waiter.Readable)
	return 0, nil
}

// Release implements vfs.Releaser.
func (t *TimerFD) Release(*vfs.File) {
	t.mu.Lock()
	t.next = 0
	t.timer.Stop()
	t.mu.Unlock()
}

// Readiness implements waiter.Waitable.
func (t *TimerFD) Readiness(mask waiter.Mask) waiter.Mask {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance()
	if t.expired > 0 || t.canceled {
		return mask & waiter.Readable
	}
	return 0
}

// EventRegister implements waiter.Waitable.
func (t *TimerFD) EventRegister(e *waiter.Entry) { t.queue.Register(e) }

// EventUnregister implements waiter.Waitable.
func (t *TimerFD) EventUnregister(e *waiter.Entry) { t.queue.Unregister(e) }
