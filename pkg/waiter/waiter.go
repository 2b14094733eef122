// Package waiter lets an object tell whoever is interested that it has become
// ready: the mechanism under blocking calls, poll(2), epoll(7), signals for
// O_ASYNC and wait queues of the kernel.
//
// An object embeds a Queue and calls Notify when its state changes. Whoever
// waits registers an Entry, looks at the object's state once more, and sleeps;
// this order loses no event.
//
// Lock order: a Queue's lock is a leaf for Register and Unregister. Notify
// calls listeners with the Queue's lock held, so a Listener must not block,
// nor register with or notify the same Queue; it may notify other Queues only
// upwards (an epoll instance's own queue), with PassOn, never in a cycle.
package waiter

import (
	"vitrine/pkg/locks"
)

// Mask is a set of events, with the values of poll(2).
type Mask uint32

// Events.
const (
	In     Mask = 0x001 // POLLIN
	Pri    Mask = 0x002
	Out    Mask = 0x004
	Err    Mask = 0x008
	Hup    Mask = 0x010
	Nval   Mask = 0x020
	RdNorm Mask = 0x040
	RdBand Mask = 0x080
	WrNorm Mask = 0x100
	WrBand Mask = 0x200
	Msg    Mask = 0x400
	RdHup  Mask = 0x2000

	// Readable and Writable are what poll(2) reports together.
	Readable = In | RdNorm
	Writable = Out | WrNorm
	// Internal is for kernel-internal notifications that poll never sees.
	Internal Mask = 1 << 31
)

// Listener is told of events. Notify is called with the Queue's lock held.
type Listener interface {
	Notify(e *Entry, events Mask)
}

// ExclusiveListener is a Listener that can tell whether an event wakes anybody:
// an epoll instance that nobody waits for lets the next exclusive entry have a
// chance (EPOLLEXCLUSIVE in epoll_ctl(2)).
type ExclusiveListener interface {
	Listener
	// NotifyExclusive does what Notify does and reports whether it woke
	// anybody.
	NotifyExclusive(e *Entry, events Mask) bool
}

// Entry is one registration. The owner keeps it at one place while registered.
type Entry struct {
	// Listener and Mask are set before Register and not changed until
	// Unregister. Err and Hup are delivered whether asked for or not.
	Listener Listener
	Mask     Mask
	// Exclusive entries are woken one per Notify (EPOLLEXCLUSIVE, accept).
	Exclusive bool

	queue      *Queue
	prev, next *Entry
}

// Queue is a list of entries. The zero Queue is empty. It is safe for
// concurrent use.
type Queue struct {
	mu         locks.Mutex[locks.Waiters]
	head, tail *Entry
}

// Register adds e, which must not be registered anywhere.
func (q *Queue) Register(e *Entry) {
	q.mu.Lock()
	e.queue = q
	e.prev, e.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = e
	} else {
		q.head = e
	}
	q.tail = e
	q.mu.Unlock()
}

// Unregister removes e, which may be not registered. When it returns, no call
// of e's Listener by this Queue is under way or will come.
func (q *Queue) Unregister(e *Entry) {
	q.mu.Lock()
	if e.queue == q {
		if e.prev != nil {
			e.prev.next = e.next
		} else {
			q.head = e.next
		}
		if e.next != nil {
			e.next.prev = e.prev
		} else {
			q.tail = e.prev
		}
		e.queue, e.prev, e.next = nil, nil, nil
	}
	q.mu.Unlock()
}

// Notify tells the entries that wait for any of events.
func (q *Queue) Notify(events Mask) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tell(events)
}

// PassOn is Notify for a Listener, which is called with another Queue's lock
// held: it passes on what it is told of.
func (q *Queue) PassOn(events Mask) {
	q.mu.NestedLock()
	defer q.mu.Unlock()
	q.tell(events)
}

// tell calls the listeners. mu is held.
func (q *Queue) tell(events Mask) {
	exclusive := false
	for e := q.head; e != nil; {
		next := e.next
		if got := events & (e.Mask | Err | Hup); got != 0 && !(e.Exclusive && exclusive) {
			if x, ok := e.Listener.(ExclusiveListener); ok && e.Exclusive {
				exclusive = x.NotifyExclusive(e, got)
			} else {
				exclusive = exclusive || e.Exclusive
				e.Listener.Notify(e, got)
			}
		}
		e = next
	}
}

// Empty reports whether nobody is registered. A Listener may ask.
func (q *Queue) Empty() bool {
	q.mu.NestedLock()
	defer q.mu.Unlock()
	return q.head == nil
}

// Waitable is an object whose readiness can be asked and waited for.
type Waitable interface {
	// Readiness returns which of mask, and Err and Hup, hold now.
	Readiness(mask Mask) Mask
	// EventRegister and EventUnregister add and remove an entry.
	EventRegister(e *Entry)
	EventUnregister(e *Entry)
}

// ChannelListener puts a token into a channel of capacity one.
type ChannelListener chan struct{}

// NewChannelListener returns a listener with an empty channel.
func NewChannelListener() ChannelListener { return make(ChannelListener, 1) }

// Notify implements Listener.
func (c ChannelListener) Notify(*Entry, Mask) {
	select {
	case c <- struct{}{}:
	default:
	}
}
