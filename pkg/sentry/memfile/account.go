package memfile

import (
	"errors"
	"math"
	"sync/atomic"
)

// Account counts the pages of one container, or of one kind of use in it, and
// bounds them. What is charged to an account is charged to its parent too.
type Account struct {
	file   *File
	parent *Account
	name   string
	id     uint16

	used  atomic.Int64 // pages
	peak  atomic.Int64
	limit atomic.Int64
	fails atomic.Int64
}

// ErrAccounts is the error of NewAccount when there are 65535 accounts.
var ErrAccounts = errors.New("too many memory accounts")

// NewAccount returns an account without a parent; limit is in bytes, zero is no
// limit.
func (f *File) NewAccount(name string, limit uint64) (*Account, error) {
	return f.newAccount(nil, name, limit)
}

// NewAccount returns an account below a.
func (a *Account) NewAccount(name string, limit uint64) (*Account, error) {
	return a.file.newAccount(a, name, limit)
}

func (f *File) newAccount(parent *Account, name string, limit uint64) (*Account, error) {
	a := &Account{file: f, parent: parent, name: name}
	a.SetLimit(limit)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, old := range f.accounts {
		if old == nil {
			a.id = uint16(i)
			f.accounts[i] = a
			return a, nil
		}
	}
	if len(f.accounts) >= math.MaxUint16 {
		return nil, ErrAccounts
	}
	a.id = uint16(len(f.accounts))
	f.accounts = append(f.accounts, a)
	return a, nil
}

// Release gives the account up, if nothing is charged to it; it reports
// whether that is so. Nobody allocates from it any more.
func (a *Account) Release() bool {
	a.file.mu.Lock()
	defer a.file.mu.Unlock()
	if a.used.Load() != 0 {
		return false
	}
	a.file.accounts[a.id] = nil
	return true
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

// charge adds pages to a and its parents, or to none of them.
func (a *Account) charge(pages int64) bool {
	for at := a; at != nil; at = at.parent {
		n := at.used.Add(pages)
		if n > at.limit.Load() {
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
