// Package cpuid answers CPUID instructions of programs without executing them,
// where that is dear: under a hypervisor each is an exit to it, of several
// microseconds, and the C library's dynamic linker makes some seventy whenever
// a program starts.
//
// Before a program runs, the loader gives Rewriter.Apply the code segments of what
// executes CPUID at the start: the ELF interpreter, or a program without one.
// CPUID instructions there are replaced by jumps to code behind the segment's end,
// in what its last page has left, that holds a table of answers. They are those that
// the processor has given, of leaves that are the same on all CPUs and all the time;
// for all others the trampoline executes the instruction. Registers, flags and
// memory are left as by CPUID.
//
// A jump is longer than the instruction, so what follows it moves into the
// trampoline, too. That is done only where decoding shows instructions that can be
// moved, and where no bytes nearby can be a jump in between. (A jump
// from farther away, or by a table, would have to lead right behind an
// instruction that its code wants the results of.)
//
// The program's pages are changed, as a debugger would, in its private
// mapping: it sees jumps where it reads its own code, the file stays as it is.
// What is found in a file is remembered by the file's identity and time of change.
//
// Types: Rewriter, and Segment, what it is applied to. Rewriter.mu is a leaf.
package cpuid

import (
	"bytes"
	"sync"
	"time"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/usermem"
)

// Dear is what a CPUID takes at the least where it is worth answering otherwise.
// Without a hypervisor it takes a tenth.
const Dear = time.Microsecond

// maxFiles is how many files are remembered.
const maxFiles = 8

// maxSegment is how large a segment may be, all of which is read once.
const maxSegment = 4 << 20

// File says which file, in which state.
type File struct {
	Device, Inode uint64
	Size          int64
	MTime, CTime  int64
}

// Segment is code that was mapped from a file.
type Segment struct {
	File File
	// Read reads the file.
	Read func(b []byte, off int64) error
	// Offset and Size are where the segment is in the file; Addr is where its
	// first byte is in memory. What the last page has behind it is nobody's.
	Offset, Size uint64
	Addr         usermem.Addr
}

// Memory is the address space that a Segment is in.
type Memory interface {
	CopyIn(addr usermem.Addr, b []byte) (int, error)
	// CopyOutForce writes what can't be written.
	CopyOutForce(addr usermem.Addr, b []byte) (int, error)
}

// Rewriter changes programs. It is safe for concurrent use. Nil changes nothing.
type Rewriter struct {
	table func() *table

	mu    locks.Mutex[locks.Leaf]
	files []*file // the last one used first
}

type fileKey struct {
	File
	offset, size uint64
}

// file is what is to be changed in a segment.
type file struct {
	key   fileKey
	pages []page
}

// page is a page of a segment, before and after.
type page struct {
	offset   uint64 // from that of the segment's first byte
	old, new []byte
}

// New returns a Rewriter, or nil where a CPUID takes less than dear, or where CPUs
// differ.
func New(dear time.Duration) *Rewriter {
	if arch.HybridCPUs() {
		return nil
	}
	for range 3 {
		start := time.Now()
		arch.CPUID(0, 0)
		if time.Since(start) < dear {
			return nil
		}
	}
	return &Rewriter{table: sync.OnceValue(askProcessor)}
}

// table is what CPUID answers.
type table struct{ leaves []leaf }

type leaf struct {
	number uint32
	// indexed says that ECX counts, too, and that answers are for its first
	// values.
	indexed bool
	answers [][4]uint32 // EAX, EBX, ECX, EDX
}

