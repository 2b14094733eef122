package files

import (
	"bytes"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var mountRows = []call.Row{
	call.Partial(unix.SYS_MOUNT, "mount", call.Args5(mount), "propagation is always private; a read-only remount is of the mount, not of the file system"),
	call.Full(unix.SYS_UMOUNT2, "umount2", call.Args2(umount2)),
	call.Full(unix.SYS_PIVOT_ROOT, "pivot_root", call.Args2(pivotRoot)),
	call.Full(unix.SYS_SETNS, "setns", call.Args2(setns)),
}

const (
	// keptFlags are the flags of mount(2) that a mount keeps.
	keptFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME |
		unix.MS_NODIRATIME | unix.MS_RELATIME
	atimeFlags = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
	// mountMagic marks flags of old programs; it is dropped.
	mountMagic     = 0xC0ED0000
	mountMagicMask = 0xffff0000
	// propagation are the flags that change how mounts spread.
	propagation = unix.MS_SHARED | unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_UNBINDABLE
)

// mayMount reports whether t may change its mount namespace.
func mayMount(t *kernel.Task) bool {
	owner := t.Namespaces().Mount.Owner
	if owner == nil {
		owner = t.Kernel().RootUserNS
	}
	return t.Credentials().HasCapIn(unix.CAP_SYS_ADMIN, owner)
}

// optionalString reads a string that may be NULL.
func optionalString(t *kernel.Task, a usermem.Addr) (string, error) {
	if a == 0 {
		return "", nil
	}
	s, err := usermem.CopyInString(t.MM(), a, vfs.PathMax)
	if err == unix.ENAMETOOLONG {
		err = unix.EINVAL
	}
	return s, err
}

// mountData reads the data of mount(2): a page, or what there is of one.
func mountData(t *kernel.Task, a usermem.Addr) (string, error) {
	if a == 0 {
		return "", nil
	}
	b := make([]byte, usermem.PageSize-1)
	n, err := t.MM().CopyIn(a, b)
	if n == 0 && err != nil {
		return "", err
	}
	b = b[:n]
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b), nil
}

