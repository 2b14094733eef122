package mm

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/hostfd"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/usermem"
)

// TestForkAgainstModel forks, writes and exits at random, with private, shared
// and file memory, and compares a byte of each page with a naive model.
func TestForkAgainstModel(t *testing.T) {
	const (
		base   = usermem.Addr(0x20_0000_0000)
		anon   = 40 // pages [0, anon) are private
		shared = 48 // [anon, shared) shared
		pages  = 56 // [shared, pages) private of a file
	)
	for seed := range uint64(4) {
		e := newEnv(t, 0)
		rng := rand.New(rand.NewPCG(seed, 3))
		store := pagestore.New(e.file, e.acct)
		store.Truncate((pages - shared) * pageSize)
		first := e.newMM(t, Options{})
		mustMap(t, first, MMapOpts{Addr: base, Length: anon * pageSize, Private: true, Fixed: true})
		mustMap(t, first, MMapOpts{Addr: base + anon*pageSize, Length: (shared - anon) * pageSize, Fixed: true})
		mustMap(t, first, MMapOpts{Addr: base + shared*pageSize, Length: (pages - shared) * pageSize, Private: true, Fixed: true, Mappable: store})

		var global [pages]byte // of shared pages and the file
		type process struct {
			m     *MemoryManager
			own   [pages]byte
			owned [pages]bool
		}
		procs := []*process{{m: first}}
		for step := range 4000 {
			p := procs[rng.IntN(len(procs))]
			i := rng.IntN(pages)
			at, b := base+usermem.Addr(i)*pageSize+5, byte(rng.IntN(256))
			private := i < anon || i >= shared
			set := func() {
				if private {
					p.own[i], p.owned[i] = b, true
				} else {
					global[i] = b
				}
			}
			want := func() byte {
				if private && p.owned[i] {
					return p.own[i]
				}
				return global[i]
			}
			switch op := rng.IntN(12); {
			case op < 3:
				if _, err := touch(t, p.m, at, true, b); err != nil {
					t.Fatal(err)
				}
				set()
			case op < 5:
				if _, err := p.m.CopyOut(at, []byte{b}); err != nil {
					t.Fatal(err)
				}
				set()
			case op == 5 && len(procs) < 5: // fork, now and then while Blocks writes
				child := &process{own: p.own, owned: p.owned}
				fork := func() {
					var err error
					if child.m, err = p.m.Fork(); err != nil {
						t.Fatal(err)
					}
				}
				if rng.IntN(2) == 0 && private {
					p.m.Blocks(usermem.AddrRange{Start: at, End: at + 1}, usermem.Write, func(s []byte) (int, error) {
						child.own[i], child.owned[i] = want(), p.owned[i] || i < anon
						fork()
						s[0] = b
						return 1, nil
					})
					if i >= shared {
						child.owned[i], child.own[i] = true, want() // was copied before the fork
					}
					set()
				} else {
					fork()
				}
				procs = append(procs, child)
			case op == 6 && len(procs) > 1:
				for j := range procs {
					if procs[j] == p {
						procs = append(procs[:j], procs[j+1:]...)
						break
					}
				}
				p.m.DecUsers()
				continue
			case op == 7:
				for _, prot := range []usermem.Access{usermem.Read, usermem.ReadWrite} {
					if err := p.m.MProtect(at.RoundDown(), pageSize, prot, false); err != nil {
						t.Fatal(err)
					}
				}
			case op == 8 && private:
				if err := p.m.MAdvise(at.RoundDown(), pageSize, unix.MADV_DONTNEED); err != nil {
					t.Fatal(err)
				}
				p.own[i], p.owned[i] = 0, false
			case op == 9 && i >= shared:
				src := usermem.BytesBuffer([]byte{b})
				if _, err := store.WriteAt(&src, uint64(i-shared)*pageSize+5); err != nil {
					t.Fatal(err)
				}
				global[i] = b
			}
			check(t, p.m)
			if got, err := touch(t, p.m, at, false, 0); err != nil || got != want() {
				t.Fatalf("seed %d step %d: page %d holds %d (%v), want %d", seed, step, i, got, err, want())
			}
		}
		for _, p := range procs {
			for i := range pages {
				v := global[i]
				if p.owned[i] {
					v = p.own[i]
				}
				wantByte(t, p.m, base+usermem.Addr(i)*pageSize+5, v)
			}
			p.m.DecUsers()
		}
		store.Release()
		if e.acct.Usage() != 0 {
			t.Fatalf("%d bytes are left", e.acct.Usage())
		}
	}
}

