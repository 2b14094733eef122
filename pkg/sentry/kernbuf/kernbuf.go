// Package kernbuf holds the bytes that are on their way between processes: in
// pipes, in sockets.
//
// A Ring is a queue of bytes in pooled pages; a Buf is one message. Both take
// memory only while they hold something, and charge it to an account, so that
// what applications leave unread can't grow the Sentry without bound.
//
// A Ring and a Buf belong to an object that has a lock of its own: they do no
// locking. The pools are safe for concurrent use.
//
// The package doesn't know who waits, what a message is, or how much one object
// may hold: that is the object's business.
package kernbuf

import (
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/usermem"
)

// PageSize is the unit of a Ring's memory, in bytes.
const PageSize = usermem.PageSize

// Page is one unit of a Ring's memory. Its contents are not cleared.
type Page [PageSize]byte

var pages = sync.Pool{New: func() any { return new(Page) }}

func getPage(a *memfile.Account) *Page {
	if a.Charge(PageSize) != nil {
		return nil
	}
	return pages.Get().(*Page)
}

func putPage(a *memfile.Account, p *Page) {
	a.Uncharge(PageSize)
	pages.Put(p)
}

// Ring is a queue of bytes. The zero Ring is empty, and nobody pays for it.
type Ring struct {
	pages []*Page // pages[head:] hold bytes
	head  int
	off   int // of the first byte in pages[head]
	size  int
	acct  *memfile.Account
}

// SetAccount makes a pay for an empty Ring.
func (r *Ring) SetAccount(a *memfile.Account) { r.acct = a }

// Len returns how many bytes are queued.
func (r *Ring) Len() int { return r.size }

// room returns the free end of the last page, with a page more if that is full;
// nil if there is no memory.
func (r *Ring) room() []byte {
	end := r.off + r.size
	i, at := r.head+end/PageSize, end%PageSize
	if i == len(r.pages) {
		p := getPage(r.acct)
		if p == nil {
			return nil
		}
		if r.head > 16 && r.head > len(r.pages)/2 {
			n := copy(r.pages, r.pages[r.head:])
			clear(r.pages[n:])
			r.pages, i, r.head = r.pages[:n], i-r.head, 0
		}
		r.pages = append(r.pages, p)
	}
	return r.pages[i][at:]
}

// trim gives back a last page that room added and nothing was put in.
func (r *Ring) trim() {
	if r.size == 0 {
		r.Discard(0)
		return
	}
	last := len(r.pages) - 1
	if r.head+(r.off+r.size-1)/PageSize < last {
		putPage(r.acct, r.pages[last])
		r.pages[last] = nil
		r.pages = r.pages[:last]
	}
}

// Fill appends up to limit bytes from src. It returns ENOMEM when the account
// has no room for a page, and src's error, with what came before.
func (r *Ring) Fill(src *usermem.Buffer, limit int) (int, error) {
	done := 0
	for done < limit && src.Len() > 0 {
		b := r.room()
		if b == nil {
			return done, unix.ENOMEM
		}
		n, err := src.Read(b[:min(len(b), limit-done)])
		r.size += n
		done += n
		if err != nil {
			r.trim()
			return done, err
		}
	}
	return done, nil
}

// Append appends p; ENOMEM with how many bytes came before.
func (r *Ring) Append(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		b := r.room()
		if b == nil {
			return done, unix.ENOMEM
		}
		n := copy(b, p[done:])
		r.size += n
		done += n
	}
	return done, nil
}

// FillFunc appends what f puts into successive pieces of memory, up to limit
// bytes, until f fills less than it was given or fails.
func (r *Ring) FillFunc(limit int, f func(b []byte) (int, error)) (int, error) {
	done := 0
	for done < limit {
		b := r.room()
		if b == nil {
			return done, unix.ENOMEM
		}
		b = b[:min(len(b), limit-done)]
		n, err := f(b)
		r.size += n
		done += n
		if err != nil || n < len(b) {
			r.trim()
			return done, err
		}
	}
	return done, nil
}

// each calls f with the bytes from skip on, at most limit, in pieces, until it
// takes less than a piece or fails.
func (r *Ring) each(skip, limit int, f func(b []byte) (int, error)) (int, error) {
	limit = min(limit, r.size-skip)
	done := 0
	for done < limit {
		at := r.off + skip + done
		b := r.pages[r.head+at/PageSize][at%PageSize:]
		b = b[:min(len(b), limit-done)]
		n, err := f(b)
		done += n
		if err != nil || n < len(b) {
			return done, err
		}
	}
	return done, nil
}

