package pipe

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// DrainTo gives up to limit bytes to f in pieces of the pipe's own memory, and
// takes out what f took: splice(2) from a pipe to anything else. It ends when f
// takes less than a piece or fails. EAGAIN when the pipe is empty, zero at its
// end. The pipe is locked meanwhile: f must not touch a pipe.
func (p *Pipe) DrainTo(limit int64, f func(b []byte) (int, error)) (int64, error) {
	p.mu.Lock()
	n, err := p.readable()
	if n == 0 || limit <= 0 {
		p.mu.Unlock()
		return 0, err
	}
	n, err = p.ring.DrainFunc(int(min(limit, int64(n))), f)
	wake := p.took(n, false)
	p.mu.Unlock()
	if wake {
		p.queue.Notify(waiter.Writable)
	}
	return int64(n), err
}

// FillFrom lets f fill pieces of the pipe's memory with up to limit bytes:
// splice(2) to a pipe from anything else. It ends when f fills less than a
// piece or fails; f returns zero at its end. EAGAIN when the pipe is full,
// EPIPE when nobody reads. The pipe is locked meanwhile.
func (p *Pipe) FillFrom(limit int64, f func(b []byte) (int, error)) (int64, error) {
	p.mu.Lock()
	free, err := p.writable(AtomicSize + 1)
	if err != nil || limit <= 0 {
		p.mu.Unlock()
		return 0, err
	}
	n, err := p.ring.FillFunc(int(min(limit, int64(free))), f)
	p.notePacket(n)
	p.mu.Unlock()
	if n > 0 {
		p.queue.Notify(waiter.Readable)
	}
	return int64(n), err
}

// lockBoth locks two pipes in the order of their ids.
func lockBoth(a, b *Pipe) {
	if a.id > b.id {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.NestedLock()
}

// Splice moves up to limit bytes from one pipe to another (splice(2)). EINVAL
// if they are the same.
func Splice(from, to *Pipe, limit int64) (int64, error) { return between(from, to, limit, true) }

// Tee copies up to limit bytes from one pipe to another (tee(2)).
func Tee(from, to *Pipe, limit int64) (int64, error) { return between(from, to, limit, false) }

func between(from, to *Pipe, limit int64, move bool) (int64, error) {
	if from == to {
		return 0, unix.EINVAL
	}
	if limit <= 0 {
		return 0, nil
	}
	lockBoth(from, to)
	free, err := to.writable(AtomicSize + 1)
	n := 0
	if err == nil {
		n, err = from.readable()
	}
	wake := false
	if err == nil && n > 0 {
		n = int(min(limit, int64(n), int64(free)))
		if move {
			n, err = from.ring.MoveTo(&to.ring, n)
			wake = from.took(n, false)
		} else {
			n, err = from.ring.CopyTo(&to.ring, n)
		}
		to.notePacket(n)
	}
	from.mu.Unlock()
	to.mu.Unlock()
	if wake {
		from.queue.Notify(waiter.Writable)
	}
	if n > 0 {
		to.queue.Notify(waiter.Readable)
		err = nil
	}
	return int64(n), err
}

// Waitables of both sides, for callers that sleep until a splice can go on.
var (
	_ waiter.Waitable = (*Pipe)(nil)
	_ vfs.Reader      = (*end)(nil)
	_ vfs.Writer      = (*end)(nil)
	_ vfs.Ioctler     = (*end)(nil)
	_ vfs.Releaser    = (*end)(nil)
)
