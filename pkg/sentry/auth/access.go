package auth

import "golang.org/x/sys/unix"

// What credentials allow a process to do to another.

// AccessIDs says which ids and capabilities of a caller count when it looks into
// another process.
type AccessIDs uint8

const (
	// RealIDs: the real ids and the permitted capabilities, for system calls
	// (PTRACE_MODE_REALCREDS).
	RealIDs AccessIDs = iota
	// FSIDs: the file-system ids and the effective capabilities, for files of
	// /proc (PTRACE_MODE_FSCREDS).
	FSIDs
)

// MayAccess decides whether a caller with c may look into a process with v, or attach
// to it (ptrace(2), "Ptrace access mode checking"). dumpable reports whether the
// process lets others look into it at all; it is asked last.
func (c *Credentials) MayAccess(v *Credentials, ids AccessIDs, dumpable func() bool) bool {
	if c.HasCapIn(unix.CAP_SYS_PTRACE, v.UserNS) {
		return true
	}
	uid, gid, able := c.RUID, c.RGID, c.Permitted
	if ids == FSIDs {
		uid, gid, able = c.FSUID, c.FSGID, c.Effective
	}
	return uid == v.EUID && uid == v.SUID && uid == v.RUID && gid == v.EGID && gid == v.SGID && gid == v.RGID &&
		c.UserNS == v.UserNS && v.Permitted&^able == 0 && dumpable()
}

// MaySignal decides whether a sender with c may send a process with v any signal
// (kill(2)).
func (c *Credentials) MaySignal(v *Credentials) bool {
	return c.UserNS == v.UserNS && (c.EUID == v.SUID || c.EUID == v.RUID || c.RUID == v.SUID || c.RUID == v.RUID) ||
		c.HasCapIn(unix.CAP_KILL, v.UserNS)
}

// Enter returns c as it is in ns, of which it becomes a member: all capabilities there.
func (c *Credentials) Enter(ns *UserNamespace) *Credentials {
	n := c.Fork()
	n.UserNS = ns
	n.Permitted, n.Effective, n.Bounding = AllCaps, AllCaps, AllCaps
	n.Inheritable, n.Ambient, n.SecureBits = 0, 0, 0
	return n
}
