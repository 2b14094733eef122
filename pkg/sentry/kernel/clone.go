package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/tracing"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// What is charged for, in bytes. Tasks and processes cost more than memory of the
// Sentry: threads and address spaces of stubs, their stacks and page tables in the
// host's kernel, for which the host charges the sandbox.
const (
	threadCost    = 32 << 10
	processCost   = 96 << 10
	zombieCost    = 4 << 10 // until somebody has waited for it
	namespaceCost = 1024
)

// pay charges what the task costs from now on instead of what it cost before. Less
// is never refused. tree is held.
func (t *Task) pay(n int64) error {
	a := t.Credentials().Account
	if n <= t.cost {
		a.Uncharge(t.cost - n)
	} else if err := a.Charge(n - t.cost); err != nil {
		return err
	}
	t.cost = n
	return nil
}

// CloneArgs are the arguments of clone(2) and clone3(2).
type CloneArgs struct {
	Flags               uint64 // CLONE_*, without the exit signal
	ExitSignal          signals.Signal
	Stack               usermem.Addr // where it begins, its highest address; zero is the caller's
	ParentTID, ChildTID usermem.Addr
	TLS                 uint64
	// SetTID are the numbers for the child, if they aren't to be any: in its own
	// namespace, the one above that, and so on.
	SetTID []int32

	// PIDFD is where CLONE_PIDFD has the descriptor of the child's PIDFile written.
	PIDFD usermem.Addr

	pidFile *PIDFile
	// broadcasts is groupSignals.broadcasts when the call began.
	broadcasts uint64
}

// needSysAdmin are the flags that only CAP_SYS_ADMIN may give.
const needSysAdmin = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// checkClone applies the rules of clone(2), "ERRORS".
func checkClone(f uint64) error {
	switch {
	case f&unix.CLONE_SIGHAND != 0 && f&unix.CLONE_VM == 0,
		f&unix.CLONE_SIGHAND != 0 && f&unix.CLONE_CLEAR_SIGHAND != 0,
		f&unix.CLONE_THREAD != 0 && f&unix.CLONE_SIGHAND == 0,
		f&(unix.CLONE_NEWNS|unix.CLONE_FS) == unix.CLONE_NEWNS|unix.CLONE_FS,
		f&(unix.CLONE_NEWUSER|unix.CLONE_FS) == unix.CLONE_NEWUSER|unix.CLONE_FS,
		f&unix.CLONE_THREAD != 0 && f&(unix.CLONE_NEWUSER|unix.CLONE_NEWPID) != 0,
		f&unix.CLONE_PIDFD != 0 && f&(unix.CLONE_THREAD|unix.CLONE_DETACHED) != 0:
		return unix.EINVAL
	}
	return nil
}

