package systrap

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/platform/stub"
)

// HostCalls are the system calls that the Sentry makes on behalf of this
// platform once its jail is up, with the arguments that they need; what the Go
// runtime needs for itself isn't here.
var HostCalls = append([]seccomp.Row{
	{Number: unix.SYS_FUTEX, Checks: []seccomp.Check{seccomp.OneOf(1, futexWaitOp, futexWakeOp)}, Why: "wait for a stub thread, and wake it"},
	{Number: unix.SYS_TGKILL, Checks: []seccomp.Check{seccomp.OneOf(2, 0, interruptSignal)}, Why: "interrupt application code; whose thread is it"},
	{Number: unix.SYS_KILL, Checks: []seccomp.Check{seccomp.Equal(1, uint64(unix.SIGKILL))}, Why: "end a stub that can't be watched"},
	{Number: unix.SYS_PIDFD_SEND_SIGNAL, Checks: []seccomp.Check{seccomp.Equal(1, uint64(unix.SIGKILL)), seccomp.Equal(2, 0), seccomp.Equal(3, 0)}, Why: "end a stub"},
	{Number: unix.SYS_SCHED_SETAFFINITY, Why: "keep a stub's memory thread on the CPU that waits for it"},
}, stub.HostCalls...)
