package cpuid

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"testing"

	"vitrine/pkg/usermem"
)

// space is a Memory that holds one segment and the rest of its last page.
type space struct {
	start   usermem.Addr
	b       []byte
	written int
}

func (m *space) CopyIn(addr usermem.Addr, b []byte) (int, error) {
	return copy(b, m.b[addr-m.start:]), nil
}

func (m *space) CopyOutForce(addr usermem.Addr, b []byte) (int, error) {
	m.written++
	return copy(m.b[addr-m.start:], b), nil
}

// segmentOf is a file with nothing but code, and the address space it is mapped into.
func segmentOf(code []byte) (*Segment, *space) {
	size, _ := usermem.PageRoundUp(uint64(len(code)))
	file := make([]byte, size)
	copy(file, code)
	const addr = 0x7f0000000000
	s := &Segment{Read: readerOf(file), Size: uint64(len(code)), Addr: addr}
	return s, &space{start: addr, b: bytes.Clone(file)}
}

func readerOf(file []byte) func([]byte, int64) error {
	return func(b []byte, off int64) error {
		_, err := io.ReadFull(io.NewSectionReader(bytes.NewReader(file), off, int64(len(b))), b)
		return err
	}
}

// function is code as compilers make it: some instructions, the one that is looked
// for, what follows it, and the end.
func function(after ...byte) []byte {
	var b []byte
	for range 30 {
		b = append(b, 0x48, 0x89, 0xe5, 0x31, 0xc9, 0xb8, 4, 0, 0, 0) // mov, xor, mov
	}
	b = append(b, 0x0f, 0xa2)
	b = append(b, after...)
	return append(b, 0x89, 0xc7, 0xc3)
}

const functionSite = 300

func TestWhatIsReplaced(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  []byte
		moved int // bytes behind the instruction, or -1: it stays
	}{
		{"mov and and", function(0x89, 0xc2, 0x83, 0xe2, 0x1f), 5},
		{"a long instruction", function(0x41, 0xb8, 1, 2, 3, 4), 6},
		{"relative to the instruction", function(0x89, 0x05, 0, 1, 0, 0), 6},
		{"a jump", function(0x74, 0x02, 0x90, 0x90, 0x90), -1},
		{"a jump after a short one", function(0x85, 0xdb, 0x74, 0x02, 0x90, 0x90), -1},
		{"a return", function(0xc3), -1},
		{"an unknown instruction", function(0x06, 0x90, 0x90, 0x90), -1},
		{"a jump to what is moved", function(0x89, 0xc2, 0x83, 0xe2, 0x1f, 0x75, 0xfb-2+2), -1},
		{"a far jump to what is moved", function(0x89, 0xc2, 0x83, 0xe2, 0x1f, 0x0f, 0x84, 0xf7, 0xff, 0xff, 0xff), -1},
		{"a jump to the instruction", function(0x89, 0xc2, 0x83, 0xe2, 0x1f, 0x75, 0xf7), 5},
		{"part of a constant", append(function()[:functionSite-10], 0xb8, 1, 0x0f, 0xa2, 0, 0x90, 0x90, 0x90, 0xc3), -1},
	} {
		s, m := segmentOf(c.code)
		before := bytes.Clone(m.b)
		New(0).Apply(m, s)
		if c.moved < 0 {
			if m.written != 0 {
				t.Errorf("%s: it was replaced", c.name)
			}
			continue
		}
		at, end := functionSite, functionSite+cpuidSize+c.moved
		if m.b[at] != 0xe9 {
			t.Errorf("%s: it wasn't replaced", c.name)
			continue
		}
		to := at + jumpSize + int(int32(binary.LittleEndian.Uint32(m.b[at+1:])))
		if to < len(c.code) || to >= len(m.b) {
			t.Errorf("%s: a jump to %#x", c.name, to)
		}
		if !bytes.Equal(m.b[:at], before[:at]) || !bytes.Equal(m.b[end:len(c.code)], before[end:len(c.code)]) {
			t.Errorf("%s: more was replaced", c.name)
		}
	}
}

