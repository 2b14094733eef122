package vfs

import (
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

// CachePolicy says how long the dentry cache may believe what it knows.
type CachePolicy uint8

const (
	// CacheAll: nobody else changes the file system. Names and missing
	// names are kept.
	CacheAll CachePolicy = iota
	// CacheRevalidate: the directory is a Revalidator and is asked each time.
	CacheRevalidate
	// CacheDynamic: names are looked up each time, but a dentry that isn't
	// Ephemeral stays the same as long as Lookup returns the same inode.
	CacheDynamic
)

// Filesystem is one instance of a file system: a superblock.
type Filesystem struct {
	// Type is the name in /proc/filesystems, Dev the device number of files
	// in it (st_dev), Magic the f_type of statfs(2).
	Type  string
	Dev   uint64
	Magic int64
	// Policy is constant.
	Policy CachePolicy
	// Fixed: a missing name can't be made, and looking it up for that is
	// ENOENT already (proc).
	Fixed bool
	// ReadOnly file systems refuse all changes with EROFS.
	ReadOnly bool
	// Options is what /proc/mounts shows after ro or rw, beginning with a
	// comma unless empty.
	Options string
	// Impl is the file system's own; it may implement Statfser and Syncer.
	Impl any

	root *Dentry
	// renameMu is held for writing while a directory moves, so that a check for
	// loops holds and paths can be printed whole.
	renameMu locks.RWMutex[locks.Rename]
	// cached counts the dentries in the cache, and those that went with their
	// directory, until the next reclaim; kept are those that the last one left.
	// reclaiming says that there is one.
	cached, kept atomic.Int64
	reclaiming   atomic.Bool
}

// Statfser tells statfs(2)'s numbers.
type Statfser interface {
	Statfs(ctx Context, s *unix.Statfs_t) error
}

// Syncer writes back what is not on disk yet (fsync(2), syncfs(2)).
type Syncer interface {
	Sync(ctx Context, dataOnly bool) error
}

var lastDev atomic.Uint32

// NewDev returns a device number for an instance of a file system that has no
// device: major 0, as Linux does.
func NewDev() uint64 { return unix.Mkdev(0, lastDev.Add(1)+19) }

// SetRoot makes root the root directory (or the one file) of fs.
func (fs *Filesystem) SetRoot(root Inode) { fs.root = newDentry(fs, nil, "", root) }

// Root returns the root dentry.
func (fs *Filesystem) Root() *Dentry { return fs.root }

// maxCached bounds the dentries kept for one file system, positive and
// negative: an application that walks a large tree must not grow the Sentry.
const maxCached = 1 << 17

// Dentry is a name in a directory, and what it leads to. A Dentry never changes
// its inode: when a name comes to mean something else, it gets a new Dentry.
// Dentries are freed by the garbage collector.
//
// Lock order: Filesystem.renameMu, then Dentry.mu of an ancestor, then of a
// descendant; unrelated directories by address of the inode base.
type Dentry struct {
	fs    *Filesystem
	inode Inode // nil: the name is known to be missing
	// isDir and isLink: the inode is a Directory, a Link.
	isDir, isLink bool
	// at is the dentry's place, never nil; first was the first.
	at    atomic.Pointer[place]
	first place
	// mounted counts mounts on this dentry in any namespace.
	mounted atomic.Int32
	// deleted is set when the name is removed.
	deleted atomic.Bool

	// mu serialises changes of the directory and of the names in the cache.
	mu       locks.Mutex[locks.Dentry]
	children names
}

// place is where a dentry is. It doesn't change: a rename puts another in place
// of it.
type place struct {
	parent *Dentry // nil for a root, and for what is in no directory
	name   string
}

func newDentry(fs *Filesystem, parent *Dentry, name string, inode Inode) *Dentry {
	d := &Dentry{fs: fs, inode: inode, first: place{parent, name}}
	_, d.isDir = inode.(Directory)
	_, d.isLink = inode.(Link)
	d.at.Store(&d.first)
	return d
}

// Inode returns what the name leads to.
func (d *Dentry) Inode() Inode { return d.inode }

// Filesystem returns the instance that d belongs to.
func (d *Dentry) Filesystem() *Filesystem { return d.fs }

// Name returns the last component of d's path in its file system, "" for the
// root.
func (d *Dentry) Name() string { return d.at.Load().name }

// Parent returns the directory, or nil for a root.
func (d *Dentry) Parent() *Dentry { return d.at.Load().parent }

// Deleted reports whether the name was removed.
func (d *Dentry) Deleted() bool { return d.deleted.Load() }

// NewDetachedDentry returns a dentry that has a name but is in no directory: for
// pipes, sockets, files made by memfd_create(2) and O_TMPFILE.
func NewDetachedDentry(fs *Filesystem, name string, inode Inode) *Dentry {
	return newDentry(fs, nil, name, inode)
}

// NewUnlinkedDentry is NewDetachedDentry for files that are shown as deleted
// though they never had a name, as Linux shows its memfds.
func NewUnlinkedDentry(fs *Filesystem, name string, inode Inode) *Dentry {
	d := NewDetachedDentry(fs, name, inode)
	d.deleted.Store(true)
	return d
}

func newChild(parent *Dentry, name string, inode Inode) *Dentry {
	return newDentry(parent.fs, parent, name, inode)
}

// dir returns the directory behind d.
func (d *Dentry) dir() (Directory, error) {
	if dir, ok := d.inode.(Directory); ok {
		return dir, nil
	}
	return nil, unix.ENOTDIR
}

// lookup returns the dentry of name in d, or ENOENT. It doesn't keep name. What
// is cached it finds without a lock.
func (d *Dentry) lookup(ctx Context, name string) (*Dentry, error) {
	if c := d.cached(name); c != nil {
		if c.inode == nil {
			return nil, unix.ENOENT
		}
		return c, nil
	}
	return d.lookupSlow(ctx, strings.Clone(name))
}

// cached returns the dentry of name in d, which may be known to be missing, if the
// cache may be believed and has it. It takes no lock.
func (d *Dentry) cached(name string) *Dentry {
	if d.fs.Policy != CacheAll {
		return nil
	}
	return d.children.find(d, name)
}

func (d *Dentry) lookupSlow(ctx Context, name string) (*Dentry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.lookupLocked(ctx, name)
	if err == nil && c.inode == nil {
		err = unix.ENOENT
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// lookupLocked is lookup with d.mu held; a missing name gives a dentry without
// an inode.
func (d *Dentry) lookupLocked(ctx Context, name string) (*Dentry, error) {
	c, err := d.lookupToMake(ctx, name)
	if c == nil && err == nil {
		c = newChild(d, name, nil)
		if d.fs.Policy != CacheDynamic && !d.deleted.Load() {
			d.insert(c)
		}
	}
	return c, err
}

// lookupToMake is lookupLocked for who is about to make name: that it is missing isn't
// remembered, and may give nil.
func (d *Dentry) lookupToMake(ctx Context, name string) (*Dentry, error) {
	dir, err := d.dir()
	if err != nil {
		return nil, err
	}
	c := d.children.find(d, name)
	if c != nil {
		switch d.fs.Policy {
		case CacheAll:
			return c, nil
		case CacheRevalidate:
			if dir.(Revalidator).Revalidate(ctx, name, c.inode) {
				return c, nil
			}
			d.forget(c)
			c = nil
		}
	}
	if d.deleted.Load() {
		return nil, nil
	}
	inode, err := dir.Lookup(ctx, name)
	if err != nil {
		if err != unix.ENOENT {
			return nil, err
		}
		inode = nil
	}
	if c != nil { // CacheDynamic
		if c.inode == inode {
			return c, nil
		}
		d.forget(c)
	}
	if inode == nil {
		return nil, nil
	}
	c = newChild(d, name, inode)
	if _, ok := inode.(Ephemeral); !ok {
		d.insert(c)
	}
	return c, nil
}

// insert puts c into the cache, in the place of what has its name there. d.mu is
// held.
func (d *Dentry) insert(c *Dentry) {
	if old := d.children.find(d, c.Name()); old != nil {
		d.forget(old)
	}
	// What the last reclaim had to leave would be left again.
	if d.fs.cached.Add(1) > max(maxCached, 2*d.fs.kept.Load()) && d.fs.reclaiming.CompareAndSwap(false, true) {
		go func() {
			d.fs.reclaim()
			d.fs.reclaiming.Store(false)
		}()
	}
	d.children.put(c)
}

// forget takes c out of the cache. d.mu is held.
func (d *Dentry) forget(c *Dentry) {
	if c.isDir {
		moves.begin()
		defer moves.end()
	}
	if d.children.take(d, c) {
		d.fs.cached.Add(-1)
	}
}

// Reclaim drops what the cache of fs can spare: for when memory is short.
func (fs *Filesystem) Reclaim() {
	if fs.reclaiming.CompareAndSwap(false, true) {
		fs.reclaim()
		fs.reclaiming.Store(false)
	}
}

// reclaim drops all dentries of missing names, and of files that aren't open: a
// bound on memory, not a choice of the best. Directories stay: whoever is in one
// would go on with a cache of its own.
func (fs *Filesystem) reclaim() {
	dirs, kept := []*Dentry{fs.root}, int64(0)
	for len(dirs) > 0 {
		d := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		d.mu.Lock()
		d.children.each(func(c *Dentry) {
			switch {
			case c.isDir:
				dirs = append(dirs, c)
				kept++
			case c.inode != nil && (c.mounted.Load() != 0 || c.inode.Base().opens.Load() != 0):
				kept++
			default:
				d.forget(c)
			}
		})
		d.mu.Unlock()
	}
	fs.kept.Store(kept)
	fs.cached.Store(kept)
}

// isAncestor reports whether d is c or above it. renameMu is held.
func (d *Dentry) isAncestor(c *Dentry) bool {
	for ; c != nil; c = c.Parent() {
		if c == d {
			return true
		}
	}
	return false
}
