package ptrace

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform/stub"
)

// errLost says that a stub's process is gone, or does what a stub never does.
var errLost = errors.New("ptrace: the stub process is lost")

// tracer is a thread of the Sentry. Only it can make requests to the stub
// threads that it has attached to. Its fields belong to the goroutine that is
// locked to it.
type tracer struct {
	tid int
	// turn orders goroutines that come to this thread one after the other, in
	// the eyes of Go's memory model: each adds to it when it comes and when it
	// goes.
	turn atomic.Uint64
	// current is the context whose goroutine is locked to the thread, if any.
	current *context
	// fp is room for an XSAVE image of the host's whole size.
	fp []byte
	// cpu is the only CPU that the tracer may run on, or -1. Only its own
	// goroutine sets it to a CPU; the spreader may reset it.
	cpu atomic.Int32
	// seconds are its threads that aren't their stub's first, oldest first.
	seconds []*thread
}

// maxSeconds bounds tracer.seconds: a stub thread costs the host some memory,
// and there could be as many as there are pairs of stub and tracer.
const maxSeconds = 64

// thread is a stub's thread with its tracer. But for the atomic fields it
// belongs to the goroutine that is locked to the tracer.
type thread struct {
	proc   *process
	tracer *tracer
	tid    int
	slot   int

	// segments are FsBase to Gs as the thread has them.
	segments [6]uint64
	// fpOwner is the context whose vector state is in the thread.
	fpOwner *context
	// cpu is the only CPU that the thread may run on, or -1. The spreader
	// resets it.
	cpu atomic.Int32
	// ended says that its end was collected: the id may be another's by now.
	ended atomic.Bool
}

// process is a stub with its threads. addressSpace.mu guards it, or
// Platform.mu while it is in the pool.
type process struct {
	*stub.Process
	// threads are those that have a tracer.
	threads map[*tracer]*thread
	// spare are the ids of threads that nobody traces. There is always one:
	// only a stub's own thread can make another one.
	spare []int
	slots int // how many signal stacks have been given out
	lost  atomic.Bool
}

// adopt attaches t to a spare thread of p.
func (p *process) adopt(t *tracer) (*thread, error) {
	slot := p.slots
	if old := p.threads[t]; old != nil {
		slot = old.slot // it was dismissed
	} else {
		p.slots++
	}
	if len(p.spare) == 0 || slot >= maxSlots {
		return nil, fmt.Errorf("no thread left in the stub: %w", errLost)
	}
	t.dismiss()
	th := &thread{proc: p, tracer: t, tid: p.spare[0], slot: slot}
	th.cpu.Store(-1)
	// On the tracer's CPU from the first: waking it elsewhere costs more.
	th.place(getCPU())
	if e := ptrace(reqSeize, th.tid, 0, optSysGood|optExitKill); e != 0 {
		return nil, fmt.Errorf("attaching to a stub: %w (%w)", e, errLost)
	}
	p.spare = p.spare[1:]
	p.threads[t] = th
	if th.tid != p.Leader {
		t.seconds = append(t.seconds, th)
	}
	if e := ptrace(reqInterrupt, th.tid, 0, 0); e != 0 {
		return nil, fmt.Errorf("stopping a stub: %w (%w)", e, errLost)
	}
	if err := th.awaitStop(); err != nil {
		return nil, err
	}
	var regs arch.Registers
	if e := getRegs(th.tid, &regs); e != 0 {
		return nil, errLost
	}
	th.saveSegments(&regs)

	p.putAltStack(th.slot)
	regs = arch.Registers{R14: altStackAddr}
	if len(p.spare) > 0 {
		regs.Rip, regs.Rax, regs.Rdi = callAddr, unix.SYS_SIGALTSTACK, altStackAddr
	} else {
		regs.Rip, regs.Rax, regs.Rdi = spawnAddr, unix.SYS_CLONE, stub.ThreadFlags
	}
	spawn := len(p.spare) == 0
	if err := th.runStub(&regs); err != nil {
		return nil, err
	}
	if regs.Rax != 0 {
		return nil, fmt.Errorf("sigaltstack in a stub: %w (%w)", unix.Errno(-regs.Rax), errLost)
	}
	// From here on it takes signals; the new thread has the mask from before.
	if unblock(th.tid) != 0 {
		return nil, th.gone()
	}
	if spawn {
		if tid := int64(regs.R13); tid > 0 {
			p.spare = append(p.spare, int(tid))
		}
	}
	return th, nil
}

// dismiss makes room for another thread of t, if need be by having the oldest
// end. It stays in its process's table, to be replaced by whoever looks for it.
func (t *tracer) dismiss() {
	for len(t.seconds) >= maxSeconds {
		th := t.seconds[0]
		t.seconds = t.seconds[1:]
		if t.current != nil && t.current.thread == th {
			// Vector state may be in it, as in no other.
			t.seconds = append(t.seconds, th)
			continue
		}
		if th.ended.Load() || th.proc.lost.Load() {
			continue
		}
		regs := arch.Registers{Rip: callAddr, Rax: unix.SYS_EXIT, Cs: arch.UserCs, Ss: arch.UserDs, Eflags: arch.FlagIF, OrigRax: ^uint64(0)}
		if setRegs(th.tid, &regs, generalSize) != 0 {
			th.gone()
			continue
		}
		status, e := unix.WaitStatus(0), ptrace(reqCont, th.tid, 0, 0)
		for e == 0 {
			if status, e = wait(th.tid); e != 0 || !status.Stopped() {
				break
			}
			e = ptrace(reqCont, th.tid, 0, 0) // a signal from outside
		}
		th.ended.Store(true)
		if e != 0 || !status.Exited() {
			th.gone()
		}
	}
}

