package systrap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
)

// errLost says that a stub's process is gone, or does what a stub never does.
var errLost = errors.New("systrap: the stub process is lost")

// errFull says that a stub has as many threads as it can.
var errFull = errors.New("systrap: too many threads in a stub")

// process is a stub. What the memory thread is told is guarded by
// addressSpace.mu, or belongs to the goroutine that makes the process.
type process struct {
	*stub.Process
	event report
	pidfd int
	// memoryCPU is the only CPU that the memory thread runs on, or -1.
	memoryCPU int
	slots     int  // how many are used
	clocks    bool // the clocks' page is mapped

	lost atomic.Bool
	// released: nobody uses it, and what the Sentry sees of it may go.
	released atomic.Bool

	kept atomic.Int32 // how many areas belong to contexts without a thread

	hot atomic.Pointer[thread] // one without a context, that looks for its next command; not in free

	mu      locks.Mutex[locks.StubThreads]
	free    []*thread // those without a context
	threads []*thread // all
	areas   []*area   // those without a context
	gone    bool      // the process has ended
	done    func()    // is called then, or nil
}

// report is an eventfd that a memory thread reports to, with its number in the
// stubs.
type report struct{ fd, there int }

// maxReports is how many are kept for the next stubs.
const maxReports = 16

// newReport returns one that nobody has.
func (p *Platform) newReport() (report, error) {
	p.mu.Lock()
	if n := len(p.reports); n > 0 {
		r := p.reports[n-1]
		p.reports = p.reports[:n-1]
		p.mu.Unlock()
		return r, nil
	}
	p.mu.Unlock()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return report{}, fmt.Errorf("an eventfd for a stub: %w", err)
	}
	there, err := p.factory.Take(fd)
	if err != nil {
		unix.Close(fd)
	}
	return report{fd, there}, err
}

// putReport takes back one that nobody writes to any more.
func (p *Platform) putReport(r report) {
	var b [8]byte
	b[0] = 1
	unix.Write(r.fd, b[:]) // for the read not to block
	unix.Read(r.fd, b[:])
	p.mu.Lock()
	if len(p.reports) < maxReports {
		p.reports = append(p.reports, r)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.factory.Forget(r.fd)
	unix.Close(r.fd)
}

// newProcess makes a stub with one thread for application code.
func (p *Platform) newProcess() (*process, error) {
	event, err := p.newReport()
	if err != nil {
		return nil, err
	}
	proc := &process{event: event, pidfd: -1, memoryCPU: -1}
	var th *thread
	proc.Process, err = p.factory.NewProcess(func(s *stub.Process) {
		proc.Process = s
		binary.LittleEndian.PutUint64(s.Commands()[cmdEvent:], uint64(event.there))
		var ar *area
		th, ar = proc.newThread()
		proc.areas = append(proc.areas, ar)
	})
	if err != nil {
		p.putReport(event)
		return nil, err
	}
	proc.threads, th.tid = append(proc.threads, th), proc.Second
	if proc.pidfd, err = unix.PidfdOpen(proc.Leader, 0); err == nil {
		err = p.watcher.add(proc)
	}
	if err != nil {
		// Nobody will hear of its end: what it has is never used again.
		unix.Kill(proc.Leader, unix.SIGKILL)
		return nil, fmt.Errorf("watching a stub: %w", err)
	}
	if err := th.await(); err != nil {
		p.destroy(proc)
		return nil, err
	}
	proc.free = append(proc.free, th)
	p.mapClocks(proc)
	return proc, nil
}

// letGo lets the threads of a stub that nobody uses run anywhere.
func (p *process) letGo(all *cpuSet) {
	if p.memoryCPU >= 0 {
		setAffinity(p.Leader, all)
	}
	for _, th := range p.threads {
		if th.place.cpu >= 0 {
			setAffinity(th.tid, all)
		}
	}
}

// destroy ends a stub that nobody uses.
func (p *Platform) destroy(proc *process) {
	p.spinners.drop(proc)
	proc.kill()
	proc.mu.Lock()
	proc.released.Store(true)
	gone := proc.gone
	proc.mu.Unlock()
	if gone {
		p.reclaim(proc)
	}
}

// kill ends the process. The watcher hears of it.
func (p *process) kill() {
	p.lost.Store(true)
	// A pidfd never means another process.
	unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
}

// ended is called by the watcher when the process is gone.
func (p *Platform) ended(proc *process) {
	proc.lost.Store(true)
	proc.wake()
	proc.mu.Lock()
	proc.gone = true
	released := proc.released.Load()
	done := proc.done
	proc.mu.Unlock()
	if released {
		p.reclaim(proc)
	}
	if done != nil {
		done()
	}
}

// atEnd has done called when the process has ended, or reports that it has.
func (p *process) atEnd(done func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return false
	}
	p.done = done
	return true
}

// wake has everybody who waits for the process look again.
func (p *process) wake() {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], reportLost)
	unix.Write(p.event.fd, b[:])
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, th := range p.threads {
		futexWake(&th.shared.event)
	}
}

