package mm

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// Advice that golang.org/x/sys has no name for everywhere: madvise(2).
const (
	madvPopulateRead  = 22
	madvPopulateWrite = 23
)

// HolePuncher is a Mappable that MADV_REMOVE works on.
type HolePuncher interface {
	PunchHole(offset, length uint64) error
}

// Syncer is a Mappable that msync(2) can write out.
type Syncer interface {
	Sync(r memmap.Range) error
}

// MAdvise is madvise(2). Advice about reading ahead, huge pages and core dumps
// is taken and has no effect.
func (m *MemoryManager) MAdvise(addr usermem.Addr, length uint64, advice int) error {
	switch advice {
	case unix.MADV_NORMAL, unix.MADV_RANDOM, unix.MADV_SEQUENTIAL, unix.MADV_WILLNEED, unix.MADV_DONTNEED,
		unix.MADV_FREE, unix.MADV_REMOVE, unix.MADV_DONTFORK, unix.MADV_DOFORK, unix.MADV_WIPEONFORK,
		unix.MADV_KEEPONFORK, unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_DONTDUMP, unix.MADV_DODUMP,
		unix.MADV_COLD, unix.MADV_PAGEOUT, unix.MADV_MERGEABLE, unix.MADV_UNMERGEABLE,
		madvPopulateRead, madvPopulateWrite:
	default:
		return unix.EINVAL
	}
	if !addr.PageAligned() {
		return unix.EINVAL
	}
	start, end, ok := checkRange(addr, length)
	if !ok {
		return unix.EINVAL
	}
	if start == end {
		return nil
	}
	switch advice {
	case unix.MADV_REMOVE:
		return m.punch(start, end)
	case madvPopulateRead, madvPopulateWrite:
		return m.prefault(start, end, advice == madvPopulateWrite)
	case unix.MADV_DONTFORK, unix.MADV_DOFORK, unix.MADV_WIPEONFORK, unix.MADV_KEEPONFORK:
		return m.adviseFork(start, end, advice)
	}
	return m.adviseNow(start, end, advice)
}

// eachVMA calls f for the parts of mappings in [start, end) and returns ENOMEM,
// at the end, if there were holes. mu is held.
func (m *MemoryManager) eachVMA(start, end uint64, f func(v *vma, start, end uint64) error) error {
	hole := false
	for at := start; at < end; {
		e, ok := m.vmas.Next(at)
		if !ok || e.Start >= end {
			hole = true
			break
		}
		hole = hole || e.Start > at
		stop := min(e.End, end)
		if err := f(e.Value, max(e.Start, at), stop); err != nil {
			return err
		}
		at = stop
	}
	if hole {
		return unix.ENOMEM
	}
	return nil
}

func (m *MemoryManager) adviseNow(start, end uint64, advice int) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.eachVMA(start, end, func(v *vma, start, end uint64) error {
		switch advice {
		case unix.MADV_DONTNEED:
			if v.lock != unlocked {
				return unix.EINVAL
			}
		case unix.MADV_FREE:
			// "Any time later" may as well be now.
			if v.mappable != nil {
				return unix.EINVAL
			}
		case unix.MADV_COLD, unix.MADV_PAGEOUT:
			if v.lock != unlocked {
				return unix.EINVAL
			}
			return nil
		default:
			return nil
		}
		m.pageMu.Lock()
		m.dropAreas(start, end, nil)
		m.pageMu.Unlock()
		return nil
	})
}

func (m *MemoryManager) adviseFork(start, end uint64, advice int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.eachVMA(start, end, func(v *vma, start, end uint64) error {
		if (advice == unix.MADV_WIPEONFORK || advice == unix.MADV_KEEPONFORK) && v.mappable != nil {
			return unix.EINVAL
		}
		if !m.roomFor(2) {
			return unix.ENOMEM
		}
		m.editVMAs(start, end, func(a *vmaAttr) {
			switch advice {
			case unix.MADV_DONTFORK:
				a.dontFork = true
			case unix.MADV_DOFORK:
				a.dontFork = false
			case unix.MADV_WIPEONFORK:
				a.wipeOnFork = true
			case unix.MADV_KEEPONFORK:
				a.wipeOnFork = false
			}
		})
		return nil
	})
}

