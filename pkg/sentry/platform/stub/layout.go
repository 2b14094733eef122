package stub

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// Where things lie in a stub's address space. All of it is above UserEnd, so
// that everything below belongs to the application.
//
//	UserEnd   = slotsBase  the threads' memory: signal stacks and what else (read, write; shared with the Sentry)
//	cmdBase                command page (read only here; the Sentry writes it)
//	sharedBase             what the platform maps into all stubs alike
//	codeBase               the image's code (read, execute)
const (
	taskSize   = 0x7ffffffff000
	slotsBase  = 0x7ffffc000000
	slotsSize  = 32 << 20
	cmdBase    = 0x7fffff000000
	cmdSize    = 1 << 18
	sharedBase = 0x7fffff080000
	codeBase   = 0x7fffff100000
	codeSize   = 0x8000

	// Places of the factory's code in the code area.
	offBoot    = 0x000
	offFactory = 0x200
	// Its data.
	offActHandler = 0xa00 // struct kernel_sigaction
	offActIgnore  = 0xa40
	offCapHeader  = 0xa80 // struct __user_cap_header_struct
	offCapData    = 0xa90
	offName       = 0xac0
	offFprog      = 0xae0 // struct sock_fprog
	offSignals    = 0xaf0 // the numbers of the signals with a handler, then zero
	offFilter     = 0xb00 // the filter's instructions
	// What the platform brings.
	offPlatform = 0x2000

	factoryEntry  = codeBase + offFactory
	childEntry    = codeBase + offPlatform
	addrActHandle = codeBase + offActHandler
	addrActIgnore = codeBase + offActIgnore
	addrCapHeader = codeBase + offCapHeader
	addrCapData   = codeBase + offCapData
	addrName      = codeBase + offName
	addrFprog     = codeBase + offFprog
	addrSignals   = codeBase + offSignals
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

	// fromFactory stands where a new stub names its other thread.
	fromFactory = -1

	requestSize = 16
	replySize   = 24

	// Flags of clone(2) for another thread of a stub:
	// CLONE_VM|FS|FILES|SIGHAND|THREAD|SYSVSEM.
	threadFlags = 0x50f00
	// And for another stub: CLONE_FILES|SIGCHLD. All stubs have the factory's
	// table of descriptors, so that one is handed over once for all.
	forkFlags = 0x411
)

// What a platform needs to know for its part of the stub.
const (
	// CodeBase and CodeSize are the code area, PlatformCode where Program.Code
	// is in it. CodeBase has to be of the same kind in all stubs.
	CodeBase     = codeBase
	CodeSize     = codeSize
	PlatformCode = codeBase + offPlatform

	// CommandAddr is where a stub sees Process.Commands, which is
	// CommandBytes long, and can only read it.
	CommandAddr  = cmdBase
	CommandBytes = cmdSize
	// SharedAddr is a place for what a platform maps into all stubs alike, up to
	// CodeBase.
	SharedAddr = sharedBase
	// SlotsAddr is where it sees Process.Slots, which is SlotsBytes long, a power
	// of two that SlotsAddr is a multiple of.
	SlotsAddr  = slotsBase
	SlotsBytes = slotsSize

	// ThreadFlags are the clone(2) flags of a stub thread.
	ThreadFlags = threadFlags

	// Socket is the stub's descriptor of the line to the Sentry, and ReplySize
	// what a new stub writes to it.
	Socket    = fdSocket
	ReplySize = replySize

	// UserEnd is the end of what applications can map.
	UserEnd = usermem.Addr(slotsBase)
)

// FirstAddr is the lowest address that the host lets a stub map.
func FirstAddr() usermem.Addr {
	const usual = 0x10000 // the value that distributions set
	fd, err := unix.Open("/proc/sys/vm/mmap_min_addr", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return usual
	}
	defer unix.Close(fd)
	var b [32]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return usual
	}
	var v usermem.Addr
	for _, c := range b[:n] {
		if c < '0' || c > '9' {
			break
		}
		v = v*10 + usermem.Addr(c-'0')
	}
	if v, ok := v.RoundUp(); ok && v < UserEnd {
		return max(v, usual)
	}
	return usual
}
