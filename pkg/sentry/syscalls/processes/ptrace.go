package processes

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/tracing"
	"vitrine/pkg/usermem"
)

var ptraceRows = []call.Row{
	call.Partial(unix.SYS_PTRACE, "ptrace", call.Args4(ptrace),
		"no debug registers (hardware breakpoints and watchpoints), PTRACE_SECCOMP_GET_FILTER, PTRACE_GET_THREAD_AREA"),
}

// Places in struct user (sys/user.h).
const (
	userRegsSize  = 27 * 8
	userDebugRegs = 848
	userSize      = 912
	fxsaveSize    = 512
	fxsaveXCR0    = 464 // what PTRACE_GETREGSET tells in the area for software
)

// Register sets of PTRACE_GETREGSET (elf.h).
const (
	ntPRStatus  = 1
	ntPRFPReg   = 2
	ntX86XState = 0x202
)

const ptracePeekSigInfoShared = 1

func ptrace(t *kernel.Task, request int64, pid call.PID, addr, data uint64) (uint64, error) {
	if request == unix.PTRACE_TRACEME {
		return 0, t.TraceMe()
	}
	o := t.PIDNamespace().Task(int32(pid))
	if o == nil {
		return 0, unix.ESRCH
	}
	switch request {
	case unix.PTRACE_ATTACH:
		return 0, t.Attach(o, false, 0)
	case unix.PTRACE_SEIZE:
		if addr != 0 || data&^tracing.AllOptions != 0 {
			return 0, unix.EIO
		}
		return 0, t.Attach(o, true, data)
	case unix.PTRACE_INTERRUPT:
		return 0, t.Interrupt(o)
	case unix.PTRACE_KILL:
		return 0, t.KillTrace(o)
	}
	if err := t.TraceTarget(o, func(*tracing.Tracee, *arch.State) error { return nil }); err != nil {
		return 0, err
	}
	switch request {
	case unix.PTRACE_PEEKTEXT, unix.PTRACE_PEEKDATA:
		var b [8]byte
		if err := accessTraced(o, func(m *mm.MemoryManager) (int, error) { return m.CopyInForce(usermem.Addr(addr), b[:]) }); err != nil {
			return 0, err
		}
		return 0, usermem.CopyOutUint64(t.MM(), usermem.Addr(data), call.U64(b[:]))
	case unix.PTRACE_POKETEXT, unix.PTRACE_POKEDATA:
		var w call.Writer
		w.U64(data)
		return 0, accessTraced(o, func(m *mm.MemoryManager) (int, error) { return m.CopyOutForce(usermem.Addr(addr), w.Buf) })
	case unix.PTRACE_PEEKUSR:
		return 0, peekUser(t, o, addr, usermem.Addr(data))
	case unix.PTRACE_POKEUSR:
		return 0, pokeUser(t, o, addr, data)
	case unix.PTRACE_GETREGS:
		return 0, getRegisters(t, o, ntPRStatus, usermem.Addr(data), userRegsSize)
	case unix.PTRACE_SETREGS:
		return 0, setRegisters(t, o, ntPRStatus, usermem.Addr(data), userRegsSize)
	case unix.PTRACE_GETFPREGS:
		return 0, getRegisters(t, o, ntPRFPReg, usermem.Addr(data), fxsaveSize)
	case unix.PTRACE_SETFPREGS:
		return 0, setRegisters(t, o, ntPRFPReg, usermem.Addr(data), fxsaveSize)
	case unix.PTRACE_GETREGSET, unix.PTRACE_SETREGSET:
		return 0, registerSet(t, o, addr, usermem.Addr(data), request == unix.PTRACE_SETREGSET)
	case unix.PTRACE_ARCH_PRCTL:
		return 0, traceArchPrctl(t, o, int32(data), addr)
	case unix.PTRACE_SETOPTIONS:
		if data&^tracing.AllOptions != 0 {
			return 0, unix.EINVAL
		}
		return 0, t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
			e.SetOptions(data)
			return nil
		})
	case unix.PTRACE_GETEVENTMSG:
		var m uint64
		err := t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
			m = e.Message()
			return nil
		})
		if err != nil {
			return 0, err
		}
		return 0, usermem.CopyOutUint64(t.MM(), usermem.Addr(data), m)
	case unix.PTRACE_GETSIGINFO:
		i, err := traceInfo(t, o, nil)
		if err != nil {
			return 0, err
		}
		b := i.Bytes()
		_, err = t.MM().CopyOut(usermem.Addr(data), b[:])
		return 0, err
	case unix.PTRACE_SETSIGINFO:
		var b [signals.InfoSize]byte
		if _, err := t.MM().CopyIn(usermem.Addr(data), b[:]); err != nil {
			return 0, err
		}
		var i signals.Info
		i.FromBytes(&b)
		_, err := traceInfo(t, o, &i)
		return 0, err
	case unix.PTRACE_GETSIGMASK, unix.PTRACE_SETSIGMASK:
		return 0, traceMask(t, o, addr, usermem.Addr(data), request == unix.PTRACE_SETSIGMASK)
	case unix.PTRACE_PEEKSIGINFO:
		return peekSigInfo(t, o, usermem.Addr(addr), usermem.Addr(data))
	case getSyscallInfo:
		return syscallInfo(t, o, addr, usermem.Addr(data))
	case unix.PTRACE_LISTEN:
		return 0, t.ListenTrace(o)
	}
	if how, ok := resumptions[request]; ok {
		if data > 64 {
			return 0, unix.EIO
		}
		return 0, t.ResumeTrace(o, how, signals.Signal(data))
	}
	return 0, unix.EIO
}

