package systrap

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// addressSpace implements platform.AddressSpace with the address space of a
// stub. Changes are queued and made in one go by its memory thread.
type addressSpace struct {
	platform *Platform
	proc     *process

	// running counts the contexts in Switch. A Switch adds to running before it
	// looks at mappings.Queued, Unmap queues before it looks at running: one of
	// them sees the other.
	running atomic.Int32
	calls   callRewriting

	mu       locks.Mutex[locks.AddressSpace] // guards what follows, and what proc's memory thread is told
	mappings stub.Mappings
	used     bool // something was mapped in the stub
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
	defer a.mu.Unlock()
	full, err := a.mappings.Map(r, access, flags, fd, offset)
	if full {
		a.flush()
	}
	return err
}

// Unmap implements platform.AddressSpace.
func (a *addressSpace) Unmap(r usermem.AddrRange) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mappings.Unmap(r)
	if a.running.Load() > 0 {
		a.flush()
	}
}

// Protect implements platform.AddressSpace.
func (a *addressSpace) Protect(r usermem.AddrRange, access usermem.Access) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mappings.Protect(r, access)
	if a.running.Load() > 0 {
		a.flush()
	}
}

// Flush implements platform.AddressSpace.
func (a *addressSpace) Flush() {
	if !a.mappings.Queued() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.flush()
}

// flush makes the queued changes. Caller holds a.mu.
func (a *addressSpace) flush() error {
	if !a.mappings.Queued() {
		return nil
	}
	fresh := !a.used
	a.used = true
	err := a.mappings.Run(a.proc)
	for tries := 0; err != nil && fresh && tries < 3; tries++ {
		// Somebody has ended a stub that waited for use.
		p, e := a.platform.takeProcess()
		if e != nil {
			break
		}
		a.platform.destroy(a.proc)
		a.proc = p
		err = a.mappings.Run(p)
	}
	if err != nil {
		a.lose()
	}
	return err
}

// lose gives the stub up: what is mapped in it must not stay. Caller holds a.mu.
func (a *addressSpace) lose() {
	a.proc.kill()
	a.mappings.Drop()
}

// take returns a thread without a context: the one that became free last if that
// is still looking for what to do, else th if it is one of them, else any, else a new one.
func (a *addressSpace) take(th *thread) (*thread, error) {
	p := a.proc
	if hot := p.hot.Swap(nil); hot != nil {
		return hot, nil
	}
	p.mu.Lock()
	i := len(p.free) - 1
	if i >= 0 && p.free[i].place.mode != apart {
		if at := slices.Index(p.free, th); at >= 0 {
			i = at
		}
	}
	if i >= 0 {
		th = p.free[i]
		p.free = slices.Delete(p.free, i, i+1)
		p.mu.Unlock()
		return th, nil
	}
	p.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.lost.Load() {
		return nil, errLost
	}
	th, err := p.spawn()
	if err != nil && err != errFull {
		a.lose()
	}
	return th, err
}

// giveBack makes a thread free. It goes to sleep, at once or after a while.
func (p *process) giveBack(th *thread) {
	if th.place.mode != apart {
		th.rest()
	} else if p.hot.CompareAndSwap(nil, th) {
		return
	}
	p.mu.Lock()
	p.free = append(p.free, th)
	p.mu.Unlock()
}

// Inherit implements platform.AddressSpace: the stub of old is emptied and a's.
func (a *addressSpace) Inherit(o platform.AddressSpace) {
	old := o.(*addressSpace)
	a.mu.Lock()
	used := a.used
	a.mu.Unlock()
	if used || old.running.Load() != 0 {
		return
	}
	old.mu.Lock()
	p := old.proc
	if p.lost.Load() {
		old.mu.Unlock()
		return
	}
	old.proc = deadProcess
	old.mappings = stub.NewMappings()
	old.mu.Unlock()

	a.mu.Lock()
	spare := a.proc
	a.proc = p
	a.mappings.UnmapAllFirst()
	a.flush()
	a.mu.Unlock()
	a.platform.putBack(spare)
}

// Release implements platform.AddressSpace. The stub isn't used again, even
// after everything is unmapped: the application may have left something behind
// in its threads' registers.
func (a *addressSpace) Release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.mappings.Empty() && !a.proc.lost.Load() {
		a.mappings.UnmapAll()
		a.flush()
	}
	p := a.proc
	a.proc = deadProcess
	if p != deadProcess {
		a.platform.destroy(p)
	}
}

// Abandon implements platform.Abandoner: the end of the stub unmaps everything.
func (a *addressSpace) Abandon(done func()) {
	a.mu.Lock()
	p := a.proc
	a.proc = deadProcess
	a.mappings.Drop()
	a.mu.Unlock()
	if p == deadProcess || !p.atEnd(done) {
		done()
	}
	if p != deadProcess {
		// Who released it goes on here: let it end elsewhere.
		p.letGo(&a.platform.cpus.all)
		a.platform.destroy(p)
	}
}

// deadProcess stands in for the stub of an address space that was released.
var deadProcess = func() *process {
	p := &process{pidfd: -1}
	p.lost.Store(true)
	return p
}()
