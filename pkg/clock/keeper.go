package clock

import (
	"math/bits"
	"sync/atomic"

	"vitrine/pkg/locks"
)

// How long numbers hold, in nanoseconds; see Keeper.
const (
	minWatch = 1_000_000      // watch the host as long before the first numbers
	maxHold  = 1_000_000_000  // nothing holds longer than this
	maxWatch = 64_000_000_000 // then the older half of the record is forgotten
	// holdFactor is how much longer than it took to measure them a rate may
	// be used: the error of a sample, some 100 ns, grows by as much.
	holdFactor = 4
	// jump is the error from which CLOCK_MONOTONIC is set forward at once.
	jump = 1_000_000
)

// Keeper keeps the clocks. Its methods are safe for concurrent use. See the
// package comment.
type Keeper struct {
	page   atomic.Pointer[Page]
	useTSC bool

	mu        locks.Mutex[locks.Leaf] // protects what follows, and writing the page
	mono, raw line
	offsets   [12]int64
	hold      uint64 // cycles; zero before the first numbers
	base      uint64 // TSC of the last writing
	noGetCPU  bool   // AllowGetCPU was called with zero
}

// line is one clock as a function of the TSC, and the record of the host it
// was made from.
type line struct {
	id           ID
	old, younger sample // of the host; old is where the rate is measured from
	ns           uint64 // at Keeper.base
	rate         uint64 // nanoseconds per cycle << Shift, in force
}

// sample is the host's time at some TSC, give or take.
type sample struct {
	tsc  uint64
	ns   uint64
	slop uint64 // cycles
}

// New returns a Keeper of the host's clocks. With useTSC false it asks the host
// for every time; see HostTSCReliable.
func New(useTSC bool) *Keeper {
	k := &Keeper{useTSC: useTSC}
	k.page.Store(new(Page))
	k.mono.id, k.raw.id = Monotonic, MonotonicRaw
	if useTSC {
		k.mono.old = takeSample(Monotonic, 5)
		k.raw.old = takeSample(MonotonicRaw, 5)
		k.mono.younger, k.raw.younger = k.mono.old, k.raw.old
		for _, id := range [...]ID{Realtime, Boottime, TAI} {
			lo, hi := offsetBounds(id)
			k.offsets[id] = lo + (hi-lo)/2
		}
	}
	return k
}

// Share moves the Keeper's numbers into p, which stays writable for as long as
// the Keeper lives: memory that applications can read. It must not be called
// twice with the same page.
func (k *Keeper) Share(p *Page) {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.page.Load()
	p.GetCPU.Store(old.GetCPU.Load())
	k.page.Store(p)
	if k.hold != 0 {
		k.write(p)
	}
}

// AllowGetCPU says which processors the vDSO may tell of by itself (getcpu(2)): those
// numbered below n, and none once it was called with zero.
func (k *Keeper) AllowGetCPU(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n == 0 {
		k.noGetCPU = true
	} else if k.noGetCPU {
		return
	}
	k.page.Load().GetCPU.Store(uint64(n))
}

// Now returns the time of a clock in nanoseconds. The clock is one of those
// above; for any other, the answer is false.
func (k *Keeper) Now(id ID) (int64, bool) {
	if !knows(id) {
		return 0, false
	}
	if !k.useTSC {
		return hostNow(id), true
	}
	for range 4 {
		if ns, ok := k.page.Load().read(id); ok {
			return ns, true
		}
		if !k.correct() {
			break
		}
	}
	return k.slowNow(id), true
}

// Monotonic returns CLOCK_MONOTONIC in nanoseconds.
func (k *Keeper) Monotonic() int64 {
	ns, _ := k.Now(Monotonic)
	return ns
}

// MonotonicAbout is Monotonic that doesn't wait for what the processor has still to
// do: it may be early by some nanoseconds, and takes half as long.
func (k *Keeper) MonotonicAbout() int64 {
	if ns, ok := k.page.Load().about(); ok {
		return ns
	}
	return k.Monotonic()
}

// Realtime returns CLOCK_REALTIME in nanoseconds since 1970.
func (k *Keeper) Realtime() int64 {
	ns, _ := k.Now(Realtime)
	return ns
}

// Update corrects the clocks if half of the time that they hold is over. It is
// cheap otherwise. Calling it is never necessary; calling it now and then from
// the kernel's way keeps readers of the vDSO from having to.
func (k *Keeper) Update() {
	if !k.useTSC {
		return
	}
	p := k.page.Load()
	if d := readTSC() - p.Base.Load(); int64(d) >= 0 && d >= p.Valid.Load()/2 {
		k.correct()
	}
}

// slowNow is Now where there are no numbers yet: what the host says, but not
// later than the numbers that come will say, nor earlier than what they said.
func (k *Keeper) slowNow(id ID) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := hostNow(id)
	if k.hold != 0 {
		return now
	}
	l := &k.mono
	if id == MonotonicRaw {
		l = &k.raw
	}
	// What was told here is what the line may not fall below.
	if told := uint64(now - k.offset(id)); told > l.ns {
		l.ns = told
	}
	return int64(l.ns) + k.offset(id)
}

func (k *Keeper) offset(id ID) int64 {
	switch id {
	case RealtimeCoarse:
		id = Realtime
	case MonotonicCoarse, Monotonic, MonotonicRaw:
		return 0
	}
	return k.offsets[id]
}

