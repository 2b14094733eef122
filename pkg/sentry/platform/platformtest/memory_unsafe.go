package platformtest

import (
	"sync/atomic"
	"unsafe"
)

// counter returns the i-th word of the data, which the application changes
// while the Sentry reads it.
func (e *env) counter(i int) *atomic.Uint64 {
	// SAFETY: the word is aligned, and the mapping outlives the test's use.
	return (*atomic.Uint64)(unsafe.Pointer(&e.mem.b[dataOff+8*i]))
}
