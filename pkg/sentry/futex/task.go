package futex

import (
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Task is who waits and locks, as this package knows it. Its methods are called on
// the task's own goroutine, but for FutexOwner.
type Task interface {
	// FutexKey returns the key of the word at addr: private to the address space, or
	// shared with whoever maps the same memory. EINVAL, EFAULT.
	FutexKey(addr usermem.Addr, private bool) (Key, error)
	// FutexWaiter is the task's one waiter.
	FutexWaiter() *Waiter
	// FutexParty is the task as it takes part in the lock at addr.
	FutexParty(addr usermem.Addr) PI
	// FutexOwner finds the owner of a lock, as Owners.
	FutexOwner(tid uint32) (task any, err error)
	// BlockUntil sleeps until ready is given, and returns nil, or until the deadline
	// or an interruption, and returns an error that is told apart by who asked.
	BlockUntil(ready *waiter.Token, deadline int64) error
}

// sleep waits until w is woken. An error of BlockUntil comes back only if w was taken
// out of its queue by that: woken at the last moment is woken.
func (m *Manager) sleep(t Task, w *Waiter, deadline int64) error {
	err := t.BlockUntil(&w.Ready, deadline)
	if err != nil && !m.Cancel(w) {
		w.Ready.Take()
		return nil
	}
	return err
}

// Wait does FUTEX_WAIT and FUTEX_WAIT_BITSET, with a deadline on the monotonic
// clock. Errors are those of Prepare and of t's BlockUntil.
func (m *Manager) Wait(t Task, addr usermem.Addr, private bool, val, bitset uint32, deadline int64) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	w := t.FutexWaiter()
	if err := m.Prepare(w, k, t.FutexParty(addr).Target, addr, val, bitset); err != nil {
		return err
	}
	return m.sleep(t, w, deadline)
}

// Lock does FUTEX_LOCK_PI and FUTEX_TRYLOCK_PI: nil means that t has the lock. Errors
// are those of LockPI and of t's BlockUntil.
func (m *Manager) Lock(t Task, addr usermem.Addr, private, try bool, deadline int64) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	w := t.FutexWaiter()
	if got, err := m.LockPI(w, k, t.FutexParty(addr), try, t.FutexOwner); got || err != nil {
		return err
	}
	return m.sleep(t, w, deadline)
}

// Unlock does FUTEX_UNLOCK_PI.
func (m *Manager) Unlock(t Task, addr usermem.Addr, private bool) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	return m.UnlockPI(k, t.FutexParty(addr))
}

// WaitRequeuePI does FUTEX_WAIT_REQUEUE_PI: nil means that t has the lock at addr2.
// Where it stopped waiting, moved says whether it did so for the lock: the word at
// addr has changed by then.
func (m *Manager) WaitRequeuePI(t Task, addr usermem.Addr, private bool, val, bitset uint32, deadline int64, addr2 usermem.Addr) (moved bool, err error) {
	k, to, err := keys(t, addr, addr2, private)
	if err != nil {
		return false, err
	}
	w := t.FutexWaiter()
	if err := m.PrepareRequeue(w, k, to, t.FutexParty(addr2), addr, val, bitset); err != nil {
		return false, err
	}
	if err := m.sleep(t, w, deadline); err != nil {
		return m.Requeued(w), err
	}
	return false, nil
}

// CmpRequeuePI does FUTEX_CMP_REQUEUE_PI, and returns how many were woken or moved.
func (m *Manager) CmpRequeuePI(t Task, addr usermem.Addr, private bool, move int, addr2 usermem.Addr, val uint32) (int, error) {
	k, to, err := keys(t, addr, addr2, private)
	if err != nil {
		return 0, err
	}
	return m.RequeuePI(k, to, move, t.FutexParty(addr2).Target, addr, addr2, val, t.FutexOwner)
}

func keys(t Task, addr, addr2 usermem.Addr, private bool) (k, k2 Key, err error) {
	if k, err = t.FutexKey(addr, private); err == nil {
		k2, err = t.FutexKey(addr2, private)
	}
	return k, k2, err
}
