// Package memfile is the memory of applications: one memfd from which all pages
// come that are not in a donated host file.
//
// File hands out runs of pages. Each page has a count of references; at zero it
// is free. The Sentry sees the file through chunks of 64 MiB that are mapped
// once and never unmapped, so Slice takes no lock. An Account bounds and counts
// what one container, or one kind of use in it, holds; an allocation beyond the
// limit fails with ENOMEM, for the caller to end a task over.
//
// Where pages come from matters for speed: a run asked for with a hint goes
// right behind its neighbour, so that mappings of successive faults merge in
// the host, and a run without one starts a group of 1 MiB of its own where
// there is room. Groups are used from the lowest up, so what was freed last is
// likely to be used first.
//
// A freed page stays with the host for the next user, who gets it cleared
// ("warm"), for a page that the host must back anew costs many times as much.
// Up to 64 MiB, or a quarter of what is in use, may stay for good. Beyond that
// what nobody wanted for a second goes back, and beyond 512 MiB half of it at once.
// Together with what an account uses the warm pages never exceed the account's
// limit: the host may enforce the same one. And they are not beyond what was in
// use at some time, but for 64 MiB, should there be a limit of the host's that
// nobody told. The timer for this runs only while
// there is something to give back.
//
// The memfd can't shrink (F_SEAL_SHRINK), so touching a page of it never
// faults for lack of a page; it may when the host is out of memory, which
// nobody can survive.
//
// Locking: File.mu is a leaf. Reference counts, Slice and the numbers of an
// Account are atomic. All methods are safe for concurrent use.
package memfile

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/usermem"
)

const (
	pageSize  = usermem.PageSize
	pageShift = usermem.PageShift

	// ChunkSize is how much of the file the Sentry maps at a time, and the
	// longest run of pages.
	ChunkSize  = 1 << chunkShift
	chunkShift = 26
	chunkMask  = ChunkSize - 1
	chunkPages = ChunkSize / pageSize
	chunkWords = chunkPages / 64

	// groupPages is the unit that allocations without a hint are kept apart by.
	groupPages = 256
	groupWords = groupPages / 64
	groups     = chunkPages / groupPages // 64: one word of bits

	// maxChunks bounds the file: 1 TiB.
	maxChunks = 1 << 14

	// warmFloor is how many free pages are kept in any case, warmCeiling how
	// many for a while.
	warmFloor   = 64 << 20 / pageSize
	warmCeiling = 512 << 20 / pageSize
	// warmTime is how long pages beyond the floor are kept for a new user.
	warmTime = time.Second
)

// NoHint is the hint of an allocation that goes anywhere.
const NoHint = ^uint64(0)

// chunk is ChunkSize bytes of the file.
type chunk struct {
	mem  []byte // the Sentry's view
	refs [chunkPages]atomic.Int32

	// Guarded by File.mu. acct says which account was charged for a page in
	// use; bits of used and warm are by page, those of freeGroups by group.
	acct       [chunkPages]uint16
	used       [chunkWords]uint64
	warm       [chunkWords]uint64 // free, and not known to be zero
	freeGroups uint64
	free       int // pages
}

// File is the memory file. It implements memmap.File.
type File struct {
	fd     int
	chunks [maxChunks]atomic.Pointer[chunk]

	usedPages atomic.Int64
	peakPages atomic.Int64 // the most that usedPages was
	warmPages atomic.Int64

	mu       locks.Mutex[locks.MemoryFile]
	nchunks  int
	lowFree  int        // no chunk below this one has a free group
	lowAny   int        // no chunk below this one has a free page
	accounts []*Account // by id; nil for those in freeIDs
	freeIDs  []uint16
	closed   []*Account // that something is still charged to
	trimming bool
	ended    bool

	// timer runs while waiting is set: then it gives back what of the warm
	// pages was kept in vain, which is lowWarm at the most, the fewest that
	// there were since it was started. Both are changed without mu.
	timer   *time.Timer
	waiting atomic.Bool
	lowWarm atomic.Int64

	leaving leaving
}

