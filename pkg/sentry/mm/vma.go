package mm

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// lockMode is what mlock(2) asked for.
type lockMode uint8

const (
	unlocked lockMode = iota
	locked
	lockedOnFault
)

// vmaAttr is all that tells one mapping from another. It is comparable:
// neighbours with equal attributes become one.
type vmaAttr struct {
	prot, maxProt usermem.Access
	private       bool
	growsDown     bool
	dontFork      bool
	wipeOnFork    bool
	noReserve     bool
	steady        bool // see MMapOpts.Steady
	lock          lockMode
	mappable      memmap.Mappable
	// base makes offsets in mappable: address plus base, modulo 2^64. It is
	// zero for anonymous memory.
	base     uint64
	identity memmap.Identity
	name     string
}

// vma is the value of a mapping. The attributes never change; entries of several
// address spaces may share it. Each entry holds a reference on the identity.
type vma struct {
	vmaAttr
	// What the last faults were, to guess the next. Only hints.
	lastLow, lastHigh, lastCopy atomic.Uint64
	filled                      atomic.Uint64 // bytes, by faults
}

type vmaEntry = rangemap.Entry[*vma]

var vmaFuncs = rangemap.Funcs[*vma]{
	Split: func(e vmaEntry, at uint64) (*vma, *vma) {
		if id := e.Value.identity; id != nil {
			id.IncRef()
		}
		return e.Value, e.Value
	},
	Merge: func(a, b vmaEntry) (*vma, bool) {
		if a.Value != b.Value && a.Value.vmaAttr != b.Value.vmaAttr {
			return nil, false
		}
		if id := b.Value.identity; id != nil {
			id.DecRef() // a holds another one
		}
		if b.Value.filled.Load() > a.Value.filled.Load() {
			return b.Value, true // it knows more of how the memory is touched
		}
		return a.Value, true
	},
}

func (v *vma) objectRange(start, end uint64) memmap.Range {
	return memmap.Range{Start: start + v.base, End: end + v.base}
}

// writableShared reports whether the mapping counts against a write seal.
func (v *vma) writableShared() bool { return !v.private && v.maxProt.Has(usermem.Write) }

// isData reports whether RLIMIT_DATA counts a mapping: is_data_mapping in Linux.
func (a *vmaAttr) isData() bool {
	return a.private && a.prot.Has(usermem.Write) && !a.growsDown
}

func (s *sizes) add(e vmaEntry, sign int64) {
	n := uint64(sign * int64(e.Len()))
	s.total += n
	if e.Value.isData() {
		s.data += n
	}
	if e.Value.lock != unlocked {
		s.locked += n
	}
	s.peak = max(s.peak, s.total)
}

// insertVMA adds a mapping and takes over a reference on its identity. mu is
// held.
func (m *MemoryManager) insertVMA(start, end uint64, v *vma) {
	m.vacate(start, end)
	m.pageMu.Lock()
	m.vmas.Insert(start, end, v)
	m.pageMu.Unlock()
	m.sizes.add(vmaEntry{Start: start, End: end, Value: v}, 1)
}

// editVMAs changes the attributes of the mappings in [start, end). mu is held.
func (m *MemoryManager) editVMAs(start, end uint64, edit func(*vmaAttr)) {
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	m.vmas.Update(start, end, func(e vmaEntry) *vma {
		v := &vma{vmaAttr: e.Value.vmaAttr}
		edit(&v.vmaAttr)
		if v.vmaAttr == e.Value.vmaAttr {
			return e.Value
		}
		v.lastLow.Store(e.Value.lastLow.Load())
		v.lastHigh.Store(e.Value.lastHigh.Load())
		v.filled.Store(e.Value.filled.Load())
		m.sizes.add(e, -1)
		e.Value = v
		m.sizes.add(e, 1)
		return v
	})
}

