package ptrace

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// addressSpace implements platform.AddressSpace with the address space of a
// stub. Changes are queued and made in one go by a thread of the stub.
type addressSpace struct {
	platform *Platform
	proc     *process

	// running counts the contexts in Switch, queued says that queue isn't
	// empty. A Switch adds to running before it looks at queued, Unmap sets
	// queued before it looks at running: one of them sees the other.
	running atomic.Int32
	queued  atomic.Bool

	mu     locks.Mutex[locks.AddressSpace] // guards proc's tables and command page, and what follows
	queue  []stub.Command
	mapped spans // as it is after the queue
	failed error // of a mapping that was put off
}

// MapFile implements platform.AddressSpace.
func (a *addressSpace) MapFile(addr usermem.Addr, f platform.File, offset, length uint64, access usermem.Access, precommit bool) error {
	r, ok := addr.Range(length)
	if !ok || length == 0 || !addr.PageAligned() || length%usermem.PageSize != 0 || offset%usermem.PageSize != 0 || !a.platform.user.Covers(r) {
		return unix.EINVAL
	}
	fd, err := a.platform.factory.Take(f.FD())
	if err != nil {
		return err
	}
	flags := uint64(unix.MAP_SHARED | unix.MAP_FIXED)
	if precommit {
		flags |= unix.MAP_POPULATE
	}
	if err := a.takeFailed(); err != nil {
		return err
	}
	a.mu.Lock()
	a.mapped.add(r)
	c := stub.Command{Nr: unix.SYS_MMAP, Args: [6]uint64{uint64(addr), length, uint64(access), flags, uint64(fd), offset}}
	if n := len(a.queue); n > 0 && joins(&a.queue[n-1], &c) {
		a.queue[n-1].Args[1] += length
	} else {
		a.enqueue(c)
	}
	full := len(a.queue) >= maxQueue
	a.mu.Unlock()
	if full {
		a.Flush()
	}
	return nil
}

// maxQueue is how many changes are put off at the most.
const maxQueue = 512

// takeFailed returns the error of a mapping that was put off, once.
func (a *addressSpace) takeFailed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.failed
	a.failed = nil
	return err
}

// joins reports whether the mapping c goes on where the mapping b ends.
func joins(b, c *stub.Command) bool {
	return b.Nr == unix.SYS_MMAP &&
		b.Args[0]+b.Args[1] == c.Args[0] && b.Args[5]+b.Args[1] == c.Args[5] &&
		b.Args[2] == c.Args[2] && b.Args[3] == c.Args[3] && b.Args[4] == c.Args[4]
}

// enqueue puts a command off until the next Switch or Flush. Caller holds a.mu.
func (a *addressSpace) enqueue(c stub.Command) {
	a.queue = append(a.queue, c)
	a.queued.Store(true)
}

// Unmap implements platform.AddressSpace.
func (a *addressSpace) Unmap(r usermem.AddrRange) {
	a.mu.Lock()
	if hull := a.mapped.remove(r); !hull.Empty() {
		a.enqueue(stub.Command{Nr: unix.SYS_MUNMAP, Args: [6]uint64{uint64(hull.Start), hull.Len()}})
	}
	a.mu.Unlock()
	if a.running.Load() > 0 {
		a.Flush()
	}
}

// Protect implements platform.AddressSpace.
func (a *addressSpace) Protect(r usermem.AddrRange, access usermem.Access) {
	a.mu.Lock()
	for _, part := range a.mapped.within(r) {
		a.enqueue(stub.Command{Nr: unix.SYS_MPROTECT, Args: [6]uint64{uint64(part.Start), part.Len(), uint64(access)}})
	}
	a.mu.Unlock()
	if a.running.Load() > 0 {
		a.Flush()
	}
}

