package clock

import (
	"runtime"
	"sync/atomic"
)

// ID is a clockid_t: clock_gettime(2).
type ID int32

// The clocks that a Keeper knows.
const (
	Realtime        ID = 0
	Monotonic       ID = 1
	MonotonicRaw    ID = 4
	RealtimeCoarse  ID = 5
	MonotonicCoarse ID = 6
	Boottime        ID = 7
	TAI             ID = 11
)

// CoarseResolution is what clock_getres(2) says of the coarse clocks, in
// nanoseconds: a tick at 250 Hz. They are really as fine as the others.
const CoarseResolution = 4_000_000

// Shift is the position of the binary point in the rates of a Page.
const Shift = 56

// Page is what the vDSO reads: the clocks as functions of the TSC. For a TSC of t,
//
//	d = t - Base, valid if d <= Valid (unsigned)
//	clock id = Starts[id] + d*Rate>>Shift
//
// in nanoseconds, with products of 128 bits, where Rate is RawRate for
// CLOCK_MONOTONIC_RAW and MonoRate for all others. Starts are split into seconds
// and nanoseconds to spare the reader a division. Seq is odd while the page is
// written, and differs after it was. The layout is known to vdso_amd64.s.
type Page struct {
	Seq      atomic.Uint64 // 0
	Base     atomic.Uint64 // 8
	Valid    atomic.Uint64 // 16: zero where there is no TSC to rely on
	MonoRate atomic.Uint64 // 24
	RawRate  atomic.Uint64 // 32
	// GetCPU is from which number on processors may not be told of by getcpu(2)
	// from the segment limit that Linux keeps in the GDT.
	GetCPU atomic.Uint64 // 40
	_      [2]uint64
	Starts [12]Start // 64, by ID
}

// Start is a clock's time at Page.Base. Nanoseconds are below 10^9.
type Start struct{ Seconds, Nanoseconds atomic.Uint64 }

const second = 1_000_000_000

func (s *Start) set(ns uint64) {
	s.Seconds.Store(ns / second)
	s.Nanoseconds.Store(ns % second)
}

// knows reports whether id can be computed from a Page.
func knows(id ID) bool {
	switch id {
	case Realtime, Monotonic, MonotonicRaw, RealtimeCoarse, MonotonicCoarse, Boottime, TAI:
		return true
	}
	return false
}

// about is read of CLOCK_MONOTONIC with a TSC that may be read early. It is false while
// the page is written, too.
func (p *Page) about() (int64, bool) {
	seq := p.Seq.Load()
	d := readTSCAbout() - p.Base.Load()
	if int64(d) < 0 {
		d = 0
	}
	valid := p.Valid.Load()
	start := &p.Starts[Monotonic]
	v := start.Seconds.Load()*second + start.Nanoseconds.Load() + scale(d, p.MonoRate.Load())
	return int64(v), seq&1 == 0 && valid != 0 && d <= valid && p.Seq.Load() == seq
}

// read returns the time of a clock that the page knows, and false when the
// page's numbers have expired.
func (p *Page) read(id ID) (int64, bool) {
	for spins := 0; ; spins++ {
		seq := p.Seq.Load()
		if seq&1 != 0 {
			if spins > 100 {
				runtime.Gosched()
			}
			continue
		}
		d := readTSC() - p.Base.Load()
		if int64(d) < 0 {
			d = 0 // another processor's TSC, a few cycles behind
		}
		valid := p.Valid.Load()
		rate := &p.MonoRate
		if id == MonotonicRaw {
			rate = &p.RawRate
		}
		start := &p.Starts[id]
		v := start.Seconds.Load()*second + start.Nanoseconds.Load() + scale(d, rate.Load())
		if p.Seq.Load() != seq {
			continue
		}
		return int64(v), valid != 0 && d <= valid
	}
}
