package kernel

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/tracing"
	"vitrine/pkg/waiter"
)

// Tracing (ptrace(2)): a task stops at certain points, tells its tracer, and goes
// on when the tracer says so. Its own goroutine does the stopping; while it
// stands, its registers are the tracer's.
//
// What an untraced task pays is one look at Task.hooks per system call and per
// run of application code.

// Bits of Task.hooks.
const (
	hookTraced  = 1 << iota // there is a tracer: signals and stops are told
	hookSyscall             // stop at both ends of system calls
	hookSysemu              // stop at system calls, and skip them
	hookStep                // run one instruction
	hookSeccomp             // filters are to be asked
)

const hooksSyscall = hookSyscall | hookSysemu | hookStep | hookSeccomp

// traceState is a task's part in being traced. Guarded by Kernel.tree, but for
// what says otherwise.
type traceState struct {
	tracing.Tracee
	tracer *Task

	// zombie: a thread that has ended and that its tracer hasn't waited for.
	zombie bool
	status ExitStatus

	// trap asks for a stop without a reason (PTRACE_INTERRUPT); killed says
	// that SIGKILL came to a process that is ending already.
	trap, killed atomic.Bool
	// forcedTF: the trap flag is ours, not the application's. The task's own.
	forcedTF bool
}

// Tracer returns who traces t, or nil.
func (t *Task) Tracer() *Task {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.trace.tracer
}

// TraceStopped reports whether t stands before its tracer.
func (t *Task) TraceStopped() bool {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.trace.Stopped()
}

func (t *Task) traced() bool { return t.hooks.Load()&hookTraced != 0 }

// setHooks sets and clears bits of hooks.
func (t *Task) setHooks(clear, set uint32) {
	for {
		old := t.hooks.Load()
		if t.hooks.CompareAndSwap(old, old&^clear|set) {
			if set&hooksSyscall != 0 {
				t.withdrawAnswers()
			}
			return
		}
	}
}

// link makes tracer trace t. tree is held.
func (t *Task) link(tracer *Task, seized bool, options uint64) {
	t.trace.tracer = tracer
	t.trace.Begin(seized, options)
	tracer.tracees = append(tracer.tracees, t)
	t.setHooks(0, hookTraced)
}

// unlink ends tracing. A stopped task is for the caller to let go. tree is held.
func (t *Task) unlink() {
	tracer := t.trace.tracer
	if tracer == nil {
		return
	}
	if i := slices.Index(tracer.tracees, t); i >= 0 {
		tracer.tracees = slices.Delete(tracer.tracees, i, i+1)
	}
	t.trace.tracer = nil
	t.trace.End()
	t.setHooks(hookTraced|hookSyscall|hookSysemu|hookStep, 0)
}

// TraceMe does PTRACE_TRACEME.
func (t *Task) TraceMe() error {
	k := t.k
	k.tree.Lock()
	defer k.tree.Unlock()
	if t.trace.tracer != nil || t.tg.parent == nil {
		return unix.EPERM
	}
	tracer := t.tg.parentTask
	if tracer == nil || tracer.dead || tracer.tg != t.tg.parent {
		if len(t.tg.parent.tasks) == 0 {
			return unix.EPERM
		}
		tracer = t.tg.parent.tasks[0]
	}
	t.link(tracer, false, 0)
	return nil
}

// Attach does PTRACE_ATTACH and PTRACE_SEIZE.
func (t *Task) Attach(o *Task, seize bool, options uint64) error {
	if o.tg == t.tg || !o.AccessibleTo(t.tg, t.Credentials(), auth.RealIDs) {
		return unix.EPERM
	}
	k := t.k
	k.tree.Lock()
	if o.dead || o.trace.tracer != nil {
		k.tree.Unlock()
		return unix.EPERM
	}
	o.link(t, seize, options)
	g := &o.tg.signals
	g.lock()
	stopped := g.stop.signal != 0
	if stopped {
		// It stands already: it is to stand before its tracer.
		o.trace.trap.Store(true)
		o.interrupt()
	}
	g.unlock()
	k.tree.Unlock()
	if !seize && !stopped {
		o.SendSignal(&signals.Info{Signo: int32(sigStop), Code: signals.CodeKernel})
	}
	return nil
}

