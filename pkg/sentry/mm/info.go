package mm

import (
	"sync/atomic"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/usermem"
)

// VMAs calls f for the mappings in order, until it returns false. No lock is
// held in f, so mappings may come and go meanwhile.
func (m *MemoryManager) VMAs(f func(VMAInfo) bool) { m.VMAsFrom(0, f) }

// VMAsFrom is VMAs beginning with the mapping that contains from, or else the
// first above it.
func (m *MemoryManager) VMAsFrom(from usermem.Addr, f func(VMAInfo) bool) {
	for at := uint64(from); ; {
		m.mu.RLock()
		e, ok := m.vmas.Next(at)
		if !ok {
			m.mu.RUnlock()
			return
		}
		info := m.info(e)
		m.mu.RUnlock()
		if !f(info) {
			return
		}
		at = e.End
	}
}

// VMA returns the mapping of addr.
func (m *MemoryManager) VMA(addr usermem.Addr) (VMAInfo, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.vmas.Find(uint64(addr))
	if !ok {
		return VMAInfo{}, false
	}
	return m.info(e), true
}

func (m *MemoryManager) info(e vmaEntry) VMAInfo {
	v := e.Value
	i := VMAInfo{
		Range: usermem.AddrRange{Start: usermem.Addr(e.Start), End: usermem.Addr(e.End)},
		Prot:  v.prot, MaxProt: v.maxProt, Private: v.private, GrowsDown: v.growsDown,
		Locked: v.lock != unlocked, DontFork: v.dontFork, WipeOnFork: v.wipeOnFork, NoReserve: v.noReserve,
		Name: v.name,
	}
	if v.mappable != nil {
		i.Offset = e.Start + v.base
	}
	if v.identity != nil {
		i.Identity = v.identity
		i.Device, i.Inode, i.Name = v.identity.DeviceID(), v.identity.InodeID(), v.identity.MappedName()
	}
	m.pageMu.RLock()
	defer m.pageMu.RUnlock()
	m.areas.Overlap(e.Start, e.End, func(a areaEntry) bool {
		n := min(a.End, e.End) - max(a.Start, e.Start)
		i.Resident += n
		if a.Value.private {
			i.PrivateResident += n
		}
		return true
	})
	return i
}

// PeakRSS returns the most that was resident at one time, in bytes.
func (m *MemoryManager) PeakRSS() uint64 { return uint64(m.peakRSS.Load()) }

// ResetPeakRSS forgets that more was resident than is now.
func (m *MemoryManager) ResetPeakRSS() {
	m.pageMu.Lock()
	m.peakRSS.Store(m.rssAnon.Load() + m.rssFile.Load() + m.rssShmem.Load())
	m.pageMu.Unlock()
}

// Pages says of what sort the resident pages of a range are.
type Pages struct {
	Range usermem.AddrRange
	// Anonymous: they belong to address spaces, and not to a mapped object.
	// Exclusive: to this one alone.
	Anonymous, Exclusive bool
}

// Resident calls f for the resident pages in r, in order. f must not use m.
func (m *MemoryManager) Resident(r usermem.AddrRange, f func(Pages)) {
	m.pageMu.RLock()
	defer m.pageMu.RUnlock()
	m.areas.Overlap(uint64(r.Start), uint64(r.End), func(e areaEntry) bool {
		f(Pages{
			Range:     usermem.AddrRange{Start: max(usermem.Addr(e.Start), r.Start), End: min(usermem.Addr(e.End), r.End)},
			Anonymous: e.Value.private, Exclusive: e.Value.private && e.Value.epoch == m.epoch,
		})
		return true
	})
}

// Stats returns sizes, in bytes.
func (m *MemoryManager) Stats() Stats {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := Stats{
		Size: m.sizes.total, PeakSize: m.sizes.peak, Locked: m.sizes.locked, Data: m.sizes.data,
		RSSAnon: uint64(m.rssAnon.Load()), RSSFile: uint64(m.rssFile.Load()), RSSShmem: uint64(m.rssShmem.Load()),
	}
	s.RSS = s.RSSAnon + s.RSSFile + s.RSSShmem
	s.PeakRSS = max(s.RSS, uint64(m.peakRSS.Load()))
	code, _ := m.CodeRange()
	m.vmas.Ascend(0, func(e vmaEntry) bool {
		switch v := e.Value; {
		case v.growsDown:
			s.Stack += e.Len()
		case v.prot.Has(usermem.Execute) && !v.prot.Has(usermem.Write):
			s.Lib += e.Len() // less the program's own, below
		}
		return true
	})
	end, _ := code.End.RoundUp()
	s.Exec = min(uint64(end-code.Start.RoundDown()), s.Lib)
	s.Lib -= s.Exec
	return s
}

// metadata is what exec, prctl(2) and /proc/PID remember of an address space.
type metadata struct {
	dumpable atomic.Int32

	mu         locks.Mutex[locks.Leaf]
	args, env  usermem.AddrRange
	code, data usermem.AddrRange
	stackStart usermem.Addr
	auxv       []AuxvEntry
	executable Executable
}

