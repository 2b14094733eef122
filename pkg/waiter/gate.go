package waiter

import (
	"slices"
	"sync/atomic"

	"vitrine/pkg/locks"
	"vitrine/pkg/sched"
)

// Gate is shut until it is opened, once and for all who wait. The zero Gate is
// shut. Anybody opens it.
type Gate struct {
	opened  atomic.Bool
	mu      locks.Mutex[locks.Leaf]
	waiting []*sched.Thread
}

// Open opens the gate and wakes who is expected.
func (g *Gate) Open() {
	g.opened.Store(true)
	g.mu.Lock()
	waiting := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	for _, t := range waiting {
		t.Unpark()
	}
}

// Opened reports whether it is open. A nil Gate never is.
func (g *Gate) Opened() bool { return g != nil && g.opened.Load() }

// Expect says that t waits: it is unparked when the gate opens, until Forget. It
// looks with Opened afterwards, before it parks.
func (g *Gate) Expect(t *sched.Thread) {
	if g == nil {
		return
	}
	g.mu.Lock()
	g.waiting = append(g.waiting, t)
	g.mu.Unlock()
}

// Forget takes an Expect of t back.
func (g *Gate) Forget(t *sched.Thread) {
	if g == nil {
		return
	}
	g.mu.Lock()
	if i := slices.Index(g.waiting, t); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	g.mu.Unlock()
}
