package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// NewAsyncIO returns what File.SetAsync takes to have signals sent to the
// file's owner.
func (t *Task) NewAsyncIO(f *vfs.File, fd int32) waiter.Listener {
	return t.k.async.NewListener(f, fd)
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
		for _, tg := range target.Members() {
			to(tg.Leader(), tg.Send)
		}
	}
}

// ownerMay applies the rules of kill(2) to who set the owner.
func ownerMay(o *vfs.Owner, c *auth.Credentials) bool {
	return o.EUID == auth.RootKUID || o.EUID == c.SUID || o.EUID == c.RUID || o.UID == c.SUID || o.UID == c.RUID
}
