// Package namespaces has the kinds of namespaces that hold things (namespaces(7)):
// the names of the machine (UTS), the objects of System V IPC and message queues
// (IPC), and what belongs to a network (Net). Mounts, users and tasks have theirs in
// vfs, auth and pids, with what they number.
//
// UserNS and Inode of each are constant: whose capabilities count in it, and what
// /proc/PID/ns shows. All methods are safe for concurrent use; the locks are leaves,
// but for what Object's make takes.
package namespaces

import (
	"sync/atomic"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/socket"
)

// UTS holds the names of the machine (uts_namespaces(7)).
type UTS struct {
	UserNS *auth.UserNamespace
	Inode  uint64

	mu           locks.Mutex[locks.Leaf]
	host, domain string
}

// NewUTS returns a namespace with names.
func NewUTS(user *auth.UserNamespace, inode uint64, host, domain string) *UTS {
	return &UTS{UserNS: user, Inode: inode, host: host, domain: domain}
}

// Names returns the host and domain names.
func (ns *UTS) Names() (host, domain string) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.host, ns.domain
}

// SetHost sets the host name.
func (ns *UTS) SetHost(s string) { ns.mu.Lock(); ns.host = s; ns.mu.Unlock() }

// SetDomain sets the domain name.
func (ns *UTS) SetDomain(s string) { ns.mu.Lock(); ns.domain = s; ns.mu.Unlock() }

// IPC holds System V IPC objects and message queues
// (ipc_namespaces(7)). What they are is for the packages that own them.
type IPC struct {
	UserNS  *auth.UserNamespace
	Inode   uint64
	tasks   atomic.Int64 // that are in it
	mu      locks.Mutex[locks.Leaf]
	objects map[any]any
}

// Enter counts a task in. ns may be nil.
func (ns *IPC) Enter() {
	if ns != nil {
		ns.tasks.Add(1)
	}
}

// Leave counts a task out; with the last one go the objects.
func (ns *IPC) Leave() {
	if ns == nil || ns.tasks.Add(-1) != 0 {
		return
	}
	ns.mu.Lock()
	v := ns.objects[systemV{}]
	delete(ns.objects, systemV{})
	ns.mu.Unlock()
	if v != nil {
		v.(*ipc.Namespace).Destroy()
	}
}

// ProcessEnds tells what there is of System V IPC that a process has ended.
func (ns *IPC) ProcessEnds(process any) {
	ns.mu.Lock()
	v := ns.objects[systemV{}]
	ns.mu.Unlock()
	if v != nil {
		v.(*ipc.Namespace).CreatorEnds(process)
	}
}

// NewIPC returns an empty namespace.
func NewIPC(user *auth.UserNamespace, inode uint64) *IPC {
	return &IPC{UserNS: user, Inode: inode}
}

// Object returns what is stored under key, after storing what make returns if
// there is nothing.
func (ns *IPC) Object(key any, make func() any) any {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	v := ns.objects[key]
	if v == nil {
		v = make()
		if ns.objects == nil {
			ns.objects = map[any]any{}
		}
		ns.objects[key] = v
	}
	return v
}

// SystemV returns the System V objects of the namespace.
func (ns *IPC) SystemV() *ipc.Namespace {
	return ns.Object(systemV{}, func() any { return ipc.NewNamespace() }).(*ipc.Namespace)
}

type systemV struct{}

// Net is a network namespace (network_namespaces(7)): its stack is
// put in by the network packages.
type Net struct {
	UserNS *auth.UserNamespace
	Inode  uint64
	Stack  any
	// Sockets is where families of sockets keep what belongs to a namespace.
	Sockets socket.Namespace

	// privileged is how many ports from 0 on need CAP_NET_BIND_SERVICE.
	privileged atomic.Int32
	// pingGroups are the first and the last group that may make ICMP sockets,
	// the last in the high half (icmp(7)).
	pingGroups atomic.Uint64
}

// NewNet returns a namespace with stack, which may be nil.
func NewNet(user *auth.UserNamespace, inode uint64, stack any) *Net {
	ns := &Net{UserNS: user, Inode: inode, Stack: stack}
	ns.SetUnprivilegedPort(1024)
	ns.SetPingGroups(1, 0) // none
	return ns
}

// UnprivilegedPort is the first port that anybody may bind
// (net.ipv4.ip_unprivileged_port_start, ip(7)).
func (ns *Net) UnprivilegedPort() uint16 { return uint16(ns.privileged.Load()) }

// SetUnprivilegedPort sets it.
func (ns *Net) SetUnprivilegedPort(port uint16) { ns.privileged.Store(int32(port)) }

// PingGroups are the first and last group that may make sockets for echo requests
// without privileges; none if the first is the higher one
// (net.ipv4.ping_group_range, icmp(7)).
func (ns *Net) PingGroups() (first, last uint32) {
	v := ns.pingGroups.Load()
	return uint32(v), uint32(v >> 32)
}

// SetPingGroups sets them.
func (ns *Net) SetPingGroups(first, last uint32) {
	ns.pingGroups.Store(uint64(last)<<32 | uint64(first))
}
