package kernel

import (
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/platform"
)

// What a task is told by calls that its platform may answer (platform.Answerer):
// who it is, and what the time is. Only the task itself changes the former, between
// two runs of application code, so it is enough to look before each; but for its
// parent, of which adopted tells. Where somebody wants to see each call, or has it
// decided, nothing is answered.

// answers is what the platform answers; only the task's goroutine uses it.
type answers struct {
	platform platform.Answerer // nil: it doesn't
	// What the last answers were made from.
	told  bool
	creds *auth.Credentials
	id    int32 // in the first namespace: execve(2) may change it
	// adoptions is that of the thread group.
	adoptions uint32
}

// answer brings the platform's answers up to date.
func (t *Task) answer() {
	a := &t.answers
	if a.platform == nil {
		return
	}
	if t.hooks.Load()&hooksSyscall != 0 || t.k.Trace != nil {
		if a.told {
			a.told = false
			a.platform.Answer(nil)
		}
		return
	}
	creds, id, adoptions := t.creds.Load(), t.ids.Root(), t.tg.adoptions.Load()
	if a.told && a.creds == creds && a.id == id && a.adoptions == adoptions {
		return
	}
	a.told, a.creds, a.id, a.adoptions = true, creds, id, adoptions
	n := &platform.Answers{
		PID: uint32(t.tg.ID(t.ids.NS)), TID: uint32(t.ids.In(t.ids.NS)), PPID: uint32(t.ParentID()),
		UID: platform.NoAnswer, EUID: platform.NoAnswer, GID: platform.NoAnswer, EGID: platform.NoAnswer,
		Clocks: true,
	}
	// The numbers of another user namespace can be set once it has members.
	if ns := creds.UserNS; ns.Parent == nil {
		n.UID, n.EUID = uint32(ns.UID(creds.RUID)), uint32(ns.UID(creds.EUID))
		n.GID, n.EGID = uint32(ns.GID(creds.RGID)), uint32(ns.GID(creds.EGID))
	}
	a.platform.Answer(n)
	if t.hooks.Load()&hooksSyscall != 0 || t.tg.adoptions.Load() != adoptions {
		// Somebody has set one, or given it another parent, and called NoAnswers before this Answer.
		a.told = false
		a.platform.Answer(nil)
	}
}

// noAnswers says that a hook was set that is to see each call, or the parent is to be
// another. Anybody may call it.
func (t *Task) noAnswers() {
	if p := t.answers.platform; p != nil {
		p.NoAnswers()
	}
}

// ParentID is what getppid(2) returns: zero where the task can't see its parent.
func (t *Task) ParentID() int32 {
	p := t.tg.Parent()
	if p == nil {
		return 0
	}
	return p.ID(t.ids.NS)
}

// disown takes back what the children of a process that ends are told of their parent:
// who asks from now on waits for tree, and nobody can learn of the end without knowing
// the new parent. tree is held.
func (tg *ThreadGroup) disown() {
	for _, c := range tg.children {
		c.adoptions.Add(1)
		for _, t := range c.tasks {
			t.noAnswers()
		}
	}
}
