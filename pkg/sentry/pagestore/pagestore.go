// Package pagestore holds the bytes of objects that live in the memory file:
// files of tmpfs, shared memory, memfds.
//
// A Store is sparse: pages come to be when they are written or mapped and
// touched, and a hole reads as zeros. It is a memmap.Mappable. Who makes a file
// of it (a tmpfs inode) serialises writes and truncations as its own semantics
// want; the Store alone is safe for concurrent use in any case.
//
// # Locks
//
// Store.mu comes after a memory manager's mu and before its pageMu: it is held
// when address spaces are told to let pages go, and never while bytes are copied
// to or from a Buffer, for which pages are held by reference.
package pagestore

import (
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

const (
	pageSize = usermem.PageSize

	// MaxSize bounds a Store: MAX_LFS_FILESIZE.
	MaxSize = math.MaxInt64

	// step is how much WriteAt and Allocate allocate in one go.
	step = 1 << 20
	// maxAhead is how much is allocated at a fault, when pages are touched
	// in order.
	maxAhead = 64 * pageSize
	// maxGiven is how much around a fault is given, each page of which costs
	// a reference.
	maxGiven = 512 * pageSize
)

// Store is a sparse object of pages.
type Store struct {
	file *memfile.File
	acct *memfile.Account

	mu   locks.RWMutex[locks.Mappables]
	size atomic.Uint64 // changed with mu held
	// pages maps offsets to the memory file: its offset is that in the Store
	// plus the value, modulo 2^64.
	pages     *rangemap.Map[uint64]
	allocated uint64 // bytes
	mappings  memmap.Mappings
	seals     uint32
	// The end of the last fault, and how far it went ahead.
	lastFault, ahead uint64
}

type entry = rangemap.Entry[uint64]

var funcs = rangemap.Funcs[uint64]{
	Merge: func(a, b entry) (uint64, bool) { return a.Value, a.Value == b.Value },
}

// New returns an empty Store of size zero, whose pages are charged to acct.
func New(f *memfile.File, acct *memfile.Account) *Store {
	return &Store{file: f, acct: acct, pages: rangemap.New(funcs)}
}

func roundUp(n uint64) uint64 { return (n + usermem.PageMask) &^ usermem.PageMask }

// Size returns the size in bytes.
func (s *Store) Size() uint64 { return s.size.Load() }

// Pages returns how many pages are allocated.
func (s *Store) Pages() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.allocated / pageSize
}

