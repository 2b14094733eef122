package tmpfs

import (
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
)

// Limits of xattr(7), and of what one inode may hold.
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
	maxXattrTotal = 1 << 20
)

// Meta is what each inode has besides what it is for. The methods are those of
// vfs.Inode and vfs.Xattrs, as far as they are the same for all types.
type Meta struct {
	vfs.InodeBase
	storage *Storage
	ino     uint64
	rdev    uint64

	mu                  locks.Mutex[locks.Attributes]
	mode                uint32
	nlink               uint32
	uid                 auth.KUID
	gid                 auth.KGID
	atime, mtime, ctime int64
	btime               int64
	// opens counts openings, and what else keeps a file without names.
	opens int32
	// linkable: it has never had a name, and may get one.
	linkable bool
	// charged is what the storage counts for the inode, zero once it is gone.
	charged    int64
	xattrs     map[string][]byte
	xattrBytes int
}

// Init sets up m as a new inode with no name; it is charged by Charge.
func (m *Meta) Init(s *Storage, ino uint64, a *vfs.NewAttr) {
	now := Now()
	m.storage, m.ino = s, ino
	m.mode, m.uid, m.gid, m.rdev = a.Mode, a.UID, a.GID, a.Rdev
	m.atime, m.mtime, m.ctime, m.btime = now, now, now, now
	m.linkable = true
}

// charge counts the inode and extra bytes that it holds for good.
func (m *Meta) charge(extra int) error {
	n := 1 + int64(extra/inodeUnit)
	if err := m.storage.charge(n); err != nil {
		return err
	}
	m.charged = n
	return nil
}

// Become gives m the attributes a and extended attributes x of an inode that it
// stands for from now on, and counts it, unless it is gone: no name, nobody has it
// open.
func (m *Meta) Become(a *vfs.Attr, x map[string][]byte) error {
	total := 0
	for k, v := range x {
		total += len(k) + len(v) + xattrCost
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if a.Nlink != 0 || m.opens != 0 {
		if err := m.charge(total); err != nil {
			return err
		}
	}
	m.mode, m.uid, m.gid, m.rdev = a.Mode, a.UID, a.GID, a.Rdev
	m.atime, m.mtime, m.ctime, m.btime = a.Atime, a.Mtime, a.Ctime, a.Btime
	m.nlink, m.xattrs, m.xattrBytes = a.Nlink, x, total
	m.linkable = false
	return nil
}

// Gone reports whether an inode that counts has ended.
func (m *Meta) Gone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.charged == 0
}

// Storage returns where the inode is.
func (m *Meta) Storage() *Storage { return m.storage }

// Ino returns the inode's number.
func (m *Meta) Ino() uint64 { return m.ino }

// Mode returns the mode.
func (m *Meta) Mode() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mode
}

// Attributes fills a, but for size and blocks.
func (m *Meta) Attributes(_ vfs.Context, a *vfs.Attr) error {
	m.mu.Lock()
	*a = vfs.Attr{Mode: m.mode, Nlink: m.nlink, UID: m.uid, GID: m.gid, Ino: m.ino, BlockSize: blockSize,
		Rdev: m.rdev, Dev: m.storage.dev, Atime: m.atime, Mtime: m.mtime, Ctime: m.ctime, Btime: m.btime}
	m.mu.Unlock()
	return nil
}

// SetAttributes changes all but the size.
func (m *Meta) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	now := Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Apply(&m.mode, &m.uid, &m.gid, &m.atime, &m.mtime)
	m.ctime = now
	return nil
}

// Accessed sets the access time as mounts with relatime do: when it is behind
// the other times or a day old.
func (m *Meta) Accessed() {
	const day = 24 * 3600 * 1e9
	now := Now()
	m.mu.Lock()
	if m.atime <= m.mtime || m.atime <= m.ctime || now-m.atime > day {
		m.atime = now
	}
	m.mu.Unlock()
}

// Modified sets mtime and ctime.
func (m *Meta) Modified(now int64) {
	m.mu.Lock()
	m.mtime, m.ctime = now, now
	m.mu.Unlock()
}

// written sets the times after a write, and takes setuid and setgid away unless
// c may keep them (write(2), inode(7)).
func (m *Meta) written(c *auth.Credentials) {
	now := Now()
	m.mu.Lock()
	m.mtime, m.ctime = now, now
	if m.mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
		drop := m.mode & unix.S_ISUID
		if m.mode&unix.S_IXGRP != 0 {
			drop |= m.mode & unix.S_ISGID
		}
		if drop != 0 && !c.HasCapOverFile(unix.CAP_FSETID, m.uid, m.gid) {
			m.mode &^= drop
		}
	}
	m.mu.Unlock()
}

