package rangemap

import (
	"slices"
	"testing"
)

// span is a value that remembers where its first byte was, so that a wrong
// split shows.
type span struct {
	kind byte
	base uint64 // number of the entry's first unit
}

func spanFuncs() Funcs[span] {
	return Funcs[span]{
		Split: func(e Entry[span], at uint64) (span, span) {
			return e.Value, span{e.Value.kind, e.Value.base + (at - e.Start)}
		},
		Merge: func(a, b Entry[span]) (span, bool) {
			return a.Value, a.Value.kind == b.Value.kind && a.Value.base+a.Len() == b.Value.base
		},
	}
}

const modelSize = 192

// model is the naive map: one cell a number. Kind zero is free.
type model [modelSize]span

func check(t *testing.T, m *Map[span], want *model) {
	t.Helper()
	var got model
	last, n := uint64(0), 0
	var prev Entry[span]
	m.Ascend(0, func(e Entry[span]) bool {
		if e.Start < last || e.Start >= e.End || e.End > modelSize {
			t.Fatalf("entry %+v out of order or shape", e)
		}
		if n > 0 && prev.End == e.Start && prev.Value.kind == e.Value.kind && prev.Value.base+prev.Len() == e.Value.base && prev.Value.kind&0x80 != 0 {
			t.Fatalf("entries %+v and %+v were not merged", prev, e)
		}
		for i := e.Start; i < e.End; i++ {
			got[i] = span{e.Value.kind, e.Value.base + i - e.Start}
		}
		last, prev = e.End, e
		n++
		return true
	})
	if got != *want {
		t.Fatalf("map is\n%v, want\n%v", got, *want)
	}
	if n != m.Len() {
		t.Fatalf("Len is %d, counted %d", m.Len(), n)
	}
	for x := uint64(0); x < modelSize; x++ {
		if e, ok := m.Find(x); ok != (want[x].kind != 0) || ok && (x < e.Start || x >= e.End) {
			t.Fatalf("Find(%d) is %+v, %v", x, e, ok)
		}
		start, end := m.Gap(x, modelSize)
		if want[x].kind != 0 {
			if start != end {
				t.Fatalf("Gap(%d) is [%d, %d) within an entry", x, start, end)
			}
			continue
		}
		lo, hi := x, x+1
		for lo > 0 && want[lo-1].kind == 0 {
			lo--
		}
		for hi < modelSize && want[hi].kind == 0 {
			hi++
		}
		if start != lo || end != hi {
			t.Fatalf("Gap(%d) is [%d, %d), want [%d, %d)", x, start, end, lo, hi)
		}
		next, ok := m.Next(x)
		if ok != (hi < modelSize) || ok && next.Start != hi {
			t.Fatalf("Next(%d) is %+v, %v", x, next, ok)
		}
	}
}