// Clone makes a task as clone(2) and clone3(2) do and returns its number in the caller's
// namespace. With CLONE_VFORK it returns when the child has execed or ended.
func (t *Task) Clone(a *CloneArgs) (int32, error) {
	if err := checkClone(a.Flags); err != nil {
		return 0, err
	}
	if a.Flags&unix.CLONE_PIDFD != 0 && a.Flags&unix.CLONE_PARENT_SETTID != 0 && a.PIDFD == a.ParentTID {
		return 0, unix.EINVAL
	}
	t.tg.signals.lock()
	a.broadcasts = t.tg.signals.broadcasts
	t.tg.signals.unlock()
	if t.interrupted() {
		return 0, RestartNoIntr // what has come is taken before there is a child that it isn't for
	}
	ns := t.namespaces
	thread := a.Flags&unix.CLONE_THREAD != 0
	if thread && ns.PIDForChildren != t.ids.NS {
		return 0, unix.EINVAL
	}
	creds := t.Credentials()
	if a.Flags&unix.CLONE_NEWUSER != 0 {
		user, err := creds.NewUserNamespace()
		if err != nil {
			return 0, err
		}
		creds = creds.Enter(user)
	}
	if a.Flags&needSysAdmin != 0 && !creds.HasCap(unix.CAP_SYS_ADMIN) {
		return 0, unix.EPERM
	}
	ns, move, err := t.k.cloneNamespaces(ns, a.Flags, creds)
	if err != nil {
		return 0, err
	}
	child := &Task{
		k: t.k, container: t.container, thread: t.k.scheduler.NewThread(), namespaces: ns, name: t.name, futexWaiter: futex.NewWaiter(),
	}
	child.creds.Store(creds)
	child.personality.Store(t.personality.Load())
	child.scheduling = t.Scheduling()
	if child.scheduling.ResetOnFork {
		child.scheduling.ResetOnFork, child.scheduling.Policy, child.scheduling.Priority = false, 0, 0
		child.scheduling.Nice = max(child.scheduling.Nice, 0)
	}
	child.sig.mask = t.sig.mask
	if t.sig.hasSaved {
		child.sig.mask = t.sig.saved
	}
	if a.Flags&unix.CLONE_VM == 0 || a.Flags&unix.CLONE_VFORK != 0 {
		child.sig.stack = t.sig.stack
	} else {
		child.sig.stack = arch.NoAltStack
	}

	// Registers: the same, but for what the call returns and where the stack
	// and the thread area are.
	t.ctx.PullFP(t.state)
	child.state = t.state.Clone()
	child.state.Regs.SetReturn(0)
	if a.Stack != 0 {
		child.state.Regs.Rsp = uint64(a.Stack)
	}
	if a.Flags&unix.CLONE_SETTLS != 0 {
		if err := child.state.Regs.SetTLS(a.TLS); err != nil {
			return 0, err
		}
	}

	var undo []func()
	fail := func(err error) (int32, error) {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
		return 0, err
	}
	if a.Flags&unix.CLONE_VM != 0 {
		child.mm = t.mm
		child.mm.IncUsers()
	} else if child.mm, err = t.mm.Fork(child.touches(a)...); err != nil {
		if _, ok := err.(unix.Errno); !ok {
			// The platform has no more address spaces, or the host no process for one.
			t.k.Logf("task %d: fork: %v", t.ids.Root(), err)
			err = unix.EAGAIN
		}
		return 0, err
	}
	undo = append(undo, child.mm.DecUsers)
	if a.Flags&unix.CLONE_FILES != 0 {
		child.fds = t.fds
		child.fds.IncRef()
	} else {
		if child.fds, err = t.fds.Fork(); err != nil {
			return fail(err)
		}
	}
	undo = append(undo, func() { closeAll(vfs.KernelContext(creds), child.fds, child.fds.DecRef()) })
	if a.Flags&unix.CLONE_FS != 0 {
		child.fs = t.fs
	} else {
		child.fs = t.fs.Fork()
		if move != nil {
			child.fs.Move(move)
		}
	}
	if a.Flags&unix.CLONE_CHILD_CLEARTID != 0 {
		child.clearTID = a.ChildTID
	}
	child.ctx = t.k.Platform.NewContext()
	child.answers.platform, _ = child.ctx.(platform.Answerer)
	undo = append(undo, child.ctx.Release)
	var vfork *waiter.Gate
	if a.Flags&unix.CLONE_VFORK != 0 {
		vfork = new(waiter.Gate)
		child.vfork = vfork
	}
	if a.Flags&unix.CLONE_PIDFD != 0 {
		p, take, err := t.addPIDFile(a.PIDFD)
		if err != nil {
			return fail(err)
		}
		a.pidFile = p
		undo = append(undo, take)
	}
	if err := t.k.adopt(child, t, a, nil); err != nil {
		return fail(err)
	}
	tid := child.ids.In(t.ids.NS)
	// The child's memory has the number before it runs; the parent's may fault.
	if a.Flags&unix.CLONE_CHILD_SETTID != 0 {
		usermem.CopyOutUint32(child.mm, a.ChildTID, uint32(child.ids.In(child.ids.NS)))
	}
	if a.Flags&unix.CLONE_PARENT_SETTID != 0 {
		usermem.CopyOutUint32(t.mm, a.ParentTID, uint32(tid))
	}
	if a.Flags&unix.CLONE_VM == 0 {
		child.mm.SetLimits(child.tg.Limits())
	}
	child.Start()
	t.traceClone(child, a)
	if vfork != nil && t.blockKillable(vfork) {
		t.traceEvent(tracing.VforkDone, t.seenByTracer(child), false)
	}
	return tid, nil
}

// touches returns what a child that is about to start will touch first.
func (t *Task) touches(a *CloneArgs) []mm.Touch {
	regs := &t.state.Regs
	l := []mm.Touch{{Addr: usermem.Addr(regs.Rip)}, {Addr: usermem.Addr(regs.Rsp), Write: true}}
	if a.Flags&unix.CLONE_CHILD_SETTID != 0 {
		l = append(l, mm.Touch{Addr: a.ChildTID, Write: true})
	}
	return l
}

