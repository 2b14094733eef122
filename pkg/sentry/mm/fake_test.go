package mm

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// fakePlatform keeps page tables instead of mapping anything.
type fakePlatform struct{}

func (fakePlatform) Name() string { return "fake" }
func (fakePlatform) UserRange() usermem.AddrRange {
	return usermem.AddrRange{Start: 0x1000, End: 0x7ffffffff000}
}
func (fakePlatform) NewContext() platform.Context { return nil }
func (fakePlatform) Forget(int)                   {}
func (fakePlatform) NewAddressSpace() (platform.AddressSpace, error) {
	return &fakeSpace{pages: map[uint64]fakePage{}}, nil
}

type fakePage struct {
	file   memmap.File
	offset uint64
	access usermem.Access
}

type fakeSpace struct {
	mu    sync.Mutex
	pages map[uint64]fakePage
	fail  int // how many calls of MapFile fail
	maps  int // how many were made
}

func (s *fakeSpace) MapFile(addr usermem.Addr, f platform.File, offset, length uint64, access usermem.Access, precommit bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maps++
	if s.fail > 0 {
		s.fail--
		return unix.ENOMEM
	}
	for n := uint64(0); n < length; n += pageSize {
		s.pages[uint64(addr)+n] = fakePage{f.(memmap.File), offset + n, access}
	}
	return nil
}

func (s *fakeSpace) each(r usermem.AddrRange, f func(at uint64, p fakePage)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Len()/pageSize > uint64(len(s.pages)) {
		for at, p := range s.pages {
			if r.Contains(usermem.Addr(at)) {
				f(at, p)
			}
		}
		return
	}
	for at := uint64(r.Start); at < uint64(r.End); at += pageSize {
		if p, ok := s.pages[at]; ok {
			f(at, p)
		}
	}
}

func (s *fakeSpace) Unmap(r usermem.AddrRange) {
	s.each(r, func(at uint64, _ fakePage) { delete(s.pages, at) })
}

func (s *fakeSpace) Protect(r usermem.AddrRange, access usermem.Access) {
	s.each(r, func(at uint64, p fakePage) {
		p.access = access
		s.pages[at] = p
	})
}
func (*fakeSpace) Inherit(platform.AddressSpace) {}
func (s *fakeSpace) Flush()                      {}
func (s *fakeSpace) Release()                    { s.pages = nil }

// touch does what an instruction of the application does: it reads or writes
// one byte, with faults handled until it works.
func touch(t testing.TB, m *MemoryManager, addr usermem.Addr, write bool, b byte) (byte, error) {
	t.Helper()
	access := usermem.Read
	if write {
		access = usermem.Write
	}
	s := m.as.(*fakeSpace)
	for range 10 {
		s.mu.Lock()
		p, ok := s.pages[uint64(addr.RoundDown())]
		s.mu.Unlock()
		if ok && p.access.Has(access) {
			view, err := p.file.Slice(p.offset+addr.PageOffset(), 1)
			if err != nil {
				t.Fatal(err)
			}
			if write {
				view[0] = b
			}
			return view[0], nil
		}
		if err := m.HandleFault(addr, access); err != nil {
			return 0, err
		}
	}
	t.Fatalf("fault at %#x is not resolved", addr)
	return 0, nil
}

// check verifies what must hold between operations.
func check(t testing.TB, m *MemoryManager) {
	t.Helper()
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.pageMu.RLock()
	defer m.pageMu.RUnlock()
	s := m.as.(*fakeSpace)
	for at, p := range s.pages {
		a, ok := m.areas.Find(at)
		v, okV := m.vmas.Find(at)
		switch {
		case !ok || !okV:
			t.Fatalf("%#x is mapped in the host without an area (%v) or a VMA (%v)", at, ok, okV)
		case a.Value.file != p.file || a.Value.offset(at) != p.offset:
			t.Fatalf("%#x is mapped to %#x, want %#x", at, p.offset, a.Value.offset(at))
		case p.access.Has(usermem.Write) && !m.writable(v.Value, a.Value):
			t.Fatalf("%#x can be written though it is shared", at)
		case p.access&^v.Value.prot.Effective() != 0:
			t.Fatalf("%#x is mapped %v in a VMA %v", at, p.access, v.Value.prot)
		}
	}
	var anon, rest int64
	m.areas.Ascend(0, func(e areaEntry) bool {
		for at := e.Start; at < e.End; at += pageSize {
			if _, ok := m.vmas.Find(at); !ok {
				t.Fatalf("page %#x outside of any VMA", at)
			}
		}
		if e.Value.private {
			anon += int64(e.Len())
			if m.file.Exclusive(e.Value.offset(e.Start), pageSize) == 0 && e.Value.epoch == m.epoch && m.pins.Load() == 0 {
				t.Fatalf("page %#x is shared, and of this epoch", e.Start)
			}
		} else {
			rest += int64(e.Len())
		}
		return true
	})
	if anon != m.rssAnon.Load() || rest != m.rssFile.Load()+m.rssShmem.Load() {
		t.Fatalf("resident sizes are %d, %d+%d, want %d, %d", m.rssAnon.Load(), m.rssFile.Load(), m.rssShmem.Load(), anon, rest)
	}
	var want sizes
	m.vmas.Ascend(0, func(e vmaEntry) bool {
		want.add(e, 1)
		return true
	})
	if want.peak = m.sizes.peak; want != m.sizes {
		t.Fatalf("sizes are %+v, want %+v", m.sizes, want)
	}
}

