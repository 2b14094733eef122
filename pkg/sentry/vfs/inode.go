package vfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Context is the task on whose behalf an operation runs, as far as files need
// to know it. It belongs to the task's goroutine.
type Context interface {
	// Credentials are the task's, at the time of the call.
	Credentials() *auth.Credentials
	// Memory is the task's address space, for arguments of ioctl(2) and the
	// like. It may be nil for the kernel's own work.
	Memory() usermem.Memory
	// Block sleeps until k is given, and returns nil, or until the task is
	// interrupted, and returns an error that the caller passes on as it is
	// (the call is restarted after a handler with SA_RESTART). No lock is
	// held by the caller.
	Block(k *waiter.Token) error
	// FileSizeLimit is RLIMIT_FSIZE in bytes.
	FileSizeLimit() uint64
	// FileSizeExceeded sends SIGXFSZ.
	FileSizeExceeded()
	// ThreadGroupID is the pid, in the sandbox's first pid namespace, for
	// locks and owners.
	ThreadGroupID() int32
}

// Attr are the attributes of an inode: what statx(2) tells. Times are
// nanoseconds since the epoch.
type Attr struct {
	Mode                uint32 // file type and permission bits, as st_mode
	Nlink               uint32
	UID                 auth.KUID
	GID                 auth.KGID
	Ino                 uint64
	Size                int64
	Blocks              uint64 // of 512 bytes
	BlockSize           uint32
	Rdev                uint64 // Linux's 64-bit dev_t encoding, as unix.Mkdev
	Dev                 uint64
	Atime, Mtime, Ctime int64
	Btime               int64 // zero when unknown
}

var attrs = sync.Pool{New: func() any { return new(Attr) }}

// BorrowAttr returns empty attributes for one call: on a stack they can't be, since
// an inode's Attributes gets them through an interface.
func BorrowAttr() *Attr {
	a := attrs.Get().(*Attr)
	*a = Attr{}
	return a
}

// Return gives a back to who borrows next.
func (a *Attr) Return() { attrs.Put(a) }

// Type returns the S_IFMT bits.
func (a *Attr) Type() uint32 { return a.Mode & unix.S_IFMT }

// IsDir reports whether the inode is a directory.
func (a *Attr) IsDir() bool { return a.Type() == unix.S_IFDIR }

// SetMask says which fields of a SetAttr count.
type SetMask uint8

// Fields of a SetAttr.
const (
	SetMode SetMask = 1 << iota
	SetUID
	SetGID
	SetSize
	SetAtime
	SetMtime
)

// SetAttr is a change of attributes. The caller has checked permissions. A
// change of anything sets ctime to now.
type SetAttr struct {
	Mask         SetMask
	Mode         uint32 // permission bits with setuid, setgid and sticky
	UID          auth.KUID
	GID          auth.KGID
	Size         int64
	Atime, Mtime int64
}

// Apply changes what s asks for, but for the size, in the attributes of a file:
// its mode keeps the type.
func (s *SetAttr) Apply(mode *uint32, uid *auth.KUID, gid *auth.KGID, atime, mtime *int64) {
	if s.Mask&SetMode != 0 {
		*mode = *mode&unix.S_IFMT | s.Mode&0o7777
	}
	if s.Mask&SetUID != 0 {
		*uid = s.UID
	}
	if s.Mask&SetGID != 0 {
		*gid = s.GID
	}
	if s.Mask&SetAtime != 0 {
		*atime = s.Atime
	}
	if s.Mask&SetMtime != 0 {
		*mtime = s.Mtime
	}
}

// NewAttr describes an inode to be made.
type NewAttr struct {
	Mode uint32 // type and permission bits, umask applied
	UID  auth.KUID
	GID  auth.KGID
	Rdev uint64
}

// Inode is a file as a file system provides it. Implementations embed
// InodeBase and are safe for concurrent use. Whatever else an inode can do
// (Directory, Link, Xattrs, ...) is found by assertion.
type Inode interface {
	// Base returns the part that the VFS keeps. The same file always has
	// the same Base as long as anybody uses it.
	Base() *InodeBase
	// Attributes fills a. It is on the path of every stat and permission
	// check: no allocation, no host call where the answer is cached.
	Attributes(ctx Context, a *Attr) error
	// SetAttributes makes a change.
	SetAttributes(ctx Context, s *SetAttr) error
	// Open returns what an open file does: an implementation of any of the
	// interfaces in file.go. flags are those of open(2), access mode
	// included; creation, exclusion and truncation are done by the VFS. It is
	// called for regular files and directories, and for devices, FIFOs and
	// sockets only where the inode implements SpecialOpener. ESTALE: the file
	// has ended since it was looked up.
	Open(ctx Context, p Path, flags uint32) (any, error)
}

