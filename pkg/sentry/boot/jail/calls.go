package jail

import (
	"vitrine/pkg/seccomp"

	"golang.org/x/sys/unix"
)

// threadFlags are what Go's runtime gives to clone(2) for a thread.
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_SYSVSEM | unix.CLONE_THREAD | unix.CLONE_SETTLS

// HostCalls are the host calls of a sentry that has no kernel in it yet: those
// of the Go runtime and of the control socket. The kernel and the platform add
// rows of their own.
func HostCalls() []seccomp.Row {
	const (
		readWrite = unix.PROT_READ | unix.PROT_WRITE
		private   = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
		// linux/futex.h
		futexWaitPrivate, futexWakePrivate = 0 | 128, 1 | 128
	)
	call := func(number uint32, why string, checks ...seccomp.Check) seccomp.Row {
		return seccomp.Row{Number: number, Checks: checks, Why: why}
	}
	// MAP_DROPPABLE of linux/mman.h: what getrandom(2) in the vDSO wants.
	const droppable = 0x8
	return []seccomp.Row{
		// Memory.
		call(unix.SYS_MMAP, "heap and stacks of the Go runtime; never executable",
			seccomp.OnlyBits(2, readWrite), seccomp.OnlyBits(3, private|unix.MAP_FIXED|unix.MAP_NORESERVE|droppable), seccomp.EqualLow(4, 0xffffffff)),
		call(unix.SYS_MUNMAP, "the Go runtime gives address space back"),
		call(unix.SYS_MADVISE, "the Go runtime gives heap memory back",
			seccomp.OneOfLow(2, unix.MADV_DONTNEED, unix.MADV_FREE, unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_COLLAPSE)),
		call(unix.SYS_PRCTL, "the Go runtime names its mappings",
			seccomp.EqualLow(0, unix.PR_SET_VMA), seccomp.EqualLow(1, unix.PR_SET_VMA_ANON_NAME)),

		// Threads.
		call(unix.SYS_CLONE, "the Go runtime starts threads, and nothing but threads", seccomp.Masked(0, ^uint64(0), threadFlags)),
		call(unix.SYS_FUTEX, "threads of the Go runtime wait and wake",
			seccomp.OneOfLow(1, futexWaitPrivate, futexWakePrivate)),
		call(unix.SYS_SCHED_YIELD, "spinning threads of the Go runtime"),
		call(unix.SYS_SCHED_GETAFFINITY, "the Go runtime looks how many processors there are, now and then"),
		call(unix.SYS_NANOSLEEP, "spinning and the monitor thread of the Go runtime"),
		call(unix.SYS_GETTID, "the Go runtime names a thread to itself"),
		call(unix.SYS_GETPID, "the Go runtime preempts its threads by tgkill"),
		call(unix.SYS_TGKILL, "the Go runtime preempts its threads",
			seccomp.EqualLow(0, uint32(unix.Getpid()))),
		call(unix.SYS_EXIT, "a thread ends"),
		call(unix.SYS_EXIT_GROUP, "the sentry ends"),

		// Signals.
		call(unix.SYS_RT_SIGACTION, "the Go runtime sets handlers up as packages ask for signals"),
		call(unix.SYS_RT_SIGPROCMASK, "the Go runtime starts threads with signals blocked"),
		call(unix.SYS_RT_SIGRETURN, "a signal handler returns"),
		call(unix.SYS_SIGALTSTACK, "the Go runtime gives each thread a signal stack"),
		call(unix.SYS_RESTART_SYSCALL, "the kernel goes on with an interrupted sleep"),

		// Time and chance.
		call(unix.SYS_CLOCK_GETTIME, "where the host's vDSO can't tell the time"),
		call(unix.SYS_GETRANDOM, "seeds and secrets"),

		// Waiting for descriptors.
		call(unix.SYS_EPOLL_CREATE1, "the Go runtime's poller"),
		call(unix.SYS_EVENTFD2, "the Go runtime's poller is woken by it"),
		call(unix.SYS_EPOLL_CTL, "the Go runtime's poller"),
		call(unix.SYS_EPOLL_PWAIT, "the Go runtime's poller"),
		call(unix.SYS_FCNTL, "what kind of descriptor runsc has sent; duplicates of it",
			seccomp.OneOfLow(1, unix.F_GETFL, unix.F_SETFL, unix.F_GETFD, unix.F_DUPFD_CLOEXEC)),

		// The control socket, the line to runsc, the log, and standard error.
		call(unix.SYS_ACCEPT4, "a runsc connects", seccomp.EqualLow(3, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)),
		call(unix.SYS_RECVMSG, "a request of runsc", seccomp.OnlyBits(2, unix.MSG_CMSG_CLOEXEC)),
		call(unix.SYS_SENDMSG, "an answer to runsc", seccomp.OnlyBits(2, unix.MSG_NOSIGNAL)),
		call(unix.SYS_READ, "the line to runsc; the poller's eventfd"),
		call(unix.SYS_WRITE, "the line to runsc, logs, the exit status, a panic's traceback"),
		call(unix.SYS_CLOSE, "a connection or descriptor is done with"),
		call(unix.SYS_FSTAT, "what kind of descriptor runsc has sent"),
		call(unix.SYS_IOCTL, "the size of the terminal that runsc gave", seccomp.EqualLow(1, unix.TIOCGWINSZ)),
	}
}
