package sched

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// each runs a test with coroutines and with goroutines.
func each(t *testing.T, f func(t *testing.T, s *Scheduler)) {
	t.Run("coroutines", func(t *testing.T) { f(t, New(true)) })
	t.Run("goroutines", func(t *testing.T) { f(t, New(false)) })
}

// inTime fails where f doesn't return.
func inTime(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal(what)
	}
}

// TestTurns has two threads wake each other.
func TestTurns(t *testing.T) {
	each(t, func(t *testing.T, s *Scheduler) {
		a, b := s.NewThread(), s.NewThread()
		var word atomic.Int64
		const rounds = 10000
		var all sync.WaitGroup
		all.Add(2)
		turn := func(me, other *Thread, mine int64) func() {
			return func() {
				defer all.Done()
				for i := range int64(rounds) {
					for word.Load() != 2*i+mine {
						me.Park()
					}
					word.Add(1)
					other.Unpark()
				}
			}
		}
		a.Start(turn(a, b, 0))
		b.Start(turn(b, a, 1))
		inTime(t, "a wake-up was lost", all.Wait)
	})
}

// TestUnparkIsKept: one that comes before Park, and before Start.
func TestUnparkIsKept(t *testing.T) {
	each(t, func(t *testing.T, s *Scheduler) {
		th := s.NewThread()
		th.Unpark()
		th.Unpark()
		over := make(chan struct{})
		th.Start(func() {
			th.Park()
			th.Unpark()
			th.Park()
			close(over)
		})
		inTime(t, "a wake-up was lost", func() { <-over })
	})
}

// TestStorm has many threads wake each other, and others wake them all the while.
func TestStorm(t *testing.T) {
	each(t, func(t *testing.T, s *Scheduler) {
		const n, rounds = 50, 300
		var threads [n]*Thread
		var credit [n]atomic.Int64
		for i := range threads {
			threads[i] = s.NewThread()
		}
		var all sync.WaitGroup
		all.Add(n)
		give := func(i int) {
			credit[i%n].Add(1)
			threads[i%n].Unpark()
		}
		for i, th := range threads {
			th.Start(func() {
				defer all.Done()
				for r := range rounds {
					for credit[i].Load() == 0 {
						th.Park()
					}
					credit[i].Add(-1)
					give(i + 1)
					if r%16 == 0 {
						s.Away()
						s.Back()
					}
					s.Checkpoint()
				}
			})
		}
		stop := make(chan struct{})
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					threads[i%n].Unpark() // for no reason
					time.Sleep(10 * time.Microsecond)
				}
			}
		}()
		for i := range n {
			give(i)
		}
		inTime(t, "a wake-up was lost", all.Wait)
		close(stop)
	})
}

// TestWokenOnesNeedNoPatience: who goes away, or goes on, keeps nobody waiting.
func TestWokenOnesNeedNoPatience(t *testing.T) {
	for name, leave := range map[string]func(s *Scheduler, until func() bool){
		"away": func(s *Scheduler, until func() bool) {
			s.Away()
			defer s.Back()
			for !until() {
				time.Sleep(time.Millisecond)
			}
		},
		"going on": func(s *Scheduler, until func() bool) {
			for !until() {
				s.Checkpoint()
			}
		},
		"busy": func(s *Scheduler, until func() bool) {
			for !until() {
				time.Sleep(time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(true)
			a, b := s.NewThread(), s.NewThread()
			var ran atomic.Bool
			over := make(chan struct{})
			b.Start(func() {
				b.Park()
				ran.Store(true)
			})
			a.Start(func() {
				for b.state.Load() != parked {
					s.Checkpoint()
				}
				b.Unpark()
				leave(s, ran.Load)
				close(over)
			})
			inTime(t, "the other one doesn't run", func() { <-over })
		})
	}
}

// TestTheWakersCarrierGoesOn: who is woken runs as soon as the waker sleeps, and
// nobody else is asked.
func TestTheWakersCarrierGoesOn(t *testing.T) {
	s := New(true)
	a, b := s.NewThread(), s.NewThread()
	var order []string // no lock: one runs at a time
	over := make(chan struct{})
	a.Start(func() {
		b.Start(func() {
			order = append(order, "b")
			a.Unpark()
		})
		order = append(order, "a")
		if s.waiting.Load() != 1 {
			t.Error("the other one was started at once")
		}
		a.Park()
		order = append(order, "a")
		close(over)
	})
	inTime(t, "they don't run", func() { <-over })
	if got := strings.Join(order, ""); got != "aba" {
		t.Errorf("they ran as %s", got)
	}
}

// TestCarriersEnd: after many ran at a time, few are kept.
func TestCarriersEnd(t *testing.T) {
	s := New(true)
	var all sync.WaitGroup
	hold := make(chan struct{})
	for range 4 * maxIdle {
		all.Add(1)
		th := s.NewThread()
		th.Start(func() {
			defer all.Done()
			s.Away()
			<-hold
			s.Back()
		})
	}
	close(hold)
	inTime(t, "they don't end", all.Wait)
	inTime(t, "carriers are left", func() {
		for s.present.Load() != 0 {
			time.Sleep(time.Millisecond)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) > maxIdle {
		t.Errorf("%d carriers are idle", len(s.idle))
	}
}
