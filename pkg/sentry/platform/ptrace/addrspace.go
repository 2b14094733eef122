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

	// running counts the contexts in Switch. A Switch adds to running before it
	// looks at mappings.Queued, Unmap queues before it looks at running: one of
	// them sees the other.
	running atomic.Int32

	mu       locks.Mutex[locks.AddressSpace] // guards proc's tables and command page, and what follows
	mappings stub.Mappings
}

// MapFile implements platform.AddressSpace.
func (a *addressSpace) MapFile(addr usermem.Addr, f platform.File, offset, length uint64, access usermem.Access, precommit bool) error {
	r, err := stub.CheckMap(a.platform.user, addr, offset, length)
	if err != nil {
		return err
	}
	fd, err := a.platform.factory.Take(f.FD())
	if err != nil {
		return err
	}
	flags := uint64(unix.MAP_SHARED | unix.MAP_FIXED)
	if precommit {
		flags |= unix.MAP_POPULATE
	}
	a.mu.Lock()
	full, err := a.mappings.Map(r, access, flags, fd, offset)
	a.mu.Unlock()
	if full {
		a.Flush()
	}
	return err
}

// Unmap implements platform.AddressSpace.
func (a *addressSpace) Unmap(r usermem.AddrRange) {
	a.mu.Lock()
	a.mappings.Unmap(r)
	a.mu.Unlock()
	if a.running.Load() > 0 {
		a.Flush()
	}
}

// Protect implements platform.AddressSpace.
func (a *addressSpace) Protect(r usermem.AddrRange, access usermem.Access) {
	a.mu.Lock()
	a.mappings.Protect(r, access)
	a.mu.Unlock()
	if a.running.Load() > 0 {
		a.Flush()
	}
}

// Flush implements platform.AddressSpace.
func (a *addressSpace) Flush() {
	if !a.mappings.Queued() {
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
	a.mappings.Drop()
}

// flush makes the queued changes. Caller holds a.mu and is locked to t.
func (a *addressSpace) flush(t *tracer) error {
	if !a.mappings.Queued() {
		return nil
	}
	th, err := a.thread(t)
	if err == nil {
		err = a.mappings.Run(th)
	}
	if err != nil {
		a.lose()
	}
	return err
}

// Inherit implements platform.AddressSpace: Release makes the stub another one's
// anyway.
func (a *addressSpace) Inherit(platform.AddressSpace) {}

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
	if a.mappings.Empty() || a.proc.lost.Load() {
		return
	}
	a.mappings.UnmapAll()
	a.flush(t)
}
