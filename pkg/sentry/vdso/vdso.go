// Package vdso builds the shared object that every program finds in its address
// space (vdso(7)): time without system calls.
//
// New returns an ELF image, made in memory from code in this program's own text
// (vdso_amd64.s). It is to be mapped, read and execute, right behind a page
// that holds a clock.Page, read only: DataSize bytes of data, then the
// image. One such object serves all processes of a sandbox.
//
//	clock_gettime, gettimeofday, time, clock_getres, getcpu
//
// are exported as Linux does, with the prefix __vdso_ and weakly without, in
// version LINUX_2.6. Each makes the real system call where it can't know the answer: for
// clocks that a clock.Page does not have, where the page's numbers have
// expired or were never made, where getcpu is not allowed.
//
// The functions use no stack, so one unwind entry is right at each instruction
// of them.
//
// On the host of clock's numbers a clock_gettime takes as long as with the host's own vDSO
// (23 against 22 ns; BenchmarkClockGettime).
//
// Not here: getrandom and the sigreturn trampolines, which amd64 does not
// have in its vDSO.
package vdso

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// DataSize is the size of the data before the image: one page.
const DataSize = pageSize

const (
	pageSize = 4096

	soname  = "linux-vdso.so.1"
	version = "LINUX_2.6"

	// pageMark is what PAGE in vdso_amd64.s leaves where the distance to the
	// data page has to go.
	pageMark = "\x4c\x8d\x05\x5a\xfe\x6d\x7a"
)

// exports are the names of the functions of codeAddresses.
var exports = [5]string{"clock_gettime", "gettimeofday", "time", "clock_getres", "getcpu"}

// symbol is an entry of .dynsym.
type symbol struct {
	name        string
	weak        bool
	value, size uint64
}

// section is a part of the image.
type section struct {
	name          string
	kind          uint32
	flags         uint64
	link, info    uint32
	align, entry  uint64
	addr          uint64
	data          []byte
	nameInStrings uint32
}

// Numbers of elf(5).
const (
	shtProgbits, shtStrtab, shtHash, shtDynamic, shtDynsym = 1, 3, 5, 6, 11
	shtGNUHash, shtGNUVerdef, shtGNUVersym                 = 0x6ffffff6, 0x6ffffffd, 0x6fffffff
	shfAlloc, shfExec                                      = 2, 4
	ptLoad, ptDynamic, ptGNUEHFrame                        = 1, 2, 0x6474e550
)

// The order of the sections, from 1 on as in the section headers.
const (
	secHash = iota + 1
	secGNUHash
	secDynsym
	secDynstr
	secVersym
	secVerdef
	secDynamic
	secEHFrameHdr
	secEHFrame
	secText
	secShstrtab
	numSections
)

var le = binary.LittleEndian

func put16(b []byte, v ...uint16) []byte {
	for _, x := range v {
		b = le.AppendUint16(b, x)
	}
	return b
}

func put32(b []byte, v ...uint32) []byte {
	for _, x := range v {
		b = le.AppendUint32(b, x)
	}
	return b
}

func put64(b []byte, v ...uint64) []byte {
	for _, x := range v {
		b = le.AppendUint64(b, x)
	}
	return b
}

