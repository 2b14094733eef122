package memfile

import (
	"errors"
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Account counts the pages of one container, or of one kind of use in it, and
// bounds them. What is charged to an account is charged to its parent too.
//
// It counts the Sentry's own memory as well, as a memory cgroup counts the
// kernel's: whoever makes an object that applications can make many of charges
// about what it takes, and gives that back with it. A nil Account pays for
// anything.
type Account struct {
	file   *File
	parent *Account
	name   string
	id     uint16

	used  atomic.Int64 // pages
	peak  atomic.Int64
	heap  atomic.Int64 // bytes of the Sentry's own memory; whole pages of it are in used
	free  int64        // pages of that that aren't in used
	limit atomic.Int64
	fails atomic.Int64
}

// NewHeapAccount returns an account of no File, for the Sentry's own memory alone;
// limit is in bytes, zero is no limit.
func NewHeapAccount(limit uint64) *Account {
	a := &Account{}
	a.SetLimit(limit)
	return a
}

// ErrAccounts is the error of NewAccount when there are 65535 accounts that were not
// closed, or still hold something.
var ErrAccounts = errors.New("too many memory accounts")

// NewAccount returns an account without a parent; limit is in bytes, zero is no
// limit.
func (f *File) NewAccount(name string, limit uint64) (*Account, error) {
	return f.newAccount(nil, name, limit)
}

// FreeHeap has the first n bytes that a is charged of the Sentry's own memory cost
// nothing, so that whoever has filled his memory with pages can still be helped. It
// comes before all charges.
func (a *Account) FreeHeap(n uint64) { a.free = int64(n >> pageShift) }

// NewAccount returns an account below a.
func (a *Account) NewAccount(name string, limit uint64) (*Account, error) {
	return a.file.newAccount(a, name, limit)
}

func (f *File) newAccount(parent *Account, name string, limit uint64) (*Account, error) {
	a := &Account{file: f, parent: parent, name: name}
	a.SetLimit(limit)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetClosed()
	if n := len(f.freeIDs); n > 0 {
		a.id = f.freeIDs[n-1]
		f.freeIDs = f.freeIDs[:n-1]
		f.accounts[a.id] = a
		return a, nil
	}
	if len(f.accounts) >= math.MaxUint16 {
		return nil, ErrAccounts
	}
	a.id = uint16(len(f.accounts))
	f.accounts = append(f.accounts, a)
	return a, nil
}

// Close says that nobody allocates from the account any more: it is given up when
// nothing is charged to it, which may be later. Pages are refused then.
func (a *Account) Close() {
	f := a.file
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = append(f.closed, a)
	f.forgetClosed()
}

// forgetClosed gives up the closed accounts that nothing is charged to. f.mu is held.
func (f *File) forgetClosed() {
	f.closed = slices.DeleteFunc(f.closed, func(a *Account) bool {
		if a.used.Load() != 0 {
			return false
		}
		f.accounts[a.id] = nil
		f.freeIDs = append(f.freeIDs, a.id)
		return true
	})
}

// Name returns the name given to NewAccount.
func (a *Account) Name() string { return a.name }

// SetLimit changes the limit, in bytes; zero is none. What is in use stays,
// even beyond it.
func (a *Account) SetLimit(limit uint64) {
	pages := int64(limit >> pageShift)
	if limit == 0 || limit > math.MaxInt64 {
		pages = math.MaxInt64
	}
	a.limit.Store(pages)
}

// Limit returns the limit in bytes, rounded down to pages; zero is none.
func (a *Account) Limit() uint64 {
	if l := a.limit.Load(); l != math.MaxInt64 {
		return uint64(l) << pageShift
	}
	return 0
}

// Bound returns the smallest limit of a and those above it, in bytes; zero is
// none.
func (a *Account) Bound() uint64 {
	var bound uint64
	for ; a != nil; a = a.parent {
		if l := a.Limit(); l != 0 && (bound == 0 || l < bound) {
			bound = l
		}
	}
	return bound
}

// Machine returns the limit of the topmost account above a, in bytes: all the
// memory that there is; the largest number where it has none.
func (a *Account) Machine() uint64 {
	for a.parent != nil {
		a = a.parent
	}
	if l := a.Limit(); l != 0 {
		return l
	}
	return math.MaxUint64
}

// Usage returns what is charged now, in bytes.
func (a *Account) Usage() uint64 { return uint64(a.used.Load()) << pageShift }

// Peak returns the most that was charged at any time, in bytes.
func (a *Account) Peak() uint64 { return uint64(a.peak.Load()) << pageShift }

// Failures returns how many allocations of a page were refused.
func (a *Account) Failures() uint64 { return uint64(a.fails.Load()) }

// Headroom returns how much a and those above it may still take, in bytes.
func (a *Account) Headroom() uint64 {
	return uint64(min(a.headroom(), math.MaxInt64>>pageShift)) << pageShift
}

// headroom is the same in pages.
func (a *Account) headroom() int64 {
	room := int64(math.MaxInt64)
	for ; a != nil; a = a.parent {
		room = min(room, max(a.limit.Load()-a.used.Load(), 0))
	}
	return room
}

// Charge counts n bytes of the Sentry's own memory: ENOMEM, and nothing is
// counted, where it would leave less than 1/16 of the limit of a or of one above
// it. So who fills his container with objects is refused more of them, before
// others lose their lives for want of a page. n may be zero or less. It takes no lock, and goes to the parents once a page only.
func (a *Account) Charge(n int64) error {
	if a == nil {
		return nil
	}
	if pages := a.addHeap(n); pages > 0 && !a.charge(pages, true) {
		a.fails.Add(1)
		a.addHeap(-n)
		return unix.ENOMEM
	} else if pages < 0 {
		a.uncharge(-pages)
	}
	return nil
}

// ChargeAlways counts n bytes even beyond the limit: for the little without
// which something that was charged before couldn't go.
func (a *Account) ChargeAlways(n int64) {
	if a != nil {
		a.uncharge(-a.addHeap(n))
	}
}

// Uncharge takes n bytes back.
func (a *Account) Uncharge(n int64) { a.ChargeAlways(-n) }

// addHeap adds n bytes and returns how many pages more that is.
func (a *Account) addHeap(n int64) int64 {
	now := a.heap.Add(n)
	return a.heapPages(now) - a.heapPages(now-n)
}

// heapPages is what of used are n bytes of heap.
func (a *Account) heapPages(n int64) int64 { return max((n+pageSize-1)>>pageShift-a.free, 0) }

// Over reports whether a or one above it is beyond its limit.
func (a *Account) Over() bool {
	for ; a != nil; a = a.parent {
		if a.used.Load() > a.limit.Load() {
			return true
		}
	}
	return false
}

// FileUsage returns what of Usage is pages of the File, in bytes, where no account
// below a has been charged for more.
func (a *Account) FileUsage() uint64 {
	return uint64(max(a.used.Load()-a.heapPages(a.heap.Load()), 0)) << pageShift
}

// Heap returns how much of the Sentry's own memory is charged to the account, in
// bytes; what is charged to those below it isn't in it.
func (a *Account) Heap() uint64 { return uint64(max(a.heap.Load(), 0)) }

// Heap returns how much of the Sentry's own memory is charged to all accounts of f,
// in bytes.
func (f *File) Heap() (sum uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgetClosed()
	for _, a := range f.accounts {
		if a != nil {
			sum += a.Heap()
		}
	}
	return sum
}

// charge adds pages to a and its parents, or to none of them; those of the heap
// leave some.
func (a *Account) charge(pages int64, heap bool) bool {
	for at := a; at != nil; at = at.parent {
		n, limit := at.used.Add(pages), at.limit.Load()
		if heap {
			limit -= limit / 16
		}
		if n > limit {
			at.used.Add(-pages)
			for back := a; back != at; back = back.parent {
				back.used.Add(-pages)
			}
			if pages == 1 {
				at.fails.Add(1)
			}
			return false
		}
		for p := at.peak.Load(); n > p && !at.peak.CompareAndSwap(p, n); p = at.peak.Load() {
		}
	}
	return true
}

func (a *Account) uncharge(pages int64) {
	for ; a != nil; a = a.parent {
		a.used.Add(-pages)
	}
}