// punch is MADV_REMOVE.
func (m *MemoryManager) punch(start, end uint64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.eachVMA(start, end, func(v *vma, start, end uint64) error {
		p, ok := v.mappable.(HolePuncher)
		switch {
		case v.lock != unlocked || v.mappable == nil:
			return unix.EINVAL
		case !v.writableShared():
			return unix.EACCES
		case !ok:
			return unix.EOPNOTSUPP
		}
		r := v.objectRange(start, end)
		return p.PunchHole(r.Start, r.Len())
	})
}

// prefault is MADV_POPULATE_READ and MADV_POPULATE_WRITE.
func (m *MemoryManager) prefault(start, end uint64, write bool) error {
	access := usermem.Read
	if write {
		access = usermem.Write
	}
	for at := start; at < end; {
		m.mu.RLock()
		e, ok := m.vmas.Find(at)
		if !ok {
			m.mu.RUnlock()
			return unix.ENOMEM
		}
		var err error
		stop := min(e.End, end, at+maxWindow)
		if !e.Value.prot.Effective().Has(access) {
			err = unix.EINVAL
		} else {
			err = m.makeResident(e, at, stop, access)
		}
		m.mu.RUnlock()
		switch {
		case err == ErrOOM:
			return unix.ENOMEM
		case err != nil && err != unix.EINVAL:
			return unix.EFAULT
		case err != nil:
			return err
		}
		at = stop
	}
	return nil
}

// MSync is msync(2).
func (m *MemoryManager) MSync(addr usermem.Addr, length uint64, flags int) error {
	if flags&^(unix.MS_ASYNC|unix.MS_SYNC|unix.MS_INVALIDATE) != 0 || flags&unix.MS_ASYNC != 0 && flags&unix.MS_SYNC != 0 || !addr.PageAligned() {
		return unix.EINVAL
	}
	start, end, ok := checkRange(addr, length)
	if !ok {
		return unix.ENOMEM
	}
	type job struct {
		s  Syncer
		r  memmap.Range
		id memmap.Identity
	}
	var jobs []job
	m.mu.RLock()
	err := m.eachVMA(start, end, func(v *vma, start, end uint64) error {
		if flags&unix.MS_INVALIDATE != 0 && v.lock != unlocked {
			return unix.EBUSY
		}
		if s, ok := v.mappable.(Syncer); ok && flags&unix.MS_SYNC != 0 && !v.private {
			if v.identity != nil {
				v.identity.IncRef() // keeps the object while no lock is held
			}
			jobs = append(jobs, job{s, v.objectRange(start, end), v.identity})
		}
		return nil
	})
	if start == end {
		err = nil
	}
	m.mu.RUnlock()
	for _, j := range jobs {
		if e := j.s.Sync(j.r); e != nil && (err == nil || err == unix.ENOMEM) {
			err = e
		}
		if j.id != nil {
			j.id.DecRef()
		}
	}
	return err
}

// MIncore writes to vec, for each page from addr on, 1 where it is resident and
// 0 where it isn't: mincore(2).
func (m *MemoryManager) MIncore(addr usermem.Addr, length uint64, vec usermem.Addr) error {
	if !addr.PageAligned() {
		return unix.EINVAL
	}
	start, end, ok := checkRange(addr, length)
	if !ok || end > uint64(m.layout.bounds.End) {
		return unix.ENOMEM
	}
	var buf [1024]byte
	for at := start; at < end; {
		n := min((end-at)/pageSize, uint64(len(buf)))
		stop := at + n*pageSize
		clear(buf[:n])
		m.mu.RLock()
		whole := m.covers(at, stop)
		m.mu.RUnlock()
		if !whole {
			return unix.ENOMEM
		}
		m.pageMu.RLock()
		m.areas.Overlap(at, stop, func(e areaEntry) bool {
			for p := max(e.Start, at); p < min(e.End, stop); p += pageSize {
				buf[(p-at)/pageSize] = 1
			}
			return true
		})
		m.pageMu.RUnlock()
		if _, err := m.CopyOut(vec, buf[:n]); err != nil {
			return err
		}
		vec += usermem.Addr(n)
		at = stop
	}
	return nil
}

