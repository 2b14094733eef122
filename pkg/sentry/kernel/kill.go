package kernel

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/signals"
)

// MayKill applies the rules of kill(2): whether t may send s to tg.
func (t *Task) MayKill(tg *ThreadGroup, s signals.Signal) bool {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.mayKill(tg, s)
}

// mayKill is MayKill with tree held.
func (t *Task) mayKill(tg *ThreadGroup, s signals.Signal) bool {
	if tg == t.tg {
		return true
	}
	return t.Credentials().MaySignal(tg.leader.Credentials()) || s == sigCont && tg.group.Session() == t.tg.group.Session()
}

// KillInfo is the siginfo of a signal that t sends to a process, with si_code
// code.
func (t *Task) KillInfo(to *ThreadGroup, s signals.Signal, code int32) *signals.Info {
	t.k.tree.RLock()
	defer t.k.tree.RUnlock()
	return t.killInfo(to, s, code)
}

// killInfo is KillInfo with tree held.
func (t *Task) killInfo(to *ThreadGroup, s signals.Signal, code int32) *signals.Info {
	i := &signals.Info{Signo: int32(s), Code: code}
	i.SetPID(t.tg.ids.In(to.ids.NS))
	uid := auth.Overflow
	if l := to.leader; l != nil {
		uid = l.Credentials().UserNS.UID(t.Credentials().RUID)
	}
	i.SetUID(uid)
	return i
}

// Kill does kill(2). Zero for s only checks.
//
// The tree is held all the while: who forks meanwhile comes before the signal,
// and his child gets it, or takes it before he calls again (adopt). Nobody
// escapes who is made by those that the signal is for.
func (t *Task) Kill(pid int32, s signals.Signal) error {
	if s != 0 && !s.Valid() {
		return unix.EINVAL
	}
	t.k.tree.RLock()
	after, err := t.killHeld(pid, s)
	t.k.tree.RUnlock()
	for _, f := range after {
		f()
	}
	return err
}

func (t *Task) killHeld(pid int32, s signals.Signal) (after []func(), err error) {
	ns := t.ids.NS
	if pid > 0 {
		o := ns.TaskHeld(pid)
		switch {
		case o == nil:
			return nil, unix.ESRCH
		case !t.mayKill(o.tg, s):
			return nil, unix.EPERM
		case s == 0:
			return nil, nil
		}
		// A full queue loses it.
		after, _ = o.tg.sendHeld(nil, t.killInfo(o.tg, s, signals.CodeUser), nil)
		return after, nil
	}
	found, sent := false, false
	send := func(tg *ThreadGroup) {
		found = true
		if !t.mayKill(tg, s) {
			return
		}
		sent = true
		if s != 0 {
			f, _ := tg.broadcastHeld(t.killInfo(tg, s, signals.CodeUser))
			after = append(after, f...)
		}
	}
	switch {
	case pid == -1:
		for o := range ns.TasksHeld() {
			if o == o.tg.leader && o.tg != t.tg && o.tg.ids.In(ns) != 1 {
				send(o.tg)
			}
		}
	case pid != math.MinInt32:
		g := t.tg.group
		if pid < 0 {
			g = ns.ProcessGroupHeld(-pid)
		}
		if g != nil {
			for _, tg := range g.MembersHeld() {
				send(tg)
			}
		}
	}
	switch {
	case !found:
		return after, unix.ESRCH
	case !sent && pid != -1: // which Linux doesn't mind
		return after, unix.EPERM
	}
	return after, nil
}

// Broadcast sends a signal from outside to all processes of a container, those
// included that are being made.
func (c *Container) Broadcast(k *Kernel, s signals.Signal) {
	var after []func()
	info := signals.Info{Signo: int32(s), Code: signals.CodeUser} // who sends it has no number in there
	k.tree.RLock()
	for t := range k.RootPIDNS.TasksHeld() {
		if t == t.tg.leader && t.container == c {
			f, _ := t.tg.broadcastHeld(&info)
			after = append(after, f...)
		}
	}
	k.tree.RUnlock()
	for _, f := range after {
		f()
	}
}
