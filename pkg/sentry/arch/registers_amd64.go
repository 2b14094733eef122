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
}
