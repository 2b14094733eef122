package overlay

import (
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

const (
	pageSize = usermem.PageSize
	pageMask = uint64(usermem.PageMask)
	// copyStep is how much is copied up in one go.
	copyStep = 64 << 10
)

// content is the bytes of a file that has a lower file under it: those pages
// that were written, or touched through a mapping that can write, are in store;
// the others are read and mapped from the lower file. It implements
// tmpfs.Content. It knows nothing of the inode, which may be garbage before it.
type content struct {
	lower *source
	// store has the size of the whole.
	store tmpfs.Content

	// mu is never held while application memory is touched.
	mu locks.RWMutex[locks.OverlayPages]
	// own has the pages below lowerEnd that are the store's; all at or above
	// it are. lowerEnd is page-aligned.
	own      *rangemap.Map[struct{}]
	lowerEnd uint64
	mappings memmap.Mappings
	// plain is lowerEnd until the first of these changes, then zero: files that
	// are only read are read without mu.
	plain atomic.Uint64
	// direct: pages of the lower file aren't mapped any more, since there is, or
	// was, a mapping that writes to the store's.
	direct bool
}

func newContent(lower *source, store tmpfs.Content, size uint64) (*content, error) {
	if err := store.Truncate(size); err != nil {
		return nil, err
	}
	c := &content{lower: lower, store: store, lowerEnd: roundUp(size), own: rangemap.New(rangemap.Funcs[struct{}]{
		Merge: func(a, b rangemap.Entry[struct{}]) (struct{}, bool) { return struct{}{}, true },
	})}
	c.plain.Store(c.lowerEnd)
	return c, nil
}

func roundUp(n uint64) uint64 { return (n + pageMask) &^ pageMask }

// segment returns the range around off that comes from one place, and whether
// that is the store. mu is held.
func (c *content) segment(off uint64) (start, end uint64, stored bool) {
	if off >= c.lowerEnd {
		return c.lowerEnd, math.MaxUint64 &^ pageMask, true
	}
	if e, ok := c.own.Find(off); ok {
		return e.Start, e.End, true
	}
	start, end = c.own.Gap(off, c.lowerEnd)
	return start, end, false
}

func (c *content) find(off uint64) (end uint64, stored bool) {
	if end := c.plain.Load(); off < end {
		return end, false
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, end, stored = c.segment(off)
	return end, stored
}

// Size implements tmpfs.Content.
func (c *content) Size() uint64 { return c.store.Size() }

// ReadAt implements tmpfs.Content.
func (c *content) ReadAt(dst *usermem.Buffer, off uint64) (uint64, error) {
	var done uint64
	for size := c.store.Size(); dst.Len() > 0 && off < size; {
		end, stored := c.find(off)
		n := min(dst.Len(), min(end, size)-off)
		hidden := dst.Narrow(n)
		var got uint64
		var err error
		if stored {
			got, err = c.store.ReadAt(dst, off)
		} else {
			got, err = c.lower.read(dst, off)
		}
		dst.Widen(hidden)
		if err == nil && got == 0 {
			// Behind the end of the lower file.
			got, err = dst.Zero(n)
		}
		done, off = done+got, off+got
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// copyUp makes the pages of [start, end) the store's. mu is held for writing.
func (c *content) copyUp(start, end uint64) error {
	start, end = start&^pageMask, min(roundUp(end), c.lowerEnd)
	size := c.store.Size()
	var buf []byte
	for at := start; at < end; {
		_, to, stored := c.segment(at)
		to = min(to, end)
		if stored {
			at = to
			continue
		}
		to = min(to, at+copyStep)
		if buf == nil {
			buf = make([]byte, min(copyStep, end-start))
		}
		b := buf[:min(to, size)-min(at, size)]
		n, err := c.lower.fill(b, at)
		if err != nil {
			return err
		}
		clear(b[n:])
		src := usermem.BytesBuffer(b)
		if _, err := c.store.WriteAt(&src, at); err != nil {
			return err
		}
		c.plain.Store(0)
		c.own.Insert(at, to, struct{}{})
		at = to
	}
	return nil
}

// claim makes the pages of [start, end), page-aligned, the store's without
// copying. It returns those that were not. mu is held for writing.
func (c *content) claim(start, end uint64) (claimed []memmap.Range) {
	end = min(end, c.lowerEnd)
	for at := start; at < end; {
		_, to, stored := c.segment(at)
		to = min(to, end)
		if !stored {
			claimed = append(claimed, memmap.Range{Start: at, End: to})
		}
		at = to
	}
	for _, r := range claimed {
		c.plain.Store(0)
		c.own.Insert(r.Start, r.End, struct{}{})
	}
	return claimed
}

// WriteAt implements tmpfs.Content. Calls don't run at the same time.
func (c *content) WriteAt(src *usermem.Buffer, off uint64) (uint64, error) {
	end := off + src.Len()
	c.mu.RLock()
	start, to, stored := c.segment(off)
	c.mu.RUnlock()
	if stored && start <= off && end <= to {
		return c.store.WriteAt(src, off)
	}
	// Pages that are written in part are copied, those in between only if
	// somebody looks at them through a mapping.
	inner, innerEnd := roundUp(off), end&^pageMask
	c.mu.Lock()
	var claimed []memmap.Range
	err := c.copyUp(off&^pageMask, min(inner, roundUp(end)))
	if err == nil && innerEnd < end {
		err = c.copyUp(innerEnd, end)
	}
	if err == nil && inner < innerEnd {
		if c.mappings.Empty() {
			claimed = c.claim(inner, innerEnd)
		} else {
			err = c.copyUp(inner, innerEnd)
		}
	}
	c.invalidate(off, end, false)
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.store.WriteAt(src, off)
	if off+n < end {
		c.mu.Lock()
		rerr := c.disclaim(claimed, off+n)
		c.mu.Unlock()
		if err == nil {
			err = rerr
		}
	}
	return n, err
}

// disclaim gives what was claimed at or above off, but not written, back to the
// lower file. mu is held for writing.
func (c *content) disclaim(claimed []memmap.Range, off uint64) error {
	for _, r := range claimed {
		if r.End <= off {
			continue
		}
		if r.Start < off && off&pageMask != 0 {
			// The rest of the page in which the write ended.
			b := make([]byte, pageSize-off&pageMask)
			n, err := c.lower.fill(b, off)
			if err != nil {
				return err
			}
			src := usermem.BytesBuffer(b[:n])
			if _, err := c.store.WriteAt(&src, off); err != nil {
				return err
			}
		}
		if from := max(r.Start, roundUp(off)); from < r.End {
			c.own.Remove(from, r.End, nil)
			if err := c.store.PunchHole(from, r.End-from); err != nil {
				return err
			}
		}
	}
	return nil
}

// invalidate takes pages of the lower file away from who maps them. mu is
// held.
func (c *content) invalidate(start, end uint64, private bool) {
	if end = roundUp(end); end < start {
		end = math.MaxUint64 &^ pageMask
	}
	c.mappings.Invalidate(c, memmap.Range{Start: start &^ pageMask, End: end}, private)
}

// Truncate implements tmpfs.Content. Nothing is copied but the page that is cut.
func (c *content) Truncate(size uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if size < c.store.Size() && size&pageMask != 0 {
		if err := c.copyUp(size&^pageMask, size); err != nil {
			return err
		}
		c.invalidate(size&^pageMask, size, false)
	}
	if end := roundUp(size); end < c.lowerEnd {
		c.plain.Store(0)
		c.own.Remove(end, c.lowerEnd, nil)
		c.lowerEnd = end
		c.invalidate(end, math.MaxUint64, true)
	}
	return c.store.Truncate(size)
}

// PunchHole implements tmpfs.Content.
func (c *content) PunchHole(off, length uint64) error {
	end := min(off+length, roundUp(c.store.Size()))
	if off >= end {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	inner, innerEnd := roundUp(off), end&^pageMask
	if off < inner {
		if err := c.copyUp(off, min(inner, end)); err != nil {
			return err
		}
	}
	if innerEnd < end && innerEnd >= inner {
		if err := c.copyUp(innerEnd, end); err != nil {
			return err
		}
	}
	if inner < innerEnd {
		c.claim(inner, innerEnd)
	}
	c.invalidate(off, end, true)
	return c.store.PunchHole(off, length)
}

// Allocate implements tmpfs.Content: the lower file's pages are there.
func (c *content) Allocate(off, length uint64, keepSize bool) error {
	end := off + length
	for at := off; at < end; {
		to, stored := c.find(at)
		to = min(to, end)
		if stored {
			if err := c.store.Allocate(at, to-at, true); err != nil {
				return err
			}
		}
		at = to
	}
	if !keepSize && end > c.store.Size() {
		return c.store.Truncate(end)
	}
	return nil
}

// NextData implements tmpfs.Content: the lower file has no holes.
func (c *content) NextData(off uint64) (uint64, error) {
	for size := c.store.Size(); off < size; {
		end, stored := c.find(off)
		if !stored {
			return off, nil
		}
		next, err := c.store.NextData(off)
		if err == nil && next < end {
			return next, nil
		}
		if err != nil && err != unix.ENXIO {
			return 0, err
		}
		off = end
	}
	return 0, unix.ENXIO
}

// NextHole implements tmpfs.Content.
func (c *content) NextHole(off uint64) (uint64, error) {
	size := c.store.Size()
	if off >= size {
		return 0, unix.ENXIO
	}
	for off < size {
		end, stored := c.find(off)
		if stored {
			next, err := c.store.NextHole(off)
			if err != nil || next < end {
				return min(next, size), err
			}
		}
		off = end
	}
	return size, nil
}

// Pages implements tmpfs.Content: those of the lower file count too.
func (c *content) Pages() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	n := c.lowerEnd
	c.own.Ascend(0, func(e rangemap.Entry[struct{}]) bool {
		n -= e.Len()
		return true
	})
	return n/pageSize + c.store.Pages()
}

// Release implements tmpfs.Content.
func (c *content) Release() {
	c.store.Release()
	c.lower.close()
}

// AddSeals and Seals implement tmpfs.Content.
func (c *content) AddSeals(seals uint32) error { return c.store.AddSeals(seals) }
func (c *content) Seals() uint32               { return c.store.Seals() }

// space is an address space as the store and the lower file know it: what they
// call theirs is the content's.
type space struct {
	c *content
	s memmap.MappingSpace
}

// Invalidate implements memmap.MappingSpace.
func (s space) Invalidate(_ memmap.Mappable, r memmap.Range, private bool) {
	s.s.Invalidate(s.c, r, private)
}

// AddMapping implements memmap.Mappable. With the first mapping that writes,
// pages of the lower file cease to be mapped: Translate couldn't take them away
// from others.
func (c *content) AddMapping(s memmap.MappingSpace, r memmap.Range, writableShared bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.store.AddMapping(space{c, s}, r, writableShared); err != nil {
		return err
	}
	if m := c.lower.mappable(); m != nil {
		if err := m.AddMapping(space{c, s}, r, false); err != nil {
			c.store.RemoveMapping(space{c, s}, r, writableShared)
			return err
		}
	}
	c.mappings.Add(s, r, writableShared)
	if writableShared && !c.direct {
		c.direct = true
		c.invalidate(0, c.lowerEnd, false)
	}
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (c *content) RemoveMapping(s memmap.MappingSpace, r memmap.Range, writableShared bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mappings.Remove(s, r, writableShared)
	c.store.RemoveMapping(space{c, s}, r, writableShared)
	if m := c.lower.mappable(); m != nil {
		m.RemoveMapping(space{c, s}, r, false)
	}
}

// Translate implements memmap.Mappable.
func (c *content) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	c.mu.RLock()
	lower := c.lower.mappable()
	copying := access.Has(usermem.Write) || c.direct || lower == nil
	if !copying {
		defer c.mu.RUnlock()
		return c.translate(lower, required, optional, access)
	}
	c.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.copyUp(required.Start, min(required.End, roundUp(c.store.Size()))); err != nil {
		return nil, err
	}
	return c.translate(lower, required, optional, access)
}

// translate asks store and lower file in turn. mu is held.
func (c *content) translate(lower memmap.Mappable, required, optional memmap.Range, access usermem.Access) (all []memmap.Translation, err error) {
	for at := required.Start; at < required.End && err == nil; {
		start, end, stored := c.segment(at)
		need := memmap.Range{Start: at, End: min(end, required.End)}
		want := memmap.Range{Start: at, End: min(end, optional.End)}
		if at == required.Start {
			want.Start = max(start, optional.Start)
		}
		var ts []memmap.Translation
		if stored {
			ts, err = c.store.Translate(need, want, access)
		} else {
			ts, err = lower.Translate(need, want, access&^usermem.Write)
			for i := range ts {
				ts[i].Access &^= usermem.Write
			}
		}
		if len(ts) == 0 {
			if err == nil {
				err = memmap.BusError{Err: unix.EIO}
			}
			break
		}
		all = append(all, ts...)
		at = ts[len(ts)-1].Source.End
	}
	return all, err
}

// source is a lower file, opened when its bytes are first wanted. It is used
// with content.mu held or by callers that may come at the same time.
type source struct {
	mu    locks.Mutex[locks.OverlaySource]
	inode vfs.Inode
	mount *vfs.Mount
	ctx   vfs.Context
	file  atomic.Pointer[vfs.File] // changed with mu held
	m     memmap.Mappable
	noMap bool
}

// open returns the open file.
func (s *source) open() (*vfs.File, error) {
	if f := s.file.Load(); f != nil {
		return f, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.file.Load(); f != nil {
		return f, nil
	}
	f, err := openLower(s.ctx, s.mount, s.inode, unix.O_RDONLY)
	if err == nil {
		s.file.Store(f)
	}
	return f, err
}

// openLower opens an inode of the lower file system for the Sentry's own use.
func openLower(ctx vfs.Context, mount *vfs.Mount, inode vfs.Inode, flags uint32) (*vfs.File, error) {
	p := vfs.Path{Mount: mount, Dentry: vfs.NewDetachedDentry(mount.Filesystem(), "", inode)}
	impl, err := inode.Open(ctx, p, flags)
	if err != nil {
		return nil, err
	}
	return vfs.NewFile(p, impl, flags, ctx.Credentials()), nil
}

// mappable returns what maps the lower file, or nil.
func (s *source) mappable() memmap.Mappable {
	f, err := s.open()
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil && !s.noMap {
		m, err := f.Mappable(s.ctx, &vfs.MapOptions{Private: true, Prot: usermem.Read, MaxProt: usermem.AnyAccess})
		s.m, s.noMap = m, err != nil || m == nil
	}
	return s.m
}

// read reads at off.
func (s *source) read(dst *usermem.Buffer, off uint64) (uint64, error) {
	f, err := s.open()
	if err != nil {
		return 0, err
	}
	n, err := f.ReadAt(s.ctx, dst, int64(off))
	return uint64(n), err
}

// fill reads as much of b as there is at off. Where the lower file can be mapped
// it is read like that, which takes none of the locks that reading takes: fill
// runs at page faults too.
func (s *source) fill(b []byte, off uint64) (int, error) {
	done := 0
	for m := s.mappable(); m != nil && done < len(b); {
		n, err := s.peek(m, b[done:], off+uint64(done))
		if n == 0 || err != nil {
			break // the end, or a page that isn't there
		}
		done += n
	}
	for done < len(b) {
		buf := usermem.BytesBuffer(b[done:])
		n, err := s.read(&buf, off+uint64(done))
		if n == 0 || err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// peek copies some of b from what m maps at off.
func (s *source) peek(m memmap.Mappable, b []byte, off uint64) (int, error) {
	r := memmap.Range{Start: off &^ pageMask, End: roundUp(off + uint64(len(b)))}
	ts, err := m.Translate(r, r, usermem.Read)
	defer func() {
		for _, t := range ts {
			t.File.DecRef(t.Offset, t.Source.Len())
		}
	}()
	if len(ts) == 0 {
		return 0, err
	}
	t := ts[0]
	skip := off - t.Source.Start
	view, err := t.File.Slice(t.Offset+skip, min(uint64(len(b)), t.Source.Len()-skip))
	if err != nil {
		return 0, err
	}
	n := 0
	err = usermem.Guard(func() error {
		n = copy(b, view)
		return nil
	})
	return n, err
}

func (s *source) close() {
	s.mu.Lock()
	f := s.file.Swap(nil)
	s.m, s.noMap = nil, false
	s.mu.Unlock()
	if f != nil {
		f.DecRef()
	}
}
