package ipc

import (
	"fmt"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/pagestore"
)

// Bits of a segment's mode (shmctl(2)).
const (
	ShmDest   = 0o1000 // goes with the last detach
	ShmLocked = 0o2000
)

// Segment is a segment of shared memory. It is the identity of its mappings,
// which is how attachments are counted.
type Segment struct {
	ns    *Namespace
	perm  Permissions
	size  uint64
	store *pagestore.Store
	name  string

	// creator is the process that made the segment, nil once it has ended.
	creator             any
	attached            uint64
	created, last       int32 // processes
	atime, dtime, ctime int64
	now                 func() int64
}

func (s *Segment) permissions() *Permissions { return &s.perm }

// SegmentInfo is what IPC_STAT tells: struct shmid_ds.
type SegmentInfo struct {
	Permissions
	Size, Attached, Resident uint64
	ATime, DTime, CTime      int64
	Created, Last            int32
}

func (s *Segment) info() SegmentInfo {
	return SegmentInfo{s.perm, s.size, s.attached, s.store.Pages(), s.atime, s.dtime, s.ctime, s.created, s.last}
}

// ShmGet does shmget(2). Memory comes from f and is charged to acct; now tells
// the time, in seconds since 1970.
func (ns *Namespace) ShmGet(a *Actor, key int32, size uint64, flags uint32, f *memfile.File, acct *memfile.Account, now func() int64) (int32, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.get(a, key, flags, func(s *Segment) error {
		if size > s.size {
			return unix.EINVAL
		}
		return nil
	}, func() (*Segment, error) {
		if size < MinSegmentSize || size > pagestore.MaxSize || size > ns.limits.SegmentSize {
			return nil, unix.EINVAL
		}
		if ns.pages+pages(size) > ns.limits.SegmentPages {
			return nil, unix.ENOSPC
		}
		s := &Segment{
			ns: ns, perm: newPermissions(a, key, flags), size: size, store: pagestore.New(f, acct), created: a.PID, creator: a.Process, ctime: a.Now,
			name: fmt.Sprintf("/SYSV%08x (deleted)", uint32(key)), now: now,
		}
		if err := s.store.Truncate(pages(size) << 12); err != nil {
			return nil, err
		}
		ns.pages += pages(size)
		return s, nil
	})
	if err != nil {
		return 0, err
	}
	return s.perm.ID, nil
}

// pages is how many pages size bytes take.
func pages(size uint64) uint64 { return (size + 4095) >> 12 }

// ShmAttach begins shmat(2): it returns the segment with a reference that keeps
// it until the mapping has its own (EndAttach). write asks for writing, execute for
// executing.
func (ns *Namespace) ShmAttach(a *Actor, id int32, write, execute bool) (*Segment, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.find(id)
	if err != nil {
		return nil, err
	}
	mode := uint32(0o444)
	if write {
		mode |= 0o222
	}
	if execute {
		mode |= 0o111
	}
	if err := s.perm.permits(a, mode); err != nil {
		return nil, err
	}
	s.attached++
	s.atime, s.last = a.Now, a.PID
	return s, nil
}

// Store returns the segment's memory, Size how much of it there is.
func (s *Segment) Store() *pagestore.Store { return s.store }
func (s *Segment) Size() uint64            { return s.size }

// Detached says who detached the segment.
func (s *Segment) Detached(pid int32) {
	s.ns.mu.Lock()
	s.last = pid
	s.ns.mu.Unlock()
}

// MappedName, DeviceID, InodeID, IncRef and DecRef implement memmap.Identity.
func (s *Segment) MappedName() string { return s.name }
func (s *Segment) DeviceID() uint64   { return 1 }
func (s *Segment) InodeID() uint64    { return uint64(s.perm.ID) }

func (s *Segment) IncRef() {
	s.ns.mu.Lock()
	s.attached++
	s.ns.mu.Unlock()
}

func (s *Segment) DecRef() {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	s.dtime = s.now()
	s.unhold()
}

// EndAttach gives back the reference of ShmAttach.
func (s *Segment) EndAttach() {
	s.ns.mu.Lock()
	defer s.ns.mu.Unlock()
	s.unhold()
}

// unhold takes an attachment away; a segment that waited for it goes. ns.mu is held.
func (s *Segment) unhold() {
	s.attached--
	if s.attached == 0 && s.ns.limits.ForceRemove != 0 && s.perm.Mode&ShmDest == 0 {
		s.ns.removeSegment(s)
	} else if s.attached == 0 && s.perm.Mode&ShmDest != 0 {
		if !s.perm.dead {
			s.ns.segments.remove(s)
		}
		s.ns.pages -= pages(s.size)
		s.store.Release()
	}
}

// removeSegment makes a segment go with its last mapping, or at once.
func (ns *Namespace) removeSegment(s *Segment) {
	s.perm.Mode |= ShmDest
	ns.segments.forgetKey(s)
	if s.attached == 0 {
		ns.segments.remove(s)
		ns.pages -= pages(s.size)
		s.store.Release()
	}
}

// removeUnattached removes the segments that nobody has attached and that creator
// made. ns.mu is held.
func (ns *Namespace) removeUnattached(creator any) {
	for _, s := range ns.segments.all() {
		if s.creator == creator && s.attached == 0 {
			ns.removeSegment(s)
		}
	}
}

// CreatorEnds forgets that process made segments, and removes those of them that
// nobody has attached where shm_rmid_forced says so.
func (ns *Namespace) CreatorEnds(process any) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.limits.ForceRemove != 0 {
		ns.removeUnattached(process)
	}
	for _, s := range ns.segments.all() {
		if s.creator == process {
			s.creator = nil
		}
	}
}

// ShmRemove does shmctl(IPC_RMID).
func (ns *Namespace) ShmRemove(a *Actor, id int32) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.change(a, id)
	if err != nil {
		return err
	}
	ns.removeSegment(s)
	return nil
}

// ShmSet does shmctl(IPC_SET).
func (ns *Namespace) ShmSet(a *Actor, id int32, uid auth.KUID, gid auth.KGID, mode uint32) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.change(a, id)
	if err != nil {
		return err
	}
	s.perm.set(uid, gid, mode)
	s.ctime = a.Now
	return nil
}

// ShmLock does shmctl(SHM_LOCK) and SHM_UNLOCK: only the mark.
func (ns *Namespace) ShmLock(a *Actor, id int32, lock, able bool) error {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.find(id)
	if err != nil {
		return err
	}
	if c := a.Creds; !able && c.EUID != s.perm.UID && c.EUID != s.perm.CUID {
		return unix.EPERM
	}
	if s.perm.Mode &^= ShmLocked; lock {
		s.perm.Mode |= ShmLocked
	}
	return nil
}

// ShmStat does shmctl(IPC_STAT), and SHM_STAT where byIndex is set.
func (ns *Namespace) ShmStat(a *Actor, id int32, byIndex bool) (SegmentInfo, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	s, err := ns.segments.look(a, id, byIndex)
	if err != nil {
		return SegmentInfo{}, err
	}
	return s.info(), nil
}

// Segments lists all, for /proc/sysvipc/shm. highest is the highest index.
func (ns *Namespace) Segments() (all []SegmentInfo, highest int32) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	for _, s := range ns.segments.all() {
		all = append(all, s.info())
	}
	return all, ns.segments.highest()
}
