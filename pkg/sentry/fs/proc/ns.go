package proc

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

// Namespace is what an open file of /proc/PID/ns stands for (setns(2)).
type Namespace struct {
	// Flag is the CLONE_NEW* constant of its type.
	Flag uint64
	// Object is an *auth.UserNamespace, *kernel.PIDNamespace,
	// *namespaces.UTS, *namespaces.IPC, *namespaces.Net or
	// *vfs.MountNamespace; nil for the one cgroup namespace there is.
	Object any
}

// NamespaceOf returns the namespace that f was opened on.
func NamespaceOf(f *vfs.File) (Namespace, bool) {
	if i, ok := f.Inode().(*nsInode); ok && !f.PathOnly() {
		return i.ns, true
	}
	return Namespace{}, false
}

// nsMagic is NSFS_MAGIC of statfs(2).
const nsMagic = 0x6e736673

// nsfs is where namespaces are files: mounted nowhere.
var nsfs = sync.OnceValue(func() *vfs.Mount {
	fs := &vfs.Filesystem{Type: "nsfs", Dev: vfs.NewDev(), Magic: nsMagic, Policy: vfs.CacheDynamic}
	fs.SetRoot(&pseudo.Dir{Meta: pseudo.Facts{Ino: 1, Dev: fs.Dev, Mode: unix.S_IFDIR | 0o555}.Meta()})
	return vfs.NewInternalMount(fs)
})

// nsInode is a namespace as a file.
type nsInode struct {
	pseudo.Meta
	ns Namespace
}

// Open implements vfs.Inode.
func (i *nsInode) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nsFile{i}, nil }

// nsFile is an open nsInode.
type nsFile struct{ inode *nsInode }

// Namespace implements kernel.NamespaceFile.
func (f nsFile) Namespace() any { return f.inode.ns.Object }

var _ kernel.NamespaceFile = nsFile{}

// Ioctl implements vfs.Ioctler: ioctl_ns(2), as far as no descriptor is made.
func (f nsFile) Ioctl(_ vfs.Context, _ *vfs.File, cmd uint32, _ uint64) (uint64, error) {
	if cmd == unix.NS_GET_NSTYPE {
		return f.inode.ns.Flag, nil
	}
	return 0, unix.ENOTTY
}

// cgroupIno is the number of the only cgroup namespace, as Linux has it.
const cgroupIno = 4026531835

// nsKinds are the names in /proc/PID/ns.
var nsKinds = []struct {
	name string
	of   func(k *kernel.Kernel, t *kernel.Task, n *kernel.Namespaces) (Namespace, uint64)
}{
	{"cgroup", func(_ *kernel.Kernel, _ *kernel.Task, _ *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWCGROUP, nil}, cgroupIno
	}},
	{"ipc", func(_ *kernel.Kernel, _ *kernel.Task, n *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWIPC, n.IPC}, n.IPC.Inode
	}},
	{"mnt", func(_ *kernel.Kernel, _ *kernel.Task, n *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWNS, n.Mount}, n.Mount.Inode
	}},
	{"net", func(_ *kernel.Kernel, _ *kernel.Task, n *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWNET, n.Net}, n.Net.Inode
	}},
	{"pid", func(_ *kernel.Kernel, t *kernel.Task, _ *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWPID, t.PIDNamespace()}, t.PIDNamespace().Inode
	}},
	{"pid_for_children", func(_ *kernel.Kernel, _ *kernel.Task, n *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWPID, n.PIDForChildren}, n.PIDForChildren.Inode
	}},
	{"user", func(k *kernel.Kernel, t *kernel.Task, _ *kernel.Namespaces) (Namespace, uint64) {
		u := t.Credentials().UserNS
		return Namespace{unix.CLONE_NEWUSER, u}, u.Inode(k.NewNamespaceInode)
	}},
	{"uts", func(_ *kernel.Kernel, _ *kernel.Task, n *kernel.Namespaces) (Namespace, uint64) {
		return Namespace{unix.CLONE_NEWUTS, n.UTS}, n.UTS.Inode
	}},
}

