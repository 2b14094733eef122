package overlay

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
)

// dir is a directory from below: the names of the tmpfs half, and those of the
// lower directory that are not hidden.
type dir struct {
	node
	tmpfs.Dir

	namesMu locks.RWMutex[locks.Leaf]
	// hidden are lower names that are gone or mean something else.
	hidden map[string]struct{}
	// below are the lower names in order, once somebody has asked; the cookie
	// of the i-th is FirstCookie+1+i.
	below  []vfs.DirEntry
	loaded bool
}

func (d *dir) copy(ctx vfs.Context) error { return d.copyUp(ctx, nil) }

// Touch implements tmpfs.Names.
func (d *dir) Touch(ctx vfs.Context) error { return d.copy(ctx) }

// Attributes implements vfs.Inode.
func (d *dir) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	if d.copied.Load() {
		return d.Dir.Attributes(ctx, a)
	}
	return d.lowerAttributes(ctx, a)
}

// SetAttributes implements vfs.Inode.
func (d *dir) SetAttributes(ctx vfs.Context, s *vfs.SetAttr) error {
	if err := d.copy(ctx); err != nil {
		return err
	}
	return d.Dir.SetAttributes(ctx, s)
}

// AddLink implements tmpfs.Child.
func (d *dir) AddLink(n int32, now int64) error { return d.addLink(n, now, d.Dir.AddLink) }

// Changed implements tmpfs.Child.
func (d *dir) Changed(now int64) {
	if d.copy(d.fs.ctx) == nil {
		d.Dir.Changed(now)
	}
}

func (d *dir) isHidden(name string) bool {
	d.namesMu.RLock()
	defer d.namesMu.RUnlock()
	_, ok := d.hidden[name]
	return ok
}

// hide makes a lower name be gone.
func (d *dir) hide(name string) {
	d.namesMu.Lock()
	defer d.namesMu.Unlock()
	if d.hidden == nil {
		d.hidden = map[string]struct{}{}
	}
	d.hidden[name] = struct{}{}
}

// Lookup implements vfs.Directory.
func (d *dir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	if c := d.Get(name); c != nil {
		return c, nil
	}
	if d.isHidden(name) {
		return nil, unix.ENOENT
	}
	lower, err := d.lower.(vfs.Directory).Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.fs.node(ctx, lower)
}

// Take implements tmpfs.Names.
func (d *dir) Take(name string, c tmpfs.Child) {
	if d.Get(name) != nil {
		d.Dir.Take(name, c)
	} else {
		d.hide(name)
	}
}

// Swap implements tmpfs.Names.
func (d *dir) Swap(name string, old, c tmpfs.Child) {
	if d.Get(name) != nil {
		d.Dir.Swap(name, old, c)
	} else {
		d.Put(name, c)
		d.hide(name)
	}
}

// Empty implements tmpfs.Names.
func (d *dir) Empty(ctx vfs.Context) (bool, error) {
	if d.Len() != 0 {
		return false, nil
	}
	if err := d.load(ctx); err != nil {
		return false, err
	}
	d.namesMu.RLock()
	defer d.namesMu.RUnlock()
	for i := range d.below {
		if _, gone := d.hidden[d.below[i].Name]; !gone {
			return false, nil
		}
	}
	return true, nil
}

// load reads the lower directory, once: it doesn't change.
func (d *dir) load(ctx vfs.Context) error {
	d.namesMu.RLock()
	loaded := d.loaded
	d.namesMu.RUnlock()
	if loaded {
		return nil
	}
	f, err := openLower(ctx, d.fs.lower, d.lower, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.DecRef()
	var names []vfs.DirEntry
	// Not by File.ReadDir, for an offset that nobody sees: its lock comes before
	// those of directories, which are held.
	r, ok := f.Impl().(vfs.DirReader)
	if !ok {
		return unix.ENOTDIR
	}
	if err := r.ReadDir(ctx, f, 0, func(e vfs.DirEntry) bool {
		if e.Name != "." && e.Name != ".." {
			e.Next = int64(tmpfs.FirstCookie + 1 + len(names))
			names = append(names, e)
		}
		return true
	}); err != nil {
		return err
	}
	d.namesMu.Lock()
	if !d.loaded {
		d.below, d.loaded = names, true
	}
	d.namesMu.Unlock()
	return nil
}

// After implements tmpfs.Lister, once load was called.
func (d *dir) After(cookie int64, buf []vfs.DirEntry) int {
	n := 0
	d.namesMu.RLock()
	for i := cookie - tmpfs.FirstCookie; i < int64(len(d.below)) && n < len(buf); i++ {
		if _, gone := d.hidden[d.below[i].Name]; !gone {
			buf[n] = d.below[i]
			n++
		}
	}
	d.namesMu.RUnlock()
	if n < len(buf) {
		n += d.Dir.After(max(cookie, firstCookie), buf[n:])
	}
	return n
}

// Accessed implements tmpfs.Lister.
func (d *dir) Accessed() {
	if d.copied.Load() {
		d.Dir.Accessed()
	}
}

// Open implements vfs.Inode.
func (d *dir) Open(ctx vfs.Context, _ vfs.Path, _ uint32) (any, error) {
	if err := d.load(ctx); err != nil {
		return nil, err
	}
	return tmpfs.OpenDir{Lister: d}, nil
}

// Make and the others implement vfs.Directory.
func (d *dir) Make(ctx vfs.Context, name string, a *vfs.NewAttr) (vfs.Inode, error) {
	if err := d.copy(ctx); err != nil {
		return nil, err
	}
	return d.Dir.Make(ctx, name, a)
}
func (d *dir) Mkdir(ctx vfs.Context, name string, a *vfs.NewAttr) (vfs.Inode, error) {
	if err := d.copy(ctx); err != nil {
		return nil, err
	}
	return d.Dir.Mkdir(ctx, name, a)
}
func (d *dir) Symlink(ctx vfs.Context, name, target string, a *vfs.NewAttr) (vfs.Inode, error) {
	if err := d.copy(ctx); err != nil {
		return nil, err
	}
	return d.Dir.Symlink(ctx, name, target, a)
}
func (d *dir) Link(ctx vfs.Context, name string, target vfs.Inode) error {
	if err := d.copy(ctx); err != nil {
		return err
	}
	return d.Dir.Link(ctx, name, target)
}
func (d *dir) Unlink(ctx vfs.Context, name string, victim vfs.Inode) error {
	return tmpfs.Remove(ctx, d, name, victim)
}
func (d *dir) Rmdir(ctx vfs.Context, name string, victim vfs.Inode) error {
	return tmpfs.Remove(ctx, d, name, victim)
}
func (d *dir) Rename(ctx vfs.Context, oldName string, old vfs.Inode, to vfs.Directory, newName string, replaced vfs.Inode, flags uint32) error {
	return tmpfs.Rename(ctx, d, oldName, old, to, newName, replaced, flags)
}

// GetXattr and the others implement vfs.Xattrs.
func (d *dir) GetXattr(ctx vfs.Context, name string) ([]byte, error) { return d.getXattr(ctx, name) }
func (d *dir) ListXattr(ctx vfs.Context) ([]string, error)           { return d.listXattr(ctx) }
func (d *dir) SetXattr(ctx vfs.Context, name string, value []byte, flags uint32) error {
	if err := d.copy(ctx); err != nil {
		return err
	}
	return d.Dir.SetXattr(ctx, name, value, flags)
}
func (d *dir) RemoveXattr(ctx vfs.Context, name string) error {
	if err := d.copy(ctx); err != nil {
		return err
	}
	return d.Dir.RemoveXattr(ctx, name)
}
