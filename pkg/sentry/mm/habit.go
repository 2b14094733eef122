package mm

import (
	"cmp"
	"slices"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/usermem"
)

// A process that forks once forks again, and each time parent and child touch
// the same few pages first: the stack, the C library's data. So the first faults
// after a fork are remembered, and with the next fork the child gets those pages
// mapped, in one go, and its own copies of those that will be written, which
// leaves the parent's writable.

const (
	// learnFaults is how many faults after a fork are remembered, of the parent
	// and of the child.
	learnFaults = 8
	// maxHabit is how many pages are.
	maxHabit = 16
	// forgetForks is after how many forks they are learned anew.
	forgetForks = 64
	// populateSmall is how much of what is mapped around one is entered in the
	// host's page tables too.
	populateSmall = 4 * pageSize
)

// Touch says that a page is about to be touched.
type Touch struct {
	Addr  usermem.Addr
	Write bool
}

// habit is what is touched after a fork. An address space and its children have
// one together.
type habit struct {
	mu      locks.Mutex[locks.Leaf]
	touched []Touch // page-aligned
	next    int     // is replaced when there are too many
	forks   int
}

// note remembers a touch.
func (h *habit) note(t Touch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.touched = addTouch(h.touched, t)
	if n := len(h.touched); n > maxHabit {
		h.touched[h.next%maxHabit] = h.touched[n-1]
		h.touched = h.touched[:n-1]
		h.next++
	}
}

func addTouch(l []Touch, t Touch) []Touch {
	for i := range l {
		if l[i].Addr == t.Addr {
			l[i].Write = l[i].Write || t.Write
			return l
		}
	}
	return append(l, t)
}

// expected returns what will be touched after a fork, soon among it, by address.
func (h *habit) expected(soon []Touch) []Touch {
	h.mu.Lock()
	l := slices.Clone(h.touched)
	if h.forks++; h.forks%forgetForks == 0 {
		h.touched = h.touched[:0]
	}
	h.mu.Unlock()
	for _, t := range soon {
		t.Addr = t.Addr.RoundDown()
		l = addTouch(l, t)
	}
	slices.SortFunc(l, func(a, b Touch) int { return cmp.Compare(a.Addr, b.Addr) })
	return l
}

// copyAhead gives c copies of pages of m that it will write. Where m can write
// them too, by their epoch, which is old, that stays so: they are of the new one.
// Failures don't matter. As in copyPinned, both page locks are held.
func (m *MemoryManager) copyAhead(c *MemoryManager, touches []Touch, old uint64) {
	// With another thread a page that can be written must be copied as it is
	// at one moment, which takes the host's write permission away.
	alone := m.users.Load() == 1
	hint := uint64(memfile.NoHint)
	for _, t := range touches {
		at := uint64(t.Addr)
		if !t.Write {
			continue
		}
		if e, ok := c.vmas.Find(at); !ok || !e.Value.private || !e.Value.prot.Has(usermem.Write) {
			continue
		}
		a, ok := c.areas.Find(at)
		if !ok || !a.Value.private || a.Value.epoch > old {
			continue
		}
		from, ours := a.Value.offset(at), a.Value.epoch == old
		if ours && (!alone || m.file.Exclusive(from, pageSize) != 1) {
			continue
		}
		run, err := m.file.Alloc(memfile.Request{Account: m.acct, Pages: 1, Hint: hint})
		if err != nil {
			return
		}
		hint = run.Offset + pageSize
		if m.copyPages(run.Offset, a.Value, at, pageSize) != nil {
			m.file.DecRef(run.Offset, pageSize)
			return
		}
		c.areas.Set(at, at+pageSize, area{file: m.file, base: run.Offset - at, private: true, epoch: old + 1})
		if ours {
			m.areas.Update(at, at+pageSize, func(e areaEntry) area {
				e.Value.epoch = old + 1
				return e.Value
			})
		}
	}
}

// mapTouches maps what will be touched, and what is around it. pageMu is held,
// and nobody else has the address space yet.
func (m *MemoryManager) mapTouches(touches []Touch) {
	var done span
	for _, t := range touches {
		at := uint64(t.Addr)
		if done.start <= at && at < done.end {
			continue
		}
		e, ok := m.vmas.Find(at)
		if !ok || e.Value.prot.Effective() == 0 {
			continue
		}
		a, ok := m.areas.Find(at)
		if !ok {
			continue
		}
		done = windowAround(at, mapWindow, span{max(a.Start, e.Start), min(a.End, e.End)})
		prot := e.Value.prot.Effective()
		if !m.writable(e.Value, a.Value) {
			prot &^= usermem.Write
		}
		precommit := prot.Has(usermem.Write) && a.Value.private && done.end-done.start <= populateSmall
		if m.as.MapFile(usermem.Addr(done.start), a.Value.file, a.Value.offset(done.start), done.end-done.start, prot, precommit) != nil {
			return
		}
	}
}
