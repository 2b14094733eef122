package cpuid

// instruction is what is known of one in 64-bit mode: Intel SDM vol. 2, chapter 2
// and appendix A.
type instruction struct {
	length int
	// relative is where four bytes are that are an address relative to the
	// instruction's end, or zero.
	relative int
	// jumps says that it may not go on behind itself, or at a place that is relative to
	// it.
	jumps bool
}

// What follows an opcode.
const (
	bad   = 0
	plain = 1 << iota
	modRM
	imm8
	imm16
	imm32 // or 16 bits, with the operand size prefix
	jump
)

// oneByte and twoByte say what follows the opcodes, and those behind 0f.
var oneByte, twoByte = func() (one, two [256]uint8) {
	set := func(t *[256]uint8, what uint8, ops ...int) {
		for _, op := range ops {
			t[op] = what
		}
	}
	span := func(t *[256]uint8, what uint8, from, to int) {
		for op := from; op <= to; op++ {
			t[op] = what
		}
	}
	for op := 0; op < 0x40; op += 8 { // arithmetic
		span(&one, modRM, op, op+3)
		one[op+4], one[op+5] = imm8, imm32
	}
	span(&one, plain, 0x50, 0x5f)
	set(&one, modRM, 0x63, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0xd0, 0xd1, 0xd2, 0xd3, 0xfe)
	set(&one, imm32, 0x68, 0xa9)
	set(&one, imm8, 0x6a, 0xa8)
	set(&one, modRM|imm32, 0x69, 0x81, 0xc7)
	set(&one, modRM|imm8, 0x6b, 0x80, 0x83, 0xc0, 0xc1, 0xc6)
	span(&one, jump|imm8, 0x70, 0x7f)
	span(&one, plain, 0x90, 0x99)
	span(&one, plain, 0x9b, 0x9f)
	span(&one, plain, 0xa4, 0xa7)
	span(&one, plain, 0xaa, 0xaf)
	span(&one, imm8, 0xb0, 0xb7)
	span(&one, imm32, 0xb8, 0xbf)
	set(&one, jump|imm16, 0xc2)
	set(&one, jump, 0xc3, 0xcc, 0xcf, 0xf4)
	set(&one, imm16|imm8, 0xc8)
	set(&one, plain, 0xc9, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd)
	span(&one, modRM, 0xd8, 0xdf)
	span(&one, jump|imm8, 0xe0, 0xe3)
	set(&one, jump|imm32, 0xe8, 0xe9)
	set(&one, jump|imm8, 0xeb)
	set(&one, modRM, 0xf6, 0xf7, 0xff)

	set(&two, jump, 0x05, 0x0b)
	set(&two, plain, 0x31, 0x77, 0xa2)
	span(&two, modRM, 0x10, 0x1f)
	span(&two, modRM, 0x28, 0x2f)
	span(&two, modRM, 0x40, 0x6f)
	span(&two, modRM|imm8, 0x70, 0x73)
	span(&two, modRM, 0x74, 0x76)
	set(&two, modRM, 0x01, 0x0d, 0x7c, 0x7d, 0x7e, 0x7f, 0xa3, 0xa5, 0xab, 0xad, 0xae, 0xaf, 0xb0, 0xb1, 0xc0, 0xc1, 0xc3, 0xc7)
	span(&two, jump|imm32, 0x80, 0x8f)
	span(&two, modRM, 0x90, 0x9f)
	set(&two, modRM|imm8, 0xa4, 0xac, 0xba, 0xc2, 0xc4, 0xc5, 0xc6)
	span(&two, modRM, 0xb3, 0xb8)
	span(&two, modRM, 0xbb, 0xbf)
	span(&two, plain, 0xc8, 0xcf)
	span(&two, modRM, 0xd0, 0xfe)
	return one, two
}()

// decode decodes the instruction at the beginning of code, which fails for one
// that compilers don't make, or that is cut off.
func decode(code []byte) (in instruction, ok bool) {
	at := func(i int) byte {
		if i < len(code) {
			return code[i]
		}
		return 0
	}
	i, short := 0, false
prefixes:
	for ; i < 4; i++ {
		switch at(i) {
		case 0x66:
			short = true
		case 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0xf2, 0xf3:
		default:
			break prefixes
		}
	}
	wide := false
	if b := at(i); b&0xf0 == 0x40 { // REX
		wide = b&8 != 0
		i++
	}
	op := at(i)
	i++
	var what uint8
	switch op {
	case 0x0f:
		op = at(i)
		i++
		switch op {
		case 0x38:
			i++
			what = modRM
		case 0x3a:
			i++
			what = modRM | imm8
		default:
			what = twoByte[op]
		}
	case 0xc5: // VEX, two bytes
		what = vector(1, at(i+1))
		i += 2
	case 0xc4:
		what = vector(at(i)&0x1f, at(i+2))
		i += 3
	case 0x62: // EVEX
		what = vector(at(i)&7, at(i+3))
		i += 4
	default:
		what = oneByte[op]
		switch {
		case op&0xf8 == 0xb8 && wide:
			i += 4 // imm64
		case op == 0xf6 && at(i)&0x30 == 0: // test
			what |= imm8
		case op == 0xf7 && at(i)&0x30 == 0:
			what |= imm32
		case op == 0xff && at(i)>>3&7 >= 2 && at(i)>>3&7 <= 5:
			what |= jump
		}
	}
	if what == bad {
		return in, false
	}
	in.jumps = what&jump != 0
	if what&modRM != 0 {
		m := at(i)
		i++
		mod, rm := m>>6, m&7
		if mod != 3 && rm == 4 {
			if at(i)&7 == 5 && mod == 0 {
				i += 4
			}
			i++
		}
		switch {
		case mod == 0 && rm == 5:
			in.relative = i
			i += 4
		case mod == 1:
			i++
		case mod == 2:
			i += 4
		}
	}
	if what&imm8 != 0 {
		i++
	}
	if what&imm16 != 0 {
		i += 2
	}
	if what&imm32 != 0 {
		if short && what&jump != 0 {
			return in, false // processors differ
		}
		if i += 4; short {
			i -= 2
		}
	}
	in.length = i
	return in, i <= len(code)
}

// vector says what follows the opcode op of a VEX or EVEX instruction.
func vector(opcodeMap, op byte) uint8 {
	switch opcodeMap {
	case 1:
		switch {
		case op == 0x77:
			return plain
		case op >= 0x70 && op <= 0x73, op == 0xc2, op >= 0xc4 && op <= 0xc6:
			return modRM | imm8
		}
		return modRM
	case 2:
		return modRM
	case 3:
		return modRM | imm8
	}
	return bad
}
