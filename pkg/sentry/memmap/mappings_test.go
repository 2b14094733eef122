package memmap

import (
	"math/rand/v2"
	"testing"
)

// told is an address space that counts what it is told.
type told struct{ calls int }

func (s *told) Invalidate(Mappable, Range, bool) { s.calls++ }

// TestMappingsAgainstCells maps and unmaps at random, in parts too, and
// compares with a count for each cell.
func TestMappingsAgainstCells(t *testing.T) {
	const cells, size = 120, 10
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var l Mappings
		spaces := []*told{{}, {}, {}}
		var counts [3][cells]int
		// Few ranges, and more than are kept as they come.
		most := []int{3, 2 * maxFew}[seed%2]
		var maps [3][]Range
		for range 2000 {
			i := rng.IntN(len(spaces))
			if len(maps[i]) < most && rng.IntN(2) == 0 {
				start := rng.IntN(cells - size)
				r := Range{uint64(start), uint64(start + 1 + rng.IntN(size))}
				l.Add(spaces[i], r, seed%3 == 0)
				maps[i] = append(maps[i], r)
				for c := r.Start; c < r.End; c++ {
					counts[i][c]++
				}
			} else if n := len(maps[i]); n > 0 {
				k := rng.IntN(n)
				r := maps[i][k]
				maps[i][k] = maps[i][n-1]
				maps[i] = maps[i][:n-1]
				part := r
				if rng.IntN(3) == 0 && r.Len() > 2 { // from the middle
					part = Range{r.Start + 1, r.End - 1}
					maps[i] = append(maps[i], Range{r.Start, r.Start + 1}, Range{r.End - 1, r.End})
				}
				l.Remove(spaces[i], part, seed%3 == 0)
				for c := part.Start; c < part.End; c++ {
					counts[i][c]--
				}
			}
			start := uint64(rng.IntN(cells))
			r := Range{start, min(cells, start+1+uint64(rng.IntN(size)))}
			empty, writable := true, uint64(0)
			for i, s := range spaces {
				want := 0
				for c, n := range counts[i] {
					if n > 0 && uint64(c) >= r.Start && uint64(c) < r.End {
						want = 1
					}
					empty = empty && n == 0
					writable += uint64(n)
				}
				s.calls = -want
			}
			l.Invalidate(nil, r, false)
			for i, s := range spaces {
				if s.calls != 0 {
					t.Fatalf("seed %d: space %d of %v: told %+d times too often", seed, i, r, s.calls)
				}
			}
			if l.Empty() != empty {
				t.Fatalf("seed %d: Empty is %v", seed, !empty)
			}
			if want := seed%3 == 0 && writable > 0; l.WritableShared() != want {
				t.Fatalf("seed %d: WritableShared is %v", seed, !want)
			}
		}
	}
}
