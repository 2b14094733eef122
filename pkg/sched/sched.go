// Package sched runs the threads of a kernel that is a program itself: many, most
// of them asleep, and each with a stack of its own. A thread sleeps with Park and
// is woken by Unpark.
//
// Left to Go's scheduler every Unpark would wake another host thread, in case
// there is work for it, even where the one that called is about to sleep: with
// two threads that take turns that costs more than all they do. So threads
// are coroutines (iter.Pull), which carriers run: goroutines that take the
// next thread when theirs sleeps, without a word to Go's scheduler. A thread that
// was woken waits for its waker's carrier for as long as that may soon be free:
//
//   - the waker has gone on a few times (Checkpoint) and not slept,
//   - or a carrier that runs is about to be busy elsewhere (Away),
//   - or patience is over, whatever the carriers do,
//
// and then others are started for all who wait. Where no carrier runs that
// isn't away, one is started at once.
//
// A Platform whose threads must stay on host threads of their own can't have
// coroutines. There each thread is a goroutine, and Go's scheduler does the rest.
//
// Lock order: Scheduler.mu is a leaf; Unpark may be called with any lock held.
package sched

import (
	"fmt"
	"iter"
	"runtime/debug"
	"sync/atomic"
	"time"

	"vitrine/pkg/locks"
)

const (
	// patience is how long a thread that was woken waits at most for a carrier
	// that runs already, but for the lateness of Go's timers.
	patience = 500 * time.Microsecond
	// grace is how often a waker may go on first: who makes a thread and waits for it
	// makes two calls in between.
	grace = 3
	// maxIdle is how many carriers wait for work rather than end.
	maxIdle = 16
)

// Scheduler runs threads. Its methods may be called by anybody.
type Scheduler struct {
	coroutines bool

	// present counts carriers that run a thread and aren't away, waiting the
	// threads in the queue. Whoever adds to one looks at the other afterwards.
	present, waiting atomic.Int32
	// grace is how often somebody may still go on since the first of the queue was woken.
	grace atomic.Int32
	// watched: the timer is set.
	watched atomic.Bool
	timer   *time.Timer

	mu locks.Mutex[locks.Scheduler]
	// first and last of the queue, which hangs together by Thread.after.
	first, last *Thread
	idle        []*carrier
}

// New returns a scheduler, of coroutines or of goroutines.
func New(coroutines bool) *Scheduler {
	s := &Scheduler{coroutines: coroutines}
	if coroutines {
		s.timer = time.AfterFunc(patience, s.tired)
		s.timer.Stop()
	}
	return s
}

// What a thread does.
const (
	running uint32 = iota
	// woken: running, and its next Park returns at once.
	woken
	parked
)

// Thread is one thread. It belongs to one Scheduler.
type Thread struct {
	sched *Scheduler
	state atomic.Uint32
	// after is who is behind it in the queue.
	after *Thread
	// next runs the coroutine until it calls yield.
	next  func() (struct{}, bool)
	yield func(struct{}) bool
	// token is for a goroutine instead.
	token chan struct{}
}

// This returns a Thread that stands for the calling goroutine, which isn't one of
// a Scheduler's.
func This() *Thread { return &Thread{token: make(chan struct{}, 1)} }

// NewThread returns a thread that hasn't started.
func (s *Scheduler) NewThread() *Thread {
	t := &Thread{sched: s}
	if !s.coroutines {
		t.token = make(chan struct{}, 1)
	}
	return t
}

// Start has the thread run f.
func (t *Thread) Start(f func()) {
	if t.token != nil {
		go f()
		return
	}
	t.next, _ = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		// iter.Pull passes a panic on without saying where it was.
		defer func() {
			if r := recover(); r != nil {
				panic(fmt.Sprintf("%v\n\n%s", r, debug.Stack()))
			}
		}()
		f()
	})
	t.sched.enqueue(t)
}

// Park sleeps until Unpark is called, or returns at once if it was since the
// last Park. It may return for no reason. Only the thread itself calls it, with no lock held.
func (t *Thread) Park() {
	if t.token != nil {
		<-t.token
	} else if !t.state.CompareAndSwap(woken, running) {
		t.yield(struct{}{})
	}
}

// Unpark wakes the thread.
func (t *Thread) Unpark() {
	if t.token != nil {
		select {
		case t.token <- struct{}{}:
		default:
		}
		return
	}
	for {
		switch t.state.Load() {
		case woken:
			return
		case running:
			if t.state.CompareAndSwap(running, woken) {
				return
			}
		case parked:
			if t.state.CompareAndSwap(parked, running) {
				t.sched.enqueue(t)
				return
			}
		}
	}
}

// enqueue has somebody run t, which is neither running nor queued.
func (s *Scheduler) enqueue(t *Thread) {
	s.mu.Lock()
	if s.last == nil {
		s.first = t
	} else {
		s.last.after = t
	}
	s.last = t
	if s.waiting.Add(1) == 1 {
		s.grace.Store(grace)
	}
	if s.present.Load() <= 0 {
		s.start()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if !s.watched.Load() && !s.watched.Swap(true) {
		s.timer.Reset(patience)
	}
}

// take returns the thread that has waited longest, or nil. Caller holds mu.
func (s *Scheduler) take() *Thread {
	t := s.first
	if t == nil {
		return nil
	}
	if s.first, t.after = t.after, nil; s.first == nil {
		s.last = nil
	}
	s.waiting.Add(-1)
	return t
}

// start finds a carrier for everybody in the queue. Caller holds mu.
func (s *Scheduler) start() {
	for t := s.take(); t != nil; t = s.take() {
		s.present.Add(1)
		if n := len(s.idle); n > 0 {
			c := s.idle[n-1]
			s.idle[n-1] = nil
			s.idle = s.idle[:n-1]
			c.work <- t
		} else {
			go (&carrier{sched: s, work: make(chan *Thread, 1)}).run(t)
		}
	}
}

// spill starts carriers if anybody waits.
func (s *Scheduler) spill() {
	if s.waiting.Load() == 0 {
		return
	}
	s.mu.Lock()
	s.start()
	s.mu.Unlock()
}

// tired is called when patience is over.
func (s *Scheduler) tired() {
	s.watched.Store(false)
	s.spill()
}

// Checkpoint is called by a thread that goes on, and may be back soon.
func (s *Scheduler) Checkpoint() {
	if s.waiting.Load() != 0 && s.grace.Add(-1) < 0 {
		s.spill()
	}
}

// Waiting reports whether a thread waits for a carrier.
func (s *Scheduler) Waiting() bool { return s.waiting.Load() != 0 }

// Away says that the calling thread, or what it waits for, is going to take a
// while; Back, that it is over.
func (s *Scheduler) Away() {
	if s.coroutines {
		s.present.Add(-1)
		s.spill()
	}
}

func (s *Scheduler) Back() {
	if s.coroutines {
		s.present.Add(1)
	}
}

// carrier runs threads, one at a time.
type carrier struct {
	sched *Scheduler
	work  chan *Thread
}

func (c *carrier) run(t *Thread) {
	s := c.sched
	for {
		if _, alive := t.next(); alive && !t.state.CompareAndSwap(running, parked) {
			// Woken before it slept.
			t.state.Store(running)
			continue
		}
		s.mu.Lock()
		if t = s.take(); t != nil {
			s.mu.Unlock()
			continue
		}
		s.present.Add(-1)
		full := len(s.idle) == maxIdle
		if !full {
			s.idle = append(s.idle, c)
		}
		s.mu.Unlock()
		if full {
			return
		}
		t = <-c.work
	}
}
