package gofer

import (
	"strings"
	"weak"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/vfs"
)

// listing is all that a directory holds, as far as we have been told and have done since. An entry never
// changes its number, which is a cookie less two; what is removed leaves a gap.
type listing struct {
	entries []entry
	index   map[string]int32 // made when the first name is looked up
	gaps    int
}

type entry struct {
	name string // empty: a gap
	path uint64
	typ  uint8    // DT_*
	attr *p9.Attr // nil: not known, or no longer to be believed
}

// find returns the number of name.
func (l *listing) find(name string) (int32, bool) {
	if l.index == nil {
		l.index = make(map[string]int32, len(l.entries))
		for i := range l.entries {
			if e := &l.entries[i]; e.name != "" {
				l.index[e.name] = int32(i)
			}
		}
	}
	i, ok := l.index[name]
	return i, ok
}

func (l *listing) add(name string, path uint64, kind uint32) {
	if i, ok := l.find(name); ok {
		e := &l.entries[i]
		e.path, e.typ, e.attr = path, vfs.DTType(kind), nil
		return
	}
	l.index[name] = int32(len(l.entries))
	l.entries = append(l.entries, entry{name: name, path: path, typ: vfs.DTType(kind)})
}

func (l *listing) remove(name string) {
	if i, ok := l.find(name); ok {
		l.entries[i] = entry{}
		l.gaps++
		delete(l.index, name)
	}
}

// compacted returns l, or a new listing without the gaps if they are many, or nil if it is too
// long to keep. Those who are reading l go on with it as it is.
func (l *listing) compacted() *listing {
	if len(l.entries)-l.gaps > maxListing {
		return nil
	}
	if l.gaps < 256 || l.gaps < len(l.entries)/2 {
		return l
	}
	n := &listing{entries: make([]entry, 0, len(l.entries)-l.gaps)}
	for _, e := range l.entries {
		if e.name != "" {
			n.entries = append(n.entries, e)
		}
	}
	return n
}

// listed says what the directory's listing tells of name: its attributes, or that it is missing, or nothing.
func (d *directory) listed(name string) (pa p9.Attr, known, missing bool) {
	d.listMu.Lock()
	defer d.listMu.Unlock()
	if d.list == nil {
		_, missing = d.missing[name]
		return pa, false, missing
	}
	i, ok := d.list.find(name)
	if !ok {
		return pa, false, true
	}
	e := &d.list.entries[i]
	if e.attr == nil {
		return pa, false, false
	}
	pa = *e.attr
	if !d.node.fs.opts.ReadOnly {
		e.attr = nil // from now on the inode knows better
	}
	return pa, true, false
}

// isNew says that the directory has just been made, and so is empty.
func (d *directory) isNew() {
	if d.node.fs.opts.Shared {
		return
	}
	d.listMu.Lock()
	d.list = &listing{index: map[string]int32{}}
	d.listMu.Unlock()
}

// maxListing is the longest listing that is fetched whole.
const maxListing = maxListed / 4

// fetch brings the directory's listing. It is nil, without an error, if it is too long.
func (d *directory) fetch() (*listing, error) {
	fs := d.node.fs
	d.listMu.Lock()
	if l := d.list; l != nil && !fs.opts.Shared {
		d.listMu.Unlock()
		return l, nil
	}
	changes := d.changes
	d.listMu.Unlock()
	fs.mu.Lock()
	collections := fs.collections
	fs.mu.Unlock()

	entries, whole, err := d.readAll()
	if err != nil || !whole {
		return nil, err
	}
	l := &listing{entries: entries}
	if fs.opts.Shared {
		for i := range l.entries {
			l.entries[i].attr = nil
		}
		return l, nil
	}
	fs.believe(l, collections)
	d.listMu.Lock()
	defer d.listMu.Unlock()
	if d.list != nil {
		return d.list, nil
	}
	if d.changing > 0 || d.changes != changes {
		return l, nil // good for this reader, but not to be kept
	}
	d.list, d.missing = l, nil
	fs.remember(d, len(l.entries))
	return l, nil
}

