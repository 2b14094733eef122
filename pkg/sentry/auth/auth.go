// Package auth holds what decides whether a task may do a thing: user and group
// ids, capabilities and user namespaces (credentials(7), capabilities(7),
// user_namespaces(7)).
//
// Credentials are immutable once shared: who wants others makes a copy with
// Fork, changes it and puts it in place. A UserNamespace's maps are set once.
package auth

import (
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memfile"
)

// KUID and KGID are ids in the root user namespace of the sandbox. What an
// application sees are UIDs and GIDs in its namespace.
type (
	KUID uint32
	KGID uint32
)

// RootKUID and RootKGID are the superuser of the sandbox; NoID stands for no
// id, as -1 does in setresuid(2); Overflow is shown for ids without a mapping.
const (
	RootKUID KUID   = 0
	RootKGID KGID   = 0
	NoID     uint32 = ^uint32(0)
	Overflow uint32 = 65534
)

// CapSet is a set of capabilities: bit n is capability number n.
type CapSet uint64

// LastCap is the highest capability of Linux 4.4: CAP_AUDIT_READ.
const LastCap = unix.CAP_AUDIT_READ

// AllCaps is every capability there is.
const AllCaps CapSet = 1<<(LastCap+1) - 1

// CapOf returns the set of one capability.
func CapOf(c int) CapSet { return 1 << c }

// Has reports whether c is in s.
func (s CapSet) Has(c int) bool { return s&(1<<c) != 0 }

// IDMap is one line of /proc/PID/uid_map.
type IDMap struct{ First, ParentFirst, Length uint32 }

// UserNamespace maps ids and is what capabilities count in. Safe for
// concurrent use.
type UserNamespace struct {
	Parent *UserNamespace
	Owner  KUID
	Level  int

	mu         locks.Mutex[locks.Leaf]
	uids, gids []IDMap // set once, in terms of the root namespace's ids when used
	// SetgroupsDenied is the state of /proc/PID/setgroups.
	setgroupsDenied bool
	inode           uint64
}

// NewRootUserNamespace returns the first user namespace: all ids map to
// themselves.
func NewRootUserNamespace() *UserNamespace {
	all := []IDMap{{0, 0, NoID}}
	return &UserNamespace{uids: all, gids: slices.Clone(all)}
}

// Inode returns the number that /proc/PID/ns/user shows: what next returns the
// first time.
func (ns *UserNamespace) Inode(next func() uint64) uint64 {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.inode == 0 {
		ns.inode = next()
	}
	return ns.inode
}

// Maps returns the uid and gid maps, in terms of the parent namespace.
func (ns *UserNamespace) Maps() (uids, gids []IDMap) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.uids, ns.gids
}

// SetUIDMap sets the uid map, once (EPERM after that).
func (ns *UserNamespace) SetUIDMap(m []IDMap) error { return ns.setMap(&ns.uids, m) }

// SetGIDMap sets the gid map, once.
func (ns *UserNamespace) SetGIDMap(m []IDMap) error { return ns.setMap(&ns.gids, m) }

func (ns *UserNamespace) setMap(dst *[]IDMap, m []IDMap) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if *dst != nil {
		return unix.EPERM
	}
	*dst = slices.Clone(m)
	return nil
}

// SetgroupsDenied reports whether setgroups(2) is off.
func (ns *UserNamespace) SetgroupsDenied() bool {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.setgroupsDenied
}

// DenySetgroups turns setgroups(2) off; EPERM once a gid map is set.
func (ns *UserNamespace) DenySetgroups() error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.gids != nil && !ns.setgroupsDenied {
		return unix.EPERM
	}
	ns.setgroupsDenied = true
	return nil
}

func toParent(m []IDMap, id uint32) (uint32, bool) {
	for _, r := range m {
		if id >= r.First && id-r.First < r.Length {
			return r.ParentFirst + (id - r.First), true
		}
	}
	return NoID, false
}

func fromParent(m []IDMap, id uint32) (uint32, bool) {
	for _, r := range m {
		if id >= r.ParentFirst && id-r.ParentFirst < r.Length {
			return r.First + (id - r.ParentFirst), true
		}
	}
	return NoID, false
}

