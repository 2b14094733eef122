package mm

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// Where a platform has a cheaper way to the Sentry than the syscall instruction
// (platform.CallRewriter), instructions that call often are replaced by a jump
// to a trampoline. Only what the address space maps is changed: the areas go on
// saying what the application has put there, so that all copies by the Sentry
// (write(2), ptrace(2), /proc/PID/mem, core dumps) see that. A rewritten page
// is a page of the memory file that stands in for another one while that is
// mapped to be executed and not to be written. It is never changed while it is
// mapped: another one takes its place, in one operation of the host, and
// threads in that page find either.
//
// What is replaced is the instruction in front of the syscall instruction, if it
// loads the number:
//
//	b8 imm32           mov $imm32, %eax
//	0f 05              syscall
//
// Who comes to the syscall instruction otherwise, makes the call by it. Or else
// it is the first five of these eight bytes, which most other calls of the C
// library and of Go have:
//
//	0f 05              syscall
//	48 3d 0x f0 ff ff  cmp $-4096 or $-4095, %rax
//
// The jump is e9 and four bytes of distance. Who comes to the cmp otherwise, as
// a thread does that was in the call meanwhile or is to return to it from a
// signal handler, meets the second byte of the distance. The trampoline's
// place is chosen such that this is an opcode that isn't valid in 64-bit mode,
// whatever follows. Its exception says that the application, as it sees its own
// memory, has a cmp where the processor refused: that is carried out here.
//
// Trampolines lie in pages that no mapping of the application covers and that
// nobody is told of. One is never used for another instruction, and goes only
// when the application maps something in its place. Before that all contexts
// are made to leave it (Expel).
//
// The state is guarded by pageMu, which callers hold for writing unless
// something else is said. rewritten stands in for the platform's address space
// from the first rewriting on, to see what is mapped and unmapped.

const (
	// trampolineSize is the room of one trampoline. The first of each page is
	// taken by the addresses of the entries.
	trampolineSize = 32
	// areaPages is how many pages of trampolines lie together: the distance's
	// lower sixteen bits can be any.
	areaPages = 16
	areaBytes = areaPages * pageSize
	// maxTrampolineAreas and maxRewrittenPages bound what an application can
	// make of it.
	maxTrampolineAreas = 8
	maxRewrittenPages  = 256
	// maxReach is how far a trampoline may be.
	maxReach = math.MaxInt32 - 2*areaBytes

	// Where the instructions of a trampoline are: see platform.CallRewriter.
	trampolineJump = 7
	trampolineSlow = 13
	trampolineTail = 15
	trampolineBack = 21

	plainLahf = 3
	plainLea  = 4
	plainJump = 11
	plainSlow = 17
	plainCall = 22
	plainTail = 24

	syscallSize = 2
	cmpSize     = 6
	movSize     = 5
	jumpSize    = 5
)

// callSite is an instruction to replace.
type callSite struct {
	at uint64
	// plain: it loads the number, value, and a syscall instruction follows.
	// Otherwise it is a syscall instruction, and what follows compares with
	// value.
	plain bool
	value uint32
}

// behind is the address behind the syscall instruction.
func (c callSite) behind() uint64 {
	if c.plain {
		return c.at + movSize + syscallSize
	}
	return c.at + syscallSize
}

// findCall returns how the call can be replaced whose syscall instruction is
// at offset off of text, a page that begins at start, and was made with nr in
// rax.
func findCall(text []byte, start uint64, off int, nr uint64) (callSite, bool) {
	le := binary.LittleEndian
	if off+syscallSize > len(text) || text[off] != 0x0f || text[off+1] != 0x05 {
		return callSite{}, false
	}
	if off >= movSize+2 && text[off-movSize] == 0xb8 && uint64(le.Uint32(text[off-movSize+1:])) == nr {
		// These five bytes may be the end of a longer instruction: one with
		// a prefix, or with b8 as an offset behind ModRM or SIB, or b8 as ModRM
		// of lea, or as SIB. (In other forms they would be an address that can't
		// be, or would have faulted.)
		a, b := text[off-movSize-2], text[off-movSize-1]
		if b&0xc0 != 0x40 && a&0xc7 != 0x44 && b != 0x8d && b&0xc7 != 0x84 {
			return callSite{start + uint64(off-movSize), true, uint32(nr)}, true
		}
	}
	if b := text[off+syscallSize:]; len(b) >= cmpSize &&
		b[0] == 0x48 && b[1] == 0x3d && b[2] <= 1 && b[3] == 0xf0 && b[4] == 0xff && b[5] == 0xff {
		return callSite{start + uint64(off), false, le.Uint32(b[2:])}, true
	}
	return callSite{}, false
}

