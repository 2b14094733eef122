// Package fstest runs the same file-system calls against a vfs.Filesystem and
// against a directory of the host, whose Linux is the oracle, and compares what
// they answer. It is for tests only.
//
// A System is either of the two; Calls with equal arguments return equal text.
package fstest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Context is a task of the superuser without an address space.
type Context struct{ Cred *auth.Credentials }

// NewContext returns one, with an account of its own that has no limit.
func NewContext() *Context {
	cred := auth.NewRoot(auth.NewRootUserNamespace())
	if f, err := memory(); err == nil {
		cred.Account, _ = f.NewAccount("context", 0)
	}
	return &Context{cred}
}

func (c *Context) Credentials() *auth.Credentials { return c.Cred }
func (*Context) Memory() usermem.Memory           { return nil }
func (*Context) Block(*waiter.Token) error        { return unix.EINTR }
func (*Context) FileSizeLimit() uint64            { return math.MaxUint64 }
func (*Context) FileSizeExceeded()                {}
func (*Context) ThreadGroupID() int32             { return 1 }

// Overtaken is a task that another one overtakes: when it is asked for its
// credentials and was N times before, Then is called.
type Overtaken struct {
	vfs.Context
	N    int
	Then func()
}

// Credentials implements vfs.Context.
func (c *Overtaken) Credentials() *auth.Credentials {
	if c.N--; c.N == -1 {
		c.Then()
	}
	return c.Context.Credentials()
}

// Early reports whether the task was done before Then was called.
func (c *Overtaken) Early() bool { return c.N >= 0 }

// OpenWhileReplaced opens the file "a" while a rename puts another in its place,
// at one moment after the other: the name is there at any time, so that open finds
// one of the two. With O_CREAT it does so even when the file is unlinked.
func OpenWhileReplaced(t *testing.T, start func() *VFS) {
	t.Helper()
	for _, flags := range []uint32{unix.O_RDONLY, unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC, unix.O_PATH, unix.O_RDWR | unix.O_CREAT} {
		for _, unlink := range []bool{false, true} {
			if unlink && flags&unix.O_CREAT == 0 {
				continue
			}
			moments := 0
			for ; ; moments++ {
				s := start()
				for _, name := range []string{"a", "other"} {
					f, err := s.Open(name, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY, 0o600)
					if err != nil {
						t.Fatal(err)
					}
					f.Write(name)
					f.Close()
				}
				ctx := &Overtaken{Context: s.Ctx, N: moments, Then: func() {
					err := s.Rename("other", "a", 0)
					if unlink {
						err = s.Unlink("a")
					}
					if err != nil {
						t.Error(err)
					}
				}}
				f, err := s.Opener.Open(ctx, s.View(), "a", flags, 0o600, 0)
				if err != nil {
					t.Errorf("flags %#x, moment %d: %v", flags, moments, err)
				} else {
					if flags&(unix.O_PATH|unix.O_TRUNC) == 0 {
						got, _ := vfsFile{s, f}.Pread(100, 0)
						if got != "a" && got != "other" && !(unlink && got == "") {
							t.Errorf("flags %#x, moment %d: the file has %q", flags, moments, got)
						}
					}
					f.DecRef()
				}
				if ctx.Early() {
					break
				}
			}
			if moments == 0 {
				t.Errorf("flags %#x: nobody asked for credentials", flags)
			}
		}
	}
}

// memory is one file for all tests: pages of file systems that are garbage go
// back to it whenever the collector finds them.
var memory = sync.OnceValues(memfile.New)

