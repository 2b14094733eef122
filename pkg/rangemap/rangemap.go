// Package rangemap holds values for ranges of numbers: the mappings of an
// address space, the pages of a file, the locks on it.
//
// A Map keeps entries [Start, End) → Value that do not overlap, ordered by Start:
// a few in a slice, more in a B-tree. Values are copied as they are: keep them
// small, or make them pointers to what does not change. What happens to a value when its entry
// is cut in two, and which neighbours may become one, is said by two functions
// given to New.
//
// Clone is lazy: it costs the same for any size, and the two maps copy the slice
// or nodes of the tree when they are written later. fork(2) depends on it.
//
// A Map does no locking: any number of readers, or one writer. Clone is a
// writer. Nothing here allocates for a lookup.
package rangemap

import "math"

// Entry is a range and its value.
type Entry[V any] struct {
	Start, End uint64 // half-open
	Value      V
}

// Len returns the length of the range.
func (e Entry[V]) Len() uint64 { return e.End - e.Start }

// Funcs say how values behave when entries change shape. Either may be nil.
type Funcs[V any] struct {
	// Split returns the values of [e.Start, at) and [at, e.End). Nil: both
	// have the value of e.
	Split func(e Entry[V], at uint64) (left, right V)
	// Merge returns the value of a and b together, where a.End is b.Start,
	// and whether they may be merged. Nil: they may not.
	Merge func(a, b Entry[V]) (V, bool)
}

// Map is a set of entries that do not overlap.
type Map[V any] struct {
	set   set[V]
	funcs Funcs[V]
}

// New returns an empty Map.
func New[V any](funcs Funcs[V]) *Map[V] { return &Map[V]{funcs: funcs} }

// Clone returns a copy of the map, lazily. Split is not called: a value that
// counts references must be counted by the caller.
func (m *Map[V]) Clone() *Map[V] { return &Map[V]{set: m.set.clone(), funcs: m.funcs} }

// Len returns the number of entries.
func (m *Map[V]) Len() int { return m.set.len() }

