package syscalls

import (
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/vfs"

	"golang.org/x/sys/unix"
)

// addFile gives f, whose reference it takes over, a descriptor.
func addFile(t *kernel.Task, f *vfs.File, cloexec bool) (uint64, error) {
	fd, err := t.FDs().Add(f, 0, cloexec, fdLimit(t))
	if err != nil {
		f.DecRef()
	}
	return uint64(fd), err
}

// addPair gives two files descriptors and writes those to the application's
// array at fds. It takes both references over; if it fails there are no
// descriptors.
func addPair(t *kernel.Task, a, b *vfs.File, cloexec bool, fds Addr) error {
	n, err := addFile(t, a, cloexec)
	if err != nil {
		b.DecRef()
		return err
	}
	m, err := addFile(t, b, cloexec)
	if err == nil {
		var w writer
		w.u32(uint32(n))
		w.u32(uint32(m))
		if err = w.to(t, fds); err == nil {
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

func fdLimit(t *kernel.Task) uint64 { return t.ThreadGroup().Limits().Soft(limits.OpenFiles) }
