package boot

import (
	"errors"
	"maps"
	"slices"

	"vitrine/pkg/control"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/proc"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/namespaces"
)

// namespace returns what the container asks of namespaces of a type, or nil where
// it uses the sandbox's.
func (c *container) namespace(t control.NamespaceType) *control.Namespace {
	for i := range c.args.Namespaces {
		if n := &c.args.Namespaces[i]; n.Type == t {
			return n
		}
	}
	return nil
}

// choose returns the namespace of a type that the container uses: the sandbox's,
// that of a container it joins, or one that fresh makes.
func choose[T any](c *container, t control.NamespaceType, sandbox T, joined func(*container) T, fresh func() (T, error)) (T, error) {
	n := c.namespace(t)
	switch {
	case n == nil:
		return sandbox, nil
	case n.Join == "":
		return fresh()
	}
	c.s.mu.Lock()
	other := c.s.containers[n.Join]
	c.s.mu.Unlock()
	if other == nil || other.ns == nil {
		var none T
		return none, failf(control.KindNotFound, "no container %s to share a namespace of type %s with", n.Join, t)
	}
	return joined(other), nil
}

// makeNamespaces makes or finds all but the mount namespace.
func (c *container) makeNamespaces() (err error) {
	k, own := c.s.k, c.s.ns
	c.user, err = choose(c, control.NamespaceUser, k.RootUserNS, func(o *container) *auth.UserNamespace { return o.user }, c.newUserNamespace)
	if err != nil {
		return err
	}
	if n := c.namespace(control.NamespaceUser); n != nil && n.Join != "" && (len(c.args.UIDMap) > 0 || len(c.args.GIDMap) > 0) {
		uids, gids := c.user.Maps()
		if !slices.Equal(uids, idMaps(c.args.UIDMap)) || !slices.Equal(gids, idMaps(c.args.GIDMap)) {
			return failf(control.KindInvalid, "linux.uidMappings and gidMappings are not those of the user namespace that is joined, container %s's", n.Join)
		}
	}
	ns := &kernel.Namespaces{}
	if ns.UTS, err = choose(c, control.NamespaceUTS, own.UTS, func(o *container) *namespaces.UTS { return o.ns.UTS }, func() (*namespaces.UTS, error) {
		host, domain := own.UTS.Names()
		return k.NewUTSNamespace(c.user, host, domain), nil
	}); err != nil {
		return err
	}
	if ns.IPC, err = choose(c, control.NamespaceIPC, own.IPC, func(o *container) *namespaces.IPC { return o.ns.IPC }, func() (*namespaces.IPC, error) {
		return k.NewIPCNamespace(c.user), nil
	}); err != nil {
		return err
	}
	if ns.Net, err = choose(c, control.NamespaceNetwork, own.Net, func(o *container) *namespaces.Net { return o.ns.Net }, func() (*namespaces.Net, error) {
		return k.NewNetNamespace(c.user, nil), nil
	}); err != nil {
		return err
	}
	if ns.PIDForChildren, err = choose(c, control.NamespacePID, own.PIDForChildren, func(o *container) *kernel.PIDNamespace { return o.ns.PIDForChildren }, func() (*kernel.PIDNamespace, error) {
		return k.NewPIDNamespace(k.RootPIDNS, c.user)
	}); err != nil {
		return err
	}
	if c.args.Hostname != "" {
		ns.UTS.SetHost(c.args.Hostname)
	}
	if c.args.Domainname != "" {
		ns.UTS.SetDomain(c.args.Domainname)
	}
	c.ns = ns
	c.cred = auth.NewRoot(k.RootUserNS)
	// What the Sentry makes in the container is its root's.
	if id, ok := c.user.KUID(0); ok {
		c.cred.FSUID = id
	}
	if id, ok := c.user.KGID(0); ok {
		c.cred.FSGID = id
	}
	return c.setSysctls()
}

func idMaps(rows []control.IDMap) (out []auth.IDMap) {
	for _, r := range rows {
		out = append(out, auth.IDMap{First: r.ContainerID, ParentFirst: r.HostID, Length: r.Size})
	}
	return out
}

// newUserNamespace makes one with the maps of the spec. Host ids are those of the
// sandbox, which are those of the files' owners on the host.
func (c *container) newUserNamespace() (*auth.UserNamespace, error) {
	ns, err := auth.NewRoot(c.s.k.RootUserNS).NewUserNamespace()
	if err != nil {
		return nil, err
	}
	if err := ns.SetUIDMap(idMaps(c.args.UIDMap)); err != nil {
		return nil, err
	}
	return ns, ns.SetGIDMap(idMaps(c.args.GIDMap))
}

// sysctlNamespaces says which namespace a setting belongs to.
var sysctlNamespaces = map[proc.NamespaceKind]control.NamespaceType{
	proc.UTSNamespace: control.NamespaceUTS, proc.IPCNamespace: control.NamespaceIPC, proc.NetNamespace: control.NamespaceNetwork,
}

// setSysctls sets linux.sysctl. A setting that is as asked already is fine,
// whoever it belongs to; a change needs a new namespace.
func (c *container) setSysctls() error {
	for _, name := range slices.Sorted(maps.Keys(c.args.Sysctls)) {
		value := c.args.Sysctls[name]
		if t, ok := sysctlNamespaces[proc.SysctlNamespace(name)]; ok && proc.SysctlDiffers(c.ns, name, value) {
			if n := c.namespace(t); n == nil || n.Join != "" {
				return failf(control.KindUnsupported, "linux.sysctl %s: a change needs a new namespace of type %s in linux.namespaces", name, t)
			}
		}
		if err := proc.SetSysctl(c.s.k, c.ns, name, value); err != nil {
			kind := control.KindInvalid
			if errors.Is(err, proc.ErrNoSysctl) || errors.Is(err, proc.ErrFixed) {
				kind = control.KindUnsupported
			}
			return failf(kind, "linux.sysctl %s=%s is not supported: %v", name, value, err)
		}
	}
	return nil
}
