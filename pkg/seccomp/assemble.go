package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Offsets into struct seccomp_data (linux/seccomp.h).
const (
	offNumber = 0
	offArch   = 4
	offIP     = 8
	offArgs   = 16
)

const (
	x32Bit = 0x40000000 // __X32_SYSCALL_BIT
	maxLen = 4096       // BPF_MAXINSNS

	loadAbs     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	andConst    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpEqual   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGreater = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpAtLeast = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	jumpAlways  = unix.BPF_JMP | unix.BPF_JA
	returnConst = unix.BPF_RET | unix.BPF_K
)

// assembler writes a program from its last instruction to its first. BPF only jumps forward, so every target
// is already placed when the jump to it is written and no fix-ups are needed. A place is an index into code;
// the instruction at place p runs just after the one at place p+1.
type assembler struct {
	code []unix.SockFilter
}

func (a *assembler) emit(code uint16, k uint32) {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
}

// here is the place of the instruction written last: the one that falls through to next.
func (a *assembler) here() int { return len(a.code) - 1 }

// near gives a place within reach of a conditional jump (255 instructions) that leads to target, planting a
// stepping stone in the code if target is too far. The slack leaves room for the few instructions that a
// check writes before its jump.
func (a *assembler) near(target int) int {
	if len(a.code)-target < 240 {
		return target
	}
	a.emit(jumpAlways, uint32(len(a.code)-target-1))
	stone := a.here()
	a.emit(jumpAlways, 1) // those coming from above step over the stone
	return stone
}

// branch writes a conditional jump. Both targets must be within reach.
func (a *assembler) branch(code uint16, k uint32, yes, no int) {
	p := len(a.code)
	a.code = append(a.code, unix.SockFilter{Code: code, Jt: uint8(p - yes - 1), Jf: uint8(p - no - 1), K: k})
}

// check writes one condition: fall through to what was written before if it holds, go to fail otherwise.
func (a *assembler) check(c *Check, fail int) {
	low, high := uint32(offArgs+8*int(c.arg)), uint32(offArgs+8*int(c.arg)+4)
	if c.arg == instructionPointer {
		low, high = offIP, offIP+4
	}
	fail = a.near(fail)
	pass := a.here()
	vLow, vHigh := uint32(c.value), uint32(c.value>>32)
	switch c.op {
	case opMasked:
		if c.value&^c.mask != 0 {
			a.emit(jumpAlways, uint32(len(a.code)-fail-1))
			return
		}
		a.masked(low, uint32(c.mask), vLow, fail)
		a.masked(high, uint32(c.mask>>32), vHigh, fail)
	case opAtMost:
		a.branch(jumpGreater, vLow, fail, pass)
		a.emit(loadAbs, low)
		test := a.here()
		a.branch(jumpEqual, vHigh, test, pass)
		a.branch(jumpGreater, vHigh, fail, a.here())
		a.emit(loadAbs, high)
	case opAtLeast:
		a.branch(jumpAtLeast, vLow, pass, fail)
		a.emit(loadAbs, low)
		test := a.here()
		a.branch(jumpEqual, vHigh, test, fail)
		a.branch(jumpGreater, vHigh, pass, a.here())
		a.emit(loadAbs, high)
	case opOneOf, opOneOfLow:
		a.oneOf(c, low, high, fail)
	}
}

func (a *assembler) masked(offset, mask, value uint32, fail int) {
	if mask == 0 {
		return
	}
	a.branch(jumpEqual, value, a.here(), fail)
	if mask != 0xffffffff {
		a.emit(andConst, mask)
	}
	a.emit(loadAbs, offset)
}

// oneOf tries the values one by one; neighbours in the list with the same upper half share its test.
func (a *assembler) oneOf(c *Check, low, high uint32, fail int) {
	pass := a.here()
	a.emit(jumpAlways, uint32(len(a.code)-fail-1))
	for i := len(c.values); i > 0; {
		group := uint32(c.values[i-1] >> 32)
		next := a.here()
		for ; i > 0 && (c.op == opOneOfLow || uint32(c.values[i-1]>>32) == group); i-- {
			pass = a.near(pass)
			a.branch(jumpEqual, uint32(c.values[i-1]), pass, a.here())
		}
		a.emit(loadAbs, low)
		if c.op == opOneOf {
			next = a.near(next)
			a.branch(jumpEqual, group, a.here(), next)
			a.emit(loadAbs, high)
		}
	}
}

// row writes one row: its checks, then its action. A failing check goes to fail.
func (a *assembler) row(r *Row, fail int) {
	action := r.Action
	if action == 0 {
		action = Allow
	}
	a.emit(returnConst, uint32(action))
	for i := len(r.Checks) - 1; i >= 0; i-- {
		a.check(&r.Checks[i], fail)
	}
}

// search writes the decision among rows, which are sorted by number: half by half, down to one number.
func (a *assembler) search(rows []Row, other uint32) {
	first, last := rows[0].Number, rows[len(rows)-1].Number
	if first == last {
		a.emit(returnConst, other)
		refuse := a.here()
		for i := len(rows) - 1; i >= 0; i-- {
			fail := a.here()
			if i == len(rows)-1 {
				fail = refuse
			}
			a.row(&rows[i], fail)
		}
		refuse = a.near(refuse)
		a.branch(jumpEqual, first, a.here(), refuse)
		return
	}
	middle := len(rows) / 2
	pivot := rows[middle].Number
	if pivot == first {
		for rows[middle].Number == pivot {
			middle++
		}
		pivot = rows[middle].Number
	} else {
		for rows[middle-1].Number == pivot {
			middle--
		}
	}
	a.search(rows[middle:], other)
	upper := a.here()
	a.search(rows[:middle], other)
	upper = a.near(upper)
	a.branch(jumpAtLeast, pivot, upper, a.here())
}

// Assemble makes f's program. It sorts a copy of the rows by number, keeping the order within a number.
func Assemble(f *Filter) ([]unix.SockFilter, error) {
	rows := slices.Clone(f.Rows)
	slices.SortStableFunc(rows, func(x, y Row) int { return int(x.Number) - int(y.Number) })
	for i := range rows {
		if rows[i].Number >= x32Bit {
			return nil, ErrBadNumber
		}
		for j := range rows[i].Checks {
			if rows[i].Checks[j].arg > instructionPointer {
				return nil, ErrBadArgument
			}
		}
	}
	other, foreign := f.Default, f.Foreign
	if other == 0 {
		other = KillProcess
	}
	if foreign == 0 {
		foreign = KillProcess
	}
	a := assembler{code: make([]unix.SockFilter, 0, 8+8*len(rows))}
	if len(rows) > 0 {
		a.search(rows, uint32(other))
	} else {
		a.emit(returnConst, uint32(other))
	}
	// The head: architecture, then x32 and the negative numbers a tracer leaves behind.
	body := a.here()
	a.emit(returnConst, uint32(foreign))
	refuse := a.here()
	a.branch(jumpAtLeast, x32Bit, refuse, body)
	a.emit(loadAbs, offNumber)
	a.branch(jumpEqual, unix.AUDIT_ARCH_X86_64, a.here(), refuse)
	a.emit(loadAbs, offArch)
	if len(a.code) > maxLen {
		return nil, ErrTooLong
	}
	slices.Reverse(a.code)
	return a.code, nil
}
