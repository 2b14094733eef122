package gofer

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
)

// Filter is what the jailed server may ask of the host's kernel. A call that is not here ends the process.
// Paths cannot be checked by a filter: that all there is to find is the trees, their own descriptors and an empty root is
// the work of the namespaces.
func Filter() *seccomp.Filter {
	const (
		cwd       = 0xffffff9c // AT_FDCWD as a 32-bit int
		openAllow = unix.O_ACCMODE | unix.O_TRUNC | unix.O_APPEND | unix.O_SYNC | unix.O_CLOEXEC | unix.O_NOCTTY |
			unix.O_LARGEFILE | 0o100000
		cloneThread = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD | unix.CLONE_SETTLS
		setVMA      = 0x53564d41 // PR_SET_VMA
		sigkillSelf = 1          // our PID in our namespace
	)
	checks := func(c ...seccomp.Check) []seccomp.Check { return c }
	return &seccomp.Filter{Rows: []seccomp.Row{
		// Connections.
		{Number: unix.SYS_READ, Why: "requests arrive"},
		{Number: unix.SYS_SENDMSG, Why: "answers and donated descriptors leave"},
		{Number: unix.SYS_POLL, Why: "a connection's socket may be non-blocking"},
		{Number: unix.SYS_SHUTDOWN, Why: "a connection whose peer misbehaves is ended"},
		{Number: unix.SYS_CLOSE, Why: "fids and connections end"},
		{Number: unix.SYS_WRITE, Why: "a panic's message goes to the log; the report descriptor"},

		// Files of the trees.
		{Number: unix.SYS_OPENAT2, Why: "names are looked up, beneath their directory"},
		{Number: unix.SYS_OPENAT, Checks: checks(seccomp.EqualLow(0, cwd), seccomp.OnlyBits(2, openAllow)),
			Why: "a file is opened by its O_PATH descriptor's number; nothing is created"},
		{Number: unix.SYS_FSTAT, Why: "attributes"},
		{Number: unix.SYS_NEWFSTATAT, Checks: checks(seccomp.EqualLow(3, unix.AT_SYMLINK_NOFOLLOW)), Why: "attributes of directory entries"},
		{Number: unix.SYS_FSTATFS, Why: "statfs"},
		{Number: unix.SYS_GETDENTS64, Why: "directories are read"},
		{Number: unix.SYS_LSEEK, Checks: checks(seccomp.EqualLow(2, unix.SEEK_SET)), Why: "a directory is read on from where the client says"},
		{Number: unix.SYS_PREAD64, Why: "reads without a donated descriptor"},
		{Number: unix.SYS_PWRITE64, Why: "writes without a donated descriptor"},
		{Number: unix.SYS_FSYNC, Why: "fsync"},
		{Number: unix.SYS_FDATASYNC, Why: "fdatasync"},
		{Number: unix.SYS_READLINKAT, Why: "symbolic links"},
		{Number: unix.SYS_MKDIRAT, Why: "directories are made"},
		{Number: unix.SYS_MKNODAT, Checks: checks(seccomp.EqualLow(3, 0)), Why: "files are made; no device but 0/0"},
		{Number: unix.SYS_SYMLINKAT, Why: "symbolic links are made"},
		{Number: unix.SYS_LINKAT, Checks: checks(seccomp.EqualLow(0, cwd), seccomp.EqualLow(4, unix.AT_SYMLINK_FOLLOW)),
			Why: "hard links are made, from a descriptor's number"},
		{Number: unix.SYS_UNLINKAT, Why: "names are removed"},
		{Number: unix.SYS_RENAMEAT2, Checks: checks(seccomp.EqualLow(4, 0)), Why: "names are moved"},
		{Number: unix.SYS_FCHOWNAT, Checks: checks(seccomp.EqualLow(4, unix.AT_EMPTY_PATH)), Why: "owners change"},
		{Number: unix.SYS_FCHMODAT, Checks: checks(seccomp.EqualLow(0, cwd)), Why: "modes change"},
		{Number: unix.SYS_UTIMENSAT, Checks: checks(seccomp.EqualLow(3, unix.AT_EMPTY_PATH)), Why: "times change"},
		{Number: unix.SYS_TRUNCATE, Why: "sizes change"},
		{Number: unix.SYS_GETXATTR, Why: "extended attributes"},
		{Number: unix.SYS_LISTXATTR, Why: "extended attributes"},
		{Number: unix.SYS_SETXATTR, Why: "extended attributes"},
		{Number: unix.SYS_REMOVEXATTR, Why: "extended attributes"},
		{Number: unix.SYS_FCNTL, Checks: checks(seccomp.OneOfLow(1, unix.F_DUPFD_CLOEXEC, unix.F_OFD_SETLK, unix.F_OFD_GETLK)),
			Why: "a root's descriptor is copied for a client; record locks"},

		// The Go runtime.
		{Number: unix.SYS_FUTEX, Why: "goroutines and threads wait for each other"},
		{Number: unix.SYS_NANOSLEEP, Why: "the runtime's monitor thread, while something runs"},
		{Number: unix.SYS_SCHED_YIELD, Why: "the runtime spins politely"},
		{Number: unix.SYS_EPOLL_CREATE1, Why: "the runtime's poller, which its timers need: the scavenger of a heap that has grown sets one"},
		{Number: unix.SYS_EVENTFD2, Why: "goes with the poller"},
		{Number: unix.SYS_EPOLL_CTL, Why: "goes with the poller"},
		{Number: unix.SYS_EPOLL_PWAIT, Why: "goes with the poller"},
		{Number: unix.SYS_CLOCK_GETTIME, Why: "where the vDSO has to ask"},
		{Number: unix.SYS_MMAP, Checks: checks(seccomp.OnlyBits(2, unix.PROT_READ|unix.PROT_WRITE)), Why: "the heap grows; nothing becomes executable"},
		{Number: unix.SYS_MUNMAP, Why: "the heap shrinks"},
		{Number: unix.SYS_MADVISE, Why: "the heap gives memory back"},
		{Number: unix.SYS_PRCTL, Checks: checks(seccomp.EqualLow(0, setVMA)), Why: "the runtime names its mappings"},
		{Number: unix.SYS_CLONE, Checks: checks(seccomp.Equal(0, cloneThread)), Why: "threads, and only threads"},
		{Number: unix.SYS_RT_SIGACTION, Why: "a crash resets its signal's handler"},
		{Number: unix.SYS_RT_SIGPROCMASK, Why: "new threads set their mask"},
		{Number: unix.SYS_RT_SIGRETURN, Why: "handlers return"},
		{Number: unix.SYS_SIGALTSTACK, Why: "new threads have a signal stack"},
		{Number: unix.SYS_GETPID, Why: "goes with tgkill"},
		{Number: unix.SYS_GETTID, Why: "goes with tgkill"},
		{Number: unix.SYS_TGKILL, Checks: checks(seccomp.EqualLow(0, sigkillSelf)), Why: "goroutines that run long are preempted"},
		{Number: unix.SYS_RESTART_SYSCALL, Why: "the kernel resumes a sleep a signal has broken"},
		{Number: unix.SYS_EXIT, Why: "threads end"},
		{Number: unix.SYS_EXIT_GROUP, Why: "the server ends with its last connection"},
	}}
}
