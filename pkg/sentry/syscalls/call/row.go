// Package call is what the families of system calls stand on: the row that
// describes a call, the types of arguments, and what handlers of several
// families need to decode arguments, to wait, and to encode results.
//
// A handler is a function of the task and of arguments that have types (FD,
// PathPtr, ...); Args0 to Args6 make a Handler of it, which takes registers.
// The types print themselves, so that a Row can show its call in a log. What is
// done by a conversion or through a function value costs a call nothing: there
// is no look-up by type or name when a call is made.
//
// Handlers run on the task's goroutine and hold no locks of their own. They
// check arguments in Linux's order, and read all they need of the application's
// memory before they change anything.
package call

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/kernel"
)

// Level says how much of a call is there.
type Level uint8

const (
	// LevelMissing: ENOSYS.
	LevelMissing Level = iota
	// LevelPartial: the note says what isn't there.
	LevelPartial
	// LevelFull: everything that Linux 4.4 documents.
	LevelFull
	// LevelRefused: always the error in the note, as Linux gives it where the
	// feature is off.
	LevelRefused
)

func (l Level) String() string {
	return [...]string{"missing", "partial", "full", "refused"}[l]
}

// Row is one system call.
type Row struct {
	Number uint64
	Name   string
	Level  Level
	// Note says what isn't there of a partial call, and why one is refused.
	Note string
	// Handle carries the call out; nil where it is missing.
	Handle Handler
	args   []argument
}

// Handler carries out a call whose arguments are in r, which are the task's own.
type Handler func(t *kernel.Task, r *arch.Registers) (uint64, error)

// integer is what an argument can be: something that fits a register.
type integer interface {
	~int | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// Full is a call of which everything is there.
func Full(no uint64, name string, h Typed) Row {
	return Row{Number: no, Name: name, Level: LevelFull, Handle: h.call, args: h.args}
}

// Partial is a call of which something is missing, as note says.
func Partial(no uint64, name string, h Typed, note string) Row {
	return Row{Number: no, Name: name, Level: LevelPartial, Note: note, Handle: h.call, args: h.args}
}

// Refused is a call that always fails with e, for the reason in note.
func Refused(no uint64, name string, e unix.Errno, note string) Row {
	return Row{Number: no, Name: name, Level: LevelRefused, Note: note, Handle: func(*kernel.Task, *arch.Registers) (uint64, error) { return 0, e }}
}

// Typed is a handler with the types of its arguments.
type Typed struct {
	call Handler
	args []argument
}

// Args0 takes a handler without arguments.
func Args0(f func(*kernel.Task) (uint64, error)) Typed {
	return Typed{call: func(t *kernel.Task, _ *arch.Registers) (uint64, error) { return f(t) }}
}

// Args1 takes a handler of one argument.
func Args1[A integer](f func(*kernel.Task, A) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) { return f(t, A(r.Arg0())) }, []argument{arg[A]()}}
}

// Args2 takes a handler of two arguments.
func Args2[A, B integer](f func(*kernel.Task, A, B) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) {
		return f(t, A(r.Arg0()), B(r.Arg1()))
	},
		[]argument{arg[A](), arg[B]()}}
}

// Args3 takes a handler of three arguments.
func Args3[A, B, C integer](f func(*kernel.Task, A, B, C) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) {
		return f(t, A(r.Arg0()), B(r.Arg1()), C(r.Arg2()))
	},
		[]argument{arg[A](), arg[B](), arg[C]()}}
}

// Args4 takes a handler of four arguments.
func Args4[A, B, C, D integer](f func(*kernel.Task, A, B, C, D) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) {
		return f(t, A(r.Arg0()), B(r.Arg1()), C(r.Arg2()), D(r.Arg3()))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D]()}}
}

// Args5 takes a handler of five arguments.
func Args5[A, B, C, D, E integer](f func(*kernel.Task, A, B, C, D, E) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) {
		return f(t, A(r.Arg0()), B(r.Arg1()), C(r.Arg2()), D(r.Arg3()), E(r.Arg4()))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D](), arg[E]()}}
}

// Args6 takes a handler of six arguments.
func Args6[A, B, C, D, E, F integer](f func(*kernel.Task, A, B, C, D, E, F) (uint64, error)) Typed {
	return Typed{func(t *kernel.Task, r *arch.Registers) (uint64, error) {
		return f(t, A(r.Arg0()), B(r.Arg1()), C(r.Arg2()), D(r.Arg3()), E(r.Arg4()), F(r.Arg5()))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D](), arg[E](), arg[F]()}}
}

// Format returns how the arguments of a call are shown in a log.
func (r *Row) Format(t *kernel.Task, args *arch.SyscallArgs) []string {
	if r.Handle == nil || r.args == nil {
		return nil
	}
	out := make([]string, len(r.args))
	for i, a := range r.args {
		out[i] = a(t, args[i])
	}
	return out
}
