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
// loads the number, by a jump, which is e9 and four bytes of distance:
//
//	b8 imm32           mov $imm32, %eax
//	0f 05              syscall
//
//	48 c7 c0 imm32     mov $imm32, %rax
//	0f 05              syscall
//
// Who comes to the syscall instruction otherwise, makes the call by it. Or it
// is the first five of these eight bytes, which most other calls of the C
// library and of Go have:
//
//	0f 05              syscall
//	48 3d 0x f0 ff ff  cmp $-4096 or $-4095, %rax
//
// Or else it is all of these, which compilers make of a call that stands in the
// middle of a function:
//
//	4x 89/8b modrm     mov between two registers
//	0f 05              syscall
//
// In the latter two, who comes to the second instruction otherwise, as a thread
// does that was in the call meanwhile, is to make it once more, or is to return to
// it from a signal handler, meets the second or the third byte of the distance.
// The trampoline's place is chosen such that this is an opcode that isn't valid in
// 64-bit mode, whatever follows. Its exception says that the application, as it
// sees its own memory, has a cmp or a syscall instruction where the processor
// refused: that is carried out here.
//
// Of the system call instructions in the programs and libraries of a Debian
// system, 51 % are of the form with a cmp, 35 % load the number right before, and
// 8 % are of the other two.
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

	// In one of the plain form, from the end of the first instruction on.
	plainJump = 7
	plainEnd  = 13

	syscallSize = 2
	cmpSize     = 6
	moveSize    = 3
	jumpSize    = 5
	maxPlain    = 7
)

// callSite is an instruction to replace.
type callSite struct {
	at uint64
	// plain is how long the instruction is in front of the syscall instruction,
	// and code what it is. Otherwise it is zero, at is that of the syscall
	// instruction, and what follows compares with value.
	plain uint8
	code  [maxPlain]byte
	value uint32
}

// front is the instruction in front of the syscall instruction.
func (c *callSite) front() []byte { return c.code[:c.plain] }

// behind is the address behind the syscall instruction.
func (c *callSite) behind() uint64 { return c.at + uint64(c.plain) + syscallSize }

// near reports whether c can jump as far as t.
func (c *callSite) near(t uint64) bool { return c.at-t+maxReach <= 2*maxReach }

// reaches reports whether c can jump to t.
func (c *callSite) reaches(t uint64) bool {
	distance := t - (c.at + jumpSize)
	switch c.plain {
	case 0:
		return c.near(t) && invalidOpcodes[byte(distance>>8)]
	case moveSize:
		return c.near(t) && invalidOpcodes[byte(distance>>16)]
	}
	return c.near(t)
}

// load makes of the registers before the instruction in front those behind it.
func (c *callSite) load(r *arch.Registers) {
	if c.plain == moveSize {
		to, from := c.move(r)
		*to = *from
		if c.code[0]&rexW == 0 {
			*to = uint64(uint32(*from))
		}
		return
	}
	r.Rax = uint64(binary.LittleEndian.Uint32(c.code[c.plain-4:]))
}

// loaded reports whether registers are such as if it had been carried out.
func (c *callSite) loaded(r *arch.Registers) bool {
	before := *r
	before.Rax = r.OrigRax
	after := before
	c.load(&after)
	return after == before
}

// Bits of a REX prefix.
const (
	rexB = 1 << 0
	rexR = 1 << 2
	rexW = 1 << 3
)

// move returns the registers of an instruction that moves one to another.
func (c *callSite) move(r *arch.Registers) (to, from *uint64) {
	rex, modRM := c.code[0], c.code[2]
	all := [...]*uint64{
		&r.Rax, &r.Rcx, &r.Rdx, &r.Rbx, &r.Rsp, &r.Rbp, &r.Rsi, &r.Rdi,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
	}
	reg, rm := all[modRM>>3&7|rex&rexR<<1], all[modRM&7|rex&rexB<<3]
	if c.code[1] == 0x8b {
		return reg, rm
	}
	return rm, reg
}

