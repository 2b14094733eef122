package arch

import "golang.org/x/sys/unix"

// NewState returns a state with empty registers and fresh vector state.
func NewState() *State {
	s := &State{FP: NewFP()}
	s.Regs.Sanitize()
	return s
}

// Exec makes s what execve(2) leaves: everything is zero but for where the
// program starts and where its stack is. The vector state is reset in place; the
// platform's DropFP comes after it.
func (s *State) Exec(entry, stack uint64) {
	s.Regs = Registers{Rip: entry, Rsp: stack, OrigRax: ^uint64(0)}
	s.Regs.Sanitize()
	ResetFP(s.FP)
	s.Vectors = FrameVectors{}
}

// Clone returns a copy, for fork(2) and clone(2). The platform's PullFP comes
// before it.
func (s *State) Clone() *State {
	c := &State{Regs: s.Regs, FP: make([]byte, len(s.FP))}
	copy(c.FP, s.FP)
	return c
}

// IP returns the instruction pointer, SP the stack pointer.
func (r *Registers) IP() uint64 { return r.Rip }
func (r *Registers) SP() uint64 { return r.Rsp }

// SetSP sets the stack pointer.
func (r *Registers) SetSP(v uint64) { r.Rsp = v }

// SetTLS sets the thread pointer, as CLONE_SETTLS and ARCH_SET_FS do. It fails
// with EPERM where the address isn't a user's.
func (r *Registers) SetTLS(v uint64) error {
	if v >= taskSize {
		return unix.EPERM
	}
	r.Fs, r.FsBase = 0, v
	return nil
}

// SetGSBase is ARCH_SET_GS.
func (r *Registers) SetGSBase(v uint64) error {
	if v >= taskSize {
		return unix.EPERM
	}
	r.Gs, r.GsBase = 0, v
	return nil
}

const sysRestartSyscall = 219

// ResumeSyscall moves the task back in front of its system call so that it
// makes restart_syscall(2) instead: for calls whose arguments must be adjusted,
// such as a wait with a relative timeout (ERESTART_RESTARTBLOCK).
func (r *Registers) ResumeSyscall() {
	r.Rax = sysRestartSyscall
	r.Rip -= 2
}