// Find returns the entry that contains x.
func (m *Map[V]) Find(x uint64) (Entry[V], bool) {
	if m.set.tree != nil {
		e, ok := m.Floor(x)
		return e, ok && x < e.End
	}
	// It is on the way of each system call: no more calls, and no copies.
	low, high := 0, len(m.set.few)
	for low < high {
		mid := int(uint(low+high) / 2)
		if m.set.few[mid].End <= x {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == len(m.set.few) || m.set.few[low].Start > x {
		return Entry[V]{}, false
	}
	return m.set.few[low], true
}

// Floor returns the last entry that starts at or before x.
func (m *Map[V]) Floor(x uint64) (Entry[V], bool) { return m.set.floor(x) }

// Below returns the last entry that starts before x.
func (m *Map[V]) Below(x uint64) (Entry[V], bool) {
	if x == 0 {
		return Entry[V]{}, false
	}
	return m.Floor(x - 1)
}

// Ceil returns the first entry that starts at or after x.
func (m *Map[V]) Ceil(x uint64) (Entry[V], bool) { return m.set.ceil(x) }

// Next returns the entry that contains x, or else the first one after it.
func (m *Map[V]) Next(x uint64) (Entry[V], bool) {
	if e, ok := m.Find(x); ok {
		return e, true
	}
	return m.Ceil(x)
}

// First returns the entry with the lowest Start.
func (m *Map[V]) First() (Entry[V], bool) { return m.set.ceil(0) }

// Last returns the entry with the highest Start.
func (m *Map[V]) Last() (Entry[V], bool) { return m.set.floor(math.MaxUint64) }

// Gap returns the free range around x, within [0, limit); it is empty when x
// lies in an entry.
func (m *Map[V]) Gap(x, limit uint64) (start, end uint64) {
	end = limit
	if e, ok := m.Floor(x); ok {
		if x < e.End {
			return x, x
		}
		start = e.End
	}
	if e, ok := m.Ceil(x); ok {
		end = min(end, e.Start)
	}
	return start, end
}

// Ascend calls f for the entries that end after from, in order, until f
// returns false. f must not change the map.
func (m *Map[V]) Ascend(from uint64, f func(Entry[V]) bool) {
	if e, ok := m.Below(from); ok && e.End > from {
		if !f(e) {
			return
		}
	}
	m.set.ascend(from, f)
}

// Descend calls f for the entries that start before from, from the last to the
// first, until f returns false. f must not change the map.
func (m *Map[V]) Descend(from uint64, f func(Entry[V]) bool) {
	if from == 0 {
		return
	}
	m.set.descend(from-1, f)
}

// Overlap calls f for the entries that share something with [start, end), in
// order, until f returns false. Entries are given whole. f must not change the
// map.
func (m *Map[V]) Overlap(start, end uint64, f func(Entry[V]) bool) {
	if start >= end {
		return
	}
	if e, ok := m.Below(start); ok && e.End > start {
		if !f(e) {
			return
		}
	}
	m.set.ascend(start, func(e Entry[V]) bool { return e.Start < end && f(e) })
}

// Free reports whether nothing lies in [start, end).
func (m *Map[V]) Free(start, end uint64) bool {
	if start >= end {
		return true
	}
	e, ok := m.Floor(end - 1)
	return !ok || e.End <= start
}

// Insert adds [start, end), which must be free and not empty, and merges it
// with its neighbours where Merge allows. It returns the resulting entry.
func (m *Map[V]) Insert(start, end uint64, v V) Entry[V] {
	e := Entry[V]{start, end, v}
	if start >= end {
		panic("rangemap: empty range inserted")
	}
	before, okBefore := m.Floor(end - 1)
	if okBefore && before.End > start {
		panic("rangemap: overlapping range inserted")
	}
	if m.funcs.Merge != nil {
		if okBefore && before.End == start {
			if v, ok := m.funcs.Merge(before, e); ok {
				e = Entry[V]{before.Start, end, v}
			}
		}
		if after, ok := m.Ceil(end); ok && after.Start == end {
			if v, ok := m.funcs.Merge(e, after); ok {
				m.set.remove(after.Start)
				e = Entry[V]{e.Start, after.End, v}
			}
		}
	}
	m.set.put(e)
	return e
}

// SplitAt cuts the entry that contains at, so that one starts there.
func (m *Map[V]) SplitAt(at uint64) {
	e, ok := m.Below(at)
	if !ok || e.End <= at {
		return
	}
	left, right := e.Value, e.Value
	if m.funcs.Split != nil {
		left, right = m.funcs.Split(e, at)
	}
	m.set.put(Entry[V]{e.Start, at, left})
	m.set.put(Entry[V]{at, e.End, right})
}

// Isolate cuts entries so that none reaches across start or end.
func (m *Map[V]) Isolate(start, end uint64) {
	m.SplitAt(start)
	m.SplitAt(end)
}

// Remove takes [start, end) out of the map, cutting entries at its ends, and
// calls f, unless nil, with each part removed, in order. f must not change the
// map.
func (m *Map[V]) Remove(start, end uint64, f func(Entry[V])) {
	if start >= end {
		return
	}
	m.Isolate(start, end)
	for {
		e, ok := m.Ceil(start)
		if !ok || e.Start >= end {
			return
		}
		m.set.remove(e.Start)
		if f != nil {
			f(e)
		}
		start = e.End
	}
}

// Update replaces the values of all entries in [start, end), cutting at its
// ends, with what f returns for them, and then merges neighbours where Merge
// allows, also at the ends.
func (m *Map[V]) Update(start, end uint64, f func(Entry[V]) V) {
	if start >= end {
		return
	}
	m.Isolate(start, end)
	for at := start; ; {
		e, ok := m.Ceil(at)
		if !ok || e.Start >= end {
			break
		}
		e.Value = f(e)
		m.set.put(e)
		at = e.End
	}
	m.Merge(start, end)
}

// Merge merges the entries that touch or lie in [start, end] where the Merge
// function allows.
func (m *Map[V]) Merge(start, end uint64) {
	if m.funcs.Merge == nil {
		return
	}
	cur, ok := m.Below(start)
	if !ok || cur.End < start {
		cur, ok = m.Ceil(start)
	}
	for ok && cur.Start <= end {
		next, more := m.Ceil(cur.End)
		if !more || next.Start > end {
			return
		}
		if cur.End == next.Start {
			if v, can := m.funcs.Merge(cur, next); can {
				m.set.remove(next.Start)
				cur = Entry[V]{cur.Start, next.End, v}
				m.set.put(cur)
				continue
			}
		}
		cur = next
	}
}

// Set puts v at [start, end), in place of whatever is there.
func (m *Map[V]) Set(start, end uint64, v V) {
	m.Remove(start, end, nil)
	m.Insert(start, end, v)
}

// Clear removes everything.
func (m *Map[V]) Clear() { m.set = set[V]{} }
