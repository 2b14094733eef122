// Package platform says what it takes to run application code: an
// AddressSpace holds mappings of host files at the application's addresses, a
// Context runs one task's registers in an AddressSpace until the application
// does something that the Sentry must see.
//
// Implementations live in packages below this one. All of them pass the suite
// in test/platform-test. Nothing here knows of tasks, files or system calls.
//
// Concurrency: Platform and AddressSpace are safe for concurrent use. A Context
// belongs to one goroutine, but for Interrupt, which anybody may call.
package platform

import (
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/usermem"
)

// File is a host file that can be mapped into an AddressSpace.
type File interface {
	// FD returns the host descriptor in the Sentry. It stays the same, and
	// open, as long as any AddressSpace maps the File. A platform may hand
	// the descriptor to another process once and remember it by this value
	// until Forget is called on the platform.
	FD() int
}

// Platform makes address spaces and contexts.
type Platform interface {
	// Name is what --platform calls it.
	Name() string
	// UserRange is the range of addresses that applications may map; it is
	// page-aligned. What the platform keeps for itself lies outside.
	UserRange() usermem.AddrRange
	// NewAddressSpace returns an empty address space, to be given up with
	// Release. It is on the path of
	// fork(2): make it ready beforehand.
	NewAddressSpace() (AddressSpace, error)
	// NewContext returns a context for a new task.
	NewContext() Context
	// Forget drops what the platform remembers about fd, before it is closed.
	// No MapFile of it may be put off: Flush comes first. What is mapped stays.
	Forget(fd int)
}

// Cooperator is a Platform whose Switch leaves nothing behind in its host thread, so
// that contexts can be coroutines, and that says when it is about to wait.
type Cooperator interface {
	// Cooperate says with whom. It is called before the first NewContext.
	Cooperate(Scheduler)
}

// Scheduler runs contexts that are coroutines.
type Scheduler interface {
	// Waiting reports whether a context waits that could run in this one's stead.
	Waiting() bool
	// Away is called before a Switch sleeps until the application comes back, unless
	// that is likely to be soon, and Back when it has come.
	Away()
	Back()
}

// AddressSpace is the host side of one application address space.
//
// Operations take effect in the order of the calls. MapFile may be put off
// until the next Switch of any context in the address space; Unmap and Protect
// may be put off only while no other context runs in it. After Flush, all have
// taken effect: pages that were unmapped can be given to somebody else.
type AddressSpace interface {
	// MapFile maps length bytes of f from offset on at addr, in place of what
	// was there. All are page-aligned, and the range lies in UserRange:
	// otherwise it is EINVAL. With precommit the host's page tables are filled
	// at once (MAP_POPULATE). Else it fails only where the host does (ENOMEM:
	// too many mappings; EACCES: the descriptor doesn't permit access). Where
	// the mapping was put off, the next MapFile fails in its stead, and its
	// range is not mapped.
	MapFile(addr usermem.Addr, f File, offset, length uint64, access usermem.Access, precommit bool) error
	// Unmap removes what is mapped in r. A platform may at any time unmap more
	// than it was asked to (the host may refuse to cut a mapping in two): what
	// is missing shows as a fault and is mapped again. Unmap and Protect can't
	// fail; where nothing else helps the address space is lost.
	Unmap(r usermem.AddrRange)
	// Protect changes the access of what is mapped in r; holes are skipped.
	Protect(r usermem.AddrRange, access usermem.Access)
	// Flush makes all earlier operations take effect.
	Flush()
	// Inherit says that the application of the address space, which hasn't run
	// yet, is what the one in old turns into, with no more rights than it has
	// (execve(2)): the platform may go on with what old has of the host. No
	// context is in Switch with either, and old is only released afterwards.
	Inherit(old AddressSpace)
	// Release gives the address space up. No context is in Switch with it, and
	// vector state that is to live on has been fetched with PullFP.
	// What it maps is unmapped by the time Release returns.
	Release()
}

// Abandoner is an AddressSpace that can be given up without waiting until it is
// unmapped.
type Abandoner interface {
	AddressSpace
	// Abandon is Release, but for that what is mapped is unmapped by the time
	// done is called: before Abandon returns, or later and by somebody else, who
	// holds no lock.
	Abandon(done func())
}

// EventKind says why application code stopped.
type EventKind uint8

const (
	// EventSyscall: a syscall instruction. The number is in OrigRax of the
	// registers and Rip is behind the instruction. Rax isn't defined: every
	// call ends with SetReturn, RestartSyscall or other registers.
	EventSyscall EventKind = iota + 1
	// EventFault: the processor raised an exception, described as the signal
	// that Linux would send: SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGTRAP. Rip
	// is what Linux would show in the signal frame. A jump into the vsyscall
	// page is a page fault with access Execute and Addr == Rip there, with the
	// return address on the stack. A 32-bit system call (int 0x80, sysenter)
	// is the SIGSEGV of a kernel without them.
	EventFault
	// EventInterrupted: Interrupt was called, or the platform lost the
	// processor. Registers are between two instructions. Where Access isn't zero,
	// the platform couldn't answer a call without the page of Addr.
	EventInterrupted
	// EventFrame: the platform can't do what state.Vectors says; the registers are
	// as they were. The caller does it (arch.State.Settle).
	EventFrame
)

