package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/timers"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/waiter"
)

// ThreadGroup is a process.
type ThreadGroup struct {
	k      *Kernel
	ids    ids // of the process: those of its first leader
	limits atomic.Pointer[limits.Set]

	// The tree: guarded by Kernel.tree.
	leader   *Task
	tasks    []*Task // live ones, the leader first while it lives
	parent   *ThreadGroup
	children []*ThreadGroup
	group    *ProcessGroup
	// zombie: all threads have ended; wait(2) can collect status.
	zombie bool
	reaped bool
	status ExitStatus
	// exitSignal is sent to the parent at the end; zero for none.
	exitSignal signals.Signal
	// ends is notified when the process has ended; nil while nobody has asked for it
	// (PIDFile).
	ends *waiter.Queue
	// parentTask made the process, for prctl(PR_SET_PDEATHSIG) and __WNOTHREAD.
	parentTask *Task
	// subreaper takes orphans in below it (prctl(2)); hasSubreaper says that
	// there may be one above.
	subreaper bool
	// execed: setpgid(2) by the parent is refused after execve(2).
	execed bool
	// childUsage is of children that were waited for.
	childUsage usage.Resources
	deadUsage  usage.Resources // of threads that have ended

	// tab is of what the process has queued and set: signals, timers.
	tab     *memfile.Tab
	signals groupSignals
	timers  timers.Set
	undo    ipc.Undo
	// awake counts the threads that don't sleep.
	awake atomic.Int32

	// childEvents is notified when a child changes its state.
	childEvents waiter.Queue
	// oomScoreAdj is /proc/PID/oom_score_adj.
	oomScoreAdj atomic.Int32
	// leaderDone is closed when the process has ended, for the runtime outside.
	done chan struct{}
	// attachments: terminals and the like keep things for each process here.
	startTime int64 // monotonic nanoseconds
}

// groupSignals is the signal state of a thread group.
type groupSignals struct {
	mu      locks.Mutex[locks.Signals]
	actions *signals.Table
	pending signals.Pending
	// arrivals tells signalfds of queued signals.
	arrivals waiter.Queue

	// exiting: the group is ending with status; every task leaves as soon as
	// it sees it.
	exiting bool
	status  ExitStatus
	// execer is the task whose execve(2) ends all others.
	execer *Task
	// forced: ForceSignal has sent one, or Unspare was called: init isn't spared.
	forced bool
	// broadcasts counts the signals that were sent to several processes at once.
	broadcasts uint64

	stop groupStop
}

// groupStop is the state of job control.
type groupStop struct {
	// signal that stopped or is stopping the group; zero when running.
	signal signals.Signal
	// waiting counts tasks that have still to stop.
	waiting int
	// complete: all tasks are stopped; unreported: wait(2) hasn't told of it.
	complete, unreported bool
	// continued: SIGCONT came, and wait(2) hasn't told of it.
	continued bool
	// resume opens to let stopped tasks go on.
	resume *waiter.Gate
}

// ExitStatus is how a task or process ended.
type ExitStatus struct {
	Code   uint8          // of exit(2)
	Signal signals.Signal // that killed it, or zero
	Core   bool           // WCOREDUMP; nothing sets it yet: no core is written
}

// Wait returns the status as wait(2) encodes it.
func (s ExitStatus) Wait() uint32 {
	w := uint32(s.Code)<<8 | uint32(s.Signal)&0x7f
	if s.Signal != 0 {
		w = uint32(s.Signal) & 0x7f
		if s.Core {
			w |= 0x80
		}
	}
	return w
}

// ID returns the process's number in ns, or zero.
func (tg *ThreadGroup) ID(ns *PIDNamespace) int32 { return tg.ids.In(ns) }

// PIDNamespace returns the namespace the process is in.
func (tg *ThreadGroup) PIDNamespace() *PIDNamespace { return tg.ids.NS }

// Kernel returns the kernel.
func (tg *ThreadGroup) Kernel() *Kernel { return tg.k }

// Limits returns the resource limits.
func (tg *ThreadGroup) Limits() *limits.Set { return tg.limits.Load() }

// Leader returns the first thread, which may have ended.
func (tg *ThreadGroup) Leader() *Task {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.leader
}

// Tasks returns the live threads.
func (tg *ThreadGroup) Tasks() []*Task {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return append([]*Task(nil), tg.tasks...)
}

// Parent returns the parent process, or nil for the first.
func (tg *ThreadGroup) Parent() *ThreadGroup {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.parent
}

