package kernel

import (
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/timers"
)

// Timers returns the process's timers.
func (tg *ThreadGroup) Timers() *timers.Set { return &tg.timers }

// CPUTime returns what the task has used, in nanoseconds (timers.Thread).
func (t *Task) CPUTime() int64 { return t.usage.Total() }

// timed is a thread group as its timers know it.
type timed struct{ *ThreadGroup }

func (tg timed) CPUTime() (user, total int64) {
	u := tg.Usage()
	return u.User, u.User + u.System
}

func (tg timed) Tab() *memfile.Tab { return tg.tab }

func (tg timed) Running() int { return int(tg.awake.Load()) }

func (tg timed) SendTimer(thread timers.Thread, info *signals.Info, timer signals.Timer) bool {
	task, _ := thread.(*Task)
	s := signals.Signal(info.Signo)
	g := &tg.signals
	g.lock()
	// Deferred first, to be called without the lock.
	var notify func()
	defer func() {
		if notify != nil {
			notify()
		}
	}()
	defer g.unlock()
	notify = tg.prepareSignal(s)
	if g.exiting || !tg.wanted(s, task, info) {
		return false
	}
	pending := &g.pending
	if task != nil {
		pending = &task.sig.pending
	}
	if !s.RealTime() && pending.Set().Has(s) {
		return false
	}
	// The place was reserved by timer_create(2).
	return tg.queue(task, info, timer, limits.Infinity)
}