type env struct {
	file *memfile.File
	acct *memfile.Account
}

func newEnv(t testing.TB, limit uint64) env {
	t.Helper()
	f, err := memfile.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := f.NewAccount("test", limit)
	if err != nil {
		t.Fatal(err)
	}
	return env{f, a}
}

func (e env) newMM(t testing.TB, opts Options) *MemoryManager {
	t.Helper()
	m, err := New(fakePlatform{}, e.file, e.acct, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustMap(t testing.TB, m *MemoryManager, o MMapOpts) usermem.Addr {
	t.Helper()
	if o.Prot == 0 {
		o.Prot = usermem.ReadWrite
	}
	a, err := m.MMap(o)
	if err != nil {
		t.Fatalf("MMap(%+v): %v", o, err)
	}
	return a
}

func wantByte(t testing.TB, m *MemoryManager, addr usermem.Addr, want byte) {
	t.Helper()
	if got, err := touch(t, m, addr, false, 0); err != nil || got != want {
		t.Fatalf("%#x holds %d (%v), want %d", addr, got, err, want)
	}
	var b [1]byte
	if _, err := m.CopyIn(addr, b[:]); err != nil || b[0] != want {
		t.Fatalf("%#x copied in is %d (%v), want %d", addr, b[0], err, want)
	}
}

// nullSpace maps nothing, for measuring what is ours.
type nullSpace struct{}

func (nullSpace) MapFile(usermem.Addr, platform.File, uint64, uint64, usermem.Access, bool) error {
	return nil
}
func (nullSpace) Unmap(usermem.AddrRange)                   {}
func (nullSpace) Protect(usermem.AddrRange, usermem.Access) {}
func (nullSpace) Inherit(platform.AddressSpace)             {}
func (nullSpace) Flush()                                    {}
func (nullSpace) Release()                                  {}

type nullPlatform struct{ fakePlatform }

func (nullPlatform) NewAddressSpace() (platform.AddressSpace, error) { return nullSpace{}, nil }

// BenchmarkFault measures faults at random pages of anonymous memory, with
// MADV_DONTNEED at the end of each round.
func BenchmarkFault(b *testing.B) {
	e := newEnv(b, 0)
	m, err := New(nullPlatform{}, e.file, e.acct, Options{})
	if err != nil {
		b.Fatal(err)
	}
	const pages = 1024
	a := mustMap(b, m, MMapOpts{Length: pages * pageSize, Private: true})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%pages == 0 {
			m.MAdvise(a, pages*pageSize, unix.MADV_DONTNEED)
		}
		m.HandleFault(a+usermem.Addr(i*37%pages)*pageSize, usermem.Write)
	}
}

func BenchmarkForkExit(b *testing.B) {
	e := newEnv(b, 0)
	m, err := New(nullPlatform{}, e.file, e.acct, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for range 30 {
		a := mustMap(b, m, MMapOpts{Length: 64 * pageSize, Private: true})
		m.CopyOut(a, make([]byte, 40*pageSize))
		mustMap(b, m, MMapOpts{Length: pageSize, Private: true, Prot: usermem.Read})
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := m.Fork()
		if err != nil {
			b.Fatal(err)
		}
		c.DecUsers()
	}
}

// BenchmarkMapUnmap measures mmap and munmap of a page in a process with 2000
// mappings.
func BenchmarkMapUnmap(b *testing.B) {
	e := newEnv(b, 0)
	m, err := New(nullPlatform{}, e.file, e.acct, Options{})
	if err != nil {
		b.Fatal(err)
	}
	for range 1000 {
		mustMap(b, m, MMapOpts{Length: pageSize, Private: true, Prot: usermem.Read})
		mustMap(b, m, MMapOpts{Length: pageSize, Private: true})
	}
	b.ReportAllocs()
	for b.Loop() {
		a := mustMap(b, m, MMapOpts{Length: pageSize, Private: true})
		m.MUnmap(a, pageSize)
	}
}