// remove unmaps [start, end). mu is held; g is collected by the caller.
func (m *MemoryManager) remove(start, end uint64, g *garbage) {
	if m.vmas.Free(start, end) {
		return
	}
	m.pageMu.Lock()
	m.vmas.Remove(start, end, func(e vmaEntry) {
		m.sizes.add(e, -1)
		g.vmas = append(g.vmas, e)
	})
	m.dropAreas(start, end, nil)
	m.pageMu.Unlock()
	m.payLess()
	m.freed(start)
}

// pieces returns how many mappings removing [start, end) adds: one, where it
// lies within one.
func (m *MemoryManager) pieces(start, end uint64) int {
	if e, ok := m.vmas.Find(start); ok && e.Start < start && end < e.End {
		return 1
	}
	return 0
}

// mapped returns how many bytes of [start, end) are mapped.
func (m *MemoryManager) mapped(start, end uint64) (n uint64) {
	m.vmas.Overlap(start, end, func(e vmaEntry) bool {
		n += min(e.End, end) - max(e.Start, start)
		return true
	})
	return n
}

// covers reports whether all of [start, end) is mapped.
func (m *MemoryManager) covers(start, end uint64) bool { return m.mapped(start, end) == end-start }

// place finds room for length bytes, where hint says if it can be.
func (m *MemoryManager) place(hint usermem.Addr, length uint64, low bool) (uint64, error) {
	b := m.layout.bounds
	if length > b.Len() {
		return 0, unix.ENOMEM
	}
	if low { // MAP_32BIT
		const start, end = 0x40000000, 0x80000000
		if at := uint64(hint.RoundDown()); at >= start && at < end && length <= end-at && m.fits(at, length) {
			return at, nil
		}
		if at, ok := m.gapAbove(start, end, length); ok {
			return at, nil
		}
		return 0, unix.ENOMEM
	}
	if hint != 0 {
		at, ok := hint.RoundUp()
		at = max(at, minMapAddr)
		if ok && at >= b.Start && at <= b.End && length <= uint64(b.End-at) && m.fits(uint64(at), length) {
			return uint64(at), nil
		}
	}
	if at, ok := m.gapBelow(length); ok {
		return at, nil
	}
	// Linux falls back to a third of the address space, upwards.
	if at, ok := m.gapAbove(uint64(b.Start)+b.Len()/3&^usermem.PageMask, uint64(b.End), length); ok {
		return at, nil
	}
	if at, ok := m.gapAbove(uint64(b.Start), uint64(b.End), length); ok {
		return at, nil
	}
	return 0, unix.ENOMEM
}

// fits reports whether [at, at+length) is free, and a stack above has its gap.
func (m *MemoryManager) fits(at, length uint64) bool {
	if !m.vmas.Free(at, at+length) {
		return false
	}
	next, ok := m.vmas.Ceil(at + length)
	return !ok || next.Start-guardOf(next) >= at+length
}

// guardOf is what must stay free below a mapping.
func guardOf(e vmaEntry) uint64 {
	if e.Value.growsDown {
		return min(stackGuard, e.Start)
	}
	return 0
}

// gapBelow returns the highest free range below the layout's base.
func (m *MemoryManager) gapBelow(length uint64) (uint64, bool) {
	l := &m.layout
	low, end := uint64(l.bounds.Start), uint64(l.base)
	if l.cursor != 0 && length > l.skipped {
		end = min(end, l.cursor)
	} else {
		l.skipped = 0
	}
	if next, ok := m.vmas.Ceil(end); ok {
		end = min(end, next.Start-guardOf(next))
	}
	at, found := uint64(0), false
	m.vmas.Descend(end, func(e vmaEntry) bool {
		if end >= e.End {
			if end-e.End >= length {
				at, found = end-length, true
				return false
			}
			l.skipped = max(l.skipped, end-e.End)
		}
		end = min(end, e.Start-guardOf(e))
		return end > low
	})
	if !found && end >= low && end-low >= length {
		at, found = end-length, true
	}
	l.cursor = at + length
	if !found {
		l.cursor = 0
	}
	return at, found
}

