package vfs

import (
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// What an open file can do is found by assertion on what Inode.Open returned.
// No method blocks for long: what isn't ready returns EAGAIN (ErrWouldBlock),
// and the caller waits through waiter.Waitable if the file is in blocking mode.
type (
	// ReaderAt is a file with an offset. The File keeps the offset.
	ReaderAt interface {
		ReadAt(ctx Context, dst *usermem.Buffer, off int64) (int64, error)
	}
	// WriterAt is a file with an offset. Limits have been checked.
	WriterAt interface {
		WriteAt(ctx Context, src *usermem.Buffer, off int64) (int64, error)
	}
	// Appender writes at the end, atomically (O_APPEND); it returns the
	// offset behind what it wrote. limit is the size beyond which it may not
	// grow the file.
	Appender interface {
		Append(ctx Context, src *usermem.Buffer, limit int64) (n, end int64, err error)
	}
	// Reader and Writer are streams: pipes, sockets, terminals, eventfds. A
	// file that is a ReaderAt or WriterAt too is one for pread(2) and pwrite(2)
	// (/dev/null).
	Reader interface {
		Read(ctx Context, f *File, dst *usermem.Buffer) (int64, error)
	}
	Writer interface {
		Write(ctx Context, f *File, src *usermem.Buffer) (int64, error)
	}
	// Seeker overrides the usual rules of lseek(2). It returns the new offset.
	Seeker interface {
		Seek(ctx Context, f *File, current, off int64, whence int) (int64, error)
	}
	// DataSeeker answers SEEK_DATA and SEEK_HOLE.
	DataSeeker interface {
		SeekData(ctx Context, off int64, hole bool) (int64, error)
	}
	// DirReader lists a directory. cookie is zero, or what came with an
	// earlier entry: it goes on behind it. emit returns false when there is
	// no room; that entry was not taken. "." and ".." are emitted too.
	DirReader interface {
		ReadDir(ctx Context, f *File, cookie int64, emit func(e DirEntry) bool) error
	}
	// Ioctler does what is special about the file (ENOTTY by default).
	Ioctler interface {
		Ioctl(ctx Context, f *File, cmd uint32, arg uint64) (uint64, error)
	}
	// Mapper can be mapped by mmap(2).
	Mapper interface {
		Mappable(ctx Context, f *File, opts *MapOptions) (memmap.Mappable, error)
	}
	// Allocator does fallocate(2).
	Allocator interface {
		Allocate(ctx Context, mode uint32, off, length int64) error
	}
	// Flusher is told of every close(2) of a descriptor.
	Flusher interface {
		Flush(ctx Context, f *File) error
	}
	// Releaser is told when the last reference goes. ctx may be a context of
	// the kernel's own.
	Releaser interface{ Release(f *File) }
	// Sealer has seals: fcntl(2)'s F_GET_SEALS and F_ADD_SEALS. The caller has
	// checked that the file is open for writing.
	Sealer interface {
		Seals() (uint32, error)
		AddSeals(seals uint32) error
	}
	// FlagSetter is told of changes by fcntl(F_SETFL).
	FlagSetter interface{ SetFlags(flags uint32) }
)

// ErrWouldBlock is EAGAIN.
const ErrWouldBlock = unix.EAGAIN

// DirEntry is one name in a directory.
type DirEntry struct {
	Name string
	Ino  uint64
	Type uint8 // DT_*
	Next int64 // cookie of what follows
}

// MapOptions says what a mapping wants from a Mapper.
type MapOptions struct {
	Length, Offset uint64
	Private        bool
	Prot           usermem.Access
	// MaxProt may be narrowed by the Mapper.
	MaxProt usermem.Access
	// Name is what /proc/PID/maps shows instead of the path, if set.
	Name string
}

// DTType returns the DT_ value for a mode.
func DTType(mode uint32) uint8 { return uint8(mode & unix.S_IFMT >> 12) }

// File is an open file description (open(2)). Descriptors, mappings, and
// messages in flight hold references; the last DecRef closes it.
type File struct {
	refs  atomic.Int64
	path  Path
	inode Inode
	impl  any
	flags atomic.Uint32
	cred  *auth.Credentials

	offMu locks.Mutex[locks.FileOffset]
	off   atomic.Int64 // changed with offMu held

	counted bool // holds a GetWrite on the inode
	// charged: the opener's account pays for it.
	charged atomic.Bool

	mu locks.Mutex[locks.Leaf]
	// onRelease are called when the last reference goes: epoll sets, locks.
	onRelease map[any]func()
	owner     Owner
	async     *waiter.Entry // while O_ASYNC is set
}

// Owner is who gets SIGIO and SIGURG (fcntl(2), F_SETOWN).
type Owner struct {
	ID     int32 // of a thread, process or group; in the setter's pid namespace resolved by Target
	Kind   int32 // F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
	Signal int32
	Target any
	// UID and EUID are those of who set the owner: what he may send.
	UID, EUID auth.KUID
}

// File status flags that fcntl(F_SETFL) can change by themselves; O_ASYNC is
// SetAsync's.
const settableFlags = unix.O_APPEND | unix.O_DIRECT | unix.O_NOATIME | unix.O_NONBLOCK

// NewFile returns a description with one reference. flags are those of
// open(2); creation flags are dropped. With O_PATH the caller has pinned the inode
// (Pinner).
func NewFile(p Path, impl any, flags uint32, cred *auth.Credentials) *File {
	f := &File{path: p, inode: p.Dentry.inode, impl: impl, cred: cred}
	f.flags.Store(flags &^ (unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_CLOEXEC))
	f.refs.Store(1)
	if p.Mount != nil {
		p.Mount.open.Add(1)
		p.Mount.expiring.Store(false)
	}
	if f.inode != nil {
		f.inode.Base().opens.Add(1)
	}
	return f
}

// Path returns where the file was opened.
func (f *File) Path() Path { return f.path }

// Inode returns the file's inode.
func (f *File) Inode() Inode { return f.inode }

// Impl returns what the file system's Open returned.
func (f *File) Impl() any { return f.impl }

// Opener returns the credentials the file was opened with.
func (f *File) Opener() *auth.Credentials { return f.cred }

// Flags returns the access mode and the status flags.
func (f *File) Flags() uint32 { return f.flags.Load() }

// SetFlags changes the status flags that can be changed.
func (f *File) SetFlags(flags uint32) {
	for {
		old := f.flags.Load()
		n := old&^settableFlags | flags&settableFlags
		if f.flags.CompareAndSwap(old, n) {
			if s, ok := f.impl.(FlagSetter); ok {
				s.SetFlags(n)
			}
			return
		}
	}
}

// NonBlocking reports O_NONBLOCK.
func (f *File) NonBlocking() bool { return f.flags.Load()&unix.O_NONBLOCK != 0 }

// PathOnly reports O_PATH.
func (f *File) PathOnly() bool { return f.flags.Load()&unix.O_PATH != 0 }

// Readable and Writable tell what the access mode allows.
func (f *File) Readable() bool {
	fl := f.flags.Load()
	return fl&unix.O_PATH == 0 && (fl&unix.O_ACCMODE == unix.O_RDONLY || fl&unix.O_ACCMODE == unix.O_RDWR)
}

func (f *File) Writable() bool {
	fl := f.flags.Load()
	return fl&unix.O_PATH == 0 && (fl&unix.O_ACCMODE == unix.O_WRONLY || fl&unix.O_ACCMODE == unix.O_RDWR)
}

// Owner returns who gets signals of the file; SetOwner sets it.
func (f *File) Owner() Owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owner
}

