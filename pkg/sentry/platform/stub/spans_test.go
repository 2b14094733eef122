package stub

import (
	"testing"

	"vitrine/pkg/usermem"
)

func TestSpans(t *testing.T) {
	r := func(a, b usermem.Addr) usermem.AddrRange { return usermem.AddrRange{Start: a, End: b} }
	s := newSpans()
	// Against a bitmap.
	var bits [64]bool
	seed := uint32(1)
	next := func(n uint32) usermem.Addr {
		seed = seed*1664525 + 1013904223
		return usermem.Addr((seed >> 16) % n)
	}
	for range 20000 {
		a := next(60)
		b := a + 1 + next(uint32(63-a))
		if next(2) == 0 {
			s.add(r(a, b))
			for i := a; i < b; i++ {
				bits[i] = true
			}
		} else {
			hull := s.remove(r(a, b))
			for i := a; i < b; i++ {
				if bits[i] && !hull.Contains(i) {
					t.Fatalf("%d was taken out but is not in %v", i, hull)
				}
				bits[i] = false
			}
		}
		var got [64]bool
		last := usermem.Addr(0)
		for k, x := range s.within(r(0, 64)) {
			if x.Empty() || k > 0 && x.Start <= last {
				t.Fatalf("ranges touch or are empty: %v", x)
			}
			last = x.End
			for i := x.Start; i < x.End; i++ {
				got[i] = true
			}
		}
		if got != bits {
			t.Fatalf("got %v, want %v", got, bits)
		}
	}
}
