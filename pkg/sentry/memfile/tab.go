package memfile

import (
	"runtime"
	"sync/atomic"
	"time"
)

// collected is when collect began its last round, in nanoseconds.
var collected atomic.Int64

// collect lets the garbage collector find out, in the background, whose tabs go
// back: the next one may find room. Not even an application that is refused all the
// time keeps it busy.
func collect() {
	now, last := time.Now().UnixNano(), collected.Load()
	if now-last > int64(time.Second) && collected.CompareAndSwap(last, now) {
		go runtime.GC()
	}
}

// Tab is what one object runs up with an account, of the Sentry's own memory, for
// itself and what lives no longer than it does. What is on it goes back when the
// object is garbage. A nil Tab is one that nobody pays. Safe for concurrent use.
type Tab struct {
	account *Account
	bytes   atomic.Int64
}

// NewTab returns the tab of owner with a, with n bytes on it: ENOMEM. Nothing
// that can be reached from the account may lead to the owner.
func NewTab[T any](a *Account, owner *T, n int64) (*Tab, error) {
	if a == nil {
		return nil, nil
	}
	if err := a.Charge(n); err != nil {
		collect()
		return nil, err
	}
	t := &Tab{account: a}
	t.bytes.Store(n)
	runtime.AddCleanup(owner, func(t *Tab) { t.account.Uncharge(t.bytes.Swap(0)) }, t)
	return t, nil
}

// Charge puts n bytes on the tab: ENOMEM.
func (t *Tab) Charge(n int64) error {
	if t == nil {
		return nil
	}
	err := t.account.Charge(n)
	if err != nil {
		collect()
		return err
	}
	t.bytes.Add(n)
	return nil
}

// ChargeAlways puts n bytes on it even beyond the limit.
func (t *Tab) ChargeAlways(n int64) {
	if t != nil {
		t.account.ChargeAlways(n)
		t.bytes.Add(n)
	}
}

// Uncharge takes n bytes off.
func (t *Tab) Uncharge(n int64) { t.ChargeAlways(-n) }

// ChargeFor charges n bytes to a until owner is garbage: ENOMEM.
func ChargeFor[T any](a *Account, owner *T, n int64) error {
	_, err := NewTab(a, owner, n)
	return err
}

// Bytes returns what is on the tab.
func (t *Tab) Bytes() int64 {
	if t == nil {
		return 0
	}
	return t.bytes.Load()
}
