package memmap

import "vitrine/pkg/rangemap"

// Mappings is the list of address spaces that map an object, for its Mappable
// to keep: AddMapping and RemoveMapping add to it and take from it. The zero
// Mappings is empty. The Mappable's own lock guards it.
type Mappings struct {
	spaces map[MappingSpace]*rangemap.Map[int] // how many mappings of a range
	// writable is the sum of the lengths of writable shared mappings.
	writable uint64
}

var countFuncs = rangemap.Funcs[int]{
	Merge: func(a, b rangemap.Entry[int]) (int, bool) { return a.Value, a.Value == b.Value },
}

// Add records a mapping.
func (l *Mappings) Add(space MappingSpace, r Range, writableShared bool) {
	if writableShared {
		l.writable += r.Len()
	}
	if l.spaces == nil {
		l.spaces = make(map[MappingSpace]*rangemap.Map[int])
	}
	m := l.spaces[space]
	if m == nil {
		m = rangemap.New(countFuncs)
		l.spaces[space] = m
	}
	m.Isolate(r.Start, r.End)
	for at := r.Start; at < r.End; {
		start, end := m.Gap(at, r.End)
		if start = max(start, at); start < end {
			m.Insert(start, end, 0)
		}
		e, _ := m.Find(at)
		at = e.End
	}
	m.Update(r.Start, r.End, func(e rangemap.Entry[int]) int { return e.Value + 1 })
}

// Remove takes an earlier Add, or a part of it, back.
func (l *Mappings) Remove(space MappingSpace, r Range, writableShared bool) {
	if writableShared {
		l.writable -= r.Len()
	}
	m := l.spaces[space]
	if m == nil {
		return
	}
	m.Update(r.Start, r.End, func(e rangemap.Entry[int]) int { return e.Value - 1 })
	var gone []Range
	m.Overlap(r.Start, r.End, func(e rangemap.Entry[int]) bool {
		if e.Value <= 0 {
			gone = append(gone, Range{e.Start, e.End})
		}
		return true
	})
	for _, g := range gone {
		m.Remove(g.Start, g.End, nil)
	}
	if m.Len() == 0 {
		delete(l.spaces, space)
	}
}

// Empty reports whether nobody maps the object.
func (l *Mappings) Empty() bool { return len(l.spaces) == 0 }

// WritableShared reports whether there are shared mappings that can be, or be
// made, writable.
func (l *Mappings) WritableShared() bool { return l.writable != 0 }

// Invalidate calls Invalidate of each space that maps something of r.
func (l *Mappings) Invalidate(o Mappable, r Range, private bool) {
	for space, m := range l.spaces {
		if !m.Free(r.Start, r.End) {
			space.Invalidate(o, r, private)
		}
	}
}
