package clocks

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/timers"
	"vitrine/pkg/usermem"
)

var timerRows = []call.Row{
	call.Full(unix.SYS_ALARM, "alarm", call.Args1(alarm)),
	call.Full(unix.SYS_GETITIMER, "getitimer", call.Args2(getitimer)),
	call.Full(unix.SYS_SETITIMER, "setitimer", call.Args3(setitimer)),
	call.Partial(unix.SYS_TIMER_CREATE, "timer_create", call.Args3(timerCreate), "no CPU clocks of other processes, no alarm clocks"),
	call.Partial(unix.SYS_TIMER_SETTIME, "timer_settime", call.Args4(timerSettime), "absolute times don't follow when the host's clock is set"),
	call.Full(unix.SYS_TIMER_GETTIME, "timer_gettime", call.Args2(timerGettime)),
	call.Full(unix.SYS_TIMER_GETOVERRUN, "timer_getoverrun", call.Args1(timerGetoverrun)),
	call.Full(unix.SYS_TIMER_DELETE, "timer_delete", call.Args1(timerDelete)),
}

func alarm(t *kernel.Task, seconds uint32) (uint64, error) {
	old := t.ThreadGroup().Timers().SetInterval(timers.Real, timers.Setting{Value: int64(seconds) * call.Second})
	left := old.Value / call.Second
	if rest := old.Value % call.Second; rest >= call.Second/2 || left == 0 && rest > 0 {
		left++
	}
	return uint64(left), nil
}

func putIntervalTimer(t *kernel.Task, a usermem.Addr, s timers.Setting) error {
	if s.Value > 0 {
		s.Value = max(s.Value, 1000)
	}
	var w call.Writer
	w.Timeval(s.Interval)
	w.Timeval(s.Value)
	return w.To(t, a)
}

func getitimer(t *kernel.Task, which uint32, a usermem.Addr) (uint64, error) {
	if which > timers.Prof {
		return 0, unix.EINVAL
	}
	return 0, putIntervalTimer(t, a, t.ThreadGroup().Timers().Interval(int(which)))
}

func setitimer(t *kernel.Task, which uint32, a, old usermem.Addr) (uint64, error) {
	var s timers.Setting
	if a != 0 {
		// The whole structure is read before any of it is judged.
		var b [32]byte
		_, err := t.MM().CopyIn(a, b[:])
		if err != nil {
			return 0, err
		}
		if s.Interval, err = call.Timeval(b[:16]); err != nil {
			return 0, err
		}
		if s.Value, err = call.Timeval(b[16:]); err != nil {
			return 0, err
		}
	}
	if which > timers.Prof {
		return 0, unix.EINVAL
	}
	was := t.ThreadGroup().Timers().SetInterval(int(which), s)
	if old == 0 {
		return 0, nil
	}
	return 0, putIntervalTimer(t, old, was)
}

// Kinds of notification of a struct sigevent (sigevent(7)).
const (
	sigevSignal   = 0
	sigevNone     = 1
	sigevThread   = 2
	sigevThreadID = 4
)

func timerCreate(t *kernel.Task, id int32, event, out usermem.Addr) (uint64, error) {
	cpu, thread, err := posixTimerClock(t, id)
	if err != nil {
		return 0, err
	}
	n := timers.Notify{Signal: signals.Signal(unix.SIGALRM), ValueIsID: true}
	if event != 0 {
		var b [64]byte // struct sigevent
		if _, err := t.MM().CopyIn(event, b[:]); err != nil {
			return 0, err
		}
		n = timers.Notify{Value: call.U64(b[:]), Signal: signals.Signal(call.U32(b[8:]))}
		switch call.U32(b[12:]) {
		case sigevNone:
			n.None = true
		case sigevThreadID:
			o := t.PIDNamespace().Task(int32(call.U32(b[16:])))
			if o == nil || o.ThreadGroup() != t.ThreadGroup() {
				return 0, unix.EINVAL
			}
			n.Target = o
		case sigevSignal, sigevThread:
		default:
			return 0, unix.EINVAL
		}
		if !n.None && !n.Signal.Valid() {
			return 0, unix.EINVAL
		}
	}
	ts := t.ThreadGroup().Timers()
	no, err := ts.NewPosix(clock.ID(id), cpu, thread, n)
	if err != nil {
		return 0, err
	}
	if err := usermem.CopyOutUint32(t.MM(), out, uint32(no)); err != nil {
		ts.DeletePosix(no)
		return 0, err
	}
	return 0, nil
}

// posixTimerClock says what a timer of clock id counts in: CPU time, of one thread or
// of all, or real time.
func posixTimerClock(t *kernel.Task, id int32) (cpu bool, thread timers.Thread, err error) {
	switch id {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_TAI:
		return false, nil, nil
	case unix.CLOCK_PROCESS_CPUTIME_ID:
		return true, nil, nil
	case unix.CLOCK_THREAD_CPUTIME_ID:
		return true, t, nil
	case unix.CLOCK_MONOTONIC_RAW, unix.CLOCK_REALTIME_COARSE, unix.CLOCK_MONOTONIC_COARSE,
		unix.CLOCK_REALTIME_ALARM, unix.CLOCK_BOOTTIME_ALARM: // no device that wakes the machine
		return false, nil, unix.EOPNOTSUPP
	}
	if id >= 0 || id&3 == 3 {
		return false, nil, unix.EINVAL
	}
	o := t
	if tid := ^(id >> 3); tid != 0 {
		if o = t.PIDNamespace().Task(tid); o == nil || o.ThreadGroup() != t.ThreadGroup() {
			return false, nil, unix.EINVAL
		}
	}
	if id&4 != 0 {
		return true, o, nil
	}
	return true, nil, nil
}

func putTimerSetting(t *kernel.Task, a usermem.Addr, s timers.Setting) error {
	var w call.Writer
	w.Timespec(s.Interval)
	w.Timespec(s.Value)
	return w.To(t, a)
}

func timerSettime(t *kernel.Task, id int32, flags uint32, a, old usermem.Addr) (uint64, error) {
	if a == 0 {
		return 0, unix.EINVAL
	}
	var b [32]byte
	_, err := t.MM().CopyIn(a, b[:])
	if err != nil {
		return 0, err
	}
	var s timers.Setting
	if s.Interval, err = call.Timespec(b[:16]); err != nil {
		return 0, err
	}
	if s.Value, err = call.Timespec(b[16:]); err != nil {
		return 0, err
	}
	was, err := t.ThreadGroup().Timers().SetPosix(id, s, flags&unix.TIMER_ABSTIME != 0)
	if err != nil || old == 0 {
		return 0, err
	}
	return 0, putTimerSetting(t, old, was)
}

func timerGettime(t *kernel.Task, id int32, a usermem.Addr) (uint64, error) {
	s, err := t.ThreadGroup().Timers().Posix(id)
	if err != nil {
		return 0, err
	}
	return 0, putTimerSetting(t, a, s)
}

func timerGetoverrun(t *kernel.Task, id int32) (uint64, error) {
	n, err := t.ThreadGroup().Timers().Overrun(id)
	return uint64(n), err
}

func timerDelete(t *kernel.Task, id int32) (uint64, error) {
	return 0, t.ThreadGroup().Timers().DeletePosix(id)
}
