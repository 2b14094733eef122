package waiter

import (
	"sync/atomic"

	"vitrine/pkg/sched"
)

// Token is what a thread sleeps for: it is given, however often before it is
// taken, and taken once. The zero Token isn't given. One thread at a time takes
// it, anybody gives it. It implements Listener.
type Token struct {
	given atomic.Bool
	taker atomic.Pointer[sched.Thread]
}

// Give gives the token and wakes whoever expects it.
func (k *Token) Give() {
	if !k.given.Load() && !k.given.Swap(true) {
		if t := k.taker.Load(); t != nil {
			t.Unpark()
		}
	}
}

// Notify implements Listener.
func (k *Token) Notify(*Entry, Mask) { k.Give() }

// Take reports whether the token was given, and takes it.
func (k *Token) Take() bool { return k.given.Load() && k.given.Swap(false) }

// Expect says who is going to take the token: t is unparked when it is given. It
// looks with Take afterwards, before it parks.
func (k *Token) Expect(t *sched.Thread) { k.taker.Store(t) }

// Wait waits for the token and takes it, on a goroutine that isn't a
// sched.Thread.
func (k *Token) Wait() {
	t := sched.This()
	k.Expect(t)
	for !k.Take() {
		t.Park()
	}
}
