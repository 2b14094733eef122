package ptrace

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/platform/stub"
)

// Where things are in a stub. The command page holds commands, and at its end a
// stack_t; the threads' memory is one signal stack a thread.
const (
	offChild   = 0x000
	offHandler = 0x100
	offCall    = 0x140
	offBatch   = 0x180
	offSpawn   = 0x200
	offEnd     = 0x280

	// handlerAddr is the handler of SIGSEGV, SIGBUS, SIGFPE and SIGILL: a
	// syscall instruction, reached with the address of the siginfo_t in RSI
	// and of the ucontext in RDX.
	handlerAddr = stub.PlatformCode + offHandler
	// callAddr makes the system call that is in the registers, then traps.
	callAddr = stub.PlatformCode + offCall
	// batchAddr makes R12 system calls, described by the commands at RBX, then
	// traps. It stops at the first that fails, with R12 of them left, that one
	// included, and the error in RAX.
	batchAddr = stub.PlatformCode + offBatch
	// spawnAddr makes the clone call that is in the registers, which leaves
	// the new thread asleep; then sigaltstack(R14, NULL); then it traps with
	// the new thread's id in R13 and sigaltstack's result in RAX.
	spawnAddr = stub.PlatformCode + offSpawn

	altStackOff  = stub.CommandBytes - 64
	altStackAddr = stub.CommandAddr + altStackOff

	// commandSize is the size of a command: number and six arguments.
	commandSize = 56
	maxCommands = altStackOff / commandSize

	// slotSize is the size of a thread's signal stack. The frame with all
	// vector state up to AVX-512 takes 3.6 KiB.
	slotSize = 8192
	maxSlots = stub.SlotsBytes / slotSize

	// For the assembly.
	threadFlags = stub.ThreadFlags
	socket      = stub.Socket
	replySize   = stub.ReplySize
	pieceEnd    = stub.PieceEnd
)

// program is the platform's part of the stub.
func program() (*stub.Program, error) {
	code := make([]byte, offEnd)
	var addrs [5]uintptr
	pieceAddrs(&addrs)
	offs := [...]int{offChild, offHandler, offCall, offBatch, offSpawn, offEnd}
	for i, a := range addrs {
		b := stub.Piece(a)
		if b == nil || offs[i]+len(b) > offs[i+1] {
			return nil, fmt.Errorf("ptrace: piece %d of the stub's code doesn't fit", i)
		}
		copy(code[offs[i]:], b)
	}
	return &stub.Program{
		Rows: rows, Code: code, Handler: handlerAddr,
		Signals: []unix.Signal{unix.SIGILL, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV},
	}, nil
}

// rows is what stubs call on the host. Calls of the application never get this
// far: PTRACE_SYSEMU stops them before.
var rows = []seccomp.Row{
	{Number: unix.SYS_GETPID, Why: "a new stub says who it is"},
	{Number: unix.SYS_SENDTO, Checks: []seccomp.Check{seccomp.Equal(0, stub.Socket)}, Why: "the same"},
	{Number: unix.SYS_EXIT_GROUP, Why: "a new stub fails"},
	{Number: unix.SYS_MMAP, Checks: []seccomp.Check{seccomp.Equal(3, unix.MAP_SHARED|unix.MAP_FIXED)}, Why: "map the application's memory"},
	{Number: unix.SYS_MMAP, Checks: []seccomp.Check{seccomp.Equal(3, unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_POPULATE)},
		Why: "map the application's memory and fill the page tables"},
	{Number: unix.SYS_MUNMAP, Why: "unmap the application's memory"},
	{Number: unix.SYS_MPROTECT, Why: "change the access of the application's memory"},
	{Number: unix.SYS_PAUSE, Why: "threads without a tracer sleep"},
	{Number: unix.SYS_SIGALTSTACK, Why: "a stack for the frames of faults, for each thread"},
	{Number: unix.SYS_CLONE, Checks: []seccomp.Check{seccomp.Equal(0, stub.ThreadFlags)}, Why: "another thread of a stub"},
	{Number: unix.SYS_RESTART_SYSCALL, Why: "pause(2) after a stop"},
	{Number: unix.SYS_EXIT, Why: "a thread of a stub ends"},
	// The host's kernel runs these for code that jumps to the vsyscall page,
	// where no tracer sees it. The filter makes a signal of it.
	{Number: unix.SYS_GETTIMEOFDAY, Action: seccomp.Trap, Why: "the vsyscall page at +0"},
	{Number: unix.SYS_TIME, Action: seccomp.Trap, Why: "the vsyscall page at +0x400"},
	{Number: unix.SYS_GETCPU, Action: seccomp.Trap, Why: "the vsyscall page at +0x800"},
}

// putCommand writes the i-th command.
func (p *process) putCommand(i int, c *stub.Command) {
	b := p.Commands()[i*commandSize : (i+1)*commandSize]
	binary.LittleEndian.PutUint64(b, c.Nr)
	for j, a := range c.Args {
		binary.LittleEndian.PutUint64(b[8+8*j:], a)
	}
}

// putAltStack writes the stack_t at altStackAddr: the slot's stack.
func (p *process) putAltStack(slot int) {
	b := p.Commands()[altStackOff:]
	binary.LittleEndian.PutUint64(b[0:], stub.SlotsAddr+uint64(slot)*slotSize)
	binary.LittleEndian.PutUint64(b[8:], 0)
	binary.LittleEndian.PutUint64(b[16:], slotSize)
}

// slotBytes returns length bytes of a slot's stack at the stub's address addr,
// or nil where they are outside of it.
func (p *process) slotBytes(slot int, addr, length uint64) []byte {
	base := stub.SlotsAddr + uint64(slot)*slotSize
	if addr < base || addr > base+slotSize || length > base+slotSize-addr {
		return nil
	}
	off := addr - stub.SlotsAddr
	return p.Slots()[off : off+length : off+length]
}
