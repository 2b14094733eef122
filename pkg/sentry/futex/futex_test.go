package futex

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sched"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// words is memory of words that tasks share.
type words struct{ w [64]atomic.Uint32 }

func (m *words) LoadUint32(a usermem.Addr) (uint32, error) { return m.w[a/4].Load(), nil }
func (m *words) CompareAndSwapUint32(a usermem.Addr, old, v uint32) (uint32, error) {
	for {
		if seen := m.w[a/4].Load(); seen != old {
			return seen, nil
		}
		if m.w[a/4].CompareAndSwap(old, v) {
			return old, nil
		}
	}
}

var errInterrupted = errors.New("interrupted")

// task is a thread of an application. stop ends its sleeps.
type task struct {
	tid  uint32
	mem  *words
	w    *Waiter
	all  *tasks
	stop atomic.Bool
	// asleep has a token after each sleep has begun.
	asleep chan struct{}
	thread atomic.Pointer[sched.Thread] // what sleeps
}

type tasks struct {
	mem  words
	mu   sync.Mutex
	live map[uint32]*task
	m    *Manager
}

func newTasks() *tasks { return &tasks{live: map[uint32]*task{}, m: NewManager()} }

func (a *tasks) task(tid uint32) *task {
	t := &task{tid: tid, mem: &a.mem, w: NewWaiter(), all: a, asleep: make(chan struct{}, 1)}
	a.mu.Lock()
	a.live[tid] = t
	a.mu.Unlock()
	return t
}

func (t *task) FutexKey(a usermem.Addr, _ bool) (Key, error) { return Key{t.mem, uint64(a)}, nil }
func (t *task) FutexWaiter() *Waiter                         { return t.w }
func (t *task) FutexParty(a usermem.Addr) PI                 { return PI{TID: t.tid, Task: t, Target: t.mem, Addr: a} }
func (t *task) FutexOwner(tid uint32) (any, error) {
	t.all.mu.Lock()
	defer t.all.mu.Unlock()
	if o := t.all.live[tid]; o != nil {
		return o, nil
	}
	return nil, unix.ESRCH
}

// BlockUntil sleeps until ready is given, or interrupt is called.
func (t *task) BlockUntil(ready *waiter.Token, _ int64) error {
	thread := sched.This()
	ready.Expect(thread)
	t.thread.Store(thread)
	select {
	case t.asleep <- struct{}{}:
	default:
	}
	for {
		switch {
		case t.stop.Swap(false):
			return errInterrupted
		case ready.Take():
			return nil
		}
		thread.Park()
	}
}

// interrupt ends the sleep that t is in, or the next.
func (t *task) interrupt() {
	t.stop.Store(true)
	if thread := t.thread.Load(); thread != nil {
		thread.Unpark()
	}
}

// sleepers has n tasks wait one after the other, and returns in which order they go on.
func (a *tasks) sleepers(t *testing.T, n int, wait func(t *task) error) (list []*task, order func() uint32) {
	t.Helper()
	went := make(chan uint32, n)
	for i := range n {
		s := a.task(uint32(i + 1))
		list = append(list, s)
		go func() {
			if err := wait(s); err != nil {
				t.Errorf("task %d: %v", s.tid, err)
			}
			went <- s.tid
		}()
		<-s.asleep
	}
	return list, func() uint32 { return <-went }
}

// wakes wakes up to n at k and expects that it is one, the task want.
func (a *tasks) wakes(t *testing.T, k Key, n int, bitset uint32, next func() uint32, want uint32) {
	t.Helper()
	if n := a.m.Wake(k, n, bitset); n != 1 {
		t.Fatalf("woke %d", n)
	}
	if got := next(); got != want {
		t.Errorf("task %d goes on, want %d", got, want)
	}
}

// contend has n tasks do their part at once, rounds times each, while helpers do
// something else, the i-th round of each.
func (a *tasks) contend(n, rounds int, part func(s *task), helpers int, help func(list []*task, i int)) {
	list := make([]*task, n)
	for i := range list {
		list[i] = a.task(uint32(i + 1))
	}
	var tasks, others sync.WaitGroup
	var over atomic.Bool
	for _, s := range list {
		tasks.Go(func() {
			for range rounds {
				part(s)
			}
		})
	}
	for first := range helpers {
		others.Go(func() {
			for i := first; !over.Load(); i++ {
				runtime.Gosched()
				help(list, i)
			}
		})
	}
	tasks.Wait()
	over.Store(true)
	others.Wait()
}

