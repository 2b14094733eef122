package systrap

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// context implements platform.Context.
type context struct {
	platform *Platform

	// pending says that Interrupt was called and no Switch has returned for
	// it; running is the thread that executes application code. Interrupt
	// sets pending before it looks at running, Switch sets running before it
	// looks at pending: one of them sees the other.
	pending atomic.Bool
	running atomic.Pointer[thread]
	// asked is when a signal was sent to the running thread, or zero.
	asked atomic.Int64

	active bool    // counted in platform.active
	thread *thread // that the context has taken, or nil
	last   *thread // the last one
	// server is the thread of the Sentry that was bound for it last, and sleeps is
	// since when that and the stub's are bound, or zero: see looser.
	server atomic.Pointer[server]
	sleeps atomic.Int64
	// fpAt is where the state is whose vector registers are in the stub, or nil if
	// they must be loaded. fpPulled says that state.FP is as current. fp is where
	// in the stub they are, inArea that this is the area (see vectors.go), and kept
	// that the context has that without a thread.
	fpAt     *byte
	fpPulled bool
	fp       []byte
	inArea   bool
	area     *area
	kept     bool

	// call is the last system call if it came by way of a trampoline, tails where
	// earlier ones went on, and calls counts those that came otherwise.
	call  handedCall
	tails [8]tail
	calls callCounts
	// turn counts the calls of Switch.
	turn atomic.Uint32

	answers answering
}

// Switch implements platform.Context.
func (c *context) Switch(as platform.AddressSpace, state *arch.State) (platform.Event, error) {
	a := as.(*addressSpace)
	if c.pending.Load() && c.pending.Swap(false) {
		return platform.Event{Kind: platform.EventInterrupted}, nil
	}
	if !c.active {
		c.active = true
		c.platform.active.Add(1)
	}
	a.running.Add(1)
	defer a.running.Add(-1)
	if a.mappings.Queued() {
		a.mu.Lock()
		err := a.flush()
		a.mu.Unlock()
		if err != nil {
			return platform.Event{}, err
		}
	}
	th := c.held()
	if th == nil || th.proc != a.proc {
		var err error
		if th, err = c.takeThread(a, state); err == errFull {
			// Somebody else's will become free.
			time.Sleep(time.Millisecond)
			return platform.Event{Kind: platform.EventInterrupted}, nil
		} else if err != nil {
			return platform.Event{}, err
		}
	}
	if v := &state.Vectors; v.Do != 0 && v.Addr > uint64(stub.UserEnd)-2*areaSize {
		return platform.Event{Kind: platform.EventFrame}, nil
	}
	switch {
	case state.Vectors.Do == arch.FrameLoad:
		th.shared.fp = state.Vectors.Addr
		th.fpOwner, c.fpAt = c, &state.FP[0]
	case c.fpAt == &state.FP[0] && th.fpOwner == c:
	case c.fpAt == &state.FP[0] && c.inArea:
		if c.area.saver == th {
			c.area.saver = nil // it looks for another command when it has saved them
		}
		c.area.await(c.platform.watchdog.limit)
		c.pointAt(th)
	default:
		c.loadFP(th, state)
	}
	c.fpPulled = false
	state.Regs.Sanitize()
	if rip := state.Regs.Rip; rip >= taskEnd && rip < kernelStart {
		return generalProtection(), nil
	}

	c.turn.Add(1)
	c.answered(th)
	c.running.Store(th)
	defer func() {
		c.running.Store(nil)
		a.left()
		c.answered(th)
	}()
	for {
		if c.pending.Load() && c.pending.Swap(false) {
			return platform.Event{Kind: platform.EventInterrupted}, nil
		}
		c.giveAnswers(th)
		c.setRegs(a, th, state)
		if err := c.handOver(th); err != nil {
			return platform.Event{}, err
		}
		ev, again, err := c.event(th, state)
		if err != nil {
			th.proc.kill()
			return platform.Event{}, err
		}
		if !again {
			return ev, nil
		}
	}
}

// answered forgets that th was sent a signal: it has come, or nobody waits for it.
// An Interrupt that saw th run may say otherwise after Switch has returned, which is
// why it is forgotten before th runs again, too; and before pending is looked at,
// for an Interrupt sends no second signal.
func (c *context) answered(th *thread) {
	if c.asked.Load() != 0 {
		c.asked.Store(0)
	}
	if th.interrupted.Load() {
		th.interrupted.Store(false)
	}
}

