package gofer

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/vfs"
)

// directory is a directory.
type directory struct {
	inode
	walks atomic.Int32 // lookups that found no fid
	guess atomic.Int32 // more than zero: files that are looked up get opened

	// listMu guards what follows.
	listMu locks.Mutex[locks.GoferListing]
	list   *listing // what the directory holds, nil if that isn't known
	// missing are some names that were removed; without a list they needn't be asked for.
	missing map[string]struct{}
	// changing counts changes under way, changes those that have begun: a
	// listing fetched meanwhile may have seen them or not.
	changing int
	changes  uint64
}

// Lookup implements vfs.Directory.
func (d *directory) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if pa, known, missing := d.listed(name); missing {
		return nil, unix.ENOENT
	} else if known {
		i, err := d.node.fs.inode(&pa, d, name)
		if err != nil {
			return nil, err
		}
		return i.outer, nil
	}
	o := p9.WalkOptions{NoFid: true}
	if d.expectOpen() {
		o.Open, o.OpenFlags = true, unix.O_RDONLY
	}
	pa, fd, err := d.walkTo(name, o)
	if err != nil {
		return nil, err
	}
	i, err := d.node.fs.inode(&pa, d, name)
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	if fd >= 0 {
		d.guess.Add(-1)
		i.node.keep(fd)
	}
	return i.outer, nil
}

// maxGuess is how many descriptors a directory's lookups bring that nobody opens, before they stop to.
const maxGuess = 4

// expectOpen guesses that the next file looked up in the directory is going to be opened, as those before it were: a
// descriptor then comes with the lookup.
func (d *directory) expectOpen() bool {
	fs := d.node.fs
	return d.guess.Load() > 0 && !fs.opts.Shared && fs.extended && fs.client.Extensions()&p9.ExtOpenFD != 0 && donated.Load() < donatedLimit/2
}

// opened says that a file found in the directory was opened: worth is 1 if that took a message, 2 if
// the descriptor had been guessed.
func (d *directory) opened(worth int32) {
	if g := d.guess.Load(); g < maxGuess {
		d.guess.Store(min(g+worth, maxGuess))
	}
}

// walkTo asks for the attributes of name, and for a descriptor if o says so (-1: none).
func (d *directory) walkTo(name string, o p9.WalkOptions) (p9.Attr, int, error) {
	f := d.node.heldFid()
	if f == nil && d.node.fs.extended && d.walks.Add(1) <= walksWithoutFid {
		if pa, fd, err := d.walkPast(name, o); err != unix.ESTALE {
			return pa, fd, err
		}
	}
	if f == nil {
		var err error
		if f, err = d.node.takeFid(); err != nil {
			return p9.Attr{}, -1, err
		}
	}
	defer d.node.fs.putFid(f)
	var r p9.WalkResult
	var one [1]string
	var attrs [1]p9.Attr
	one[0], r.Attrs = name, attrs[:0]
	if err := f.fid.WalkGetattr(one[:], o, &r); err != nil {
		return p9.Attr{}, -1, err
	}
	if r.Err != 0 {
		return p9.Attr{}, -1, r.Err
	}
	return r.Attrs[0], r.File, nil
}

// walksWithoutFid is how many names are looked up in a directory by a walk from above it before it is worth a fid.
const walksWithoutFid = 2

// walkPast is walkTo by a walk through the directory. ESTALE says that this was no way.
func (d *directory) walkPast(name string, o p9.WalkOptions) (p9.Attr, int, error) {
	from, names, err := d.node.way()
	if err != nil {
		return p9.Attr{}, -1, unix.ESTALE
	}
	defer d.node.fs.putFid(from)
	if len(names) >= p9.MaxWalk {
		return p9.Attr{}, -1, unix.ESTALE
	}
	var r p9.WalkResult
	if err := from.fid.WalkGetattr(append(names, name), o, &r); err != nil {
		return p9.Attr{}, -1, err
	}
	met := len(names)
	if len(r.Attrs) < met || met > 0 && r.Attrs[met-1].Qid.Path != d.node.path {
		if r.File >= 0 {
			unix.Close(r.File)
		}
		return p9.Attr{}, -1, unix.ESTALE
	}
	if r.Err != 0 {
		return p9.Attr{}, -1, r.Err
	}
	return r.Attrs[met], r.File, nil
}

