package cpuid

import (
	"bytes"
	"encoding/binary"
	"math"
)

const (
	cpuidSize = 2
	jumpSize  = 5

	// around is how much code before and behind a site is looked at.
	around = 4096
	// before is how far in front of a site decoding begins, at so many places.
	before, starts = 256, 16
	// maxSites bounds what is looked at of one segment.
	maxSites = 64
	// readSize is how much is read at a time.
	readSize = 64 << 10
)

var opcode = []byte{0x0f, 0xa2}

// site is a CPUID instruction whose place, and that of what follows it, a jump can
// take.
type site struct {
	at uint64 // counted from the segment's start
	// moved are the instructions behind it that the jump takes the place of,
	// changed so that they do the same behind a trampoline's loads; relative is
	// where in them addresses are to be corrected.
	moved    []byte
	relative []int
}

// end is where the program goes on.
func (s *site) end() uint64 { return s.at + cpuidSize + uint64(len(s.moved)) }

// reader reads bytes of a segment.
type reader func(b []byte, off uint64) error

// findSites returns the sites in a segment of size bytes.
func findSites(read reader, size uint64) ([]site, error) {
	found, err := findOpcodes(read, size)
	if err != nil {
		return nil, err
	}
	var sites []site
	for len(found) > 0 {
		n := 1
		for n < len(found) && found[n]-found[n-1] < 2*around {
			n++
		}
		start := found[0] - min(found[0], around)
		end := min(found[n-1]+around, size)
		text := make([]byte, end-start)
		if err := read(text, start); err != nil {
			return nil, err
		}
		sites = append(sites, sitesIn(text, start, found[:n])...)
		found = found[n:]
	}
	return sites, nil
}

// findOpcodes returns where the bytes of the instruction are.
func findOpcodes(read reader, size uint64) ([]uint64, error) {
	var found []uint64
	buf := make([]byte, min(size, readSize))
	for at := uint64(0); at+cpuidSize <= size && len(found) < maxSites; {
		b := buf[:min(size-at, readSize)]
		if err := read(b, at); err != nil {
			return nil, err
		}
		for off := 0; ; off += cpuidSize {
			i := bytes.Index(b[off:], opcode)
			if i < 0 || len(found) == maxSites {
				break
			}
			off += i
			found = append(found, at+uint64(off))
		}
		at += uint64(len(b)) - 1 // the opcode may lie across
		if len(b) < readSize {
			break
		}
	}
	return found, nil
}

// sitesIn returns which of found, in a text that begins at start, are sites.
func sitesIn(text []byte, start uint64, found []uint64) []site {
	var sites []site
	inside := make([]bool, len(text)) // of what would be moved
	for _, at := range found {
		off := int(at - start)
		if !isInstruction(text, off) {
			continue
		}
		s, ok := movable(text, off)
		if !ok {
			continue
		}
		s.at = at
		for i := off + 1; i < off+cpuidSize+len(s.moved); i++ {
			inside[i] = true
		}
		sites = append(sites, s)
	}
	hit := jumpsInto(text, inside)
	kept := sites[:0]
	for _, s := range sites {
		ok := true
		for at := s.at + 1; at < s.end(); at++ {
			ok = ok && !hit[int(at-start)]
		}
		if ok {
			kept = append(kept, s)
		}
	}
	return kept
}

// isInstruction reports whether there is an instruction at off, and not the middle
// of one. Wherever decoding begins, it soon meets the instructions that are meant.
func isInstruction(text []byte, off int) bool {
	ok := false
	for i := range starts {
		at := max(off-before, 0) + i
		for at < off {
			in, known := decode(text[at:])
			if !known {
				break
			}
			at += in.length
		}
		if at > off {
			return false
		}
		ok = ok || at == off
	}
	return ok
}

