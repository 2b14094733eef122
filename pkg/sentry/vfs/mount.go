package vfs

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
)

// Path is a place in a tree of mounts. It is comparable; the zero Path is
// nowhere.
type Path struct {
	Mount  *Mount
	Dentry *Dentry
}

// Ok reports whether p is a place.
func (p Path) Ok() bool { return p.Dentry != nil }

// Inode returns the inode at p.
func (p Path) Inode() Inode { return p.Dentry.inode }

// MountFlags are per-mount flags.
type MountFlags uint32

// Values as in statfs(2)'s f_flags and mount(2).
const (
	MountReadOnly   MountFlags = unix.MS_RDONLY
	MountNoSUID     MountFlags = unix.MS_NOSUID
	MountNoDev      MountFlags = unix.MS_NODEV
	MountNoExec     MountFlags = unix.MS_NOEXEC
	MountNoAtime    MountFlags = unix.MS_NOATIME
	MountNoDirAtime MountFlags = unix.MS_NODIRATIME
	MountRelatime   MountFlags = unix.MS_RELATIME
)

// Mount is a file system, or a part of one, at a place.
type Mount struct {
	ID     int
	ns     *MountNamespace
	fs     *Filesystem
	root   *Dentry
	flags  atomic.Uint32
	Source string // as /proc/mounts shows it

	// parent and point are set under ns.mu; readers use ns.mounts or hold mu.
	parent *Mount
	point  *Dentry
	// below is how many mounts have this one as their parent. Guarded by ns.mu.
	below int
	// detached is set once the mount is out of the tree.
	detached atomic.Bool
	// open counts open files: umount(2) is busy while there are any.
	open atomic.Int64
	// locked: it came along into a namespace of another user namespace, and
	// what it covers must stay covered there (mount_namespaces(7)).
	// lockedFlags are the flags that it keeps for the same reason.
	locked      atomic.Bool
	lockedFlags atomic.Uint32
	// expiring is the mark of MNT_EXPIRE.
	expiring atomic.Bool
}

// Filesystem returns what is mounted, Root its top as seen here.
func (m *Mount) Filesystem() *Filesystem { return m.fs }
func (m *Mount) Root() *Dentry           { return m.root }

// Namespace returns the mount namespace that m is in, nil for internal mounts.
func (m *Mount) Namespace() *MountNamespace { return m.ns }

// Flags returns the mount's flags.
func (m *Mount) Flags() MountFlags { return MountFlags(m.flags.Load()) }

// SetFlags replaces them.
func (m *Mount) SetFlags(f MountFlags) { m.flags.Store(uint32(f)) }

// lockable are the flags that a less privileged namespace can't take away.
const lockable = MountReadOnly | MountNoSUID | MountNoDev | MountNoExec

// Remount replaces the flags as mount(2) does with MS_REMOUNT: EPERM if one goes
// that is locked.
func (m *Mount) Remount(f MountFlags) error {
	if MountFlags(m.lockedFlags.Load())&^f != 0 {
		return unix.EPERM
	}
	m.SetFlags(f)
	return nil
}

// Busy reports whether files are open in the mount.
func (m *Mount) Busy() bool { return m.open.Load() > 0 }

// MarkExpiring sets the mark of MNT_EXPIRE (umount2(2)) and reports whether it
// was set already, and no file has been opened since.
func (m *Mount) MarkExpiring() bool { return m.expiring.Swap(true) }

// ReadOnly reports whether changes through this mount are refused.
func (m *Mount) ReadOnly() bool {
	return MountFlags(m.flags.Load())&MountReadOnly != 0 || m.fs.ReadOnly
}

var lastMountID atomic.Int64

// NewInternalMount returns a mount that is in no namespace: for files without
// a place.
func NewInternalMount(fs *Filesystem) *Mount {
	return &Mount{ID: int(lastMountID.Add(1)), fs: fs, root: fs.root}
}

type mountKey struct {
	mount *Mount
	point *Dentry
}

// MountNamespace is a tree of mounts (mount_namespaces(7)). Propagation is
// always private. Safe for concurrent use.
type MountNamespace struct {
	Inode uint64 // of /proc/PID/ns/mnt
	// Owner is the user namespace whose capabilities count here; nil is the
	// first.
	Owner *auth.UserNamespace
	mu    locks.Mutex[locks.MountNamespace]
	root  *Mount
	// table maps places (mountKey) to what is mounted on top of them (*Mount).
	// It is changed under mu; path walks read it without a lock.
	table sync.Map
	// order lists mounts as /proc/PID/mountinfo does.
	order []*Mount
	// MaxMounts is fs.mount-max.
	MaxMounts int
	tab       *memfile.Tab
}