// Revalidate implements vfs.Revalidator. The child's attributes are those of now, too.
func (d *directory) Revalidate(_ vfs.Context, name string, child vfs.Inode) bool {
	pa, _, err := d.walkTo(name, p9.WalkOptions{NoFid: true})
	if child == nil {
		return err == unix.ENOENT
	}
	c := of(child)
	if err != nil || c == nil || pa.Qid.Path != c.node.path || pa.Mode&unix.S_IFMT != c.node.kind {
		return false
	}
	s, err := d.node.fs.snapshot(&pa)
	if err != nil {
		return false
	}
	c.adopt(s, true)
	return true
}

// begin says that a change of the directory is under way. One of the ends says that it is over.
func (d *directory) begin() {
	d.listMu.Lock()
	d.changing++
	d.changes++
	d.listMu.Unlock()
}

func (d *directory) end() {
	d.listMu.Lock()
	d.changing--
	d.listMu.Unlock()
}

// endAdd is end of a change that made a name. kind 0: what it leads to isn't known.
func (d *directory) endAdd(name string, path uint64, kind uint32) {
	d.listMu.Lock()
	d.changing--
	delete(d.missing, name)
	if d.list != nil {
		d.list.add(name, path, kind)
		d.list = d.list.compacted()
	}
	d.listMu.Unlock()
}

// maxMissing bounds the missing names that a directory remembers.
const maxMissing = 64

// endRemove is end of a change that removed a name.
func (d *directory) endRemove(name string) {
	d.listMu.Lock()
	d.changing--
	if d.list != nil {
		d.list.remove(name)
		d.list = d.list.compacted()
	} else if !d.node.fs.opts.Shared {
		if d.missing == nil || len(d.missing) >= maxMissing {
			d.missing = map[string]struct{}{}
		}
		d.missing[name] = struct{}{}
	}
	d.listMu.Unlock()
}

// changed moves the directory's times, and counts by more subdirectories.
func (d *directory) changed(at int64, by int) {
	d.node.update(func(a *vfs.Attr) {
		a.Mtime, a.Ctime = at, at
		// Some file systems don't count, and say 1.
		if a.Nlink > 1 {
			a.Nlink = uint32(int(a.Nlink) + by)
		}
	})
}

// make makes a file of any type, open if a descriptor can be had and is wanted.
func (d *directory) make(args *p9.MakeArgs, open bool) (*inode, int, error) {
	n := d.node
	f, err := n.takeFid()
	if err != nil {
		return nil, -1, err
	}
	defer n.fs.putFid(f)
	d.begin()
	var made p9.MakeResult
	if n.fs.extended {
		made, err = f.fid.Make(args, p9.MakeOptions{Exclusive: true, Open: open, OpenFlags: unix.O_RDWR,
			NoFid: open && n.fs.client.Extensions()&p9.ExtOpenFD != 0}) // the descriptor does for most
	} else {
		made, err = makePlain(f.fid, args)
	}
	if err != nil {
		d.end()
		return nil, -1, err
	}
	i, err := n.fs.inode(&made.Attr, d, args.Name)
	if err != nil || i.node.kind != args.Mode&unix.S_IFMT {
		d.endAdd(args.Name, 0, 0)
		if made.File >= 0 {
			unix.Close(made.File)
		}
		if made.Fid != nil {
			n.fs.discard(made.Fid)
		}
		return nil, -1, unix.EIO
	}
	if made.Fid != nil {
		n.fs.putFid(i.node.keepFid(made.Fid))
	}
	d.endAdd(args.Name, i.node.path, i.node.kind)
	sub := 0
	if i.node.kind == unix.S_IFDIR {
		sub = 1
		i.outer.(*directory).isNew()
	}
	d.changed(max(i.node.attr.Load().Ctime, n.attr.Load().Ctime), sub)
	return i, made.File, nil
}

