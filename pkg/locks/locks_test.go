package locks

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"sync"
	"testing"
)

func TestZeroValueExcludes(t *testing.T) {
	var m Mutex[Leaf]
	var rw RWMutex[Leaf]
	n, rn := 0, 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				m.Lock()
				n++
				m.Unlock()
				rw.Lock()
				rn++
				rw.Unlock()
			}
		})
	}
	wg.Wait()
	rw.RLock()
	defer rw.RUnlock()
	if n != 8000 || rn != 8000 {
		t.Errorf("counted %d under a Mutex and %d under a RWMutex, want 8000", n, rn)
	}
}

func TestTryLockFailsWhileAnotherHolds(t *testing.T) {
	var m Mutex[Timers]
	var rw RWMutex[Leaf]
	m.Lock()
	rw.RLock()
	var wg sync.WaitGroup
	wg.Go(func() {
		if m.TryLock() {
			t.Error("TryLock took a held Mutex")
		}
		if rw.TryLock() {
			t.Error("TryLock took a RWMutex held for reading")
		}
		if !rw.TryRLock() {
			t.Error("TryRLock did not take a RWMutex held for reading")
			return
		}
		rw.RUnlock()
	})
	wg.Wait()
	rw.RUnlock()
	m.Unlock()
	if !m.TryLock() {
		t.Fatal("TryLock did not take a free Mutex")
	}
	m.Unlock()
}

func TestCondCanUseMutex(t *testing.T) {
	var m Mutex[Leaf]
	c := sync.NewCond(&m)
	ready := false
	var wg sync.WaitGroup
	wg.Go(func() {
		m.Lock()
		defer m.Unlock()
		for !ready {
			c.Wait()
		}
	})
	m.Lock()
	ready = true
	c.Broadcast()
	m.Unlock()
	wg.Wait()
}

func TestSizesAreThoseOfSync(t *testing.T) {
	for _, c := range []struct{ got, want any }{
		{Mutex[Leaf]{}, sync.Mutex{}},
		{RWMutex[Leaf]{}, sync.RWMutex{}},
	} {
		if g, w := reflect.TypeOf(c.got).Size(), reflect.TypeOf(c.want).Size(); g != w {
			t.Errorf("%T has %d bytes, %T %d", c.got, g, c.want, w)
		}
	}
}

// A rank declared but not in the order would be noticed only when a checked
// build first takes such a lock.
func TestEachRankIsInTheOrderOnce(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "ranks.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	count := make(map[string]int)
	for _, r := range order {
		count[reflect.TypeOf(r).Name()]++
	}
	declared := 0
	for name, obj := range f.Scope.Objects {
		if obj.Kind != ast.Typ || name == "Rank" || name == "rank" {
			continue
		}
		declared++
		if count[name] != 1 {
			t.Errorf("%s is in the order %d times, want once", name, count[name])
		}
	}
	if declared != len(order) {
		t.Errorf("%d ranks are declared, %d are in the order", declared, len(order))
	}
}

// The benchmarks compare with package sync: in an ordinary build the two are equal.
func BenchmarkMutex(b *testing.B) {
	var m Mutex[Leaf]
	for b.Loop() {
		m.Lock()
		m.Unlock()
	}
}

func BenchmarkSyncMutex(b *testing.B) {
	var m sync.Mutex
	for b.Loop() {
		m.Lock()
		m.Unlock()
	}
}
