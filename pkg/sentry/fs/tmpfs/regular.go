package tmpfs

import (
	"math"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Content is the bytes of a regular file. pagestore.Store is one. The methods
// are safe for concurrent use; those that move bytes may touch application
// memory, and are called with Regular.data held, which those of
// memmap.Mappable must therefore not want.
type Content interface {
	memmap.Mappable
	Size() uint64
	// ReadAt reads up to dst.Len() bytes, not beyond the size.
	ReadAt(dst *usermem.Buffer, off uint64) (uint64, error)
	// WriteAt writes all of src, growing the content.
	WriteAt(src *usermem.Buffer, off uint64) (uint64, error)
	Truncate(size uint64) error
	PunchHole(off, length uint64) error
	Allocate(off, length uint64, keepSize bool) error
	// NextData and NextHole fail with ENXIO beyond the size.
	NextData(off uint64) (uint64, error)
	NextHole(off uint64) (uint64, error)
	// Pages is how many pages are allocated.
	Pages() uint64
	// Release frees the pages: no call is under way and nobody maps them.
	Release()
	// AddSeals adds seals of memfd_create(2); EBUSY for F_SEAL_WRITE while
	// somebody can write through a mapping.
	AddSeals(seals uint32) error
	Seals() uint32
}

// maxSize is the largest size of a file: what fits an offset.
const maxSize = math.MaxInt64

// Regular is a regular file. It is its own open file.
type Regular struct {
	Meta
	// data is held for reading while bytes are read, for writing while they
	// change: a read sees all of a write or nothing (POSIX read(), "Atomic").
	data locks.RWMutex[locks.Inode]
	// content is nil until something is written or mapped.
	content atomic.Pointer[Content]
	// size counts while there is no content.
	size atomic.Uint64
	// sealing: a memfd that allows it. Guarded by data.
	sealing bool

	lost    runtime.Cleanup
	hasLost bool
}

// NewRegular returns an empty file without a name.
func (s *Storage) NewRegular(a *vfs.NewAttr) (*Regular, error) {
	r := &Regular{}
	r.Init(s, s.NewIno(), a)
	if err := r.charge(0); err != nil {
		return nil, err
	}
	return r, nil
}

// SetContent makes c the content of a file that has none.
func (r *Regular) SetContent(c Content) {
	r.content.Store(&c)
	r.releaseWhenLost(c)
}

// need returns the content, made if need be.
func (r *Regular) need() (Content, error) {
	if c := r.content.Load(); c != nil {
		return *c, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.content.Load(); c != nil {
		return *c, nil
	}
	c := r.storage.newContent()
	if n := r.size.Load(); n != 0 {
		if err := c.Truncate(n); err != nil {
			return nil, err
		}
	}
	r.SetContent(c)
	return c, nil
}

// Attributes implements vfs.Inode.
func (r *Regular) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	r.Meta.Attributes(ctx, a)
	if c := r.content.Load(); c != nil {
		a.Size = int64((*c).Size())
		a.Blocks = (*c).Pages() * (blockSize / 512)
	} else {
		a.Size = int64(r.size.Load())
	}
	return nil
}

// SetAttributes implements vfs.Inode.
func (r *Regular) SetAttributes(ctx vfs.Context, s *vfs.SetAttr) error {
	if s.Mask&vfs.SetSize != 0 {
		if err := r.Truncate(uint64(s.Size)); err != nil {
			return err
		}
		if s.Mask&vfs.SetMtime == 0 {
			c := *s
			c.Mask |= vfs.SetMtime
			c.Mtime = Now()
			s = &c
		}
	}
	return r.Meta.SetAttributes(ctx, s)
}

// Truncate sets the size.
func (r *Regular) Truncate(size uint64) error {
	if size > maxSize {
		return unix.EFBIG
	}
	// By path nobody need have the file open; it must not end meanwhile.
	if !r.hold() {
		return nil
	}
	defer r.Unpin()
	r.data.Lock()
	defer r.data.Unlock()
	c := r.content.Load()
	if c == nil {
		r.size.Store(size)
		return nil
	}
	old, seals := (*c).Size(), (*c).Seals()
	if size < old && seals&unix.F_SEAL_SHRINK != 0 || size > old && seals&unix.F_SEAL_GROW != 0 {
		return unix.EPERM
	}
	return (*c).Truncate(size)
}

// quiet is an open file that leaves the access time alone (O_NOATIME, noatime).
type quiet struct{ *Regular }

func (q quiet) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	return q.ReadQuietly(dst, off)
}