// SpecialOpener marks inodes that open by themselves though their mode says
// device, FIFO or socket (/proc/PID/fd, the devpts master).
type SpecialOpener interface{ OpensItself() }

// Directory is an inode that holds names. Names are never empty, "." or ".."
// nor longer than NAME_MAX. The VFS holds the directory's dentry lock: calls on
// one directory don't run at the same time, those that change it not with
// Lookup either. Permissions have been checked and existence too, as far as the
// dentry cache is entitled to know.
type Directory interface {
	Inode
	// Lookup returns the inode called name, or ENOENT.
	Lookup(ctx Context, name string) (Inode, error)
	// Make makes a file of any type but directory and symlink.
	Make(ctx Context, name string, attr *NewAttr) (Inode, error)
	Mkdir(ctx Context, name string, attr *NewAttr) (Inode, error)
	Symlink(ctx Context, name, target string, attr *NewAttr) (Inode, error)
	// Link makes name another name of target, an inode of the same file system.
	Link(ctx Context, name string, target Inode) error
	// Unlink removes a name of something that isn't a directory, Rmdir an
	// empty directory (ENOTEMPTY).
	Unlink(ctx Context, name string, victim Inode) error
	Rmdir(ctx Context, name string, victim Inode) error
	// Rename moves old, called oldName here, to newName in dir, which may be
	// this directory and is of the same file system. replaced is what newName
	// was, or nil. flags are those of renameat2(2): RENAME_NOREPLACE has been
	// dealt with; with RENAME_EXCHANGE the two change places.
	Rename(ctx Context, oldName string, old Inode, dir Directory, newName string, replaced Inode, flags uint32) error
}

// CreateOpener is a Directory that makes and opens a regular file in one go.
type CreateOpener interface {
	// CreateOpen does what Make and Open do. parent is the directory.
	CreateOpen(ctx Context, name string, attr *NewAttr, flags uint32) (Inode, any, error)
}

// TmpfileMaker is a Directory that makes files without a name (O_TMPFILE).
type TmpfileMaker interface {
	Tmpfile(ctx Context, attr *NewAttr) (Inode, error)
}

// Revalidator is a Directory of a file system with the policy Revalidate.
type Revalidator interface {
	// Revalidate reports whether name is still child (nil: still missing).
	Revalidate(ctx Context, name string, child Inode) bool
}

// Pinner is an inode that ends with its last name and its last open file. Pin
// and Unpin count what keeps it without opening it (O_PATH); Pin reports false if
// it has ended, and counts nothing.
type Pinner interface {
	Pin() bool
	Unpin()
}

// Ephemeral marks inodes of which no dentry is kept (/proc/PID).
type Ephemeral interface{ Ephemeral() }

// Link is a symbolic link.
type Link interface {
	Readlink(ctx Context) (string, error)
}

// MagicLink is a link that leads to a place rather than a name: the links in
// /proc/PID/fd, exe, cwd, root. It is a Link too, for readlink(2).
type MagicLink interface {
	Link
	Target(ctx Context) (Path, error)
}

// Xattrs is an inode with extended attributes (xattr(7)). Names come with their
// prefix; permissions have been checked.
type Xattrs interface {
	GetXattr(ctx Context, name string) ([]byte, error)
	// SetXattr takes flags of setxattr(2).
	SetXattr(ctx Context, name string, value []byte, flags uint32) error
	ListXattr(ctx Context) ([]string, error)
	RemoveXattr(ctx Context, name string) error
}

// InodeBase is what the VFS keeps for each inode. The zero value is ready.
type InodeBase struct {
	mu locks.Mutex[locks.Leaf]
	// attachments: a FIFO's pipe, a bound socket, file locks, watches. Keyed by
	// the packages that own them.
	attached map[any]any
	// watched counts inotify watches, so that events cost nothing elsewhere.
	watched atomic.Int32
	// opens counts open files, and gone is set when the last name is removed
	// meanwhile: IN_DELETE_SELF comes when both are over (inotify(7)).
	opens atomic.Int64
	gone  atomic.Bool
	// linkable: made by O_TMPFILE without O_EXCL, it may get its first name.
	linkable atomic.Bool
	// writers counts open-for-write minus executions: positive while written,
	// negative while executed (ETXTBSY).
	writers atomic.Int64
}