// MLock is mlock2(2); onFault is MLOCK_ONFAULT. limit is RLIMIT_MEMLOCK, or
// NoLimit with CAP_IPC_LOCK. Memory of a Sentry is not swapped by its own
// choice, so only the numbers change, and the pages are made.
func (m *MemoryManager) MLock(addr usermem.Addr, length uint64, onFault bool, limit uint64) error {
	if limit == 0 {
		return unix.EPERM
	}
	start, end, ok := pageRange(addr, length)
	if !ok {
		return unix.EINVAL
	}
	if start == end {
		return nil
	}
	mode := locked
	if onFault {
		mode = lockedOnFault
	}
	m.mu.Lock()
	already := uint64(0)
	m.vmas.Overlap(start, end, func(e vmaEntry) bool {
		if e.Value.lock != unlocked {
			already += min(e.End, end) - max(e.Start, start)
		}
		return true
	})
	if over(m.sizes.locked-already, end-start, limit) {
		m.mu.Unlock()
		return unix.ENOMEM
	}
	err := m.setLock(start, end, mode)
	m.mu.Unlock()
	if err == nil && !onFault {
		m.populate(start, end)
	}
	return err
}

// pageRange widens [addr, addr+length) to whole pages.
func pageRange(addr usermem.Addr, length uint64) (start, end uint64, ok bool) {
	if length > ^uint64(0)-addr.PageOffset() {
		return 0, 0, false
	}
	return checkRange(addr.RoundDown(), length+addr.PageOffset())
}

// setLock changes the mappings in [start, end) up to the first hole.
func (m *MemoryManager) setLock(start, end uint64, mode lockMode) error {
	if !m.roomFor(2) {
		return unix.ENOMEM
	}
	stop := start
	m.vmas.Overlap(start, end, func(e vmaEntry) bool {
		if e.Start > stop {
			return false
		}
		stop = min(e.End, end)
		return true
	})
	m.editVMAs(start, stop, func(a *vmaAttr) { a.lock = mode })
	if stop < end {
		return unix.ENOMEM
	}
	return nil
}

// MUnlock is munlock(2).
func (m *MemoryManager) MUnlock(addr usermem.Addr, length uint64) error {
	start, end, ok := pageRange(addr, length)
	if !ok {
		return unix.EINVAL
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.setLock(start, end, unlocked)
}

// MLockAll is mlockall(2), with its flags; limit is as for MLock.
func (m *MemoryManager) MLockAll(flags int, limit uint64) error {
	if flags == 0 || flags&^(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) != 0 || flags == unix.MCL_ONFAULT {
		return unix.EINVAL
	}
	if limit == 0 {
		return unix.EPERM
	}
	mode := locked
	if flags&unix.MCL_ONFAULT != 0 {
		mode = lockedOnFault
	}
	m.mu.Lock()
	if flags&unix.MCL_CURRENT != 0 && m.sizes.total > limit {
		m.mu.Unlock()
		return unix.ENOMEM
	}
	m.lock = unlocked
	if flags&unix.MCL_FUTURE != 0 {
		m.lock = mode
	}
	var ranges []span
	if flags&unix.MCL_CURRENT != 0 {
		m.editVMAs(0, ^uint64(0), func(a *vmaAttr) { a.lock = mode })
		m.vmas.Ascend(0, func(e vmaEntry) bool {
			ranges = append(ranges, span{e.Start, e.End})
			return true
		})
	}
	m.mu.Unlock()
	if mode == locked {
		for _, r := range ranges {
			m.populate(r.start, r.end)
		}
	}
	return nil
}

// MUnlockAll is munlockall(2).
func (m *MemoryManager) MUnlockAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lock = unlocked
	m.editVMAs(0, ^uint64(0), func(a *vmaAttr) { a.lock = unlocked })
}
