package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sched"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Task is a thread of an application.
type Task struct {
	k   *Kernel
	tg  *ThreadGroup
	ids ids
	// container is constant.
	container *Container

	// What the task runs on. Only its goroutine uses it.
	ctx     platform.Context
	state   *arch.State
	syscall syscallState
	answers answers
	buffer  usermem.Buffer
	attr    vfs.Attr
	recent  vfs.Recent
	path    [256]byte

	// What may be shared with other tasks; each changed only by the task, under
	// mu, so that others read it under mu and the task without.
	mu         locks.Mutex[locks.Leaf]
	mm         *mm.MemoryManager
	fds        *vfs.FDTable
	fs         *vfs.FSContext
	namespaces *Namespaces
	name       string
	creds      atomic.Pointer[auth.Credentials]

	// work says that the task must look at its signals and stops before it
	// runs application code; thread is unparked then.
	work   atomic.Bool
	thread *sched.Thread

	// filters is the state of seccomp(2), nil without.
	filters atomic.Pointer[callfilter.State]
	// hooks says what is to be done besides: see ptrace.go.
	hooks atomic.Uint32
	trace traceState
	// tracees are the tasks that this one traces. Guarded by Kernel.tree.
	tracees []*Task

	sig        taskSignals
	scheduling Scheduling
	usage      usage.Clock

	// futex is the task's waiter, robustList the head of its list of robust
	// futexes, clearTID where it writes zero at its end.
	futexWaiter *futex.Waiter
	robustList  usermem.Addr
	// endsLocks: the task gives up what it has locked; nobody may wait for it.
	endsLocks atomic.Bool
	clearTID  usermem.Addr

	// pdeathSignal is sent when the parent task ends (prctl(2)). Guarded by
	// Kernel.tree.
	pdeathSignal signals.Signal
	// vfork opens when the task execs or ends, if a parent waits for that.
	vfork *waiter.Gate
	// dead: the goroutine has left. Guarded by Kernel.tree.
	dead bool
	// cost is what its account has been charged for it. Guarded by Kernel.tree.
	cost int64
	// starved counts the pages in a row that couldn't be had.
	starved int
	// blocked tells ps whether the task sleeps.
	blocked  atomic.Bool
	blocking blocking
	// lastFault is what the processor said of the last exception, for the
	// signal frame.
	lastFault faultRecord
	// unframed is how the task was before its last signal frame.
	unframed unframed
	// personality is that of personality(2).
	personality atomic.Uint32

	// The end: exitCode is of exit(2); leaving makes run leave; alone opens
	// when an execing task is the only one left.
	exitCode ExitStatus
	leaving  bool
	alone    *waiter.Gate
}

type faultRecord struct{ addr, trap, code uint64 }

// syscallState is what a system call leaves behind for what comes after it.
type syscallState struct {
	// restart is one of the Restart errors while the call may be restarted.
	restart unix.Errno
	// block goes on with a call that restart_syscall(2) resumes.
	block func(t *Task) (uint64, error)
	// noReturn: the call has set all registers (rt_sigreturn, execve).
	noReturn bool
}

// taskSignals is guarded by the thread group's signals.mu, but for stack, which
// is the task's own.
type taskSignals struct {
	mask    signals.Set
	pending signals.Pending
	// saved is the mask to put back after sigsuspend(2) and its like, once a
	// handler has been set up or none ran.
	saved    signals.Set
	hasSaved bool
	// waiting is what sigtimedwait(2) waits for: such signals wake the task
	// though blocked.
	waiting signals.Set
	// stopping: the task has still to join a group stop. mayStop: SIGCONT hasn't
	// come since it took the signal that it is acting upon.
	stopping, mayStop bool

	stack arch.AltStack
}

// Restart errors: what a call returns that was interrupted by a signal, before
// it is known whether a handler runs. The values are Linux's (errno(3) has
// none of them).
const (
	// RestartSys: restart if the handler has SA_RESTART, else EINTR.
	RestartSys unix.Errno = 512
	// RestartNoIntr: always restart.
	RestartNoIntr unix.Errno = 513
	// RestartNoHand: restart only if no handler runs.
	RestartNoHand unix.Errno = 514
	// RestartBlock: like RestartNoHand, by restart_syscall(2): the rest of a
	// time-out is kept.
	RestartBlock unix.Errno = 516
)

