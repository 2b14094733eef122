package syscalls

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// The types of arguments. Each decodes from a register by conversion, and
// prints itself for the log.
type (
	// FD is a file descriptor; DirFD one that may be AT_FDCWD.
	FD    int32
	DirFD int32
	// Addr is an address in the application's memory; zero is NULL.
	Addr = usermem.Addr
	// PathPtr points to a NUL-terminated path.
	PathPtr usermem.Addr
	// OpenFlags are those of open(2), AtFlags the AT_* flags.
	OpenFlags uint32
	AtFlags   uint32
	// Mode is a file mode.
	Mode uint32
	// Size is a size_t.
	Size uint64
	// Signo is a signal number, PID a process or thread.
	Signo int32
	PID   int32
)

// argument prints a register's value.
type argument func(t *kernel.Task, v uint64) string

// printer is what a type of arguments can do to be shown better than as a
// number.
type printer interface{ print(t *kernel.Task) string }

func arg[A integer]() argument {
	return func(t *kernel.Task, v uint64) string {
		a := A(v)
		if p, ok := any(a).(printer); ok {
			return p.print(t)
		}
		if _, ok := any(a).(Addr); ok {
			if v == 0 {
				return "NULL"
			}
			return "0x" + strconv.FormatUint(v, 16)
		}
		return fmt.Sprint(a)
	}
}

func (f DirFD) print(*kernel.Task) string {
	if f == unix.AT_FDCWD {
		return "AT_FDCWD"
	}
	return strconv.Itoa(int(f))
}

func (p PathPtr) print(t *kernel.Task) string {
	s, err := usermem.CopyInString(t.MM(), Addr(p), vfs.PathMax)
	if err != nil {
		return "0x" + strconv.FormatUint(uint64(p), 16)
	}
	return strconv.Quote(s)
}

func (m Mode) print(*kernel.Task) string { return "0" + strconv.FormatUint(uint64(m), 8) }

func (f OpenFlags) print(*kernel.Task) string { return "0x" + strconv.FormatUint(uint64(f), 16) }
func (f AtFlags) print(*kernel.Task) string   { return "0x" + strconv.FormatUint(uint64(f), 16) }

// path reads the string at p: ENAMETOOLONG beyond PATH_MAX, EFAULT, or ENOENT
// for an empty one are for the walk.
func (p PathPtr) read(t *kernel.Task) (string, error) {
	return usermem.CopyInString(t.MM(), Addr(p), vfs.PathMax)
}

// view returns from where a path given with dirfd is resolved. The returned
// function releases what it holds.
func (d DirFD) view(t *kernel.Task, path string) (vfs.FSView, error) {
	v := t.FS().View()
	if d == unix.AT_FDCWD || path != "" && path[0] == '/' {
		return v, nil
	}
	f, err := t.FDs().Get(int32(d))
	if err != nil {
		return v, err
	}
	v.Start = f.Path()
	f.DecRef()
	if path != "" {
		if _, ok := v.Start.Inode().(vfs.Directory); !ok {
			return v, unix.ENOTDIR
		}
	}
	return v, nil
}

// resolve reads and resolves a path.
func (d DirFD) resolve(t *kernel.Task, p PathPtr, flags vfs.WalkFlags) (vfs.Path, error) {
	s, err := p.read(t)
	if err != nil {
		return vfs.Path{}, err
	}
	v, err := d.view(t, s)
	if err != nil {
		return vfs.Path{}, err
	}
	return vfs.Resolve(t, v, s, flags)
}

// pathOf reads a path and returns it with its view.
func (d DirFD) pathOf(t *kernel.Task, p PathPtr) (vfs.FSView, string, error) {
	s, err := p.read(t)
	if err != nil {
		return vfs.FSView{}, "", err
	}
	v, err := d.view(t, s)
	return v, s, err
}

// file returns the open file: EBADF.
func (f FD) file(t *kernel.Task) (*vfs.File, error) { return t.FDs().Get(int32(f)) }

// ioFile is file for calls that O_PATH descriptors refuse.
func (f FD) ioFile(t *kernel.Task) (*vfs.File, error) {
	file, err := t.FDs().Get(int32(f))
	if err == nil && file.PathOnly() {
		file.DecRef()
		return nil, unix.EBADF
	}
	return file, err
}

// maxRW is how much one call reads or writes at the most (MAX_RW_COUNT).
const maxRW = 0x7ffff000

// buffer returns the memory of a read or write call: EFAULT where it isn't all
// in the application's half.
func buffer(t *kernel.Task, a Addr, n Size) (usermem.Buffer, error) {
	// All of it must be there, though only a part may be used.
	if r, ok := a.Range(uint64(n)); n != 0 && (!ok || r.End > t.MM().Bounds().End) {
		return usermem.Buffer{}, unix.EFAULT
	}
	r, _ := a.Range(min(uint64(n), maxRW))
	return usermem.SingleBuffer(t.MM(), r), nil
}

// ioVector reads an array of struct iovec (readv(2)).
func ioVector(t *kernel.Task, a Addr, count int32) (usermem.Buffer, error) {
	if count < 0 || count > 1024 {
		return usermem.Buffer{}, unix.EINVAL
	}
	raw := make([]byte, 16*count)
	if _, err := t.MM().CopyIn(a, raw); err != nil {
		return usermem.Buffer{}, err
	}
	rs := make([]usermem.AddrRange, 0, count)
	var total uint64
	for i := range int(count) {
		base, n := Addr(le64(raw[16*i:])), le64(raw[16*i+8:])
		if int64(n) < 0 {
			return usermem.Buffer{}, unix.EINVAL
		}
		n = min(n, maxRW-total)
		r, ok := base.Range(n)
		if n > 0 && (!ok || r.End > t.MM().Bounds().End) {
			return usermem.Buffer{}, unix.EFAULT
		}
		total += n
		rs = append(rs, r)
	}
	return usermem.VectorBuffer(t.MM(), rs), nil
}
