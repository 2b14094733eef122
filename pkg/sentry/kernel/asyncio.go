package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// asyncIO sends signals about a file to its owner (fcntl(2), O_ASYNC). fd is
// the descriptor that si_fd tells.
type asyncIO struct {
	k  *Kernel
	f  *vfs.File
	fd int32
	// due has a bit for each of asyncReasons to tell of. Guarded by async.mu.
	due uint8
}

// NewAsyncIO returns what File.SetAsync takes to have signals sent to the
// file's owner.
func (t *Task) NewAsyncIO(f *vfs.File, fd int32) waiter.Listener {
	return &asyncIO{k: t.k, f: f, fd: fd}
}

// What si_code and si_band say (sigaction(2)).
var asyncReasons = [...]struct {
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

// Notify implements waiter.Listener. It only notes what to send, for it is called
// with locks held that the tree and the signals of a process come before.
func (a *asyncIO) Notify(_ *waiter.Entry, events waiter.Mask) {
	for i, r := range asyncReasons {
		if events&r.events != 0 {
			a.k.async.add(a, 1<<i)
			return
		}
	}
}

// asyncSignals are the signals of O_ASYNC that are still to be sent. Who made
// them due sends them at the end of his system call, so that they are there when
// it returns; a goroutine sends those of who sleeps in it, or is no task.
type asyncSignals struct {
	// pending: something is due or being sent, and a goroutine is about.
	pending atomic.Bool
	sending locks.Mutex[locks.AsyncSignals] // held while a batch is sent
	mu      locks.Mutex[locks.Leaf]
	queue   []*asyncIO // those with something due
}

func (s *asyncSignals) add(a *asyncIO, reason uint8) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.due == 0 {
		s.queue = append(s.queue, a)
	}
	a.due |= reason
	if s.pending.CompareAndSwap(false, true) {
		go func() {
			for s.send() {
			}
		}()
	}
}

// send sends what is due now, and waits for what others are about to send. It
// reports false when there was nothing.
func (s *asyncSignals) send() bool {
	s.sending.Lock()
	defer s.sending.Unlock()
	type batch struct {
		*asyncIO
		due uint8
	}
	s.mu.Lock()
	all := make([]batch, len(s.queue))
	for i, a := range s.queue {
		all[i] = batch{a, a.due}
		a.due = 0
	}
	s.queue = nil
	if len(all) == 0 {
		s.pending.Store(false)
	}
	s.mu.Unlock()
	for _, a := range all {
		for i, r := range asyncReasons {
			if a.due&(1<<i) != 0 {
				a.k.sendIO(a.f.Owner(), a.fd, r.code, int64(r.band))
			}
		}
	}
	return len(all) > 0
}

// sendIO sends SIGIO, or what F_SETSIG has set, to o.
func (k *Kernel) sendIO(o vfs.Owner, fd, code int32, band int64) {
	plain := &signals.Info{Signo: int32(unix.SIGIO), Code: signals.CodeKernel}
	info := plain
	if o.Signal != 0 {
		info = &signals.Info{Signo: o.Signal, Code: code}
		info.SetBand(band)
		info.SetFD(fd)
	}
	to := func(l *Task, send func(*signals.Info) error) {
		if l == nil || !ownerMay(&o, l.Credentials()) {
			return
		}
		if send(info) != nil {
			send(plain) // the queue is full
		}
	}
	switch target := o.Target.(type) {
	case *Task:
		to(target, target.SendSignal)
	case *ThreadGroup:
		to(target.Leader(), target.Send)
	case *ProcessGroup:
		for _, tg := range target.Members(k) {
			to(tg.Leader(), tg.Send)
		}
	}
}

// ownerMay applies the rules of kill(2) to who set the owner.
func ownerMay(o *vfs.Owner, c *auth.Credentials) bool {
	return o.EUID == auth.RootKUID || o.EUID == c.SUID || o.EUID == c.RUID || o.UID == c.SUID || o.UID == c.RUID
}
