// Package pipe is pipes and FIFOs (pipe(7), fifo(7)).
//
// A Pipe is a queue of bytes with counts of those who have it open for reading
// and for writing. What an open file does is an end: New returns two for
// pipe(2), OpenFIFO one for open(2) of a FIFO, whose Pipe is attached to its
// inode as long as anybody has it open. All ends of a Pipe share its wait queue.
//
// Nothing here blocks but OpenFIFO: Read and Write return EAGAIN. A Write that
// found room for a part returns how much with EAGAIN; in blocking mode the
// caller waits and goes on with the rest. EPIPE means that the caller sends
// SIGPIPE.
//
// Lock order: a Pipe's lock comes before those of whatever its bytes are moved
// to and from: application memory, sockets and inodes in the splice methods. Of
// two Pipes the one with the lower id comes first. The lock of the wait queue
// is a leaf below.
//
// Not done: packet mode (O_DIRECT) keeps message borders only as far as a Read
// ends at one; pages are copied, never gifted.
package pipe

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/kernbuf"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Sizes of pipe(7), in bytes.
const (
	DefaultSize = 65536
	// AtomicSize is PIPE_BUF: a write of so much is never split.
	AtomicSize = 4096
	// MaxUnprivileged is /proc/sys/fs/pipe-max-size.
	MaxUnprivileged = 1 << 20
	maxSize         = 1 << 30
)

var lastID atomic.Uint64

// Pipe is the queue behind the ends. Safe for concurrent use.
type Pipe struct {
	queue waiter.Queue
	id    uint64
	// fifo is whether it has a name. One of pipe(2), opened again through
	// /proc/PID/fd, asks for no other side.
	fifo bool

	mu       locks.Mutex[locks.Pipe]
	ring     kernbuf.Ring
	capacity int
	// packets are the lengths of what was written in packet mode, in order;
	// plain bytes between packets count as one (plainTail: it is the last).
	packets   []int
	plainTail bool
	readers   int
	writers   int
	// opens count all opens for reading and for writing there ever were, so
	// that a blocked open of the other side sees one that came and went.
	readOpens, writeOpens uint64
}

func newPipe(c *auth.Credentials, fifo bool) *Pipe {
	p := &Pipe{id: lastID.Add(1), fifo: fifo, capacity: DefaultSize}
	p.ring.SetAccount(c.Account)
	return p
}

// pipeKey is the key of a Pipe among an inode's attachments.
type pipeKey struct{}

// end is one open of a Pipe.
type end struct {
	*Pipe
	reads, writes bool
	// seenWriters is writeOpens when this reader was opened without a writer
	// there: until one comes the FIFO isn't hung up.
	seenWriters uint64
}

// Of returns the Pipe behind f, or nil.
func Of(f *vfs.File) *Pipe {
	if e, ok := f.Impl().(*end); ok {
		return e.Pipe
	}
	return nil
}

// New returns the two ends that pipe2(2) returns. flags may have O_NONBLOCK and
// O_DIRECT.
func New(c *auth.Credentials, flags uint32) (r, w *vfs.File) {
	flags &= unix.O_NONBLOCK | unix.O_DIRECT
	p := newPipe(c, false)
	path := anon.PipePath(c)
	path.Inode().Base().Attachment(pipeKey{}, func() any { return p })
	p.readers, p.writers, p.readOpens, p.writeOpens = 1, 1, 1, 1
	r = vfs.NewFile(path, &end{Pipe: p, reads: true}, unix.O_RDONLY|flags&unix.O_NONBLOCK, c)
	w = vfs.NewFile(path, &end{Pipe: p, writes: true}, unix.O_WRONLY|flags, c)
	return r, w
}

