package loader

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// Numbers of elf(5).
const (
	elfHeaderSize = 64
	phdrSize      = 56
	maxPhdrs      = 64 << 10 / phdrSize // Linux: at most 64 KiB of them

	etExec  = 2
	etDyn   = 3
	emX8664 = 62

	ptLoad     = 1
	ptInterp   = 3
	ptGNUStack = 0x6474e551

	pfExecute = 1
	pfWrite   = 2
	pfRead    = 4

	pathMax = 4096
)

// head is the beginning of a file, zero-filled where the file is shorter. One
// read of a page brings the ELF header, in practice all program headers, and
// the interpreter's name.
type head struct {
	buf [usermem.PageSize]byte
	n   int
}

var heads = sync.Pool{New: func() any { return new(head) }}

func newHead() *head  { return heads.Get().(*head) }
func (h *head) free() { heads.Put(h) }

func (h *head) read(f File) error {
	n, err := readUpTo(f, h.buf[:], 0)
	if err != nil {
		return err
	}
	h.n = n
	clear(h.buf[n:])
	return nil
}

func (h *head) isScript() bool { return h.buf[0] == '#' && h.buf[1] == '!' }

// readAt fills p with the file's bytes at off, from h where it has them. It
// fails with EIO where the file ends before.
func (h *head) readAt(f File, p []byte, off uint64) error {
	if end, carry := bits.Add64(off, uint64(len(p)), 0); carry != 0 || int64(end) < 0 {
		return unix.EINVAL
	} else if end <= uint64(h.n) {
		copy(p, h.buf[off:])
		return nil
	}
	n, err := readUpTo(f, p, int64(off))
	if err != nil {
		return err
	}
	if n < len(p) {
		return unix.EIO
	}
	return nil
}

// readUpTo fills p, or the part of it that the file has.
func readUpTo(f File, p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := f.ReadAt(p[done:], off+int64(done))
		done += n
		if err == io.EOF || err == nil && n == 0 {
			break
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

type phdr struct {
	kind, flags   uint32
	offset, vaddr uint64
	filesz, memsz uint64
	align         uint64
}

// access is what p_flags ask for.
func (p *phdr) access() (a usermem.Access) {
	if p.flags&pfRead != 0 {
		a |= usermem.Read
	}
	if p.flags&pfWrite != 0 {
		a |= usermem.Write
	}
	if p.flags&pfExecute != 0 {
		a |= usermem.Execute
	}
	return a
}

// elfFile is an ELF file whose headers have been read and found usable.
type elfFile struct {
	file     File
	mappable memmap.Mappable
	identity memmap.Identity

	kind  uint16 // etExec, etDyn; any in an interpreter
	entry uint64
	phoff uint64
	phdrs []phdr
}

// parseELF checks the headers of a program. Its only error is ENOEXEC.
func parseELF(f File, h *head) (*elfFile, error) { return parseELFHeader(f, h, true) }

// parseELFHeader is parseELF, for an interpreter with program false: that its
// type is one that can't be loaded is found out later, by Map.
func parseELFHeader(f File, h *head, program bool) (*elfFile, error) {
	b := h.buf[:elfHeaderSize]
	le := binary.LittleEndian
	if string(b[:4]) != "\x7fELF" {
		return nil, unix.ENOEXEC
	}
	e := &elfFile{
		file:  f,
		kind:  le.Uint16(b[16:]),
		entry: le.Uint64(b[24:]),
		phoff: le.Uint64(b[32:]),
	}
	if program && e.kind != etExec && e.kind != etDyn {
		return nil, unix.ENOEXEC
	}
	// As Linux, take the machine's word for the class and the byte order.
	if le.Uint16(b[18:]) != emX8664 {
		return nil, unix.ENOEXEC
	}
	m, id, err := f.Mappable()
	if err != nil {
		return nil, unix.ENOEXEC
	}
	e.mappable, e.identity = m, id
	num := int(le.Uint16(b[56:]))
	if le.Uint16(b[54:]) != phdrSize || num == 0 || num > maxPhdrs {
		return nil, unix.ENOEXEC
	}
	var raw []byte
	if end := e.phoff + uint64(num*phdrSize); e.phoff <= usermem.PageSize && end <= uint64(h.n) {
		raw = h.buf[e.phoff:end]
	} else {
		raw = make([]byte, num*phdrSize)
		if err := h.readAt(f, raw, e.phoff); err != nil {
			return nil, unix.ENOEXEC
		}
	}
	e.phdrs = make([]phdr, num)
	for i := range e.phdrs {
		r := raw[i*phdrSize:][:phdrSize]
		e.phdrs[i] = phdr{
			kind: le.Uint32(r), flags: le.Uint32(r[4:]),
			offset: le.Uint64(r[8:]), vaddr: le.Uint64(r[16:]),
			filesz: le.Uint64(r[32:]), memsz: le.Uint64(r[40:]),
			align: le.Uint64(r[48:]),
		}
	}
	return e, nil
}

// interpreter returns PT_INTERP's path, if there is one.
func (e *elfFile) interpreter(h *head) (path string, ok bool, err error) {
	for i := range e.phdrs {
		ph := &e.phdrs[i]
		if ph.kind != ptInterp {
			continue
		}
		if ph.filesz > pathMax || ph.filesz < 2 {
			return "", false, unix.ENOEXEC
		}
		b := make([]byte, ph.filesz)
		if err := h.readAt(e.file, b, ph.offset); err != nil {
			return "", false, err
		}
		if b[len(b)-1] != 0 {
			return "", false, unix.ENOEXEC
		}
		return string(b[:bytes.IndexByte(b, 0)]), true, nil
	}
	return "", false, nil
}

// extent returns how much address space the segments take, from the page of
// the lowest address to the highest end, and zero when there are none.
func (e *elfFile) extent() uint64 {
	low, high := ^uint64(0), uint64(0)
	for i := range e.phdrs {
		if ph := &e.phdrs[i]; ph.kind == ptLoad {
			low = min(low, ph.vaddr&^usermem.PageMask)
			high = max(high, ph.vaddr+ph.memsz)
		}
	}
	if high <= low {
		return 0
	}
	return high - low
}

// alignment returns the greatest power of two that a segment asks for, at least
// a page. Other values are ignored, as Linux does.
func (e *elfFile) alignment() uint64 {
	a := uint64(usermem.PageSize)
	for i := range e.phdrs {
		if ph := &e.phdrs[i]; ph.kind == ptLoad && bits.OnesCount64(ph.align) == 1 {
			a = max(a, ph.align)
		}
	}
	return a
}
