package ptrace

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
)

// Requests of ptrace(2).
const (
	reqPeekText       = 1
	reqCont           = 7
	reqSysemu         = 31
	reqGetSigInfo     = 0x4202
	reqGetRegSet      = 0x4204
	reqSetRegSet      = 0x4205
	reqSeize          = 0x4206
	reqInterrupt      = 0x4207
	reqSetSigMask     = 0x420b
	reqGetSyscallInfo = 0x420e

	optSysGood  = 1
	optExitKill = 1 << 20

	eventStop = 128

	noteRegs   = 1     // NT_PRSTATUS
	noteXstate = 0x202 // NT_X86_XSTATE
)

// ptrace makes a request that neither blocks nor lasts, so that the Go
// scheduler need not hear of it.
func ptrace(req, tid int, addr, data uintptr) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	return e
}

// wait waits for a change of one tracee of this process.
func wait(tid int) (unix.WaitStatus, unix.Errno) {
	var status uint32
	for {
		// SAFETY: status lives until the call returns.
		_, _, e := unix.Syscall6(unix.SYS_WAIT4, uintptr(tid), uintptr(unsafe.Pointer(&status)), unix.WALL, 0, 0, 0)
		if e != unix.EINTR {
			return unix.WaitStatus(status), e
		}
	}
}

const (
	regsSize = unsafe.Sizeof(arch.Registers{})
	// generalSize is the part in front of the segment bases.
	generalSize = unsafe.Offsetof(arch.Registers{}.FsBase)
)

// getRegs reads the general registers.
func getRegs(tid int, r *arch.Registers) unix.Errno {
	// SAFETY: arch.Registers has the layout of struct user_regs_struct, and
	// r and v live until the call returns.
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(r)), Len: uint64(regsSize)}
	return ptrace(reqGetRegSet, tid, noteRegs, uintptr(unsafe.Pointer(&v)))
}

// setRegs writes the first size bytes of the general registers.
func setRegs(tid int, r *arch.Registers, size uintptr) unix.Errno {
	// SAFETY: as in getRegs; size is no larger than the struct.
	v := unix.Iovec{Base: (*byte)(unsafe.Pointer(r)), Len: uint64(size)}
	return ptrace(reqSetRegSet, tid, noteRegs, uintptr(unsafe.Pointer(&v)))
}

// getFP reads the XSAVE image, or as much of it as fits, and returns its length.
func getFP(tid int, b []byte) (int, unix.Errno) {
	// SAFETY: b and v live until the call returns.
	v := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	e := ptrace(reqGetRegSet, tid, noteXstate, uintptr(unsafe.Pointer(&v)))
	return int(v.Len), e
}

// setFP writes the XSAVE image, which must be whole.
func setFP(tid int, b []byte) unix.Errno {
	// SAFETY: as in getFP; the kernel only reads.
	v := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	return ptrace(reqSetRegSet, tid, noteXstate, uintptr(unsafe.Pointer(&v)))
}

// sigInfo is the start of a siginfo_t of an exception or of seccomp: both
// have an address behind the three integers.
type sigInfo struct {
	signo, errno, code int32
	_                  int32
	addr               uint64
	_                  [13]uint64
}

func getSigInfo(tid int, si *sigInfo) unix.Errno {
	// SAFETY: sigInfo has the 128 bytes of a siginfo_t and lives until the
	// call returns.
	return ptrace(reqGetSigInfo, tid, 0, uintptr(unsafe.Pointer(si)))
}

// peekText reads eight bytes of application memory.
func peekText(tid int, addr uint64) (uint64, unix.Errno) {
	var word uint64
	// SAFETY: the system call, unlike its wrapper in C, stores the word at the
	// address in data; word lives until the call returns.
	e := ptrace(reqPeekText, tid, uintptr(addr), uintptr(unsafe.Pointer(&word)))
	return word, e
}

// unblock empties a tracee's signal mask.
func unblock(tid int) unix.Errno {
	var none uint64
	// SAFETY: none lives until the call returns.
	return ptrace(reqSetSigMask, tid, unsafe.Sizeof(none), uintptr(unsafe.Pointer(&none)))
}

// syscallArch returns the AUDIT_ARCH value of the system call that a tracee
// has stopped at.
func syscallArch(tid int) (uint32, unix.Errno) {
	var info [8]uint32 // struct ptrace_syscall_info: op, arch, ip, sp, ...
	// SAFETY: the kernel writes no more than the size that it is given.
	e := ptrace(reqGetSyscallInfo, tid, unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)))
	return info[1], e
}

func tgkill(tgid, tid int, sig unix.Signal) {
	unix.RawSyscall(unix.SYS_TGKILL, uintptr(tgid), uintptr(tid), uintptr(sig))
}

func gettid() int {
	tid, _, _ := unix.RawSyscall(unix.SYS_GETTID, 0, 0, 0)
	return int(tid)
}

// quietChildren tells the kernel not to send SIGCHLD to the Sentry for every
// stop of a tracee. The handler, the Go runtime's own, stays: exits are told.
func quietChildren() error {
	const saNoCldStop = 1
	var act struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	// SAFETY: act has the layout of struct kernel_sigaction and lives until
	// the calls return. Only a flag is changed of what the runtime installed.
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), 0, uintptr(unsafe.Pointer(&act)), 8, 0, 0); e != 0 {
		return e
	}
	act.flags |= saNoCldStop
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0); e != 0 {
		return e
	}
	return nil
}

// cpuSet is a mask of CPUs as in sched_setaffinity(2).
type cpuSet [16]uint64

func setAffinity(tid int, s *cpuSet) {
	// SAFETY: s lives until the call returns. Failing is harmless: the thread
	// stays where it may run.
	unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
}

func getAffinity(tid int, s *cpuSet) unix.Errno {
	// SAFETY: s lives until the call returns.
	_, _, e := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
	return e
}

func getCPU() int {
	var cpu uint32
	// SAFETY: cpu lives until the call returns.
	unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	return int(cpu)
}
