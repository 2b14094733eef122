package clock

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

// Queue runs functions at times of CLOCK_MONOTONIC. It starts one goroutine
// with the first timer that is set; without timers, that sleeps for ever. Its
// methods, and those of its timers, are safe for concurrent use.
type Queue struct {
	now func() int64

	mu      locks.Mutex[locks.Timers]
	heap    []*Timer // binary heap by when
	started bool
	closed  bool
	until   int64 // when the goroutine wakes up by itself; -1: never

	// seq changes when the goroutine must look at the heap again.
	seq atomic.Uint32
}

// Timer is a function that a Queue runs once at a time. Make it with NewTimer,
// and use it again and again: setting and stopping allocate nothing.
type Timer struct {
	q     *Queue
	f     func()
	when  int64
	index int // in q.heap, from 1 on; 0 when it isn't set
}

// NewQueue returns a Queue that asks now for CLOCK_MONOTONIC, in nanoseconds:
// Keeper.Monotonic.
func NewQueue(now func() int64) *Queue { return &Queue{now: now} }

// NewTimer returns a timer that is not set. When it expires, f runs on the
// Queue's goroutine, without locks; all other timers wait for it, so it must be short: set a flag,
// wake somebody.
func (q *Queue) NewTimer(f func()) *Timer { return &Timer{q: q, f: f} }

// Set makes the timer expire when CLOCK_MONOTONIC is deadline, in place of an
// earlier setting. It reports whether the timer was set before. A deadline
// in the past expires at once.
func (t *Timer) Set(deadline int64) bool {
	q := t.q
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return false
	}
	was := t.index != 0
	t.when = deadline
	if was {
		q.down(q.up(t.index - 1))
	} else {
		q.heap = append(q.heap, t)
		t.index = len(q.heap)
		q.up(t.index - 1)
	}
	wake := false
	if !q.started {
		q.started = true
		go q.run()
	} else if q.heap[0] == t && (q.until < 0 || deadline < q.until) {
		// Only an earlier wake-up needs one now.
		q.until = deadline
		q.seq.Add(1)
		wake = true
	}
	q.mu.Unlock()
	if wake {
		futexWakeOne(&q.seq)
	}
	return was
}

// Stop makes sure that the timer does not expire any more. It reports false when it was not set:
// it has expired, and its function may be about to run or running.
func (t *Timer) Stop() bool {
	q := t.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.index == 0 {
		return false
	}
	q.remove(t)
	// The goroutine may wake up for nothing, once; waking it now is as much.
	return true
}

// Deadline returns when the timer will expire, and whether it is set.
func (t *Timer) Deadline() (int64, bool) {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	return t.when, t.index != 0
}

// Close ends the Queue's goroutine. Timers that are set don't expire.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	for _, t := range q.heap {
		t.index = 0
	}
	q.heap = nil
	q.seq.Add(1)
	q.mu.Unlock()
	futexWakeOne(&q.seq)
}

// run is the Queue's goroutine.
func (q *Queue) run() {
	for {
		q.mu.Lock()
		now := q.now()
		ran := false
		for len(q.heap) > 0 && q.heap[0].when <= now {
			t := q.heap[0]
			q.remove(t)
			q.until = now // nobody needs to wake this goroutine
			q.mu.Unlock()
			t.f()
			ran = true
			q.mu.Lock()
		}
		if q.closed {
			q.mu.Unlock()
			return
		}
		if ran {
			// Whoever was made ready runs on this thread at once, instead of
			// waiting for another to be woken.
			q.until = now
			q.mu.Unlock()
			runtime.Gosched()
			q.mu.Lock()
		}
		q.until = -1
		if len(q.heap) > 0 {
			q.until = max(q.heap[0].when, 0)
		}
		seq, until := q.seq.Load(), q.until
		q.mu.Unlock()
		for until < 0 || q.now() < until {
			if sleepUntil(&q.seq, seq, until) != unix.EINTR {
				break
			}
		}
	}
}

// remove takes a timer that is set out of the heap.
func (q *Queue) remove(t *Timer) {
	i, last := t.index-1, len(q.heap)-1
	q.swap(i, last)
	q.heap[last] = nil
	q.heap = q.heap[:last]
	t.index = 0
	if i < last {
		q.down(q.up(i))
	}
}

func (q *Queue) swap(i, j int) {
	q.heap[i], q.heap[j] = q.heap[j], q.heap[i]
	q.heap[i].index, q.heap[j].index = i+1, j+1
}

func (q *Queue) up(i int) int {
	for i > 0 {
		parent := (i - 1) / 2
		if q.heap[parent].when <= q.heap[i].when {
			break
		}
		q.swap(i, parent)
		i = parent
	}
	return i
}

func (q *Queue) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(q.heap) {
			return
		}
		if child+1 < len(q.heap) && q.heap[child+1].when < q.heap[child].when {
			child++
		}
		if q.heap[i].when <= q.heap[child].when {
			return
		}
		q.swap(i, child)
		i = child
	}
}
