package unix

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/kernbuf"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

const (
	// messageCost is charged to the sender for a message besides its bytes:
	// what the smallest message costs on Linux.
	messageCost = 768
	// maxDatagrams is net.unix.max_dgram_qlen.
	maxDatagrams = 10
	// maxSpans bounds how many pieces of a stream carry something.
	maxSpans = 1024
	// spanBytes is how much of one send comes with its files: what fits in
	// one buffer on Linux.
	spanBytes = 32768
)

// span is a piece of a stream that carries files or credentials. Positions
// count from the stream's beginning.
type span struct {
	start, end uint64
	rights     *rights
	cred       *socket.Credentials
}

// message is one message of a packet socket.
type message struct {
	data   *kernbuf.Buf // nil when empty
	from   *Socket      // charged; whose name it comes from
	rights *rights
	cred   *socket.Credentials
}

func (m *message) len() int {
	if m.data == nil {
		return 0
	}
	return len(m.data.Data)
}

// fifo is a queue.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int { return len(q.items) - q.head }

func (q *fifo[T]) at(i int) *T { return &q.items[q.head+i] }

func (q *fifo[T]) push(v T) {
	if q.head > 16 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *fifo[T]) pop() {
	var zero T
	q.items[q.head] = zero
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 64 {
			q.items = nil
		}
	}
}

// inbox is what a socket has received and not read. What carries rights is put
// in and taken out with flight.mu held as well.
type inbox struct {
	mu     locks.Mutex[locks.SocketInbox]
	closed bool // nothing more comes in (RCV_SHUTDOWN)

	// of a stream
	ring        kernbuf.Ring
	read, wrote uint64 // positions
	spans       fifo[span]

	// of packets
	messages fifo[message]
}

func (q *inbox) shut() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

func (q *inbox) isShut() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *inbox) state() (readable, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.Len() > 0 || q.messages.len() > 0, q.closed
}

func (q *inbox) bytesQueued() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ring.Len()
}

func (q *inbox) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages.len() > maxDatagrams
}

// putStream appends as much of src as the sender's buffer allows.
func (q *inbox) putStream(src *usermem.Buffer, buffer int, r *rights, cred *socket.Credentials) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, unix.EPIPE
	}
	room := buffer - q.ring.Len()
	if room <= 0 || q.spans.len() >= maxSpans {
		return 0, vfs.ErrWouldBlock
	}
	n, err := q.ring.Fill(src, room)
	if n > 0 {
		q.addSpan(n, r, cred)
		if err == unix.EFAULT || err == unix.ENOMEM {
			err = nil
		} else if err == nil && src.Len() > 0 {
			err = vfs.ErrWouldBlock
		}
	} else if err == unix.ENOMEM {
		err = unix.ENOBUFS
	}
	return n, err
}

// addSpan notes what the n bytes just put in carry. mu is held.
func (q *inbox) addSpan(n int, r *rights, cred *socket.Credentials) {
	start := q.wrote
	q.wrote += uint64(n)
	if r != nil {
		end := min(start+spanBytes, q.wrote)
		q.spans.push(span{start, end, r, cred})
		start = end
	}
	if cred == nil || start == q.wrote {
		return
	}
	if k := q.spans.len(); k > 0 {
		last := q.spans.at(k - 1)
		if last.end == start && last.rights == nil && last.cred != nil && *last.cred == *cred {
			last.end = q.wrote
			return
		}
	}
	q.spans.push(span{start, q.wrote, nil, cred})
}

// region is how much of a stream one read may take, and what comes with it.
type region struct {
	length int
	rights *rights
	cred   *socket.Credentials
}

// next returns the region at skip bytes from the front. With byCred bytes of
// different senders are kept apart. mu is held.
func (q *inbox) next(skip int, byCred bool) region {
	at, end := q.read+uint64(skip), q.wrote
	g := region{}
	first := true
	note := func(c *socket.Credentials) bool {
		if first {
			g.cred, first = c, false
			return true
		}
		return !byCred || c == g.cred || c != nil && g.cred != nil && *c == *g.cred
	}
	pos := at
	for i := 0; i < q.spans.len() && pos < end; i++ {
		s := q.spans.at(i)
		if s.end <= pos {
			continue
		}
		if s.start > pos {
			if !note(nil) {
				break
			}
			pos = s.start
		}
		if !note(s.cred) {
			end = pos
			break
		}
		pos = s.end
		if s.rights != nil {
			g.rights, end = s.rights, pos
		}
	}
	if first {
		note(nil)
	}
	g.length = int(end - at)
	return g
}

// consume drops n bytes, and spans that they end. mu is held.
func (q *inbox) consume(n int, taken *rights) {
	q.ring.Discard(n)
	q.read += uint64(n)
	for q.spans.len() > 0 {
		s := q.spans.at(0)
		if s.rights == taken {
			s.rights = nil
		}
		if s.end > q.read {
			break
		}
		q.spans.pop()
	}
}