func (ns *UserNamespace) toRoot(id uint32, gid bool) (uint32, bool) {
	for n := ns; n.Parent != nil; n = n.Parent {
		u, g := n.Maps()
		if gid {
			u = g
		}
		var ok bool
		if id, ok = toParent(u, id); !ok {
			return NoID, false
		}
	}
	return id, id != NoID
}

func (ns *UserNamespace) fromRoot(id uint32, gid bool) (uint32, bool) {
	if ns.Parent == nil {
		return id, id != NoID
	}
	id, ok := ns.Parent.fromRoot(id, gid)
	if !ok {
		return NoID, false
	}
	u, g := ns.Maps()
	if gid {
		u = g
	}
	return fromParent(u, id)
}

// KUID returns the id behind uid in ns.
func (ns *UserNamespace) KUID(uid uint32) (KUID, bool) {
	id, ok := ns.toRoot(uid, false)
	return KUID(id), ok
}

// KGID returns the id behind gid in ns.
func (ns *UserNamespace) KGID(gid uint32) (KGID, bool) {
	id, ok := ns.toRoot(gid, true)
	return KGID(id), ok
}

// UID returns how ns shows k: its uid, or Overflow.
func (ns *UserNamespace) UID(k KUID) uint32 {
	if ns.Parent == nil {
		return uint32(k)
	}
	if id, ok := ns.fromRoot(uint32(k), false); ok {
		return id
	}
	return Overflow
}

// GID returns how ns shows k.
func (ns *UserNamespace) GID(k KGID) uint32 {
	if ns.Parent == nil {
		return uint32(k)
	}
	if id, ok := ns.fromRoot(uint32(k), true); ok {
		return id
	}
	return Overflow
}

// MapsUID reports whether k has a uid in ns.
func (ns *UserNamespace) MapsUID(k KUID) bool { _, ok := ns.fromRoot(uint32(k), false); return ok }

// MapsGID reports whether k has a gid in ns.
func (ns *UserNamespace) MapsGID(k KGID) bool { _, ok := ns.fromRoot(uint32(k), true); return ok }

// Credentials are a task's ids and capabilities.
type Credentials struct {
	RUID, EUID, SUID, FSUID KUID
	RGID, EGID, SGID, FSGID KGID
	Groups                  []KGID // sorted; not modified in place

	Permitted, Inheritable, Effective, Bounding, Ambient CapSet

	SecureBits uint32
	NoNewPrivs bool
	UserNS     *UserNamespace
	// Account pays for what is made with these credentials; nil: nobody does.
	Account *memfile.Account
}

// NewRoot returns the superuser's credentials in ns.
func NewRoot(ns *UserNamespace) *Credentials {
	return &Credentials{Permitted: AllCaps, Effective: AllCaps, Bounding: AllCaps, UserNS: ns}
}

// Fork returns a copy to be changed.
func (c *Credentials) Fork() *Credentials {
	n := *c
	return &n
}

// userNamespaceCost is what a user namespace is charged as, in bytes.
const userNamespaceCost = 1024

// NewUserNamespace returns a namespace below c's, which c owns and pays for:
// EUSERS where there are 32 levels, ENOMEM. It has no id maps yet.
func (c *Credentials) NewUserNamespace() (*UserNamespace, error) {
	if c.UserNS.Level >= 32 {
		return nil, unix.EUSERS
	}
	ns := &UserNamespace{Parent: c.UserNS, Owner: c.EUID, Level: c.UserNS.Level + 1}
	if err := memfile.ChargeFor(c.Account, ns, userNamespaceCost); err != nil {
		return nil, err
	}
	return ns, nil
}

// NoMoreThan reports whether who has c may do nothing that somebody with o
// may not: the ids are the same, and no capability is new.
func (c *Credentials) NoMoreThan(o *Credentials) bool {
	return c.RUID == o.RUID && c.EUID == o.EUID && c.SUID == o.SUID && c.FSUID == o.FSUID &&
		c.RGID == o.RGID && c.EGID == o.EGID && c.SGID == o.SGID && c.FSGID == o.FSGID &&
		slices.Equal(c.Groups, o.Groups) && c.UserNS == o.UserNS &&
		c.Permitted&^o.Permitted == 0 && c.Effective&^o.Permitted == 0
}

