package vfs

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/rangemap"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/waiter"
)

// Locks are advisory: flock(2), and record locks of fcntl(2), which belong to a
// process or, with F_OFD_*, to an open file description. An inode that was ever
// locked has a fileLocks attached.
//
// Lock order: fileLocks.mu, then lockWaits.mu or lockedFiles.mu. A fileLocks' wait queue is below
// nothing.

// fileLocks are the locks of one file.
type fileLocks struct {
	queue    waiter.Queue
	dev, ino uint64 // the file's

	mu    locks.Mutex[locks.FileLocks]
	whole []wholeLock // flock(2)
	// owners are those with record locks, readers those of them with a shared one.
	// exclusive says who has which bytes to himself.
	owners    map[any]*records
	readers   map[any]*records
	exclusive *rangemap.Map[any]
	waiting   map[*lockWait]bool
	listed    bool // in lockedFiles
}

type wholeLock struct {
	f         *File
	exclusive bool
	pid       int32 // who locked, as LockRange.PID
}

// records are the record locks of one owner on one file.
type records struct {
	shared, exclusive *rangemap.Map[record]
	payer             *memfile.Account
}

// record is by whom and by which file bytes were locked.
type record struct {
	pid int32
	f   *File
}

// recordCost is what a record lock is charged as, in bytes.
const recordCost = 160

// Neighbours become one whoever of the owner's threads has locked them.
var (
	recordFuncs = rangemap.Funcs[record]{Merge: func(a, _ rangemap.Entry[record]) (record, bool) { return a.Value, true }}
	ownerFuncs  = rangemap.Funcs[any]{Merge: func(a, b rangemap.Entry[any]) (any, bool) { return a.Value, a.Value == b.Value }}
)

func newRecords(payer *memfile.Account) *records {
	return &records{shared: rangemap.New(recordFuncs), exclusive: rangemap.New(recordFuncs), payer: payer}
}

// of returns those of a type.
func (r *records) of(kind int16) *rangemap.Map[record] {
	if kind == unix.F_WRLCK {
		return r.exclusive
	}
	return r.shared
}

func (r *records) len() int { return r.shared.Len() + r.exclusive.Len() }

// LockRange is what a record lock covers: the bytes from Start to End, which is
// the last one. Type is F_RDLCK, F_WRLCK or F_UNLCK. PID is the owner's in the
// sandbox's first pid namespace, -1 for an open file description.
type LockRange struct {
	Type       int16
	Start, End int64
	PID        int32
}

// bounds returns the range as a rangemap has it.
func (r LockRange) bounds() (start, end uint64) { return uint64(r.Start), uint64(r.End) + 1 }

// lockRange is an entry of records.
func lockRange(kind int16, e rangemap.Entry[record]) LockRange {
	return LockRange{Type: kind, Start: int64(e.Start), End: int64(e.End - 1), PID: e.Value.pid}
}

type locksKey struct{}

// locks returns the locks of f's file; nil if there never were any, unless create.
func (f *File) locks(create bool) *fileLocks {
	base := f.inode.Base()
	l, _ := base.Attachment(locksKey{}, nil).(*fileLocks)
	if l != nil || !create {
		return l
	}
	a := f.attrNoError()
	return base.Attachment(locksKey{}, func() any {
		return &fileLocks{dev: a.Dev, ino: a.Ino, owners: map[any]*records{}, readers: map[any]*records{},
			exclusive: rangemap.New(ownerFuncs), waiting: map[*lockWait]bool{}}
	}).(*fileLocks)
}

// Readiness, EventRegister and EventUnregister implement waiter.Waitable.
func (l *fileLocks) Readiness(waiter.Mask) waiter.Mask { return 0 }
func (l *fileLocks) EventRegister(e *waiter.Entry)     { l.queue.Register(e) }
func (l *fileLocks) EventUnregister(e *waiter.Entry)   { l.queue.Unregister(e) }
func (l *fileLocks) wait(ctx Context, try func() error) error {
	return BlockOn(ctx, l, waiter.Internal, false, try)
}

// changed makes those who wait try again. mu is held.
func (l *fileLocks) changed() {
	lockWaits.mu.Lock()
	for w := range l.waiting {
		w.remove()
	}
	clear(l.waiting)
	lockWaits.mu.Unlock()
	l.queue.Notify(waiter.Internal)
}

