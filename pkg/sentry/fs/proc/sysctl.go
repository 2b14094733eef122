package proc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/namespaces"
	"vitrine/pkg/sentry/vfs"
)

// sysctl is a setting that each namespace of some type has of its own. One
// description serves /proc/sys and the sysctls of a container's spec.
type sysctl struct {
	path string
	show func(n *kernel.Namespaces) string
	put  func(n *kernel.Namespaces, value string) error
	kind NamespaceKind
}

// NamespaceKind is the type of namespaces that a setting belongs to.
type NamespaceKind int

// Types of namespaces that have settings; NoNamespace is for those of the
// kernel as a whole.
const (
	NoNamespace NamespaceKind = iota
	UTSNamespace
	IPCNamespace
	NetNamespace
)

// owner is whose capabilities count for a change, and which.
func (k NamespaceKind) owner(n *kernel.Namespaces) (*auth.UserNamespace, int) {
	switch k {
	case IPCNamespace:
		return n.IPC.UserNS, unix.CAP_SYS_RESOURCE
	case NetNamespace:
		return n.Net.UserNS, unix.CAP_NET_ADMIN
	}
	return n.UTS.UserNS, unix.CAP_SYS_ADMIN
}

// name is a name of the machine; it is cut to 64 bytes, as Linux does.
func name(path string, get func(host, domain string) string, put func(ns *namespaces.UTS, name string)) sysctl {
	return sysctl{path: path, kind: UTSNamespace,
		show: func(n *kernel.Namespaces) string { return get(n.UTS.Names()) },
		put: func(n *kernel.Namespaces, v string) error {
			put(n.UTS, v[:min(len(v), 64)])
			return nil
		}}
}

// limit is a limit of System V IPC.
func limit(path string, numbers func(l *ipc.Limits) []any) sysctl {
	return sysctl{path: path, kind: IPCNamespace,
		show: func(n *kernel.Namespaces) string {
			l := n.IPC.SystemV().Limits()
			var words []string
			for _, v := range numbers(&l) {
				switch v := v.(type) {
				case *uint64:
					words = append(words, strconv.FormatUint(*v, 10))
				case *int:
					words = append(words, strconv.Itoa(*v))
				}
			}
			return strings.Join(words, "\t")
		},
		put: func(n *kernel.Namespaces, value string) error {
			l := n.IPC.SystemV().Limits()
			words := strings.Fields(value)
			places := numbers(&l)
			if len(words) != len(places) {
				return unix.EINVAL
			}
			for i, v := range places {
				var err error
				switch v := v.(type) {
				case *uint64:
					*v, err = strconv.ParseUint(words[i], 0, 64)
				case *int:
					var x int64
					x, err = strconv.ParseInt(words[i], 0, 32)
					*v = int(x)
				}
				if err != nil {
					return unix.EINVAL
				}
			}
			return n.IPC.SystemV().SetLimits(l)
		}}
}