// InGroup reports whether g is the file-system group or a supplementary one.
func (c *Credentials) InGroup(g KGID) bool {
	if c.FSGID == g {
		return true
	}
	_, ok := slices.BinarySearch(c.Groups, g)
	return ok
}

// InEffectiveGroup reports whether g is the effective or a supplementary group.
func (c *Credentials) InEffectiveGroup(g KGID) bool {
	if c.EGID == g {
		return true
	}
	_, ok := slices.BinarySearch(c.Groups, g)
	return ok
}

// HasCap reports whether c has capability cp in its own user namespace.
func (c *Credentials) HasCap(cp int) bool { return c.Effective.Has(cp) }

// HasCapIn reports whether c has capability cp in ns (user_namespaces(7),
// "Capabilities").
func (c *Credentials) HasCapIn(cp int, ns *UserNamespace) bool {
	for n := ns; ; n = n.Parent {
		if n == c.UserNS {
			return c.Effective.Has(cp)
		}
		if n == nil || n.Parent == nil {
			return false
		}
		if n.Parent == c.UserNS && n.Owner == c.EUID {
			return true
		}
	}
}

// HasRootCap reports whether c has cp in the sandbox's first user namespace:
// what global settings ask for.
func (c *Credentials) HasRootCap(cp int) bool {
	return c.UserNS.Parent == nil && c.Effective.Has(cp)
}

// HasCapOverFile reports whether cp counts for a file owned by uid and gid
// (capable_wrt_inode_uidgid): both must be mapped in the caller's namespace.
func (c *Credentials) HasCapOverFile(cp int, uid KUID, gid KGID) bool {
	if !c.Effective.Has(cp) {
		return false
	}
	return c.UserNS.Parent == nil || c.UserNS.MapsUID(uid) && c.UserNS.MapsGID(gid)
}

// Secure-bits of capabilities(7).
const (
	SecbitNoRoot              = 1 << 0
	SecbitNoRootLocked        = 1 << 1
	SecbitNoSetuidFixup       = 1 << 2
	SecbitNoSetuidFixupLocked = 1 << 3
	SecbitKeepCaps            = 1 << 4
	SecbitKeepCapsLocked      = 1 << 5
	SecbitNoCapAmbientRaise   = 1 << 6
	SecbitNoCapAmbientLocked  = 1 << 7
	SecbitsAll                = 1<<8 - 1
)

// fsCaps are lost and won with the file-system uid (capabilities(7), "Effect of
// user ID changes on capabilities", rule 4).
const fsCaps CapSet = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD | 1<<unix.CAP_MAC_OVERRIDE

// FixupUIDs adjusts the capabilities of c, in which the uids were just set,
// for a change from old (capabilities(7), rules 1 to 4).
func (c *Credentials) FixupUIDs(old *Credentials) {
	if c.SecureBits&SecbitNoSetuidFixup != 0 {
		return
	}
	root, _ := c.UserNS.KUID(0)
	hadRoot := old.RUID == root || old.EUID == root || old.SUID == root
	hasRoot := c.RUID == root || c.EUID == root || c.SUID == root
	if hadRoot && !hasRoot {
		if c.SecureBits&SecbitKeepCaps == 0 {
			c.Permitted, c.Effective = 0, 0
		}
		c.Ambient = 0
	}
	if old.EUID == root && c.EUID != root {
		c.Effective = 0
	}
	if old.EUID != root && c.EUID == root {
		c.Effective = c.Permitted
	}
	c.fixupFSUID(old, root)
}

// FixupFSUID adjusts the capabilities after setfsuid(2).
func (c *Credentials) FixupFSUID(old *Credentials) {
	if c.SecureBits&SecbitNoSetuidFixup != 0 {
		return
	}
	root, _ := c.UserNS.KUID(0)
	c.fixupFSUID(old, root)
}

func (c *Credentials) fixupFSUID(old *Credentials, root KUID) {
	if old.FSUID == root && c.FSUID != root {
		c.Effective &^= fsCaps
	}
	if old.FSUID != root && c.FSUID == root {
		c.Effective |= c.Permitted & fsCaps
	}
}
