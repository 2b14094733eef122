package ptrace

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/platform/stub"
)

// HostCalls are the system calls that the Sentry makes on behalf of this
// platform once its jail is up, with the arguments that they need; what the Go
// runtime needs for itself (futex, tgkill to its own threads, timers) isn't
// here.
//
// The jail must leave the tracer what ptrace(2) asks for: the same user and
// group ids as the stubs, no capability that they lack (they have none, and
// need the tracer to have no more than its user namespace gives), and with
// Yama's ptrace_scope at 1 the stubs among its descendants, as they are.
// Neither /proc nor a capability is needed.
var HostCalls = append([]seccomp.Row{
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqSysemu)}, Why: "run application code"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqCont)}, Why: "run the stub's own code"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqGetRegSet)}, Why: "read registers"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqSetRegSet)}, Why: "write registers"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqGetSigInfo)}, Why: "what exception a stop is for"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqGetSyscallInfo)}, Why: "tell 32-bit system calls"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqPeekText)}, Why: "read the instruction that faulted"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqSeize)}, Why: "attach to a stub thread"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqInterrupt)}, Why: "stop a stub thread after attaching"},
	{Number: unix.SYS_PTRACE, Checks: []seccomp.Check{seccomp.Equal(0, reqSetSigMask)}, Why: "let signals through to a stub thread that now has a tracer"},
	{Number: unix.SYS_WAIT4, Checks: []seccomp.Check{seccomp.Equal(2, unix.WALL), seccomp.Equal(3, 0)}, Why: "wait for a stop"},
	{Number: unix.SYS_TGKILL, Checks: []seccomp.Check{seccomp.Equal(2, uint64(interruptSignal))}, Why: "interrupt application code"},
	{Number: unix.SYS_KILL, Checks: []seccomp.Check{seccomp.Equal(1, uint64(unix.SIGKILL))}, Why: "end a stub"},
	{Number: unix.SYS_SCHED_SETAFFINITY, Why: "keep a stub thread and its tracer on one CPU, or let them go"},
	{Number: unix.SYS_GETCPU, Why: "on which CPU the tracer is"},
	{Number: unix.SYS_GETTID, Why: "which tracer the caller is"},
}, stub.HostCalls...)
