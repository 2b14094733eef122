// Package clocks has the calls on clocks, sleeps and timers.
package clocks

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/usermem"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{timeRows, timerRows}

var timeRows = []call.Row{
	call.Full(unix.SYS_CLOCK_GETTIME, "clock_gettime", call.Args2(clockGettime)),
	call.Full(unix.SYS_CLOCK_GETRES, "clock_getres", call.Args2(clockGetres)),
	call.Full(unix.SYS_GETTIMEOFDAY, "gettimeofday", call.Args2(gettimeofday)),
	call.Full(unix.SYS_TIME, "time", call.Args1(timeCall)),
	call.Full(unix.SYS_NANOSLEEP, "nanosleep", call.Args2(nanosleep)),
	call.Full(unix.SYS_CLOCK_NANOSLEEP, "clock_nanosleep", call.Args4(clockNanosleep)),
	call.Partial(unix.SYS_ADJTIMEX, "adjtimex", call.Args1(adjtimex), "reading only: EPERM else, as without CAP_SYS_TIME"),
	call.Partial(unix.SYS_CLOCK_ADJTIME, "clock_adjtime", call.Args2(clockAdjtime), "reading only: EPERM else, as without CAP_SYS_TIME"),
	call.Refused(unix.SYS_SETTIMEOFDAY, "settimeofday", unix.EPERM, "no capability in the sandbox reaches the host's clock"),
	call.Partial(unix.SYS_CLOCK_SETTIME, "clock_settime", call.Args2(clockSettime), "EPERM: no capability in the sandbox reaches the host's clock"),
}

// readClock returns a clock's time in nanoseconds (clock_gettime(2)).
func readClock(t *kernel.Task, id int32) (int64, error) {
	switch id {
	case unix.CLOCK_PROCESS_CPUTIME_ID:
		u := t.ThreadGroup().Usage()
		return u.User + u.System, nil
	case unix.CLOCK_THREAD_CPUTIME_ID:
		u := t.Usage()
		return u.User + u.System, nil
	case unix.CLOCK_REALTIME_ALARM:
		id = unix.CLOCK_REALTIME
	case unix.CLOCK_BOOTTIME_ALARM:
		id = unix.CLOCK_BOOTTIME
	}
	if id < 0 {
		return cpuClock(t, id)
	}
	ns, ok := t.Kernel().Clock.Now(clock.ID(id))
	if !ok {
		return 0, unix.EINVAL
	}
	return ns, nil
}

// cpuClock reads the clock of another process or thread (clock_getcpuclockid(3)):
// the number is its id, inverted, with the kind in the low bits.
func cpuClock(t *kernel.Task, id int32) (int64, error) {
	if id&3 == 3 {
		return 0, unix.EINVAL
	}
	tid := call.PID(^(id >> 3))
	o := t
	if tid != 0 {
		if o = t.PIDNamespace().Task(int32(tid)); o == nil {
			return 0, unix.EINVAL
		}
	}
	var u usage.Resources
	if id&4 != 0 {
		if o.ThreadGroup() != t.ThreadGroup() {
			return 0, unix.EINVAL
		}
		u = o.Usage()
	} else {
		u = o.ThreadGroup().Usage()
	}
	switch id & 3 {
	case 1:
		return u.User, nil
	default:
		return u.User + u.System, nil
	}
}

func clockGettime(t *kernel.Task, id int32, a usermem.Addr) (uint64, error) {
	ns, err := readClock(t, id)
	if err != nil {
		return 0, err
	}
	var room [16]byte
	w := call.Writer{Buf: room[:0]}
	w.Timespec(ns)
	return 0, w.To(t, a)
}

func clockGetres(t *kernel.Task, id int32, a usermem.Addr) (uint64, error) {
	if _, err := readClock(t, id); err != nil {
		return 0, err
	}
	if a == 0 {
		return 0, nil
	}
	res := int64(1)
	switch id {
	case unix.CLOCK_REALTIME_COARSE, unix.CLOCK_MONOTONIC_COARSE:
		res = 4_000_000
	}
	var w call.Writer
	w.Timespec(res)
	return 0, w.To(t, a)
}

func gettimeofday(t *kernel.Task, tv, tz usermem.Addr) (uint64, error) {
	if tv != 0 {
		var w call.Writer
		w.Timeval(t.Kernel().Clock.Realtime())
		if err := w.To(t, tv); err != nil {
			return 0, err
		}
	}
	if tz != 0 {
		var w call.Writer
		w.Zero(8)
		return 0, w.To(t, tz)
	}
	return 0, nil
}

