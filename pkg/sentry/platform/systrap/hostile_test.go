package systrap

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
	"vitrine/pkg/usermem"
)

// file is a memfd of one page.
type file struct {
	fd int
	b  []byte
}

func (f *file) FD() int { return f.fd }

const codeAt, stackAt = 0x10000000, 0x20000000

// world is an address space with a page of code, a page of stack and a context.
type world struct {
	p           *Platform
	as          *addressSpace
	code, stack *file
	c           *context
	s           *arch.State
}

func newWorld(t *testing.T, p *Platform, code []byte) *world {
	t.Helper()
	w := &world{p: p, s: arch.NewState()}
	for _, f := range []**file{&w.code, &w.stack} {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Ftruncate(fd, usermem.PageSize); err != nil {
			t.Fatal(err)
		}
		b, err := unix.Mmap(fd, 0, usermem.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		*f = &file{fd, b}
	}
	copy(w.code.b, code)
	as, err := p.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	w.as = as.(*addressSpace)
	if err := as.MapFile(codeAt, w.code, 0, usermem.PageSize, usermem.Read|usermem.Execute, false); err != nil {
		t.Fatal(err)
	}
	if err := as.MapFile(stackAt, w.stack, 0, usermem.PageSize, usermem.ReadWrite, false); err != nil {
		t.Fatal(err)
	}
	w.c = p.NewContext().(*context)
	w.s.Exec(codeAt, stackAt+2048)
	t.Cleanup(func() {
		w.c.Park(w.s)
		w.c.Release()
		w.as.Release()
		for _, f := range []*file{w.code, w.stack} {
			p.Forget(f.fd)
			unix.Munmap(f.b)
			unix.Close(f.fd)
		}
	})
	return w
}

// syscallsIn returns the addresses of the syscall instructions in the stub's code.
func syscallsIn(t *testing.T) (addrs []uint64) {
	t.Helper()
	prog, err := program()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < offNoSignals; i++ {
		if prog.Code[i] == 0x0f && prog.Code[i+1] == 0x05 {
			addrs = append(addrs, stub.PlatformCode+uint64(i))
		}
	}
	return addrs
}

// The application can jump to each syscall instruction of the stub, with any
// registers. What it then does must come to the Sentry, but for the few calls
// that threads for application code may make.
func TestJumpsIntoTheStubMakeNoHostCalls(t *testing.T) {
	p := start(t)
	sites := syscallsIn(t)
	if len(sites) < 10 {
		t.Fatalf("found only %d sites", len(sites))
	}
	for _, site := range sites {
		for nr := range uint64(470) {
			switch nr {
			case unix.SYS_FUTEX, unix.SYS_RT_SIGRETURN:
				continue
			case unix.SYS_SCHED_YIELD:
				if site >= entryAddr && site < answerAddr {
					continue
				}
			case 335, 336:
				// uretprobe(2) and uprobe(2): the kernel lets them pass by every
				// filter, and does nothing for callers that aren't its own code.
				continue
			}
			tryJump(t, p, site, nr, arch.Registers{})
		}
		// Those that the memory thread and the factory make, as they do.
		tryJump(t, p, site, unix.SYS_MMAP, arch.Registers{Rdi: 0x30000000, Rsi: 4096, Rdx: 7, R10: unix.MAP_SHARED | unix.MAP_FIXED, R8: 2})
		tryJump(t, p, site, unix.SYS_MMAP, arch.Registers{Rdi: 0x30000000, Rsi: 4096, Rdx: 7, R10: unix.MAP_SHARED | unix.MAP_FIXED | unix.MAP_POPULATE, R8: 2})
		tryJump(t, p, site, unix.SYS_WRITE, arch.Registers{Rdi: 3, Rsi: stub.CommandAddr, Rdx: 8})
		tryJump(t, p, site, unix.SYS_CLONE, arch.Registers{Rdi: stub.ThreadFlags})
		tryJump(t, p, site, unix.SYS_FUTEX, arch.Registers{Rdi: stub.CommandAddr, Rsi: futexWakeOp, Rdx: 1})
		tryJump(t, p, site, unix.SYS_FUTEX, arch.Registers{Rdi: stub.SlotsAddr, Rsi: 9, Rdx: 1})
	}
}

func tryJump(t *testing.T, p *Platform, site, nr uint64, regs arch.Registers) {
	t.Helper()
	if jumps == nil || jumps.p != p || jumps.as.proc.lost.Load() {
		jumps = newWorld(t, p, nil)
	}
	w := jumps
	w.s.Exec(site, stackAt+2048)
	r := &w.s.Regs
	rip, rsp := r.Rip, r.Rsp
	flags, cs, ss := r.Eflags, r.Cs, r.Ss
	*r = regs
	r.Rip, r.Rsp, r.Eflags, r.Cs, r.Ss = rip, rsp, flags, cs, ss
	r.Rax = nr
	ev, err := w.c.Switch(w.as, w.s)
	for err == nil && ev.Kind == platform.EventInterrupted {
		ev, err = w.c.Switch(w.as, w.s)
	}
	if err != nil {
		t.Fatalf("call %d at %#x: %v", nr, site, err)
	}
	if ev.Kind != platform.EventSyscall || w.s.Regs.SyscallNo() != nr {
		t.Fatalf("call %d at %#x was made: %+v, call %d at %#x", nr, site, ev, w.s.Regs.SyscallNo(), w.s.Regs.Rip)
	}
}

// lie runs a thread that counts, posts in its stead what f leaves in its page, and
// returns what Switch does.
func (w *world) lie(f func(*shared)) error {
	w.s.Regs.Rdi = stackAt
	done := make(chan error, 1)
	go func() {
		_, err := w.c.Switch(w.as, w.s)
		done <- err
	}()
	var th *thread
	for th == nil {
		th = w.c.running.Load()
	}
	for wordAt(w.stack.b).Load() == 0 {
	}
	f(th.shared)
	th.shared.event.Store(uint32(th.shared.command.Load()))
	futexWake(&th.shared.event)
	return <-done
}

var jumps *world

// A stub that says what isn't so hurts nobody but its application.
func TestStubThatLies(t *testing.T) {
	p := start(t)
	// A thread that counts, for the test to speak in its stead.
	spin := []byte{0x48, 0xff, 0x07, 0xeb, 0xfb} // inc (%rdi); jmp .-3
	for name, lie := range map[string]func(*shared){
		"no kind":          func(s *shared) { s.kind = 0 },
		"unknown kind":     func(s *shared) { s.kind = 99 },
		"frame outside":    func(s *shared) { s.kind, s.frame = kindSignal, 0x1000 },
		"frame at the end": func(s *shared) { s.kind, s.frame = kindSignal, stub.SlotsAddr+stackSize-8 },
		"frame that wraps": func(s *shared) { s.kind, s.frame = kindSignal, ^uint64(0)-8 },
		"info outside":     func(s *shared) { s.kind, s.frame, s.info = kindSignal, stub.SlotsAddr+64, 0 },
		"vector state beyond": func(s *shared) {
			s.kind, s.frame, s.info, s.fp = kindSignal, stub.SlotsAddr+64, stub.SlotsAddr, stub.SlotsAddr+stackSize-8
		},
		"unknown signal": func(s *shared) {
			s.kind, s.frame, s.info, s.fp, s.signo = kindSignal, stub.SlotsAddr+64, stub.SlotsAddr, stub.SlotsAddr, 63
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := newWorld(t, p, spin).lie(lie); err == nil {
				t.Error("it was believed")
			}
		})
	}
	// One that never saves what it says that it will.
	p.watchdog = newWatchdog(50 * time.Millisecond)
	w := newWorld(t, p, spin)
	if err := w.lie(func(s *shared) { s.kind = kindCall }); err != nil {
		t.Errorf("a call: %v", err)
	}
	w.c.Park(w.s)
	w.c.PullFP(w.s)
	if !w.as.proc.lost.Load() {
		t.Error("vector registers that nobody has saved were taken")
	}
	// Everybody else goes on.
	w = newWorld(t, p, []byte{0x0f, 0x05})
	if ev, err := w.c.Switch(w.as, w.s); err != nil || ev.Kind != platform.EventSyscall {
		t.Errorf("another application: %+v, %v", ev, err)
	}
}

