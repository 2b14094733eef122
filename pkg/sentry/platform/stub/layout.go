package stub

import "vitrine/pkg/usermem"

// Where things lie in a stub's address space. All of it is above UserEnd, so
// that everything below belongs to the application.
//
//	UserEnd   = slotsBase  signal stacks, one slot a thread (read, write; shared with the Sentry)
//	cmdBase                command page (read only here; the Sentry writes it)
//	codeBase               the image's code (read, execute)
const (
	taskSize  = 0x7ffffffff000
	slotsBase = 0x7ffffe000000
	slotsSize = 16 << 20
	cmdBase   = 0x7fffff000000
	cmdSize   = 1 << 16
	codeBase  = 0x7fffff100000
	codeSize  = 0x2000

	// Places of the pieces of code in the code area.
	offBoot    = 0x000
	offFactory = 0x200
	offHandler = 0x800
	offCall    = 0x880
	offBatch   = 0x900
	offSpawn   = 0xa00
	// Data in the code area.
	offActHandler = 0xb00 // struct kernel_sigaction
	offActIgnore  = 0xb40
	offCapHeader  = 0xb80 // struct __user_cap_header_struct
	offCapData    = 0xb90
	offName       = 0xbc0
	offFprog      = 0xbe0 // struct sock_fprog
	offFilter     = 0xc00 // its instructions

	factoryEntry  = codeBase + offFactory
	addrActHandle = codeBase + offActHandler
	addrActIgnore = codeBase + offActIgnore
	addrCapHeader = codeBase + offCapHeader
	addrCapData   = codeBase + offCapData
	addrName      = codeBase + offName
	addrFprog     = codeBase + offFprog
	codeEnd       = codeBase + codeSize
	aboveCode     = taskSize - codeEnd

	// The image file: an ELF header, then the code area.
	imageCode  = 0x1000
	imageBase  = 0x400000
	imageEntry = imageBase + imageCode + offBoot

	// Descriptors of the factory and its stubs.
	fdSocket  = 0
	fdImage   = 1
	fdControl = 2
	fdFree    = 3

	// Requests to the factory.
	opClone = 1
	opTake  = 2
	opClose = 3

	requestSize = 16
	replySize   = 24

	// Flags of clone(2) for another thread of a stub:
	// CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM.
	threadFlags = 0x50f00
	// And for another stub: CLONE_FILES|SIGCHLD. All stubs have the factory's
	// table of descriptors, so that one is handed over once for all.
	forkFlags = 0x411
)

// Addresses that a platform points a stub thread at.
const (
	// HandlerAddr is the handler of SIGSEGV, SIGBUS, SIGFPE and SIGILL: a
	// syscall instruction, reached with the address of the siginfo_t in RSI
	// and of the ucontext in RDX.
	HandlerAddr = codeBase + offHandler
	// CallAddr makes the system call that is in the registers, then traps.
	CallAddr = codeBase + offCall
	// BatchAddr makes R12 system calls, described by the Commands at RBX, then
	// traps. It stops at the first that fails, with R12 of them left, that one
	// included, and the error in RAX.
	BatchAddr = codeBase + offBatch
	// SpawnAddr makes the clone call that is in the registers, which leaves
	// the new thread asleep; then sigaltstack(R14, NULL); then it traps with
	// the new thread's id in R13 and sigaltstack's result in RAX.
	SpawnAddr = codeBase + offSpawn

	// CommandAddr is where a stub sees Process.Commands.
	CommandAddr = cmdBase
	// AltStackAddr is where it sees Process.AltStackArg: a stack_t.
	AltStackAddr = cmdBase + altStackOff
	altStackOff  = cmdSize - 64

	// ThreadFlags are the clone(2) flags of a stub thread.
	ThreadFlags = threadFlags

	// UserEnd is the end of what applications can map.
	UserEnd = usermem.Addr(slotsBase)

	// CommandSize is the size of a Command: number and six arguments.
	CommandSize = 56
	// MaxCommands is how many fit.
	MaxCommands = altStackOff / CommandSize
)