func timeCall(t *kernel.Task, a usermem.Addr) (uint64, error) {
	s := uint64(t.Kernel().Clock.Realtime() / call.Second)
	if a != 0 {
		return s, usermem.CopyOutUint64(t.MM(), a, s)
	}
	return s, nil
}

func nanosleep(t *kernel.Task, req, rem usermem.Addr) (uint64, error) {
	d, err := call.ReadTimespec(t, req)
	if err != nil {
		return 0, err
	}
	return sleepUntil(t, call.Deadline(t, d), rem)
}

// sleepUntil sleeps until the monotonic time end; interrupted, it writes what is
// left to rem and can be restarted.
func sleepUntil(t *kernel.Task, end int64, rem usermem.Addr) (uint64, error) {
	err := t.Sleep(end)
	if err == nil {
		return 0, nil
	}
	if rem != 0 {
		left := max(end-t.Kernel().Clock.Monotonic(), 0)
		if left == 0 {
			return 0, nil
		}
		var w call.Writer
		w.Timespec(left)
		if err := w.To(t, rem); err != nil {
			return 0, err
		}
	}
	t.SetRestart(func(t *kernel.Task) (uint64, error) { return sleepUntil(t, end, rem) })
	return 0, kernel.RestartBlock
}

func clockNanosleep(t *kernel.Task, id int32, flags uint32, req, rem usermem.Addr) (uint64, error) {
	switch id {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI,
		unix.CLOCK_REALTIME_ALARM, unix.CLOCK_BOOTTIME_ALARM:
	case unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_REALTIME_COARSE, unix.CLOCK_MONOTONIC_COARSE, unix.CLOCK_PROCESS_CPUTIME_ID:
		return 0, unix.EOPNOTSUPP
	default:
		return 0, unix.EINVAL
	}
	d, err := call.ReadTimespec(t, req)
	if err != nil {
		return 0, err
	}
	if flags&unix.TIMER_ABSTIME == 0 {
		return sleepUntil(t, call.Deadline(t, d), rem)
	}
	now, err := readClock(t, id)
	if err != nil {
		return 0, err
	}
	if d <= now {
		return 0, nil
	}
	if t.Sleep(call.Deadline(t, d-now)) != nil {
		return 0, kernel.RestartNoHand
	}
	return 0, nil
}

// clockSettime checks its arguments and refuses.
func clockSettime(t *kernel.Task, id int32, a usermem.Addr) (uint64, error) {
	if id != unix.CLOCK_REALTIME {
		return 0, unix.EINVAL
	}
	if _, err := call.ReadTimespec(t, a); err != nil {
		return 0, err
	}
	return 0, unix.EPERM
}

// timexSize is the size of struct timex (adjtimex(2)).
const timexSize = 208

func adjtimex(t *kernel.Task, a usermem.Addr) (uint64, error) {
	const (
		singleShot = 0x8001 // ADJ_OFFSET_SINGLESHOT
		readOnly   = 0x2000 // ADJ_OFFSET_SS_READ, with it
		unsynced   = 0x40   // STA_UNSYNC
		timeError  = 5
		maxError   = 16_000_000
	)
	modes, err := usermem.CopyInUint32(t.MM(), a)
	if err != nil {
		return 0, err
	}
	if modes != 0 && modes != singleShot|readOnly {
		return 0, unix.EPERM
	}
	var w call.Writer
	w.U32(modes)
	w.U32(0)
	w.I64(0)        // offset
	w.I64(0)        // freq
	w.I64(maxError) // maxerror
	w.I64(maxError) // esterror
	w.U32(unsynced)
	w.U32(0)
	w.I64(2)        // constant
	w.I64(1)        // precision, in microseconds
	w.I64(32768000) // tolerance
	w.Timeval(t.Kernel().Clock.Realtime())
	w.I64(10000) // microseconds between ticks of USER_HZ
	w.Zero(timexSize - len(w.Buf))
	return timeError, w.To(t, a)
}

func clockAdjtime(t *kernel.Task, id int32, a usermem.Addr) (uint64, error) {
	if id != unix.CLOCK_REALTIME {
		if _, err := readClock(t, id); err != nil {
			return 0, err
		}
		return 0, unix.EOPNOTSUPP
	}
	return adjtimex(t, a)
}
