// Package linux has numbers of the Linux interface for amd64 that
// golang.org/x/sys/unix has not, and the names of the system calls: no logic, no types.
package linux

// Requests of ioctl(2) that all files know (asm-generic/ioctls.h).
const (
	FIONREAD = 0x541b
	FIONBIO  = 0x5421
	FIONCLEX = 0x5450
	FIOCLEX  = 0x5451
	FIOASYNC = 0x5452
)

// Options of wait4(2) (linux/wait.h).
const (
	WNOTHREAD = 0x20000000
	WALL      = 0x40000000
	WCLONE    = 0x80000000
)

// ADDR_NO_RANDOMIZE is a bit of personality(2).
const ADDR_NO_RANDOMIZE = 0x0040000

// MLOCK_ONFAULT is the flag of mlock2(2).
const MLOCK_ONFAULT = 1
