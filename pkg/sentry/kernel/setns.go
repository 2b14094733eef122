package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
)

// NamespaceFile is what a file of /proc/PID/ns is: its open file, or its inode.
// Namespace returns a *UTSNamespace, *IPCNamespace, *NetNamespace,
// *PIDNamespace, *vfs.MountNamespace or *auth.UserNamespace, or nil for the one
// cgroup namespace there is.
type NamespaceFile interface{ Namespace() any }

// SetNamespace does setns(2): the task enters ns, of a type that NamespaceFile
// returns. kind is the CLONE_NEW* flag it must be, or zero.
func (t *Task) SetNamespace(ns any, kind uint64) error {
	is := func(flag uint64) bool { return kind == 0 || kind == flag }
	n := *t.namespaces
	// admin: the caller needs CAP_SYS_ADMIN in the namespace's owner, and in
	// its own user namespace.
	admin := func(owner *auth.UserNamespace) bool {
		c := t.Credentials()
		if owner == nil {
			owner = t.k.RootUserNS
		}
		return c.HasCap(unix.CAP_SYS_ADMIN) && c.HasCapIn(unix.CAP_SYS_ADMIN, owner)
	}
	switch ns := ns.(type) {
	case *UTSNamespace:
		if !is(unix.CLONE_NEWUTS) {
			return unix.EINVAL
		}
		if !admin(ns.UserNS) {
			return unix.EPERM
		}
		n.UTS = ns
	case *IPCNamespace:
		if !is(unix.CLONE_NEWIPC) {
			return unix.EINVAL
		}
		if !admin(ns.UserNS) {
			return unix.EPERM
		}
		n.IPC = ns
	case *NetNamespace:
		if !is(unix.CLONE_NEWNET) {
			return unix.EINVAL
		}
		if !admin(ns.UserNS) {
			return unix.EPERM
		}
		n.Net = ns
	case *PIDNamespace:
		if !is(unix.CLONE_NEWPID) {
			return unix.EINVAL
		}
		if !admin(ns.UserNS) {
			return unix.EPERM
		}
		// Downwards only: children don't get out of their namespace.
		if !t.ids.ns.Contains(ns) {
			return unix.EINVAL
		}
		n.PIDForChildren = ns
	case *vfs.MountNamespace:
		if !is(unix.CLONE_NEWNS) {
			return unix.EINVAL
		}
		return t.setMountNamespace(ns, admin)
	case *auth.UserNamespace:
		if !is(unix.CLONE_NEWUSER) {
			return unix.EINVAL
		}
		return t.setUserNamespace(ns)
	case nil:
		if !is(unix.CLONE_NEWCGROUP) {
			return unix.EINVAL
		}
		if !admin(t.k.RootUserNS) {
			return unix.EPERM
		}
		return nil
	default:
		return unix.EINVAL
	}
	t.SetNamespaces(&n)
	return nil
}

func (t *Task) setMountNamespace(ns *vfs.MountNamespace, admin func(*auth.UserNamespace) bool) error {
	if !admin(ns.Owner) || !t.Credentials().HasCap(unix.CAP_SYS_CHROOT) {
		return unix.EPERM
	}
	if t.sharesFS() {
		return unix.EINVAL
	}
	n := *t.namespaces
	n.Mount = ns
	root := ns.Root()
	t.fs.SetRoot(root)
	t.fs.SetCwd(root)
	t.SetNamespaces(&n)
	return nil
}

func (t *Task) setUserNamespace(ns *auth.UserNamespace) error {
	c := t.Credentials()
	// Entering one's own would bring dropped capabilities back.
	if ns == c.UserNS || len(t.tg.Tasks()) > 1 || t.sharesFS() {
		return unix.EINVAL
	}
	if !c.HasCapIn(unix.CAP_SYS_ADMIN, ns) {
		return unix.EPERM
	}
	t.SetCredentials(enterUserNS(c, ns))
	return nil
}

// sharesFS reports whether another task has the same root and working
// directory (CLONE_FS).
func (t *Task) sharesFS() bool {
	for _, o := range t.k.RootPIDNS.Tasks() {
		if o != t && o.FS() == t.fs {
			return true
		}
	}
	return false
}

// MoveRoots replaces old by new wherever a task has it as its root or working
// directory (pivot_root(2)).
func (k *Kernel) MoveRoots(old, new vfs.Path) {
	for _, t := range k.RootPIDNS.Tasks() {
		if fs := t.FS(); fs != nil {
			fs.Move(func(p vfs.Path) vfs.Path {
				if p == old {
					return new
				}
				return p
			})
		}
	}
}

// InUse reports whether a task has its root or working directory in m.
func (k *Kernel) InUse(m *vfs.Mount) bool {
	for _, t := range k.RootPIDNS.Tasks() {
		if fs := t.FS(); fs != nil && (fs.Root().Mount == m || fs.Cwd().Mount == m) {
			return true
		}
	}
	return false
}
