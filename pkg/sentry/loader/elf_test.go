package loader

import (
	"bytes"
	"encoding/binary"
)

// exitCode ends the process with status 0: mov $60,%eax; xor %edi,%edi; syscall.
var exitCode = []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05}

const codeOffset = 0x800

// image is an ELF file that a test changes before it is built.
type image struct {
	kind, machine    uint16
	phentsize, phnum int // -1: what is right
	phoff, entry     uint64
	phdrs            []phdr
	interp           string // PT_INTERP's text, at 0x600; must include the NUL
	size             int    // of the file
	base             uint64
	patch            func(b []byte)
}

// newImage is a good program of one segment that exits at once.
func newImage(kind uint16) *image {
	im := &image{
		kind: kind, machine: emX8664, phentsize: -1, phnum: -1, phoff: elfHeaderSize, size: 0x1000,
	}
	if kind == etExec {
		im.base = 0x400000
	}
	im.entry = im.base + codeOffset
	im.phdrs = []phdr{{kind: ptLoad, flags: pfRead | pfExecute, vaddr: im.base, filesz: 0x1000, memsz: 0x1000, align: 0x1000}}
	return im
}

func (im *image) bytes() []byte {
	b := make([]byte, im.size)
	put := func(off uint64, p []byte) {
		if off < uint64(len(b)) {
			copy(b[off:], p)
		}
	}
	le := binary.LittleEndian
	h := make([]byte, elfHeaderSize)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], im.kind)
	le.PutUint16(h[18:], im.machine)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], im.entry)
	le.PutUint64(h[32:], im.phoff)
	le.PutUint16(h[52:], elfHeaderSize)
	le.PutUint16(h[54:], phdrSize)
	if im.phentsize >= 0 {
		le.PutUint16(h[54:], uint16(im.phentsize))
	}
	phdrs := im.phdrs
	if im.interp != "" {
		phdrs = append(phdrs[:len(phdrs):len(phdrs)], phdr{
			kind: ptInterp, flags: pfRead, offset: 0x600, vaddr: im.base + 0x600,
			filesz: uint64(len(im.interp)), memsz: uint64(len(im.interp)), align: 1,
		})
		put(0x600, []byte(im.interp))
	}
	le.PutUint16(h[56:], uint16(len(phdrs)))
	if im.phnum >= 0 {
		le.PutUint16(h[56:], uint16(im.phnum))
	}
	put(0, h)
	var t bytes.Buffer
	for _, p := range phdrs {
		for _, v := range []any{p.kind, p.flags, p.offset, p.vaddr, p.vaddr, p.filesz, p.memsz, p.align} {
			binary.Write(&t, le, v)
		}
	}
	put(im.phoff, t.Bytes())
	put(codeOffset, exitCode)
	if im.patch != nil {
		im.patch(b)
	}
	return b
}

// with returns a changed copy.
func (im *image) with(change func(*image)) *image {
	c := *im
	c.phdrs = append([]phdr(nil), im.phdrs...)
	change(&c)
	return &c
}
