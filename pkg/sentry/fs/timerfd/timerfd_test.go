package timerfd

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// handClock is a clock that goes when it is told to.
type handClock struct {
	now   int64
	at    int64
	calls int
	f     func()
}

func (c *handClock) Now() int64              { return c.now }
func (c *handClock) NewTimer(f func()) Timer { c.f = f; return c }
func (c *handClock) Start(at int64)          { c.at = at }
func (c *handClock) Stop()                   { c.at = 0 }

func (c *handClock) goTo(now int64) {
	for c.now = now; c.at != 0 && c.at <= now; {
		c.at = 0
		c.calls++
		c.f()
	}
}

func ticks(t *testing.T, f *vfs.File) (uint64, error) {
	t.Helper()
	var p [8]byte
	b := usermem.BytesBuffer(p[:])
	_, err := f.Read(vfstest.NewContext(), &b)
	return binary.LittleEndian.Uint64(p[:]), err
}

func TestPeriodicTimerCountsExpirations(t *testing.T) {
	c := &handClock{now: 1000}
	f, err := New(c, unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK, vfstest.NewContext().Cred)
	if err != nil {
		t.Fatal(err)
	}
	tm := Of(f)
	ch := waiter.NewChannelListener()
	e := waiter.Entry{Listener: ch, Mask: waiter.In}
	f.EventRegister(&e)
	if old, err := tm.Set(Setting{100, 10}, 0); old != (Setting{}) || err != nil {
		t.Fatal(old, err)
	}
	c.goTo(1099)
	if _, err := ticks(t, f); err != unix.EAGAIN {
		t.Errorf("early: %v", err)
	}
	c.goTo(1100)
	select {
	case <-ch:
	default:
		t.Error("nobody was told")
	}
	c.goTo(1125)
	if c.calls != 1 {
		t.Errorf("the clock called %d times for a timer that nobody read", c.calls)
	}
	if s := tm.Get(); s != (Setting{5, 10}) {
		t.Errorf("Get = %v", s)
	}
	if n, err := ticks(t, f); n != 3 || err != nil {
		t.Errorf("read %d, %v; want 3", n, err)
	}
	c.goTo(1130)
	if n, err := ticks(t, f); n != 1 || err != nil {
		t.Errorf("read %d, %v; want 1", n, err)
	}
	if old, _ := tm.Set(Setting{}, 0); old != (Setting{10, 10}) {
		t.Errorf("old setting %v", old)
	}
	c.goTo(5000)
	if f.Readiness(waiter.In) != 0 {
		t.Error("a disarmed timer is ready")
	}
}

func TestAbsoluteTimerInThePastAndCancel(t *testing.T) {
	c := &handClock{now: 1000}
	f, _ := New(c, unix.CLOCK_REALTIME, 0, vfstest.NewContext().Cred)
	tm := Of(f)
	tm.Set(Setting{Value: 500}, unix.TFD_TIMER_ABSTIME)
	c.goTo(1000)
	if n, err := ticks(t, f); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	tm.Set(Setting{Value: 2000}, unix.TFD_TIMER_ABSTIME|2)
	tm.ClockWasSet()
	if f.Readiness(waiter.In) == 0 {
		t.Error("not ready after the clock was set")
	}
	if _, err := ticks(t, f); err != unix.ECANCELED {
		t.Errorf("read: %v", err)
	}
	if _, err := tm.Set(Setting{Value: -1}, 0); err != unix.EINVAL {
		t.Errorf("negative value: %v", err)
	}
}

// TestTimerOnARealClock waits for a timer of the host's clock.
func TestTimerOnARealClock(t *testing.T) {
	k := clock.New(clock.HostTSCReliable())
	q := clock.NewQueue(k.Monotonic)
	defer q.Close()
	ctx := vfstest.NewContext()
	f, err := New(OnQueue(q, k.Monotonic, k.Realtime), unix.CLOCK_REALTIME, 0, ctx.Cred)
	if err != nil {
		t.Fatal(err)
	}
	defer f.DecRef()
	start := k.Monotonic()
	Of(f).Set(Setting{Value: k.Realtime() + 2e6}, unix.TFD_TIMER_ABSTIME)
	err = vfs.BlockOn(ctx, f, waiter.In, false, func() error { _, err := ticks(t, f); return err })
	if err != nil || k.Monotonic()-start < 1e6 {
		t.Errorf("%v after %d ns", err, k.Monotonic()-start)
	}
}