func TestWaitersWakeInTheOrderTheyCame(t *testing.T) {
	a := newTasks()
	_, next := a.sleepers(t, 5, func(s *task) error { return a.m.Wait(s, 0, true, 0, MatchAny, 0) })
	k := Key{&a.mem, 0}
	for i := range uint32(5) {
		a.wakes(t, k, 1, MatchAny, next, i+1)
	}
	if n := a.m.Wake(k, 1, MatchAny); n != 0 {
		t.Errorf("woke %d of nobody", n)
	}
}

func TestBitsetsChooseWhoWakes(t *testing.T) {
	a := newTasks()
	_, next := a.sleepers(t, 4, func(s *task) error { return a.m.Wait(s, 0, true, 0, 1<<s.tid, 0) })
	for _, want := range []uint32{3, 1, 4, 2} {
		a.wakes(t, Key{&a.mem, 0}, 9, 1<<want, next, want)
	}
}

func TestWaitLooksAtTheWord(t *testing.T) {
	a := newTasks()
	a.mem.w[0].Store(7)
	if err := a.m.Wait(a.task(1), 0, true, 6, MatchAny, 0); err != unix.EAGAIN {
		t.Errorf("another value: %v", err)
	}
}

func TestRequeueWakesTheFirstAndMovesTheRest(t *testing.T) {
	a := newTasks()
	_, next := a.sleepers(t, 5, func(s *task) error { return a.m.Wait(s, 0, true, 0, MatchAny, 0) })
	from, to := Key{&a.mem, 0}, Key{&a.mem, 4}
	if _, _, err := a.m.Requeue(from, to, 1, 2, true, &a.mem, 0, 9); err != unix.EAGAIN {
		t.Errorf("with another value: %v", err)
	}
	woken, moved, err := a.m.Requeue(from, to, 1, 2, true, &a.mem, 0, 0)
	if woken != 1 || moved != 2 || err != nil {
		t.Fatalf("Requeue = %d, %d, %v", woken, moved, err)
	}
	if got := next(); got != 1 {
		t.Errorf("task %d goes on", got)
	}
	for _, c := range []struct {
		k    Key
		want uint32
	}{{to, 2}, {from, 4}, {to, 3}, {from, 5}} {
		a.wakes(t, c.k, 1, MatchAny, next, c.want)
	}
}

func TestInterruptedWaiterIsGone(t *testing.T) {
	a := newTasks()
	s := a.task(1)
	done := make(chan error)
	go func() { done <- a.m.Wait(s, 0, true, 0, MatchAny, 0) }()
	<-s.asleep
	s.interrupt()
	if err := <-done; err != errInterrupted {
		t.Errorf("Wait: %v", err)
	}
	if n := a.m.Wake(Key{&a.mem, 0}, 1, MatchAny); n != 0 {
		t.Error("it was still queued")
	}
}

// However a wake-up and an interruption meet: what the waker counts and what waiters
// say is the same number, wherever they were moved meanwhile.
func TestWakesAndInterruptionsAddUp(t *testing.T) {
	a := newTasks()
	var said, counted atomic.Int64
	k0, k1 := Key{&a.mem, 0}, Key{&a.mem, 4}
	a.contend(8, 60, func(s *task) {
		switch err := a.m.Wait(s, 0, true, 0, MatchAny, 0); err {
		case nil:
			said.Add(1)
		case errInterrupted:
		default:
			t.Error(err)
		}
	}, 3, func(list []*task, i int) {
		switch i % 3 {
		case 0:
			counted.Add(int64(a.m.Wake(k1, 1, MatchAny)))
		case 1:
			woken, _, _ := a.m.Requeue(k0, k1, i%2, 2, false, &a.mem, 0, 0)
			counted.Add(int64(woken))
		case 2:
			list[i%len(list)].interrupt()
		}
	})
	if said.Load() != counted.Load() {
		t.Errorf("%d were woken, %d say so", counted.Load(), said.Load())
	}
}

