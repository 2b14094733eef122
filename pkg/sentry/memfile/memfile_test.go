package memfile

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func newFile(t testing.TB, limit uint64) (*File, *Account) {
	t.Helper()
	f, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := f.NewAccount("test", limit)
	if err != nil {
		t.Fatal(err)
	}
	return f, a
}

// TestRandomUseAgainstModel allocates, shares and frees at random: no page has
// two owners, cleared pages are clear, and the numbers add up.
func TestRandomUseAgainstModel(t *testing.T) {
	f, acct := newFile(t, 200<<20)
	rng := rand.New(rand.NewPCG(1, 2))
	refs := map[uint64]int{} // by offset of a page
	var pages []uint64       // those with a reference, one entry each
	drop := func(i int) {
		off := pages[i]
		pages[i] = pages[len(pages)-1]
		pages = pages[:len(pages)-1]
		if refs[off]--; refs[off] == 0 {
			delete(refs, off)
		}
		f.DecRef(off, pageSize)
	}
	for range 20000 {
		switch rng.IntN(4) {
		case 0, 1:
			r := Request{Account: acct, Pages: 1 + rng.IntN(64), Hint: NoHint, Zero: rng.IntN(2) == 0, Down: rng.IntN(2) == 0}
			if rng.IntN(30) == 0 {
				r.Pages = 3000
			}
			if len(pages) > 0 && rng.IntN(2) == 0 {
				r.Hint = pages[rng.IntN(len(pages))] + pageSize
			}
			run, err := f.Alloc(r)
			if err == unix.ENOMEM && acct.Usage() == acct.Limit() {
				for len(pages) > 5000 {
					drop(rng.IntN(len(pages)))
				}
				continue
			}
			if err != nil || run.Pages < 1 || run.Pages > r.Pages {
				t.Fatalf("Alloc(%+v) is %+v, %v, with %d bytes in use", r, run, err, acct.Usage())
			}
			for i := range run.Pages {
				off := run.Offset + uint64(i)*pageSize
				if refs[off] != 0 {
					t.Fatalf("page %#x was given out twice", off)
				}
				refs[off] = 1
				pages = append(pages, off)
				b, err := f.Slice(off, pageSize)
				if err != nil || len(b) != pageSize {
					t.Fatalf("Slice is %d bytes, %v", len(b), err)
				}
				if r.Zero && bytes.Count(b, []byte{0}) != pageSize {
					t.Fatalf("page %#x was not cleared", off)
				}
				b[rng.IntN(pageSize)] = 0xaa
			}
		case 2:
			for range 20 {
				if len(pages) > 0 {
					drop(rng.IntN(len(pages)))
				}
			}
		case 3:
			if len(pages) == 0 {
				continue
			}
			off := pages[rng.IntN(len(pages))]
			if got := f.Exclusive(off, pageSize); (got == 1) != (refs[off] == 1) {
				t.Fatalf("Exclusive is %d with %d references", got, refs[off])
			}
			f.IncRef(off, pageSize)
			refs[off]++
			pages = append(pages, off)
		}
		if got := acct.Usage(); got != uint64(len(refs))*pageSize {
			t.Fatalf("usage is %d, want %d pages", got, len(refs))
		}
	}
	for len(pages) > 0 {
		drop(len(pages) - 1)
	}
	f.giveBack() // as the timer does
	f.giveBack()
	if used, kept := f.Usage(); used != 0 || kept > warmFloor*pageSize {
		t.Errorf("%d bytes in use and %d kept after all was freed", used, kept)
	}
	if f.waiting.Load() {
		t.Error("the timer goes on")
	}
	f.Trim()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil || st.Blocks != 0 {
		t.Errorf("the host keeps %d blocks after Trim (%v)", st.Blocks, err)
	}
	if acct.Usage() != 0 {
		t.Error("the account is still charged")
	}
}

func TestHintMakesRunsAdjacent(t *testing.T) {
	f, acct := newFile(t, 0)
	a, _ := f.Alloc(Request{Account: acct, Pages: 4, Hint: NoHint})
	b, _ := f.Alloc(Request{Account: acct, Pages: 4, Hint: NoHint})
	if b.Offset>>20 == a.Offset>>20 {
		t.Errorf("runs of two owners at %#x and %#x leave each other no room", a.Offset, b.Offset)
	}
	c, _ := f.Alloc(Request{Account: acct, Pages: 4, Hint: a.Offset + 4*pageSize})
	if c.Offset != a.Offset+4*pageSize {
		t.Errorf("run with a hint at %#x, want %#x", c.Offset, a.Offset+4*pageSize)
	}
}

