package futex

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// Priority-inheritance futexes (futex(2), "Priority-inheritance futexes"): the
// word has the owner's thread id; the lock is handed from owner to waiter under
// the bucket's lock. No priorities are inherited, for the host schedules;
// waiters get the lock in the order in which they came.

// Bits of a word.
const (
	Waiters   uint32 = 0x80000000
	OwnerDied uint32 = 0x40000000
	TIDMask   uint32 = 0x3fffffff
)

// PI is a task that takes part: its thread id, and where its words are.
type PI struct {
	TID    uint32
	Task   any
	Target Target
	Addr   usermem.Addr // of the word that it waits on
}

// Owners finds the task that owns a word by its thread id: ESRCH if there is
// none that lives. It is called under bucket locks.
type Owners func(tid uint32) (task any, err error)

// cas changes the word at addr from old to v, and reports whether it did.
func cas(t Target, addr usermem.Addr, old, v uint32) (bool, error) {
	seen, err := t.CompareAndSwapUint32(addr, old, v)
	return seen == old, err
}

// firstPI returns the first waiter for the lock k.
func (b *bucket) firstPI(k Key) *Waiter {
	for w := b.head; w != nil; w = w.next {
		if w.key == k && w.pi {
			return w
		}
	}
	return nil
}

// acquire takes the lock k, whose word is at addr, for p, or sets the bit that
// says that somebody waits. The bucket is locked.
func (b *bucket) acquire(k Key, p *PI, addr usermem.Addr, try bool, owners Owners) (owner any, got bool, err error) {
	for {
		v, err := p.Target.LoadUint32(addr)
		if err != nil {
			return nil, false, err
		}
		tid := v & TIDMask
		if tid == p.TID {
			return nil, false, unix.EDEADLK
		}
		if tid == 0 {
			n := p.TID | v&OwnerDied
			if b.firstPI(k) != nil {
				n |= Waiters
			}
			if ok, err := cas(p.Target, addr, v, n); err != nil {
				return nil, false, err
			} else if ok {
				b.setOwner(k, p.Task)
				return nil, true, nil
			}
			continue
		}
		if try {
			return nil, false, unix.EAGAIN
		}
		if owner, err = owners(tid); err != nil {
			return nil, false, err
		}
		if v&Waiters != 0 {
			return owner, false, nil
		}
		if ok, err := cas(p.Target, addr, v, v|Waiters); err != nil {
			return nil, false, err
		} else if ok {
			return owner, false, nil
		}
	}
}

func (b *bucket) setOwner(k Key, owner any) {
	for w := b.head; w != nil; w = w.next {
		if w.key == k && w.pi {
			w.owner = owner
		}
	}
}

// LockPI does FUTEX_LOCK_PI and FUTEX_TRYLOCK_PI up to the wait: it reports
// true when p has the lock. Otherwise w is queued; it has the lock once it is
// woken.
func (m *Manager) LockPI(w *Waiter, k Key, p PI, try bool, owners Owners) (bool, error) {
	w.Ready.Take()
	m.inherits.Store(true)
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	owner, got, err := b.acquire(k, &p, p.Addr, try, owners)
	if got || err != nil {
		return got, err
	}
	w.key, w.bitset, w.pi, w.party, w.owner, w.requeueTo = k, MatchAny, true, p, owner, nil
	b.add(w)
	return false, nil
}

// handOver gives the lock to w, which waits for it; keep are bits of the word
// that stay. The bucket is locked. It reports false where the word has changed
// from v.
func (b *bucket) handOver(w *Waiter, v, keep uint32) (bool, error) {
	ok, err := cas(w.party.Target, w.party.Addr, v, v&keep|Waiters|w.party.TID)
	if ok && err == nil {
		b.wake(w)
		b.setOwner(w.key, w.party.Task)
	}
	return ok, err
}

// UnlockPI does FUTEX_UNLOCK_PI: EPERM if p isn't the owner.
func (m *Manager) UnlockPI(k Key, p PI) error {
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		v, err := p.Target.LoadUint32(p.Addr)
		if err != nil {
			return err
		}
		if v&TIDMask != p.TID {
			return unix.EPERM
		}
		var ok bool
		if w := b.firstPI(k); w == nil {
			ok, err = cas(p.Target, p.Addr, v, 0)
		} else if ok, err = b.handOver(w, v, 0); err != nil {
			// The waiter has lost its memory: it is to find that out.
			b.wake(w)
			continue
		}
		if ok || err != nil {
			return err
		}
	}
}

