package clock

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hostNow asks the host for the time, in nanoseconds. All clocks that a Keeper
// knows exist on every Linux that runs Go.
func hostNow(id ID) int64 {
	var ts unix.Timespec
	// SAFETY: the call writes ts, which lives until it returns; it does not block.
	unix.RawSyscall(unix.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// PageAt returns the Page at the start of b, which must be at least a page
// long, page-aligned, and stay mapped as long as the Page is used.
func PageAt(b []byte) *Page {
	_ = b[unsafe.Sizeof(Page{})-1]
	// SAFETY: b is large enough, as just checked, and aligned by contract; a Page
	// has no pointers.
	return (*Page)(unsafe.Pointer(&b[0]))
}

const (
	futexWaitBitset = 9 | 128 // FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG
	futexWake       = 1 | 128 // FUTEX_WAKE | FUTEX_PRIVATE_FLAG
	matchAny        = 1<<32 - 1
)

// futexSleep sleeps while *word is val, until CLOCK_MONOTONIC is deadline (in
// nanoseconds; negative: for ever), a wake-up, or a signal.
func futexSleep(word *atomic.Uint32, val uint32, deadline int64) unix.Errno {
	var ts unix.Timespec
	tsp := &ts
	if deadline < 0 {
		tsp = nil
	} else {
		ts = unix.NsecToTimespec(deadline)
		// The thread's own setting, and any thread may have been given to
		// this goroutine; it costs 100 ns.
		unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, 1, 0)
	}
	// SAFETY: word and ts live until the call returns; it reads both.
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitBitset,
		uintptr(val), uintptr(unsafe.Pointer(tsp)), 0, matchAny)
	return errno
}

// futexWakeOne wakes one sleeper on word.
func futexWakeOne(word *atomic.Uint32) {
	// SAFETY: the address is only compared; the call does not block.
	unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1)
}

// CPU returns the number of the host's processor that the calling thread is on.
func CPU() uint32 {
	var cpu uint32
	// SAFETY: the kernel writes four bytes at &cpu; getcpu(2) keeps no pointer.
	unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	return cpu
}