// The application may write anything to its slots, and overwrite what its own
// threads go by.
func TestScribbledSlotsDoNotHangTheSentry(t *testing.T) {
	p := start(t)
	p.watchdog = newWatchdog(50 * time.Millisecond)
	// Fills RCX bytes at RDI with AL, then a system call.
	code := []byte{0xf3, 0xaa, 0x0f, 0x05}
	for _, fill := range []uint64{0, 0x41, 0xff} {
		w := newWorld(t, p, code)
		w.s.Regs.Rax, w.s.Regs.Rdi, w.s.Regs.Rcx = fill, stub.SlotsAddr, slotSize
		// It must come back with anything, an error included.
		for range 4 {
			go func() { w.c.Interrupt() }()
			if _, err := w.c.Switch(w.as, w.s); err != nil {
				break
			}
		}
	}
}

func TestEndOfAStubEndsItsSwitch(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, []byte{0xeb, 0xfe})
	done := make(chan error, 1)
	go func() {
		_, err := w.c.Switch(w.as, w.s)
		done <- err
	}()
	for w.c.running.Load() == nil {
	}
	unix.Kill(w.as.proc.Leader, unix.SIGKILL)
	if err := <-done; err == nil {
		t.Error("no error")
	}
	if err := w.as.MapFile(codeAt, w.code, 0, usermem.PageSize, usermem.Read, false); err == nil {
		w.as.Flush()
	}
}