// New makes an empty memory file.
func New() (*File, error) {
	const name = "vitrine-memory"
	// Nobody executes the file itself; mapping it executable needs no such
	// permission. Older kernels (before 6.3) do not know the flag.
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("creating the memory file: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("sealing the memory file: %w", err)
	}
	f := &File{fd: fd}
	f.timer = time.AfterFunc(time.Hour, f.giveBack)
	f.timer.Stop()
	return f, nil
}

// Close gives up the file and the Sentry's view of it. Nothing uses it any
// more; in a Sentry it lives as long as the process.
func (f *File) Close() error {
	f.timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for i := range f.nchunks {
		if c := f.chunks[i].Swap(nil); c != nil {
			unix.Munmap(c.mem)
		}
	}
	f.nchunks = 0
	return unix.Close(f.fd)
}

// FD implements platform.File.
func (f *File) FD() int { return f.fd }

// Slice implements memmap.File. It does not fail for a range in use.
func (f *File) Slice(offset, length uint64) ([]byte, error) {
	if offset >= maxChunks<<chunkShift {
		return nil, unix.EFAULT
	}
	c := f.chunks[offset>>chunkShift].Load()
	if c == nil {
		return nil, unix.EFAULT
	}
	b := c.mem[offset&chunkMask:]
	if length < uint64(len(b)) {
		b = b[:length]
	}
	return b, nil
}

func (f *File) chunkOf(offset uint64) (*chunk, int) {
	return f.chunks[offset>>chunkShift].Load(), int(offset & chunkMask >> pageShift)
}

// Request says what Alloc is asked for.
type Request struct {
	Account *Account
	Pages   int // at least one
	// Hint is the offset where the run should start, or NoHint. It is not
	// followed where a page there is in use.
	Hint uint64
	// Down puts a run without a usable hint at the end of its group: further
	// runs will be asked for below it.
	Down bool
	// Zero wants the pages cleared. Otherwise they hold what somebody left,
	// and the caller overwrites all of it before anybody sees it.
	Zero bool
}

// Run is a result of Alloc: pages that follow each other, each with one
// reference.
type Run struct {
	Offset uint64
	Pages  int
}

// Alloc allocates a run of at least one and at most r.Pages pages. It fails
// with ENOMEM when the account's limit is reached or the file is full.
func (f *File) Alloc(r Request) (Run, error) {
	want := min(r.Pages, chunkPages)
	if want <= 0 {
		return Run{}, unix.EINVAL
	}
	// Near the limit, take what is left of it.
	if !r.Account.charge(int64(want), false) {
		want = 1
		if !r.Account.charge(1, false) && !(f.awaitLeaving() && r.Account.charge(1, false)) {
			return Run{}, unix.ENOMEM
		}
	}
	f.mu.Lock()
	var c *chunk
	var ci, first int
	if f.accounts[r.Account.id] == r.Account { // or it was closed
		c, ci, first = f.place(r.Hint, want, r.Down)
	}
	if c == nil {
		f.mu.Unlock()
		r.Account.uncharge(int64(want))
		return Run{}, unix.ENOMEM
	}
	n := c.run(first, want)
	var warm warmSet
	warm.copy(c, first, n)
	c.take(first, n)
	for i := first; i < first+n; i++ {
		c.acct[i] = r.Account.id
		c.refs[i].Store(1)
	}
	f.mu.Unlock()

	used := f.usedPages.Add(int64(n))
	for peak := f.peakPages.Load(); used > peak && !f.peakPages.CompareAndSwap(peak, used); peak = f.peakPages.Load() {
	}
	if n < want {
		r.Account.uncharge(int64(want - n))
	}
	if count := warm.count(); count > 0 {
		f.fewerWarm(int64(count))
		if r.Zero {
			warm.each(func(at, n int) { clear(c.mem[at<<pageShift : (at+n)<<pageShift]) })
		}
	}
	if kept := f.warmPages.Load(); kept > 0 {
		if room := min(r.Account.headroom(), f.peakPages.Load()+warmFloor-used); kept > room {
			f.trimTo(room)
		}
	}
	return Run{Offset: uint64(ci)<<chunkShift | uint64(first)<<pageShift, Pages: n}, nil
}