// Scheduling is what sched_setscheduler(2), nice(2) and sched_setaffinity(2)
// set. Guarded by Task.mu.
type Scheduling struct {
	Policy      int
	Priority    int
	Nice        int
	ResetOnFork bool
	Affinity    uint64 // bit per processor; zero for all
	IOPriority  int
	TimerSlack  uint64 // nanoseconds
}

// Kernel returns the kernel.
func (t *Task) Kernel() *Kernel { return t.k }

// ThreadGroup returns the task's process.
func (t *Task) ThreadGroup() *ThreadGroup { return t.tg }

// PIDNamespace returns the namespace that numbers the task's own view.
func (t *Task) PIDNamespace() *PIDNamespace { return t.ids.NS }

// TID returns the task's number in ns, or zero.
func (t *Task) TID(ns *PIDNamespace) int32 { return t.ids.In(ns) }

// Alive reports whether the task hasn't ended.
func (t *Task) Alive() bool {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return !t.dead
}

// State returns the processor state; for the task itself, or while it is
// stopped by a tracer.
func (t *Task) State() *arch.State { return t.state }

// MM returns the task's memory manager; for the task's own goroutine.
func (t *Task) MM() *mm.MemoryManager { return t.mm }

// SharedMM returns the memory manager with a user more, or nil when the task
// has ended. Anybody may call it; DecUsers gives it back.
func (t *Task) SharedMM() *mm.MemoryManager {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mm == nil || !t.mm.IncUsersIfAlive() {
		return nil
	}
	return t.mm
}

// FDs returns the task's descriptors; for the task's own goroutine.
func (t *Task) FDs() *vfs.FDTable { return t.fds }

// SharedFDs is FDs for anybody: nil once the task has ended.
func (t *Task) SharedFDs() *vfs.FDTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fds
}

// FS returns the root and working directory; nil once the task has ended.
func (t *Task) FS() *vfs.FSContext {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fs
}

// Namespaces returns the task's namespaces; nil once it has ended.
func (t *Task) Namespaces() *Namespaces {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.namespaces
}

// SetNamespaces puts others in place; only the task itself does.
func (t *Task) SetNamespaces(n *Namespaces) {
	n.IPC.Enter()
	t.mu.Lock()
	old := t.namespaces
	t.namespaces = n
	t.mu.Unlock()
	if old.IPC != n.IPC && old.IPC != nil {
		old.IPC.ProcessEnds(t.tg) // there
	}
	old.IPC.Leave()
}

// SetFDs and SetFS replace what was shared by a copy (unshare(2)).
func (t *Task) SetFDs(f *vfs.FDTable)  { t.mu.Lock(); t.fds = f; t.mu.Unlock() }
func (t *Task) SetFS(f *vfs.FSContext) { t.mu.Lock(); t.fs = f; t.mu.Unlock() }

// Name returns the thread's name (comm).
func (t *Task) Name() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.name
}

// SetName sets it, cut to 15 bytes.
func (t *Task) SetName(s string) {
	if len(s) > 15 {
		s = s[:15]
	}
	t.mu.Lock()
	t.name = s
	t.mu.Unlock()
}

// Scheduling returns the scheduling parameters; SetScheduling changes them.
func (t *Task) Scheduling() Scheduling { t.mu.Lock(); defer t.mu.Unlock(); return t.scheduling }
func (t *Task) SetScheduling(f func(*Scheduling)) {
	t.mu.Lock()
	before := t.scheduling.Affinity
	f(&t.scheduling)
	moves := t.scheduling.Affinity != before
	t.mu.Unlock()
	if moves && t.AllowedCPUs() != t.k.AllCPUs() {
		// The vDSO's page is everybody's.
		t.k.Clock.AllowGetCPU(0)
	}
	if moves {
		t.withdrawAnswers()
	}
}

// SetCredentials puts c in place; only the task itself does.
func (t *Task) SetCredentials(c *auth.Credentials) { t.creds.Store(c) }

// ClearTID returns what SetClearTID set.
func (t *Task) ClearTID() usermem.Addr { return t.clearTID }

