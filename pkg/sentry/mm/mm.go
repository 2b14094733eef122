// Package mm is the memory manager of an application's process: its mappings,
// its pages, and the copies that system calls make to and from them.
//
// A MemoryManager keeps two range maps by address. Its VMAs are what the
// application asked for: mmap(2), mprotect(2), brk(2) and the like edit them.
// Its areas are the pages that exist: each area is a run of addresses whose
// bytes are a run of offsets in a memmap.File, the memory file or a file that
// the gofer donated. What the platform's address space maps is always a part of
// what the areas say, so it can be thrown away at any time: the next fault brings
// it back. An address without an area is filled by HandleFault, or by the copy
// that touches it, which does not map it into the address space.
//
// Copy-on-write goes by epochs. fork(2) clones both maps lazily, takes a
// reference on every page and begins a new epoch in parent and child. A private
// page of an earlier epoch must not be written: it is taken over when no
// reference but ours is left, and copied otherwise. Nothing is marked page by
// page; only the host's write permission has to go from the parent's address
// space.
//
// # Locks
//
// In this order:
//
//	MemoryManager.mu      the mappings; held for reading by faults
//	locks of a Mappable   Translate, AddMapping, RemoveMapping
//	MemoryManager.pageMu  the pages, and what the address space maps
//	memfile.File.mu
//
// Who changes vmas holds mu and pageMu, so either is enough to read them.
// Invalidate takes pageMu alone. As Translate runs without pageMu, a fault
// compares a count of invalidations before and after it and asks again when
// pages may have been taken away meanwhile. Where two address spaces are locked,
// in Fork, the second is the new one.
//
// # Ahead of the application
//
// A fault costs a stop and a call into the address space's process; one more
// mapping that is made along with others costs a tenth. So HandleFault fills and maps
// windows that grow while memory is touched in order, or all over; new mappings
// that are likely to be touched are mapped with what comes next (mapAhead); and
// Fork gives the child what children before it touched first (habit).
//
// # Rewritten code
//
// Code that the platform offers a cheaper system call for is rewritten in what the
// address space maps, and nowhere else: see rewrite.go.
//
// # Cost
//
// A fault of anonymous memory and a copy of resident memory do not allocate. No
// goroutine and no timer belongs to a MemoryManager.
//
// # Not here
//
// Swapping, NUMA policies, huge pages, and pinning pages in the host for mlock(2),
// which is only counted.
package mm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

const (
	pageSize = usermem.PageSize

	// MaxMappings bounds the VMAs of an address space: vm.max_map_count.
	MaxMappings = 65530

	// minMapAddr is the lowest address that can be mapped: vm.mmap_min_addr.
	minMapAddr = 65536

	// stackGuard is kept free below a growing stack: stack_guard_gap.
	stackGuard = 256 * pageSize
)

// ErrOOM is what HandleFault returns when the container's memory limit or the
// host's memory is used up: Linux would kill a process.
var ErrOOM = errors.New("out of memory")

// MemoryManager is an address space. Its methods are safe for concurrent use,
// unless they say otherwise.
type MemoryManager struct {
	platform platform.Platform
	file     *memfile.File
	acct     *memfile.Account
	// space is the platform's, and as what is used of it: see rewrite.go. as
	// is guarded by pageMu.
	space, as platform.AddressSpace
	rewrites  rewriteView

	users atomic.Int64

	mu     locks.RWMutex[locks.MemoryMappings]
	vmas   *rangemap.Map[*vma] // changed with pageMu held too
	limits Limits
	layout layout
	sizes  sizes
	lock   lockMode // of new mappings: mlockall(MCL_FUTURE)

	pageMu   locks.RWMutex[locks.MemoryPages]
	areas    *rangemap.Map[area]
	epoch    uint64
	invalSeq uint64 // counts calls of Invalidate
	recent   recentMap
	ahead    []span // see mapAhead
	loading  bool   // see Options.Loading
	habit    *habit // of its forks; nil before the first
	learning int    // how many more faults are noted in habit
	// forking is set while Fork builds this address space; what Invalidate
	// was called for meanwhile is kept in early.
	forking bool
	early   []invalidation

	// starved is set when a copy failed for lack of memory: see Starved.
	starved atomic.Bool

	// What the account is charged for: see pay.go. paidVMAs is guarded by mu,
	// paidAreas is changed with both mu, if only for reading, and pageMu held.
	paidVMAs, paidAreas int

	// pins counts the calls of Blocks that may write to pages without pageMu.
	pins atomic.Int64

	rssAnon, rssFile, rssShmem atomic.Int64 // bytes; changed under pageMu
	peakRSS                    atomic.Int64

	meta metadata
}

