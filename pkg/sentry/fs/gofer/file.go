package gofer

import (
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// file is an open regular file with a donated descriptor.
type file struct {
	*inode
	d    *descriptor
	sync uint32 // O_SYNC, O_DSYNC or 0
}

// transfer moves bytes between a descriptor and the blocks of a buffer. step is
// made once, so that a read allocates nothing.
type transfer struct {
	fd    int
	off   int64
	write bool
	step  func(p []byte) (int, error)
}

var transfers = sync.Pool{New: func() any {
	t := new(transfer)
	t.step = t.move
	return t
}}

func (t *transfer) move(p []byte) (int, error) {
	for {
		var n int
		var err error
		if t.write {
			n, err = unix.Pwrite(t.fd, p, t.off)
		} else {
			n, err = unix.Pread(t.fd, p, t.off)
		}
		if err == unix.EINTR {
			continue
		}
		n = max(n, 0)
		t.off += int64(n)
		return n, err
	}
}

// run moves what it can; an error counts only if nothing was moved.
func (t *transfer) run(b *usermem.Buffer) (int64, error) {
	access := usermem.Write
	if t.write {
		access = usermem.Read
	}
	n, err := b.Blocks(access, t.step)
	if n > 0 {
		err = nil
	}
	return int64(n), err
}

// ReadAt implements vfs.ReaderAt.
func (f *file) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	var seen int64
	if view := f.view(off, dst.Len()); view != nil {
		if seen = readView(dst, view); seen == int64(len(view)) {
			return seen, nil
		}
		// It was cut meanwhile, or dst ends before: let the host say.
	}
	t := transfers.Get().(*transfer)
	defer transfers.Put(t)
	t.fd, t.off, t.write = f.d.fd, off+seen, false
	n, err := t.run(dst)
	return some(seen+n, err)
}

// readView reads from the Sentry's mapping of a file, as far as that and dst go.
func readView(dst *usermem.Buffer, view []byte) int64 {
	room := dst.Len()
	usermem.Guard(func() error {
		// What isn't in memory comes now, not while the application's memory is locked.
		var sum byte
		for at := 0; at < len(view); at += usermem.PageSize {
			sum += view[at]
		}
		touched(sum + view[len(view)-1])
		_, err := dst.Write(view)
		return err
	})
	return int64(room - dst.Len())
}

// touched is where reads go that are only to happen.
//
//go:noinline
func touched(byte) {}

const (
	// viewReads is how many reads make a file worth being mapped: from then on
	// those of up to viewSize bytes are copies, which take a third of the time of
	// a call of the host. A longer one is a copy anyhow.
	viewReads = 32
	viewSize  = 16 << 10
)

// view returns the Sentry's own mapping of up to n bytes of the file at off, as far as
// it goes, or nil where a read of the descriptor will do better. The size must be ours
// to know; who says zero may be a file that is made when it is read.
func (f *file) view(off int64, n uint64) []byte {
	node := f.node
	size := node.size.Load()
	if n > viewSize || node.fs.opts.Shared || off >= size || n == 0 {
		return nil
	}
	if node.reads.Load() < viewReads {
		node.reads.Add(1)
		return nil
	}
	n = min(n, uint64(size-off))
	v, err := f.d.file.Slice(uint64(off), n)
	if err != nil {
		node.reads.Store(0)
		return nil
	}
	if uint64(len(v)) < n {
		return nil
	}
	return v
}

// WriteAt implements vfs.WriterAt.
func (f *file) WriteAt(_ vfs.Context, src *usermem.Buffer, off int64) (int64, error) {
	f.node.writeMu.Lock()
	defer f.node.writeMu.Unlock()
	return f.write(src, off)
}