func TestForkHonoursAdvice(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 6 * pageSize, Private: true})
	for i := range usermem.Addr(6) {
		touch(t, m, a+i*pageSize, true, 7)
	}
	for _, c := range []struct {
		at     usermem.Addr
		advice int
	}{{a, unix.MADV_DONTFORK}, {a + 2*pageSize, unix.MADV_WIPEONFORK}} {
		if err := m.MAdvise(c.at, pageSize, c.advice); err != nil {
			t.Fatal(err)
		}
	}
	c, err := m.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.HandleFault(a, usermem.Read); err != faultMapErr {
		t.Errorf("a page that is not inherited: %v", err)
	}
	wantByte(t, c, a+pageSize, 7)
	wantByte(t, c, a+2*pageSize, 0)
	wantByte(t, m, a+2*pageSize, 7)
	check(t, c)
	check(t, m)
	c.DecUsers()
	if c.IncUsersIfAlive() {
		t.Error("a dead address space has users")
	}
	// A fork's only survivor takes pages over instead of copying them.
	before := e.acct.Usage()
	for i := range usermem.Addr(6) {
		touch(t, m, a+i*pageSize, true, 8)
	}
	if e.acct.Usage() != before {
		t.Errorf("usage went from %d to %d", before, e.acct.Usage())
	}
	m.DecUsers()
	if e.acct.Usage() != 0 {
		t.Errorf("%d bytes are left", e.acct.Usage())
	}
}

func TestFaultKinds(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	store := pagestore.New(e.file, e.acct)
	store.Truncate(pageSize)
	ro := mustMap(t, m, MMapOpts{Length: pageSize, Private: true, Prot: usermem.Read})
	file := mustMap(t, m, MMapOpts{Length: 2 * pageSize, Mappable: store})
	for _, c := range []struct {
		name   string
		addr   usermem.Addr
		access usermem.Access
		want   error
	}{
		{"unmapped", 0x1234, usermem.Read, faultMapErr},
		{"kernel half", 0xffff800000000000, usermem.Read, faultMapErr},
		{"write to read-only", ro, usermem.Write, faultAccErr},
		{"execute data", ro, usermem.Execute, faultAccErr},
		{"read", ro, usermem.Read, nil},
		{"in the file", file + 5, usermem.Write, nil},
		{"behind the file", file + pageSize, usermem.Read, faultBus},
	} {
		if err := m.HandleFault(c.addr, c.access); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	var b [1]byte
	if _, err := m.CopyIn(file+pageSize, b[:]); err != unix.EFAULT {
		t.Errorf("copy from behind the file: %v", err)
	}
	if _, err := m.CopyIn(0xffffffffffffffff, make([]byte, 10)); err != unix.EFAULT {
		t.Errorf("copy across the end of addresses: %v", err)
	}
	store.Truncate(0)
	if err := m.HandleFault(file, usermem.Read); err != faultBus {
		t.Errorf("after a truncation: %v", err)
	}
	check(t, m)
}

func TestMemoryLimitEndsInOOM(t *testing.T) {
	e := newEnv(t, 20*pageSize)
	m := e.newMM(t, Options{})
	// More than there is can't be had at all, unless nothing is reserved.
	if _, err := m.MMap(MMapOpts{Length: 100 * pageSize, Prot: usermem.ReadWrite, Private: true}); err != unix.ENOMEM {
		t.Errorf("a mapping larger than memory: %v", err)
	}
	a := mustMap(t, m, MMapOpts{Length: 100 * pageSize, Private: true, NoReserve: true})
	i := usermem.Addr(0)
	for ; i < 100; i++ {
		if err := m.HandleFault(a+i*pageSize, usermem.Write); err != nil {
			if err != ErrOOM {
				t.Fatal(err)
			}
			break
		}
	}
	if i != 20 {
		t.Errorf("%d pages before the limit of 20", i)
	}
	if m.Starved() {
		t.Error("starved by faults, which the application sees itself")
	}
	if n, err := m.CopyOut(a+19*pageSize, make([]byte, 2*pageSize)); n != pageSize || err != unix.EFAULT {
		t.Errorf("copy beyond the limit: %d, %v", n, err)
	}
	if !m.Starved() || m.Starved() {
		t.Error("not starved once by a copy")
	}
	m.MAdvise(a, 10*pageSize, unix.MADV_DONTNEED)
	if err := m.HandleFault(a+50*pageSize, usermem.Write); err != nil {
		t.Errorf("after giving memory back: %v", err)
	}
}

func TestHostOutOfMappings(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 4096 * pageSize, Private: true}) // large: a fault fills little of it
	touch(t, m, a, true, 3)
	m.as.(*fakeSpace).fail = 1
	touch(t, m, a+40*pageSize, true, 4)
	wantByte(t, m, a, 3)
	wantByte(t, m, a+40*pageSize, 4)
	m.as.(*fakeSpace).fail = 2
	if err := m.HandleFault(a+60*pageSize, usermem.Read); err != ErrOOM {
		t.Errorf("with a host that maps nothing: %v", err)
	}
	check(t, m)
}

