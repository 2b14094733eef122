package systrap

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The pieces of program_amd64.s: pieceAddrs stores their addresses, in the order
// of their places.
//
//go:noescape
func pieceAddrs(p *[12]uintptr)

// spin looks at word until it is want, which it reports, or n times.
//
//go:noescape
func spin(word *uint32, want uint32, n int) bool

// shared is the page that a thread for application code shares with the
// Sentry. The application can write it at any time: nothing in it is believed,
// and each word is read once. Places are those of the constants in layout.go.
type shared struct {
	// command is written by the Sentry, after what it says: the number of the
	// command to resume, in the low half, and in the high half whether the thread
	// should sleep until then rather than spin.
	command atomic.Uint64
	spin    uint32 // how often to look before sleeping
	load    uint32 // which registers to load: see loadFS
	result  uint64 // rax, with loadResult
	area    uint64 // where vector registers are saved after a call, and loaded from with loadArea
	_       [0x20]byte

	// Written by the thread after all else, both at once: the number of the command
	// that has ended, and how.
	event        atomic.Uint32
	kind         uint32
	_            [56]byte
	stubSleeps   atomic.Uint32
	_            [60]byte
	sentrySleeps atomic.Uint32
	_            [60]byte

	// Of the thread.
	interrupt      uint32
	tid            uint32
	seen           uint32
	signo          uint32
	frame, info    uint64 // addresses of ucontext and siginfo_t
	fp             uint64 // address of the XSAVE image to load, or zero
	fsBase, gsBase uint64
	sp             uint64
	saved          atomic.Uint32 // the command at whose end vector registers were saved last
	_              [8]byte
	frameAt        uint64 // with saveFrame
	_              [40]byte
	// regs are those to load, in the order of struct sigcontext
	// (asm/sigcontext.h) up to eflags, then cs, ss and the segment bases.
	regs [22]uint64
	_    [0x10]byte
	// call is written by the thread: see callR8.
	call [callWords]uint64
}

// sharedAt overlays b, the page of a slot.
func sharedAt(b []byte) *shared {
	// SAFETY: b is a page of a mapping, aligned, larger than shared, outlives
	// every use of the thread, and holds no pointers.
	return (*shared)(unsafe.Pointer(&b[0]))
}

// wordAt overlays the first four bytes of b.
func wordAt(b []byte) *atomic.Uint32 {
	// SAFETY: as in sharedAt; b is aligned to four bytes.
	return (*atomic.Uint32)(unsafe.Pointer(&b[0]))
}

// spinOn waits for word to be want by looking n times.
func spinOn(word *atomic.Uint32, want uint32, n int) bool {
	// SAFETY: an atomic.Uint32 has the layout of a uint32.
	return spin((*uint32)(unsafe.Pointer(word)), want, n)
}

// Operations of futex(2) on shared memory.
const (
	futexWaitOp = 0
	futexWakeOp = 1
)

// futexWait sleeps while word is v, or returns for no reason.
func futexWait(word *atomic.Uint32, v uint32) {
	// SAFETY: word is in a mapping, which outlives the call.
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(v), 0, 0, 0)
}

// futexWake wakes a thread that sleeps on word.
func futexWake(word *atomic.Uint32) {
	// SAFETY: as in futexWait.
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, 1, 0, 0, 0)
}

// lowHalf is the half of a word that a futex is for.
func lowHalf(w *atomic.Uint64) *atomic.Uint32 {
	// SAFETY: the low half of a little-endian word comes first; both are four-byte aligned.
	return (*atomic.Uint32)(unsafe.Pointer(w))
}

// highHalf is the other one.
func highHalf(w *atomic.Uint64) *atomic.Uint32 {
	// SAFETY: as in lowHalf; the address stays inside the word.
	return (*atomic.Uint32)(unsafe.Add(unsafe.Pointer(w), 4))
}

func tgkill(tgid, tid int, sig unix.Signal) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_TGKILL, uintptr(tgid), uintptr(tid), uintptr(sig))
	return e
}

// cpuSet is a mask of CPUs as in sched_setaffinity(2).
type cpuSet [16]uint64

func setAffinity(tid int, s *cpuSet) {
	// SAFETY: s lives until the call returns. Failing is harmless: the thread
	// stays where it may run.
	unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
}

func getAffinity(tid int, s *cpuSet) unix.Errno {
	// SAFETY: s lives until the call returns.
	_, _, e := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), unsafe.Sizeof(*s), uintptr(unsafe.Pointer(s)))
	return e
}

// currentCPU is where the caller runs, without a system call.
func currentCPU() int { return int(processorID() & 0xfff) }

// threadBase is the FS base of the calling thread: where the Go runtime keeps what
// is its own, and so different for each.
func threadBase() uintptr

// processorID is what the kernel has in IA32_TSC_AUX: the CPU in the low twelve
// bits.
func processorID() uint32

// epollWait waits until there is an event.
func epollWait(epoll int, events []unix.EpollEvent) (int, unix.Errno) {
	// SAFETY: events lives until the call returns, which writes no more than
	// its length; no signal mask is given.
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), ^uintptr(0), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
