package stub

import "golang.org/x/sys/unix"

// Row is one host call that a process may make.
type Row struct {
	Nr uintptr
	// Args are the values that arguments must have.
	Args []Arg
	// Trap makes the call raise SIGSYS instead of being made.
	Trap bool
	Why  string
}

// Arg demands a value of an argument.
type Arg struct {
	Index int
	Value uint64
}

// Rows is what the factory and the stubs may call once they are set up. Calls
// of the application never get this far: PTRACE_SYSEMU stops them before.
var Rows = []Row{
	{Nr: unix.SYS_MMAP, Args: []Arg{{3, unix.MAP_SHARED | unix.MAP_FIXED}},
		Why: "map the command page, the signal stacks and the application's memory"},
	{Nr: unix.SYS_MMAP, Args: []Arg{{3, unix.MAP_SHARED | unix.MAP_FIXED | unix.MAP_POPULATE}},
		Why: "map the application's memory and fill the page tables"},
	{Nr: unix.SYS_MUNMAP, Why: "unmap the application's memory"},
	{Nr: unix.SYS_MPROTECT, Why: "change the access of the application's memory"},
	{Nr: unix.SYS_PAUSE, Why: "threads without a tracer sleep"},
	{Nr: unix.SYS_SIGALTSTACK, Why: "a stack for the frames of faults, for each thread"},
	{Nr: unix.SYS_CLONE, Args: []Arg{{0, threadFlags}}, Why: "another thread of a stub"},
	{Nr: unix.SYS_CLONE, Args: []Arg{{0, forkFlags}}, Why: "the factory makes a stub"},
	{Nr: unix.SYS_RECVMSG, Args: []Arg{{0, fdSocket}}, Why: "the factory takes requests and descriptors"},
	{Nr: unix.SYS_SENDTO, Args: []Arg{{0, fdSocket}}, Why: "the factory and new stubs answer"},
	{Nr: unix.SYS_CLOSE, Why: "the factory drops descriptors"},
	{Nr: unix.SYS_PRCTL, Args: []Arg{{0, unix.PR_SET_PDEATHSIG}}, Why: "a stub dies with the factory"},
	{Nr: unix.SYS_GETPID, Why: "a new stub says who it is"},
	{Nr: unix.SYS_RESTART_SYSCALL, Why: "pause(2) after a stop"},
	{Nr: unix.SYS_EXIT, Why: "a thread of a stub ends"},
	{Nr: unix.SYS_EXIT_GROUP, Why: "the factory ends, or a new stub fails"},
	// The host's kernel runs these for code that jumps to the vsyscall page,
	// where no tracer sees it. The filter makes a signal of it.
	{Nr: unix.SYS_GETTIMEOFDAY, Trap: true, Why: "the vsyscall page at +0"},
	{Nr: unix.SYS_TIME, Trap: true, Why: "the vsyscall page at +0x400"},
	{Nr: unix.SYS_GETCPU, Trap: true, Why: "the vsyscall page at +0x800"},
}

// assemble turns rows into a program for seccomp(2) that ends the process at
// any other call.
func assemble(rows []Row) []unix.SockFilter {
	const (
		offNr, offArch, offArgs = 0, 4, 16
		archX86_64              = 0xc000003e
		retKill, retTrap        = 0x80000000, 0x00030000
		retAllow                = 0x7fff0000
	)
	load := func(off uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off}
	}
	eq := func(k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: jt, Jf: jf, K: k}
	}
	ret := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	prog := []unix.SockFilter{load(offArch), eq(archX86_64, 1, 0), ret(retKill)}
	for _, r := range rows {
		// Load the number, and jump over the row unless all matches.
		size := 1 + 4*len(r.Args)
		prog = append(prog, load(offNr), eq(uint32(r.Nr), 0, uint8(size)))
		for i, a := range r.Args {
			left := uint8(size - 4*i)
			off := uint32(offArgs + 8*a.Index)
			prog = append(prog,
				load(off), eq(uint32(a.Value), 0, left-2),
				load(off+4), eq(uint32(a.Value>>32), 0, left-4))
		}
		if r.Trap {
			prog = append(prog, ret(retTrap))
		} else {
			prog = append(prog, ret(retAllow))
		}
	}
	return append(prog, ret(retKill))
}

// HostCalls are the system calls that a Factory makes once the Sentry's jail is
// up.
var HostCalls = []Row{
	{Nr: unix.SYS_SENDMSG, Args: []Arg{{2, unix.MSG_NOSIGNAL}}, Why: "ask the factory for a stub, or hand it a descriptor"},
	{Nr: unix.SYS_RECVFROM, Args: []Arg{{3, 0}}, Why: "the factory's answer"},
	{Nr: unix.SYS_MMAP, Args: []Arg{{2, unix.PROT_READ | unix.PROT_WRITE}, {3, unix.MAP_SHARED}}, Why: "see a stub's command page and signal stacks"},
	{Nr: unix.SYS_MUNMAP, Why: "when the stub has gone"},
	{Nr: unix.SYS_FALLOCATE, Args: []Arg{{1, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE}}, Why: "free a stub's part of the control file"},
}
