// Package devpts is the file system of pseudo terminals (pts(4)): the ptmx node
// that makes one when it is opened, and a node for each slave.
//
// Every instance is a new one, as with the option newinstance, which is what
// containers mount. /dev/ptmx as a device node leads to the ptmx of what is
// mounted on "pts" beside it, as in Linux; usually it is a symbolic link.
//
// Lock order: FS.mu; then the locks of a TTY and node.mu, which are leaves.
package devpts

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/tty"
	"vitrine/pkg/sentry/vfs"
)

const (
	magic = 0x1cd1
	// defaultMax is kernel.pty.max.
	defaultMax = 4096

	rootIno  = 1
	ptmxIno  = 2
	firstIno = 3
)

// Options are those of mount(8) for devpts.
type Options struct {
	// UID and GID own slaves; without them it is who opens the master.
	UID, GID       uint32
	SetUID, SetGID bool
	Mode           uint32 // of slaves; 0600 by default
	PtmxMode       uint32 // 0 by default
	Max            uint32
}

// Parse reads mount data: newinstance, ptmxmode=, mode=, uid=, gid=, max=.
// Others give EINVAL. Ids are taken in ns.
func Parse(data string, ns *auth.UserNamespace) (Options, error) {
	o := Options{Mode: 0o600, Max: defaultMax}
	for opt := range strings.SplitSeq(data, ",") {
		key, val, _ := strings.Cut(opt, "=")
		base := 10
		switch key {
		case "", "newinstance":
			continue
		case "mode", "ptmxmode":
			base = 8
		}
		n, err := strconv.ParseUint(val, base, 32)
		if err != nil {
			return o, unix.EINVAL
		}
		v := uint32(n)
		switch key {
		case "mode":
			o.Mode = v & 0o777
		case "ptmxmode":
			o.PtmxMode = v & 0o777
		case "max":
			if v > defaultMax*256 {
				return o, unix.EINVAL
			}
			o.Max = v
		case "uid":
			k, ok := ns.KUID(v)
			if !ok {
				return o, unix.EINVAL
			}
			o.UID, o.SetUID = uint32(k), true
		case "gid":
			k, ok := ns.KGID(v)
			if !ok {
				return o, unix.EINVAL
			}
			o.GID, o.SetGID = uint32(k), true
		default:
			return o, unix.EINVAL
		}
	}
	return o, nil
}

// String returns the options as /proc/mounts shows them, with a comma before
// each.
func (o Options) String() string {
	var b strings.Builder
	if o.SetUID {
		b.WriteString(",uid=" + strconv.FormatUint(uint64(o.UID), 10))
	}
	if o.SetGID {
		b.WriteString(",gid=" + strconv.FormatUint(uint64(o.GID), 10))
	}
	b.WriteString(",mode=" + strconv.FormatUint(uint64(o.Mode), 8))
	mode := strconv.FormatUint(uint64(o.PtmxMode), 8)
	b.WriteString(",ptmxmode=" + strings.Repeat("0", max(0, 3-len(mode))) + mode)
	if o.Max != defaultMax {
		b.WriteString(",max=" + strconv.FormatUint(uint64(o.Max), 10))
	}
	return b.String()
}

// FS is an instance: the Impl of its Filesystem.
type FS struct {
	fs   *vfs.Filesystem
	opts Options
	root *root
	ptmx *node

	mu locks.Mutex[locks.Names]
	// used are the numbers that terminals have, names the slaves whose
	// masters are open.
	used  map[uint32]bool
	names map[uint32]*node
}

// New returns an instance.
func New(o Options) *vfs.Filesystem {
	if o.Max == 0 {
		o.Max = defaultMax
	}
	d := &FS{opts: o, used: map[uint32]bool{}, names: map[uint32]*node{}}
	d.fs = &vfs.Filesystem{Type: "devpts", Dev: vfs.NewDev(), Magic: magic, Policy: vfs.CacheDynamic, Options: o.String(), Impl: d}
	d.root = &root{node: newNode(d, rootIno, unix.S_IFDIR|0o755, 0)}
	n := newNode(d, ptmxIno, unix.S_IFCHR|o.PtmxMode, unix.Mkdev(5, 2))
	d.ptmx = &n
	d.fs.SetRoot(d.root)
	return d.fs
}

// NewTerminal makes a terminal whose slave has a name here. cred owns it. The
// slave is locked until TTY.Unlock.
func (d *FS) NewTerminal(cred *auth.Credentials) (*tty.TTY, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if uint32(len(d.used)) >= d.opts.Max {
		return nil, unix.ENOSPC
	}
	index := uint32(0)
	for d.used[index] {
		index++
	}
	t := tty.New(index,
		func() { d.mu.Lock(); delete(d.names, index); d.mu.Unlock() },
		func() { d.mu.Lock(); delete(d.used, index); d.mu.Unlock() })
	t.Lock()
	t.SetPeer(func(p vfs.Path) vfs.Path { return d.peer(p, index) })
	n := newNode(d, firstIno+uint64(index), unix.S_IFCHR|d.opts.Mode, tty.SlaveDevice(index))
	n.uid, n.gid, n.tty = cred.FSUID, cred.FSGID, t
	if d.opts.SetUID {
		n.uid = auth.KUID(d.opts.UID)
	}
	if d.opts.SetGID {
		n.gid = auth.KGID(d.opts.GID)
	}
	d.used[index], d.names[index] = true, &n
	return t, nil
}