func (f *File) SetOwner(o Owner) {
	f.mu.Lock()
	f.owner = o
	f.mu.Unlock()
}

// SetAsync has l told of the file's events, and sets O_ASYNC; nil ends that. The
// caller holds a reference.
func (f *File) SetAsync(l waiter.Listener) {
	var e *waiter.Entry
	if l != nil {
		e = &waiter.Entry{Listener: l}
		if f.Readable() {
			e.Mask |= waiter.Readable | waiter.Pri | waiter.RdHup
		}
		if f.Writable() {
			e.Mask |= waiter.Writable
		}
		// Not under mu: a listener asks for the owner.
		f.EventRegister(e)
	}
	f.mu.Lock()
	old := f.async
	f.async = e
	if e != nil {
		f.flags.Or(unix.O_ASYNC)
	} else {
		f.flags.And(^uint32(unix.O_ASYNC))
	}
	f.mu.Unlock()
	if old != nil {
		f.EventUnregister(old)
	}
}

// fileCost is what an open file is charged as, in bytes: itself, what it is an
// open file of, and what else there is of a pipe, a socket or the like.
const fileCost = 1024

// pay charges the file to its opener when it gets its first descriptor: ENOMEM.
func (f *File) pay() error {
	if f.charged.Swap(true) {
		return nil
	}
	if err := f.cred.Account.Charge(fileCost); err != nil {
		f.charged.Store(false)
		return err
	}
	return nil
}

