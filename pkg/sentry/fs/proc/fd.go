package proc

import (
	"bytes"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

// fdDir is /proc/PID/fd, or with info /proc/PID/fdinfo.
type fdDir struct {
	subDir
	info bool
}

// file returns the file at fd with a reference, and the FD_CLOEXEC flag.
func (s subject) file(fd int32) (*vfs.File, bool, error) {
	t, err := s.task()
	if err != nil {
		return nil, false, unix.ENOENT
	}
	fds := t.SharedFDs()
	if fds == nil {
		return nil, false, unix.ENOENT
	}
	f, err := fds.Get(fd)
	if err != nil {
		return nil, false, unix.ENOENT
	}
	cloexec, _ := fds.CloseOnExec(fd)
	return f, cloexec, nil
}

// parseFD reads a descriptor as it stands in a path.
func parseFD(name string) (int32, bool) {
	if name == "0" {
		return 0, true
	}
	return parsePID(name)
}

// Lookup implements vfs.Directory.
func (d *fdDir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	fd, ok := parseFD(name)
	if !ok {
		return nil, unix.ENOENT
	}
	if _, err := d.s.inspect(ctx); err != nil {
		return nil, denied(err)
	}
	f, _, err := d.s.file(fd)
	if err != nil {
		return nil, err
	}
	defer f.DecRef()
	if d.info {
		return &taskFile{pseudo.File{
			Meta: d.s.meta(classFDInfo, uint64(fd), unix.S_IFREG|0o444).Meta(), Generate: fdInfo(d.s, fd),
			Check: func(ctx vfs.Context, _ uint32) error { _, err := d.s.inspect(ctx); return err },
		}}, nil
	}
	l := &magicLink{Meta: d.s.meta(classFD, uint64(fd), fdMode(f)).Meta(), s: d.s}
	l.Size = 64
	l.target = func(*kernel.Task) (vfs.Path, error) {
		f, _, err := d.s.file(fd)
		if err != nil {
			return vfs.Path{}, err
		}
		defer f.DecRef()
		return f.Path(), nil
	}
	return l, nil
}

// denied is err as a walk shows it: a task that has gone has no names.
func denied(err error) error {
	if err == unix.ESRCH {
		return unix.ENOENT
	}
	return err
}

// fdMode is the mode of a link in fd, which tells how the file is open (proc(5)).
func fdMode(f *vfs.File) uint32 {
	m := uint32(unix.S_IFLNK)
	if f.Readable() {
		m |= 0o500
	}
	if f.Writable() {
		m |= 0o300
	}
	return m
}

// Open implements vfs.Inode.
func (d *fdDir) Open(ctx vfs.Context, p vfs.Path, _ uint32) (any, error) {
	if _, err := d.s.inspect(ctx); err != nil {
		return nil, denied(err)
	}
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// List implements pseudo.Lister.
func (d *fdDir) List(_ vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	t, err := d.s.task()
	if err != nil {
		return unix.ENOENT
	}
	fds := t.SharedFDs()
	if fds == nil {
		return nil
	}
	class, dt := uint64(classFD), uint8(unix.DT_LNK)
	if d.info {
		class, dt = classFDInfo, unix.DT_REG
	}
	for _, fd := range fds.FDs() {
		next := int64(fd) + pseudo.FirstCookie + 1
		if next <= cookie {
			continue
		}
		if !emit(vfs.DirEntry{Name: strconv.Itoa(int(fd)), Ino: d.s.ino(class, uint64(fd)), Type: dt, Next: next}) {
			return nil
		}
	}
	return nil
}

func fdInfo(s subject, fd int32) pseudo.Generator {
	return pseudo.Whole(func(_ vfs.Context, b *bytes.Buffer) error {
		f, cloexec, err := s.file(fd)
		if err != nil {
			return err
		}
		defer f.DecRef()
		flags := f.Flags()
		if cloexec {
			flags |= unix.O_CLOEXEC
		}
		fmt.Fprintf(b, "pos:\t%d\nflags:\t0%o\nmnt_id:\t%d\n", f.Offset(), flags, f.Path().Mount.ID)
		s.describe(b, f)
		if t, err := s.task(); err == nil {
			n := 0
			for _, l := range f.HeldLocks(t.SharedFDs()) {
				if pid, ok := s.p.lockOwner(l.PID); ok {
					n++
					b.WriteString("lock:\t")
					lockLine(b, n, &l, pid)
				}
			}
		}
		return nil
	})
}
