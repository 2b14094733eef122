package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/tracing"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Exit ends the calling task (exit(2)): the call never returns to the
// application. The process's status is this one if the task is its last.
func (t *Task) Exit(code uint8) {
	g := &t.tg.signals
	g.lock()
	t.exitCode = ExitStatus{Code: code}
	if !g.exiting && len(t.tg.liveTasks()) == 1 {
		g.exiting, g.status = true, t.exitCode
	}
	g.unlock()
	t.work.Store(true)
	t.leaving = true
}

// ExitGroup ends the process (exit_group(2)).
func (t *Task) ExitGroup(code uint8) {
	t.tg.Kill(ExitStatus{Code: code})
	t.leaving = true
}

// exit takes the task apart, on its own goroutine, after its last run of
// application code.
func (t *Task) exit() {
	k, tg := t.k, t.tg
	if t.traced() && t.leaving {
		t.traceEvent(tracing.Exit, uint64(t.exitStatus().Wait()), true)
	}
	t.park()
	t.exitMemory()

	t.mu.Lock()
	memory, fds, ns := t.mm, t.fds, t.namespaces
	t.mm, t.fds, t.fs, t.namespaces = nil, nil, nil, nil
	t.recent = vfs.Recent{}
	t.mu.Unlock()
	t.releaseVfork()
	closeAll(vfs.KernelContext(t.Credentials()), fds, fds.DecRef())
	ns.IPC.Leave()
	peak := uint64(0)
	if memory.Users() == 1 {
		peak = memory.PeakRSS()
	}
	memory.DecUsers()
	t.ctx.Release()

	k.tree.Lock()
	g := &tg.signals
	g.lock()
	t.dead = true
	for i, o := range tg.tasks {
		if o == t {
			tg.tasks = append(tg.tasks[:i:i], tg.tasks[i+1:]...)
			break
		}
	}
	last := len(tg.tasks) == 0
	stopDone := false
	if st := &g.stop; t.sig.stopping {
		t.sig.stopping = false
		if st.waiting--; st.waiting <= 0 && !st.complete && !last {
			st.complete, stopDone = true, true
		}
	}
	status := g.status
	if !g.exiting {
		status = t.exitCode
	}
	// Signals that this task was to take are somebody else's now.
	if !last {
		tg.retarget(^signals.Set(0))
	}
	t.sig.pending.Discard(^signals.Set(0))
	if last {
		g.pending.Discard(^signals.Set(0))
	}
	execer := g.execer
	stopSignal := g.stop.signal
	g.unlock()
	used := t.usage.Read()
	used.MaxRSS = peak
	tg.deadUsage.Add(used)
	k.deadUsage.Add(used)
	if c := t.container; c != nil {
		c.ended.Add(used)
	}
	t.pay(zombieCost)
	var after []func()
	if t != tg.leader {
		tell, ok := t.exitTraced(status)
		if !ok || execer != nil {
			t.unlink()
			t.trace.zombie = false
			t.forgetIDs()
		}
		after = append(after, tell...)
	}
	after = append(after, t.releaseTracees()...)
	if execer != nil && len(tg.tasks) == 1 {
		execer.alone.Open()
	}
	if last {
		tg.disown()
	}
	after = append(after, t.deathSignals()...)
	if !last { // its children are another thread's now
		for _, c := range tg.children {
			if c.parentTask == t {
				c.parentTask = tg.tasks[0]
			}
		}
	}
	if last {
		if ns.IPC != nil {
			after = append(after, func() { ns.IPC.ProcessEnds(tg) })
		}
		after = append(after, tg.ended(status)...)
	}
	k.tree.Unlock()
	if stopDone {
		tg.childStateChanged(signals.ChildStopped, int32(stopSignal))()
	}
	if tr := k.Trace; tr != nil {
		tr.ExitTask(t, status)
	}
	for _, f := range after {
		f()
	}
	k.tasks.Add(-1)
	k.running.Done()
}

// exitStatus returns the status that the task is about to end with.
func (t *Task) exitStatus() ExitStatus {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	if g.exiting {
		return g.status
	}
	return t.exitCode
}

// exitMemory does what the end of a task does to the application's memory:
// robust futexes (get_robust_list(2)) and the word of CLONE_CHILD_CLEARTID.
func (t *Task) exitMemory() {
	t.robustExit()
	t.endsLocks.Store(true)
	t.k.Futexes.OwnerExits(t, uint32(t.ids.In(t.ids.NS)))
	if a := t.clearTID; a != 0 && t.mm.Users() > 1 {
		if usermem.CopyOutUint32(t.mm, a, 0) == nil {
			t.FutexWake(a, false, 1, futex.MatchAny)
		}
	}
	t.clearTID = 0
}

func (t *Task) releaseVfork() {
	if t.vfork != nil {
		t.vfork.Open()
		t.vfork = nil
	}
}

// rememberIDs makes the task known by its numbers. tree is held.
func (t *Task) rememberIDs() {
	t.ids.Remember(t)
	if c := t.container; c != nil {
		c.tasks++
	}
}

// forgetIDs takes the task's numbers away. tree is held.
func (t *Task) forgetIDs() {
	if !t.ids.Forget(t) {
		return
	}
	t.pay(0)
	if c := t.container; c != nil {
		c.tasks--
	}
}