// New returns the image, a whole number of pages.
func New() []byte {
	text, symbols := buildText()
	strtab := []byte{0}
	str := func(s string) uint32 {
		at := uint32(len(strtab))
		strtab = append(append(strtab, s...), 0)
		return at
	}
	sonameAt, versionAt := str(soname), str(version)
	nameAt := make([]uint32, len(symbols))
	for i, s := range symbols {
		nameAt[i] = str(s.name)
	}

	secs := [numSections]section{
		secHash:       {name: ".hash", kind: shtHash, link: secDynsym, align: 8, entry: 4, data: sysvHash(symbols)},
		secGNUHash:    {name: ".gnu.hash", kind: shtGNUHash, link: secDynsym, align: 8, data: gnuHash(symbols)},
		secDynsym:     {name: ".dynsym", kind: shtDynsym, link: secDynstr, info: 1, align: 8, entry: 24, data: make([]byte, 24*(1+len(symbols)))},
		secDynstr:     {name: ".dynstr", kind: shtStrtab, align: 1, data: strtab},
		secVersym:     {name: ".gnu.version", kind: shtGNUVersym, link: secDynsym, align: 2, entry: 2, data: put16(make([]byte, 2), versions(len(symbols))...)},
		secVerdef:     {name: ".gnu.version_d", kind: shtGNUVerdef, link: secDynstr, info: 2, align: 8, data: verdef(sonameAt, versionAt)},
		secDynamic:    {name: ".dynamic", kind: shtDynamic, link: secDynstr, align: 8, entry: 16, data: make([]byte, 16*11)},
		secEHFrameHdr: {name: ".eh_frame_hdr", kind: shtProgbits, align: 4, data: make([]byte, 20)},
		secEHFrame:    {name: ".eh_frame", kind: shtProgbits, align: 8, data: ehFrame(uint32(len(text)))},
		secText:       {name: ".text", kind: shtProgbits, flags: shfExec, align: 64, data: text},
		secShstrtab:   {name: ".shstrtab", kind: shtStrtab, align: 1},
	}
	names := []byte{0}
	for i := 1; i < numSections; i++ {
		secs[i].nameInStrings = uint32(len(names))
		names = append(append(names, secs[i].name...), 0)
	}
	secs[secShstrtab].data = names

	// Addresses are offsets.
	const headers = 64 + 3*56
	at := uint64(headers)
	for i := 1; i < numSections; i++ {
		s := &secs[i]
		at = (at + s.align - 1) &^ (s.align - 1)
		s.addr = at
		at += uint64(len(s.data))
	}
	shoff := (at + 7) &^ 7
	size := (shoff + 64*numSections + pageSize - 1) &^ (pageSize - 1)

	textAt := secs[secText].addr
	linkText(text, textAt)
	syms := secs[secDynsym].data[:24]
	for i, s := range symbols {
		info := byte(1<<4 | 2) // STB_GLOBAL, STT_FUNC
		if s.weak {
			info = 2<<4 | 2
		}
		syms = put32(syms, nameAt[i])
		syms = append(syms, info, 0)
		syms = put16(syms, secText)
		syms = put64(syms, textAt+s.value, s.size)
	}
	put64(secs[secDynamic].data[:0],
		14, uint64(sonameAt), // DT_SONAME
		4, secs[secHash].addr, // DT_HASH
		0x6ffffef5, secs[secGNUHash].addr, // DT_GNU_HASH
		5, secs[secDynstr].addr, // DT_STRTAB
		6, secs[secDynsym].addr, // DT_SYMTAB
		10, uint64(len(strtab)), // DT_STRSZ
		11, 24, // DT_SYMENT
		0x6ffffffc, secs[secVerdef].addr, // DT_VERDEF
		0x6ffffffd, 2, // DT_VERDEFNUM
		0x6ffffff0, secs[secVersym].addr) // DT_VERSYM; DT_NULL is what follows

	// Pointers from the unwind tables to the code are relative.
	hdr, frame := secs[secEHFrameHdr].addr, secs[secEHFrame].addr
	le.PutUint32(secs[secEHFrame].data[fdeStart+8:], uint32(textAt-(frame+fdeStart+8)))
	h := append(secs[secEHFrameHdr].data[:0], 1, 0x1b, 0x03, 0x3b)
	put32(h, uint32(frame-(hdr+4)), 1, uint32(textAt-hdr), uint32(frame+fdeStart-hdr))

	b := make([]byte, size)
	copy(b, "\x7fELF\x02\x01\x01")
	e := put16(b[:16], 3, 62) // ET_DYN, EM_X86_64
	e = put32(e, 1)
	e = put64(e, 0, 64, shoff)
	e = put32(e, 0)
	e = put16(e, 64, 56, 3, 64, numSections, secShstrtab)
	ph := func(kind, flags uint32, at, size, align uint64) {
		e = put32(e, kind, flags)
		e = put64(e, at, at, at, size, size, align)
	}
	ph(ptLoad, 5, 0, secs[secShstrtab].addr, pageSize)
	ph(ptDynamic, 4, secs[secDynamic].addr, uint64(len(secs[secDynamic].data)), 8)
	ph(ptGNUEHFrame, 4, hdr, uint64(len(secs[secEHFrameHdr].data)), 4)
	sh := b[:shoff+64]
	for i := 1; i < numSections; i++ {
		s := &secs[i]
		copy(b[s.addr:], s.data)
		flags, addr := s.flags|shfAlloc, s.addr
		if i == secShstrtab {
			flags, addr = 0, 0
		}
		sh = put32(sh, s.nameInStrings, s.kind)
		sh = put64(sh, flags, addr, s.addr, uint64(len(s.data)))
		sh = put32(sh, s.link, s.info)
		sh = put64(sh, s.align, s.entry)
	}
	return b
}