// warmSet is which pages of a run are warm, by the words of their chunk.
type warmSet struct {
	first, n int
	words    [chunkWords]uint64
}

func (s *warmSet) copy(c *chunk, first, n int) {
	s.first, s.n = first, n
	eachWord(first, n, func(w int, mask uint64) { s.words[w] = c.warm[w] & mask })
}

func (s *warmSet) count() (n int) {
	eachWord(s.first, s.n, func(w int, mask uint64) { n += bits.OnesCount64(s.words[w]) })
	return n
}

// each calls f for the runs of warm pages.
func (s *warmSet) each(f func(at, n int)) {
	at, n := 0, 0
	eachWord(s.first, s.n, func(w int, mask uint64) {
		for word := s.words[w]; word != 0; {
			low := bits.TrailingZeros64(word)
			length := bits.TrailingZeros64(^(word >> low))
			if start := w*64 + low; n > 0 && at+n == start {
				n += length
			} else {
				if n > 0 {
					f(at, n)
				}
				at, n = start, length
			}
			if low+length == 64 {
				break
			}
			word &= ^uint64(0) << (low + length)
		}
	})
	if n > 0 {
		f(at, n)
	}
}

// place chooses the first page of a run. f.mu is held.
func (f *File) place(hint uint64, want int, down bool) (*chunk, int, int) {
	if hint != NoHint && hint>>chunkShift < uint64(f.nchunks) {
		c, page := f.chunkOf(hint)
		if c.isFree(page) {
			return c, int(hint >> chunkShift), page
		}
	}
	need := (want + groupPages - 1) / groupPages
	for {
		for i := f.lowFree; i < f.nchunks; i++ {
			c := f.chunks[i].Load()
			if c.freeGroups == 0 {
				if i == f.lowFree {
					f.lowFree++
				}
				continue
			}
			g := groupRun(c.freeGroups, need)
			first := g * groupPages
			if down {
				first += groupPages - min(want, groupPages)
			}
			return c, i, first
		}
		// No free group. Fill up what is there while most of it is empty.
		used, total := f.usedPages.Load(), int64(f.nchunks)*chunkPages
		if used > total/4 || f.nchunks == 0 {
			if f.nchunks < maxChunks && f.grow() {
				continue
			}
		}
		for i := f.lowAny; i < f.nchunks; i++ {
			c := f.chunks[i].Load()
			if c.free == 0 {
				if i == f.lowAny {
					f.lowAny++
				}
				continue
			}
			for w, word := range c.used {
				if word != ^uint64(0) {
					return c, i, w*64 + bits.TrailingZeros64(^word)
				}
			}
		}
		if f.nchunks == maxChunks || !f.grow() {
			return nil, 0, 0
		}
	}
}

// groupRun returns the first of need free groups in a row, or the lowest free
// group when there is no such row.
func groupRun(free uint64, need int) int {
	run := free
	for i := 1; i < need && run != 0; i++ {
		run &= free >> i
	}
	if run == 0 {
		run = free
	}
	return bits.TrailingZeros64(run)
}

// grow adds a chunk. f.mu is held.
func (f *File) grow() bool {
	if err := unix.Ftruncate(f.fd, int64(f.nchunks+1)<<chunkShift); err != nil {
		return false
	}
	mem, err := unix.Mmap(f.fd, int64(f.nchunks)<<chunkShift, ChunkSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return false
	}
	f.chunks[f.nchunks].Store(&chunk{mem: mem, freeGroups: ^uint64(0), free: chunkPages})
	f.nchunks++
	return true
}

func (c *chunk) isFree(page int) bool { return c.used[page/64]&(1<<(page%64)) == 0 }

