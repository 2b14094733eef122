package syscalls

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
)

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// writer builds a structure for an application, field by field.
type writer struct{ b []byte }

func (w *writer) u16(v uint16) { w.b = binary.LittleEndian.AppendUint16(w.b, v) }
func (w *writer) u32(v uint32) { w.b = binary.LittleEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.LittleEndian.AppendUint64(w.b, v) }
func (w *writer) i64(v int64)  { w.u64(uint64(v)) }
func (w *writer) zero(n int)   { w.b = append(w.b, make([]byte, n)...) }

// to writes the structure at a.
func (w *writer) to(t *kernel.Task, a Addr) error {
	_, err := t.MM().CopyOut(a, w.b)
	return err
}

const second = 1_000_000_000

// timespec writes nanoseconds as a struct timespec; negative times have
// nanoseconds that count upwards, as Linux's.
func (w *writer) timespec(ns int64) {
	s, n := ns/second, ns%second
	if n < 0 {
		s, n = s-1, n+second
	}
	w.i64(s)
	w.i64(n)
}

// timeval writes nanoseconds as a struct timeval.
func (w *writer) timeval(ns int64) {
	w.i64(ns / second)
	w.i64(ns % second / 1000)
}

// timespecOf decodes a struct timespec as nanoseconds: EINVAL where it isn't
// normal. Times beyond what fits are the largest that does.
func timespecOf(b []byte) (int64, error) {
	return nanoseconds(int64(le64(b)), int64(le64(b[8:])), 1)
}

// timevalOf decodes a struct timeval as nanoseconds, with the same rules.
func timevalOf(b []byte) (int64, error) {
	return nanoseconds(int64(le64(b)), int64(le64(b[8:])), 1000)
}

// nanoseconds adds up seconds and a part of one, in units of unit nanoseconds.
func nanoseconds(s, part, unit int64) (int64, error) {
	if s < 0 || part < 0 || part >= second/unit {
		return 0, unix.EINVAL
	}
	if s > math.MaxInt64/second-1 {
		return math.MaxInt64, nil
	}
	return s*second + part*unit, nil
}

// readTimespec reads a struct timespec as nanoseconds (timespecOf).
func readTimespec(t *kernel.Task, a Addr) (int64, error) {
	var b [16]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	return timespecOf(b[:])
}

// readTimeval reads a struct timeval as nanoseconds (timevalOf).
func readTimeval(t *kernel.Task, a Addr) (int64, error) {
	var b [16]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	return timevalOf(b[:])
}