// recentMap is what was mapped into the address space last. Threads that fault in
// it at the same time find it mapped, and mapping it again would only empty the
// host's page tables. Should they not, they come again until patience is over.
type recentMap struct {
	span     span
	access   usermem.Access
	patience int
}

// layout is where things go. Guarded by mu.
type layout struct {
	bounds   usermem.AddrRange // that may be mapped
	base     usermem.Addr      // mappings are placed below it, top down
	brkStart usermem.Addr
	brkEnd   usermem.Addr
	// Between cursor and base no gap is longer than skipped, so that the
	// search for a longer one can begin at cursor. A zero cursor says nothing.
	cursor, skipped uint64
}

// sizes are sums over the VMAs, in bytes. Guarded by mu.
type sizes struct {
	total, peak, data, locked uint64
}

// New returns an empty address space with one user. Its pages are charged to
// acct.
func New(p platform.Platform, f *memfile.File, acct *memfile.Account, opts Options) (*MemoryManager, error) {
	as, err := p.NewAddressSpace()
	if err != nil {
		return nil, fmt.Errorf("making an address space: %w", err)
	}
	m := newManager(p, f, acct, as)
	m.vmas = rangemap.New(vmaFuncs)
	m.areas = rangemap.New(areaFuncs)
	m.limits = opts.Limits
	if m.limits == nil {
		m.limits = FixedLimits{NoLimit, NoLimit, 8 << 20}
	}
	m.layout.bounds = p.UserRange()
	m.layout.bounds.Start = max(m.layout.bounds.Start, minMapAddr)
	// As arch_pick_mmap_layout does: room for the stack, and 28 random bits.
	size := m.layout.bounds.Len()
	gap := min(max(m.limits.StackLimit(), 128<<20), size/6*5)
	if !opts.NoRandom {
		// Exec puts the top of the stack up to 16 GiB below the end.
		gap += min(16<<30+rand.Uint64N(1<<28)*pageSize, size/8)
	}
	m.layout.base = (m.layout.bounds.End - usermem.Addr(min(gap+stackGuard, size/8*7))).RoundDown()
	m.meta.dumpable.Store(1)
	m.loading = opts.Loading
	return m, nil
}

func newManager(p platform.Platform, f *memfile.File, acct *memfile.Account, as platform.AddressSpace) *MemoryManager {
	m := &MemoryManager{platform: p, file: f, acct: acct, space: as, as: as, epoch: 1}
	m.users.Store(1)
	m.paidVMAs, m.paidAreas = freeVMAs, freeAreas
	return m
}

// SetLimits changes where limits are read: the child of a fork has its own.
func (m *MemoryManager) SetLimits(l Limits) {
	m.mu.Lock()
	m.limits = l
	m.mu.Unlock()
}

// AddressSpace returns the platform's side, for Context.Switch. It stays the
// same until the last user is gone.
func (m *MemoryManager) AddressSpace() platform.AddressSpace { return m.space }

// Bounds returns the addresses that may be mapped.
func (m *MemoryManager) Bounds() usermem.AddrRange { return m.layout.bounds }

// IncUsers adds a user. The caller is one, or has one's word.
func (m *MemoryManager) IncUsers() { m.users.Add(1) }