// Event is what stopped application code.
type Event struct {
	Kind EventKind
	// For EventFault: the signal's number, si_code and si_addr.
	Signo int32
	Code  int32
	Addr  usermem.Addr
	// For a page fault (SIGSEGV with code SEGV_MAPERR or SEGV_ACCERR, SIGBUS
	// with BUS_ADRERR): what the instruction tried, exactly one of Read, Write
	// and Execute. Zero for other exceptions (a general protection fault has
	// code SI_KERNEL). Code and bit 0 of ErrorCode say what the host found in
	// its page tables, not what the memory manager knows.
	Access usermem.Access
	// TrapNo and ErrorCode are the exception's vector and error code, for the
	// signal frame (sigcontext's trapno and err).
	TrapNo    uint64
	ErrorCode uint64
	// Rewrite, of an EventSyscall, says that this instruction has called often
	// and costs more than a CallEntry would. It comes with an AddressSpace that
	// is a CallRewriter only.
	Rewrite bool
}

// CallRewriter is an AddressSpace in which a jump can take the place of a
// syscall instruction, for less than the instruction costs. Whoever rewrites
// code has it jump to a trampoline, anywhere in the application's memory. For
// an instruction with a cmp behind it, which sets the flags, it has this form:
//
//	        lea  tail(%rip), %rcx
//	        jmp  CallEntry
//	        syscall
//	tail:   cmp  $imm32, %rax
//	        jmp  next               // rel32
//
// The event is the same as if a syscall instruction had stood in front of a cmp
// in front of next, and what is in registers then is what the instruction leaves
// there, but for those flags in r11. A Switch with Rip at that cmp, six bytes in
// front of next, goes on at tail, as long as neither Retire nor Expel was called
// since the event. The other form is for an instruction in front of the syscall
// instruction, which is carried out elsewhere:
//
//	insn
//	lea  next(%rip), %r11
//	jmp  PlainCallEntry
//
// The event is the same as if a syscall instruction had stood in front of next. Where
// the platform can't do better it goes there: to next-2.
//
// Other events may show an Rip within a trampoline, and where the platform
// can't do better a system call of the first form is made by the instruction in
// it, its event showing an Rip of tail.
type CallRewriter interface {
	AddressSpace
	// CallEntry and PlainCallEntry are the addresses to jump to.
	CallEntry() usermem.Addr
	PlainCallEntry() usermem.Addr
	// Retire says that code with a trampoline may have changed: calls that are
	// under way return to it, not to the trampoline.
	Retire()
	// Expel is Retire, and has each Switch return that is under way. When it
	// returns no context runs, or will return to, a trampoline that nothing
	// jumps to any more. No context in Switch waits for the caller.
	Expel()
}

// Answers are what some system calls of a task return until the task itself changes
// it, or somebody else who calls NoAnswers first; or NoAnswer.
type Answers struct {
	PID, TID, PPID, UID, EUID, GID, EGID uint32
	// CPU is what getcpu(2) tells, on node 0: a number, or CPUUpTo|n for that of the
	// processor that the task is on where it is n at most.
	CPU uint32
	// Clocks says that calls may be answered that read clocks (ClockReader), and
	// sched_yield(2).
	Clocks bool
}

// NoAnswer in Answers says that the Sentry is to be asked.
const NoAnswer = ^uint32(0)

// CPUUpTo is a bit of Answers.CPU.
const CPUUpTo = 1 << 31

// ClockReader is a Platform that can answer calls that read clocks.
type ClockReader interface {
	Platform
	// ShareClocks says that the page at offset of f is a clock.Page, for as long
	// as the platform lives.
	ShareClocks(f File, offset uint64) error
}

// Answerer is a Context that can answer system calls without an event.
type Answerer interface {
	Context
	// Answer sets what to answer from the next Switch on; nil is nothing. a
	// doesn't change any more. The context's goroutine calls it, between two
	// Switches.
	Answer(a *Answers)
	// NoAnswers has no call answered that begins after it has returned, until
	// the next Answer. Anybody may call it.
	NoAnswers()
}

// Context runs the code of one task.
type Context interface {
	// Switch loads state, runs application code in as until an event, and
	// stores the general registers back. Floating-point and vector state may
	// stay behind, in the host thread or elsewhere, until PullFP.
	//
	// Switch may leave the calling goroutine locked to its thread, until Park
	// or Release; one of them comes before the goroutine ends.
	//
	// Before application code runs, and only then, Switch does what state.Vectors
	// says and empties that, or returns EventFrame.
	//
	// state.Regs and state.FP may hold anything: what the processor would
	// refuse is changed as rt_sigreturn(2) does (arch.Registers.Sanitize,
	// arch.SanitizeFP), also in state.
	//
	// An error means that the address space's host process is lost, by the
	// application's doing or the host's; the address space can't run again.
	Switch(as AddressSpace, state *arch.State) (Event, error)
	// PullFP makes state.FP current. The caller may then read and change it;
	// the next Switch loads it. It comes before any change, after Park as
	// well, but is not needed for a state with another FP slice.
	PullFP(state *arch.State)
	// DropFP says that state.FP is current, having been changed without PullFP.
	DropFP()
	// Park says that the goroutine is about to wait, or will run the context
	// on another thread: what is left behind doesn't need it, and the goroutine is
	// unlocked. It is cheap when there is nothing to do.
	Park(state *arch.State)
	// Interrupt makes the Switch that is under way return EventInterrupted,
	// and otherwise the next one, at once. When another event comes first,
	// that is returned and the Switch after it is interrupted. Several calls
	// before a Switch returns for it count as one.
	Interrupt()
	// Heed says that what Interrupt was called for up to now is seen to: no Switch
	// returns for that. The context's goroutine calls it, between two Switches.
	Heed()
	// Release gives the context up. It is not in Switch.
	Release()
}
