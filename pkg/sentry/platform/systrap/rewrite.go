package systrap

import (
	"sync/atomic"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// System calls without a signal. Code whose syscall instruction has become a
// jump to a trampoline (platform.CallRewriter) comes to stubEntry, which finds the
// thread's shared page by the base of GS: as long as the application has none
// of its own, which is zero, the thread has its page's address there. It saves
// the general registers in memory, posts kindCall, and then saves the others. If all of them are as they were
// when the Sentry is done, but for the result, they are still there, or where
// the thread has saved them: it needs no more than rax to go on (loadResult).

// handedCall is a system call that came by way of a trampoline.
type handedCall struct {
	as *addressSpace // nil without
	// age is that of the trampolines when the Switch that the call ended began.
	age  uint32
	tail uint64
	regs arch.Registers
}

// handedOver makes registers of what stubEntry has saved. The application may
// have written anything there.
func (c *context) handedOver(th *thread, state *arch.State) {
	w := th.shared.call
	r := &state.Regs
	r.R8, r.R9, r.R10, r.R12, r.R13, r.R14, r.R15 = w[callR8], w[callR9], w[callR10], w[callR12], w[callR13], w[callR14], w[callR15]
	r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rsp = w[callRDI], w[callRSI], w[callRBP], w[callRBX], w[callRDX], w[callRAX], w[callRSP]
	r.Eflags, r.Cs, r.Ss = w[callEflags], arch.UserCs, arch.UserDs
	r.Rip = w[callRIP]
	r.Rcx, r.R11 = r.Rip, r.Eflags
	r.OrigRax = r.Rax
	r.FsBase, r.GsBase = w[callFS], 0
	th.fsBase, th.gsBase = r.FsBase, th.sharedAddr()
	r.Sanitize()
	c.fp, c.inArea = c.area.bytes, true
	c.area.saver, c.area.number = th, th.number
	th.live = true
	c.call.as = nil
	if w[callTail] < taskEnd {
		c.call.as, c.call.age, c.call.tail, c.call.regs = th.as, th.age, w[callTail], *r
		if w[callTail] != r.Rip {
			c.tails[tailOf(r.Rip)] = tail{th.as, th.age, r.Rip, w[callTail]}
		}
	}
}

// tail is where to go on instead of at rip, as handedCall says it of the last call. A
// handler of a signal may return to an earlier one, and the exception that there is
// instead takes long where a hypervisor has to look at it.
type tail struct {
	as       *addressSpace
	age      uint32
	rip, alt uint64
}

// tailOf is the place of rip among a context's tails.
func tailOf(rip uint64) uint64 { return (rip ^ rip>>4) % uint64(len(context{}.tails)) }

// returnTo returns where to go on, given the registers to load, and whether the
// thread has all of them but the result.
func (c *context) returnTo(a *addressSpace, th *thread, r *arch.Registers) (rip uint64, same bool) {
	// Who expels has either seen that c runs, or c sees the new age.
	age := a.calls.age.Load()
	call := &c.call
	valid := call.as == a && call.age == age
	th.as, th.age = a, age
	call.as = nil
	if r.Eflags&arch.FlagTF != 0 {
		return r.Rip, false
	}
	if !valid || r.Rip != call.regs.Rip {
		if t := &c.tails[tailOf(r.Rip)]; t.rip == r.Rip && t.as == a && t.age == age {
			return t.alt, false
		}
		return r.Rip, false
	}
	want := &call.regs
	want.Rax, want.OrigRax = r.Rax, r.OrigRax
	return call.tail, th.live && *want == *r
}

// sharedAddr is the address of the thread's shared page in the stub.
func (th *thread) sharedAddr() uint64 { return th.base + stackSize }

// callCounts counts the system calls that came by a signal, by address, for the
// few that a thread makes most.
type callCounts [64]struct {
	addr        uint64
	count, goal uint32
}

// firstGoal is how many calls make an instruction worth rewriting: that costs
// as much as some ten of them. nextGoal is how many more make it worth to ask
// again.
const (
	firstGoal = 24
	nextGoal  = 512
)

// often counts a call behind whose instruction addr is, and reports whether it
// has come to a number at which to have it rewritten.
func (t *callCounts) often(addr uint64) bool {
	e := &t[(addr^addr>>6^addr>>12)%uint64(len(t))]
	if e.addr != addr {
		e.addr, e.count, e.goal = addr, 0, firstGoal
	}
	if e.count++; e.count < e.goal {
		return false
	}
	e.count = 0
	e.goal = max(nextGoal, min(2*e.goal, 1<<30))
	return true
}

// callRewriting is an address space's part in it.
type callRewriting struct {
	// age counts the calls of Retire.
	age atomic.Uint32
	// expelling counts the calls of Expel that wait, for changes that left
	// tells of.
	expelling atomic.Int32
	mu        locks.Mutex[locks.Leaf]
	changed   chan struct{}
}

var _ platform.CallRewriter = (*addressSpace)(nil)

// CallEntry implements platform.CallRewriter.
func (a *addressSpace) CallEntry() usermem.Addr { return entryAddr }

// PlainCallEntry implements platform.CallRewriter.
func (a *addressSpace) PlainCallEntry() usermem.Addr { return plainEntryAddr }

// Retire implements platform.CallRewriter.
func (a *addressSpace) Retire() { a.calls.age.Add(1) }

// Expel implements platform.CallRewriter.
func (a *addressSpace) Expel() {
	a.Retire()
	a.calls.expelling.Add(1)
	defer a.calls.expelling.Add(-1)
	type inside struct {
		c    *context
		turn uint32
	}
	var in []inside
	a.platform.watchdog.each(func(c *context) {
		turn := c.turn.Load()
		if th := c.running.Load(); th != nil && th.proc == a.proc {
			in = append(in, inside{c, turn})
		}
	})
	for _, x := range in {
		x.c.Interrupt()
	}
	for _, x := range in {
		for {
			changed := a.calls.next()
			if x.c.running.Load() == nil || x.c.turn.Load() != x.turn {
				break
			}
			<-changed
		}
	}
}

// next returns a channel that is closed at the next change.
func (r *callRewriting) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// left tells those who wait that a context isn't running any more.
func (a *addressSpace) left() {
	if a.calls.expelling.Load() == 0 {
		return
	}
	r := &a.calls
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}