// accessTraced accesses a stopped task's memory whatever its protection.
func accessTraced(o *kernel.Task, f func(m *mm.MemoryManager) (int, error)) error {
	m := o.SharedMM()
	if m == nil {
		return unix.ESRCH
	}
	defer m.DecUsers()
	if _, err := f(m); err != nil {
		return unix.EIO
	}
	return nil
}

// traceInfo does PTRACE_GETSIGINFO, and PTRACE_SETSIGINFO if n isn't nil.
func traceInfo(t, o *kernel.Task, n *signals.Info) (i signals.Info, err error) {
	err = t.TraceTarget(o, func(e *tracing.Tracee, _ *arch.State) error {
		i, err = e.Info(n)
		return err
	})
	return i, err
}

// getSyscallInfo is PTRACE_GET_SYSCALL_INFO, of Linux 5.3.
const getSyscallInfo = 0x420e

// syscallInfo writes a struct ptrace_syscall_info, as much as size bytes have room
// for, and returns how much there is of it.
func syscallInfo(t, o *kernel.Task, size uint64, a usermem.Addr) (uint64, error) {
	var w call.Writer
	err := t.TraceTarget(o, func(e *tracing.Tracee, s *arch.State) error {
		place, r := e.Place(), &s.Regs
		w.U32(uint32(place)) // op, and three bytes of padding
		w.U32(callfilter.AuditArch)
		w.U64(r.Rip)
		w.U64(r.Rsp)
		switch place {
		case tracing.AtEntry, tracing.AtSeccomp:
			w.U64(r.SyscallNo())
			for _, v := range r.SyscallArgs() {
				w.U64(v)
			}
			if place == tracing.AtSeccomp {
				w.U32(uint32(e.Message()))
			}
		case tracing.AtExit:
			w.U64(r.Rax)
			failed := byte(0)
			if r.Rax > ^uint64(4095) {
				failed = 1
			}
			w.Buf = append(w.Buf, failed)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	_, err = t.MM().CopyOut(a, w.Buf[:min(size, uint64(len(w.Buf)))])
	return uint64(len(w.Buf)), err
}

var resumptions = map[int64]kernel.Resumption{
	unix.PTRACE_CONT: kernel.ResumeRun, unix.PTRACE_SYSCALL: kernel.ResumeSyscall, unix.PTRACE_SINGLESTEP: kernel.ResumeStep,
	unix.PTRACE_SYSEMU: kernel.ResumeSysemu, unix.PTRACE_SYSEMU_SINGLESTEP: kernel.ResumeSysemuStep,
	unix.PTRACE_DETACH: kernel.ResumeDetach,
}

// registersOf encodes and setRegistersOf decodes a struct user_regs_struct.
func registersOf(r *arch.Registers) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, r)
	if err != nil {
		panic(err) // a struct of integers
	}
	return b
}

// setRegistersOf changes r as far as an application may: EIO for segments that
// aren't of ring 3 and bases beyond user space.
func setRegistersOf(r *arch.Registers, b []byte) error {
	n := *r
	if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &n); err != nil {
		return unix.EIO
	}
	for _, s := range [...]uint64{n.Ds, n.Es, n.Fs, n.Gs} {
		if s != 0 && s&3 != 3 {
			return unix.EIO
		}
	}
	if n.Cs&3 != 3 || n.Ss&3 != 3 {
		return unix.EIO
	}
	bases := arch.Registers{}
	if bases.SetTLS(n.FsBase) != nil || bases.SetGSBase(n.GsBase) != nil {
		return unix.EIO
	}
	n.Sanitize()
	*r = n
	return nil
}

