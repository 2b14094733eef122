package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/usermem"
)

// vsyscallPage is where old programs call gettimeofday, time and getcpu, 1024
// bytes apart (Documentation/x86/x86_64/mm.rst). Nothing is mapped there: the
// fault of executing it is the call.
const vsyscallPage usermem.Addr = 0xffffffffff600000

// vsyscall does the call that executing addr means, as Linux does with
// vsyscall=emulate. It reports false where addr is none.
func (t *Task) vsyscall(addr usermem.Addr) bool {
	var no uint64
	switch addr {
	case vsyscallPage:
		no = unix.SYS_GETTIMEOFDAY
	case vsyscallPage + 0x400:
		no = unix.SYS_TIME
	case vsyscallPage + 0x800:
		no = unix.SYS_GETCPU
	default:
		return false
	}
	regs := &t.state.Regs
	ret, err := usermem.CopyInUint64(t.mm, usermem.Addr(regs.Rsp))
	if err != nil {
		t.ForceSignal(&signals.Info{Signo: int32(unix.SIGSEGV), Code: signals.CodeKernel})
		return true
	}
	v, err := t.k.Syscalls.Call(t, no)
	if err != nil {
		if errnoOf(err) == unix.EFAULT {
			t.ForceSignal(&signals.Info{Signo: int32(unix.SIGSEGV), Code: signals.CodeKernel})
			return true
		}
		v = failure(errnoOf(err))
	}
	regs.SetReturn(v)
	regs.Rip = ret
	regs.Rsp += 8
	return true
}
