package syscalls

import "vitrine/pkg/abi/linux"

// maxNumber is the highest number that has a name.
const maxNumber = len(linux.SyscallNames) - 1

// nameOf returns the name of a system call (unistd_64.h), or an empty string
// for a number that was never given out.
func nameOf(no uint64) string {
	if no > uint64(maxNumber) {
		return ""
	}
	return linux.SyscallNames[no]
}
