package memmap

import "vitrine/pkg/rangemap"

// Mappings is the list of address spaces that map an object, for its Mappable
// to keep: AddMapping and RemoveMapping add to it and take from it. The zero
// Mappings is empty. The Mappable's own lock guards it.
type Mappings struct {
	spaces map[MappingSpace]*cover
	// writable is the sum of the lengths of writable shared mappings.
	writable uint64
}

// cover says how many mappings of an address space there are of each range.
// Nearly all have a few, which are kept as they come.
type cover struct {
	few  []Range // while many is nil
	room [4]Range
	many *rangemap.Map[int]
}

// maxFew is how many ranges are kept as they come.
const maxFew = 24

var countFuncs = rangemap.Funcs[int]{
	Merge: func(a, b rangemap.Entry[int]) (int, bool) { return a.Value, a.Value == b.Value },
}

// Add records a mapping.
func (l *Mappings) Add(space MappingSpace, r Range, writableShared bool) {
	if writableShared {
		l.writable += r.Len()
	}
	if l.spaces == nil {
		l.spaces = make(map[MappingSpace]*cover)
	}
	c := l.spaces[space]
	if c == nil {
		c = &cover{}
		c.few = c.room[:0]
		l.spaces[space] = c
	}
	c.add(r)
}

// Remove takes an earlier Add, or a part of it, back.
func (l *Mappings) Remove(space MappingSpace, r Range, writableShared bool) {
	if writableShared {
		l.writable -= r.Len()
	}
	if c := l.spaces[space]; c != nil && c.remove(r) {
		delete(l.spaces, space)
	}
}

func (c *cover) add(r Range) {
	if c.many == nil {
		if c.few = append(c.few, r); len(c.few) <= maxFew {
			return
		}
		c.many = rangemap.New(countFuncs)
		for _, f := range c.few {
			c.addMany(f)
		}
		c.few = nil
		return
	}
	c.addMany(r)
}

func (c *cover) addMany(r Range) {
	c.many.Isolate(r.Start, r.End)
	for at := r.Start; at < r.End; {
		start, end := c.many.Gap(at, r.End)
		if start = max(start, at); start < end {
			c.many.Insert(start, end, 0)
		}
		e, _ := c.many.Find(at)
		at = e.End
	}
	c.many.Update(r.Start, r.End, func(e rangemap.Entry[int]) int { return e.Value + 1 })
}

// remove takes r away once and reports whether nothing is left. What is
// covered several times is the same whichever is cut.
func (c *cover) remove(r Range) bool {
	if c.many != nil {
		return c.removeMany(r)
	}
	for i := 0; i < len(c.few) && r.Start < r.End; {
		f := c.few[i]
		cut := Range{max(f.Start, r.Start), min(f.End, r.End)}
		if cut.Start >= cut.End {
			i++
			continue
		}
		last := len(c.few) - 1
		c.few[i] = c.few[last]
		c.few = c.few[:last]
		for _, rest := range [2]Range{{f.Start, cut.Start}, {cut.End, f.End}} {
			if rest.Start < rest.End {
				c.add(rest)
			}
		}
		// Of r, what this one didn't hold is left to be taken from others.
		if before := (Range{r.Start, cut.Start}); before.Start < before.End {
			c.remove(before)
		}
		r.Start = cut.End
		if c.many != nil {
			return c.removeMany(r)
		}
		i = 0
	}
	return len(c.few) == 0
}

func (c *cover) removeMany(r Range) bool {
	c.many.Update(r.Start, r.End, func(e rangemap.Entry[int]) int { return e.Value - 1 })
	var gone []Range
	c.many.Overlap(r.Start, r.End, func(e rangemap.Entry[int]) bool {
		if e.Value <= 0 {
			gone = append(gone, Range{e.Start, e.End})
		}
		return true
	})
	for _, g := range gone {
		c.many.Remove(g.Start, g.End, nil)
	}
	return c.many.Len() == 0
}

// covers reports whether something of r is covered.
func (c *cover) covers(r Range) bool {
	if c.many != nil {
		return !c.many.Free(r.Start, r.End)
	}
	for _, f := range c.few {
		if f.Start < r.End && r.Start < f.End {
			return true
		}
	}
	return false
}

// Empty reports whether nobody maps the object.
func (l *Mappings) Empty() bool { return len(l.spaces) == 0 }

// WritableShared reports whether there are shared mappings that can be, or be
// made, writable.
func (l *Mappings) WritableShared() bool { return l.writable != 0 }

// Invalidate calls Invalidate of each space that maps something of r.
func (l *Mappings) Invalidate(o Mappable, r Range, private bool) {
	for space, c := range l.spaces {
		if c.covers(r) {
			space.Invalidate(o, r, private)
		}
	}
}