// Flock does flock(2).
func (f *File) Flock(ctx Context, op int) error {
	if f.PathOnly() {
		return unix.EBADF
	}
	wait := op&unix.LOCK_NB == 0
	switch op &^ unix.LOCK_NB {
	case unix.LOCK_UN:
		f.funlock()
		return nil
	case unix.LOCK_SH, unix.LOCK_EX:
	default:
		return unix.EINVAL
	}
	exclusive := op&unix.LOCK_EX != 0
	l := f.locks(true)
	if !f.OnRelease(wholeLock{f: f}, f.funlock) {
		return unix.EBADF
	}
	l.mu.Lock()
	for i, h := range l.whole {
		if h.f != f {
			continue
		}
		if h.exclusive == exclusive {
			l.mu.Unlock()
			return nil
		}
		// A conversion gives the old lock up first (flock(2)).
		l.whole = slices.Delete(l.whole, i, i+1)
		l.list()
		l.changed()
		break
	}
	l.mu.Unlock()
	try := func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, h := range l.whole {
			if h.f != f && (exclusive || h.exclusive) {
				return unix.EAGAIN
			}
		}
		// Another thread may have locked through the same description.
		l.whole = slices.DeleteFunc(l.whole, func(h wholeLock) bool { return h.f == f })
		l.whole = append(l.whole, wholeLock{f, exclusive, ctx.ThreadGroupID()})
		l.list()
		return nil
	}
	if !wait {
		return try()
	}
	return l.wait(ctx, try)
}

// funlock gives the flock(2) lock of f up.
func (f *File) funlock() {
	l := f.locks(false)
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.whole)
	l.whole = slices.DeleteFunc(l.whole, func(h wholeLock) bool { return h.f == f })
	if len(l.whole) < n {
		l.list()
		l.changed()
	}
}

// LockRange decodes the struct flock of fcntl(2): EINVAL or EOVERFLOW where it
// makes no sense.
func (f *File) LockRange(ctx Context, fl *unix.Flock_t) (LockRange, error) {
	switch fl.Type {
	case unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK:
	default:
		return LockRange{}, unix.EINVAL
	}
	var base int64
	switch fl.Whence {
	case unix.SEEK_SET:
	case unix.SEEK_CUR:
		base = f.Offset()
	case unix.SEEK_END:
		var a Attr
		if err := f.inode.Attributes(ctx, &a); err != nil {
			return LockRange{}, err
		}
		base = a.Size
	default:
		return LockRange{}, unix.EINVAL
	}
	if fl.Start > math.MaxInt64-base {
		return LockRange{}, unix.EOVERFLOW
	}
	start := base + fl.Start
	if start < 0 {
		return LockRange{}, unix.EINVAL
	}
	r := LockRange{Type: fl.Type, Start: start, End: math.MaxInt64}
	switch {
	case fl.Len > 0:
		if fl.Len-1 > math.MaxInt64-start {
			return LockRange{}, unix.EOVERFLOW
		}
		r.End = start + fl.Len - 1
	case fl.Len < 0:
		if start+fl.Len < 0 {
			return LockRange{}, unix.EINVAL
		}
		r.Start, r.End = start+fl.Len, start-1
	}
	return r, nil
}

// conflict returns a lock of another owner that is in the way of want: the first. mu
// is held.
func (l *fileLocks) conflict(owner any, want LockRange) (who any, found LockRange, ok bool) {
	start, end := want.bounds()
	try := func(o any, kind int16, m *rangemap.Map[record]) {
		m.Overlap(start, end, func(e rangemap.Entry[record]) bool {
			if !ok || int64(e.Start) < found.Start {
				who, found, ok = o, lockRange(kind, e), true
			}
			return false
		})
	}
	l.exclusive.Overlap(start, end, func(e rangemap.Entry[any]) bool {
		if e.Value == owner {
			return true
		}
		try(e.Value, unix.F_WRLCK, l.owners[e.Value].exclusive)
		return false
	})
	if want.Type == unix.F_WRLCK {
		for o, r := range l.readers {
			if o != owner {
				try(o, unix.F_RDLCK, r.shared)
			}
		}
	}
	return who, found, ok
}

