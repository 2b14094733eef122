package mm

import (
	"math/rand/v2"
	"testing"

	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/usermem"
)

// mappedPages is how many pages of a range the address space maps.
func mappedPages(m *MemoryManager, a usermem.Addr, pages int) (n int) {
	m.as.(*fakeSpace).each(usermem.AddrRange{Start: a, End: a + usermem.Addr(pages*pageSize)}, func(uint64, fakePage) { n++ })
	return n
}

func newStore(t *testing.T, e env, pages int) *pagestore.Store {
	t.Helper()
	s := pagestore.New(e.file, e.acct)
	b := usermem.BytesBuffer(make([]byte, pages*pageSize))
	if _, err := s.WriteAt(&b, 0); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSmallMappingsNeedNoFault(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	small := mustMap(t, m, MMapOpts{Length: 3 * pageSize, Private: true})
	if n := mappedPages(m, small, 3); n != 3 {
		t.Errorf("%d of 3 pages of a small mapping are mapped", n)
	}
	large := mustMap(t, m, MMapOpts{Length: 256 * pageSize, Private: true})
	if n := mappedPages(m, large, 256); n < headPages/pageSize || n >= aheadPages/pageSize {
		t.Errorf("%d pages of a large mapping are mapped, want about %d", n, headPages/pageSize)
	}
	s := newStore(t, e, 256)
	for _, private := range []bool{true, false} {
		file := mustMap(t, m, MMapOpts{Length: 256 * pageSize, Private: private, Mappable: s, Prot: usermem.Read})
		if n := mappedPages(m, file, 256); n != 256 {
			t.Errorf("private %v: %d of 256 pages of a file to read are mapped", private, n)
		}
	}
	for _, o := range []MMapOpts{
		{Length: pageSize, Mappable: s},
		{Length: pageSize},
		{Length: pageSize, Private: true, NoReserve: true},
		{Length: pageSize, Private: true, Prot: usermem.Read},
	} {
		a := mustMap(t, m, o)
		if n := mappedPages(m, a, 1); n != 0 {
			t.Errorf("%+v is mapped before it is touched", o)
		}
	}
	m.SetBrk(0x100000)
	m.Brk(0x100000 + 40*pageSize)
	if n := mappedPages(m, 0x100000, 40); n != aheadPages/pageSize {
		t.Errorf("%d pages of a new heap are mapped, want %d", n, aheadPages/pageSize)
	}
	check(t, m)
}

// A library is mapped in parts. The fault that comes first maps all of them.
func TestFaultMapsWhatWasMappedSince(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	s := newStore(t, e, 40)
	file := MMapOpts{Length: 40 * pageSize, Private: true, Steady: true, Mappable: s, Prot: usermem.Read}
	head := mustMap(t, m, file)
	text := file
	text.Addr, text.Fixed, text.Offset, text.Length = head+10*pageSize, true, 10*pageSize, 20*pageSize
	text.Prot |= usermem.Execute
	mustMap(t, m, text)
	if n := mappedPages(m, head, 40); n != 0 {
		t.Fatalf("%d pages are mapped before anything was touched", n)
	}
	data := file
	data.Addr, data.Fixed, data.Offset, data.Length = head+30*pageSize, true, 30*pageSize, 10*pageSize
	data.Prot |= usermem.Write
	before := m.as.(*fakeSpace).maps
	mustMap(t, m, data) // as good as touched
	if n := m.as.(*fakeSpace).maps - before; n != 3 {
		t.Errorf("three mappings took %d calls", n)
	}
	if n := mappedPages(m, head, 40); n != 40 {
		t.Errorf("%d of 40 pages are mapped", n)
	}
	check(t, m)

	other := mustMap(t, m, file)
	gone := mustMap(t, m, file)
	if err := m.MUnmap(gone+pageSize, 2*pageSize); err != nil {
		t.Fatal(err)
	}
	wantByte(t, m, head, 0) // no fault
	if mappedPages(m, other, 40) != 0 {
		t.Error("mapped without a fault")
	}
	wantByte(t, m, mustMap(t, m, MMapOpts{Length: 20 * pageSize, Private: true}), 0)
	if n := mappedPages(m, other, 40); n != 40 {
		t.Errorf("%d of 40 pages are mapped with the next fault", n)
	}
	if n := mappedPages(m, gone, 40); n != 38 {
		t.Errorf("%d of the 38 pages that are left are mapped with the next fault", n)
	}
	check(t, m)
}

// What a file has not got is left to the fault that tells.
func TestMappingBeyondTheFileIsLeft(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	s := newStore(t, e, 2)
	a := mustMap(t, m, MMapOpts{Length: 4 * pageSize, Private: true, Mappable: s, Prot: usermem.Read})
	m.MapAhead()
	if n := mappedPages(m, a, 4); n != 2 {
		t.Errorf("%d of the 2 pages that there are are mapped", n)
	}
	if _, err := touch(t, m, a+3*pageSize, false, 0); err != error(faultBus) {
		t.Errorf("a page behind the end: %v, want SIGBUS", err)
	}
	// A page that is not a copy yet follows the object.
	b := usermem.BytesBuffer([]byte{7})
	if _, err := s.WriteAt(&b, pageSize); err != nil {
		t.Fatal(err)
	}
	wantByte(t, m, a+pageSize, 7)
	check(t, m)
}

// Memory that is touched all over is filled faster and faster; memory that is
// touched here and there is not, nor where there is little left.
func TestRandomTouchesFillByWhatIsThere(t *testing.T) {
	for _, c := range []struct {
		name         string
		limit        uint64
		pages, touch int
		least, most  int // faults
	}{
		{"all over", 0, 4096, 4096, 64, 160},
		{"here and there", 0, 1 << 18, 1000, 950, 1000},
		{"all over, with little room", 3 * 4096 * pageSize, 4096, 4096, 450, 600},
	} {
		e := newEnv(t, c.limit)
		m := e.newMM(t, Options{})
		a := mustMap(t, m, MMapOpts{Length: uint64(c.pages) * pageSize, Private: true})
		faults := touchSome(t, m, a, rand.New(rand.NewPCG(1, 2)).Perm(c.pages)[:c.touch])
		if faults < c.least || faults > c.most {
			t.Errorf("%s: %d faults, want %d to %d", c.name, faults, c.least, c.most)
		}
		if used, most := e.acct.Usage(), uint64(8*c.touch*pageSize); used > most {
			t.Errorf("%s: %d bytes for %d pages that were touched", c.name, used, c.touch)
		}
		m.DecUsers()
	}
}

// touchSome writes to pages of the mapping at a, and returns how many of them weren't
// mapped by then.
func touchSome(t *testing.T, m *MemoryManager, a usermem.Addr, pages []int) (faults int) {
	t.Helper()
	for _, p := range pages {
		at := a + usermem.Addr(p*pageSize)
		if mappedPages(m, at, 1) == 0 {
			faults++
			touch(t, m, at, true, 1)
		}
	}
	return faults
}

// A program's data is touched all over: the more of it is copied, the more is with
// the next page. Where there is little room it isn't.
func TestDataIsCopiedFasterAndFaster(t *testing.T) {
	for _, c := range []struct {
		name        string
		limit       uint64
		least, most int // faults
	}{
		{"data", 0, 5, 10},
		{"with little room", 1100 * pageSize, 20, 40},
	} {
		e := newEnv(t, c.limit)
		m := e.newMM(t, Options{})
		const pages = 512
		a := mustMap(t, m, MMapOpts{Length: pages * pageSize, Private: true, Steady: true, Mappable: newStore(t, e, pages), Prot: usermem.Read})
		// As the loader has it: data is made writable by its mapping. Its pages are there.
		if err := m.MProtect(a, pages*pageSize, usermem.ReadWrite, false); err != nil {
			t.Fatal(err)
		}
		faults := touchSome(t, m, a, rand.New(rand.NewPCG(1, 2)).Perm(pages))
		if faults < c.least || faults > c.most {
			t.Errorf("%s: %d faults, want %d to %d", c.name, faults, c.least, c.most)
		}
		check(t, m)
		m.DecUsers()
	}
}

// A mapping that joins one that was touched all over doesn't make that forgotten.
func TestMappingsThatJoinKeepWhatIsKnown(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	defer m.DecUsers()
	const pages = 1024
	a := mustMap(t, m, MMapOpts{Length: pages * pageSize, Private: true})
	order := make([]int, pages/2)
	for i := range order {
		order[i] = i
	}
	touchSome(t, m, a, order)
	if b := mustMap(t, m, MMapOpts{Length: pageSize, Private: true}); b+pageSize != a {
		t.Fatalf("the second mapping is at %#x, not below %#x", uint64(b), uint64(a))
	}
	last := a + (pages-100)*pageSize
	touch(t, m, last, true, 1)
	start := last &^ (fullWindow - 1)
	if n := mappedPages(m, start, fullWindow/pageSize); n != fullWindow/pageSize {
		t.Errorf("%d of the %d pages around a touch are mapped", n, fullWindow/pageSize)
	}
}