// Interrupt does PTRACE_INTERRUPT.
func (t *Task) Interrupt(o *Task) error {
	k := t.k
	k.tree.Lock()
	if o.trace.tracer != t || o.dead {
		k.tree.Unlock()
		return unix.ESRCH
	}
	if !o.trace.Seized() {
		k.tree.Unlock()
		return unix.EIO
	}
	listening := o.trace.Listening()
	k.tree.Unlock()
	if listening {
		o.relisten()
		return nil
	}
	o.trace.trap.Store(true)
	o.interrupt()
	return nil
}

// TraceTarget calls f on a task that stands before t: its part in being traced and
// its registers may be read and changed. ESRCH if it doesn't.
func (t *Task) TraceTarget(o *Task, f func(e *tracing.Tracee, s *arch.State) error) error {
	k := t.k
	k.tree.Lock()
	defer k.tree.Unlock()
	if o.trace.tracer != t || !o.trace.Answers() {
		return unix.ESRCH
	}
	return f(&o.trace.Tracee, o.state)
}

// TraceMask does PTRACE_GETSIGMASK, and PTRACE_SETSIGMASK if n isn't nil.
func (t *Task) TraceMask(o *Task, n *signals.Set) (m signals.Set, err error) {
	err = t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
		g := &o.tg.signals
		g.lock()
		m = o.sig.mask
		g.unlock()
		if n != nil {
			o.SetSignalMask(*n)
		}
		return nil
	})
	return m, err
}

// TracePending does PTRACE_PEEKSIGINFO: up to n signals that wait for the task,
// or for its process, from the one at offset on.
func (t *Task) TracePending(o *Task, shared bool, offset uint64, n int) (all []signals.Info, err error) {
	err = t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
		g := &o.tg.signals
		g.lock()
		defer g.unlock()
		queue := &o.sig.pending
		if shared {
			queue = &g.pending
		}
		queue.Each(func(i *signals.Info) bool {
			if offset > 0 {
				offset--
				return true
			}
			if len(all) < n {
				all = append(all, *i)
			}
			return len(all) < n
		})
		return nil
	})
	return all, err
}

// Resumption is how a stopped task goes on.
type Resumption uint8

const (
	ResumeRun        Resumption = iota // PTRACE_CONT
	ResumeSyscall                      // to the next end of a system call
	ResumeStep                         // one instruction
	ResumeSysemu                       // to the next system call, which is skipped
	ResumeSysemuStep                   // both
	ResumeDetach                       // for good
)

// ResumeTrace lets a stopped task go on, with signal s where that makes sense.
func (t *Task) ResumeTrace(o *Task, how Resumption, s signals.Signal) error {
	return t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
		if s != 0 && !s.Valid() {
			return unix.EIO
		}
		set := map[Resumption]uint32{
			ResumeSyscall: hookSyscall, ResumeStep: hookStep, ResumeSysemu: hookSysemu, ResumeSysemuStep: hookSysemu | hookStep,
		}[how]
		o.setHooks(hookSyscall|hookSysemu|hookStep, set)
		if how == ResumeDetach {
			o.unlink()
		}
		e.Continue(s)
		return nil
	})
}

// ListenTrace does PTRACE_LISTEN.
func (t *Task) ListenTrace(o *Task) error {
	return t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
		err := e.Listen()
		if err == nil {
			o.thread.Unpark() // look at what to wait for again
		}
		return err
	})
}