func (d *metadata) copyFrom(s *metadata) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.args, d.env, d.code, d.data = s.args, s.env, s.code, s.data
	d.stackStart, d.auxv, d.executable = s.stackStart, s.auxv, s.executable
	if d.executable != nil {
		d.executable.IncRef()
	}
	d.dumpable.Store(s.dumpable.Load())
}

// Executable is the program's file as an address space keeps it: each address
// space that Fork hands it on to holds a reference, which the last DecUsers
// gives back.
type Executable interface {
	IncRef()
	DecRef()
}

// AuxvEntry is one pair of the auxiliary vector: getauxval(3).
type AuxvEntry struct{ Type, Value uint64 }

// SetArgs records where the arguments and the environment lie.
func (m *MemoryManager) SetArgs(args, env usermem.AddrRange) {
	m.meta.mu.Lock()
	m.meta.args, m.meta.env = args, env
	m.meta.mu.Unlock()
}

// Args returns what SetArgs recorded.
func (m *MemoryManager) Args() (args, env usermem.AddrRange) {
	m.meta.mu.Lock()
	defer m.meta.mu.Unlock()
	return m.meta.args, m.meta.env
}

// SetAuxv records the auxiliary vector; v must not change any more.
func (m *MemoryManager) SetAuxv(v []AuxvEntry) {
	m.meta.mu.Lock()
	m.meta.auxv = v
	m.meta.mu.Unlock()
}

// Auxv returns what SetAuxv recorded; it must not be changed.
func (m *MemoryManager) Auxv() []AuxvEntry {
	m.meta.mu.Lock()
	defer m.meta.mu.Unlock()
	return m.meta.auxv
}

// SetExecutable records the program's file and takes the caller's reference
// over; one that was recorded before is given back.
func (m *MemoryManager) SetExecutable(v Executable) {
	m.meta.mu.Lock()
	old := m.meta.executable
	m.meta.executable = v
	m.meta.mu.Unlock()
	if old != nil {
		old.DecRef()
	}
}

// Executable returns what SetExecutable recorded, or nil. It is valid as long
// as the caller is a user of the address space.
func (m *MemoryManager) Executable() Executable {
	m.meta.mu.Lock()
	defer m.meta.mu.Unlock()
	return m.meta.executable
}

// SetCodeRange records where the program's code and data lie.
func (m *MemoryManager) SetCodeRange(code, data usermem.AddrRange) {
	m.meta.mu.Lock()
	m.meta.code, m.meta.data = code, data
	m.meta.mu.Unlock()
}

// CodeRange returns what SetCodeRange recorded.
func (m *MemoryManager) CodeRange() (code, data usermem.AddrRange) {
	m.meta.mu.Lock()
	defer m.meta.mu.Unlock()
	return m.meta.code, m.meta.data
}

// SetStackStart records where the stack pointer began.
func (m *MemoryManager) SetStackStart(a usermem.Addr) {
	m.meta.mu.Lock()
	m.meta.stackStart = a
	m.meta.mu.Unlock()
}

// StackStart returns what SetStackStart recorded.
func (m *MemoryManager) StackStart() usermem.Addr {
	m.meta.mu.Lock()
	defer m.meta.mu.Unlock()
	return m.meta.stackStart
}

// SetDumpable sets the value of prctl(PR_SET_DUMPABLE): 0, 1 or 2. It is 1 in a new
// address space.
func (m *MemoryManager) SetDumpable(v int) { m.meta.dumpable.Store(int32(v)) }

// Dumpable returns what SetDumpable set.
func (m *MemoryManager) Dumpable() int { return int(m.meta.dumpable.Load()) }

// sharedMemory is the object behind a shared anonymous mapping. It lives as
// long as it is mapped anywhere.
type sharedMemory struct {
	store *pagestore.Store
	inode uint64
	refs  atomic.Int64
}

var sharedMemoryInode atomic.Uint64

func newSharedMemory(f *memfile.File, acct *memfile.Account, length uint64) *sharedMemory {
	s := &sharedMemory{store: pagestore.New(f, acct), inode: sharedMemoryInode.Add(1)}
	s.store.Truncate(length) // growing does not fail
	s.refs.Store(1)
	return s
}

// MappedName implements memmap.Identity.
func (s *sharedMemory) MappedName() string { return "/dev/zero (deleted)" }

// DeviceID implements memmap.Identity: Linux shows its internal tmpfs, 0:1.
func (s *sharedMemory) DeviceID() uint64 { return 1 }

// InodeID implements memmap.Identity.
func (s *sharedMemory) InodeID() uint64 { return s.inode }

// IncRef implements memmap.Identity.
func (s *sharedMemory) IncRef() { s.refs.Add(1) }

// DecRef implements memmap.Identity.
func (s *sharedMemory) DecRef() {
	if s.refs.Add(-1) == 0 {
		s.store.Release()
	}
}

var _ memmap.Identity = (*sharedMemory)(nil)