func mount(t *kernel.Task, source, target call.PathPtr, kind usermem.Addr, flags uint64, data usermem.Addr) (uint64, error) {
	fstype, err := optionalString(t, kind)
	if err != nil {
		return 0, err
	}
	path, err := target.Read(t)
	if err != nil {
		return 0, err
	}
	from, err := optionalString(t, usermem.Addr(source))
	if err != nil {
		return 0, err
	}
	opts, err := mountData(t, data)
	if err != nil {
		return 0, err
	}
	if flags&mountMagicMask == mountMagic {
		flags &^= mountMagicMask
	}
	at, err := vfs.Resolve(t, t.FS().View(), path, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	if !mayMount(t) {
		return 0, unix.EPERM
	}
	ns := t.Namespaces().Mount
	switch {
	case flags&unix.MS_REMOUNT != 0:
		err = remount(ns, at, flags)
	case flags&unix.MS_BIND != 0:
		err = bindMount(t, ns, from, at, flags&unix.MS_REC != 0)
	case flags&propagation != 0:
		err = propagate(ns, at, flags)
	case flags&unix.MS_MOVE != 0:
		err = moveMount(t, ns, from, at)
	default:
		err = newMount(t, ns, fstype, from, at, flags, opts)
	}
	return 0, err
}

// mountFlags are the flags for a new mount.
func mountFlags(flags uint64) vfs.MountFlags {
	f := vfs.MountFlags(flags & keptFlags)
	if flags&(unix.MS_NOATIME|unix.MS_STRICTATIME) == 0 {
		f |= vfs.MountRelatime
	}
	if flags&unix.MS_STRICTATIME != 0 {
		f &^= vfs.MountNoAtime | vfs.MountRelatime
	}
	return f
}

// isTop reports whether p is the top of a mount of ns.
func isTop(ns *vfs.MountNamespace, p vfs.Path) bool {
	return p.Dentry == p.Mount.Root() && p.Mount.Namespace() == ns
}

func remount(ns *vfs.MountNamespace, at vfs.Path, flags uint64) error {
	if !isTop(ns, at) {
		return unix.EINVAL
	}
	f := mountFlags(flags)
	if flags&atimeFlags == 0 { // unchanged (mount(2))
		const keep = vfs.MountNoAtime | vfs.MountNoDirAtime | vfs.MountRelatime
		f = f&^keep | at.Mount.Flags()&keep
	}
	return at.Mount.Remount(f)
}

func bindMount(t *kernel.Task, ns *vfs.MountNamespace, from string, at vfs.Path, recursive bool) error {
	if from == "" {
		return unix.EINVAL
	}
	src, err := vfs.Resolve(t, t.FS().View(), from, vfs.FollowFinal)
	if err != nil {
		return err
	}
	if src.Mount.Namespace() != ns {
		return unix.EINVAL
	}
	_, err = ns.Bind(src, at, recursive)
	return err
}

// propagate takes a change of propagation for done: here all mounts are private
// already, and what is shared with nobody is as good as private.
func propagate(ns *vfs.MountNamespace, at vfs.Path, flags uint64) error {
	if !isTop(ns, at) {
		return unix.EINVAL
	}
	switch flags &^ (unix.MS_REC | unix.MS_SILENT) {
	case unix.MS_SHARED, unix.MS_PRIVATE, unix.MS_SLAVE, unix.MS_UNBINDABLE:
		return nil
	}
	return unix.EINVAL
}

func moveMount(t *kernel.Task, ns *vfs.MountNamespace, from string, at vfs.Path) error {
	if from == "" {
		return unix.EINVAL
	}
	src, err := vfs.Resolve(t, t.FS().View(), from, vfs.FollowFinal)
	if err != nil {
		return err
	}
	return ns.Move(src, at)
}

// userMountable are the types of file systems that a user namespace other than
// the first may mount (user_namespaces(7)).
var userMountable = map[string]bool{"tmpfs": true, "ramfs": true, "proc": true, "sysfs": true, "devpts": true, "mqueue": true}

func newMount(t *kernel.Task, ns *vfs.MountNamespace, fstype, source string, at vfs.Path, flags uint64, data string) error {
	if fstype == "" {
		return unix.EINVAL
	}
	f := mountFlags(flags)
	if ns.Owner != nil && ns.Owner != t.Kernel().RootUserNS {
		if !userMountable[fstype] {
			return unix.EPERM
		}
		f |= vfs.MountNoDev
	}
	fs, err := t.Kernel().NewFilesystem(t, fstype, source, data)
	if err != nil {
		return err
	}
	if source == "" {
		source = "none"
	}
	_, err = ns.MountAt(at, fs, source, f)
	return err
}

func umount2(t *kernel.Task, p call.PathPtr, flags uint32) (uint64, error) {
	if flags&^(unix.MNT_FORCE|unix.MNT_DETACH|unix.MNT_EXPIRE|unix.UMOUNT_NOFOLLOW) != 0 {
		return 0, unix.EINVAL
	}
	if !mayMount(t) {
		return 0, unix.EPERM
	}
	var walk vfs.WalkFlags
	if flags&unix.UMOUNT_NOFOLLOW == 0 {
		walk |= vfs.FollowFinal
	}
	at, err := call.CWD.Resolve(t, p, walk)
	if err != nil {
		return 0, err
	}
	ns := t.Namespaces().Mount
	if at = ns.Top(at); !isTop(ns, at) {
		return 0, unix.EINVAL
	}
	if flags&unix.MNT_FORCE != 0 && !t.Credentials().HasRootCap(unix.CAP_SYS_ADMIN) {
		return 0, unix.EPERM
	}
	lazy := flags&unix.MNT_DETACH != 0
	m := at.Mount
	if flags&unix.MNT_EXPIRE != 0 && (flags&(unix.MNT_FORCE|unix.MNT_DETACH) != 0 || m == t.FS().Root().Mount) {
		return 0, unix.EINVAL
	}
	if !lazy && t.Kernel().InUse(m) {
		return 0, unix.EBUSY
	}
	if flags&unix.MNT_EXPIRE != 0 {
		if m.Busy() {
			return 0, unix.EBUSY
		}
		if !m.MarkExpiring() {
			return 0, unix.EAGAIN
		}
	}
	return 0, ns.Unmount(at, lazy)
}

func pivotRoot(t *kernel.Task, newRoot, putOld call.PathPtr) (uint64, error) {
	if !mayMount(t) {
		return 0, unix.EPERM
	}
	n, err := call.CWD.Resolve(t, newRoot, vfs.FollowFinal|vfs.WantDirectory)
	if err != nil {
		return 0, err
	}
	old, err := call.CWD.Resolve(t, putOld, vfs.FollowFinal|vfs.WantDirectory)
	if err != nil {
		return 0, err
	}
	if n.Dentry.Deleted() {
		return 0, unix.ENOENT
	}
	root := t.FS().Root()
	if n.Mount == root.Mount || old.Mount == root.Mount {
		return 0, unix.EBUSY
	}
	// Both must be inside: the old root's new place below the new root, and
	// that below the old one.
	if _, ok := vfs.PathName(n, old); !ok {
		return 0, unix.EINVAL
	}
	if _, ok := vfs.PathName(root, n); !ok {
		return 0, unix.EINVAL
	}
	if err := t.Namespaces().Mount.PivotRoot(root, n, old); err != nil {
		return 0, err
	}
	t.Kernel().MoveRoots(root, n)
	return 0, nil
}

func setns(t *kernel.Task, fd call.FD, kind uint32) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	ns, ok := f.Impl().(kernel.NamespaceFile)
	if !ok {
		if ns, ok = f.Inode().(kernel.NamespaceFile); !ok {
			return 0, unix.EINVAL
		}
	}
	return 0, t.SetNamespace(ns.Namespace(), uint64(kind))
}