func TestStackGrowsToItsLimit(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{Limits: FixedLimits{NoLimit, NoLimit, 1 << 20}})
	top := usermem.Addr(0x7000_0000_0000)
	mustMap(t, m, MMapOpts{Addr: top - 4*pageSize, Length: 4 * pageSize, Private: true, Fixed: true, GrowsDown: true, Name: "[stack]"})
	touch(t, m, top-100*pageSize, true, 1)
	if _, err := m.CopyOut(top-120*pageSize, []byte{2}); err != nil {
		t.Errorf("a copy does not grow the stack: %v", err)
	}
	if err := m.HandleFault(top-1<<20, usermem.Write); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := m.HandleFault(top-1<<20-1, usermem.Write); err != faultMapErr {
		t.Errorf("beyond the limit: %v", err)
	}
	m.SetLimits(FixedLimits{NoLimit, NoLimit, NoLimit})
	mustMap(t, m, MMapOpts{Addr: top - 4<<20, Length: pageSize, Private: true, Fixed: true})
	if err := m.HandleFault(top-3<<20+pageSize, usermem.Write); err != nil {
		t.Errorf("at the guard gap: %v", err)
	}
	if err := m.HandleFault(top-3<<20, usermem.Write); err != faultMapErr {
		t.Errorf("in the guard gap: %v", err)
	}
	if got := m.Stats().Stack; got != 3<<20-pageSize {
		t.Errorf("stack of %d bytes", got)
	}
	check(t, m)
}

func TestBrk(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{Limits: FixedLimits{NoLimit, 1 << 20, 8 << 20}})
	start := usermem.Addr(0x5555_0000_0123)
	m.SetBrk(start)
	if got := m.Brk(0); got != start {
		t.Errorf("brk(0) is %#x", got)
	}
	if got := m.Brk(start + 10000); got != start+10000 {
		t.Errorf("growing: %#x", got)
	}
	touch(t, m, start+9999, true, 9)
	if got := m.Brk(start + 2<<20); got != start+10000 {
		t.Errorf("beyond RLIMIT_DATA: %#x", got)
	}
	if got := m.Brk(start + 100); got != start+100 {
		t.Errorf("shrinking: %#x", got)
	}
	m.Brk(start + 10000)
	wantByte(t, m, start+9999, 0)
	if i, ok := m.VMA(start + 9000); !ok || i.Name != "[heap]" {
		t.Errorf("the heap is %+v", i)
	}
	check(t, m)
}

