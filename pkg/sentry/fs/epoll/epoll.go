// Package epoll is epoll(7).
//
// An Epoll has items, one for each file and descriptor that it watches, and a
// list of those that may be ready. An item is put on the list by its file's
// wait queue; Wait asks the files on the list, and only those, so that it costs
// what is ready and not what is watched.
//
// Wait never blocks. Whoever wants to wait registers with the Epoll for WaitMask,
// exclusive so that an event wakes one thread, calls Wait again and sleeps; it
// unregisters before it calls Wait after having been woken, because Wait passes
// on the wake-up if it leaves something.
//
// An item holds no reference to its file: when the file's last reference goes
// the item goes, whatever descriptor it was added with (epoll(7), question 6).
//
// Where instances are three deep and edge-triggered, an event that comes while
// the middle one has not been looked at since the last makes no new edge at the
// top; Linux makes one, and bounds the number of ways instead.
//
// Lock order: nesting (the package's, only when one Epoll is put into another);
// Epoll.mu, of an outer Epoll before those inside it; locks of files, for
// Readiness; their wait queues'; Epoll.readyMu; the Epoll's own wait queue's.
package epoll

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// Flags among an Event's bits.
const (
	edge      = unix.EPOLLET & 0xffffffff
	oneshot   = unix.EPOLLONESHOT
	wakeup    = unix.EPOLLWAKEUP
	exclusive = unix.EPOLLEXCLUSIVE
	flags     = edge | oneshot | wakeup | exclusive
	// exclusiveOK is what may come along with EPOLLEXCLUSIVE.
	exclusiveOK = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLERR | unix.EPOLLHUP | wakeup | edge | exclusive
)

const (
	// maxNesting is how many instances may be inside each other.
	maxNesting = 5
	// maxItems is fs.epoll.max_user_watches, for the whole sandbox.
	maxItems = 1 << 20
	// itemCost is what a watched file is charged as, in bytes.
	itemCost = 384
)

// WaitMask is what epoll_wait(2) registers for.
const WaitMask = waiter.Readable | waiter.Internal

// Event is a struct epoll_event.
type Event struct {
	Events uint32
	Data   uint64
}

type key struct {
	fd   int32
	file *vfs.File
}

// item is a watched file.
type item struct {
	key
	ep    *Epoll
	ev    Event // guarded by ep.mu
	entry waiter.Entry
	inner *Epoll // what is watched, if that is an Epoll

	// guarded by ep.readyMu, but for items on a list that Wait scans
	queued     bool
	disabled   bool // by EPOLLONESHOT
	prev, next *item
}

// list is a list of items, each of which is on one list at most.
type list struct{ head, tail *item }

func (l *list) push(it *item) {
	it.prev, it.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = it
	} else {
		l.head = it
	}
	l.tail = it
}

func (l *list) remove(it *item) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		l.head = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		l.tail = it.prev
	}
	it.prev, it.next = nil, nil
}

func (l *list) pop() *item {
	it := l.head
	if it != nil {
		l.remove(it)
	}
	return it
}

// appendList moves all of m to the end of l.
func (l *list) appendList(m *list) {
	if m.head == nil {
		return
	}
	if l.tail != nil {
		l.tail.next, m.head.prev = m.head, l.tail
	} else {
		l.head = m.head
	}
	l.tail = m.tail
	*m = list{}
}

// Epoll is an instance. Safe for concurrent use.
type Epoll struct {
	queue waiter.Queue
	payer *memfile.Account

	mu    locks.Mutex[locks.Epoll]
	items map[key]*item
	keep  []*item // Wait's, kept for its memory

	readyMu locks.Mutex[locks.Leaf]
	ready   list

	// parents count the items of other instances that watch this one;
	// guarded by nesting.
	parents map[*Epoll]int
}

var (
	nesting locks.Mutex[locks.EpollNesting]
	total   atomic.Int64 // items of all instances
)

// New returns the file of epoll_create1(2).
func New(c *auth.Credentials) *vfs.File {
	return anon.NewFile("[eventpoll]", &Epoll{payer: c.Account, items: map[key]*item{}, parents: map[*Epoll]int{}}, unix.O_RDWR, c)
}

// Of returns the instance behind f, or nil.
func Of(f *vfs.File) *Epoll { e, _ := f.Impl().(*Epoll); return e }