// cloneNamespaces returns old with the namespaces replaced that flags ask for,
// and how places move into the new mount namespace. They are c's.
func (k *Kernel) cloneNamespaces(old *Namespaces, flags uint64, c *auth.Credentials) (*Namespaces, func(vfs.Path) vfs.Path, error) {
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	if flags&all == 0 {
		return old, nil, nil
	}
	n := *old
	user := c.UserNS
	var move func(vfs.Path) vfs.Path
	var err error
	if flags&unix.CLONE_NEWUTS != 0 {
		host, domain := old.UTS.Names()
		n.UTS = k.NewUTSNamespace(user, host, domain)
		err = memfile.ChargeFor(c.Account, n.UTS, namespaceCost)
	}
	if err == nil && flags&unix.CLONE_NEWIPC != 0 {
		n.IPC = k.NewIPCNamespace(user)
		err = memfile.ChargeFor(c.Account, n.IPC, namespaceCost)
	}
	if err == nil && flags&unix.CLONE_NEWNET != 0 {
		n.Net = k.NewNetNamespace(user, nil)
		err = memfile.ChargeFor(c.Account, n.Net, namespaceCost)
	}
	if err == nil && flags&unix.CLONE_NEWPID != 0 {
		if n.PIDForChildren, err = k.NewPIDNamespace(old.PIDForChildren, user); err == nil {
			err = memfile.ChargeFor(c.Account, n.PIDForChildren, namespaceCost)
		}
	}
	if err == nil && flags&unix.CLONE_NEWNS != 0 {
		if n.Mount, move, err = old.Mount.Clone(user, c.Account); err == nil {
			n.Mount.Inode = k.NewNamespaceInode()
		}
	}
	return &n, move, err
}