// readSetOf returns a register set of a task that stands.
func readSetOf(t, o *kernel.Task, set uint64) (b []byte, err error) {
	err = t.TraceTarget(o, func(_ *tracing.Tracee, s *arch.State) error {
		switch set {
		case ntPRStatus:
			b = registersOf(&s.Regs)
		case ntPRFPReg:
			b = append(b, s.FP[:fxsaveSize]...)
		case ntX86XState:
			b = append(b, s.FP...)
			binary.LittleEndian.PutUint64(b[fxsaveXCR0:], arch.FPFeatures())
		default:
			return unix.EINVAL
		}
		return nil
	})
	return b, err
}

func writeSetOf(t, o *kernel.Task, set uint64, b []byte) error {
	return t.TraceTarget(o, func(_ *tracing.Tracee, s *arch.State) error {
		switch set {
		case ntPRStatus:
			all := registersOf(&s.Regs)
			copy(all, b)
			return setRegistersOf(&s.Regs, all)
		case ntPRFPReg, ntX86XState:
			fp := append([]byte(nil), s.FP...)
			if set == ntX86XState && len(b) != len(fp) {
				return unix.EFAULT
			}
			if set == ntX86XState {
				copy(fp, b)
				clear(fp[fxsaveXCR0:fxsaveSize])
			} else {
				copy(fp[:fxsaveXCR0], b)
				x := fp[fxsaveSize:]
				binary.LittleEndian.PutUint64(x, call.U64(x)|arch.FeatureX87|arch.FeatureSSE)
			}
			if arch.CheckFP(fp) != nil {
				return unix.EINVAL
			}
			copy(s.FP, fp)
			return nil
		}
		return unix.EINVAL
	})
}

func getRegisters(t, o *kernel.Task, set uint64, a usermem.Addr, n int) error {
	b, err := readSetOf(t, o, set)
	if err != nil {
		return err
	}
	if _, err := t.MM().CopyOut(a, b[:n]); err != nil {
		return unix.EIO
	}
	return nil
}

func setRegisters(t, o *kernel.Task, set uint64, a usermem.Addr, n int) error {
	b := make([]byte, n)
	if _, err := t.MM().CopyIn(a, b); err != nil {
		return unix.EIO
	}
	return writeSetOf(t, o, set, b)
}

