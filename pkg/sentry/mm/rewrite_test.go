package mm

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"math/bits"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// rewriteSpace is a fakeSpace whose code can be rewritten.
type rewriteSpace struct {
	fakeSpace
	retired, expelled int
}

const (
	fakeEntry = 0x7ffffff00000
	nr        = 39
)

func (*rewriteSpace) CallEntry() usermem.Addr      { return fakeEntry }
func (*rewriteSpace) PlainCallEntry() usermem.Addr { return fakeEntry + 64 }
func (s *rewriteSpace) Retire()                    { s.retired++ }
func (s *rewriteSpace) Expel()                     { s.expelled++ }

type rewritePlatform struct{ fakePlatform }

func (rewritePlatform) NewAddressSpace() (platform.AddressSpace, error) {
	return &rewriteSpace{fakeSpace: fakeSpace{pages: map[uint64]fakePage{}}}, nil
}

// calling returns the registers of a call by the instruction at site.
func calling(site usermem.Addr, nr uint64) *arch.Registers {
	return &arch.Registers{Rip: uint64(site) + syscallSize, OrigRax: nr}
}

// callCode is a system call in the form that is rewritten, with another cmp.
var callCode = []byte{0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff}

// program is a MemoryManager with a page of code, calls in it at given offsets.
type program struct {
	*MemoryManager
	t    *testing.T
	code usermem.Addr
}

func newProgram(t *testing.T, sites ...usermem.Addr) *program {
	t.Helper()
	e := newEnv(t, 0)
	m, err := New(rewritePlatform{}, e.file, e.acct, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.DecUsers()
		if used, _ := e.file.Usage(); used != 0 {
			t.Errorf("%d bytes are left", used)
		}
	})
	p := &program{m, t, mustMap(t, m, MMapOpts{Length: 4 * pageSize, Private: true})}
	for _, s := range sites {
		p.write(p.code+s, callCode)
	}
	p.protect(usermem.Read | usermem.Execute)
	return p
}

