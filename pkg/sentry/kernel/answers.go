package kernel

import (
	"math/bits"
	"sync/atomic"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/platform"
)

// What a task is told by calls that its platform may answer (platform.Answerer):
// who it is, where it may run, and what the time is. What others than the task itself
// change they withdraw. The rest changes between two runs of application code, so it is
// enough to look before each. Where somebody wants to see each call, or has it decided,
// nothing is answered.

// answers is what the platform answers; only the task's goroutine uses it.
type answers struct {
	platform platform.Answerer // nil: it doesn't
	// What the last answers were made from.
	told  bool
	creds *auth.Credentials
	id    int32 // in the first namespace: execve(2) may change it
	seen  uint32
	// withdrawn counts what withdrawAnswers was called for. Anybody may use it.
	withdrawn atomic.Uint32
}

// answer brings the platform's answers up to date.
func (t *Task) answer() {
	a := &t.answers
	if a.platform == nil {
		return
	}
	withdrawn := a.withdrawn.Load()
	if t.hooks.Load()&hooksSyscall != 0 || t.k.Trace != nil {
		if a.told {
			a.told = false
			a.platform.Answer(nil)
		}
		return
	}
	creds, id := t.creds.Load(), t.ids.Root()
	if a.told && a.creds == creds && a.id == id && a.seen == withdrawn {
		return
	}
	a.told, a.creds, a.id, a.seen = true, creds, id, withdrawn
	n := &platform.Answers{
		PID: uint32(t.tg.ID(t.ids.NS)), TID: uint32(t.ids.In(t.ids.NS)), PPID: uint32(t.ParentID()),
		UID: platform.NoAnswer, EUID: platform.NoAnswer, GID: platform.NoAnswer, EGID: platform.NoAnswer,
		CPU: t.cpuAnswer(), Clocks: true,
	}
	// The numbers of another user namespace can be set once it has members.
	if ns := creds.UserNS; ns.Parent == nil {
		n.UID, n.EUID = uint32(ns.UID(creds.RUID)), uint32(ns.UID(creds.EUID))
		n.GID, n.EGID = uint32(ns.GID(creds.RGID)), uint32(ns.GID(creds.EGID))
	}
	a.platform.Answer(n)
	if a.withdrawn.Load() != withdrawn {
		// Something has changed, and NoAnswers was called before this Answer.
		a.told = false
		a.platform.Answer(nil)
	}
}

// withdrawAnswers has calls that begin from now on ask the Sentry, as long as they
// can't be answered by what is so now: a hook was set that is to see each call, the parent
// is to be another, or the task may run elsewhere. Anybody may call it.
func (t *Task) withdrawAnswers() {
	t.answers.withdrawn.Add(1)
	if p := t.answers.platform; p != nil {
		p.NoAnswers()
	}
}

// AllCPUs is the set of all processors, or of the first 64 where there are more.
func (k *Kernel) AllCPUs() uint64 { return ^uint64(0) >> (64 - max(min(k.CPUs, 64), 1)) }

// AllowedCPUs is the set of processors that the task may run on (sched_setaffinity(2)).
func (t *Task) AllowedCPUs() uint64 {
	all := t.k.AllCPUs()
	if set := t.Scheduling().Affinity & all; set != 0 {
		return set
	}
	return all
}

// CPU returns the number of a processor that the task may run on: the one that
// the calling thread is on, if it may.
func (t *Task) CPU() uint32 {
	set := t.AllowedCPUs()
	if cpu := clock.CPU() % uint32(bits.Len64(t.k.AllCPUs())); set>>cpu&1 != 0 {
		return cpu
	}
	return uint32(bits.TrailingZeros64(set))
}

// cpuAnswer is what the platform may answer getcpu(2) with: any processor's number
// where the task may run on all, or that of the only one. Which of several it is on the
// host can't be asked to heed.
func (t *Task) cpuAnswer() uint32 {
	switch set, all := t.AllowedCPUs(), t.k.AllCPUs(); {
	case set == all:
		return platform.CPUUpTo | uint32(bits.Len64(all)-1)
	case set&(set-1) == 0:
		return uint32(bits.TrailingZeros64(set))
	}
	return platform.NoAnswer
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
		for _, t := range c.tasks {
			t.withdrawAnswers()
		}
	}
}
