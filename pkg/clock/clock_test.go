package clock

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func newKeeper(t testing.TB) *Keeper {
	t.Helper()
	if !HostTSCReliable() {
		t.Skip("needs a host whose clock source is the TSC")
	}
	k := New(true)
	// Reading the time is what brings the first numbers, once the host has been watched.
	for k.page.Load().Valid.Load() == 0 {
		k.Now(Monotonic)
	}
	return k
}

var allIDs = []ID{Realtime, Monotonic, MonotonicRaw, RealtimeCoarse, MonotonicCoarse, Boottime, TAI}

func TestNowAgreesWithTheHost(t *testing.T) {
	const within = 100_000 // ns: what is wrong is wrong by far more
	for name, k := range map[string]*Keeper{"tsc": newKeeper(t), "host": New(false)} {
		for range 20000 {
			for _, id := range allIDs {
				fine := id
				switch id {
				case RealtimeCoarse:
					fine = Realtime
				case MonotonicCoarse:
					fine = Monotonic
				}
				slack := int64(within)
				if id != fine && name == "host" {
					slack = 20_000_000 // the host's own coarse clock
				}
				before := hostNow(fine)
				got, ok := k.Now(id)
				after := hostNow(fine)
				if !ok || got < before-slack || got > after+slack {
					t.Fatalf("%s: clock %d is %d, the host says %d to %d", name, id, got, before, after)
				}
			}
		}
		for _, id := range []ID{2, 3, 8, 9, 12, -1, 1 << 30} {
			if _, ok := k.Now(id); ok {
				t.Errorf("%s: clock %d is known", name, id)
			}
		}
	}
}

// TestClocksNeverGoBack reads from several goroutines while corrections happen
// all the time, and passes the latest time from one to the next.
func TestClocksNeverGoBack(t *testing.T) {
	k := newKeeper(t)
	for _, id := range []ID{Monotonic, MonotonicRaw, Boottime} {
		var latest atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for range 100000 {
					floor := latest.Load()
					now, _ := k.Now(id)
					if now < floor {
						t.Errorf("clock %d went back by %d ns", id, floor-now)
						return
					}
					for old := floor; now > old && !latest.CompareAndSwap(old, now); old = latest.Load() {
					}
				}
			}()
		}
		for range 2000 {
			k.forceCorrection()
		}
		wg.Wait()
	}
}

// forceCorrection makes correct think that half of the validity is over.
func (k *Keeper) forceCorrection() {
	k.mu.Lock()
	if d := readTSC() - k.base; k.hold > 4*d {
		// Numbers that hold for less may be corrected earlier.
		k.hold = max(d, 1)
		p := k.page.Load()
		p.Seq.Add(1)
		p.Valid.Store(k.hold)
		p.Seq.Add(1)
	}
	k.mu.Unlock()
	k.correct()
}

func TestLineContinuesWhereItWas(t *testing.T) {
	const rate = 1 << Shift / 2 // half a nanosecond a cycle
	for name, host := range map[string]uint64{"right": 1_000_000, "behind": 1_500_000, "ahead": 900_000, "far behind": 900_000_000} {
		l := line{old: sample{tsc: 0, ns: 0}, ns: 0, rate: rate}
		l.old.ns = host - 1_000_000 // so that the measured rate is right
		const tsc = 2_000_000
		l.advance(sample{tsc: tsc, ns: host}, tsc, tsc, 4*tsc, 4*tsc)
		if l.ns < 1_000_000 {
			t.Errorf("%s: went back to %d", name, l.ns)
		}
		end := l.ns + scale(4*tsc, l.rate)
		wantEnd := host + 4_000_000
		if diff := max(end, wantEnd) - min(end, wantEnd); diff > 40_000 {
			t.Errorf("%s: is off by %d when the numbers expire, want it steered to the host", name, diff)
		}
	}
}

func TestRestartAfterTheTSCJumps(t *testing.T) {
	k := newKeeper(t)
	before := k.Monotonic()
	k.mu.Lock()
	k.mono.old.tsc -= 1 << 40 // as if the TSC had run so much faster
	k.hold, k.base = 1, k.base-1<<30
	k.mu.Unlock()
	if k.correct() {
		t.Error("numbers were made from a record that makes no sense")
	}
	if v := k.page.Load().Valid.Load(); v != 0 {
		t.Errorf("the page is still valid for %d cycles", v)
	}
	if now := k.Monotonic(); now < before {
		t.Errorf("went back by %d", before-now)
	}
}