// write writes at off. writeMu is held.
func (f *file) write(src *usermem.Buffer, off int64) (int64, error) {
	t := transfers.Get().(*transfer)
	t.fd, t.off, t.write = f.d.fd, off, true
	n, err := t.run(src)
	transfers.Put(t)
	if n > 0 {
		f.node.wrote(off + n)
		if f.sync != 0 {
			if err := f.Sync(nil, f.sync&unix.O_SYNC != unix.O_SYNC); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

// wrote notes a write that ended at end. writeMu is held.
func (n *node) wrote(end int64) {
	if end > n.size.Load() {
		n.size.Store(end)
	}
	n.writes.Add(1)
}

// Append implements vfs.Appender.
func (f *file) Append(_ vfs.Context, src *usermem.Buffer, limit int64) (n, end int64, err error) {
	f.node.writeMu.Lock()
	defer f.node.writeMu.Unlock()
	off := f.node.size.Load()
	if f.node.fs.opts.Shared {
		var st unix.Stat_t
		if err := unix.Fstat(f.d.fd, &st); err != nil {
			return 0, 0, err
		}
		off = st.Size
	}
	if src.Len() == 0 {
		return 0, off, nil
	}
	if off >= limit {
		return 0, off, unix.EFBIG
	}
	src.Limit(uint64(limit - off))
	n, err = f.write(src, off)
	return n, off + n, err
}

// SeekData implements vfs.DataSeeker.
func (f *file) SeekData(_ vfs.Context, off int64, hole bool) (int64, error) {
	whence := unix.SEEK_DATA
	if hole {
		whence = unix.SEEK_HOLE
	}
	return unix.Seek(f.d.fd, off, whence)
}

// Allocate implements vfs.Allocator.
func (f *file) Allocate(_ vfs.Context, mode uint32, off, length int64) error {
	f.node.writeMu.Lock()
	defer f.node.writeMu.Unlock()
	for {
		err := unix.Fallocate(f.d.fd, mode, off, length)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		break
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.d.fd, &st); err != nil {
		return err
	}
	f.resized(st.Size)
	return nil
}

// Sync implements vfs.Syncer.
func (f *file) Sync(_ vfs.Context, dataOnly bool) error {
	if dataOnly {
		return unix.Fdatasync(f.d.fd)
	}
	return unix.Fsync(f.d.fd)
}

// Mappable implements vfs.Mapper. All mappings of a file are of its inode, whoever opened it.
func (f *file) Mappable(vfs.Context, *vfs.File, *vfs.MapOptions) (memmap.Mappable, error) {
	return f.inode, nil
}

// Release implements vfs.Releaser.
func (f *file) Release(*vfs.File) { f.node.unuse(f.d) }

// remoteFile is an open regular file whose data goes through messages. It can't be mapped.
type remoteFile struct {
	*inode
	fid  *p9.Fid
	sync uint32
}

// pieces are the buffers that data of remote files goes through.
var pieces = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// ReadAt implements vfs.ReaderAt.
func (f *remoteFile) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (total int64, err error) {
	buf := pieces.Get().(*[64 << 10]byte)
	defer pieces.Put(buf)
	for dst.Len() > 0 {
		p := buf[:min(dst.Len(), uint64(len(buf)))]
		n, err := f.fid.Read(p, uint64(off))
		if err != nil {
			return some(total, err)
		}
		got, err := dst.Write(p[:n])
		total, off = total+int64(got), off+int64(got)
		if err != nil {
			return some(total, err)
		}
		if n < len(p) {
			break
		}
	}
	return total, nil
}

// some drops the error of a transfer that moved something.
func some(n int64, err error) (int64, error) {
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// WriteAt implements vfs.WriterAt.
func (f *remoteFile) WriteAt(_ vfs.Context, src *usermem.Buffer, off int64) (int64, error) {
	f.node.writeMu.Lock()
	defer f.node.writeMu.Unlock()
	return f.write(src, off)
}

func (f *remoteFile) write(src *usermem.Buffer, off int64) (total int64, err error) {
	buf := pieces.Get().(*[64 << 10]byte)
	defer pieces.Put(buf)
	for src.Len() > 0 {
		got, err := src.Read(buf[:])
		if got == 0 {
			return some(total, err)
		}
		n, werr := f.fid.Write(buf[:got], uint64(off))
		total, off = total+int64(n), off+int64(n)
		if n > 0 {
			f.node.wrote(off)
		}
		if werr != nil || err != nil {
			return some(total, cmpError(werr, err))
		}
		if n < got {
			break
		}
	}
	if total > 0 && f.sync != 0 {
		if err := f.Sync(nil, f.sync&unix.O_SYNC != unix.O_SYNC); err != nil {
			return 0, err
		}
	}
	return total, nil
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Append implements vfs.Appender.
func (f *remoteFile) Append(_ vfs.Context, src *usermem.Buffer, limit int64) (n, end int64, err error) {
	f.node.writeMu.Lock()
	defer f.node.writeMu.Unlock()
	off := f.node.size.Load()
	if f.node.fs.opts.Shared {
		a, err := f.fid.Getattr()
		if err != nil {
			return 0, 0, err
		}
		off = int64(a.Size)
	}
	if src.Len() == 0 {
		return 0, off, nil
	}
	if off >= limit {
		return 0, off, unix.EFBIG
	}
	src.Limit(uint64(limit - off))
	n, err = f.write(src, off)
	return n, off + n, err
}

// Sync implements vfs.Syncer.
func (f *remoteFile) Sync(_ vfs.Context, dataOnly bool) error { return f.fid.Fsync(dataOnly) }

// Release implements vfs.Releaser.
func (f *remoteFile) Release(*vfs.File) {
	f.node.fs.discard(f.fid)
	f.node.unuse(nil)
}