func (p *program) write(at usermem.Addr, b []byte) {
	p.t.Helper()
	if _, err := p.CopyOut(at, b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *program) protect(prot usermem.Access) {
	p.t.Helper()
	if err := p.MProtect(p.code, 4*pageSize, prot, false); err != nil {
		p.t.Fatal(err)
	}
}

// fetch returns n bytes as they are executed.
func fetch(t *testing.T, m *MemoryManager, addr usermem.Addr, n uint64) []byte {
	t.Helper()
	return instruction(t, m, addr, n, usermem.Execute)
}

// instruction returns n bytes as an instruction sees them.
func instruction(t *testing.T, m *MemoryManager, addr usermem.Addr, n uint64, access usermem.Access) []byte {
	t.Helper()
	s := m.space.(*rewriteSpace)
	for range 10 {
		if page, ok := s.pages[uint64(addr.RoundDown())]; ok && page.access.Has(access) {
			b, err := page.file.Slice(page.offset+addr.PageOffset(), n)
			if err != nil {
				t.Fatal(err)
			}
			return bytes.Clone(b)
		}
		if err := m.HandleFault(addr, access); err != nil {
			t.Fatalf("%#x can't be reached: %v", addr, err)
		}
	}
	t.Fatalf("fault at %#x is not resolved", addr)
	return nil
}

// trampoline returns where the instruction at site jumps to, or zero.
func (p *program) trampoline(m *MemoryManager, site usermem.Addr) usermem.Addr {
	p.t.Helper()
	b := fetch(p.t, m, site, 8)
	if b[0] != 0xe9 {
		if !bytes.Equal(b, callCode) {
			p.t.Fatalf("at %#x is % x", site, b)
		}
		return 0
	}
	if !invalidOpcodes[b[2]] {
		p.t.Errorf("the cmp's place has % x", b[2:])
	}
	return site + 5 + usermem.Addr(int64(int32(binary.LittleEndian.Uint32(b[1:]))))
}

// rewrite has the call at site rewritten and checks the trampoline.
func (p *program) rewrite(m *MemoryManager, site usermem.Addr) usermem.Addr {
	p.t.Helper()
	m.RewriteCall(calling(site, nr))
	at := p.trampoline(m, site)
	if at == 0 {
		p.t.Fatalf("the call at %#x was not rewritten", site)
	}
	p.checkTrampoline(m, site, at)
	return at
}

func (p *program) checkTrampoline(m *MemoryManager, site, at usermem.Addr) {
	p.t.Helper()
	page, ok := m.space.(*rewriteSpace).pages[uint64(at.RoundDown())]
	if !ok || page.access != usermem.Read|usermem.Execute {
		p.t.Fatalf("the trampoline at %#x isn't mapped: %v", at, page)
	}
	whole, _ := page.file.Slice(page.offset, pageSize)
	b := whole[at.PageOffset():]
	le := binary.LittleEndian
	distance := func(off int) usermem.Addr { return usermem.Addr(int64(int32(le.Uint32(b[off:])))) }
	entry := at + 13 + distance(9)
	if !bytes.HasPrefix(b, []byte{0x48, 0x8d, 0x0d}) || at+7+distance(3) != at+trampolineTail ||
		b[7] != 0xff || b[8] != 0x25 || entry != at.RoundDown() || le.Uint64(whole) != fakeEntry ||
		!bytes.Equal(b[13:21], callCode) || b[21] != 0xe9 || at+26+distance(22) != site+8 {
		p.t.Errorf("trampoline of %#x: % x", site, b[:trampolineSize])
	}
}

func (p *program) original(m *MemoryManager, at usermem.Addr) {
	p.t.Helper()
	b := make([]byte, 8)
	if _, err := m.CopyInForce(at, b); err != nil || !bytes.Equal(b, callCode) {
		p.t.Errorf("%#x holds % x (%v)", at, b, err)
	}
	if _, err := m.Blocks(usermem.AddrRange{Start: at, End: at + 8}, usermem.Read, func(got []byte) (int, error) {
		if !bytes.Equal(got, callCode) {
			p.t.Errorf("%#x holds % x for write(2)", at, got)
		}
		return len(got), nil
	}); err != nil {
		p.t.Error(err)
	}
}

func TestRewrittenCallsAreSeenByInstructionsOnly(t *testing.T) {
	p := newProgram(t, 0x10, 0x100, 2*pageSize-8)
	before := p.Stats()
	seen := map[usermem.Addr]bool{}
	for _, s := range []usermem.Addr{0x10, 0x100, 2*pageSize - 8} {
		seen[p.rewrite(p.MemoryManager, p.code+s)] = true
		p.RewriteCall(calling(p.code+s, nr)) // once more
	}
	if len(seen) != 3 {
		t.Error("trampolines are shared")
	}
	for _, s := range []usermem.Addr{0x10, 0x100, 2*pageSize - 8} {
		p.checkTrampoline(p.MemoryManager, p.code+s, p.trampoline(p.MemoryManager, p.code+s))
		p.original(p.MemoryManager, p.code+s)
	}
	if got := p.Stats(); got != before {
		t.Errorf("sizes are %+v, were %+v", got, before)
	}
	for at := range seen {
		if _, ok := p.VMA(at); ok {
			t.Error("a trampoline is in a mapping")
		}
		if err := p.MProtect(at.RoundDown(), pageSize, usermem.Read, false); err != unix.ENOMEM {
			t.Errorf("mprotect of a trampoline: %v", err)
		}
		if err := p.MIncore(at.RoundDown(), pageSize, p.code); err != unix.ENOMEM {
			t.Errorf("mincore of a trampoline: %v", err)
		}
	}
}

func TestWhatIsNotRewritten(t *testing.T) {
	p := newProgram(t, 0x10, pageSize-4)
	p.RewriteCall(calling(p.code+pageSize-4, nr)) // over two pages
	p.RewriteCall(calling(p.code+0x200, nr))      // not a call
	p.RewriteCall(calling(p.code+0x12, nr))
	p.RewriteCall(calling(0, nr))
	p.RewriteCall(calling(^usermem.Addr(0), nr))
	p.RewriteCall(calling(p.code+1<<30, nr))
	p.protect(usermem.ReadWrite | usermem.Execute)
	p.RewriteCall(calling(p.code+0x10, nr))
	p.protect(usermem.Read)
	p.RewriteCall(calling(p.code+0x10, nr))
	shared := mustMap(t, p.MemoryManager, MMapOpts{Length: pageSize})
	p.write(shared, callCode)
	if err := p.MProtect(shared, pageSize, usermem.Read|usermem.Execute, false); err != nil {
		t.Fatal(err)
	}
	p.RewriteCall(calling(shared, nr))
	if p.Rewrites() != 0 || len(p.space.(*rewriteSpace).pages) > 8 {
		t.Error("something was rewritten")
	}
	e := newEnv(t, 0)
	m := e.newMM(t, Options{}) // of a platform that can't
	at := mustMap(t, m, MMapOpts{Length: pageSize, Private: true})
	m.CopyOut(at, callCode)
	m.MProtect(at, pageSize, usermem.Read|usermem.Execute, false)
	m.RewriteCall(calling(at, nr))
	if m.Rewrites() != 0 {
		t.Error("rewritten on a platform that can't")
	}
	m.DecUsers()
}

func TestRewritingIsUndone(t *testing.T) {
	other := []byte{0xb8, 42, 0, 0, 0, 0xc3, 0x90, 0x90}
	for _, test := range []struct {
		name string
		f    func(p *program, site usermem.Addr)
		want []byte // nil: nothing can be executed there
	}{
		{"mprotect and write", func(p *program, site usermem.Addr) {
			p.protect(usermem.ReadWrite)
			p.write(site, other)
			p.protect(usermem.Read | usermem.Execute)
		}, other},
		{"mprotect to all", func(p *program, site usermem.Addr) {
			p.protect(usermem.ReadWrite | usermem.Execute)
			p.write(site, other)
		}, other},
		{"mprotect to read", func(p *program, site usermem.Addr) {
			p.protect(usermem.Read)
			if got := instruction(p.t, p.MemoryManager, site, 8, usermem.Read); !bytes.Equal(got, callCode) {
				p.t.Errorf("it reads % x", got)
			}
			p.protect(usermem.Read | usermem.Execute)
		}, callCode},
		{"write by force", func(p *program, site usermem.Addr) {
			if _, err := p.CopyOutForce(site, other); err != nil {
				p.t.Fatal(err)
			}
		}, other},
		{"write by force elsewhere in the page, twice", func(p *program, site usermem.Addr) {
			for i := range byte(2) {
				if _, err := p.CopyOutForce(site+8, []byte{i}); err != nil {
					p.t.Fatal(err)
				}
				p.RewriteCall(calling(site, nr))
				p.rewrite(p.MemoryManager, site)
			}
			p.CopyOutForce(site+8, []byte{9})
		}, callCode},
		{"madvise", func(p *program, site usermem.Addr) {
			p.MAdvise(p.code, 4*pageSize, unix.MADV_DONTNEED)
		}, make([]byte, 8)},
		{"munmap", func(p *program, site usermem.Addr) { p.MUnmap(p.code, 4*pageSize) }, nil},
		{"another mapping", func(p *program, site usermem.Addr) {
			mustMap(p.t, p.MemoryManager, MMapOpts{Addr: p.code, Length: pageSize, Fixed: true, Private: true, Prot: usermem.Read | usermem.Execute})
		}, make([]byte, 8)},
		{"mremap", func(p *program, site usermem.Addr) {
			if _, err := p.MRemap(p.code, 4*pageSize, 8*pageSize, MRemapOpts{MayMove: true, Fixed: true, NewAddr: p.code + 64*pageSize}); err != nil {
				p.t.Fatal(err)
			}
			p.original(p.MemoryManager, site+64*pageSize)
			p.rewrite(p.MemoryManager, site+64*pageSize)
		}, nil},
		{"the host unmaps", func(p *program, site usermem.Addr) {
			p.space.Unmap(usermem.AddrRange{Start: p.code, End: p.code + pageSize})
			p.rewrite(p.MemoryManager, site)
			p.pageMu.Lock()
			p.as.Unmap(p.UserRange())
			p.pageMu.Unlock()
		}, callCode},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProgram(t, 0x20)
			site := p.code + 0x20
			p.rewrite(p.MemoryManager, site)
			p.t = t
			retired := p.space.(*rewriteSpace).retired
			test.f(p, site)
			if p.space.(*rewriteSpace).retired == retired {
				t.Error("nobody was told")
			}
			if test.want == nil {
				if err := p.HandleFault(site, usermem.Execute); err == nil {
					t.Error("it can still be executed")
				}
				return
			}
			if got := fetch(t, p.MemoryManager, site, 8); !bytes.Equal(got, test.want) {
				t.Errorf("there is % x", got)
			}
			if bytes.Equal(test.want, callCode) {
				p.rewrite(p.MemoryManager, site)
			}
		})
	}
}

