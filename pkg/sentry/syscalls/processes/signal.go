package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var signalRows = []call.Row{
	call.Full(unix.SYS_RT_SIGACTION, "rt_sigaction", call.Args4(rtSigaction)),
	call.Full(unix.SYS_RT_SIGPROCMASK, "rt_sigprocmask", call.Args4(rtSigprocmask)),
	call.Full(unix.SYS_RT_SIGPENDING, "rt_sigpending", call.Args2(rtSigpending)),
	call.Full(unix.SYS_RT_SIGSUSPEND, "rt_sigsuspend", call.Args2(rtSigsuspend)),
	call.Full(unix.SYS_RT_SIGTIMEDWAIT, "rt_sigtimedwait", call.Args4(rtSigtimedwait)),
	call.Full(unix.SYS_RT_SIGQUEUEINFO, "rt_sigqueueinfo", call.Args3(rtSigqueueinfo)),
	call.Full(unix.SYS_RT_TGSIGQUEUEINFO, "rt_tgsigqueueinfo", call.Args4(rtTgsigqueueinfo)),
	call.Full(unix.SYS_RT_SIGRETURN, "rt_sigreturn", call.Args0(rtSigreturn)),
	call.Full(unix.SYS_SIGALTSTACK, "sigaltstack", call.Args2(sigaltstack)),
	call.Full(unix.SYS_KILL, "kill", call.Args2(kill)),
	call.Full(unix.SYS_TKILL, "tkill", call.Args2(tkill)),
	call.Full(unix.SYS_TGKILL, "tgkill", call.Args3(tgkill)),
	call.Full(unix.SYS_PAUSE, "pause", call.Args0(pause)),
	call.Full(unix.SYS_RESTART_SYSCALL, "restart_syscall", call.Args0(restartSyscall)),
}

func rtSigaction(t *kernel.Task, s call.Signo, n, old usermem.Addr, size call.Size) (uint64, error) {
	if size != 8 || !signals.Signal(s).Valid() {
		return 0, unix.EINVAL
	}
	var act *signals.Action
	if n != 0 {
		var b [32]byte
		if _, err := t.MM().CopyIn(n, b[:]); err != nil {
			return 0, err
		}
		if signals.Unblockable.Has(signals.Signal(s)) {
			return 0, unix.EINVAL
		}
		act = &signals.Action{Handler: call.U64(b[0:]), Flags: call.U64(b[8:]), Restorer: call.U64(b[16:]), Mask: signals.Set(call.U64(b[24:]))}
	}
	was := t.ThreadGroup().SignalAction(signals.Signal(s), act)
	if old == 0 {
		return 0, nil
	}
	var w call.Writer
	w.U64(was.Handler)
	w.U64(was.Flags)
	w.U64(was.Restorer)
	w.U64(uint64(was.Mask))
	return 0, w.To(t, old)
}

func rtSigprocmask(t *kernel.Task, how uint32, set, old usermem.Addr, size call.Size) (uint64, error) {
	if size != 8 {
		return 0, unix.EINVAL
	}
	was := t.SignalMask()
	if set != 0 {
		s, err := call.ReadSignalSet(t, set, size)
		if err != nil {
			return 0, err
		}
		switch how {
		case unix.SIG_BLOCK:
			s |= was
		case unix.SIG_UNBLOCK:
			s = was &^ s
		case unix.SIG_SETMASK:
		default:
			return 0, unix.EINVAL
		}
		t.SetSignalMask(s)
	}
	if old != 0 {
		return 0, usermem.CopyOutUint64(t.MM(), old, uint64(was))
	}
	return 0, nil
}

func rtSigpending(t *kernel.Task, set usermem.Addr, size call.Size) (uint64, error) {
	if size > 8 {
		return 0, unix.EINVAL
	}
	var w call.Writer
	w.U64(uint64(t.PendingSignals()))
	w.Buf = w.Buf[:size]
	return 0, w.To(t, set)
}

func rtSigsuspend(t *kernel.Task, set usermem.Addr, size call.Size) (uint64, error) {
	s, err := call.ReadSignalSet(t, set, size)
	if err != nil {
		return 0, err
	}
	t.WithMask(s)
	t.Block(nil)
	return 0, kernel.RestartNoHand
}

func pause(t *kernel.Task) (uint64, error) {
	t.Block(nil)
	return 0, kernel.RestartNoHand
}

func rtSigtimedwait(t *kernel.Task, set, info, timeout usermem.Addr, size call.Size) (uint64, error) {
	s, err := call.ReadSignalSet(t, set, size)
	if err != nil {
		return 0, err
	}
	until := kernel.Forever
	if timeout != 0 {
		d, err := call.ReadTimespec(t, timeout)
		if err != nil {
			return 0, err
		}
		until = call.Deadline(t, d)
	}
	si, err := t.WaitSignal(s, until)
	if err != nil {
		return 0, err
	}
	if info != 0 {
		b := si.Bytes()
		if _, err := t.MM().CopyOut(info, b[:]); err != nil {
			return 0, err
		}
	}
	return uint64(si.Signo), nil
}

