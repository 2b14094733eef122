// Package jail takes away from a sentry what it doesn't need of the host.
//
// runsc starts the sentry in new user, PID, mount, network, IPC and UTS
// namespaces, as root of the user namespace, which is nobody outside. What is
// left to do from within, in this order, is:
//
//   - [CloseFrom]: no descriptors but those of the command line;
//   - [ForbidCoreDumps]: no memory of applications in files of the host;
//   - [DropBoundingSet]: no way to gain capabilities;
//   - [EmptyRoot]: an empty, read-only tmpfs as root directory, nothing of the
//     host's tree mounted anywhere;
//   - [DropPrivileges]: no capabilities in any thread, not dumpable;
//   - [Confine]: a seccomp filter that lists each host call with its arguments.
//
// After Confine there is no way back and no way to do any of the steps again.
//
// The steps are for a process without cgo, whose threads all belong to Go. None
// of them may run at the same time as another. They are not for the processes
// that hold application code: those come from a factory started before Confine,
// with filters of the platform's.
package jail

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
	"vitrine/pkg/seccomp"
)

// CloseFrom closes all descriptors from fd on. Call it before anything opens
// one: the Go runtime's own poller comes with the first file that can be polled.
func CloseFrom(fd int) error {
	if err := unix.CloseRange(uint(fd), ^uint(0)>>1&0xffffffff, 0); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	return nil
}

// EmptyRoot makes an empty, read-only directory the root of the process. It
// needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace.
func EmptyRoot() error {
	// Any directory that always exists serves as mount point: what it hides
	// goes away with the rest.
	const point = "/proc"
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := unix.Mount("jail", point, "tmpfs", flags, "size=4k,nr_inodes=2,mode=555"); err != nil {
		return fmt.Errorf("mounting an empty root: %w", err)
	}
	if err := unix.Chdir(point); err != nil {
		return fmt.Errorf("entering the empty root: %w", err)
	}
	// pivot_root(2): with the same directory twice the old root ends up on top
	// of the new one, to be detached from there.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detaching the old root: %w", err)
	}
	if err := unix.Mount("", "/", "", flags|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("making the empty root read-only: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the empty root: %w", err)
	}
	return nil
}

// ForbidCoreDumps is for the process and all that it starts: those that hold
// application code are dumpable again after their exec.
func ForbidCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_CORE): %w", err)
	}
	return nil
}

// DropBoundingSet empties the bounding set of all threads: whatever would be
// executed can't gain capabilities. It takes a call for each capability and
// thread, so it comes first in the process's life, while there are few threads.
func DropBoundingSet() error {
	for c := uintptr(0); c < 64; c++ {
		err := onAllThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
		if err == unix.EINVAL {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("prctl(PR_CAPBSET_DROP, %d): %w", c, err)
		}
	}
	return nil
}

// DropPrivileges gives up the capabilities of all threads: permitted, effective,
// inheritable and ambient. Nobody may ptrace the process or read its /proc files
// afterwards but a superuser of the host.
func DropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	// Capabilities belong to threads: each of these runs on all of them. An
	// ambient capability is one that is permitted and inheritable (capabilities(7)):
	// with those it goes.
	if err := clearCapabilities(); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

func onAllThreads(call, a, b uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(call, a, b, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// Confine installs the filter of HostCalls and more on all threads. Any other
// call ends the process; with trace it says before where the call came from.
func Confine(more []seccomp.Row, trace bool) error {
	f := seccomp.Filter{Rows: append(HostCalls(), more...)}
	if trace {
		f.Default = seccomp.Trap // Go's runtime prints the goroutine's stack
	}
	if err := seccomp.Install(&f); err != nil {
		return fmt.Errorf("installing the seccomp filter: %w", err)
	}
	return nil
}
