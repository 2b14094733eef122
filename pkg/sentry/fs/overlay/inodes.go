package overlay

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// file is a regular file from below. It is its own open file.
type file struct {
	node
	tmpfs.Regular
	idle bool // it is one of FS.idle; guarded by FS.mu
}

// withContent sees to it that there is a content. mu is held.
func (f *file) withContent(size uint64) error {
	if f.HasContent() {
		return nil
	}
	c, err := newContent(&source{inode: f.lower, mount: f.fs.lower, ctx: f.fs.ctx}, f.fs.NewContent(), size)
	if err != nil {
		return err
	}
	f.SetContent(c)
	return nil
}

func (f *file) copy(ctx vfs.Context) error {
	if f.copied.Load() {
		return nil
	}
	err := f.copyUp(ctx, func(a *vfs.Attr) error { return f.withContent(uint64(a.Size)) })
	if err == nil && f.Gone() { // somebody came by a name that went meanwhile
		f.DropContent()
	}
	return err
}

// Attributes implements vfs.Inode.
func (f *file) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	if f.copied.Load() {
		return f.Regular.Attributes(ctx, a)
	}
	return f.lowerAttributes(ctx, a)
}

// SetAttributes implements vfs.Inode.
func (f *file) SetAttributes(ctx vfs.Context, s *vfs.SetAttr) error {
	if err := f.copy(ctx); err != nil {
		return err
	}
	return f.Regular.SetAttributes(ctx, s)
}

// Open implements vfs.Inode.
func (f *file) Open(ctx vfs.Context, _ vfs.Path, flags uint32) (any, error) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		if err := f.copy(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.pin() {
		return nil, unix.ESTALE
	}
	if err := f.readable(ctx); err != nil {
		f.Regular.Unpin()
		return nil, err
	}
	return f, nil
}

// readable sees to it that an open file can be read. mu is held.
func (f *file) readable(ctx vfs.Context) error {
	if f.copied.Load() || f.HasContent() {
		return nil
	}
	var a vfs.Attr
	if err := f.lower.Attributes(ctx, &a); err != nil {
		return err
	}
	if err := f.withContent(uint64(a.Size)); err != nil {
		return err
	}
	// What the host refuses is refused now and not at the first read.
	_, err := f.Content().(*content).lower.open()
	if err != nil {
		f.DropContent()
	}
	return err
}

// pin counts an opening, or what else keeps the file; false if it has ended. mu is
// held.
func (f *file) pin() bool {
	if f.copied.Load() {
		return f.Regular.Pin()
	}
	if f.removed.Load() && !f.Pinned() {
		return false
	}
	f.PinAlways()
	return true
}

// ReadAt implements vfs.ReaderAt. As long as nothing is copied the time of the last
// access is the lower file's, which stays.
func (f *file) ReadAt(ctx vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	if !f.copied.Load() {
		return f.ReadQuietly(dst, off)
	}
	return f.Regular.ReadAt(ctx, dst, off)
}

// Release implements vfs.Releaser. A file that was only read gives up what it
// has of the lower one, when as many others as may be idle have been closed.
func (f *file) Release(*vfs.File) { f.Unpin() }

// Pin and Unpin implement vfs.Pinner.
func (f *file) Pin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pin()
}
func (f *file) Unpin() {
	f.mu.Lock()
	f.Regular.Unpin()
	idle := !f.copied.Load() && f.HasContent() && !f.Pinned()
	if idle && f.removed.Load() {
		f.DropContent()
		idle = false
	}
	f.mu.Unlock()
	if idle {
		f.fs.keepIdle(f)
	}
}

// keepIdle makes f one of the idle files. The one that has been there longest
// goes.
func (fs *FS) keepIdle(f *file) {
	fs.mu.Lock()
	if fs.closed {
		fs.mu.Unlock()
		f.drop()
		return
	}
	if f.idle {
		fs.mu.Unlock()
		return
	}
	old := fs.idle[fs.nextIdle]
	fs.idle[fs.nextIdle], f.idle = f, true
	fs.nextIdle = (fs.nextIdle + 1) % maxIdle
	if old != nil {
		old.idle = false
	}
	fs.mu.Unlock()
	if old != nil {
		old.drop()
	}
}