// in reports whether c is still what a page holds.
func (c callSite) in(text []byte, start uint64) bool {
	off := int(c.at - start)
	if c.plain {
		off += movSize
	}
	got, ok := findCall(text, start, off, uint64(c.value))
	return ok && got == c
}

// invalidOpcodes are those that 64-bit mode doesn't have (Intel SDM vol. 2,
// appendix A). Of those, d5, 62, c4 and c5 have become prefixes.
var invalidOpcodes = func() (set [256]bool) {
	for _, op := range []byte{
		0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f,
		0x60, 0x61, 0x82, 0x9a, 0xce, 0xd4, 0xea,
	} {
		set[op] = true
	}
	return set
}()

// rewritten is the address space of a MemoryManager whose code was rewritten.
type rewritten struct {
	platform.CallRewriter
	m *MemoryManager

	pages map[uint64]*rewrittenPage
	// trampolines are those of the instructions. An entry stays when its page
	// is undone.
	trampolines map[callSite]uint64
	areas       []*trampolineArea
}

// rewrittenPage stands in for a page of another file.
type rewrittenPage struct {
	file   memmap.File
	offset uint64
	frame  uint64 // in the memory file
	sites  []callSite
}

// trampolineArea is a few pages of trampolines. Which instruction one belongs
// to doesn't change.
type trampolineArea struct {
	start  uint64
	frames [areaPages]uint64   // in the memory file
	used   [areaPages]bool     // which pages there are
	sites  map[uint64]callSite // of trampolines
	// gone is what Rewrites returned when the area's place was taken; zero
	// before.
	gone uint64
}

func (a *trampolineArea) overlaps(start, end uint64) bool {
	return a.start < end && start < a.start+areaBytes
}

// rewriteView is what can be looked at without a lock. Zero: nothing was ever
// rewritten.
type rewriteView struct {
	count atomic.Uint64
	areas atomic.Pointer[[]*trampolineArea]
}

// maxGone is how many areas are remembered that are gone.
const maxGone = 16

// Rewrites returns zero if no code of this address space was ever rewritten. The
// value is for Original.
func (m *MemoryManager) Rewrites() uint64 { return m.rewrites.count.Load() }

// publish shows what Original goes by, a new area included.
func (m *MemoryManager) publish(a *trampolineArea) {
	var areas []*trampolineArea
	gone := 0
	if old := m.rewrites.areas.Load(); old != nil {
		for _, o := range *old {
			if o.gone != 0 {
				gone++
			}
			areas = append(areas, o)
		}
	}
	for i := 0; gone > maxGone; {
		if areas[i].gone == 0 {
			i++
			continue
		}
		areas = append(areas[:i], areas[i+1:]...)
		gone--
	}
	if a != nil {
		areas = append(areas, a)
	}
	m.rewrites.areas.Store(&areas)
}

// Original makes of an event and of registers what they would be had no code been
// rewritten. before is what Rewrites returned before the Switch. It is safe for
// concurrent use, and quick after a system call that came as it should.
func (m *MemoryManager) Original(before uint64, ev *platform.Event, r *arch.Registers) {
	areas := m.rewrites.areas.Load()
	if areas == nil {
		return
	}
	for _, a := range *areas {
		if r.Rip-a.start < areaBytes {
			if m.leaveTrampoline(a, before, ev, r) {
				return
			}
			break
		}
	}
	if ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGILL) {
		m.emulateCompare(ev, r)
	}
}

