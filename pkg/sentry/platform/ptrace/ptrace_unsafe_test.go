package ptrace

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"unsafe"

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

func (w *world) run(t *testing.T) platform.Event {
	t.Helper()
	ev, err := w.c.Switch(w.as, w.s)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// hole is an address without memory, and so is what it points to.
const hole = 0x40000000

func TestDecodedAccessIsTheProcessors(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, nil)
	noDecode.Store(true)
	defer noDecode.Store(false)
	known := 0
	try := func(ins ...byte) {
		want, ok := access(ins)
		if !ok {
			return
		}
		// What isn't the instruction ends with a privileged one.
		for i := range 64 {
			w.code.b[i] = 0xf4
		}
		copy(w.code.b, ins)
		w.s.Exec(codeAt, hole)
		for _, r := range []*uint64{&w.s.Regs.Rdi, &w.s.Regs.Rsi, &w.s.Regs.Rbp} {
			*r = hole
		}
		w.s.Regs.Rcx = 1
		ev := w.run(t)
		if ev.Kind != platform.EventFault || ev.TrapNo != trapPageFault || w.s.Regs.Rip != codeAt {
			return // not an instruction here, or it doesn't touch memory
		}
		known++
		if ev.Access != want {
			t.Errorf("% x: the processor says %v, the decoder %v", ins, ev.Access, want)
		}
	}
	prefixes := [][]byte{nil, {0x66}, {0xf2}, {0xf3}, {0x48}, {0x66, 0x48}}
	for op := range 256 {
		for reg := range 8 {
			modrm := byte(reg<<3 | 7) // (%rdi)
			for _, pre := range prefixes {
				pre := append([]byte(nil), pre...)
				try(append(pre, byte(op), modrm, 0, 0)...)
				try(append(pre, 0x0f, byte(op), modrm, 0, 0)...)
				if reg == 1 {
					try(append(pre, 0x0f, 0x38, byte(op), modrm, 0)...)
				}
			}
			if reg == 1 {
				for pp := range 4 {
					for _, l := range []int{0, 4} {
						for _, wbit := range []int{0, 0x80} {
							try(0xc5, byte(0xf8|l|pp), byte(op), modrm, 0)
							try(0xc4, 0xe1, byte(wbit|0x78|l|pp), byte(op), modrm, 0)
							try(0xc4, 0xe2, byte(wbit|0x78|l|pp), byte(op), modrm, 0)
							for _, l := range []int{0x08, 0x28, 0x48} {
								try(0x62, 0xf1, byte(wbit|0x7c|pp), byte(l), byte(op), modrm, 0)
							}
						}
					}
				}
			}
		}
	}
	if known < 1000 {
		t.Errorf("only %d instructions were compared", known)
	}
}

// slotMemory is the signal stack of a stub thread, as usermem.Memory.
type slotMemory struct {
	usermem.Memory
	buf map[usermem.Addr][]byte
}

func (m *slotMemory) CopyOut(a usermem.Addr, src []byte) (int, error) {
	m.buf[a] = append([]byte(nil), src...)
	return len(src), nil
}

// TestSignalFrameIsTheHosts compares what arch writes with what the host wrote
// for the same state, byte for byte.
func TestSignalFrameIsTheHosts(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, []byte{0x48, 0x83, 0x07, 0x01}) // addq $1,(%rdi)
	r := &w.s.Regs
	*r = arch.Registers{
		R15: 15, R14: 14, R13: 13, R12: 12, Rbp: 1, Rbx: 2, R11: 11, R10: 10, R9: 9, R8: 8,
		Rax: 3, Rcx: 4, Rdx: 5, Rsi: 6, Rdi: hole + 24, Rip: codeAt, Eflags: arch.FlagCF | arch.FlagDF, Rsp: 0x1f0f0,
	}
	for i := 160; i < 416; i++ {
		w.s.FP[i] = byte(i)
	}
	if arch.FPFeatures()&arch.FeatureAVX != 0 {
		// The upper halves of the YMM registers, at 576.
		binary.LittleEndian.PutUint64(w.s.FP[512:], 7)
		for i := 576; i < 832; i++ {
			w.s.FP[i] = byte(i)
		}
	}
	ev := w.run(t)
	th := w.c.thread
	base := stub.UserEnd + usermem.Addr(th.slot*slotSize)

	alt := arch.AltStack{Addr: base, Size: slotSize}
	d := &arch.SignalDelivery{
		Signo: int(ev.Signo), Handler: handlerAddr, Restorer: handlerAddr,
		Flags:    0x4 | 0x08000000 | 0x04000000, // SA_SIGINFO, SA_ONSTACK, SA_RESTORER
		AltStack: &alt, TrapNo: ev.TrapNo, ErrorCode: ev.ErrorCode, FaultAddr: uint64(ev.Addr),
	}
	binary.LittleEndian.PutUint32(d.Info[0:], uint32(ev.Signo))
	binary.LittleEndian.PutUint32(d.Info[8:], uint32(ev.Code))
	binary.LittleEndian.PutUint64(d.Info[16:], uint64(ev.Addr))
	m := &slotMemory{buf: make(map[usermem.Addr][]byte)}
	if err := w.s.PushSignalFrame(m, d); err != nil {
		t.Fatal(err)
	}
	if err := w.s.Settle(m); err != nil {
		t.Fatal(err)
	}
	if len(m.buf) != 3 { // the vector state is followed by a mark
		t.Fatalf("the frame has %d parts", len(m.buf))
	}
	for at, ours := range m.buf {
		host := th.proc.slotBytes(th.slot, uint64(at), uint64(len(ours)))
		if host == nil {
			t.Fatalf("part at %#x: not on the stack", uint64(at))
		}
		host = append([]byte(nil), host...)
		if len(ours) >= 576 {
			// The host counts what applications don't get (pkeys, AMX) in
			// its list of features.
			copy(host[464+8:464+16], ours[464+8:464+16])
			if x := binary.LittleEndian.Uint64(host[512:]); x != binary.LittleEndian.Uint64(ours[512:]) {
				t.Errorf("the host saved features %#x, we %#x", x, ours[512:520])
			}
		}
		for i := range ours {
			if ours[i] != host[i] {
				t.Errorf("part of %d bytes: at %d we have % x, the host % x", len(ours), i, ours[i:min(i+8, len(ours))], host[i:min(i+8, len(ours))])
				break
			}
		}
	}
	if r.Rsp != uint64(minKey(m.buf)) || r.Rdi != uint64(ev.Signo) {
		t.Errorf("the handler starts with %+v", *r)
	}
}

