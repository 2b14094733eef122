package call

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// AddFile gives f, whose reference it takes over, a descriptor.
func AddFile(t *kernel.Task, f *vfs.File, cloexec bool) (uint64, error) {
	fd, err := t.FDs().Add(f, 0, cloexec, FDLimit(t))
	if err != nil {
		f.DecRef()
	}
	return uint64(fd), err
}

// AddPair gives two files descriptors and writes those to the application's
// array at fds. It takes both references over; if it fails there are no
// descriptors.
func AddPair(t *kernel.Task, a, b *vfs.File, cloexec bool, fds usermem.Addr) error {
	n, err := AddFile(t, a, cloexec)
	if err != nil {
		b.DecRef()
		return err
	}
	m, err := AddFile(t, b, cloexec)
	if err == nil {
		var w Writer
		w.U32(uint32(n))
		w.U32(uint32(m))
		if err = w.To(t, fds); err == nil {
			return nil
		}
		dropFD(t, int32(m), b)
	}
	dropFD(t, int32(n), a)
	return err
}

// dropFD takes descriptor fd away again, if it is still f's.
func dropFD(t *kernel.Task, fd int32, f *vfs.File) {
	if got, err := t.FDs().Get(fd); err == nil {
		got.DecRef()
		if got == f {
			if was, err := t.FDs().Remove(fd); err == nil {
				was.DecRef()
			}
		}
	}
}

// File returns the open file, with a reference: EBADF.
func (f FD) File(t *kernel.Task) (*vfs.File, error) { return t.FDs().Get(int32(f)) }

// IOFile is File for calls that O_PATH descriptors refuse.
func (f FD) IOFile(t *kernel.Task) (*vfs.File, error) {
	file, err := t.FDs().Get(int32(f))
	if err == nil && file.PathOnly() {
		file.DecRef()
		return nil, unix.EBADF
	}
	return file, err
}

// Use is File for the length of the call, which DecRef ends: see
// vfs.FDTable.Use. UseIO is IOFile for the length of the call.
func (f FD) Use(t *kernel.Task) (vfs.InUse, error) { return t.FDs().Use(int32(f)) }

// UseIO: see Use.
func (f FD) UseIO(t *kernel.Task) (vfs.InUse, error) {
	file, err := t.FDs().Use(int32(f))
	if err == nil && file.PathOnly() {
		file.DecRef()
		return vfs.InUse{}, unix.EBADF
	}
	return file, err
}

// FDLimit is the first descriptor that the task can't have (RLIMIT_NOFILE).
func FDLimit(t *kernel.Task) uint64 { return t.ThreadGroup().Limits().Soft(limits.OpenFiles) }