func TestStubsThatEndInThePoolAreReplaced(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, []byte{0x0f, 0x05})
	for range 10 {
		as, err := p.NewAddressSpace()
		if err != nil {
			t.Fatal(err)
		}
		if err := as.MapFile(codeAt, w.code, 0, usermem.PageSize, usermem.Read|usermem.Execute, false); err != nil {
			t.Fatal(err)
		}
		unix.Kill(as.(*addressSpace).proc.Leader, unix.SIGKILL)
		w.s.Exec(codeAt, stackAt)
		if ev, err := w.c.Switch(as, w.s); err != nil || ev.Kind != platform.EventSyscall {
			t.Errorf("%+v, %v", ev, err)
		}
		w.c.Park(w.s)
		as.Release()
	}
}

func TestSharedPageIsAsTheAssemblyHasIt(t *testing.T) {
	b := make([]byte, 4096)
	le := binary.LittleEndian
	for off, v := range map[int]uint64{ctxFrame: 1, ctxInfo: 2, ctxFP: 3, ctxFSBase: 4, ctxGSBase: 5, ctxSP: 6, ctxRegs: 7, ctxRegFS: 8, ctxRegGS: 9, ctxResult: 21, ctxCall: 22, ctxCall + callRIP*8: 23, ctxCall + callFS*8: 24, ctxArea: 26, ctxFrameAt: 27} {
		le.PutUint64(b[off:], v)
	}
	for off, v := range map[int]uint32{ctxGo: 10, ctxSpin: 11, ctxLoad: 12, ctxEvent: 13, ctxEvent + 4: 14, ctxSeen: 15, ctxSigno: 16, ctxStubSleeps: 17, ctxSentrySleeps: 18, ctxInterrupt: 19, ctxTID: 20, ctxSaved: 25} {
		le.PutUint32(b[off:], v)
	}
	s := sharedAt(b)
	got := []uint64{s.frame, s.info, s.fp, s.fsBase, s.gsBase, s.sp, s.regs[0], s.regs[20], s.regs[21],
		s.command.Load(), uint64(s.spin), uint64(s.load), uint64(s.event.Load()), uint64(s.kind), uint64(s.seen), uint64(s.signo),
		uint64(s.stubSleeps.Load()), uint64(s.sentrySleeps.Load()), uint64(s.interrupt), uint64(s.tid),
		s.result, s.call[0], s.call[callRIP], s.call[callFS], uint64(s.saved.Load()), s.area, s.frameAt}
	for i, v := range got {
		if v != uint64(i+1) {
			t.Errorf("field %d is read as %d", i+1, v)
		}
	}
}