// Close gives up what closed files of a file system that New returned have of the
// lower one, and keeps nothing from then on.
func Close(vfsFS *vfs.Filesystem) {
	fs, ok := vfsFS.Impl.(*FS)
	if !ok {
		return
	}
	fs.mu.Lock()
	idle := fs.idle
	fs.idle = [maxIdle]*file{}
	fs.closed = true
	fs.mu.Unlock()
	for _, f := range idle {
		if f != nil {
			f.drop()
		}
	}
}

// drop gives up what a closed file has of the lower one.
func (f *file) drop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.copied.Load() && !f.Pinned() {
		f.DropContent()
	}
}

// AddLink implements tmpfs.Child. With the last name goes what an idle file has.
func (f *file) AddLink(n int32, now int64) error {
	err := f.addLink(n, now, f.Regular.AddLink)
	if f.removed.Load() {
		f.drop()
	}
	return err
}

// Changed implements tmpfs.Child.
func (f *file) Changed(now int64) {
	if f.copy(f.fs.ctx) == nil {
		f.Regular.Changed(now)
	}
}

// GetXattr and the others implement vfs.Xattrs.
func (f *file) GetXattr(ctx vfs.Context, name string) ([]byte, error) { return f.getXattr(ctx, name) }
func (f *file) ListXattr(ctx vfs.Context) ([]string, error)           { return f.listXattr(ctx) }
func (f *file) SetXattr(ctx vfs.Context, name string, value []byte, flags uint32) error {
	if err := f.copy(ctx); err != nil {
		return err
	}
	return f.Regular.SetXattr(ctx, name, value, flags)
}
func (f *file) RemoveXattr(ctx vfs.Context, name string) error {
	if err := f.copy(ctx); err != nil {
		return err
	}
	return f.Regular.RemoveXattr(ctx, name)
}

// special is a device node, a FIFO or a socket from below.
type special struct {
	node
	tmpfs.Special
}

func (s *special) copy(ctx vfs.Context) error { return s.copyUp(ctx, nil) }

// Attributes implements vfs.Inode.
func (s *special) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	if s.copied.Load() {
		return s.Special.Attributes(ctx, a)
	}
	return s.lowerAttributes(ctx, a)
}

// SetAttributes implements vfs.Inode.
func (s *special) SetAttributes(ctx vfs.Context, c *vfs.SetAttr) error {
	if err := s.copy(ctx); err != nil {
		return err
	}
	return s.Special.SetAttributes(ctx, c)
}

// AddLink implements tmpfs.Child.
func (s *special) AddLink(n int32, now int64) error { return s.addLink(n, now, s.Special.AddLink) }

// Changed implements tmpfs.Child.
func (s *special) Changed(now int64) {
	if s.copy(s.fs.ctx) == nil {
		s.Special.Changed(now)
	}
}

// GetXattr and the others implement vfs.Xattrs.
func (s *special) GetXattr(ctx vfs.Context, name string) ([]byte, error) {
	return s.getXattr(ctx, name)
}
func (s *special) ListXattr(ctx vfs.Context) ([]string, error) { return s.listXattr(ctx) }
func (s *special) SetXattr(ctx vfs.Context, name string, value []byte, flags uint32) error {
	if err := s.copy(ctx); err != nil {
		return err
	}
	return s.Special.SetXattr(ctx, name, value, flags)
}
func (s *special) RemoveXattr(ctx vfs.Context, name string) error {
	if err := s.copy(ctx); err != nil {
		return err
	}
	return s.Special.RemoveXattr(ctx, name)
}

// link is a symbolic link from below.
type link struct{ special }

func (l *link) copy(ctx vfs.Context) error { return l.copyUp(ctx, nil) }

// Attributes implements vfs.Inode.
func (l *link) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	if !l.copied.Load() {
		return l.lowerAttributes(ctx, a)
	}
	var below vfs.Attr
	if err := l.lower.Attributes(ctx, &below); err != nil {
		return err
	}
	l.Special.Attributes(ctx, a)
	a.Size = below.Size
	return nil
}

// Readlink implements vfs.Link.
func (l *link) Readlink(ctx vfs.Context) (string, error) {
	return l.lower.(vfs.Link).Readlink(ctx)
}

// Open implements vfs.Inode; the VFS doesn't call it.
func (l *link) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ELOOP }