func FuzzAgainstCells(f *testing.F) {
	f.Add([]byte{0, 0, 10, 0, 10, 20, 1, 5, 15, 4, 0, 0, 2, 8, 30, 3, 2, 60})
	f.Add([]byte("\x00\x00\x3f\x01\x08\x10\x00\x08\x10\x02\x00\x3f\x04\x00\x00\x01\x00\x3f"))
	// More entries than are kept in a slice: there, cut, cloned and taken away.
	many := []byte{0, 0, modelSize}
	for i := byte(0); i < modelSize; i += 2 {
		many = append(many, 3, i, i+1)
	}
	f.Add(append(append(many, 4, 0, 0, 2, 60, 130, 0x44, 0, 0, 5, 20, 100), 1, 0, modelSize))
	f.Fuzz(func(t *testing.T, ops []byte) {
		m := New(spanFuncs())
		var want model
		// A clone must not see what is done to the other after it was made.
		var clone *Map[span]
		var cloneWant model
		for len(ops) >= 3 {
			op, a, b := ops[0], uint64(ops[1]%modelSize), uint64(ops[2]%(modelSize+1))
			ops = ops[3:]
			if a > b {
				a, b = b, a
			}
			switch op % 6 {
			case 0:
				free := a < b
				for i := a; i < b; i++ {
					free = free && want[i].kind == 0
				}
				if m.Free(a, b) != (free || a == b) {
					t.Fatalf("Free(%d, %d) is %v", a, b, !free)
				}
				if free {
					kind := 1 + op/6%3
					m.Insert(a, b, span{kind, a})
					for i := a; i < b; i++ {
						want[i] = span{kind, i}
					}
				}
			case 1:
				var removed uint64
				m.Remove(a, b, func(e Entry[span]) {
					for i := e.Start; i < e.End; i++ {
						if want[i] != (span{e.Value.kind, e.Value.base + i - e.Start}) {
							t.Fatalf("removed %+v, where %d has %+v", e, i, want[i])
						}
						want[i] = span{}
						removed++
					}
				})
				for i := a; i < b; i++ {
					if want[i].kind != 0 {
						t.Fatalf("%d was not removed", i)
					}
				}
			case 2:
				m.Update(a, b, func(e Entry[span]) span { return span{e.Value.kind%3 + 1, e.Value.base} })
				for i := a; i < b; i++ {
					if want[i].kind != 0 {
						want[i].kind = want[i].kind%3 + 1
					}
				}
			case 3:
				m.Isolate(a, b)
			case 4:
				clone, cloneWant = m.Clone(), want
				if op&0x40 != 0 {
					m, clone = clone, m
				}
			case 5:
				if a < b {
					m.Set(a, b, span{1, a})
					for i := a; i < b; i++ {
						want[i] = span{1, i}
					}
				}
			}
			check(t, m, &want)
			var up, down []uint64
			m.Ascend(0, func(e Entry[span]) bool { up = append(up, e.Start); return e.Start < b })
			m.Descend(b, func(e Entry[span]) bool { down = append(down, e.Start); return e.Start > a })
			for i, d := range down {
				if d >= b || i > 0 && down[i-1] <= d || !slices.Contains(up, d) {
					t.Fatalf("Descend(%d) gave %v, Ascend %v", b, down, up)
				}
			}
			for _, u := range up {
				if u >= a && u < b && !slices.Contains(down, u) {
					t.Fatalf("Descend(%d) to %d left %d out: %v", b, a, u, down)
				}
			}
			var seen []uint64
			m.Overlap(a, b, func(e Entry[span]) bool { seen = append(seen, e.Start); return true })
			for _, s := range seen {
				e, _ := m.Find(s)
				if e.Start >= b || e.End <= a {
					t.Fatalf("Overlap(%d, %d) gave %+v", a, b, e)
				}
			}
			if clone != nil {
				check(t, clone, &cloneWant)
			}
		}
	})
}

func TestNeighboursMerge(t *testing.T) {
	m := New(spanFuncs())
	m.Insert(0, 10, span{1, 0})
	m.Insert(20, 30, span{1, 20})
	if e := m.Insert(10, 20, span{1, 10}); e.Start != 0 || e.End != 30 || m.Len() != 1 {
		t.Errorf("got %+v and %d entries, want one of [0, 30)", e, m.Len())
	}
	m.Update(5, 10, func(e Entry[span]) span { return span{2, e.Value.base} })
	if m.Len() != 3 {
		t.Errorf("%d entries after an update in the middle, want 3", m.Len())
	}
	m.Update(5, 10, func(e Entry[span]) span { return span{1, e.Value.base} })
	if m.Len() != 1 {
		t.Errorf("%d entries after the update was undone, want 1", m.Len())
	}
}

func TestLookupsDoNotAllocate(t *testing.T) {
	m := New(spanFuncs())
	for i := uint64(0); i < 1000; i++ {
		m.Insert(i*10, i*10+5, span{1, 0})
	}
	if n := testing.AllocsPerRun(100, func() {
		m.Find(5003)
		m.Next(5007)
		m.Gap(5007, 1<<20)
		m.Free(3, 9)
	}); n != 0 {
		t.Errorf("%v allocations per lookup", n)
	}
}

func BenchmarkFind(b *testing.B) {
	m := New(spanFuncs())
	for i := uint64(0); i < 1000; i++ {
		m.Insert(i*10, i*10+5, span{1, 0})
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		m.Find(uint64(i) % 10000)
	}
}