// makePlain makes a file in plain 9P2000.L, whose messages have no room for an owner.
func makePlain(dir *p9.Fid, args *p9.MakeArgs) (r p9.MakeResult, err error) {
	r.File = -1
	switch args.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		_, err = dir.Mkdir(args.Name, args.Mode&0o7777, args.GID)
	case unix.S_IFLNK:
		_, err = dir.Symlink(args.Name, args.Target, args.GID)
	default:
		_, err = dir.Mknod(args.Name, args.Mode, unix.Major(args.Rdev), unix.Minor(args.Rdev), args.GID)
	}
	if err != nil {
		return r, err
	}
	if r.Fid, _, err = dir.Walk(args.Name); err != nil {
		return r, err
	}
	if r.Attr, err = r.Fid.Getattr(); err == nil && (r.Attr.UID != args.UID || r.Attr.GID != args.GID) {
		if err = r.Fid.Setattr(&p9.SetAttr{Valid: p9.SetUID | p9.SetGID, UID: args.UID, GID: args.GID}); err == nil {
			if args.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && r.Attr.IsRegular() {
				err = r.Fid.Setattr(&p9.SetAttr{Valid: p9.SetMode, Mode: args.Mode & 0o7777})
			}
		}
		if err == nil {
			r.Attr, err = r.Fid.Getattr()
		}
	}
	if err != nil {
		flags := uint32(0)
		if args.Mode&unix.S_IFMT == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		dir.UnlinkAt(args.Name, flags)
		r.Fid.Clunk()
		r.Fid = nil
	}
	return r, err
}

func makeArgs(name string, attr *vfs.NewAttr) *p9.MakeArgs {
	return &p9.MakeArgs{Name: name, Mode: attr.Mode, Rdev: attr.Rdev, UID: uint32(attr.UID), GID: uint32(attr.GID)}
}

// Make implements vfs.Directory.
func (d *directory) Make(_ vfs.Context, name string, attr *vfs.NewAttr) (vfs.Inode, error) {
	return d.makeInode(makeArgs(name, attr))
}

func (d *directory) makeInode(args *p9.MakeArgs) (vfs.Inode, error) {
	i, _, err := d.make(args, false)
	if err != nil {
		return nil, err
	}
	return i.outer, nil
}

// Mkdir implements vfs.Directory.
func (d *directory) Mkdir(_ vfs.Context, name string, attr *vfs.NewAttr) (vfs.Inode, error) {
	return d.makeInode(makeArgs(name, attr))
}

// Symlink implements vfs.Directory.
func (d *directory) Symlink(_ vfs.Context, name, target string, attr *vfs.NewAttr) (vfs.Inode, error) {
	args := makeArgs(name, attr)
	args.Target = target
	i, err := d.makeInode(args)
	if err == nil {
		i.(*symlink).target = target // not in use by anybody else before we return it
	}
	return i, err
}

// CreateOpen implements vfs.CreateOpener.
func (d *directory) CreateOpen(ctx vfs.Context, name string, attr *vfs.NewAttr, flags uint32) (vfs.Inode, any, error) {
	if err := d.node.fs.mayReceive(); err != nil {
		return nil, nil, err
	}
	i, fd, err := d.make(makeArgs(name, attr), true)
	if err != nil {
		return nil, nil, err
	}
	if fd >= 0 {
		return i.outer, &file{inode: i, d: i.node.add(fd, unix.O_RDWR), sync: flags & unix.O_SYNC}, nil
	}
	f, err := i.Open(ctx, vfs.Path{}, flags)
	if err != nil {
		return nil, nil, err
	}
	return i.outer, f, nil
}