func minKey(m map[usermem.Addr][]byte) usermem.Addr {
	low := ^usermem.Addr(0)
	for a := range m {
		low = min(low, a)
	}
	return low
}

func TestSwitchFailsWhenTheStubIsKilled(t *testing.T) {
	p := start(t)
	for _, when := range []string{"before", "while"} {
		t.Run(when, func(t *testing.T) {
			// incq (stack); jmp back
			w := newWorld(t, p, []byte{0x48, 0xff, 0x07, 0xeb, 0xfb, 0x0f, 0x05})
			w.s.Regs.Rdi = stackAt
			// SAFETY: the word is aligned; the page stays mapped as long as the test.
			counter := (*atomic.Uint64)(unsafe.Pointer(&w.stack.b[0]))
			other := newWorld(t, p, []byte{0x0f, 0x05})
			if when == "before" {
				w.s.Regs.Rip = codeAt + 5
				w.run(t)
				unix.Kill(w.as.proc.Leader, unix.SIGKILL)
			} else {
				pid := w.as.proc.Leader
				go func() {
					for was := counter.Load(); counter.Load() == was; {
					}
					unix.Kill(pid, unix.SIGKILL)
				}()
			}
			w.s.Regs.Rip = codeAt
			if ev, err := w.c.Switch(w.as, w.s); err == nil {
				t.Errorf("Switch = %+v", ev)
			}
			for range 2 {
				if _, err := w.c.Switch(w.as, w.s); err == nil {
					t.Error("Switch works again")
				}
			}
			// Nothing else hangs or panics.
			w.as.MapFile(codeAt, w.code, 0, usermem.PageSize, usermem.Read, true)
			w.as.Unmap(usermem.AddrRange{Start: codeAt, End: codeAt + usermem.PageSize})
			w.as.Flush()
			w.c.PullFP(w.s)
			other.run(t)
		})
	}
}

func TestSignalsFromOutsideAreSwallowed(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, []byte{0x0f, 0x05, 0xeb, 0xfc})
	w.run(t)
	for _, sig := range []unix.Signal{
		unix.SIGTERM, unix.SIGSEGV, unix.SIGTRAP, unix.SIGSYS, unix.SIGSTOP, unix.SIGCONT, unix.SIGURG, unix.SIGCHLD, unix.SIGBUS, 40,
	} {
		unix.Kill(w.as.proc.Leader, sig)
		w.s.Regs.SetReturn(7)
		if ev := w.run(t); ev.Kind != platform.EventSyscall || w.s.Regs.SyscallNo() != 7 {
			t.Errorf("signal %d: %+v", sig, ev)
		}
	}
}

// TestApplicationInTheStubsCode has the application do what only the stub may.
func TestApplicationInTheStubsCode(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, []byte{0x48, 0x89, 0x07, 0x0f, 0x05}) // mov %rax,(%rdi); syscall
	for _, addr := range []uint64{stub.CommandAddr, altStackAddr, callAddr} {
		w.s.Exec(codeAt, stackAt+2048)
		w.s.Regs.Rdi = addr
		if ev := w.run(t); ev.Kind != platform.EventFault || ev.Access != usermem.Write || uint64(ev.Addr) != addr {
			t.Errorf("a store to %#x: %+v", addr, ev)
		}
	}
	// A system call at the stub's own instruction is the application's.
	for _, addr := range []uint64{callAddr, spawnAddr, handlerAddr} {
		w.s.Exec(addr, stackAt+2048)
		w.s.Regs.Rax, w.s.Regs.Rsi = unix.SYS_MUNMAP, 1<<46
		if ev := w.run(t); ev.Kind != platform.EventSyscall || w.s.Regs.SyscallNo() != unix.SYS_MUNMAP {
			t.Errorf("a call at %#x: %+v", addr, ev)
		}
	}
	w.s.Exec(batchAddr, stackAt+2048)
	w.s.Regs.R12, w.s.Regs.Rbx = 3, stub.CommandAddr
	if ev := w.run(t); ev.Kind != platform.EventSyscall {
		t.Errorf("the batch: %+v", ev)
	}
	// Scribbling over the signal stacks while faults are delivered.
	w.s.Exec(codeAt, stackAt+2048)
	w.s.Regs.Rdi = uint64(stub.UserEnd) + uint64(w.c.thread.slot)*slotSize + 4096
	if ev := w.run(t); ev.Kind != platform.EventSyscall {
		t.Errorf("a store to the signal stack: %+v", ev)
	}
	w.s.Exec(codeAt, stackAt+2048)
	w.s.Regs.Rdi = stackAt
	if ev := w.run(t); ev.Kind != platform.EventSyscall {
		t.Errorf("afterwards: %+v", ev)
	}
}
