package tmpfs

import (
	"sort"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/vfs"
)

// Child is an inode that can have names in a Dir.
type Child interface {
	vfs.Inode
	// AddLink counts n more names, or less; ENOENT for a name more of
	// something that has had its last. It sets ctime to now, as Changed does.
	AddLink(n int32, now int64) error
	// Mode and Ino are constant as far as a directory wants them: the type and
	// the number.
	Mode() uint32
	Ino() uint64
	// Changed is for a rename.
	Changed(now int64)
}

// Names is a directory as Rename sees it.
type Names interface {
	Child
	// Put enters a name that isn't there, Take removes one, Swap makes one
	// that is there mean c.
	Put(name string, c Child)
	Take(name string, old Child)
	Swap(name string, old, c Child)
	// Empty reports whether there is no name.
	Empty(ctx vfs.Context) (bool, error)
	// Touch gets the directory ready for a change.
	Touch(ctx vfs.Context) error
	// NewWhiteout makes an inode that hides a name.
	NewWhiteout() (Child, error)
	// AddSubdirs counts directories in it, for st_nlink.
	AddSubdirs(n int32)
	// Modified sets mtime and ctime.
	Modified(now int64)
}

// Dir is a directory.
type Dir struct {
	Meta
	names locks.RWMutex[locks.Names] // guards what is below
	// entries by name; order by number, with nil where a name has gone.
	entries map[string]*entry
	order   []*entry
	gone    int // nils in order
	last    int64
}

// entry is a name. order is sorted by seq; a removed entry stays there, with
// child nil, until there are too many.
type entry struct {
	name  string
	seq   int64
	child Child
}

// FirstCookie is the cookie behind "." and "..": that of the first name is
// greater.
const FirstCookie = 2

// NewDir returns an empty directory without a name, and two links.
func (s *Storage) NewDir(a *vfs.NewAttr) (*Dir, error) {
	d := &Dir{}
	d.InitDir(s, s.NewIno(), a)
	d.nlink = 2
	return d, d.charge(0)
}

// InitDir is Init for a directory.
func (d *Dir) InitDir(s *Storage, ino uint64, a *vfs.NewAttr) {
	d.Init(s, ino, a)
	d.last = FirstCookie
}

// SetFirstCookie makes names that come from now on have cookies above c.
func (d *Dir) SetFirstCookie(c int64) { d.last = c }

// Attributes implements vfs.Inode.
func (d *Dir) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	d.Meta.Attributes(ctx, a)
	d.names.RLock()
	a.Size = int64(len(d.entries)) * dirEntrySize
	d.names.RUnlock()
	return nil
}

// SetAttributes implements vfs.Inode.
func (d *Dir) SetAttributes(ctx vfs.Context, s *vfs.SetAttr) error {
	if s.Mask&vfs.SetSize != 0 {
		return unix.EISDIR
	}
	return d.Meta.SetAttributes(ctx, s)
}

