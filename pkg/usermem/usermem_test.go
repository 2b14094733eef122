package usermem

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"golang.org/x/sys/unix"
)

// sliceMemory is memory at [base, base+len).
type sliceMemory struct {
	base  Addr
	bytes []byte
}

func (m *sliceMemory) at(addr Addr, n uint64) ([]byte, error) {
	if addr < m.base || uint64(addr-m.base) >= uint64(len(m.bytes)) {
		if n == 0 {
			return nil, nil
		}
		return nil, unix.EFAULT
	}
	b := m.bytes[addr-m.base:]
	if n > uint64(len(b)) {
		return b, unix.EFAULT
	}
	return b[:n], nil
}

func (m *sliceMemory) CopyIn(addr Addr, dst []byte) (int, error) {
	b, err := m.at(addr, uint64(len(dst)))
	return copy(dst, b), err
}

func (m *sliceMemory) CopyOut(addr Addr, src []byte) (int, error) {
	b, err := m.at(addr, uint64(len(src)))
	return copy(b, src), err
}

func (m *sliceMemory) ZeroOut(addr Addr, n uint64) (uint64, error) {
	b, err := m.at(addr, n)
	clear(b)
	return uint64(len(b)), err
}

func (m *sliceMemory) Blocks(r AddrRange, _ Access, f func([]byte) (int, error)) (uint64, error) {
	b, err := m.at(r.Start, r.Len())
	n, ferr := f(b)
	if ferr != nil {
		err = ferr
	}
	return uint64(n), err
}

func TestRangesAtTheEndOfAddresses(t *testing.T) {
	const last = Addr(math.MaxUint64)
	if _, ok := last.Add(1); ok {
		t.Error("adding beyond the last address is not noticed")
	}
	if _, ok := last.RoundUp(); ok {
		t.Error("rounding up beyond the last address is not noticed")
	}
	if _, ok := Addr(5).Range(math.MaxUint64); ok {
		t.Error("a range that wraps is not noticed")
	}
	if _, ok := PageRoundUp(math.MaxUint64); ok {
		t.Error("a length that wraps is not noticed")
	}
	if r := (AddrRange{10, 20}).Intersect(AddrRange{30, 40}); !r.Empty() {
		t.Errorf("ranges apart meet in %v", r)
	}
	if r := (AddrRange{10, 20}).Intersect(AddrRange{15, 40}); r != (AddrRange{15, 20}) {
		t.Errorf("ranges meet in %v", r)
	}
}

func TestVectorIsConsumedInOrder(t *testing.T) {
	m := &sliceMemory{0x1000, make([]byte, 64)}
	b := VectorBuffer(m, []AddrRange{{0x1000, 0x1004}, {0x1010, 0x1010}, {0x1020, 0x1028}, {0x1008, 0x100a}})
	if b.Len() != 14 {
		t.Fatalf("length %d", b.Len())
	}
	if n, err := b.Write([]byte("abcdef")); n != 6 || err != nil {
		t.Fatal(n, err)
	}
	b.Drop(1)
	if n, err := b.Zero(2); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	b.Limit(4)
	if n, err := b.Write([]byte("ghijkl")); n != 4 || err != nil || b.Len() != 0 {
		t.Fatal(n, err, b.Len())
	}
	want := make([]byte, 64)
	copy(want, "abcd")
	copy(want[0x20:], "ef\x00\x00\x00ghi")
	copy(want[8:], "j")
	if !bytes.Equal(m.bytes, want) {
		t.Errorf("memory is %q, want %q", m.bytes, want)
	}
	if n, err := b.Write([]byte("m")); n != 0 || err != nil {
		t.Errorf("a full buffer takes %d, %v", n, err)
	}
}

func TestBufferStopsAtAFault(t *testing.T) {
	m := &sliceMemory{0x1000, []byte("0123456789")}
	b := VectorBuffer(m, []AddrRange{{0x1000, 0x1002}, {0x1008, 0x1010}, {0x1000, 0x1001}})
	p := make([]byte, 20)
	if n, err := b.Read(p); n != 4 || err != unix.EFAULT || string(p[:n]) != "0189" {
		t.Errorf("read %d, %v, %q", n, err, p)
	}
}

func TestBytesBuffer(t *testing.T) {
	raw := []byte("abcdef")
	b := BytesBuffer(raw)
	p := make([]byte, 2)
	if n, _ := b.Read(p); n != 2 || string(p) != "ab" {
		t.Error(n, p)
	}
	if n, err := b.Blocks(Write, func(p []byte) (int, error) { return copy(p, "XY"), nil }); n != 2 || err != nil {
		t.Error(n, err)
	}
	if n, _ := b.Zero(9); n != 2 || string(raw) != "abXY\x00\x00" {
		t.Errorf("%d, %q", n, raw)
	}
	var none Buffer
	if n, err := none.Write(p); n != 0 || err != nil {
		t.Error(n, err)
	}
}

func TestCopyInString(t *testing.T) {
	m := &sliceMemory{PageSize - 3, []byte("hello\x00world")}
	if s, err := CopyInString(m, m.base, 100); s != "hello" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	if _, err := CopyInString(m, m.base, 5); err != unix.ENAMETOOLONG {
		t.Errorf("no room for the end: %v", err)
	}
	if _, err := CopyInString(m, m.base+6, 100); err != unix.EFAULT {
		t.Errorf("no end: %v", err)
	}
}

func TestGuardCatchesOnlyFaults(t *testing.T) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b, err := unix.Mmap(fd, 0, PageSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	var sink byte
	if err := Guard(func() error { sink = b[0]; return nil }); err != unix.EFAULT {
		t.Errorf("touching a page that isn't: %v, %d", err, sink)
	}
	other := errors.New("other")
	if err := Guard(func() error { return other }); err != other {
		t.Errorf("the function's error became %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("another panic was swallowed")
		}
	}()
	Guard(func() error { panic("mine") })
}