func (p *program) UserRange() usermem.AddrRange { return p.platform.UserRange() }

func TestForkInheritsWhatWasRewritten(t *testing.T) {
	p := newProgram(t, 0x20, 0x40, pageSize+0x20)
	a, b, other := p.code+0x20, p.code+0x40, p.code+pageSize+0x20
	p.rewrite(p.MemoryManager, a)
	c, err := p.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if got := p.trampoline(c, a); got != p.trampoline(p.MemoryManager, a) {
		t.Errorf("the child's trampoline is at %#x", got)
	}
	p.checkTrampoline(c, a, p.trampoline(c, a))
	// What one adds, the other doesn't see.
	p.rewrite(c, b)
	p.rewrite(p.MemoryManager, other)
	p.rewrite(p.MemoryManager, b)
	if p.trampoline(c, other) != 0 {
		t.Error("the child sees what the parent has rewritten")
	}
	for _, m := range []*MemoryManager{p.MemoryManager, c} {
		for _, s := range []usermem.Addr{a, b} {
			p.checkTrampoline(m, s, p.trampoline(m, s))
			p.original(m, s)
		}
	}
	if err := c.MProtect(p.code, pageSize, usermem.ReadWrite, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CopyOut(a, []byte("12345678")); err != nil {
		t.Fatal(err)
	}
	p.checkTrampoline(p.MemoryManager, a, p.trampoline(p.MemoryManager, a))
	p.original(p.MemoryManager, a)
	c.DecUsers()
	p.checkTrampoline(p.MemoryManager, b, p.trampoline(p.MemoryManager, b))
}

func TestForkOfMemoryThatIsWipedInheritsNothing(t *testing.T) {
	p := newProgram(t, 0x20)
	p.rewrite(p.MemoryManager, p.code+0x20)
	if err := p.MAdvise(p.code, 4*pageSize, unix.MADV_WIPEONFORK); err != nil {
		t.Fatal(err)
	}
	c, err := p.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer c.DecUsers()
	if got := fetch(t, c, p.code+0x20, 8); bytes.Count(got, []byte{0}) != len(got) {
		t.Errorf("the child executes % x", got)
	}
}

func TestTrampolinesMakeRoom(t *testing.T) {
	p := newProgram(t, 0x20, pageSize)
	site := p.code + 0x20
	at := p.rewrite(p.MemoryManager, site)
	p.rewrite(p.MemoryManager, p.code+pageSize)
	s := p.space.(*rewriteSpace)
	before := p.Rewrites()
	mustMap(t, p.MemoryManager, MMapOpts{Addr: at.RoundDown(), Length: pageSize, Fixed: true, Private: true, Prot: usermem.Read | usermem.Execute})
	if s.expelled == 0 {
		t.Error("nobody was expelled")
	}
	if p.trampoline(p.MemoryManager, site) != 0 || p.trampoline(p.MemoryManager, p.code+pageSize) != 0 {
		t.Error("calls still go there")
	}
	if got := fetch(t, p.MemoryManager, at.RoundDown(), pageSize); bytes.Count(got, []byte{0}) != len(got) {
		t.Error("the new mapping isn't empty")
	}
	// Who was there is still put back; who comes later isn't.
	r := &arch.Registers{Rip: uint64(at) + trampolineTail}
	ev := platform.Event{Kind: platform.EventInterrupted}
	if p.Original(before, &ev, r); r.Rip != uint64(site)+2 {
		t.Errorf("from the tail to %#x", r.Rip)
	}
	r.Rip = uint64(at) + trampolineTail
	if p.Original(p.Rewrites(), &ev, r); r.Rip != uint64(at)+trampolineTail {
		t.Error("the application's own code is taken for a trampoline")
	}
	if again := p.rewrite(p.MemoryManager, site); again.RoundDown() == at.RoundDown() {
		t.Error("in the way again")
	}
}

func TestPlacesInTrampolines(t *testing.T) {
	p := newProgram(t, 0x20)
	site := uint64(p.code) + 0x20
	at := uint64(p.rewrite(p.MemoryManager, usermem.Addr(site)))
	interrupted := platform.Event{Kind: platform.EventInterrupted}
	step := platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGTRAP), Code: trapTrace, TrapNo: 1}
	for _, test := range []struct {
		name string
		rip  uint64
		ev   platform.Event
		want uint64
		kind platform.EventKind
	}{
		{"interrupted before", at, interrupted, site, platform.EventInterrupted},
		{"interrupted at the jump", at + 7, interrupted, site, platform.EventInterrupted},
		{"interrupted at the instruction", at + 13, interrupted, site, platform.EventInterrupted},
		{"interrupted behind", at + 15, interrupted, site + 2, platform.EventInterrupted},
		{"interrupted at the end", at + 21, interrupted, site + 8, platform.EventInterrupted},
		{"interrupted nowhere", at + 3, interrupted, at + 3, platform.EventInterrupted},
		{"another place", at + trampolineSize, interrupted, at + trampolineSize, platform.EventInterrupted},
		{"a step", at, step, site + 2, platform.EventSyscall},
		{"a step of the cmp", at + 21, step, site + 8, platform.EventFault},
		{"a call", at + 15, platform.Event{Kind: platform.EventSyscall}, site + 2, platform.EventSyscall},
		{"unmapped", at + 7, platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGSEGV), Code: 1, Access: usermem.Execute, Addr: usermem.Addr(at)}, site, platform.EventInterrupted},
		{"int3", at + 27, platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGTRAP), Code: 0x80}, at + 27, platform.EventFault},
	} {
		p.RewriteCall(calling(usermem.Addr(site), nr))
		r := &arch.Registers{Rip: test.rip, Rax: 39, Eflags: 0x246}
		ev := test.ev
		p.Original(p.Rewrites(), &ev, r)
		if r.Rip != test.want || ev.Kind != test.kind {
			t.Errorf("%s: %+v at %#x", test.name, ev, r.Rip)
		}
		if ev.Kind == platform.EventSyscall && r.Rcx != r.Rip {
			t.Errorf("%s: rcx is %#x", test.name, r.Rcx)
		}
		if test.name == "a step" && (r.OrigRax != 39 || r.R11 != 0x246) {
			t.Errorf("%s: registers %+v", test.name, r)
		}
	}
}

