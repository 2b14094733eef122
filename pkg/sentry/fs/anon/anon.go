// Package anon gives a place to files that have none: pipes, sockets, and the
// objects that eventfd(2), epoll_create(2) and the like return.
//
// Each of the three file systems is mounted nowhere. Their names are what
// readlink(2) of /proc/PID/fd/N shows: "pipe:[17]", "socket:[17]",
// "anon_inode:[eventfd]". Pipes and sockets have an inode of their own; all
// other files share one, as on Linux, which therefore takes no attributes.
//
// An inode's lock is a leaf. The package knows nothing of what a file does:
// that is the implementation given to vfs.NewFile.
package anon

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
)

// Magic numbers of statfs(2).
const (
	pipeMagic   = 0x50495045
	socketMagic = 0x534F434B
	anonMagic   = 0x09041934
)

// system is one of the pseudo file systems.
type system struct {
	fs    *vfs.Filesystem
	mount *vfs.Mount
	last  atomic.Uint64
}

func newSystem(name string, magic int64) *system {
	s := &system{fs: &vfs.Filesystem{Type: name, Dev: vfs.NewDev(), Magic: magic}}
	root := newInode(s, unix.S_IFDIR|0o555, &auth.Credentials{})
	s.fs.SetRoot(root)
	s.mount = vfs.NewInternalMount(s.fs)
	return s
}

var (
	pipes   = sync.OnceValue(func() *system { return newSystem("pipefs", pipeMagic) })
	sockets = sync.OnceValue(func() *system { return newSystem("sockfs", socketMagic) })
	anons   = sync.OnceValue(func() *shared {
		s := newSystem("anon_inodefs", anonMagic)
		return &shared{s, newInode(s, 0o600, &auth.Credentials{})}
	})
)

type shared struct {
	*system
	inode *inode
}

// inode is a file of such a file system.
type inode struct {
	vfs.InodeBase
	mu   locks.Mutex[locks.Leaf]
	attr vfs.Attr
}

func newInode(s *system, mode uint32, c *auth.Credentials) *inode {
	now := time.Now().UnixNano()
	return &inode{attr: vfs.Attr{Mode: mode, Nlink: 1, UID: c.FSUID, GID: c.FSGID, Ino: s.last.Add(1),
		BlockSize: 4096, Dev: s.fs.Dev, Atime: now, Mtime: now, Ctime: now}}
}

// Attributes implements vfs.Inode.
func (i *inode) Attributes(_ vfs.Context, a *vfs.Attr) error {
	i.mu.Lock()
	*a = i.attr
	i.mu.Unlock()
	return nil
}

// SetAttributes implements vfs.Inode.
func (i *inode) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	a := &i.attr
	if a.Type() == 0 {
		return unix.EOPNOTSUPP
	}
	s.Apply(&a.Mode, &a.UID, &a.GID, &a.Atime, &a.Mtime)
	a.Ctime = time.Now().UnixNano()
	return nil
}

// Open implements vfs.Inode. Pipes are opened again through vfs.SpecialFiles;
// nothing else here can be opened.
func (i *inode) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

func (s *system) path(name string, i *inode) vfs.Path {
	return vfs.Path{Mount: s.mount, Dentry: vfs.NewDetachedDentry(s.fs, name, i)}
}

// PipePath returns the place of a new pipe that c's task makes.
func PipePath(c *auth.Credentials) vfs.Path {
	s := pipes()
	i := newInode(s, unix.S_IFIFO|0o600, c)
	return s.path("pipe:["+strconv.FormatUint(i.attr.Ino, 10)+"]", i)
}

// SocketPath returns the place of a new socket that c's task makes.
func SocketPath(c *auth.Credentials) vfs.Path {
	s := sockets()
	i := newInode(s, unix.S_IFSOCK|0o777, c)
	return s.path("socket:["+strconv.FormatUint(i.attr.Ino, 10)+"]", i)
}

// NewFile returns a file of kind: "[eventfd]", "[eventpoll]", "inotify".
func NewFile(kind string, impl any, flags uint32, c *auth.Credentials) *vfs.File {
	s := anons()
	return vfs.NewFile(s.path("anon_inode:"+kind, s.inode), impl, flags, c)
}