func kill(t *kernel.Task, pid call.PID, s call.Signo) (uint64, error) {
	return 0, t.Kill(int32(pid), signals.Signal(s))
}

func tkill(t *kernel.Task, tid call.PID, s call.Signo) (uint64, error) { return toThread(t, 0, tid, s) }

func tgkill(t *kernel.Task, pid, tid call.PID, s call.Signo) (uint64, error) {
	if pid <= 0 {
		return 0, unix.EINVAL
	}
	return toThread(t, pid, tid, s)
}

// thread finds a thread, of process pid unless that is zero.
func thread(t *kernel.Task, pid, tid call.PID) (*kernel.Task, error) {
	if tid <= 0 {
		return nil, unix.EINVAL
	}
	o := t.PIDNamespace().Task(int32(tid))
	if o == nil || pid > 0 && o.ThreadGroup().ID(t.PIDNamespace()) != int32(pid) {
		return nil, unix.ESRCH
	}
	return o, nil
}

func toThread(t *kernel.Task, pid, tid call.PID, s call.Signo) (uint64, error) {
	o, err := thread(t, pid, tid)
	if err != nil {
		return 0, err
	}
	if s != 0 && !signals.Signal(s).Valid() {
		return 0, unix.EINVAL
	}
	if !t.MayKill(o.ThreadGroup(), signals.Signal(s)) {
		return 0, unix.EPERM
	}
	if s == 0 {
		return 0, nil
	}
	return 0, o.SendSignal(t.KillInfo(o.ThreadGroup(), signals.Signal(s), signals.CodeTkill))
}

// readInfo reads a siginfo for rt_sigqueueinfo(2), which says of itself what signal it
// is for.
func readInfo(t *kernel.Task, a usermem.Addr, s call.Signo, self bool) (*signals.Info, error) {
	i, err := copyInfo(t, a)
	if err != nil {
		return nil, err
	}
	i.Signo = int32(s)
	return i, checkInfo(i, self)
}

func copyInfo(t *kernel.Task, a usermem.Addr) (*signals.Info, error) {
	var b [signals.InfoSize]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return nil, err
	}
	var i signals.Info
	i.FromBytes(&b)
	return &i, nil
}

// checkInfo sees to it that only the kernel and kill(2) say so of themselves to others.
func checkInfo(i *signals.Info, self bool) error {
	if (i.Code >= 0 || i.Code == signals.CodeTkill) && !self {
		return unix.EPERM
	}
	return nil
}

func rtSigqueueinfo(t *kernel.Task, pid call.PID, s call.Signo, info usermem.Addr) (uint64, error) {
	i, err := readInfo(t, info, s, int32(pid) == t.ThreadGroup().ID(t.PIDNamespace()))
	if err != nil {
		return 0, err
	}
	if s != 0 && !signals.Signal(s).Valid() {
		return 0, unix.EINVAL
	}
	o := t.PIDNamespace().Task(int32(pid))
	if o == nil {
		return 0, unix.ESRCH
	}
	if !t.MayKill(o.ThreadGroup(), signals.Signal(s)) {
		return 0, unix.EPERM
	}
	if s == 0 {
		return 0, nil
	}
	return 0, o.ThreadGroup().Send(i)
}

func rtTgsigqueueinfo(t *kernel.Task, pid, tid call.PID, s call.Signo, info usermem.Addr) (uint64, error) {
	if pid <= 0 || tid <= 0 {
		return 0, unix.EINVAL
	}
	i, err := readInfo(t, info, s, int32(tid) == t.TID(t.PIDNamespace()))
	if err != nil {
		return 0, err
	}
	if s != 0 && !signals.Signal(s).Valid() {
		return 0, unix.EINVAL
	}
	o, err := thread(t, pid, tid)
	if err != nil {
		return 0, err
	}
	if !t.MayKill(o.ThreadGroup(), signals.Signal(s)) {
		return 0, unix.EPERM
	}
	if s == 0 {
		return 0, nil
	}
	return 0, o.SendSignal(i)
}

func rtSigreturn(t *kernel.Task) (uint64, error) {
	t.SignalReturn()
	return 0, nil
}

func sigaltstack(t *kernel.Task, n, old usermem.Addr) (uint64, error) {
	was := *t.SignalStack()
	if was.Active(t.State().Regs.Rsp) {
		was.Flags |= arch.StackOnStack
	}
	if n != 0 {
		var b [24]byte
		if _, err := t.MM().CopyIn(n, b[:]); err != nil {
			return 0, err
		}
		if err := t.SetSignalStack(arch.AltStack{Addr: usermem.Addr(call.U64(b[0:])), Flags: call.U32(b[8:]), Size: call.U64(b[16:])}); err != nil {
			return 0, err
		}
	}
	if old == 0 {
		return 0, nil
	}
	var w call.Writer
	w.U64(uint64(was.Addr))
	w.U32(was.Flags)
	w.U32(0)
	w.U64(was.Size)
	return 0, w.To(t, old)
}

func restartSyscall(t *kernel.Task) (uint64, error) { return t.Restart() }
