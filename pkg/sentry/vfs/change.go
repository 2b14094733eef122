package vfs

import (
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
)

// make runs op with parent's directory locked and its last component known to
// be missing, and enters what op returns into the cache.
func (parent Parent) make(ctx Context, mode uint32, rdev uint64, isDir bool, op func(dir Directory, attr *NewAttr) (Inode, error)) (Path, error) {
	switch parent.Name {
	case "", ".", "..":
		return Path{}, unix.EEXIST
	}
	d := parent.Dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.lookupToMake(ctx, parent.Name)
	if err != nil {
		return Path{}, err
	}
	if c != nil && c.inode != nil {
		return Path{}, unix.EEXIST
	}
	if parent.Slash && !isDir || d.fs.Fixed {
		return Path{}, unix.ENOENT
	}
	if parent.Dir.Mount.ReadOnly() {
		return Path{}, unix.EROFS
	}
	var a Attr
	if err := mayCreate(ctx, parent.Dir, &a); err != nil {
		return Path{}, err
	}
	inode, err := op(d.inode.(Directory), newAttr(ctx, &a, mode, rdev))
	if err != nil {
		return Path{}, err
	}
	n := newChild(d, parent.Name, inode)
	d.insert(n)
	notifyEntry(d, EventCreate, parent.Name, inode, 0)
	return Path{parent.Dir.Mount, n}, nil
}

// Mkdir does mkdir(2). mode has the umask applied, as everywhere below.
func Mkdir(ctx Context, view FSView, path string, mode uint32) error {
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return err
	}
	_, err = parent.make(ctx, unix.S_IFDIR|mode&0o1777, 0, true, func(dir Directory, a *NewAttr) (Inode, error) {
		return dir.Mkdir(ctx, parent.Name, a)
	})
	return err
}

// Mknod does mknod(2): mode has the type. It returns the new file's place, which
// bind(2) of a unix socket asks for.
func Mknod(ctx Context, view FSView, path string, mode uint32, rdev uint64) (Path, error) {
	switch mode & unix.S_IFMT {
	case 0:
		mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR, unix.S_IFBLK:
		// A whiteout of overlay file systems needs no privilege.
		if !(mode&unix.S_IFMT == unix.S_IFCHR && rdev == 0) && !ctx.Credentials().HasRootCap(unix.CAP_MKNOD) {
			return Path{}, unix.EPERM
		}
	case unix.S_IFDIR:
		return Path{}, unix.EPERM
	default:
		return Path{}, unix.EINVAL
	}
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return Path{}, err
	}
	return parent.make(ctx, mode, rdev, false, func(dir Directory, a *NewAttr) (Inode, error) {
		return dir.Make(ctx, parent.Name, a)
	})
}

// Symlink does symlink(2).
func Symlink(ctx Context, view FSView, target, path string) error {
	if target == "" {
		return unix.ENOENT
	}
	if len(target) >= PathMax {
		return unix.ENAMETOOLONG
	}
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return err
	}
	_, err = parent.make(ctx, unix.S_IFLNK|0o777, 0, false, func(dir Directory, a *NewAttr) (Inode, error) {
		return dir.Symlink(ctx, parent.Name, target, a)
	})
	return err
}

// LinkPath does link(2): old has been resolved.
func LinkPath(ctx Context, old Path, view FSView, path string) error {
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return err
	}
	var a Attr
	if err := old.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	_, err = parent.make(ctx, 0, 0, false, func(dir Directory, _ *NewAttr) (Inode, error) {
		if parent.Dir.Mount != old.Mount {
			return nil, unix.EXDEV
		}
		if a.IsDir() {
			return nil, unix.EPERM
		}
		if a.Nlink == 0 && !old.Inode().Base().linkable.Load() {
			return nil, unix.ENOENT
		}
		return old.Inode(), dir.Link(ctx, parent.Name, old.Inode())
	})
	if err == nil {
		send(old.Inode().Base(), EventAttrib, "", 0) // the link count; not for the directory
	}
	return err
}