// SetClearTID is set_tid_address(2), SetRobustList set_robust_list(2).
func (t *Task) SetClearTID(a usermem.Addr)   { t.clearTID = a }
func (t *Task) SetRobustList(a usermem.Addr) { t.robustList = a }
func (t *Task) RobustList() usermem.Addr     { return t.robustList }
func (t *Task) SignalStack() *arch.AltStack  { return &t.sig.stack }

// SetParentDeathSignal and ParentDeathSignal are prctl(PR_SET_PDEATHSIG).
func (t *Task) SetParentDeathSignal(s signals.Signal) {
	t.k.tree.Lock()
	t.pdeathSignal = s
	t.k.tree.Unlock()
}

func (t *Task) ParentDeathSignal() signals.Signal {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.pdeathSignal
}

// Buffer returns room for the memory that the system call under way reads or writes.
// There is one, so that a call need not allocate it. Only the task's own goroutine
// uses it.
func (t *Task) Buffer() *usermem.Buffer { return &t.buffer }

// Attr returns empty attributes, of which the call under way has one, as of Buffer.
func (t *Task) Attr() *vfs.Attr {
	t.attr = vfs.Attr{}
	return &t.attr
}

// PathRoom returns room for a path of the call under way, of which there is one, as of
// Buffer. Most paths fit; what is in it is the last one.
func (t *Task) PathRoom() *[256]byte { return &t.path }

// Personality is that of personality(2).
func (t *Task) Personality() *atomic.Uint32 { return &t.personality }

// SetRestart says how restart_syscall(2) goes on with a call that returns
// RestartBlock.
func (t *Task) SetRestart(f func(t *Task) (uint64, error)) { t.syscall.block = f }

// Restart does restart_syscall(2).
func (t *Task) Restart() (uint64, error) {
	f := t.syscall.block
	if f == nil {
		return 0, unix.EINTR
	}
	t.syscall.block = nil
	return f(t)
}