// believe drops attributes that may be older than what an inode has known.
func (fs *filesystem) believe(l *listing, collections uint64) {
	if fs.opts.ReadOnly {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range l.entries {
		e := &l.entries[i]
		if e.attr == nil {
			continue
		}
		_, used := fs.table[e.path]
		// A file with other names may be changed under one of these.
		if used || fs.collections != collections || e.attr.Nlink > 1 && !e.attr.IsDir() {
			e.attr = nil
		}
	}
}

// kept is a directory with a listing, and how long that was.
type kept struct {
	d weak.Pointer[directory]
	n int
}

// remember counts a listing, and drops the oldest if there are too many. d.listMu is held.
func (fs *filesystem) remember(d *directory, n int) {
	fs.mu.Lock()
	fs.listed += n + 1
	fs.listings = append(fs.listings, kept{weak.Make(d), n + 1})
	var drop []*directory
	for fs.listed > maxListed {
		old := fs.listings[0]
		fs.listings = fs.listings[1:]
		fs.listed -= old.n
		if o := old.d.Value(); o != nil && o != d {
			drop = append(drop, o)
		}
	}
	fs.mu.Unlock()
	for _, o := range drop {
		// Who holds the lock is using the listing; it stays one round longer.
		if o.listMu.TryLock() {
			o.list = nil
			o.listMu.Unlock()
		}
	}
}

// goodName reports whether the peer sent a name that can be one.
func goodName(name string) bool {
	return name != "" && len(name) <= vfs.NameMax && strings.IndexByte(name, '/') < 0 && strings.IndexByte(name, 0) < 0
}

// readAll reads the directory; whole is false if it is too long.
func (d *directory) readAll() (entries []entry, whole bool, err error) {
	list, fid, err := d.beginning()
	if err != nil {
		return nil, false, err
	}
	if fid != nil {
		defer d.node.fs.discard(fid)
	}
	entries = make([]entry, 0, len(list))
	offset, seen := uint64(0), 0
	for ; len(list) > 0; list, err = fid.ReaddirPlus(offset, nil) {
		if err != nil {
			return nil, false, err
		}
		for i := range list {
			e := &list[i]
			offset = e.Offset
			if e.Name == "." || e.Name == ".." {
				continue
			}
			if !goodName(e.Name) {
				return nil, false, unix.EIO
			}
			n := entry{name: e.Name, path: e.Qid.Path, typ: e.Type}
			if e.HasAttr {
				n.attr, n.typ = &e.Attr, vfs.DTType(e.Attr.Mode)
			}
			entries = append(entries, n)
		}
		if seen += len(list); seen > maxListing {
			return nil, false, nil
		}
		if fid == nil {
			break
		}
	}
	return entries, true, err
}

// beginning returns the first entries of the directory, and it opened, to go on; or nil when these are all.
func (d *directory) beginning() ([]p9.Dirent, *p9.Fid, error) {
	if d.node.fs.client.Extensions()&p9.ExtList != 0 {
		from, names, err := d.node.way()
		if err != nil {
			return nil, nil, err
		}
		var r p9.ListResult
		if len(names) <= p9.MaxWalk {
			r, err = from.fid.List(names)
		} else {
			err = unix.ESTALE
		}
		d.node.fs.putFid(from)
		if err == nil && r.Attr.Qid.Path == d.node.path {
			return r.Entries, r.Rest, nil
		}
		if r.Rest != nil {
			d.node.fs.discard(r.Rest)
		}
		if err != nil && err != unix.ESTALE && err != unix.ENOENT && err != unix.ENOTDIR {
			return nil, nil, err
		}
	}
	fid, err := d.openFid(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return nil, nil, err
	}
	list, err := fid.ReaddirPlus(0, nil)
	if err != nil {
		d.node.fs.discard(fid)
		return nil, nil, err
	}
	return list, fid, nil
}

// openDirectory is an open directory. The VFS calls it one at a time.
type openDirectory struct {
	d    *directory
	list *listing
	// For directories too long to be listed whole:
	fid   *p9.Fid
	chunk []p9.Dirent
	start int64 // the cookie that chunk begins at
}

// ReadDir implements vfs.DirReader.
func (o *openDirectory) ReadDir(_ vfs.Context, f *vfs.File, cookie int64, emit func(vfs.DirEntry) bool) error {
	if cookie < 0 {
		return nil
	}
	if cookie == 0 || o.list == nil && o.fid == nil {
		o.close()
		l, err := o.d.fetch()
		if err != nil {
			return err
		}
		o.list = l
		if l == nil {
			if o.fid, err = o.d.openFid(unix.O_RDONLY | unix.O_DIRECTORY); err != nil {
				return err
			}
		}
	}
	if o.list == nil {
		return o.stream(f, cookie, emit)
	}
	for ; cookie < 2; cookie++ {
		e := vfs.DirEntry{Name: "..", Ino: o.above(f), Type: unix.DT_DIR, Next: cookie + 1}
		if cookie == 0 {
			e.Name, e.Ino = ".", o.d.node.path
		}
		if !emit(e) {
			return nil
		}
	}
	for {
		e, next := o.next(cookie)
		if e.Name == "" || !emit(e) {
			return nil
		}
		cookie = next
	}
}

// next returns the entry at or behind a cookie, without a name at the end.
func (o *openDirectory) next(cookie int64) (vfs.DirEntry, int64) {
	o.d.listMu.Lock()
	defer o.d.listMu.Unlock()
	for ; cookie-2 < int64(len(o.list.entries)); cookie++ {
		if e := &o.list.entries[cookie-2]; e.name != "" {
			return vfs.DirEntry{Name: e.name, Ino: e.path, Type: e.typ, Next: cookie + 1}, cookie + 1
		}
	}
	return vfs.DirEntry{}, cookie
}

// above returns the inode number of the parent directory, or at the top of the tree, which has
// nothing above it, the directory's own.
func (o *openDirectory) above(f *vfs.File) uint64 {
	if parent := f.Path().Dentry.Parent(); parent != nil {
		if p := of(parent.Inode()); p != nil {
			return p.node.path
		}
	}
	return o.d.node.path
}

// stream lists the directory a message at a time. Cookies are the peer's offsets.
func (o *openDirectory) stream(f *vfs.File, cookie int64, emit func(vfs.DirEntry) bool) error {
	for {
		if o.chunk == nil || o.start != cookie {
			list, err := o.fid.Readdir(uint64(cookie), o.chunk[:0])
			if err != nil {
				return err
			}
			o.chunk, o.start = list, cookie
		}
		if len(o.chunk) == 0 {
			return nil
		}
		for i := range o.chunk {
			e := &o.chunk[i]
			out := vfs.DirEntry{Name: e.Name, Ino: e.Qid.Path, Type: e.Type, Next: int64(e.Offset)}
			switch {
			case e.Name == ".":
				out.Ino = o.d.node.path
			case e.Name == "..":
				out.Ino = o.above(f)
			case !goodName(e.Name):
				return unix.EIO
			}
			if out.Next <= 0 {
				return unix.EIO // it would begin again for ever
			}
			if !emit(out) {
				o.chunk, o.start = o.chunk[i:], cookie
				return nil
			}
			cookie = out.Next
		}
		o.start, o.chunk = cookie, nil
	}
}

func (o *openDirectory) close() {
	if o.fid != nil {
		o.d.node.fs.discard(o.fid)
	}
	o.list, o.fid, o.chunk = nil, nil, nil
}

// Seek implements vfs.Seeker: a directory's offsets are cookies, and its end has none.
func (o *openDirectory) Seek(_ vfs.Context, _ *vfs.File, current, off int64, whence int) (int64, error) {
	return vfs.SeekWithoutEnd(current, off, whence)
}

// Release implements vfs.Releaser.
func (o *openDirectory) Release(*vfs.File) { o.close() }

// Sync implements vfs.Syncer.
func (o *openDirectory) Sync(_ vfs.Context, dataOnly bool) error {
	fid, err := o.d.openFid(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer o.d.node.fs.discard(fid)
	return fid.Fsync(dataOnly)
}