// Control does epoll_ctl(2): op on descriptor fd, which is f. The caller holds a
// reference to f.
func (ep *Epoll) Control(op int, fd int32, f *vfs.File, ev Event) error {
	if !f.Pollable() {
		return unix.EPERM
	}
	inner := Of(f)
	if inner == ep {
		return unix.EINVAL
	}
	ev.Events &^= wakeup // no power management here
	if op != unix.EPOLL_CTL_DEL && ev.Events&exclusive != 0 {
		if op == unix.EPOLL_CTL_MOD || inner != nil || ev.Events&^uint32(exclusiveOK) != 0 {
			return unix.EINVAL
		}
	}
	if inner != nil && op != unix.EPOLL_CTL_MOD {
		nesting.Lock()
		defer nesting.Unlock()
		if op == unix.EPOLL_CTL_ADD {
			if err := mayNest(ep, inner); err != nil {
				return err
			}
		}
	}
	k := key{fd, f}
	ep.mu.Lock()
	defer ep.mu.Unlock()
	it := ep.items[k]
	switch op {
	case unix.EPOLL_CTL_ADD:
		if it != nil {
			return unix.EEXIST
		}
		return ep.add(k, inner, ev)
	case unix.EPOLL_CTL_DEL:
		if it == nil {
			return unix.ENOENT
		}
		f.CancelRelease(it)
		ep.drop(it)
		if inner != nil {
			inner.unparent(ep)
		}
		return nil
	case unix.EPOLL_CTL_MOD:
		if it == nil {
			return unix.ENOENT
		}
		if it.ev.Events&exclusive != 0 {
			return unix.EINVAL
		}
		f.EventUnregister(&it.entry)
		ep.readyMu.Lock()
		it.disabled = false
		ep.readyMu.Unlock()
		ep.arm(it, ev)
		return nil
	}
	return unix.EINVAL
}

func (ep *Epoll) add(k key, inner *Epoll, ev Event) error {
	if total.Add(1) > maxItems {
		total.Add(-1)
		return unix.ENOSPC
	}
	if err := ep.payer.Charge(itemCost); err != nil {
		total.Add(-1)
		return err
	}
	it := &item{key: k, ep: ep, inner: inner}
	if !k.file.OnRelease(it, it.released) {
		ep.payer.Uncharge(itemCost)
		total.Add(-1)
		return unix.EBADF
	}
	ep.items[k] = it
	if inner != nil {
		inner.parents[ep]++
	}
	ep.arm(it, ev)
	return nil
}

// arm registers it with its file for ev and queues it if that holds already. mu
// is held.
func (ep *Epoll) arm(it *item, ev Event) {
	it.ev = ev
	it.entry.Listener = it
	it.entry.Mask = waiter.Mask(ev.Events&^flags) | waiter.Err | waiter.Hup
	it.entry.Exclusive = ev.Events&exclusive != 0
	it.file.EventRegister(&it.entry)
	if it.file.Readiness(it.entry.Mask)&it.entry.Mask != 0 {
		it.NotifyExclusive(nil, 0)
	}
}

// drop takes it out. mu is held.
func (ep *Epoll) drop(it *item) {
	it.file.EventUnregister(&it.entry)
	delete(ep.items, it.key)
	ep.readyMu.Lock()
	if it.queued {
		ep.ready.remove(it)
		it.queued = false
	}
	it.disabled = true
	ep.readyMu.Unlock()
	ep.payer.Uncharge(itemCost)
	total.Add(-1)
}

// released is called when the last reference to the file goes.
func (it *item) released() {
	if it.inner != nil {
		nesting.Lock()
		defer nesting.Unlock()
	}
	it.ep.mu.Lock()
	defer it.ep.mu.Unlock()
	if it.ep.items[it.key] != it {
		return
	}
	it.ep.drop(it)
	if it.inner != nil {
		it.inner.unparent(it.ep)
	}
}

// Notify implements waiter.Listener.
func (it *item) Notify(e *waiter.Entry, ev waiter.Mask) { it.NotifyExclusive(e, ev) }

// NotifyExclusive implements waiter.ExclusiveListener.
func (it *item) NotifyExclusive(*waiter.Entry, waiter.Mask) bool {
	ep := it.ep
	ep.readyMu.Lock()
	if it.disabled {
		ep.readyMu.Unlock()
		return false
	}
	was := it.queued
	if !was {
		it.queued = true
		ep.ready.push(it)
	}
	ep.readyMu.Unlock()
	// What comes up from an inner instance is passed on once, so that a web
	// of instances can't multiply events.
	if was && it.inner != nil {
		return false
	}
	waited := !ep.queue.Empty()
	ep.queue.PassOn(waiter.Readable)
	return waited
}

// take returns the list of what may be ready and leaves an empty one.
func (ep *Epoll) take() list {
	ep.readyMu.Lock()
	l := ep.ready
	ep.ready = list{}
	ep.readyMu.Unlock()
	return l
}

// next pops an item from l, which take returned. An event from now on queues it
// again.
func (ep *Epoll) next(l *list) *item {
	it := l.pop()
	if it != nil {
		ep.readyMu.Lock()
		it.queued = false
		ep.readyMu.Unlock()
	}
	return it
}