// movable returns the site at off if what follows can be moved.
func movable(text []byte, off int) (s site, ok bool) {
	at := off + cpuidSize
	for n := cpuidSize; n < jumpSize; {
		in, ok := decode(text[min(at, len(text)):])
		if !ok || in.jumps || bytes.HasPrefix(text[at:], opcode) {
			return s, false
		}
		if in.relative != 0 {
			s.relative = append(s.relative, at-off-cpuidSize+in.relative)
		}
		at += in.length
		n += in.length
	}
	s.moved = bytes.Clone(text[off+cpuidSize : at])
	return s, true
}

// jumpsInto returns which bytes that are inside something may be jumped to: what is
// looked at are the bytes of all jumps that there can be, wherever instructions
// begin, but for what is inside, where there are none.
func jumpsInto(text []byte, inside []bool) map[int]bool {
	hit := map[int]bool{}
	note := func(to int) {
		if to >= 0 && to < len(inside) && inside[to] {
			hit[to] = true
		}
	}
	far := func(i int) {
		if i+4 <= len(text) {
			note(i + 4 + int(int32(binary.LittleEndian.Uint32(text[i:]))))
		}
	}
	for i, b := range text {
		switch {
		case inside[i]:
		case b >= 0x70 && b <= 0x7f, b >= 0xe0 && b <= 0xe3, b == 0xeb:
			if i+1 < len(text) {
				note(i + 2 + int(int8(text[i+1])))
			}
		case b == 0xe8, b == 0xe9:
			far(i + 1)
		case b == 0x0f:
			if i+1 < len(text) && text[i+1]&0xf0 == 0x80 {
				far(i + 2)
			}
		}
	}
	return hit
}

// replacement is what is written at a place of a segment.
type replacement struct {
	at   uint64
	code []byte
}

// rewrite returns what makes the code of a segment use t: jumps to trampolines,
// which are put at room. Sites for which there is no room stay as they are. It
// returns nothing if there is none.
func (t *table) rewrite(sites []site, room, size uint64) []replacement {
	c := code{at: room}
	entry := t.common(&c)
	var all []replacement
	for i := range sites {
		s := &sites[i]
		one := code{at: c.at + uint64(len(c.b))}
		back, ok := one.trampoline(s, entry)
		if !ok || uint64(len(c.b)+len(one.b)) > size {
			continue
		}
		c.b = append(c.b, one.b...)
		b := make([]byte, cpuidSize+len(s.moved))
		b[0] = 0xe9
		binary.LittleEndian.PutUint32(b[1:], uint32(back-(s.at+jumpSize)))
		for j := jumpSize; j < len(b); j++ {
			b[j] = 0xcc // int3
		}
		all = append(all, replacement{s.at, b})
	}
	if len(all) == 0 || uint64(len(c.b)) > size {
		return nil
	}
	return append(all, replacement{room, c.b})
}

// trampoline adds that of s, and returns where it begins. Of the registers that
// CPUID leaves something in, the common code is given RBX, where to go on.
func (c *code) trampoline(s *site, entry uint64) (start uint64, ok bool) {
	start = c.end()
	c.bytes(0x48, 0x8d, 0x1d) // lea tail(%rip), %rbx
	c.distance(start+16, 0)
	c.bytes(0xe9) // jmp entry
	c.distance(entry, 0)
	c.bytes(0x0f, 0xa2, 0xeb, 11) // cpuid; jmp over the loads
	c.bytes(0x8b, 0x02, 0x8b, 0x5a, 0x04, 0x8b, 0x4a, 0x08, 0x8b, 0x52, 0x0c)
	moved := c.end()
	c.bytes(s.moved...)
	by := int64(moved - (s.at + cpuidSize))
	for _, off := range s.relative {
		b := c.b[len(c.b)-len(s.moved)+off:]
		d := int64(int32(binary.LittleEndian.Uint32(b))) - by
		if d != int64(int32(d)) {
			return 0, false
		}
		binary.LittleEndian.PutUint32(b, uint32(d))
	}
	c.bytes(0xe9)
	c.distance(s.end(), 0)
	return start, by < math.MaxInt32
}
