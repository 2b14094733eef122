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
	if a.Usage() != 0 || parent.Usage() != 0 {
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

// Containers come and go: their accounts are used again, but not before the last page
// of theirs is given back.
func TestClosedAccountsAreUsedAgain(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sandbox, _ := f.NewAccount("sandbox", 0)
	var left []Run
	var last *Account
	for i := range 70000 {
		a, err := sandbox.NewAccount("container", 0)
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		run, err := f.Alloc(Request{Account: a, Pages: 1, Hint: NoHint})
		if err != nil {
			t.Fatalf("container %d: %v", i, err)
		}
		a.Close()
		if left = append(left, run); len(left) > 10 {
			f.DecRef(left[0].Offset, pageSize)
			left = left[1:]
		}
		if sandbox.Usage() != uint64(len(left))*pageSize {
			t.Fatalf("container %d: %d bytes are charged, for %d pages", i, sandbox.Usage(), len(left))
		}
		last = a
	}
	if len(f.accounts) > 20 {
		t.Errorf("%d accounts, of which few were there at a time", len(f.accounts))
	}
	for _, run := range left {
		f.DecRef(run.Offset, pageSize)
	}
	next, _ := sandbox.NewAccount("next", 0)
	if run, err := f.Alloc(Request{Account: last, Pages: 1, Hint: NoHint}); err != unix.ENOMEM {
		t.Errorf("a page for a closed account: %v, %v", run, err)
	}
	if sandbox.Usage() != 0 || next.Usage() != 0 {
		t.Errorf("%d and %d bytes are charged", sandbox.Usage(), next.Usage())
	}
}

func TestTooManyAccountsAreRefused(t *testing.T) {
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var a *Account
	for range 65535 {
		if a, err = f.NewAccount("a", 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.NewAccount("a", 0); err != ErrAccounts {
		t.Errorf("one too many: %v", err)
	}
	a.Close()
	if _, err := f.NewAccount("a", 0); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
}