// findCall returns how the call can be replaced whose syscall instruction is
// at offset off of text, a page that begins at start, and that was made with
// registers r, Rip behind it.
func findCall(text []byte, start uint64, off int, r *arch.Registers) (callSite, bool) {
	le := binary.LittleEndian
	if off+syscallSize > len(text) || text[off] != 0x0f || text[off+1] != 0x05 {
		return callSite{}, false
	}
	front := func(size int, doubt bool) (callSite, bool) {
		c := callSite{at: start + uint64(off-size), plain: uint8(size)}
		copy(c.code[:], text[off-size:off])
		return c, !doubt && c.loaded(r)
	}
	const farthest = 10 // what is looked at in front
	if off >= farthest {
		if text[off-5] == 0xb8 {
			if c, ok := front(5, endsLonger(text[:off], 5)); ok {
				return c, true
			}
		}
		if text[off-7] == 0x48 && text[off-6] == 0xc7 && text[off-5] == 0xc0 && text[off-1] < 0x80 {
			if c, ok := front(7, endsLonger(text[:off], 7)); ok {
				return c, true
			}
		}
	}
	if b := text[off+syscallSize:]; len(b) >= cmpSize &&
		b[0] == 0x48 && b[1] == 0x3d && b[2] <= 1 && b[3] == 0xf0 && b[4] == 0xff && b[5] == 0xff {
		return callSite{at: start + uint64(off), value: le.Uint32(b[2:])}, true
	}
	if off >= farthest && text[off-3]&0xf0 == 0x40 && (text[off-2] == 0x89 || text[off-2] == 0x8b) && text[off-1] >= 0xc0 {
		c, ok := front(moveSize, endsLonger(text[:off], moveSize))
		if to, _ := c.move(r); ok && to != &r.Rsp && to != &r.Rcx && to != &r.R11 {
			return c, true
		}
	}
	return callSite{}, false
}

// endsLonger reports whether the last size bytes of code, which look like an
// instruction, may as well be the end of a longer one that could have run and left
// the registers as they were found. (In forms that aren't looked for it would have
// faulted, or addressed memory more than 2^28 bytes from a register.)
func endsLonger(code []byte, size int) bool {
	n := len(code)
	// movabs with 64 bits of an operand or of an address.
	if code[n-10]&0xf8 == 0x48 && code[n-9]&0xf8 == 0xb8 || code[n-9]&0xfc == 0xa0 {
		return true
	}
	a, b := code[n-size-2], code[n-size-1]
	if size > moveSize {
		// With a prefix, or with b8 or 48 as an offset behind ModRM or SIB, or as
		// ModRM of lea, or as SIB.
		return b&0xc0 == 0x40 || a&0xc7 == 0x44 || b == 0x8d || b&0xc7 == 0x84
	}
	switch b {
	case 0x05, 0x0d, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x68, 0xa9, // with 32 bits of an operand
		0xb8, 0xb9, 0xba, 0xbb, 0xbc, 0xbd, 0xbe, 0xbf,
		0x6b, 0x80, 0x83, // with 8, and an offset
		0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67: // prefixes
		return true
	case 0xc0, 0xc1, 0xc6, 0xe8, 0xe9, 0xf0, 0xf2, 0xf3:
		// The same, unless it is the ModRM of what is between registers.
		if a != 0x01 && a != 0x29 && a != 0x31 && a != 0x85 && a != 0x89 && a != 0x8b {
			return true
		}
	}
	return a == 0x69 || a == 0x81 || (a == 0xc7 || a == 0xf7) && b&0x38 == 0 // behind ModRM
}

