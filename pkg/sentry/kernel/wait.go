package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/waiter"
)

// WaitTarget says which children wait4(2) and waitid(2) are about.
type WaitTarget struct {
	PID int32 // a process, if not zero
	// Process is one, if not nil.
	Process *ThreadGroup
	PGID    int32 // a process group, if not zero
	// Options are WNOHANG, WEXITED, WSTOPPED, WCONTINUED, WNOWAIT, __WALL,
	// __WCLONE, __WNOTHREAD.
	Options int
}

// WaitResult is what happened to a child. PID is zero where WNOHANG found
// nothing.
type WaitResult struct {
	PID    int32
	UID    uint32
	Code   int32  // CLD_*
	Status uint32 // as wait(2) encodes it
	Value  int32  // si_status
	Usage  usage.Resources
}

// WaitChild does wait4(2) and waitid(2).
func (t *Task) WaitChild(w *WaitTarget) (WaitResult, error) {
	res, err := t.tryWait(w)
	if err != nil || res.PID != 0 || w.Options&unix.WNOHANG != 0 {
		return res, err
	}
	ready := new(waiter.Token)
	e := waiter.Entry{Listener: ready, Mask: waiter.Internal}
	t.tg.childEvents.Register(&e)
	defer t.tg.childEvents.Unregister(&e)
	for {
		if res, err := t.tryWait(w); err != nil || res.PID != 0 {
			return res, err
		}
		if err := t.Block(ready); err != nil {
			// Who dies sends SIGCHLD before it wakes us, and a handler of it must
			// not keep the call from telling.
			if res, e := t.tryWait(w); e != nil || res.PID != 0 {
				return res, e
			}
			return WaitResult{}, err
		}
	}
}

// eligible reports whether c is one of those that w means. tree is held.
func (t *Task) eligible(w *WaitTarget, c *ThreadGroup) bool {
	ns := t.ids.NS
	if w.Process != nil && c != w.Process || w.PID != 0 && c.ids.In(ns) != w.PID || w.PGID != 0 && c.group.ID(ns) != w.PGID {
		return false
	}
	if w.Options&linux.WNOTHREAD != 0 && c.parentTask != t {
		return false
	}
	clone := c.exitSignal != sigChld
	return w.Options&linux.WALL != 0 || clone == (w.Options&linux.WCLONE != 0)
}

func (t *Task) tryWait(w *WaitTarget) (WaitResult, error) {
	t.k.tree.Lock()
	res, after, err := t.tryWaitLocked(w)
	t.k.tree.Unlock()
	for _, f := range after {
		f()
	}
	return res, err
}

// tryWaitLocked looks once. What it returns besides is to be called without
// locks. tree is held.
func (t *Task) tryWaitLocked(w *WaitTarget) (res WaitResult, after []func(), err error) {
	res, found, after := t.waitTracee(w)
	if res.PID != 0 {
		return res, after, nil
	}
	for _, c := range t.tg.children {
		if !t.eligible(w, c) {
			continue
		}
		found = true
		if c.leader.trace.tracer != nil && (c.zombie || c.tracedByParent()) {
			continue // its tracer hears of it first
		}
		if c.zombie {
			if w.Options&unix.WEXITED == 0 {
				continue
			}
			return t.collect(w, c), nil, nil
		}
		if res, ok := t.jobEvent(w, c); ok {
			return res, nil, nil
		}
	}
	if !found {
		return WaitResult{}, nil, unix.ECHILD
	}
	return WaitResult{}, nil, nil
}

// result fills what is the same for all events. tree is held.
func (t *Task) result(c *ThreadGroup) WaitResult {
	return WaitResult{
		PID: c.ids.In(t.ids.NS), UID: t.Credentials().UserNS.UID(c.leader.creds.Load().RUID), Usage: c.usageLocked(),
	}
}

// setStatus fills what says how a child ended.
func (r *WaitResult) setStatus(s ExitStatus) {
	r.Status = s.Wait()
	r.Code, r.Value = signals.ChildExited, int32(s.Code)
	if s.Signal != 0 {
		r.Code, r.Value = signals.ChildKilled, int32(s.Signal)
		if s.Core {
			r.Code = signals.ChildDumped
		}
	}
}

// collect takes a zombie's status, and the zombie away. tree is held.
func (t *Task) collect(w *WaitTarget, c *ThreadGroup) WaitResult {
	res := t.result(c)
	res.setStatus(c.status)
	res.Usage.Add(c.childUsage)
	if w.Options&unix.WNOWAIT == 0 {
		t.tg.childUsage.Add(res.Usage)
		c.reap()
	}
	return res
}

// jobEvent takes a stop or continuation of c. tree is held.
func (t *Task) jobEvent(w *WaitTarget, c *ThreadGroup) (WaitResult, bool) {
	g := &c.signals
	g.lock()
	defer g.unlock()
	keep := w.Options&unix.WNOWAIT != 0
	switch {
	case w.Options&unix.WSTOPPED != 0 && g.stop.unreported:
		res := t.result(c)
		res.Code, res.Value = signals.ChildStopped, int32(g.stop.signal)
		res.Status = uint32(g.stop.signal)<<8 | 0x7f
		g.stop.unreported = keep
		return res, true
	case w.Options&unix.WCONTINUED != 0 && g.stop.continued:
		res := t.result(c)
		res.Code, res.Value = signals.ChildContinued, int32(sigCont)
		res.Status = 0xffff
		g.stop.continued = keep
		return res, true
	}
	return WaitResult{}, false
}
