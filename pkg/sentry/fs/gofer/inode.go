package gofer

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// inode is a file of the tree that is neither a directory nor a link, and a part of those.
type inode struct {
	vfs.InodeBase
	node  *node
	outer vfs.Inode // the directory or symlink this is a part of, or itself

	mapMu    locks.Mutex[locks.GoferMappings]
	mappings memmap.Mappings
}

// of returns the inode behind what the VFS has.
func of(v vfs.Inode) *inode {
	switch v := v.(type) {
	case *inode:
		return v
	case *directory:
		return &v.inode
	case *symlink:
		return &v.inode
	}
	return nil
}

// Attributes implements vfs.Inode. In a tree that is ours it takes no lock.
func (i *inode) Attributes(_ vfs.Context, a *vfs.Attr) error {
	s, err := i.current()
	if err != nil {
		return err
	}
	*a = s.Attr
	if i.node.kind == unix.S_IFREG {
		a.Size = i.node.size.Load()
	}
	return nil
}

// SetAttributes implements vfs.Inode.
func (i *inode) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	n := i.node
	if s.Mask&vfs.SetSize != 0 {
		if err := i.setSize(s.Size); err != nil {
			return err
		}
	}
	m := p9.SetAttr{Mode: s.Mode, UID: uint32(s.UID), GID: uint32(s.GID)}
	for _, f := range [...]struct {
		ours   vfs.SetMask
		theirs uint32
	}{
		{vfs.SetMode, p9.SetMode}, {vfs.SetUID, p9.SetUID}, {vfs.SetGID, p9.SetGID},
		{vfs.SetAtime, p9.SetAtime | p9.SetAtimeTo}, {vfs.SetMtime, p9.SetMtime | p9.SetMtimeTo},
	} {
		if s.Mask&f.ours != 0 {
			m.Valid |= f.theirs
		}
	}
	if m.Valid == 0 {
		return nil
	}
	m.Atime, m.Mtime = toTime(s.Atime), toTime(s.Mtime)
	f, err := n.takeFid()
	if err != nil {
		return err
	}
	defer n.fs.putFid(f)
	if err := f.fid.Setattr(&m); err != nil {
		return err
	}
	at := now()
	if s.Mask&vfs.SetMtime != 0 && n.writes.Load() != n.attr.Load().seq {
		// What a write left to find out is no longer what it was.
		n.writes.Add(1)
	}
	n.update(func(a *vfs.Attr) {
		s.Apply(&a.Mode, &a.UID, &a.GID, &a.Atime, &a.Mtime)
		a.Ctime = at
	})
	return nil
}

// setSize truncates or extends the file.
func (i *inode) setSize(size int64) error {
	n := i.node
	n.writeMu.Lock()
	defer n.writeMu.Unlock()
	if d := n.borrow(true); d != nil {
		err := unix.Ftruncate(d.fd, size)
		d.giveBack()
		if err != nil {
			return err
		}
	} else {
		f, err := n.takeFid()
		if err != nil {
			return err
		}
		err = f.fid.Setattr(&p9.SetAttr{Valid: p9.SetSize, Size: uint64(size)})
		n.fs.putFid(f)
		if err != nil {
			return err
		}
	}
	i.resized(size)
	return nil
}

// resized notes that the file has another size now. writeMu is held.
func (i *inode) resized(size int64) {
	n := i.node
	old := n.size.Swap(size)
	n.writes.Add(1)
	if size < old {
		i.truncated(size)
	}
}

// truncated takes away mappings of pages beyond the size.
func (i *inode) truncated(size int64) {
	i.mapMu.Lock()
	defer i.mapMu.Unlock()
	start := (uint64(size) + usermem.PageMask) &^ usermem.PageMask
	i.mappings.Invalidate(i, memmap.Range{Start: start, End: ^uint64(0) &^ usermem.PageMask}, true)
}

// Translate implements memmap.Mappable. Whoever has mapped the file holds it open, so a descriptor is there.
func (i *inode) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	i.mapMu.Lock()
	defer i.mapMu.Unlock()
	n := i.node
	end := (uint64(n.size.Load()) + usermem.PageMask) &^ usermem.PageMask
	if required.End > end {
		return nil, memmap.BusError{Err: unix.ENXIO}
	}
	optional.End = min(optional.End, end)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.descriptors {
		if d.access == unix.O_WRONLY {
			continue
		}
		may := usermem.Read | usermem.Execute
		if d.access == unix.O_RDWR {
			may |= usermem.Write
		}
		if !may.Has(access) {
			continue
		}
		d.file.IncRef(optional.Start, optional.Len())
		return []memmap.Translation{{Source: optional, File: d.file, Offset: optional.Start, Access: may}}, nil
	}
	return nil, memmap.BusError{Err: unix.EIO}
}