// mayRemove checks that name, with attributes a, may leave the directory dir
// (path_resolution(7); the sticky bit of inode(7)).
func mayRemove(ctx Context, dir Path, dirAttr, a *Attr) error {
	c := ctx.Credentials()
	if err := CheckPermission(c, dirAttr, MayWrite|MayExec); err != nil {
		return err
	}
	if dirAttr.Mode&unix.S_ISVTX != 0 && c.FSUID != a.UID && c.FSUID != dirAttr.UID &&
		!c.HasCapOverFile(unix.CAP_FOWNER, a.UID, a.GID) {
		return unix.EPERM
	}
	return nil
}

// isMountPoint reports whether something is mounted on d in ns.
func (ns *MountNamespace) isMountPoint(p Path) bool {
	return p.Dentry.mounted.Load() > 0 && ns.cover(p) != p
}

// drop takes away all mounts on d, which is being removed by a caller that
// doesn't see them (mount_namespaces(7)).
func (d *Dentry) kill() {
	d.deleted.Store(true)
}

func (parent Parent) remove(ctx Context, isDir bool) error {
	d := parent.Dir.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.lookupLocked(ctx, parent.Name)
	if err != nil {
		return err
	}
	if c.inode == nil {
		return unix.ENOENT
	}
	if parent.Dir.Mount.ReadOnly() {
		return unix.EROFS
	}
	a, dirAttr := BorrowAttr(), BorrowAttr()
	defer a.Return()
	defer dirAttr.Return()
	if err := c.inode.Attributes(ctx, a); err != nil {
		return err
	}
	if err := d.inode.Attributes(ctx, dirAttr); err != nil {
		return err
	}
	if err := mayRemove(ctx, parent.Dir, dirAttr, a); err != nil {
		return err
	}
	if isDir && !a.IsDir() {
		return unix.ENOTDIR
	}
	if !isDir && a.IsDir() {
		return unix.EISDIR
	}
	if !isDir && parent.Slash {
		return unix.ENOTDIR
	}
	if parent.Dir.Mount.ns.isMountPoint(Path{parent.Dir.Mount, c}) {
		return unix.EBUSY
	}
	dir := d.inode.(Directory)
	if isDir {
		c.mu.NestedLock()
		err = dir.Rmdir(ctx, parent.Name, c.inode)
		if err == nil {
			c.kill()
		}
		c.mu.Unlock()
	} else {
		if err = dir.Unlink(ctx, parent.Name, c.inode); err == nil {
			c.kill()
		}
	}
	if err != nil {
		return err
	}
	d.forget(c)
	notifyEntry(d, EventDelete, parent.Name, c.inode, 0)
	if !isDir {
		send(c.inode.Base(), EventAttrib, "", 0)
	}
	if isDir || a.Nlink <= 1 {
		sendDeleted(c.inode.Base())
	}
	return nil
}

// Unlink does unlink(2).
func Unlink(ctx Context, view FSView, path string) error {
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return err
	}
	switch parent.Name {
	case "", ".", "..":
		return unix.EISDIR
	}
	return parent.remove(ctx, false)
}

// Rmdir does rmdir(2).
func Rmdir(ctx Context, view FSView, path string) error {
	parent, err := ResolveParent(ctx, view, path, 0)
	if err != nil {
		return err
	}
	switch parent.Name {
	case "":
		return unix.EBUSY
	case ".":
		return unix.EINVAL
	case "..":
		return unix.ENOTEMPTY
	}
	return parent.remove(ctx, true)
}