// KillTrace does PTRACE_KILL.
func (t *Task) KillTrace(o *Task) error {
	k := t.k
	k.tree.RLock()
	ok := o.trace.tracer == t
	k.tree.RUnlock()
	if !ok {
		return unix.ESRCH
	}
	o.SendSignal(&signals.Info{Signo: int32(sigKill), Code: signals.CodeKernel})
	return nil
}

// trapInfo is the siginfo of SIGCHLD about a stop. tree is held.
func (t *Task) trapInfo(tracer *Task) signals.Info {
	info := signals.Info{Signo: int32(sigChld), Code: signals.ChildTrapped}
	info.SetPID(t.ids.In(tracer.ids.NS))
	info.SetUID(tracer.creds.Load().UserNS.UID(t.creds.Load().RUID))
	info.SetStatus(t.trace.Code().Signal())
	return info
}

// tellTracer sends SIGCHLD about a stop, so that who has waited for it has the
// signal. tree is held; what it returns is to be called without, and wakes wait4(2).
func (t *Task) tellTracer(tracer *Task) (after []func()) {
	if tracer.tg.signals.actionsGet(sigChld).Flags&signals.FlagNoCldStop == 0 {
		info := t.trapInfo(tracer)
		after, _ = tracer.tg.sendHeld(nil, &info, nil)
	}
	return append(after, tracer.tg.notifyChildren)
}

// standing says whether a stop goes on: it ends when the task is to die. leaving
// is the stop of a task that is ending anyway.
func (t *Task) standing(leaving bool) bool {
	if t.trace.killed.Load() {
		return false
	}
	return leaving || !t.dying()
}

// traceStop stands before the tracer with code. It returns what the tracer wants
// to go on with, and whether there was a tracer at all.
func (t *Task) traceStop(code tracing.Code, info *signals.Info, leaving bool) (signals.Signal, bool) {
	k := t.k
	s := &t.trace
	t.park()
	defer t.unpark()
	t.settleFrame()
	t.ctx.PullFP(t.state)
	k.tree.Lock()
	tracer := s.tracer
	if tracer == nil {
		k.tree.Unlock()
		return 0, false
	}
	resume := s.Stand(code, info)
	after := t.tellTracer(tracer)
	k.tree.Unlock()
	for _, f := range after {
		f()
	}
	resume.Expect(t.thread)
	for t.standing(leaving) && !resume.Opened() {
		var group *waiter.Gate
		if t.listens() {
			g := &t.tg.signals
			g.lock()
			group = g.stop.resume
			if group == nil { // SIGCONT came: told as a stop of its own
				g.unlock()
				t.relisten()
				continue
			}
			g.unlock()
		}
		group.Expect(t.thread)
		if group.Opened() {
			t.relisten()
		} else if !resume.Opened() {
			t.thread.Park()
		}
		group.Forget(t.thread)
	}
	k.tree.Lock()
	defer k.tree.Unlock()
	signal := s.Over()
	t.syncRestart()
	t.work.Store(true)
	return signal, true
}

func (t *Task) listens() bool {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.trace.Listening()
}

// relisten turns a listening task's stop into one that is told: SIGCONT has
// ended the group stop.
func (t *Task) relisten() {
	k := t.k
	k.tree.Lock()
	tracer := t.trace.tracer
	if tracer == nil || !t.trace.Relisten() {
		k.tree.Unlock()
		return
	}
	after := t.tellTracer(tracer)
	k.tree.Unlock()
	for _, f := range after {
		f()
	}
}

// syncRestart derives from the registers whether a system call is to be
// restarted: a tracer may have changed them.
func (t *Task) syncRestart() {
	r := &t.state.Regs
	if int64(r.OrigRax) < 0 {
		t.syscall.restart = 0
		return
	}
	switch e := unix.Errno(-r.Rax); e {
	case RestartSys, RestartNoIntr, RestartNoHand, RestartBlock:
		t.syscall.restart = e
	default:
		t.syscall.restart = 0
	}
}

