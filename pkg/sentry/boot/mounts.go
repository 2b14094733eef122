package boot

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/control"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/cgroup"
	"vitrine/pkg/sentry/fs/dev"
	"vitrine/pkg/sentry/fs/devpts"
	"vitrine/pkg/sentry/fs/gofer"
	"vitrine/pkg/sentry/fs/mqueue"
	"vitrine/pkg/sentry/fs/overlay"
	"vitrine/pkg/sentry/fs/proc"
	"vitrine/pkg/sentry/fs/sysfs"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

// messageSize is the largest 9P message: a directory's entries with attributes
// fill it; the contents of files go through donated descriptors.
const messageSize = 128 << 10

// mountAll builds the container's tree of mounts.
func (c *container) mountAll() error {
	root, err := c.rootFilesystem()
	if err != nil {
		return err
	}
	var flags vfs.MountFlags
	if c.args.RootReadonly && c.args.RootOverlay != control.OverlayMemory {
		flags |= vfs.MountReadOnly
	}
	mounts := vfs.NewMountNamespace(root, "none", flags)
	if err := mounts.PaidBy(c.account); err != nil {
		return err
	}
	mounts.Inode = c.s.k.NewNamespaceInode()
	if c.user != c.s.k.RootUserNS {
		mounts.Owner = c.user
	}
	c.ns.Mount = mounts
	c.root = mounts.Root()
	if err := c.defaultDevices(); err != nil {
		return failf(control.KindInternal, "the default devices in /dev: %v", err)
	}
	for i := range c.args.Mounts {
		m := &c.args.Mounts[i]
		if err := c.mount(m); err != nil {
			with := ""
			if len(m.Data) > 0 {
				with = fmt.Sprintf(" with %q", strings.Join(m.Data, ","))
			}
			return failf(control.KindInternal, "mounting %s at %s%s: %v", m.Type, m.Destination, with, err)
		}
	}
	if err := c.makeDevices(); err != nil {
		return err
	}
	for _, p := range c.args.ReadonlyPaths {
		if err := c.protect(p); err != nil {
			return failf(control.KindInternal, "making %s read-only: %v", p, err)
		}
	}
	for _, p := range c.args.MaskedPaths {
		if err := c.mask(p); err != nil {
			return failf(control.KindInternal, "masking %s: %v", p, err)
		}
	}
	if c.args.RootReadonly {
		c.root.Mount.SetFlags(c.root.Mount.Flags() | vfs.MountReadOnly)
	}
	return nil
}

// goferFilesystem returns the tree behind a connection, with a layer in memory
// above it where that is asked for.
func (c *container) goferFilesystem(conn *os.File, o gofer.Options, over control.Overlay) (*vfs.Filesystem, error) {
	fd, err := duplicate(conn)
	if err != nil {
		return nil, err
	}
	// The client wants a socket in blocking mode: that is the fastest way.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	client, err := p9.Dial(fd, messageSize, p9.AllExtensions)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	o.Closing = c.s.k.Platform.Forget
	lower, err := gofer.New(client, o)
	if err != nil {
		client.Close()
		return nil, err
	}
	c.gofers = append(c.gofers, lower)
	if over != control.OverlayMemory {
		return lower, nil
	}
	fs, err := overlay.New(lower, c.cred, c.memory())
	if err == nil {
		c.overlays = append(c.overlays, fs)
	}
	return fs, err
}

// memory are the options of a file system in the container's memory.
func (c *container) memory() tmpfs.Options {
	return tmpfs.Options{Memory: c.s.k.Memory, Account: c.account}
}

func (c *container) rootFilesystem() (*vfs.Filesystem, error) {
	if c.args.Root == nil {
		return tmpfs.New(c.memory())
	}
	fs, err := c.goferFilesystem(c.args.Root, gofer.Options{Shared: c.args.RootShared && c.args.RootOverlay != control.OverlayMemory, ReadOnly: c.args.RootOverlay == control.OverlayMemory}, c.args.RootOverlay)
	if err != nil {
		return nil, failf(control.KindInternal, "root file system: %v", err)
	}
	return fs, nil
}

// mountFlags are the flags of mount(2) that a mount keeps.
const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME

// otherFlags are carried out by doing nothing: what a file system in memory makes
// durable is durable, nobody reads i_version, and times are written lazily.
const otherFlags = unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_STRICTATIME | unix.MS_SILENT | unix.MS_I_VERSION | unix.MS_LAZYTIME

