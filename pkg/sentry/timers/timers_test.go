package timers

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/signals"
)

func TestTimerAdvances(t *testing.T) {
	for _, c := range []struct{ expires, period, now, next, missed int64 }{
		{100, 10, 50, 100, 0},
		{100, 10, 100, 110, 0},
		{100, 10, 109, 110, 0},
		{100, 10, 110, 120, 1},
		{100, 10, 1005, 1010, 90},
		{100, 0, 200, 0, 0},
	} {
		if next, missed := advance(c.expires, c.period, c.now); next != c.next || missed != c.missed {
			t.Errorf("advance(%d, %d, %d) = %d, %d; want %d, %d", c.expires, c.period, c.now, next, missed, c.next, c.missed)
		}
	}
}

// process is one whose CPU time goes when it is told to.
type process struct {
	user, total int64
	running     int
	limits      *limits.Set
	sent        []unix.Signal
	// refuses: timers' signals get no place; queued are those that did.
	refuses bool
	queued  []queued
}

type queued struct {
	thread Thread
	info   signals.Info
	timer  signals.Timer
}

func (p *process) CPUTime() (int64, int64)  { return p.user, p.total }
func (p *process) Running() int             { return p.running }
func (p *process) Tab() *memfile.Tab        { return nil }
func (p *process) Limits() *limits.Set      { return p.limits }
func (p *process) SendKernel(s unix.Signal) { p.sent = append(p.sent, s) }
func (p *process) SendTimer(t Thread, i *signals.Info, timer signals.Timer) bool {
	if p.refuses {
		return false
	}
	p.queued = append(p.queued, queued{t, *i, timer})
	return true
}

// thread is a thread that has used so much CPU time.
type thread int64

func (t *thread) CPUTime() int64 { return int64(*t) }

func newSet(t *testing.T) (*Set, *process) {
	t.Helper()
	p := &process{limits: limits.NewSet()}
	k := clock.New(false)
	q := clock.NewQueue(k.Monotonic)
	t.Cleanup(q.Close)
	s := &Set{}
	s.Init(p, k, q)
	t.Cleanup(s.Stop)
	return s, p
}

func TestIntervalTimersOfCPUTime(t *testing.T) {
	s, p := newSet(t)
	p.user, p.total = 1000, 3000
	s.SetInterval(Virtual, Setting{Value: 100})
	s.SetInterval(Prof, Setting{Value: 100, Interval: 50})
	p.user, p.total = 1099, 3099
	if s.CheckCPU(); len(p.sent) != 0 {
		t.Fatalf("too early: %v", p.sent)
	}
	p.total = 3100
	if s.CheckCPU(); !slices.Equal(p.sent, []unix.Signal{unix.SIGPROF}) {
		t.Fatalf("sent %v, want SIGPROF", p.sent)
	}
	if got := s.Interval(Prof); got != (Setting{50, 50}) {
		t.Errorf("SIGPROF again in %v", got)
	}
	p.user = 1100
	if s.CheckCPU(); !slices.Equal(p.sent, []unix.Signal{unix.SIGPROF, unix.SIGVTALRM}) {
		t.Fatalf("sent %v, want SIGVTALRM besides", p.sent)
	}
	if got := s.Interval(Virtual); got != (Setting{}) {
		t.Errorf("a timer without a period goes on: %v", got)
	}
}

func TestCPULimit(t *testing.T) {
	s, p := newSet(t)
	if s.Limited() {
		t.Error("limited at first")
	}
	if _, err := p.limits.Swap(limits.CPU, limits.Limit{Soft: 1, Hard: 3}, true); err != nil {
		t.Fatal(err)
	}
	if !s.Limited() {
		t.Error("not limited")
	}
	for _, c := range []struct {
		total int64
		want  []unix.Signal
	}{
		{second - 1, nil},
		{second, []unix.Signal{unix.SIGXCPU}},
		{2*second - 1, nil},
		{2 * second, []unix.Signal{unix.SIGXCPU}},
		{3 * second, []unix.Signal{unix.SIGKILL}},
	} {
		p.sent = nil
		p.total = c.total
		if s.CheckCPU(); !slices.Equal(p.sent, c.want) {
			t.Errorf("after %d ns: %v, want %v", c.total, p.sent, c.want)
		}
	}
}

func TestPosixTimerWaitsForItsSignal(t *testing.T) {
	s, p := newSet(t)
	var th thread = 500
	id, err := s.NewPosix(clock.Monotonic, true, &th, Notify{Signal: 34, ValueIsID: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetPosix(id, Setting{Value: 100, Interval: 10}, false); err != nil {
		t.Fatal(err)
	}
	th = 600
	s.CheckCPU()
	th = 637
	s.CheckCPU() // the signal waits: no other
	if len(p.queued) != 1 {
		t.Fatalf("%d signals", len(p.queued))
	}
	q := p.queued[0]
	if q.info.Signo != 34 || q.info.Code != signals.CodeTimer || q.info.TimerID() != id || q.info.Value() != uint64(id) || q.thread != nil {
		t.Errorf("signal %+v", q)
	}
	if !q.timer.SignalTaken(&q.info) {
		t.Error("the signal is void")
	}
	if got := q.info.Overrun(); got != 3 {
		t.Errorf("overrun %d, want 3", got)
	}
	th = 640
	if s.CheckCPU(); len(p.queued) != 2 {
		t.Errorf("%d signals after the next period", len(p.queued))
	}
	if err := s.DeletePosix(id); err != nil {
		t.Fatal(err)
	}
	if p.queued[1].timer.SignalTaken(&p.queued[1].info) {
		t.Error("a deleted timer's signal counts")
	}
	if _, err := s.Posix(id); err != unix.EINVAL {
		t.Errorf("deleted timer: %v", err)
	}
}

func TestAnIgnoredTimerGoesOn(t *testing.T) {
	s, p := newSet(t)
	p.refuses = true
	id, err := s.NewPosix(clock.Monotonic, true, nil, Notify{Signal: 34})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetPosix(id, Setting{Value: 100, Interval: 10}, false); err != nil {
		t.Fatal(err)
	}
	p.total = 125
	s.CheckCPU()
	if got, err := s.Posix(id); got != (Setting{5, 10}) || err != nil {
		t.Errorf("after two periods: %v, %v", got, err)
	}
	p.refuses = false
	p.total = 130
	if s.CheckCPU(); len(p.queued) != 1 {
		t.Errorf("%d signals once they are wanted", len(p.queued))
	}
}

func TestTimersAreBounded(t *testing.T) {
	s, p := newSet(t)
	if _, err := p.limits.Swap(limits.SignalsPending, limits.Limit{Soft: 2, Hard: 2}, true); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		_, err := s.NewPosix(clock.Monotonic, true, nil, Notify{None: true})
		if (err == unix.EAGAIN) != (i == 2) {
			t.Errorf("timer %d: %v", i, err)
		}
	}
	s.DeleteAllPosix()
	if _, err := s.NewPosix(clock.Monotonic, true, nil, Notify{None: true}); err != nil {
		t.Errorf("after execve: %v", err)
	}
	s.Stop()
	if _, err := s.NewPosix(clock.Monotonic, true, nil, Notify{None: true}); err != unix.EAGAIN {
		t.Errorf("after the end: %v", err)
	}
}
