package files

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var xattrRows = []call.Row{
	call.Full(unix.SYS_SETXATTR, "setxattr", call.Args5(setxattr)),
	call.Full(unix.SYS_LSETXATTR, "lsetxattr", call.Args5(lsetxattr)),
	call.Full(unix.SYS_FSETXATTR, "fsetxattr", call.Args5(fsetxattr)),
	call.Full(unix.SYS_GETXATTR, "getxattr", call.Args4(getxattr)),
	call.Full(unix.SYS_LGETXATTR, "lgetxattr", call.Args4(lgetxattr)),
	call.Full(unix.SYS_FGETXATTR, "fgetxattr", call.Args4(fgetxattr)),
	call.Full(unix.SYS_LISTXATTR, "listxattr", call.Args3(listxattr)),
	call.Full(unix.SYS_LLISTXATTR, "llistxattr", call.Args3(llistxattr)),
	call.Full(unix.SYS_FLISTXATTR, "flistxattr", call.Args3(flistxattr)),
	call.Full(unix.SYS_REMOVEXATTR, "removexattr", call.Args2(removexattr)),
	call.Full(unix.SYS_LREMOVEXATTR, "lremovexattr", call.Args2(lremovexattr)),
	call.Full(unix.SYS_FREMOVEXATTR, "fremovexattr", call.Args2(fremovexattr)),
}

// Limits of xattr(7), in bytes.
const (
	xattrNameMax = 255
	xattrSizeMax = 65536
	xattrListMax = 65536
)

// xattrName reads the name of an attribute: ERANGE if it is empty or too long.
func xattrName(t *kernel.Task, a usermem.Addr) (string, error) {
	s, err := usermem.CopyInString(t.MM(), a, xattrNameMax+1)
	if err == unix.ENAMETOOLONG || err == nil && s == "" {
		err = unix.ERANGE
	}
	return s, err
}

// atPath and atFD do f with the place that the call is about.
func atPath(t *kernel.Task, p call.PathPtr, follow vfs.WalkFlags, f func(at vfs.Path) (uint64, error)) (uint64, error) {
	at, err := call.CWD.Resolve(t, p, follow)
	if err != nil {
		return 0, err
	}
	return f(at)
}

func atFD(t *kernel.Task, fd call.FD, f func(at vfs.Path) (uint64, error)) (uint64, error) {
	file, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer file.DecRef()
	return f(file.Path())
}

func setXattr(t *kernel.Task, name, value usermem.Addr, size call.Size, flags uint32) func(vfs.Path) (uint64, error) {
	return func(at vfs.Path) (uint64, error) {
		if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
			return 0, unix.EINVAL
		}
		s, err := xattrName(t, name)
		if err != nil {
			return 0, err
		}
		if size > xattrSizeMax {
			return 0, unix.E2BIG
		}
		b := make([]byte, size)
		if _, err := t.MM().CopyIn(value, b); err != nil {
			return 0, err
		}
		return 0, vfs.SetXattr(t, at, s, b, flags)
	}
}

// putBounded writes b where there is room for size bytes: ERANGE if that is too
// little, only the length if it is zero.
func putBounded(t *kernel.Task, a usermem.Addr, size call.Size, b []byte) (uint64, error) {
	switch {
	case size == 0:
		return uint64(len(b)), nil
	case uint64(len(b)) > uint64(size):
		return 0, unix.ERANGE
	}
	_, err := t.MM().CopyOut(a, b)
	return uint64(len(b)), err
}

func getXattr(t *kernel.Task, name, value usermem.Addr, size call.Size) func(vfs.Path) (uint64, error) {
	return func(at vfs.Path) (uint64, error) {
		s, err := xattrName(t, name)
		if err != nil {
			return 0, err
		}
		b, err := vfs.GetXattr(t, at, s)
		if err != nil {
			return 0, err
		}
		return putBounded(t, value, min(size, xattrSizeMax), b)
	}
}

func listXattr(t *kernel.Task, list usermem.Addr, size call.Size) func(vfs.Path) (uint64, error) {
	return func(at vfs.Path) (uint64, error) {
		names, err := vfs.ListXattr(t, at)
		if err != nil {
			return 0, err
		}
		var b []byte
		for _, n := range names {
			b = append(append(b, n...), 0)
		}
		if len(b) > xattrListMax {
			return 0, unix.E2BIG
		}
		return putBounded(t, list, size, b)
	}
}

func removeXattr(t *kernel.Task, name usermem.Addr) func(vfs.Path) (uint64, error) {
	return func(at vfs.Path) (uint64, error) {
		s, err := xattrName(t, name)
		if err != nil {
			return 0, err
		}
		return 0, vfs.RemoveXattr(t, at, s)
	}
}

func setxattr(t *kernel.Task, p call.PathPtr, name, value usermem.Addr, size call.Size, flags uint32) (uint64, error) {
	return atPath(t, p, vfs.FollowFinal, setXattr(t, name, value, size, flags))
}

func lsetxattr(t *kernel.Task, p call.PathPtr, name, value usermem.Addr, size call.Size, flags uint32) (uint64, error) {
	return atPath(t, p, 0, setXattr(t, name, value, size, flags))
}

func fsetxattr(t *kernel.Task, fd call.FD, name, value usermem.Addr, size call.Size, flags uint32) (uint64, error) {
	return atFD(t, fd, setXattr(t, name, value, size, flags))
}

func getxattr(t *kernel.Task, p call.PathPtr, name, value usermem.Addr, size call.Size) (uint64, error) {
	return atPath(t, p, vfs.FollowFinal, getXattr(t, name, value, size))
}

func lgetxattr(t *kernel.Task, p call.PathPtr, name, value usermem.Addr, size call.Size) (uint64, error) {
	return atPath(t, p, 0, getXattr(t, name, value, size))
}

func fgetxattr(t *kernel.Task, fd call.FD, name, value usermem.Addr, size call.Size) (uint64, error) {
	return atFD(t, fd, getXattr(t, name, value, size))
}

func listxattr(t *kernel.Task, p call.PathPtr, list usermem.Addr, size call.Size) (uint64, error) {
	return atPath(t, p, vfs.FollowFinal, listXattr(t, list, size))
}

func llistxattr(t *kernel.Task, p call.PathPtr, list usermem.Addr, size call.Size) (uint64, error) {
	return atPath(t, p, 0, listXattr(t, list, size))
}

func flistxattr(t *kernel.Task, fd call.FD, list usermem.Addr, size call.Size) (uint64, error) {
	return atFD(t, fd, listXattr(t, list, size))
}

func removexattr(t *kernel.Task, p call.PathPtr, name usermem.Addr) (uint64, error) {
	return atPath(t, p, vfs.FollowFinal, removeXattr(t, name))
}

func lremovexattr(t *kernel.Task, p call.PathPtr, name usermem.Addr) (uint64, error) {
	return atPath(t, p, 0, removeXattr(t, name))
}

func fremovexattr(t *kernel.Task, fd call.FD, name usermem.Addr) (uint64, error) {
	return atFD(t, fd, removeXattr(t, name))
}