// leaveTrampoline is Original where the application may be in a trampoline; it
// reports whether it was.
func (m *MemoryManager) leaveTrampoline(a *trampolineArea, before uint64, ev *platform.Event, r *arch.Registers) bool {
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	if a.gone != 0 && before >= a.gone {
		return false // the application's own code, in the place of an area
	}
	at := r.Rip &^ (trampolineSize - 1)
	site, ok := a.sites[at]
	if !ok {
		return false
	}
	off := r.Rip - at
	next := site.behind()
	if site.plain {
		switch off {
		case plainLahf, plainLea, plainJump, plainSlow:
			off = 0 // rax, which is changed, gets the number
		case plainCall:
			off = trampolineSlow
		case plainTail:
			off = trampolineTail
		case 0:
		default:
			return false
		}
	}
	trap := ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGTRAP) && ev.Code == trapTrace
	switch {
	case ev.Kind == platform.EventSyscall:
		if off != trampolineTail {
			return false // the application has jumped somewhere
		}
		r.Rip = next
		r.Rcx = r.Rip
		if w, ok := m.as.(*rewritten); ok {
			// Who can't use them pays for two exceptions.
			w.undo(site.at, site.at+1)
		}
	case ev.Kind == platform.EventFault && !trap && ev.Access == 0:
		return false // not by the instructions of a trampoline
	case trap && off == 0 && site.plain:
		// A step over the jump is one over the instruction.
		r.Rip = site.at + movSize
		r.Rax = uint64(site.value)
	case trap && off == 0:
		r.Rip = next
		r.Rcx, r.R11, r.OrigRax = r.Rip, r.Eflags, r.Rax
		*ev = platform.Event{Kind: platform.EventSyscall}
	case off == 0, off == trampolineJump && !site.plain:
		r.Rip = site.at
	case off == trampolineSlow:
		r.Rip = next - syscallSize
	case off == trampolineTail:
		r.Rip = next
	case off == trampolineBack && !site.plain:
		r.Rip = next + cmpSize
	default:
		return false
	}
	switch {
	case trap && ev.Kind == platform.EventFault:
		ev.Addr = usermem.Addr(r.Rip)
	case ev.Kind == platform.EventFault && ev.Access != 0:
		// The trampoline wasn't there. It is if it still belongs here.
		if w, ok := m.as.(*rewritten); ok && a.gone == 0 {
			w.mapTrampolines(a.start, a.start+areaBytes)
		}
		*ev = platform.Event{Kind: platform.EventInterrupted}
	}
	return true
}

// trapTrace is the si_code TRAP_TRACE: sigaction(2).
const trapTrace = 2

// emulateCompare carries a cmp out that was replaced by what the processor
// refuses. As the processor doesn't refuse a cmp, it need not be known whether
// it was.
func (m *MemoryManager) emulateCompare(ev *platform.Event, r *arch.Registers) {
	var b [cmpSize]byte
	if _, err := m.CopyInForce(usermem.Addr(r.Rip), b[:]); err != nil || b[0] != 0x48 || b[1] != 0x3d {
		return
	}
	r.Rip += cmpSize
	r.Eflags = compareFlags(r.Eflags, r.Rax, uint64(int64(int32(binary.LittleEndian.Uint32(b[2:])))))
	if r.Eflags&arch.FlagTF == 0 {
		*ev = platform.Event{Kind: platform.EventInterrupted}
		return
	}
	const vectorDebug = 1
	*ev = platform.Event{
		Kind: platform.EventFault, Signo: int32(unix.SIGTRAP), Code: trapTrace,
		Addr: usermem.Addr(r.Rip), TrapNo: vectorDebug,
	}
}

