package gofer

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capHeader and capData are the structures of capget(2), in their 64-bit version 3.
type capHeader struct {
	version uint32
	pid     int32
}

type capData struct {
	effective, permitted, inheritable uint32
}

// capget reads the calling thread's sets.
func capget(h *capHeader, d *[2]capData) error {
	// SAFETY: the kernel reads h and writes the two capData of version 3 behind d; both outlive the call.
	_, _, errno := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(d)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// capset sets the sets of every thread.
func capset(h *capHeader, d *[2]capData) error {
	// SAFETY: the kernel only reads h and d, once for each thread, before AllThreadsSyscall returns. Pinning
	// puts both on the heap, where nothing moves, and keeps them alive until then.
	var pin runtime.Pinner
	pin.Pin(h)
	pin.Pin(d)
	defer pin.Unpin()
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(h)), uintptr(unsafe.Pointer(d)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
