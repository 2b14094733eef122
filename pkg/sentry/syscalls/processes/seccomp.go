package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var seccompRows = []call.Row{
	call.Partial(unix.SYS_SECCOMP, "seccomp", call.Args3(seccomp), "no SECCOMP_GET_NOTIF_SIZES, which 4.4 doesn't have"),
}

// Operations and flags of seccomp(2).
const (
	seccompSetStrict = 0
	seccompSetFilter = 1
	seccompAvailable = 2

	seccompTSync = 1
	seccompLogs  = 2
	seccompSpec  = 4
)

func seccomp(t *kernel.Task, op, flags uint32, args usermem.Addr) (uint64, error) {
	switch op {
	case seccompSetStrict:
		if flags != 0 || args != 0 {
			return 0, unix.EINVAL
		}
		return 0, t.SetSeccompStrict()
	case seccompSetFilter:
		return setSeccompFilter(t, flags, args)
	case seccompAvailable:
		if flags != 0 {
			return 0, unix.EINVAL
		}
		return actionAvailable(t, args)
	}
	return 0, unix.EINVAL
}

// actionAvailable does SECCOMP_GET_ACTION_AVAIL, by which newer libraries find
// out.
func actionAvailable(t *kernel.Task, a usermem.Addr) (uint64, error) {
	var b [4]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	switch call.U32(b[:]) {
	case callfilter.KillProcess, callfilter.KillThread, callfilter.Trap, callfilter.Errno, callfilter.Trace, callfilter.Log, callfilter.Allow:
		return 0, nil
	}
	return 0, unix.EOPNOTSUPP
}

func setSeccompFilter(t *kernel.Task, flags uint32, a usermem.Addr) (uint64, error) {
	if flags&^(seccompTSync|seccompLogs|seccompSpec) != 0 {
		return 0, unix.EINVAL
	}
	var b [16]byte // struct sock_fprog
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	n := int(call.U32(b[:]) & 0xffff)
	if n == 0 || n > 4096 {
		return 0, unix.EINVAL
	}
	if c := t.Credentials(); !c.NoNewPrivs && !c.HasCap(unix.CAP_SYS_ADMIN) {
		return 0, unix.EACCES
	}
	raw := make([]byte, 8*n)
	if _, err := t.MM().CopyIn(usermem.Addr(call.U64(b[8:])), raw); err != nil {
		return 0, err
	}
	program := make([]callfilter.Instruction, n)
	for i := range program {
		r := raw[8*i:]
		program[i] = callfilter.Instruction{Code: uint16(r[0]) | uint16(r[1])<<8, JT: r[2], JF: r[3], K: call.U32(r[4:])}
	}
	if flags&seccompTSync != 0 {
		tid, err := t.InstallFilterAll(program)
		return uint64(tid), err
	}
	return 0, t.InstallFilter(program)
}

// prctlSeccomp does prctl(PR_SET_SECCOMP).
func prctlSeccomp(t *kernel.Task, mode uint64, a usermem.Addr) (uint64, error) {
	switch mode {
	case callfilter.ModeStrict:
		return 0, t.SetSeccompStrict()
	case callfilter.ModeFilter:
		return setSeccompFilter(t, 0, a)
	}
	return 0, unix.EINVAL
}
