package ipc

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/waiter"
)

// semaphoreCost is what one of a set is charged as, in bytes.
const semaphoreCost = 32

type semaphore struct {
	value uint16
	pid   int32
	// How many wait for it to grow, and to become zero.
	growing, zeroing int
}

// SemaphoreSet is a set of semaphores.
type SemaphoreSet struct {
	waiter.Queue
	ns           *Namespace
	perm         Permissions
	sems         []semaphore
	otime, ctime int64
	undos        map[*Undo][]int16
}

func (s *SemaphoreSet) permissions() *Permissions { return &s.perm }

// EventRegister and EventUnregister implement waiter.Waitable.
func (s *SemaphoreSet) EventRegister(e *waiter.Entry)   { s.Queue.Register(e) }
func (s *SemaphoreSet) EventUnregister(e *waiter.Entry) { s.Queue.Unregister(e) }

// Readiness implements waiter.Waitable: only trying tells.
func (s *SemaphoreSet) Readiness(waiter.Mask) waiter.Mask { return 0 }

func (s *SemaphoreSet) changed() { s.Queue.Notify(waiter.Internal) }

// SetInfo is what IPC_STAT tells: struct semid_ds.
type SetInfo struct {
	Permissions
	Count        int
	OTime, CTime int64
}

// SemGet does semget(2).
func (ns *Namespace) SemGet(a *Actor, key int32, n int, flags uint32) (int32, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if n < 0 || n > ns.limits.PerSet {
		return 0, unix.EINVAL
	}
	s, err := ns.sets.get(a, key, flags, func(s *SemaphoreSet) error {
		if n > len(s.sems) {
			return unix.EINVAL
		}
		return nil
	}, func() (*SemaphoreSet, error) {
		if n == 0 {
			return nil, unix.EINVAL
		}
		if ns.semaphores+n > min(ns.limits.Semaphores, MaxSemaphores) {
			return nil, unix.ENOSPC
		}
		if err := a.Creds.Account.Charge(int64(n) * semaphoreCost); err != nil {
			return nil, err
		}
		ns.semaphores += n
		return &SemaphoreSet{ns: ns, perm: newPermissions(a, key, flags), sems: make([]semaphore, n), ctime: a.Now}, nil
	})
	if err != nil {
		return 0, err
	}
	return s.perm.ID, nil
}

func (ns *Namespace) removeSet(s *SemaphoreSet) {
	ns.sets.remove(s)
	ns.semaphores -= len(s.sems)
	s.perm.payer.Uncharge(int64(len(s.sems)) * semaphoreCost)
	for u := range s.undos {
		u.forget(s)
		s.perm.payer.Uncharge(s.undoCost())
	}
	s.undos = nil
	s.changed()
}

// Set finds a set: EINVAL.
func (ns *Namespace) Set(id int32) (*SemaphoreSet, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.sets.find(id)
}

// SemRemove does semctl(IPC_RMID).
func (ns *Namespace) SemRemove(a *Actor, id int32) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.sets.change(a, id)
	if err != nil {
		return err
	}
	ns.removeSet(s)
	return nil
}

// SemSet does semctl(IPC_SET).
func (ns *Namespace) SemSet(a *Actor, id int32, uid auth.KUID, gid auth.KGID, mode uint32) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.sets.change(a, id)
	if err != nil {
		return err
	}
	s.perm.set(uid, gid, mode)
	s.ctime = a.Now
	return nil
}

// SemStat does semctl(IPC_STAT), and SEM_STAT where byIndex is set.
func (ns *Namespace) SemStat(a *Actor, id int32, byIndex bool) (SetInfo, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.sets.look(a, id, byIndex)
	if err != nil {
		return SetInfo{}, err
	}
	return s.info(), nil
}

func (s *SemaphoreSet) info() SetInfo { return SetInfo{s.perm, len(s.sems), s.otime, s.ctime} }

// Sets lists all, for /proc/sysvipc/sem; semaphores counts theirs.
func (ns *Namespace) Sets() (all []SetInfo, highest int32, semaphores int) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, s := range ns.sets.all() {
		all = append(all, s.info())
	}
	return all, ns.sets.highest(), ns.semaphores
}

// check begins an operation on the set. ns.mu is held.
func (s *SemaphoreSet) check(a *Actor, mode uint32) error {
	if s.perm.dead {
		return unix.EIDRM
	}
	return s.perm.permits(a, mode)
}

// SemaphoreState is what GETVAL, GETPID, GETNCNT and GETZCNT tell of one.
type SemaphoreState struct {
	Value            uint16
	PID              int32
	Growing, Zeroing int
}

// Count returns how many semaphores there are.
func (s *SemaphoreSet) Count() int { return len(s.sems) }

// Get returns the state of semaphore n: EINVAL.
func (s *SemaphoreSet) Get(a *Actor, n int) (SemaphoreState, error) {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	if err := s.check(a, 0o444); err != nil {
		return SemaphoreState{}, err
	}
	if n < 0 || n >= len(s.sems) {
		return SemaphoreState{}, unix.EINVAL
	}
	m := &s.sems[n]
	return SemaphoreState{m.value, m.pid, m.growing, m.zeroing}, nil
}

// GetAll returns all values (GETALL).
func (s *SemaphoreSet) GetAll(a *Actor) ([]uint16, error) {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	if err := s.check(a, 0o444); err != nil {
		return nil, err
	}
	out := make([]uint16, len(s.sems))
	for i := range s.sems {
		out[i] = s.sems[i].value
	}
	return out, nil
}

