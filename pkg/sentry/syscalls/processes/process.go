// Package processes has the calls on tasks and what they are known by: clone,
// exec, wait, signals, identities, scheduling, limits, tracing, futexes, seccomp
// filters, and the names of the system.
package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{cloneRows, futexRows, identityRows, pidfdRows, processRows, ptraceRows, schedRows, seccompRows, signalRows, systemRows}

var processRows = []call.Row{
	call.Full(unix.SYS_EXECVE, "execve", call.Args3(execve)),
	call.Full(unix.SYS_EXECVEAT, "execveat", call.Args5(execveat)),
	call.Full(unix.SYS_EXIT, "exit", call.Args1(exit)),
	call.Full(unix.SYS_EXIT_GROUP, "exit_group", call.Args1(exitGroup)),
	call.Full(unix.SYS_WAIT4, "wait4", call.Args4(wait4)),
	call.Full(unix.SYS_WAITID, "waitid", call.Args5(waitid)),
	call.Full(unix.SYS_GETPID, "getpid", call.Args0(getpid)),
	call.Full(unix.SYS_GETPPID, "getppid", call.Args0(getppid)),
	call.Full(unix.SYS_GETTID, "gettid", call.Args0(gettid)),
	call.Full(unix.SYS_SETPGID, "setpgid", call.Args2(setpgid)),
	call.Full(unix.SYS_GETPGID, "getpgid", call.Args1(getpgid)),
	call.Full(unix.SYS_GETPGRP, "getpgrp", call.Args0(getpgrp)),
	call.Full(unix.SYS_SETSID, "setsid", call.Args0(setsid)),
	call.Full(unix.SYS_GETSID, "getsid", call.Args1(getsid)),
	call.Full(unix.SYS_SET_TID_ADDRESS, "set_tid_address", call.Args1(setTIDAddress)),
	call.Full(unix.SYS_UNSHARE, "unshare", call.Args1(unshare)),
	call.Full(unix.SYS_ARCH_PRCTL, "arch_prctl", call.Args2(archPrctl)),
	call.Partial(unix.SYS_KCMP, "kcmp", call.Args5(kcmp), "all tasks share one I/O context; semaphore adjustments are per process"),
}

// Limits of execve(2): bytes of one string, and of all; the loader applies
// those that depend on the stack.
const (
	maxArgString = 32 * usermem.PageSize
	maxArgBytes  = 2 << 20 * 3
	maxArgs      = 1 << 20
)

// stringVector reads a NULL-terminated array of strings. total is decreased by
// what they take.
func stringVector(t *kernel.Task, a usermem.Addr, total *int) ([]string, error) {
	if a == 0 {
		return nil, nil
	}
	var out []string
	for i := 0; ; i++ {
		p, err := usermem.CopyInUint64(t.MM(), a+usermem.Addr(8*i))
		if err != nil {
			return nil, err
		}
		if p == 0 {
			return out, nil
		}
		s, err := usermem.CopyInString(t.MM(), usermem.Addr(p), maxArgString)
		if err == unix.ENAMETOOLONG {
			err = unix.E2BIG
		}
		if err != nil {
			return nil, err
		}
		if *total -= len(s) + 1 + 8; *total < 0 || i >= maxArgs {
			return nil, unix.E2BIG
		}
		out = append(out, s)
	}
}

func execve(t *kernel.Task, p call.PathPtr, argv, envv usermem.Addr) (uint64, error) {
	return execveat(t, call.CWD, p, argv, envv, 0)
}

func execveatFlags(flags call.AtFlags) (vfs.WalkFlags, error) {
	return flags.Walk(unix.AT_EMPTY_PATH | unix.AT_SYMLINK_NOFOLLOW)
}

