// Package asyncio keeps the signals of O_ASYNC (fcntl(2)) until they can be sent.
//
// What tells of a file's readiness holds locks that those of processes and their
// signals come before: a Queue only notes what to send. Who made it due sends it at
// the end of his system call, so that it is there when that returns (Send); a
// goroutine sends what is due to who sleeps in one, or is no task.
//
// Lock order: a batch is sent under locks.AsyncSignals, before all locks of
// processes; the queue itself is a leaf. All methods are safe for concurrent use.
//
// Who an owner is, and who may send him a signal, isn't known here.
package asyncio

import (
	"sync/atomic"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// Queue is what is still to be sent. The zero Queue is empty; Deliver is set before
// all else.
type Queue struct {
	// Deliver sends a signal to o about its descriptor fd: code and band are
	// si_code and si_band.
	Deliver func(o vfs.Owner, fd, code int32, band int64)

	// pending: something is due or being sent, and a goroutine is about.
	pending atomic.Bool
	sending locks.Mutex[locks.AsyncSignals] // held while a batch is sent
	mu      locks.Mutex[locks.Leaf]
	queue   []*listener // those with something due
}

// listener is what a file tells of its events. fd is the descriptor that si_fd tells.
type listener struct {
	q  *Queue
	f  *vfs.File
	fd int32
	// due has a bit for each of reasons to tell of. Guarded by q.mu.
	due uint8
}

// NewListener returns what File.SetAsync takes to have signals sent to f's owner.
func (q *Queue) NewListener(f *vfs.File, fd int32) waiter.Listener {
	return &listener{q: q, f: f, fd: fd}
}

// What si_code and si_band say (sigaction(2)).
var reasons = [...]struct {
	events waiter.Mask
	code   int32
	band   waiter.Mask
}{
	{waiter.Pri, 5, waiter.Pri | waiter.RdBand},
	{waiter.In, 1, waiter.Readable},
	{waiter.Out, 2, waiter.Writable | waiter.WrBand},
	{waiter.Hup, 6, waiter.Hup | waiter.Err},
	{waiter.Err, 4, waiter.Err},
}

// Notify implements waiter.Listener.
func (l *listener) Notify(_ *waiter.Entry, events waiter.Mask) {
	for i, r := range reasons {
		if events&r.events != 0 {
			l.q.add(l, 1<<i)
			return
		}
	}
}

func (q *Queue) add(l *listener, reason uint8) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if l.due == 0 {
		q.queue = append(q.queue, l)
	}
	l.due |= reason
	if q.pending.CompareAndSwap(false, true) {
		go func() {
			for q.send() {
			}
		}()
	}
}

// Send sends what is due now, and waits for what others are about to send. Where
// nothing is, it costs a look.
func (q *Queue) Send() {
	if q.pending.Load() {
		q.send()
	}
}

// send reports false when there was nothing.
func (q *Queue) send() bool {
	q.sending.Lock()
	defer q.sending.Unlock()
	type batch struct {
		*listener
		due uint8
	}
	q.mu.Lock()
	all := make([]batch, len(q.queue))
	for i, l := range q.queue {
		all[i] = batch{l, l.due}
		l.due = 0
	}
	q.queue = nil
	if len(all) == 0 {
		q.pending.Store(false)
	}
	q.mu.Unlock()
	for _, l := range all {
		for i, r := range reasons {
			if l.due&(1<<i) != 0 {
				q.Deliver(l.f.Owner(), l.fd, r.code, int64(r.band))
			}
		}
	}
	return len(all) > 0
}