// Rename does renameat2(2).
func Rename(ctx Context, oldView FSView, oldPath string, newView FSView, newPath string, flags uint32) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE|unix.RENAME_WHITEOUT) != 0 ||
		flags&unix.RENAME_EXCHANGE != 0 && flags&(unix.RENAME_NOREPLACE|unix.RENAME_WHITEOUT) != 0 {
		return unix.EINVAL
	}
	from, err := ResolveParent(ctx, oldView, oldPath, 0)
	if err != nil {
		return err
	}
	to, err := ResolveParent(ctx, newView, newPath, 0)
	if err != nil {
		return err
	}
	if from.Dir.Mount != to.Dir.Mount {
		return unix.EXDEV
	}
	for _, n := range []string{from.Name, to.Name} {
		switch n {
		case "", ".", "..":
			if n == to.Name && flags&unix.RENAME_NOREPLACE != 0 && n != from.Name {
				return unix.EEXIST
			}
			return unix.EBUSY
		}
	}
	if from.Dir.Mount.ReadOnly() {
		return unix.EROFS
	}
	od, nd := from.Dir.Dentry, to.Dir.Dentry
	fs := od.fs
	fs.renameMu.Lock()
	defer fs.renameMu.Unlock()
	// Only renames hold two directories, and they hold renameMu.
	od.mu.Lock()
	defer od.mu.Unlock()
	if nd != od {
		nd.mu.NestedLock()
		defer nd.mu.Unlock()
	}
	old, err := od.lookupLocked(ctx, from.Name)
	if err != nil {
		return err
	}
	if old.inode == nil {
		return unix.ENOENT
	}
	target, err := nd.lookupLocked(ctx, to.Name)
	if err != nil {
		return err
	}
	if flags&unix.RENAME_NOREPLACE != 0 && target.inode != nil {
		return unix.EEXIST
	}
	if flags&unix.RENAME_EXCHANGE != 0 && target.inode == nil {
		return unix.ENOENT
	}
	var oa, na, oda, nda Attr
	if err := old.inode.Attributes(ctx, &oa); err != nil {
		return err
	}
	if !oa.IsDir() && (from.Slash || to.Slash && flags&unix.RENAME_EXCHANGE == 0) {
		return unix.ENOTDIR
	}
	// A directory can't go below itself, nor replace one that it is in.
	if old.isAncestor(nd) {
		return unix.EINVAL
	}
	if target.inode != nil && target.isAncestor(od) {
		if flags&unix.RENAME_EXCHANGE != 0 {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	}
	if err := od.inode.Attributes(ctx, &oda); err != nil {
		return err
	}
	if err := nd.inode.Attributes(ctx, &nda); err != nil {
		return err
	}
	if err := mayRemove(ctx, from.Dir, &oda, &oa); err != nil {
		return err
	}
	c := ctx.Credentials()
	if target.inode == nil {
		if nd.Deleted() {
			return unix.ENOENT
		}
		if err := CheckPermission(c, &nda, MayWrite|MayExec); err != nil {
			return err
		}
	} else {
		if err := target.inode.Attributes(ctx, &na); err != nil {
			return err
		}
		if err := mayRemove(ctx, to.Dir, &nda, &na); err != nil {
			return err
		}
		if flags&unix.RENAME_EXCHANGE == 0 {
			if oa.IsDir() && !na.IsDir() {
				return unix.ENOTDIR
			}
			if !oa.IsDir() && na.IsDir() {
				return unix.EISDIR
			}
		}
	}
	// A directory that gets another parent changes its "..".
	if oa.IsDir() && od != nd {
		if err := CheckPermission(c, &oa, MayWrite); err != nil {
			return err
		}
	}
	if target.inode != nil && target.inode.Base() == old.inode.Base() {
		return nil // two names of one file: rename(2) does nothing
	}
	ns := from.Dir.Mount.ns
	if ns.isMountPoint(Path{from.Dir.Mount, old}) || target.inode != nil && ns.isMountPoint(Path{from.Dir.Mount, target}) {
		return unix.EBUSY
	}
	err = od.inode.(Directory).Rename(ctx, from.Name, old.inode, nd.inode.(Directory), to.Name, target.inode, flags&^unix.RENAME_NOREPLACE)
	if err != nil {
		return err
	}
	od.forget(old)
	nd.forget(target)
	move := func(d, parent *Dentry, name string) {
		d.at.Store(&place{parent, name})
		if _, ok := d.inode.(Ephemeral); !ok {
			parent.insert(d)
		}
	}
	move(old, nd, to.Name)
	cookie := moveCookie.Add(1)
	notifyEntry(od, EventMovedFrom, from.Name, old.inode, cookie)
	notifyEntry(nd, EventMovedTo, to.Name, old.inode, cookie)
	if flags&unix.RENAME_EXCHANGE != 0 {
		move(target, od, from.Name)
		notifyEntry(nd, EventMovedFrom, to.Name, target.inode, cookie+1)
		notifyEntry(od, EventMovedTo, from.Name, target.inode, cookie+1)
		send(target.inode.Base(), EventMoveSelf, "", 0)
	} else if target.inode != nil {
		target.kill()
		ev := EventAttrib
		if na.IsDir() {
			ev |= EventIsDir
		}
		send(target.inode.Base(), ev, "", 0)
		if na.Nlink <= 1 || na.IsDir() {
			sendDeleted(target.inode.Base())
		}
	}
	send(old.inode.Base(), EventMoveSelf, "", 0)
	return nil
}