func TestScale(t *testing.T) {
	for _, c := range [][3]uint64{{0, 1, 0}, {1 << 40, 1 << Shift, 1 << 40}, {3_000_000_000, 1 << Shift / 3, 999_999_999}} {
		if got := scale(c[0], c[1]); got != c[2] {
			t.Errorf("scale(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
	if got := unscale(1000, 1<<Shift/2); got != 2000 {
		t.Errorf("unscale = %d, want 2000", got)
	}
}

func TestSharedPageTellsTheSame(t *testing.T) {
	k := newKeeper(t)
	k.AllowGetCPU(3)
	before := k.Monotonic()
	p := PageAt(make([]byte, 4096))
	k.Share(p)
	got, ok := p.read(Monotonic)
	if after := k.Monotonic(); !ok || got < before || got > after || p.GetCPU.Load() != 3 {
		t.Errorf("the page says %d, %v; want %d to %d", got, ok, before, after)
	}
}

func TestTimersRunInOrder(t *testing.T) {
	q := NewQueue(func() int64 { return hostNow(Monotonic) })
	defer q.Close()
	var mu sync.Mutex
	var got []int64
	var late atomic.Int64
	var wg sync.WaitGroup
	start := hostNow(Monotonic)
	for _, i := range rand.Perm(200) {
		wg.Add(1)
		deadline := start + 5_000_000 + int64(i)*50_000
		q.NewTimer(func() {
			if hostNow(Monotonic) < deadline {
				late.Add(1)
			}
			mu.Lock()
			got = append(got, deadline)
			mu.Unlock()
			wg.Done()
		}).Set(deadline)
	}
	wg.Wait()
	if !slices.IsSorted(got) || len(got) != 200 {
		t.Errorf("%d timers ran, in order: %v", len(got), slices.IsSorted(got))
	}
	if n := late.Load(); n > 0 {
		t.Errorf("%d timers ran before their time", n)
	}
}

func TestTimerCanBeStoppedAndMoved(t *testing.T) {
	q := NewQueue(func() int64 { return hostNow(Monotonic) })
	defer q.Close()
	ran := make(chan string, 10)
	far := hostNow(Monotonic) + int64(time.Hour)
	a, b, c := q.NewTimer(func() { ran <- "a" }), q.NewTimer(func() { ran <- "b" }), q.NewTimer(func() { ran <- "c" })
	if a.Set(far) || !a.Set(far+1) {
		t.Error("Set tells the wrong thing about an earlier setting")
	}
	if b.Set(far + 2); !b.Stop() || b.Stop() {
		t.Error("Stop does not tell whether the timer was set")
	}
	c.Set(far + 3)
	if when, ok := c.Deadline(); !ok || when != far+3 {
		t.Errorf("deadline is %d, %v", when, ok)
	}
	c.Set(0) // wakes the goroutine, which sleeps for an hour
	if got := <-ran; got != "c" {
		t.Errorf("%s ran, want c", got)
	}
	if c.Stop() {
		t.Error("Stop after the timer ran says it was set")
	}
	a.Set(hostNow(Monotonic))
	if got := <-ran; got != "a" {
		t.Errorf("%s ran, want a", got)
	}
	select {
	case got := <-ran:
		t.Errorf("%s ran, too", got)
	default:
	}
}

// TestHeapKeepsItsOrder sets, moves and stops timers without running them.
func TestHeapKeepsItsOrder(t *testing.T) {
	q := &Queue{now: func() int64 { return 0 }, started: true}
	var timers []*Timer
	for range 100 {
		timers = append(timers, q.NewTimer(func() {}))
	}
	for range 10000 {
		tm := timers[rand.IntN(len(timers))]
		if rand.IntN(3) == 0 {
			tm.Stop()
		} else {
			tm.Set(rand.Int64N(1000))
		}
		for i, h := range q.heap {
			if h.index != i+1 || i > 0 && q.heap[(i-1)/2].when > h.when {
				t.Fatalf("heap is broken at %d", i)
			}
		}
	}
}

func TestSleeperIsWokenOrTimesOut(t *testing.T) {
	var s Sleeper
	deadline := hostNow(Monotonic) + 200_000
	if s.Sleep(deadline) {
		t.Error("woken by nobody")
	}
	if now := hostNow(Monotonic); now < deadline {
		t.Errorf("woke up %d ns early", deadline-now)
	}
	s.Wake()
	s.Wake()
	far := hostNow(Monotonic) + int64(time.Hour)
	if !s.Sleep(far) {
		t.Error("a Wake before Sleep was lost")
	}
	go s.Wake()
	if !s.Sleep(far) {
		t.Error("Sleep ended without a Wake")
	}
	if s.Sleep(-1) {
		t.Error("two Wakes counted twice")
	}
}

func BenchmarkNow(b *testing.B) {
	k := newKeeper(b)
	for b.Loop() {
		k.Now(Monotonic)
	}
}

func BenchmarkUpdate(b *testing.B) {
	k := newKeeper(b)
	for b.Loop() {
		k.Update()
	}
}

// BenchmarkSleep50us reports the median time from call to return.
func BenchmarkSleep50us(b *testing.B) {
	now := func() int64 { return hostNow(Monotonic) }
	q := NewQueue(now)
	defer q.Close()
	ch := make(chan struct{}, 1)
	tm := q.NewTimer(func() { ch <- struct{}{} })
	var s Sleeper
	for name, sleep := range map[string]func(){
		"sleeper":    func() { s.Sleep(now() + 50_000) },
		"queue":      func() { tm.Set(now() + 50_000); <-ch },
		"time.Sleep": func() { time.Sleep(50 * time.Microsecond) },
	} {
		b.Run(name, func(b *testing.B) {
			var all []int64
			for b.Loop() {
				start := now()
				sleep()
				all = append(all, now()-start)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2]), "median-ns")
			b.ReportMetric(float64(all[len(all)*9/10]), "p90-ns")
		})
	}
}