// SetValue does SETVAL: ERANGE.
func (s *SemaphoreSet) SetValue(a *Actor, n int, v int32) error {
	if v < 0 || v > MaxValue {
		return unix.ERANGE
	}
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	if n < 0 || n >= len(s.sems) {
		return unix.EINVAL
	}
	if err := s.check(a, 0o222); err != nil {
		return err
	}
	s.assign(a, n, uint16(v))
	s.ctime = a.Now
	s.changed()
	return nil
}

// SetAll does SETALL: ERANGE. There are as many values as semaphores.
func (s *SemaphoreSet) SetAll(a *Actor, values []uint16) error {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	if err := s.check(a, 0o222); err != nil {
		return err
	}
	for _, v := range values {
		if v > MaxValue {
			return unix.ERANGE
		}
	}
	for i, v := range values[:len(s.sems)] {
		s.assign(a, i, v)
	}
	s.ctime = a.Now
	s.changed()
	return nil
}

// assign sets a value; what processes would undo of it is forgotten.
func (s *SemaphoreSet) assign(a *Actor, n int, v uint16) {
	s.sems[n].value, s.sems[n].pid = v, a.PID
	for _, adjust := range s.undos {
		adjust[n] = 0
	}
}

// Op is one operation of semop(2): struct sembuf.
type Op struct {
	Num   uint16
	Op    int16
	Flags int16
}

// SemUndo is SEM_UNDO.
const SemUndo = 0x1000

// Operate does all of ops or none: EAGAIN where it would have to wait for the
// semaphore whose number is returned, to grow or to become zero. undo takes
// what is to be undone.
func (s *SemaphoreSet) Operate(a *Actor, ops []Op, undo *Undo) (blocked Op, err error) {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	mode := uint32(0o444)
	for _, o := range ops {
		if int(o.Num) >= len(s.sems) {
			return Op{}, unix.EFBIG
		}
		if o.Op != 0 {
			mode = 0o222
		}
	}
	if err := s.check(a, mode); err != nil {
		return Op{}, err
	}
	var adjust []int16
	for _, o := range ops {
		if o.Flags&SemUndo != 0 && o.Op != 0 {
			var err error
			if adjust, err = s.adjustments(undo); err != nil {
				return Op{}, err
			}
			break
		}
	}
	for i, o := range ops {
		v := int(s.sems[o.Num].value)
		err := unix.Errno(0)
		switch {
		case o.Op == 0 && v != 0, v+int(o.Op) < 0:
			err = unix.EAGAIN
		case v+int(o.Op) > MaxValue:
			err = unix.ERANGE
		case o.Flags&SemUndo != 0 && o.Op != 0:
			if n := int(adjust[o.Num]) - int(o.Op); n < -MaxValue-1 || n > MaxValue {
				err = unix.ERANGE
			} else {
				adjust[o.Num] = int16(n)
			}
		}
		if err != 0 {
			for _, b := range ops[:i] { // nothing has happened
				s.sems[b.Num].value -= uint16(b.Op)
				if b.Flags&SemUndo != 0 && b.Op != 0 {
					adjust[b.Num] += b.Op
				}
			}
			return o, err
		}
		s.sems[o.Num].value = uint16(v + int(o.Op))
	}
	for _, o := range ops {
		s.sems[o.Num].pid = a.PID
	}
	s.otime = a.Now
	s.changed()
	return Op{}, nil
}

// Waiting counts a waiter for o: n is 1 when it begins, -1 when it ends.
func (s *SemaphoreSet) Waiting(o Op, n int) {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	if o.Op == 0 {
		s.sems[o.Num].zeroing += n
	} else {
		s.sems[o.Num].growing += n
	}
}

// Undo is what a process has to take back at its end (SEM_UNDO). The zero value
// is ready.
type Undo struct {
	mu   locks.Mutex[locks.Leaf] // after Namespace.mu
	sets map[*SemaphoreSet]bool
}

// adjustments returns what u has to add to the values: ENOMEM. ns.mu is held.
func (s *SemaphoreSet) adjustments(u *Undo) ([]int16, error) {
	if a := s.undos[u]; a != nil {
		return a, nil
	}
	if err := s.perm.payer.Charge(s.undoCost()); err != nil {
		return nil, err
	}
	a := make([]int16, len(s.sems))
	if s.undos == nil {
		s.undos = map[*Undo][]int16{}
	}
	s.undos[u] = a
	u.mu.Lock()
	if u.sets == nil {
		u.sets = map[*SemaphoreSet]bool{}
	}
	u.sets[s] = true
	u.mu.Unlock()
	return a, nil
}

// undoCost is what the adjustments of one process are charged as.
func (s *SemaphoreSet) undoCost() int64 { return 256 + 2*int64(len(s.sems)) }

func (u *Undo) forget(s *SemaphoreSet) {
	u.mu.Lock()
	delete(u.sets, s)
	u.mu.Unlock()
}

// Apply takes everything back, for process pid that has ended.
func (u *Undo) Apply(pid int32) {
	u.mu.Lock()
	sets := u.sets
	u.sets = nil
	u.mu.Unlock()
	for s := range sets {
		s.ns.mu.Lock()
		for i, n := range s.undos[u] {
			if n != 0 {
				m := &s.sems[i]
				m.value = uint16(max(0, min(MaxValue, int(m.value)+int(n))))
				m.pid = pid
			}
		}
		if s.undos[u] != nil {
			delete(s.undos, u)
			s.perm.payer.Uncharge(s.undoCost())
		}
		s.changed()
		s.ns.mu.Unlock()
	}
}
