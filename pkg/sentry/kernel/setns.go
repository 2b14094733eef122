package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/namespaces"
	"vitrine/pkg/sentry/vfs"
)

// NamespaceFile is what a file of /proc/PID/ns is: its open file, or its inode.
// Namespace returns a *namespaces.UTS, *namespaces.IPC, *namespaces.Net,
// *PIDNamespace, *vfs.MountNamespace or *auth.UserNamespace, or nil for the one
// cgroup namespace there is.
type NamespaceFile interface{ Namespace() any }

// SetNamespace does setns(2): the task enters ns, of a type that NamespaceFile
// returns. kind is the CLONE_NEW* flag it must be, or zero.
func (t *Task) SetNamespace(ns any, kind uint64) error {
	// What it is, whose capabilities count, and what entering it is.
	var is uint64
	var owner *auth.UserNamespace
	var enter func(n *Namespaces) error
	switch ns := ns.(type) {
	case *namespaces.UTS:
		is, owner, enter = unix.CLONE_NEWUTS, ns.UserNS, func(n *Namespaces) error { n.UTS = ns; return nil }
	case *namespaces.IPC:
		is, owner, enter = unix.CLONE_NEWIPC, ns.UserNS, func(n *Namespaces) error { n.IPC = ns; return nil }
	case *namespaces.Net:
		is, owner, enter = unix.CLONE_NEWNET, ns.UserNS, func(n *Namespaces) error { n.Net = ns; return nil }
	case *PIDNamespace:
		is, owner, enter = unix.CLONE_NEWPID, ns.UserNS, func(n *Namespaces) error { return t.enterPID(n, ns) }
	case *vfs.MountNamespace:
		is, owner, enter = unix.CLONE_NEWNS, ns.Owner, func(n *Namespaces) error { return t.enterMount(n, ns) }
	case *auth.UserNamespace:
		if kind != 0 && kind != unix.CLONE_NEWUSER {
			return unix.EINVAL
		}
		return t.setUserNamespace(ns)
	case nil:
		is, enter = unix.CLONE_NEWCGROUP, func(*Namespaces) error { return nil }
	default:
		return unix.EINVAL
	}
	if kind != 0 && kind != is {
		return unix.EINVAL
	}
	if owner == nil {
		owner = t.k.RootUserNS
	}
	if c := t.Credentials(); !c.HasCap(unix.CAP_SYS_ADMIN) || !c.HasCapIn(unix.CAP_SYS_ADMIN, owner) {
		return unix.EPERM
	}
	n := *t.namespaces
	if err := enter(&n); err != nil {
		return err
	}
	t.SetNamespaces(&n)
	return nil
}

// enterPID makes ns the one of children that are still to be born: downwards
// only, for they don't get out of their namespace.
func (t *Task) enterPID(n *Namespaces, ns *PIDNamespace) error {
	if !t.ids.NS.Contains(ns) {
		return unix.EINVAL
	}
	n.PIDForChildren = ns
	return nil
}

func (t *Task) enterMount(n *Namespaces, ns *vfs.MountNamespace) error {
	if !t.Credentials().HasCap(unix.CAP_SYS_CHROOT) {
		return unix.EPERM
	}
	if t.sharesFS() {
		return unix.EINVAL
	}
	n.Mount = ns
	root := ns.Root()
	t.fs.SetRoot(root)
	t.fs.SetCwd(root)
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
	t.SetCredentials(c.Enter(ns))
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
