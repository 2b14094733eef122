// Package seccomp turns tables of allowed system calls into classic BPF programs and installs them.
//
// A filter is data: a [Filter] holds [Row] values, one per allowed (or otherwise treated) call, each with the
// argument values it covers and the reason it is there. [Assemble] makes the program the kernel runs,
// [Install] gives it to every thread of the process. See seccomp(2) and
// Documentation/userspace-api/seccomp_filter.rst.
//
// # Meaning of a filter
//
// Rows with the same number are alternatives, tried in the order they stand in the table: the first one whose
// checks all hold decides. A call that no row covers gets Filter.Default. A call made through another
// architecture's entry (int 0x80, x32) gets Filter.Foreign: its number means something else there.
// Arguments are compared as unsigned 64-bit values, all bits of them, unless the check carries a mask. For an
// argument the kernel takes as a 32-bit int, use the Low variants: the upper half of such a register is
// ignored by the kernel and holds whatever the caller left there.
//
// # Cost
//
// The program is a binary search over the numbers, in which neighbours with the same action count as one, so a call
// passes about log2(rows)+4 instructions before its own checks. Assembly sorts the rows and writes one slice of instructions; it does not allocate per row. A
// program may be kept and installed in several processes.
//
// # What it does not do
//
// It does not look behind pointers (BPF can't), does not speak any architecture but x86-64, and has no
// listener for SECCOMP_RET_USER_NOTIF.
//
// Everything here is free of shared state; a Filter may be read by several goroutines at once.
package seccomp

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"
)

// Action is what the kernel does with a call: a SECCOMP_RET_* value with its data in the low 16 bits.
// The zero Action means "the usual one here": Allow in a Row, KillProcess in a Filter.
type Action uint32

// The actions of seccomp(2).
const (
	KillProcess Action = unix.SECCOMP_RET_KILL_PROCESS
	// KillThread is SECCOMP_RET_KILL_THREAD, which is zero, with data that the kernel doesn't look at.
	KillThread Action = unix.SECCOMP_RET_KILL_THREAD | 1
	Trap       Action = unix.SECCOMP_RET_TRAP
	Trace      Action = unix.SECCOMP_RET_TRACE
	Log        Action = unix.SECCOMP_RET_LOG
	UserNotify Action = unix.SECCOMP_RET_USER_NOTIF
	Allow      Action = unix.SECCOMP_RET_ALLOW
)

// Errno makes the call fail with e without being run.
func Errno(e unix.Errno) Action { return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&0xffff) }

type operator uint8

const (
	opMasked operator = iota // value&mask == want
	opOneOf                  // value is in a list
	opOneOfLow
	opAtMost
	opAtLeast
	opOther // value is not the one
)

// instructionPointer is the index of the pseudo-argument that stands for seccomp_data.instruction_pointer.
const instructionPointer = 6

// Check is one condition on one argument. Make it with the functions below.
type Check struct {
	op     operator
	arg    uint8
	value  uint64
	mask   uint64
	values []uint64
}

// Equal holds if argument arg (0 to 5), all 64 bits of it, is v.
func Equal(arg int, v uint64) Check {
	return Check{op: opMasked, arg: uint8(arg), value: v, mask: math.MaxUint64}
}

// EqualLow holds if the low 32 bits of the argument are v.
func EqualLow(arg int, v uint32) Check {
	return Check{op: opMasked, arg: uint8(arg), value: uint64(v), mask: math.MaxUint32}
}

// NotEqual holds if the argument, all 64 bits of it, is anything but v.
func NotEqual(arg int, v uint64) Check { return Check{op: opOther, arg: uint8(arg), value: v} }

// Masked holds if the argument's bits under mask are v. A v with bits outside mask never holds.
func Masked(arg int, mask, v uint64) Check {
	return Check{op: opMasked, arg: uint8(arg), value: v, mask: mask}
}

// OnlyBits holds if the argument has no bits but those of allowed: the check for a word of flags.
func OnlyBits(arg int, allowed uint64) Check { return Masked(arg, ^allowed, 0) }

// OneOf holds if the argument is one of vs. With no vs it never holds.
func OneOf(arg int, vs ...uint64) Check { return Check{op: opOneOf, arg: uint8(arg), values: vs} }

// OneOfLow holds if the low 32 bits of the argument are one of vs.
func OneOfLow(arg int, vs ...uint64) Check {
	return Check{op: opOneOfLow, arg: uint8(arg), values: vs}
}

// AtMost holds if the argument, unsigned, is no greater than v.
func AtMost(arg int, v uint64) Check { return Check{op: opAtMost, arg: uint8(arg), value: v} }

// AtLeast holds if the argument, unsigned, is no less than v.
func AtLeast(arg int, v uint64) Check { return Check{op: opAtLeast, arg: uint8(arg), value: v} }

// CallerAtLeast holds if the instruction pointer, which stands behind the syscall instruction, is at
// least addr. Together with CallerBelow it confines a row to call sites in one range.
func CallerAtLeast(addr uint64) Check {
	return Check{op: opAtLeast, arg: instructionPointer, value: addr}
}

// CallerBelow holds if the instruction pointer is less than addr. With addr 0 it never holds.
func CallerBelow(addr uint64) Check {
	if addr == 0 {
		return Check{op: opOneOf, arg: instructionPointer}
	}
	return Check{op: opAtMost, arg: instructionPointer, value: addr - 1}
}

// Row is one line of the table: a call, the arguments for which the row counts (all checks must hold; none
// means any arguments), what then happens, and why it must.
type Row struct {
	Number uint32 // of the call, from asm/unistd_64.h
	Checks []Check
	Action Action // zero: Allow
	Why    string // the reason, for the reader
}

// Filter is a table of calls.
type Filter struct {
	Rows    []Row
	Default Action // for calls no row covers; zero: KillProcess
	Beyond  Action // for calls with a higher number than any row's; zero: as Default
	Foreign Action // for calls of another architecture or x32, and negative numbers; zero: KillProcess
}

// Errors of Assemble.
var (
	ErrTooLong     = errors.New("seccomp: the filter needs more than 4096 instructions")
	ErrBadArgument = errors.New("seccomp: a check names an argument above 5")
	ErrBadNumber   = errors.New("seccomp: a row's number is in the x32 range")
)