// setAttributes makes a change that has been checked and tells watchers.
func setAttributes(ctx Context, p Path, s *SetAttr) error {
	if err := p.Inode().SetAttributes(ctx, s); err != nil {
		return err
	}
	NotifyAttrib(p.Dentry)
	return nil
}

// Chmod does chmod(2) on p.
func Chmod(ctx Context, p Path, mode uint32) error {
	var a Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	if a.Type() == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	c := ctx.Credentials()
	if !IsOwner(c, &a) {
		return unix.EPERM
	}
	mode &= 0o7777
	if mode&unix.S_ISGID != 0 && !c.InGroup(a.GID) && !c.HasCapOverFile(unix.CAP_FSETID, a.UID, a.GID) {
		mode &^= unix.S_ISGID
	}
	return setAttributes(ctx, p, &SetAttr{Mask: SetMode, Mode: mode})
}

// Chown does chown(2) on p. uid and gid may be auth.NoID.
func Chown(ctx Context, p Path, uid auth.KUID, gid auth.KGID) error {
	var a Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	c := ctx.Credentials()
	var s SetAttr
	if uint32(uid) != auth.NoID {
		if !(c.FSUID == a.UID && uid == a.UID) && !c.HasCapOverFile(unix.CAP_CHOWN, a.UID, a.GID) {
			return unix.EPERM
		}
		s.Mask |= SetUID
		s.UID = uid
	}
	if uint32(gid) != auth.NoID {
		if !(c.FSUID == a.UID && (c.InGroup(gid) || gid == a.GID)) && !c.HasCapOverFile(unix.CAP_CHOWN, a.UID, a.GID) {
			return unix.EPERM
		}
		s.Mask |= SetGID
		s.GID = gid
	}
	// chown(2): set-user-ID and set-group-ID go, for root too, except on
	// directories.
	if !a.IsDir() {
		drop := a.Mode & unix.S_ISUID
		if a.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP {
			drop |= unix.S_ISGID
		}
		if drop != 0 {
			s.Mask |= SetMode
			s.Mode = a.Mode & 0o7777 &^ drop
		}
	}
	if s.Mask == 0 {
		return nil
	}
	return setAttributes(ctx, p, &s)
}

// Utimes does utimensat(2) on p. now says that both times are "now" and were
// asked for without values, which writers may do too.
func Utimes(ctx Context, p Path, atime, mtime int64, mask SetMask, now bool) error {
	var a Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	c := ctx.Credentials()
	if !IsOwner(c, &a) {
		if !now {
			return unix.EPERM
		}
		if err := CheckPermission(c, &a, MayWrite); err != nil {
			return err
		}
	}
	if mask == 0 {
		return nil
	}
	return setAttributes(ctx, p, &SetAttr{Mask: mask, Atime: atime, Mtime: mtime})
}

// Access does access(2): cred has the ids to check with in FSUID and FSGID.
func Access(ctx Context, p Path, cred *auth.Credentials, want Permission) error {
	var a Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	if want&MayExec != 0 && a.Type() == unix.S_IFREG && p.Mount.Flags()&MountNoExec != 0 {
		return unix.EACCES
	}
	if err := CheckPermission(cred, &a, want); err != nil {
		return err
	}
	if want&MayWrite != 0 && p.Mount.ReadOnly() {
		switch a.Type() {
		case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
			return unix.EROFS
		}
	}
	return nil
}

