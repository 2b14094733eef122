package ptrace

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/platform/stub"
)

// HostCalls are the system calls that the Sentry makes on behalf of this
// platform once its jail is up, with the arguments that they need; what the Go
// runtime needs for itself (futex, tgkill to its own threads, timers) isn't
// here. A row whose Args are all matched is allowed.
//
// The jail must leave the tracer what ptrace(2) asks for: the same user and
// group ids as the stubs, no capability that they lack (they have none, and
// need the tracer to have no more than its user namespace gives), and with
// Yama's ptrace_scope at 1 the stubs among its descendants, as they are.
// Neither /proc nor a capability is needed.
var HostCalls = append([]stub.Row{
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqSysemu}}, Why: "run application code"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqCont}}, Why: "run the stub's own code"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqGetRegSet}}, Why: "read registers"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqSetRegSet}}, Why: "write registers"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqGetSigInfo}}, Why: "what exception a stop is for"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqGetSyscallInfo}}, Why: "tell 32-bit system calls"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqPeekText}}, Why: "read the instruction that faulted"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqSeize}}, Why: "attach to a stub thread"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqInterrupt}}, Why: "stop a stub thread after attaching"},
	{Nr: unix.SYS_PTRACE, Args: []stub.Arg{{Index: 0, Value: reqSetSigMask}}, Why: "let signals through to a stub thread that now has a tracer"},
	{Nr: unix.SYS_WAIT4, Args: []stub.Arg{{Index: 2, Value: unix.WALL}, {Index: 3, Value: 0}}, Why: "wait for a stop"},
	{Nr: unix.SYS_TGKILL, Args: []stub.Arg{{Index: 2, Value: uint64(interruptSignal)}}, Why: "interrupt application code"},
	{Nr: unix.SYS_KILL, Args: []stub.Arg{{Index: 1, Value: uint64(unix.SIGKILL)}}, Why: "end a stub"},
	{Nr: unix.SYS_SCHED_SETAFFINITY, Why: "keep a stub thread and its tracer on one CPU, or let them go"},
	{Nr: unix.SYS_GETCPU, Why: "on which CPU the tracer is"},
	{Nr: unix.SYS_GETTID, Why: "which tracer the caller is"},
}, stub.HostCalls...)