// IncUsersIfAlive adds a user unless the last one is gone.
func (m *MemoryManager) IncUsersIfAlive() bool {
	for {
		n := m.users.Load()
		if n <= 0 {
			return false
		}
		if m.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// DecUsers drops a user. The last one unmaps everything and gives the
// platform's address space up; no context is in it then.
func (m *MemoryManager) DecUsers() {
	if m.users.Add(-1) != 0 {
		return
	}
	m.mu.Lock()
	m.pageMu.Lock()
	private := m.rssAnon.Load()
	areas := m.areas
	m.areas = rangemap.New(areaFuncs)
	areas.Ascend(0, func(e areaEntry) bool {
		m.countRSS(e, -1)
		return true
	})
	back := m.file.Leaving()
	drop := func() {
		areas.Ascend(0, func(e areaEntry) bool {
			e.Value.file.DecRef(e.Value.offset(e.Start), e.Len())
			return true
		})
		back()
	}
	if private <= maxAbandoned {
		abandon(m.as, drop)
	} else {
		m.as.Release()
		drop()
	}
	// As collect does, but without a copy: many may end at a time.
	vmas := m.vmas
	m.vmas = rangemap.New(vmaFuncs)
	m.sizes = sizes{peak: m.sizes.peak}
	m.as, m.space = deadSpace{}, deadSpace{}
	m.payNothing()
	m.pageMu.Unlock()
	vmas.Ascend(0, func(e vmaEntry) bool {
		if v := e.Value; v.mappable != nil {
			v.mappable.RemoveMapping(m, v.objectRange(e.Start, e.End), v.writableShared())
		}
		return true
	})
	m.mu.Unlock()
	vmas.Ascend(0, func(e vmaEntry) bool {
		if id := e.Value.identity; id != nil {
			id.DecRef()
		}
		return true
	})
	m.SetExecutable(nil)
}

// maxAbandoned is how much private memory an address space may have for it to be
// given back later.
const maxAbandoned = 16 << 20

// abandon gives an address space up, and calls done when nothing is mapped any
// more, which may be later.
func abandon(as platform.AddressSpace, done func()) {
	if a, ok := as.(platform.Abandoner); ok {
		a.Abandon(done)
		return
	}
	as.Release()
	done()
}

// Inherit says that m, in which nothing has run yet, is for the program that
// replaces the one in old, with no more rights (execve(2)). The caller is a user
// of both, and gives old up next.
func (m *MemoryManager) Inherit(old *MemoryManager) {
	if old.users.Load() == 1 {
		m.space.Inherit(old.space)
	}
}

// Users returns how many users there are.
func (m *MemoryManager) Users() int64 { return m.users.Load() }

// Account returns what pages are charged to.
func (m *MemoryManager) Account() *memfile.Account { return m.acct }

// deadSpace is the address space of a MemoryManager without users, into which
// somebody (a reader of /proc/PID/mem) may still look.
type deadSpace struct{}

func (deadSpace) MapFile(usermem.Addr, platform.File, uint64, uint64, usermem.Access, bool) error {
	return unix.ESRCH
}
func (deadSpace) Inherit(platform.AddressSpace)             {}
func (deadSpace) Unmap(usermem.AddrRange)                   {}
func (deadSpace) Protect(usermem.AddrRange, usermem.Access) {}
func (deadSpace) Flush()                                    {}
func (deadSpace) Release()                                  {}

// garbage is what a call took out of the maps, to be let go of when pageMu, and
// then mu, is released.
type garbage struct{ vmas []vmaEntry }

// collect tells the Mappables, releases mu, held for writing, and then drops
// the identities: closing a file may take any lock.
func (m *MemoryManager) collect(g *garbage) {
	for _, e := range g.vmas {
		if v := e.Value; v.mappable != nil {
			v.mappable.RemoveMapping(m, v.objectRange(e.Start, e.End), v.writableShared())
		}
	}
	m.mu.Unlock()
	for _, e := range g.vmas {
		if id := e.Value.identity; id != nil {
			id.DecRef()
		}
	}
}

// Fork returns a copy of the address space for a child, with one user. Pages
// are shared until one side writes. The caller is a user of m. Where soon says
// that both are about to touch pages, they are mapped, or copied, beforehand.
func (m *MemoryManager) Fork(soon ...Touch) (*MemoryManager, error) {
	as, err := m.platform.NewAddressSpace()
	if err != nil {
		return nil, fmt.Errorf("making an address space: %w", err)
	}
	c := newManager(m.platform, m.file, m.acct, as)
	c.forking = true

	m.mu.RLock()
	n := m.vmas.Len()
	m.mu.RUnlock()
	if !c.payVMAs(n) {
		c.vmas, c.areas = rangemap.New(vmaFuncs), rangemap.New(areaFuncs)
		c.DecUsers()
		return nil, unix.ENOMEM
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.limits, c.layout = m.limits, m.layout
	c.meta.copyFrom(&m.meta)

	var gone, wiped []usermem.AddrRange
	relock := false
	m.vmas.Ascend(0, func(e vmaEntry) bool {
		r := usermem.AddrRange{Start: usermem.Addr(e.Start), End: usermem.Addr(e.End)}
		switch {
		case e.Value.dontFork:
			gone = append(gone, r)
		case e.Value.wipeOnFork:
			wiped = append(wiped, r)
		}
		relock = relock || e.Value.lock != unlocked
		return true
	})
	m.pageMu.Lock()
	c.vmas = m.vmas.Clone() // readers of m.vmas hold pageMu, perhaps alone
	m.pageMu.Unlock()
	// A clone begins without the references that entries hold; from here on
	// vmaFuncs keeps them. m holds references too, so none dropped is the last.
	c.vmas.Ascend(0, func(e vmaEntry) bool {
		if id := e.Value.identity; id != nil {
			id.IncRef()
		}
		return true
	})
	for _, r := range gone {
		c.vmas.Remove(uint64(r.Start), uint64(r.End), func(e vmaEntry) {
			if id := e.Value.identity; id != nil {
				id.DecRef()
			}
		})
	}
	if relock {
		// Locks are not inherited: mlock(2).
		c.editVMAs(0, ^uint64(0), func(a *vmaAttr) { a.lock = unlocked })
	}
	var added []vmaEntry
	c.vmas.Ascend(0, func(e vmaEntry) bool {
		c.sizes.add(e, 1)
		if v := e.Value; v.mappable != nil {
			if err = v.mappable.AddMapping(c, v.objectRange(e.Start, e.End), v.writableShared()); err != nil {
				return false
			}
			added = append(added, e)
		}
		return true
	})
	c.sizes.peak = c.sizes.total
	if err == nil {
		m.pageMu.Lock()
		c.pageMu.NestedLock()
		err = m.sharePages(c, gone, wiped, soon)
		c.forking = false
		for _, i := range c.early {
			c.invalidate(i)
		}
		c.early = nil
		c.pageMu.Unlock()
		m.pageMu.Unlock()
	}
	if err != nil {
		c.mu.Lock()
		c.pageMu.Lock()
		c.forking = false
		c.vmas.Ascend(0, func(e vmaEntry) bool {
			if id := e.Value.identity; id != nil {
				id.DecRef()
			}
			return true
		})
		c.vmas = rangemap.New(vmaFuncs)
		if c.areas == nil {
			c.areas = rangemap.New(areaFuncs)
		}
		c.pageMu.Unlock()
		for _, e := range added {
			e.Value.mappable.RemoveMapping(c, e.Value.objectRange(e.Start, e.End), e.Value.writableShared())
		}
		c.mu.Unlock()
		c.DecUsers()
		return nil, err
	}
	return c, nil
}

// sharePages gives c all pages of m but those in gone and wiped, and begins a new
// epoch. m.mu and both page locks are held.
func (m *MemoryManager) sharePages(c *MemoryManager, gone, wiped []usermem.AddrRange, soon []Touch) error {
	old := m.epoch
	c.areas = m.areas.Clone()
	for _, r := range append(gone, wiped...) {
		c.areas.Remove(uint64(r.Start), uint64(r.End), nil)
		// What is not shared is as new.
		m.areas.Update(uint64(r.Start), uint64(r.End), func(e areaEntry) area {
			if e.Value.epoch == old {
				e.Value.epoch = old + 1
			}
			return e.Value
		})
	}
	var pinned []areaEntry
	c.areas.Ascend(0, func(e areaEntry) bool {
		if a := e.Value; a.private && a.epoch == old && m.pins.Load() != 0 {
			pinned = append(pinned, e)
		}
		return true
	})
	if err := m.copyPinned(c, pinned, old+1); err != nil {
		// Pages in gone and wiped, being of an epoch that does not come, are
		// taken over at their next write.
		c.areas = rangemap.New(areaFuncs)
		return err
	}
	if m.habit == nil {
		m.habit = &habit{}
	}
	c.habit = m.habit
	m.learning, c.learning = learnFaults, learnFaults
	soon = m.habit.expected(soon)
	m.copyAhead(c, soon, old)
	m.epoch, c.epoch = old+1, old+1
	c.payAreas()
	c.areas.Ascend(0, func(e areaEntry) bool {
		if e.Value.private && e.Value.epoch == old+1 {
			c.countRSS(e, 1)
			return true // a copy that is c's alone
		}
		e.Value.file.IncRef(e.Value.offset(e.Start), e.Len())
		c.countRSS(e, 1)
		return true
	})
	// Take the host's write permission away where m could write.
	m.vmas.Ascend(0, func(e vmaEntry) bool {
		if v := e.Value; !v.private || !v.prot.Has(usermem.Write) {
			return true
		}
		var r usermem.AddrRange
		protect := func() {
			if !r.Empty() {
				m.as.Protect(r, e.Value.prot.Effective()&^usermem.Write)
			}
			r = usermem.AddrRange{}
		}
		m.areas.Overlap(e.Start, e.End, func(a areaEntry) bool {
			switch {
			case a.Value.private && a.Value.epoch == old:
				if r.Empty() {
					r.Start = usermem.Addr(max(a.Start, e.Start))
				}
				r.End = usermem.Addr(min(a.End, e.End))
			case a.Value.private && a.Value.epoch == m.epoch:
				protect() // this one stays as it is
			}
			return true
		})
		protect()
		return true
	})
	c.mapTouches(soon)
	m.shareRewrites(c)
	return nil
}

// copyPinned gives c copies of those pages in entries that have more than one
// reference though they were never shared: a call of Blocks is about to write
// to them, on behalf of m only. In m they stay as they are.
func (m *MemoryManager) copyPinned(c *MemoryManager, entries []areaEntry, epoch uint64) error {
	type replacement struct{ at, offset uint64 }
	var done []replacement
	for _, e := range entries {
		for at := e.Start; at < e.End; at += pageSize {
			src := e.Value.offset(at)
			if m.file.Exclusive(src, pageSize) == 1 {
				continue
			}
			run, err := m.file.Alloc(memfile.Request{Account: m.acct, Pages: 1, Hint: memfile.NoHint})
			if err != nil {
				for _, d := range done {
					m.file.DecRef(d.offset, pageSize)
				}
				return err
			}
			to, _ := m.file.Slice(run.Offset, pageSize)
			from, _ := m.file.Slice(src, pageSize)
			copy(to, from)
			done = append(done, replacement{at, run.Offset})
		}
	}
	for _, d := range done {
		c.areas.Set(d.at, d.at+pageSize, area{file: m.file, base: d.offset - d.at, private: true, epoch: epoch})
		m.areas.Update(d.at, d.at+pageSize, func(e areaEntry) area {
			e.Value.epoch = epoch
			return e.Value
		})
	}
	return nil
}

type invalidation struct {
	object  memmap.Mappable
	r       memmap.Range
	private bool
}

// Invalidate implements memmap.MappingSpace.
func (m *MemoryManager) Invalidate(o memmap.Mappable, r memmap.Range, private bool) {
	m.pageMu.Lock()
	defer m.pageMu.Unlock()
	m.invalSeq++
	i := invalidation{o, r, private}
	if m.forking {
		m.early = append(m.early, i)
		return
	}
	m.invalidate(i)
}

// invalidate takes pages away. pageMu is held.
func (m *MemoryManager) invalidate(i invalidation) {
	m.vmas.Ascend(0, func(e vmaEntry) bool {
		v := e.Value
		if v.mappable != i.object {
			return true
		}
		o := v.objectRange(e.Start, e.End)
		start, end := max(o.Start, i.r.Start), min(o.End, i.r.End)
		if start < end {
			m.dropAreas(start-v.base, end-v.base, func(a area) bool { return i.private || !a.private })
		}
		return true
	})
}