func execveat(t *kernel.Task, d call.DirFD, p call.PathPtr, argv, envv usermem.Addr, flags call.AtFlags) (uint64, error) {
	w, err := execveatFlags(flags)
	if err != nil {
		return 0, err
	}
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	if path == "" && flags&unix.AT_EMPTY_PATH == 0 {
		return 0, unix.ENOENT
	}
	total := maxArgBytes
	a := kernel.ExecArgs{View: view, Path: path, Flags: w}
	if a.Argv, err = stringVector(t, argv, &total); err != nil {
		return 0, err
	}
	if a.Envv, err = stringVector(t, envv, &total); err != nil {
		return 0, err
	}
	if d != unix.AT_FDCWD && (path == "" || path[0] != '/') {
		// Scripts get the descriptor's path (execveat(2), BUGS).
		a.ShownPath = "/dev/fd/" + d.Print(t)
		if path != "" {
			a.ShownPath += "/" + path
		}
		a.Inaccessible, _ = t.FDs().CloseOnExec(int32(d))
	}
	if path == "" {
		if a.File, err = call.FD(d).File(t); err != nil {
			return 0, err
		}
		defer a.File.DecRef()
	}
	return 0, t.Exec(&a)
}

func exit(t *kernel.Task, code int32) (uint64, error) {
	t.Exit(uint8(code))
	t.NoReturn()
	return 0, nil
}

func exitGroup(t *kernel.Task, code int32) (uint64, error) {
	t.ExitGroup(uint8(code))
	t.NoReturn()
	return 0, nil
}

// Options of wait4(2) and waitid(2).
const (
	waitExited  = unix.WEXITED
	waitThreads = linux.WNOTHREAD | linux.WALL | linux.WCLONE
)

func wait4(t *kernel.Task, pid call.PID, status usermem.Addr, options uint32, usage usermem.Addr) (uint64, error) {
	if options&^(unix.WNOHANG|unix.WUNTRACED|unix.WCONTINUED|waitThreads) != 0 {
		return 0, unix.EINVAL
	}
	w := kernel.WaitTarget{Options: int(options | waitExited)}
	switch {
	case pid == -1<<31:
		return 0, unix.ESRCH
	case pid < -1:
		w.PGID = int32(-pid)
	case pid == 0:
		w.PGID = t.ThreadGroup().ProcessGroup().ID(t.PIDNamespace())
	case pid > 0:
		w.PID = int32(pid)
	}
	res, err := t.WaitChild(&w)
	if err != nil || res.PID == 0 {
		return 0, err
	}
	if status != 0 {
		if err := usermem.CopyOutUint32(t.MM(), status, res.Status); err != nil {
			return 0, err
		}
	}
	if usage != 0 {
		if err := putRusage(t, usage, &res.Usage); err != nil {
			return 0, err
		}
	}
	return uint64(res.PID), nil
}

func waitid(t *kernel.Task, kind uint32, id call.PID, info usermem.Addr, options uint32, usage usermem.Addr) (uint64, error) {
	if options&^(unix.WNOHANG|unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED|unix.WNOWAIT|waitThreads) != 0 ||
		options&(unix.WEXITED|unix.WSTOPPED|unix.WCONTINUED) == 0 {
		return 0, unix.EINVAL
	}
	w := kernel.WaitTarget{Options: int(options)}
	nonblock := false
	switch kind {
	case unix.P_ALL:
	case unix.P_PIDFD:
		if id < 0 {
			return 0, unix.EINVAL
		}
		tg, flags, err := byPIDFD(t, call.FD(id))
		if err != nil {
			return 0, err
		}
		if tg == nil {
			return 0, unix.ECHILD
		}
		w.Process = tg
		if nonblock = flags&unix.O_NONBLOCK != 0 && options&unix.WNOHANG == 0; nonblock {
			w.Options |= unix.WNOHANG
		}
	case unix.P_PID:
		if id <= 0 {
			return 0, unix.EINVAL
		}
		w.PID = int32(id)
	case unix.P_PGID:
		if id <= 0 {
			return 0, unix.EINVAL
		}
		w.PGID = int32(id)
	default:
		return 0, unix.EINVAL
	}
	res, err := t.WaitChild(&w)
	if err == nil && nonblock && res.PID == 0 {
		err = unix.EAGAIN
	}
	if err != nil {
		return 0, err
	}
	if usage != 0 && res.PID != 0 {
		if err := putRusage(t, usage, &res.Usage); err != nil {
			return 0, err
		}
	}
	if info == 0 {
		return 0, nil
	}
	var si signals.Info
	if res.PID != 0 {
		si.Signo, si.Code = int32(unix.SIGCHLD), res.Code
		si.SetPID(res.PID)
		si.SetUID(res.UID)
		si.SetStatus(res.Value)
	}
	b := si.Bytes()
	// Only the fields that mean something are written, as Linux does.
	_, err = t.MM().CopyOut(info, b[:28])
	return 0, err
}

