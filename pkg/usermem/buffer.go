package usermem

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Memory is memory that can be read and written by address. Its methods stop
// at the first byte that can't be touched and return how many bytes came before
// it, with EFAULT. They are safe for concurrent use.
type Memory interface {
	// CopyIn fills dst from addr on.
	CopyIn(addr Addr, dst []byte) (int, error)
	// CopyOut writes src at addr.
	CopyOut(addr Addr, src []byte) (int, error)
	// ZeroOut clears n bytes at addr.
	ZeroOut(addr Addr, n uint64) (uint64, error)
	// Blocks calls f with the Sentry's own view of successive parts of r, in
	// order, until r is done, f returns fewer bytes than the part holds, or
	// f fails. The slices alias the application's memory, which may change
	// under f; they are valid only during the call, in which f must not call
	// into the same Memory. access is Read where f reads from the slices and
	// Write where it writes to them. It returns the sum of what f returned.
	Blocks(r AddrRange, access Access, f func(b []byte) (int, error)) (uint64, error)
}

// Buffer is the memory that one I/O call was given: ranges of an application's
// memory, or bytes of the Sentry's. Its methods consume it from the front: what
// was read, written or dropped is gone from the Buffer. The zero Buffer is empty.
type Buffer struct {
	mem   Memory
	first AddrRange   // the only range, or the first
	rest  []AddrRange // further ranges, not owned
	raw   []byte      // used when mem is nil
	len   uint64
}

// BytesBuffer returns a Buffer over the Sentry's own bytes.
func BytesBuffer(b []byte) Buffer { return Buffer{raw: b, len: uint64(len(b))} }

// SingleBuffer returns a Buffer over one range of m.
func SingleBuffer(m Memory, r AddrRange) Buffer {
	return Buffer{mem: m, first: r, len: r.Len()}
}

// VectorBuffer returns a Buffer over ranges of m, in order. The caller has
// checked that the sum of the lengths fits; rs is not modified and must not
// change while the Buffer lives.
func VectorBuffer(m Memory, rs []AddrRange) Buffer {
	b := Buffer{mem: m}
	for _, r := range rs {
		b.len += r.Len()
	}
	if len(rs) > 0 {
		b.first, b.rest = rs[0], rs[1:]
	}
	return b
}

// Set makes b SingleBuffer(m, r).
func (b *Buffer) Set(m Memory, r AddrRange) {
	b.mem, b.first, b.rest, b.raw, b.len = m, r, nil, nil, r.Len()
}

// Len returns how many bytes are left.
func (b *Buffer) Len() uint64 { return b.len }

// Limit drops all but the first n bytes.
func (b *Buffer) Limit(n uint64) {
	if n < b.len {
		b.len = n
	}
}

// Narrow is Limit for a while: Widen with what it returns takes it back.
func (b *Buffer) Narrow(n uint64) (hidden uint64) {
	if n >= b.len {
		return 0
	}
	hidden = b.len - n
	b.len = n
	return hidden
}

// Widen: see Narrow.
func (b *Buffer) Widen(hidden uint64) { b.len += hidden }

// head returns the front range cut to the Buffer's length, skipping empty ones.
func (b *Buffer) head() AddrRange {
	for b.first.Empty() && len(b.rest) > 0 {
		b.first, b.rest = b.rest[0], b.rest[1:]
	}
	r := b.first
	if r.Len() > b.len {
		r.End = r.Start + Addr(b.len)
	}
	return r
}

// Drop removes the first n bytes, or all if there are fewer.
func (b *Buffer) Drop(n uint64) {
	n = min(n, b.len)
	b.len -= n
	if b.mem == nil {
		b.raw = b.raw[n:]
		return
	}
	for n > 0 {
		if b.first.Empty() {
			b.first, b.rest = b.rest[0], b.rest[1:]
			continue
		}
		step := min(n, b.first.Len())
		b.first.Start += Addr(step)
		n -= step
	}
}

