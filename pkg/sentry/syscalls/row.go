package syscalls

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/kernel"
)

// Level says how much of a call is there.
type Level uint8

const (
	// Missing: ENOSYS.
	Missing Level = iota
	// Partial: the note says what isn't there.
	Partial
	// Full: everything that Linux 4.4 documents.
	Full
	// Refused: always the error in the note, as Linux gives it where the
	// feature is off.
	Refused
)

func (l Level) String() string {
	return [...]string{"missing", "partial", "full", "refused"}[l]
}

// Row is one system call.
type Row struct {
	Number uint64
	Name   string
	Level  Level
	Note   string
	call   handler
	args   []argument
}

// handler carries out a call.
type handler func(t *kernel.Task, args *arch.SyscallArgs) (uint64, error)

// integer is what an argument can be: something that fits a register.
type integer interface {
	~int | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

func full(no uint64, name string, h typed) Row {
	return Row{Number: no, Name: name, Level: Full, call: h.call, args: h.args}
}

func partial(no uint64, name string, h typed, note string) Row {
	return Row{Number: no, Name: name, Level: Partial, Note: note, call: h.call, args: h.args}
}

// refused is a call that always fails with e.
func refused(no uint64, name string, e unix.Errno, note string) Row {
	return Row{Number: no, Name: name, Level: Refused, Note: note, call: func(*kernel.Task, *arch.SyscallArgs) (uint64, error) { return 0, e }}
}

// typed is a handler with the types of its arguments.
type typed struct {
	call handler
	args []argument
}

func call0(f func(*kernel.Task) (uint64, error)) typed {
	return typed{call: func(t *kernel.Task, _ *arch.SyscallArgs) (uint64, error) { return f(t) }}
}

func call1[A integer](f func(*kernel.Task, A) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) { return f(t, A(a[0])) }, []argument{arg[A]()}}
}

func call2[A, B integer](f func(*kernel.Task, A, B) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) { return f(t, A(a[0]), B(a[1])) },
		[]argument{arg[A](), arg[B]()}}
}

func call3[A, B, C integer](f func(*kernel.Task, A, B, C) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) { return f(t, A(a[0]), B(a[1]), C(a[2])) },
		[]argument{arg[A](), arg[B](), arg[C]()}}
}

func call4[A, B, C, D integer](f func(*kernel.Task, A, B, C, D) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) {
		return f(t, A(a[0]), B(a[1]), C(a[2]), D(a[3]))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D]()}}
}

func call5[A, B, C, D, E integer](f func(*kernel.Task, A, B, C, D, E) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) {
		return f(t, A(a[0]), B(a[1]), C(a[2]), D(a[3]), E(a[4]))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D](), arg[E]()}}
}

func call6[A, B, C, D, E, F integer](f func(*kernel.Task, A, B, C, D, E, F) (uint64, error)) typed {
	return typed{func(t *kernel.Task, a *arch.SyscallArgs) (uint64, error) {
		return f(t, A(a[0]), B(a[1]), C(a[2]), D(a[3]), E(a[4]), F(a[5]))
	}, []argument{arg[A](), arg[B](), arg[C](), arg[D](), arg[E](), arg[F]()}}
}

// Format returns how the arguments of a call are shown in a log.
func (r *Row) Format(t *kernel.Task, args *arch.SyscallArgs) []string {
	if r.call == nil || r.args == nil {
		return nil
	}
	out := make([]string, len(r.args))
	for i, a := range r.args {
		out[i] = a(t, args[i])
	}
	return out
}
