package gofer

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
)

// HostCalls are the system calls that this file system, its connection (package p9) and the Sentry's view of donated
// files (package hostfd) make, besides those of the Go runtime.
var HostCalls = func() []seccomp.Row {
	call := func(number uint32, why string, checks ...seccomp.Check) seccomp.Row {
		return seccomp.Row{Number: number, Checks: checks, Why: why}
	}
	return []seccomp.Row{
		// The connection.
		call(unix.SYS_SENDMSG, "a request to the gofer", seccomp.EqualLow(2, unix.MSG_NOSIGNAL)),
		call(unix.SYS_RECVMSG, "an answer of the gofer, and a descriptor", seccomp.EqualLow(2, unix.MSG_CMSG_CLOEXEC)),
		call(unix.SYS_READ, "an answer of a gofer that donates nothing"),
		call(unix.SYS_PPOLL, "the gofer's socket is full or empty, where it was given non-blocking", seccomp.EqualLow(1, 1)),
		call(unix.SYS_SHUTDOWN, "the container has ended", seccomp.EqualLow(1, unix.SHUT_RDWR)),
		call(unix.SYS_CLOSE, "a donated descriptor is done with"),

		// Donated descriptors.
		call(unix.SYS_PREAD64, "read a donated file"),
		call(unix.SYS_PWRITE64, "write a donated file"),
		call(unix.SYS_FSTAT, "attributes of a file that was written"),
		call(unix.SYS_FTRUNCATE, "change a donated file's size"),
		call(unix.SYS_FALLOCATE, "fallocate(2) on a donated file"),
		call(unix.SYS_LSEEK, "find data and holes of a donated file", seccomp.OneOfLow(2, unix.SEEK_DATA, unix.SEEK_HOLE)),
		call(unix.SYS_FSYNC, "fsync(2) of a donated file"),
		call(unix.SYS_FDATASYNC, "fdatasync(2) and msync(2) of a donated file"),
		call(unix.SYS_MMAP, "the Sentry's view of a donated file that is mapped",
			seccomp.EqualLow(0, 0), seccomp.OnlyBits(2, unix.PROT_READ|unix.PROT_WRITE), seccomp.EqualLow(3, unix.MAP_SHARED)),
		call(unix.SYS_MUNMAP, "that view is no longer needed"),

		call(unix.SYS_CLOCK_GETTIME, "the clock that the host stamps files with", seccomp.EqualLow(0, unix.CLOCK_REALTIME_COARSE)),
	}
}()