func (c *container) mount(m *control.Mount) error {
	if rest := m.Flags &^ (mountFlags | otherFlags); rest != 0 {
		return fmt.Errorf("mount flags %#x are not supported", rest)
	}
	fs, err := c.filesystem(m)
	if err != nil {
		return err
	}
	at, err := c.mountPoint(m.Destination, fs)
	if err != nil {
		return err
	}
	flags := vfs.MountFlags(m.Flags & mountFlags)
	if flags&vfs.MountNoAtime == 0 && m.Flags&unix.MS_STRICTATIME == 0 {
		flags |= vfs.MountRelatime
	}
	source := m.Source
	if source == "" {
		source = m.Type
	}
	mounted, err := c.ns.Mount.MountAt(at, fs, source, flags)
	if err != nil || !m.CopyUp {
		return err
	}
	if err := c.copyUp(at, vfs.Path{Mount: mounted, Dentry: mounted.Root()}); err != nil {
		return fmt.Errorf("copying what was there: %w", err)
	}
	return nil
}

// mountPoint returns the place to mount fs on, which is made where it is missing.
func (c *container) mountPoint(dest string, fs *vfs.Filesystem) (vfs.Path, error) {
	if _, ok := fs.Root().Inode().(vfs.Directory); ok {
		return c.makeDirs(dest, 0o755)
	}
	ctx := vfs.KernelContext(c.cred)
	at, err := vfs.Resolve(ctx, c.view(), dest, vfs.FollowFinal)
	if err != unix.ENOENT {
		return at, err
	}
	if _, err := c.makeDirs(path.Dir(dest), 0o755); err != nil {
		return vfs.Path{}, err
	}
	f, err := c.s.k.Opener.Open(ctx, c.view(), dest, unix.O_CREAT|unix.O_WRONLY, 0o755, 0)
	if err != nil {
		return vfs.Path{}, err
	}
	defer f.DecRef()
	return f.Path(), nil
}

// filesystem makes what m mounts.
func (c *container) filesystem(m *control.Mount) (*vfs.Filesystem, error) {
	if m.Gofer != nil {
		over := m.Overlay
		return c.goferFilesystem(m.Gofer, gofer.Options{Shared: m.Shared && over != control.OverlayMemory, ReadOnly: m.Flags&unix.MS_RDONLY != 0}, over)
	}
	return c.newFilesystem(m.Type, strings.Join(m.Data, ","), c.ns, path.Clean(m.Destination) == "/dev", vfs.KernelContext(c.cred), c.user)
}

// mountFor makes what t mounts, in its container's memory.
func (s *Sandbox) mountFor(t *kernel.Task, kind, _, data string) (*vfs.Filesystem, error) {
	s.mu.Lock()
	c := s.containers[t.Container()]
	s.mu.Unlock()
	if c == nil {
		return nil, unix.ENODEV
	}
	return c.newFilesystem(kind, data, t.Namespaces(), false, t, t.Credentials().UserNS)
}

// newFilesystem makes a file system of the Sentry's own, for user; ENODEV where the
// type is unknown.
func (c *container) newFilesystem(kind, data string, ns *kernel.Namespaces, isDev bool, ctx vfs.Context, user *auth.UserNamespace) (*vfs.Filesystem, error) {
	s, k, o := c.s, c.s.k, c.memory()
	// What has no other owner is root's.
	if id, ok := user.KUID(0); ok {
		o.UID = id
	}
	if id, ok := user.KGID(0); ok {
		o.GID = id
	}
	switch kind {
	case "tmpfs", "ramfs", "devtmpfs":
		if err := o.ParseOptions(data, s.account.Limit(), user); err != nil {
			return nil, err
		}
		if isDev || kind == "devtmpfs" {
			return dev.NewTree(ctx, o)
		}
		return tmpfs.New(o)
	case "dev":
		return dev.NewTree(ctx, o)
	case "proc":
		po := proc.Options{Host: s.host, Account: o.Account, CommandLine: "vitrine"}
		if err := po.ParseOptions(data, user); err != nil {
			return nil, err
		}
		return proc.New(k, ns.PIDForChildren, po)
	case "devpts":
		po, err := devpts.Parse(data, user)
		if err != nil {
			return nil, err
		}
		return devpts.New(po), nil
	case "sysfs":
		return sysfs.New(k, sysfs.Options{})
	case "mqueue":
		return mqueue.New(o.UID, o.GID), nil
	case "cgroup", "cgroup2":
		return cgroup.New(k, ns.PIDForChildren, cgroup.Options{Account: o.Account, Limits: c.limits, Container: c.kc})
	}
	return nil, unix.ENODEV
}

