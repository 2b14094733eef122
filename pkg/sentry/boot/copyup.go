package boot

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// copyUp makes to, an empty directory, like from: with all that is in there, by
// the same owners and modes. Hard links become files of their own.
func (c *container) copyUp(from, to vfs.Path) error {
	ctx := vfs.KernelContext(c.cred)
	dir, err := c.s.k.Opener.OpenPath(ctx, from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	var names []string
	for {
		before := len(names)
		err := dir.ReadDir(ctx, func(e vfs.DirEntry) bool {
			if e.Name != "." && e.Name != ".." {
				names = append(names, e.Name)
			}
			return true
		})
		if err != nil {
			dir.DecRef()
			return err
		}
		if len(names) == before {
			break
		}
	}
	dir.DecRef()
	for _, name := range names {
		if err := c.copyEntry(ctx, from, to, name); err != nil {
			return err
		}
	}
	return copyAttributes(ctx, from, to)
}

// copyEntry copies what is called name in from.
func (c *container) copyEntry(ctx vfs.Context, from, to vfs.Path, name string) error {
	source, err := vfs.Resolve(ctx, vfs.FSView{Root: from, Start: from}, name, 0)
	if err != nil {
		return err
	}
	var a vfs.Attr
	if err := source.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	view := vfs.FSView{Root: to, Start: to}
	switch a.Type() {
	case unix.S_IFDIR:
		if err := vfs.Mkdir(ctx, view, name, 0o700); err != nil {
			return err
		}
		target, err := vfs.Resolve(ctx, view, name, 0)
		if err != nil {
			return err
		}
		return c.copyUp(source, target)
	case unix.S_IFREG:
		f, err := c.s.k.Opener.Open(ctx, view, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600, 0)
		if err != nil {
			return err
		}
		defer f.DecRef()
		if err := c.copyContent(ctx, source, f); err != nil {
			return err
		}
		return copyAttributes(ctx, source, f.Path())
	case unix.S_IFLNK:
		link, ok := source.Inode().(vfs.Link)
		if !ok {
			return unix.EINVAL
		}
		content, err := link.Readlink(ctx)
		if err != nil {
			return err
		}
		if err := vfs.Symlink(ctx, view, content, name); err != nil {
			return err
		}
		target, err := vfs.Resolve(ctx, view, name, 0)
		if err != nil {
			return err
		}
		return copyAttributes(ctx, source, target)
	}
	target, err := vfs.Mknod(ctx, view, name, a.Type()|0o600, a.Rdev)
	if err != nil {
		return err
	}
	return copyAttributes(ctx, source, target)
}

func (c *container) copyContent(ctx vfs.Context, source vfs.Path, to *vfs.File) error {
	f, err := c.s.k.Opener.OpenPath(ctx, source, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.DecRef()
	chunk := make([]byte, 64<<10)
	for {
		in := usermem.BytesBuffer(chunk)
		n, err := f.Read(ctx, &in)
		if n == 0 || err != nil {
			return err
		}
		for done := int64(0); done < n; {
			out := usermem.BytesBuffer(chunk[done:n])
			m, err := to.Write(ctx, &out)
			if err != nil {
				return err
			}
			done += m
		}
	}
}

// copyAttributes gives to the owner, mode and times of from.
func copyAttributes(ctx vfs.Context, from, to vfs.Path) error {
	var a vfs.Attr
	if err := from.Inode().Attributes(ctx, &a); err != nil {
		return err
	}
	s := &vfs.SetAttr{Mask: vfs.SetUID | vfs.SetGID | vfs.SetAtime | vfs.SetMtime, UID: a.UID, GID: a.GID, Atime: a.Atime, Mtime: a.Mtime}
	if err := to.Inode().SetAttributes(ctx, s); err != nil {
		return err
	}
	if a.Type() == unix.S_IFLNK {
		return nil // links have no mode
	}
	// After the owner, whose change takes the set-user-ID bit away.
	return to.Inode().SetAttributes(ctx, &vfs.SetAttr{Mask: vfs.SetMode, Mode: a.Mode & 0o7777})
}
