package callfilter

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Instruction is one of a filter: struct sock_filter.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// maxProgram is BPF_MAXINSNS.
const maxProgram = 4096

// Instructions of classic BPF (Documentation/networking/filter.txt).
const (
	bpfLd, bpfLdx, bpfSt, bpfStx, bpfAlu, bpfJmp, bpfRet, bpfMisc = 0, 1, 2, 3, 4, 5, 6, 7

	bpfImm, bpfAbs, bpfMem, bpfLen = 0x00, 0x20, 0x60, 0x80

	bpfAdd, bpfSub, bpfMul, bpfDiv, bpfOr, bpfAnd = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
	bpfLsh, bpfRsh, bpfNeg, bpfXor                = 0x60, 0x70, 0x80, 0xa0

	bpfJa, bpfJeq, bpfJgt, bpfJge, bpfJset = 0x00, 0x10, 0x20, 0x30, 0x40

	bpfX, bpfA = 0x08, 0x10
	bpfTxa     = 0x80
)

// Check refuses programs that seccomp(2) doesn't take, by EINVAL: unknown
// instructions, jumps out of the program, loads that aren't of whole words of
// the data, division by zero, scratch memory that is read before it is written,
// and an end without an answer. Such a program ends, for it only jumps forward.
func Check(p []Instruction) error {
	if len(p) == 0 || len(p) > maxProgram {
		return unix.EINVAL
	}
	// written[i] are the words of scratch memory that are surely written
	// before instruction i.
	written := make([]uint16, len(p))
	for i := range written {
		written[i] = 0xffff
	}
	known := uint16(0)
	for i, in := range p {
		known &= written[i]
		flow := func(n uint32) bool {
			if uint64(n) >= uint64(len(p)-i-1) {
				return false
			}
			written[i+1+int(n)] &= known
			return true
		}
		ok := true
		switch in.Code {
		case bpfLd | bpfAbs:
			ok = in.K < dataSize && in.K&3 == 0
		case bpfLd | bpfLen, bpfLdx | bpfLen, bpfLd | bpfImm, bpfLdx | bpfImm, bpfMisc, bpfMisc | bpfTxa, bpfAlu | bpfNeg,
			bpfAlu | bpfAdd, bpfAlu | bpfAdd | bpfX, bpfAlu | bpfSub, bpfAlu | bpfSub | bpfX, bpfAlu | bpfMul, bpfAlu | bpfMul | bpfX,
			bpfAlu | bpfDiv | bpfX, bpfAlu | bpfAnd, bpfAlu | bpfAnd | bpfX, bpfAlu | bpfOr, bpfAlu | bpfOr | bpfX,
			bpfAlu | bpfXor, bpfAlu | bpfXor | bpfX, bpfAlu | bpfLsh | bpfX, bpfAlu | bpfRsh | bpfX:
		case bpfAlu | bpfLsh, bpfAlu | bpfRsh:
			ok = in.K < 32
		case bpfAlu | bpfDiv:
			ok = in.K != 0
		case bpfLd | bpfMem, bpfLdx | bpfMem:
			ok = in.K < 16 && known&(1<<in.K) != 0
		case bpfSt, bpfStx:
			if ok = in.K < 16; ok {
				known |= 1 << in.K
			}
		case bpfRet, bpfRet | bpfA:
			known = 0xffff
		case bpfJmp | bpfJa:
			ok = flow(in.K)
			known = 0xffff
		case bpfJmp | bpfJeq, bpfJmp | bpfJeq | bpfX, bpfJmp | bpfJgt, bpfJmp | bpfJgt | bpfX,
			bpfJmp | bpfJge, bpfJmp | bpfJge | bpfX, bpfJmp | bpfJset, bpfJmp | bpfJset | bpfX:
			ok = flow(uint32(in.JT)) && flow(uint32(in.JF))
			known = 0xffff
		default:
			ok = false
		}
		if !ok {
			return unix.EINVAL
		}
	}
	if p[len(p)-1].Code&^bpfA != bpfRet {
		return unix.EINVAL
	}
	return nil
}

// run returns what program p, which Check took, answers to data, of which the first
// known bytes are known; ok is false if it looks at others.
func run(p []Instruction, data *Data, known uint32) (answer uint32, ok bool) {
	var a, x uint32
	var mem [16]uint32
	for i := 0; i < len(p); i++ {
		in := &p[i]
		operand := in.K
		if class := in.Code & 7; (class == bpfAlu || class == bpfJmp) && in.Code&bpfX != 0 {
			operand = x
		}
		switch in.Code &^ bpfX {
		case bpfLd | bpfAbs:
			if in.K >= known {
				return 0, false
			}
			a = binary.LittleEndian.Uint32(data[in.K:])
		case bpfLd | bpfLen:
			a = dataSize
		case bpfLdx | bpfLen:
			x = dataSize
		case bpfLd | bpfImm:
			a = in.K
		case bpfLdx | bpfImm:
			x = in.K
		case bpfLd | bpfMem:
			a = mem[in.K]
		case bpfLdx | bpfMem:
			x = mem[in.K]
		case bpfSt:
			mem[in.K] = a
		case bpfStx:
			mem[in.K] = x
		case bpfMisc:
			x = a
		case bpfMisc | bpfTxa:
			a = x
		case bpfRet:
			return in.K, true
		case bpfRet | bpfA:
			return a, true
		case bpfAlu | bpfAdd:
			a += operand
		case bpfAlu | bpfSub:
			a -= operand
		case bpfAlu | bpfMul:
			a *= operand
		case bpfAlu | bpfDiv:
			if operand == 0 {
				return KillThread, true
			}
			a /= operand
		case bpfAlu | bpfOr:
			a |= operand
		case bpfAlu | bpfAnd:
			a &= operand
		case bpfAlu | bpfXor:
			a ^= operand
		case bpfAlu | bpfLsh:
			a <<= operand & 31
		case bpfAlu | bpfRsh:
			a >>= operand & 31
		case bpfAlu | bpfNeg:
			a = -a
		case bpfJmp | bpfJa:
			i += int(in.K)
		default:
			var yes bool
			switch in.Code &^ bpfX {
			case bpfJmp | bpfJeq:
				yes = a == operand
			case bpfJmp | bpfJgt:
				yes = a > operand
			case bpfJmp | bpfJge:
				yes = a >= operand
			case bpfJmp | bpfJset:
				yes = a&operand != 0
			}
			if yes {
				i += int(in.JT)
			} else {
				i += int(in.JF)
			}
		}
	}
	return KillThread, true
}
