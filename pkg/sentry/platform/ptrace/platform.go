// Package ptrace runs application code under PTRACE_SYSEMU: the host's kernel
// stops it at each system call, before anything of the call is done, and at
// each exception. It works wherever ptrace(2) does, and is the reference for
// how a platform behaves.
//
// An address space is a stub process (package stub). ptrace(2) wants each
// request to come from the thread that attached to the tracee, and Go moves
// goroutines between threads, so there is one stub thread for each pair of
// address space and Sentry thread that ever met. A Switch locks its goroutine
// to its thread until Park: between consecutive Switches the vector state
// stays in the stub thread.
//
// Changes of mappings are host system calls made by the stub itself, on its
// own code, with the arguments in registers or, for several at once, in a page
// that the stub can only read. Results come back in registers. The application,
// which may run in other threads of the same stub, can forge neither.
//
// A fault's vector, error code and address are not in what ptrace tells. So
// the signal is delivered, to a handler that does nothing but stop again, and
// the Sentry reads the signal frame. An application can scribble over that frame
// from another thread: it then lies to itself. Registers are sanitized before
// they are loaded.
//
// Types: Platform (the factory of stubs, the pool, the tracers), addressSpace,
// context, process (a stub), thread (of a stub), tracer (a Sentry thread).
//
// A goroutine that has been in Switch must call Park or Release before it ends:
// the Go runtime ends the thread of a goroutine that ends locked to it, and the
// kernel then kills the tracees.
//
// Locks: addressSpace.mu, then the pool's, then the factory's own.
package ptrace

import (
	"sync"

	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// Platform implements platform.Platform.
type Platform struct {
	factory *stub.Factory
	user    usermem.AddrRange

	spreader *spreader

	tracers sync.Map // of Sentry thread ids to *tracer

	pool stub.Pool[*process]
}

// New starts the platform. It is called before the Sentry's jail is up: see
// stub.Start.
func New() (*Platform, error) {
	if err := quietChildren(); err != nil {
		return nil, err
	}
	prog, err := program()
	if err != nil {
		return nil, err
	}
	f, err := stub.Start(prog)
	if err != nil {
		return nil, err
	}
	p := &Platform{
		factory:  f,
		spreader: newSpreader(),
		user:     usermem.AddrRange{Start: stub.FirstAddr(), End: stub.UserEnd},
	}
	p.pool.Make = p.newProcess
	if err := p.pool.Fill(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Close ends all stubs. No address space is in use.
func (p *Platform) Close() {
	close(p.spreader.stop)
	p.factory.Close()
}

// Name implements platform.Platform.
func (p *Platform) Name() string { return "ptrace" }

// UserRange implements platform.Platform.
func (p *Platform) UserRange() usermem.AddrRange { return p.user }

// Forget implements platform.Platform.
func (p *Platform) Forget(fd int) { p.factory.Forget(fd) }

// NewContext implements platform.Platform.
func (p *Platform) NewContext() platform.Context {
	c := &context{platform: p}
	p.spreader.add(c)
	return c
}

// NewAddressSpace implements platform.Platform.
func (p *Platform) NewAddressSpace() (platform.AddressSpace, error) {
	proc, err := p.pool.Take()
	if err != nil {
		return nil, err
	}
	return &addressSpace{platform: p, proc: proc, mappings: stub.NewMappings()}, nil
}

func (p *Platform) newProcess() (*process, error) {
	s, err := p.factory.NewProcess(func(*stub.Process) {})
	if err != nil {
		return nil, err
	}
	return &process{Process: s, threads: make(map[*tracer]*thread), spare: []int{s.Leader, s.Second}}, nil
}

// giveBack takes an empty stub, or one that is lost.
func (p *Platform) giveBack(proc *process) {
	if proc.lost.Load() || !p.pool.Put(proc) {
		p.destroy(proc)
	}
}

// destroy kills a stub and waits until it is gone. The leader is the first to
// get a tracer, and its end is the last to be reported.
func (p *Platform) destroy(proc *process) {
	proc.kill()
	var leader *thread
	for _, th := range proc.threads {
		if th.tid == proc.Leader {
			leader = th
		} else {
			th.reap()
		}
	}
	if leader != nil {
		leader.reap()
	}
	p.factory.Recycle(proc.Process, stub.CommandBytes, proc.slots*slotSize)
}

// thisTracer returns the tracer of the thread that the caller is locked to.
// The caller calls leave when it is done with it.
func (p *Platform) thisTracer() *tracer {
	tid := gettid()
	if v, ok := p.tracers.Load(tid); ok {
		t := v.(*tracer)
		t.turn.Add(1)
		return t
	}
	t := &tracer{tid: tid}
	t.cpu.Store(-1)
	p.tracers.Store(tid, t)
	return t
}

// leave ends a goroutine's use of the tracer of its thread.
func (t *tracer) leave() { t.turn.Add(1) }
