package kernel

import (
	"math/bits"
	"reflect"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/signalfd"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

const (
	sigKill = signals.Signal(unix.SIGKILL)
	sigStop = signals.Signal(unix.SIGSTOP)
	sigCont = signals.Signal(unix.SIGCONT)
	sigChld = signals.Signal(unix.SIGCHLD)
)

// lock and unlock guard the group's signal state.
func (s *groupSignals) lock()   { s.mu.Lock() }
func (s *groupSignals) unlock() { s.mu.Unlock() }

// Send sends a signal to the process: any thread that doesn't block it takes it.
func (tg *ThreadGroup) Send(info *signals.Info) error { return tg.send(nil, info, nil) }

// SendTimer is Send for a POSIX timer.
func (tg *ThreadGroup) SendTimer(info *signals.Info, timer signals.Timer) error {
	return tg.send(nil, info, timer)
}

// SendSignal sends a signal to this task.
func (t *Task) SendSignal(info *signals.Info) error { return t.tg.send(t, info, nil) }

// SendSignalTimer is SendSignal for a POSIX timer.
func (t *Task) SendSignalTimer(info *signals.Info, timer signals.Timer) error {
	return t.tg.send(t, info, timer)
}

// Unspare has signals that it has no handler for act on init as they do on other
// processes.
func (tg *ThreadGroup) Unspare() {
	tg.signals.lock()
	tg.signals.forced = true
	tg.signals.unlock()
}

// SendKernel sends signo as the kernel does.
func (tg *ThreadGroup) SendKernel(signo unix.Signal) {
	tg.Send(&signals.Info{Signo: int32(signo), Code: signals.CodeKernel})
}

// SendGroup sends a signal to all members of a group, those included that a fork(2)
// under way is about to make.
func (k *Kernel) SendGroup(g *ProcessGroup, info *signals.Info) {
	var after []func()
	k.tree.RLock()
	for _, tg := range g.MembersHeld() {
		f, _ := tg.broadcastHeld(info)
		after = append(after, f...)
	}
	k.tree.RUnlock()
	for _, f := range after {
		f()
	}
}

// send queues info for task, or for the process where task is nil, and sees to
// it that somebody takes it. EAGAIN where the queue is full and the signal
// must not get lost. The tree lock is not held.
func (tg *ThreadGroup) send(task *Task, info *signals.Info, timer signals.Timer) error {
	after, err := tg.sendHeld(task, info, timer)
	for _, f := range after {
		f()
	}
	return err
}

// sendHeld is send for who may hold the tree lock. What it returns is to be
// called without.
func (tg *ThreadGroup) sendHeld(task *Task, info *signals.Info, timer signals.Timer) (after []func(), err error) {
	g := &tg.signals
	g.lock()
	defer g.unlock()
	return tg.sendLocked(task, info, timer)
}

// broadcastHeld is sendHeld for a signal that goes to several processes: a child
// that the process is making gets it, too. tree is held.
func (tg *ThreadGroup) broadcastHeld(info *signals.Info) (after []func(), err error) {
	g := &tg.signals
	g.lock()
	defer g.unlock()
	g.broadcasts++
	return tg.sendLocked(nil, info, nil)
}

func (tg *ThreadGroup) sendLocked(task *Task, info *signals.Info, timer signals.Timer) (after []func(), err error) {
	g, s := &tg.signals, signals.Signal(info.Signo)
	if notify := tg.prepareSignal(s); notify != nil {
		after = append(after, notify)
	}
	if g.exiting {
		if s == sigKill {
			tg.killStopped()
		}
		return after, nil
	}
	if !tg.wanted(s, task, info) {
		return after, nil
	}
	if !tg.queue(task, info, timer, tg.Limits().Soft(limits.SignalsPending)) {
		return after, unix.EAGAIN
	}
	return after, nil
}

// queue has info wait for task, or for the process, and wakes who takes it. It
// reports false where limit signals wait already. signals.mu is held.
func (tg *ThreadGroup) queue(task *Task, info *signals.Info, timer signals.Timer, limit uint64) bool {
	g, s := &tg.signals, signals.Signal(info.Signo)
	queue := &g.pending
	if task != nil {
		queue = &task.sig.pending
	}
	if !queue.Add(info, timer, limit) {
		return false
	}
	tg.wakeFor(s, task)
	g.arrivals.Notify(waiter.Readable)
	return true
}

// wanted reports whether s does anything: an ignored signal is dropped at once,
// unless somebody blocks it and might change his mind. signals.mu is held.
func (tg *ThreadGroup) wanted(s signals.Signal, task *Task, info *signals.Info) bool {
	if s == sigKill || s == sigStop {
		// Of those inside its namespace not even these (pid_namespaces(7));
		// who isn't inside has no number there.
		return !tg.isInit() || info.Code == signals.CodeKernel || info.PID() == 0
	}
	// Init has no use for what it has no handler for, whoever sends it (kill(2),
	// pid_namespaces(7)).
	spared := tg.isInit() && !tg.signals.forced && tg.signals.actions.Get(s).Handler == signals.HandlerDefault
	if !spared && !tg.signals.actions.Ignored(s) {
		return true
	}
	if task != nil {
		return task.traced() || (task.sig.mask | task.sig.waiting).Has(s)
	}
	for _, t := range tg.liveTasks() {
		if t.traced() || (t.sig.mask | t.sig.waiting).Has(s) {
			return true
		}
	}
	return false
}

// isInit reports whether tg is the first process of its pid namespace.
func (tg *ThreadGroup) isInit() bool { return tg.ids.Own() == 1 }

// liveTasks returns the tasks for which signals may be meant. signals.mu is
// held; the list changes under it and the tree lock both.
func (tg *ThreadGroup) liveTasks() []*Task { return tg.tasks }

// takes reports whether t would take s now. signals.mu is held.
func (t *Task) takes(s signals.Signal) bool {
	return s == sigKill || !t.sig.mask.Has(s) || t.sig.waiting.Has(s)
}

// wakeFor wakes a task that will take s. signals.mu is held.
func (tg *ThreadGroup) wakeFor(s signals.Signal, task *Task) {
	if s == sigKill {
		for _, t := range tg.liveTasks() {
			t.interrupt()
		}
		tg.signals.stop.release()
		return
	}
	if task != nil {
		if task.takes(s) {
			task.interrupt()
		}
		return
	}
	var chosen *Task
	for _, t := range tg.liveTasks() {
		if !t.takes(s) {
			continue
		}
		// Somebody who waits for it, or sleeps anyway, comes first.
		if chosen == nil || t.sig.waiting.Has(s) && !chosen.sig.waiting.Has(s) {
			chosen = t
		}
	}
	if chosen != nil {
		chosen.interrupt()
	}
}

// prepareSignal does what a signal does by being sent, whether or not it is
// taken: SIGCONT goes on and takes stop signals away, and the other way round
// (signal(7)). It returns a function to call without locks, or nil. signals.mu is
// held: the signal is queued before it is let go.
func (tg *ThreadGroup) prepareSignal(s signals.Signal) func() {
	g := &tg.signals
	switch {
	case s == sigCont:
		g.pending.Discard(signals.StopSignals)
		for _, t := range tg.liveTasks() {
			t.sig.pending.Discard(signals.StopSignals)
			t.sig.mayStop = false // nor does what a task has taken, and not acted upon
		}
		return tg.continueLocked()
	case signals.StopSignals.Has(s):
		g.pending.Discard(signals.SetOf(sigCont))
		for _, t := range tg.liveTasks() {
			t.sig.pending.Discard(signals.SetOf(sigCont))
		}
	}
	return nil
}

// interrupted reports whether a sleep must end: a signal that does something,
// a stop, or death.
func (t *Task) interrupted() bool {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	if g.exiting || g.execer != nil && g.execer != t || t.sig.stopping || t.trace.trap.Load() {
		return true
	}
	pending := t.sig.pending.Set() | g.pending.Set()
	return pending&(^t.sig.mask|t.sig.waiting) != 0
}

// SignalPending reports whether a sleep would end at once; for the task itself.
func (t *Task) SignalPending() bool { return t.work.Load() && t.interrupted() }

// dying reports whether the task is to end whatever it does.
func (t *Task) dying() bool {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	return g.exiting || g.execer != nil && g.execer != t ||
		(t.sig.pending.Set() | g.pending.Set()).Has(sigKill)
}

// SignalMask returns the task's mask; for the task itself.
func (t *Task) SignalMask() signals.Set { return t.sig.mask }

// SetSignalMask sets it. SIGKILL and SIGSTOP stay out.
func (t *Task) SetSignalMask(m signals.Set) {
	g := &t.tg.signals
	g.lock()
	old := t.sig.mask
	t.sig.mask = m &^ signals.Unblockable
	if (t.sig.pending.Set()|g.pending.Set())&^t.sig.mask != 0 {
		t.work.Store(true)
	}
	// A signal of the process that this task blocks now may be somebody
	// else's.
	t.tg.retarget(t.sig.mask &^ old)
	g.unlock()
}

// retarget wakes somebody for the process's signals of set, because who was
// woken for them doesn't take them. signals.mu is held.
func (tg *ThreadGroup) retarget(set signals.Set) {
	for left := tg.signals.pending.Set() & set; left != 0; left &= left - 1 {
		tg.wakeFor(signals.Signal(bits.TrailingZeros64(uint64(left))+1), nil)
	}
}

// WithMask puts m in place until the task has handled signals: a call that
// returns RestartNoHand or EINTR has the handlers run under m, and the old mask
// comes back after them (sigsuspend(2), ppoll(2)). The call must go on to
// RestoreMask if it isn't interrupted.
func (t *Task) WithMask(m signals.Set) {
	t.sig.saved, t.sig.hasSaved = t.sig.mask, true
	t.SetSignalMask(m)
}

// RestoreMask takes WithMask back at once.
func (t *Task) RestoreMask() {
	if t.sig.hasSaved {
		t.sig.hasSaved = false
		t.SetSignalMask(t.sig.saved)
	}
}

// PendingSignals returns what is blocked and waits (sigpending(2)).
func (t *Task) PendingSignals() signals.Set {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	return (t.sig.pending.Set() | g.pending.Set()) & t.sig.mask
}

// SignalState is what /proc/PID/status shows.
type SignalState struct {
	Pending, Shared, Mask, Ignored, Caught signals.Set
	Queued                                 int
}

// SignalState returns the signal state of any task.
func (t *Task) SignalState() SignalState {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	ignored, caught := g.actions.Sets()
	return SignalState{Ignored: ignored, Caught: caught, Pending: t.sig.pending.Set(), Shared: g.pending.Set(), Mask: t.sig.mask,
		Queued: t.sig.pending.Count() + g.pending.Count()}
}

// SignalAction returns the action for s, and puts n in place if it isn't nil.
func (tg *ThreadGroup) SignalAction(s signals.Signal, n *signals.Action) signals.Action {
	g := &tg.signals
	g.lock()
	defer g.unlock()
	if n == nil {
		return g.actions.Get(s)
	}
	old := g.actions.Set(s, *n)
	if n.Ignores(s) {
		// What waits is dropped, blocked or not (sigaction(2)).
		set := signals.SetOf(s)
		g.pending.Discard(set)
		for _, t := range tg.liveTasks() {
			t.sig.pending.Discard(set)
		}
	}
	return old
}

// SignalActionsIdentity tells processes that share their actions (CLONE_SIGHAND)
// from others, for kcmp(2).
func (tg *ThreadGroup) SignalActionsIdentity() uintptr {
	g := &tg.signals
	g.lock()
	defer g.unlock()
	return reflect.ValueOf(g.actions).Pointer()
}

// TakeSignal removes a signal of set that waits for t, and returns it
// (sigtimedwait(2), signalfd(2)).
func (t *Task) TakeSignal(set signals.Set) (signals.Info, bool) {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	return t.takeLocked(set)
}

func (t *Task) takeLocked(set signals.Set) (signals.Info, bool) {
	for {
		own, shared := t.sig.pending.Next(set), t.tg.signals.pending.Next(set)
		s, queue := own, &t.sig.pending
		if own == 0 || shared != 0 && shared < own && !signals.Synchronous.Has(own) {
			s, queue = shared, &t.tg.signals.pending
		}
		if s == 0 {
			return signals.Info{}, false
		}
		if info, ok := queue.Take(s); ok {
			return info, true
		}
	}
}

// WaitSignal does sigtimedwait(2): it returns the first signal of set, waiting
// for one until deadline (EAGAIN).
func (t *Task) WaitSignal(set signals.Set, deadline int64) (signals.Info, error) {
	set &^= signals.Unblockable
	g := &t.tg.signals
	for {
		g.lock()
		if info, ok := t.takeLocked(set); ok {
			t.sig.waiting = 0
			g.unlock()
			return info, nil
		}
		t.sig.waiting = set
		g.unlock()
		err := t.BlockUntil(nil, deadline)
		g.lock()
		t.sig.waiting = 0
		info, ok := t.takeLocked(set)
		// The task was woken for these; others may take what it leaves.
		t.tg.retarget(set & t.sig.mask)
		g.unlock()
		if ok {
			return info, nil
		}
		if err == ErrTimeout {
			return info, unix.EAGAIN
		}
		if err != nil {
			return info, unix.EINTR
		}
	}
}

// ForceSignal sends a signal that the task can't block or ignore: it comes from
// what the task just did. If it is blocked or ignored it takes its default
// action.
func (t *Task) ForceSignal(info *signals.Info) {
	g := &t.tg.signals
	s := signals.Signal(info.Signo)
	g.lock()
	if g.actions.Force(s, t.sig.mask.Has(s)) {
		t.sig.mask &^= signals.SetOf(s)
	}
	g.forced = true
	t.sig.pending.Add(info, nil, limits.Infinity)
	t.work.Store(true)
	g.unlock()
}

// Ending reports whether the process is being killed, or has ended.
func (tg *ThreadGroup) Ending() bool {
	tg.signals.lock()
	defer tg.signals.unlock()
	return tg.signals.exiting
}

// Kill ends the process with status, whatever it does.
func (tg *ThreadGroup) Kill(status ExitStatus) {
	g := &tg.signals
	g.lock()
	if !g.exiting {
		g.exiting, g.status = true, status
	}
	for _, t := range tg.liveTasks() {
		t.interrupt()
	}
	g.stop.release()
	g.unlock()
}

// SignalProcess implements signalfd.Thread.
func (t *Task) SignalProcess() signalfd.Process { return t.tg }

// QueuedSignals returns the signals that wait for the task or for its process,
// blocked or not.
func (t *Task) QueuedSignals() signals.Set {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	return g.pending.Set() | t.sig.pending.Set()
}

// QueuedSignals returns the signals that wait for the process or for any thread
// of it.
func (tg *ThreadGroup) QueuedSignals() signals.Set {
	g := &tg.signals
	g.lock()
	defer g.unlock()
	all := g.pending.Set()
	for _, t := range tg.liveTasks() {
		all |= t.sig.pending.Set()
	}
	return all
}

// SignalArrivals is notified when a signal is queued.
func (tg *ThreadGroup) SignalArrivals() *waiter.Queue { return &tg.signals.arrivals }

// Waitable returns f as t waits for it: f itself, but for a signalfd.
func (t *Task) Waitable(f *vfs.File) waiter.Waitable {
	if s := signalfd.Of(f); s != nil {
		return s.For(t)
	}
	return f
}

var _ signalfd.Thread = (*Task)(nil)