// Yield lets other tasks run (sched_yield(2)). The host does it: on
// ptrace the goroutine is locked to its thread, for which the Go scheduler needs two hand-overs.
func (t *Task) Yield() { unix.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Credentials, Memory, Block, FileSizeLimit, FileSizeExceeded and ThreadGroupID
// implement vfs.Context.
func (t *Task) Credentials() *auth.Credentials { return t.creds.Load() }
func (t *Task) Memory() usermem.Memory         { return t.mm }
func (t *Task) FileSizeLimit() uint64          { return t.tg.Limits().Soft(limits.FileSize) }
func (t *Task) FileSizeExceeded() {
	t.SendSignal(&signals.Info{Signo: int32(unix.SIGXFSZ), Code: signals.CodeKernel})
}
func (t *Task) ThreadGroupID() int32 { return t.tg.ids.Root() }

// Start lets the task run.
func (t *Task) Start() { t.thread.Start(t.run) }

// run is the life of a task: application code, and what the kernel does for
// it, in turn.
func (t *Task) run() {
	t.usage.Begin()
	t.tg.awake.Add(1)
	t.container.throttle.Runs()
	if t.tg.timers.Limited() {
		t.tg.timers.CheckCPU()
	}
	for {
		if t.work.Load() || t.syscall.restart != 0 {
			if !t.handleWork() {
				break
			}
		}
		step := t.hooks.Load()&hookStep != 0
		if step {
			t.stepBegins()
		}
		locks.AssertNoneHeld()
		t.usage.EnterUser()
		t.answer()
		t.k.scheduler.Checkpoint()
		before := t.mm.Rewrites()
		ev, err := t.ctx.Switch(t.mm.AddressSpace(), t.state)
		t.usage.LeaveUser()
		if t.mm.Rewrites() != 0 {
			t.mm.Original(before, &ev, &t.state.Regs)
		}
		if step {
			t.stepEnds()
		}
		if err != nil {
			t.k.Logf("task %d lost its address space: %v", t.ids.Root(), err)
			t.tg.Kill(ExitStatus{Signal: signals.Signal(unix.SIGKILL)})
			continue
		}
		switch ev.Kind {
		case platform.EventSyscall:
			if ev.Rewrite {
				before := t.state.Regs
				t.doSyscall()
				t.mm.RewriteCall(&before)
			} else {
				t.doSyscall()
			}
		case platform.EventFault:
			t.state.Regs.OrigRax = noSyscall
			t.fault(&ev)
		case platform.EventFrame:
			t.settleFrame()
		default:
			t.state.Regs.OrigRax = noSyscall
			if ev.Access != 0 {
				t.mm.HandleFault(ev.Addr, ev.Access) // the call says what is wrong
			}
		}
	}
	t.exit()
}

// noSyscall in OrigRax says that the task isn't in a system call.
const noSyscall = ^uint64(0)

// doSyscall carries out the call that the registers ask for.
func (t *Task) doSyscall() {
	no := t.state.Regs.SyscallNo()
	t.syscall.noReturn = false
	if h := t.hooks.Load(); h&hooksSyscall != 0 {
		var run bool
		if no, run = t.traceSyscallEntry(h); !run {
			t.traceSyscallExit(t.hooks.Load())
			return
		}
	}
	t.call(no)
	if t.mm.Starved() {
		t.outOfMemory(mm.ErrOOM)
		if !t.syscall.noReturn && t.state.Regs.Rax == failure(unix.EFAULT) {
			t.syscall.restart = RestartNoIntr // there may be a page now
		}
	}
	if h := t.hooks.Load(); h&hooksSyscall != 0 {
		t.traceSyscallExit(h)
	}
}

// call carries out system call no.
func (t *Task) call(no uint64) {
	tr := t.k.Trace
	if tr != nil {
		tr.Enter(t, no)
	}
	ret, err := t.k.Syscalls.Call(t, no)
	t.k.async.Send()
	if tr != nil {
		tr.Exit(t, no, ret, err)
	}
	if t.syscall.noReturn {
		return
	}
	if err != nil {
		e := errnoOf(err)
		switch e {
		case RestartSys, RestartNoIntr, RestartNoHand, RestartBlock:
			t.syscall.restart = e
		}
		ret = failure(e)
	}
	t.state.Regs.SetReturn(ret)
}

// errnoOf returns the errno in err. A handler that returns another error has a
// bug, which an application can't be made to suffer from: EIO.
func errnoOf(err error) unix.Errno {
	if e, ok := err.(unix.Errno); ok {
		return e
	}
	for err != nil {
		if e, ok := err.(unix.Errno); ok {
			return e
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	return unix.EIO
}

// failure returns what a system call that failed with e leaves in rax.
func failure(e unix.Errno) uint64 { return -uint64(e) }

// NoReturn says that the system call has set the registers itself.
func (t *Task) NoReturn() { t.syscall.noReturn = true }

// fault handles an exception of the processor.
func (t *Task) fault(ev *platform.Event) {
	info := signals.Info{Signo: ev.Signo, Code: ev.Code}
	info.SetAddr(uint64(ev.Addr))
	if unix.Signal(ev.Signo) == unix.SIGSEGV && ev.Access != 0 {
		if ev.Access.Has(usermem.Execute) && t.vsyscall(ev.Addr) {
			return
		}
		t.usage.Fault()
		err := t.mm.HandleFault(ev.Addr, ev.Access)
		if err == nil {
			t.starved = 0
			return
		}
		if f, ok := err.(*mm.Fault); ok {
			info.Signo, info.Code = f.Signo, f.Code
		} else {
			t.outOfMemory(err)
			return
		}
	}
	t.lastFault = faultRecord{addr: uint64(ev.Addr), trap: ev.TrapNo, code: ev.ErrorCode}
	t.ForceSignal(&info)
}

// maxStarved is how often in a row room is made for a page that then isn't had all
// the same.
const maxStarved = 16

// outOfMemory is what follows when a page couldn't be had: the task waits for some,
// which may cost it its life, or another's.
func (t *Task) outOfMemory(err error) {
	if err == mm.ErrOOM && t.k.Starving != nil && t.starved < maxStarved {
		t.starved++
		t.blockKillable(t.k.Starving(t))
		return
	}
	t.k.Logf("task %d (%s): %v: killed", t.ids.Root(), t.Name(), err)
	t.tg.Kill(ExitStatus{Signal: signals.Signal(unix.SIGKILL)})
}

// interrupt makes the task look at its signals and stops: it leaves
// application code or a sleep.
func (t *Task) interrupt() {
	t.work.Store(true)
	t.thread.Unpark()
	t.ctx.Interrupt()
}
