package tmpfs

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
)

// Special is a device node, a FIFO or a socket: the name and attributes of
// something that lives elsewhere.
type Special struct{ Meta }

// NewSpecial returns such an inode without a name.
func (s *Storage) NewSpecial(a *vfs.NewAttr) (*Special, error) {
	n := &Special{}
	n.Init(s, s.NewIno(), a)
	return n, n.charge(0)
}

// Open implements vfs.Inode; the VFS doesn't call it.
func (n *Special) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

// AddLink implements Child.
func (n *Special) AddLink(by int32, now int64) error {
	if by > 0 {
		return n.link(now)
	}
	n.addLinks(by, now)
	return nil
}

// Symlink is a symbolic link.
type Symlink struct {
	Meta
	target string
}

// NewSymlink returns a symbolic link without a name.
func (s *Storage) NewSymlink(target string, a *vfs.NewAttr) (*Symlink, error) {
	n := &Symlink{target: target}
	n.Init(s, s.NewIno(), a)
	return n, n.charge(len(target))
}

// Attributes implements vfs.Inode.
func (n *Symlink) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	n.Meta.Attributes(ctx, a)
	a.Size = int64(len(n.target))
	return nil
}

// Readlink implements vfs.Link.
func (n *Symlink) Readlink(vfs.Context) (string, error) { return n.target, nil }

// Open implements vfs.Inode; the VFS doesn't call it.
func (n *Symlink) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ELOOP }

// AddLink implements Child.
func (n *Symlink) AddLink(by int32, now int64) error {
	if by > 0 {
		return n.link(now)
	}
	n.addLinks(by, now)
	return nil
}