// run returns how many pages from first on, up to want, are free.
func (c *chunk) run(first, want int) int {
	n := 0
	for page := first; n < want && page < chunkPages; {
		rest := 64 - page%64
		step := min(bits.TrailingZeros64(c.used[page/64]>>(page%64)), rest)
		n += step
		page += step
		if step < rest {
			break
		}
	}
	return min(n, want)
}

// take marks pages as in use, and not warm.
func (c *chunk) take(first, n int) {
	eachWord(first, n, func(w int, mask uint64) {
		c.used[w] |= mask
		c.warm[w] &^= mask
	})
	for g := first / groupPages; g <= (first+n-1)/groupPages; g++ {
		c.freeGroups &^= 1 << g
	}
	c.free -= n
}

// give marks pages as free.
func (c *chunk) give(first, n int, warm bool) {
	eachWord(first, n, func(w int, mask uint64) {
		c.used[w] &^= mask
		if warm {
			c.warm[w] |= mask
		}
	})
	for g := first / groupPages; g <= (first+n-1)/groupPages; g++ {
		words := c.used[g*groupWords : (g+1)*groupWords]
		if words[0]|words[1]|words[2]|words[3] == 0 {
			c.freeGroups |= 1 << g
		}
	}
	c.free += n
}

func eachWord(first, n int, f func(w int, mask uint64)) {
	for n > 0 {
		step := min(n, 64-first%64)
		f(first/64, ^uint64(0)>>(64-step)<<(first%64))
		first += step
		n -= step
	}
}

// IncRef adds a reference to each page of the range, which has one already.
func (f *File) IncRef(offset, length uint64) {
	for length > 0 {
		c, page := f.chunkOf(offset)
		n := min(int(length>>pageShift), chunkPages-page)
		for i := page; i < page+n; i++ {
			if c.refs[i].Add(1) <= 1 {
				panic("memfile: reference taken on a free page")
			}
		}
		offset += uint64(n) << pageShift
		length -= uint64(n) << pageShift
	}
}

// DecRef drops a reference of each page of the range and frees those that have
// none left.
func (f *File) DecRef(offset, length uint64) {
	freed := uint64(0)
	for length > 0 {
		c, page := f.chunkOf(offset)
		n := min(int(length>>pageShift), chunkPages-page)
		// Pages are freed by runs, to take the lock once.
		start := -1
		for i := page; i < page+n; i++ {
			left := c.refs[i].Add(-1)
			switch {
			case left < 0:
				panic("memfile: reference dropped on a free page")
			case left == 0 && start < 0:
				start = i
			case left > 0 && start >= 0:
				f.freeRun(c, start, i-start, offset>>chunkShift)
				freed += uint64(i - start)
				start = -1
			}
		}
		if start >= 0 {
			f.freeRun(c, start, page+n-start, offset>>chunkShift)
			freed += uint64(page + n - start)
		}
		offset += uint64(n) << pageShift
		length -= uint64(n) << pageShift
	}
	if freed > 0 {
		f.keep()
	}
}

