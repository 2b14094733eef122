package mm

import (
	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// area is a run of pages that exist. The offset in file of an address is the
// address plus base, so cutting an area changes nothing.
type area struct {
	file memmap.File
	base uint64 // modulo 2^64
	// epoch is when private pages came to be ours: see the package comment.
	epoch uint64
	// private pages belong to address spaces, and not to a mapped object.
	// They are in the memory file.
	private bool
	// access is what a mapped object permits for its page.
	access usermem.Access
}

type areaEntry = rangemap.Entry[area]

func (a area) offset(addr uint64) uint64 { return addr + a.base }

var areaFuncs = rangemap.Funcs[area]{
	Merge: func(a, b areaEntry) (area, bool) { return a.Value, a.Value == b.Value },
}

// writable reports whether the pages of a, in a mapping of v, can be written as
// they are. pageMu is held.
func (m *MemoryManager) writable(v *vma, a area) bool {
	if a.private {
		return a.epoch == m.epoch
	}
	return !v.private && a.access.Has(usermem.Write)
}

// countRSS adds (sign 1) or takes (sign -1) an area to or from the resident
// size. pageMu is held.
func (m *MemoryManager) countRSS(e areaEntry, sign int64) {
	n := sign * int64(e.Len())
	switch {
	case e.Value.private:
		m.rssAnon.Add(n)
	case e.Value.file == memmap.File(m.file):
		m.rssShmem.Add(n)
	default:
		m.rssFile.Add(n)
	}
	if sign > 0 {
		if rss := m.rssAnon.Load() + m.rssFile.Load() + m.rssShmem.Load(); rss > m.peakRSS.Load() {
			m.peakRSS.Store(rss)
		}
	}
}

// dropAreas removes the areas in [start, end), or those that match says, from
// the address space too. pageMu is held.
func (m *MemoryManager) dropAreas(start, end uint64, match func(area) bool) {
	// Isolating first, the entries below lie wholly in the range.
	var extent usermem.AddrRange
	some, all := false, true
	m.areas.Overlap(start, end, func(e areaEntry) bool {
		if match != nil && !match(e.Value) {
			all = false
			return true
		}
		if !some {
			some, extent.Start = true, usermem.Addr(max(e.Start, start))
		}
		extent.End = usermem.Addr(min(e.End, end))
		return true
	})
	if !some {
		return
	}
	// Pages between that stay are mapped again by their next fault.
	m.as.Unmap(extent)
	m.as.Flush()
	if all {
		m.areas.Remove(uint64(extent.Start), uint64(extent.End), m.forgetArea)
		return
	}
	for at := uint64(extent.Start); at < uint64(extent.End); {
		e, ok := m.areas.Next(at)
		if !ok || e.Start >= uint64(extent.End) {
			return
		}
		if match(e.Value) {
			m.areas.Remove(max(e.Start, at), min(e.End, uint64(extent.End)), m.forgetArea)
		}
		at = e.End
	}
}

func (m *MemoryManager) forgetArea(e areaEntry) {
	m.countRSS(e, -1)
	e.Value.file.DecRef(e.Value.offset(e.Start), e.Len())
}

// addArea inserts pages whose references it takes over. pageMu is held.
func (m *MemoryManager) addArea(start, end uint64, a area) {
	m.countRSS(areaEntry{Start: start, End: end, Value: a}, 1)
	m.areas.Insert(start, end, a)
	if m.areas.Len() > m.paidAreas {
		m.payAreas()
	}
}