// notifyInfo is what PTRACE_GETSIGINFO shows for stops that aren't signals.
func (t *Task) notifyInfo(code tracing.Code) *signals.Info {
	info := &signals.Info{Signo: int32(unix.SIGTRAP), Code: int32(code)}
	info.SetPID(t.ids.Own())
	c := t.Credentials()
	info.SetUID(c.UserNS.UID(c.RUID))
	return info
}

// traceNotify stops with SIGTRAP and more, which isn't a signal.
func (t *Task) traceNotify(code tracing.Code, leaving bool) signals.Signal {
	s, _ := t.traceStop(code, t.notifyInfo(code), leaving)
	return s
}

// traceStepped stops a task that runs one instruction.
func (t *Task) traceStepped() { t.traceNotify(tracing.Code(unix.SIGTRAP), false) }

// traceEvent stops for an event that the tracer asked for. It reports false if it
// didn't.
func (t *Task) traceEvent(event tracing.Event, message uint64, leaving bool) bool {
	if !t.traced() {
		return false
	}
	k := t.k
	k.tree.Lock()
	asked := t.trace.tracer != nil && t.trace.Asked(event)
	if asked {
		t.trace.SetMessage(message)
	}
	k.tree.Unlock()
	if asked {
		t.traceNotify(event.Code(), leaving)
	}
	return asked
}

// traceSignal stops before a signal is delivered. It reports whether there is
// still one; info is then the one that the tracer wants.
func (t *Task) traceSignal(info *signals.Info) bool {
	own := *info
	s, traced := t.traceStop(tracing.Code(info.Signo), &own, false)
	if !traced {
		return true
	}
	if s == 0 {
		return false
	}
	if signals.Signal(own.Signo) != s {
		own = signals.Info{Signo: int32(s), Code: signals.CodeUser}
		if tracer := t.Tracer(); tracer != nil {
			own.SetPID(tracer.tg.ids.In(t.ids.NS))
			own.SetUID(t.Credentials().UserNS.UID(tracer.Credentials().RUID))
		}
	}
	*info = own
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	if t.sig.mask.Has(s) {
		t.sig.pending.Add(info, nil, limits.Infinity)
		return false
	}
	return true
}

// trapStop is the stop that PTRACE_INTERRUPT asks for, and the one of a task
// that was attached to while its process is stopped.
func (t *Task) trapStop() {
	t.trace.trap.Store(false)
	if !t.traced() {
		return
	}
	g := &t.tg.signals
	g.lock()
	stop := g.stop.signal
	resume := g.stop.resume
	g.unlock()
	t.traceGroupStop(stop, resume)
}

// traceGroupStop stands before the tracer in a group stop by signal stop, or in
// none if that is zero. resume opens at the end of the group stop.
func (t *Task) traceGroupStop(stop signals.Signal, resume *waiter.Gate) {
	t.k.tree.RLock()
	seized, code := t.trace.Seized(), t.trace.GroupStop(stop)
	t.k.tree.RUnlock()
	switch {
	case seized:
		t.traceNotify(code, false)
	case code != 0:
		t.traceStop(code, nil, false)
	}
	if !t.traced() && resume != nil {
		t.stoppedGroup(resume) // detached: the group stop still holds, or resume is open
	}
}

// traceSyscallEntry stops at the beginning of a system call. It returns the
// call's number, which may be another now, and whether the call is to be made.
func (t *Task) traceSyscallEntry(h uint32) (no uint64, run bool) {
	r := &t.state.Regs
	if h&(hookSyscall|hookSysemu) != 0 && h&hookTraced != 0 {
		r.SetReturn(failure(unix.ENOSYS))
		t.syscallStop(tracing.AtEntry)
		if t.dying() || h&hookSysemu != 0 {
			return 0, false
		}
	}
	if h&hookSeccomp != 0 && !t.seccompCheck() {
		return 0, false
	}
	return r.SyscallNo(), true
}

