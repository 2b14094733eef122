package gofer

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
)

// file is an open regular file. Its methods are safe for concurrent use.
type file struct {
	fd int
}

// Close implements p9.Handle.
func (f *file) Close() { unix.Close(f.fd) }

// ReadAt implements p9.Reader.
func (f *file) ReadAt(p []byte, offset uint64) (int, error) {
	return pieces(p, offset, func(p []byte, at int64) (int, error) { return unix.Pread(f.fd, p, at) })
}

// WriteAt implements p9.Writer.
func (f *file) WriteAt(p []byte, offset uint64) (int, error) {
	return pieces(p, offset, func(p []byte, at int64) (int, error) { return unix.Pwrite(f.fd, p, at) })
}

// pieces repeats a read or write until p is done, nothing more goes, or an error comes; the error counts
// only if nothing was done before.
func pieces(p []byte, offset uint64, do func([]byte, int64) (int, error)) (int, error) {
	if offset > math.MaxInt64-uint64(len(p)) {
		return 0, unix.EINVAL
	}
	done := 0
	for done < len(p) {
		n, err := do(p[done:], int64(offset)+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil || n == 0 {
			break
		}
		done += n
	}
	return done, nil
}

// Sync implements p9.Syncer.
func (f *file) Sync(dataOnly bool) error {
	if dataOnly {
		return unix.Fdatasync(f.fd)
	}
	return unix.Fsync(f.fd)
}

// record makes the host's form of a lock. Locks belong to the open file description, so to the fid.
func record(l *p9.FileLock) (unix.Flock_t, error) {
	if l.Start > math.MaxInt64 || l.Length > math.MaxInt64 || l.Start+l.Length > math.MaxInt64 {
		return unix.Flock_t{}, unix.EINVAL
	}
	types := [...]int16{p9.LockRead: unix.F_RDLCK, p9.LockWrite: unix.F_WRLCK, p9.LockUnlock: unix.F_UNLCK}
	return unix.Flock_t{Type: types[l.Type], Start: int64(l.Start), Len: int64(l.Length)}, nil
}

// Lock implements p9.Locker.
func (f *file) Lock(l *p9.FileLock) (uint8, error) {
	r, err := record(l)
	if err != nil {
		return 0, err
	}
	switch err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &r); err {
	case nil:
		return p9.LockSuccess, nil
	case unix.EAGAIN, unix.EACCES:
		return p9.LockBlocked, nil
	default:
		return 0, err
	}
}

// GetLock implements p9.Locker.
func (f *file) GetLock(l *p9.FileLock) (p9.FileLock, error) {
	r, err := record(l)
	if err != nil {
		return p9.FileLock{}, err
	}
	if err := unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_GETLK, &r); err != nil {
		return p9.FileLock{}, err
	}
	got := *l
	switch r.Type {
	case unix.F_UNLCK:
		got.Type = p9.LockUnlock
		return got, nil
	case unix.F_RDLCK:
		got.Type = p9.LockRead
	default:
		got.Type = p9.LockWrite
	}
	got.Start, got.Length, got.PID = uint64(r.Start), uint64(r.Len), uint32(max(r.Pid, 0))
	return got, nil
}

// directory is an open directory. mu guards the descriptor's position.
type directory struct {
	node *node
	fd   int
	mu   locks.Mutex[locks.P9Directory]
	next int64 // the position
}

// Close implements p9.Handle.
func (d *directory) Close() { unix.Close(d.fd) }

// Sync implements p9.Syncer.
func (d *directory) Sync(dataOnly bool) error { return (&file{fd: d.fd}).Sync(dataOnly) }

var direntBuffers = sync.Pool{New: func() any { return new([8192]byte) }}

// ReadDir implements p9.Lister.
func (d *directory) ReadDir(offset uint64, plus bool, yield func(*p9.Dirent) bool) error {
	if offset > math.MaxInt64 {
		return unix.EINVAL
	}
	buf := direntBuffers.Get().(*[8192]byte)
	defer direntBuffers.Put(buf)
	d.mu.Lock()
	defer d.mu.Unlock()
	if int64(offset) != d.next {
		if _, err := unix.Seek(d.fd, int64(offset), unix.SEEK_SET); err != nil {
			return err
		}
		d.next = int64(offset)
	}
	for {
		n, err := unix.Getdents(d.fd, buf[:])
		if err != nil || n == 0 {
			return err
		}
		for b := buf[:n]; len(b) >= 19; {
			// struct linux_dirent64, getdents(2): d_ino, d_off, d_reclen, d_type, d_name.
			length := int(binary.LittleEndian.Uint16(b[16:]))
			if length < 20 || length > len(b) {
				return unix.EIO
			}
			record := b[:length]
			b = b[length:]
			name := record[19:]
			if end := bytes.IndexByte(name, 0); end >= 0 {
				name = name[:end]
			}
			next := binary.LittleEndian.Uint64(record[8:])
			e := p9.Dirent{Offset: next, Type: record[18], Name: string(name)}
			d.fill(&e, binary.LittleEndian.Uint64(record), plus)
			if !yield(&e) {
				// The descriptor is past what was taken: come back to where the client will go on.
				d.next = -1
				return nil
			}
			d.next = int64(next)
		}
	}
}

// fill gives an entry its qid and, with plus, its attributes. What is above the tree is none of the client's
// business: ".." looks like ".".
func (d *directory) fill(e *p9.Dirent, ino uint64, plus bool) {
	e.Qid = p9.Qid{Type: p9.QidType(uint32(e.Type) << 12), Path: d.node.tree.qidPath(d.node.dev, ino)}
	if e.Name == "." || e.Name == ".." {
		if a, err := d.node.GetAttr(); err == nil {
			e.Qid = a.Qid
		}
		return
	}
	if !plus {
		return
	}
	var st unix.Stat_t
	if unix.Fstatat(d.fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		e.Attr, e.HasAttr = d.node.tree.attr(&st), true
		e.Qid = e.Attr.Qid
	}
}