// takeThread finds a thread for c in a.
func (c *context) takeThread(a *addressSpace, state *arch.State) (*thread, error) {
	if c.held() != nil {
		// Vector state that is still in the other stub is lost unless it is
		// fetched now, for the one state that it belongs to.
		c.pullFP(state)
		c.drop()
	}
	if c.area != nil && c.area.proc != a.proc {
		c.pullFP(state)
		c.fpAt = nil
	}
	th, err := a.take(c.last)
	if err != nil {
		return nil, err
	}
	if th != c.last {
		if !c.inArea {
			c.fpAt = nil
		}
		if th.fpOwner == c {
			th.fpOwner = nil // it has what c was when it left for the last one
		}
	}
	c.thread, c.last = th, th
	if err := c.takeArea(a); err != nil {
		c.drop()
		return nil, err
	}
	th.shared.area = c.area.addr
	return th, nil
}

// held returns the context's thread, or nil where it has none, or none any more:
// its address space was released.
func (c *context) held() *thread {
	if c.thread != nil && c.thread.proc.released.Load() {
		c.thread, c.last = nil, nil
		c.area, c.inArea, c.kept = nil, false, false
	}
	return c.thread
}

// drop gives the thread back.
func (c *context) drop() {
	th := c.thread
	c.thread = nil
	th.proc.giveBack(th)
}

// Addresses between these aren't canonical, or nobody's.
const (
	taskEnd     = 0x800000000000
	kernelStart = 0xffff800000000000
)

// setRegs writes the registers to load. c is seen to be running.
func (c *context) setRegs(a *addressSpace, th *thread, state *arch.State) {
	r := &state.Regs
	rip, same := c.returnTo(a, th, r)
	live := th.live
	th.live = false
	if same && state.Vectors.Do == 0 {
		th.result, th.load = r.Rax, loadResult
		return
	}
	gs := r.GsBase
	if gs == 0 {
		gs = th.sharedAddr()
	}
	th.shared.regs = [22]uint64{
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15, r.Rdi, r.Rsi, r.Rbp, r.Rbx,
		r.Rdx, r.Rax, r.Rcx, r.Rsp, rip, r.Eflags, r.Cs, r.Ss, r.FsBase, gs,
	}
	switch {
	case state.Vectors.Do == arch.FrameLoad:
		th.load = loadFrame
	case live:
		th.load = 0
	case c.inArea:
		th.load = loadVectors | loadArea
	default:
		th.load = loadVectors
	}
	if state.Vectors.Do == arch.FrameSave {
		th.load |= saveFrame
		th.shared.frameAt = state.Vectors.Addr
	}
	if r.FsBase != th.fsBase {
		th.load |= loadFS
		th.fsBase = r.FsBase
	}
	if r.GsBase == 0 && r.Cs == arch.UserCs && r.Eflags&^jumpFlags == 0 {
		th.load |= loadJump
	}
	if gs != th.gsBase {
		th.load |= loadGS
		th.gsBase = gs
	}
}

// jumpFlags are those that popfq may set on the way to the application.
const jumpFlags = arch.FlagCF | 1<<1 | arch.FlagPF | arch.FlagAF | arch.FlagZF | arch.FlagSF | arch.FlagIF | arch.FlagDF | arch.FlagOF

// forgetBases says that it isn't known which segment bases the thread has: it was
// interrupted before or after it has loaded what it was told to.
func (th *thread) forgetBases() {
	const none = ^uint64(0) // no application has it: Registers.Sanitize
	th.fsBase, th.gsBase = none, none
}

// event makes an event of what th has posted. It reports again where the thread
// is to be resumed as it is.
func (c *context) event(th *thread, state *arch.State) (ev platform.Event, again bool, err error) {
	c.area.saver = nil
	switch th.shared.kind {
	case kindSignal:
		state.Vectors = arch.FrameVectors{}
		return c.signal(th, state)
	case kindInterrupted:
		th.forgetBases()
		if c.pending.Swap(false) {
			return platform.Event{Kind: platform.EventInterrupted}, false, nil
		}
		c.answered(th) // a late one
		return ev, true, nil
	case kindCall:
		state.Vectors = arch.FrameVectors{}
		c.answers.not = false
		c.handedOver(th, state)
		return platform.Event{Kind: platform.EventSyscall}, false, nil
	case kindRefused:
		th.forgetBases()
		if state.Vectors.Do != 0 {
			return platform.Event{Kind: platform.EventFrame}, false, nil
		}
		return generalProtection(), false, nil
	}
	return ev, false, errLost
}

