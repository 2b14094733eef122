// Package sysv calls functions that follow the System V ABI and need next to no
// stack: those of the vDSO, in its tests.
package sysv

// Call calls the function at fn with three arguments and returns its result.
// The function must keep to the ABI and may use 100 bytes of stack.
func Call(fn, a, b, c uintptr) uintptr