func (th *thread) saveSegments(r *arch.Registers) {
	th.segments = [6]uint64{r.FsBase, r.GsBase, r.Ds, r.Es, r.Fs, r.Gs}
}

// setRegs loads registers, which are sane, into the thread.
func (th *thread) setRegs(r *arch.Registers) unix.Errno {
	size := uintptr(generalSize)
	if th.segments != [6]uint64{r.FsBase, r.GsBase, r.Ds, r.Es, r.Fs, r.Gs} {
		size = regsSize
		th.saveSegments(r)
	}
	return setRegs(th.tid, r, size)
}

// gone notes that the thread, and with it the process, is no more.
func (th *thread) gone() error {
	th.proc.lost.Store(true)
	return errLost
}

// resume lets the thread go on with req and waits until it stops.
func (th *thread) resume(req int, sig unix.Signal) (unix.WaitStatus, error) {
	if e := ptrace(req, th.tid, 0, uintptr(sig)); e != 0 {
		// Killed: there is a status to collect, which destroy does.
		return 0, th.gone()
	}
	return th.await()
}

func (th *thread) await() (unix.WaitStatus, error) {
	status, e := wait(th.tid)
	if e != 0 || !status.Stopped() {
		th.ended.Store(true)
		return 0, th.gone()
	}
	return status, nil
}

// reap collects the end of a thread whose process was killed. Any thread of the
// Sentry may do it.
func (th *thread) reap() {
	for !th.ended.Load() {
		// Stops may come before the end.
		if status, e := wait(th.tid); e != 0 || !status.Stopped() {
			th.ended.Store(true)
		}
	}
}

// kill ends the process.
func (p *process) kill() {
	p.lost.Store(true)
	for _, th := range p.threads {
		if th.tid == p.Leader && th.ended.Load() {
			return
		}
	}
	unix.Kill(p.Leader, unix.SIGKILL)
}

// awaitStop waits for the stop that PTRACE_INTERRUPT asks for. Signals that
// come before it are dropped.
func (th *thread) awaitStop() error {
	status, err := th.await()
	for err == nil && int(status>>16) != eventStop {
		status, err = th.resume(reqCont, 0)
	}
	return err
}

// runStub runs the stub's own code with regs until it traps, with system calls
// that are real, and updates regs. The segments stay as they are.
func (th *thread) runStub(regs *arch.Registers) error {
	regs.Cs, regs.Ss, regs.Eflags, regs.OrigRax = arch.UserCs, arch.UserDs, 1<<1|arch.FlagIF, ^uint64(0)
	if e := setRegs(th.tid, regs, generalSize); e != 0 {
		return th.gone()
	}
	for {
		status, err := th.resume(reqCont, 0)
		if err != nil {
			return err
		}
		switch sig := status.StopSignal(); {
		case int(status>>16) == eventStop:
			continue
		case sig == unix.SIGTRAP:
			var si sigInfo
			if getSigInfo(th.tid, &si) != 0 {
				return th.gone()
			}
			if si.code <= 0 {
				continue // sent by somebody
			}
			if getRegs(th.tid, regs) != 0 {
				return th.gone()
			}
			return nil
		case sig == unix.SIGSYS, sig == unix.SIGSEGV, sig == unix.SIGBUS, sig == unix.SIGILL:
			return th.gone()
		}
		// A signal from outside, or a late Interrupt.
	}
}

// Run implements stub.Runner: one call with its arguments in registers, several
// by way of the command page.
func (th *thread) Run(commands []stub.Command) (done int, errno unix.Errno, err error) {
	if len(commands) == 1 {
		c := &commands[0]
		regs := arch.Registers{
			Rip: callAddr, Rax: c.Nr,
			Rdi: c.Args[0], Rsi: c.Args[1], Rdx: c.Args[2], R10: c.Args[3], R8: c.Args[4], R9: c.Args[5],
		}
		if err := th.runStub(&regs); err != nil {
			return 0, 0, err
		}
		if regs.Rax > ^uint64(4095) {
			return 0, unix.Errno(-regs.Rax), nil
		}
		return 1, 0, nil
	}
	n := min(len(commands), maxCommands)
	for i := range n {
		th.proc.putCommand(i, &commands[i])
	}
	regs := arch.Registers{Rip: batchAddr, Rbx: stub.CommandAddr, R12: uint64(n)}
	if err := th.runStub(&regs); err != nil {
		return 0, 0, err
	}
	left := int(regs.R12)
	if left < 0 || left > n {
		return 0, 0, th.gone()
	}
	if left > 0 {
		errno = unix.Errno(-regs.Rax)
	}
	return n - left, errno, nil
}

// place binds the thread to a CPU.
func (th *thread) place(cpu int) {
	if int(th.cpu.Load()) != cpu {
		setAffinity(th.tid, oneCPU(cpu))
		th.cpu.Store(int32(cpu))
	}
}
