package ptrace

import "vitrine/pkg/usermem"

// access tells from the first bytes of an instruction how it touches the memory
// that it names, for those that only read or only write it, which are nearly
// all that faults come from. It reports false for anything else: instructions
// that read and write, that touch memory in two places, that it doesn't know.
// The processor is then asked itself, by way of a signal frame.
//
// The encoding is in Intel SDM vol. 2, chapter 2 and appendix A.
func access(code []byte) (usermem.Access, bool) {
	i := 0
	operand := byte(0) // the last of the prefixes 66, F2 and F3
	for ; i < len(code); i++ {
		switch b := code[i]; b {
		case 0x66, 0xf2, 0xf3:
			operand = b
			continue
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67:
			continue
		}
		break
	}
	if i < len(code) && code[i]&0xf0 == 0x40 { // REX
		i++
	}
	at := func(n int) byte {
		if n < len(code) {
			return code[n]
		}
		return 0xff // as ModRM it names a register, which is refused
	}
	switch op := at(i); op {
	case 0x0f:
		if at(i+1) == 0x38 {
			return access0F38(at(i+2), at(i+3), operand)
		}
		return access0F(at(i+1), at(i+2), operand)
	case 0xc5: // VEX, two bytes: map 0F
		return access0F(at(i+2), at(i+3), vexPrefix[at(i+1)&3])
	case 0xc4: // VEX, three bytes
		p := vexPrefix[at(i+2)&3]
		switch at(i+1) & 0x1f {
		case 1:
			return access0F(at(i+3), at(i+4), p)
		case 2:
			return access0F38(at(i+3), at(i+4), p)
		}
		return 0, false
	case 0x62: // EVEX
		if at(i+1)&7 == 1 {
			return access0F(at(i+4), at(i+5), vexPrefix[at(i+2)&3])
		}
		return 0, false
	default:
		return accessOneByte(op, at(i+1))
	}
}

var vexPrefix = [4]byte{0, 0x66, 0xf3, 0xf2}

// memory reports whether a ModRM byte names memory.
func memory(modrm byte) bool { return modrm < 0xc0 }

func accessOneByte(op, modrm byte) (usermem.Access, bool) {
	reg := modrm >> 3 & 7
	switch op {
	case 0x88, 0x89, 0xc6, 0xc7: // mov to memory
		return usermem.Write, memory(modrm) && (op < 0xc0 || reg == 0)
	case 0x8a, 0x8b, 0x63, // mov, movsxd from memory
		0x02, 0x03, 0x0a, 0x0b, 0x12, 0x13, 0x1a, 0x1b, // arithmetic from memory
		0x22, 0x23, 0x2a, 0x2b, 0x32, 0x33, 0x3a, 0x3b,
		0x38, 0x39, 0x84, 0x85, 0x69, 0x6b: // cmp, test, imul
		return usermem.Read, memory(modrm)
	case 0x80, 0x81, 0x83: // cmp with a constant; the others also write
		return usermem.Read, memory(modrm) && reg == 7
	case 0xf6, 0xf7: // test, mul, imul, div, idiv; not and neg also write
		return usermem.Read, memory(modrm) && reg != 2 && reg != 3
	case 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x68, 0x6a, 0xe8: // push, call
		return usermem.Write, true
	case 0x58, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x5e, 0x5f, 0xc2, 0xc3, 0xc9: // pop, ret, leave
		return usermem.Read, true
	case 0xaa, 0xab: // stos
		return usermem.Write, true
	case 0xac, 0xad, 0xae, 0xaf, 0xa6, 0xa7: // lods, scas, cmps
		return usermem.Read, true
	}
	return 0, false
}

// access0F is for the map of two-byte opcodes, in any encoding.
func access0F(op, modrm, prefix byte) (usermem.Access, bool) {
	if !memory(modrm) {
		return 0, false
	}
	switch op {
	case 0x11, 0x13, 0x17, 0x29, 0x2b, 0x7f, 0xe7, 0xc3: // vector stores, movnti
		return usermem.Write, true
	case 0xd6:
		return usermem.Write, prefix == 0x66
	case 0x7e: // movd to memory, movq from memory
		if prefix == 0xf3 {
			return usermem.Read, true
		}
		return usermem.Write, true
	case 0x10, 0x12, 0x14, 0x15, 0x16, 0x28, 0x2a, 0x2c, 0x2d, 0x2e, 0x2f,
		0x6e, 0x6f, 0x74, 0x75, 0x76, 0xda, 0xdb, 0xde, 0xdf, 0xeb, 0xef, 0xd4, 0xfa, 0xfb, 0xfc, 0xfe, 0xf8,
		0xaf, 0xb6, 0xb7, 0xbe, 0xbf, 0xbc, 0xbd, 0xb8: // imul, movzx, movsx, bsf, bsr, popcnt
		return usermem.Read, true
	}
	switch {
	case op >= 0x40 && op <= 0x4f && prefix == 0: // cmov; with VEX these are mask operations
		return usermem.Read, true
	case op >= 0x51 && op <= 0x5f || op >= 0x60 && op <= 0x6d: // vector arithmetic
		return usermem.Read, true
	}
	return 0, false
}

// access0F38 is for the map of three-byte opcodes that begins with 0F 38.
func access0F38(op, modrm, prefix byte) (usermem.Access, bool) {
	if !memory(modrm) {
		return 0, false
	}
	switch {
	case op <= 0x0b, op >= 0x20 && op <= 0x25, op >= 0x37 && op <= 0x40,
		prefix == 0x66 && (op == 0x18 || op == 0x19 || op == 0x1a || op == 0x58 || op == 0x59 || op == 0x5a || op == 0x78 || op == 0x79): // broadcast
		return usermem.Read, true
	}
	return 0, false
}