// mountCost is what a mount is charged as, in bytes.
const mountCost = 512

// admit has room made for one mount more: ENOSPC, ENOMEM. ns.mu is held.
func (ns *MountNamespace) admit() error {
	if len(ns.order) >= ns.MaxMounts {
		return unix.ENOSPC
	}
	return ns.tab.Charge(mountCost)
}

// PaidBy makes payer pay for mounts in the namespace from now on, before anybody
// uses it.
func (ns *MountNamespace) PaidBy(payer *memfile.Account) error {
	var err error
	ns.tab, err = memfile.NewTab(payer, ns, mountCost*int64(1+len(ns.order)))
	return err
}

// NewMountNamespace returns a namespace with fs as its root.
func NewMountNamespace(fs *Filesystem, source string, flags MountFlags) *MountNamespace {
	ns := &MountNamespace{MaxMounts: 100000}
	ns.root = &Mount{ID: int(lastMountID.Add(1)), ns: ns, fs: fs, root: fs.root, Source: source}
	ns.root.SetFlags(flags)
	ns.order = []*Mount{ns.root}
	return ns
}

// Root returns the top of the tree, with what may be mounted over it.
func (ns *MountNamespace) Root() Path { return ns.cover(Path{ns.root, ns.root.root}) }

// cover follows p to the top of what is mounted on it.
func (ns *MountNamespace) cover(p Path) Path {
	for p.Dentry.mounted.Load() > 0 && p.Mount.ns != nil {
		v, ok := p.Mount.ns.table.Load(mountKey{p.Mount, p.Dentry})
		if !ok {
			break
		}
		m := v.(*Mount)
		p = Path{m, m.root}
	}
	return p
}

// Top returns the top of what is mounted on p, or p.
func (ns *MountNamespace) Top(p Path) Path { return ns.cover(p) }

// above returns the place that p's mount is on, if p is the mount's top.
func above(p Path) (Path, bool) {
	m := p.Mount
	if p.Dentry != m.root || m.ns == nil {
		return Path{}, false
	}
	m.ns.mu.Lock()
	defer m.ns.mu.Unlock()
	if m.parent == nil {
		return Path{}, false
	}
	return Path{m.parent, m.point}, true
}

// attach puts m at p. ns.mu is held.
func (ns *MountNamespace) attach(m *Mount, p Path) {
	moves.begin()
	defer moves.end()
	m.parent, m.point, m.ns = p.Mount, p.Dentry, ns
	p.Dentry.mounted.Add(1)
	p.Mount.below++
	ns.table.Store(mountKey{p.Mount, p.Dentry}, m)
	ns.order = append(ns.order, m)
}

// detach takes mounts out. ns.mu is held.
func (ns *MountNamespace) detach(gone ...*Mount) {
	ns.tab.Uncharge(mountCost * int64(len(gone)))
	for _, m := range gone {
		ns.table.Delete(mountKey{m.parent, m.point})
		m.point.mounted.Add(-1)
		m.parent.below--
		m.detached.Store(true)
	}
	if len(gone) == 1 {
		i := slices.Index(ns.order, gone[0])
		ns.order = slices.Concat(ns.order[:i], ns.order[i+1:])
		return
	}
	order := make([]*Mount, 0, len(ns.order))
	for _, m := range ns.order {
		if !m.detached.Load() {
			order = append(order, m)
		}
	}
	ns.order = order
}

// MountAt mounts fs on p and returns the mount.
func (ns *MountNamespace) MountAt(p Path, fs *Filesystem, source string, flags MountFlags) (*Mount, error) {
	return ns.mountDentry(p, fs.root, source, flags)
}