// correct compares the clocks with the host's and writes new numbers. It
// reports false when it is too early for that.
func (k *Keeper) correct() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.page.Load()
	if k.hold != 0 {
		// Somebody else may just have done it.
		if d := readTSC() - k.base; int64(d) < 0 || d < k.hold/4 {
			return int64(d) >= 0
		}
	}
	mono, raw := takeSample(Monotonic, 3), takeSample(MonotonicRaw, 2)
	watched := mono.ns - k.mono.old.ns
	if int64(watched) < minWatch || mono.tsc <= k.mono.old.tsc || raw.tsc <= k.raw.old.tsc {
		return false
	}
	if rate := k.mono.measured(mono); k.hold != 0 && max(rate, k.mono.rate)-min(rate, k.mono.rate) > rate/16 {
		k.restart(p, mono, raw)
		return false
	}
	for _, id := range [...]ID{Realtime, Boottime, TAI} {
		lo, hi := offsetBounds(id)
		k.offsets[id] = max(lo, min(hi, k.offsets[id]))
	}
	oldHold := k.hold
	hold := unscale(min(watched*holdFactor, maxHold), k.mono.measured(mono))

	// From here on nobody may use the old numbers, until the new ones are there:
	// they have to continue the old ones at exactly this time.
	p.Seq.Add(1)
	tsc := readTSC()
	elapsed := tsc - k.base
	k.mono.advance(mono, tsc, elapsed, oldHold, hold)
	k.raw.advance(raw, tsc, elapsed, oldHold, hold)
	k.base, k.hold = tsc, hold
	k.store(p)
	p.Seq.Add(1)
	return true
}

// restart forgets all that was measured: the TSC has made a jump (the machine
// was suspended, or moved to another host).
func (k *Keeper) restart(p *Page, mono, raw sample) {
	p.Seq.Add(1)
	elapsed := min(readTSC()-k.base, k.hold)
	for _, l := range [...]*line{&k.mono, &k.raw} {
		l.ns += scale(elapsed, l.rate) + 1
	}
	k.mono.old, k.raw.old = mono, raw
	k.mono.younger, k.raw.younger = mono, raw
	k.hold = 0
	k.store(p)
	p.Seq.Add(1)
}

// write stores the numbers in a page.
func (k *Keeper) write(p *Page) {
	p.Seq.Add(1)
	k.store(p)
	p.Seq.Add(1)
}

func (k *Keeper) store(p *Page) {
	p.Base.Store(k.base)
	p.MonoRate.Store(k.mono.rate)
	p.RawRate.Store(k.raw.rate)
	p.Starts[MonotonicRaw].set(k.raw.ns)
	for _, id := range [...]ID{Monotonic, MonotonicCoarse, Realtime, RealtimeCoarse, Boottime, TAI} {
		p.Starts[id].set(k.mono.ns + uint64(k.offset(id)))
	}
	p.Valid.Store(k.hold)
}

// measured is the rate that the record up to s shows.
func (l *line) measured(s sample) uint64 {
	hi, lo := bits.Mul64(s.ns-l.old.ns, 1<<Shift)
	cycles := s.tsc - l.old.tsc
	if hi >= cycles {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, cycles)
	return q
}

// advance makes the line begin at tsc, elapsed cycles after it began before. Its
// old numbers were good for oldHold cycles, the new ones will be for hold.
func (l *line) advance(s sample, tsc, elapsed, oldHold, hold uint64) {
	rate := l.measured(s)
	host := s.ns + scale(tsc-s.tsc, rate)
	if oldHold == 0 || elapsed > oldHold {
		// Nobody has been told more than this.
		told := l.ns + scale(oldHold, l.rate)
		if oldHold != 0 {
			told++
		}
		l.ns = max(host, told)
	} else {
		// One up, as the fraction is lost.
		l.ns += scale(elapsed, l.rate) + 1
	}
	// Steer away what is left of the error, but for what may be the sample's.
	off, slop := int64(host-l.ns), int64(scale(s.slop, rate))
	switch {
	case off > slop:
		off -= slop
	case off < -slop:
		off += slop
	default:
		off = 0
	}
	if off > jump {
		l.ns, off = host, 0
	}
	l.rate = rate
	if holdNS := int64(scale(hold, rate)); off != 0 && holdNS > 0 {
		// At the most 1/64 slower: an error that is larger takes longer.
		off = max(off, -holdNS/64)
		hi, lo := bits.Mul64(rate, uint64(max(off, -off)))
		if hi < uint64(holdNS) {
			change, _ := bits.Div64(hi, lo, uint64(holdNS))
			if off > 0 {
				l.rate += change
			} else {
				l.rate -= change
			}
		}
	}
	// A rate needs a long record; a change of the host's rate a short one.
	if s.ns-l.younger.ns > maxWatch/2 {
		l.old, l.younger = l.younger, s
	}
}

// scale returns d*rate >> Shift.
func scale(d, rate uint64) uint64 {
	hi, lo := bits.Mul64(d, rate)
	return hi<<(64-Shift) | lo>>Shift
}

// unscale returns how many cycles ns nanoseconds are.
func unscale(ns, rate uint64) uint64 {
	hi, lo := bits.Mul64(ns, 1<<Shift)
	if hi >= rate {
		return 0
	}
	q, _ := bits.Div64(hi, lo, rate)
	return q
}

// takeSample reads the host's clock a few times and returns the reading that
// took the shortest time.
func takeSample(id ID, tries int) (best sample) {
	for i := range tries {
		before := readTSC()
		ns := hostNow(id)
		after := readTSC()
		if slop := (after - before) / 2; i == 0 || slop < best.slop {
			best = sample{tsc: before + slop, ns: uint64(ns), slop: slop}
		}
	}
	return best
}

// offsetBounds returns between which values CLOCK_MONOTONIC's distance to
// another clock lies.
func offsetBounds(id ID) (lo, hi int64) {
	before := hostNow(Monotonic)
	ns := hostNow(id)
	after := hostNow(Monotonic)
	return ns - after, ns - before
}
