// Package pids has the numbers of tasks, and the process groups and sessions that go by
// them: who has which number in which namespace (pid_namespaces(7)), which processes are
// a job, and which jobs a login (credentials(7), setpgid(2), setsid(2)).
//
//	Namespace  gives out numbers, and knows whose they are
//	IDs        the numbers of one task, process, group or session: in its own
//	           namespace and in all above it
//	Group      a process group
//	Session    a session, with its controlling terminal; a tty.Session, as a Group is a
//	           tty.Group
//
// What tasks (T) and processes (P) are is for who makes the first namespace, an Owner: it
// says whom numbers go to and when they come back, who joins and leaves a group, and what
// may do so. A number isn't given out again while a group or session has it.
//
// All of it is guarded by one lock, the owner's (locks.Tasks), for numbers and groups
// change together with the owner's own tree of processes. Methods with names that end in
// Held, and those that change something, are called with that lock held, for reading or
// for writing; all others take it, unless what they tell of never changes.
package pids

import (
	"iter"
	"maps"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
)

// Max is kernel.pid_max: numbers are below it.
const Max = 32768 * 4

const (
	// reserved is where numbers begin when they have all been given out once, as
	// Linux's RESERVED_PIDS.
	reserved = 300
	// maxLevels is Linux's MAX_PID_NS_LEVEL.
	maxLevels = 32
)

// Owner is whose tasks and processes they are.
type Owner[T, P comparable] interface {
	// Leads returns the process that t is the leader of. The lock is held.
	Leads(t T) (p P, ok bool)
	// ParentGroup returns the group of p's parent, nil for who has none, and whether
	// p has ended. The lock is held.
	ParentGroup(p P) (g *Group[T, P], ended bool)
	// SignalGroup sends all members of g a signal of the kernel's, SignalProcess one
	// process. No lock is held.
	SignalGroup(g *Group[T, P], sig unix.Signal)
	SignalProcess(p P, sig unix.Signal)
}

// shared is what all namespaces have in common.
type shared[T, P comparable] struct {
	mu    *locks.RWMutex[locks.Tasks]
	owner Owner[T, P]
}

// Namespace numbers tasks. Its exported fields are constant.
type Namespace[T, P comparable] struct {
	Parent *Namespace[T, P]
	// Level is how many are above it.
	Level  int
	UserNS *auth.UserNamespace
	Inode  uint64

	*shared[T, P]
	tasks    map[int32]T
	groups   map[int32]*Group[T, P]
	sessions map[int32]*Session[T, P]
	last     int32
	init     P
	// closed: init has gone; nothing can be made here any more.
	closed bool
	// limit bounds the tasks here and below; zero is none.
	limit int
}

// NewRoot returns the first namespace of owner, whose lock mu is.
func NewRoot[T, P comparable](owner Owner[T, P], mu *locks.RWMutex[locks.Tasks], user *auth.UserNamespace, inode uint64) *Namespace[T, P] {
	return newNamespace(&shared[T, P]{mu, owner}, user, inode)
}

func newNamespace[T, P comparable](s *shared[T, P], user *auth.UserNamespace, inode uint64) *Namespace[T, P] {
	return &Namespace[T, P]{
		UserNS: user, Inode: inode, shared: s,
		tasks: map[int32]T{}, groups: map[int32]*Group[T, P]{}, sessions: map[int32]*Session[T, P]{},
	}
}

// NewChild returns a namespace below ns: ENOSPC where that is too deep.
func (ns *Namespace[T, P]) NewChild(user *auth.UserNamespace, inode uint64) (*Namespace[T, P], error) {
	if ns.Level+1 >= maxLevels {
		return nil, unix.ENOSPC
	}
	n := newNamespace(ns.shared, user, inode)
	n.Parent, n.Level = ns, ns.Level+1
	return n, nil
}

// SetLimit bounds how many tasks may live in ns and below (the pids cgroup).
func (ns *Namespace[T, P]) SetLimit(n int) {
	ns.mu.Lock()
	ns.limit = n
	ns.mu.Unlock()
}

// Contains reports whether other is ns or below it.
func (ns *Namespace[T, P]) Contains(other *Namespace[T, P]) bool {
	for ; other != nil; other = other.Parent {
		if other == ns {
			return true
		}
	}
	return false
}

// Chosen are the numbers that by wants for a task (clone(2), "The set_tid array"): in
// the namespace that the task will be in, the one above that, and so on.
type Chosen struct {
	Numbers []int32
	By      *auth.Credentials
}

// Allocate returns free numbers in ns and above, those that are chosen, and others
// where none are: ENOMEM where ns is closed, EAGAIN where no more fit, and what clone(2)
// says of those that can't be chosen. They are taken by Remember.
func (ns *Namespace[T, P]) Allocate(chosen Chosen) (IDs[T, P], error) {
	if len(chosen.Numbers) > ns.Level+1 {
		return IDs[T, P]{}, unix.EINVAL
	}
	num := make([]int32, ns.Level+1)
	for n := ns; n != nil; n = n.Parent {
		var id int32
		var err error
		if i := ns.Level - n.Level; i < len(chosen.Numbers) {
			id = chosen.Numbers[i]
			err = n.choose(id, chosen.By)
		} else {
			id, err = n.free()
		}
		if err != nil {
			return IDs[T, P]{}, err
		}
		num[n.Level] = id
	}
	return IDs[T, P]{ns, num}, nil
}

// room reports what keeps ns from having another task.
func (ns *Namespace[T, P]) room() error {
	if ns.closed {
		return unix.ENOMEM
	}
	if ns.limit > 0 && len(ns.tasks) >= ns.limit {
		return unix.EAGAIN
	}
	return nil
}