// buildText returns the code of all functions, each on a cache line of its own,
// and the symbols with values from the start of the code.
func buildText() ([]byte, []symbol) {
	var text []byte
	var symbols []symbol
	for i, addr := range codeAddresses() {
		for len(text)%64 != 0 {
			text = append(text, 0xcc)
		}
		code := codeOf(addr)
		s := symbol{name: "__vdso_" + exports[i], value: uint64(len(text)), size: uint64(len(code))}
		symbols = append(symbols, s)
		s.name, s.weak = exports[i], true
		symbols = append(symbols, s)
		text = append(text, code...)
	}
	return text, symbols
}

// linkText puts the distance to the data page into the instructions that need
// it. The code will be at address at, and the data page ends at address 0.
func linkText(text []byte, at uint64) {
	for i := 0; ; {
		n := bytes.Index(text[i:], []byte(pageMark))
		if n < 0 {
			return
		}
		i += n + len(pageMark)
		le.PutUint32(text[i-4:], uint32(-(DataSize + int64(at) + int64(i))))
	}
}

// versions returns the version index of n symbols: the second definition.
func versions(n int) []uint16 {
	v := make([]uint16, n)
	for i := range v {
		v[i] = 2
	}
	return v
}

// verdef defines the object itself as version 1 and LINUX_2.6 as version 2.
func verdef(soname_, version_ uint32) []byte {
	b := put16(nil, 1, 1, 1, 1) // VER_FLG_BASE
	b = put32(b, hashOf(soname), 20, 28)
	b = put32(b, soname_, 0)
	b = put16(b, 1, 0, 2, 1)
	b = put32(b, hashOf(version), 20, 0)
	return put32(b, version_, 0)
}

// hashOf is the hash function of the System V ABI.
func hashOf(s string) (h uint32) {
	for i := range len(s) {
		h = h<<4 + uint32(s[i])
		h ^= h >> 24 & 0xf0
		h &= 0x0fffffff
	}
	return h
}

// gnuHashOf is the hash function of DT_GNU_HASH.
func gnuHashOf(s string) uint32 {
	h := uint32(5381)
	for i := range len(s) {
		h = h*33 + uint32(s[i])
	}
	return h
}

// sysvHash is a hash table of one chain for the ten symbols.
func sysvHash(symbols []symbol) []byte {
	n := uint32(len(symbols))
	b := put32(nil, 1, n+1, 1, 0)
	for i := range n {
		next := i + 2
		if i == n-1 {
			next = 0
		}
		b = put32(b, next)
	}
	return b
}

// gnuHash is the same for DT_GNU_HASH.
func gnuHash(symbols []symbol) []byte {
	const shift = 6
	var bloom uint64
	var chain []byte
	for i, s := range symbols {
		h := gnuHashOf(s.name)
		bloom |= 1<<(h%64) | 1<<(h>>shift%64)
		h &^= 1
		if i == len(symbols)-1 {
			h |= 1 // the end of the chain
		}
		chain = put32(chain, h)
	}
	b := put32(nil, 1, 1, 1, shift)
	b = put64(b, bloom)
	b = put32(b, 1)
	return append(b, chain...)
}

// fdeStart is where the only FDE begins in .eh_frame.
const fdeStart = 24

// ehFrame says how to unwind from the code: the return address is on top of
// the stack everywhere (System V ABI, DWARF 5 §6.4).
func ehFrame(codeSize uint32) []byte {
	cie := "\x01zR\x00" + // version, augmentation
		"\x01\x78\x10" + // code and data alignment 1 and -8, return address 16
		"\x01\x1b" + // pointers are relative, 4 bytes
		"\x0c\x07\x08" + // DW_CFA_def_cfa rsp+8
		"\x90\x01" // DW_CFA_offset return address at cfa-8
	cie += strings.Repeat("\x00", fdeStart-8-len(cie)) // DW_CFA_nop
	b := put32(nil, fdeStart-4, 0)
	b = append(b, cie...)
	b = put32(b, 20, fdeStart+4, 0, codeSize) // the code's address is set by New
	b = append(b, make([]byte, 8)...)         // no augmentation data; nops
	return put32(b, 0)
}