// peer returns the place of a slave whose master was opened at p.
func (d *FS) peer(p vfs.Path, index uint32) vfs.Path {
	up := p.Dentry.Parent()
	if up == nil {
		return p
	}
	start := vfs.Path{Mount: p.Mount, Dentry: up}
	name := strconv.FormatUint(uint64(index), 10)
	if p.Dentry.Filesystem() != d.fs {
		name = "pts/" + name
	}
	cred := auth.NewRoot(auth.NewRootUserNamespace())
	if q, err := vfs.Resolve(vfs.KernelContext(cred), vfs.FSView{Root: start, Start: start}, name, 0); err == nil {
		return q
	}
	return p
}

// OpenPtmx opens /dev/ptmx as a device node. It is a driver's function.
func OpenPtmx(ctx vfs.Context, p vfs.Path, _ uint64, flags uint32) (any, *vfs.File, error) {
	up := p.Dentry.Parent()
	if up == nil {
		return nil, nil, unix.ENODEV
	}
	start := vfs.Path{Mount: p.Mount, Dentry: up}
	q, err := vfs.Resolve(ctx, vfs.FSView{Root: start, Start: start}, "pts/ptmx", 0)
	if err != nil {
		return nil, nil, unix.ENODEV
	}
	n, ok := q.Inode().(*node)
	if !ok || n != n.fs.ptmx {
		return nil, nil, unix.ENODEV
	}
	impl, err := n.Open(ctx, p, flags)
	return impl, nil, err
}

// node is ptmx, a slave, or what root has of an inode.
type node struct {
	vfs.InodeBase
	fs   *FS
	ino  uint64
	rdev uint64
	tty  *tty.TTY // of a slave

	mu                  *locks.Mutex[locks.Leaf]
	mode                uint32
	uid                 auth.KUID
	gid                 auth.KGID
	atime, mtime, ctime int64
}

func newNode(d *FS, ino uint64, mode uint32, rdev uint64) node {
	now := time.Now().UnixNano()
	return node{fs: d, ino: ino, rdev: rdev, mu: new(locks.Mutex[locks.Leaf]), mode: mode, atime: now, mtime: now, ctime: now}
}

// Attributes implements vfs.Inode.
func (n *node) Attributes(_ vfs.Context, a *vfs.Attr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	*a = vfs.Attr{Mode: n.mode, Nlink: 1, UID: n.uid, GID: n.gid, Ino: n.ino, Rdev: n.rdev, Dev: n.fs.fs.Dev,
		BlockSize: 1024, Atime: n.atime, Mtime: n.mtime, Ctime: n.ctime}
	if a.IsDir() {
		a.Nlink = 2
	}
	return nil
}

// SetAttributes implements vfs.Inode.
func (n *node) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	if s.Mask&vfs.SetSize != 0 {
		return unix.EINVAL
	}
	now := time.Now().UnixNano()
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Apply(&n.mode, &n.uid, &n.gid, &n.atime, &n.mtime)
	n.ctime = now
	return nil
}

// OpensItself implements vfs.SpecialOpener.
func (n *node) OpensItself() {}

// Open implements vfs.Inode.
func (n *node) Open(ctx vfs.Context, _ vfs.Path, flags uint32) (any, error) {
	if n.tty != nil {
		return n.tty.OpenSlave(ctx, flags)
	}
	t, err := n.fs.NewTerminal(ctx.Credentials())
	if err != nil {
		return nil, err
	}
	return t.OpenMaster(), nil
}

// root is the root directory. Names are not made in it but by opening ptmx.
type root struct {
	node
	vfs.StaticDirectory
}

// Lookup implements vfs.Directory.
func (r *root) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if name == "ptmx" {
		return r.fs.ptmx, nil
	}
	index, err := strconv.ParseUint(name, 10, 32)
	if err != nil || name != strconv.FormatUint(index, 10) {
		return nil, unix.ENOENT
	}
	r.fs.mu.Lock()
	defer r.fs.mu.Unlock()
	if n := r.fs.names[uint32(index)]; n != nil {
		return n, nil
	}
	return nil, unix.ENOENT
}

// Open implements vfs.Inode.
func (r *root) Open(vfs.Context, vfs.Path, uint32) (any, error) { return &listing{r}, nil }

// listing is the open directory. Cookies are inode numbers plus one.
type listing struct{ r *root }

// ReadDir implements vfs.DirReader.
func (l *listing) ReadDir(ctx vfs.Context, f *vfs.File, cookie int64, emit func(vfs.DirEntry) bool) error {
	up := uint64(rootIno)
	if f != nil {
		var a vfs.Attr
		if p := f.Path().Dentry.Parent(); p != nil && p.Inode().Attributes(ctx, &a) == nil {
			up = a.Ino
		}
	}
	entries := []vfs.DirEntry{
		{Name: ".", Ino: rootIno, Type: unix.DT_DIR, Next: 1},
		{Name: "..", Ino: up, Type: unix.DT_DIR, Next: 2},
		{Name: "ptmx", Ino: ptmxIno, Type: unix.DT_CHR, Next: ptmxIno + 1},
	}
	d := l.r.fs
	d.mu.Lock()
	for index, n := range d.names {
		entries = append(entries, vfs.DirEntry{Name: strconv.FormatUint(uint64(index), 10), Ino: n.ino, Type: unix.DT_CHR, Next: int64(n.ino) + 1})
	}
	d.mu.Unlock()
	slices.SortFunc(entries, func(a, b vfs.DirEntry) int { return int(a.Next - b.Next) })
	for _, e := range entries {
		if e.Next > cookie && !emit(e) {
			return nil
		}
	}
	return nil
}
