// Package futex keeps the tasks that wait on futex words (futex(2), futex(7)).
//
// A Manager hashes words to buckets. A waiter sits in the bucket of its word
// until it is woken, moved by a requeue, or gives up. The words themselves are
// read and changed through a Target, under the bucket's lock, which is what
// makes "sleep only if the word still has this value" atomic.
//
// Lock order: bucket locks, by index where two are needed; then whatever the
// Target takes to touch memory, and an Owners to find a task. A Target must not fault pages in under the lock
// by sleeping; Vitrine's memory manager doesn't sleep.
package futex

import (
	"hash/maphash"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Key names a word: equal keys are the same word. It is comparable.
type Key struct {
	Object any
	Offset uint64
}

// Target is the memory that words are in.
type Target interface {
	LoadUint32(addr usermem.Addr) (uint32, error)
	// CompareAndSwapUint32 returns the value before; it has swapped if that
	// equals old.
	CompareAndSwapUint32(addr usermem.Addr, old, v uint32) (uint32, error)
}

// MatchAny is FUTEX_BITSET_MATCH_ANY.
const MatchAny = ^uint32(0)

// Waiter is one waiting task. Ready gets a token when it is woken. The owner
// calls Cancel when it stops waiting for another reason.
type Waiter struct {
	Ready waiter.Token
	// Data is the owner's: for PI futexes the task.
	Data any

	bitset uint32
	key    Key
	bucket atomic.Pointer[bucket] // changed with the bucket's lock held
	queued bool
	// For a lock with priority inheritance (pi.go): pi waits for it, requeueTo
	// will. party is the waiter, owner the task that has the lock.
	pi         bool
	requeueTo  *Key
	party      PI
	owner      any
	prev, next *Waiter
}

// NewWaiter returns a waiter that can be used again and again, by one task.
func NewWaiter() *Waiter { return &Waiter{} }

const buckets = 256

type bucket struct {
	mu         locks.Mutex[locks.FutexBucket]
	head, tail *Waiter
	index      int
}

// Manager holds all waiters of a kernel. Safe for concurrent use.
type Manager struct {
	seed maphash.Seed
	// inherits: somebody has used locks with priority inheritance.
	inherits atomic.Bool
	buckets  [buckets]bucket
}

// NewManager returns an empty Manager.
func NewManager() *Manager {
	m := &Manager{seed: maphash.MakeSeed()}
	for i := range m.buckets {
		m.buckets[i].index = i
	}
	return m
}

func (m *Manager) bucket(k Key) *bucket {
	return &m.buckets[maphash.Comparable(m.seed, k)%buckets]
}

func (b *bucket) add(w *Waiter) {
	w.bucket.Store(b)
	w.queued = true
	w.prev, w.next = b.tail, nil
	if b.tail != nil {
		b.tail.next = w
	} else {
		b.head = w
	}
	b.tail = w
}

func (b *bucket) remove(w *Waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		b.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		b.tail = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
}

func (b *bucket) wake(w *Waiter) {
	b.remove(w)
	w.Ready.Give()
}

// Prepare queues w on k if the word at addr is val, EAGAIN otherwise.
func (m *Manager) Prepare(w *Waiter, k Key, t Target, addr usermem.Addr, val, bitset uint32) error {
	w.Ready.Take() // of a wake-up that came with a time-out
	w.key, w.bitset, w.pi, w.requeueTo = k, bitset, false, nil
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := t.LoadUint32(addr)
	if err != nil {
		return err
	}
	if v != val {
		return unix.EAGAIN
	}
	b.add(w)
	return nil
}

// Enqueue queues w on k if check, called under the lock, says so.
func (m *Manager) Enqueue(w *Waiter, k Key, check func() (bool, error)) (bool, error) {
	w.Ready.Take()
	w.key, w.bitset, w.pi, w.requeueTo = k, MatchAny, false, nil
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	ok, err := check()
	if ok && err == nil {
		b.add(w)
	}
	return ok, err
}

// Cancel takes w out. It reports false when w had been woken already.
func (m *Manager) Cancel(w *Waiter) bool {
	for {
		b := w.bucket.Load()
		if b == nil {
			return false
		}
		b.mu.Lock()
		if w.bucket.Load() != b { // requeued meanwhile
			b.mu.Unlock()
			continue
		}
		queued := w.queued
		if queued {
			b.remove(w)
		}
		b.mu.Unlock()
		return queued
	}
}

// Wake wakes up to n waiters on k whose bit set meets bitset.
func (m *Manager) Wake(k Key, n int, bitset uint32) int {
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wakeLocked(k, n, bitset)
}

func (b *bucket) wakeLocked(k Key, n int, bitset uint32) int {
	done := 0
	for w := b.head; w != nil && done < n; {
		next := w.next
		if w.key == k && w.bitset&bitset != 0 && !w.pi && w.requeueTo == nil {
			b.wake(w)
			done++
		}
		w = next
	}
	return done
}

func lockTwo(a, b *bucket) func() {
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if a.index > b.index {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.NestedLock()
	return func() { b.mu.Unlock(); a.mu.Unlock() }
}

// Requeue wakes up to wake waiters on from and moves up to move others to to.
// With check it first compares the word at addr with val: EAGAIN if it differs.
// It returns how many were woken, and how many were moved.
func (m *Manager) Requeue(from, to Key, wake, move int, check bool, t Target, addr usermem.Addr, val uint32) (woken, moved int, err error) {
	bf, bt := m.bucket(from), m.bucket(to)
	defer lockTwo(bf, bt)()
	if check {
		v, err := t.LoadUint32(addr)
		if err != nil {
			return 0, 0, err
		}
		if v != val {
			return 0, 0, unix.EAGAIN
		}
	}
	for w := bf.head; w != nil; {
		next := w.next
		if w.key == from && !w.pi && w.requeueTo == nil {
			switch {
			case woken < wake:
				bf.wake(w)
				woken++
			case moved < move:
				if from != to {
					bf.remove(w)
					w.key = to
					bt.add(w)
				}
				moved++
			default:
				return woken, moved, nil
			}
		}
		w = next
	}
	return woken, moved, nil
}

// WakeOp does FUTEX_WAKE_OP: changes the word at addr2 as op says, wakes n1
// waiters on k1, and n2 on k2 if the old value compares as op says.
func (m *Manager) WakeOp(k1, k2 Key, t Target, addr2 usermem.Addr, n1, n2 int, op uint32) (int, error) {
	oparg := uint32(int32(op<<8) >> 20)
	cmparg := int32(op<<20) >> 20
	if op>>28&8 != 0 {
		oparg = 1 << (oparg & 31)
	}
	if op>>28&7 > 4 || op>>24&15 > 5 {
		return 0, unix.ENOSYS
	}
	b1, b2 := m.bucket(k1), m.bucket(k2)
	defer lockTwo(b1, b2)()
	old, err := t.LoadUint32(addr2)
	for {
		if err != nil {
			return 0, err
		}
		var v uint32
		switch op >> 28 & 7 {
		case 0:
			v = oparg
		case 1:
			v = old + oparg
		case 2:
			v = old | oparg
		case 3:
			v = old &^ oparg
		case 4:
			v = old ^ oparg
		}
		var seen uint32
		if seen, err = t.CompareAndSwapUint32(addr2, old, v); err == nil && seen == old {
			break
		}
		old = seen
	}
	done := b1.wakeLocked(k1, n1, MatchAny)
	o := int32(old)
	var yes bool
	switch op >> 24 & 15 {
	case 0:
		yes = o == cmparg
	case 1:
		yes = o != cmparg
	case 2:
		yes = o < cmparg
	case 3:
		yes = o <= cmparg
	case 4:
		yes = o > cmparg
	case 5:
		yes = o >= cmparg
	}
	if yes {
		done += b2.wakeLocked(k2, n2, MatchAny)
	}
	return done, nil
}