// DropShared drops a reference of one page and reports true, unless it is the
// last one: then nothing is done. It lets a caller put off what must be done
// before a page is freed.
func (f *File) DropShared(offset uint64) bool {
	c, page := f.chunkOf(offset)
	for {
		n := c.refs[page].Load()
		if n <= 1 {
			return false
		}
		if c.refs[page].CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// Exclusive returns how many pages from offset on, within length, have just one
// reference: nobody but the caller, who holds it, can reach them.
func (f *File) Exclusive(offset, length uint64) int {
	n := 0
	for length > 0 {
		c, page := f.chunkOf(offset)
		for ; page < chunkPages && length > 0; page++ {
			if c.refs[page].Load() != 1 {
				return n
			}
			n++
			offset += pageSize
			length -= pageSize
		}
	}
	return n
}

func (f *File) freeRun(c *chunk, first, n int, ci uint64) {
	f.mu.Lock()
	for i := first; i < first+n; {
		// Few runs have pages of more than one account.
		id, j := c.acct[i], i+1
		for j < first+n && c.acct[j] == id {
			j++
		}
		f.accounts[id].uncharge(int64(j - i))
		i = j
	}
	c.give(first, n, true)
	f.lowFree = min(f.lowFree, int(ci))
	f.lowAny = min(f.lowAny, int(ci))
	f.mu.Unlock()
	f.usedPages.Add(-int64(n))
	f.warmPages.Add(int64(n))
}

// warmBound is how many free pages may be kept from the host for good.
func (f *File) warmBound() int64 { return max(warmFloor, f.usedPages.Load()/4) }

// fewerWarm says that n warm pages are none any more.
func (f *File) fewerWarm(n int64) {
	left := f.warmPages.Add(-n)
	if !f.waiting.Load() {
		return
	}
	for low := f.lowWarm.Load(); left < low && !f.lowWarm.CompareAndSwap(low, left); low = f.lowWarm.Load() {
	}
}

// keep sees to it that not too much is kept, now and later. Pages have been
// freed.
func (f *File) keep() {
	kept, bound := f.warmPages.Load(), f.warmBound()
	if kept <= bound {
		return
	}
	if kept > max(bound, warmCeiling) {
		f.trimTo(max(bound, warmCeiling) / 2)
	}
	if !f.waiting.Swap(true) {
		f.lowWarm.Store(f.warmPages.Load())
		f.timer.Reset(warmTime)
	}
}

// giveBack runs when some warm pages have waited for long enough.
func (f *File) giveBack() {
	kept, bound := f.warmPages.Load(), f.warmBound()
	if idle := min(f.lowWarm.Load(), kept); kept > bound && idle > 0 {
		f.trimTo(max(bound, kept-idle))
	}
	if f.warmPages.Load() <= f.warmBound() {
		f.waiting.Store(false)
		// keep may just have relied on it.
		if f.warmPages.Load() <= f.warmBound() || f.waiting.Swap(true) {
			return
		}
	}
	f.lowWarm.Store(f.warmPages.Load())
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.timer.Reset(warmTime)
	}
}

// trimTo gives free pages back to the host until no more than target are kept, from
// the end of the file on.
func (f *File) trimTo(target int64) {
	if f.warmPages.Load() <= target {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trimming || f.ended {
		return
	}
	f.trimming = true
	defer func() { f.trimming = false }()
	for i := f.nchunks - 1; i >= 0; i-- {
		c := f.chunks[i].Load()
		for w := chunkWords - 1; w >= 0; w-- {
			for c.warm[w] != 0 {
				over := f.warmPages.Load() - target
				if over <= 0 {
					return
				}
				f.punch(c, i, w, int(over))
			}
		}
	}
}

// punch gives the run of warm pages back that reaches from word w downwards, but
// at most so many. f.mu is held, and released while the host works.
func (f *File) punch(c *chunk, ci, w, most int) {
	last := w*64 + 63 - bits.LeadingZeros64(c.warm[w])
	first := last
	for first > 0 && last-first+1 < most && c.warm[(first-1)/64]>>((first-1)%64)&1 != 0 {
		first--
	}
	n := last - first + 1
	// Nobody must take the pages meanwhile.
	c.take(first, n)
	f.fewerWarm(int64(n))
	f.mu.Unlock()
	err := unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(ci)<<chunkShift|int64(first)<<pageShift, int64(n)<<pageShift)
	if err != nil {
		// The host keeps the pages; at least they are zero, as cold ones are.
		clear(c.mem[first<<pageShift : (last+1)<<pageShift])
	}
	f.mu.Lock()
	c.give(first, n, false)
	f.lowFree = min(f.lowFree, ci)
	f.lowAny = min(f.lowAny, ci)
}

// Trim gives all free pages back to the host.
func (f *File) Trim() { f.trimTo(0) }

// Usage returns how many bytes are allocated, and how many free bytes are kept
// from the host.
func (f *File) Usage() (used, kept uint64) {
	return uint64(f.usedPages.Load()) << pageShift, uint64(f.warmPages.Load()) << pageShift
}
