package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/namespaces"
	"vitrine/pkg/sentry/vfs"
)

// PIDNamespace numbers tasks (pid_namespaces(7)). Its fields are guarded by
// Kernel.tree.
type PIDNamespace struct {
	Parent *PIDNamespace
	Level  int
	UserNS *auth.UserNamespace
	Inode  uint64

	k        *Kernel
	tasks    map[int32]*Task
	groups   map[int32]*ProcessGroup
	sessions map[int32]*Session
	last     int32
	init     *ThreadGroup
	// dying: init has gone; nothing can be made here any more.
	dying bool
	// limit bounds the tasks here and below; zero is none.
	limit int
}

// PIDMax is kernel.pid_max.
const PIDMax = 32768 * 4

// maxPIDLevels is Linux's MAX_PID_NS_LEVEL.
const maxPIDLevels = 32

func (k *Kernel) newPIDNamespace(parent *PIDNamespace, user *auth.UserNamespace) *PIDNamespace {
	ns := &PIDNamespace{
		Parent: parent, UserNS: user, Inode: k.NewNamespaceInode(), k: k,
		tasks: map[int32]*Task{}, groups: map[int32]*ProcessGroup{}, sessions: map[int32]*Session{},
	}
	if parent != nil {
		ns.Level = parent.Level + 1
	}
	return ns
}

// NewPIDNamespace returns a namespace below parent.
func (k *Kernel) NewPIDNamespace(parent *PIDNamespace, user *auth.UserNamespace) (*PIDNamespace, error) {
	if parent.Level+1 >= maxPIDLevels {
		return nil, unix.ENOSPC
	}
	return k.newPIDNamespace(parent, user), nil
}

// SetLimit bounds how many tasks may live in ns and below (the pids cgroup).
func (ns *PIDNamespace) SetLimit(n int) {
	ns.k.tree.Lock()
	ns.limit = n
	ns.k.tree.Unlock()
}

// Contains reports whether other is ns or below it.
func (ns *PIDNamespace) Contains(other *PIDNamespace) bool {
	for ; other != nil; other = other.Parent {
		if other == ns {
			return true
		}
	}
	return false
}

// allocate returns a free pid. tree is held.
func (ns *PIDNamespace) allocate() (int32, error) {
	if ns.dying {
		return 0, unix.ENOMEM
	}
	if ns.limit > 0 && len(ns.tasks) >= ns.limit {
		return 0, unix.EAGAIN
	}
	for range PIDMax {
		ns.last++
		if ns.last >= PIDMax {
			ns.last = 300 // as Linux's RESERVED_PIDS
		}
		id := ns.last
		if ns.tasks[id] == nil && ns.groups[id] == nil && ns.sessions[id] == nil {
			return id, nil
		}
	}
	return 0, unix.EAGAIN
}

// Task returns the task that ns knows as tid, or nil.
func (ns *PIDNamespace) Task(tid int32) *Task {
	ns.k.tree.RLock()
	defer ns.k.tree.RUnlock()
	return ns.tasks[tid]
}

// ThreadGroup returns the process that ns knows as pid, or nil.
func (ns *PIDNamespace) ThreadGroup(pid int32) *ThreadGroup {
	ns.k.tree.RLock()
	defer ns.k.tree.RUnlock()
	if t := ns.tasks[pid]; t != nil && t == t.tg.leader {
		return t.tg
	}
	return nil
}

// ProcessGroup returns the process group that ns knows as pgid, or nil.
func (ns *PIDNamespace) ProcessGroup(pgid int32) *ProcessGroup {
	ns.k.tree.RLock()
	defer ns.k.tree.RUnlock()
	return ns.groups[pgid]
}

// Tasks lists all tasks in ns, zombies included, in no order.
func (ns *PIDNamespace) Tasks() []*Task {
	ns.k.tree.RLock()
	defer ns.k.tree.RUnlock()
	all := make([]*Task, 0, len(ns.tasks))
	for _, t := range ns.tasks {
		all = append(all, t)
	}
	return all
}

// SetLastPID makes the next pid the one after n, or the next that is free
// (pid_namespaces(7), /proc/sys/kernel/ns_last_pid).
func (ns *PIDNamespace) SetLastPID(n int32) {
	ns.k.tree.Lock()
	ns.last = n
	ns.k.tree.Unlock()
}

// LastPID returns the pid that was given out last, for /proc/loadavg
// and ns_last_pid.
func (ns *PIDNamespace) LastPID() int32 {
	ns.k.tree.RLock()
	defer ns.k.tree.RUnlock()
	return ns.last
}

// ids are the numbers of something in its pid namespace and those above it:
// index 0 is the root namespace.
type ids struct {
	ns  *PIDNamespace
	num []int32
}

// in returns the number that ns sees, or zero.
func (i *ids) in(ns *PIDNamespace) int32 {
	if ns.Level >= len(i.num) {
		return 0
	}
	up := i.ns
	for up.Level > ns.Level {
		up = up.Parent
	}
	if up != ns {
		return 0
	}
	return atomic.LoadInt32(&i.num[ns.Level])
}

// become takes the numbers of o, which is in the same namespace. Others may read i
// meanwhile; nobody else changes it.
func (i *ids) become(o *ids) {
	for n := range i.num {
		atomic.StoreInt32(&i.num[n], o.num[n])
	}
}

// each calls f for every namespace that has a number.
func (i *ids) each(f func(ns *PIDNamespace, id int32)) {
	for ns := i.ns; ns != nil; ns = ns.Parent {
		f(ns, i.num[ns.Level])
	}
}

// Namespaces are those of a task. Immutable once shared.
type Namespaces struct {
	UTS   *namespaces.UTS
	IPC   *namespaces.IPC
	Net   *namespaces.Net
	Mount *vfs.MountNamespace
	// PIDForChildren is where the next child's pid comes from.
	PIDForChildren *PIDNamespace
}

// NewUTSNamespace returns a namespace with names.
func (k *Kernel) NewUTSNamespace(user *auth.UserNamespace, host, domain string) *namespaces.UTS {
	return namespaces.NewUTS(user, k.NewNamespaceInode(), host, domain)
}

// NewIPCNamespace returns an empty namespace.
func (k *Kernel) NewIPCNamespace(user *auth.UserNamespace) *namespaces.IPC {
	return namespaces.NewIPC(user, k.NewNamespaceInode())
}

// NewNetNamespace returns a namespace with stack, which may be nil.
func (k *Kernel) NewNetNamespace(user *auth.UserNamespace, stack any) *namespaces.Net {
	return namespaces.NewNet(user, k.NewNamespaceInode(), stack)
}

// SemaphoreUndo is what the process takes back at its end (semop(2), SEM_UNDO).
func (tg *ThreadGroup) SemaphoreUndo() *ipc.Undo { return &tg.undo }