// GetLock does fcntl(F_GETLK): it returns the first lock that is in the way of
// want, if there is one.
func (f *File) GetLock(owner any, want LockRange) (LockRange, bool) {
	l := f.locks(false)
	if l == nil {
		return LockRange{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, r, ok := l.conflict(owner, want)
	return r, ok
}

// SetLock does fcntl(F_SETLK), or F_SETLKW with wait. owner is the process'
// FDTable, or nil for a lock of the open file description itself. EAGAIN if
// somebody else's lock is in the way; EDEADLK if waiting would go round in a
// circle of processes; EBADF if the file isn't open in the way that the lock
// needs; ENOLCK when the opener's account has no room for one more.
func (f *File) SetLock(ctx Context, owner any, want LockRange, wait bool) error {
	if f.PathOnly() || want.Type == unix.F_RDLCK && !f.Readable() || want.Type == unix.F_WRLCK && !f.Writable() {
		return unix.EBADF
	}
	mine := owner == nil
	if mine {
		owner, want.PID = f, -1
		if want.Type != unix.F_UNLCK && !f.OnRelease(LockRange{}, func() { f.ReleaseLocks(f) }) {
			return unix.EBADF
		}
	}
	l := f.locks(want.Type != unix.F_UNLCK)
	if l == nil {
		return nil
	}
	var w *lockWait
	if wait && !mine {
		w = &lockWait{owner: owner}
	}
	try := func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if want.Type != unix.F_UNLCK {
			if who, _, ok := l.conflict(owner, want); ok {
				if w != nil {
					if err := w.waitFor(who); err != nil {
						return err
					}
					l.waiting[w] = true
				}
				return unix.EAGAIN
			}
		}
		return l.set(owner, want, f)
	}
	if !wait {
		return try()
	}
	err := l.wait(ctx, try)
	if w != nil {
		l.mu.Lock()
		delete(l.waiting, w)
		l.mu.Unlock()
		lockWaits.mu.Lock()
		w.remove()
		lockWaits.mu.Unlock()
	}
	return err
}

// set puts want in the place of what owner had there, and joins neighbours of
// one type. mu is held.
func (l *fileLocks) set(owner any, want LockRange, f *File) error {
	r := l.owners[owner]
	if r == nil {
		if want.Type == unix.F_UNLCK {
			return nil
		}
		r = newRecords(f.cred.Account)
	}
	start, end := want.bounds()
	before := r.len()
	// What is there may be cut in two, and what is new comes to it.
	most := 2
	if want.Type == unix.F_UNLCK {
		most = r.cuts(start, end)
	}
	if most > 0 && r.payer.Charge(int64(most)*recordCost) != nil {
		return unix.ENOLCK
	}
	freed := false
	r.exclusive.Remove(start, end, func(e rangemap.Entry[record]) {
		l.exclusive.Remove(e.Start, e.End, nil)
		freed = freed || want.Type != unix.F_WRLCK
	})
	r.shared.Remove(start, end, func(rangemap.Entry[record]) { freed = freed || want.Type == unix.F_UNLCK })
	if want.Type != unix.F_UNLCK {
		r.of(want.Type).Insert(start, end, record{want.PID, f})
	}
	if want.Type == unix.F_WRLCK {
		l.exclusive.Insert(start, end, owner)
	}
	after := r.len()
	r.payer.Uncharge(int64(most+before-after) * recordCost)
	setOrDelete(l.owners, owner, r, after > 0)
	setOrDelete(l.readers, owner, r, r.shared.Len() > 0)
	l.list()
	if freed {
		l.changed()
	}
	return nil
}

// cuts returns how many locks there are more when those from start to end have gone.
func (r *records) cuts(start, end uint64) int {
	for _, m := range []*rangemap.Map[record]{r.shared, r.exclusive} {
		if e, ok := m.Below(start); ok && e.End > end {
			return 1
		}
	}
	return 0
}

func setOrDelete(m map[any]*records, owner any, r *records, in bool) {
	if in {
		m[owner] = r
	} else {
		delete(m, owner)
	}
}

// ReleaseLocks gives up the record locks that owner has on f's file. It is
// called for each close(2) of a descriptor, with the process' FDTable (fcntl(2):
// closing any descriptor of a file loses all its locks).
func (f *File) ReleaseLocks(owner any) {
	l := f.locks(false)
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.owners[owner]; r != nil {
		r.exclusive.Ascend(0, func(e rangemap.Entry[record]) bool {
			l.exclusive.Remove(e.Start, e.End, nil)
			return true
		})
		r.payer.Uncharge(int64(r.len()) * recordCost)
		delete(l.owners, owner)
		delete(l.readers, owner)
		l.list()
		l.changed()
	}
}

// lockWait is one call that waits for a process' lock.
type lockWait struct {
	owner any // who waits
	holds any // for whom; nil while it doesn't wait
}

// lockWaits are all of them, by who waits.
var lockWaits struct {
	mu locks.Mutex[locks.Leaf]
	of map[any]map[*lockWait]bool
}

// waitFor notes that w waits for who; EDEADLK if who waits, at the end, for w's
// owner.
func (w *lockWait) waitFor(who any) error {
	lw := &lockWaits
	lw.mu.Lock()
	defer lw.mu.Unlock()
	w.remove()
	seen := map[any]bool{}
	todo := []any{who}
	for len(todo) > 0 {
		o := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if o == w.owner {
			return unix.EDEADLK
		}
		if seen[o] {
			continue
		}
		seen[o] = true
		for x := range lw.of[o] {
			todo = append(todo, x.holds)
		}
	}
	if lw.of == nil {
		lw.of = map[any]map[*lockWait]bool{}
	}
	if lw.of[w.owner] == nil {
		lw.of[w.owner] = map[*lockWait]bool{}
	}
	w.holds = who
	lw.of[w.owner][w] = true
	return nil
}

// remove takes w out. lockWaits.mu is held.
func (w *lockWait) remove() {
	if w.holds == nil {
		return
	}
	w.holds = nil
	delete(lockWaits.of[w.owner], w)
	if len(lockWaits.of[w.owner]) == 0 {
		delete(lockWaits.of, w.owner)
	}
}