// PrepareRequeue queues w on k, as Prepare does, to be moved to the lock to by
// RequeuePI (FUTEX_WAIT_REQUEUE_PI). p.Addr is the lock's word.
func (m *Manager) PrepareRequeue(w *Waiter, k, to Key, p PI, addr usermem.Addr, val, bitset uint32) error {
	if k == to {
		return unix.EINVAL
	}
	m.inherits.Store(true)
	w.Ready.Take()
	b := m.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := p.Target.LoadUint32(addr)
	if err != nil {
		return err
	}
	if v != val {
		return unix.EAGAIN
	}
	w.key, w.bitset, w.pi, w.party, w.requeueTo = k, bitset, false, p, &to
	b.add(w)
	return nil
}

// Requeued reports whether RequeuePI has dealt with w; it is for w's owner once
// w isn't queued any more, or to know why Cancel was needed.
func (m *Manager) Requeued(w *Waiter) bool {
	for {
		b := w.bucket.Load()
		if b == nil {
			return false
		}
		b.mu.Lock()
		if w.bucket.Load() == b {
			defer b.mu.Unlock()
			return w.requeueTo == nil
		}
		b.mu.Unlock()
	}
}

// RequeuePI does FUTEX_CMP_REQUEUE_PI: the first waiter on from gets the lock to
// if it is free, and up to move more wait for it. The word of to is at addr2,
// that of from at addr, and has to be val. It returns how many were dealt with.
func (m *Manager) RequeuePI(from, to Key, move int, t Target, addr, addr2 usermem.Addr, val uint32, owners Owners) (int, error) {
	if from == to {
		return 0, unix.EINVAL
	}
	bf, bt := m.bucket(from), m.bucket(to)
	defer lockTwo(bf, bt)()
	v, err := t.LoadUint32(addr)
	if err != nil {
		return 0, err
	}
	if v != val {
		return 0, unix.EAGAIN
	}
	done := 0
	for w := bf.head; w != nil && done <= move; {
		next := w.next
		if w.key != from {
			w = next
			continue
		}
		if w.requeueTo == nil || *w.requeueTo != to {
			return done, unix.EINVAL
		}
		owner, got, err := bt.acquire(to, &w.party, addr2, false, owners)
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		w.requeueTo = nil
		if got {
			bf.remove(w)
			w.bucket.Store(bt)
			w.Ready.Give()
		} else {
			bf.remove(w)
			w.key, w.pi, w.owner = to, true, owner
			bt.add(w)
		}
		done++
		w = next
	}
	return done, nil
}

// OwnerExits hands the locks that task owned, and that others wait for, to the
// first of those, marked OwnerDied. owners doesn't find task any more.
func (m *Manager) OwnerExits(task any, tid uint32) {
	if !m.inherits.Load() {
		return
	}
	for i := range m.buckets {
		b := &m.buckets[i]
		b.mu.Lock()
		for w := b.head; w != nil; {
			next := w.next
			if w.pi && w.owner == task {
				b.inherit(w, tid)
				next = b.head // the list has changed; this owner is gone from it
			}
			w = next
		}
		b.mu.Unlock()
	}
}

// inherit gives w the lock of an owner tid that has ended. The bucket is locked.
func (b *bucket) inherit(w *Waiter, tid uint32) {
	for {
		v, err := w.party.Target.LoadUint32(w.party.Addr)
		if err == nil {
			if o := v & TIDMask; o != 0 && o != tid {
				b.setOwner(w.key, nil) // somebody was quicker
				return
			}
			var ok bool
			if ok, err = b.handOver(w, v|OwnerDied, OwnerDied); ok {
				return
			}
			if err == nil {
				if ok, err = cas(w.party.Target, w.party.Addr, v, v|OwnerDied); ok || err == nil {
					continue
				}
			}
		}
		b.wake(w) // it can't reach its memory: let it find out
		return
	}
}