// Values of si_code, exception vectors, and bits of a page fault's error code.
const (
	codeKernel   = 0x80 // SI_KERNEL
	codeMapErr   = 1    // SEGV_MAPERR
	codeAccErr   = 2    // SEGV_ACCERR
	codeSeccomp  = 1    // SYS_SECCOMP
	codeDispatch = 2    // SYS_USER_DISPATCH

	trapDebug             = 1
	trapBreakpoint        = 3
	trapGeneralProtection = 13
	trapPageFault         = 14

	pfWrite = 1 << 1
	pfUser  = 1 << 2
	pfFetch = 1 << 4

	auditArchX86_64 = 0xc000003e

	vsyscallStart = 0xffffffffff600000
	vsyscallEnd   = vsyscallStart + 0x1000
)

func generalProtection() platform.Event {
	return platform.Event{Kind: platform.EventFault, Signo: int32(unix.SIGSEGV), Code: codeKernel, TrapNo: trapGeneralProtection}
}

func vsyscallFault(rip uint64) platform.Event {
	return platform.Event{
		Kind: platform.EventFault, Signo: int32(unix.SIGSEGV), Code: codeMapErr,
		Addr: usermem.Addr(rip), Access: usermem.Execute,
		TrapNo: trapPageFault, ErrorCode: pfUser | pfFetch,
	}
}

// Places in struct ucontext (asm/ucontext.h), in 8-byte words from struct
// sigcontext on (asm/sigcontext.h), and in siginfo_t.
const (
	ucMcontext = 40
	ucSize     = ucMcontext + 24*8

	scRip, scEflags, scCsGsFsSs = 16, 17, 18
	scErr, scTrapno             = 19, 20

	infoSize = 32
)

// signal makes an event of a signal frame. The application may have written
// anything into it.
func (c *context) signal(th *thread, state *arch.State) (ev platform.Event, again bool, err error) {
	s := th.shared
	frame := th.inStack(s.frame, ucSize)
	info := th.inStack(s.info, infoSize)
	fp := th.inStack(s.fp, uint64(len(state.FP)))
	if frame == nil || info == nil || fp == nil {
		return ev, false, errLost
	}
	le := binary.LittleEndian
	var w [21]uint64
	for i := range w {
		w[i] = le.Uint64(frame[ucMcontext+8*i:])
	}
	r := &state.Regs
	r.R8, r.R9, r.R10, r.R11 = w[0], w[1], w[2], w[3]
	r.R12, r.R13, r.R14, r.R15 = w[4], w[5], w[6], w[7]
	r.Rdi, r.Rsi, r.Rbp, r.Rbx = w[8], w[9], w[10], w[11]
	r.Rdx, r.Rax, r.Rcx, r.Rsp = w[12], w[13], w[14], w[15]
	r.Rip, r.Eflags = w[scRip], w[scEflags]
	r.Cs, r.Ss = w[scCsGsFsSs]&0xffff, w[scCsGsFsSs]>>48
	r.OrigRax = ^uint64(0)
	r.FsBase, r.GsBase = s.fsBase, s.gsBase
	th.fsBase, th.gsBase = r.FsBase, r.GsBase
	if r.GsBase == th.sharedAddr() {
		r.GsBase = 0
	}
	c.fp, c.inArea = fp, false

	signo, code, addr := int32(s.signo), int32(le.Uint32(info[8:])), le.Uint64(info[16:])
	switch unix.Signal(signo) {
	case unix.SIGSYS:
		c.answers.not = false
		ev, err = syscallEvent(r, code, addr, int32(le.Uint32(info[24:])), le.Uint32(info[28:]))
		// With a base of its own in GS its trampolines would be of no use.
		ev.Rewrite = ev.Kind == platform.EventSyscall && r.GsBase == 0 && c.platform.rewrites && c.calls.often(addr)
		return ev, false, err
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP:
		if code <= 0 {
			return ev, true, nil // sent from outside
		}
		if th.leaveEntry(r) {
			c.answers.not = true
			touched := faultEvent(r, signo, code, addr, w[scTrapno], w[scErr])
			return platform.Event{Kind: platform.EventInterrupted, Addr: touched.Addr, Access: touched.Access}, false, nil
		}
		return faultEvent(r, signo, code, addr, w[scTrapno], w[scErr]), false, nil
	case interruptSignal:
		th.notAnswered(r)
		if c.pending.Swap(false) {
			return platform.Event{Kind: platform.EventInterrupted}, false, nil
		}
		c.answered(th) // a late one
		return ev, true, nil
	}
	return ev, false, errLost
}