func TestLockGoesToWaitersInOrder(t *testing.T) {
	a := newTasks()
	owner := a.task(100)
	if err := a.m.Lock(owner, 0, true, false, 0); err != nil {
		t.Fatal(err)
	}
	if v := a.mem.w[0].Load(); v != 100 {
		t.Errorf("the word is %#x", v)
	}
	if err := a.m.Lock(owner, 0, true, false, 0); err != unix.EDEADLK {
		t.Errorf("locked twice: %v", err)
	}
	if err := a.m.Lock(a.task(101), 0, true, true, 0); err != unix.EAGAIN {
		t.Errorf("trylock of a lock that is taken: %v", err)
	}
	list, next := a.sleepers(t, 4, func(s *task) error { return a.m.Lock(s, 0, true, false, 0) })
	if err := a.m.Unlock(list[2], 0, true); err != unix.EPERM {
		t.Errorf("unlocked by who doesn't have it: %v", err)
	}
	for i := range uint32(4) {
		if err := a.m.Unlock(owner, 0, true); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != i+1 {
			t.Fatalf("task %d has the lock, want %d", got, i+1)
		}
		if v := a.mem.w[0].Load(); v != Waiters|(i+1) {
			t.Errorf("the word is %#x", v)
		}
		owner = list[i]
	}
	if err := a.m.Unlock(owner, 0, true); err != nil || a.mem.w[0].Load() != 0 {
		t.Errorf("the last unlock: %v, the word is %#x", err, a.mem.w[0].Load())
	}
}

func TestLockOfWhoIsGone(t *testing.T) {
	a := newTasks()
	a.mem.w[0].Store(55)
	if err := a.m.Lock(a.task(1), 0, true, false, 0); err != unix.ESRCH {
		t.Errorf("a lock whose owner doesn't exist: %v", err)
	}
	owner := a.task(100)
	a.mem.w[0].Store(0)
	a.m.Lock(owner, 0, true, false, 0)
	_, next := a.sleepers(t, 2, func(s *task) error { return a.m.Lock(s, 0, true, false, 0) })
	a.mu.Lock()
	delete(a.live, 100)
	a.mu.Unlock()
	a.m.OwnerExits(owner, 100)
	if got := next(); got != 1 {
		t.Errorf("task %d has the lock", got)
	}
	if v := a.mem.w[0].Load(); v != Waiters|OwnerDied|1 {
		t.Errorf("the word is %#x", v)
	}
	a.m.Unlock(a.live[1], 0, true)
	if got := next(); got != 2 {
		t.Errorf("task %d has the lock then", got)
	}
}

func TestRequeueToALock(t *testing.T) {
	a := newTasks()
	const cond, lock = 0, 4
	_, next := a.sleepers(t, 3, func(s *task) error {
		moved, err := a.m.WaitRequeuePI(s, cond, true, 0, MatchAny, 0, lock)
		if moved {
			return fmt.Errorf("moved")
		}
		return err
	})
	boss := a.task(100)
	if _, err := a.m.CmpRequeuePI(boss, cond, true, 9, 8, 0); err != unix.EINVAL {
		t.Errorf("to a lock they don't wait for: %v", err)
	}
	if n := a.m.Wake(Key{&a.mem, cond}, 9, MatchAny); n != 0 {
		t.Errorf("a plain wake-up woke %d of those who want a lock", n)
	}
	if n, err := a.m.CmpRequeuePI(boss, cond, true, 9, lock, 0); n != 3 || err != nil {
		t.Fatalf("CmpRequeuePI = %d, %v", n, err)
	}
	for i := range uint32(3) { // the first has it at once, the others from it
		if got := next(); got != i+1 {
			t.Fatalf("task %d has the lock, want %d", got, i+1)
		}
		if err := a.m.Unlock(a.live[i+1], lock, true); err != nil {
			t.Fatal(err)
		}
	}
	if v := a.mem.w[1].Load(); v != 0 {
		t.Errorf("the word is %#x", v)
	}
}

// Many tasks take and give a lock, some are interrupted while they wait: never do two
// have it, and in the end nobody has.
func TestLockIsExclusive(t *testing.T) {
	a := newTasks()
	var inside, got atomic.Int32
	a.contend(6, 60, func(s *task) {
		err := a.m.Lock(s, 0, true, false, 0)
		if err == errInterrupted {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		got.Add(1)
		if inside.Add(1) != 1 {
			t.Error("two have the lock")
		}
		inside.Add(-1)
		if err := a.m.Unlock(s, 0, true); err != nil {
			t.Errorf("unlock: %v", err)
		}
	}, 1, func(list []*task, i int) { list[i%len(list)].interrupt() })
	if v := a.mem.w[0].Load() & TIDMask; v != 0 || got.Load() == 0 {
		t.Errorf("the word is %#x; the lock was had %d times", v, got.Load())
	}
}