// in reports whether c is still what a page holds.
func (c callSite) in(text []byte, start uint64) bool {
	b := text[c.at-start:]
	if c.plain != 0 {
		return bytes.HasPrefix(b, append(c.front(), 0x0f, 0x05))
	}
	return bytes.HasPrefix(b, binary.LittleEndian.AppendUint32([]byte{0x0f, 0x05, 0x48, 0x3d}, c.value))
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
		m.emulate(ev, r)
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
	trap := ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGTRAP) && ev.Code == trapTrace
	if ev.Kind == platform.EventFault && !trap && ev.Access == 0 {
		return false // not by the instructions of a trampoline
	}
	switch n := uint64(site.plain); {
	case n != 0 && ev.Kind == platform.EventSyscall:
		return false
	case n != 0 && trap && off == 0:
		// A step over the jump is one over the instruction.
		site.load(r)
		r.Rip = site.at + n
	case n != 0 && off == 0:
		r.Rip = site.at
	case n != 0 && (off == n || off == n+plainJump):
		r.Rip = site.at + n
	case n != 0:
		return false // the application has jumped somewhere
	case ev.Kind == platform.EventSyscall:
		if off != trampolineTail {
			return false
		}
		r.Rip = next
		r.Rcx = r.Rip
		if w, ok := m.as.(*rewritten); ok {
			// Who can't use them pays for two exceptions.
			w.undo(site.at, site.at+1)
		}
	case trap && off == 0:
		r.Rip = next
		r.Rcx, r.R11, r.OrigRax = r.Rip, r.Eflags, r.Rax
		*ev = platform.Event{Kind: platform.EventSyscall}
	case off == 0, off == trampolineJump:
		r.Rip = site.at
	case off == trampolineSlow:
		r.Rip = next - syscallSize
	case off == trampolineTail:
		r.Rip = next
	case off == trampolineBack:
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

// emulate carries a cmp or a syscall instruction out that was replaced by what the
// processor refuses. As the processor doesn't refuse them, it need not be known
// whether it was.
func (m *MemoryManager) emulate(ev *platform.Event, r *arch.Registers) {
	var b [cmpSize]byte
	if _, err := m.CopyInForce(usermem.Addr(r.Rip), b[:syscallSize]); err == nil && b[0] == 0x0f && b[1] == 0x05 {
		if r.GsBase != 0 {
			// Who can't use trampolines pays more than for the instruction.
			m.undoRewrites(r.Rip, r.Rip+1)
		}
		r.Rip += syscallSize
		r.Rcx, r.R11, r.OrigRax = r.Rip, r.Eflags, r.Rax
		*ev = platform.Event{Kind: platform.EventSyscall}
		return
	}
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

// RewriteCall replaces the syscall instruction in front of r.Rip, which has called with
// registers r, if that can be done: it is of a known form, in a private mapping that can be executed and not be
// written, of nothing that others may write to. It is safe for concurrent use.
func (m *MemoryManager) RewriteCall(r *arch.Registers) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.vmas.Find(r.Rip - syscallSize)
	if !ok {
		return
	}
	v := e.Value
	if !v.private || !v.prot.Has(usermem.Execute) || v.prot.Has(usermem.Write) || v.mappable != nil && !v.steady {
		return
	}
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	m.rewriteCall(r, v.prot.Effective())
}

// rewriteCall is RewriteCall with mu held too, as far as the mapping permits it.
func (m *MemoryManager) rewriteCall(r *arch.Registers, prot usermem.Access) {
	addr := r.Rip - syscallSize
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
	site, ok := findCall(text, at, int(addr-at), r)
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
	start, ok := w.m.trampolineRoom(site)
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
	for i := range a.used {
		if a.used[i] == fresh {
			continue
		}
		for t := a.start + uint64(i)*pageSize + trampolineSize; t%pageSize != 0; t += trampolineSize {
			if !site.reaches(t) {
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
	if n := int(c.plain); n != 0 {
		code(0, string(c.front()))
		le.PutUint32(code(n, "\x4c\x8d\x1d"), distance(c.behind(), n+plainJump))
		le.PutUint32(code(n+plainJump, "\xff\x25"), distance(page+8, n+plainEnd))
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
func (m *MemoryManager) trampolineRoom(site callSite) (uint64, bool) {
	fits := func(at uint64) bool {
		if !site.near(at) || site.plain == moveSize && !site.reaches(at+trampolineSize) || !m.inBounds(usermem.Addr(at), areaBytes) || !m.fits(at, areaBytes) {
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
	// A site may need one place of a few in 2^24 bytes.
	const places = 1 << 24 / areaBytes
	for i := range uint64(places) {
		if at := uint64(m.layout.base) + i*areaBytes; fits(at) {
			return at, true
		}
	}
	for e, ok := m.vmas.Floor(site.at); ok; e, ok = m.vmas.Below(e.Start) {
		if site.at-e.Start > maxReach {
			break
		}
		for i := range uint64(places) {
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
	w.forget()
}

// Abandon implements platform.Abandoner.
func (w *rewritten) Abandon(done func()) {
	abandon(w.CallRewriter, func() {
		w.forget()
		done()
	})
}

// forget gives up the pages of an address space that is no more.
func (w *rewritten) forget() {
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