// Flush implements platform.AddressSpace.
func (a *addressSpace) Flush() {
	if !a.queued.Load() {
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := a.platform.thisTracer()
	defer t.leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush(t)
}

// thread returns t's thread in the stub. Caller holds a.mu and is locked to t.
func (a *addressSpace) thread(t *tracer) (*thread, error) {
	if a.proc.lost.Load() {
		return nil, errLost
	}
	if th := a.proc.threads[t]; th != nil && !th.ended.Load() {
		return th, nil
	}
	th, err := a.proc.adopt(t)
	if err != nil {
		a.lose()
	}
	return th, err
}

// lose gives the stub up: what is mapped in it must not stay. Caller holds a.mu.
func (a *addressSpace) lose() {
	a.proc.kill()
	a.queue = a.queue[:0]
	a.queued.Store(false)
}

// flush makes the queued changes. Caller holds a.mu and is locked to t.
func (a *addressSpace) flush(t *tracer) error {
	if len(a.queue) == 0 {
		return nil
	}
	th, err := a.thread(t)
	if err != nil {
		a.lose()
		return err
	}
	queue := a.queue
	for len(queue) > 0 {
		var done int
		var errno unix.Errno
		if len(queue) == 1 {
			var ret uint64
			ret, err = th.call(&queue[0])
			if ret > ^uint64(4095) {
				errno = unix.Errno(-ret)
			} else {
				done = 1
			}
		} else {
			n := min(len(queue), stub.MaxCommands)
			for i := range n {
				a.proc.PutCommand(i, queue[i])
			}
			done, errno, err = th.batch(0, n)
		}
		if err == nil && errno != 0 {
			err = a.repair(th, &queue[done], errno, queue[done+1:])
			done++
		}
		if err != nil {
			a.lose()
			return err
		}
		queue = queue[done:]
	}
	a.queue = a.queue[:0]
	a.queued.Store(false)
	return nil
}

// repair deals with a command that the host refused: it has too many mappings
// (ENOMEM) or the file doesn't permit the access (EACCES). A mapping is told to
// the next MapFile. What should have been unmapped or protected is unmapped
// together with all that it hangs together with, which needs no new mapping:
// the application faults it in again. rest are the commands that follow.
func (a *addressSpace) repair(th *thread, c *stub.Command, errno unix.Errno, rest []stub.Command) error {
	start := usermem.Addr(c.Args[0])
	r := usermem.AddrRange{Start: start, End: start + usermem.Addr(c.Args[1])}
	if c.Nr == unix.SYS_MMAP {
		a.failed = errno
	} else {
		r = a.mapped.around(r)
	}
	ret, err := th.call(&stub.Command{Nr: unix.SYS_MUNMAP, Args: [6]uint64{uint64(r.Start), r.Len()}})
	if err != nil {
		return err
	}
	if ret != 0 {
		return errLost
	}
	a.mapped.remove(r)
	// Later commands may map in r again. (Should a still later one unmap that,
	// the set is too large, which costs a call, or another repair.)
	for _, q := range rest {
		if q.Nr == unix.SYS_MMAP {
			s := usermem.Addr(q.Args[0])
			a.mapped.add(usermem.AddrRange{Start: s, End: s + usermem.Addr(q.Args[1])})
		}
	}
	return nil
}

// Release implements platform.AddressSpace.
func (a *addressSpace) Release() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	t := a.platform.thisTracer()
	defer t.leave()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.empty(t)
	p := a.proc
	a.proc = deadProcess
	a.platform.giveBack(p)
}

// deadProcess stands in for the stub of an address space that was released.
var deadProcess = func() *process {
	p := &process{Process: &stub.Process{}}
	p.lost.Store(true)
	return p
}()

// empty unmaps everything in the stub, or gives it up. Caller holds a.mu and is
// locked to t.
func (a *addressSpace) empty(t *tracer) {
	if a.mapped.empty() && len(a.queue) == 0 || a.proc.lost.Load() {
		return
	}
	a.queue = append(a.queue[:0], stub.Command{Nr: unix.SYS_MUNMAP, Args: [6]uint64{0, uint64(stub.UserEnd)}})
	a.flush(t)
}
