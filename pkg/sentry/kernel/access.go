package kernel

import "vitrine/pkg/sentry/auth"

// AccessibleTo decides whether a caller with credentials c may look into t or
// attach to it (auth.Credentials.MayAccess). A thread of t's own process may; caller is
// nil for who is no process. Which error a refusal is, EPERM or EACCES, is for who asks.
func (t *Task) AccessibleTo(caller *ThreadGroup, c *auth.Credentials, ids auth.AccessIDs) bool {
	return caller == t.tg || c.MayAccess(t.Credentials(), ids, t.dumpable)
}

// dumpable reports whether prctl(PR_SET_DUMPABLE) and execve(2) have left the task's
// memory open to its user; what has ended has none to hide.
func (t *Task) dumpable() bool {
	m := t.SharedMM()
	if m == nil {
		return true
	}
	defer m.DecUsers()
	return m.Dumpable() == 1
}
