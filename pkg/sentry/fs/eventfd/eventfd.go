// Package eventfd is the counter of eventfd(2).
//
// Read and Write never block: they return EAGAIN, and the caller waits. The
// counter's lock is a leaf but for application memory, which is copied without
// it. The kernel's own users (aio, KVM-like notifiers) call Signal.
package eventfd

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// maxCount is the largest value of the counter.
const maxCount = math.MaxUint64 - 1

// EventFD is a counter. Safe for concurrent use.
type EventFD struct {
	queue     waiter.Queue
	semaphore bool

	mu    locks.Mutex[locks.Leaf]
	count uint64
}

// New does eventfd2(2): flags are EFD_SEMAPHORE and EFD_NONBLOCK (EFD_CLOEXEC is
// the caller's); EINVAL for others.
func New(initval uint32, flags uint32, c *auth.Credentials) (*vfs.File, error) {
	if flags&^(unix.EFD_SEMAPHORE|unix.EFD_NONBLOCK|unix.EFD_CLOEXEC) != 0 {
		return nil, unix.EINVAL
	}
	e := &EventFD{count: uint64(initval), semaphore: flags&unix.EFD_SEMAPHORE != 0}
	return anon.NewFile("[eventfd]", e, unix.O_RDWR|flags&unix.EFD_NONBLOCK, c), nil
}

// Of returns the counter behind f, or nil.
func Of(f *vfs.File) *EventFD { e, _ := f.Impl().(*EventFD); return e }

// Read implements vfs.Reader.
func (e *EventFD) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	if dst.Len() < 8 {
		return 0, unix.EINVAL
	}
	e.mu.Lock()
	v := e.count
	if v == 0 {
		e.mu.Unlock()
		return 0, vfs.ErrWouldBlock
	}
	if e.semaphore {
		v = 1
	}
	e.count -= v
	e.mu.Unlock()
	e.queue.Notify(waiter.Writable)
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	n, err := dst.Write(b[:])
	return int64(n), err
}

// Write implements vfs.Writer.
func (e *EventFD) Write(_ vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	if src.Len() < 8 {
		return 0, unix.EINVAL
	}
	again := *src // a caller that waits calls again
	var b [8]byte
	if _, err := src.Read(b[:]); err != nil {
		return 0, err
	}
	v := binary.LittleEndian.Uint64(b[:])
	if v == math.MaxUint64 {
		return 0, unix.EINVAL
	}
	e.mu.Lock()
	if v > maxCount-e.count {
		e.mu.Unlock()
		*src = again
		return 0, vfs.ErrWouldBlock
	}
	e.count += v
	e.mu.Unlock()
	if v > 0 {
		e.queue.Notify(waiter.Readable)
	}
	return 8, nil
}

// Signal adds n, as far as that fits.
func (e *EventFD) Signal(n uint64) {
	e.mu.Lock()
	n = min(n, maxCount-e.count)
	e.count += n
	e.mu.Unlock()
	if n > 0 {
		e.queue.Notify(waiter.Readable)
	}
}

// Count returns the counter, for /proc/PID/fdinfo.
func (e *EventFD) Count() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count
}

// Readiness implements waiter.Waitable.
func (e *EventFD) Readiness(mask waiter.Mask) waiter.Mask {
	e.mu.Lock()
	defer e.mu.Unlock()
	var m waiter.Mask
	if e.count > 0 {
		m |= waiter.Readable
	}
	if e.count < maxCount {
		m |= waiter.Writable
	}
	return m & mask
}

// EventRegister implements waiter.Waitable.
func (e *EventFD) EventRegister(w *waiter.Entry) { e.queue.Register(w) }

// EventUnregister implements waiter.Waitable.
func (e *EventFD) EventUnregister(w *waiter.Entry) { e.queue.Unregister(w) }