// syscallStop is the stop at one end of a system call.
func (t *Task) syscallStop(end tracing.Place) {
	t.k.tree.Lock()
	code := t.trace.AtSyscall(end)
	t.k.tree.Unlock()
	if s := t.traceNotify(code, false); s != 0 {
		t.SendSignal(&signals.Info{Signo: int32(s), Code: signals.CodeKernel})
	}
}

// traceSyscallExit stops at the end of a system call.
func (t *Task) traceSyscallExit(h uint32) {
	switch {
	case h&hookTraced == 0 || t.leaving:
	case h&hookSyscall != 0:
		t.syscallStop(tracing.AtExit)
	case h&hookStep != 0:
		info := signals.Info{Signo: int32(unix.SIGTRAP), Code: signals.TrapBrkpt}
		info.SetAddr(t.state.Regs.Rip)
		t.ForceSignal(&info)
	}
}

// stepBegins and stepEnds frame a run of application code for one instruction.
func (t *Task) stepBegins() {
	if t.state.Regs.Eflags&arch.FlagTF == 0 {
		t.state.Regs.Eflags |= arch.FlagTF
		t.trace.forcedTF = true
	}
}

func (t *Task) stepEnds() {
	if t.trace.forcedTF {
		t.state.Regs.Eflags &^= arch.FlagTF
		t.trace.forcedTF = false
	}
}

// inheritTracer makes a new task traced where its parent's tracer asked for
// that. tree is held.
func (t *Task) inheritTracer(parent *Task, a *CloneArgs) {
	tracer := parent.trace.tracer
	if tracer == nil || a.Flags&unix.CLONE_UNTRACED != 0 {
		return
	}
	if !parent.trace.Asked(tracing.OfClone(a.Flags, a.ExitSignal)) && a.Flags&unix.CLONE_PTRACE == 0 {
		return
	}
	t.link(tracer, parent.trace.Seized(), parent.trace.Options())
	if parent.trace.Seized() {
		t.trace.trap.Store(true)
	} else {
		t.sig.pending.Add(&signals.Info{Signo: int32(sigStop), Code: signals.CodeUser}, nil, limits.Infinity)
	}
	t.work.Store(true)
}

// traceClone tells the tracer of a new task.
func (t *Task) traceClone(child *Task, a *CloneArgs) {
	if !t.traced() || a.Flags&unix.CLONE_UNTRACED != 0 {
		return
	}
	t.traceEvent(tracing.OfClone(a.Flags, a.ExitSignal), t.seenByTracer(child), false)
}

// seenByTracer is o's number as t's tracer sees it.
func (t *Task) seenByTracer(o *Task) uint64 {
	if tracer := t.Tracer(); tracer != nil {
		return uint64(o.ids.In(tracer.ids.NS))
	}
	return 0
}

// traceExec tells the tracer of an execve(2), by a task that was old before it.
func (t *Task) traceExec(old uint64) {
	if !t.traced() || t.traceEvent(tracing.Exec, old, false) {
		return
	}
	t.k.tree.RLock()
	seized := t.trace.Seized()
	t.k.tree.RUnlock()
	if !seized {
		info := signals.Info{Signo: int32(unix.SIGTRAP), Code: signals.CodeUser}
		info.SetPID(t.ids.Own())
		t.SendSignal(&info)
	}
}

// releaseTracees ends what t traces, with t. It returns what is to be done
// without locks. tree is held.
func (t *Task) releaseTracees() (after []func()) {
	for len(t.tracees) > 0 {
		o := t.tracees[0]
		kill := o.trace.Kills()
		o.unlink()
		if o.trace.zombie {
			o.trace.zombie = false
			o.forgetIDs()
			continue
		}
		if o.dead {
			if o == o.tg.leader && o.tg.zombie && !o.tg.reaped {
				after = append(after, o.tg.tellParent()...)
			}
			continue
		}
		if kill {
			after = append(after, func() { o.SendSignal(&signals.Info{Signo: int32(sigKill), Code: signals.CodeKernel}) })
		}
		if o.trace.Stopped() {
			o.trace.Continue(0)
		}
	}
	t.tracees = nil
	return after
}