// Run implements stub.Runner. Caller holds addressSpace.mu.
func (p *process) Run(commands []stub.Command) (done int, errno unix.Errno, err error) {
	if p.lost.Load() {
		return 0, 0, errLost
	}
	n := min(len(commands), maxCommands)
	page := p.Commands()
	le := binary.LittleEndian
	for i := range n {
		b := page[cmdList+i*commandSize:][:commandSize]
		le.PutUint64(b, commands[i].Nr)
		for j, a := range commands[i].Args {
			le.PutUint64(b[8+8*j:], a)
		}
	}
	le.PutUint64(page[cmdCount:], uint64(n))
	// On this CPU, which is free as soon as the report is waited for: waking a
	// thread on another costs several times more.
	if cpu := currentCPU(); cpu != p.memoryCPU {
		p.memoryCPU = cpu
		setAffinity(p.Leader, oneCPU(cpu))
	}
	number := wordAt(page[cmdNumber:])
	number.Add(1)
	futexWake(number)

	var report uint64
	for report&reportDone == 0 {
		var b [8]byte
		if _, err := unix.Read(p.event.fd, b[:]); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, 0, errLost
		}
		report += le.Uint64(b[:])
		if report >= reportLost {
			return 0, 0, errLost
		}
	}
	left := int(report >> reportLeft & 0xffff)
	if left > n {
		return 0, 0, errLost
	}
	return n - left, unix.Errno(report >> reportErrno & 0xff), nil
}

// thread is a stub's thread for application code. It belongs to the context
// that has taken it, but for the atomic fields.
type thread struct {
	proc   *process
	slot   []byte // stack and shared page
	shared *shared
	base   uint64 // of the slot in the stub
	tid    int

	number uint32 // of the last command
	// fpOwner is the context whose vector state the thread loads next, or has.
	fpOwner *context
	// fsBase and gsBase are those that the thread has.
	fsBase, gsBase uint64
	// as and age are what c.call will say of a call that ends the command.
	as  *addressSpace
	age uint32
	// answers is what was written for its slot last, but for NoAnswers, and
	// index the slot's number.
	answers *platform.Answers
	index   int
	// live says that its vector registers are still those of fpOwner.
	live bool
	// load and result are for shared.
	load   uint32
	result uint64

	place placement
	// interrupted says that a signal was sent since the last command.
	interrupted atomic.Bool
}

// newThread prepares the next slot, and the memory thread's page for it. Caller
// holds addressSpace.mu or is making p, and puts the thread into p.threads and the
// area, which comes with it, into p.areas.
func (p *process) newThread() (*thread, *area) {
	i := p.slots
	p.slots++
	th := &thread{proc: p, base: stub.SlotsAddr + uint64(i)*slotSize, number: 1, index: i, place: placement{mode: together, cpu: -1}}
	th.slot = p.Slots()[i*slotSize : (i+1)*slotSize]
	th.shared = sharedAt(th.slot[stackSize:])
	th.shared.command.Store(uint64(th.number)) // the one that its start ends
	// stack_t: the address, no flags, the size.
	le := binary.LittleEndian
	stack := p.Commands()[cmdStack:]
	le.PutUint64(stack[0:], th.base)
	le.PutUint64(stack[8:], 0)
	le.PutUint64(stack[16:], stackSize)
	return th, p.newArea(i*slotSize + stackSize + ctxFPArea)
}

// spawn makes another thread. Caller holds addressSpace.mu.
func (p *process) spawn() (*thread, error) {
	if p.slots == maxSlots {
		return nil, errFull
	}
	th, ar := p.newThread()
	p.mu.Lock()
	p.areas = append(p.areas, ar)
	p.threads = append(p.threads, th)
	p.mu.Unlock()
	_, errno, err := p.Run([]stub.Command{{Nr: ^uint64(0), Args: [6]uint64{th.base + stackSize}}})
	if err != nil {
		return nil, err
	}
	if errno != 0 {
		return nil, fmt.Errorf("a thread in a stub: %w", errno)
	}
	if err := th.await(); err != nil {
		return nil, err
	}
	th.tid = int(th.shared.tid)
	// It may lie: but then it is another one of its stub.
	if e := tgkill(p.Leader, th.tid, 0); e != 0 {
		p.kill()
		return nil, errLost
	}
	return th, nil
}

// resume has the thread carry out a new command, and look for the next one spin times
// before it sleeps.
func (th *thread) resume(spin int) {
	th.number++
	s := th.shared
	s.result, s.load, s.spin = th.result, th.load, uint32(spin)
	s.command.Swap(uint64(th.number))
	if s.stubSleeps.Load() != 0 {
		futexWake(lowHalf(&s.command))
	}
}

// rest has the thread sleep until its next command.
func (th *thread) rest() { highHalf(&th.shared.command).Store(1) }

// inStack returns length bytes at the stub's address addr, or nil where they
// aren't on the thread's signal stack.
func (th *thread) inStack(addr, length uint64) []byte {
	off := addr - th.base
	if off > stackSize || length > stackSize-off {
		return nil
	}
	return th.slot[off : off+length : off+length]
}

func oneCPU(cpu int) *cpuSet {
	var set cpuSet
	set[cpu/64%len(set)] = 1 << (cpu % 64)
	return &set
}
