// Package callfilter has the filters of system calls that applications put on
// themselves (seccomp(2)), or that a container starts with: programs of classic
// BPF that are asked about a call's number and arguments, and answer what is to
// become of it.
//
// A State is which calls a task may make, by the strict mode or by a Chain of
// filters, the newest first. Both are immutable, so that tasks share what they
// inherit and are asked without a lock. What an answer does to a task is for the
// kernel.
//
// Programs come from applications. Check lets only such through as end and touch
// nothing but their data and their own scratch memory; Chain bounds their number.
package callfilter

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
)

// What filters answer with (seccomp(2)): an action, in the bits of ActionMask, and
// data in those of DataMask. KillProcess and Log are younger than 4.4; newer
// programs ask for them.
const (
	KillProcess = 0x80000000
	KillThread  = 0x00000000
	Trap        = 0x00030000
	Errno       = 0x00050000
	Trace       = 0x7ff00000
	Log         = 0x7ffc0000
	Allow       = 0x7fff0000
	ActionMask  = 0xffff0000
	DataMask    = 0x0000ffff
)

// AuditArch is what the data says of the architecture, and the siginfo of SIGSYS.
const AuditArch = 0xc000003e

// maxChain bounds the instructions of all filters of a task, each filter with
// four more (MAX_INSNS_PER_PATH).
const maxChain = 32768

const dataSize = 64 // of struct seccomp_data

// Data is what a filter is asked about: struct seccomp_data.
type Data [dataSize]byte

// DataOf returns the data of the system call that r asks for.
func DataOf(r *arch.Registers) (d Data) {
	le := binary.LittleEndian
	le.PutUint32(d[0:], uint32(r.SyscallNo()))
	le.PutUint32(d[4:], AuditArch)
	le.PutUint64(d[8:], r.Rip)
	for i, a := range r.SyscallArgs() {
		le.PutUint64(d[16+8*i:], a)
	}
	return d
}

// Chain is a filter and those installed before it; nil is no filter. Immutable.
type Chain struct {
	program []Instruction
	before  *Chain
	// total is the length of the whole chain, as maxChain counts it.
	total int
	// allows has a bit for each number that this program and those before it
	// allow whatever the arguments.
	allows [rememberedCalls / 64]uint64
}

// rememberedCalls is up to which number a chain remembers what it always allows:
// all numbers that Linux has given out are below.
const rememberedCalls = 512

// argumentsAt is where the instruction pointer and the arguments begin in Data,
// behind the number and the architecture.
const argumentsAt = 8

// remember fills allows.
func (c *Chain) remember() {
	var d Data
	binary.LittleEndian.PutUint32(d[4:], AuditArch)
	for no := range uint32(rememberedCalls) {
		if !c.before.Allows(uint64(no)) {
			continue
		}
		binary.LittleEndian.PutUint32(d[0:], no)
		if answer, ok := run(c.program, &d, argumentsAt); ok && answer&ActionMask == Allow {
			c.allows[no/64] |= 1 << (no % 64)
		}
	}
}

// Allows reports whether the chain is known to allow call no whatever its arguments:
// Linux remembers that too, since 5.11. Most calls of a container under an engine's
// profile cost no more than this look.
func (c *Chain) Allows(no uint64) bool {
	return c == nil || no < rememberedCalls && c.allows[no/64]>>(no%64)&1 != 0
}

// Add returns the chain with program in front: EINVAL for a program that isn't
// one, ENOMEM where there are too many. The chain keeps program.
func (c *Chain) Add(program []Instruction) (*Chain, error) {
	if err := Check(program); err != nil {
		return nil, err
	}
	n := &Chain{program: program, before: c, total: len(program)}
	if c != nil {
		n.total += c.total + 4
	}
	if n.total > maxChain {
		return nil, unix.ENOMEM
	}
	n.remember()
	return n, nil
}

// Descends reports whether c is old, or was built on it.
func (c *Chain) Descends(old *Chain) bool {
	for ; c != old; c = c.before {
		if c == nil {
			return false
		}
	}
	return true
}

// Ask returns the answer of all filters together: the gravest, the newest of
// those with the same action.
func (c *Chain) Ask(d *Data) uint32 {
	answer := uint32(Allow)
	for ; c != nil; c = c.before {
		if a, _ := run(c.program, d, dataSize); severity(a) < severity(answer) {
			answer = a
		}
	}
	return answer
}

// severity orders actions: the lower wins.
func severity(answer uint32) int32 { return int32(answer & ActionMask) }