func TestLimitsAndHostileArguments(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{Limits: FixedLimits{1 << 30, 1 << 20, 8 << 20}})
	a := mustMap(t, m, MMapOpts{Length: 1 << 20, Private: true})
	const most = ^uint64(0)
	for _, c := range []struct {
		name string
		got  error
		want error
	}{
		{"data", second(m.MMap(MMapOpts{Length: pageSize, Private: true, Prot: usermem.ReadWrite})), unix.ENOMEM},
		{"address space", second(m.MMap(MMapOpts{Length: 1 << 30, Private: true})), unix.ENOMEM},
		{"no length", second(m.MMap(MMapOpts{Private: true})), unix.EINVAL},
		{"length wraps", second(m.MMap(MMapOpts{Length: most, Private: true})), unix.ENOMEM},
		{"offset wraps", second(m.MMap(MMapOpts{Length: 2 * pageSize, Offset: most &^ 0xfff, Private: true})), unix.EOVERFLOW},
		{"fixed wraps", second(m.MMap(MMapOpts{Addr: usermem.Addr(most &^ 0xfff), Length: pageSize, Fixed: true, Private: true})), unix.ENOMEM},
		{"fixed at null", second(m.MMap(MMapOpts{Length: pageSize, Fixed: true, Private: true})), unix.EPERM},
		{"fixed unaligned", second(m.MMap(MMapOpts{Addr: a + 1, Length: pageSize, Fixed: true, Private: true})), unix.EINVAL},
		{"no replace", second(m.MMap(MMapOpts{Addr: a, Length: pageSize, FixedNoReplace: true, Private: true})), unix.EEXIST},
		{"munmap wraps", m.MUnmap(a, most), unix.EINVAL},
		{"munmap wraps 2", m.MUnmap(a, most-uint64(a)-pageSize), unix.EINVAL},
		{"mprotect wraps", m.MProtect(a, most, 0, false), unix.ENOMEM},
		{"madvise wraps", m.MAdvise(a, most-5, unix.MADV_DONTNEED), unix.EINVAL},
		{"mremap wraps", second(m.MRemap(a, pageSize, most, MRemapOpts{MayMove: true})), unix.EINVAL},
		{"mremap huge", second(m.MRemap(a, pageSize, 1<<62, MRemapOpts{MayMove: true})), unix.ENOMEM},
		{"mlock wraps", m.MLock(a+5, most-3, false, NoLimit), unix.EINVAL},
		{"mlock limit", m.MLock(a, 2*pageSize, false, pageSize), unix.ENOMEM},
		{"mincore of nothing", m.MIncore(0x10000, pageSize, a), unix.ENOMEM},
		{"growsdown of no stack", m.MProtect(a, pageSize, 0, true), unix.EINVAL},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
	check(t, m)
}

func second[T any](_ T, err error) error { return err }

func TestMapCountIsBounded(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 3 * MaxMappings * pageSize, Private: true})
	i := usermem.Addr(0)
	var err error
	for ; i < 2*MaxMappings && err == nil; i++ {
		err = m.MProtect(a+2*i*pageSize, pageSize, usermem.Read, false)
	}
	if err != unix.ENOMEM || m.vmas.Len() > MaxMappings {
		t.Errorf("%d mappings, %v", m.vmas.Len(), err)
	}
	if err := m.MUnmap(a+2*MaxMappings*pageSize, pageSize); err != unix.ENOMEM {
		t.Errorf("a hole more: %v", err)
	}
	if err := m.MUnmap(a, 3*MaxMappings*pageSize); err != nil {
		t.Error(err)
	}
}

func TestForceWritesReadOnlyPrivateMemory(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	store := pagestore.New(e.file, e.acct)
	src := usermem.BytesBuffer(bytes.Repeat([]byte{5}, pageSize))
	store.WriteAt(&src, 0)
	text := mustMap(t, m, MMapOpts{Length: pageSize, Private: true, Prot: usermem.Read | usermem.Execute, Mappable: store})
	shared := mustMap(t, m, MMapOpts{Length: pageSize, Prot: usermem.Read, Mappable: store})
	wantByte(t, m, text, 5)
	if _, err := m.CopyOut(text, []byte{1}); err != unix.EFAULT {
		t.Errorf("ordinary copy: %v", err)
	}
	if _, err := m.CopyOutForce(text, []byte{0xcc}); err != nil {
		t.Errorf("forced copy: %v", err)
	}
	if _, err := m.CopyOutForce(shared, []byte{0xcc}); err != unix.EFAULT {
		t.Errorf("forced copy to shared memory: %v", err)
	}
	wantByte(t, m, text, 0xcc)
	wantByte(t, m, shared, 5)
	check(t, m)
}

