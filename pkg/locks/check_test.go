//go:build lockcheck

package locks

import (
	"strings"
	"sync"
	"testing"
)

// panicOf runs f on a goroutine of its own, which must end with no locks
// recorded, and returns what f panics with, "" if it doesn't.
func panicOf(t *testing.T, f func()) string {
	t.Helper()
	var msg string
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			g, s := ofThisGoroutine()
			delete(s.held, g)
			s.mu.Unlock()
		}()
		defer func() {
			if r := recover(); r != nil {
				msg = r.(string)
			}
		}()
		f()
	})
	wg.Wait()
	return msg
}

type locks struct {
	inode, inode2 Mutex[Inode]
	mm            RWMutex[MemoryMappings]
	leaf          Mutex[Leaf]
}

func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(*locks)
		want string // in the panic; "" for none
	}{
		{"in order", func(l *locks) { l.inode.Lock(); l.mm.RLock(); l.leaf.Lock() }, ""},
		{"released in any order", func(l *locks) {
			l.inode.Lock()
			l.mm.Lock()
			l.inode.Unlock()
			l.leaf.Lock()
			l.leaf.Unlock()
			l.mm.Unlock()
			l.inode.Lock()
		}, ""},
		{"inverted", func(l *locks) { l.mm.Lock(); l.inode.Lock() }, "Inode comes before MemoryMappings"},
		{"inverted under a read lock", func(l *locks) { l.mm.RLock(); l.inode.Lock() }, "Inode comes before MemoryMappings"},
		{"inverted by a read lock", func(l *locks) { l.leaf.Lock(); l.mm.RLock() }, "MemoryMappings comes before Leaf"},
		{"inverted by NestedLock", func(l *locks) { l.mm.Lock(); l.inode.NestedLock() }, "Inode comes before MemoryMappings"},
		{"inverted by NestedRLock", func(l *locks) { l.leaf.Lock(); l.mm.NestedRLock() }, "MemoryMappings comes before Leaf"},
		{"a lock further up than the last", func(l *locks) {
			l.mm.Lock()
			l.leaf.Lock()
			l.mm.Unlock()
			l.inode.Lock()
		}, "Inode comes before Leaf"},
		{"same rank", func(l *locks) { l.inode.Lock(); l.inode2.Lock() }, "a second Inode without NestedLock"},
		{"same rank, nested", func(l *locks) { l.inode.Lock(); l.inode2.NestedLock(); l.mm.Lock() }, ""},
		{"itself", func(l *locks) { l.inode.Lock(); l.inode.Lock() }, "waits for a lock that it holds"},
		{"itself, nested", func(l *locks) { l.inode.Lock(); l.inode.NestedLock() }, "waits for a lock that it holds"},
		{"read twice", func(l *locks) { l.mm.RLock(); l.mm.NestedRLock() }, "waits for a lock that it holds"},
		{"tried out of order", func(l *locks) {
			l.mm.Lock()
			if !l.inode.TryLock() {
				panic("a free lock was not taken")
			}
		}, ""},
		{"after one tried out of order", func(l *locks) { l.leaf.TryLock(); l.inode.Lock() }, "Inode comes before Leaf"},
		{"after one tried for reading", func(l *locks) { l.mm.TryRLock(); l.inode.Lock() }, "Inode comes before MemoryMappings"},
		{"unlock of a free lock", func(l *locks) { l.inode.Unlock() }, "does not hold for writing"},
		{"unlock of a read lock", func(l *locks) { l.mm.RLock(); l.mm.Unlock() }, "does not hold for writing"},
		{"runlock of a write lock", func(l *locks) { l.mm.Lock(); l.mm.RUnlock() }, "does not hold for reading"},
		{"assert held", func(l *locks) { l.inode.Lock(); l.inode.AssertHeld() }, ""},
		{"assert not held", func(l *locks) { l.inode.AssertHeld() }, "should be held here"},
		{"assert held for writing", func(l *locks) { l.mm.RLock(); l.mm.AssertHeld() }, "should be held here"},
		{"assert held for reading", func(l *locks) { l.mm.RLock(); l.mm.AssertRHeld() }, ""},
		{"assert held for reading or writing", func(l *locks) { l.mm.Lock(); l.mm.AssertRHeld() }, ""},
		{"assert none", func(l *locks) { l.mm.Lock(); l.mm.Unlock(); AssertNoneHeld() }, ""},
		{"assert none, one held", func(l *locks) { l.mm.Lock(); AssertNoneHeld() }, "no lock should be held"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := panicOf(t, func() { c.f(new(locks)) })
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("panic %q, want one with %q", got, c.want)
			}
		})
	}
}

func TestAnotherGoroutinesLockIsNotReleased(t *testing.T) {
	var m Mutex[Leaf]
	m.Lock()
	defer m.Unlock()
	if got := panicOf(t, m.Unlock); !strings.Contains(got, "does not hold") {
		t.Errorf("panic %q", got)
	}
}

func takeMappings(l *locks) { l.mm.Lock() }
func takeInode(l *locks)    { l.inode.Lock() }

func TestPanicNamesBothPlaces(t *testing.T) {
	got := panicOf(t, func() {
		var l locks
		takeMappings(&l)
		takeInode(&l)
	})
	here, held, ok := strings.Cut(got, "held:")
	if !ok || !strings.Contains(here, "takeInode") || !strings.Contains(held, "takeMappings") {
		t.Errorf("the panic does not say where the locks were taken:\n%s", got)
	}
}

func TestNothingIsKeptOfEndedGoroutines(t *testing.T) {
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			var l locks
			l.inode.Lock()
			l.mm.RLock()
			l.mm.RUnlock()
			l.inode.Unlock()
		})
	}
	wg.Wait()
	for i := range shards {
		s := &shards[i]
		s.mu.Lock()
		if len(s.held) != 0 {
			t.Errorf("shard %d holds %v", i, s.held)
		}
		s.mu.Unlock()
	}
}