// IncRef adds a reference; the caller holds one.
func (f *File) IncRef() { f.refs.Add(1) }

// References returns how many there are now: for the collector of files that
// are only in flight between sockets.
func (f *File) References() int64 { return f.refs.Load() }

// TryIncRef adds a reference unless the last one has gone.
func (f *File) TryIncRef() bool {
	for {
		n := f.refs.Load()
		if n <= 0 {
			return false
		}
		if f.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// DecRef gives a reference back.
func (f *File) DecRef() {
	if n := f.refs.Add(-1); n > 0 {
		return
	} else if n < 0 {
		panic("vfs: File released twice")
	}
	if f.charged.Load() {
		f.cred.Account.Uncharge(fileCost)
	}
	f.mu.Lock()
	hooks := f.onRelease
	f.onRelease = nil
	f.mu.Unlock()
	for _, h := range hooks {
		h()
	}
	if f.async != nil {
		f.EventUnregister(f.async)
	}
	if r, ok := f.impl.(Releaser); ok {
		r.Release(f)
	}
	if f.PathOnly() {
		if pin, ok := f.inode.(Pinner); ok {
			pin.Unpin()
		}
	}
	if f.counted {
		f.inode.Base().PutWrite()
	}
	if f.path.Mount != nil {
		f.path.Mount.open.Add(-1)
	}
	notifyClose(f)
	if f.inode != nil {
		if b := f.inode.Base(); b.opens.Add(-1) == 0 {
			b.sendIfGone()
		}
	}
}

// OnRelease calls h when the last reference goes. key names it for
// CancelRelease. It reports false when the file is already gone.
func (f *File) OnRelease(key any, h func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refs.Load() <= 0 {
		return false
	}
	if f.onRelease == nil {
		f.onRelease = map[any]func(){}
	}
	f.onRelease[key] = h
	return true
}

// CancelRelease takes OnRelease back.
func (f *File) CancelRelease(key any) {
	f.mu.Lock()
	delete(f.onRelease, key)
	f.mu.Unlock()
}

// MappedName, DeviceID and InodeID implement memmap.Identity.
func (f *File) MappedName() string {
	n, _ := PathName(Path{}, f.path)
	if f.path.Dentry.Deleted() {
		n += " (deleted)"
	}
	return n
}
func (f *File) DeviceID() uint64 { return f.attrNoError().Dev }
func (f *File) InodeID() uint64  { return f.attrNoError().Ino }

func (f *File) attrNoError() (a Attr) {
	f.inode.Attributes(kernelContext{f.cred}, &a)
	return a
}

// Stat fills a.
func (f *File) Stat(ctx Context, a *Attr) error { return f.inode.Attributes(ctx, a) }

// Read does read(2).
func (f *File) Read(ctx Context, dst *usermem.Buffer) (int64, error) {
	if !f.Readable() {
		return 0, unix.EBADF
	}
	var n int64
	var err error
	switch impl := f.impl.(type) {
	case Reader:
		n, err = impl.Read(ctx, f, dst)
	case ReaderAt:
		f.offMu.Lock()
		n, err = impl.ReadAt(ctx, dst, f.off.Load())
		f.off.Add(n)
		f.offMu.Unlock()
	case DirReader:
		return 0, unix.EISDIR
	default:
		return 0, unix.EINVAL
	}
	if n > 0 {
		notifyAccess(f)
	}
	return n, err
}

// ReadAt does pread(2).
func (f *File) ReadAt(ctx Context, dst *usermem.Buffer, off int64) (int64, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	impl, ok := f.impl.(ReaderAt)
	if !f.Readable() {
		return 0, unix.EBADF
	}
	if !ok {
		if _, dir := f.impl.(DirReader); dir {
			return 0, unix.EISDIR
		}
		return 0, unix.ESPIPE
	}
	n, err := impl.ReadAt(ctx, dst, off)
	if n > 0 {
		notifyAccess(f)
	}
	return n, err
}

// limitWrite applies RLIMIT_FSIZE and the largest offset (write(2)).
func limitWrite(ctx Context, src *usermem.Buffer, off int64) error {
	limit := min(ctx.FileSizeLimit(), math.MaxInt64)
	if uint64(off) >= limit {
		if limit == math.MaxInt64 {
			return unix.EFBIG
		}
		ctx.FileSizeExceeded()
		return unix.EFBIG
	}
	src.Limit(limit - uint64(off))
	return nil
}

// Write does write(2).
func (f *File) Write(ctx Context, src *usermem.Buffer) (int64, error) {
	if !f.Writable() {
		return 0, unix.EBADF
	}
	var n int64
	var err error
	switch impl := f.impl.(type) {
	case Writer:
		n, err = impl.Write(ctx, f, src)
	case WriterAt:
		f.offMu.Lock()
		if f.flags.Load()&unix.O_APPEND != 0 {
			n, err = f.appendLocked(ctx, impl, src)
		} else if src.Len() > 0 {
			if err = limitWrite(ctx, src, f.off.Load()); err == nil {
				n, err = impl.WriteAt(ctx, src, f.off.Load())
				f.off.Add(n)
			}
		}
		f.offMu.Unlock()
	default:
		return 0, unix.EINVAL
	}
	if n > 0 {
		notifyModify(f)
	}
	return n, err
}

func (f *File) appendLocked(ctx Context, impl WriterAt, src *usermem.Buffer) (int64, error) {
	if a, ok := f.impl.(Appender); ok {
		limit := int64(min(ctx.FileSizeLimit(), math.MaxInt64))
		n, end, err := a.Append(ctx, src, limit)
		if n > 0 {
			f.off.Store(end)
		}
		if err == unix.EFBIG {
			ctx.FileSizeExceeded()
		}
		return n, err
	}
	n, err := impl.WriteAt(ctx, src, f.off.Load())
	f.off.Add(n)
	return n, err
}

// WriteAt does pwrite(2); with O_APPEND the data goes to the end, as Linux does.
func (f *File) WriteAt(ctx Context, src *usermem.Buffer, off int64) (int64, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	if !f.Writable() {
		return 0, unix.EBADF
	}
	impl, ok := f.impl.(WriterAt)
	if !ok {
		return 0, unix.ESPIPE
	}
	var n int64
	var err error
	if a, ok := f.impl.(Appender); ok && f.flags.Load()&unix.O_APPEND != 0 {
		if n, _, err = a.Append(ctx, src, int64(min(ctx.FileSizeLimit(), math.MaxInt64))); err == unix.EFBIG {
			ctx.FileSizeExceeded()
		}
	} else if src.Len() > 0 {
		if err = limitWrite(ctx, src, off); err == nil {
			n, err = impl.WriteAt(ctx, src, off)
		}
	}
	if n > 0 {
		notifyModify(f)
	}
	return n, err
}

// Seekable reports whether the file has an offset.
func (f *File) Seekable() bool {
	switch f.impl.(type) {
	case ReaderAt, WriterAt, Seeker, DirReader:
		return true
	}
	return false
}

// SeekWithoutEnd is Seeker's Seek for what has no end to seek from, as directories: an
// offset from the beginning, or from current.
func SeekWithoutEnd(current, off int64, whence int) (int64, error) {
	switch whence {
	case unix.SEEK_SET:
	case unix.SEEK_CUR:
		off += current
	default:
		return 0, unix.EINVAL
	}
	if off < 0 {
		return 0, unix.EINVAL
	}
	return off, nil
}

// Seek does lseek(2).
func (f *File) Seek(ctx Context, off int64, whence int) (int64, error) {
	if f.PathOnly() {
		return 0, unix.EBADF
	}
	f.offMu.Lock()
	defer f.offMu.Unlock()
	if s, ok := f.impl.(Seeker); ok {
		n, err := s.Seek(ctx, f, f.off.Load(), off, whence)
		if err == nil {
			f.off.Store(n)
		}
		return n, err
	}
	if !f.Seekable() {
		return 0, unix.ESPIPE
	}
	var base int64
	switch whence {
	case unix.SEEK_SET:
	case unix.SEEK_CUR:
		base = f.off.Load()
	case unix.SEEK_END, unix.SEEK_DATA, unix.SEEK_HOLE:
		var a Attr
		if err := f.inode.Attributes(ctx, &a); err != nil {
			return 0, err
		}
		if whence == unix.SEEK_END {
			base = a.Size
			break
		}
		if off < 0 || off >= a.Size {
			return 0, unix.ENXIO
		}
		if d, ok := f.impl.(DataSeeker); ok {
			n, err := d.SeekData(ctx, off, whence == unix.SEEK_HOLE)
			if err != nil {
				return 0, err
			}
			off = n
		} else if whence == unix.SEEK_HOLE {
			off = a.Size
		}
	default:
		return 0, unix.EINVAL
	}
	if off > 0 && base > math.MaxInt64-off {
		return 0, unix.EOVERFLOW
	}
	if base+off < 0 {
		return 0, unix.EINVAL
	}
	f.off.Store(base + off)
	return base + off, nil
}

// Offset returns the current offset, for /proc/PID/fdinfo. It takes no lock: an
// fdinfo may be read that is about itself, or two that are about each other.
func (f *File) Offset() int64 { return f.off.Load() }

// ReadDir emits entries from the current offset on, and moves it behind the
// last that was taken.
func (f *File) ReadDir(ctx Context, emit func(e DirEntry) bool) error {
	d, ok := f.impl.(DirReader)
	if f.PathOnly() {
		return unix.EBADF
	}
	if !ok {
		return unix.ENOTDIR
	}
	if f.path.Dentry.Deleted() {
		return unix.ENOENT
	}
	f.offMu.Lock()
	defer f.offMu.Unlock()
	off := f.off.Load()
	next := off
	err := d.ReadDir(ctx, f, off, func(e DirEntry) bool {
		if !emit(e) {
			return false
		}
		next = e.Next
		return true
	})
	f.off.Store(next)
	notifyAccess(f)
	return err
}

// Ioctl does what the file knows of; ENOTTY otherwise.
func (f *File) Ioctl(ctx Context, cmd uint32, arg uint64) (uint64, error) {
	if i, ok := f.impl.(Ioctler); ok {
		return i.Ioctl(ctx, f, cmd, arg)
	}
	return 0, unix.ENOTTY
}

// Mappable returns what mmap(2) maps (ENODEV if nothing).
func (f *File) Mappable(ctx Context, opts *MapOptions) (memmap.Mappable, error) {
	if m, ok := f.impl.(Mapper); ok {
		return m.Mappable(ctx, f, opts)
	}
	return nil, unix.ENODEV
}

// Sync does fsync(2) and fdatasync(2).
func (f *File) Sync(ctx Context, dataOnly bool) error {
	if s, ok := f.impl.(Syncer); ok {
		return s.Sync(ctx, dataOnly)
	}
	var a Attr
	if err := f.inode.Attributes(ctx, &a); err != nil {
		return err
	}
	switch a.Type() {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFBLK:
		return nil
	}
	return unix.EINVAL
}

// Flush is called for each closed descriptor.
func (f *File) Flush(ctx Context) error {
	if fl, ok := f.impl.(Flusher); ok {
		return fl.Flush(ctx, f)
	}
	return nil
}

// Readiness implements waiter.Waitable: files that don't wait are always ready.
func (f *File) Readiness(mask waiter.Mask) waiter.Mask {
	if w, ok := f.impl.(waiter.Waitable); ok {
		return w.Readiness(mask)
	}
	return mask & (waiter.Readable | waiter.Writable)
}

// EventRegister and EventUnregister implement waiter.Waitable.
func (f *File) EventRegister(e *waiter.Entry) {
	if w, ok := f.impl.(waiter.Waitable); ok {
		w.EventRegister(e)
	}
}

func (f *File) EventUnregister(e *waiter.Entry) {
	if w, ok := f.impl.(waiter.Waitable); ok {
		w.EventUnregister(e)
	}
}

// Pollable reports whether the file can be waited for (EPERM of epoll_ctl(2)
// where not).
func (f *File) Pollable() bool { _, ok := f.impl.(waiter.Waitable); return ok }

// kernelContext is the context of work that no task asks for.
type kernelContext struct{ cred *auth.Credentials }

func (c kernelContext) Credentials() *auth.Credentials { return c.cred }
func (kernelContext) Memory() usermem.Memory           { return nil }
func (kernelContext) Block(k *waiter.Token) error      { k.Wait(); return nil }
func (kernelContext) FileSizeLimit() uint64            { return math.MaxUint64 }
func (kernelContext) FileSizeExceeded()                {}
func (kernelContext) ThreadGroupID() int32             { return 0 }

// KernelContext returns a context for the kernel's own work, with cred.
func KernelContext(cred *auth.Credentials) Context { return kernelContext{cred} }
