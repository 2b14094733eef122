package kernel

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// PIDFile is the file of a process (pidfd_open(2), CLONE_PIDFD of clone(2)): readable
// once that has ended, and means it for good, whoever gets its number. Safe for
// concurrent use.
type PIDFile struct {
	// process is nil until the clone(2) that the file is for has made it.
	process atomic.Pointer[ThreadGroup]
	// ends is that of the process, notified of waiter.Readable.
	ends *waiter.Queue
}

// file returns p as an open file. flags may have O_NONBLOCK.
func (p *PIDFile) file(t *Task, flags uint32) *vfs.File {
	return anon.NewFile("[pidfd]", p, unix.O_RDWR|flags&unix.O_NONBLOCK, t.Credentials())
}

// pay charges for what the file keeps of a process that has ended: ENOMEM.
func (p *PIDFile) pay(t *Task) error {
	return memfile.ChargeFor(t.Credentials().Account, p, zombieCost)
}

// OpenProcess does pidfd_open(2): a file of tg. flags may have O_NONBLOCK.
func (t *Task) OpenProcess(tg *ThreadGroup, flags uint32) (*vfs.File, error) {
	t.k.tree.Lock()
	if tg.ends == nil {
		tg.ends = new(waiter.Queue)
	}
	p := &PIDFile{ends: tg.ends}
	t.k.tree.Unlock()
	p.process.Store(tg)
	if err := p.pay(t); err != nil {
		return nil, err
	}
	return p.file(t, flags), nil
}

// addPIDFile gives the file of a process that is about to be made a descriptor, and
// writes that at a. undo takes it away again.
func (t *Task) addPIDFile(a usermem.Addr) (p *PIDFile, undo func(), err error) {
	p = &PIDFile{ends: new(waiter.Queue)}
	if err := p.pay(t); err != nil {
		return nil, nil, err
	}
	f := p.file(t, 0)
	fd, err := t.fds.Add(f, 0, true, t.tg.Limits().Soft(limits.OpenFiles))
	if err != nil {
		f.DecRef()
		return nil, nil, err
	}
	undo = func() {
		now, err := t.fds.Get(fd)
		if err != nil {
			return // another thread has closed it
		}
		now.DecRef()
		if now == f {
			if was, err := t.fds.Remove(fd); err == nil {
				t.fds.Close(t, was)
			}
		}
	}
	if err := usermem.CopyOutUint32(t.mm, a, uint32(fd)); err != nil {
		undo()
		return nil, nil, err
	}
	return p, undo, nil
}

// PIDFileOf returns the PIDFile that f is, or nil.
func PIDFileOf(f *vfs.File) *PIDFile {
	p, _ := f.Impl().(*PIDFile)
	return p
}

// Process returns the process, or nil where it isn't made yet, or somebody has waited
// for it.
func (p *PIDFile) Process() *ThreadGroup {
	tg := p.process.Load()
	if tg == nil {
		return nil
	}
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	if tg.reaped {
		return nil
	}
	return tg
}

// Readiness implements waiter.Waitable.
func (p *PIDFile) Readiness(mask waiter.Mask) waiter.Mask {
	tg := p.process.Load()
	if tg == nil {
		return 0
	}
	tg.k.tree.RLock()
	defer tg.k.tree.RUnlock()
	if !tg.zombie {
		return 0
	}
	return waiter.Readable & mask
}

// EventRegister implements waiter.Waitable.
func (p *PIDFile) EventRegister(e *waiter.Entry) { p.ends.Register(e) }

// EventUnregister implements waiter.Waitable.
func (p *PIDFile) EventUnregister(e *waiter.Entry) { p.ends.Unregister(e) }