func TestLimitHoldsForParentAndChild(t *testing.T) {
	f, parent := newFile(t, 10*pageSize)
	child, err := parent.NewAccount("child", 6*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	for range 6 {
		if _, err := f.Alloc(Request{Account: child, Pages: 1, Hint: NoHint}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Alloc(Request{Account: child, Pages: 1, Hint: NoHint}); err != unix.ENOMEM {
		t.Errorf("beyond the child's limit: %v", err)
	}
	r, err := f.Alloc(Request{Account: parent, Pages: 4, Hint: NoHint})
	if err != nil || r.Pages != 4 {
		t.Fatal(r, err)
	}
	if _, err := f.Alloc(Request{Account: parent, Pages: 1, Hint: NoHint}); err != unix.ENOMEM {
		t.Errorf("beyond the parent's limit: %v", err)
	}
	f.DecRef(r.Offset, 4*pageSize)
	if parent.Usage() != 6*pageSize || child.Usage() != 6*pageSize || parent.Peak() != 10*pageSize || parent.Failures() == 0 {
		t.Errorf("parent %d (peak %d, %d failures), child %d", parent.Usage(), parent.Peak(), parent.Failures(), child.Usage())
	}
}

// fill allocates pages and writes to them.
func fill(t *testing.T, f *File, a *Account, pages int) (runs []Run) {
	t.Helper()
	for pages > 0 {
		r, err := f.Alloc(Request{Account: a, Pages: pages, Hint: NoHint})
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(r.Pages) {
			b, _ := f.Slice(r.Offset+i*pageSize, pageSize)
			b[0] = 1
		}
		runs = append(runs, r)
		pages -= r.Pages
	}
	return runs
}

func free(f *File, runs []Run) {
	for _, r := range runs {
		f.DecRef(r.Offset, uint64(r.Pages)*pageSize)
	}
}

// kept is how many pages are free and warm.
func kept(f *File) int {
	_, n := f.Usage()
	return int(n / pageSize)
}

// TestAllocWaitsForPagesThatAreLeaving has an account full of pages that are given
// back by another goroutine: the refusal comes only when nobody is leaving.
func TestAllocWaitsForPagesThatAreLeaving(t *testing.T) {
	f, acct := newFile(t, 4*pageSize)
	run, err := f.Alloc(Request{Account: acct, Pages: 4, Hint: NoHint})
	if err != nil || run.Pages != 4 {
		t.Fatal(run, err)
	}
	back := f.Leaving()
	begin := make(chan struct{})
	go func() {
		<-begin
		f.DecRef(run.Offset, 4*pageSize)
		back()
	}()
	close(begin)
	if run, err = f.Alloc(Request{Account: acct, Pages: 1, Hint: NoHint}); err != nil {
		t.Fatalf("with pages about to be given back: %v", err)
	}
	if _, err = f.Alloc(Request{Account: acct, Pages: 3, Hint: NoHint}); err != nil {
		t.Fatal(err)
	}
	if _, err = f.Alloc(Request{Account: acct, Pages: 1, Hint: NoHint}); err != unix.ENOMEM {
		t.Fatalf("with nobody leaving: %v", err)
	}
}

func TestWarmPagesAreKeptForAWhile(t *testing.T) {
	f, acct := newFile(t, 0)
	const more = 1000
	runs := fill(t, f, acct, warmFloor+more)
	free(f, runs)
	if n := kept(f); n != warmFloor+more {
		t.Fatalf("%d pages are kept, want all %d", n, warmFloor+more)
	}
	// Half of what is beyond the floor is wanted again, and freed.
	runs = fill(t, f, acct, warmFloor+more/2)
	if n := kept(f); n != more/2 {
		t.Fatalf("%d pages are kept beside those that were wanted again, want %d", n, more/2)
	}
	free(f, runs)
	f.giveBack()
	if n := kept(f); n != warmFloor+more/2 {
		t.Errorf("%d pages are kept after a while, want %d", n, warmFloor+more/2)
	}
	if !f.waiting.Load() {
		t.Error("nothing gives the rest back")
	}
	f.giveBack()
	if n := kept(f); n != warmFloor || f.waiting.Load() {
		t.Errorf("%d pages are kept in the end, want %d (timer %v)", n, warmFloor, f.waiting.Load())
	}
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil || st.Blocks*512 != warmFloor*pageSize {
		t.Errorf("the host keeps %d bytes (%v), want %d", st.Blocks*512, err, warmFloor*pageSize)
	}
}

// What is in use and what is kept is together within the limit.
func TestWarmPagesStayWithinTheLimit(t *testing.T) {
	f, parent := newFile(t, 2000*pageSize)
	a, err := parent.NewAccount("a", 0)
	if err != nil {
		t.Fatal(err)
	}
	runs := fill(t, f, a, 1500)
	b := fill(t, f, a, 400)
	free(f, runs)
	if n := kept(f); n != 1500 {
		t.Fatalf("%d pages are kept, want 1500", n)
	}
	// Where the warm pages are is no place for this, so it takes cold ones.
	hint := b[len(b)-1].Offset + uint64(b[len(b)-1].Pages)*pageSize
	for range 300 {
		r, err := f.Alloc(Request{Account: a, Pages: 1, Hint: hint})
		if err != nil {
			t.Fatal(err)
		}
		hint = r.Offset + pageSize
		b = append(b, r)
		if used, kept := f.Usage(); used+kept > parent.Limit() {
			t.Fatalf("%d bytes in use and %d kept, of %d", used, kept, parent.Limit())
		}
	}
	free(f, b)
}

// Without a limit, what was in use at some time is one.
func TestWarmPagesStayWithinThePeak(t *testing.T) {
	f, acct := newFile(t, 0)
	const many = 3 * warmFloor
	low := fill(t, f, acct, many)
	high := fill(t, f, acct, many)
	end := high[len(high)-1]
	free(f, low)
	if n := kept(f); n != many {
		t.Fatalf("%d pages are kept, want %d", n, many)
	}
	hint := end.Offset + uint64(end.Pages)*pageSize
	for range 2 * warmFloor / 64 {
		r, err := f.Alloc(Request{Account: acct, Pages: 64, Hint: hint})
		if err != nil {
			t.Fatal(err)
		}
		hint = r.Offset + uint64(r.Pages)*pageSize
		high = append(high, r)
		if used, kept := f.Usage(); used+kept > (2*many+warmFloor)*pageSize {
			t.Fatalf("%d bytes in use and %d kept, after %d in use", used, kept, 2*many*pageSize)
		}
	}
	free(f, high)
}

// A run goes through warm and cold pages, and all are clear.
func TestRunsOfWarmAndColdPagesAreClear(t *testing.T) {
	f, acct := newFile(t, 0)
	runs := fill(t, f, acct, 700)
	var spread []Run
	for _, r := range runs {
		for i := range r.Pages {
			p := Run{r.Offset + uint64(i)*pageSize, 1}
			if i%3 == 0 || i >= 64 && i < 192 {
				free(f, []Run{p})
			} else {
				spread = append(spread, p)
			}
		}
	}
	f.Trim()
	free(f, spread) // warm between cold
	r, err := f.Alloc(Request{Account: acct, Pages: 700, Hint: NoHint, Zero: true})
	if err != nil || r.Pages != 700 {
		t.Fatalf("a run of %d pages, %v", r.Pages, err)
	}
	b, _ := f.Slice(r.Offset, 700*pageSize)
	if n := len(b) - bytes.Count(b, []byte{0}); n != 0 {
		t.Errorf("%d bytes are not clear", n)
	}
	if n := kept(f); n != 0 {
		t.Errorf("%d pages are still free and warm", n)
	}
}

func TestManyGoroutines(t *testing.T) {
	f, acct := newFile(t, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for range 500 {
				r, err := f.Alloc(Request{Account: acct, Pages: 200, Hint: NoHint, Zero: true})
				if err != nil {
					t.Error(err)
					return
				}
				for i := range r.Pages {
					b, _ := f.Slice(r.Offset+uint64(i)*pageSize, pageSize)
					if b[0] != 0 {
						t.Error("page not cleared")
					}
					b[0] = byte(g) + 1
				}
				for i := range r.Pages {
					b, _ := f.Slice(r.Offset+uint64(i)*pageSize, pageSize)
					if b[0] != byte(g)+1 {
						t.Error("page has two owners")
					}
				}
				f.DecRef(r.Offset, uint64(r.Pages)*pageSize)
			}
		})
	}
	wg.Wait()
	if acct.Usage() != 0 {
		t.Errorf("%d bytes still charged", acct.Usage())
	}
}

func BenchmarkAllocFree(b *testing.B) {
	f, acct := newFile(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		r, err := f.Alloc(Request{Account: acct, Pages: 1, Hint: NoHint})
		if err != nil {
			b.Fatal(err)
		}
		f.DecRef(r.Offset, pageSize)
	}
}

func BenchmarkSlice(b *testing.B) {
	f, acct := newFile(b, 0)
	r, _ := f.Alloc(Request{Account: acct, Pages: 1, Hint: NoHint})
	for b.Loop() {
		f.Slice(r.Offset, 16)
	}
}
