package vfs

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
)

// SpecialFiles opens what file systems don't: FIFOs, and devices by number.
type SpecialFiles interface {
	// OpenFIFO opens the FIFO at p; it may block.
	OpenFIFO(ctx Context, p Path, flags uint32) (any, error)
	// OpenDevice opens a character or block device (ENXIO if there is none).
	// It may return a file of its own in place of p (/dev/tty, /dev/ptmx).
	OpenDevice(ctx Context, p Path, block bool, rdev uint64, flags uint32) (impl any, other *File, err error)
}

// Opener opens files: it carries what is the same for a whole kernel.
type Opener struct {
	Special SpecialFiles
}

// openFlags that Linux 4.4 knows; others are ignored by open(2).
const knownFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND |
	unix.O_NONBLOCK | unix.O_DSYNC | unix.O_SYNC | unix.O_ASYNC | unix.O_DIRECT | unix.O_DIRECTORY |
	unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE | 0x8000 /* O_LARGEFILE on 64 bits */

// Open does open(2). mode has the umask applied.
func (o *Opener) Open(ctx Context, view FSView, path string, flags, mode uint32, walk WalkFlags) (*File, error) {
	flags, walk = openWalk(flags, walk)
	if flags&unix.O_TMPFILE&^unix.O_DIRECTORY != 0 && flags&unix.O_DIRECTORY == 0 {
		return nil, unix.EINVAL
	}
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return o.openTmpfile(ctx, view, path, flags, mode, walk)
	}
	if flags&unix.O_CREAT != 0 {
		if flags&unix.O_DIRECTORY != 0 {
			return nil, unix.EINVAL
		}
		return o.openCreate(ctx, view, path, flags, mode, walk)
	}
	return o.openExistingPath(ctx, view, path, flags, walk)
}

// Creates reports whether open(2) with flags may make a file.
func Creates(flags uint32) bool {
	return flags&unix.O_PATH == 0 && flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0
}

// OpenExisting is Open with flags that make no file. It doesn't keep path.
func (o *Opener) OpenExisting(ctx Context, view FSView, path string, flags uint32) (*File, error) {
	flags, walk := openWalk(flags, 0)
	return o.openExistingPath(ctx, view, path, flags, walk)
}

func (o *Opener) openExistingPath(ctx Context, view FSView, path string, flags uint32, walk WalkFlags) (*File, error) {
	if flags&unix.O_NOFOLLOW == 0 {
		walk |= FollowFinal
	}
	for late := (Late{}); ; {
		p, err := Resolve(ctx, view, path, walk)
		if err != nil {
			return nil, err
		}
		f, err := o.OpenPath(ctx, p, flags)
		if err == nil || !late.Again(p, err) {
			return f, err
		}
	}
}

// Late is for who opens what a path led to an instant ago: the last name of the
// file may have gone since, and the file with it, while the path leads to another
// now (rename(2) puts one in place of the other, so that there is no time at which
// the name is missing). Linux's path walk holds the inode that it finds. The zero
// value is ready.
type Late struct{ last *Dentry }

// Again reports whether the path that led to p should be resolved again, since
// opening failed with err as the file there is gone. A path that goes on leading to
// the same dead file, as a mount of it does, isn't tried for ever. No lock is held.
func (l *Late) Again(p Path, err error) bool {
	if err != unix.ESTALE || p.Dentry == l.last {
		return false
	}
	l.last = p.Dentry
	if d := p.Dentry.Parent(); d != nil {
		// Whoever takes the name away has the lock until it is out of the cache.
		d.mu.Lock()
		d.mu.Unlock() //nolint:staticcheck // it is the waiting that counts
	}
	return true
}

// openWalk drops what open(2) ignores of flags, and adds what they mean to walk.
func openWalk(flags uint32, walk WalkFlags) (uint32, WalkFlags) {
	flags &= knownFlags
	if flags&unix.O_PATH != 0 {
		flags &= unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	}
	if flags&unix.O_DIRECTORY != 0 {
		walk |= WantDirectory
	}
	return flags, walk
}

// OpenPath opens what is at p; no creation. ESTALE when it is gone: see Late.
func (o *Opener) OpenPath(ctx Context, p Path, flags uint32) (*File, error) {
	if flags&unix.O_PATH != 0 {
		if pin, ok := p.Inode().(Pinner); ok && !pin.Pin() {
			return nil, unix.ESTALE
		}
		return NewFile(p, nil, flags, ctx.Credentials()), nil
	}
	a := BorrowAttr()
	defer a.Return()
	if err := p.Inode().Attributes(ctx, a); err != nil {
		return nil, err
	}
	return o.open(ctx, p, a, flags, false)
}