// putBack queues the rest of what take returned before what came since, and
// keep behind that. It reports whether anything is queued.
func (ep *Epoll) putBack(rest *list, keep []*item) bool {
	ep.readyMu.Lock()
	defer ep.readyMu.Unlock()
	rest.appendList(&ep.ready)
	ep.ready = *rest
	for _, it := range keep {
		if !it.queued {
			it.queued = true
			ep.ready.push(it)
		}
	}
	return ep.ready.head != nil
}

// Wait fills events with what is ready and returns how many there are, perhaps
// none. It does not block.
func (ep *Epoll) Wait(events []Event) int {
	ep.mu.Lock()
	scan := ep.take()
	if scan.head == nil {
		ep.mu.Unlock()
		return 0
	}
	n := 0
	keep := ep.keep[:0]
	for n < len(events) {
		it := ep.next(&scan)
		if it == nil {
			break
		}
		got := it.file.Readiness(it.entry.Mask) & it.entry.Mask
		if got == 0 {
			continue
		}
		events[n] = Event{uint32(got), it.ev.Data}
		n++
		switch {
		case it.ev.Events&oneshot != 0:
			ep.readyMu.Lock()
			it.disabled = true
			ep.readyMu.Unlock()
		case it.ev.Events&edge == 0:
			keep = append(keep, it)
		}
	}
	left := ep.putBack(&scan, keep)
	if clear(keep); cap(keep) <= 256 {
		ep.keep = keep
	}
	ep.mu.Unlock()
	if left && n > 0 {
		// What remains is for the next who waits, but no new edge for an
		// outer instance.
		ep.queue.Notify(waiter.Internal)
	}
	return n
}

// Readiness implements waiter.Waitable: readable if Wait would return anything.
// Items that turn out not to be ready leave the list.
func (ep *Epoll) Readiness(mask waiter.Mask) waiter.Mask {
	if mask&waiter.Readable == 0 {
		return 0
	}
	ep.mu.NestedLock() // that of an outer one may be held
	defer ep.mu.Unlock()
	scan := ep.take()
	var found []*item
	for it := ep.next(&scan); it != nil; it = ep.next(&scan) {
		if it.file.Readiness(it.entry.Mask)&it.entry.Mask != 0 {
			found = append(found, it)
			break
		}
	}
	ep.putBack(&scan, found)
	if found == nil {
		return 0
	}
	return mask & waiter.Readable
}

// EventRegister implements waiter.Waitable.
func (ep *Epoll) EventRegister(e *waiter.Entry) { ep.queue.Register(e) }

// EventUnregister implements waiter.Waitable.
func (ep *Epoll) EventUnregister(e *waiter.Entry) { ep.queue.Unregister(e) }

// Release implements vfs.Releaser.
func (ep *Epoll) Release(*vfs.File) {
	nesting.Lock()
	defer nesting.Unlock()
	ep.mu.Lock()
	defer ep.mu.Unlock()
	for _, it := range ep.items {
		it.file.CancelRelease(it)
		ep.drop(it)
		if it.inner != nil {
			it.inner.unparent(ep)
		}
	}
}

// Watch is one line of /proc/PID/fdinfo.
type Watch struct {
	FD int32
	Event
	File *vfs.File // without a reference: for its inode's numbers only
}

// Watches lists what is watched, in no order.
func (ep *Epoll) Watches() []Watch {
	ep.mu.Lock()
	defer ep.mu.Unlock()
	all := make([]Watch, 0, len(ep.items))
	for k, it := range ep.items {
		all = append(all, Watch{k.fd, it.ev, k.file})
	}
	return all
}

// unparent forgets one item of p's on ep. nesting is held.
func (ep *Epoll) unparent(p *Epoll) {
	if ep.parents[p]--; ep.parents[p] <= 0 {
		delete(ep.parents, p)
	}
}

// mayNest checks that inner may be watched by outer: ELOOP if outer is inside
// inner, or if more than maxNesting would be inside each other. nesting is held.
func mayNest(outer, inner *Epoll) error {
	above := 0
	level := map[*Epoll]bool{outer: true}
	for len(level) > 0 {
		if level[inner] {
			return unix.ELOOP
		}
		next := map[*Epoll]bool{}
		for e := range level {
			for p := range e.parents {
				next[p] = true
			}
		}
		level = next
		above++
	}
	if above+inner.height(map[*Epoll]int{}) > maxNesting {
		return unix.ELOOP
	}
	return nil
}

// height returns how many instances are inside each other from ep down. nesting
// is held, which keeps parents and with them the inner items as they are.
func (ep *Epoll) height(known map[*Epoll]int) int {
	if h := known[ep]; h > 0 {
		return h
	}
	ep.mu.Lock()
	var inside []*Epoll
	for _, it := range ep.items {
		if it.inner != nil {
			inside = append(inside, it.inner)
		}
	}
	ep.mu.Unlock()
	h := 0
	for _, e := range inside {
		h = max(h, e.height(known))
	}
	known[ep] = h + 1
	return h + 1
}