// ReadAt fills dst from off on, up to the size. At or beyond it nothing is read.
func (s *Store) ReadAt(dst *usermem.Buffer, off uint64) (uint64, error) {
	var done uint64
	for dst.Len() > 0 {
		s.mu.RLock()
		if off >= s.size.Load() {
			s.mu.RUnlock()
			break
		}
		n := min(dst.Len(), s.size.Load()-off)
		e, ok := s.pages.Find(off)
		if !ok {
			if next, more := s.pages.Ceil(off); more {
				n = min(n, next.Start-off)
			}
			s.mu.RUnlock()
			got, err := dst.Zero(n)
			done, off = done+got, off+got
			if err != nil {
				return done, err
			}
			continue
		}
		n = min(n, e.End-off)
		h := s.hold(off+e.Value, n)
		s.mu.RUnlock()
		got, err := h.each(func(b []byte) (int, error) { return dst.Write(b) })
		done, off = done+got, off+got
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// held is a range of the memory file with references of its own.
type held struct {
	file           *memfile.File
	offset, length uint64
}

// hold takes references on the pages of a range of the memory file. mu is held.
func (s *Store) hold(offset, length uint64) held {
	h := held{s.file, offset, length}
	h.file.IncRef(h.pages())
	return h
}

func (h held) pages() (offset, length uint64) {
	offset = h.offset &^ usermem.PageMask
	return offset, roundUp(h.offset+h.length) - offset
}

// each calls f for the parts of h and drops the references.
func (h held) each(f func(b []byte) (int, error)) (uint64, error) {
	defer h.file.DecRef(h.pages())
	var done uint64
	for done < h.length {
		b, err := h.file.Slice(h.offset+done, h.length-done)
		if err != nil {
			return done, err
		}
		n, err := f(b)
		done += uint64(n)
		if err != nil || n < len(b) {
			return done, err
		}
	}
	return done, nil
}

// WriteAt writes all of src at off and grows the Store as it goes. It fails with
// EPERM against a seal, EFBIG beyond MaxSize and ENOSPC when the account's limit
// is reached; what was written before that counts.
func (s *Store) WriteAt(src *usermem.Buffer, off uint64) (uint64, error) {
	var done uint64
	for src.Len() > 0 {
		if off >= MaxSize {
			return done, unix.EFBIG
		}
		n := min(src.Len(), step, MaxSize-off)
		s.mu.Lock()
		if err := s.maySet(off, n); err != nil {
			s.mu.Unlock()
			return done, err
		}
		if hole := s.holeAt(off, n); hole > 0 {
			hint := s.hintFor(off)
			s.mu.Unlock()
			got, err := s.writeHole(src, off, hole, hint)
			done, off = done+got, off+got
			if err != nil {
				return done, err
			}
			continue
		}
		e, err := s.page(off, n)
		if err != nil {
			s.mu.Unlock()
			return done, err
		}
		s.clearTail(off)
		n = min(n, e.End-off)
		h := s.hold(off+e.Value, n)
		s.mu.Unlock()

		got, err := h.each(func(b []byte) (int, error) { return src.Read(b) })
		if off+got > s.size.Load() {
			s.mu.Lock()
			s.size.Store(max(s.size.Load(), off+got))
			s.mu.Unlock()
		}
		done, off = done+got, off+got
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// holeAt returns how many bytes of whole pages are a hole from off on, up to n.
// mu is held.
func (s *Store) holeAt(off, n uint64) uint64 {
	if off%pageSize != 0 || n < pageSize {
		return 0
	}
	next, ok := s.pages.Next(off)
	if ok {
		if next.Start <= off {
			return 0
		}
		n = min(n, next.Start-off)
	}
	return n &^ usermem.PageMask
}

// writeHole is WriteAt for whole pages of a hole. The pages become the Store's
// when all of them is written, so they need not be cleared first.
func (s *Store) writeHole(src *usermem.Buffer, off, n, hint uint64) (uint64, error) {
	run, err := s.file.Alloc(memfile.Request{Account: s.acct, Pages: int(n / pageSize), Hint: hint})
	if err != nil {
		return 0, unix.ENOSPC
	}
	n = uint64(run.Pages) * pageSize
	var got uint64
	for got < n && err == nil {
		var b []byte
		if b, err = s.file.Slice(run.Offset+got, n-got); err == nil {
			var k int
			k, err = src.Read(b)
			got += uint64(k)
			if k < len(b) {
				clear(b[k:])
				break
			}
		}
	}
	whole := roundUp(got)
	if whole < n {
		s.file.DecRef(run.Offset+whole, n-whole)
	}
	if whole == 0 {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.maySet(off, got); err != nil { // sealed meanwhile
		s.file.DecRef(run.Offset, whole)
		return 0, err
	}
	s.clearTail(off)
	if s.pages.Free(off, off+whole) {
		s.pages.Insert(off, off+whole, run.Offset-off)
		s.allocated += whole
	} else if e := s.copyFrom(run.Offset, off, got); e != nil {
		// Somebody has touched the hole through a mapping.
		got, err = 0, e
	}
	s.size.Store(max(s.size.Load(), off+got))
	return got, err
}

// copyFrom writes n bytes at off that lie at from in the memory file, where
// their pages are given up. mu is held.
func (s *Store) copyFrom(from, off, n uint64) error {
	defer s.file.DecRef(from, roundUp(n))
	for done := uint64(0); done < n; {
		e, err := s.page(off+done, n-done)
		if err != nil {
			return err
		}
		dst, err := s.file.Slice(off+done+e.Value, min(n-done, e.End-off-done))
		if err != nil {
			return err
		}
		src, err := s.file.Slice(from+done, uint64(len(dst)))
		if err != nil {
			return err
		}
		done += uint64(copy(dst, src))
	}
	return nil
}

// maySet checks the seals for a write. mu is held.
func (s *Store) maySet(off, n uint64) error {
	if s.seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 || s.seals&unix.F_SEAL_GROW != 0 && off+n > s.size.Load() {
		return unix.EPERM
	}
	return nil
}

// page returns the entry that holds off, allocating up to n bytes from there
// on where it is a hole. mu is held.
func (s *Store) page(off, n uint64) (entry, error) {
	if e, ok := s.pages.Find(off); ok {
		return e, nil
	}
	start, end := off&^usermem.PageMask, roundUp(off+n)
	if next, ok := s.pages.Ceil(start); ok {
		end = min(end, next.Start)
	}
	run, err := s.file.Alloc(memfile.Request{Account: s.acct, Pages: int((end - start) / pageSize), Hint: s.hintFor(start), Zero: true})
	if err != nil {
		return entry{}, unix.ENOSPC
	}
	end = start + uint64(run.Pages)*pageSize
	s.allocated += end - start
	return s.pages.Insert(start, end, run.Offset-start), nil
}

// hintFor returns where in the memory file the page at start should be: behind
// its neighbour. mu is held.
func (s *Store) hintFor(start uint64) uint64 {
	if before, ok := s.pages.Below(start); ok && before.End == start {
		return start + before.Value
	}
	return memfile.NoHint
}

// clearTail clears what mappings may have written behind the end, before the
// end moves up to or beyond limit. mu is held.
func (s *Store) clearTail(limit uint64) {
	if limit <= s.size.Load() || s.size.Load()%pageSize == 0 {
		return
	}
	s.zero(s.size.Load(), min(limit, roundUp(s.size.Load())))
}

// zero clears the bytes of [start, end) that exist. mu is held.
func (s *Store) zero(start, end uint64) {
	s.pages.Overlap(start, end, func(e entry) bool {
		for at, stop := max(e.Start, start), min(e.End, end); at < stop; {
			b, err := s.file.Slice(at+e.Value, stop-at)
			if err != nil {
				return false
			}
			clear(b)
			at += uint64(len(b))
		}
		return true
	})
}

// Truncate changes the size. What is cut off is gone, also from mappings, whose
// next touch is a bus error.
func (s *Store) Truncate(size uint64) error {
	if size > MaxSize {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case size < s.size.Load() && s.seals&unix.F_SEAL_SHRINK != 0, size > s.size.Load() && s.seals&unix.F_SEAL_GROW != 0:
		return unix.EPERM
	case size > s.size.Load():
		s.clearTail(size)
		s.size.Store(size)
		return nil
	}
	s.size.Store(size)
	s.drop(roundUp(size), math.MaxUint64&^usermem.PageMask, true)
	s.zero(size, roundUp(size))
	return nil
}

// drop frees whole pages, and takes them from mappings. mu is held.
func (s *Store) drop(start, end uint64, private bool) {
	// The mappings go first: a page must not be somebody else's before.
	s.mappings.Invalidate(s, memmap.Range{Start: start, End: end}, private)
	s.pages.Remove(start, end, func(e entry) {
		s.allocated -= e.Len()
		s.file.DecRef(e.Start+e.Value, e.Len())
	})
}

// PunchHole makes [off, off+length) a hole: fallocate(2)'s
// FALLOC_FL_PUNCH_HOLE. The size stays.
func (s *Store) PunchHole(off, length uint64) error {
	end := off + length
	if length == 0 || end < off || end > MaxSize {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
		return unix.EPERM
	}
	first, last := roundUp(off), end&^usermem.PageMask
	if first >= last {
		if first > last { // within one page
			s.zero(off, end)
			return nil
		}
	} else {
		s.drop(first, last, false)
	}
	s.zero(off, first)
	s.zero(last, end)
	return nil
}

// Allocate makes the pages of [off, off+length) exist: fallocate(2). Without
// keepSize the Store grows to hold them. When space runs out, pages that were
// made stay.
func (s *Store) Allocate(off, length uint64, keepSize bool) error {
	end := off + length
	if length == 0 || end < off {
		return unix.EINVAL
	}
	if end > MaxSize {
		return unix.EFBIG
	}
	for at := off &^ usermem.PageMask; at < end; {
		s.mu.Lock()
		if s.seals&unix.F_SEAL_GROW != 0 && end > s.size.Load() && !keepSize {
			s.mu.Unlock()
			return unix.EPERM
		}
		e, err := s.page(at, min(end-at, step))
		s.mu.Unlock()
		if err != nil {
			return err
		}
		at = e.End
	}
	if !keepSize {
		s.mu.Lock()
		s.clearTail(end)
		s.size.Store(max(s.size.Load(), end))
		s.mu.Unlock()
	}
	return nil
}

// NextData returns the first offset at or after off that isn't in a hole:
// lseek(2)'s SEEK_DATA. It fails with ENXIO when there is none.
func (s *Store) NextData(off uint64) (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.pages.Next(off)
	if off >= s.size.Load() || !ok || e.Start >= s.size.Load() {
		return 0, unix.ENXIO
	}
	return max(off, e.Start), nil
}

// NextHole returns the first offset at or after off that is in a hole, or the
// size: SEEK_HOLE. It fails with ENXIO at or beyond the size.
func (s *Store) NextHole(off uint64) (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if off >= s.size.Load() {
		return 0, unix.ENXIO
	}
	for at := off; ; {
		e, ok := s.pages.Find(at)
		if !ok {
			return min(at, s.size.Load()), nil
		}
		at = e.End // a neighbour in the Store may lie elsewhere in the file
	}
}

// Release frees the pages. Nobody maps the Store, and no call is under way or
// comes after.
func (s *Store) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size.Store(0)
	s.drop(0, math.MaxUint64&^usermem.PageMask, true)
}

// Translate implements memmap.Mappable. A hole in required is filled.
func (s *Store) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := roundUp(s.size.Load())
	if required.End > end {
		return nil, memmap.BusError{Err: unix.ENXIO}
	}
	optional.Start = max(optional.Start, required.Start&^(maxGiven-1))
	optional.End = min(optional.End, end, max(required.Start&^(maxGiven-1)+maxGiven, required.End))
	// Who touches pages in order gets more of them at a time.
	if required.Start == s.lastFault {
		s.ahead = min(max(2*s.ahead, 4*pageSize), maxAhead)
	} else {
		s.ahead = required.Len()
	}
	fill := min(required.Start+max(s.ahead, required.Len()), optional.End)
	s.lastFault = fill
	for at := required.Start; at < fill; {
		e, err := s.page(at, fill-at)
		if err != nil {
			if at >= required.End {
				break
			}
			return nil, unix.ENOMEM
		}
		at = e.End
	}
	may := usermem.AnyAccess
	if s.seals&unix.F_SEAL_WRITE != 0 {
		may &^= usermem.Write
	}
	var ts []memmap.Translation
	s.pages.Overlap(optional.Start, optional.End, func(e entry) bool {
		r := memmap.Range{Start: max(e.Start, optional.Start), End: min(e.End, optional.End)}
		s.file.IncRef(r.Start+e.Value, r.Len())
		ts = append(ts, memmap.Translation{Source: r, File: s.file, Offset: r.Start + e.Value, Access: may})
		return true
	})
	return ts, nil
}

// AddMapping implements memmap.Mappable. A writable shared mapping is refused
// with EPERM when a seal forbids writes.
func (s *Store) AddMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if writableShared && s.seals&unix.F_SEAL_WRITE != 0 {
		return unix.EPERM
	}
	s.mappings.Add(space, r, writableShared)
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (s *Store) RemoveMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mappings.Remove(space, r, writableShared)
}

// AddSeals adds F_SEAL_* of fcntl(2). It fails with EPERM after F_SEAL_SEAL and with
// EBUSY for F_SEAL_WRITE while there are writable shared mappings.
func (s *Store) AddSeals(seals uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seals&unix.F_SEAL_SEAL != 0 {
		return unix.EPERM
	}
	if seals&unix.F_SEAL_WRITE != 0 && s.seals&unix.F_SEAL_WRITE == 0 && s.mappings.WritableShared() {
		return unix.EBUSY
	}
	s.seals |= seals
	return nil
}

// Seals returns the seals.
func (s *Store) Seals() uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.seals
}
