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
	// answers are the places of the last instruction that returns each action.
	answers []int
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

// reach is near for code that nothing falls through into.
func (a *assembler) reach(target int) int {
	if len(a.code)-target < 240 {
		return target
	}
	a.emit(jumpAlways, uint32(len(a.code)-target-1))
	return a.here()
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
	case opOther:
		a.branch(jumpEqual, vLow, fail, pass)
		a.emit(loadAbs, low)
		a.branch(jumpEqual, vHigh, a.here(), pass)
		a.emit(loadAbs, high)
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
	a.emit(returnConst, uint32(r.action()))
	for i := len(r.Checks) - 1; i >= 0; i-- {
		a.check(&r.Checks[i], fail)
	}
}

// segment is the numbers from first up to the next segment's: an action for all of them, or the rows of a
// single number.
type segment struct {
	first  uint32
	action Action
	rows   []Row
}

// segments divides the numbers. The rows are sorted. Neighbours with the same action are one segment, so that a
// program grows with the changes between actions and not with the calls.
func segments(rows []Row, other, beyond Action) []segment {
	all := make([]segment, 1, 2*len(rows)+2)
	all[0].action = other
	add := func(s segment) {
		last := &all[len(all)-1]
		if last.first == s.first {
			*last = s
			if len(all) == 1 {
				return
			}
			all = all[:len(all)-1]
			last = &all[len(all)-1]
		}
		if s.rows != nil || last.rows != nil || last.action != s.action {
			all = append(all, s)
		}
	}
	for len(rows) > 0 {
		number, n := rows[0].Number, 1
		for n < len(rows) && rows[n].Number == number {
			n++
		}
		s := segment{first: number, rows: rows[:n]}
		if len(rows[0].Checks) == 0 {
			s.action, s.rows = rows[0].action(), nil
		}
		add(s)
		add(segment{first: number + 1, action: other})
		if rows = rows[n:]; len(rows) == 0 {
			add(segment{first: number + 1, action: beyond})
		}
	}
	return all
}

// action is what the row says, its zero resolved.
func (r *Row) action() Action {
	if r.Action == 0 {
		return Allow
	}
	return r.Action
}

// search writes the decision among segments, half by half, and returns its entry. Nothing falls through into it
// or out of it.
func (a *assembler) search(all []segment, other Action) int {
	if len(all) == 1 {
		if s := &all[0]; s.rows != nil {
			return a.alternatives(s.rows, other)
		}
		return a.answer(all[0].action)
	}
	middle := len(all) / 2
	upper := a.search(all[middle:], other)
	lower := a.search(all[:middle], other)
	upper, lower = a.reach(upper), a.reach(lower)
	a.branch(jumpAtLeast, all[middle].first, upper, lower)
	return a.here()
}

// alternatives writes the rows of one number and returns the entry.
func (a *assembler) alternatives(rows []Row, other Action) int {
	fail := a.answer(other)
	for i := len(rows) - 1; i >= 0; i-- {
		a.row(&rows[i], fail)
		fail = a.here()
	}
	return fail
}

// answer returns the place of an instruction that returns action: one that is there and near, or a new one.
func (a *assembler) answer(action Action) int {
	for i := range a.answers {
		if place := a.answers[i]; Action(a.code[place].K) == action {
			if len(a.code)-place >= 200 {
				a.emit(returnConst, uint32(action))
				a.answers[i] = a.here()
			}
			return a.answers[i]
		}
	}
	a.emit(returnConst, uint32(action))
	a.answers = append(a.answers, a.here())
	return a.here()
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
	other, foreign, beyond := f.Default, f.Foreign, f.Beyond
	if other == 0 {
		other = KillProcess
	}
	if foreign == 0 {
		foreign = KillProcess
	}
	if beyond == 0 {
		beyond = other
	}
	a := assembler{code: make([]unix.SockFilter, 0, 8+8*len(rows))}
	body := a.search(segments(rows, other, beyond), other)
	// The head: architecture, then x32 and the negative numbers a tracer leaves behind.
	body = a.reach(body)
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
