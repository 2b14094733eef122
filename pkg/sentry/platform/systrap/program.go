package systrap

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform/stub"
)

// from says that a row is for calls from a piece of the code.
func from(start, end uint64) []seccomp.Check {
	return []seccomp.Check{seccomp.CallerAtLeast(start), seccomp.CallerBelow(end)}
}

// rows is what a stub calls on the host, and from where. Threads for application
// code can make only the calls of threadRows: the others stand where Syscall
// User Dispatch, or on a host without it a second filter, catches them.
var rows = append([]seccomp.Row{
	{Number: unix.SYS_GETPID, Checks: from(childAddr, startAddr), Why: "a new stub says who it is"},
	{Number: unix.SYS_SENDTO, Checks: append(from(childAddr, startAddr), seccomp.Equal(0, stub.Socket)), Why: "the same"},
	{Number: unix.SYS_EXIT_GROUP, Checks: from(childAddr, postAddr), Why: "a new stub fails"},
	{Number: unix.SYS_MMAP, Checks: append(from(childAddr, startAddr), seccomp.Equal(3, unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_POPULATE)),
		Why: "map the application's memory and fill the page tables"},
	{Number: unix.SYS_MMAP, Checks: append(from(childAddr, startAddr), seccomp.Equal(3, unix.MAP_SHARED|unix.MAP_FIXED)),
		Why: "map the application's memory"},
	{Number: unix.SYS_MUNMAP, Checks: from(childAddr, startAddr), Why: "unmap the application's memory"},
	{Number: unix.SYS_MPROTECT, Checks: from(childAddr, startAddr), Why: "change the access of the application's memory"},
	{Number: unix.SYS_CLONE, Checks: append(from(childAddr, startAddr), seccomp.Equal(0, stub.ThreadFlags)), Why: "a thread for application code"},
	{Number: unix.SYS_WRITE, Checks: append(from(childAddr, startAddr), seccomp.Equal(2, 8)), Why: "report that commands were carried out"},
	{Number: unix.SYS_FUTEX, Checks: append(from(childAddr, startAddr), seccomp.Equal(0, cmdNumberAddr), seccomp.Equal(1, futexWaitOp)), Why: "wait for commands"},
	{Number: unix.SYS_SIGALTSTACK, Checks: from(startAddr, postAddr), Why: "a stack for the signals of each thread"},
	{Number: unix.SYS_RT_SIGPROCMASK, Checks: from(startAddr, postAddr), Why: "threads for application code take signals"},
	{Number: unix.SYS_GETTID, Checks: from(startAddr, postAddr), Why: "a new thread says who it is"},
	{Number: unix.SYS_PRCTL, Checks: append(from(startAddr, postAddr), seccomp.Equal(0, 59), seccomp.Equal(1, 1), seccomp.Equal(2, allowedAddr), seccomp.Equal(3, allowedSize), seccomp.Equal(4, 0)),
		Why: "threads for application code have system calls from elsewhere become signals (PR_SET_SYSCALL_USER_DISPATCH)"},
	{Number: unix.SYS_SECCOMP, Checks: append(from(startAddr, postAddr), seccomp.Equal(0, 1), seccomp.Equal(1, 0), seccomp.Equal(2, fprogAddr)),
		Why: "the same, by a filter"},
}, threadRows...)

// threadRows is what threads for application code call on the host, from the
// stub's own code. The application can jump there, and can therefore wait for
// and wake threads of its own stub, yield, and set its own signal mask.
var threadRows = []seccomp.Row{
	{Number: unix.SYS_FUTEX, Checks: append(from(postAddr, resumeAddr),
		seccomp.OneOf(1, futexWaitOp, futexWakeOp), seccomp.AtLeast(0, stub.SlotsAddr), seccomp.AtMost(0, stub.SlotsAddr+stub.SlotsBytes-4),
	), Why: "wait for the Sentry, and wake it"},
	{Number: unix.SYS_SCHED_YIELD, Checks: from(entryAddr, answerAddr), Why: "the application yields"},
	{Number: unix.SYS_RT_SIGRETURN, Checks: from(handlerAddr, noSignalsAddr), Why: "go on with the stub's own code after an interruption"},
}

// program is the platform's part of the stub.
func program() (*stub.Program, error) {
	code := make([]byte, offEnd)
	var addrs [12]uintptr
	pieceAddrs(&addrs)
	offs := [...]int{offChild, offStart, offPost, offResume, offInterrupted, offHandler, offEntry, offPlainEntry, offAnswer, offPlainAnswer, offAnswerUndo, offPlainUndo, offNoSignals}
	for i, a := range addrs {
		b := stub.Piece(a)
		if b == nil || offs[i]+len(b) > offs[i+1] {
			return nil, fmt.Errorf("systrap: piece %d of the stub's code doesn't fit", i)
		}
		copy(code[offs[i]:], b)
	}
	filter, err := seccomp.Assemble(&seccomp.Filter{Rows: threadRows, Default: seccomp.Trap, Foreign: seccomp.Trap})
	if err != nil {
		return nil, err
	}
	if len(filter)*8 > offLeftTable-offFilter {
		return nil, fmt.Errorf("systrap: the filter of threads is too long")
	}
	le := binary.LittleEndian
	le.PutUint16(code[offFprog:], uint16(len(filter)))
	le.PutUint64(code[offFprog+8:], filterAddr)
	le.PutUint64(code[offFeatures:], arch.FPFeatures())
	notes, magic := arch.FrameNotes()
	copy(code[offNotes:], notes[:])
	le.PutUint32(code[offNotes+notesSize:], uint32(arch.FPSize()))
	le.PutUint32(code[offNotes+notesMagic:], magic)
	const mxcsr = 24
	le.PutUint32(code[offInit+mxcsr:], 0x1f80) // else zero: nothing is in use
	for i, nr := range answerCalls {
		code[offAnswerIndex+nr] = byte(4 * (i + 1))
	}
	for _, nr := range madeCalls {
		code[offAnswerIndex+nr] = answerMade
	}
	for i, ins := range filter {
		f := code[offFilter+8*i:]
		le.PutUint16(f, ins.Code)
		f[2], f[3] = ins.Jt, ins.Jf
		le.PutUint32(f[4:], ins.K)
	}
	for i := range maxCommands + 1 {
		le.PutUint64(code[offLeftTable+8*i:], uint64(i)<<reportLeft)
	}
	for i := range 256 {
		le.PutUint64(code[offErrnoTable+8*i:], uint64(i)<<reportErrno|reportDone)
	}
	return &stub.Program{
		Rows: rows, Default: seccomp.Trap, Code: code, Handler: handlerAddr,
		Signals: []unix.Signal{
			unix.SIGSYS, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, interruptSignal,
		},
	}, nil
}
