package boot

import (
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
	mounts.Inode = c.s.k.NewNamespaceInode()
	c.ns.Mount = mounts
	c.root = mounts.Root()
	for i := range c.args.Mounts {
		m := &c.args.Mounts[i]
		if err := c.mount(m); err != nil {
			return failf(control.KindInternal, "mounting %s at %s: %v", m.Type, m.Destination, err)
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
	if over != control.OverlayMemory {
		return lower, nil
	}
	return overlay.New(lower, c.cred, c.memory())
}

// memory are the options of a file system in the container's memory.
func (c *container) memory() tmpfs.Options {
	return tmpfs.Options{Memory: c.s.k.Memory, Account: c.account}
}

func (c *container) rootFilesystem() (*vfs.Filesystem, error) {
	if c.args.Root == nil {
		return tmpfs.New(c.memory())
	}
	fs, err := c.goferFilesystem(c.args.Root, gofer.Options{ReadOnly: c.args.RootOverlay == control.OverlayMemory}, c.args.RootOverlay)
	if err != nil {
		return nil, failf(control.KindInternal, "root file system: %v", err)
	}
	return fs, nil
}

// mountFlags are the flags of mount(2) that a mount keeps.
const mountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME

func (c *container) mount(m *control.Mount) error {
	fs, err := c.filesystem(m)
	if err != nil {
		return err
	}
	at, err := c.mountPoint(m.Destination, fs)
	if err != nil {
		return err
	}
	flags := vfs.MountFlags(m.Flags & mountFlags)
	if flags&(vfs.MountNoAtime) == 0 {
		flags |= vfs.MountRelatime
	}
	source := m.Source
	if source == "" {
		source = m.Type
	}
	_, err = c.ns.Mount.MountAt(at, fs, source, flags)
	return err
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
	return c.s.newFilesystem(m.Type, c.memory(), strings.Join(m.Data, ","), c.ns, path.Clean(m.Destination) == "/dev", vfs.KernelContext(c.cred))
}

// mountFor makes what t mounts, in its container's memory.
func (s *Sandbox) mountFor(t *kernel.Task, kind, _, data string) (*vfs.Filesystem, error) {
	s.mu.Lock()
	c := s.containers[t.Container()]
	s.mu.Unlock()
	if c == nil {
		return nil, unix.ENODEV
	}
	return s.newFilesystem(kind, c.memory(), data, t.Namespaces(), false, t)
}

// newFilesystem makes a file system of the Sentry's own; ENODEV where the type is
// unknown.
func (s *Sandbox) newFilesystem(kind string, o tmpfs.Options, data string, ns *kernel.Namespaces, isDev bool, ctx vfs.Context) (*vfs.Filesystem, error) {
	k := s.k
	switch kind {
	case "tmpfs", "ramfs", "devtmpfs":
		if err := o.ParseOptions(data, s.account.Limit(), k.RootUserNS); err != nil {
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
		if err := po.ParseOptions(data, k.RootUserNS); err != nil {
			return nil, err
		}
		return proc.New(k, ns.PIDForChildren, po)
	case "devpts":
		po, err := devpts.Parse(data, k.RootUserNS)
		if err != nil {
			return nil, err
		}
		return devpts.New(po), nil
	case "sysfs":
		return sysfs.New(k, sysfs.Options{})
	case "mqueue":
		return mqueue.New(auth.RootKUID, auth.RootKGID), nil
	case "cgroup", "cgroup2":
		return cgroup.New(k, ns.PIDForChildren, cgroup.Options{Account: o.Account})
	}
	return nil, unix.ENODEV
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
			err = at.Inode().SetAttributes(ctx, &vfs.SetAttr{Mask: vfs.SetUID | vfs.SetGID, UID: auth.KUID(d.UID), GID: auth.KGID(d.GID)})
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
