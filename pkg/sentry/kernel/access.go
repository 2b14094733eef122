package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
)

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

// AccessibleTo decides whether a caller with credentials c may look into t or
// attach to it (ptrace(2), "Ptrace access mode checking"). A thread of t's own
// process may; caller is nil for who is no process. Which error a refusal is,
// EPERM or EACCES, is for who asks.
func (t *Task) AccessibleTo(caller *ThreadGroup, c *auth.Credentials, ids AccessIDs) bool {
	if caller == t.tg {
		return true
	}
	v := t.Credentials()
	if c.HasCapIn(unix.CAP_SYS_PTRACE, v.UserNS) {
		return true
	}
	uid, gid, able := c.RUID, c.RGID, c.Permitted
	if ids == FSIDs {
		uid, gid, able = c.FSUID, c.FSGID, c.Effective
	}
	if uid != v.EUID || uid != v.SUID || uid != v.RUID || gid != v.EGID || gid != v.SGID || gid != v.RGID {
		return false
	}
	if m := t.SharedMM(); m != nil {
		dumpable := m.Dumpable()
		m.DecUsers()
		if dumpable != 1 {
			return false
		}
	}
	return c.UserNS == v.UserNS && v.Permitted&^able == 0
}
