package call

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/usermem"
)

// U16 decodes the little-endian number at the start of b, as U32 and U64 do.
func U16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }

// U32: see U16.
func U32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// U64: see U16.
func U64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// CopyInStruct reads a structure of which an application has a version that is size bytes
// long, where the first one had least and the one that is known has known: that long is
// what is returned, with zeros for what the application's doesn't have. EINVAL for what
// is too short, E2BIG where what is newer isn't zero.
func CopyInStruct(t *kernel.Task, a usermem.Addr, size Size, least, known int) ([]byte, error) {
	if size < Size(least) {
		return nil, unix.EINVAL
	}
	if size > usermem.PageSize {
		return nil, unix.E2BIG
	}
	b := make([]byte, max(int(size), known))
	if _, err := t.MM().CopyIn(a, b[:size]); err != nil {
		return nil, err
	}
	for _, c := range b[known:] {
		if c != 0 {
			return nil, unix.E2BIG
		}
	}
	return b[:known], nil
}

// Writer builds a structure for an application, field by field. Buf is what
// there is so far.
type Writer struct{ Buf []byte }

// U16 appends 16 bits.
func (w *Writer) U16(v uint16) { w.Buf = binary.LittleEndian.AppendUint16(w.Buf, v) }

// U32 appends 32 bits.
func (w *Writer) U32(v uint32) { w.Buf = binary.LittleEndian.AppendUint32(w.Buf, v) }

// U64 appends 64 bits.
func (w *Writer) U64(v uint64) { w.Buf = binary.LittleEndian.AppendUint64(w.Buf, v) }

// I64 appends 64 bits, signed.
func (w *Writer) I64(v int64) { w.U64(uint64(v)) }

// Zero appends n bytes of padding.
func (w *Writer) Zero(n int) {
	for ; n > len(zeros); n -= len(zeros) {
		w.Buf = append(w.Buf, zeros[:]...)
	}
	w.Buf = append(w.Buf, zeros[:n]...)
}

var zeros [64]byte

// To writes the structure at a.
func (w *Writer) To(t *kernel.Task, a usermem.Addr) error {
	_, err := t.MM().CopyOut(a, w.Buf)
	return err
}

// Second in nanoseconds.
const Second = 1_000_000_000

// Timespec writes nanoseconds as a struct timespec; negative times have
// nanoseconds that count upwards, as Linux's.
func (w *Writer) Timespec(ns int64) {
	var b [16]byte
	PutTimespec(b[:], ns)
	w.Buf = append(w.Buf, b[:]...)
}

// PutTimespec is Writer.Timespec at the start of b.
func PutTimespec(b []byte, ns int64) {
	s, n := ns/Second, ns%Second
	if n < 0 {
		s, n = s-1, n+Second
	}
	binary.LittleEndian.PutUint64(b, uint64(s))
	binary.LittleEndian.PutUint64(b[8:], uint64(n))
}

// Timeval writes nanoseconds as a struct timeval.
func (w *Writer) Timeval(ns int64) {
	w.I64(ns / Second)
	w.I64(ns % Second / 1000)
}

// Timespec decodes a struct timespec as nanoseconds: EINVAL where it isn't
// normal. Times beyond what fits are the largest that does.
func Timespec(b []byte) (int64, error) {
	return nanoseconds(int64(U64(b)), int64(U64(b[8:])), 1)
}

// Timeval decodes a struct timeval as nanoseconds, with the same rules.
func Timeval(b []byte) (int64, error) {
	return nanoseconds(int64(U64(b)), int64(U64(b[8:])), 1000)
}

// nanoseconds adds up seconds and a part of one, in units of unit nanoseconds.
func nanoseconds(s, part, unit int64) (int64, error) {
	if s < 0 || part < 0 || part >= Second/unit {
		return 0, unix.EINVAL
	}
	if s > math.MaxInt64/Second-1 {
		return math.MaxInt64, nil
	}
	return s*Second + part*unit, nil
}

// ReadTimespec reads a struct timespec as nanoseconds (Timespec).
func ReadTimespec(t *kernel.Task, a usermem.Addr) (int64, error) {
	var b [16]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	return Timespec(b[:])
}