// askProcessor makes the table. Leaves that are not in it differ between CPUs (1,
// with the CPU's number, 0xb), or nobody asks for them.
func askProcessor() *table {
	t := &table{}
	top, _, _, _ := arch.CPUID(0, 0)
	topExtended, _, _, _ := arch.CPUID(0x80000000, 0)
	add := func(number uint32, indexed bool, more func(index uint32, last [4]uint32) bool) {
		if number < 0x80000000 && number > top || number >= 0x80000000 && (topExtended < 0x80000000 || number > topExtended) {
			return
		}
		l := leaf{number: number, indexed: indexed}
		for i := uint32(0); ; i++ {
			var a [4]uint32
			a[0], a[1], a[2], a[3] = arch.CPUID(number, i)
			l.answers = append(l.answers, a)
			if !more(i, a) {
				break
			}
		}
		t.leaves = append(t.leaves, l)
	}
	one := func(uint32, [4]uint32) bool { return false }
	// Caches: up to the first that there isn't.
	add(4, true, func(i uint32, a [4]uint32) bool { return a[0]&0x1f != 0 && i < 15 })
	add(2, false, one)
	// The state that XSAVE saves: up to that of PKRU. The size of what is
	// enabled is the same for all processes.
	add(0xd, true, func(i uint32, _ [4]uint32) bool { return i < 9 })
	add(7, true, func(i uint32, _ [4]uint32) bool { return i < 1 })
	for _, n := range []uint32{0, 0x80000000, 0x80000001, 0x80000007, 0x80000008} {
		add(n, false, one)
	}
	for _, n := range []uint32{0x14, 0x19} {
		add(n, true, one)
	}
	return t
}

// Apply changes s, which has been mapped privately into m and hasn't run.
func (r *Rewriter) Apply(m Memory, s *Segment) {
	if r == nil || s.Size > maxSegment || s.Size == 0 {
		return
	}
	f := r.find(s)
	if f == nil {
		f = &file{key: s.key(), pages: r.look(s)}
		r.remember(f)
	}
	base := s.Addr.RoundDown()
	var now [usermem.PageSize]byte
	for _, p := range f.pages {
		if n, err := m.CopyIn(base+usermem.Addr(p.offset), now[:]); err != nil || n < len(now) || !bytes.Equal(now[:], p.old) {
			return
		}
	}
	// The trampolines first: should the memory not suffice, what jumps to them
	// comes after.
	for i := len(f.pages) - 1; i >= 0; i-- {
		p := f.pages[i]
		if n, err := m.CopyOutForce(base+usermem.Addr(p.offset), p.new); err != nil || n < len(p.new) {
			return
		}
	}
}

func (s *Segment) key() fileKey { return fileKey{s.File, s.Offset, s.Size} }

func (r *Rewriter) find(s *Segment) *file {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, f := range r.files {
		if f.key == s.key() {
			copy(r.files[1:i+1], r.files[:i])
			r.files[0] = f
			return f
		}
	}
	return nil
}

func (r *Rewriter) remember(f *file) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.files) < maxFiles {
		r.files = append(r.files, nil)
	}
	copy(r.files[1:], r.files)
	r.files[0] = f
}

// look finds what is to be changed in s. Where it can't be read, that is nothing.
func (r *Rewriter) look(s *Segment) []page {
	skew := uint64(s.Addr.PageOffset())
	read := func(b []byte, off uint64) error { return s.Read(b, int64(s.Offset+off)) }
	// Trampolines go where the last page has nothing.
	end := (skew + s.Size + usermem.PageMask) &^ usermem.PageMask
	room := (skew + s.Size + 15) &^ 15
	if room >= end {
		return nil
	}
	sites, err := findSites(read, s.Size)
	if err != nil || len(sites) == 0 {
		return nil
	}
	var pages []page
	at := func(off uint64) *page {
		off &^= usermem.PageMask
		for i := range pages {
			if pages[i].offset == off {
				return &pages[i]
			}
		}
		b := make([]byte, usermem.PageSize)
		if s.Read(b, int64(s.Offset-skew+off)) != nil {
			return nil
		}
		pages = append(pages, page{off, b, bytes.Clone(b)})
		return &pages[len(pages)-1]
	}
	last := at(end - 1)
	if last == nil || len(bytes.Trim(last.old[room-last.offset:], "\x00")) > 0 {
		return nil
	}
	for _, w := range r.table().rewrite(sites, room-skew, end-room) {
		for i, b := range w.code {
			p := at(skew + w.at + uint64(i))
			if p == nil {
				return nil
			}
			p.new[(skew+w.at+uint64(i))&usermem.PageMask] = b
		}
	}
	if len(pages) == 1 && bytes.Equal(pages[0].old, pages[0].new) {
		return nil
	}
	// The one with the trampolines comes last.
	pages[0], pages[len(pages)-1] = pages[len(pages)-1], pages[0]
	return pages
}
