package jail

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clearCapabilities empties the permitted, effective and inheritable sets of
// all threads (capset(2), version 3).
func clearCapabilities() error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	// SAFETY: the kernel reads a header and two data elements, and writes the
	// header's version only if it doesn't know it. Both live past the call
	// because the conversions stand in its argument list.
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(data)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