// ProcessGroup returns the process group.
func (tg *ThreadGroup) ProcessGroup() *ProcessGroup {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.group
}

// Session returns the session.
func (tg *ThreadGroup) Session() *Session {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.group.Session()
}

// Done is closed when the process has ended and ExitStatus is set.
func (tg *ThreadGroup) Done() <-chan struct{} { return tg.done }

// ExitStatus returns how the process ended, once Done is closed.
func (tg *ThreadGroup) ExitStatus() ExitStatus {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.status
}

// SetSubreaper and Subreaper are prctl(PR_SET_CHILD_SUBREAPER).
func (tg *ThreadGroup) SetSubreaper(on bool) {
	tg.k.tree.Lock()
	tg.subreaper = on
	tg.k.tree.Unlock()
}

func (tg *ThreadGroup) Subreaper() bool {
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	return tg.subreaper
}

// OOMScoreAdj is /proc/PID/oom_score_adj.
func (tg *ThreadGroup) OOMScoreAdj() *atomic.Int32 { return &tg.oomScoreAdj }

// Charged returns about what its container is charged for the process, in bytes, and
// would get back if it ended: private and shared pages, and what the Sentry keeps for
// its mappings, descriptors, threads, signals and timers.
func (tg *ThreadGroup) Charged() (bytes int64) {
	tg.k.tree.RLock()
	tasks := append([]*Task(nil), tg.tasks...)
	for _, t := range tasks {
		bytes += t.cost
	}
	tg.k.tree.RUnlock()
	bytes += tg.tab.Bytes()
	for _, t := range tasks {
		m := t.SharedMM()
		if m == nil {
			continue // that thread is ending
		}
		s := m.Stats()
		bytes += int64(s.RSSAnon+s.RSSShmem) + m.Overhead()
		m.DecUsers()
		if f := t.SharedFDs(); f != nil {
			bytes += f.Cost()
		}
		break
	}
	return bytes
}

// StartTime is when the process began, on the monotonic clock.
func (tg *ThreadGroup) StartTime() int64 { return tg.startTime }

// join makes tg a member of g. tree is held.
func (tg *ThreadGroup) join(g *ProcessGroup) {
	g.Join(tg)
	tg.group = g
}

// SetSID does setsid(2) and returns the new session's id.
func (t *Task) SetSID() (int32, error) {
	k, tg := t.k, t.tg
	k.tree.Lock()
	defer k.tree.Unlock()
	if tg.ids.NS.ProcessGroupHeld(tg.ids.Own()) != nil {
		return 0, unix.EPERM
	}
	tg.group.Leave(tg)
	tg.join(pids.NewSession(tg, tg.ids))
	return tg.ids.In(t.PIDNamespace()), nil
}

// SetPGID does setpgid(2).
func (t *Task) SetPGID(pid, pgid int32) error {
	if pgid == 0 {
		pgid = pid
	}
	if pgid < 0 {
		return unix.EINVAL
	}
	k := t.k
	ns := t.PIDNamespace()
	k.tree.Lock()
	defer k.tree.Unlock()
	tg := t.tg
	if pid != 0 {
		p := ns.TaskHeld(pid)
		if p == nil {
			return unix.ESRCH
		}
		if p != p.tg.leader {
			return unix.EINVAL
		}
		tg = p.tg
	}
	if pgid == 0 {
		pgid = tg.ids.In(ns)
	}
	if tg != t.tg {
		if tg.parent != t.tg || tg.zombie && tg.reaped {
			return unix.ESRCH
		}
		if tg.group.Session() != t.tg.group.Session() {
			return unix.EPERM
		}
		if tg.execed {
			return unix.EACCES
		}
	}
	if tg.group.Session().LeaderHeld() == tg {
		return unix.EPERM
	}
	g := ns.ProcessGroupHeld(pgid)
	if pgid == tg.ids.In(ns) && g == nil {
		g = tg.group.Session().NewGroup(tg.ids)
	} else if g == nil || g.Session() != t.tg.group.Session() {
		return unix.EPERM
	}
	if g != tg.group {
		tg.group.Leave(tg)
		tg.join(g)
	}
	return nil
}

// countOf returns how many processes k's sandbox runs for uid. tree is held.
func (k *Kernel) countOf(uid auth.KUID) (n uint64) {
	for t := range k.RootPIDNS.TasksHeld() {
		if t.creds.Load().RUID == uid {
			n++
		}
	}
	return n
}
