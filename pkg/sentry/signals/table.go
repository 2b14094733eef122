package signals

import "vitrine/pkg/locks"

// Table is the actions of the processes that share them (CLONE_SIGHAND). The zero
// Table has all signals at their defaults. All methods are safe for concurrent use.
type Table struct {
	mu      locks.Mutex[locks.Leaf]
	actions [Max]Action
}

// Get returns the action for s.
func (t *Table) Get(s Signal) Action {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.actions[s-1]
}

// Ignored reports whether the action for s ignores it.
func (t *Table) Ignored(s Signal) bool {
	a := t.Get(s)
	return a.Ignores(s)
}

// Ignores reports whether s, sent now and not blocked, would do nothing with a in place.
func (a *Action) Ignores(s Signal) bool {
	return a.Handler == HandlerIgnore || a.Handler == HandlerDefault && DefaultOf(s) == Ignore
}

// Sets returns which signals are ignored by choice, and which have handlers.
func (t *Table) Sets() (ignored, caught Set) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := Signal(1); s <= Max; s++ {
		switch t.actions[s-1].Handler {
		case HandlerDefault:
		case HandlerIgnore:
			ignored |= SetOf(s)
		default:
			caught |= SetOf(s)
		}
	}
	return ignored, caught
}

// Set puts n in place for s and returns what was there (sigaction(2)).
func (t *Table) Set(s Signal, n Action) (old Action) {
	n.Mask &^= Unblockable
	t.mu.Lock()
	defer t.mu.Unlock()
	old = t.actions[s-1]
	t.actions[s-1] = n
	return old
}

// Deliver returns the action for s, which is about to be taken: a handler that is
// for once (SA_RESETHAND) is gone then.
func (t *Table) Deliver(s Signal) Action {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.actions[s-1]
	if a.Handler > HandlerIgnore && a.Flags&FlagResetHand != 0 {
		t.actions[s-1].Handler = HandlerDefault
	}
	return a
}

// Force has s do what it does by default, if it is ignored or the caller says that
// it is blocked, and reports whether that was so.
func (t *Table) Force(s Signal, blocked bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.actions[s-1]
	if !blocked && a.Handler != HandlerIgnore {
		return false
	}
	a.Handler = HandlerDefault
	return true
}

// Fork returns a copy.
func (t *Table) Fork() *Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &Table{actions: t.actions}
}

// ForExec returns a copy in which caught signals are at their defaults (execve(2),
// CLONE_CLEAR_SIGHAND of clone3(2)).
func (t *Table) ForExec() *Table {
	n := t.Fork()
	for i, a := range n.actions {
		n.actions[i] = Action{}
		if a.Handler == HandlerIgnore {
			n.actions[i].Handler = HandlerIgnore
		}
	}
	return n
}