// Bind mounts the tree at src on p. With recursive the mounts below src come
// along.
//
// What locked mounts cover can't be had by leaving them out: EINVAL.
func (ns *MountNamespace) Bind(src, p Path, recursive bool) (*Mount, error) {
	if !recursive && src.Mount.ns != nil && src.Mount.ns.coversBelow(src) {
		return nil, unix.EINVAL
	}
	m, err := ns.mountDentry(p, src.Dentry, src.Mount.Source, src.Mount.Flags())
	if err != nil {
		return nil, err
	}
	m.lockedFlags.Store(src.Mount.lockedFlags.Load())
	if !recursive || src.Mount.ns == nil {
		return m, nil
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	copies := map[*Mount]*Mount{src.Mount: m}
	for _, o := range append([]*Mount(nil), src.Mount.ns.order...) {
		to, ok := copies[o.parent]
		if !ok || o == m || o.parent == src.Mount && !src.Dentry.isAncestor(o.point) {
			continue
		}
		if err := ns.admit(); err != nil {
			return m, err
		}
		c := &Mount{ID: int(lastMountID.Add(1)), fs: o.fs, root: o.root, Source: o.Source}
		c.SetFlags(o.Flags())
		c.locked.Store(o.locked.Load())
		c.lockedFlags.Store(o.lockedFlags.Load())
		ns.attach(c, Path{to, o.point})
		copies[o] = c
	}
	return m, nil
}

// coversBelow reports whether locked mounts are below p.
func (ns *MountNamespace) coversBelow(p Path) bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, m := range ns.order {
		if m.locked.Load() && m.parent == p.Mount && p.Dentry.isAncestor(m.point) {
			return true
		}
	}
	return false
}

func (ns *MountNamespace) mountDentry(p Path, root *Dentry, source string, flags MountFlags) (*Mount, error) {
	_, wantDir := p.Dentry.inode.(Directory)
	if _, isDir := root.inode.(Directory); isDir != wantDir {
		return nil, unix.ENOTDIR
	}
	if p.Mount.ns != ns {
		return nil, unix.EINVAL
	}
	if p.Dentry.Deleted() {
		return nil, unix.ENOENT
	}
	m := &Mount{ID: int(lastMountID.Add(1)), fs: root.fs, root: root, Source: source}
	m.SetFlags(flags)
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if err := ns.admit(); err != nil {
		return nil, err
	}
	ns.attach(m, ns.cover(p))
	return m, nil
}

// tree returns m and all mounts below it, each after those that are on it.
// ns.mu is held.
func (ns *MountNamespace) tree(m *Mount) []*Mount {
	if m.below == 0 {
		return []*Mount{m}
	}
	on := make(map[*Mount][]*Mount, len(ns.order))
	for _, o := range ns.order {
		if o.parent != nil {
			on[o.parent] = append(on[o.parent], o)
		}
	}
	all := []*Mount{m}
	for i := 0; i < len(all); i++ {
		all = append(all, on[all[i]]...)
	}
	slices.Reverse(all)
	return all
}