// each moves bytes between the Buffer and p with op until p is done, the
// Buffer is empty or op fails.
func (b *Buffer) each(n int, op func(a Addr, done, step int) (int, error), raw func(b []byte, done int) int) (int, error) {
	done := 0
	for done < n && b.len > 0 {
		if b.mem == nil {
			step := raw(b.raw[:min(uint64(len(b.raw)), b.len)], done)
			b.Drop(uint64(step))
			done += step
			break
		}
		r := b.head()
		step := int(min(uint64(n-done), r.Len()))
		got, err := op(r.Start, done, step)
		b.Drop(uint64(got))
		done += got
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Write copies p to the front of the Buffer: a read(2) that delivers p. It
// stops without an error when the Buffer is full.
func (b *Buffer) Write(p []byte) (int, error) {
	return b.each(len(p),
		func(a Addr, done, step int) (int, error) { return b.mem.CopyOut(a, p[done:done+step]) },
		func(raw []byte, done int) int { return copy(raw, p[done:]) })
}

// Read fills p from the front of the Buffer: a write(2) that takes p. It stops
// without an error when the Buffer is empty.
func (b *Buffer) Read(p []byte) (int, error) {
	return b.each(len(p),
		func(a Addr, done, step int) (int, error) { return b.mem.CopyIn(a, p[done:done+step]) },
		func(raw []byte, done int) int { return copy(p[done:], raw) })
}

// Zero writes up to n zero bytes to the front of the Buffer.
func (b *Buffer) Zero(n uint64) (uint64, error) {
	var done uint64
	for done < n && b.len > 0 {
		if b.mem == nil {
			step := min(n-done, b.len)
			clear(b.raw[:step])
			b.Drop(step)
			return done + step, nil
		}
		r := b.head()
		got, err := b.mem.ZeroOut(r.Start, min(n-done, r.Len()))
		b.Drop(got)
		done += got
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Blocks calls f with the Sentry's view of successive parts of the Buffer and
// consumes what f returns; it ends as Memory.Blocks does, or at the Buffer's
// end. access is from the view of f: Write for a read(2) that fills the
// Buffer, Read for a write(2).
func (b *Buffer) Blocks(access Access, f func(p []byte) (int, error)) (uint64, error) {
	var done uint64
	for b.len > 0 {
		if b.mem == nil {
			n, err := f(b.raw[:b.len])
			b.Drop(uint64(n))
			return done + uint64(n), err
		}
		r := b.head()
		got, err := b.mem.Blocks(r, access, f)
		b.Drop(got)
		done += got
		if err != nil || got < r.Len() {
			return done, err
		}
	}
	return done, nil
}

// CopyInUint32 reads a little-endian 32-bit word.
func CopyInUint32(m Memory, a Addr) (uint32, error) {
	var b [4]byte
	if _, err := m.CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// CopyOutUint32 writes a little-endian 32-bit word.
func CopyOutUint32(m Memory, a Addr, v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	_, err := m.CopyOut(a, b[:])
	return err
}

// CopyInUint64 reads a little-endian 64-bit word.
func CopyInUint64(m Memory, a Addr) (uint64, error) {
	var b [8]byte
	if _, err := m.CopyIn(a, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// CopyOutUint64 writes a little-endian 64-bit word.
func CopyOutUint64(m Memory, a Addr, v uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	_, err := m.CopyOut(a, b[:])
	return err
}

// CopyInString reads the NUL-terminated string at addr, without the NUL. It
// fails with ENAMETOOLONG when there is no NUL in the first limit bytes, and
// with EFAULT when memory ends before the NUL.
func CopyInString(m Memory, addr Addr, limit int) (string, error) {
	var buf []byte
	for len(buf) < limit {
		// A page at a time: what follows the NUL may be unmapped.
		a, ok := addr.Add(uint64(len(buf)))
		if !ok {
			return "", unix.EFAULT
		}
		var chunk [256]byte
		n := min(limit-len(buf), len(chunk), int(PageSize-a.PageOffset()))
		got, err := m.CopyIn(a, chunk[:n])
		for i, c := range chunk[:got] {
			if c == 0 {
				return string(append(buf, chunk[:i]...)), nil
			}
		}
		if err != nil {
			return "", err
		}
		buf = append(buf, chunk[:got]...)
	}
	return "", unix.ENAMETOOLONG
}