// freed tells the next search that start was made free.
func (m *MemoryManager) freed(start uint64) {
	if m.layout.cursor == 0 {
		return
	}
	if _, end := m.vmas.Gap(start, uint64(m.layout.bounds.End)); end > m.layout.cursor {
		m.layout.cursor = end
	}
}

// gapAbove returns the lowest free range in [start, end).
func (m *MemoryManager) gapAbove(start, end, length uint64) (uint64, bool) {
	m.vmas.Overlap(start, end, func(e vmaEntry) bool {
		if limit := e.Start - guardOf(e); limit >= start && limit-start >= length {
			end = limit
			return false
		}
		start = max(start, e.End)
		return true
	})
	return start, end >= start && end-start >= length
}

// inBounds reports whether a fixed range may be mapped.
func (m *MemoryManager) inBounds(addr usermem.Addr, length uint64) bool {
	r, ok := addr.Range(length)
	return ok && m.layout.bounds.Covers(r)
}

// MMap makes a mapping; see mmap(2). What is between the calls' flags and
// opts, and permissions on the file, are the caller's business.
func (m *MemoryManager) MMap(opts MMapOpts) (usermem.Addr, error) {
	if opts.Length == 0 {
		return 0, unix.EINVAL
	}
	length, ok := usermem.PageRoundUp(opts.Length)
	if !ok || length == 0 {
		return 0, unix.ENOMEM
	}
	if opts.Offset&usermem.PageMask != 0 {
		return 0, unix.EINVAL
	}
	if opts.Offset+length < opts.Offset {
		return 0, unix.EOVERFLOW
	}
	fixed := opts.Fixed || opts.FixedNoReplace
	attr := vmaAttr{
		prot: opts.Prot, maxProt: opts.MaxProt,
		private: opts.Private, growsDown: opts.GrowsDown, noReserve: opts.NoReserve,
		steady:   opts.Steady && opts.Private && opts.Mappable != nil,
		mappable: opts.Mappable, identity: opts.Identity, name: opts.Name,
	}
	if attr.maxProt == 0 {
		attr.maxProt = usermem.AnyAccess
	}

	m.mu.Lock()
	var g garbage
	if fixed {
		switch {
		case !opts.Addr.PageAligned():
			m.mu.Unlock()
			return 0, unix.EINVAL
		case opts.Addr < minMapAddr && length <= m.layout.bounds.Len():
			m.mu.Unlock()
			return 0, unix.EPERM
		case !m.inBounds(opts.Addr, length):
			m.mu.Unlock()
			return 0, unix.ENOMEM
		}
	}
	var start uint64
	var err error
	if fixed {
		start = uint64(opts.Addr)
		if opts.FixedNoReplace && !m.vmas.Free(start, start+length) {
			err = unix.EEXIST
		}
	} else {
		start, err = m.place(opts.Addr, length, opts.Map32Bit)
	}
	attr.lock = m.lock
	if opts.Locked {
		attr.lock = locked
	}
	if err == nil {
		err = m.checkLimits(start, length, &attr, opts.LockLimit)
	}
	if err != nil {
		m.mu.Unlock()
		return 0, err
	}
	end := start + length
	if attr.mappable == nil && !attr.private {
		s := newSharedMemory(m.file, m.acct, length)
		attr.mappable, attr.identity = s.store, s
		opts.Offset = 0
		defer s.DecRef() // ours; the entry takes one of its own
	}
	if attr.mappable != nil {
		attr.base = opts.Offset - start
	}
	v := &vma{vmaAttr: attr}
	if attr.mappable != nil {
		if err := attr.mappable.AddMapping(m, v.objectRange(start, end), v.writableShared()); err != nil {
			m.mu.Unlock()
			return 0, err
		}
	}
	m.remove(start, end, &g)
	if attr.identity != nil {
		attr.identity.IncRef()
	}
	m.insertVMA(start, end, v)
	m.collect(&g)

	switch {
	case opts.Populate || attr.lock == locked:
		m.populate(start, end)
	case v.soonTouched():
		// A library's parts come one by one, its data last but for bss.
		now := !fixed
		if v.steady {
			now = v.prot.Has(usermem.Write)
		}
		s := span{start, end}
		if v.mappable == nil && length > aheadPages {
			s.end = start + headPages
		}
		m.expect(s, now)
	}
	return usermem.Addr(start), nil
}

