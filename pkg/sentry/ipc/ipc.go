// Package ipc has the objects of System V IPC (sysvipc(7)): shared memory
// segments, sets of semaphores, message queues. One Namespace has all of those
// that the processes of an IPC namespace see.
//
// Nothing here sleeps: an operation that can't be done yet fails with EAGAIN, and
// its object is a waiter.Waitable that tells when to try again; calling it that
// often is for the caller, who knows how to sleep.
//
// Locks: Namespace.mu guards all objects of a namespace. It is a leaf, but for
// waiter queues and page stores, which are told and released under it. A memory
// manager may hold its own locks while it counts references to a segment.
//
// Not here: POSIX message queues (mq_overview(7)).
package ipc

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
)

// Limits that a namespace begins with: those of /proc/sys/kernel/{shmmni,sem,msgmni,...}, with
// what Linux 4.4 begins with but for the sums, which bound the Sentry's memory.
const (
	MaxSegments    = 4096
	MaxSegmentSize = 1<<64 - 1 - 1<<24
	MinSegmentSize = 1

	MaxSets       = 32000
	MaxPerSet     = 32000
	MaxSemaphores = 1 << 20
	MaxOperations = 500
	MaxValue      = 32767

	MaxQueues     = 32000
	MaxMessage    = 8192
	MaxQueueBytes = 16384
	maxAllBytes   = 64 << 20
)

// Flags of the get calls, and the key that names nothing.
const (
	Create    = 0o1000 // IPC_CREAT
	Exclusive = 0o2000 // IPC_EXCL
	NoWait    = 0o4000 // IPC_NOWAIT
	Private   = 0      // IPC_PRIVATE
)

// Actor is who does something: credentials, process and time.
type Actor struct {
	Creds *auth.Credentials
	PID   int32
	Now   int64 // seconds since 1970
	// Process tells the process from others; it creates shared memory.
	Process any
}

// Permissions are the owner, creator and mode of an object: struct ipc_perm.
type Permissions struct {
	Key        int32
	ID         int32
	UID, CUID  auth.KUID
	GID, CGID  auth.KGID
	Mode       uint32
	userNS     *auth.UserNamespace
	dead       bool
	generation uint16
	payer      *memfile.Account // its maker's
}

// objectCost is what an object is charged as, in bytes, besides what it holds.
const objectCost = 1024

// Sequence is the part of the identifier that changes when it is used again.
func (p *Permissions) Sequence() uint16 { return p.generation }

func newPermissions(a *Actor, key int32, mode uint32) Permissions {
	c := a.Creds
	return Permissions{Key: key, UID: c.EUID, CUID: c.EUID, GID: c.EGID, CGID: c.EGID, Mode: mode & 0o777, userNS: c.UserNS, payer: c.Account}
}

// permits applies the rules of svipc(7) for what mode asks for: EACCES.
func (p *Permissions) permits(a *Actor, mode uint32) error {
	asked := mode>>6 | mode>>3 | mode
	granted := p.Mode
	c := a.Creds
	switch {
	case c.EUID == p.CUID || c.EUID == p.UID:
		granted >>= 6
	case c.InEffectiveGroup(p.CGID) || c.InEffectiveGroup(p.GID):
		granted >>= 3
	}
	if asked&^granted&7 != 0 && !c.HasCapIn(unix.CAP_IPC_OWNER, p.userNS) {
		return unix.EACCES
	}
	return nil
}

// owned applies the rules for IPC_SET and IPC_RMID: EPERM.
func (p *Permissions) owned(a *Actor) error {
	c := a.Creds
	if c.EUID != p.CUID && c.EUID != p.UID && !c.HasCapIn(unix.CAP_SYS_ADMIN, p.userNS) {
		return unix.EPERM
	}
	return nil
}

// set does the part of IPC_SET that is the same for all.
func (p *Permissions) set(uid auth.KUID, gid auth.KGID, mode uint32) {
	p.UID, p.GID, p.Mode = uid, gid, p.Mode&^0o777|mode&0o777
}

// object is what a table holds.
type object interface{ permissions() *Permissions }

// indexBits are the low bits of an identifier: the place in the table.
const indexBits = 15

// table is all objects of one kind.
type table[T object] struct {
	slots      []T
	used       []bool
	keys       map[int32]int
	count, max int
	sequence   uint16
}