// compareFlags returns flags after cmp b, a in AT&T's notation: those of a-b.
func compareFlags(flags, a, b uint64) uint64 {
	flags &^= arch.FlagCF | arch.FlagPF | arch.FlagAF | arch.FlagZF | arch.FlagSF | arch.FlagOF
	d := a - b
	set := func(on bool, flag uint64) {
		if on {
			flags |= flag
		}
	}
	parity := byte(d)
	parity ^= parity >> 4
	parity ^= parity >> 2
	parity ^= parity >> 1
	set(a < b, arch.FlagCF)
	set(parity&1 == 0, arch.FlagPF)
	set((a^b^d)&0x10 != 0, arch.FlagAF)
	set(d == 0, arch.FlagZF)
	set(d>>63 != 0, arch.FlagSF)
	set((a^b)&(a^d)>>63 != 0, arch.FlagOF)
	return flags
}

// RewriteCall replaces the syscall instruction at site, which was called with
// nr in rax, if that can be done: it is of a known form, in a private mapping that can be executed and not be
// written, of nothing that others may write to. It is safe for concurrent use.
func (m *MemoryManager) RewriteCall(site usermem.Addr, nr uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.vmas.Find(uint64(site))
	if !ok {
		return
	}
	v := e.Value
	if !v.private || !v.prot.Has(usermem.Execute) || v.prot.Has(usermem.Write) || v.mappable != nil && !v.steady {
		return
	}
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	m.rewriteCall(uint64(site), nr, v.prot.Effective())
}

// rewriteCall is RewriteCall with mu held too, as far as the mapping permits it.
func (m *MemoryManager) rewriteCall(addr, nr uint64, prot usermem.Access) {
	at := addr &^ usermem.PageMask
	a, ok := m.areas.Find(at)
	if !ok {
		return
	}
	text := make([]byte, pageSize)
	b, err := a.Value.file.Slice(a.Value.offset(at), pageSize)
	if err != nil || len(b) < pageSize || moveGuarded(b, text, 0, copyIn) != nil {
		return
	}
	site, ok := findCall(text, at, int(addr-at), nr)
	if !ok {
		return
	}
	w := m.rewriting()
	if w == nil {
		return
	}
	page := w.pages[at]
	var sites []callSite
	if page != nil {
		for _, s := range page.sites {
			if s == site {
				return
			}
		}
		sites = page.sites
	} else if len(w.pages) >= maxRewrittenPages {
		return
	}
	if !w.trampolineFor(site) {
		return
	}
	next := &rewrittenPage{file: a.Value.file, offset: a.Value.offset(at)}
	for _, s := range append(sites[:len(sites):len(sites)], site) {
		// What is rewritten in the page already, is so still unless the
		// object has changed.
		if s.in(text, at) {
			next.sites = append(next.sites, s)
		}
	}
	for _, s := range next.sites {
		text[s.at-at] = 0xe9
		binary.LittleEndian.PutUint32(text[s.at-at+1:], uint32(w.trampolines[s]-(s.at+jumpSize)))
	}
	if next.frame, ok = w.newFrame(text); !ok {
		return
	}
	if err := w.CallRewriter.MapFile(usermem.Addr(at), m.file, next.frame, pageSize, prot, true); err != nil {
		m.file.DecRef(next.frame, pageSize)
		w.Unmap(usermem.AddrRange{Start: usermem.Addr(at), End: usermem.Addr(at + pageSize)})
		return
	}
	w.pages[at] = next
	if page != nil {
		w.free(page.frame)
	}
}

// rewriting returns m.as as one that can be rewritten, or nil if it can't.
func (m *MemoryManager) rewriting() *rewritten {
	if w, ok := m.as.(*rewritten); ok {
		return w
	}
	host, ok := m.as.(platform.CallRewriter)
	if !ok {
		return nil
	}
	w := &rewritten{CallRewriter: host, m: m, pages: map[uint64]*rewrittenPage{}, trampolines: map[callSite]uint64{}}
	m.as = w
	m.rewrites.count.CompareAndSwap(0, 1)
	return w
}

// newFrame returns a page of the memory file that holds b.
func (w *rewritten) newFrame(b []byte) (uint64, bool) {
	run, err := w.m.file.Alloc(memfile.Request{Account: w.m.acct, Pages: 1, Hint: memfile.NoHint})
	if err != nil {
		return 0, false
	}
	to, err := w.m.file.Slice(run.Offset, pageSize)
	if err != nil {
		w.m.file.DecRef(run.Offset, pageSize)
		return 0, false
	}
	clear(to[copy(to, b):])
	return run.Offset, true
}

