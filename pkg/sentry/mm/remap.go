package mm

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// MRemap resizes or moves a mapping; see mremap(2).
func (m *MemoryManager) MRemap(old usermem.Addr, oldLen, newLen uint64, opts MRemapOpts) (usermem.Addr, error) {
	oldLen, ok1 := usermem.PageRoundUp(oldLen)
	newLen, ok2 := usermem.PageRoundUp(newLen)
	if !ok1 || !ok2 || !old.PageAligned() || newLen == 0 {
		return 0, unix.EINVAL
	}
	if (opts.Fixed || opts.DontUnmap) && !opts.MayMove || opts.DontUnmap && oldLen != newLen {
		return 0, unix.EINVAL
	}
	if opts.Fixed {
		from, okFrom := old.Range(oldLen)
		to, okTo := opts.NewAddr.Range(newLen)
		if !opts.NewAddr.PageAligned() || !okFrom || !okTo || to.End > m.layout.bounds.End || from.Overlaps(to) {
			return 0, unix.EINVAL
		}
		if opts.NewAddr < m.layout.bounds.Start {
			return 0, unix.EPERM
		}
	}
	m.mu.Lock()
	var g garbage
	at, lock, err := m.remap(uint64(old), oldLen, newLen, opts, &g)
	m.collect(&g)
	if err != nil {
		return 0, err
	}
	if lock && newLen > oldLen {
		m.populate(at+oldLen, at+newLen)
	}
	return usermem.Addr(at), nil
}

// remap does the work of MRemap; mu is held. lock says that what was added is
// to be populated.
func (m *MemoryManager) remap(old, oldLen, newLen uint64, opts MRemapOpts, g *garbage) (at uint64, lock bool, err error) {
	e, ok := m.vmas.Find(old)
	if !ok {
		return 0, false, unix.EFAULT
	}
	v := e.Value
	if oldLen == 0 && v.private {
		return 0, false, unix.EINVAL
	}
	if opts.DontUnmap && (v.mappable != nil && v.private) {
		return 0, false, unix.EINVAL
	}
	if newLen < oldLen && !opts.Fixed {
		// Shrinking drops whatever is behind, also other mappings.
		if oldLen > uint64(m.layout.bounds.End)-old {
			return 0, false, unix.EINVAL
		}
		if !m.roomFor(m.pieces(old+newLen, old+oldLen)) {
			return 0, false, unix.ENOMEM
		}
		m.remove(old+newLen, old+oldLen, g)
		return old, false, nil
	}
	if oldLen > e.End-old {
		return 0, false, unix.EFAULT
	}
	grown := uint64(0)
	if newLen > oldLen {
		grown = newLen - oldLen
		if v.mappable != nil && old+v.base+newLen < old+v.base {
			return 0, false, unix.EINVAL
		}
	}
	if v.lock != unlocked && over(m.sizes.locked, grown, opts.LockLimit) {
		return 0, false, unix.EAGAIN
	}
	if opts.DontUnmap {
		grown = newLen
	}
	if over(m.sizes.total, grown, m.limits.AddressSpaceLimit()) || v.isData() && over(m.sizes.data, grown, m.limits.DataLimit()) {
		return 0, false, unix.ENOMEM
	}
	if !opts.Fixed && !opts.DontUnmap && oldLen != 0 {
		if newLen == oldLen {
			return old, false, nil
		}
		end := old + oldLen
		if end == e.End && newLen <= uint64(m.layout.bounds.End)-old && m.fits(end, newLen-oldLen) {
			if v.mappable != nil {
				if err := v.mappable.AddMapping(m, v.objectRange(end, old+newLen), v.writableShared()); err != nil {
					return 0, false, err
				}
			}
			if v.identity != nil {
				v.identity.IncRef()
			}
			m.insertVMA(end, old+newLen, v)
			return old, v.lock == locked, nil
		}
		if !opts.MayMove {
			return 0, false, unix.ENOMEM
		}
	}
	if !opts.MayMove {
		return 0, false, unix.EINVAL
	}
	if !m.roomFor(4) {
		return 0, false, unix.ENOMEM
	}
	to := uint64(opts.NewAddr)
	if !opts.Fixed {
		hint := usermem.Addr(0)
		if opts.DontUnmap {
			hint = opts.NewAddr
		}
		if to, err = m.place(hint, newLen, false); err != nil {
			return 0, false, err
		}
	}
	if oldLen == 0 && to <= old && old-to < newLen {
		// What is to be mapped once more makes room for itself.
		m.remove(to, to+newLen, g)
		return 0, false, unix.EFAULT
	}
	if err := m.move(e, old, oldLen, to, newLen, opts.DontUnmap, g); err != nil {
		return 0, false, err
	}
	return to, v.lock == locked, nil
}

// move moves the mapping and pages of [old, old+oldLen), in e, to
// [to, to+newLen), in place of what is there.
func (m *MemoryManager) move(e vmaEntry, old, oldLen, to, newLen uint64, keep bool, g *garbage) error {
	v := &vma{vmaAttr: e.Value.vmaAttr}
	if v.mappable != nil {
		v.base += old - to
		if err := v.mappable.AddMapping(m, v.objectRange(to, to+newLen), v.writableShared()); err != nil {
			return err
		}
	}
	m.remove(to, to+newLen, g)
	moved := min(oldLen, newLen)
	if newLen < oldLen {
		m.remove(old+newLen, old+oldLen, g)
	}
	if v.identity != nil {
		v.identity.IncRef()
	}
	m.insertVMA(to, to+newLen, v)
	if moved == 0 {
		return nil // old length 0: another mapping of the same pages
	}
	m.pageMu.Lock()
	m.as.Unmap(usermem.AddrRange{Start: usermem.Addr(old), End: usermem.Addr(old + moved)})
	m.as.Flush()
	var pages []areaEntry
	m.areas.Remove(old, old+moved, func(a areaEntry) { pages = append(pages, a) })
	for _, a := range pages {
		a.Value.base += old - to
		m.areas.Insert(a.Start-old+to, a.End-old+to, a.Value)
	}
	if !keep {
		m.vmas.Remove(old, old+moved, func(e vmaEntry) {
			m.sizes.add(e, -1)
			g.vmas = append(g.vmas, e)
		})
	}
	m.pageMu.Unlock()
	m.freed(old)
	return nil
}