// Open implements vfs.Inode.
func (r *Regular) Open(_ vfs.Context, p vfs.Path, flags uint32) (any, error) {
	if !r.hold() {
		return nil, unix.ESTALE
	}
	if flags&unix.O_NOATIME != 0 || p.Mount != nil && p.Mount.Flags()&vfs.MountNoAtime != 0 {
		return quiet{r}, nil
	}
	return r, nil
}

// Release implements vfs.Releaser.
func (r *Regular) Release(*vfs.File) { r.Unpin() }

// Pin and Unpin keep a file without names: vfs.Pinner.
func (r *Regular) Pin() bool { return r.hold() }
func (r *Regular) Unpin() {
	if r.drop() {
		r.free()
	}
}

// AddLink implements Child.
func (r *Regular) AddLink(n int32, now int64) error {
	if n > 0 {
		return r.link(now)
	}
	if _, gone := r.addLinks(n, now); gone {
		r.free()
	}
	return nil
}

// link adds a name, unless there was one and it is gone.
func (m *Meta) link(now int64) error {
	m.mu.Lock()
	if m.nlink == 0 && (!m.linkable || m.charged == 0) {
		m.mu.Unlock()
		return unix.ENOENT
	}
	m.linkable = false
	m.nlink++
	m.ctime = now
	m.mu.Unlock()
	return nil
}

// DropContent releases the content. Nobody has the file open.
func (r *Regular) DropContent() { r.free() }

// Content returns the content, or nil.
func (r *Regular) Content() Content {
	if c := r.content.Load(); c != nil {
		return *c
	}
	return nil
}

// releaseWhenLost gives the pages of c back when r is garbage: its file system
// was unmounted with the file in it.
func (r *Regular) releaseWhenLost(c Content) {
	r.lost = runtime.AddCleanup(r, Content.Release, c)
	r.hasLost = true
}

// HasContent reports whether there is a content.
func (r *Regular) HasContent() bool { return r.content.Load() != nil }

// free gives the pages back: no name, nobody has it open. Who came by a name before
// may ask for the size still.
func (r *Regular) free() {
	if r.hasLost {
		r.lost.Stop()
	}
	if c := r.content.Load(); c != nil {
		r.size.Store((*c).Size())
	}
	if c := r.content.Swap(nil); c != nil {
		(*c).Release()
	}
}

// ReadAt implements vfs.ReaderAt.
func (r *Regular) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	n, err := r.ReadQuietly(dst, off)
	if err == nil {
		r.Accessed()
	}
	return n, err
}

// ReadQuietly is ReadAt that leaves the access time alone.
func (r *Regular) ReadQuietly(dst *usermem.Buffer, off int64) (int64, error) {
	// A file in an overlay over this one comes first.
	r.data.NestedRLock()
	defer r.data.RUnlock()
	if c := r.content.Load(); c != nil {
		n, err := (*c).ReadAt(dst, uint64(off))
		return int64(n), err
	}
	size := r.size.Load()
	if uint64(off) >= size {
		return 0, nil
	}
	n, err := dst.Zero(size - uint64(off))
	return int64(n), err
}

// WriteAt implements vfs.WriterAt.
func (r *Regular) WriteAt(ctx vfs.Context, src *usermem.Buffer, off int64) (int64, error) {
	r.data.Lock()
	defer r.data.Unlock()
	return r.write(ctx, src, uint64(off))
}

// Append implements vfs.Appender.
func (r *Regular) Append(ctx vfs.Context, src *usermem.Buffer, limit int64) (n, end int64, err error) {
	r.data.Lock()
	defer r.data.Unlock()
	off := r.size.Load()
	if c := r.content.Load(); c != nil {
		off = (*c).Size()
	}
	if src.Len() == 0 {
		return 0, int64(off), nil
	}
	if off >= uint64(limit) {
		return 0, int64(off), unix.EFBIG
	}
	src.Limit(uint64(limit) - off)
	n, err = r.write(ctx, src, off)
	return n, int64(off) + n, err
}

