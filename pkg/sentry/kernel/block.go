package kernel

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// ErrTimeout is what BlockUntil returns when the time is up. It isn't an answer
// for an application: each call makes its own of it.
var ErrTimeout error = timeoutError{}

type timeoutError struct{}

func (timeoutError) Error() string { return "time is up" }

// Forever is a deadline that never comes.
const Forever int64 = math.MaxInt64

// blocking is what a task sleeps with.
type blocking struct {
	// timer puts a token into timeout. Both are made when first needed.
	timer   *clock.Timer
	timeout chan struct{}
}

// Block sleeps until ch delivers (nil) or the task has something else to do
// (RestartSys).
func (t *Task) Block(ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	default:
	}
	return t.sleep(ch, nil)
}

// BlockUntil is Block with a deadline on the monotonic clock: ErrTimeout once it
// has passed.
func (t *Task) BlockUntil(ch <-chan struct{}, deadline int64) error {
	if deadline == Forever {
		return t.Block(ch)
	}
	select {
	case <-ch:
		return nil
	default:
	}
	if t.k.Clock.Monotonic() >= deadline {
		return ErrTimeout
	}
	b := &t.blocking
	if b.timer == nil {
		// This timer's own: should it expire late, when there is another one, it
		// must not end the wait of that.
		timeout := make(chan struct{}, 1)
		b.timeout = timeout
		b.timer = t.k.Timers.NewTimer(func() {
			select {
			case timeout <- struct{}{}:
			default:
			}
		})
	}
	b.timer.Set(deadline)
	err := t.sleep(ch, b.timeout)
	if !b.timer.Stop() {
		// It expired; its token may come yet, and must not end the next wait.
		b.timer, b.timeout = nil, nil
	}
	return err
}

// sleep waits for ch, timeout or something that can't wait. A nil channel never
// delivers.
func (t *Task) sleep(ch, timeout <-chan struct{}) error {
	t.park()
	defer t.unpark()
	for {
		if t.work.Load() && t.interrupted() {
			return RestartSys
		}
		select {
		case <-ch:
			return nil
		case <-timeout:
			return ErrTimeout
		case <-t.wake:
		}
	}
}

// Sleep sleeps until the monotonic time deadline: nil then, RestartSys when
// interrupted.
func (t *Task) Sleep(deadline int64) error {
	if err := t.BlockUntil(nil, deadline); err != ErrTimeout {
		return err
	}
	return nil
}

// blockKillable sleeps until ch delivers (true), or the task is to end (false).
func (t *Task) blockKillable(ch <-chan struct{}) bool {
	t.park()
	defer t.unpark()
	for {
		if t.work.Load() && t.dying() {
			return false
		}
		select {
		case <-ch:
			return true
		case <-t.wake:
		}
	}
}

// park is what comes before every sleep: the platform lets go of the thread.
func (t *Task) park() {
	t.ctx.Park(t.state)
	t.blocked.Store(true)
	t.tg.awake.Add(-1)
	t.usage.SleepBegins()
}

func (t *Task) unpark() {
	t.usage.SleepEnds()
	t.blocked.Store(false)
	t.tg.awake.Add(1)
	t.tg.timers.Awake()
	t.container.taskRuns()
}

// WaitFor calls op until it returns something other than EAGAIN, sleeping in
// between until w is ready for mask or deadline has passed (ErrTimeout). It is
// how a blocking call is made from a non-blocking one.
func (t *Task) WaitFor(w waiter.Waitable, mask waiter.Mask, deadline int64, op func() error) error {
	err := op()
	if err != unix.EAGAIN {
		return err
	}
	if f, ok := w.(*vfs.File); ok {
		w = t.Waitable(f)
	}
	ready := waiter.NewChannelListener()
	e := waiter.Entry{Listener: ready, Mask: mask}
	w.EventRegister(&e)
	defer w.EventUnregister(&e)
	for {
		if err = op(); err != unix.EAGAIN {
			return err
		}
		if err := t.BlockUntil(ready, deadline); err != nil {
			// What came together with a signal, or as the time ran out, counts.
			if again := op(); again != unix.EAGAIN {
				return again
			}
			return err
		}
	}
}