// checkLimits says whether a mapping may be made at [start, start+length), in
// place of what is there.
func (m *MemoryManager) checkLimits(start, length uint64, a *vmaAttr, lockLimit uint64) error {
	end := start + length
	replaced := m.mapped(start, end)
	if over(m.sizes.total-replaced, length, m.limits.AddressSpaceLimit()) {
		return unix.ENOMEM
	}
	if a.isData() && over(m.sizes.data, length, m.limits.DataLimit()) {
		return unix.ENOMEM
	}
	// What can't ever be there is refused at once: vm.overcommit_memory 0
	// (Documentation/vm/overcommit-accounting).
	if a.isData() && !a.noReserve && length > m.acct.Machine() {
		return unix.ENOMEM
	}
	if a.lock != unlocked && over(m.sizes.locked, length, lockLimit) {
		return unix.EAGAIN
	}
	if !m.roomFor(1 + m.pieces(start, end)) {
		return unix.ENOMEM
	}
	return nil
}

func over(used, more, limit uint64) bool { return used+more < used || used+more > limit }

// populate makes pages for [start, end), as MAP_POPULATE and mlock do, and maps
// them. Failures don't matter: a fault will tell.
func (m *MemoryManager) populate(start, end uint64) {
	for at := start; at < end; {
		m.mu.RLock()
		e, ok := m.vmas.Find(at)
		if !ok {
			m.mu.RUnlock()
			return
		}
		stop := min(end, e.End, at+maxWindow)
		access := e.Value.prot.Effective()
		if access&usermem.Read == 0 {
			m.mu.RUnlock()
			at = min(end, e.End)
			continue
		}
		if !e.Value.private {
			access &^= usermem.Write // as Linux does: no write fault on shared files
		}
		err := m.makeResident(e, at, stop, access)
		m.mu.RUnlock()
		if err != nil {
			return
		}
		at = stop
	}
}

// checkRange checks the address and length of munmap and the like.
func checkRange(addr usermem.Addr, length uint64) (start, end uint64, ok bool) {
	length, fine := usermem.PageRoundUp(length)
	r, inside := addr.Range(length)
	return uint64(r.Start), uint64(r.End), fine && inside
}

// MUnmap removes mappings; see munmap(2).
func (m *MemoryManager) MUnmap(addr usermem.Addr, length uint64) error {
	start, end, ok := checkRange(addr, length)
	if !ok || length == 0 || !addr.PageAligned() || end > uint64(m.layout.bounds.End) {
		return unix.EINVAL
	}
	m.mu.Lock()
	if !m.roomFor(m.pieces(start, end)) {
		m.mu.Unlock()
		return unix.ENOMEM
	}
	var g garbage
	m.remove(start, end, &g)
	m.collect(&g)
	return nil
}