// AddMapping implements memmap.Mappable.
func (i *inode) AddMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) error {
	i.mapMu.Lock()
	defer i.mapMu.Unlock()
	i.mappings.Add(space, r, writableShared)
	i.node.stored.Store(i.mappings.WritableShared())
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (i *inode) RemoveMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) {
	i.mapMu.Lock()
	defer i.mapMu.Unlock()
	i.mappings.Remove(space, r, writableShared)
	if writableShared {
		i.node.writes.Add(1)
		i.node.stored.Store(i.mappings.WritableShared())
	}
}

// Open implements vfs.Inode for regular files.
func (i *inode) Open(_ vfs.Context, _ vfs.Path, flags uint32) (any, error) {
	access := flags & unix.O_ACCMODE
	if access == unix.O_ACCMODE {
		access = unix.O_RDWR // opened for ioctl alone; neither is allowed
	}
	d, err := i.open(access)
	if err == nil {
		return &file{inode: i, d: d, sync: flags & unix.O_SYNC}, nil
	}
	if err != unix.EOPNOTSUPP {
		return nil, err
	}
	fid, err := i.openFid(access)
	if err != nil {
		return nil, err
	}
	i.node.mu.Lock()
	i.node.useLocked(nil)
	i.node.mu.Unlock()
	return &remoteFile{inode: i, fid: fid, sync: flags & unix.O_SYNC}, nil
}

// openFid returns a fid of its own for the file, opened.
func (i *inode) openFid(flags uint32) (*p9.Fid, error) {
	f, err := i.node.takeFid()
	if err != nil {
		return nil, err
	}
	defer i.node.fs.putFid(f)
	fid, _, err := f.fid.Walk()
	if err != nil {
		return nil, err
	}
	if _, err := fid.Open(flags); err != nil {
		i.node.fs.discard(fid)
		return nil, err
	}
	return fid, nil
}

// GetXattr implements vfs.Xattrs.
func (i *inode) GetXattr(_ vfs.Context, name string) ([]byte, error) {
	f, err := i.node.takeFid()
	if err != nil {
		return nil, err
	}
	defer i.node.fs.putFid(f)
	return f.fid.GetXattr(name)
}

// SetXattr implements vfs.Xattrs.
func (i *inode) SetXattr(_ vfs.Context, name string, value []byte, flags uint32) error {
	f, err := i.node.takeFid()
	if err != nil {
		return err
	}
	defer i.node.fs.putFid(f)
	if err := f.fid.SetXattr(name, value, flags); err != nil {
		return err
	}
	i.node.touched()
	return nil
}

// ListXattr implements vfs.Xattrs.
func (i *inode) ListXattr(vfs.Context) ([]string, error) {
	f, err := i.node.takeFid()
	if err != nil {
		return nil, err
	}
	defer i.node.fs.putFid(f)
	return f.fid.ListXattr()
}

// RemoveXattr implements vfs.Xattrs.
func (i *inode) RemoveXattr(_ vfs.Context, name string) error {
	f, err := i.node.takeFid()
	if err != nil {
		return err
	}
	defer i.node.fs.putFid(f)
	if err := f.fid.RemoveXattr(name); err != nil {
		return err
	}
	i.node.touched()
	return nil
}

// touched moves the time of the last change.
func (n *node) touched() {
	at := now()
	n.update(func(a *vfs.Attr) { a.Ctime = at })
}

// symlink is a symbolic link.
type symlink struct {
	inode
	mu     locks.Mutex[locks.GoferLink]
	target string // once read: links don't change
}

// Readlink implements vfs.Link.
func (l *symlink) Readlink(vfs.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.target != "" {
		return l.target, nil
	}
	f, err := l.node.takeFid()
	if err != nil {
		return "", err
	}
	defer l.node.fs.putFid(f)
	target, err := f.fid.Readlink()
	if err != nil {
		return "", err
	}
	if target == "" || len(target) >= vfs.PathMax {
		return "", unix.EIO
	}
	l.target = target
	return target, nil
}
