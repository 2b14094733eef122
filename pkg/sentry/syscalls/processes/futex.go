package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var futexRows = []call.Row{
	call.Partial(unix.SYS_FUTEX, "futex", call.Args6(futexCall), "locks with priority inheritance work, but the host schedules; no search for deadlocks of more than one lock"),
	call.Full(unix.SYS_SET_ROBUST_LIST, "set_robust_list", call.Args2(setRobustList)),
	call.Full(unix.SYS_GET_ROBUST_LIST, "get_robust_list", call.Args3(getRobustList)),
}

// Operations and flags of futex(2).
const (
	futexWait       = 0
	futexWake       = 1
	futexRequeue    = 3
	futexCmpRequeue = 4
	futexWakeOp     = 5
	futexWaitBitset = 9
	futexWakeBitset = 10

	futexLockPI        = 6
	futexUnlockPI      = 7
	futexTrylockPI     = 8
	futexWaitRequeuePI = 11
	futexCmpRequeuePI  = 12

	futexPrivate  = 128
	futexRealtime = 256
)

func futexCall(t *kernel.Task, a usermem.Addr, op uint32, val uint32, timeout usermem.Addr, a2 usermem.Addr, val3 uint32) (uint64, error) {
	cmd := op &^ (futexPrivate | futexRealtime)
	private := op&futexPrivate != 0
	switch cmd {
	case futexWait, futexWaitBitset:
		bitset := futex.MatchAny
		if cmd == futexWaitBitset {
			bitset = val3
		}
		if bitset == 0 {
			return 0, unix.EINVAL
		}
		end := kernel.Forever
		if timeout != 0 {
			d, err := call.ReadTimespec(t, timeout)
			if err != nil {
				return 0, err
			}
			switch {
			case cmd == futexWait:
				end = call.Deadline(t, d)
			case op&futexRealtime != 0:
				end = call.Deadline(t, max(d-t.Kernel().Clock.Realtime(), 0))
			default:
				end = d
			}
		} else if op&futexRealtime != 0 && cmd == futexWait {
			return 0, unix.ENOSYS
		}
		return waitFutex(t, a, private, val, bitset, end)
	case futexLockPI, futexWaitRequeuePI:
		// Times are absolute: of CLOCK_REALTIME for locks, as asked for
		// otherwise.
		end := kernel.Forever
		if timeout != 0 {
			d, err := call.ReadTimespec(t, timeout)
			if err != nil {
				return 0, err
			}
			if end = d; cmd == futexLockPI || op&futexRealtime != 0 {
				end = call.Deadline(t, max(d-t.Kernel().Clock.Realtime(), 0))
			}
		}
		if cmd == futexWaitRequeuePI {
			if val3 == 0 {
				val3 = futex.MatchAny
			}
			moved, err := t.Kernel().Futexes.WaitRequeuePI(t, a, private, val, val3, end, a2)
			if moved && err == kernel.RestartSys {
				return 0, unix.EAGAIN // what a restart would find
			}
			return 0, locked(err)
		}
		if op&futexRealtime != 0 {
			return 0, unix.ENOSYS
		}
		return 0, locked(t.Kernel().Futexes.Lock(t, a, private, false, end))
	}
	if op&futexRealtime != 0 {
		return 0, unix.ENOSYS
	}
	n, n2 := int(int32(val)), int(int32(timeout))
	switch cmd {
	case futexWake:
		got, err := t.FutexWake(a, private, max(n, 1), futex.MatchAny)
		return uint64(got), err
	case futexWakeBitset:
		if val3 == 0 {
			return 0, unix.EINVAL
		}
		got, err := t.FutexWake(a, private, max(n, 1), val3)
		return uint64(got), err
	case futexRequeue, futexCmpRequeue:
		if n < 0 || n2 < 0 {
			return 0, unix.EINVAL
		}
		k1, k2, err := futexKeys(t, a, a2, private)
		if err != nil {
			return 0, err
		}
		woken, moved, err := t.Kernel().Futexes.Requeue(k1, k2, n, n2, cmd == futexCmpRequeue, t.MM(), a, val3)
		if cmd == futexRequeue {
			moved = 0
		}
		return uint64(woken + moved), err
	case futexTrylockPI:
		return 0, t.Kernel().Futexes.Lock(t, a, private, true, kernel.Forever)
	case futexUnlockPI:
		return 0, t.Kernel().Futexes.Unlock(t, a, private)
	case futexCmpRequeuePI:
		if n != 1 || n2 < 0 {
			return 0, unix.EINVAL
		}
		got, err := t.Kernel().Futexes.CmpRequeuePI(t, a, private, n2, a2, val3)
		return uint64(got), err
	case futexWakeOp:
		k1, k2, err := futexKeys(t, a, a2, private)
		if err != nil {
			return 0, err
		}
		got, err := t.Kernel().Futexes.WakeOp(k1, k2, t.MM(), a2, max(n, 1), max(n2, 1), val3)
		return uint64(got), err
	}
	return 0, unix.ENOSYS
}

func futexKeys(t *kernel.Task, a, a2 usermem.Addr, private bool) (k1, k2 futex.Key, err error) {
	if k1, err = t.FutexKey(a, private); err == nil {
		k2, err = t.FutexKey(a2, private)
	}
	return k1, k2, err
}

// locked is what a call returns that waited for a lock: a signal has it called again,
// handler or not.
func locked(err error) error {
	switch err {
	case kernel.ErrTimeout:
		return unix.ETIMEDOUT
	case kernel.RestartSys:
		return kernel.RestartNoIntr
	}
	return err
}

func waitFutex(t *kernel.Task, a usermem.Addr, private bool, val, bitset uint32, end int64) (uint64, error) {
	switch err := t.Kernel().Futexes.Wait(t, a, private, val, bitset, end); err {
	case kernel.ErrTimeout:
		return 0, unix.ETIMEDOUT
	case kernel.RestartSys:
		if end == kernel.Forever {
			return 0, kernel.RestartSys
		}
		t.SetRestart(func(t *kernel.Task) (uint64, error) { return waitFutex(t, a, private, val, bitset, end) })
		return 0, kernel.RestartBlock
	default:
		return 0, err
	}
}

func setRobustList(t *kernel.Task, head usermem.Addr, n call.Size) (uint64, error) {
	if n != 24 {
		return 0, unix.EINVAL
	}
	t.SetRobustList(head)
	return 0, nil
}

func getRobustList(t *kernel.Task, tid call.PID, head, n usermem.Addr) (uint64, error) {
	o := t
	if tid != 0 {
		if o = t.PIDNamespace().Task(int32(tid)); o == nil {
			return 0, unix.ESRCH
		}
		if o != t && !t.MayKill(o.ThreadGroup(), 0) {
			return 0, unix.EPERM
		}
	}
	if err := usermem.CopyOutUint64(t.MM(), n, 24); err != nil {
		return 0, err
	}
	return 0, usermem.CopyOutUint64(t.MM(), head, uint64(o.RobustList()))
}
