package control

import "errors"

// Kind sorts errors by what a caller does about them.
type Kind string

const (
	// KindInternal is everything else.
	KindInternal Kind = "internal"
	// KindInvalid: an argument makes no sense.
	KindInvalid Kind = "invalid"
	// KindNotFound: no such container or process.
	KindNotFound Kind = "not-found"
	// KindExists: the container exists already.
	KindExists Kind = "exists"
	// KindState: not possible in the state the container is in.
	KindState Kind = "state"
	// KindUnsupported: asked for by name, and not there.
	KindUnsupported Kind = "unsupported"
	// KindExecNotFound: the program or its interpreter doesn't exist (ENOENT,
	// ENOTDIR, or not found in PATH). Exit code 127.
	KindExecNotFound Kind = "exec-not-found"
	// KindExecPermission: the program may not be executed (EACCES, EPERM, a
	// directory). Exit code 126.
	KindExecPermission Kind = "exec-permission"
	// KindExecFormat: the program is no program for this machine (ENOEXEC,
	// ELIBBAD). Exit code 126.
	KindExecFormat Kind = "exec-format"
	// KindCancelled: the caller went away.
	KindCancelled Kind = "cancelled"
	// KindGone: the sentry ended before it answered.
	KindGone Kind = "gone"
)

// Error is an error that keeps its Kind on the wire.
type Error struct {
	Kind Kind
	// Message is one sentence without a full stop.
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// ErrorKind returns the Kind of the first *Error in err's tree, and
// KindInternal if there is none.
func ErrorKind(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// ExitCode is the exit code of runsc for an error of Create, Start or Exec: 127
// and 126 as for a shell, otherwise 1.
func ExitCode(err error) int {
	switch ErrorKind(err) {
	case KindExecNotFound:
		return 127
	case KindExecPermission, KindExecFormat:
		return 126
	}
	return 1
}