// write writes at off. data is held.
func (r *Regular) write(ctx vfs.Context, src *usermem.Buffer, off uint64) (int64, error) {
	if src.Len() == 0 {
		return 0, nil
	}
	if off >= maxSize {
		return 0, unix.EFBIG
	}
	src.Limit(maxSize - off)
	c, err := r.need()
	if err != nil {
		return 0, noSpace(err)
	}
	if seals := c.Seals(); seals != 0 {
		if seals&unix.F_SEAL_WRITE != 0 {
			return 0, unix.EPERM
		}
		if size := c.Size(); seals&unix.F_SEAL_GROW != 0 && off+src.Len() > size {
			// Linux writes up to the page in which the size lies.
			if off >= size {
				return 0, unix.EPERM
			}
			src.Limit(size - off)
		}
	}
	n, err := c.WriteAt(src, off)
	if n > 0 {
		r.written(ctx.Credentials())
		err = nil // what was written counts (write(2))
	}
	return int64(n), noSpace(err)
}

// noSpace tells of a full file system in the words of one.
func noSpace(err error) error {
	if err == unix.ENOMEM {
		return unix.ENOSPC
	}
	return err
}

// SeekData implements vfs.DataSeeker.
func (r *Regular) SeekData(_ vfs.Context, off int64, hole bool) (int64, error) {
	r.data.RLock()
	defer r.data.RUnlock()
	c := r.content.Load()
	if c == nil {
		if uint64(off) >= r.size.Load() || !hole {
			return 0, unix.ENXIO
		}
		return off, nil
	}
	next := (*c).NextData
	if hole {
		next = (*c).NextHole
	}
	n, err := next(uint64(off))
	return int64(n), err
}

// Allocate implements vfs.Allocator: fallocate(2).
func (r *Regular) Allocate(ctx vfs.Context, mode uint32, off, length int64) error {
	if off < 0 || length <= 0 {
		return unix.EINVAL
	}
	if off > maxSize-length {
		return unix.EFBIG
	}
	r.data.Lock()
	defer r.data.Unlock()
	c, err := r.need()
	if err != nil {
		return noSpace(err)
	}
	seals := c.Seals()
	switch mode {
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		if seals&unix.F_SEAL_WRITE != 0 {
			return unix.EPERM
		}
		err = c.PunchHole(uint64(off), uint64(length))
	case 0, unix.FALLOC_FL_KEEP_SIZE:
		if mode == 0 && seals&unix.F_SEAL_GROW != 0 && uint64(off+length) > c.Size() {
			return unix.EPERM
		}
		if mode == 0 && uint64(off+length) > c.Size() && uint64(off+length) > ctx.FileSizeLimit() {
			ctx.FileSizeExceeded()
			return unix.EFBIG
		}
		err = c.Allocate(uint64(off), uint64(length), mode != 0)
	default:
		return unix.EOPNOTSUPP
	}
	if err == nil {
		r.written(ctx.Credentials())
	}
	return noSpace(err)
}

// Mappable implements vfs.Mapper.
func (r *Regular) Mappable(_ vfs.Context, _ *vfs.File, o *vfs.MapOptions) (memmap.Mappable, error) {
	c, err := r.need()
	if err != nil {
		return nil, noSpace(err)
	}
	if c.Seals()&unix.F_SEAL_WRITE != 0 && !o.Private {
		if o.Prot.Has(usermem.Write) {
			return nil, unix.EPERM
		}
		o.MaxProt &^= usermem.Write
	}
	return c, nil
}

// Seals implements vfs.Sealer. Files that aren't memfds have F_SEAL_SEAL.
func (r *Regular) Seals() (uint32, error) {
	r.data.RLock()
	defer r.data.RUnlock()
	if !r.sealing {
		return unix.F_SEAL_SEAL, nil
	}
	return r.seals(), nil
}

func (r *Regular) seals() uint32 {
	if c := r.content.Load(); c != nil {
		return (*c).Seals()
	}
	return 0
}

const allSeals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// AddSeals implements vfs.Sealer: EPERM where sealing isn't allowed, EBUSY
// for F_SEAL_WRITE while somebody may write through a mapping.
func (r *Regular) AddSeals(seals uint32) error {
	if seals&^uint32(allSeals) != 0 {
		return unix.EINVAL
	}
	r.data.Lock()
	defer r.data.Unlock()
	if !r.sealing || r.seals()&unix.F_SEAL_SEAL != 0 {
		return unix.EPERM
	}
	c, err := r.need()
	if err != nil {
		return err
	}
	return c.AddSeals(seals)
}

// memfd returns a file for memfd_create(2) or shared memory.
func (s *Storage) memfd(cred *auth.Credentials, mode uint32, sealing bool) (*Regular, error) {
	r, err := s.NewRegular(&vfs.NewAttr{Mode: unix.S_IFREG | mode, UID: cred.FSUID, GID: cred.FSGID})
	if err != nil {
		return nil, err
	}
	r.sealing = sealing
	return r, nil
}