// Statfs fills s for the file system at p.
func Statfs(ctx Context, p Path, s *unix.Statfs_t) error {
	fs := p.Dentry.fs
	*s = unix.Statfs_t{Type: fs.Magic, Bsize: 4096, Frsize: 4096, Namelen: NameMax}
	s.Fsid.Val[0] = int32(fs.Dev)
	if sf, ok := fs.Impl.(Statfser); ok {
		if err := sf.Statfs(ctx, s); err != nil {
			return err
		}
	}
	const stValid = 0x20
	s.Flags = int64(p.Mount.Flags()) | stValid
	if p.Mount.ReadOnly() {
		s.Flags |= unix.ST_RDONLY
	}
	return nil
}

// checkXattr applies the rules of xattr(7) for each name space.
func checkXattr(ctx Context, p Path, name string, write bool) (Xattrs, *Attr, error) {
	var a Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return nil, nil, err
	}
	if write && p.Mount.ReadOnly() {
		return nil, nil, unix.EROFS
	}
	c := ctx.Credentials()
	want := MayRead
	if write {
		want = MayWrite
	}
	switch ns, _, _ := strings.Cut(name, "."); ns {
	case "trusted":
		if !c.HasRootCap(unix.CAP_SYS_ADMIN) {
			if write {
				return nil, nil, unix.EPERM
			}
			return nil, nil, unix.ENODATA
		}
		want = 0
	case "system":
		// Lists of access control, which no file system here has: as on one
		// that is mounted with noacl, where cp -a makes do with the mode.
		return nil, nil, unix.EOPNOTSUPP
	case "security":
		if write && !c.HasRootCap(unix.CAP_SYS_ADMIN) {
			return nil, nil, unix.EPERM
		}
		want = 0
	case "user":
		if t := a.Type(); t != unix.S_IFREG && t != unix.S_IFDIR {
			if write {
				return nil, nil, unix.EPERM
			}
			return nil, nil, unix.ENODATA
		}
		if a.IsDir() && a.Mode&unix.S_ISVTX != 0 && write && !IsOwner(c, &a) {
			return nil, nil, unix.EPERM
		}
	default:
		return nil, nil, unix.EOPNOTSUPP
	}
	if want != 0 {
		if err := CheckPermission(c, &a, want); err != nil {
			return nil, nil, err
		}
	}
	x, ok := p.Inode().(Xattrs)
	if !ok {
		return nil, nil, unix.EOPNOTSUPP
	}
	return x, &a, nil
}

// GetXattr does getxattr(2).
func GetXattr(ctx Context, p Path, name string) ([]byte, error) {
	x, _, err := checkXattr(ctx, p, name, false)
	if err != nil {
		return nil, err
	}
	return x.GetXattr(ctx, name)
}

// SetXattr does setxattr(2).
func SetXattr(ctx Context, p Path, name string, value []byte, flags uint32) error {
	x, _, err := checkXattr(ctx, p, name, true)
	if err != nil {
		return err
	}
	if err := x.SetXattr(ctx, name, value, flags); err != nil {
		return err
	}
	NotifyAttrib(p.Dentry)
	return nil
}

// RemoveXattr does removexattr(2).
func RemoveXattr(ctx Context, p Path, name string) error {
	x, _, err := checkXattr(ctx, p, name, true)
	if err != nil {
		return err
	}
	if err := x.RemoveXattr(ctx, name); err != nil {
		return err
	}
	NotifyAttrib(p.Dentry)
	return nil
}

// ListXattr does listxattr(2): trusted names only for who may read them.
func ListXattr(ctx Context, p Path) ([]string, error) {
	x, ok := p.Inode().(Xattrs)
	if !ok {
		return nil, nil
	}
	names, err := x.ListXattr(ctx)
	if err != nil || ctx.Credentials().HasRootCap(unix.CAP_SYS_ADMIN) {
		return names, err
	}
	kept := names[:0:0]
	for _, n := range names {
		if !strings.HasPrefix(n, "trusted.") {
			kept = append(kept, n)
		}
	}
	return kept, nil
}
