package ptrace

import (
	"sync/atomic"
	"time"

	"vitrine/pkg/locks"
)

// Waking a thread on another CPU costs ten times what a switch on one CPU
// does, so a stub thread is bound to the CPU of its tracer, and the tracer to
// it, while system calls follow each other quickly. That would keep two
// computing threads on one CPU while another is idle. The spreader sees to it
// that it doesn't: it looks at the contexts every few milliseconds, frees the
// threads of one that has been in application code all the time, and now and
// then has one that switches quickly let the host choose the CPU anew. When
// nothing happens it sleeps, and nothing wakes it but the next Switch.
type spreader struct {
	all cpuSet // what the Sentry may use

	asleep atomic.Bool
	wake   chan struct{}
	stop   chan struct{}

	mu       locks.Mutex[locks.Leaf]
	contexts map[*context]*progress
}

// progress is what the spreader saw of a context at its last look.
type progress struct {
	seq   uint64
	ticks int // since the CPU was chosen
}

const (
	tick = 4 * time.Millisecond
	// rechoose is after how many ticks of quick switching the host chooses the
	// CPU anew.
	rechoose = 12
	// quick is how many switches a tick count as quick.
	quick = 4
	// idleTicks is how many ticks without a switch send the spreader to sleep.
	idleTicks = 3
)

// advice is what the spreader wants a context to do at its next Switch.
const (
	adviceNone = iota
	adviceBind
	adviceRechoose
)

func newSpreader() *spreader {
	s := &spreader{
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
		contexts: make(map[*context]*progress),
	}
	if getAffinity(0, &s.all) != 0 {
		for i := range s.all {
			s.all[i] = ^uint64(0)
		}
	}
	s.asleep.Store(true)
	go s.run()
	return s
}

// rouse is called by Switch when the spreader sleeps.
func (s *spreader) rouse() {
	if s.asleep.Load() && s.asleep.Swap(false) {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *spreader) add(c *context) {
	s.mu.Lock()
	s.contexts[c] = &progress{}
	s.mu.Unlock()
}

func (s *spreader) drop(c *context) {
	s.mu.Lock()
	delete(s.contexts, c)
	s.mu.Unlock()
}

func (s *spreader) run() {
	timer := time.NewTimer(tick)
	timer.Stop()
	for {
		select {
		case <-s.wake:
		case <-s.stop:
			return
		}
		for idle := 0; idle < idleTicks; {
			timer.Reset(tick)
			select {
			case <-timer.C:
			case <-s.stop:
				return
			}
			if s.look() {
				idle = 0
			} else {
				idle++
			}
			if idle == idleTicks {
				s.asleep.Store(true)
				// A Switch that came before the store did not rouse: look
				// once more.
				if s.look() {
					s.asleep.Store(false)
					idle = 0
				}
			}
		}
	}
}

// look goes through the contexts and reports whether there was anything new.
func (s *spreader) look() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := false
	for c, p := range s.contexts {
		seq := c.seq.Load()
		delta := seq - p.seq
		p.seq = seq
		switch {
		case delta == 0 && seq&1 == 1:
			// In application code since the last look.
			if th := c.running.Load(); th != nil && th.cpu.Load() >= 0 {
				news = true
				p.ticks = 0
				s.free(th)
			}
		case delta >= 2*quick:
			news = true
			if th := c.running.Load(); th != nil && th.cpu.Load() < 0 {
				c.advice.Store(adviceBind)
			} else if p.ticks++; p.ticks >= rechoose {
				p.ticks = 0
				c.advice.Store(adviceRechoose)
			}
		case delta != 0:
			news = true
		}
	}
	return news
}

// free lets a stub thread and its tracer run anywhere. Failing to see a change
// that comes at the same time costs speed only, until the CPU is chosen anew.
func (s *spreader) free(th *thread) {
	th.cpu.Store(-1)
	setAffinity(th.tid, &s.all)
	s.freeTracer(th.tracer)
}

func (s *spreader) freeTracer(t *tracer) {
	if t.cpu.Swap(-1) >= 0 {
		setAffinity(t.tid, &s.all)
	}
}

// bind binds t, the caller's thread, to the CPU that it is on.
func (t *tracer) bind() int {
	cpu := getCPU()
	t.cpu.Store(int32(cpu))
	setAffinity(t.tid, oneCPU(cpu))
	return cpu
}

func oneCPU(cpu int) *cpuSet {
	var set cpuSet
	set[cpu/64%len(set)] = 1 << (cpu % 64)
	return &set
}