// free gives up a page that nothing is to map any more.
func (w *rewritten) free(frame uint64) {
	w.CallRewriter.Flush()
	w.m.file.DecRef(frame, pageSize)
}

// trampolineFor sees to it that there is a trampoline for site. mu is held.
func (w *rewritten) trampolineFor(site callSite) bool {
	if _, ok := w.trampolines[site]; ok {
		return true
	}
	for _, fresh := range []bool{false, true} {
		for _, a := range w.areas {
			if w.place(a, site, fresh) {
				return true
			}
		}
	}
	if len(w.areas) >= maxTrampolineAreas {
		return false
	}
	start, ok := w.m.trampolineRoom(site.at)
	if !ok {
		return false
	}
	a := &trampolineArea{start: start, sites: map[uint64]callSite{}}
	if !w.place(a, site, true) {
		return false
	}
	w.areas = append(w.areas, a)
	w.m.publish(a)
	return true
}

// place makes a trampoline in a, in a page that is in use or a fresh one.
func (w *rewritten) place(a *trampolineArea, site callSite, fresh bool) bool {
	if site.at-a.start+maxReach > 2*maxReach {
		return false
	}
	for i := range a.used {
		if a.used[i] == fresh {
			continue
		}
		for t := a.start + uint64(i)*pageSize + trampolineSize; t%pageSize != 0; t += trampolineSize {
			if !site.plain && !invalidOpcodes[byte((t-(site.at+jumpSize))>>8)] {
				continue
			}
			if _, taken := a.sites[t]; taken {
				continue
			}
			return w.write(a, i, t, site)
		}
	}
	return false
}

// trampoline returns the code of c's trampoline at t.
func (c callSite) trampoline(t uint64) []byte {
	le := binary.LittleEndian
	b := bytes.Repeat([]byte{0xcc}, trampolineSize) // int3
	code := func(off int, s string) []byte { return b[off+copy(b[off:], s):] }
	// Distances are from the end of their instructions.
	distance := func(to uint64, end int) uint32 { return uint32(to - (t + uint64(end))) }
	page := t &^ usermem.PageMask
	if c.plain {
		code(0, "\x0f\x90\xc0\x9f") // seto %al; lahf
		le.PutUint32(code(plainLea, "\x48\x8d\x0d"), plainTail-plainJump)
		le.PutUint32(code(plainJump, "\xff\x25"), distance(page+8, plainSlow))
		le.PutUint32(code(plainSlow, "\xb8"), c.value)
		code(plainCall, "\x0f\x05")
		le.PutUint32(code(plainTail, "\xe9"), distance(c.behind(), plainTail+jumpSize))
		return b
	}
	le.PutUint32(code(0, "\x48\x8d\x0d"), trampolineTail-trampolineJump)
	le.PutUint32(code(trampolineJump, "\xff\x25"), distance(page, trampolineSlow))
	code(trampolineSlow, "\x0f\x05")
	le.PutUint32(code(trampolineTail, "\x48\x3d"), c.value)
	le.PutUint32(code(trampolineBack, "\xe9"), distance(c.behind()+cmpSize, trampolineBack+jumpSize))
	return b
}

// write makes the trampoline at t, in page i of a.
func (w *rewritten) write(a *trampolineArea, i int, t uint64, site callSite) bool {
	at := t % pageSize
	b := site.trampoline(t)
	le := binary.LittleEndian
	page := make([]byte, pageSize)
	le.PutUint64(page, uint64(w.CallEntry()))
	le.PutUint64(page[8:], uint64(w.PlainCallEntry()))
	if a.used[i] {
		old, err := w.m.file.Slice(a.frames[i], pageSize)
		if err != nil {
			return false
		}
		if w.m.file.Exclusive(a.frames[i], pageSize) == 1 {
			// Nobody has run this part of the page.
			copy(old[at:], b)
			page = nil
		} else {
			copy(page, old) // shared with another address space
		}
	}
	if page != nil {
		copy(page[at:], b)
		frame, ok := w.newFrame(page)
		if !ok {
			return false
		}
		addr := usermem.Addr(a.start + uint64(i)*pageSize)
		if w.CallRewriter.MapFile(addr, w.m.file, frame, pageSize, usermem.Read|usermem.Execute, true) != nil {
			w.m.file.DecRef(frame, pageSize)
			return false
		}
		if a.used[i] {
			w.free(a.frames[i])
		}
		a.used[i], a.frames[i] = true, frame
	}
	a.sites[t] = site
	w.trampolines[site] = t
	return true
}

