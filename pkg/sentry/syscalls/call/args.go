package call

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// The types of arguments. Each decodes from a register by conversion, and
// prints itself for the log.
type (
	// FD is a file descriptor; DirFD one that may be AT_FDCWD.
	FD    int32
	DirFD int32
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
type printer interface{ Print(t *kernel.Task) string }

func arg[A integer]() argument {
	return func(t *kernel.Task, v uint64) string {
		a := A(v)
		if p, ok := any(a).(printer); ok {
			return p.Print(t)
		}
		if _, ok := any(a).(usermem.Addr); ok {
			if v == 0 {
				return "NULL"
			}
			return "0x" + strconv.FormatUint(v, 16)
		}
		return fmt.Sprint(a)
	}
}

// Print shows the descriptor, AT_FDCWD by its name.
func (f DirFD) Print(*kernel.Task) string {
	if f == unix.AT_FDCWD {
		return "AT_FDCWD"
	}
	return strconv.Itoa(int(f))
}

// Print shows the path, or its address where there is none to read.
func (p PathPtr) Print(t *kernel.Task) string {
	s, err := usermem.CopyInString(t.MM(), usermem.Addr(p), vfs.PathMax)
	if err != nil {
		return "0x" + strconv.FormatUint(uint64(p), 16)
	}
	return strconv.Quote(s)
}

// Print shows the mode in octal.
func (m Mode) Print(*kernel.Task) string { return "0" + strconv.FormatUint(uint64(m), 8) }

// Print shows the flags in hexadecimal.
func (f OpenFlags) Print(*kernel.Task) string { return "0x" + strconv.FormatUint(uint64(f), 16) }

// Print shows the flags in hexadecimal.
func (f AtFlags) Print(*kernel.Task) string { return "0x" + strconv.FormatUint(uint64(f), 16) }

// peek is Read, with the string in the task's room for it if it fits: it is good
// only until the next, and mustn't be kept.
func (p PathPtr) peek(t *kernel.Task) (string, error) {
	room := t.PathRoom()
	n, ended, err := t.MM().CopyInString(usermem.Addr(p), room[:])
	if err != nil {
		return "", err
	}
	if !ended {
		return p.readLong(t)
	}
	return first(room, n), nil
}

func (p PathPtr) readLong(t *kernel.Task) (string, error) {
	return usermem.CopyInString(t.MM(), usermem.Addr(p), vfs.PathMax)
}

// Read reads the string at p: EFAULT, ENAMETOOLONG beyond PATH_MAX. An empty one
// is for the walk to refuse.
func (p PathPtr) Read(t *kernel.Task) (string, error) {
	s, err := p.peek(t)
	return strings.Clone(s), err
}

// View returns from where path is resolved: EBADF, ENOTDIR. An empty path is
// the descriptor itself.
func (d DirFD) View(t *kernel.Task, path string) (vfs.FSView, error) {
	v := t.View()
	if d == unix.AT_FDCWD || path != "" && path[0] == '/' {
		return v, nil
	}
	f, err := FD(d).Use(t)
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

// Resolve reads and resolves a path.
func (d DirFD) Resolve(t *kernel.Task, p PathPtr, flags vfs.WalkFlags) (vfs.Path, error) {
	s, err := p.peek(t)
	if err != nil {
		return vfs.Path{}, err
	}
	v, err := d.View(t, s)
	if err != nil {
		return vfs.Path{}, err
	}
	return vfs.Resolve(t, v, s, flags)
}

// OpenExisting opens what is at a path, with flags of open(2) that make no file.
func (d DirFD) OpenExisting(t *kernel.Task, p PathPtr, flags OpenFlags) (*vfs.File, error) {
	s, err := p.peek(t)
	if err != nil {
		return nil, err
	}
	v, err := d.View(t, s)
	if err != nil {
		return nil, err
	}
	return t.Kernel().Opener.OpenExisting(t, v, s, uint32(flags))
}

// PathOf reads a path and returns it with its view.
func (d DirFD) PathOf(t *kernel.Task, p PathPtr) (vfs.FSView, string, error) {
	s, err := p.Read(t)
	if err != nil {
		return vfs.FSView{}, "", err
	}
	v, err := d.View(t, s)
	return v, s, err
}

// CWD is where the calls without a dirfd start.
const CWD = DirFD(unix.AT_FDCWD)

// Walk turns AT_* flags into those of a walk: EINVAL for any but allowed.
func (f AtFlags) Walk(allowed AtFlags) (vfs.WalkFlags, error) {
	if f&^allowed != 0 {
		return 0, unix.EINVAL
	}
	var w vfs.WalkFlags
	if allowed&unix.AT_SYMLINK_FOLLOW != 0 {
		if f&unix.AT_SYMLINK_FOLLOW != 0 {
			w |= vfs.FollowFinal
		}
	} else if f&unix.AT_SYMLINK_NOFOLLOW == 0 {
		w |= vfs.FollowFinal
	}
	if f&unix.AT_EMPTY_PATH != 0 {
		w |= vfs.AllowEmpty
	}
	return w, nil
}

// LockLimit is how much memory the task may lock, in bytes.
func LockLimit(t *kernel.Task) uint64 {
	if t.Credentials().HasRootCap(unix.CAP_IPC_LOCK) {
		return mm.NoLimit
	}
	return t.ThreadGroup().Limits().Soft(limits.LockedMemory)
}

// KUID maps an id that the application gives: EINVAL where there is no mapping.
// -1 stays NoID.
func KUID(t *kernel.Task, id uint32) (auth.KUID, error) {
	if id == auth.NoID {
		return auth.KUID(auth.NoID), nil
	}
	k, ok := t.Credentials().UserNS.KUID(id)
	if !ok {
		return 0, unix.EINVAL
	}
	return k, nil
}

// KGID is KUID for groups.
func KGID(t *kernel.Task, id uint32) (auth.KGID, error) {
	if id == auth.NoID {
		return auth.KGID(auth.NoID), nil
	}
	k, ok := t.Credentials().UserNS.KGID(id)
	if !ok {
		return 0, unix.EINVAL
	}
	return k, nil
}

// ReadSignalSet reads a sigset_t of size bytes: EINVAL unless that is the
// kernel's.
func ReadSignalSet(t *kernel.Task, a usermem.Addr, size Size) (signals.Set, error) {
	if size != 8 {
		return 0, unix.EINVAL
	}
	v, err := usermem.CopyInUint64(t.MM(), a)
	return signals.Set(v), err
}
