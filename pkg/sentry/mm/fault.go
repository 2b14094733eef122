package mm

import (
	"errors"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// How much is done at a fault, in bytes.
const (
	minWindow  = 8 * pageSize   // of anonymous memory touched at random
	halfWindow = 32 * pageSize  // once a sixteenth of it is there
	fullWindow = 64 * pageSize  // once a quarter is
	firstWin   = 16 * pageSize  // at the first touch of a mapping
	maxWindow  = 256 * pageSize // reached by touching it in order
	cowWindow  = 16 * pageSize  // of copies, when written in order; of data at first
	takeWindow = 256 * pageSize // of pages that nobody shares any more
	// Of a mapped object, of which it gives what it has; and of resident pages
	// that are mapped at once. The size of a mapping costs the host nothing, so
	// let most libraries be one.
	fileWindow = 4096 * pageSize
	mapWindow  = 4096 * pageSize
	// populate is how much is entered in the host's page tables at once.
	populate = 256 * pageSize
	// maxPatience is how many faults may be taken for late ones.
	maxPatience = 4
	// maxRetries bounds how often a fault races with truncations.
	maxRetries = 100
)

var (
	faultMapErr = &Fault{int32(unix.SIGSEGV), SegvMapErr}
	faultAccErr = &Fault{int32(unix.SIGSEGV), SegvAccErr}
	faultBus    = &Fault{int32(unix.SIGBUS), BusAdrErr}
)

// lockVMA returns the VMA that addr is in, grown if it is a stack, with mu held for
// reading; without a VMA mu isn't held.
func (m *MemoryManager) lockVMA(addr usermem.Addr) (vmaEntry, bool) {
	m.mu.RLock()
	e, ok := m.vmas.Find(uint64(addr))
	if !ok {
		m.mu.RUnlock()
		if !m.growStack(addr) {
			return e, false
		}
		m.mu.RLock()
		if e, ok = m.vmas.Find(uint64(addr)); !ok {
			m.mu.RUnlock()
		}
	}
	return e, ok
}

// HandleFault resolves a page fault of the application at addr. Nil means that
// the instruction can be tried again. Otherwise the error is a *Fault, for a
// signal, or ErrOOM.
func (m *MemoryManager) HandleFault(addr usermem.Addr, access usermem.Access) error {
	if access == 0 {
		access = usermem.Read
	}
	e, ok := m.lockVMA(addr)
	if !ok {
		return faultMapErr
	}
	defer m.mu.RUnlock()
	if !e.Value.prot.Effective().Has(access) {
		return faultAccErr
	}
	if v := e.Value; (v.growsDown || v.steady) && v.prot.Effective().Has(usermem.ReadWrite) {
		// A stack, or a program's data: what is read first is written soon.
		access |= usermem.Write
	}
	page := uint64(addr.RoundDown())
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	fresh, err := m.faultIn(e, page, page+pageSize, access, true)
	if err != nil {
		return err
	}
	if m.learning > 0 {
		m.learning--
		m.habit.note(Touch{usermem.Addr(page), access.Has(usermem.Write)})
	}
	done, err := m.mapHost(e, page, access, fresh)
	if err == nil && len(m.ahead) > 0 {
		m.mapAhead(done)
	}
	return err
}

// span is a range of addresses.
type span struct{ start, end uint64 }

// faultIn sees to it that the pages of [start, end), which lies in e, exist and
// can be accessed. With mapped, for a single page, the caller maps the run that is
// returned at once; otherwise the address space loses what became stale. mu and pageMu are held;
// pageMu is released meanwhile when a Mappable is asked, so what was there at
// the start of a long range may be gone again.
func (m *MemoryManager) faultIn(e vmaEntry, start, end uint64, access usermem.Access, mapped bool) (fresh span, err error) {
	v := e.Value
	retries := 0
	for at := start; at < end; {
		a, ok := m.areas.Find(at)
		switch {
		case ok && (!access.Has(usermem.Write) || m.writable(v, a.Value)):
			at, retries = a.End, 0
			continue
		case ok && v.private:
			fresh, err = m.breakCOW(e, a, at, end, mapped)
		case !ok && v.mappable == nil:
			fresh, err = m.zeroFill(e, at, end)
		default:
			done, err := m.translate(e, at, access)
			if err != nil {
				return span{}, err
			}
			if retries++; retries > maxRetries {
				if done {
					return span{}, faultAccErr // the object does not give what it should
				}
				return span{}, nil
			}
			continue // look again: a private mapping copies it now
		}
		if err != nil {
			return span{}, err
		}
		at, retries = fresh.end, 0
	}
	return fresh, nil
}

// window returns how much of the mapping, of length bytes, to fill around at, and
// remembers what it said, to see whether the application goes through memory in
// order, or all over it. Not more than room bytes are filled in hope.
func (v *vma) window(at uint64, gap span, down bool, length, room uint64) span {
	lo, hi := v.lastLow.Load(), v.lastHigh.Load()
	var w span
	switch {
	case hi == 0: // first touch
		if down {
			w = span{at + pageSize - min(firstWin, at), at + pageSize}
		} else {
			w = span{at, at + firstWin}
		}
	case at == hi:
		w = span{at, at + min(2*(hi-lo), maxWindow)}
	case at+pageSize == lo:
		size := min(2*(hi-lo), maxWindow)
		w = span{lo - min(size, lo), lo}
	default:
		size := uint64(minWindow)
		// All over: who has touched a good part of a mapping will touch the rest.
		if filled := v.filled.Load(); length < room/4 && filled >= length/16 {
			size = halfWindow
			if filled >= length/4 {
				size = fullWindow
			}
		}
		start := at &^ (size - 1)
		w = span{start, start + size}
	}
	w.start, w.end = max(w.start, gap.start), min(w.end, gap.end)
	v.lastLow.Store(w.start)
	v.lastHigh.Store(w.end)
	v.filled.Add(w.end - w.start)
	return w
}

// zeroFill makes pages for anonymous memory, from at on or around it.
func (m *MemoryManager) zeroFill(e vmaEntry, at, end uint64) (span, error) {
	var gap span
	gap.start, gap.end = m.areas.Gap(at, e.End)
	gap.start = max(gap.start, e.Start)
	w := e.Value.window(at, gap, e.Value.growsDown, e.Len(), m.acct.Headroom())
	if w.end < end {
		// A large copy, or MAP_POPULATE.
		w = span{at, min(end, gap.end)}
	}
	hint := uint64(memfile.NoHint)
	if before, ok := m.areas.Below(w.start); ok && before.Value.private && before.End == w.start {
		hint = before.Value.offset(w.start)
	} else if after, ok := m.areas.Ceil(w.end); ok && after.Value.private && after.Start == w.end {
		if off := after.Value.offset(w.end); off >= w.end-w.start {
			hint = off - (w.end - w.start)
		}
	}
	run, err := m.file.Alloc(memfile.Request{
		Account: m.acct,
		Pages:   int((w.end - w.start) / pageSize),
		Hint:    hint,
		Down:    e.Value.growsDown,
		Zero:    true,
	})
	if err != nil {
		return span{}, ErrOOM
	}
	got := span{w.start, w.start + uint64(run.Pages)*pageSize}
	if at >= got.end {
		// The run is shorter than asked for: put it where it is needed.
		got.start = min(at, w.end-uint64(run.Pages)*pageSize)
		got.end = got.start + uint64(run.Pages)*pageSize
	}
	m.addArea(got.start, got.end, area{file: m.file, base: run.Offset - got.start, epoch: m.epoch, private: true})
	return got, nil
}

// breakCOW makes pages from at on writable: a's, which can't be written in the
// private mapping e as they are.
func (m *MemoryManager) breakCOW(e vmaEntry, a areaEntry, at, end uint64, mapped bool) (span, error) {
	limit := min(a.End, e.End)
	if a.Value.private {
		if n := m.file.Exclusive(a.Value.offset(at), min(limit-at, takeWindow)); n > 0 {
			got := span{at, at + uint64(n)*pageSize}
			m.areas.Update(got.start, got.end, func(e areaEntry) area {
				e.Value.epoch = m.epoch
				return e.Value
			})
			return got, nil
		}
	}
	v := e.Value
	want := span{at, at + pageSize}
	switch {
	case v.steady && !a.Value.private && v.prot.Has(usermem.Write):
		// The initialized data of a program: all of it is likely to be
		// written, by relocations if by nothing else.
		w := windowAround(at, v.dataWindow(m.acct.Headroom()), span{max(a.Start, e.Start), limit})
		want.start, want.end = w.start, w.end
	case a.Value.private && at == v.lastCopy.Load():
		// Not from an object that may change: until a page is written, it
		// follows the object.
		want.end = at + cowWindow
	}
	want.end = min(max(want.end, end), limit)
	got, err := m.copyOut(a, want, at, mapped)
	if err == error(faultBus) && want.end-want.start > pageSize {
		// The object may end after the page that is needed.
		got, err = m.copyOut(a, span{at, at + pageSize}, at, mapped)
	}
	if err == nil {
		v.lastCopy.Store(got.end)
		if v.mappable != nil {
			v.filled.Add(got.end - got.start)
		}
	}
	return got, err
}

// dataWindow returns how much of a program's initialized data is copied at a touch:
// as much again as has been, where there is plenty of room.
func (v *vma) dataWindow(room uint64) uint64 {
	size := uint64(cowWindow)
	for filled := v.filled.Load(); size < maxWindow && 2*size <= filled && size < room/16; {
		size *= 2
	}
	return size
}

// copyOut replaces pages of a by copies that are the application's own: those
// of want, or fewer with at among them.
func (m *MemoryManager) copyOut(a areaEntry, want span, at uint64, mapped bool) (span, error) {
	hint := uint64(memfile.NoHint)
	if before, ok := m.areas.Below(want.start); ok && before.End == want.start && before.Value.private && before.Value.epoch == m.epoch {
		hint = before.Value.offset(want.start)
	}
	run, err := m.file.Alloc(memfile.Request{Account: m.acct, Pages: int((want.end - want.start) / pageSize), Hint: hint})
	if err != nil {
		return span{}, ErrOOM
	}
	length := uint64(run.Pages) * pageSize
	got := span{want.start, want.start + length}
	if at >= got.end {
		// The run is shorter than asked for: put it where it is needed.
		got.start = min(at, want.end-length)
		got.end = got.start + length
	}
	if err := m.copyPages(run.Offset, a.Value, got.start, length); err != nil {
		m.file.DecRef(run.Offset, length)
		return span{}, faultBus
	}
	if !mapped {
		// Whoever maps the pages, maps these in place of the old ones.
		m.as.Unmap(usermem.AddrRange{Start: usermem.Addr(got.start), End: usermem.Addr(got.end)})
	}
	m.areas.Remove(got.start, got.end, func(old areaEntry) {
		m.countRSS(old, -1)
		m.dropReplaced(old)
	})
	m.addArea(got.start, got.end, area{file: m.file, base: run.Offset - got.start, epoch: m.epoch, private: true})
	return got, nil
}

// dropReplaced drops the references of an area that the address space may still
// map. A page that this would free is taken from the address space first.
func (m *MemoryManager) dropReplaced(old areaEntry) {
	off := old.Value.offset(old.Start)
	if old.Value.file != memmap.File(m.file) {
		old.Value.file.DecRef(off, old.Len())
		return
	}
	for at := old.Start; at < old.End; at, off = at+pageSize, off+pageSize {
		if m.file.DropShared(off) {
			continue
		}
		m.as.Unmap(usermem.AddrRange{Start: usermem.Addr(at), End: usermem.Addr(at + pageSize)})
		m.as.Flush()
		m.file.DecRef(off, pageSize)
	}
}

// copyPages fills the page run at offset to of the memory file from an area.
func (m *MemoryManager) copyPages(to uint64, a area, at, length uint64) error {
	for done := uint64(0); done < length; {
		from, err := a.file.Slice(a.offset(at+done), length-done)
		if err != nil {
			return err
		}
		dst, err := m.file.Slice(to+done, uint64(len(from)))
		if err != nil {
			return err
		}
		n := 0
		if a.file == memmap.File(m.file) {
			n = copy(dst, from)
		} else if err := usermem.Guard(func() error { n = copy(dst, from); return nil }); err != nil {
			return err
		}
		done += uint64(n)
	}
	return nil
}

// translate asks the object mapped by e where the page at is, and adds what
// it says. It reports false when that came too late. pageMu is released
// meanwhile.
func (m *MemoryManager) translate(e vmaEntry, at uint64, access usermem.Access) (bool, error) {
	v := e.Value
	w := windowAround(at, fileWindow, span{e.Start, e.End})
	required := v.objectRange(at, at+pageSize)
	optional := v.objectRange(w.start, w.end)
	if v.private {
		access = usermem.Read
	}
	seq := m.invalSeq
	m.pageMu.Unlock()
	ts, err := v.mappable.Translate(required, optional, access)
	m.pageMu.Lock()

	covered := false
	for _, t := range ts {
		if seq != m.invalSeq {
			t.File.DecRef(t.Offset, t.Source.Len())
			continue
		}
		if t.Source.Start <= required.Start && required.End <= t.Source.End {
			covered = true
		}
		m.addTranslation(e, t, required, access)
	}
	switch {
	case covered:
		return true, nil
	case seq != m.invalSeq && err == nil:
		return false, nil
	case errors.Is(err, unix.ENOMEM):
		return false, ErrOOM
	default:
		return false, faultBus
	}
}

// addTranslation inserts the pages of t where there are none yet, and at
// required also in place of pages that can't be written. It takes t's
// references over.
func (m *MemoryManager) addTranslation(e vmaEntry, t memmap.Translation, required memmap.Range, access usermem.Access) {
	v := e.Value
	start, end := t.Source.Start-v.base, t.Source.End-v.base
	a := area{file: t.File, base: t.Offset - start, access: t.Access}
	need := span{required.Start - v.base, required.End - v.base}
	if access.Has(usermem.Write) && start <= need.start && need.end <= end {
		if old, ok := m.areas.Find(need.start); ok && !m.writable(v, old.Value) {
			m.dropAreas(need.start, need.end, nil)
		}
	}
	for at := start; at < end; {
		next, ok := m.areas.Next(at)
		free := end
		if ok {
			free = min(end, max(next.Start, at))
		}
		if at < free {
			m.addArea(at, free, a)
			at = free
			continue
		}
		used := min(end, next.End)
		t.File.DecRef(a.offset(at), used-at)
		at = used
	}
}

// mapHost maps the page at, and what is useful around it, into the address
// space, and returns what it mapped. fresh is a run that was made just now. mu
// and pageMu are held.
func (m *MemoryManager) mapHost(e vmaEntry, at uint64, access usermem.Access, fresh span) (span, error) {
	a, ok := m.areas.Find(at)
	v := e.Value
	if !ok || access.Has(usermem.Write) && !m.writable(v, a.Value) {
		return span{}, nil // lost to an invalidation: the application comes again
	}
	prot := v.prot.Effective()
	if !m.writable(v, a.Value) {
		prot &^= usermem.Write
	}
	fromHere := fresh.start <= at && at < fresh.end
	if r := &m.recent; !fromHere && r.span.start <= at && at < r.span.end && r.access.Has(access) && r.patience > 0 {
		r.patience--
		return span{}, nil
	}
	var w span
	precommit := false
	if fromHere {
		w = fresh
		precommit = w.end-w.start <= populate
	} else {
		w = windowAround(at, mapWindow, span{max(a.Start, e.Start), min(a.End, e.End)})
		// Pages that wait to be copied are likely to be few that are touched.
		precommit = a.Value.private && a.Value.epoch == m.epoch && w.end-w.start <= populate
	}
	w.start, w.end = max(w.start, a.Start), min(w.end, a.End)
	err := m.as.MapFile(usermem.Addr(w.start), a.Value.file, a.Value.offset(w.start), w.end-w.start, prot, precommit)
	if err == nil {
		m.recent = recentMap{w, prot, maxPatience}
		return w, nil
	}
	m.recent = recentMap{}
	// Too many mappings in the host: begin anew with only this one.
	m.ahead = m.ahead[:0]
	m.as.Unmap(m.platform.UserRange())
	m.as.Flush()
	if err := m.as.MapFile(usermem.Addr(w.start), a.Value.file, a.Value.offset(w.start), w.end-w.start, prot, false); err != nil {
		return span{}, ErrOOM
	}
	return w, nil
}

// windowAround returns what of limits lies in the window around at: all, where
// that is no longer than the window.
func windowAround(at, size uint64, limits span) span {
	if limits.end-limits.start <= size {
		return limits
	}
	start := at &^ (size - 1)
	return span{max(start, limits.start), min(start+size, limits.end)}
}

// makeResident makes the pages of [start, end), which lies in e, and maps them. mu
// is held.
func (m *MemoryManager) makeResident(e vmaEntry, start, end uint64, access usermem.Access) error {
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	if _, err := m.faultIn(e, start, end, access, false); err != nil {
		return err
	}
	for at := start; at < end; {
		a, ok := m.areas.Next(at)
		if !ok || a.Start >= end {
			return nil
		}
		at = max(at, a.Start)
		if _, err := m.mapHost(e, at, access, span{at, min(end, a.End)}); err != nil {
			return err
		}
		at = a.End
	}
	return nil
}

// growStack extends the mapping above addr down to it, if it is a stack that
// may grow as far.
func (m *MemoryManager) growStack(addr usermem.Addr) bool {
	page := uint64(addr.RoundDown())
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.vmas.Len() == 0 || addr < m.layout.bounds.Start {
		return false
	}
	if _, ok := m.vmas.Find(page); ok {
		return true // somebody else did
	}
	e, ok := m.vmas.Ceil(page)
	if !ok || !e.Value.growsDown {
		return false
	}
	if e.End-page > m.limits.StackLimit() || m.sizes.total+(e.Start-page) > m.limits.AddressSpaceLimit() {
		return false
	}
	if below, ok := m.vmas.Below(page); ok && !below.Value.growsDown && below.Value.prot != 0 && page-below.End < stackGuard {
		return false
	}
	if id := e.Value.identity; id != nil || e.Value.mappable != nil {
		return false // nobody has a stack in a file
	}
	m.insertVMA(page, e.Start, e.Value)
	return true
}
