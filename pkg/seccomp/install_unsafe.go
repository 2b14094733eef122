package seccomp

import (
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Install assembles f and puts every thread of the process under it, now and for good, after setting
// no_new_privs (a process without CAP_SYS_ADMIN needs that, and a jail wants it anyway).
func Install(f *Filter) error {
	program, err := Assemble(f)
	if err != nil {
		return err
	}
	return InstallProgram(program)
}

// InstallProgram is Install for a program made earlier by Assemble. The filter applies to all threads
// (SECCOMP_FILTER_FLAG_TSYNC): a thread that is under some other filter already makes it fail.
func InstallProgram(program []unix.SockFilter) error {
	if len(program) == 0 || len(program) > maxLen {
		return ErrTooLong
	}
	// no_new_privs is set for this thread; TSYNC carries it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return &InstallError{Call: "prctl(PR_SET_NO_NEW_PRIVS)", Err: err}
	}
	head := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// SAFETY: the kernel reads head and the Len instructions behind head.Filter during the call; both are
	// alive until KeepAlive. It writes nothing.
	thread, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&head)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return &InstallError{Call: "seccomp(SECCOMP_SET_MODE_FILTER)", Err: errno}
	}
	if thread != 0 {
		return &InstallError{Call: "seccomp: thread " + strconv.Itoa(int(thread)) + " has a filter of its own",
			Err: unix.ESRCH}
	}
	return nil
}

// InstallError says which call of the installation failed.
type InstallError struct {
	Call string
	Err  error
}

func (e *InstallError) Error() string { return e.Call + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *InstallError) Unwrap() error { return e.Err }