func TestFutexKeys(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	private := mustMap(t, m, MMapOpts{Length: pageSize, Private: true})
	shared := mustMap(t, m, MMapOpts{Length: 2 * pageSize})
	c, err := m.Fork()
	if err != nil {
		t.Fatal(err)
	}
	key := func(m *MemoryManager, a usermem.Addr) FutexKey {
		k, err := m.SharedKey(a)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(m, private) == key(c, private) {
		t.Error("private words of two processes are one")
	}
	if key(m, shared+8) != key(c, shared+8) || key(m, shared) == key(m, shared+4) {
		t.Error("shared words are told apart wrongly")
	}
	if _, err := m.SharedKey(0x1000); err != unix.EFAULT {
		t.Errorf("key of nothing: %v", err)
	}
	if old, err := m.SwapUint32(shared, 5); old != 0 || err != nil {
		t.Error(old, err)
	}
	if got, err := c.CompareAndSwapUint32(shared, 5, 6); got != 5 || err != nil {
		t.Error(got, err)
	}
	if got, err := m.CompareAndSwapUint32(shared, 5, 7); got != 6 || err != nil {
		t.Error(got, err)
	}
	if got, err := m.LoadUint32(shared); got != 6 || err != nil {
		t.Error(got, err)
	}
	if _, err := m.LoadUint32(shared + 2); err != unix.EINVAL {
		t.Errorf("unaligned: %v", err)
	}
}

// TestHostFileShrinks truncates a host file under a mapping.
func TestHostFileShrinks(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	path := t.TempDir() + "/file"
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 2*pageSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(2 * pageSize)
	closed := -1
	f := hostfd.New(fd, hostfd.Options{Writable: true, Size: func() uint64 { return size }, Closing: func(fd int) { closed = fd }})
	shared := mustMap(t, m, MMapOpts{Length: 3 * pageSize, Mappable: f})
	private := mustMap(t, m, MMapOpts{Length: 3 * pageSize, Mappable: f, Private: true})
	wantByte(t, m, shared, 'x')
	wantByte(t, m, private+pageSize, 'x')
	touch(t, m, private, true, 'p')
	touch(t, m, shared+1, true, 's')
	wantByte(t, m, private, 'p')
	wantByte(t, m, shared, 'x')
	if b, _ := os.ReadFile(path); b[0] != 'x' || b[1] != 's' {
		t.Errorf("the file begins with %q", b[:2])
	}
	if err := m.HandleFault(shared+2*pageSize, usermem.Read); err != faultBus {
		t.Errorf("behind the file: %v", err)
	}
	// Somebody else truncates it, and we don't know.
	os.Truncate(path, 0)
	var b [10]byte
	if _, err := m.CopyIn(shared, b[:]); err != unix.EFAULT {
		t.Errorf("copy from a page that is gone: %v", err)
	}
	if _, err := m.Blocks(usermem.AddrRange{Start: shared, End: shared + 5}, usermem.Read, func(p []byte) (int, error) { return copy(b[:], p), nil }); err != unix.EFAULT {
		t.Errorf("blocks of a page that is gone: %v", err)
	}
	if err := m.HandleFault(private+pageSize, usermem.Write); err != faultBus {
		t.Errorf("copying a page that is gone: %v", err)
	}
	wantByte(t, m, private, 'p')
	// Now we know.
	size = 0
	f.Truncated(0)
	if err := m.HandleFault(private, usermem.Read); err != faultBus {
		t.Errorf("private page of a file that was truncated: %v", err)
	}
	check(t, m)
	f.Release()
	if closed >= 0 {
		t.Error("the file was closed while it is mapped")
	}
	m.DecUsers()
	if closed != fd {
		t.Error("the file was not closed with its last mapping")
	}
}

func TestMappingsShow(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 4 * pageSize, Private: true, Name: "[test]"})
	touch(t, m, a, true, 1)
	mustMap(t, m, MMapOpts{Length: pageSize})
	var got []VMAInfo
	m.VMAs(func(i VMAInfo) bool { got = append(got, i); return true })
	if len(got) != 2 || got[1].Name != "[test]" || got[1].Resident == 0 || !got[1].Private || got[0].Name != "/dev/zero (deleted)" {
		t.Errorf("mappings are %+v", got)
	}
	s := m.Stats()
	if s.Size != 5*pageSize || s.Data != 4*pageSize || s.RSS == 0 || s.RSS != s.RSSAnon {
		t.Errorf("sizes are %+v", s)
	}
}