func TestComparisonIsCarriedOut(t *testing.T) {
	p := newProgram(t, 0x20)
	site := uint64(p.code) + 0x20
	ill := platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGILL), Code: 1, TrapNo: 6}
	ev, r := ill, &arch.Registers{Rip: site + 2}
	if p.Original(0, &ev, r); ev != ill || r.Rip != site+2 {
		t.Error("though nothing was rewritten")
	}
	p.rewrite(p.MemoryManager, usermem.Addr(site))
	p.Original(0, &ev, r)
	if ev.Kind != platform.EventInterrupted || r.Rip != site+8 || r.Eflags != arch.FlagCF|arch.FlagPF|arch.FlagAF {
		t.Errorf("%+v, at %#x, flags %#x", ev, r.Rip, r.Eflags)
	}
	ev, r = ill, &arch.Registers{Rip: site + 2, Eflags: arch.FlagTF}
	p.Original(0, &ev, r)
	if ev.Signo != int32(unix.SIGTRAP) || ev.Code != trapTrace || ev.Addr != usermem.Addr(site+8) || ev.TrapNo != 1 {
		t.Errorf("with the trap flag: %+v", ev)
	}
	for _, rip := range []uint64{site + 1, site + 3, site + 0x100, 0, ^uint64(0)} {
		ev, r = ill, &arch.Registers{Rip: rip}
		if p.Original(0, &ev, r); ev != ill || r.Rip != rip {
			t.Errorf("something is carried out at %#x", rip)
		}
	}
}