// deathSignals tells children of the task's end that asked for it
// (prctl(PR_SET_PDEATHSIG)): who has waited for the task finds that they know. It
// returns what is to be done without locks. tree is held.
func (t *Task) deathSignals() (after []func()) {
	for _, c := range t.tg.children {
		if c.parentTask != t || c.zombie {
			continue
		}
		for _, o := range c.tasks {
			if s := o.pdeathSignal; s != 0 {
				f, _ := c.sendHeld(o, &signals.Info{Signo: int32(s), Code: signals.CodeUser}, nil)
				after = append(after, f...)
			}
		}
	}
	return after
}

// ended makes the process a zombie, gives its children away and tells its
// parent. It returns what is to be done without locks. tree is held.
func (tg *ThreadGroup) ended(status ExitStatus) (after []func()) {
	tg.zombie, tg.status = true, status
	tg.timers.Stop()
	tg.undo.Apply(tg.ids.Own())
	if tg.ids.NS.InitHeld() == tg {
		after = append(after, tg.killNamespace()...)
	}
	// Job control: groups that become orphaned by this, with stopped members,
	// get SIGHUP and SIGCONT (_exit(2)).
	hup := func(g *ProcessGroup) {
		for _, m := range g.MembersHeld() {
			if m.Stopped() {
				after = append(after, func() {
					for _, s := range []unix.Signal{unix.SIGHUP, unix.SIGCONT} {
						tg.k.SendGroup(g, &signals.Info{Signo: int32(s), Code: signals.CodeKernel})
					}
				})
				return
			}
		}
	}
	if p := tg.parent; p != nil && p.group != tg.group && p.group.Session() == tg.group.Session() && tg.group.OrphanedHeld() {
		hup(tg.group)
	}
	reaper := tg.reaper()
	for _, c := range tg.children {
		was := c.group.OrphanedHeld()
		c.parent = reaper
		c.parentTask = nil
		if reaper != nil {
			reaper.children = append(reaper.children, c)
			if c.exitSignal != 0 {
				c.exitSignal = sigChld
			}
			if c.zombie {
				after = append(after, c.tellParent()...)
			}
		} else if c.zombie {
			c.reap()
		}
		if c.group != tg.group && !was && c.group.OrphanedHeld() {
			hup(c.group)
		}
	}
	tg.children = nil
	if q := tg.ends; q != nil {
		after = append(after, func() { q.Notify(waiter.Readable) })
	}
	if s := tg.group.Session(); s.LeaderHeld() == tg {
		if tty := s.LeaderEnds(); tty != nil {
			after = append(after, func() { tty.SessionEnded(s) })
		}
	}
	after = append(after, tg.tellParent()...)
	after = append(after, func() { close(tg.done) })
	return after
}

// killNamespace ends a pid namespace whose init, tg, has gone: everybody in it is
// killed. tree is held.
func (tg *ThreadGroup) killNamespace() (after []func()) {
	ns := tg.ids.NS
	ns.Close()
	for t := range ns.TasksHeld() {
		if o := t.tg; !o.zombie && o != tg {
			after = append(after, func() { o.Kill(ExitStatus{Signal: sigKill}) })
		}
	}
	return after
}

// reaper returns who inherits the process's children. tree is held.
func (tg *ThreadGroup) reaper() *ThreadGroup {
	init := tg.ids.NS.InitHeld()
	for p := tg.parent; p != nil && p.ids.NS == tg.ids.NS; p = p.parent {
		if p == init {
			break
		}
		if p.subreaper && !p.zombie {
			return p
		}
	}
	if init != nil && init != tg && !init.zombie {
		return init
	}
	return nil
}

// tellParent sends the exit signal of a zombie, or reaps it where nobody wants
// to know. The signal is there before anybody can see the zombie: who has waited
// for a child finds its SIGCHLD. tree is held.
func (tg *ThreadGroup) tellParent() (after []func()) {
	p := tg.parent
	traced := tg.leader.trace.tracer != nil
	if tracer := tg.tracedElsewhere(); tracer != nil {
		p = tracer // the parent hears of it when the tracer has waited
	}
	if p == nil {
		tg.reap()
		return nil
	}
	reap := false
	// clone(2) takes any byte; one that is no signal is told as none.
	if tg.exitSignal.Valid() || traced {
		if tg.exitSignal == sigChld && !traced {
			a := p.signals.actionsGet(sigChld)
			reap = a.Handler == signals.HandlerIgnore || a.Flags&signals.FlagNoCldWait != 0
			if a.Handler == signals.HandlerIgnore {
				after = append(after, p.notifyChildren)
				tg.reap()
				return after
			}
		}
		code, st := int32(signals.ChildExited), int32(tg.status.Code)
		if tg.status.Signal != 0 {
			code, st = signals.ChildKilled, int32(tg.status.Signal)
			if tg.status.Core {
				code = signals.ChildDumped
			}
		}
		info := tg.childInfo(p, code, st)
		if info.Signo = int32(tg.exitSignal); traced {
			info.Signo = int32(sigChld)
		}
		after, _ = p.sendHeld(nil, &info, nil)
	}
	after = append(after, p.notifyChildren)
	if reap {
		tg.reap()
	}
	return after
}

// reap takes a zombie out of the tree. tree is held.
func (tg *ThreadGroup) reap() {
	if tg.reaped {
		return
	}
	tg.reaped = true
	tg.leader.unlink()
	if p := tg.parent; p != nil {
		for i, c := range p.children {
			if c == tg {
				p.children = append(p.children[:i], p.children[i+1:]...)
				break
			}
		}
	}
	tg.leader.forgetIDs()
	tg.group.Leave(tg)
}

// notifyChildren wakes who waits for children.
func (tg *ThreadGroup) notifyChildren() { tg.childEvents.Notify(waiter.Internal) }