// accessOf returns the permissions that flags ask for.
func accessOf(flags uint32) Permission {
	var want Permission
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		want = MayRead
	case unix.O_WRONLY:
		want = MayWrite
	default: // O_RDWR, and 3, which asks for both and allows neither
		want = MayRead | MayWrite
	}
	if flags&unix.O_TRUNC != 0 {
		want |= MayWrite
	}
	return want
}

// open opens the existing inode at p. created: it was made by this very call,
// so that permissions aren't asked.
func (o *Opener) open(ctx Context, p Path, a *Attr, flags uint32, created bool) (*File, error) {
	cred := ctx.Credentials()
	want := accessOf(flags)
	switch a.Type() {
	case unix.S_IFLNK:
		return nil, unix.ELOOP
	case unix.S_IFDIR:
		if want&MayWrite != 0 {
			return nil, unix.EISDIR
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if p.Mount.Flags()&MountNoDev != 0 {
			return nil, unix.EACCES
		}
	}
	if flags&unix.O_DIRECTORY != 0 && !a.IsDir() {
		return nil, unix.ENOTDIR
	}
	if !created {
		if err := CheckPermission(cred, a, want); err != nil {
			return nil, err
		}
		if flags&unix.O_NOATIME != 0 && !IsOwner(cred, a) {
			return nil, unix.EPERM
		}
	}
	regular := a.Type() == unix.S_IFREG
	if want&MayWrite != 0 && (regular || a.IsDir()) && p.Mount.ReadOnly() {
		return nil, unix.EROFS
	}
	base := p.Inode().Base()
	counted := false
	if want&MayWrite != 0 && regular {
		if err := base.GetWrite(); err != nil {
			return nil, err
		}
		counted = true
	}
	f, err := o.openImpl(ctx, p, a, flags)
	if err == nil {
		notify(p.Dentry, EventOpen)
	}
	if err == nil && flags&unix.O_TRUNC != 0 && regular && !created {
		if err = p.Inode().SetAttributes(ctx, &SetAttr{Mask: SetSize}); err != nil {
			f.counted = false
			f.DecRef()
		} else {
			notify(p.Dentry, EventModify)
		}
	}
	if err != nil {
		if counted {
			base.PutWrite()
		}
		return nil, err
	}
	f.counted = counted
	return f, nil
}

func (o *Opener) openImpl(ctx Context, p Path, a *Attr, flags uint32) (*File, error) {
	var impl any
	var err error
	_, itself := p.Inode().(SpecialOpener)
	switch a.Type() {
	case unix.S_IFREG, unix.S_IFDIR:
		itself = true
	}
	switch {
	case itself:
		impl, err = p.Inode().Open(ctx, p, flags)
	case a.Type() == unix.S_IFIFO:
		impl, err = o.Special.OpenFIFO(ctx, p, flags)
	case a.Type() == unix.S_IFCHR, a.Type() == unix.S_IFBLK:
		var other *File
		impl, other, err = o.Special.OpenDevice(ctx, p, a.Type() == unix.S_IFBLK, a.Rdev, flags)
		if other != nil {
			return other, err
		}
	default: // a socket
		err = unix.ENXIO
	}
	if err != nil {
		return nil, err
	}
	if f, ok := impl.(*File); ok { // a file of its own
		return f, nil
	}
	return NewFile(p, impl, flags, ctx.Credentials()), nil
}

// newAttr applies the rules for owner and mode of new files (inode(7), "The
// set-group-ID bit").
func newAttr(ctx Context, dir *Attr, mode uint32, rdev uint64) *NewAttr {
	c := ctx.Credentials()
	n := &NewAttr{Mode: mode, UID: c.FSUID, GID: c.FSGID, Rdev: rdev}
	if dir.Mode&unix.S_ISGID != 0 {
		n.GID = dir.GID
		if mode&unix.S_IFMT == unix.S_IFDIR {
			n.Mode |= unix.S_ISGID
		} else if n.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP && !c.InGroup(dir.GID) &&
			!c.HasCapOverFile(unix.CAP_FSETID, dir.UID, dir.GID) {
			n.Mode &^= unix.S_ISGID
		}
	}
	return n
}

// mayCreate checks that names may be made in the directory p.
func mayCreate(ctx Context, p Path, a *Attr) error {
	if err := p.Inode().Attributes(ctx, a); err != nil {
		return err
	}
	if p.Dentry.Deleted() {
		return unix.ENOENT
	}
	return CheckPermission(ctx.Credentials(), a, MayWrite|MayExec)
}

func (o *Opener) openCreate(ctx Context, view FSView, path string, flags, mode uint32, walk WalkFlags) (*File, error) {
	w := walker{ctx: ctx, view: view, flags: walk}
	if err := w.begin(path); err != nil {
		return nil, err
	}
	for {
		parent, err := w.parent(path)
		if err != nil {
			return nil, err
		}
		w.cur = parent.Dir
		switch parent.Name {
		case "", ".", "..":
			if flags&unix.O_EXCL != 0 {
				return nil, unix.EEXIST
			}
			return nil, unix.EISDIR
		}
		if parent.Slash {
			return nil, unix.EISDIR
		}
		f, link, err := o.createAt(ctx, parent, flags, mode)
		if err != nil || f != nil {
			return f, err
		}
		// A symbolic link: go on where it leads.
		if flags&unix.O_NOFOLLOW != 0 {
			return nil, unix.ELOOP
		}
		if w.links++; w.links > maxSymlinks || walk&ResolveNoSymlinks != 0 {
			return nil, unix.ELOOP
		}
		if magic, ok := link.(MagicLink); ok {
			if walk&ResolveNoMagicLinks != 0 {
				return nil, unix.ELOOP
			}
			p, err := magic.Target(ctx)
			if err != nil {
				return nil, err
			}
			f, err := o.OpenPath(ctx, p, flags)
			if err == unix.ESTALE { // what the link stood for was closed meanwhile
				err = unix.ENOENT
			}
			return f, err
		}
		if path, err = link.Readlink(ctx); err != nil {
			return nil, err
		}
		if path == "" {
			return nil, unix.ENOENT
		}
		if err := w.redirect(path); err != nil {
			return nil, err
		}
	}
}

// createAt opens or makes the last component. It returns the link if that is
// a symbolic link which O_CREAT follows.
func (o *Opener) createAt(ctx Context, parent Parent, flags, mode uint32) (*File, Link, error) {
	d := parent.Dir.Dentry
	for late := (Late{}); ; {
		var c *Dentry
		if d.fs.Policy == CacheAll && flags&unix.O_EXCL == 0 {
			// What is there already needs no exclusive lock.
			c, _ = d.lookup(ctx, parent.Name)
		}
		if c == nil {
			var f *File
			var err error
			if f, c, err = o.makeAt(ctx, parent, flags, mode); c == nil {
				return f, nil, err
			}
		}
		f, link, err := o.openExisting(ctx, parent, c, flags)
		if err == nil || !late.Again(Path{parent.Dir.Mount, c}, err) {
			return f, link, err
		}
	}
}

// makeAt makes the last component and opens it, before anybody can take it away.
// Of what is there already it returns the dentry.
func (o *Opener) makeAt(ctx Context, parent Parent, flags, mode uint32) (*File, *Dentry, error) {
	d := parent.Dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.lookupToMake(ctx, parent.Name)
	if err != nil {
		return nil, nil, err
	}
	if c != nil && c.inode != nil {
		if flags&unix.O_EXCL != 0 {
			return nil, nil, unix.EEXIST
		}
		return nil, c, nil
	}
	if d.fs.Fixed {
		return nil, nil, unix.ENOENT
	}
	a := BorrowAttr()
	defer a.Return()
	if err := mayCreate(ctx, parent.Dir, a); err != nil {
		return nil, nil, err
	}
	if parent.Dir.Mount.ReadOnly() {
		return nil, nil, unix.EROFS
	}
	na := newAttr(ctx, a, unix.S_IFREG|mode&0o7777, 0)
	dir := d.inode.(Directory)
	var inode Inode
	var impl any
	if co, ok := dir.(CreateOpener); ok {
		inode, impl, err = co.CreateOpen(ctx, parent.Name, na, flags)
	} else {
		inode, err = dir.Make(ctx, parent.Name, na)
	}
	if err != nil {
		return nil, nil, err
	}
	n := newChild(d, parent.Name, inode)
	d.insert(n)
	notifyEntry(d, EventCreate, parent.Name, inode, 0)
	p := Path{parent.Dir.Mount, n}
	if impl != nil {
		f := NewFile(p, impl, flags, ctx.Credentials())
		if f.Writable() && inode.Base().GetWrite() == nil {
			f.counted = true
		}
		notify(n, EventOpen)
		return f, nil, nil
	}
	if err := inode.Attributes(ctx, a); err != nil {
		return nil, nil, err
	}
	f, err := o.open(ctx, p, a, flags, true)
	return f, nil, err
}

// openExisting opens c, found where O_CREAT would have made a file.
func (o *Opener) openExisting(ctx Context, parent Parent, c *Dentry, flags uint32) (*File, Link, error) {
	p := parent.Dir.Mount.ns.cover(Path{parent.Dir.Mount, c})
	if link, ok := p.Inode().(Link); ok {
		return nil, link, nil
	}
	a := BorrowAttr()
	defer a.Return()
	if err := p.Inode().Attributes(ctx, a); err != nil {
		return nil, nil, err
	}
	if a.IsDir() {
		return nil, nil, unix.EISDIR
	}
	f, err := o.open(ctx, p, a, flags, false)
	return f, nil, err
}

func (o *Opener) openTmpfile(ctx Context, view FSView, path string, flags, mode uint32, walk WalkFlags) (*File, error) {
	if accessOf(flags)&MayWrite == 0 {
		return nil, unix.EINVAL
	}
	if flags&unix.O_NOFOLLOW == 0 {
		walk |= FollowFinal
	}
	p, err := Resolve(ctx, view, path, walk|WantDirectory)
	if err != nil {
		return nil, err
	}
	var a Attr
	if err := mayCreate(ctx, p, &a); err != nil {
		return nil, err
	}
	maker, ok := p.Inode().(TmpfileMaker)
	if !ok {
		return nil, unix.EOPNOTSUPP
	}
	if p.Mount.ReadOnly() {
		return nil, unix.EROFS
	}
	inode, err := maker.Tmpfile(ctx, newAttr(ctx, &a, unix.S_IFREG|mode&0o7777, 0))
	if err != nil {
		return nil, err
	}
	if err := inode.Attributes(ctx, &a); err != nil {
		return nil, err
	}
	inode.Base().linkable.Store(flags&unix.O_EXCL == 0)
	d := newChild(p.Dentry, "#"+itoa(a.Ino), inode)
	d.deleted.Store(true)
	return o.open(ctx, Path{p.Mount, d}, &a, flags&^(unix.O_TMPFILE&^unix.O_DIRECTORY|unix.O_DIRECTORY|unix.O_TRUNC), true)
}

func itoa(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(b[i:])
		}
	}
}

