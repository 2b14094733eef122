package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/waiter"
)

// handleWork sees to signals and stops, between two runs of application code.
// It reports false when the task is to end.
func (t *Task) handleWork() bool {
	for {
		// In this order: who interrupts does so after work is set.
		t.ctx.Heed()
		t.work.Store(false)
		if t.leaving || !t.thaw() {
			return false
		}
		g := &t.tg.signals
		g.lock()
		if g.exiting || g.execer != nil && g.execer != t {
			g.unlock()
			return false
		}
		if t.sig.stopping {
			t.groupStop() // unlocks
			continue
		}
		if t.trace.trap.Load() {
			g.unlock()
			t.trapStop()
			continue
		}
		if t.state.Vectors.Do != 0 && (t.sig.pending.Set()|g.pending.Set())&^t.sig.mask != 0 {
			// The next frame is for what the last one leaves.
			g.unlock()
			t.settleFrame()
			continue
		}
		info, ok := t.takeLocked(^t.sig.mask | signals.SetOf(sigKill))
		t.sig.mayStop = ok
		g.unlock()
		if !ok {
			break
		}
		if t.traced() && info.Signo != int32(sigKill) && !t.traceSignal(&info) {
			continue
		}
		if !t.deliver(&info) {
			return false
		}
	}
	t.finishCall(nil)
	t.RestoreMask()
	return true
}

// finishCall decides whether an interrupted system call is restarted: a is the
// action of the handler that is about to run, nil if none does.
func (t *Task) finishCall(a *signals.Action) {
	r := t.syscall.restart
	if r == 0 {
		return
	}
	t.syscall.restart = 0
	regs := &t.state.Regs
	interrupt := false
	if a != nil {
		switch r {
		case RestartNoHand, RestartBlock:
			interrupt = true
		case RestartSys:
			interrupt = a.Flags&signals.FlagRestart == 0
		}
	}
	if interrupt {
		regs.SetReturn(failure(unix.EINTR))
		return
	}
	if r == RestartBlock {
		regs.OrigRax = unix.SYS_RESTART_SYSCALL
	}
	regs.RestartSyscall()
}

// deliver does what info's signal does. It reports false when the task is to
// end.
func (t *Task) deliver(info *signals.Info) bool {
	s := signals.Signal(info.Signo)
	g := &t.tg.signals
	a := g.actions.Deliver(s)
	if tr := t.k.Trace; tr != nil {
		tr.Signal(t, info.Signo, "delivered")
	}
	switch {
	case s == sigKill:
		t.tg.Kill(ExitStatus{Signal: s})
		return false
	case a.Handler == signals.HandlerIgnore:
		return true
	case a.Handler == signals.HandlerDefault:
		return t.defaultAction(s, info)
	}
	t.finishCall(&a)
	if err := t.pushFrame(&a, info); err != nil {
		t.frameFails(s)
	} else if t.hooks.Load()&hookStep != 0 {
		t.traceStepped() // the handler's first instruction
	}
	return true
}

func (t *Task) defaultAction(s signals.Signal, info *signals.Info) bool {
	if t.tg.isInit() && s != sigStop && !t.tg.isForced() {
		return true // it has blocked it, or had a handler when it came
	}
	switch signals.DefaultOf(s) {
	case signals.Ignore, signals.Continue:
		return true
	case signals.Stop:
		t.startGroupStop(s)
		return true
	}
	t.leaving = true
	t.tg.Kill(ExitStatus{Signal: s})
	return false
}

// isForced reports whether a task of the process did what can't go on: init dies of
// that too.
func (tg *ThreadGroup) isForced() bool {
	tg.signals.lock()
	defer tg.signals.unlock()
	return tg.signals.forced
}

// pushFrame sets the handler up.
func (t *Task) pushFrame(a *signals.Action, info *signals.Info) error {
	before := unframed{t.state.Regs, t.sig.mask, t.sig.saved, t.sig.hasSaved, t.sig.stack, info.Signo}
	mask := t.sig.mask
	if t.sig.hasSaved {
		mask = t.sig.saved
	}
	d := arch.SignalDelivery{
		Signo: int(info.Signo), Info: info.Bytes(), Handler: a.Handler, Restorer: a.Restorer, Flags: a.Flags,
		Mask: uint64(mask), AltStack: &t.sig.stack,
		TrapNo: t.lastFault.trap, ErrorCode: t.lastFault.code, FaultAddr: t.lastFault.addr,
	}
	if err := t.state.PushSignalFrame(t.mm, &d); err != nil {
		return err
	}
	t.unframed = before
	t.sig.hasSaved = false
	next := t.sig.mask | a.Mask
	if a.Flags&signals.FlagNoDefer == 0 {
		next |= signals.SetOf(signals.Signal(info.Signo))
	}
	t.SetSignalMask(next)
	return nil
}