// Changed sets ctime.
func (m *Meta) Changed(now int64) {
	m.mu.Lock()
	m.ctime = now
	m.mu.Unlock()
}

// addLinks changes the number of names by n and returns it, and whether the
// inode is gone: no name and nobody has it open.
func (m *Meta) addLinks(n int32, now int64) (uint32, bool) {
	m.mu.Lock()
	m.nlink += uint32(n)
	m.ctime = now
	left, gone := m.nlink, m.goneLocked()
	m.mu.Unlock()
	return left, gone
}

// goneLocked reports whether the inode has just ended, and takes it off the
// books. mu is held.
func (m *Meta) goneLocked() bool {
	if m.nlink != 0 || m.opens != 0 || m.charged == 0 {
		return false
	}
	m.storage.charge(-m.charged)
	m.charged = 0
	return true
}

// hold counts an opening; false if the inode is gone.
func (m *Meta) hold() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.charged == 0 {
		return false
	}
	m.opens++
	return true
}

// PinAlways is Pin for an inode that isn't counted yet, before Become.
func (m *Meta) PinAlways() {
	m.mu.Lock()
	m.opens++
	m.mu.Unlock()
}

// Pinned reports whether somebody has the inode open, or pinned.
func (m *Meta) Pinned() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opens != 0
}

// drop takes a hold back and reports whether the inode is gone.
func (m *Meta) drop() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opens--
	return m.goneLocked()
}

// GetXattr implements vfs.Xattrs.
func (m *Meta) GetXattr(_ vfs.Context, name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.xattrs[name]; ok {
		return v, nil
	}
	if err := checkXattrName(name); err != nil {
		return nil, err
	}
	return nil, unix.ENODATA
}

// checkXattrName refuses name spaces that are not kept, and names without
// anything behind the prefix.
func checkXattrName(name string) error {
	if len(name) > maxXattrName {
		return unix.ERANGE
	}
	for _, p := range [...]string{"user.", "trusted.", "security."} {
		if strings.HasPrefix(name, p) {
			if len(name) == len(p) {
				return unix.EINVAL
			}
			return nil
		}
	}
	return unix.EOPNOTSUPP
}

// SetXattr implements vfs.Xattrs.
func (m *Meta) SetXattr(_ vfs.Context, name string, value []byte, flags uint32) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	if len(value) > maxXattrValue {
		return unix.E2BIG
	}
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return unix.EINVAL
	}
	value = append([]byte{}, value...)
	now := Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	old, exists := m.xattrs[name]
	if exists && flags&unix.XATTR_CREATE != 0 {
		return unix.EEXIST
	}
	if !exists && flags&unix.XATTR_REPLACE != 0 {
		return unix.ENODATA
	}
	total := m.xattrBytes + len(value) - len(old)
	if !exists {
		total += len(name) + xattrCost
	}
	if total > maxXattrTotal {
		return unix.ENOSPC
	}
	if err := m.chargeXattrs(total); err != nil {
		return err
	}
	if m.xattrs == nil {
		m.xattrs = map[string][]byte{}
	}
	m.xattrs[name] = value
	m.ctime = now
	return nil
}

// chargeXattrs counts total bytes of extended attributes. mu is held.
func (m *Meta) chargeXattrs(total int) error {
	by := int64(total/inodeUnit) - int64(m.xattrBytes/inodeUnit)
	if m.charged == 0 { // gone already: nothing is counted any more
		by = 0
	}
	if err := m.storage.charge(by); err != nil {
		return err
	}
	m.charged += by
	m.xattrBytes = total
	return nil
}

// ListXattr implements vfs.Xattrs.
func (m *Meta) ListXattr(vfs.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.xattrs) == 0 {
		return nil, nil
	}
	names := make([]string, 0, len(m.xattrs))
	for n := range m.xattrs {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, nil
}

// RemoveXattr implements vfs.Xattrs.
func (m *Meta) RemoveXattr(_ vfs.Context, name string) error {
	if err := checkXattrName(name); err != nil {
		return err
	}
	now := Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.xattrs[name]
	if !ok {
		return unix.ENODATA
	}
	delete(m.xattrs, name)
	m.ctime = now
	return m.chargeXattrs(m.xattrBytes - len(name) - len(v) - xattrCost)
}