// Base implements Inode.
func (b *InodeBase) Base() *InodeBase { return b }

// Attachment returns what is stored under key, after storing what make returns
// if there is nothing. make may be nil. It runs with the base's lock held.
func (b *InodeBase) Attachment(key any, make func() any) any {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.attached[key]
	if v == nil && make != nil {
		if v = make(); v != nil {
			if b.attached == nil {
				b.attached = map[any]any{}
			}
			b.attached[key] = v
		}
	}
	return v
}

// Detach removes what is stored under key if it is still v.
func (b *InodeBase) Detach(key, v any) {
	b.mu.Lock()
	if b.attached[key] == v {
		delete(b.attached, key)
	}
	b.mu.Unlock()
}

// GetWrite counts an opening for writing; ETXTBSY while the file is executed.
func (b *InodeBase) GetWrite() error { return b.count(1) }

// DenyWrite counts an execution; ETXTBSY while the file is open for writing.
func (b *InodeBase) DenyWrite() error { return b.count(-1) }

func (b *InodeBase) count(by int64) error {
	for {
		n := b.writers.Load()
		if n*by < 0 {
			return unix.ETXTBSY
		}
		if b.writers.CompareAndSwap(n, n+by) {
			return nil
		}
	}
}

// PutWrite takes GetWrite back, AllowWrite DenyWrite.
func (b *InodeBase) PutWrite()   { b.writers.Add(-1) }
func (b *InodeBase) AllowWrite() { b.writers.Add(1) }

// Permission is what access to a file asks for.
type Permission uint32

// Bits as in access(2).
const (
	MayExec  Permission = 1
	MayWrite Permission = 2
	MayRead  Permission = 4
)

// CheckPermission decides as Linux's generic_permission does (path_resolution(7),
// "Permissions"): EACCES where c may not do what is asked to a file with
// attributes a.
func CheckPermission(c *auth.Credentials, a *Attr, want Permission) error {
	bits := a.Mode
	switch {
	case c.FSUID == a.UID:
		bits >>= 6
	case c.InGroup(a.GID):
		bits >>= 3
	}
	if Permission(bits)&want == want {
		return nil
	}
	if a.IsDir() {
		if want&MayWrite == 0 && c.HasCapOverFile(unix.CAP_DAC_READ_SEARCH, a.UID, a.GID) {
			return nil
		}
		if c.HasCapOverFile(unix.CAP_DAC_OVERRIDE, a.UID, a.GID) {
			return nil
		}
		return unix.EACCES
	}
	if want == MayRead && c.HasCapOverFile(unix.CAP_DAC_READ_SEARCH, a.UID, a.GID) {
		return nil
	}
	if (want&MayExec == 0 || a.Mode&0o111 != 0) && c.HasCapOverFile(unix.CAP_DAC_OVERRIDE, a.UID, a.GID) {
		return nil
	}
	return unix.EACCES
}

// IsOwner reports whether c may change what only the owner may: it owns the
// file or has CAP_FOWNER over it.
func IsOwner(c *auth.Credentials, a *Attr) bool {
	return c.FSUID == a.UID || c.HasCapOverFile(unix.CAP_FOWNER, a.UID, a.GID)
}

// StaticDirectory gives a Directory of a read-only file system the errors for
// all that would change it.
type StaticDirectory struct{}

func (StaticDirectory) Make(Context, string, *NewAttr) (Inode, error)  { return nil, unix.EPERM }
func (StaticDirectory) Mkdir(Context, string, *NewAttr) (Inode, error) { return nil, unix.EPERM }
func (StaticDirectory) Symlink(Context, string, string, *NewAttr) (Inode, error) {
	return nil, unix.EPERM
}
func (StaticDirectory) Link(Context, string, Inode) error   { return unix.EPERM }
func (StaticDirectory) Unlink(Context, string, Inode) error { return unix.EPERM }
func (StaticDirectory) Rmdir(Context, string, Inode) error  { return unix.EPERM }
func (StaticDirectory) Rename(Context, string, Inode, Directory, string, Inode, uint32) error {
	return unix.EPERM
}