// trampolineRoom finds room for an area that site can reach: where the layout
// leaves a gap for the stack, or else below what is mapped. mu is held.
func (m *MemoryManager) trampolineRoom(site uint64) (uint64, bool) {
	fits := func(at uint64) bool {
		if site-at+maxReach > 2*maxReach || !m.inBounds(usermem.Addr(at), areaBytes) || !m.fits(at, areaBytes) {
			return false
		}
		if areas := m.rewrites.areas.Load(); areas != nil {
			for _, a := range *areas {
				if a.overlaps(at, at+areaBytes) {
					return false
				}
			}
		}
		return true
	}
	for i := range uint64(maxTrampolineAreas) {
		if at := uint64(m.layout.base) + i*areaBytes; fits(at) {
			return at, true
		}
	}
	for e, ok := m.vmas.Floor(site); ok; e, ok = m.vmas.Below(e.Start) {
		if site-e.Start > maxReach {
			break
		}
		for i := range uint64(maxTrampolineAreas) {
			if down := (i + 1) * areaBytes; down < e.Start && fits(e.Start-down) {
				return e.Start - down, true
			}
		}
	}
	return 0, false
}

// MapFile implements platform.AddressSpace.
func (w *rewritten) MapFile(addr usermem.Addr, f platform.File, offset, length uint64, access usermem.Access, precommit bool) error {
	err := w.CallRewriter.MapFile(addr, f, offset, length, access, precommit)
	if err != nil {
		return err
	}
	w.eachPage(uint64(addr), uint64(addr)+length, func(at uint64, p *rewrittenPage) {
		if p.file != f || p.offset != offset+at-uint64(addr) || !access.Has(usermem.Execute) || access.Has(usermem.Write) {
			w.drop(at, p)
		} else if err == nil {
			err = w.CallRewriter.MapFile(usermem.Addr(at), w.m.file, p.frame, pageSize, access, precommit)
		}
	})
	return err
}

// Unmap implements platform.AddressSpace.
func (w *rewritten) Unmap(r usermem.AddrRange) {
	w.CallRewriter.Unmap(r)
	w.eachPage(uint64(r.Start), uint64(r.End), w.drop)
	w.mapTrampolines(uint64(r.Start), uint64(r.End))
}

// Protect implements platform.AddressSpace.
func (w *rewritten) Protect(r usermem.AddrRange, access usermem.Access) {
	if !access.Has(usermem.Execute) || access.Has(usermem.Write) {
		w.undo(uint64(r.Start), uint64(r.End))
	}
	w.CallRewriter.Protect(r, access)
}

// Release implements platform.AddressSpace.
func (w *rewritten) Release() {
	w.CallRewriter.Release()
	for _, p := range w.pages {
		w.m.file.DecRef(p.frame, pageSize)
	}
	for _, a := range w.areas {
		a.release(w.m.file)
	}
	w.pages, w.areas, w.trampolines = nil, nil, nil
}

func (a *trampolineArea) release(f *memfile.File) {
	for i, frame := range a.frames {
		if a.used[i] {
			f.DecRef(frame, pageSize)
		}
	}
}

// eachPage calls f, which may drop it, for each rewritten page in [start, end).
func (w *rewritten) eachPage(start, end uint64, f func(at uint64, p *rewrittenPage)) {
	if n := (end - start) / pageSize; n <= uint64(len(w.pages)) {
		for at := start &^ usermem.PageMask; at < end; at += pageSize {
			if p := w.pages[at]; p != nil {
				f(at, p)
			}
		}
		return
	}
	for at, p := range w.pages {
		if at < end && start < at+pageSize {
			f(at, p)
		}
	}
}