// nsDir is /proc/PID/ns.
type nsDir struct{ subDir }

// Lookup implements vfs.Directory.
func (d *nsDir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	for i, k := range nsKinds {
		if k.name != name {
			continue
		}
		l := &magicLink{Meta: d.s.meta(classNS, uint64(i), unix.S_IFLNK|0o777).Meta(), s: d.s}
		l.target = func(t *kernel.Task) (vfs.Path, error) {
			n := t.Namespaces()
			if n == nil {
				return vfs.Path{}, unix.ENOENT
			}
			ns, ino := k.of(d.s.p.k, t, n)
			shown, _, _ := strings.Cut(k.name, "_")
			m := nsfs()
			inode := &nsInode{Meta: pseudo.Facts{Ino: ino, Dev: m.Filesystem().Dev, Mode: unix.S_IFREG | 0o444, Time: d.s.p.k.BootTime}.Meta(), ns: ns}
			return vfs.Path{Mount: m, Dentry: vfs.NewDetachedDentry(m.Filesystem(), shown+":["+strconv.FormatUint(ino, 10)+"]", inode)}, nil
		}
		return l, nil
	}
	return nil, unix.ENOENT
}

// Open implements vfs.Inode.
func (d *nsDir) Open(_ vfs.Context, p vfs.Path, _ uint32) (any, error) {
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// List implements pseudo.Lister.
func (d *nsDir) List(_ vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	for i := cookie - pseudo.FirstCookie; i < int64(len(nsKinds)); i++ {
		if !emit(vfs.DirEntry{Name: nsKinds[i].name, Ino: d.s.ino(classNS, uint64(i)), Type: unix.DT_LNK, Next: i + pseudo.FirstCookie + 1}) {
			break
		}
	}
	return nil
}

// idConverter is the direction of ids that a map is about.
type idConverter struct {
	maps   func(ns *auth.UserNamespace) []auth.IDMap
	toRoot func(ns *auth.UserNamespace, id uint32) (uint32, bool)
	show   func(ns *auth.UserNamespace, root uint32) uint32
}

func converter(gid bool) idConverter {
	if gid {
		return idConverter{
			func(ns *auth.UserNamespace) []auth.IDMap { _, g := ns.Maps(); return g },
			func(ns *auth.UserNamespace, id uint32) (uint32, bool) { k, ok := ns.KGID(id); return uint32(k), ok },
			func(ns *auth.UserNamespace, root uint32) uint32 {
				if !ns.MapsGID(auth.KGID(root)) {
					return auth.NoID
				}
				return ns.GID(auth.KGID(root))
			},
		}
	}
	return idConverter{
		func(ns *auth.UserNamespace) []auth.IDMap { u, _ := ns.Maps(); return u },
		func(ns *auth.UserNamespace, id uint32) (uint32, bool) { k, ok := ns.KUID(id); return uint32(k), ok },
		func(ns *auth.UserNamespace, root uint32) uint32 {
			if !ns.MapsUID(auth.KUID(root)) {
				return auth.NoID
			}
			return ns.UID(auth.KUID(root))
		},
	}
}

// showIDMap prints the map of t's user namespace. The second column is in terms
// of the reader's namespace, or of the parent for a reader within
// (user_namespaces(7)).
func showIDMap(t *kernel.Task, ctx vfs.Context, b *bytes.Buffer, gid bool) error {
	ns, reader := t.Credentials().UserNS, ctx.Credentials().UserNS
	c := converter(gid)
	for _, m := range c.maps(ns) {
		outside := m.ParentFirst
		if ns.Parent != nil && reader != ns && reader != ns.Parent {
			outside = auth.NoID
			if root, ok := c.toRoot(ns.Parent, m.ParentFirst); ok {
				outside = c.show(reader, root)
			}
		}
		fmt.Fprintf(b, "%10d %10d %10d\n", m.First, outside, m.Length)
	}
	return nil
}

// maxMapLines is Linux's UID_GID_MAP_MAX_EXTENTS.
const maxMapLines = 340

// parseIDMap reads lines of three numbers: EINVAL where one is wrong, empty or
// overlaps another.
func parseIDMap(data string) ([]auth.IDMap, error) {
	data, _, _ = strings.Cut(data, "\x00")
	var out []auth.IDMap
	for line := range strings.SplitSeq(strings.TrimSuffix(data, "\n"), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 || len(out) == maxMapLines {
			return nil, unix.EINVAL
		}
		var v [3]uint32
		for i := range v {
			n, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, unix.EINVAL
			}
			v[i] = uint32(n)
		}
		m := auth.IDMap{First: v[0], ParentFirst: v[1], Length: v[2]}
		if m.First == auth.NoID || m.ParentFirst == auth.NoID || m.Length == 0 ||
			m.First+m.Length <= m.First || m.ParentFirst+m.Length <= m.ParentFirst {
			return nil, unix.EINVAL
		}
		for _, o := range out {
			if m.First < o.First+o.Length && o.First < m.First+m.Length ||
				m.ParentFirst < o.ParentFirst+o.Length && o.ParentFirst < m.ParentFirst+m.Length {
				return nil, unix.EINVAL
			}
		}
		out = append(out, m)
	}
	return out, nil
}

