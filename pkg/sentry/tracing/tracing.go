// Package tracing has what there is between a task and its tracer (ptrace(2)): what the
// tracer wants to be told of, the stop in which the task stands before it, and what may
// be asked of a task that stands.
//
//	Tracee  one task's part: it stands (Stand), is asked, and goes on (Continue)
//	Event   what a tracer may ask to be told of
//	Code    what wait(2) shows of a stop
//
// Who traces whom, the standing itself, registers and memory are the kernel's. A Tracee
// is guarded by the lock of whoever has it. It doesn't call anybody.
package tracing

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/waiter"
)

// Event is something that a tracer may ask to be told of, by the option (PTRACE_O_*)
// with this number.
type Event int32

const (
	Fork Event = 1 + iota
	Vfork
	Clone
	Exec
	VforkDone
	Exit
	Seccomp
	// stop isn't asked for: it is a stop of who was seized.
	stop Event = 128
)

// Options that are no events.
const (
	sysGood  = 1 << 0
	exitKill = 1 << 20
	// AllOptions are those that PTRACE_SETOPTIONS knows.
	AllOptions = 0xff | exitKill
)

// OfClone says which event a clone(2) with flags is, whose child sends exit at its end.
func OfClone(flags uint64, exit signals.Signal) Event {
	switch {
	case flags&unix.CLONE_VFORK != 0:
		return Vfork
	case exit != signals.Signal(unix.SIGCHLD):
		return Clone
	}
	return Fork
}

// Code is what wait(2) shows of a stop: a signal, and above it an Event.
type Code int32

// Code returns that of the stop in which e is told.
func (e Event) Code() Code { return Code(unix.SIGTRAP) | Code(e)<<8 }

// syscallBit tells stops of system calls from others (PTRACE_O_TRACESYSGOOD).
const syscallBit = 0x80

// Signal returns the signal.
func (c Code) Signal() int32 { return int32(c & 0x7f) }

func (c Code) event() Event { return Event(c >> 8) }

// Place is where a task stands, for PTRACE_GET_SYSCALL_INFO.
type Place uint8

// The values are those of struct ptrace_syscall_info.
const (
	Elsewhere Place = iota
	AtEntry
	AtExit
	AtSeccomp
)

// Tracee is a task's part in being traced. The zero Tracee isn't traced.
type Tracee struct {
	seized  bool
	options uint64

	// stopped: the task stands; unreported: wait(2) hasn't told of it; listening: it
	// goes on standing, but for its tracer it doesn't (PTRACE_LISTEN).
	stopped, unreported, listening bool
	code                           Code
	info                           *signals.Info
	message                        uint64
	resume                         *waiter.Gate
	signal                         signals.Signal // to go on with
}

// Begin says that the task is traced from now on; End that it isn't any more, which
// doesn't end a stop.
func (e *Tracee) Begin(seized bool, options uint64) {
	e.seized, e.options, e.message = seized, options, 0
}
func (e *Tracee) End() { e.seized, e.options = false, 0 }

// Seized reports whether tracing began with PTRACE_SEIZE.
func (e *Tracee) Seized() bool { return e.seized }

// Options returns what SetOptions, or Begin, has set.
func (e *Tracee) Options() uint64           { return e.options }
func (e *Tracee) SetOptions(options uint64) { e.options = options }

// Asked reports whether the tracer wants to be told of event.
func (e *Tracee) Asked(event Event) bool { return e.options>>event&1 != 0 }

// Kills reports whether the end of the tracer is the task's (PTRACE_O_EXITKILL).
func (e *Tracee) Kills() bool { return e.options&exitKill != 0 }

// Message returns what PTRACE_GETEVENTMSG tells.
func (e *Tracee) Message() uint64     { return e.message }
func (e *Tracee) SetMessage(m uint64) { e.message = m }

// AtSyscall has the task be about to stand at one end of a system call, AtEntry or AtExit,
// and returns with which code.
func (e *Tracee) AtSyscall(end Place) Code {
	e.message = uint64(end) // PTRACE_EVENTMSG_SYSCALL_ENTRY and _EXIT are these
	code := Code(unix.SIGTRAP)
	if e.options&sysGood != 0 {
		code |= syscallBit
	}
	return code
}

// GroupStop returns the code of a stop that job control asks for by signal s, or
// PTRACE_INTERRUPT, where that is zero.
func (e *Tracee) GroupStop(s signals.Signal) Code {
	switch {
	case !e.seized:
		return Code(s)
	case s == 0:
		return stop.Code()
	}
	return Code(s) | Code(stop)<<8
}

// Stand has the task stand with code, and info for PTRACE_GETSIGINFO, which may be
// nil. What it returns opens when the task is to go on.
func (e *Tracee) Stand(code Code, info *signals.Info) *waiter.Gate {
	e.stopped, e.unreported, e.listening = true, true, false
	e.code, e.info, e.signal = code, info, 0
	e.resume = new(waiter.Gate)
	return e.resume
}

// Continue lets the task go on, with signal s.
func (e *Tracee) Continue(s signals.Signal) {
	e.signal = s
	e.stopped, e.unreported, e.listening = false, false, false
	e.resume.Open()
}

// Over says that the task doesn't stand any more. It returns the signal to go on with.
func (e *Tracee) Over() signals.Signal {
	e.stopped, e.unreported, e.listening, e.info = false, false, false, nil
	return e.signal
}

// Stopped reports whether the task stands; Answers whether it does what its tracer asks.
func (e *Tracee) Stopped() bool { return e.stopped }
func (e *Tracee) Answers() bool { return e.stopped && !e.listening }

// Listen does PTRACE_LISTEN: EIO at any other stop than one of who was seized.
func (e *Tracee) Listen() error {
	if !e.seized || e.code.event() != stop {
		return unix.EIO
	}
	e.listening, e.unreported = true, false
	return nil
}

// Listening reports whether the task listens.
func (e *Tracee) Listening() bool { return e.listening }

// Relisten ends listening: what the task has waited for is a stop that is told. It
// reports false where it didn't listen.
func (e *Tracee) Relisten() bool {
	if !e.listening {
		return false
	}
	e.listening, e.unreported = false, true
	e.code = stop.Code()
	return true
}

// Report returns the code of a stop that wait(2) hasn't told of; it has then, unless
// keep is set.
func (e *Tracee) Report(keep bool) (code Code, ok bool) {
	if !e.stopped || !e.unreported {
		return 0, false
	}
	e.unreported = keep
	return e.code, true
}

// Code returns that of the stop.
func (e *Tracee) Code() Code { return e.code }

// Place returns where the task stands. Without PTRACE_O_TRACESYSGOOD stops of system
// calls aren't told from others.
func (e *Tracee) Place() Place {
	switch e.code {
	case Code(unix.SIGTRAP) | syscallBit:
		if e.message == uint64(AtEntry) || e.message == uint64(AtExit) {
			return Place(e.message)
		}
	case Seccomp.Code():
		return AtSeccomp
	}
	return Elsewhere
}

// Info does PTRACE_GETSIGINFO, and PTRACE_SETSIGINFO if n isn't nil: EINVAL at a stop
// that has none.
func (e *Tracee) Info(n *signals.Info) (signals.Info, error) {
	if e.info == nil {
		return signals.Info{}, unix.EINVAL
	}
	old := *e.info
	if n != nil {
		*e.info = *n
	}
	return old, nil
}