// Memory returns a memory file and an account with limit bytes (zero: any).
func Memory(t testing.TB, limit uint64) (*memfile.File, *memfile.Account) {
	t.Helper()
	f, err := memory()
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.NewAccount("test", limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return f, a
}

// System is where calls are made. Paths are relative to its top. Results are
// text, so that two systems can be compared; an error is its name.
type System interface {
	Open(path string, flags, mode uint32) (File, error)
	Mkdir(path string, mode uint32) error
	Mknod(path string, mode uint32) error
	Symlink(target, path string) error
	Link(old, path string) error
	Unlink(path string) error
	Rmdir(path string) error
	Rename(old, path string, flags uint32) error
	Truncate(path string, size int64) error
	Chmod(path string, mode uint32) error
	Stat(path string) (Stat, error)
	Readlink(path string) (string, error)
	ReadDir(path string) ([]string, error)
	SetXattr(path, name, value string, flags uint32) error
	GetXattr(path, name string) (string, error)
	RemoveXattr(path, name string) error
}

// File is an open file of a System.
type File interface {
	Read(n int) (string, error)
	Write(data string) (int, error)
	Pread(n int, off int64) (string, error)
	Pwrite(data string, off int64) (int, error)
	Seek(off int64, whence int) (int64, error)
	Truncate(size int64) error
	Allocate(mode uint32, off, n int64) error
	Stat() (Stat, error)
	Close()
}

// Stat is what can be compared.
type Stat struct {
	Mode  uint32
	Nlink uint32
	Size  int64
	Ino   uint64
	Dev   uint64
	UID   uint32
}

// Text returns what two systems should agree on.
func (s Stat) Text() string {
	if s.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Sprintf("%o nlink %d uid %d", s.Mode, s.Nlink, s.UID)
	}
	return fmt.Sprintf("%o nlink %d size %d uid %d", s.Mode, s.Nlink, s.Size, s.UID)
}

// VFS is a System over a vfs.Filesystem.
type VFS struct {
	Ctx    vfs.Context
	NS     *vfs.MountNamespace
	Opener vfs.Opener
}

// New returns a System with fs as its root.
func New(fs *vfs.Filesystem) *VFS {
	return &VFS{Opener: vfs.Opener{Special: noSpecial{}}, Ctx: NewContext(), NS: vfs.NewMountNamespace(fs, "test", vfs.MountRelatime)}
}

// noSpecial is a system without devices.
type noSpecial struct{}

func (noSpecial) OpenFIFO(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }
func (noSpecial) OpenDevice(vfs.Context, vfs.Path, bool, uint64, uint32) (any, *vfs.File, error) {
	return nil, nil, unix.ENXIO
}

// View is where paths start.
func (s *VFS) View() vfs.FSView { return vfs.FSView{Root: s.NS.Root(), Start: s.NS.Root()} }

// OpenFile opens a file.
func (s *VFS) OpenFile(path string, flags, mode uint32) (*vfs.File, error) {
	return s.Opener.Open(s.Ctx, s.View(), path, flags, mode, 0)
}

// Resolve returns the place of path.
func (s *VFS) Resolve(path string, follow bool) (vfs.Path, error) {
	var fl vfs.WalkFlags
	if follow {
		fl = vfs.FollowFinal
	}
	return vfs.Resolve(s.Ctx, s.View(), path, fl)
}

type vfsFile struct {
	s *VFS
	f *vfs.File
}

// VFSFile returns the vfs.File behind a File of a VFS.
func VFSFile(f File) *vfs.File { return f.(vfsFile).f }

func (s *VFS) Open(path string, flags, mode uint32) (File, error) {
	f, err := s.OpenFile(path, flags, mode)
	if err != nil {
		return nil, err
	}
	return vfsFile{s, f}, nil
}
func (s *VFS) Mkdir(p string, mode uint32) error { return vfs.Mkdir(s.Ctx, s.View(), p, mode) }
func (s *VFS) Mknod(p string, mode uint32) error {
	_, err := vfs.Mknod(s.Ctx, s.View(), p, mode, 0)
	return err
}
func (s *VFS) Symlink(target, p string) error { return vfs.Symlink(s.Ctx, s.View(), target, p) }
func (s *VFS) Link(old, p string) error {
	o, err := s.Resolve(old, false)
	if err != nil {
		return err
	}
	return vfs.LinkPath(s.Ctx, o, s.View(), p)
}
func (s *VFS) Unlink(p string) error { return vfs.Unlink(s.Ctx, s.View(), p) }
func (s *VFS) Rmdir(p string) error  { return vfs.Rmdir(s.Ctx, s.View(), p) }
func (s *VFS) Rename(old, p string, flags uint32) error {
	return vfs.Rename(s.Ctx, s.View(), old, s.View(), p, flags)
}
func (s *VFS) Truncate(p string, size int64) error {
	o, err := s.Resolve(p, true)
	if err != nil {
		return err
	}
	return vfs.Truncate(s.Ctx, o, nil, size)
}
func (s *VFS) Chmod(p string, mode uint32) error {
	o, err := s.Resolve(p, true)
	if err != nil {
		return err
	}
	return vfs.Chmod(s.Ctx, o, mode)
}

