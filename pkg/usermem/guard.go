package usermem

import (
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// Guard runs f, in which the Sentry touches memory that is backed by a host
// file, and turns a fault on that memory (the file was truncated meanwhile)
// into EFAULT. Any other panic goes on. f must not take locks that it does not release
// by defer.
func Guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			// A fault's panic is a runtime.Error that carries the address.
			if _, ok := r.(interface {
				runtime.Error
				Addr() uintptr
			}); !ok {
				panic(r)
			}
			err = unix.EFAULT
		}
	}()
	return f()
}
