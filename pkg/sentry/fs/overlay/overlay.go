// Package overlay puts a file system in memory over another one that is only
// read: a container may write anywhere in its root, and the host's tree stays as
// it is.
//
// What is made here is a tmpfs inode and nothing else. What comes from below is
// a dir, file, link or special, which begin as a view of the lower inode and
// become tmpfs inodes of their own (copied up) when they are changed: they are
// the same vfs.Inode before and after, with the same number, so no application
// sees a file change its identity, and what is open or mapped stays coherent.
// Directories from below can be renamed like others, as the overlay remembers
// them by inode and not by path.
//
// Copying up copies attributes. Bytes are copied page by page when they are
// written, or mapped for writing (type content): a chmod, or a line appended
// to a large file, costs no more than it says.
//
// A directory holds the names made in it and a set of lower names that are gone;
// the list of lower names is read once and kept. There are no whiteout
// files, and what the lower file system calls one is shown as it is.
//
// The lower file system must not change, and its Inode for a file must stay the
// same as long as anybody uses it. The overlay keeps inodes that were changed,
// and finds others again through weak references.
//
// Lock order: FS.mu is a leaf. node.mu (copying up) may be taken under a memory
// manager's mapping lock, as closing a mapped file does; content.mu comes after
// it. Lower locks come last; the lower file system isn't called with Dir locks held.
//
// What it doesn't do: lower layers that are themselves stacked (put one overlay
// over another), committing the changes to the lower file system.
package overlay

import (
	"runtime"
	"strings"
	"sync/atomic"
	"weak"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
)

const (
	// firstIno is above all numbers that lower file systems use.
	firstIno = 1 << 48
	// firstCookie is above the cookies of lower names.
	firstCookie = 1 << 40

	overlayMagic = 0x794c7630
)

// FS is an overlay: the Impl of its Filesystem.
type FS struct {
	*tmpfs.Storage
	lower *vfs.Mount
	ctx   vfs.Context

	mu locks.Mutex[locks.Leaf]
	// known has the nodes of lower inodes. changed keeps those that can't be
	// made again from the lower inode.
	known   map[*vfs.InodeBase]weak.Pointer[node]
	changed map[*vfs.InodeBase]*node
	// idle are files that were only read and have been closed: their contents stay
	// for who opens them next, until others take their places in turn.
	idle     [maxIdle]*file
	nextIdle int
	// closed: none may be idle any more.
	closed bool
}

// maxIdle is how many closed files keep what they have of the lower one.
const maxIdle = 32

// New returns an overlay over lower. cred are the Sentry's, with which lower
// files are read. Of o, the root's mode and owner don't count: they are the
// lower root's.
func New(lower *vfs.Filesystem, cred *auth.Credentials, o tmpfs.Options) (*vfs.Filesystem, error) {
	vfsFS := &vfs.Filesystem{Type: "overlay", Dev: vfs.NewDev(), Magic: overlayMagic, Policy: vfs.CacheAll}
	storage, err := tmpfs.NewStorage(o, vfsFS.Dev, firstIno)
	if err != nil {
		return nil, err
	}
	fs := &FS{
		Storage: storage,
		lower:   vfs.NewInternalMount(lower),
		ctx:     vfs.KernelContext(cred),
		known:   map[*vfs.InodeBase]weak.Pointer[node]{},
		changed: map[*vfs.InodeBase]*node{},
	}
	vfsFS.Impl = fs
	root, err := fs.node(fs.ctx, lower.Root().Inode())
	if err != nil {
		return nil, err
	}
	vfsFS.SetRoot(root)
	return vfsFS, nil
}

// node is what an inode from below has besides its tmpfs half.
type node struct {
	fs    *FS
	lower vfs.Inode
	self  tmpfs.Child
	meta  *tmpfs.Meta

	mu locks.Mutex[locks.OverlayNode]
	// copied: the tmpfs half counts. Set once.
	copied atomic.Bool
	// removed: the last name is gone though nothing was copied. Set with mu held.
	removed atomic.Bool
}

// node returns the inode that stands for lower.
func (fs *FS) node(ctx vfs.Context, lower vfs.Inode) (tmpfs.Child, error) {
	key := lower.Base()
	if n := fs.find(key); n != nil {
		return n.self, nil
	}
	var a vfs.Attr
	if err := lower.Attributes(ctx, &a); err != nil {
		return nil, err
	}
	attr := &vfs.NewAttr{Mode: a.Mode, UID: a.UID, GID: a.GID, Rdev: a.Rdev}
	var n *node
	switch _, isLink := lower.(vfs.Link); {
	case a.IsDir():
		d := &dir{}
		d.InitDir(fs.Storage, a.Ino, attr)
		d.SetFirstCookie(firstCookie)
		n = &d.node
		n.self, n.meta = d, &d.Meta
	case isLink:
		l := &link{}
		l.Init(fs.Storage, a.Ino, attr)
		n = &l.node
		n.self, n.meta = l, &l.Meta
	case a.Type() == unix.S_IFREG:
		f := &file{}
		f.Init(fs.Storage, a.Ino, attr)
		n = &f.node
		n.self, n.meta = f, &f.Meta
	default:
		s := &special{}
		s.Init(fs.Storage, a.Ino, attr)
		n = &s.node
		n.self, n.meta = s, &s.Meta
	}
	n.fs, n.lower = fs, lower
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if old := fs.findLocked(key); old != nil {
		return old.self, nil
	}
	w := weak.Make(n)
	fs.known[key] = w
	runtime.AddCleanup(n, forget, forgotten{weak.Make(fs), key, w})
	return n.self, nil
}