// MProtect changes what mappings permit; see mprotect(2). growsDown is
// PROT_GROWSDOWN.
func (m *MemoryManager) MProtect(addr usermem.Addr, length uint64, prot usermem.Access, growsDown bool) error {
	start, end, ok := checkRange(addr, length)
	switch {
	case !addr.PageAligned():
		return unix.EINVAL
	case length == 0:
		return nil
	case !ok:
		return unix.ENOMEM
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	first, ok := m.vmas.Next(start)
	if !ok {
		return unix.ENOMEM
	}
	if growsDown {
		if first.Start >= end {
			return unix.ENOMEM
		}
		if !first.Value.growsDown {
			return unix.EINVAL
		}
		start = first.Start
	} else if first.Start > start {
		return unix.ENOMEM
	}
	// As Linux does, what comes before a refusal has been changed.
	for at := start; at < end; {
		e, ok := m.vmas.Find(at)
		if !ok {
			return unix.ENOMEM
		}
		v, stop := e.Value, min(e.End, end)
		if prot&^v.maxProt != 0 {
			return unix.EACCES
		}
		changed := v.vmaAttr
		changed.prot = prot
		if changed.isData() && !v.isData() && over(m.sizes.data, stop-at, m.limits.DataLimit()) {
			return unix.ENOMEM
		}
		if prot != v.prot {
			cuts := 0
			if e.Start < at {
				cuts++
			}
			if stop < e.End {
				cuts++
			}
			if !m.roomFor(cuts) {
				return unix.ENOMEM
			}
			m.editVMAs(at, stop, func(a *vmaAttr) { a.prot = prot })
			m.protectHost(at, stop)
		}
		at = stop
	}
	return nil
}

// protectHost gives the address space the permissions that [start, end), which
// lies in one mapping, has now.
func (m *MemoryManager) protectHost(start, end uint64) {
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	e, _ := m.vmas.Find(start)
	full := e.Value.prot.Effective()
	if w, ok := m.as.(*rewritten); ok && full != usermem.Read|usermem.Execute {
		w.undo(start, end)
	}
	var run usermem.AddrRange
	var access usermem.Access
	runs := 0
	m.areas.Overlap(start, end, func(a areaEntry) bool {
		p := full
		if !m.writable(e.Value, a.Value) {
			p &^= usermem.Write
		}
		if p != access && !run.Empty() {
			if runs++; runs > 64 {
				return false
			}
			m.as.Protect(run, access)
			run = usermem.AddrRange{}
		}
		if run.Empty() {
			run.Start, access = usermem.Addr(max(a.Start, start)), p
		}
		run.End = usermem.Addr(min(a.End, end))
		return true
	})
	switch {
	case runs > 64:
		// Cheaper to let faults bring it back.
		m.recent = recentMap{}
		m.as.Unmap(usermem.AddrRange{Start: usermem.Addr(start), End: usermem.Addr(end)})
	case !run.Empty():
		m.as.Protect(run, access)
	}
}

// SetBrk says where the heap starts: exec does, behind the program's data.
func (m *MemoryManager) SetBrk(start usermem.Addr) {
	m.mu.Lock()
	m.layout.brkStart, m.layout.brkEnd = start, start
	m.mu.Unlock()
}

// BrkStart returns where the heap starts.
func (m *MemoryManager) BrkStart() usermem.Addr {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.layout.brkStart
}

// Brk moves the end of the heap, and returns where it is then: see brk(2),
// and its notes on the system call.
func (m *MemoryManager) Brk(addr usermem.Addr) usermem.Addr {
	m.mu.Lock()
	l := &m.layout
	old := l.brkEnd
	oldEnd, _ := old.RoundUp()
	newEnd, ok := addr.RoundUp()
	switch {
	case addr < l.brkStart || !ok || uint64(addr-l.brkStart) > m.limits.DataLimit() || newEnd > l.bounds.End:
		m.mu.Unlock()
		return old
	case newEnd <= oldEnd:
		l.brkEnd = addr
		var g garbage
		m.remove(uint64(newEnd), uint64(oldEnd), &g)
		m.collect(&g)
		return addr
	}
	attr := vmaAttr{prot: usermem.ReadWrite, maxProt: usermem.AnyAccess, private: true, name: "[heap]", lock: m.lock}
	length := uint64(newEnd - oldEnd)
	if !m.fits(uint64(oldEnd), length+pageSize) || m.checkLimits(uint64(oldEnd), length, &attr, NoLimit) != nil {
		m.mu.Unlock()
		return old
	}
	m.insertVMA(uint64(oldEnd), uint64(newEnd), &vma{vmaAttr: attr})
	l.brkEnd = addr
	m.mu.Unlock()
	if attr.lock == locked {
		m.populate(uint64(oldEnd), uint64(newEnd))
	} else {
		m.expect(span{uint64(oldEnd), min(uint64(newEnd), uint64(oldEnd)+aheadPages)}, true)
	}
	return addr
}
