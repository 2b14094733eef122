package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/usermem"
)

// A Task is a futex.Task.

// FutexKey implements futex.Task, as all that follows.
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

func (t *Task) FutexWaiter() *futex.Waiter { return t.futexWaiter }

func (t *Task) FutexParty(addr usermem.Addr) futex.PI {
	return futex.PI{TID: uint32(t.ids.In(t.ids.NS)), Task: t, Target: t.mm, Addr: addr}
}

func (t *Task) FutexOwner(tid uint32) (any, error) {
	o := t.ids.NS.Task(int32(tid))
	if o == nil || o.endsLocks.Load() {
		return nil, unix.ESRCH
	}
	return o, nil
}

// FutexWake does FUTEX_WAKE and FUTEX_WAKE_BITSET.
func (t *Task) FutexWake(addr usermem.Addr, private bool, n int, bitset uint32) (int, error) {
	k, err := t.FutexKey(addr, private)
	if err != nil {
		return 0, err
	}
	return t.k.Futexes.Wake(k, n, bitset), nil
}

// robustExit marks the robust futexes that the task held as ownerless, and wakes
// one of those who wait for each.
func (t *Task) robustExit() {
	head := t.robustList
	t.robustList = 0
	if head != 0 {
		futex.EndRobustList(t.mm, head, uint32(t.ids.In(t.ids.NS)), func(a usermem.Addr) { t.FutexWake(a, false, 1, futex.MatchAny) })
	}
}