// subtractionFlags computes them in another way.
func subtractionFlags(a, b uint64) (flags uint64) {
	d, borrow := bits.Sub64(a, b, 0)
	exact := new(big.Int).Sub(big.NewInt(int64(a)), big.NewInt(int64(b)))
	for flag, on := range map[uint64]bool{
		arch.FlagCF: borrow != 0,
		arch.FlagPF: bits.OnesCount8(uint8(d))%2 == 0,
		arch.FlagAF: a&15 < b&15,
		arch.FlagZF: a == b,
		arch.FlagSF: int64(d) < 0,
		arch.FlagOF: !exact.IsInt64(),
	} {
		if on {
			flags |= flag
		}
	}
	return flags
}

func TestCompareFlags(t *testing.T) {
	values := []uint64{0, 1, 15, 16, 0x7f, 0x80, 0xff, 1<<31 - 1, 1 << 31, 1<<63 - 1, 1 << 63, ^uint64(0), ^uint64(4094), ^uint64(4095), ^uint64(4096)}
	for range 1000 {
		values = append(values, rand.Uint64()>>rand.UintN(64))
	}
	const status = arch.FlagCF | arch.FlagPF | arch.FlagAF | arch.FlagZF | arch.FlagSF | arch.FlagOF
	for _, a := range values {
		for _, b := range values[:30] {
			for _, before := range []uint64{0, ^uint64(0)} {
				if got, want := compareFlags(before, a, b), before&^status|subtractionFlags(a, b); got != want {
					t.Fatalf("cmp %#x, %#x gives %#x, want %#x", b, a, got, want)
				}
			}
		}
	}
}