// Truncate does truncate(2) on p, and ftruncate(2) where f is not nil.
func Truncate(ctx Context, p Path, f *File, size int64) error {
	if size < 0 {
		return unix.EINVAL
	}
	var a Attr
	inode := p.Inode()
	if err := inode.Attributes(ctx, &a); err != nil {
		return err
	}
	if a.IsDir() && f == nil {
		return unix.EISDIR
	}
	if a.Type() != unix.S_IFREG {
		return unix.EINVAL
	}
	if f != nil {
		if !f.Writable() {
			return unix.EINVAL
		}
	} else {
		if err := CheckPermission(ctx.Credentials(), &a, MayWrite); err != nil {
			return err
		}
		if p.Mount.ReadOnly() {
			return unix.EROFS
		}
		if err := inode.Base().GetWrite(); err != nil {
			return err
		}
		defer inode.Base().PutWrite()
	}
	if limit := ctx.FileSizeLimit(); size > a.Size && limit <= math.MaxInt64 && size > int64(limit) {
		ctx.FileSizeExceeded()
		return unix.EFBIG
	}
	s := SetAttr{Mask: SetSize, Size: size}
	dropPrivileges(ctx.Credentials(), &a, &s)
	if err := inode.SetAttributes(ctx, &s); err != nil {
		return err
	}
	notify(p.Dentry, EventModify)
	return nil
}

// dropPrivileges takes setuid and setgid away from a file that is changed by
// somebody without CAP_FSETID.
func dropPrivileges(c *auth.Credentials, a *Attr, s *SetAttr) {
	drop := a.Mode & unix.S_ISUID
	if a.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP {
		drop |= unix.S_ISGID
	}
	if drop != 0 && !c.HasCapOverFile(unix.CAP_FSETID, a.UID, a.GID) {
		s.Mask |= SetMode
		s.Mode = a.Mode & 0o7777 &^ drop
	}
}
