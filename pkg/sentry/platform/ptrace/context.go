package ptrace

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// interruptSignal makes a running stub thread stop. Being ignored by default it
// can't hurt one that nobody traces.
const interruptSignal = unix.SIGURG

// context implements platform.Context.
type context struct {
	platform *Platform

	// pending says that Interrupt was called and no Switch has returned for
	// it; running is the thread that executes application code. Interrupt
	// sets pending before it looks at running, Switch sets running before it
	// looks at pending: one of them sees the other.
	pending atomic.Bool
	running atomic.Pointer[thread]
	// seq is odd while application code runs. advice is the spreader's.
	seq    atomic.Uint64
	advice atomic.Int32
	rebind bool // at the next Switch
	loose  uint // how many were made without a bond

	tracer *tracer // that the goroutine is locked to, or nil
	thread *thread // the last one used
	// fpAt is where the state is whose vector registers are in thread, or nil
	// if they must be loaded. fpPulled says that state.FP is as current.
	fpAt     *byte
	fpPulled bool
}

// Switch implements platform.Context.
func (c *context) Switch(as platform.AddressSpace, state *arch.State) (platform.Event, error) {
	a := as.(*addressSpace)
	if c.pending.Load() && c.pending.Swap(false) {
		return platform.Event{Kind: platform.EventInterrupted}, nil
	}
	if state.Vectors.Do != 0 {
		return platform.Event{Kind: platform.EventFrame}, nil
	}
	if c.tracer == nil {
		runtime.LockOSThread()
		c.tracer = c.platform.thisTracer()
		c.tracer.current = c
		c.tracer.bind()
		if c.platform.spreader.asleep.Load() {
			c.platform.spreader.rouse()
		}
	}
	a.running.Add(1)
	defer a.running.Add(-1)
	th := c.thread
	if th == nil || th.proc != a.proc || th.tracer != c.tracer || th.ended.Load() || a.mappings.Queued() {
		var err error
		if th, err = c.prepare(a, state); err != nil {
			return platform.Event{}, err
		}
	}
	if c.fpAt != &state.FP[0] || th.fpOwner != c {
		if err := c.loadFP(th, state); err != nil {
			return platform.Event{}, err
		}
	}
	c.fpPulled = false
	if cpu := int(c.tracer.cpu.Load()); cpu >= 0 {
		th.place(cpu)
	} else {
		c.loosely(th)
	}
	if c.advice.Load() != adviceNone {
		c.follow(th)
	}
	state.Regs.Sanitize()
	regs := state.Regs
	// The host must not take the result of a call for one of its own, to be
	// restarted.
	regs.OrigRax = ^uint64(0)
	if e := th.setRegs(&regs); e != 0 {
		return platform.Event{}, th.gone()
	}

	c.running.Store(th)
	c.seq.Add(1)
	defer func() {
		c.seq.Add(1)
		c.running.Store(nil)
	}()
	if c.pending.Load() {
		c.pending.Store(false)
		return platform.Event{Kind: platform.EventInterrupted}, nil
	}
	return c.run(th, state)
}

