package memfile

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHeapIsChargedByPagesToParents(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	parent, _ := f.NewAccount("parent", 0)
	a, _ := parent.NewAccount("a", 32*pageSize)
	for range 10 {
		if err := a.Charge(100); err != nil {
			t.Fatal(err)
		}
	}
	if a.Heap() != 1000 || a.Usage() != pageSize || parent.Usage() != pageSize || a.FileUsage() != 0 {
		t.Errorf("1000 bytes: heap %d, usage %d, the parent's %d, of files %d", a.Heap(), a.Usage(), parent.Usage(), a.FileUsage())
	}
	// A sixteenth is left for pages.
	if err := a.Charge(30*pageSize - 1000); err != nil {
		t.Errorf("up to 15/16 of the limit: %v", err)
	}
	if err := a.Charge(1); err != unix.ENOMEM {
		t.Errorf("one byte more: %v", err)
	}
	if run, err := f.Alloc(Request{Account: a, Pages: 2, Hint: NoHint}); err != nil {
		t.Errorf("pages beyond it: %v", err)
	} else {
		f.DecRef(run.Offset, 2*pageSize)
	}
	if a.Over() {
		t.Error("over the limit before it is passed")
	}
	a.ChargeAlways(3 * pageSize)
	if !a.Over() || a.Heap() != 33*pageSize || parent.Over() {
		t.Errorf("beyond the limit: over %v, heap %d", a.Over(), a.Heap())
	}
	if f.Heap() != 33*pageSize {
		t.Errorf("all accounts: %d", f.Heap())
	}
	a.Uncharge(33 * pageSize)
	if a.Usage() != 0 || parent.Usage() != 0 || !a.Release() {
		t.Errorf("%d and %d bytes left", a.Usage(), parent.Usage())
	}
	a.FreeHeap(2 * pageSize)
	if a.Charge(3 * pageSize); a.Usage() != pageSize || a.Heap() != 3*pageSize {
		t.Errorf("2 pages of 3 are free: %d bytes used", a.Usage())
	}
	if a.Uncharge(3 * pageSize); a.Usage() != 0 {
		t.Errorf("%d bytes left", a.Usage())
	}
	var nobody *Account
	if nobody.Charge(1<<60) != nil {
		t.Error("an account that isn't there refuses")
	}
}

func TestHeapChargesFromManySidesAddUp(t *testing.T) {
	parent := NewHeapAccount(0)
	a := &Account{parent: parent}
	a.SetLimit(0)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range int64(10000) {
				a.Charge(i % 3000)
				a.Uncharge(i % 3000)
			}
			a.Charge(1)
		})
	}
	wg.Wait()
	if a.Heap() != 8 || a.Usage() != pageSize || parent.Usage() != pageSize {
		t.Errorf("heap %d, usage %d, the parent's %d", a.Heap(), a.Usage(), parent.Usage())
	}
}

func TestTabGoesBackWithItsOwner(t *testing.T) {
	a := NewHeapAccount(1 << 20)
	type owner struct{ b [64]byte }
	o := &owner{}
	tab, err := NewTab(a, o, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if err := tab.Charge(500); err != nil {
		t.Fatal(err)
	}
	tab.Uncharge(200)
	if a.Heap() != 1300 {
		t.Errorf("%d bytes charged", a.Heap())
	}
	if err := tab.Charge(1 << 20); err != unix.ENOMEM {
		t.Errorf("beyond the limit: %v", err)
	}
	if err := ChargeFor(a, &owner{}, 1<<20); err != unix.ENOMEM || a.Heap() != 1300 {
		t.Errorf("ChargeFor beyond the limit: %v, %d", err, a.Heap())
	}
	runtime.KeepAlive(o)
	for a.Heap() != 0 { // whatever the collector's cleanups take; the test's own time-out is the end
		runtime.GC()
		runtime.Gosched()
	}
	var nobody *Tab
	if nobody.Charge(1<<60) != nil {
		t.Error("a tab that isn't there refuses")
	}
}
