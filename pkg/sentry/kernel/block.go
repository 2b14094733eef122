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
	// timer gives timeout. Both are made when first needed.
	timer   *clock.Timer
	timeout *waiter.Token
}

// Block sleeps until k is given (nil) or the task has something else to do
// (RestartSys). Nil is never given.
func (t *Task) Block(k *waiter.Token) error {
	if k != nil && k.Take() {
		return nil
	}
	return t.sleep(k, nil)
}

// BlockUntil is Block with a deadline on the monotonic clock: ErrTimeout once it
// has passed.
func (t *Task) BlockUntil(k *waiter.Token, deadline int64) error {
	if deadline == Forever {
		return t.Block(k)
	}
	if k != nil && k.Take() {
		return nil
	}
	if t.k.Clock.Monotonic() >= deadline {
		return ErrTimeout
	}
	b := &t.blocking
	if b.timer == nil {
		// This timer's own: should it expire late, when there is another one, it
		// must not end the wait of that.
		b.timeout = new(waiter.Token)
		b.timer = t.k.Timers.NewTimer(b.timeout.Give)
	}
	b.timer.Set(deadline)
	err := t.sleep(k, b.timeout)
	if !b.timer.Stop() {
		// It expired; its token may come yet, and must not end the next wait.
		b.timer, b.timeout = nil, nil
	}
	return err
}

// sleep waits for k, timeout or something that can't wait.
func (t *Task) sleep(k, timeout *waiter.Token) error {
	for _, e := range [...]*waiter.Token{k, timeout} {
		if e != nil {
			e.Expect(t.thread)
		}
	}
	t.park()
	defer t.unpark()
	for {
		switch {
		case t.work.Load() && t.interrupted():
			return RestartSys
		case k != nil && k.Take():
			return nil
		case timeout != nil && timeout.Take():
			return ErrTimeout
		}
		t.thread.Park()
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

// blockKillable sleeps until g opens (true), or the task is to end (false).
func (t *Task) blockKillable(g *waiter.Gate) bool {
	g.Expect(t.thread)
	defer g.Forget(t.thread)
	t.park()
	defer t.unpark()
	for {
		switch {
		case t.work.Load() && t.dying():
			return false
		case g.Opened():
			return true
		}
		t.thread.Park()
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
	t.container.throttle.Runs()
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
	ready := new(waiter.Token)
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