// TestManyThreads faults, copies, maps and forks at once, for the race detector
// and for deadlocks.
func TestManyThreads(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	store := pagestore.New(e.file, e.acct)
	store.Truncate(16 * pageSize)
	anon := mustMap(t, m, MMapOpts{Length: 64 * pageSize, Private: true})
	file := mustMap(t, m, MMapOpts{Length: 16 * pageSize, Mappable: store})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 1))
			var buf [3 * pageSize]byte
			for range 400 {
				i := usermem.Addr(rng.IntN(60)) * pageSize
				switch rng.IntN(10) {
				case 0:
					m.HandleFault(anon+i, usermem.Write)
				case 1:
					m.CopyOut(anon+i+100, buf[:])
				case 2:
					m.CopyIn(file+i%(13*pageSize), buf[:])
				case 3:
					if c, err := m.Fork(); err == nil {
						c.CopyOut(anon+i, buf[:])
						c.DecUsers()
					}
				case 4:
					store.Truncate(uint64(rng.IntN(17)) * pageSize)
				case 5: // a read(2) of the object into a mapping of itself
					b := usermem.SingleBuffer(m, usermem.AddrRange{Start: file, End: file + 4*pageSize})
					store.ReadAt(&b, 0)
				case 6: // and a write(2)
					b := usermem.SingleBuffer(m, usermem.AddrRange{Start: file, End: file + 4*pageSize})
					store.WriteAt(&b, 2*pageSize)
				case 7:
					m.MAdvise(anon+i, 4*pageSize, unix.MADV_DONTNEED)
				case 8:
					if a, err := m.MMap(MMapOpts{Length: 8 * pageSize, Prot: usermem.ReadWrite, Populate: true}); err == nil {
						m.MUnmap(a, 8*pageSize)
					}
				case 9:
					m.MProtect(anon+i, pageSize, usermem.Access(rng.IntN(4)), false)
				}
			}
		})
	}
	wg.Wait()
	check(t, m)
	m.DecUsers()
	store.Release()
	if e.acct.Usage() != 0 {
		t.Errorf("%d bytes are left", e.acct.Usage())
	}
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	if locks.Checked {
		t.Skip("checked locks allocate")
	}
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 64 * pageSize, Private: true})
	var buf [16]byte
	m.CopyOut(a, buf[:])
	if n := testing.AllocsPerRun(100, func() {
		m.CopyIn(a, buf[:])
		m.CopyOut(a, buf[:])
		m.LoadUint32(a)
	}); n != 0 {
		t.Errorf("%v allocations per copy", n)
	}
}

func BenchmarkCopyIn16(b *testing.B) {
	e := newEnv(b, 0)
	m := e.newMM(b, Options{})
	for range 200 { // a process has some mappings
		mustMap(b, m, MMapOpts{Length: pageSize, Private: true, Prot: usermem.Read})
		mustMap(b, m, MMapOpts{Length: pageSize, Private: true})
	}
	a := mustMap(b, m, MMapOpts{Length: 4 * pageSize, Private: true})
	var buf [16]byte
	m.CopyOut(a, buf[:])
	b.ReportAllocs()
	for b.Loop() {
		m.CopyIn(a, buf[:])
	}
}

func BenchmarkCopyOut64K(b *testing.B) {
	e := newEnv(b, 0)
	m := e.newMM(b, Options{})
	a := mustMap(b, m, MMapOpts{Length: 64 << 10, Private: true})
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		m.CopyOut(a, buf)
	}
}