// Peek copies up to limit bytes from skip on to dst, and leaves them.
func (r *Ring) Peek(dst *usermem.Buffer, skip, limit int) (int, error) {
	limit = min(limit, r.size-skip)
	done := 0
	for done < limit && dst.Len() > 0 {
		at := r.off + skip + done
		b := r.pages[r.head+at/PageSize][at%PageSize:]
		n, err := dst.Write(b[:min(len(b), limit-done)])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Drain moves up to limit bytes to dst.
func (r *Ring) Drain(dst *usermem.Buffer, limit int) (int, error) {
	n, err := r.Peek(dst, 0, limit)
	r.Discard(n)
	return n, err
}

// DrainFunc gives up to limit bytes to f in pieces and drops what f took, until
// f takes less than a piece or fails.
func (r *Ring) DrainFunc(limit int, f func(b []byte) (int, error)) (int, error) {
	n, err := r.each(0, limit, f)
	r.Discard(n)
	return n, err
}

// CopyTo appends up to limit of r's first bytes to to, and leaves them in r.
func (r *Ring) CopyTo(to *Ring, limit int) (int, error) { return r.each(0, limit, to.Append) }

// MoveTo moves up to limit bytes to to: whole pages without copying, if both
// count in the same account.
func (r *Ring) MoveTo(to *Ring, limit int) (int, error) {
	limit = min(limit, r.size)
	done := 0
	for done < limit {
		if (to.off+to.size)%PageSize == 0 && r.off == 0 && limit-done >= PageSize && r.acct == to.acct &&
			to.head+(to.off+to.size)/PageSize == len(to.pages) {
			to.pages = append(to.pages, r.pages[r.head])
			to.size += PageSize
			r.pages[r.head] = nil
			r.head++
			r.size -= PageSize
			done += PageSize
			if r.size == 0 {
				r.Discard(0)
			}
			continue
		}
		b := r.pages[r.head][r.off:]
		n, err := to.Append(b[:min(len(b), limit-done)])
		r.Discard(n)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Discard drops the first n bytes, and gives back pages that hold none.
func (r *Ring) Discard(n int) {
	n = min(n, r.size)
	r.size -= n
	r.off += n
	for r.off >= PageSize && r.head < len(r.pages) {
		putPage(r.acct, r.pages[r.head])
		r.pages[r.head] = nil
		r.head++
		r.off -= PageSize
	}
	if r.size == 0 {
		for i := r.head; i < len(r.pages); i++ {
			putPage(r.acct, r.pages[i])
			r.pages[i] = nil
		}
		r.pages, r.head, r.off = r.pages[:0], 0, 0
		if cap(r.pages) > 64 {
			r.pages = nil
		}
	}
}

// Buf is memory for one message.
type Buf struct {
	// Data is as long as was asked for. It is not cleared.
	Data  []byte
	mem   []byte
	class int8
	acct  *memfile.Account
}

// MaxBuf is the largest message, in bytes.
const MaxBuf = 1 << 20

// Sizes of Buf: powers of four from 512 bytes on.
var classes [7]sync.Pool

func classOf(n int) int {
	c, size := 0, 512
	for size < n && c < len(classes)-1 {
		c++
		size <<= 2
	}
	return c
}

// GetBuf returns memory for n bytes that a pays for; nil beyond MaxBuf or a's limit.
func GetBuf(n int, a *memfile.Account) *Buf {
	if n > MaxBuf {
		return nil
	}
	c := classOf(n)
	size := 512 << (2 * c)
	if a.Charge(int64(size)) != nil {
		return nil
	}
	b, _ := classes[c].Get().(*Buf)
	if b == nil {
		b = &Buf{mem: make([]byte, size), class: int8(c)}
	}
	b.Data, b.acct = b.mem[:n], a
	return b
}

// Free gives the memory back; nobody uses b or its Data any more.
func (b *Buf) Free() {
	b.acct.Uncharge(int64(len(b.mem)))
	b.Data, b.acct = nil, nil
	classes[b.class].Put(b)
}