// OpenFIFO opens the FIFO, or the pipe, at path as open(2) does. Without
// O_NONBLOCK it waits for the other side of a FIFO (fifo(7)); a pipe, whose name
// in /proc/PID/fd a shell's <(command) is, opens at once, the other side closed
// or not.
func OpenFIFO(ctx vfs.Context, path vfs.Path, flags uint32) (any, error) {
	mode := flags & unix.O_ACCMODE
	if mode == unix.O_ACCMODE {
		return nil, unix.EINVAL
	}
	base := path.Inode().Base()
	e := &end{reads: mode != unix.O_WRONLY, writes: mode != unix.O_RDONLY}
	nonblock := flags&unix.O_NONBLOCK != 0
	var p *Pipe
	for {
		p = base.Attachment(pipeKey{}, func() any { return newPipe(ctx.Credentials(), true) }).(*Pipe)
		p.mu.Lock()
		// The last to close detaches the Pipe, with its lock held.
		if base.Attachment(pipeKey{}, nil) == p {
			break
		}
		p.mu.Unlock()
	}
	e.Pipe = p
	if p.fifo && e.writes && !e.reads && p.readers == 0 && nonblock {
		p.detachIfUnused(base)
		p.mu.Unlock()
		return nil, unix.ENXIO
	}
	if e.reads {
		p.readers++
		p.readOpens++
		if p.fifo && p.writers == 0 {
			e.seenWriters = p.writeOpens
		}
	}
	if e.writes {
		p.writers++
		p.writeOpens++
	}
	readOpens, writeOpens := p.readOpens, p.writeOpens
	wait := p.fifo && !nonblock && (e.reads != e.writes) && (e.reads && p.writers == 0 || e.writes && p.readers == 0)
	p.mu.Unlock()
	p.queue.Notify(waiter.Internal)
	if !wait {
		return e, nil
	}
	err := vfs.BlockOn(ctx, p, waiter.Internal, false, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if e.reads && p.writeOpens == writeOpens || e.writes && p.readOpens == readOpens {
			return vfs.ErrWouldBlock
		}
		return nil
	})
	if err != nil {
		e.close(base)
		return nil, err
	}
	return e, nil
}

// detachIfUnused drops a Pipe that nobody has open. mu is held.
func (p *Pipe) detachIfUnused(base *vfs.InodeBase) {
	if p.readers == 0 && p.writers == 0 {
		p.ring.Discard(p.ring.Len())
		p.packets = nil
		base.Detach(pipeKey{}, p)
	}
}

func (e *end) close(base *vfs.InodeBase) {
	p := e.Pipe
	p.mu.Lock()
	if e.reads {
		p.readers--
	}
	if e.writes {
		p.writers--
	}
	var ev waiter.Mask
	if p.readers == 0 {
		ev |= waiter.Err | waiter.Writable
	}
	if p.writers == 0 {
		ev |= waiter.Hup | waiter.Readable
	}
	p.detachIfUnused(base)
	p.mu.Unlock()
	p.queue.Notify(ev)
}

// Release implements vfs.Releaser.
func (e *end) Release(f *vfs.File) { e.close(f.Inode().Base()) }

// Readiness implements waiter.Waitable for the reading and the writing side at
// once; ends narrow it.
func (p *Pipe) Readiness(mask waiter.Mask) waiter.Mask {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.readiness(true, true, 0) & mask
}

func (p *Pipe) readiness(reads, writes bool, seenWriters uint64) waiter.Mask {
	var m waiter.Mask
	if reads {
		if p.ring.Len() > 0 {
			m |= waiter.Readable
		}
		// A FIFO that never had a writer since it was opened isn't hung up.
		if p.writers == 0 && p.writeOpens != seenWriters {
			m |= waiter.Hup
		}
	}
	if writes {
		if p.room() >= AtomicSize {
			m |= waiter.Writable
		}
		if p.readers == 0 {
			m |= waiter.Err
		}
	}
	return m
}

// Readiness implements waiter.Waitable.
func (e *end) Readiness(mask waiter.Mask) waiter.Mask {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.readiness(e.reads, e.writes, e.seenWriters) & (mask | waiter.Err | waiter.Hup)
}

// EventRegister implements waiter.Waitable.
func (p *Pipe) EventRegister(e *waiter.Entry) { p.queue.Register(e) }

// EventUnregister implements waiter.Waitable.
func (p *Pipe) EventUnregister(e *waiter.Entry) { p.queue.Unregister(e) }

// room returns how many bytes more the pipe takes. mu is held. A packet takes a
// page, however short it is, so that their number is bounded.
func (p *Pipe) room() int {
	return p.capacity - max(p.ring.Len(), len(p.packets)*kernbuf.PageSize)
}

// readable returns how many bytes a read may take, zero at the end, EAGAIN if
// none have come. mu is held.
func (p *Pipe) readable() (int, error) {
	n := p.ring.Len()
	if n == 0 && p.writers > 0 {
		return 0, vfs.ErrWouldBlock
	}
	if n > 0 && len(p.packets) > 0 {
		n = min(n, p.packets[0])
	}
	return n, nil
}

// took accounts for n bytes taken. In packet mode the rest of a packet is lost
// if drop is set. It reports whether writers have something new.
func (p *Pipe) took(n int, drop bool) bool {
	used := max(p.ring.Len()+n, len(p.packets)*kernbuf.PageSize)
	if len(p.packets) > 0 && n > 0 {
		p.packets[0] -= n
		if drop || p.packets[0] == 0 {
			p.ring.Discard(p.packets[0])
			p.packets = p.packets[1:]
		}
	}
	// Whoever waits to write found less than AtomicSize bytes free.
	return n > 0 && p.capacity-used < AtomicSize
}