// TestNoRoomIsMade leaves programs alone whose last page is in use.
func TestNoRoomIsMade(t *testing.T) {
	code := function(0x89, 0xc2, 0x83, 0xe2, 0x1f)
	for _, c := range []struct {
		name string
		fill func(*Segment, []byte) []byte
	}{
		{"other bytes behind it", func(_ *Segment, b []byte) []byte { b[len(b)-1] = 1; return b }},
		{"a full page", func(s *Segment, b []byte) []byte { s.Size = usermem.PageSize; return b }},
		{"too little", func(s *Segment, b []byte) []byte { s.Size = usermem.PageSize - 64; return b }},
	} {
		s, m := segmentOf(code)
		b := c.fill(s, bytes.Clone(m.b))
		copy(m.b, b)
		s.Read = readerOf(b)
		New(0).Apply(m, s)
		if m.written != 0 {
			t.Errorf("%s: it was replaced", c.name)
		}
	}
}

// TestMemoryThatIsntTheFile changes nothing where the pages hold something else than
// when the file was looked at.
func TestMemoryThatIsntTheFile(t *testing.T) {
	s, m := segmentOf(function(0x89, 0xc2, 0x83, 0xe2, 0x1f))
	r := New(0)
	r.Apply(m, s)
	if m.written == 0 {
		t.Fatal("it wasn't replaced")
	}
	_, other := segmentOf(function(0x89, 0xc2, 0x83, 0xe2, 0x1e))
	r.Apply(other, s)
	if other.written != 0 {
		t.Error("another program was changed")
	}
}

// TestFilesAreReadOnce counts reads, and finds a file that has changed anew.
func TestFilesAreReadOnce(t *testing.T) {
	s, _ := segmentOf(function(0x89, 0xc2, 0x83, 0xe2, 0x1f))
	reads := 0
	read := s.Read
	s.Read = func(b []byte, off int64) error { reads++; return read(b, off) }
	r := New(0)
	apply := func() (n int) {
		reads = 0
		_, m := segmentOf(function(0x89, 0xc2, 0x83, 0xe2, 0x1f))
		r.Apply(m, s)
		if m.written == 0 {
			t.Error("it wasn't replaced")
		}
		return reads
	}
	if apply() == 0 || apply() != 0 {
		t.Error("a file isn't read, or again")
	}
	s.File.CTime++
	if apply() == 0 {
		t.Error("a file that has changed isn't read again")
	}
	for i := range maxFiles {
		s.File.Inode = uint64(i + 1)
		apply()
	}
	if len(r.files) != maxFiles {
		t.Errorf("%d files are remembered", len(r.files))
	}
}

// TestLinkerIsReplaced finds most of what the dynamic linker has.
func TestLinkerIsReplaced(t *testing.T) {
	b, err := os.ReadFile(linker)
	if err != nil {
		t.Skip("needs a program of this host: ", err)
	}
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	text := e.Section(".text")
	code, err := text.Data()
	if err != nil {
		t.Fatal(err)
	}
	found, _ := findOpcodes(func(b []byte, off uint64) error { copy(b, code[off:]); return nil }, uint64(len(code)))
	sites, err := findSites(func(b []byte, off uint64) error { copy(b, code[off:]); return nil }, uint64(len(code)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d", len(sites), len(found))
	if len(found) > 4 && len(sites) < len(found)/2 {
		t.Errorf("of %d instructions %d can be replaced", len(found), len(sites))
	}
}

// FuzzFindSites: code comes from anywhere.
func FuzzFindSites(f *testing.F) {
	f.Add(function(0x89, 0xc2, 0x83, 0xe2, 0x1f))
	f.Add(function(0x0f, 0xa2))
	f.Add([]byte{0x0f, 0xa2})
	f.Add(bytes.Repeat([]byte{0x0f, 0xa2, 0x90}, 100))
	table := &table{leaves: []leaf{{number: 4, indexed: true, answers: make([][4]uint32, 3)}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		sites, err := findSites(func(to []byte, off uint64) error { copy(to, b[off:]); return nil }, uint64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for _, s := range sites {
			if s.at < last || s.end() > uint64(len(b)) || s.end() < s.at+jumpSize {
				t.Fatalf("a site at %d to %d of %d bytes, the one before ends at %d", s.at, s.end(), len(b), last)
			}
			last = s.end()
		}
		room := uint64(len(b)+15) &^ 15
		for _, w := range table.rewrite(sites, room, 4096) {
			if w.at < room && w.at+uint64(len(w.code)) > uint64(len(b)) || w.at >= room && w.at+uint64(len(w.code)) > room+4096 {
				t.Fatalf("%d bytes are written at %d", len(w.code), w.at)
			}
		}
	})
}