func statOf(a *vfs.Attr) Stat {
	return Stat{a.Mode, a.Nlink, a.Size, a.Ino, a.Dev, uint32(a.UID)}
}
func (s *VFS) Stat(p string) (Stat, error) {
	var a vfs.Attr
	o, err := s.Resolve(p, false)
	if err == nil {
		err = o.Inode().Attributes(s.Ctx, &a)
	}
	return statOf(&a), err
}
func (s *VFS) Readlink(p string) (string, error) {
	o, err := s.Resolve(p, false)
	if err != nil {
		return "", err
	}
	l, ok := o.Inode().(vfs.Link)
	if !ok {
		return "", unix.EINVAL
	}
	return l.Readlink(s.Ctx)
}
func (s *VFS) ReadDir(p string) ([]string, error) {
	f, err := s.OpenFile(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.DecRef()
	var names []string
	// A few at a time: cookies must work.
	for {
		n := 0
		err := f.ReadDir(s.Ctx, func(e vfs.DirEntry) bool {
			if n == 3 {
				return false
			}
			n++
			names = append(names, fmt.Sprintf("%s %d", e.Name, e.Type))
			if e.Name != ".." {
				if st, err := s.Stat(p + "/" + e.Name); err != nil || st.Ino != e.Ino {
					names = append(names, fmt.Sprintf("%s: inode %d in readdir, %d in stat (%v)", e.Name, e.Ino, st.Ino, err))
				}
			}
			return true
		})
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
	}
	slices.Sort(names)
	return names, nil
}
func (s *VFS) SetXattr(p, name, value string, flags uint32) error {
	o, err := s.Resolve(p, false)
	if err != nil {
		return err
	}
	return vfs.SetXattr(s.Ctx, o, name, []byte(value), flags)
}
func (s *VFS) GetXattr(p, name string) (string, error) {
	o, err := s.Resolve(p, false)
	if err != nil {
		return "", err
	}
	v, err := vfs.GetXattr(s.Ctx, o, name)
	return string(v), err
}
func (s *VFS) RemoveXattr(p, name string) error {
	o, err := s.Resolve(p, false)
	if err != nil {
		return err
	}
	return vfs.RemoveXattr(s.Ctx, o, name)
}

func (f vfsFile) Read(n int) (string, error) {
	b := make([]byte, n)
	buf := usermem.BytesBuffer(b)
	got, err := f.f.Read(f.s.Ctx, &buf)
	return string(b[:got]), err
}
func (f vfsFile) Write(data string) (int, error) {
	buf := usermem.BytesBuffer([]byte(data))
	n, err := f.f.Write(f.s.Ctx, &buf)
	return int(n), err
}
func (f vfsFile) Pread(n int, off int64) (string, error) {
	b := make([]byte, n)
	buf := usermem.BytesBuffer(b)
	got, err := f.f.ReadAt(f.s.Ctx, &buf, off)
	return string(b[:got]), err
}
func (f vfsFile) Pwrite(data string, off int64) (int, error) {
	buf := usermem.BytesBuffer([]byte(data))
	n, err := f.f.WriteAt(f.s.Ctx, &buf, off)
	return int(n), err
}
func (f vfsFile) Seek(off int64, whence int) (int64, error) { return f.f.Seek(f.s.Ctx, off, whence) }
func (f vfsFile) Truncate(size int64) error                 { return vfs.Truncate(f.s.Ctx, f.f.Path(), f.f, size) }
func (f vfsFile) Allocate(mode uint32, off, n int64) error {
	if off < 0 || n <= 0 {
		return unix.EINVAL
	}
	if !f.f.Writable() {
		return unix.EBADF
	}
	a, ok := f.f.Impl().(vfs.Allocator)
	if !ok {
		return unix.ENODEV
	}
	return a.Allocate(f.s.Ctx, mode, off, n)
}
func (f vfsFile) Stat() (Stat, error) {
	var a vfs.Attr
	err := f.f.Stat(f.s.Ctx, &a)
	return statOf(&a), err
}
func (f vfsFile) Close() { f.f.DecRef() }

// Host is a System over a directory of the host.
type Host struct{ Dir string }

type hostFile int

func (h Host) p(p string) string { return h.Dir + "/" + p }
func (h Host) Open(p string, flags, mode uint32) (File, error) {
	fd, err := unix.Open(h.p(p), int(flags), mode)
	return hostFile(fd), err
}
func (h Host) Mkdir(p string, mode uint32) error   { return unix.Mkdir(h.p(p), mode) }
func (h Host) Mknod(p string, mode uint32) error   { return unix.Mknod(h.p(p), mode, 0) }
func (h Host) Symlink(target, p string) error      { return unix.Symlink(target, h.p(p)) }
func (h Host) Link(old, p string) error            { return unix.Link(h.p(old), h.p(p)) }
func (h Host) Unlink(p string) error               { return unix.Unlink(h.p(p)) }
func (h Host) Rmdir(p string) error                { return unix.Rmdir(h.p(p)) }
func (h Host) Truncate(p string, size int64) error { return unix.Truncate(h.p(p), size) }
func (h Host) Chmod(p string, mode uint32) error   { return unix.Chmod(h.p(p), mode) }
func (h Host) Rename(old, p string, flags uint32) error {
	return unix.Renameat2(unix.AT_FDCWD, h.p(old), unix.AT_FDCWD, h.p(p), uint(flags))
}
func (h Host) Stat(p string) (Stat, error) {
	var st unix.Stat_t
	err := unix.Lstat(h.p(p), &st)
	return Stat{st.Mode, uint32(st.Nlink), st.Size, st.Ino, st.Dev, st.Uid}, err
}
func (h Host) Readlink(p string) (string, error) {
	var b [4096]byte
	n, err := unix.Readlink(h.p(p), b[:])
	return string(b[:max(n, 0)]), err
}
func (h Host) ReadDir(p string) ([]string, error) {
	fd, err := unix.Open(h.p(p), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var names []string
	buf := make([]byte, 8192)
	for {
		n, err := unix.Getdents(fd, buf)
		if n <= 0 {
			slices.Sort(names)
			return names, err
		}
		for b := buf[:n]; len(b) > 0; {
			reclen := int(b[16]) | int(b[17])<<8
			name, _, _ := strings.Cut(string(b[19:reclen]), "\x00")
			names = append(names, fmt.Sprintf("%s %d", name, b[18]))
			b = b[reclen:]
		}
	}
}
func (h Host) SetXattr(p, name, value string, flags uint32) error {
	return unix.Lsetxattr(h.p(p), name, []byte(value), int(flags))
}
func (h Host) GetXattr(p, name string) (string, error) {
	b := make([]byte, 65536)
	n, err := unix.Lgetxattr(h.p(p), name, b)
	return string(b[:max(n, 0)]), err
}
func (h Host) RemoveXattr(p, name string) error { return unix.Lremovexattr(h.p(p), name) }

func (f hostFile) Read(n int) (string, error) {
	b := make([]byte, n)
	got, err := unix.Read(int(f), b)
	return string(b[:max(got, 0)]), err
}
func (f hostFile) Write(data string) (int, error) {
	n, err := unix.Write(int(f), []byte(data))
	return max(n, 0), err
}
func (f hostFile) Pread(n int, off int64) (string, error) {
	b := make([]byte, n)
	got, err := unix.Pread(int(f), b, off)
	return string(b[:max(got, 0)]), err
}
func (f hostFile) Pwrite(data string, off int64) (int, error) {
	n, err := unix.Pwrite(int(f), []byte(data), off)
	return max(n, 0), err
}
func (f hostFile) Seek(off int64, whence int) (int64, error) {
	n, err := unix.Seek(int(f), off, whence)
	if err != nil {
		n = 0
	}
	return n, err
}
func (f hostFile) Truncate(size int64) error { return unix.Ftruncate(int(f), size) }
func (f hostFile) Allocate(mode uint32, off, n int64) error {
	return unix.Fallocate(int(f), mode, off, n)
}
func (f hostFile) Stat() (Stat, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f), &st)
	return Stat{st.Mode, uint32(st.Nlink), st.Size, st.Ino, st.Dev, st.Uid}, err
}
func (f hostFile) Close() { unix.Close(int(f)) }