// Read implements vfs.Reader.
func (e *end) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	if dst.Len() == 0 {
		return 0, nil
	}
	p := e.Pipe
	p.mu.Lock()
	limit, err := p.readable()
	if limit == 0 {
		p.mu.Unlock()
		return 0, err
	}
	n, err := p.ring.Drain(dst, limit)
	wake := p.took(n, err == nil)
	p.mu.Unlock()
	if wake {
		p.queue.Notify(waiter.Writable)
	}
	if n > 0 {
		err = nil
	}
	return int64(n), err
}

// writable returns how many of want bytes may be written now. mu is held.
func (p *Pipe) writable(want uint64) (int, error) {
	if p.readers == 0 {
		return 0, unix.EPIPE
	}
	free := p.room()
	if free <= 0 || want <= AtomicSize && uint64(free) < want {
		return 0, vfs.ErrWouldBlock
	}
	return free, nil
}

// Write implements vfs.Writer. It returns EAGAIN along with what was written
// when there was no room for all.
func (e *end) Write(_ vfs.Context, f *vfs.File, src *usermem.Buffer) (int64, error) {
	if src.Len() == 0 {
		return 0, nil
	}
	p := e.Pipe
	p.mu.Lock()
	free, err := p.writable(src.Len())
	if err != nil {
		p.mu.Unlock()
		return 0, err
	}
	var n int
	if f.Flags()&unix.O_DIRECT != 0 {
		n, err = p.writePackets(src, free)
	} else {
		n, err = p.ring.Fill(src, free)
		p.notePacket(n)
	}
	p.mu.Unlock()
	if n > 0 {
		p.queue.Notify(waiter.Readable)
		if err == nil && src.Len() > 0 {
			err = vfs.ErrWouldBlock
		}
	}
	return int64(n), err
}

// notePacket keeps plain bytes apart from packets before them. mu is held.
func (p *Pipe) notePacket(n int) {
	if last := len(p.packets) - 1; n > 0 && last >= 0 {
		if p.plainTail {
			p.packets[last] += n
		} else {
			p.packets = append(p.packets, n)
			p.plainTail = true
		}
	}
}

// writePackets writes packets of up to AtomicSize bytes (pipe(2), O_DIRECT). mu
// is held.
func (p *Pipe) writePackets(src *usermem.Buffer, free int) (int, error) {
	done := 0
	for src.Len() > 0 && done < free && p.room() > 0 {
		if len(p.packets) == 0 && p.ring.Len() > 0 {
			p.packets = append(p.packets, p.ring.Len())
		}
		n, err := p.ring.Fill(src, min(AtomicSize, free-done))
		if n > 0 {
			p.packets = append(p.packets, n)
			p.plainTail = false
		}
		done += n
		if err != nil {
			return done, err
		}
	}
	if done == 0 {
		return 0, vfs.ErrWouldBlock
	}
	return done, nil
}

// Ioctl implements vfs.Ioctler: FIONREAD.
func (e *end) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	if cmd != unix.TIOCINQ {
		return 0, unix.ENOTTY
	}
	return 0, usermem.CopyOutUint32(ctx.Memory(), usermem.Addr(arg), uint32(e.Len()))
}

// Len returns how many bytes are unread.
func (p *Pipe) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ring.Len()
}

// Capacity returns what fcntl(F_GETPIPE_SZ) does.
func (p *Pipe) Capacity() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.capacity
}

// SetCapacity does fcntl(F_SETPIPE_SZ): it rounds up to a power of two pages and
// returns what came of it. EBUSY if more is in the pipe, EPERM beyond
// MaxUnprivileged without CAP_SYS_RESOURCE.
func (p *Pipe) SetCapacity(ctx vfs.Context, want uint64) (int, error) {
	if want == 0 || want > 1<<31 {
		return 0, unix.EINVAL
	}
	size := kernbuf.PageSize
	for uint64(size) < want {
		size <<= 1
	}
	p.mu.Lock()
	if size > p.capacity && size > MaxUnprivileged && !ctx.Credentials().HasRootCap(unix.CAP_SYS_RESOURCE) {
		p.mu.Unlock()
		return 0, unix.EPERM
	}
	if size > maxSize {
		p.mu.Unlock()
		return 0, unix.ENOMEM
	}
	if p.ring.Len() > size || len(p.packets)*kernbuf.PageSize > size {
		p.mu.Unlock()
		return 0, unix.EBUSY
	}
	p.capacity = size
	p.mu.Unlock()
	p.queue.Notify(waiter.Writable)
	return size, nil
}
