package pagestore

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// source is application memory that ends after some bytes; touched, unless nil,
// is called when it is first read.
type source struct {
	bytes   []byte
	touched func()
}

func (m *source) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	if f := m.touched; f != nil {
		m.touched = nil
		f()
	}
	n := copy(dst, m.bytes[min(uint64(a), uint64(len(m.bytes))):])
	if n < len(dst) {
		return n, unix.EFAULT
	}
	return n, nil
}
func (m *source) CopyOut(usermem.Addr, []byte) (int, error)    { return 0, unix.EFAULT }
func (m *source) ZeroOut(usermem.Addr, uint64) (uint64, error) { return 0, unix.EFAULT }
func (m *source) Blocks(usermem.AddrRange, usermem.Access, func([]byte) (int, error)) (uint64, error) {
	return 0, unix.EFAULT
}

// soil leaves pages with somebody's bytes for the next to allocate.
func soil(t *testing.T, s *Store, a *memfile.Account, pages int) {
	t.Helper()
	var runs []memfile.Run
	for pages > 0 {
		r, err := s.file.Alloc(memfile.Request{Account: a, Pages: pages, Hint: memfile.NoHint})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := s.file.Slice(r.Offset, uint64(r.Pages)*pageSize)
		copy(b, bytes.Repeat([]byte{0xee}, len(b)))
		runs = append(runs, r)
		pages -= r.Pages
	}
	for _, r := range runs {
		s.file.DecRef(r.Offset, uint64(r.Pages)*pageSize)
	}
}

func TestWriteThatFailsShowsNobodysBytes(t *testing.T) {
	for _, good := range []int{0, 1, 100, pageSize, 3*pageSize + 17, 10 * pageSize} {
		s, acct := newStore(t, 0)
		soil(t, s, acct, 600)
		m := &source{bytes: bytes.Repeat([]byte{'x'}, good)}
		src := usermem.SingleBuffer(m, usermem.AddrRange{End: 20*pageSize + 5})
		n, err := s.WriteAt(&src, 2*pageSize)
		if n != uint64(good) || err != unix.EFAULT {
			t.Errorf("%d good bytes: wrote %d, %v", good, n, err)
		}
		if err := s.Truncate(40 * pageSize); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 40*pageSize)
		copy(want[2*pageSize:], m.bytes)
		if !bytes.Equal(readAll(t, s, 0, len(want)), want) {
			t.Errorf("%d good bytes: others are to be seen", good)
		}
		if got, most := acct.Usage()/pageSize, uint64(good/pageSize)+1; got > most || got != s.Pages() {
			t.Errorf("%d good bytes: %d pages are charged, the store has %d", good, got, s.Pages())
		}
	}
}

// A page may come to be where a write is about to put one: the bytes go there.
func TestWriteMeetsPagesThatWereTouchedMeanwhile(t *testing.T) {
	s, acct := newStore(t, 0)
	if err := s.Truncate(30 * pageSize); err != nil {
		t.Fatal(err)
	}
	var ts []memmap.Translation
	m := &source{bytes: bytes.Repeat([]byte{'x'}, 12*pageSize+9)}
	m.touched = func() {
		r := memmap.Range{Start: 5 * pageSize, End: 6 * pageSize}
		var err error
		if ts, err = s.Translate(r, r, usermem.ReadWrite); err != nil || len(ts) != 1 {
			t.Fatal(ts, err)
		}
	}
	src := usermem.SingleBuffer(m, usermem.AddrRange{End: usermem.Addr(len(m.bytes))})
	if n, err := s.WriteAt(&src, pageSize); n != uint64(len(m.bytes)) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	want := make([]byte, 30*pageSize)
	copy(want[pageSize:], m.bytes)
	if !bytes.Equal(readAll(t, s, 0, len(want)), want) {
		t.Error("not all was written")
	}
	b, err := s.file.Slice(ts[0].Offset, pageSize)
	if err != nil || b[17] != 'x' {
		t.Errorf("the mapping doesn't show what was written (%v)", err)
	}
	s.file.DecRef(ts[0].Offset, pageSize)
	if got := acct.Usage() / pageSize; got != s.Pages() || got != 13 {
		t.Errorf("%d pages are charged, the store has %d", got, s.Pages())
	}
	s.Release()
	if acct.Usage() != 0 {
		t.Errorf("%d bytes are charged in the end", acct.Usage())
	}
}

// A seal that comes while a write waits for its bytes holds for it.
func TestWriteMeetsASeal(t *testing.T) {
	s, acct := newStore(t, 0)
	m := &source{bytes: make([]byte, 4*pageSize)}
	m.touched = func() {
		if err := s.AddSeals(unix.F_SEAL_WRITE); err != nil {
			t.Fatal(err)
		}
	}
	src := usermem.SingleBuffer(m, usermem.AddrRange{End: 4 * pageSize})
	if n, err := s.WriteAt(&src, 0); n != 0 || err != unix.EPERM {
		t.Errorf("wrote %d, %v", n, err)
	}
	if s.Size() != 0 || acct.Usage() != 0 {
		t.Errorf("size %d, %d bytes charged", s.Size(), acct.Usage())
	}
}