// SignalReturn does rt_sigreturn(2).
func (t *Task) SignalReturn() {
	t.NoReturn()
	mask, stack, err := t.state.PopSignalFrame(t.mm)
	if err != nil {
		t.ForceSignal(&signals.Info{Signo: int32(unix.SIGSEGV), Code: signals.CodeKernel})
		return
	}
	t.SetSignalStack(stack)
	t.SetSignalMask(signals.Set(mask))
}

// unframed is what a task was before a frame was written for a handler.
type unframed struct {
	regs        arch.Registers
	mask, saved signals.Set
	hasSaved    bool
	stack       arch.AltStack
	signo       int32
}

// settleFrame does what is left to do with the vector state of a frame, where the
// platform can't, or somebody is to see it before application code runs. Where that
// fails the task gets a SIGSEGV, and it reports false.
func (t *Task) settleFrame() bool {
	do := t.state.Vectors.Do
	if do == 0 {
		return true
	}
	if do == arch.FrameSave {
		t.ctx.PullFP(t.state)
	}
	err := t.state.Settle(t.mm)
	if do == arch.FrameLoad {
		t.ctx.DropFP()
	}
	if err == nil {
		return true
	}
	if u := &t.unframed; do == arch.FrameSave {
		// As if there had been no room for the frame from the first.
		t.state.Regs, t.sig.saved, t.sig.hasSaved, t.sig.stack = u.regs, u.saved, u.hasSaved, u.stack
		t.SetSignalMask(u.mask)
		t.frameFails(signals.Signal(u.signo))
	} else {
		t.ForceSignal(&signals.Info{Signo: int32(unix.SIGSEGV), Code: signals.CodeKernel})
	}
	return false
}

// frameFails is for a stack that can't take the frame of s: SIGSEGV, and if that is
// what s is, the end.
func (t *Task) frameFails(s signals.Signal) {
	if s == signals.Signal(unix.SIGSEGV) {
		t.tg.signals.actions.Force(s, true)
	}
	t.ForceSignal(&signals.Info{Signo: int32(unix.SIGSEGV), Code: signals.CodeKernel})
}

// minSignalStack is MINSIGSTKSZ.
const minSignalStack = 2048

// SetSignalStack does sigaltstack(2).
func (t *Task) SetSignalStack(s arch.AltStack) error {
	if t.sig.stack.Active(t.state.Regs.Rsp) {
		return unix.EPERM
	}
	mode := s.Flags &^ arch.StackAutoDisarm
	switch mode {
	case arch.StackDisable:
		t.sig.stack = arch.NoAltStack
		return nil
	case 0, arch.StackOnStack:
	default:
		return unix.EINVAL
	}
	if s.Size < minSignalStack {
		return unix.ENOMEM
	}
	t.sig.stack = arch.AltStack{Addr: s.Addr, Size: s.Size, Flags: s.Flags & arch.StackAutoDisarm}
	return nil
}

// startGroupStop stops the process, unless SIGCONT or death came first.
func (t *Task) startGroupStop(s signals.Signal) {
	k, tg := t.k, t.tg
	if s != sigStop {
		// Terminal stop signals do nothing to an orphaned process group.
		k.tree.RLock()
		orphaned := tg.group.OrphanedHeld()
		k.tree.RUnlock()
		if orphaned {
			return
		}
	}
	g := &tg.signals
	g.lock()
	defer g.unlock()
	if g.exiting || g.execer != nil || !t.sig.mayStop {
		return
	}
	st := &g.stop
	switch {
	case st.signal == 0:
		st.signal, st.continued, st.resume = s, false, new(waiter.Gate)
		for _, o := range tg.liveTasks() {
			o.sig.stopping = true
			st.waiting++
			if o != t {
				o.interrupt()
			}
		}
	case !t.sig.stopping: // its tracer has let it run while the others stand
		t.sig.stopping = true
		st.waiting++
	}
	t.work.Store(true)
}

