package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/usermem"
)

// FutexKey returns the key of the word at addr: private to the address space, or
// shared with whoever maps the same memory.
func (t *Task) FutexKey(addr usermem.Addr, private bool) (futex.Key, error) {
	if addr&3 != 0 {
		return futex.Key{}, unix.EINVAL
	}
	if private {
		k := t.mm.PrivateKey(addr)
		return futex.Key{Object: k.Object, Offset: k.Offset}, nil
	}
	k, err := t.mm.SharedKey(addr)
	return futex.Key{Object: k.Object, Offset: k.Offset}, err
}

// FutexWake does FUTEX_WAKE and FUTEX_WAKE_BITSET.
func (t *Task) FutexWake(addr usermem.Addr, private bool, n int, bitset uint32) (int, error) {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return 0, err
	}
	return t.k.Futexes.Wake(k, n, bitset), nil
}

// FutexWait does FUTEX_WAIT and FUTEX_WAIT_BITSET, with a deadline on the
// monotonic clock: ErrTimeout once it has passed, RestartSys when interrupted.
func (t *Task) FutexWait(addr usermem.Addr, private bool, val, bitset uint32, deadline int64) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	w := t.futexWaiter
	if err := t.k.Futexes.Prepare(w, k, t.mm, addr, val, bitset); err != nil {
		return err
	}
	err = t.BlockUntil(&w.Ready, deadline)
	if err != nil && !t.k.Futexes.Cancel(w) {
		// Woken at the last moment: that counts.
		w.Ready.Take()
		return nil
	}
	return err
}

// piParty is the task as it takes part in locks with priority inheritance.
func (t *Task) piParty(addr usermem.Addr) futex.PI {
	return futex.PI{TID: uint32(t.ids.in(t.ids.ns)), Task: t, Target: t.mm, Addr: addr}
}

// piOwner finds the owner of a lock.
func (t *Task) piOwner(tid uint32) (any, error) {
	o := t.ids.ns.Task(int32(tid))
	if o == nil || o.endsLocks.Load() {
		return nil, unix.ESRCH
	}
	return o, nil
}

// FutexLockPI does FUTEX_LOCK_PI and FUTEX_TRYLOCK_PI, with a deadline on the
// monotonic clock.
func (t *Task) FutexLockPI(addr usermem.Addr, private, try bool, deadline int64) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	w := t.futexWaiter
	got, err := t.k.Futexes.LockPI(w, k, t.piParty(addr), try, t.piOwner)
	if got || err != nil {
		return err
	}
	return t.awaitLock(w, deadline, RestartNoIntr)
}

// awaitLock sleeps until w is given its lock. interrupted is what a signal makes
// of it.
func (t *Task) awaitLock(w *futex.Waiter, deadline int64, interrupted error) error {
	err := t.BlockUntil(&w.Ready, deadline)
	if err == nil {
		return nil
	}
	if !t.k.Futexes.Cancel(w) {
		w.Ready.Take()
		return nil
	}
	if err == ErrTimeout {
		return unix.ETIMEDOUT
	}
	return interrupted
}

// FutexUnlockPI does FUTEX_UNLOCK_PI.
func (t *Task) FutexUnlockPI(addr usermem.Addr, private bool) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	return t.k.Futexes.UnlockPI(k, t.piParty(addr))
}

// FutexWaitRequeuePI does FUTEX_WAIT_REQUEUE_PI: nil means that the task has the
// lock at addr2.
func (t *Task) FutexWaitRequeuePI(addr usermem.Addr, private bool, val, bitset uint32, deadline int64, addr2 usermem.Addr) error {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return err
	}
	to, err := t.FutexKey(addr2, private)
	if err != nil {
		return err
	}
	w := t.futexWaiter
	if err := t.k.Futexes.PrepareRequeue(w, k, to, t.piParty(addr2), addr, val, bitset); err != nil {
		return err
	}
	err = t.BlockUntil(&w.Ready, deadline)
	if err == nil {
		return nil
	}
	if !t.k.Futexes.Cancel(w) {
		w.Ready.Take()
		return nil
	}
	if err == ErrTimeout {
		return unix.ETIMEDOUT
	}
	if t.k.Futexes.Requeued(w) {
		return unix.EAGAIN // the word has changed by now: what a restart would find
	}
	return RestartNoIntr
}

// FutexRequeuePI does FUTEX_CMP_REQUEUE_PI.
func (t *Task) FutexRequeuePI(addr usermem.Addr, private bool, move int, addr2 usermem.Addr, val uint32) (int, error) {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return 0, err
	}
	to, err := t.FutexKey(addr2, private)
	if err != nil {
		return 0, err
	}
	return t.k.Futexes.RequeuePI(k, to, move, t.mm, addr, addr2, val, t.piOwner)
}

// robustExit marks the robust futexes that the task held as ownerless, and wakes
// one of those who wait for each.
func (t *Task) robustExit() {
	head := t.robustList
	t.robustList = 0
	if head != 0 {
		futex.EndRobustList(t.mm, head, uint32(t.ids.in(t.ids.ns)), func(a usermem.Addr) { t.FutexWake(a, false, 1, futex.MatchAny) })
	}
}