// sysctls are the settings that namespaces have (namespaces(7), sysctl(8)).
var sysctls = []sysctl{
	name("kernel/hostname", func(host, _ string) string { return host }, (*namespaces.UTS).SetHost),
	name("kernel/domainname", func(_, domain string) string { return domain }, (*namespaces.UTS).SetDomain),
	limit("kernel/shmmax", func(l *ipc.Limits) []any { return []any{&l.SegmentSize} }),
	limit("kernel/shmall", func(l *ipc.Limits) []any { return []any{&l.SegmentPages} }),
	limit("kernel/shmmni", func(l *ipc.Limits) []any { return []any{&l.Segments} }),
	limit("kernel/shm_rmid_forced", func(l *ipc.Limits) []any { return []any{&l.ForceRemove} }),
	limit("kernel/msgmax", func(l *ipc.Limits) []any { return []any{&l.Message} }),
	limit("kernel/msgmnb", func(l *ipc.Limits) []any { return []any{&l.QueueBytes} }),
	limit("kernel/msgmni", func(l *ipc.Limits) []any { return []any{&l.Queues} }),
	limit("kernel/sem", func(l *ipc.Limits) []any { return []any{&l.PerSet, &l.Semaphores, &l.Operations, &l.Sets} }),
	{path: "net/ipv4/ip_unprivileged_port_start", kind: NetNamespace,
		show: func(n *kernel.Namespaces) string { return strconv.Itoa(int(n.Net.UnprivilegedPort())) },
		put: func(n *kernel.Namespaces, v string) error {
			port, err := strconv.ParseUint(strings.TrimSpace(v), 0, 16)
			if err != nil {
				return unix.EINVAL
			}
			n.Net.SetUnprivilegedPort(uint16(port))
			return nil
		}},
	{path: "net/ipv4/ping_group_range", kind: NetNamespace,
		show: func(n *kernel.Namespaces) string {
			low, high := n.Net.PingGroups()
			return fmt.Sprintf("%d\t%d", low, high)
		},
		put: func(n *kernel.Namespaces, v string) error {
			words := strings.Fields(v)
			if len(words) != 2 {
				return unix.EINVAL
			}
			// ip-sysctl.rst: group ids, the last of which Linux knows is 2^31-1.
			low, err := strconv.ParseUint(words[0], 0, 31)
			high, err2 := strconv.ParseUint(words[1], 0, 31)
			if err != nil || err2 != nil {
				return unix.EINVAL
			}
			n.Net.SetPingGroups(uint32(low), uint32(high))
			return nil
		}},
}

// setting is the file of /proc/sys, which is about the reader's namespaces.
func (s *sysctl) setting() setting {
	return setting{path: s.path,
		get: func(p *procfs, ctx vfs.Context) string {
			if n := p.namespaces(ctx); n != nil {
				return s.show(n)
			}
			return "(none)"
		},
		set: func(p *procfs, ctx vfs.Context, value string) error {
			n := p.namespaces(ctx)
			if n == nil {
				return unix.EPERM
			}
			if owner, capability := s.kind.owner(n); !ctx.Credentials().HasCapIn(capability, owner) {
				return unix.EPERM
			}
			return s.put(n, value)
		}}
}

// namespaces are those of the reader, or nil.
func (p *procfs) namespaces(ctx vfs.Context) *kernel.Namespaces {
	if t := p.callerTask(ctx); t != nil {
		return t.Namespaces()
	}
	return nil
}

// Errors of SetSysctl.
var (
	ErrNoSysctl = errors.New("there is no such setting in /proc/sys")
	ErrFixed    = errors.New("the setting can't be changed")
)

// find returns the setting of namespaces with a dotted name (sysctl(8)), or nil.
func find(dotted string) *sysctl {
	path := strings.ReplaceAll(dotted, ".", "/")
	for i := range sysctls {
		if sysctls[i].path == path {
			return &sysctls[i]
		}
	}
	return nil
}

// SysctlNamespace returns the type of namespaces that the setting with a dotted
// name belongs to.
func SysctlNamespace(dotted string) NamespaceKind {
	if s := find(dotted); s != nil {
		return s.kind
	}
	return NoNamespace
}

// SysctlDiffers reports whether a setting of namespaces is something else than
// value in n.
func SysctlDiffers(n *kernel.Namespaces, dotted, value string) bool {
	s := find(dotted)
	return s != nil && !same(s.show(n), value)
}

// SetSysctl sets the setting with a dotted name in n, for a container that doesn't
// run yet. A setting that can't be changed may be set to what it is.
func SetSysctl(k *kernel.Kernel, n *kernel.Namespaces, dotted, value string) error {
	if s := find(dotted); s != nil {
		if err := s.put(n, value); err != nil {
			return fmt.Errorf("%q is out of bounds: %w", value, err)
		}
		return nil
	}
	path := strings.ReplaceAll(dotted, ".", "/")
	for i := range settings {
		if s := &settings[i]; s.path == path {
			if now := s.get(&procfs{k: k}, vfs.KernelContext(auth.NewRoot(k.RootUserNS))); !same(now, value) {
				return fmt.Errorf("%w: it is %q", ErrFixed, now)
			}
			return nil
		}
	}
	return ErrNoSysctl
}

// same compares values word by word: engines separate them by spaces, Linux by
// tabs.
func same(a, b string) bool {
	return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
}