func (fs *FS) find(key *vfs.InodeBase) *node {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.findLocked(key)
}

func (fs *FS) findLocked(key *vfs.InodeBase) *node {
	if n := fs.changed[key]; n != nil {
		return n
	}
	if w, ok := fs.known[key]; ok {
		return w.Value()
	}
	return nil
}

// forgotten says which node is garbage.
type forgotten struct {
	fs  weak.Pointer[FS]
	key *vfs.InodeBase
	w   weak.Pointer[node]
}

func forget(f forgotten) {
	fs := f.fs.Value()
	if fs == nil {
		return
	}
	fs.mu.Lock()
	if fs.known[f.key] == f.w {
		delete(fs.known, f.key)
	}
	fs.mu.Unlock()
}

// keep makes the overlay remember n, and release forget it.
func (n *node) keep() {
	n.fs.mu.Lock()
	n.fs.changed[n.lower.Base()] = n
	n.fs.mu.Unlock()
}

func (n *node) release() {
	n.fs.mu.Lock()
	delete(n.fs.changed, n.lower.Base())
	n.fs.mu.Unlock()
}

// lowerAttributes fills a from the lower inode. Only for who found that nothing
// is copied.
func (n *node) lowerAttributes(ctx vfs.Context, a *vfs.Attr) error {
	if err := n.lower.Attributes(ctx, a); err != nil {
		return err
	}
	a.Dev = n.fs.Dev()
	if n.removed.Load() {
		a.Nlink = 0
	}
	return nil
}

// copyUp makes the tmpfs half count. prepare, unless nil, runs first, with mu
// held.
func (n *node) copyUp(ctx vfs.Context, prepare func(a *vfs.Attr) error) error {
	if n.copied.Load() {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.copied.Load() {
		return nil
	}
	var a vfs.Attr
	if err := n.lower.Attributes(ctx, &a); err != nil {
		return err
	}
	if n.removed.Load() {
		a.Nlink = 0
	}
	x, err := copyXattrs(ctx, n.lower)
	if err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(&a); err != nil {
			return err
		}
	}
	if err := n.meta.Become(&a, x); err != nil {
		return err
	}
	n.copied.Store(true)
	if a.Nlink != 0 {
		n.keep()
	}
	return nil
}

// copyXattrs reads the extended attributes that a tmpfs inode can have.
func copyXattrs(ctx vfs.Context, from vfs.Inode) (map[string][]byte, error) {
	x, ok := from.(vfs.Xattrs)
	if !ok {
		return nil, nil
	}
	names, err := x.ListXattr(ctx)
	if err == unix.EOPNOTSUPP || len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, name := range names {
		ns, _, _ := strings.Cut(name, ".")
		if ns != "user" && ns != "trusted" && ns != "security" {
			continue
		}
		switch v, err := x.GetXattr(ctx, name); err {
		case nil:
			all[name] = append([]byte{}, v...)
		case unix.ENODATA, unix.EOPNOTSUPP, unix.EPERM, unix.EACCES:
		default:
			return nil, err
		}
	}
	return all, nil
}

// addLink changes the number of names. apply does it for the tmpfs half.
func (n *node) addLink(by int32, now int64, apply func(int32, int64) error) error {
	if !n.copied.Load() && by < 0 {
		var a vfs.Attr
		if err := n.lower.Attributes(n.fs.ctx, &a); err != nil {
			return err
		}
		if a.Nlink <= 1 || a.IsDir() {
			// The last name of something that was never changed.
			n.mu.Lock()
			defer n.mu.Unlock()
			if !n.copied.Load() {
				n.removed.Store(true)
				return nil
			}
		}
	}
	if by > 0 && n.removed.Load() {
		return unix.ENOENT
	}
	if err := n.self.(copier).copy(n.fs.ctx); err != nil {
		return err
	}
	if err := apply(by, now); err != nil {
		return err
	}
	var a vfs.Attr
	if n.meta.Attributes(n.fs.ctx, &a); a.Nlink == 0 {
		n.release()
	}
	return nil
}

// copier is any of the inodes from below.
type copier interface{ copy(ctx vfs.Context) error }

// getXattr, listXattr, setXattr and removeXattr are vfs.Xattrs for all types.
func (n *node) getXattr(ctx vfs.Context, name string) ([]byte, error) {
	if !n.copied.Load() {
		if x, ok := n.lower.(vfs.Xattrs); ok {
			return x.GetXattr(ctx, name)
		}
		return nil, unix.EOPNOTSUPP
	}
	return n.meta.GetXattr(ctx, name)
}

func (n *node) listXattr(ctx vfs.Context) ([]string, error) {
	if !n.copied.Load() {
		if x, ok := n.lower.(vfs.Xattrs); ok {
			return x.ListXattr(ctx)
		}
		return nil, nil
	}
	return n.meta.ListXattr(ctx)
}
