package dev

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
)

// NewTree returns a tmpfs for /dev with the default devices, the links, the
// directories pts, shm and mqueue to mount on, and more devices. Without a mode
// of its own in o the root has 0755.
func NewTree(ctx vfs.Context, o tmpfs.Options, more ...Device) (*vfs.Filesystem, error) {
	if o.Mode == 0 {
		o.Mode = unix.S_IFDIR | 0o755
	}
	fs, err := tmpfs.New(o)
	if err != nil {
		return nil, err
	}
	return fs, Populate(ctx, fs.Root().Inode(), more...)
}

// Populate fills the directory root, of a file system that nobody uses yet.
// What is there already stays.
func Populate(ctx vfs.Context, root vfs.Inode, more ...Device) error {
	dir, ok := root.(vfs.Directory)
	if !ok {
		return unix.ENOTDIR
	}
	for _, name := range []string{"pts", "shm", "mqueue"} {
		mode := uint32(0o755)
		if name != "pts" {
			mode = 0o1777
		}
		if _, err := subdir(ctx, dir, name, mode); err != nil {
			return err
		}
	}
	for _, d := range slices.Concat(DefaultDevices(), more) {
		if err := Add(ctx, dir, d); err != nil {
			return err
		}
	}
	links := Links()
	for name, target := range links {
		if _, err := dir.Lookup(ctx, name); err == nil {
			continue
		}
		if _, err := dir.Symlink(ctx, name, target, &vfs.NewAttr{Mode: unix.S_IFLNK | 0o777}); err != nil {
			return err
		}
	}
	return nil
}

// Add makes one node in dir, which nobody uses yet, with the directories on its
// way. A node that is there gives way to nothing: it stays.
func Add(ctx vfs.Context, dir vfs.Directory, d Device) error {
	names := strings.FieldsFunc(d.Path, func(r rune) bool { return r == '/' })
	for i, name := range names {
		if name == "." || name == ".." || len(name) > vfs.NameMax {
			return unix.EINVAL
		}
		if i == len(names)-1 {
			break
		}
		sub, err := subdir(ctx, dir, name, 0o755)
		if err != nil {
			return err
		}
		dir = sub
	}
	if len(names) == 0 {
		return unix.EINVAL
	}
	name := names[len(names)-1]
	if _, err := dir.Lookup(ctx, name); err == nil {
		return nil
	}
	_, err := dir.Make(ctx, name, &vfs.NewAttr{Mode: d.Mode, UID: auth.KUID(d.UID), GID: auth.KGID(d.GID), Rdev: d.Rdev})
	return err
}

func subdir(ctx vfs.Context, dir vfs.Directory, name string, mode uint32) (vfs.Directory, error) {
	n, err := dir.Lookup(ctx, name)
	if err == unix.ENOENT {
		n, err = dir.Mkdir(ctx, name, &vfs.NewAttr{Mode: unix.S_IFDIR | mode})
	}
	if err != nil {
		return nil, err
	}
	sub, ok := n.(vfs.Directory)
	if !ok {
		return nil, unix.ENOTDIR
	}
	return sub, nil
}