// prepare finds the thread for c in a and makes the queued changes of mappings.
func (c *context) prepare(a *addressSpace, state *arch.State) (*thread, error) {
	if c.thread != nil && (c.thread.proc != a.proc || c.thread.tracer != c.tracer) {
		// Vector state that is still in the other thread is lost unless it is
		// fetched now, for the one state that it belongs to. On another
		// tracer there is none: Park has fetched it.
		c.PullFP(state)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	th, err := a.thread(c.tracer)
	if err != nil {
		return nil, err
	}
	if th != c.thread {
		c.fpAt = nil
		c.thread = th
	}
	if err := a.flush(c.tracer); err != nil {
		return nil, err
	}
	return th, nil
}

// loosely prepares a switch whose threads aren't bound to a CPU.
func (c *context) loosely(th *thread) {
	if c.rebind {
		c.rebind = false
		th.place(c.tracer.bind())
		return
	}
	// The spreader may sleep; have it look whether this goes on.
	if c.loose++; c.loose%(2*quick) == 0 {
		c.platform.spreader.rouse()
	}
}

// follow does what the spreader advises.
func (c *context) follow(th *thread) {
	switch c.advice.Swap(adviceNone) {
	case adviceBind:
		th.place(c.tracer.bind())
	case adviceRechoose:
		// When the tracer, unbound, is woken at the end of this Switch, the
		// host puts it on an idle CPU if there is one. The stub thread follows
		// at the next.
		c.platform.spreader.freeTracer(c.tracer)
		c.rebind = true
	}
}

// run executes application code until there is an event.
func (c *context) run(th *thread, state *arch.State) (platform.Event, error) {
	var sig unix.Signal
	var fault sigInfo // of the signal that is being delivered
	for {
		status, err := th.resume(reqSysemu, sig)
		if err != nil {
			return platform.Event{}, err
		}
		sig = 0
		stop := status.StopSignal()
		if stop == unix.SIGTRAP|0x80 {
			if getRegs(th.tid, &state.Regs) != 0 {
				return platform.Event{}, th.gone()
			}
			th.saveSegments(&state.Regs)
			if fault.signo != 0 {
				if state.Regs.Rip != handlerAddr+2 {
					return platform.Event{}, th.gone()
				}
				return c.readFrame(th, state, &fault)
			}
			return syscallEvent(th, state)
		}
		if int(status>>16) == eventStop {
			continue
		}
		switch stop {
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL:
			var si sigInfo
			if getSigInfo(th.tid, &si) != 0 {
				return platform.Event{}, th.gone()
			}
			if si.code > 0 && fault.signo == 0 {
				if ev, ok, err := decodeFault(th, state, &si); ok || err != nil {
					return ev, err
				}
				fault = si
				sig = stop
			}
		case unix.SIGTRAP, unix.SIGSYS:
			var si sigInfo
			if getSigInfo(th.tid, &si) != 0 {
				return platform.Event{}, th.gone()
			}
			if si.code <= 0 || fault.signo != 0 {
				continue // sent from outside
			}
			if getRegs(th.tid, &state.Regs) != 0 {
				return platform.Event{}, th.gone()
			}
			th.saveSegments(&state.Regs)
			if stop == unix.SIGSYS {
				return vsyscallEvent(th, state, &si)
			}
			return trapEvent(&si), nil
		default:
			if fault.signo != 0 || !c.pending.Load() {
				// From outside; or a late Interrupt, whose flag has been
				// seen; or one that comes between a fault and its frame,
				// for which the next Switch will return.
				continue
			}
			c.pending.Store(false)
			if getRegs(th.tid, &state.Regs) != 0 {
				return platform.Event{}, th.gone()
			}
			th.saveSegments(&state.Regs)
			return platform.Event{Kind: platform.EventInterrupted}, nil
		}
	}
}

const auditArchX86_64 = 0xc000003e

// syscallEvent tells syscall instructions from int 0x80 and sysenter. The
// former leave Rip in RCX and the flags in R11; what looks like it can be taken
// for it.
func syscallEvent(th *thread, state *arch.State) (platform.Event, error) {
	r := &state.Regs
	if r.Rcx == r.Rip && r.Cs == arch.UserCs {
		return platform.Event{Kind: platform.EventSyscall}, nil
	}
	if abi, e := syscallArch(th.tid); e != 0 {
		return platform.Event{}, th.gone()
	} else if abi == auditArchX86_64 {
		return platform.Event{Kind: platform.EventSyscall}, nil
	}
	// A kernel without the 32-bit calls has no gate at vector 0x80: #GP with
	// the vector's index in the error code.
	r.Rax, r.OrigRax = r.OrigRax, ^uint64(0)
	r.Rip -= 2
	return platform.Event{
		Kind: platform.EventFault, Signo: int32(unix.SIGSEGV), Code: codeKernel,
		TrapNo: trapGeneralProtection, ErrorCode: 0x80<<3 | 2,
	}, nil
}

// Values of si_code, and exception vectors.
const (
	codeKernel = 0x80 // SI_KERNEL
	codeTrace  = 2    // TRAP_TRACE
	codeMapErr = 1    // SEGV_MAPERR
	codeAccErr = 2    // SEGV_ACCERR

	trapDebug             = 1
	trapBreakpoint        = 3
	trapGeneralProtection = 13
	trapPageFault         = 14
)

// trapEvent is a breakpoint or a single step; the rest of what a frame would
// say follows from si_code.
func trapEvent(si *sigInfo) platform.Event {
	ev := platform.Event{Kind: platform.EventFault, Signo: si.signo, Code: si.code, TrapNo: trapBreakpoint}
	if si.code != codeKernel {
		ev.TrapNo = trapDebug
		ev.Addr = usermem.Addr(si.addr)
	}
	return ev
}

// The vsyscall page.
const (
	vsyscallStart = 0xffffffffff600000
	vsyscallEnd   = vsyscallStart + 0x1000
	// Bits of a page fault's error code.
	pfPresent = 1 << 0
	pfWrite   = 1 << 1
	pfUser    = 1 << 2
	pfFetch   = 1 << 4
)

// vsyscallEvent undoes the return that the host's kernel has made for a call
// into the vsyscall page that the stub's filter refused.
func vsyscallEvent(th *thread, state *arch.State, si *sigInfo) (platform.Event, error) {
	if si.addr < vsyscallStart || si.addr >= vsyscallEnd {
		return platform.Event{}, th.gone()
	}
	state.Regs.Rip = si.addr
	state.Regs.Rsp -= 8
	return vsyscallFault(state.Regs.Rip), nil
}

func vsyscallFault(rip uint64) platform.Event {
	return platform.Event{
		Kind: platform.EventFault, Signo: int32(unix.SIGSEGV), Code: codeMapErr,
		Addr: usermem.Addr(rip), Access: usermem.Execute,
		TrapNo: trapPageFault, ErrorCode: pfUser | pfFetch,
	}
}

// noDecode has every fault's access come from the processor. Tests compare.
var noDecode atomic.Bool

// decodeFault makes an event of a page fault whose access can be seen from the
// instruction, which spares the signal frame. Should another thread change the
// instruction meanwhile, the application misleads itself.
func decodeFault(th *thread, state *arch.State, si *sigInfo) (platform.Event, bool, error) {
	if noDecode.Load() || si.signo != int32(unix.SIGSEGV) || si.code != codeMapErr && si.code != codeAccErr {
		return platform.Event{}, false, nil
	}
	r := &state.Regs
	if getRegs(th.tid, r) != 0 {
		return platform.Event{}, false, th.gone()
	}
	th.saveSegments(r)
	if r.Cs != arch.UserCs || r.Rip >= vsyscallStart {
		return platform.Event{}, false, nil
	}
	var how usermem.Access
	word, e := peekText(th.tid, r.Rip)
	switch {
	case si.addr == r.Rip || si.addr-r.Rip < maxInstruction:
		// It may be the fetch, or touch itself.
		if e == 0 || si.code != codeMapErr || si.addr != r.Rip {
			return platform.Event{}, false, nil
		}
		how = usermem.Execute
	case e != 0:
		return platform.Event{}, false, nil
	default:
		var code [8]byte
		binary.LittleEndian.PutUint64(code[:], word)
		var ok bool
		if how, ok = access(code[:]); !ok {
			return platform.Event{}, false, nil
		}
	}
	ev := platform.Event{
		Kind: platform.EventFault, Signo: si.signo, Code: si.code,
		Addr: usermem.Addr(si.addr), Access: how, TrapNo: trapPageFault, ErrorCode: pfUser,
	}
	switch how {
	case usermem.Write:
		ev.ErrorCode |= pfWrite
	case usermem.Execute:
		ev.ErrorCode |= pfFetch
	}
	if si.code == codeAccErr {
		ev.ErrorCode |= pfPresent
	}
	r.OrigRax = ^uint64(0)
	return ev, true, nil
}

// maxInstruction is the length of the longest instruction.
const maxInstruction = 15

// Places in a signal frame's ucontext (asm/ucontext.h, asm/sigcontext.h).
const (
	ucMcontext = 40
	ucSize     = 40 + 256
	// numbers of 8-byte words in struct sigcontext
	scRip, scEflags, scCsGsFsSs = 16, 17, 18
	scErr, scTrapno             = 19, 20
	scCr2, scFpstate            = 22, 23
)

// readFrame makes an event of the signal frame that the host wrote for a fault.
// The application may have changed it since.
func (c *context) readFrame(th *thread, state *arch.State, si *sigInfo) (platform.Event, error) {
	r := &state.Regs
	frame := th.proc.slotBytes(th.slot, r.Rdx, ucSize)
	if frame == nil {
		return platform.Event{}, th.gone()
	}
	var w [32]uint64
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(frame[ucMcontext+8*i:])
	}
	r.R8, r.R9, r.R10, r.R11 = w[0], w[1], w[2], w[3]
	r.R12, r.R13, r.R14, r.R15 = w[4], w[5], w[6], w[7]
	r.Rdi, r.Rsi, r.Rbp, r.Rbx = w[8], w[9], w[10], w[11]
	r.Rdx, r.Rax, r.Rcx, r.Rsp = w[12], w[13], w[14], w[15]
	r.Rip, r.Eflags = w[scRip], w[scEflags]
	r.Cs, r.Ss = w[scCsGsFsSs]&0xffff, w[scCsGsFsSs]>>48
	r.OrigRax = ^uint64(0)

	// The host has reset the vector registers for the handler.
	c.fpAt = nil
	c.fpPulled = true
	fp := th.proc.slotBytes(th.slot, w[scFpstate], uint64(len(state.FP)))
	if fp == nil {
		return platform.Event{}, th.gone()
	}
	copy(state.FP, fp)
	clear(state.FP[464:512]) // the frame's own notes
	arch.SanitizeFP(state.FP)

	ev := platform.Event{
		Kind: platform.EventFault, Signo: si.signo, Code: si.code,
		Addr: usermem.Addr(si.addr), TrapNo: w[scTrapno], ErrorCode: w[scErr],
	}
	if r.Rip >= vsyscallStart && r.Rip < vsyscallEnd && si.signo == int32(unix.SIGSEGV) {
		return vsyscallFault(r.Rip), nil
	}
	if si.signo == int32(unix.SIGSEGV) && (si.code == codeMapErr || si.code == codeAccErr) || ev.TrapNo == trapPageFault {
		switch {
		case ev.ErrorCode&pfFetch != 0:
			ev.Access = usermem.Execute
		case ev.ErrorCode&pfWrite != 0:
			ev.Access = usermem.Write
		default:
			ev.Access = usermem.Read
		}
	}
	return ev, nil
}

