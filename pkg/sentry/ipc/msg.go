package ipc

import (
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/waiter"
)

// Flags of msgrcv(2).
const (
	MsgNoError = 0o10000
	MsgExcept  = 0o20000
	MsgCopy    = 0o40000
)

type message struct {
	kind  int64
	text  []byte
	payer *memfile.Account // the sender's
}

// overhead is what a message costs besides its text, towards maxAllBytes and for
// who pays for it.
const overhead = 64

func (m *message) cost() int64 { return int64(len(m.text)) + overhead }

// Queue is a message queue.
type Queue struct {
	waiter.Queue
	ns                  *Namespace
	perm                Permissions
	messages            []message
	bytes, limit        uint64
	sender, receiver    int32
	stime, rtime, ctime int64
}

func (q *Queue) permissions() *Permissions { return &q.perm }

// EventRegister, EventUnregister and Readiness implement waiter.Waitable.
func (q *Queue) EventRegister(e *waiter.Entry)     { q.Queue.Register(e) }
func (q *Queue) EventUnregister(e *waiter.Entry)   { q.Queue.Unregister(e) }
func (q *Queue) Readiness(waiter.Mask) waiter.Mask { return 0 }
func (q *Queue) changed()                          { q.Queue.Notify(waiter.Internal) }

// QueueInfo is what IPC_STAT tells: struct msqid_ds.
type QueueInfo struct {
	Permissions
	Messages, Bytes, Limit uint64
	Sender, Receiver       int32
	STime, RTime, CTime    int64
}

func (q *Queue) info() QueueInfo {
	return QueueInfo{q.perm, uint64(len(q.messages)), q.bytes, q.limit, q.sender, q.receiver, q.stime, q.rtime, q.ctime}
}

// MsgGet does msgget(2).
func (ns *Namespace) MsgGet(a *Actor, key int32, flags uint32) (int32, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	q, err := ns.queues.get(a, key, flags, func(*Queue) error { return nil }, func() (*Queue, error) {
		return &Queue{ns: ns, perm: newPermissions(a, key, flags), limit: ns.limits.QueueBytes, ctime: a.Now}, nil
	})
	if err != nil {
		return 0, err
	}
	return q.perm.ID, nil
}

// Queue finds a queue: EINVAL.
func (ns *Namespace) Queue(id int32) (*Queue, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.queues.find(id)
}

func (ns *Namespace) removeQueue(q *Queue) {
	ns.queues.remove(q)
	ns.bytes -= q.bytes + overhead*uint64(len(q.messages))
	for i := range q.messages {
		q.messages[i].payer.Uncharge(q.messages[i].cost())
	}
	q.messages, q.bytes = nil, 0
	q.changed()
}

// MsgRemove does msgctl(IPC_RMID).
func (ns *Namespace) MsgRemove(a *Actor, id int32) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	q, err := ns.queues.change(a, id)
	if err != nil {
		return err
	}
	ns.removeQueue(q)
	return nil
}

// MsgSet does msgctl(IPC_SET).
func (ns *Namespace) MsgSet(a *Actor, id int32, uid auth.KUID, gid auth.KGID, mode uint32, limit uint64) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	q, err := ns.queues.change(a, id)
	if err != nil {
		return err
	}
	if limit > ns.limits.QueueBytes && !a.Creds.HasRootCap(unix.CAP_SYS_RESOURCE) {
		return unix.EPERM
	}
	q.perm.set(uid, gid, mode)
	q.limit, q.ctime = limit, a.Now
	q.changed()
	return nil
}

// MsgStat does msgctl(IPC_STAT), and MSG_STAT where byIndex is set.
func (ns *Namespace) MsgStat(a *Actor, id int32, byIndex bool) (QueueInfo, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	q, err := ns.queues.look(a, id, byIndex)
	if err != nil {
		return QueueInfo{}, err
	}
	return q.info(), nil
}

// Queues lists all, for /proc/sysvipc/msg.
func (ns *Namespace) Queues() (all []QueueInfo, highest int32) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, q := range ns.queues.all() {
		all = append(all, q.info())
	}
	return all, ns.queues.highest()
}

func (q *Queue) check(a *Actor, mode uint32) error {
	if q.perm.dead {
		return unix.EIDRM
	}
	return q.perm.permits(a, mode)
}

// Send puts a message at the end: EAGAIN where there is no room. The queue
// keeps text.
func (q *Queue) Send(a *Actor, kind int64, text []byte) error {
	q.ns.mu.Lock()
	defer q.ns.mu.Unlock()
	if err := q.check(a, 0o222); err != nil {
		return err
	}
	n := uint64(len(text))
	if q.bytes+n > q.limit || uint64(len(q.messages))+1 > q.limit {
		return unix.EAGAIN
	}
	if q.ns.bytes+n+overhead > maxAllBytes {
		return unix.ENOMEM
	}
	m := message{kind, text, a.Creds.Account}
	if err := m.payer.Charge(m.cost()); err != nil {
		return err
	}
	q.messages = append(q.messages, m)
	q.bytes += n
	q.ns.bytes += n + overhead
	q.sender, q.stime = a.PID, a.Now
	q.changed()
	return nil
}

// match returns the message that msgrcv(2) means, or -1.
func (q *Queue) match(kind int64, flags uint32) int {
	best := -1
	for i, m := range q.messages {
		switch {
		case flags&MsgCopy != 0:
			if int64(i) == kind {
				return i
			}
		case kind == 0, kind > 0 && (m.kind == kind) != (flags&MsgExcept != 0):
			return i
		case kind < 0 && m.kind <= -kind && (best < 0 || m.kind < q.messages[best].kind):
			best = i
		}
	}
	return best
}

// Receive takes a message of up to n bytes: EAGAIN where there is none, E2BIG
// where it is longer, unless flags have MsgNoError.
func (q *Queue) Receive(a *Actor, kind int64, n uint64, flags uint32) (int64, []byte, error) {
	q.ns.mu.Lock()
	defer q.ns.mu.Unlock()
	if err := q.check(a, 0o444); err != nil {
		return 0, nil, err
	}
	i := q.match(kind, flags)
	if i < 0 {
		return 0, nil, unix.EAGAIN
	}
	m := q.messages[i]
	text := m.text
	if uint64(len(text)) > n {
		if flags&MsgNoError == 0 {
			return 0, nil, unix.E2BIG
		}
		text = text[:n]
	}
	if flags&MsgCopy != 0 {
		return m.kind, text, nil
	}
	m.payer.Uncharge(m.cost())
	q.messages = slices.Delete(q.messages, i, i+1)
	q.bytes -= uint64(len(m.text))
	q.ns.bytes -= uint64(len(m.text)) + overhead
	q.receiver, q.rtime = a.PID, a.Now
	q.changed()
	return m.kind, text, nil
}