// groupStop takes part in a stop and sleeps until it is over. signals.mu is
// held, and released.
func (t *Task) groupStop() {
	g := &t.tg.signals
	t.sig.stopping = false
	resume := g.stop.resume
	if resume == nil {
		g.unlock()
		return
	}
	var notify func()
	signal := g.stop.signal
	if g.stop.waiting--; g.stop.waiting <= 0 && !g.stop.complete {
		g.stop.complete = true
		notify = t.tg.childStateChanged(signals.ChildStopped, int32(g.stop.signal))
	}
	g.unlock()
	if notify != nil {
		notify()
	}
	if t.traced() {
		t.traceGroupStop(signal, resume)
		return
	}
	t.stoppedGroup(resume)
}

// stoppedGroup sleeps until resume opens, or the task is to end or to stop
// for a tracer.
func (t *Task) stoppedGroup(resume *waiter.Gate) {
	t.stopped(resume, func() bool { return t.trace.trap.Load() || t.dying() })
}

// stopped sleeps until resume opens or enough says so, which is asked
// whenever somebody interrupts the task.
func (t *Task) stopped(resume *waiter.Gate, enough func() bool) {
	resume.Expect(t.thread)
	defer resume.Forget(t.thread)
	t.park()
	defer t.unpark()
	for !enough() {
		if resume.Opened() {
			return
		}
		t.thread.Park()
	}
	t.work.Store(true)
}

// release lets stopped tasks go on. signals.mu is held.
func (s *groupStop) release() {
	if s.resume != nil {
		s.resume.Open()
		s.resume = nil
	}
}

// continueLocked ends a stop. It returns what tells the parent, to be called
// without the lock. signals.mu is held.
func (tg *ThreadGroup) continueLocked() func() {
	st := &tg.signals.stop
	if st.signal == 0 {
		return nil
	}
	was := st.complete
	st.signal, st.waiting, st.complete, st.unreported = 0, 0, false, false
	for _, t := range tg.liveTasks() {
		t.sig.stopping = false
	}
	st.release()
	if !was {
		return nil
	}
	st.continued = true
	return tg.childStateChanged(signals.ChildContinued, int32(sigCont))
}

// Stopped reports whether the process is stopped by job control.
func (tg *ThreadGroup) Stopped() bool {
	tg.signals.lock()
	defer tg.signals.unlock()
	return tg.signals.stop.complete
}

// childStateChanged returns a function that tells the parent of a stop or a
// continuation: SIGCHLD, unless SA_NOCLDSTOP, and then wait(2). Who has waited for
// a stop has its signal.
func (tg *ThreadGroup) childStateChanged(code, status int32) func() {
	return func() {
		k := tg.k
		var after []func()
		k.tree.RLock()
		parent := tg.parent
		if tg.tracedByParent() && code == signals.ChildStopped {
			parent = nil // each task tells of its own stop
		}
		if parent != nil {
			if parent.signals.actionsGet(sigChld).Flags&signals.FlagNoCldStop == 0 {
				info := tg.childInfo(parent, code, status)
				after, _ = parent.sendHeld(nil, &info, nil)
			}
			after = append(after, parent.notifyChildren)
		}
		if code == signals.ChildStopped {
			g := &tg.signals
			g.lock()
			g.stop.unreported = g.stop.complete // unless it is over already
			g.unlock()
		}
		k.tree.RUnlock()
		for _, f := range after {
			f()
		}
	}
}

func (g *groupSignals) actionsGet(s signals.Signal) signals.Action {
	g.lock()
	a := g.actions
	g.unlock()
	return a.Get(s)
}

// childInfo returns the siginfo of SIGCHLD about tg, for parent. tree is held.
func (tg *ThreadGroup) childInfo(parent *ThreadGroup, code, status int32) signals.Info {
	info := signals.Info{Signo: int32(sigChld), Code: code}
	info.SetPID(tg.ids.In(parent.ids.NS))
	if l := tg.leader; l != nil {
		info.SetUID(parent.leader.creds.Load().UserNS.UID(l.creds.Load().RUID))
	}
	info.SetStatus(status)
	u := tg.usageLocked()
	const tick = 10_000_000 // nanoseconds in one of USER_HZ, which si_utime counts
	info.SetTimes(u.User/tick, u.System/tick)
	return info
}
