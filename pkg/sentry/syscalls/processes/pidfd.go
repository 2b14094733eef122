package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var pidfdRows = []call.Row{
	call.Partial(unix.SYS_PIDFD_OPEN, "pidfd_open", call.Args2(pidfdOpen), "no PIDFD_THREAD (EINVAL); the descriptor is none for setns"),
	call.Partial(unix.SYS_PIDFD_SEND_SIGNAL, "pidfd_send_signal", call.Args4(pidfdSendSignal), "no flags (EINVAL)"),
}

func pidfdOpen(t *kernel.Task, pid call.PID, flags uint32) (uint64, error) {
	if flags&^unix.PIDFD_NONBLOCK != 0 || pid <= 0 {
		return 0, unix.EINVAL
	}
	o := t.PIDNamespace().Task(int32(pid))
	if o == nil {
		return 0, unix.ESRCH
	}
	if o != o.ThreadGroup().Leader() {
		return 0, unix.EINVAL
	}
	f, err := t.OpenProcess(o.ThreadGroup(), flags)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, true)
}

// byPIDFD returns the process of a descriptor, nil where it has been waited for, and
// the flags of the file: EBADF for other files.
func byPIDFD(t *kernel.Task, fd call.FD) (*kernel.ThreadGroup, uint32, error) {
	f, err := fd.File(t)
	if err != nil {
		return nil, 0, err
	}
	defer f.DecRef()
	p := kernel.PIDFileOf(f)
	if p == nil {
		return nil, 0, unix.EBADF
	}
	return p.Process(), f.Flags(), nil
}

func pidfdSendSignal(t *kernel.Task, fd call.FD, s call.Signo, info usermem.Addr, flags uint32) (uint64, error) {
	if flags != 0 {
		return 0, unix.EINVAL
	}
	tg, _, err := byPIDFD(t, fd)
	if err != nil {
		return 0, err
	}
	if tg != nil && !t.PIDNamespace().Contains(tg.PIDNamespace()) {
		return 0, unix.EINVAL
	}
	var i *signals.Info
	if info != 0 {
		if i, err = copyInfo(t, info); err != nil {
			return 0, err
		}
		if i.Signo != int32(s) {
			return 0, unix.EINVAL
		}
		self := tg != nil && tg.ID(t.PIDNamespace()) == t.TID(t.PIDNamespace())
		if err := checkInfo(i, self); err != nil {
			return 0, err
		}
	}
	if s != 0 && !signals.Signal(s).Valid() {
		return 0, unix.EINVAL
	}
	switch {
	case tg == nil:
		return 0, unix.ESRCH
	case !t.MayKill(tg, signals.Signal(s)):
		return 0, unix.EPERM
	case s == 0:
		return 0, nil
	case i == nil:
		i = t.KillInfo(tg, signals.Signal(s), signals.CodeUser)
	}
	return 0, tg.Send(i)
}