// defaultDevices makes what the OCI runtime spec (config-linux.md, "Default
// Devices") wants in every container's /dev, where nothing is mounted on that: in
// the layer above the root, or, to leave the host's tree alone, in a file system
// of their own.
func (c *container) defaultDevices() error {
	for i := range c.args.Mounts {
		if d := path.Clean(c.args.Mounts[i].Destination); d == "/dev" || d == "/" {
			return nil
		}
	}
	if c.args.Root != nil && c.args.RootOverlay != control.OverlayMemory {
		return c.mount(&control.Mount{Destination: "/dev", Type: "dev", Source: "dev"})
	}
	ctx := vfs.KernelContext(c.cred)
	if _, err := c.makeDirs("/dev", 0o755); err != nil {
		return err
	}
	for _, d := range dev.DefaultDevices() {
		if _, err := vfs.Mknod(ctx, c.view(), "/dev/"+d.Path, d.Mode, d.Rdev); err != nil && err != unix.EEXIST {
			return err
		}
	}
	for name, target := range dev.Links() {
		if err := vfs.Symlink(ctx, c.view(), target, "/dev/"+name); err != nil && err != unix.EEXIST {
			return err
		}
	}
	return nil
}

// makeDevices makes the bundle's own devices.
func (c *container) makeDevices() error {
	ctx := vfs.KernelContext(c.cred)
	kinds := map[byte]uint32{'c': unix.S_IFCHR, 'u': unix.S_IFCHR, 'b': unix.S_IFBLK, 'p': unix.S_IFIFO}
	for _, d := range c.args.Devices {
		kind, ok := kinds[d.Type]
		if !ok {
			return failf(control.KindInvalid, "device %s: %q is not a type of devices", d.Path, d.Type)
		}
		if _, err := c.makeDirs(path.Dir(d.Path), 0o755); err != nil {
			return failf(control.KindInternal, "device %s: %v", d.Path, err)
		}
		at, err := vfs.Mknod(ctx, c.view(), d.Path, kind|d.Mode&0o7777, unix.Mkdev(d.Major, d.Minor))
		if err == unix.EEXIST {
			continue
		}
		if err == nil {
			uid, ok := c.user.KUID(d.UID)
			gid, ok2 := c.user.KGID(d.GID)
			if !ok || !ok2 {
				return failf(control.KindInvalid, "device %s: owner %d:%d has no mapping in linux.uidMappings and gidMappings", d.Path, d.UID, d.GID)
			}
			err = at.Inode().SetAttributes(ctx, &vfs.SetAttr{Mask: vfs.SetUID | vfs.SetGID, UID: uid, GID: gid})
		}
		if err != nil {
			return failf(control.KindInternal, "device %s: %v", d.Path, err)
		}
	}
	return nil
}

// protect makes the tree at p read-only; what isn't there needs no protection.
func (c *container) protect(p string) error {
	at, err := vfs.Resolve(vfs.KernelContext(c.cred), c.view(), p, vfs.FollowFinal)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := c.ns.Mount.Bind(at, at, true)
	if err != nil {
		return err
	}
	m.SetFlags(m.Flags() | vfs.MountReadOnly)
	return nil
}

// mask hides p: a directory behind an empty read-only one, a file behind
// /dev/null.
func (c *container) mask(p string) error {
	ctx := vfs.KernelContext(c.cred)
	at, err := vfs.Resolve(ctx, c.view(), p, vfs.FollowFinal)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	if _, ok := at.Inode().(vfs.Directory); ok {
		o := c.memory()
		o.Mode = unix.S_IFDIR | 0o755
		fs, err := tmpfs.New(o)
		if err != nil {
			return err
		}
		_, err = c.ns.Mount.MountAt(at, fs, "tmpfs", vfs.MountReadOnly|vfs.MountRelatime)
		return err
	}
	null, err := vfs.Resolve(ctx, c.view(), "/dev/null", vfs.FollowFinal)
	if err != nil {
		return err
	}
	_, err = c.ns.Mount.Bind(null, at, false)
	return err
}
