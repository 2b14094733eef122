package arch

// Registers are the general registers of a task, in the layout of the
// kernel's struct user_regs_struct (ptrace(2), sys/user.h).
type Registers struct {
	R15, R14, R13, R12 uint64
	Rbp, Rbx           uint64
	R11, R10, R9, R8   uint64
	Rax, Rcx, Rdx      uint64
	Rsi, Rdi           uint64
	OrigRax            uint64
	Rip, Cs, Eflags    uint64
	Rsp, Ss            uint64
	FsBase, GsBase     uint64
	Ds, Es, Fs, Gs     uint64
}

// SyscallArgs are the six arguments of a system call.
type SyscallArgs [6]uint64

// SyscallNo returns the number of the system call that the task stopped at.
func (r *Registers) SyscallNo() uint64 { return r.OrigRax }

// SyscallArgs returns the arguments of the system call.
func (r *Registers) SyscallArgs() SyscallArgs {
	return SyscallArgs{r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9}
}

// Arg0 to Arg5 are the arguments of the system call.
func (r *Registers) Arg0() uint64 { return r.Rdi }
func (r *Registers) Arg1() uint64 { return r.Rsi }
func (r *Registers) Arg2() uint64 { return r.Rdx }
func (r *Registers) Arg3() uint64 { return r.R10 }
func (r *Registers) Arg4() uint64 { return r.R8 }
func (r *Registers) Arg5() uint64 { return r.R9 }

// SetReturn sets what the system call returns.
func (r *Registers) SetReturn(v uint64) { r.Rax = v }

// RestartSyscall moves the task back in front of its system call.
func (r *Registers) RestartSyscall() {
	r.Rax = r.OrigRax
	r.Rip -= 2
}

// State is all of a task's processor state.
type State struct {
	Regs Registers
	// FP is the XSAVE image, in the standard format (SDM vol. 1 §13.4), of
	// the size that FPSize gives. A platform may hold a newer one: see
	// platform.Context.PullFP.
	FP []byte
	// Vectors is what is still to be done with the vector state of a signal frame,
	// by the platform's Switch or by Settle.
	Vectors FrameVectors

	// frame is room for a frame or its vector state.
	frame []byte
}

// FrameVectors is vector state in a signal frame, at Addr in the application's
// memory, and what is to be done with it. The zero value is nothing.
type FrameVectors struct {
	Do   FrameOp
	Addr uint64
}

// FrameOp is one of the following.
type FrameOp uint8

const (
	// FrameSave: the current state is to be written there, and what programs start
	// with takes its place.
	FrameSave FrameOp = 1 + iota
	// FrameLoad: it is to become the current state, if it is one.
	FrameLoad
)

// Selectors of Linux on amd64 (arch/x86/include/asm/segment.h).
const (
	UserCs   = 0x33
	UserCs32 = 0x23
	UserDs   = 0x2b
)

// Bits of Eflags.
const (
	FlagCF = 1 << 0
	FlagPF = 1 << 2
	FlagAF = 1 << 4
	FlagZF = 1 << 6
	FlagSF = 1 << 7
	FlagTF = 1 << 8
	FlagIF = 1 << 9
	FlagDF = 1 << 10
	FlagOF = 1 << 11
	FlagNT = 1 << 14
	FlagRF = 1 << 16
	FlagAC = 1 << 18
	FlagID = 1 << 21

	// flagsUser are those that the application may have as it likes:
	// FIX_EFLAGS of rt_sigreturn(2), and what it can change by popf.
	flagsUser = FlagCF | FlagPF | FlagAF | FlagZF | FlagSF | FlagTF | FlagDF | FlagOF | FlagNT | FlagRF | FlagAC | FlagID
	flagsSet  = FlagIF | 1<<1
)

// taskSize is the end of user addresses. Segment bases beyond are refused by
// arch_prctl(2) and ptrace(2).
const taskSize = 0x7ffffffff000

// Sanitize makes r something that the host lets an application have, whatever
// it was: segment selectors of ring 3, no privileged flags, segment bases in
// user space. An instruction pointer that isn't canonical stays: going there
// faults, as it does on Linux.
func (r *Registers) Sanitize() {
	if r.Cs != UserCs && r.Cs != UserCs32 {
		r.Cs = UserCs
	}
	r.Ss = UserDs
	for _, s := range [...]*uint64{&r.Ds, &r.Es, &r.Fs, &r.Gs} {
		if *s &= 0xffff; *s != 0 {
			*s |= 3
		}
	}
	r.Eflags = r.Eflags&flagsUser | flagsSet
	if r.FsBase >= taskSize {
		r.FsBase = 0
	}
	if r.GsBase >= taskSize {
		r.GsBase = 0
	}
}
