package vdso

import (
	"bytes"
	"unsafe"
)

// The code of the vDSO. None of these can be called from Go.
func clockGettime()
func gettimeofday()
func time()
func clockGetres()
func getcpu()

// codeAddresses returns where they are, in this order.
func codeAddresses() [5]uintptr

// endMark is what END in vdso_amd64.s leaves behind a function.
const endMark = "\x0f\x0b\x00\xd5\xe5\x0d\x0d\xf0\xfe\x5a"

// maxFunction is more than the longest function has.
const maxFunction = 1024

// codeOf copies the function at addr, without its mark.
func codeOf(addr uintptr) []byte {
	// SAFETY: addr is the start of a function in this program's text, which ends
	// in endMark, so what is read before that mark is mapped; text never moves and
	// is no pointer to the garbage collector's memory. The loop never looks
	// behind the mark.
	for n := uintptr(0); n < maxFunction; n++ {
		code := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&addr))), n+uintptr(len(endMark)))
		if string(code[n:]) == endMark {
			return bytes.Clone(code[:n])
		}
	}
	panic("vdso: a function without end")
}