// setIDMap writes the map of t's user namespace, once. The rules are those of
// user_namespaces(7), "Defining user and group ID mappings".
func setIDMap(t *kernel.Task, ctx vfs.Context, data string, gid bool) error {
	ns, c := t.Credentials().UserNS, ctx.Credentials()
	capability := unix.CAP_SETUID
	if gid {
		capability = unix.CAP_SETGID
	}
	conv := converter(gid)
	if conv.maps(ns) != nil || ns.Parent == nil {
		return unix.EPERM
	}
	if !c.HasCapIn(unix.CAP_SYS_ADMIN, ns) {
		return unix.EPERM
	}
	if c.UserNS != ns && c.UserNS != ns.Parent {
		return unix.EPERM
	}
	m, err := parseIDMap(data)
	if err != nil {
		return err
	}
	if !mayMap(c, ns, m, capability, gid, conv) {
		return unix.EPERM
	}
	for _, l := range m {
		// One line of the parent's map must have all of the range.
		if !slices.ContainsFunc(conv.maps(ns.Parent), func(o auth.IDMap) bool {
			return l.ParentFirst >= o.First && l.ParentFirst+l.Length <= o.First+o.Length
		}) {
			return unix.EPERM
		}
	}
	if gid {
		return ns.SetGIDMap(m)
	}
	return ns.SetUIDMap(m)
}

// mayMap reports whether c may set the map m: a single id of its own needs no
// privilege.
func mayMap(c *auth.Credentials, ns *auth.UserNamespace, m []auth.IDMap, capability int, gid bool, conv idConverter) bool {
	if len(m) == 1 && m[0].Length == 1 && ns.Owner == c.EUID {
		if own, ok := conv.toRoot(ns.Parent, m[0].ParentFirst); ok {
			if gid {
				if ns.SetgroupsDenied() && own == uint32(c.EGID) {
					return true
				}
			} else if own == uint32(c.EUID) {
				return true
			}
		}
	}
	return c.HasCapIn(capability, ns.Parent)
}

func setgroups(_ subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	if t.Credentials().UserNS.SetgroupsDenied() {
		b.WriteString("deny\n")
	} else {
		b.WriteString("allow\n")
	}
	return nil
}

func storeSetgroups(_ subject, t *kernel.Task, ctx vfs.Context, data string) error {
	ns := t.Credentials().UserNS
	if !ctx.Credentials().HasCapIn(unix.CAP_SYS_ADMIN, ns) {
		return unix.EPERM
	}
	data, _, _ = strings.Cut(data, "\x00")
	switch strings.TrimSpace(data) {
	case "allow":
		if ns.SetgroupsDenied() {
			return unix.EPERM
		}
		return nil
	case "deny":
		return ns.DenySetgroups()
	}
	return unix.EINVAL
}
