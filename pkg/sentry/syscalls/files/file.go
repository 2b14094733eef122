// Package files has the calls on files: what is done through a descriptor (read,
// write, fcntl, ...), what is done by a path, mounts, extended attributes, and
// what moves bytes between two files.
//
// Rules of files, dentries and mounts are those of package vfs and of the file
// systems; a handler decodes, waits where the file is in blocking mode, and
// encodes. Waiting for several files is package events.
package files

import (
	"encoding/binary"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{fileRows, lockRows, mountRows, openRows, pathRows, pipeRows, xattrRows}

var fileRows = []call.Row{
	call.Full(unix.SYS_READ, "read", call.Args3(read)),
	call.Full(unix.SYS_WRITE, "write", call.Args3(write)),
	call.Full(unix.SYS_PREAD64, "pread64", call.Args4(pread)),
	call.Full(unix.SYS_PWRITE64, "pwrite64", call.Args4(pwrite)),
	call.Full(unix.SYS_READV, "readv", call.Args3(readv)),
	call.Full(unix.SYS_WRITEV, "writev", call.Args3(writev)),
	call.Full(unix.SYS_PREADV, "preadv", call.Args4(preadv)),
	call.Full(unix.SYS_PWRITEV, "pwritev", call.Args4(pwritev)),
	call.Full(unix.SYS_LSEEK, "lseek", call.Args3(lseek)),
	call.Full(unix.SYS_CLOSE, "close", call.Args1(closeFD)),
	call.Full(unix.SYS_DUP, "dup", call.Args1(dup)),
	call.Full(unix.SYS_DUP2, "dup2", call.Args2(dup2)),
	call.Full(unix.SYS_DUP3, "dup3", call.Args3(dup3)),
	call.Partial(unix.SYS_FCNTL, "fcntl", call.Args3(fcntl), "no leases, no directory notifications"),
	call.Full(unix.SYS_IOCTL, "ioctl", call.Args3(ioctl)),
	call.Full(unix.SYS_FSYNC, "fsync", call.Args1(fsync)),
	call.Full(unix.SYS_FDATASYNC, "fdatasync", call.Args1(fdatasync)),
	call.Full(unix.SYS_FTRUNCATE, "ftruncate", call.Args2(ftruncate)),
	call.Full(unix.SYS_FALLOCATE, "fallocate", call.Args4(fallocate)),
	call.Full(unix.SYS_GETDENTS64, "getdents64", call.Args3(getdents64)),
	call.Full(unix.SYS_GETDENTS, "getdents", call.Args3(getdents)),
}

// readResult and writeResult are ioResult for calls that /proc/PID/io counts.
func readResult(t *kernel.Task, n int64, err error) (uint64, error) {
	t.CountRead(uint64(max(n, 0)))
	return ioResult(t, n, err)
}

func writeResult(t *kernel.Task, n int64, err error) (uint64, error) {
	t.CountWrite(uint64(max(n, 0)))
	return ioResult(t, n, err)
}

// ioResult returns what a read or write returns: a partial success hides the
// error; EPIPE sends SIGPIPE.
func ioResult(t *kernel.Task, n int64, err error) (uint64, error) {
	if n > 0 {
		return uint64(n), nil
	}
	if err == unix.EPIPE {
		t.SendSignal(&signals.Info{Signo: int32(unix.SIGPIPE), Code: signals.CodeUser})
	}
	return 0, err
}

// withBuffer returns the file of a read or write call, in use, and
// the memory it is about; withVector that of a call with an array of struct iovec.
func withBuffer(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size) (vfs.InUse, *usermem.Buffer, error) {
	f, err := fd.Use(t)
	if err != nil {
		return f, nil, err
	}
	b, err := call.Buffer(t, a, n)
	if err != nil {
		f.DecRef()
	}
	return f, b, err
}

func withVector(t *kernel.Task, fd call.FD, a usermem.Addr, count int32) (vfs.InUse, *usermem.Buffer, error) {
	f, err := fd.Use(t)
	if err != nil {
		return f, nil, err
	}
	b, err := call.Vector(t, a, count)
	if err != nil {
		f.DecRef()
	}
	return f, b, err
}

func read(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size) (uint64, error) {
	f, b, err := withBuffer(t, fd, a, n)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return readBuffer(t, f.File, b)
}

func write(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size) (uint64, error) {
	f, b, err := withBuffer(t, fd, a, n)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return writeBuffer(t, f.File, b)
}

func pread(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size, off int64) (uint64, error) {
	f, b, err := withBuffer(t, fd, a, n)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return readAt(t, f.File, b, off)
}

func pwrite(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size, off int64) (uint64, error) {
	f, b, err := withBuffer(t, fd, a, n)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return writeAt(t, f.File, b, off)
}

func readv(t *kernel.Task, fd call.FD, a usermem.Addr, count int32) (uint64, error) {
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return readBuffer(t, f.File, b)
}

func writev(t *kernel.Task, fd call.FD, a usermem.Addr, count int32) (uint64, error) {
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return writeBuffer(t, f.File, b)
}

func preadv(t *kernel.Task, fd call.FD, a usermem.Addr, count int32, off int64) (uint64, error) {
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return readAt(t, f.File, b, off)
}

func pwritev(t *kernel.Task, fd call.FD, a usermem.Addr, count int32, off int64) (uint64, error) {
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return writeAt(t, f.File, b, off)
}

// readBuffer reads into b, waiting for the first bytes where the file is in
// blocking mode.
func readBuffer(t *kernel.Task, f *vfs.File, b *usermem.Buffer) (uint64, error) {
	n, err := f.Read(t, b)
	if err != unix.EAGAIN || n != 0 || f.NonBlocking() || !f.Pollable() {
		return readResult(t, n, err)
	}
	err = call.WaitFor(t, f, call.ReadMask, call.IOTimeout(f, false), false, func() (e error) {
		n, e = f.Read(t, b)
		return e
	})
	return readResult(t, n, err)
}

// writeBuffer writes all of b where the file is in blocking mode: a pipe takes
// it in pieces.
func writeBuffer(t *kernel.Task, f *vfs.File, b *usermem.Buffer) (uint64, error) {
	want := b.Len()
	n, err := f.Write(t, b)
	if err == unix.EPIPE && quietPipe(f) {
		t.CountWrite(0)
		return 0, err
	}
	if err == nil && uint64(n) >= want || f.NonBlocking() || !f.Pollable() || err != nil && err != unix.EAGAIN {
		return writeResult(t, n, err)
	}
	done := n
	err = call.WaitFor(t, f, call.WriteMask, call.IOTimeout(f, true), false, func() error {
		n, err := f.Write(t, b)
		done += n
		if err == nil && b.Len() > 0 && n > 0 {
			return unix.EAGAIN
		}
		return err
	})
	return writeResult(t, done, err)
}

func readAt(t *kernel.Task, f *vfs.File, b *usermem.Buffer, off int64) (uint64, error) {
	n, err := f.ReadAt(t, b, off)
	return readResult(t, n, err)
}

func writeAt(t *kernel.Task, f *vfs.File, b *usermem.Buffer, off int64) (uint64, error) {
	n, err := f.WriteAt(t, b, off)
	return writeResult(t, n, err)
}

func lseek(t *kernel.Task, fd call.FD, off int64, whence int32) (uint64, error) {
	f, err := fd.Use(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	n, err := f.Seek(t, off, int(whence))
	return uint64(n), err
}

func closeFD(t *kernel.Task, fd call.FD) (uint64, error) {
	table := t.FDs()
	f, err := table.Remove(int32(fd))
	if err != nil {
		return 0, err
	}
	err = table.Close(t, f)
	if err == kernel.RestartSys {
		err = unix.EINTR // close(2) is never restarted: the descriptor is gone
	}
	return 0, err
}

func dup(t *kernel.Task, fd call.FD) (uint64, error) {
	f, err := fd.File(t)
	if err != nil {
		return 0, err
	}
	n, err := t.FDs().Add(f, 0, false, call.FDLimit(t))
	if err != nil {
		f.DecRef()
	}
	return uint64(n), err
}

func dup2(t *kernel.Task, old, n call.FD) (uint64, error) {
	if old == n {
		f, err := old.File(t)
		if err != nil {
			return 0, err
		}
		f.DecRef()
		return uint64(n), nil
	}
	return dup3(t, old, n, 0)
}

func dup3(t *kernel.Task, old, n call.FD, flags uint32) (uint64, error) {
	if flags&^unix.O_CLOEXEC != 0 || old == n {
		return 0, unix.EINVAL
	}
	f, err := old.File(t)
	if err != nil {
		return 0, err
	}
	was, err := t.FDs().Replace(f, int32(n), flags&unix.O_CLOEXEC != 0, call.FDLimit(t))
	if err != nil {
		f.DecRef()
		return 0, err
	}
	if was != nil {
		t.FDs().Close(t, was)
	}
	return uint64(n), nil
}

func fcntl(t *kernel.Task, fd call.FD, cmd uint32, arg uint64) (uint64, error) {
	used, err := fd.Use(t)
	if err != nil {
		return 0, err
	}
	defer used.DecRef()
	f := used.File
	if f.PathOnly() {
		switch cmd {
		case unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL:
		default:
			return 0, unix.EBADF
		}
	}
	switch cmd {
	case unix.F_DUPFD, unix.F_DUPFD_CLOEXEC:
		if arg >= call.FDLimit(t) {
			return 0, unix.EINVAL
		}
		f.IncRef()
		n, err := t.FDs().Add(f, int32(arg), cmd == unix.F_DUPFD_CLOEXEC, call.FDLimit(t))
		if err != nil {
			f.DecRef()
		}
		return uint64(n), err
	case unix.F_GETFD:
		on, err := t.FDs().CloseOnExec(int32(fd))
		if on {
			return unix.FD_CLOEXEC, err
		}
		return 0, err
	case unix.F_SETFD:
		return 0, t.FDs().SetCloseOnExec(int32(fd), arg&unix.FD_CLOEXEC != 0)
	case unix.F_GETFL:
		return uint64(f.Flags()) | largeFile(f), nil
	case unix.F_SETFL:
		flags := uint32(arg)
		if flags&unix.O_NOATIME != 0 && f.Flags()&unix.O_NOATIME == 0 {
			var a vfs.Attr
			if err := f.Stat(t, &a); err != nil {
				return 0, err
			}
			if !vfs.IsOwner(t.Credentials(), &a) {
				return 0, unix.EPERM
			}
		}
		f.SetFlags(flags)
		setAsync(t, f, fd, flags&unix.O_ASYNC != 0)
		return 0, nil
	}
	return fcntlMore(t, f, fd, cmd, arg)
}

// largeFile is O_LARGEFILE, which open(2) sets on 64-bit systems for all but
// O_PATH.
func largeFile(f *vfs.File) uint64 {
	if f.PathOnly() {
		return 0
	}
	return 0x8000
}

func ioctl(t *kernel.Task, fd call.FD, cmd uint32, arg uint64) (uint64, error) {
	f, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	switch cmd {
	case linux.FIOCLEX:
		return 0, t.FDs().SetCloseOnExec(int32(fd), true)
	case linux.FIONCLEX:
		return 0, t.FDs().SetCloseOnExec(int32(fd), false)
	case linux.FIONBIO:
		v, err := usermem.CopyInUint32(t.MM(), usermem.Addr(arg))
		if err != nil {
			return 0, err
		}
		flags := f.Flags() &^ unix.O_NONBLOCK
		if v != 0 {
			flags |= unix.O_NONBLOCK
		}
		f.SetFlags(flags)
		return 0, nil
	case linux.FIONREAD:
		var a vfs.Attr
		if err := f.Stat(t, &a); err == nil && a.Type() == unix.S_IFREG {
			return 0, usermem.CopyOutUint32(t.MM(), usermem.Addr(arg), uint32(a.Size-f.Offset()))
		}
	}
	if done, err := ownerIoctl(t, f.File, fd, cmd, usermem.Addr(arg)); done {
		return 0, err
	}
	return f.Ioctl(t, cmd, arg)
}

func fsync(t *kernel.Task, fd call.FD) (uint64, error)     { return syncFD(t, fd, false) }
func fdatasync(t *kernel.Task, fd call.FD) (uint64, error) { return syncFD(t, fd, true) }

func syncFD(t *kernel.Task, fd call.FD, data bool) (uint64, error) {
	f, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, f.Sync(t, data)
}

func ftruncate(t *kernel.Task, fd call.FD, size int64) (uint64, error) {
	if size < 0 {
		return 0, unix.EINVAL
	}
	f, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, vfs.Truncate(t, f.Path(), f.File, size)
}

func fallocate(t *kernel.Task, fd call.FD, mode uint32, off, length int64) (uint64, error) {
	f, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	if off < 0 || length <= 0 {
		return 0, unix.EINVAL
	}
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_COLLAPSE_RANGE |
		unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_INSERT_RANGE
	if mode&^known != 0 {
		return 0, unix.EOPNOTSUPP
	}
	if mode&unix.FALLOC_FL_PUNCH_HOLE != 0 && mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		return 0, unix.EOPNOTSUPP
	}
	if !f.Writable() {
		return 0, unix.EBADF
	}
	var a vfs.Attr
	if err := f.Stat(t, &a); err != nil {
		return 0, err
	}
	switch a.Type() {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return 0, unix.EISDIR
	case unix.S_IFIFO:
		return 0, unix.ESPIPE
	default:
		return 0, unix.ENODEV
	}
	if off+length < 0 {
		return 0, unix.EFBIG
	}
	if end := uint64(off + length); mode&unix.FALLOC_FL_KEEP_SIZE == 0 && end > uint64(a.Size) && end > t.FileSizeLimit() {
		t.FileSizeExceeded()
		return 0, unix.EFBIG
	}
	al, ok := f.Impl().(vfs.Allocator)
	if !ok {
		return 0, unix.EOPNOTSUPP
	}
	return 0, al.Allocate(t, mode, off, length)
}

func getdents64(t *kernel.Task, fd call.FD, a usermem.Addr, n uint32) (uint64, error) {
	return dirents(t, fd, a, n, func(b []byte, name string, kind uint8) {
		b[18] = kind
		copy(b[19:], name)
	})
}

func getdents(t *kernel.Task, fd call.FD, a usermem.Addr, n uint32) (uint64, error) {
	return dirents(t, fd, a, n, func(b []byte, name string, kind uint8) {
		b[18+copy(b[18:], name)] = 0
		b[len(b)-1] = kind
	})
}

// listings are what directories are listed in.
var listings = sync.Pool{New: func() any { return &call.Writer{Buf: make([]byte, 0, 4096)} }}

// dirents lists a directory in records that begin with number, cookie and length, of
// 18 bytes. Name, NUL and type follow, in the order that put fills them in.
func dirents(t *kernel.Task, fd call.FD, a usermem.Addr, n uint32, put func(b []byte, name string, kind uint8)) (uint64, error) {
	f, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	size := min(int(n), 1<<17)
	w := listings.Get().(*call.Writer)
	defer listings.Put(w)
	w.Buf = w.Buf[:0]
	full := false
	err = f.ReadDir(t, func(e vfs.DirEntry) bool {
		was, length := len(w.Buf), (18+len(e.Name)+2+7)&^7
		if was+length > size {
			full = true
			return false
		}
		w.Buf = slices.Grow(w.Buf, length)[:was+length]
		b := w.Buf[was:]
		binary.LittleEndian.PutUint64(b[length-8:], 0) // the name's end
		binary.LittleEndian.PutUint64(b, e.Ino)
		binary.LittleEndian.PutUint64(b[8:], uint64(e.Next))
		binary.LittleEndian.PutUint16(b[16:], uint16(length))
		put(b, e.Name, e.Type)
		return true
	})
	if len(w.Buf) == 0 {
		if err == nil && full {
			err = unix.EINVAL
		}
		return 0, err
	}
	if err := w.To(t, a); err != nil {
		return 0, err
	}
	return uint64(len(w.Buf)), nil
}

// quietPipe reports whether EPIPE of f sends no SIGPIPE: only streams do.
func quietPipe(f *vfs.File) bool {
	s, err := socket.Of(f)
	return err == nil && s.Options().Type != unix.SOCK_STREAM
}
