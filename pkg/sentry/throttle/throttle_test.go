package throttle

import (
	"runtime"
	"sync/atomic"
	"testing"

	"vitrine/pkg/clock"
)

// world is members whose time the test tells.
type world struct {
	now, spent  atomic.Int64
	awake       atomic.Bool
	looked      chan struct{} // a token whenever Spent is asked for
	interrupted chan struct{}
}

func newWorld() *world {
	return &world{looked: make(chan struct{}, 100), interrupted: make(chan struct{}, 100)}
}

func (w *world) Awake() bool { return w.awake.Load() }
func (w *world) Spent() int64 {
	n := w.spent.Load()
	w.looked <- struct{}{}
	return n
}
func (w *world) Interrupt() { w.interrupted <- struct{}{} }

func TestPauseHoldsUntilResume(t *testing.T) {
	var th Throttle
	w := newWorld()
	if th.Held() != nil {
		t.Error("held before anything")
	}
	th.Pause(w)
	th.Pause(w)
	held := th.Held()
	if held == nil || len(w.interrupted) != 1 {
		t.Fatalf("held by %v, members interrupted %d times", held, len(w.interrupted))
	}
	if held.Opened() {
		t.Error("let go")
	}
	th.Resume()
	if !held.Opened() {
		t.Error("not let go")
	}
	if th.Held() != nil {
		t.Error("held after Resume")
	}
	th.Resume() // nothing to resume
}

// Who is beyond the quota stops, and goes on when what was used has been earned; the
// time is the queue's own here, of which only the order counts.
func TestQuotaHoldsWhoUsesMore(t *testing.T) {
	var th Throttle
	w := newWorld()
	w.awake.Store(true)
	keeper := clock.New(false)
	queue := clock.NewQueue(keeper.Monotonic)
	const period = 1_000_000
	th.SetQuota(w, queue, keeper.Monotonic, period/10, period)
	<-w.looked                                     // the period begins
	w.spent.Add(period / 5)                        // twice as much as there is
	<-w.looked                                     // it is over
	<-w.interrupted                                // all are to stop
	for g := th.Held(); g != nil && !g.Opened(); { // for two periods
		runtime.Gosched()
	}
	<-w.looked // the next period has begun
	<-w.looked // and is over, with nothing used
	<-w.looked
	if th.Held() != nil || len(w.interrupted) != 0 {
		t.Error("held though nothing was used")
	}
	th.SetQuota(w, queue, keeper.Monotonic, 0, 0)
	if th.Held() != nil {
		t.Error("held without a quota")
	}
}

// While all sleep nobody looks, until the first of them runs.
func TestQuotaSleepsWithItsMembers(t *testing.T) {
	var th Throttle
	w := newWorld()
	keeper := clock.New(false)
	queue := clock.NewQueue(keeper.Monotonic)
	th.SetQuota(w, queue, keeper.Monotonic, 1000, 1_000_000)
	defer th.SetQuota(w, queue, keeper.Monotonic, 0, 0)
	q := th.quota.Load()
	for !q.idle.Load() {
		runtime.Gosched()
	}
	if len(w.looked) != 0 {
		t.Error("somebody looks while all sleep")
	}
	w.awake.Store(true)
	th.Runs()
	<-w.looked
}