// Link implements vfs.Directory.
func (d *directory) Link(_ vfs.Context, name string, target vfs.Inode) error {
	t := of(target)
	if t == nil || t.node.fs != d.node.fs {
		return unix.EXDEV
	}
	fs := d.node.fs
	f, tf, err := takeFids(d.node, t.node)
	if err != nil {
		return err
	}
	defer fs.putFid(f)
	defer fs.putFid(tf)
	d.begin()
	if err := f.fid.Link(tf.fid, name); err != nil {
		d.end()
		return err
	}
	d.endAdd(name, t.node.path, t.node.kind)
	at := now()
	t.node.update(func(a *vfs.Attr) { a.Nlink++; a.Ctime = at })
	t.node.gone.Store(false)
	t.node.named(&place{d, name})
	d.changed(at, 0)
	return nil
}

// keepReachable walks to a file that is about to lose its name while somebody has it open.
func (n *node) keepReachable() {
	n.mu.Lock()
	busy := n.users > 0
	n.mu.Unlock()
	if !busy {
		return
	}
	if f, err := n.takeFid(); err == nil {
		n.fs.putFid(f)
	}
}

// Unlink implements vfs.Directory.
func (d *directory) Unlink(_ vfs.Context, name string, victim vfs.Inode) error {
	return d.remove(name, victim, 0)
}

// Rmdir implements vfs.Directory.
func (d *directory) Rmdir(_ vfs.Context, name string, victim vfs.Inode) error {
	return d.remove(name, victim, unix.AT_REMOVEDIR)
}

func (d *directory) remove(name string, victim vfs.Inode, flags uint32) error {
	v := of(victim)
	if v == nil {
		return unix.EXDEV
	}
	f, err := d.node.takeFid()
	if err != nil {
		return err
	}
	defer d.node.fs.putFid(f)
	v.node.keepReachable()
	d.begin()
	if err := f.fid.UnlinkAt(name, flags); err != nil {
		d.end()
		return err
	}
	d.endRemove(name)
	at := now()
	v.node.unlinked(d, name, at)
	by := 0
	if flags != 0 {
		by = -1
	}
	d.changed(at, by)
	return nil
}

// Rename implements vfs.Directory.
func (d *directory) Rename(_ vfs.Context, oldName string, old vfs.Inode, to vfs.Directory, newName string, replaced vfs.Inode, flags uint32) error {
	t, ok := to.(*directory)
	o := of(old)
	if !ok || o == nil || t.node.fs != d.node.fs {
		return unix.EXDEV
	}
	if flags != 0 {
		return unix.EINVAL // the protocol has no words for them
	}
	fs := d.node.fs
	f, tf, err := takeFids(d.node, t.node)
	if err != nil {
		return err
	}
	defer fs.putFid(f)
	defer fs.putFid(tf)
	var r *inode
	if replaced != nil {
		if r = of(replaced); r != nil {
			r.node.keepReachable()
		}
	}
	d.begin()
	t.begin()
	if err := f.fid.RenameAt(oldName, tf.fid, newName); err != nil {
		t.end()
		d.end()
		return err
	}
	o.node.unnamed(d, oldName)
	o.node.named(&place{t, newName})
	d.endRemove(oldName)
	t.endAdd(newName, o.node.path, o.node.kind)
	at := now()
	from, into := 0, 0
	if o.node.kind == unix.S_IFDIR {
		from, into = -1, 1
	}
	if r != nil {
		r.node.unlinked(t, newName, at)
		if r.node.kind == unix.S_IFDIR {
			into--
		}
	}
	d.changed(at, from)
	t.changed(at, into)
	o.node.update(func(a *vfs.Attr) { a.Ctime = at })
	return nil
}

// Open implements vfs.Inode.
func (d *directory) Open(vfs.Context, vfs.Path, uint32) (any, error) {
	return &openDirectory{d: d}, nil
}