func (ns *Namespace[T, P]) taken(id int32) bool {
	_, taken := ns.tasks[id]
	return taken || ns.groups[id] != nil || ns.sessions[id] != nil
}

// choose reports whether c may have id in ns.
func (ns *Namespace[T, P]) choose(id int32, c *auth.Credentials) error {
	var none P
	if id < 1 || id >= Max || id != 1 && ns.init == none {
		return unix.EINVAL
	}
	if !c.HasCapIn(unix.CAP_SYS_ADMIN, ns.UserNS) {
		return unix.EPERM
	}
	if ns.taken(id) {
		return unix.EEXIST
	}
	return ns.room()
}

func (ns *Namespace[T, P]) free() (int32, error) {
	if err := ns.room(); err != nil {
		return 0, err
	}
	for range Max {
		ns.last++
		if ns.last >= Max {
			ns.last = reserved
		}
		if !ns.taken(ns.last) {
			return ns.last, nil
		}
	}
	return 0, unix.EAGAIN
}

// SetInit makes p the first process of ns, if there is none yet.
func (ns *Namespace[T, P]) SetInit(p P) {
	var none P
	if ns.init == none {
		ns.init = p
	}
}

// InitHeld returns the first process of ns, which may have ended; the zero P if there
// was none.
func (ns *Namespace[T, P]) InitHeld() P { return ns.init }

// Close ends ns, whose init has gone: no more tasks are numbered.
func (ns *Namespace[T, P]) Close() { ns.closed = true }

// Task returns the task that ns knows as tid, or the zero T.
func (ns *Namespace[T, P]) Task(tid int32) T {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.tasks[tid]
}

// TaskHeld is Task for who holds the lock.
func (ns *Namespace[T, P]) TaskHeld(tid int32) T { return ns.tasks[tid] }

// ThreadGroup returns the process that ns knows as pid, or the zero P.
func (ns *Namespace[T, P]) ThreadGroup(pid int32) (p P) {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	if t, ok := ns.tasks[pid]; ok {
		p, _ = ns.owner.Leads(t)
	}
	return p
}

// ProcessGroup returns the process group that ns knows as pgid, or nil.
func (ns *Namespace[T, P]) ProcessGroup(pgid int32) *Group[T, P] {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.groups[pgid]
}

// ProcessGroupHeld is ProcessGroup for who holds the lock.
func (ns *Namespace[T, P]) ProcessGroupHeld(pgid int32) *Group[T, P] { return ns.groups[pgid] }

// Tasks lists all tasks in ns, those included that nobody has waited for, in no order.
func (ns *Namespace[T, P]) Tasks() []T {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	all := make([]T, 0, len(ns.tasks))
	for _, t := range ns.tasks {
		all = append(all, t)
	}
	return all
}

// TasksHeld goes through what Tasks lists, for who holds the lock.
func (ns *Namespace[T, P]) TasksHeld() iter.Seq[T] { return maps.Values(ns.tasks) }

// ProcessCount returns how many processes ns has, zombies included.
func (ns *Namespace[T, P]) ProcessCount() (n int) {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	for _, t := range ns.tasks {
		if _, ok := ns.owner.Leads(t); ok {
			n++
		}
	}
	return n
}

// SetLastPID makes the next number the one after n, or the next that is free
// (pid_namespaces(7), /proc/sys/kernel/ns_last_pid).
func (ns *Namespace[T, P]) SetLastPID(n int32) {
	ns.mu.Lock()
	ns.last = n
	ns.mu.Unlock()
}

// LastPID returns the number that was given out last, for /proc/loadavg
// and ns_last_pid.
func (ns *Namespace[T, P]) LastPID() int32 {
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.last
}

// IDs are the numbers of something in its namespace and those above it. Copies are of
// the same numbers.
type IDs[T, P comparable] struct {
	// NS is the namespace it is in; constant.
	NS *Namespace[T, P]
	// num is indexed by level: 0 is the first namespace's.
	num []int32
}

// In returns the number that ns sees, or zero. It takes no lock.
func (i *IDs[T, P]) In(ns *Namespace[T, P]) int32 {
	if ns.Level >= len(i.num) {
		return 0
	}
	up := i.NS
	for up.Level > ns.Level {
		up = up.Parent
	}
	if up != ns {
		return 0
	}
	return atomic.LoadInt32(&i.num[ns.Level])
}

// Own returns the number in its own namespace, Root that in the first one. They take no
// lock.
func (i *IDs[T, P]) Own() int32  { return atomic.LoadInt32(&i.num[len(i.num)-1]) }
func (i *IDs[T, P]) Root() int32 { return atomic.LoadInt32(&i.num[0]) }

// Become takes the numbers of o, which is in the same namespace. Others may read i
// meanwhile; nobody else changes it.
func (i *IDs[T, P]) Become(o *IDs[T, P]) {
	for n := range i.num {
		atomic.StoreInt32(&i.num[n], o.num[n])
	}
}

// Remember makes t known by the numbers.
func (i *IDs[T, P]) Remember(t T) {
	i.each(func(ns *Namespace[T, P], id int32) { ns.tasks[id] = t })
}

// Forget takes the numbers away from t, where it still has them. It reports whether it
// had that of the first namespace.
func (i *IDs[T, P]) Forget(t T) (had bool) {
	i.each(func(ns *Namespace[T, P], id int32) {
		if o, ok := ns.tasks[id]; ok && o == t {
			delete(ns.tasks, id)
			had = ns.Parent == nil
		}
	})
	return had
}

// each calls f for every namespace that has a number, the first one last.
func (i *IDs[T, P]) each(f func(ns *Namespace[T, P], id int32)) {
	for ns := i.NS; ns != nil; ns = ns.Parent {
		f(ns, i.num[ns.Level])
	}
}
