package mm

import (
	"bytes"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

type direction uint8

const (
	copyIn direction = iota
	copyOut
	zeroOut
)

func (d direction) access() usermem.Access {
	if d == copyIn {
		return usermem.Read
	}
	return usermem.Write
}

// CopyIn implements usermem.Memory.
func (m *MemoryManager) CopyIn(addr usermem.Addr, dst []byte) (int, error) {
	n, err := m.transfer(addr, uint64(len(dst)), dst, copyIn, false)
	return int(n), err
}

// CopyOut implements usermem.Memory.
func (m *MemoryManager) CopyOut(addr usermem.Addr, src []byte) (int, error) {
	n, err := m.transfer(addr, uint64(len(src)), src, copyOut, false)
	return int(n), err
}

// CopyInString fills dst from addr on, as far as there is no NUL, and reports
// whether there was one: EFAULT where memory ends before it.
func (m *MemoryManager) CopyInString(addr usermem.Addr, dst []byte) (n int, ended bool, err error) {
	for tries := 0; n < len(dst); tries++ {
		at, ok := addr.Add(uint64(n))
		if !ok {
			return n, false, unix.EFAULT
		}
		m.pageMu.RLock()
		got, ended, err := m.stringResident(uint64(at), dst[n:])
		m.pageMu.RUnlock()
		if n += got; err != nil || ended {
			return n, ended, err
		}
		if got > 0 {
			tries = 0
			continue
		}
		if tries > maxRetries || m.ensure(at, 1, usermem.Read, false) != nil {
			return n, false, unix.EFAULT
		}
	}
	return n, false, nil
}

// stringResident is CopyInString as far as one area goes. pageMu is held.
func (m *MemoryManager) stringResident(at uint64, dst []byte) (n int, ended bool, err error) {
	v, ok := m.vmas.Find(at)
	if !ok || !v.Value.permits(usermem.Read, false) {
		return 0, false, nil
	}
	a, ok := m.areas.Find(at)
	if !ok {
		return 0, false, nil
	}
	b, err := a.Value.file.Slice(a.Value.offset(at), min(uint64(len(dst)), min(a.End, v.End)-at))
	if err != nil {
		return 0, false, unix.EFAULT
	}
	// Copied first: what was looked at must be what counts.
	if a.Value.file != memmap.File(m.file) {
		err = moveGuarded(b, dst, 0, copyIn)
	} else {
		move(b, dst, 0, copyIn)
	}
	if err != nil {
		return 0, false, err
	}
	n = len(b)
	if i := bytes.IndexByte(dst[:n], 0); i >= 0 {
		return i, true, nil
	}
	return n, false, nil
}

// ZeroOut implements usermem.Memory.
func (m *MemoryManager) ZeroOut(addr usermem.Addr, n uint64) (uint64, error) {
	return m.transfer(addr, n, nil, zeroOut, false)
}

// CopyInForce is CopyIn for a debugger and for exec: what the mapping
// permits doesn't matter.
func (m *MemoryManager) CopyInForce(addr usermem.Addr, dst []byte) (int, error) {
	n, err := m.transfer(addr, uint64(len(dst)), dst, copyIn, true)
	return int(n), err
}

// CopyOutForce is CopyOut for a debugger and for exec: a private mapping is
// written even where it is read-only, and the pages become copies. Shared ones
// that are read-only are refused.
func (m *MemoryManager) CopyOutForce(addr usermem.Addr, src []byte) (int, error) {
	n, err := m.transfer(addr, uint64(len(src)), src, copyOut, true)
	m.undoRewrites(uint64(addr), uint64(addr)+n)
	return int(n), err
}

// permits reports whether the Sentry may touch v on the application's behalf.
func (v *vma) permits(access usermem.Access, force bool) bool {
	if v.prot.Effective().Has(access) {
		return true
	}
	return force && v.maxProt.Has(access) && (v.private || !access.Has(usermem.Write))
}

// transfer moves n bytes between buf and addr. It takes only pageMu, for
// reading, while the pages are there.
func (m *MemoryManager) transfer(addr usermem.Addr, n uint64, buf []byte, d direction, force bool) (uint64, error) {
	done := uint64(0)
	for tries := 0; done < n; tries++ {
		at, ok := addr.Add(done)
		if !ok {
			return done, unix.EFAULT
		}
		got, err := m.transferLocked(uint64(at), n-done, buf, done, d, force)
		if got > 0 {
			tries = 0
		}
		done += got
		if err != nil {
			return done, err
		}
		if done == n {
			break
		}
		if tries > maxRetries {
			return done, unix.EFAULT
		}
		if err := m.ensure(addr+usermem.Addr(done), n-done, d.access(), force); err != nil {
			return done, unix.EFAULT
		}
	}
	return done, nil
}

// transferLocked is transferResident with pageMu taken. buf may be a view of a host file
// that somebody cuts: the lock is given up when a fault panics (usermem.Guard).
func (m *MemoryManager) transferLocked(at, n uint64, buf []byte, skip uint64, d direction, force bool) (uint64, error) {
	m.pageMu.RLock()
	defer m.pageMu.RUnlock()
	return m.transferResident(at, n, buf, skip, d, force)
}

// transferResident is transfer as far as pages exist that can be touched as
// they are. pageMu is held.
func (m *MemoryManager) transferResident(at, n uint64, buf []byte, skip uint64, d direction, force bool) (uint64, error) {
	access := d.access()
	var done uint64
	for done < n {
		v, ok := m.vmas.Find(at)
		if !ok || !v.Value.permits(access, force) {
			return done, nil
		}
		for done < n && at < v.End {
			a, ok := m.areas.Find(at)
			if !ok || access == usermem.Write && !m.writable(v.Value, a.Value) {
				return done, nil
			}
			b, err := a.Value.file.Slice(a.Value.offset(at), min(n-done, min(a.End, v.End)-at))
			if err != nil {
				return done, unix.EFAULT
			}
			if a.Value.file != memmap.File(m.file) {
				err = moveGuarded(b, buf, skip+done, d)
			} else {
				move(b, buf, skip+done, d)
			}
			if err != nil {
				return done, err
			}
			done += uint64(len(b))
			at += uint64(len(b))
		}
	}
	return done, nil
}

func move(page, buf []byte, from uint64, d direction) {
	switch d {
	case copyIn:
		copy(buf[from:], page)
	case copyOut:
		usermem.Move(page, buf[from:])
	case zeroOut:
		clear(page)
	}
}

func moveGuarded(page, buf []byte, from uint64, d direction) error {
	return usermem.Guard(func() error {
		move(page, buf, from, d)
		return nil
	})
}

// ensure makes the page of addr exist for the Sentry, and more of n bytes from
// it on. It fails where the application would get a signal.
func (m *MemoryManager) ensure(addr usermem.Addr, n uint64, access usermem.Access, force bool) error {
	e, ok := m.lockVMA(addr)
	if !ok {
		return faultMapErr
	}
	defer m.mu.RUnlock()
	if !e.Value.permits(access, force) {
		return faultAccErr
	}
	start := uint64(addr.RoundDown())
	// The end can't overflow: it is cut to the mapping's first.
	end := e.End
	if n < e.End-uint64(addr) {
		end = (uint64(addr) + n + usermem.PageMask) &^ usermem.PageMask
	}
	end = min(end, start+maxWindow)
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	_, err := m.faultIn(e, start, end, access, false)
	if err != nil && end > start+pageSize {
		// Not all of it, then.
		_, err = m.faultIn(e, start, start+pageSize, access, false)
	}
	if err == ErrOOM {
		m.starved.Store(true)
	}
	return err
}

// Starved reports whether a copy has failed for lack of memory since it was
// asked last. The call that made it has seen EFAULT; where Linux makes such a
// call, it kills a process as it does for a fault (ErrOOM).
func (m *MemoryManager) Starved() bool { return m.starved.Load() && m.starved.Swap(false) }

// block is a part of a range that Blocks holds references on.
type block struct {
	file           memmap.File
	offset, length uint64
}

// Blocks implements usermem.Memory. The pages are held by reference and not
// by a lock, so f may take any lock and take long.
func (m *MemoryManager) Blocks(r usermem.AddrRange, access usermem.Access, f func(b []byte) (int, error)) (uint64, error) {
	var held [16]block
	var done uint64
	at := r.Start
	if access.Has(usermem.Write) {
		m.pins.Add(1)
		defer m.pins.Add(-1)
	}
	for tries := 0; at < r.End; tries++ {
		m.pageMu.RLock()
		n := m.hold(uint64(at), uint64(r.End), access, held[:])
		m.pageMu.RUnlock()
		if n == 0 {
			if tries > maxRetries {
				return done, unix.EFAULT
			}
			if err := m.ensure(at, uint64(r.End-at), access, false); err != nil {
				return done, unix.EFAULT
			}
			continue
		}
		tries = 0
		got, whole, err := eachBlock(held[:n], m.file, f)
		done += got
		at += usermem.Addr(got)
		if err != nil || !whole {
			return done, err
		}
	}
	return done, nil
}

// hold takes references on what is resident from at on. pageMu is held.
func (m *MemoryManager) hold(at, end uint64, access usermem.Access, to []block) int {
	n := 0
	for at < end && n < len(to) {
		v, ok := m.vmas.Find(at)
		if !ok || !v.Value.permits(access, false) {
			break
		}
		a, ok := m.areas.Find(at)
		if !ok || access.Has(usermem.Write) && !m.writable(v.Value, a.Value) {
			break
		}
		length := min(end, a.End, v.End) - at
		b := block{a.Value.file, a.Value.offset(at), length}
		b.file.IncRef(b.pages())
		to[n] = b
		n++
		at += length
	}
	return n
}

// pages returns the offset and length of the whole pages that b touches.
func (b block) pages() (offset, length uint64) {
	offset = b.offset &^ usermem.PageMask
	return offset, (b.offset+b.length+usermem.PageMask)&^usermem.PageMask - offset
}

// eachBlock calls f for the parts of blocks, and drops their references. It
// reports whether f took all of them.
func eachBlock(blocks []block, own memmap.File, f func(b []byte) (int, error)) (done uint64, whole bool, err error) {
	defer func() {
		for _, b := range blocks {
			b.file.DecRef(b.pages())
		}
	}()
	for _, b := range blocks {
		for b := b; b.length > 0; {
			s, err := b.file.Slice(b.offset, b.length)
			if err != nil {
				return done, false, unix.EFAULT
			}
			var n int
			if b.file == own {
				n, err = f(s)
			} else {
				err = usermem.Guard(func() (err error) { n, err = f(s); return err })
			}
			done += uint64(n)
			if err != nil || n < len(s) {
				return done, false, err
			}
			b.offset += uint64(n)
			b.length -= uint64(n)
		}
	}
	return done, true, nil
}
