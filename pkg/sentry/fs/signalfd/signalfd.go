// Package signalfd is the file of signalfd(2), from which signals are read.
//
// Whoever reads it takes his own signals, and so readiness depends on who asks,
// too: For returns the view of one thread. As a waiter.Waitable by itself, which
// is how epoll(7) asks, a SignalFD is that of the process that made it, with the
// signals of all its threads.
//
// It has no lock; the mask is atomic, and the signals are the process's to guard.
package signalfd

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Process is what gets signals as a whole.
type Process interface {
	// QueuedSignals are those that wait for the process, or for any thread.
	QueuedSignals() signals.Set
	// SignalArrivals is notified of waiter.Readable when a signal is queued.
	SignalArrivals() *waiter.Queue
}

// Thread is what reads: a vfs.Context that isn't one reads nothing.
type Thread interface {
	// TakeSignal removes a signal of set that waits for the thread or for its
	// process.
	TakeSignal(set signals.Set) (signals.Info, bool)
	// QueuedSignals are those that wait for the thread or for its process.
	QueuedSignals() signals.Set
	// SignalProcess is the thread's.
	SignalProcess() Process
}

// SignalFD is an open file of signalfd(2). Safe for concurrent use.
type SignalFD struct {
	process Process
	mask    atomic.Uint64
}

// New returns the file of signalfd4(2), made by a thread of p. flags may have
// O_NONBLOCK.
func New(p Process, mask signals.Set, flags uint32, c *auth.Credentials) *vfs.File {
	s := &SignalFD{process: p}
	s.mask.Store(uint64(mask &^ signals.Unblockable))
	return anon.NewFile("[signalfd]", s, unix.O_RDWR|flags&unix.O_NONBLOCK, c)
}

// Of returns the SignalFD that f is an open file of, or nil.
func Of(f *vfs.File) *SignalFD {
	s, _ := f.Impl().(*SignalFD)
	return s
}

// Mask returns which signals are read.
func (s *SignalFD) Mask() signals.Set { return signals.Set(s.mask.Load()) }

// SetMask changes which signals are read; a thread of by does so.
func (s *SignalFD) SetMask(by Process, mask signals.Set) {
	s.mask.Store(uint64(mask &^ signals.Unblockable))
	by.SignalArrivals().Notify(waiter.Readable)
	if s.process != by {
		s.process.SignalArrivals().Notify(waiter.Readable)
	}
}

// signalInfoSize is the size of struct signalfd_siginfo.
const signalInfoSize = 128

// Read implements vfs.Reader.
func (s *SignalFD) Read(ctx vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	t, ok := ctx.(Thread)
	if !ok || dst.Len() < signalInfoSize {
		return 0, unix.EINVAL
	}
	var done int64
	for dst.Len() >= signalInfoSize {
		info, ok := t.TakeSignal(s.Mask())
		if !ok {
			break
		}
		b := signalInfo(&info)
		n, err := dst.Write(b[:])
		if err != nil {
			if done > 0 {
				err = nil
			}
			return done, err
		}
		done += int64(n)
	}
	if done == 0 {
		return 0, vfs.ErrWouldBlock
	}
	return done, nil
}

// signalInfo encodes i as a struct signalfd_siginfo (signalfd(2)).
func signalInfo(i *signals.Info) (b [signalInfoSize]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(i.Signo))
	le.PutUint32(b[4:], uint32(i.Errno))
	le.PutUint32(b[8:], uint32(i.Code))
	sender := func() {
		le.PutUint32(b[12:], uint32(i.PID()))
		le.PutUint32(b[16:], i.UID())
	}
	value := func() {
		le.PutUint32(b[44:], uint32(i.Value()))
		le.PutUint64(b[48:], i.Value())
	}
	s := signals.Signal(i.Signo)
	switch {
	case i.Code == signals.CodeTimer:
		le.PutUint32(b[24:], uint32(i.TimerID()))
		le.PutUint32(b[32:], uint32(i.Overrun()))
		value()
	case i.Code == signals.CodeUser, i.Code == signals.CodeTkill, i.Code == signals.CodeKernel:
		sender()
	case i.Code < 0 && i.Code != signals.CodeSigIO:
		sender()
		value()
	case s == signals.Signal(unix.SIGCHLD):
		sender()
		le.PutUint32(b[40:], uint32(i.Status()))
		user, system := i.Times()
		le.PutUint64(b[56:], uint64(user))
		le.PutUint64(b[64:], uint64(system))
	case signals.Synchronous.Has(s):
		le.PutUint64(b[72:], i.Addr())
	default: // of a file (F_SETSIG)
		le.PutUint32(b[20:], uint32(i.FD()))
		le.PutUint32(b[28:], uint32(i.Band()))
	}
	return b
}

// Readiness implements waiter.Waitable.
func (s *SignalFD) Readiness(mask waiter.Mask) waiter.Mask {
	return s.readiness(s.process.QueuedSignals(), mask)
}

func (s *SignalFD) readiness(queued signals.Set, mask waiter.Mask) waiter.Mask {
	if queued&s.Mask() == 0 {
		return 0
	}
	return waiter.Readable & mask
}

// EventRegister implements waiter.Waitable.
func (s *SignalFD) EventRegister(e *waiter.Entry) { s.process.SignalArrivals().Register(e) }

// EventUnregister implements waiter.Waitable.
func (s *SignalFD) EventUnregister(e *waiter.Entry) { s.process.SignalArrivals().Unregister(e) }

// view is a SignalFD as a thread sees it.
type view struct {
	s *SignalFD
	t Thread
}

// For returns s as t waits for it.
func (s *SignalFD) For(t Thread) waiter.Waitable { return view{s, t} }

func (v view) Readiness(mask waiter.Mask) waiter.Mask {
	return v.s.readiness(v.t.QueuedSignals(), mask)
}

func (v view) EventRegister(e *waiter.Entry)   { v.t.SignalProcess().SignalArrivals().Register(e) }
func (v view) EventUnregister(e *waiter.Entry) { v.t.SignalProcess().SignalArrivals().Unregister(e) }
