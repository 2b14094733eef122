// Package limits holds resource limits (getrlimit(2)).
package limits

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

// Resource is an RLIMIT_* number.
type Resource int

// The resources, with the numbers of Linux.
const (
	CPU Resource = iota
	FileSize
	Data
	Stack
	Core
	RSS
	Processes
	OpenFiles
	LockedMemory
	AddressSpace
	Locks
	SignalsPending
	MessageQueue
	Nice
	RealTimePriority
	RealTimeTime
	Count
)

// Infinity is RLIM_INFINITY.
const Infinity uint64 = math.MaxUint64

// Limit is a soft and a hard limit.
type Limit struct{ Soft, Hard uint64 }

// Set holds the limits of a process. Safe for concurrent use.
type Set struct {
	mu  locks.RWMutex[locks.Leaf]
	all [Count]Limit
}

// NewSet returns the limits that Linux gives the first process.
func NewSet() *Set {
	s := &Set{}
	for i := range s.all {
		s.all[i] = Limit{Infinity, Infinity}
	}
	s.all[Stack].Soft = 8 << 20
	s.all[Core].Soft = 0
	s.all[OpenFiles] = Limit{1024, 1 << 20}
	s.all[Processes] = Limit{32768, 32768}
	s.all[LockedMemory] = Limit{64 << 10, 64 << 10}
	s.all[SignalsPending] = Limit{32768, 32768}
	s.all[MessageQueue] = Limit{819200, 819200}
	s.all[Nice] = Limit{0, 0}
	s.all[RealTimePriority] = Limit{0, 0}
	return s
}

// Get returns the limit of r.
func (s *Set) Get(r Resource) Limit {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all[r]
}

// Soft returns the soft limit of r.
func (s *Set) Soft(r Resource) uint64 { return s.Get(r).Soft }

// Swap sets the limit of r and returns the old one: EPERM where the hard limit
// would rise and privileged is false, EINVAL where soft exceeds hard.
func (s *Set) Swap(r Resource, l Limit, privileged bool) (Limit, error) {
	if l.Soft > l.Hard {
		return Limit{}, unix.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.all[r]
	if l.Hard > old.Hard && !privileged {
		return Limit{}, unix.EPERM
	}
	s.all[r] = l
	return old, nil
}

// Clone returns a copy.
func (s *Set) Clone() *Set {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Set{all: s.all}
}

// AddressSpaceLimit, DataLimit and StackLimit are for the memory manager.
func (s *Set) AddressSpaceLimit() uint64 { return s.Soft(AddressSpace) }
func (s *Set) DataLimit() uint64         { return s.Soft(Data) }
func (s *Set) StackLimit() uint64        { return s.Soft(Stack) }