// exitTraced leaves a thread's end for its tracer to wait for. It reports false
// for one that is nobody's. tree is held.
func (t *Task) exitTraced(status ExitStatus) (after []func(), ok bool) {
	tracer := t.trace.tracer
	if tracer == nil || tracer.tg == t.tg || tracer.dead {
		t.unlink()
		return nil, false
	}
	t.trace.zombie, t.trace.status = true, status
	info := signals.Info{Signo: int32(sigChld), Code: signals.ChildExited}
	info.SetPID(t.ids.In(tracer.ids.NS))
	info.SetStatus(int32(status.Code))
	after, _ = tracer.tg.sendHeld(nil, &info, nil)
	return append(after, tracer.tg.notifyChildren), true
}

// tracedElsewhere returns the process that traces tg's leader, if that isn't its
// parent: it hears of tg first. tree is held.
func (tg *ThreadGroup) tracedElsewhere() *ThreadGroup {
	if tracer := tg.leader.trace.tracer; tracer != nil && tracer.tg != tg.parent {
		return tracer.tg
	}
	return nil
}

// tracedByParent reports whether stops are told by tracing, not by job control.
// tree is held.
func (tg *ThreadGroup) tracedByParent() bool {
	tracer := tg.leader.trace.tracer
	return tracer != nil && tracer.tg == tg.parent
}

// waitTracee looks for what wait4(2) can tell of the tasks that t traces. found
// says that there are any that w means. tree is held.
func (t *Task) waitTracee(w *WaitTarget) (res WaitResult, found bool, after []func()) {
	tracers := t.tg.tasks
	if w.Options&linux.WNOTHREAD != 0 {
		tracers = []*Task{t}
	}
	ns := t.ids.NS
	for _, m := range tracers {
		for _, o := range m.tracees {
			if w.Process != nil && o != w.Process.leader || w.PID != 0 && o.ids.In(ns) != w.PID || w.PGID != 0 && o.tg.group.ID(ns) != w.PGID {
				continue
			}
			found = true
			keep := w.Options&unix.WNOWAIT != 0
			if o.trace.zombie || o == o.tg.leader && o.tg.zombie && !o.tg.reaped {
				if w.Options&unix.WEXITED == 0 {
					continue
				}
				return t.collectTracee(w, o, keep)
			}
			if code, ok := o.trace.Report(keep); ok {
				res = t.traceeResult(o)
				res.Code, res.Value = signals.ChildTrapped, int32(code)
				res.Status = uint32(code)<<8 | 0x7f
				return res, true, nil
			}
		}
	}
	return res, found, nil
}

func (t *Task) traceeResult(o *Task) WaitResult {
	return WaitResult{PID: o.ids.In(t.ids.NS), UID: t.Credentials().UserNS.UID(o.creds.Load().RUID), Usage: o.usage.Read()}
}

// collectTracee takes the end of a task that t's process traces. tree is held.
func (t *Task) collectTracee(w *WaitTarget, o *Task, keep bool) (WaitResult, bool, []func()) {
	if o.trace.zombie {
		res := t.traceeResult(o)
		res.setStatus(o.trace.status)
		if !keep {
			o.unlink()
			o.trace.zombie = false
			o.forgetIDs()
		}
		return res, true, nil
	}
	c := o.tg
	if c.parent == t.tg {
		return t.collect(w, c), true, nil
	}
	res := t.result(c)
	res.setStatus(c.status)
	if keep {
		return res, true, nil
	}
	o.unlink()
	return res, true, c.tellParent() // now it is the parent's
}

// killStopped ends the stops of tasks that are ending: SIGKILL has come.
// signals.mu is held.
func (tg *ThreadGroup) killStopped() {
	for _, t := range tg.liveTasks() {
		t.trace.killed.Store(true)
		t.interrupt()
	}
}