// registerSet does PTRACE_GETREGSET and PTRACE_SETREGSET: a struct iovec says
// where and how much, and is told how much it was.
func registerSet(t, o *kernel.Task, set uint64, iov usermem.Addr, write bool) error {
	var v [16]byte
	if _, err := t.MM().CopyIn(iov, v[:]); err != nil {
		return err
	}
	b, err := readSetOf(t, o, set)
	if err != nil {
		return err
	}
	base, n := usermem.Addr(call.U64(v[:])), call.U64(v[8:])
	if n&7 != 0 {
		return unix.EINVAL
	}
	b = b[:min(n, uint64(len(b)))]
	if write {
		if _, err := t.MM().CopyIn(base, b); err != nil {
			return err
		}
		if err := writeSetOf(t, o, set, b); err != nil {
			return err
		}
	} else if _, err := t.MM().CopyOut(base, b); err != nil {
		return err
	}
	return usermem.CopyOutUint64(t.MM(), iov+8, uint64(len(b)))
}

func peekUser(t, o *kernel.Task, at uint64, to usermem.Addr) error {
	if at&7 != 0 || at > userSize-8 {
		return unix.EIO
	}
	var v uint64
	if at < userRegsSize {
		b, err := readSetOf(t, o, ntPRStatus)
		if err != nil {
			return err
		}
		v = call.U64(b[at:])
	}
	return usermem.CopyOutUint64(t.MM(), to, v)
}

func pokeUser(t, o *kernel.Task, at, v uint64) error {
	if at&7 != 0 || at > userSize-8 {
		return unix.EIO
	}
	if at >= userRegsSize {
		if at >= userDebugRegs && v == 0 {
			return nil // nothing is set, as before
		}
		return unix.EIO
	}
	return t.TraceTarget(o, func(_ *tracing.Tracee, s *arch.State) error {
		b := registersOf(&s.Regs)
		binary.LittleEndian.PutUint64(b[at:], v)
		return setRegistersOf(&s.Regs, b)
	})
}

func traceArchPrctl(t, o *kernel.Task, code int32, a uint64) error {
	var v uint64
	err := t.TraceTarget(o, func(_ *tracing.Tracee, s *arch.State) error {
		switch code {
		case 0x1001:
			return s.Regs.SetGSBase(a)
		case 0x1002:
			return s.Regs.SetTLS(a)
		case 0x1003:
			v = s.Regs.FsBase
		case 0x1004:
			v = s.Regs.GsBase
		default:
			return unix.EINVAL
		}
		return nil
	})
	if err != nil || code < 0x1003 {
		return err
	}
	return usermem.CopyOutUint64(t.MM(), usermem.Addr(a), v)
}

func traceMask(t, o *kernel.Task, size uint64, a usermem.Addr, write bool) error {
	if size != 8 {
		return unix.EINVAL
	}
	if write {
		v, err := usermem.CopyInUint64(t.MM(), a)
		if err != nil {
			return err
		}
		s := signals.Set(v)
		_, err = t.TraceMask(o, &s)
		return err
	}
	m, err := t.TraceMask(o, nil)
	if err != nil {
		return err
	}
	return usermem.CopyOutUint64(t.MM(), a, uint64(m))
}

// peekSigInfo does PTRACE_PEEKSIGINFO and returns how many it found.
func peekSigInfo(t, o *kernel.Task, args, to usermem.Addr) (uint64, error) {
	var b [16]byte // struct ptrace_peeksiginfo_args
	if _, err := t.MM().CopyIn(args, b[:]); err != nil {
		return 0, err
	}
	offset, flags, n := call.U64(b[:]), call.U32(b[8:]), int32(call.U32(b[12:]))
	if flags&^ptracePeekSigInfoShared != 0 || n < 0 {
		return 0, unix.EINVAL
	}
	all, err := t.TracePending(o, flags&ptracePeekSigInfoShared != 0, offset, int(n))
	if err != nil {
		return 0, err
	}
	for i := range all {
		s := all[i].Bytes()
		if _, err := t.MM().CopyOut(to+usermem.Addr(i*len(s)), s[:]); err != nil {
			if i > 0 {
				return uint64(i), nil
			}
			return 0, err
		}
	}
	return uint64(len(all)), nil
}
