// Package systrap runs application code in stub processes whose threads have a
// seccomp filter that turns each system call into SIGSYS. A handler in the stub
// tells the Sentry by way of shared memory; faults travel the same way. While a
// CPU is free for it both sides look for each other's word rather than sleep,
// so that handing over costs no system call.
//
// A stub has one memory thread, which maps and unmaps what the Sentry says in a
// page that the stub can only read, and threads for application code, as many
// as contexts run in the address space at a time. The latter have a second
// filter: of all that the host offers they can wait on a word, wake a thread of
// their own stub, and return from a signal. The memory thread keeps everything
// in registers and reports to an eventfd that only it may write. So the
// application, though it shares memory with both, can't map what it likes, nor
// have the Sentry believe that something was unmapped.
//
// What threads for application code say is the application's own word: each
// field of the shared page and of the signal frame is read once and checked. A
// thread that lies about its registers lies to its application. One that says
// nothing is killed with its stub when it doesn't answer an interruption for a
// while (watchdog). The end of a stub is seen through a pidfd (watcher).
//
// Vector state stays in the stub (vectors.go): in the signal frame, to be loaded again
// from the same place, unless the Sentry asks for it (PullFP) or another context
// takes the thread; or after a call without a signal in memory of the context's own.
// The frame of a signal that the application handles it is written to, and read from,
// by the stub, too (stubResume). The stub goes to the application with iretq, not with
// rt_sigreturn(2), which spares a system call.
//
// A system call from code that was rewritten (platform.CallRewriter) comes without
// a signal: see rewrite.go. A Switch asks for that where an instruction traps
// often. The vector state stays in the processor then, and is saved as well while the
// Sentry is busy with the call; it waits for that only if it needs it.
//
// Types: Platform, addressSpace, context, process (a stub), thread (of a stub, for
// application code), shared (the page of such a thread).
//
// Locks: addressSpace.mu, then the pool's, then process.mu, then Platform.mu, then the factory's own.
// spinners.mu is a leaf.
package systrap

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// Platform implements platform.Platform.
type Platform struct {
	factory  *stub.Factory
	user     usermem.AddrRange
	watcher  *watcher
	watchdog *watchdog
	cpus     cpus
	spinners spinners
	looser   *looser
	rewrites bool // calls may be rewritten
	clocks   atomic.Pointer[clocks]

	scheduler platform.Scheduler // nil where contexts are goroutines

	// active counts the contexts that run or are about to.
	active atomic.Int32

	pool stub.Pool[*process]

	mu      locks.Mutex[locks.StubReports]
	reports []report // that no stub has
}

// New starts the platform. It is called before the Sentry's jail is up: see
// stub.Start.
func New() (*Platform, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	prog, err := program()
	if err != nil {
		return nil, err
	}
	w, err := newWatcher()
	if err != nil {
		return nil, err
	}
	f, err := stub.Start(prog)
	if err != nil {
		unix.Close(w.epoll)
		return nil, err
	}
	p := &Platform{
		factory:  f,
		user:     usermem.AddrRange{Start: stub.FirstAddr(), End: stub.UserEnd},
		watcher:  w,
		watchdog: newWatchdog(overdue),
		spinners: spinners{at: make([]atomic.Pointer[thread], len(cpuSet{})*64)},
		cpus:     hostCPUs(),
		rewrites: cpu.X86.HasBMI2, // stubPlainEntry
	}
	p.looser = newLooser(p)
	go w.run(p.ended)
	p.pool.Make = p.newProcess
	if err := p.pool.Fill(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// supported reports why the platform can't work on this host.
func supported() error {
	if !haveBaseInstructions() {
		return errors.New("systrap: the processor or the host's kernel (before Linux 5.9) has no wrfsbase instruction")
	}
	if arch.FPSize() > slotSize-stackSize-ctxFPArea {
		return errors.New("systrap: the processor's vector state is too large")
	}
	return nil
}

// haveBaseInstructions reports whether programs may use rdfsbase and its like
// (Documentation/arch/x86/x86_64/fsgs.rst).
func haveBaseInstructions() bool {
	const atHwcap2, fsgsbase = 26, 1 << 1
	auxv, err := unix.Auxv()
	if err != nil {
		return false
	}
	for _, v := range auxv {
		if v[0] == atHwcap2 {
			return v[1]&fsgsbase != 0
		}
	}
	return false
}

// Close ends all stubs. No address space is in use.
func (p *Platform) Close() {
	p.watcher.close()
	p.factory.Close()
}

// Name implements platform.Platform.
func (p *Platform) Name() string { return "systrap" }

// UserRange implements platform.Platform.
func (p *Platform) UserRange() usermem.AddrRange { return p.user }

// Cooperate implements platform.Cooperator.
func (p *Platform) Cooperate(s platform.Scheduler) { p.scheduler = s }

// othersWait reports whether another context takes the calling thread of the Sentry
// as soon as this one sleeps.
func (p *Platform) othersWait() bool { return p.scheduler != nil && p.scheduler.Waiting() }

// Forget implements platform.Platform.
func (p *Platform) Forget(fd int) { p.factory.Forget(fd) }

// NewContext implements platform.Platform.
func (p *Platform) NewContext() platform.Context {
	c := &context{platform: p}
	p.watchdog.add(c)
	return c
}

// NewAddressSpace implements platform.Platform.
func (p *Platform) NewAddressSpace() (platform.AddressSpace, error) {
	proc, err := p.takeProcess()
	if err != nil {
		return nil, err
	}
	return &addressSpace{platform: p, proc: proc, mappings: stub.NewMappings()}, nil
}

// takeProcess returns a stub in which nothing was done, from the pool if there is one.
func (p *Platform) takeProcess() (*process, error) {
	for {
		proc, err := p.pool.Take()
		if err != nil {
			return nil, err
		}
		if !proc.lost.Load() {
			p.mapClocks(proc) // unless it was made before there were any
			return proc, nil
		}
		p.destroy(proc)
	}
}

// putBack takes a stub in which nothing was done.
func (p *Platform) putBack(proc *process) {
	if proc.lost.Load() || !p.pool.Put(proc) {
		p.destroy(proc)
	}
}

// reclaim frees what is left of a stub that has ended and that nobody uses.
func (p *Platform) reclaim(proc *process) {
	unix.Close(proc.pidfd)
	p.putReport(proc.event)
	clear(proc.Commands()[cmdAnswers : cmdAnswers+proc.slots*answerBytes])
	p.factory.Recycle(proc.Process, cmdList+maxCommands*commandSize, proc.slots*slotSize)
}