// Many calls all over a large program.
func TestManyRewrites(t *testing.T) {
	e := newEnv(t, 0)
	m, err := New(rewritePlatform{}, e.file, e.acct, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.DecUsers()
	const pages = 300
	p := &program{m, t, mustMap(t, m, MMapOpts{Length: pages * pageSize, Private: true})}
	var sites []usermem.Addr
	for i := range usermem.Addr(pages * 16) {
		s := p.code + i*256 + i%240
		sites = append(sites, s)
		p.write(s, callCode)
	}
	if err := m.MProtect(p.code, pages*pageSize, usermem.Read|usermem.Execute, false); err != nil {
		t.Fatal(err)
	}
	all := map[usermem.Addr]usermem.Addr{}
	for _, s := range sites {
		m.RewriteCall(calling(s, nr))
		if at := p.trampoline(m, s); at != 0 {
			if o, ok := all[at]; ok {
				t.Fatalf("%#x and %#x share a trampoline", s, o)
			}
			all[at] = s
		}
	}
	if len(all) < 900 {
		t.Errorf("only %d of %d", len(all), len(sites))
	}
	for at, s := range all {
		if p.trampoline(m, s) != at {
			t.Fatalf("%#x goes elsewhere now", s)
		}
		p.checkTrampoline(m, s, at)
	}
	if w := m.as.(*rewritten); len(w.pages) > maxRewrittenPages || len(w.areas) > maxTrampolineAreas {
		t.Errorf("%d pages, %d areas", len(w.pages), len(w.areas))
	}
}

func TestCallsAreRecognised(t *testing.T) {
	const start = 0x10000
	const (
		mov    = "\xb8\x27\x00\x00\x00\x0f\x05\xc3"
		movq   = "\x48\xc7\xc0\x27\x00\x00\x00\x0f\x05\xc3"
		rsi    = "\x48\x89\xf0\x0f\x05\xc3" // mov %rsi, %rax
		load   = "\x48\x8b\xc6\x0f\x05\xc3" // the same
		r8d    = "\x44\x89\xc0\x0f\x05\xc3" // mov %r8d, %eax
		r8r10  = "\x4d\x89\xc2\x0f\x05\xc3" // mov %r8, %r10
		cmp    = "\x48\x3d\x01\xf0\xff\xff"
		filler = "\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90"
	)
	plain := func(code string, size int) callSite {
		c := callSite{at: uint64(len(filler)), plain: uint8(size)}
		copy(c.code[:size], code)
		return c
	}
	compared := func(at int, value uint32) callSite { return callSite{at: uint64(len(filler) + at), value: value} }
	for _, test := range []struct {
		name, before, code string
		want               callSite
	}{
		{"a call and a cmp", "\x90\x90", "\x0f\x05\x48\x3d\x00\xf0\xff\xff", compared(0, 0xfffff000)},
		{"another cmp", "\x90\x90", "\x0f\x05\x48\x3d\x02\xf0\xff\xff", callSite{}},
		{"a call alone", "\x90\x90", "\x0f\x05\xc3\x90\x90\x90\x90\x90", callSite{}},
		{"a number", "\x90\x90", mov, plain(mov, 5)},
		{"a number and a cmp", "\x90\x90", mov[:7] + cmp, plain(mov, 5)},
		{"another number", "\x90\x90", "\xb8\x28\x00\x00\x00\x0f\x05\xc3", callSite{}},
		{"for r8", "\x90\x41", mov, callSite{}},
		{"a short one", "\x90\x66", mov, callSite{}},
		{"behind ModRM", "\xc7\x45", mov, callSite{}},
		{"behind SIB", "\x44\x24", mov, callSite{}},
		{"lea", "\x90\x8d", mov, callSite{}},
		{"as SIB", "\x8b\x84", mov, callSite{}},
		{"a cmp behind such", "\xc7\x45", mov[:7] + cmp, compared(5, 0xfffff001)},
		{"the end of a long number", "\x48\xbf\x01\x02\x03", mov, callSite{}},
		{"the end of an address", "\x48\xa1\x01\x02\x03", mov, callSite{}},
		{"a number for rax", "\x90\x90", movq, plain(movq, 7)},
		{"a negative one", "\x90\x90", "\x48\xc7\xc0\xff\xff\xff\xff\x0f\x05", callSite{}},
		{"one that ends a long one", "\x48\xba\x01", movq, callSite{}},
		{"a register", "\x90\x90", rsi, plain(rsi, 3)},
		{"a register, the other way", "\x90\x90", load, plain(load, 3)},
		{"half a register", "\x90\x90", r8d, plain(r8d, 3)},
		{"an argument", "\x90\x90", r8r10, plain(r8r10, 3)},
		{"a register behind another", "\x89\xf2", rsi, plain(rsi, 3)},
		{"a register and a cmp", "\x90\x90", rsi[:5] + cmp, compared(3, 0xfffff001)},
		{"another register", "\x90\x90", "\x48\x89\xd8\x0f\x05", callSite{}},
		{"a register with more in it", "\x90\x90", "\x41\x89\xd9\x0f\x05", callSite{}},
		{"memory", "\x90\x90", "\x48\x89\x30\x0f\x05", callSite{}},
		{"the stack", "\x90\x90", "\x48\x89\xcc\x0f\x05", callSite{}},
		{"what the call changes", "\x90\x90", "\x48\x89\xf9\x0f\x05", callSite{}},
		{"the end of a number for edi", "\x90\xbf", rsi, callSite{}},
		{"the end of an operand", "\x81\xc7", rsi, callSite{}},
		{"another prefix", "\x90\xf3", rsi, callSite{}},
	} {
		text := []byte(filler + test.before + test.code)
		text = text[len(test.before):]
		off := bytes.LastIndex(text, []byte{0x0f, 0x05})
		r := &arch.Registers{Rip: start + uint64(off) + 2, OrigRax: 39, Rax: 4711, Rsi: 39, R8: 39, R10: 39, Rbx: 1 << 40, R9: 1 << 40, Rcx: 7, Rdi: 7, Rsp: 7}
		if r.OrigRax = 39; test.name == "a negative one" {
			r.OrigRax = ^uint64(0)
		}
		got, ok := findCall(text, start, off, r)
		if test.want != (callSite{}) {
			test.want.at += start
		}
		if got != test.want || ok != (test.want != callSite{}) {
			t.Errorf("%s: %+v", test.name, got)
		}
		if ok && (!got.in(text, start) || got.behind() != r.Rip) {
			t.Errorf("%s isn't found again", test.name)
		}
		for n := range text {
			findCall(text[:n], start, n, r)
			findCall(text, start, n, r)
		}
	}
}

func TestCallsWithAnInstructionInFront(t *testing.T) {
	const syscall, failed = "\x0f\x05", ^uint64(unix.ENOSYS) + 1
	for _, test := range []struct {
		name, code string
		set        func(r *arch.Registers, v uint64) // of what it loads
	}{
		{"mov $39, %eax", "\xb8\x27\x00\x00\x00", nil},
		{"mov $39, %rax", "\x48\xc7\xc0\x27\x00\x00\x00", nil},
		{"mov %rsi, %rax", "\x48\x89\xf0", func(r *arch.Registers, v uint64) { r.Rsi = v }},
		{"mov %r15d, %eax", "\x44\x89\xf8", func(r *arch.Registers, v uint64) { r.R15 = v | 7<<32 }},
		{"mov %rbx, %rax", "\x48\x8b\xc3", func(r *arch.Registers, v uint64) { r.Rbx = v }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newProgram(t)
			p.protect(usermem.ReadWrite)
			n := uint64(len(test.code))
			code := []byte("\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90" + test.code + syscall + "\xc3\xc3\xc3")
			p.write(p.code, code)
			p.protect(usermem.Read | usermem.Execute)
			site := uint64(p.code) + 10
			r := calling(usermem.Addr(site+n), nr+1)
			r.Rax = failed
			p.RewriteCall(r)
			if p.Rewrites() != 0 {
				t.Fatal("rewritten though another number was called")
			}
			r.OrigRax = nr
			if test.set != nil {
				test.set(r, nr)
			}
			p.RewriteCall(r)
			b := fetch(t, p.MemoryManager, p.code, uint64(len(code)))
			if b[10] != 0xe9 || !bytes.Equal(b[:10], code[:10]) || !bytes.Equal(b[max(10+n, 15):], code[max(10+n, 15):]) {
				t.Fatalf("there is % x", b)
			}
			if n == moveSize && !invalidOpcodes[b[13]] {
				t.Errorf("the call's place has % x", b[13:])
			}
			le := binary.LittleEndian
			distance := func(b []byte) uint64 { return uint64(int64(int32(le.Uint32(b)))) }
			at := site + 5 + distance(b[11:])
			page := p.space.(*rewriteSpace).pages[at&^usermem.PageMask]
			whole, _ := page.file.Slice(page.offset, pageSize)
			b = whole[at%pageSize:]
			if !bytes.HasPrefix(b, []byte(test.code+"\x4c\x8d\x1d")) || at+n+7+distance(b[n+3:]) != site+n+2 ||
				b[n+7] != 0xff || b[n+8] != 0x25 || at+n+13+distance(b[n+9:]) != at&^usermem.PageMask+8 || le.Uint64(whole[8:]) != fakeEntry+64 {
				t.Errorf("trampoline % x", b[:trampolineSize])
			}
			var seen [32]byte
			if _, err := p.CopyIn(p.code, seen[:len(code)]); err != nil || !bytes.HasPrefix(seen[:], code) {
				t.Errorf("the program sees % x, %v", seen, err)
			}
			interrupted := platform.Event{Kind: platform.EventInterrupted}
			step := platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGTRAP), Code: trapTrace, TrapNo: 1}
			call := platform.Event{Kind: platform.EventSyscall}
			for _, test := range []struct {
				off, want uint64
				ev        platform.Event
			}{
				{0, site, interrupted}, {n, site + n, interrupted}, {n + 7, site + n, interrupted}, {0, site + n, step},
				{1, at + 1, interrupted}, {n + 8, at + n + 8, interrupted}, {n + 13, at + n + 13, interrupted}, {15, at + 15, call},
			} {
				after := *r
				after.Rip, after.Rax = at+test.off, nr
				if test.ev == step {
					after.Rax = 4711
				}
				ev := test.ev
				p.Original(p.Rewrites(), &ev, &after)
				if after.Rip != test.want || ev.Kind != test.ev.Kind || after.Rax != nr {
					t.Errorf("at %d: %+v at %#x, rax %d", test.off, ev, after.Rip, after.Rax)
				}
			}
			// Who comes to the syscall instruction itself makes the call.
			ill := platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGILL), Code: 1, TrapNo: 6}
			r.Rip, r.Rax, r.Eflags = site+n, 1234, 0x246
			p.Original(p.Rewrites(), &ill, r)
			if ill.Kind != platform.EventSyscall || r.Rip != site+n+2 || r.Rcx != r.Rip || r.R11 != 0x246 || r.OrigRax != 1234 {
				t.Errorf("at the syscall instruction: %+v, %+v", ill, r)
			}
			// Where the platform sends those who can't use a trampoline.
			ill = platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGILL), Code: 1, TrapNo: 6}
			r.Rip, r.GsBase = site+n, 0x1000
			p.Original(p.Rewrites(), &ill, r)
			if b := fetch(t, p.MemoryManager, p.code, uint64(len(code))); !bytes.Equal(b, code) {
				t.Errorf("undone: % x", b)
			}
		})
	}
}

// Calls in the middle of a function, all over a large program at the usual address of one.
func TestManyRewritesOfMoves(t *testing.T) {
	e := newEnv(t, 0)
	m, err := New(rewritePlatform{}, e.file, e.acct, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.DecUsers()
	const pages = 200
	code := mustMap(t, m, MMapOpts{Addr: 0x400000, Fixed: true, Length: pages * pageSize, Private: true})
	text := []byte("\x48\x89\xf0\x0f\x05")
	for i := range usermem.Addr(pages) {
		if _, err := m.CopyOut(code+i*pageSize+100, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.MProtect(code, pages*pageSize, usermem.Read|usermem.Execute, false); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i := range usermem.Addr(pages) {
		r := calling(code+i*pageSize+103, nr)
		r.Rsi = nr
		m.RewriteCall(r)
		b := fetch(t, m, code+i*pageSize+100, 5)
		if b[0] == 0xe9 {
			n++
			if !invalidOpcodes[b[3]] {
				t.Errorf("page %d: % x", i, b)
			}
		} else if !bytes.Equal(b, text) {
			t.Errorf("page %d: % x", i, b)
		}
	}
	if n < 100 {
		t.Errorf("only %d of %d", n, pages)
	}
}