// AddLink implements Child: a directory has its name, and then none.
func (d *Dir) AddLink(n int32, now int64) error {
	if n > 0 {
		d.Changed(now)
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nlink = 0
	d.ctime = now
	d.goneLocked()
	return nil
}

// AddSubdirs implements Names.
func (d *Dir) AddSubdirs(n int32) {
	d.mu.Lock()
	d.nlink += uint32(n)
	d.mu.Unlock()
}

// Touch implements Names.
func (d *Dir) Touch(vfs.Context) error { return nil }

// Get returns the inode called name, or nil.
func (d *Dir) Get(name string) Child {
	d.names.RLock()
	defer d.names.RUnlock()
	if e := d.entries[name]; e != nil {
		return e.child
	}
	return nil
}

// Put implements Names. It isn't refused beyond the limit: a name that is moved
// goes elsewhere (add has asked for one that is new).
func (d *Dir) Put(name string, c Child) {
	d.storage.tab.ChargeAlways(costOf(name))
	d.put(name, c)
}

func costOf(name string) int64 { return nameCost + int64(len(name)) }

func (d *Dir) put(name string, c Child) {
	d.names.Lock()
	defer d.names.Unlock()
	d.last++
	e := &entry{name, d.last, c}
	if d.entries == nil {
		d.entries = map[string]*entry{}
	}
	d.entries[name] = e
	d.order = append(d.order, e)
}

// Take implements Names.
func (d *Dir) Take(name string, _ Child) {
	d.names.Lock()
	defer d.names.Unlock()
	e := d.entries[name]
	if e == nil {
		return
	}
	d.storage.tab.Uncharge(costOf(name))
	delete(d.entries, name)
	i := d.search(e.seq)
	if i == len(d.order)-1 {
		// The newest goes first where files are made and removed in turn.
		d.order[i] = nil
		d.order = d.order[:i]
		return
	}
	e.child = nil
	if d.gone++; d.gone > 32 && d.gone > len(d.order)/2 {
		kept := make([]*entry, 0, len(d.entries)+16)
		for _, e := range d.order {
			if e.child != nil {
				kept = append(kept, e)
			}
		}
		d.order, d.gone = kept, 0
	}
}

// Swap implements Names.
func (d *Dir) Swap(name string, _, c Child) {
	d.names.Lock()
	defer d.names.Unlock()
	// A reader that has the old entry in hand must not see it change.
	old := d.entries[name]
	e := &entry{name, old.seq, c}
	d.entries[name] = e
	d.order[d.search(old.seq)] = e
}

// search returns the index of the first entry numbered seq or more.
func (d *Dir) search(seq int64) int {
	return sort.Search(len(d.order), func(i int) bool { return d.order[i].seq >= seq })
}

// Empty implements Names.
func (d *Dir) Empty(vfs.Context) (bool, error) {
	d.names.RLock()
	defer d.names.RUnlock()
	return len(d.entries) == 0, nil
}

// Len returns the number of names.
func (d *Dir) Len() int {
	d.names.RLock()
	defer d.names.RUnlock()
	return len(d.entries)
}

// After returns up to len(buf) names numbered above cookie, in order.
func (d *Dir) After(cookie int64, buf []vfs.DirEntry) int {
	d.names.RLock()
	defer d.names.RUnlock()
	n := 0
	for i := d.search(cookie + 1); i < len(d.order) && n < len(buf); i++ {
		if e := d.order[i]; e.child != nil {
			buf[n] = vfs.DirEntry{Name: e.name, Ino: e.child.Ino(), Type: vfs.DTType(e.child.Mode()), Next: e.seq}
			n++
		}
	}
	return n
}

// Lookup implements vfs.Directory.
func (d *Dir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if c := d.Get(name); c != nil {
		return c, nil
	}
	return nil, unix.ENOENT
}

// add enters an inode, at the time now.
func (d *Dir) add(name string, c Child, now int64) (vfs.Inode, error) {
	if d.storage.tab.Charge(costOf(name)) != nil {
		c.AddLink(0, now)
		return nil, unix.ENOSPC
	}
	if err := c.AddLink(1, now); err != nil {
		d.storage.tab.Uncharge(costOf(name))
		return nil, err
	}
	d.put(name, c)
	d.Modified(now)
	return c, nil
}

// Make implements vfs.Directory.
func (d *Dir) Make(_ vfs.Context, name string, a *vfs.NewAttr) (vfs.Inode, error) {
	if a.Mode&unix.S_IFMT == unix.S_IFREG {
		c, err := d.storage.NewRegular(a)
		if err != nil {
			return nil, err
		}
		return d.add(name, c, c.btime)
	}
	c, err := d.storage.NewSpecial(a)
	if err != nil {
		return nil, err
	}
	return d.add(name, c, c.btime)
}

// Mkdir implements vfs.Directory.
func (d *Dir) Mkdir(_ vfs.Context, name string, a *vfs.NewAttr) (vfs.Inode, error) {
	c, err := d.storage.NewDir(a)
	if err != nil {
		return nil, err
	}
	i, err := d.add(name, c, c.btime)
	if err == nil {
		d.AddSubdirs(1)
	}
	return i, err
}

// Symlink implements vfs.Directory.
func (d *Dir) Symlink(_ vfs.Context, name, target string, a *vfs.NewAttr) (vfs.Inode, error) {
	c, err := d.storage.NewSymlink(target, a)
	if err != nil {
		return nil, err
	}
	return d.add(name, c, c.btime)
}

// Tmpfile implements vfs.TmpfileMaker.
func (d *Dir) Tmpfile(_ vfs.Context, a *vfs.NewAttr) (vfs.Inode, error) {
	return d.storage.NewRegular(a)
}

// NewWhiteout implements Names: a character device 0:0, as overlayfs has it.
func (d *Dir) NewWhiteout() (Child, error) {
	return d.storage.NewSpecial(&vfs.NewAttr{Mode: unix.S_IFCHR})
}

// Link implements vfs.Directory.
func (d *Dir) Link(_ vfs.Context, name string, target vfs.Inode) error {
	c, ok := target.(Child)
	if !ok {
		return unix.EXDEV
	}
	_, err := d.add(name, c, Now())
	return err
}

// Unlink implements vfs.Directory.
func (d *Dir) Unlink(ctx vfs.Context, name string, victim vfs.Inode) error {
	return Remove(ctx, d, name, victim)
}

// Rmdir implements vfs.Directory.
func (d *Dir) Rmdir(ctx vfs.Context, name string, victim vfs.Inode) error {
	return Remove(ctx, d, name, victim)
}

// Rename implements vfs.Directory.
func (d *Dir) Rename(ctx vfs.Context, oldName string, old vfs.Inode, dir vfs.Directory, newName string, replaced vfs.Inode, flags uint32) error {
	return Rename(ctx, d, oldName, old, dir, newName, replaced, flags)
}

// Remove takes victim, called name, out of d: Unlink and Rmdir.
func Remove(ctx vfs.Context, d Names, name string, victim vfs.Inode) error {
	c, ok := victim.(Child)
	if !ok {
		return unix.EXDEV
	}
	sub, isDir := victim.(Names)
	if isDir {
		switch empty, err := sub.Empty(ctx); {
		case err != nil:
			return err
		case !empty:
			return unix.ENOTEMPTY
		}
	}
	if err := d.Touch(ctx); err != nil {
		return err
	}
	d.Take(name, c)
	now := Now()
	d.Modified(now)
	if isDir {
		d.AddSubdirs(-1)
	}
	return c.AddLink(-1, now)
}

// Rename does what vfs.Directory.Rename says for any two Names.
func Rename(ctx vfs.Context, from Names, oldName string, oldInode vfs.Inode, dir vfs.Directory, newName string, replaced vfs.Inode, flags uint32) error {
	to, ok := dir.(Names)
	old, ok2 := oldInode.(Child)
	if !ok || !ok2 {
		return unix.EXDEV
	}
	_, oldIsDir := oldInode.(Names)
	now := Now()
	if err := from.Touch(ctx); err != nil {
		return err
	}
	if err := to.Touch(ctx); err != nil {
		return err
	}
	if flags&unix.RENAME_EXCHANGE != 0 {
		other := replaced.(Child)
		_, otherIsDir := replaced.(Names)
		from.Swap(oldName, old, other)
		to.Swap(newName, other, old)
		if oldIsDir != otherIsDir && from.Base() != to.Base() {
			n := int32(1)
			if oldIsDir {
				n = -1
			}
			from.AddSubdirs(n)
			to.AddSubdirs(-n)
		}
		other.Changed(now)
	} else {
		var whiteout Child
		if replaced != nil {
			if sub, ok := replaced.(Names); ok {
				switch empty, err := sub.Empty(ctx); {
				case err != nil:
					return err
				case !empty:
					return unix.ENOTEMPTY
				}
			}
		}
		if flags&unix.RENAME_WHITEOUT != 0 {
			var err error
			if whiteout, err = from.NewWhiteout(); err != nil {
				return err
			}
		}
		if replaced != nil {
			if _, ok := replaced.(Names); ok {
				to.AddSubdirs(-1)
			}
			victim := replaced.(Child)
			to.Swap(newName, victim, old)
			victim.AddLink(-1, now)
		} else {
			to.Put(newName, old)
		}
		from.Take(oldName, old)
		if whiteout != nil {
			whiteout.AddLink(1, now)
			from.Put(oldName, whiteout)
		}
		if oldIsDir && from.Base() != to.Base() {
			from.AddSubdirs(-1)
			to.AddSubdirs(1)
		}
	}
	old.Changed(now)
	from.Modified(now)
	to.Modified(now)
	return nil
}

// Open implements vfs.Inode.
func (d *Dir) Open(vfs.Context, vfs.Path, uint32) (any, error) { return OpenDir{d}, nil }

// Lister gives names in the order of cookies.
type Lister interface {
	Ino() uint64
	After(cookie int64, buf []vfs.DirEntry) int
	Accessed()
}

// OpenDir is an open directory.
type OpenDir struct{ Lister }

// batches are names on their way to who lists a directory.
var batches = sync.Pool{New: func() any { return new([64]vfs.DirEntry) }}

// ReadDir implements vfs.DirReader. It takes names in batches, so that emit,
// which touches application memory, runs without locks.
func (o OpenDir) ReadDir(ctx vfs.Context, f *vfs.File, cookie int64, emit func(vfs.DirEntry) bool) error {
	if cookie < 1 && !emit(vfs.DirEntry{Name: ".", Ino: o.Ino(), Type: unix.DT_DIR, Next: 1}) {
		return nil
	}
	if cookie < 2 {
		up := o.Ino()
		if f != nil {
			if p := f.Path().Dentry.Parent(); p != nil {
				a := vfs.BorrowAttr()
				if p.Inode().Attributes(ctx, a) == nil {
					up = a.Ino
				}
				a.Return()
			}
		}
		if !emit(vfs.DirEntry{Name: "..", Ino: up, Type: unix.DT_DIR, Next: FirstCookie}) {
			return nil
		}
		cookie = FirstCookie
	}
	o.Accessed()
	buf := batches.Get().(*[64]vfs.DirEntry)
	used := 0
	defer func() {
		clear(buf[:used])
		batches.Put(buf)
	}()
	for {
		n := o.After(cookie, buf[:])
		used = max(used, n)
		for i := range buf[:n] {
			if !emit(buf[i]) {
				return nil
			}
		}
		if n < len(buf) {
			return nil
		}
		cookie = buf[n-1].Next
	}
}

// Seek implements vfs.Seeker: a directory has no end to seek from.
func (o OpenDir) Seek(_ vfs.Context, _ *vfs.File, current, off int64, whence int) (int64, error) {
	return vfs.SeekWithoutEnd(current, off, whence)
}
