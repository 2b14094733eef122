package rangemap

import "github.com/google/btree"

const (
	// degree is chosen so that a node of entries of 56 bytes fills about a page.
	degree = 32
	// maxFew is how many entries are kept in a slice. Nearly all maps stay
	// that small: a search is then some comparisons in a row, without a call
	// for each.
	maxFew = 64
)

// set is entries by Start. The zero set is empty.
type set[V any] struct {
	few []Entry[V] // sorted, while tree is nil
	// shared says that a clone may have the same array, from which few must
	// be copied before it is changed.
	shared bool
	tree   *btree.BTreeG[Entry[V]]
}

func (s *set[V]) clone() set[V] {
	if s.tree != nil {
		return set[V]{tree: s.tree.Clone()}
	}
	s.shared = true
	return *s
}

func (s *set[V]) len() int {
	if s.tree != nil {
		return s.tree.Len()
	}
	return len(s.few)
}

// search returns the index in few of the first entry that starts at or after x.
func (s *set[V]) search(x uint64) int {
	low, high := 0, len(s.few)
	for low < high {
		mid := int(uint(low+high) / 2)
		if s.few[mid].Start < x {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// floor returns the last entry that starts at or before x.
func (s *set[V]) floor(x uint64) (found Entry[V], ok bool) {
	if s.tree == nil {
		i := s.search(x)
		if i == len(s.few) || s.few[i].Start != x {
			i--
		}
		if i < 0 {
			return found, false
		}
		return s.few[i], true
	}
	s.tree.DescendLessOrEqual(Entry[V]{Start: x}, func(e Entry[V]) bool {
		found, ok = e, true
		return false
	})
	return found, ok
}

// ceil returns the first entry that starts at or after x.
func (s *set[V]) ceil(x uint64) (found Entry[V], ok bool) {
	if s.tree == nil {
		if i := s.search(x); i < len(s.few) {
			return s.few[i], true
		}
		return found, false
	}
	s.tree.AscendGreaterOrEqual(Entry[V]{Start: x}, func(e Entry[V]) bool {
		found, ok = e, true
		return false
	})
	return found, ok
}

// ascend calls f for the entries that start at or after x until it returns
// false.
func (s *set[V]) ascend(x uint64, f func(Entry[V]) bool) {
	if s.tree != nil {
		s.tree.AscendGreaterOrEqual(Entry[V]{Start: x}, f)
		return
	}
	for _, e := range s.few[s.search(x):] {
		if !f(e) {
			return
		}
	}
}

// descend calls f for the entries that start at or before x, from the last to
// the first, until it returns false.
func (s *set[V]) descend(x uint64, f func(Entry[V]) bool) {
	if s.tree != nil {
		s.tree.DescendLessOrEqual(Entry[V]{Start: x}, f)
		return
	}
	i := s.search(x)
	if i < len(s.few) && s.few[i].Start == x {
		i++
	}
	for i--; i >= 0; i-- {
		if !f(s.few[i]) {
			return
		}
	}
}

// own makes few an array of s alone, with room for more entries.
func (s *set[V]) own(more int) {
	if s.shared || len(s.few)+more > cap(s.few) {
		few := make([]Entry[V], len(s.few), min(max(2*len(s.few), 4)+more, maxFew))
		copy(few, s.few)
		s.few, s.shared = few, false
	}
}

// put adds an entry, in place of the one with the same Start.
func (s *set[V]) put(e Entry[V]) {
	if s.tree != nil {
		s.tree.ReplaceOrInsert(e)
		return
	}
	i := s.search(e.Start)
	if i < len(s.few) && s.few[i].Start == e.Start {
		s.own(0)
		s.few[i] = e
		return
	}
	if len(s.few) == maxFew {
		s.tree = btree.NewG(degree, func(a, b Entry[V]) bool { return a.Start < b.Start })
		for _, f := range s.few {
			s.tree.ReplaceOrInsert(f)
		}
		s.tree.ReplaceOrInsert(e)
		s.few = nil
		return
	}
	s.own(1)
	s.few = s.few[:len(s.few)+1]
	copy(s.few[i+1:], s.few[i:])
	s.few[i] = e
}

// remove takes the entry that starts at x out, which there is.
func (s *set[V]) remove(x uint64) {
	if s.tree != nil {
		s.tree.Delete(Entry[V]{Start: x})
		return
	}
	s.own(0)
	i := s.search(x)
	copy(s.few[i:], s.few[i+1:])
	last := len(s.few) - 1
	clear(s.few[last:]) // what it points to may be garbage
	s.few = s.few[:last]
}
