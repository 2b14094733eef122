// Package usermem names places in an application's memory and moves bytes
// between them and the Sentry.
//
// An Addr is a virtual address of the application, never one of the Sentry.
// Memory is whatever can be read and written by Addr: the memory manager of a
// process, or a slice in a test. A Buffer is what a read or a write was asked
// to fill or to take from: a list of address ranges in one Memory, or plain
// bytes of the Sentry's own.
//
// The package does no locking of its own. A Memory is safe for concurrent use;
// a Buffer belongs to one goroutine.
package usermem

import "fmt"

// PageSize is the size of a page on amd64, in bytes.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
	PageMask  = PageSize - 1
)

// Addr is a virtual address in an application's address space.
type Addr uint64

// RoundDown returns the start of the page that holds a.
func (a Addr) RoundDown() Addr { return a &^ PageMask }

// RoundUp returns the start of the first page at or above a. It reports false
// when that is beyond the last address.
func (a Addr) RoundUp() (Addr, bool) {
	up := (a + PageMask).RoundDown()
	return up, up >= a
}

// PageOffset returns the offset of a in its page.
func (a Addr) PageOffset() uint64 { return uint64(a) & PageMask }

// PageAligned reports whether a is the start of a page.
func (a Addr) PageAligned() bool { return a&PageMask == 0 }

// Add returns a+n and reports false when that overflows.
func (a Addr) Add(n uint64) (Addr, bool) {
	sum := a + Addr(n)
	return sum, sum >= a
}

// Range returns [a, a+n) and reports false when its end overflows.
func (a Addr) Range(n uint64) (AddrRange, bool) {
	end, ok := a.Add(n)
	return AddrRange{a, end}, ok
}

// PageRoundUp rounds a length in bytes up to whole pages. It reports false on
// overflow.
func PageRoundUp(n uint64) (uint64, bool) {
	up := (n + PageMask) &^ PageMask
	return up, up >= n
}

// AddrRange is the half-open range [Start, End).
type AddrRange struct{ Start, End Addr }

// Len returns the range's length in bytes.
func (r AddrRange) Len() uint64 { return uint64(r.End - r.Start) }

// Empty reports whether the range holds no address.
func (r AddrRange) Empty() bool { return r.Start >= r.End }

// Contains reports whether a lies in r.
func (r AddrRange) Contains(a Addr) bool { return r.Start <= a && a < r.End }

// Covers reports whether all of s lies in r.
func (r AddrRange) Covers(s AddrRange) bool { return r.Start <= s.Start && s.End <= r.End }

// Overlaps reports whether r and s share an address.
func (r AddrRange) Overlaps(s AddrRange) bool { return r.Start < s.End && s.Start < r.End }

// Intersect returns the addresses in both ranges; the result is empty when
// there are none.
func (r AddrRange) Intersect(s AddrRange) AddrRange {
	r.Start = max(r.Start, s.Start)
	r.End = max(min(r.End, s.End), r.Start)
	return r
}

func (r AddrRange) String() string { return fmt.Sprintf("[%#x,%#x)", uint64(r.Start), uint64(r.End)) }

// Access is a set of ways to touch memory, as in mmap(2)'s prot.
type Access uint8

// The bits have the values of PROT_READ, PROT_WRITE and PROT_EXEC.
const (
	Read    Access = 1 << 0
	Write   Access = 1 << 1
	Execute Access = 1 << 2

	NoAccess  Access = 0
	ReadWrite        = Read | Write
	AnyAccess        = Read | Write | Execute
)

// Has reports whether a permits all of b.
func (a Access) Has(b Access) bool { return a&b == b }

// Effective returns what the processor gives for a: on amd64 a page that can
// be written or executed can be read.
func (a Access) Effective() Access {
	if a&(Write|Execute) != 0 {
		a |= Read
	}
	return a
}

// String returns "rwx" with dashes for what is missing, as /proc/PID/maps does.
func (a Access) String() string {
	s := []byte("---")
	for i, c := range []byte("rwx") {
		if a&(1<<i) != 0 {
			s[i] = c
		}
	}
	return string(s)
}
