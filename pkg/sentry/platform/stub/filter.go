package stub

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
)

// own says that a row is for calls from the factory's own code.
func own(checks ...seccomp.Check) []seccomp.Check {
	return append(checks, seccomp.CallerAtLeast(codeBase), seccomp.CallerBelow(PlatformCode))
}

// rows is what the factory and new stubs call once they are set up, up to where
// the platform's code begins.
var rows = []seccomp.Row{
	{Number: unix.SYS_MMAP, Checks: own(seccomp.Equal(3, unix.MAP_SHARED|unix.MAP_FIXED)), Why: "map the command page and the threads' memory"},
	{Number: unix.SYS_CLONE, Checks: own(seccomp.Equal(0, forkFlags)), Why: "the factory makes a stub"},
	{Number: unix.SYS_RECVMSG, Checks: own(seccomp.Equal(0, fdSocket)), Why: "the factory takes requests and descriptors"},
	{Number: unix.SYS_SENDTO, Checks: own(seccomp.Equal(0, fdSocket)), Why: "the factory answers"},
	{Number: unix.SYS_CLOSE, Checks: own(), Why: "the factory drops descriptors"},
	{Number: unix.SYS_PRCTL, Checks: own(seccomp.Equal(0, unix.PR_SET_PDEATHSIG)), Why: "a stub dies with the factory"},
	{Number: unix.SYS_EXIT_GROUP, Checks: own(), Why: "the factory ends, or a new stub fails"},
}

// HostCalls are the system calls that a Factory makes once the Sentry's jail is
// up.
var HostCalls = []seccomp.Row{
	{Number: unix.SYS_SENDMSG, Checks: []seccomp.Check{seccomp.Equal(2, unix.MSG_NOSIGNAL)}, Why: "ask the factory for a stub, or hand it a descriptor"},
	{Number: unix.SYS_RECVFROM, Checks: []seccomp.Check{seccomp.OneOf(3, 0, unix.MSG_DONTWAIT)}, Why: "the factory's answer"},
	{Number: unix.SYS_PIDFD_OPEN, Checks: []seccomp.Check{seccomp.Equal(1, 0)}, Why: "hear of the end of a new stub"},
	{Number: unix.SYS_PPOLL, Checks: []seccomp.Check{seccomp.EqualLow(1, 2)}, Why: "wait for a new stub, or its end"},
	{Number: unix.SYS_MMAP, Checks: []seccomp.Check{seccomp.Equal(2, unix.PROT_READ|unix.PROT_WRITE), seccomp.Equal(3, unix.MAP_SHARED)}, Why: "see a stub's command page and signal stacks"},
	{Number: unix.SYS_MUNMAP, Why: "when the stub has gone"},
	{Number: unix.SYS_FALLOCATE, Checks: []seccomp.Check{seccomp.Equal(1, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE)}, Why: "free a stub's part of the control file"},
}