// add gives o an identifier: ENOSPC.
func (t *table[T]) add(o T) error {
	if t.count >= t.max {
		return unix.ENOSPC
	}
	i := 0
	for i < len(t.used) && t.used[i] {
		i++
	}
	if i == len(t.used) {
		var none T
		t.slots, t.used = append(t.slots, none), append(t.used, false)
	}
	t.slots[i], t.used[i] = o, true
	t.count++
	p := o.permissions()
	p.generation = t.sequence
	t.sequence++ // 16 bits of it fit an identifier that isn't negative
	p.ID = int32(p.generation)<<indexBits | int32(i)
	if p.Key != Private {
		if t.keys == nil {
			t.keys = map[int32]int{}
		}
		t.keys[p.Key] = i
	}
	return nil
}

func (t *table[T]) remove(o T) {
	p := o.permissions()
	p.dead = true
	p.payer.Uncharge(objectCost)
	i := int(p.ID) & (1<<indexBits - 1)
	var none T
	t.slots[i], t.used[i] = none, false
	t.count--
	t.forgetKey(o)
}

// forgetKey makes the key name nothing any more.
func (t *table[T]) forgetKey(o T) {
	p := o.permissions()
	if p.Key != Private {
		delete(t.keys, p.Key)
	}
	p.Key = Private
}

// find returns the object with an identifier: EINVAL.
func (t *table[T]) find(id int32) (o T, err error) {
	i := int(id) & (1<<indexBits - 1)
	if id < 0 || i >= len(t.used) || !t.used[i] || t.slots[i].permissions().ID != id {
		return o, unix.EINVAL
	}
	return t.slots[i], nil
}

// at returns the object at an index (SHM_STAT and its like): EINVAL.
func (t *table[T]) at(i int32) (o T, err error) {
	if i < 0 || int(i) >= len(t.used) || !t.used[i] {
		return o, unix.EINVAL
	}
	return t.slots[i], nil
}

// change finds an object that a may change or remove: EINVAL, EPERM.
func (t *table[T]) change(a *Actor, id int32) (o T, err error) {
	if o, err = t.find(id); err == nil {
		err = o.permissions().owned(a)
	}
	return o, err
}

// look finds an object that a may read, by its identifier or its index: EINVAL,
// EACCES.
func (t *table[T]) look(a *Actor, id int32, byIndex bool) (o T, err error) {
	if byIndex {
		o, err = t.at(id)
	} else {
		o, err = t.find(id)
	}
	if err == nil {
		err = o.permissions().permits(a, 0o444)
	}
	return o, err
}

// highest is the highest index in use.
func (t *table[T]) highest() int32 {
	for i := len(t.used) - 1; i >= 0; i-- {
		if t.used[i] {
			return int32(i)
		}
	}
	return 0
}

// get does what shmget(2), semget(2) and msgget(2) have in common: it finds the
// object that key names, for which fits has no objection, or makes one.
func (t *table[T]) get(a *Actor, key int32, flags uint32, fits func(T) error, make func() (T, error)) (T, error) {
	var none T
	if key != Private {
		if i, ok := t.keys[key]; ok {
			o := t.slots[i]
			if flags&(Create|Exclusive) == Create|Exclusive {
				return none, unix.EEXIST
			}
			if err := fits(o); err != nil {
				return none, err
			}
			return o, o.permissions().permits(a, flags)
		}
		if flags&Create == 0 {
			return none, unix.ENOENT
		}
	}
	if t.count >= t.max {
		return none, unix.ENOSPC
	}
	payer := a.Creds.Account
	if err := payer.Charge(objectCost); err != nil {
		return none, err
	}
	o, err := make()
	if err != nil {
		payer.Uncharge(objectCost)
		return none, err
	}
	return o, t.add(o)
}

// all lists the objects.
func (t *table[T]) all() (out []T) {
	for i, u := range t.used {
		if u {
			out = append(out, t.slots[i])
		}
	}
	return out
}

// Namespace has the objects of an IPC namespace. Safe for concurrent use.
type Namespace struct {
	mu         locks.Mutex[locks.SystemV]
	segments   table[*Segment]
	sets       table[*SemaphoreSet]
	queues     table[*Queue]
	semaphores int
	bytes      uint64 // of messages
	pages      uint64 // of segments
	limits     Limits
}

// NewNamespace returns an empty namespace.
func NewNamespace() *Namespace {
	ns := &Namespace{}
	ns.setLimits(DefaultLimits())
	return ns
}

// Destroy removes all objects, with the last process of the namespace. Segments
// live on where they are mapped.
func (ns *Namespace) Destroy() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, s := range ns.segments.all() {
		ns.removeSegment(s)
	}
	for _, s := range ns.sets.all() {
		ns.removeSet(s)
	}
	for _, q := range ns.queues.all() {
		ns.removeQueue(q)
	}
}
