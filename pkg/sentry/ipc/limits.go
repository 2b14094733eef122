package ipc

import "golang.org/x/sys/unix"

// Limits are the settings of a namespace: those of /proc/sys/kernel (proc(5)).
type Limits struct {
	SegmentSize  uint64 // shmmax, bytes
	SegmentPages uint64 // shmall, pages of all segments
	Segments     int    // shmmni
	// ForceRemove is shm_rmid_forced: 1 where segments go that nobody has
	// attached, when they are detached or their creator ends.
	ForceRemove int

	Message    uint64 // msgmax, bytes
	QueueBytes uint64 // msgmnb, bytes
	Queues     int    // msgmni

	PerSet     int // semmsl: the first number of sem
	Semaphores int // semmns: the second
	Operations int // semopm: the third
	Sets       int // semmni: the fourth
}

// DefaultLimits are those of a new namespace. Semaphores shows what Linux does;
// MaxSemaphores bounds them first.
func DefaultLimits() Limits {
	return Limits{
		SegmentSize: MaxSegmentSize, SegmentPages: MaxSegmentSize, Segments: MaxSegments,
		Message: MaxMessage, QueueBytes: MaxQueueBytes, Queues: MaxQueues,
		PerSet: MaxPerSet, Semaphores: MaxPerSet * MaxSets, Operations: MaxOperations, Sets: MaxSets,
	}
}

// Bounds of what can be set: identifiers have indexBits for the place in a table,
// and one call must not take much memory.
const (
	maxTable      = 1 << indexBits
	maxMessage    = 1 << 20
	maxOperations = 1 << 14
)

// Limits returns the limits.
func (ns *Namespace) Limits() Limits {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.limits
}

// SetLimits puts others in place: EINVAL where one is out of bounds. What there is
// stays, even beyond them.
func (ns *Namespace) SetLimits(l Limits) error {
	for _, n := range []struct{ value, max int }{
		{l.Segments, maxTable}, {l.Queues, maxTable}, {l.Sets, maxTable}, {l.PerSet, MaxPerSet},
		{l.Semaphores, 1<<31 - 1}, {l.Operations, maxOperations}, {l.ForceRemove, 1},
	} {
		if n.value < 0 || n.value > n.max {
			return unix.EINVAL
		}
	}
	if l.Message > maxMessage || l.QueueBytes > maxAllBytes {
		return unix.EINVAL
	}
	ns.mu.Lock()
	defer ns.mu.Unlock()
	ns.setLimits(l)
	if l.ForceRemove != 0 {
		ns.removeUnattached(nil)
	}
	return nil
}

func (ns *Namespace) setLimits(l Limits) {
	ns.limits = l
	ns.segments.max, ns.sets.max, ns.queues.max = l.Segments, l.Sets, l.Queues
}
