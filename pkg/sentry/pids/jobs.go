package pids

import (
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/tty"
)

// Group is a process group: a job.
type Group[T, P comparable] struct {
	ids     IDs[T, P]
	session *Session[T, P]
	members []P
}

// Session is what a login is.
type Session[T, P comparable] struct {
	ids IDs[T, P]
	// leader is the zero P once it has ended.
	leader P
	groups int
	// terminal is the controlling one, or nil.
	terminal *tty.TTY
}

// NewSession makes a session that leader leads, and in it a group, which leader is to
// join. Both have the numbers of leader, ids.
func NewSession[T, P comparable](leader P, ids IDs[T, P]) *Group[T, P] {
	s := &Session[T, P]{ids: ids, leader: leader}
	ids.each(func(ns *Namespace[T, P], id int32) { ns.sessions[id] = s })
	return s.NewGroup(ids)
}

// NewGroup makes a group with the numbers ids. It goes when the last of its members
// leaves it.
func (s *Session[T, P]) NewGroup(ids IDs[T, P]) *Group[T, P] {
	g := &Group[T, P]{ids: ids, session: s}
	s.groups++
	ids.each(func(ns *Namespace[T, P], id int32) { ns.groups[id] = g })
	return g
}

// Join makes p, which is in no group, a member of g.
func (g *Group[T, P]) Join(p P) { g.members = append(g.members, p) }

// Leave takes p out of g; an empty group goes, and a session without groups.
func (g *Group[T, P]) Leave(p P) {
	if i := slices.Index(g.members, p); i >= 0 {
		g.members = slices.Delete(g.members, i, i+1)
	}
	if len(g.members) > 0 {
		return
	}
	g.ids.each(func(ns *Namespace[T, P], id int32) { delete(ns.groups, id) })
	s := g.session
	if s.groups--; s.groups == 0 {
		s.ids.each(func(ns *Namespace[T, P], id int32) { delete(ns.sessions, id) })
	}
}

// ID returns the group's number in ns, or zero.
func (g *Group[T, P]) ID(ns *Namespace[T, P]) int32 { return g.ids.In(ns) }

// Session returns the group's session, which is always the same.
func (g *Group[T, P]) Session() *Session[T, P] { return g.session }

// Members lists the processes in the group.
func (g *Group[T, P]) Members() []P {
	g.ids.NS.mu.RLock()
	defer g.ids.NS.mu.RUnlock()
	return slices.Clone(g.members)
}

// MembersHeld is Members for who holds the lock; it is not to be changed or kept.
func (g *Group[T, P]) MembersHeld() []P { return g.members }

// Orphaned reports whether g is an orphaned process group: no member has a
// parent in another group of the same session (setpgid(2)).
func (g *Group[T, P]) Orphaned() bool {
	g.ids.NS.mu.RLock()
	defer g.ids.NS.mu.RUnlock()
	return g.OrphanedHeld()
}

// OrphanedHeld is Orphaned for who holds the lock.
func (g *Group[T, P]) OrphanedHeld() bool {
	for _, m := range g.members {
		if up, ended := g.ids.NS.owner.ParentGroup(m); !ended && up != nil && up != g && up.session == g.session {
			return false
		}
	}
	return true
}

// In and Signal implement tty.Group, as Orphaned does.
func (g *Group[T, P]) In(s tty.Session) bool  { return s == g.session }
func (g *Group[T, P]) Signal(sig unix.Signal) { g.ids.NS.owner.SignalGroup(g, sig) }

// ID returns the session's number in ns, or zero.
func (s *Session[T, P]) ID(ns *Namespace[T, P]) int32 { return s.ids.In(ns) }

// Leader returns the session's leader, or the zero P when it has ended.
func (s *Session[T, P]) Leader() P {
	s.ids.NS.mu.RLock()
	defer s.ids.NS.mu.RUnlock()
	return s.leader
}

// LeaderHeld is Leader for who holds the lock.
func (s *Session[T, P]) LeaderHeld() P { return s.leader }

// LeaderEnds says that the leader has ended. It returns the controlling terminal, which
// is to be told, or nil.
func (s *Session[T, P]) LeaderEnds() *tty.TTY {
	var none P
	s.leader = none
	return s.terminal
}

// Terminal implements tty.Session, as all that follows: it returns the controlling
// terminal, or nil.
func (s *Session[T, P]) Terminal() *tty.TTY {
	s.ids.NS.mu.RLock()
	defer s.ids.NS.mu.RUnlock()
	return s.terminal
}

// SetTerminal makes t the controlling terminal: EPERM where there is one, or no leader.
func (s *Session[T, P]) SetTerminal(t *tty.TTY) error {
	s.ids.NS.mu.Lock()
	defer s.ids.NS.mu.Unlock()
	var none P
	if s.leader == none || s.terminal != nil {
		return unix.EPERM
	}
	s.terminal = t
	return nil
}

// ClearTerminal takes t away, if it is the one.
func (s *Session[T, P]) ClearTerminal(t *tty.TTY) {
	s.ids.NS.mu.Lock()
	defer s.ids.NS.mu.Unlock()
	if s.terminal == t {
		s.terminal = nil
	}
}

// SignalLeader sends the leader a signal, if it lives.
func (s *Session[T, P]) SignalLeader(sig unix.Signal) {
	var none P
	if l := s.Leader(); l != none {
		s.ids.NS.owner.SignalProcess(l, sig)
	}
}