// loadFP loads state.FP into the thread.
func (c *context) loadFP(th *thread, state *arch.State) error {
	t := th.tracer
	if len(t.fp) == 0 {
		// PTRACE_SETREGSET wants an image of the host's whole size, which
		// may have parts that applications don't get.
		b := make([]byte, 16384)
		n, e := getFP(th.tid, b)
		if e != 0 {
			return th.gone()
		}
		t.fp = make([]byte, n)
	}
	arch.SanitizeFP(state.FP)
	copy(t.fp, state.FP)
	if setFP(th.tid, t.fp) != 0 {
		return th.gone()
	}
	th.fpOwner = c
	c.fpAt = &state.FP[0]
	c.fpPulled = true
	return nil
}

// pullFP makes state.FP current.
func (c *context) pullFP(state *arch.State) {
	th := c.thread
	if c.fpPulled || c.fpAt == nil || c.fpAt != &state.FP[0] || th.fpOwner != c {
		return
	}
	if _, e := getFP(th.tid, state.FP); e != 0 {
		th.gone()
	}
	c.fpPulled = true
}

// PullFP implements platform.Context.
func (c *context) PullFP(state *arch.State) {
	c.pullFP(state)
	c.fpAt = nil
}

// DropFP implements platform.Context.
func (c *context) DropFP() { c.fpAt = nil }

// Park implements platform.Context.
func (c *context) Park(state *arch.State) {
	if c.tracer == nil {
		return
	}
	c.pullFP(state)
	c.unlock()
}

// unlock gives the goroutine's thread back to the Go runtime.
func (c *context) unlock() {
	c.platform.spreader.freeTracer(c.tracer)
	c.tracer.current = nil
	c.tracer.leave()
	c.tracer = nil
	runtime.UnlockOSThread()
}

// Interrupt implements platform.Context.
func (c *context) Interrupt() {
	c.pending.Store(true)
	if th := c.running.Load(); th != nil {
		tgkill(th.proc.Leader, th.tid, interruptSignal)
	}
}

// Heed implements platform.Context.
func (c *context) Heed() {
	if c.pending.Load() {
		c.pending.Store(false)
	}
}

// Release implements platform.Context.
func (c *context) Release() {
	if c.tracer != nil {
		c.unlock()
	}
	c.platform.spreader.drop(c)
	c.thread = nil
}
