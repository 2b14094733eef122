package kernel

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// SignalFD is the file of signalfd(2). Whoever reads it takes his own signals.
// Readiness depends on who asks, too: For returns the view of one task. As a
// waiter.Waitable by itself, which is how epoll(7) asks, it is that of the
// process that made it, with the signals of all its threads.
type SignalFD struct {
	group *ThreadGroup
	mask  atomic.Uint64
}

// NewSignalFD returns the file of signalfd4(2), made by t. flags may have
// O_NONBLOCK.
func NewSignalFD(t *Task, mask signals.Set, flags uint32) *vfs.File {
	s := &SignalFD{group: t.tg}
	s.mask.Store(uint64(mask &^ signals.Unblockable))
	return anon.NewFile("[signalfd]", s, unix.O_RDWR|flags&unix.O_NONBLOCK, t.Credentials())
}

// Mask returns which signals are read.
func (s *SignalFD) Mask() signals.Set { return signals.Set(s.mask.Load()) }

// SetMask changes which signals are read.
func (s *SignalFD) SetMask(t *Task, mask signals.Set) {
	s.mask.Store(uint64(mask &^ signals.Unblockable))
	t.tg.signals.arrivals.Notify(waiter.Readable)
	if s.group != t.tg {
		s.group.signals.arrivals.Notify(waiter.Readable)
	}
}

// signalInfoSize is the size of struct signalfd_siginfo.
const signalInfoSize = 128

// Read implements vfs.Reader.
func (s *SignalFD) Read(ctx vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	t, ok := ctx.(*Task)
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
	case s == sigChld:
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
	g := &s.group.signals
	g.lock()
	defer g.unlock()
	pending := g.pending.Set()
	for _, t := range s.group.liveTasks() {
		pending |= t.sig.pending.Set()
	}
	if pending&s.Mask() == 0 {
		return 0
	}
	return waiter.Readable & mask
}

// EventRegister implements waiter.Waitable.
func (s *SignalFD) EventRegister(e *waiter.Entry) { s.group.signals.arrivals.Register(e) }

// EventUnregister implements waiter.Waitable.
func (s *SignalFD) EventUnregister(e *waiter.Entry) { s.group.signals.arrivals.Unregister(e) }

// signalView is a SignalFD as a task sees it.
type signalView struct {
	*SignalFD
	t *Task
}

func (v signalView) Readiness(mask waiter.Mask) waiter.Mask {
	g := &v.t.tg.signals
	g.lock()
	defer g.unlock()
	if (g.pending.Set()|v.t.sig.pending.Set())&v.Mask() == 0 {
		return 0
	}
	return waiter.Readable & mask
}

func (v signalView) EventRegister(e *waiter.Entry)   { v.t.tg.signals.arrivals.Register(e) }
func (v signalView) EventUnregister(e *waiter.Entry) { v.t.tg.signals.arrivals.Unregister(e) }

// Waitable returns f as t waits for it: f itself, but for a SignalFD.
func (t *Task) Waitable(f *vfs.File) waiter.Waitable {
	if s, ok := f.Impl().(*SignalFD); ok {
		return signalView{s, t}
	}
	return f
}