// TestPlacementFindsTheHighestGap maps and unmaps at random and compares where
// mappings go with a search of everything.
func TestPlacementFindsTheHighestGap(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	type mapping struct {
		at     usermem.Addr
		length uint64
	}
	var have []mapping
	for range 3000 {
		if len(have) > 100 || len(have) > 0 && rng.IntN(3) == 0 {
			i := rng.IntN(len(have))
			h := have[i]
			have[i] = have[len(have)-1]
			have = have[:len(have)-1]
			if rng.IntN(4) == 0 {
				to, err := m.MRemap(h.at, h.length, h.length+4*pageSize, MRemapOpts{MayMove: true})
				if err != nil {
					t.Fatal(err)
				}
				have = append(have, mapping{to, h.length + 4*pageSize})
			} else if err := m.MUnmap(h.at, h.length); err != nil {
				t.Fatal(err)
			}
			continue
		}
		length := uint64(1+rng.IntN(8)) * pageSize
		want := uint64(m.layout.base)
		m.vmas.Descend(uint64(m.layout.base), func(v vmaEntry) bool {
			if want >= v.End && want-v.End >= length {
				return false
			}
			want = min(want, v.Start)
			return true
		})
		// Attributes that keep neighbours apart.
		prot := []usermem.Access{usermem.Read, usermem.ReadWrite, usermem.Execute}[rng.IntN(3)]
		at := mustMap(t, m, MMapOpts{Length: length, Private: true, Prot: prot})
		if uint64(at)+length != want {
			t.Fatalf("%d bytes were put at %#x, want %#x", length, at, want-length)
		}
		have = append(have, mapping{at, length})
	}
	check(t, m)
}

func TestLateFaultsDoNotMapAgain(t *testing.T) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	a := mustMap(t, m, MMapOpts{Length: 64 * pageSize, Private: true, NoReserve: true})
	s := m.as.(*fakeSpace)
	for range 3 { // three threads touch the same page at once
		if err := m.HandleFault(a, usermem.Write); err != nil {
			t.Fatal(err)
		}
	}
	if s.maps != 1 {
		t.Errorf("mapped %d times", s.maps)
	}
	// Should the host have lost it, it comes back.
	s.Unmap(usermem.AddrRange{Start: a, End: a + 64*pageSize})
	touch(t, m, a, true, 1)
	wantByte(t, m, a, 1)
}

// A page of a private mapping follows the object until it is written, unless
// the object was said to be steady: then its neighbours are copied with it.
func TestOnlySteadyMappingsAreCopiedAhead(t *testing.T) {
	for _, steady := range []bool{false, true} {
		e := newEnv(t, 0)
		m := e.newMM(t, Options{})
		path := t.TempDir() + "/file"
		const pages = 40
		if err := os.WriteFile(path, []byte(strings.Repeat("x", pages*pageSize-100)), 0o600); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := hostfd.New(fd, hostfd.Options{Size: func() uint64 { return pages * pageSize }, Closing: func(fd int) { unix.Close(fd) }})
		at := mustMap(t, m, MMapOpts{Length: (pages + 3) * pageSize, Mappable: f, Private: true, Steady: steady})
		window := func(page int) uint64 { return (uint64(at) + uint64(page)*pageSize) &^ (cowWindow - 1) }
		const first, last = 20, pages - 1
		for _, page := range []int{first, last} {
			if _, err := touch(t, m, at+usermem.Addr(page)*pageSize, true, 'w'); err != nil {
				t.Fatalf("steady %v: page %d: %v", steady, page, err)
			}
		}
		if _, err := unix.Pwrite(fd, []byte(strings.Repeat("y", pages*pageSize-100)), 0); err != nil {
			t.Fatal(err)
		}
		for page := range pages {
			want := byte('y')
			switch {
			case page == first || page == last:
				want = 'w'
			case steady && (window(page) == window(first) || window(page) == window(last)):
				want = 'x'
			}
			// CopyIn does not fault pages as the application does.
			var b [1]byte
			if _, err := m.CopyIn(at+usermem.Addr(page)*pageSize, b[:]); err != nil || b[0] != want {
				t.Errorf("steady %v: page %d holds %q (%v), want %q", steady, page, b[0], err, want)
			}
		}
		if err := m.HandleFault(at+pages*pageSize, usermem.Write); err != faultBus {
			t.Errorf("steady %v: behind the file: %v", steady, err)
		}
		check(t, m)
		m.DecUsers()
		f.Release()
	}
}
