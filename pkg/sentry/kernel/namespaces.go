package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/socket"
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

// LastPID returns the pid that was given out last, for /proc/loadavg.
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
	return i.num[ns.Level]
}

// each calls f for every namespace that has a number.
func (i *ids) each(f func(ns *PIDNamespace, id int32)) {
	for ns := i.ns; ns != nil; ns = ns.Parent {
		f(ns, i.num[ns.Level])
	}
}

// UTSNamespace holds the names of the machine (uts_namespaces(7)).
type UTSNamespace struct {
	UserNS *auth.UserNamespace
	Inode  uint64

	mu           locks.Mutex[locks.Leaf]
	host, domain string
}

// NewUTSNamespace returns a namespace with names.
func (k *Kernel) NewUTSNamespace(user *auth.UserNamespace, host, domain string) *UTSNamespace {
	return &UTSNamespace{UserNS: user, Inode: k.NewNamespaceInode(), host: host, domain: domain}
}

// Names returns the host and domain names.
func (ns *UTSNamespace) Names() (host, domain string) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.host, ns.domain
}

// SetHost and SetDomain set them.
func (ns *UTSNamespace) SetHost(s string)   { ns.mu.Lock(); ns.host = s; ns.mu.Unlock() }
func (ns *UTSNamespace) SetDomain(s string) { ns.mu.Lock(); ns.domain = s; ns.mu.Unlock() }

// IPCNamespace holds System V IPC objects and message queues
// (ipc_namespaces(7)). What they are is for the packages that own them.
type IPCNamespace struct {
	UserNS  *auth.UserNamespace
	Inode   uint64
	tasks   atomic.Int64 // that are in it
	mu      locks.Mutex[locks.Leaf]
	objects map[any]any
}

// enter and leave count a task in and out; with the last one go the objects.
func (ns *IPCNamespace) enter() {
	if ns != nil {
		ns.tasks.Add(1)
	}
}

func (ns *IPCNamespace) leave() {
	if ns == nil || ns.tasks.Add(-1) != 0 {
		return
	}
	ns.mu.Lock()
	v := ns.objects[systemV{}]
	delete(ns.objects, systemV{})
	ns.mu.Unlock()
	if v != nil {
		v.(*ipc.Namespace).Destroy()
	}
}

// NewIPCNamespace returns an empty namespace.
func (k *Kernel) NewIPCNamespace(user *auth.UserNamespace) *IPCNamespace {
	return &IPCNamespace{UserNS: user, Inode: k.NewNamespaceInode()}
}

// Object returns what is stored under key, after storing what make returns if
// there is nothing.
func (ns *IPCNamespace) Object(key any, make func() any) any {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	v := ns.objects[key]
	if v == nil {
		v = make()
		if ns.objects == nil {
			ns.objects = map[any]any{}
		}
		ns.objects[key] = v
	}
	return v
}

// SystemV returns the System V objects of the namespace.
func (ns *IPCNamespace) SystemV() *ipc.Namespace {
	return ns.Object(systemV{}, func() any { return ipc.NewNamespace() }).(*ipc.Namespace)
}

type systemV struct{}

// SemaphoreUndo is what the process takes back at its end (semop(2), SEM_UNDO).
func (tg *ThreadGroup) SemaphoreUndo() *ipc.Undo { return &tg.undo }

// NetNamespace is a network namespace (network_namespaces(7)): its stack is
// put in by the network packages.
type NetNamespace struct {
	UserNS *auth.UserNamespace
	Inode  uint64
	Stack  any
	// Sockets is where families of sockets keep what belongs to a namespace.
	Sockets socket.Namespace

	// privileged is how many ports from 0 on need CAP_NET_BIND_SERVICE.
	privileged atomic.Int32
	// pingGroups are the first and the last group that may make ICMP sockets,
	// the last in the high half (icmp(7)).
	pingGroups atomic.Uint64
}

// NewNetNamespace returns a namespace with stack, which may be nil.
func (k *Kernel) NewNetNamespace(user *auth.UserNamespace, stack any) *NetNamespace {
	ns := &NetNamespace{UserNS: user, Inode: k.NewNamespaceInode(), Stack: stack}
	ns.SetUnprivilegedPort(1024)
	ns.SetPingGroups(1, 0) // none
	return ns
}

// UnprivilegedPort is the first port that anybody may bind
// (net.ipv4.ip_unprivileged_port_start, ip(7)).
func (ns *NetNamespace) UnprivilegedPort() uint16 { return uint16(ns.privileged.Load()) }

// SetUnprivilegedPort sets it.
func (ns *NetNamespace) SetUnprivilegedPort(port uint16) { ns.privileged.Store(int32(port)) }

// PingGroups are the first and last group that may make sockets for echo requests
// without privileges; none if the first is the higher one
// (net.ipv4.ping_group_range, icmp(7)).
func (ns *NetNamespace) PingGroups() (first, last uint32) {
	v := ns.pingGroups.Load()
	return uint32(v), uint32(v >> 32)
}

// SetPingGroups sets them.
func (ns *NetNamespace) SetPingGroups(first, last uint32) {
	ns.pingGroups.Store(uint64(last)<<32 | uint64(first))
}

// Namespaces are those of a task. Immutable once shared.
type Namespaces struct {
	UTS   *UTSNamespace
	IPC   *IPCNamespace
	Net   *NetNamespace
	Mount *vfs.MountNamespace
	// PIDForChildren is where the next child's pid comes from.
	PIDForChildren *PIDNamespace
}

// FSContext is what CLONE_FS shares: root, working directory and umask.
type FSContext struct {
	mu    locks.Mutex[locks.Leaf]
	root  vfs.Path
	cwd   vfs.Path
	umask uint32
}

// NewFSContext returns a context at root.
func NewFSContext(root, cwd vfs.Path, umask uint32) *FSContext {
	return &FSContext{root: root, cwd: cwd, umask: umask & 0o777}
}

// Fork returns a copy.
func (c *FSContext) Fork() *FSContext {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &FSContext{root: c.root, cwd: c.cwd, umask: c.umask}
}

// Root returns the root directory, Cwd the working directory.
func (c *FSContext) Root() vfs.Path { c.mu.Lock(); defer c.mu.Unlock(); return c.root }
func (c *FSContext) Cwd() vfs.Path  { c.mu.Lock(); defer c.mu.Unlock(); return c.cwd }

// View returns from where relative paths are resolved.
func (c *FSContext) View() vfs.FSView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return vfs.FSView{Root: c.root, Start: c.cwd}
}

// SetRoot and SetCwd move them.
func (c *FSContext) SetRoot(p vfs.Path) { c.mu.Lock(); c.root = p; c.mu.Unlock() }
func (c *FSContext) SetCwd(p vfs.Path)  { c.mu.Lock(); c.cwd = p; c.mu.Unlock() }

// Move applies f to both: after a change of the mount namespace or its root.
func (c *FSContext) Move(f func(vfs.Path) vfs.Path) {
	c.mu.Lock()
	c.root, c.cwd = f(c.root), f(c.cwd)
	c.mu.Unlock()
}

// Umask returns the file mode creation mask; SetUmask sets it and returns the
// old one.
func (c *FSContext) Umask() uint32 { c.mu.Lock(); defer c.mu.Unlock(); return c.umask }
func (c *FSContext) SetUmask(m uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.umask
	c.umask = m & 0o777
	return old
}