// Unmount takes the mount whose top is p out of the tree: EINVAL if p is not a
// top, EBUSY if something is mounted below it unless lazy (MNT_DETACH). Open
// files below keep working.
func (ns *MountNamespace) Unmount(p Path, lazy bool) error {
	if p.Dentry != p.Mount.root || p.Mount.ns != ns {
		return unix.EINVAL
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if p.Mount.detached.Load() || p.Mount.parent == nil || p.Mount.locked.Load() {
		return unix.EINVAL
	}
	all := ns.tree(p.Mount)
	if (len(all) > 1 || p.Mount.Busy()) && !lazy {
		return unix.EBUSY
	}
	ns.detach(all...)
	return nil
}

// Move moves the mount whose top is src to dst (mount(2), MS_MOVE).
func (ns *MountNamespace) Move(src, dst Path) error {
	if src.Dentry != src.Mount.root || src.Mount.ns != ns || dst.Mount.ns != ns {
		return unix.EINVAL
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	m := src.Mount
	if m.parent == nil || m.locked.Load() {
		return unix.EINVAL
	}
	_, isDir := src.Dentry.inode.(Directory)
	if _, wantDir := dst.Dentry.inode.(Directory); isDir != wantDir {
		return unix.ENOTDIR
	}
	for up := dst.Mount; up != nil; up = up.parent {
		if up == m {
			return unix.ELOOP
		}
	}
	ns.detach(m)
	m.detached.Store(false)
	ns.attach(m, ns.cover(dst))
	return nil
}

// PivotRoot makes the mount at newRoot the root of the tree and puts the old
// one at putOld (pivot_root(2)). The caller has checked that putOld is below
// newRoot.
func (ns *MountNamespace) PivotRoot(oldRoot, newRoot, putOld Path) error {
	if newRoot.Dentry != newRoot.Mount.root || oldRoot.Dentry != oldRoot.Mount.root ||
		newRoot.Mount.ns != ns || putOld.Mount.ns != ns || oldRoot.Mount.ns != ns {
		return unix.EINVAL
	}
	if newRoot.Mount == oldRoot.Mount || putOld.Mount == oldRoot.Mount {
		return unix.EBUSY
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n, o := newRoot.Mount, oldRoot.Mount
	if n.parent == nil || n.locked.Load() {
		return unix.EINVAL
	}
	place := Path{o.parent, o.point}
	ns.detach(n)
	n.detached.Store(false)
	if place.Mount == nil {
		n.parent, n.point, ns.root = nil, nil, n
		ns.order = append([]*Mount{n}, ns.order...)
	} else {
		ns.detach(o)
		ns.attach(n, place)
	}
	for i, m := range ns.order {
		if m == o {
			ns.order = append(ns.order[:i:i], ns.order[i+1:]...)
			break
		}
	}
	o.detached.Store(false)
	ns.attach(o, ns.cover(putOld))
	return nil
}

// Clone returns a copy of the namespace (CLONE_NEWNS) that belongs to owner, and
// a function that takes a place in the old one to the same place in the new
// one. For another owner the mounts are locked. payer pays for the copy: ENOMEM.
func (ns *MountNamespace) Clone(owner *auth.UserNamespace, payer *memfile.Account) (*MountNamespace, func(Path) Path, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	c := &MountNamespace{MaxMounts: ns.MaxMounts, Owner: owner}
	var err error
	if c.tab, err = memfile.NewTab(payer, c, mountCost*int64(1+len(ns.order))); err != nil {
		return nil, nil, err
	}
	lock := ns.Owner != owner && (ns.Owner != nil || owner.Parent != nil)
	copies := make(map[*Mount]*Mount, len(ns.order))
	for _, m := range ns.order {
		n := &Mount{ID: int(lastMountID.Add(1)), ns: c, fs: m.fs, root: m.root, Source: m.Source, point: m.point}
		n.SetFlags(m.Flags())
		n.locked.Store(lock || m.locked.Load())
		n.lockedFlags.Store(m.lockedFlags.Load())
		if lock {
			n.lockedFlags.Or(uint32(m.Flags() & lockable))
		}
		copies[m] = n
		c.order = append(c.order, n)
	}
	for _, m := range ns.order {
		if m.parent != nil {
			n := copies[m]
			n.parent = copies[m.parent]
			n.parent.below++
			c.table.Store(mountKey{n.parent, n.point}, n)
			n.point.mounted.Add(1)
		}
	}
	c.root = copies[ns.root]
	return c, func(p Path) Path {
		if m := copies[p.Mount]; m != nil {
			p.Mount = m
		}
		return p
	}, nil
}

// MountInfo is one line of /proc/PID/mountinfo.
type MountInfo struct {
	Mount    *Mount
	ParentID int
	Point    Path   // where it is, in the mount it is on
	Root     string // which part of the file system
}

// Mounts lists the mounts in order.
func (ns *MountNamespace) Mounts() []MountInfo {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	infos := make([]MountInfo, 0, len(ns.order))
	for _, m := range ns.order {
		i := MountInfo{Mount: m, ParentID: m.ID, Root: dentryPath(m.root)}
		if m.parent != nil {
			i.ParentID = m.parent.ID
		}
		i.Point = Path{m, m.root}
		infos = append(infos, i)
	}
	return infos
}

// dentryPath returns the path of d in its file system.
func dentryPath(d *Dentry) string {
	var parts []string
	for p := d.Parent(); p != nil; d, p = p, p.Parent() {
		parts = append(parts, d.Name())
	}
	return joinReversed(parts)
}

func joinReversed(parts []string) string {
	if len(parts) == 0 {
		return "/"
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		b.WriteByte('/')
		b.WriteString(parts[i])
	}
	return b.String()
}

// PathName returns the absolute path of p as seen from root. It reports false
// when p is not below root; the path is then the one from the top of p's tree.
// The mark " (deleted)" is left to the caller.
func PathName(root, p Path) (string, bool) {
	fs := p.Dentry.fs
	fs.renameMu.RLock()
	defer fs.renameMu.RUnlock()
	var parts []string
	for p != root {
		if p.Dentry == p.Mount.root {
			up, ok := above(p)
			if !ok {
				if p.Dentry.Parent() == nil && p.Mount.ns == nil {
					return p.Dentry.Name(), false
				}
				return joinReversed(parts), false
			}
			p = up
			continue
		}
		parent := p.Dentry.Parent()
		if parent == nil { // a file without a place
			if len(parts) == 0 {
				return p.Dentry.Name(), false
			}
			return joinReversed(parts), false
		}
		parts = append(parts, p.Dentry.Name())
		p.Dentry = parent
	}
	return joinReversed(parts), true
}
