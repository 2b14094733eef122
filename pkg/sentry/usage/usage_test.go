package usage

import (
	"sync"
	"testing"

	"vitrine/pkg/clock"
)

// TestReadingsGoForward reads a clock while its task goes from application to kernel, to
// sleep and back: no sum falls, and what there is in the end is all of the time.
func TestReadingsGoForward(t *testing.T) {
	k := clock.New(clock.HostTSCReliable())
	var u Clock
	u.Init(k)
	u.SleepBegins()
	u.SleepEnds() // before it begins nothing counts
	if r := u.Read(); r.User != 0 || r.System != 0 || r.Voluntary != 1 {
		t.Fatalf("before it begins: %+v", r)
	}
	start := k.Monotonic()
	u.Begin()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var last int64
		for {
			select {
			case <-done:
				return
			default:
			}
			if n := u.Total(); n < last {
				t.Errorf("the time went back by %d", last-n)
				return
			} else {
				last = n
			}
		}
	})
	var asleep int64
	for i := range 20000 {
		u.EnterUser()
		u.LeaveUser()
		u.CountRead(2)
		if i%100 == 0 {
			u.SleepBegins()
			from := k.Monotonic()
			for k.Monotonic() < from+1000 {
			}
			u.SleepEnds()
			asleep += 1000
		}
	}
	u.SleepBegins()
	r, end := u.Read(), k.Monotonic()
	close(done)
	wg.Wait()
	if sum := r.User + r.System; r.User <= 0 || r.System <= 0 || sum > end-start-asleep {
		t.Errorf("user %d, system %d of %d ns", r.User, r.System, end-start)
	}
	if r.IO.Reads != 20000 || r.IO.ReadBytes != 40000 || r.Voluntary != 202 {
		t.Errorf("%+v", r)
	}
	if again := u.Read(); again != r {
		t.Errorf("asleep it changed from %+v to %+v", r, again)
	}
}
