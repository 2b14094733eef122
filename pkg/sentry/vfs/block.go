package vfs

import (
	"sync"

	"vitrine/pkg/waiter"
)

type sleeper struct {
	token waiter.Token
	entry waiter.Entry
}

var sleepers = sync.Pool{New: func() any { return new(sleeper) }}

// BlockOn calls try until it returns something else than ErrWouldBlock, and
// sleeps in between until w has an event of mask. It returns what try or
// ctx.Block returned. With exclusive an event wakes one sleeper only. The
// caller holds no locks.
func BlockOn(ctx Context, w waiter.Waitable, mask waiter.Mask, exclusive bool, try func() error) error {
	if err := try(); err != ErrWouldBlock {
		return err
	}
	s := sleepers.Get().(*sleeper)
	s.entry.Listener, s.entry.Mask, s.entry.Exclusive = &s.token, mask, exclusive
	w.EventRegister(&s.entry)
	var err error
	for {
		if err = try(); err != ErrWouldBlock {
			break
		}
		if err = ctx.Block(&s.token); err != nil {
			// What came together with a signal counts.
			if again := try(); again != ErrWouldBlock {
				err = again
			}
			break
		}
	}
	w.EventUnregister(&s.entry)
	s.token.Take()
	sleepers.Put(s)
	return err
}