// drop forgets a page that the address space doesn't map any more.
func (w *rewritten) drop(at uint64, p *rewrittenPage) {
	delete(w.pages, at)
	w.Retire()
	w.free(p.frame)
}

// undo takes the rewritten pages in [start, end) out of the address space.
func (w *rewritten) undo(start, end uint64) {
	w.eachPage(start, end, func(at uint64, p *rewrittenPage) {
		w.m.recent = recentMap{}
		w.CallRewriter.Unmap(usermem.AddrRange{Start: usermem.Addr(at), End: usermem.Addr(at + pageSize)})
		w.drop(at, p)
	})
}

// undoRewrites has the application see its own code in [start, end). pageMu
// isn't held.
func (m *MemoryManager) undoRewrites(start, end uint64) {
	if m.Rewrites() == 0 {
		return
	}
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	if w, ok := m.as.(*rewritten); ok {
		w.undo(start, end)
	}
}

// mapTrampolines maps the trampolines in [start, end). Where that fails nothing
// may jump to them.
func (w *rewritten) mapTrampolines(start, end uint64) {
	for _, a := range w.areas {
		if !a.overlaps(start, end) {
			continue
		}
		for i, frame := range a.frames {
			if a.used[i] {
				addr := usermem.Addr(a.start + uint64(i)*pageSize)
				if w.CallRewriter.MapFile(addr, w.m.file, frame, pageSize, usermem.Read|usermem.Execute, false) != nil {
					w.undo(0, ^uint64(0))
					return
				}
			}
		}
	}
}

// vacate gives up the trampolines in [start, end), which the application is
// about to use. mu is held for writing, pageMu isn't held.
func (m *MemoryManager) vacate(start, end uint64) {
	areas := m.rewrites.areas.Load()
	if areas == nil {
		return
	}
	for _, a := range *areas {
		if a.gone == 0 && a.overlaps(start, end) {
			m.pageMu.Lock()
			if w, ok := m.as.(*rewritten); ok {
				w.abandon(a)
			}
			m.pageMu.Unlock()
		}
	}
}

// abandon gives an area up. mu is held for writing.
func (w *rewritten) abandon(a *trampolineArea) {
	for _, site := range a.sites {
		w.undo(site.at, site.at+1)
		delete(w.trampolines, site)
	}
	for i, b := range w.areas {
		if a == b {
			w.areas = append(w.areas[:i], w.areas[i+1:]...)
			break
		}
	}
	w.CallRewriter.Unmap(usermem.AddrRange{Start: usermem.Addr(a.start), End: usermem.Addr(a.start + areaBytes)})
	w.CallRewriter.Flush()
	a.gone = w.m.rewrites.count.Add(1)
	w.Expel()
	a.release(w.m.file)
	w.m.publish(nil)
}

// shareRewrites gives c, a copy whose areas are made, what was rewritten in m. The
// page locks of both are held.
func (m *MemoryManager) shareRewrites(c *MemoryManager) {
	w, ok := m.as.(*rewritten)
	if !ok {
		return
	}
	cw := c.rewriting()
	if cw == nil {
		return
	}
	for at, p := range w.pages {
		if a, ok := c.areas.Find(at); !ok || a.Value.file != p.file || a.Value.offset(at) != p.offset {
			continue
		}
		m.file.IncRef(p.frame, pageSize)
		copied := *p
		cw.pages[at] = &copied
	}
	for _, a := range w.areas {
		n := &trampolineArea{start: a.start, frames: a.frames, used: a.used, sites: make(map[uint64]callSite, len(a.sites))}
		for t, site := range a.sites {
			n.sites[t] = site
			cw.trampolines[site] = t
		}
		for i, frame := range n.frames {
			if n.used[i] {
				m.file.IncRef(frame, pageSize)
			}
		}
		cw.areas = append(cw.areas, n)
		c.publish(n)
		cw.mapTrampolines(n.start, n.start+areaBytes)
	}
}
