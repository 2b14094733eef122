package cpuid

import "encoding/binary"

// code is being written, to run at an address.
type code struct {
	at uint64
	b  []byte
}

func (c *code) end() uint64 { return c.at + uint64(len(c.b)) }

func (c *code) bytes(b ...byte) { c.b = append(c.b, b...) }

// distance adds four bytes that say how far it is to an address from more bytes
// behind them.
func (c *code) distance(to uint64, more int) {
	c.b = binary.LittleEndian.AppendUint32(c.b, uint32(to-(c.end()+4+uint64(more))))
}

// forward adds four bytes of distance that land fills in.
func (c *code) forward() int {
	c.bytes(0, 0, 0, 0)
	return len(c.b)
}

func (c *code) land(from int) {
	binary.LittleEndian.PutUint32(c.b[from-4:], uint32(len(c.b)-from))
}

// common adds the table and the code that looks something up in it, and returns
// where that begins. It is entered with a CPUID's arguments in EAX and ECX, and in
// RBX where to go on: there with the address of the answer in RDX, or four bytes
// before it with EAX and ECX as they were, when the table has none. It changes
// nothing that CPUID doesn't, neither flags nor memory.
func (t *table) common(c *code) uint64 {
	places := make([]uint64, len(t.leaves))
	for i, l := range t.leaves {
		places[i] = c.end()
		for _, a := range l.answers {
			for _, r := range a {
				c.b = binary.LittleEndian.AppendUint32(c.b, r)
			}
		}
	}
	entry := c.end()
	c.bytes(0x89, 0xc2)             // mov %eax, %edx
	c.bytes(0x0f, 0x90, 0xc0, 0x9f) // seto %al; lahf
	known := make([]int, len(t.leaves))
	for i, l := range t.leaves {
		c.bytes(0x81, 0xfa) // cmp $number, %edx
		c.b = binary.LittleEndian.AppendUint32(c.b, l.number)
		c.bytes(0x0f, 0x84) // je
		known[i] = c.forward()
	}
	unknown := c.end()
	c.bytes(0x04, 0x7f, 0x9e)       // add $0x7f, %al; sahf
	c.bytes(0x89, 0xd0)             // mov %edx, %eax
	c.bytes(0x48, 0x8d, 0x5b, 0xfc) // lea -4(%rbx), %rbx
	c.bytes(0xff, 0xe3)             // jmp *%rbx
	found := make([]int, len(t.leaves))
	for i, l := range t.leaves {
		c.land(known[i])
		if l.indexed {
			c.bytes(0x83, 0xf9, byte(len(l.answers))) // cmp $n, %ecx
			c.bytes(0x0f, 0x83)                       // jae
			c.distance(unknown, 0)
			c.bytes(0xc1, 0xe1, 0x04) // shl $4, %ecx
		}
		c.bytes(0x48, 0x8d, 0x15) // lea answers(%rip), %rdx
		c.distance(places[i], 0)
		if l.indexed {
			c.bytes(0x48, 0x01, 0xca) // add %rcx, %rdx
		}
		c.bytes(0xe9)
		found[i] = c.forward()
	}
	for _, f := range found {
		c.land(f)
	}
	c.bytes(0x04, 0x7f, 0x9e) // add $0x7f, %al; sahf
	c.bytes(0xff, 0xe3)       // jmp *%rbx
	return entry
}
