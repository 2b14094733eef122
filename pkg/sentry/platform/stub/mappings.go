package stub

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// Command is a host system call that a stub makes.
type Command struct {
	Nr   uint64
	Args [6]uint64
}

// Runner makes Commands in a stub.
type Runner interface {
	// Run makes commands, one after the other, up to the first that fails, with
	// errno. It may make fewer, but at least one. An error means that the stub is lost.
	Run(commands []Command) (done int, errno unix.Errno, err error)
}

// maxQueue is how many changes are put off at the most.
const maxQueue = 512

// Mappings is what of an address space is mapped in its stub. Changes are put
// off until Run. All methods but Queued are called under the address space's lock.
type Mappings struct {
	queued atomic.Bool
	queue  []Command
	mapped spans // as it is after the queue
	failed error // of a mapping that was put off
}

// NewMappings returns those of an empty stub.
func NewMappings() Mappings { return Mappings{mapped: newSpans()} }

// Queued reports whether there is something to Run.
func (m *Mappings) Queued() bool { return m.queued.Load() }

// Empty reports whether nothing is mapped and nothing is to be done.
func (m *Mappings) Empty() bool { return m.mapped.empty() && len(m.queue) == 0 }

// Map puts a mapping off, in the sense of platform.AddressSpace.MapFile. It
// reports whether so much is queued that it should be Run, and the error of an
// earlier mapping, in which case it does nothing.
func (m *Mappings) Map(r usermem.AddrRange, access usermem.Access, flags uint64, fd int, offset uint64) (full bool, err error) {
	if err := m.failed; err != nil {
		m.failed = nil
		return false, err
	}
	m.mapped.add(r)
	c := Command{Nr: unix.SYS_MMAP, Args: [6]uint64{uint64(r.Start), r.Len(), uint64(access), flags, uint64(fd), offset}}
	if n := len(m.queue); n > 0 && joins(&m.queue[n-1], &c) {
		m.queue[n-1].Args[1] += r.Len()
	} else {
		m.enqueue(c)
	}
	return len(m.queue) >= maxQueue, nil
}

// joins reports whether the mapping c goes on where the mapping b ends.
func joins(b, c *Command) bool {
	return b.Nr == unix.SYS_MMAP &&
		b.Args[0]+b.Args[1] == c.Args[0] && b.Args[5]+b.Args[1] == c.Args[5] &&
		b.Args[2] == c.Args[2] && b.Args[3] == c.Args[3] && b.Args[4] == c.Args[4]
}

func (m *Mappings) enqueue(c Command) {
	m.queue = append(m.queue, c)
	m.queued.Store(true)
}

// Unmap puts off what unmaps r.
func (m *Mappings) Unmap(r usermem.AddrRange) {
	if hull := m.mapped.remove(r); !hull.Empty() {
		m.enqueue(Command{Nr: unix.SYS_MUNMAP, Args: [6]uint64{uint64(hull.Start), hull.Len()}})
	}
}

// Protect puts off a change of access in r; holes are skipped.
func (m *Mappings) Protect(r usermem.AddrRange, access usermem.Access) {
	for _, part := range m.mapped.within(r) {
		m.enqueue(Command{Nr: unix.SYS_MPROTECT, Args: [6]uint64{uint64(part.Start), part.Len(), uint64(access)}})
	}
}

// UnmapAll forgets the queue and has everything unmapped that applications can map.
func (m *Mappings) UnmapAll() {
	m.queue = m.queue[:0]
	m.enqueue(Command{Nr: unix.SYS_MUNMAP, Args: [6]uint64{0, uint64(UserEnd)}})
}

// UnmapAllFirst has the same unmapped before the queue, which is for an empty stub.
func (m *Mappings) UnmapAllFirst() {
	m.queue = append([]Command{{Nr: unix.SYS_MUNMAP, Args: [6]uint64{0, uint64(UserEnd)}}}, m.queue...)
	m.queued.Store(true)
}

// Drop forgets the queue: the stub is lost.
func (m *Mappings) Drop() {
	m.queue = m.queue[:0]
	m.queued.Store(false)
}

// Run makes the changes that were put off. An error means that the stub can't
// be used any more.
func (m *Mappings) Run(x Runner) error {
	queue := m.queue
	for len(queue) > 0 {
		done, errno, err := x.Run(queue)
		if err == nil && errno != 0 {
			err = m.repair(x, &queue[done], errno, queue[done+1:])
			done++
		}
		if err != nil {
			return err
		}
		queue = queue[done:]
	}
	m.queue = m.queue[:0]
	m.queued.Store(false)
	return nil
}

var errUnmap = errors.New("stub: the host doesn't unmap")

// repair deals with a command that the host refused: it has too many mappings
// (ENOMEM) or the file doesn't permit the access (EACCES). A mapping is told to
// the next Map. What should have been unmapped or protected is unmapped
// together with all that it hangs together with, which needs no new mapping:
// the application faults it in again. rest are the commands that follow.
func (m *Mappings) repair(x Runner, c *Command, errno unix.Errno, rest []Command) error {
	start := usermem.Addr(c.Args[0])
	r := usermem.AddrRange{Start: start, End: start + usermem.Addr(c.Args[1])}
	if c.Nr == unix.SYS_MMAP {
		m.failed = errno
	} else {
		r = m.mapped.around(r)
	}
	_, errno, err := x.Run([]Command{{Nr: unix.SYS_MUNMAP, Args: [6]uint64{uint64(r.Start), r.Len()}}})
	if err != nil {
		return err
	}
	if errno != 0 {
		return errUnmap
	}
	m.mapped.remove(r)
	// Later commands may map in r again. (Should a still later one unmap that,
	// the set is too large, which costs a call, or another repair.)
	for _, q := range rest {
		if q.Nr == unix.SYS_MMAP {
			s := usermem.Addr(q.Args[0])
			m.mapped.add(usermem.AddrRange{Start: s, End: s + usermem.Addr(q.Args[1])})
		}
	}
	return nil
}

// CheckMap returns the range that a platform.AddressSpace's MapFile is for, or EINVAL.
func CheckMap(user usermem.AddrRange, addr usermem.Addr, offset, length uint64) (usermem.AddrRange, error) {
	r, ok := addr.Range(length)
	if !ok || length == 0 || !addr.PageAligned() || length%usermem.PageSize != 0 || offset%usermem.PageSize != 0 || !user.Covers(r) {
		return r, unix.EINVAL
	}
	return r, nil
}
