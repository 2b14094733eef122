package stub

import (
	"github.com/google/btree"

	"vitrine/pkg/usermem"
)

// spans is a set of addresses, kept as ranges that don't touch each other. It
// is what the host has mapped in an address space; with it, nothing need be
// asked of a stub where nothing is mapped, and mprotect(2) never meets a hole.
type spans struct {
	tree *btree.BTreeG[usermem.AddrRange]
}

func newSpans() spans {
	return spans{btree.NewG(16, func(a, b usermem.AddrRange) bool { return a.Start < b.Start })}
}

func (s spans) empty() bool { return s.tree.Len() == 0 }

// touching calls f with the ranges that overlap r or, if near, end or begin
// where it begins or ends.
func (s spans) touching(r usermem.AddrRange, near bool, f func(usermem.AddrRange)) {
	overlaps := func(x usermem.AddrRange) bool {
		return x.Overlaps(r) || near && (x.End == r.Start || x.Start == r.End)
	}
	s.tree.DescendLessOrEqual(r, func(x usermem.AddrRange) bool {
		if x.Start < r.Start && overlaps(x) {
			f(x)
		}
		return x.Start == r.Start
	})
	s.tree.AscendGreaterOrEqual(r, func(x usermem.AddrRange) bool {
		if x.Start > r.End {
			return false
		}
		if overlaps(x) {
			f(x)
		}
		return true
	})
}

// add puts r into the set.
func (s spans) add(r usermem.AddrRange) {
	var old []usermem.AddrRange
	s.touching(r, true, func(x usermem.AddrRange) { old = append(old, x) })
	if len(old) == 1 && old[0].Covers(r) {
		return
	}
	for _, x := range old {
		s.tree.Delete(x)
		r.Start, r.End = min(r.Start, x.Start), max(r.End, x.End)
	}
	s.tree.ReplaceOrInsert(r)
}

// remove takes r out and returns the smallest range that holds all that was
// taken out.
func (s spans) remove(r usermem.AddrRange) usermem.AddrRange {
	var old []usermem.AddrRange
	s.touching(r, false, func(x usermem.AddrRange) { old = append(old, x) })
	var hull usermem.AddrRange
	for _, x := range old {
		s.tree.Delete(x)
		cut := x.Intersect(r)
		if hull.Empty() {
			hull = cut
		} else {
			hull = usermem.AddrRange{Start: min(hull.Start, cut.Start), End: max(hull.End, cut.End)}
		}
		if x.Start < r.Start {
			s.tree.ReplaceOrInsert(usermem.AddrRange{Start: x.Start, End: r.Start})
		}
		if x.End > r.End {
			s.tree.ReplaceOrInsert(usermem.AddrRange{Start: r.End, End: x.End})
		}
	}
	return hull
}

// within returns the parts of the set in r, in order.
func (s spans) within(r usermem.AddrRange) []usermem.AddrRange {
	var parts []usermem.AddrRange
	s.touching(r, false, func(x usermem.AddrRange) { parts = append(parts, x.Intersect(r)) })
	return parts
}

// around returns what of the set hangs together with r.
func (s spans) around(r usermem.AddrRange) usermem.AddrRange {
	s.touching(r, true, func(x usermem.AddrRange) {
		r.Start, r.End = min(r.Start, x.Start), max(r.End, x.End)
	})
	return r
}
