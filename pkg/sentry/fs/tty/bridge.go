package tty

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/waiter"
)

// Bridge connects the master of a terminal with descriptors of the host: what is
// read from in is typed, what the terminal shows is written to out. It is the
// other end of `docker run -t`. The host's terminal, if that is what the
// descriptors are, should be in raw mode.
//
// Two goroutines sit in read(2), write(2) and poll(2) of the host; nothing runs
// while nothing happens.
type Bridge struct {
	t       *TTY
	m       *master
	in, out int
	stopFD  int // an eventfd that ends the waiting for in
	stop    chan struct{}
	stopped sync.Once
	inDone  chan struct{}
	outDone chan struct{}
}

// NewBridge starts to move bytes. in and out stay the caller's, and must be in
// blocking mode and open until Close has returned; in may be -1 for no input.
func NewBridge(t *TTY, in, out int) (*Bridge, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("connecting a terminal: eventfd: %w", err)
	}
	b := &Bridge{t: t, m: t.OpenMaster().(*master), in: in, out: out, stopFD: fd,
		stop: make(chan struct{}), inDone: make(chan struct{}), outDone: make(chan struct{})}
	go b.input()
	go b.output()
	return b, nil
}

// Resize sets the window size.
func (b *Bridge) Resize(rows, cols uint16) { b.t.Resize(WindowSize{Rows: rows, Cols: cols}) }

// Done is closed when the slave side was opened and is closed, and all that was
// shown is written; or when the host's side can't be written any more.
func (b *Bridge) Done() <-chan struct{} { return b.outDone }

// InputDone is closed when nothing more comes from the host: the terminal there
// has gone, or Close was called.
func (b *Bridge) InputDone() <-chan struct{} { return b.inDone }

// Close hangs the terminal up and waits until the host's descriptors are not
// used any more. Output that waits is still written, unless out is blocked by a
// reader that doesn't read: then the write that is under way is waited for.
func (b *Bridge) Close() {
	b.stopped.Do(func() {
		close(b.stop)
		unix.Write(b.stopFD, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		<-b.inDone
		<-b.outDone
		unix.Close(b.stopFD)
		b.m.Release(nil)
	})
}

// input types what comes from the host. Its end is not the terminal's.
func (b *Bridge) input() {
	defer close(b.inDone)
	if b.in < 0 {
		return
	}
	var buf [chunk]byte
	fds := []unix.PollFd{{Fd: int32(b.in), Events: unix.POLLIN}, {Fd: int32(b.stopFD), Events: unix.POLLIN}}
	room := waiter.NewChannelListener()
	entry := waiter.Entry{Listener: room, Mask: waiter.Writable}
	b.t.masterQueue.Register(&entry)
	defer b.t.masterQueue.Unregister(&entry)
	for {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return
		}
		if fds[1].Revents != 0 {
			return
		}
		if fds[0].Revents == 0 {
			continue
		}
		n, err := unix.Read(b.in, buf[:])
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		for p := buf[:n]; len(p) > 0; {
			b.t.mu.Lock()
			can := min(b.t.room(), len(p))
			b.t.mu.Unlock()
			if can == 0 {
				select {
				case <-room:
					continue
				case <-b.stop:
					return
				}
			}
			b.t.input(p[:can])
			p = p[can:]
		}
	}
}

// output shows what the terminal has to show.
func (b *Bridge) output() {
	defer close(b.outDone)
	ready := waiter.NewChannelListener()
	entry := waiter.Entry{Listener: ready, Mask: waiter.Readable}
	b.t.masterQueue.Register(&entry)
	defer b.t.masterQueue.Unregister(&entry)
	var buf [chunk]byte
	for {
		n, err := b.t.output(buf[:])
		if err == unix.EAGAIN {
			select {
			case <-ready:
				continue
			case <-b.stop:
				return
			}
		}
		if err != nil {
			return // EIO: the slave has closed
		}
		for p := buf[:n]; len(p) > 0; {
			n, err := unix.Write(b.out, p)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return
			}
			p = p[n:]
		}
	}
}