// syscallEvent is for a system call that the host didn't make. The kernel has put
// the number back into rax.
func syscallEvent(r *arch.Registers, code int32, addr uint64, number int32, abi uint32) (platform.Event, error) {
	switch {
	case code != codeSeccomp && code != codeDispatch:
		return platform.Event{}, errLost
	case addr >= vsyscallStart && addr < vsyscallEnd:
		// The kernel has made the return of a call into the vsyscall page.
		r.Rip = addr
		r.Rsp -= 8
		return vsyscallFault(addr), nil
	case abi != auditArchX86_64:
		// A kernel without the 32-bit calls has no gate at vector 0x80: #GP with
		// the vector's index in the error code.
		r.Rip -= 2
		ev := generalProtection()
		ev.ErrorCode = 0x80<<3 | 2
		return ev, nil
	}
	r.Rip = addr
	switch number {
	case -512, -513, -514, -516:
		// A number that looks like a call to be restarted: the kernel has
		// treated it as one before it made the frame.
		r.Rax = uint64(int64(number))
	}
	r.OrigRax = r.Rax
	return platform.Event{Kind: platform.EventSyscall}, nil
}

func faultEvent(r *arch.Registers, signo, code int32, addr, trap, errorCode uint64) platform.Event {
	ev := platform.Event{
		Kind: platform.EventFault, Signo: signo, Code: code,
		Addr: usermem.Addr(addr), TrapNo: trap, ErrorCode: errorCode,
	}
	switch {
	case r.Rip >= vsyscallStart && r.Rip < vsyscallEnd && signo == int32(unix.SIGSEGV):
		return vsyscallFault(r.Rip)
	case signo == int32(unix.SIGTRAP):
		// The rest of what a frame would say follows from si_code.
		ev.TrapNo, ev.ErrorCode = trapBreakpoint, 0
		if code == codeKernel {
			ev.Addr = 0
		} else {
			ev.TrapNo = trapDebug
		}
	case signo == int32(unix.SIGSEGV) && (code == codeMapErr || code == codeAccErr) || trap == trapPageFault:
		switch {
		case errorCode&pfFetch != 0:
			ev.Access = usermem.Execute
		case errorCode&pfWrite != 0:
			ev.Access = usermem.Write
		default:
			ev.Access = usermem.Read
		}
	}
	return ev
}

// Park implements platform.Context.
func (c *context) Park(state *arch.State) {
	if !c.active {
		return
	}
	c.active = false
	c.platform.active.Add(-1)
	if c.platform.cpus.count > 1 && !c.platform.othersWait() {
		c.bind(-1)
	}
	if c.held() != nil {
		if !c.inArea {
			c.pullFP(state)
		}
		if !c.keep() {
			c.pullFP(state)
			c.thread.fpOwner = nil
			c.giveArea()
		}
		c.drop()
	}
}

// Interrupt implements platform.Context.
func (c *context) Interrupt() {
	c.pending.Store(true)
	th := c.running.Load()
	if th == nil || th.interrupted.Swap(true) {
		return
	}
	c.asked.CompareAndSwap(0, time.Now().UnixNano())
	c.platform.watchdog.arm()
	tgkill(th.proc.Leader, th.tid, interruptSignal)
}

// Heed implements platform.Context.
func (c *context) Heed() {
	if c.pending.Load() {
		c.pending.Store(false)
	}
}

// Release implements platform.Context.
func (c *context) Release() {
	if c.active {
		c.active = false
		c.platform.active.Add(-1)
		if c.platform.cpus.count > 1 {
			c.bind(-1)
		}
	}
	if c.held() != nil {
		c.drop()
	}
	if c.area != nil && !c.area.proc.released.Load() {
		c.giveArea()
	}
	c.last = nil
	c.platform.watchdog.drop(c)
}
