package mm

import (
	"cmp"
	"slices"

	"vitrine/pkg/usermem"
)

// A fault costs many times what one more mapping does that is made along with
// others. So a mapping that is likely to be touched soon is noted, and made with
// whatever is done to the address space next; or at once, if it is as good as
// certain to be touched first.

const (
	// aheadPages is up to how much anonymous memory and data are filled
	// before they are touched, and entered in the host's page tables too.
	aheadPages = 16 * pageSize
	// headPages is that for a large block, whose start has the allocator's own data
	// even where nothing else of it is ever touched.
	headPages = 4 * pageSize
	// maxAhead is how many mappings are noted.
	maxAhead = 24
)

// soonTouched reports whether a mapping that was just made is worth mapping
// before it is touched: the start of anonymous memory, files that are mapped
// privately, which are programs and libraries nearly always, and files that are only
// read.
func (v *vma) soonTouched() bool {
	if v.noReserve || v.lock != unlocked || v.prot.Effective() == 0 {
		return false
	}
	if v.mappable != nil {
		return v.private || !v.prot.Has(usermem.Write)
	}
	return v.private && v.prot.Has(usermem.Write)
}

// expect notes that s, a new mapping, will be touched. With now it is mapped at
// once, and what was noted before with it, if it is small or a file that is only read.
func (m *MemoryManager) expect(s span, now bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	e, ok := m.vmas.Find(s.start)
	if !ok || m.loading && !e.Value.private { // not all programs read the vDSO's clock
		return
	}
	if len(m.ahead) < maxAhead {
		m.ahead = append(m.ahead, s)
	}
	small := s.end-s.start <= aheadPages || !e.Value.prot.Has(usermem.Write)
	if now && small && !m.loading {
		m.mapAhead(span{})
	}
}

// MapAhead maps what new mappings are expected to be touched: exec calls it
// when a program is in place.
func (m *MemoryManager) MapAhead() {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	m.loading = false
	m.mapAhead(span{})
}

// mapAhead maps what was noted, but for what done holds. Failures don't matter: a
// fault will tell. mu and pageMu are held.
func (m *MemoryManager) mapAhead(done span) {
	list := m.ahead
	m.ahead = nil // pageMu is released meanwhile
	// Later mappings lie over parts of earlier ones.
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	at := uint64(0)
	for _, s := range list {
		for at = max(at, s.start); at < s.end; {
			e, ok := m.vmas.Next(at)
			if !ok || e.Start >= s.end {
				break
			}
			w := span{max(at, e.Start), min(e.End, s.end)}
			at = w.end
			if w.start >= done.start && w.end <= done.end {
				continue
			}
			m.mapWhole(e, w)
		}
	}
}

// mapWhole maps w, which lies in e, as far as it can be had cheaply. mu and pageMu
// are held.
func (m *MemoryManager) mapWhole(e vmaEntry, w span) {
	v := e.Value
	if !v.soonTouched() {
		return
	}
	w.end = min(w.end, w.start+fileWindow)
	small := w.end-w.start <= aheadPages
	writes := v.prot.Has(usermem.Write)
	switch {
	case v.growsDown:
		// Only what exec has written.
	case writes && (v.mappable == nil || v.steady):
		// It will be written: a page that is mapped now without that
		// would fault all the same.
		if !small {
			return
		}
		if fresh, err := m.faultIn(e, w.start, w.end, usermem.ReadWrite, false); err == nil {
			w.end = max(w.end, fresh.end)
		}
	default:
		m.faultIn(e, w.start, w.end, usermem.Read, false)
	}
	full := v.prot.Effective()
	m.areas.Overlap(w.start, w.end, func(a areaEntry) bool {
		s := span{max(a.Start, w.start), min(a.End, w.end)}
		prot := full
		if !m.writable(v, a.Value) {
			prot &^= usermem.Write
		}
		precommit := a.Value.private && (v.steady || s.end-s.start <= aheadPages)
		return m.as.MapFile(usermem.Addr(s.start), a.Value.file, a.Value.offset(s.start), s.end-s.start, prot, precommit) == nil
	})
}