// Unshare does unshare(2) for namespaces, file tables and vfs.FSContext.
func (t *Task) Unshare(flags uint64) error {
	const known = unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_FS | unix.CLONE_SYSVSEM |
		unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	if flags&^known != 0 {
		return unix.EINVAL
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		flags |= unix.CLONE_THREAD | unix.CLONE_FS
	}
	if flags&unix.CLONE_NEWNS != 0 {
		flags |= unix.CLONE_FS
	}
	if flags&(unix.CLONE_THREAD|unix.CLONE_SIGHAND|unix.CLONE_VM) != 0 && len(t.tg.Tasks()) > 1 {
		return unix.EINVAL
	}
	creds := t.Credentials()
	if flags&unix.CLONE_NEWUSER != 0 {
		user, err := creds.NewUserNamespace()
		if err != nil {
			return err
		}
		creds = creds.Enter(user)
	}
	if flags&needSysAdmin != 0 && !creds.HasCap(unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	ns, move, err := t.k.cloneNamespaces(t.namespaces, flags, creds)
	if err != nil {
		return err
	}
	if flags&unix.CLONE_FILES != 0 && t.fds.Shared() {
		old := t.fds
		fds, err := old.Fork()
		if err != nil {
			return err
		}
		t.SetFDs(fds)
		closeAll(t, old, old.DecRef())
	}
	if flags&unix.CLONE_FS != 0 {
		fs := t.fs.Fork()
		if move != nil {
			fs.Move(move)
		}
		t.SetFS(fs)
	}
	t.creds.Store(creds)
	t.SetNamespaces(ns)
	return nil
}

// adopt puts child, whose own state is complete, into the tree: below parent,
// or as the first process of a pid namespace where parent is nil. limits are
// for a first process.
func (k *Kernel) adopt(child, parent *Task, a *CloneArgs, lim *limits.Set) error {
	thread := a.Flags&unix.CLONE_THREAD != 0
	ns := child.namespaces.PIDForChildren
	k.tree.Lock()
	defer k.tree.Unlock()
	if parent != nil {
		// A signal for the process group, say, that has come meanwhile, is the
		// child's, too: the parent takes it first and then calls again.
		if !thread && parent.tg.signals.missed(a.broadcasts) {
			return RestartNoIntr
		}
		c := parent.Credentials()
		limit := parent.tg.Limits().Soft(limits.Processes)
		if c.RUID != auth.RootKUID && !c.HasRootCap(unix.CAP_SYS_ADMIN) && !c.HasRootCap(unix.CAP_SYS_RESOURCE) && k.countOf(c.RUID) >= limit {
			return unix.EAGAIN
		}
	}
	if c := child.container; c != nil && c.limit > 0 && c.tasks >= c.limit {
		return unix.EAGAIN
	}
	cost := int64(processCost)
	if thread {
		cost = threadCost
	}
	if err := child.pay(cost); err != nil {
		return err
	}
	entered := false
	defer func() {
		if !entered {
			child.pay(0)
		}
	}()
	child.usage.Init(k.Clock)
	var err error
	chosen := pids.Chosen{Numbers: a.SetTID}
	if parent != nil {
		chosen.By = parent.Credentials()
	}
	if child.ids, err = ns.Allocate(chosen); err != nil {
		return err
	}
	if thread {
		tg := parent.tg
		g := &tg.signals
		g.lock()
		if g.exiting || g.execer != nil {
			g.unlock()
			return RestartNoIntr
		}
		child.tg = tg
		tg.tasks = append(tg.tasks, child)
		if g.stop.signal != 0 && !g.stop.complete {
			child.sig.stopping = true
			child.work.Store(true)
			g.stop.waiting++
		}
		g.unlock()
	} else {
		tg := &ThreadGroup{
			k: k, ids: child.ids, leader: child, exitSignal: a.ExitSignal, done: make(chan struct{}),
			startTime: k.Clock.Monotonic(), tasks: []*Task{child},
		}
		child.tg = tg
		if p := a.pidFile; p != nil {
			tg.ends = p.ends
			p.process.Store(tg)
		}
		tg.tab, _ = memfile.NewTab(child.Credentials().Account, tg, 0)
		tg.signals.pending.Tab = tg.tab
		tg.timers.Init(timed{tg}, k.Clock, k.Timers)
		if parent == nil {
			tg.signals.actions = new(signals.Table)
			tg.limits.Store(lim)
			tg.join(pids.NewSession(tg, tg.ids))
		} else {
			switch {
			case a.Flags&unix.CLONE_SIGHAND != 0:
				tg.signals.actions = parent.tg.signals.actions
			case a.Flags&unix.CLONE_CLEAR_SIGHAND != 0:
				tg.signals.actions = parent.tg.signals.actions.ForExec()
			default:
				tg.signals.actions = parent.tg.signals.actions.Fork()
			}
			tg.limits.Store(parent.tg.Limits().Clone())
			tg.oomScoreAdj.Store(parent.tg.oomScoreAdj.Load())
			tg.parentTask = parent
			tg.parent = parent.tg
			if a.Flags&unix.CLONE_PARENT != 0 {
				tg.parent = parent.tg.parent
				tg.exitSignal = parent.tg.exitSignal
			}
			if tg.parent != nil {
				tg.parent.children = append(tg.parent.children, tg)
			}
			tg.join(parent.tg.group)
		}
		// In the first namespace of a sandbox, what isn't 1 is nobody's init.
		if child.ids.Own() == 1 {
			ns.SetInit(tg)
		}
	}
	if parent != nil {
		child.inheritTracer(parent, a)
		if s := parent.Seccomp(); s != nil {
			child.setSeccomp(s)
		}
	}
	child.namespaces.IPC.Enter()
	child.sig.pending.Tab = child.tg.tab
	child.rememberIDs()
	entered = true
	if c := child.container; c != nil && c.throttle.Held() != nil {
		child.work.Store(true) // Pause may have looked for tasks before
	}
	k.tasks.Add(1)
	k.forks.Add(1)
	k.running.Add(1)
	return nil
}

// missed reports whether a child made now would miss a signal: the parent is
// being killed, or a signal has gone to several processes since there were
// seen of them.
func (s *groupSignals) missed(seen uint64) bool {
	s.lock()
	defer s.unlock()
	return s.exiting || s.broadcasts != seen
}

// ProcessArgs describe a process that doesn't come from fork(2).
type ProcessArgs struct {
	Creds      *auth.Credentials
	Namespaces *Namespaces // PIDForChildren is the namespace it is in
	FS         *vfs.FSContext
	FDs        *vfs.FDTable
	Limits     *limits.Set
	Container  *Container
}

// NewProcess makes a process with one task and an empty address space, which
// hasn't started. Exec loads a program into it.
func (k *Kernel) NewProcess(a *ProcessArgs, memory *mm.MemoryManager) (*Task, error) {
	t := &Task{
		k: k, container: a.Container, thread: k.scheduler.NewThread(), namespaces: a.Namespaces, fs: a.FS, fds: a.FDs,
		mm: memory, futexWaiter: futex.NewWaiter(), state: arch.NewState(),
	}
	t.scheduling.TimerSlack = 50000
	t.sig.stack = arch.NoAltStack
	t.creds.Store(a.Creds)
	t.ctx = k.Platform.NewContext()
	t.answers.platform, _ = t.ctx.(platform.Answerer)
	if err := k.adopt(t, nil, &CloneArgs{ExitSignal: sigChld}, a.Limits); err != nil {
		t.ctx.Release()
		return nil, err
	}
	return t, nil
}

// closeAll closes files that were taken out of table.
func closeAll(ctx vfs.Context, table *vfs.FDTable, files []*vfs.File) {
	for _, f := range files {
		table.Close(ctx, f)
	}
}