// putRusage writes a struct rusage.
func putRusage(t *kernel.Task, a usermem.Addr, u *usage.Resources) error {
	var w call.Writer
	w.Timeval(u.User)
	w.Timeval(u.System)
	w.U64(u.MaxRSS >> 10)
	w.Zero(24)
	w.U64(u.MinorFaults)
	w.Zero(8 * 7)
	w.U64(u.Voluntary)
	w.U64(u.Preempted)
	return w.To(t, a)
}

func getpid(t *kernel.Task) (uint64, error) {
	return uint64(t.ThreadGroup().ID(t.PIDNamespace())), nil
}

func gettid(t *kernel.Task) (uint64, error) { return uint64(t.TID(t.PIDNamespace())), nil }

func getppid(t *kernel.Task) (uint64, error) { return uint64(t.ParentID()), nil }

func setpgid(t *kernel.Task, pid, pgid call.PID) (uint64, error) {
	return 0, t.SetPGID(int32(pid), int32(pgid))
}

// process returns the process that pid means, or the caller's for zero.
func process(t *kernel.Task, pid call.PID) (*kernel.ThreadGroup, error) {
	if pid == 0 {
		return t.ThreadGroup(), nil
	}
	if o := t.PIDNamespace().Task(int32(pid)); o != nil {
		return o.ThreadGroup(), nil
	}
	return nil, unix.ESRCH
}

func getpgid(t *kernel.Task, pid call.PID) (uint64, error) {
	tg, err := process(t, pid)
	if err != nil {
		return 0, err
	}
	return uint64(tg.ProcessGroup().ID(t.PIDNamespace())), nil
}

func getpgrp(t *kernel.Task) (uint64, error) { return getpgid(t, 0) }

func setsid(t *kernel.Task) (uint64, error) {
	id, err := t.SetSID()
	return uint64(id), err
}

func getsid(t *kernel.Task, pid call.PID) (uint64, error) {
	tg, err := process(t, pid)
	if err != nil {
		return 0, err
	}
	return uint64(tg.Session().ID(t.PIDNamespace())), nil
}

func setTIDAddress(t *kernel.Task, a usermem.Addr) (uint64, error) {
	t.SetClearTID(a)
	return gettid(t)
}

func unshare(t *kernel.Task, flags uint64) (uint64, error) { return 0, t.Unshare(flags) }

func archPrctl(t *kernel.Task, code int32, a usermem.Addr) (uint64, error) {
	r := &t.State().Regs
	switch code {
	case 0x1001: // ARCH_SET_GS
		return 0, r.SetGSBase(uint64(a))
	case 0x1002: // ARCH_SET_FS
		return 0, r.SetTLS(uint64(a))
	case 0x1003:
		return 0, usermem.CopyOutUint64(t.MM(), a, r.FsBase)
	case 0x1004:
		return 0, usermem.CopyOutUint64(t.MM(), a, r.GsBase)
	}
	return 0, unix.EINVAL
}
