package platformtest

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/platform"
)

var callTests = []Test{
	{"rewritten-calls-are-system-calls", testRewrittenCalls},
	{"rewritten-calls-keep-vector-state", testRewrittenVectors},
	{"rewritten-calls-with-interruptions", testRewrittenInterrupted},
	{"rewritten-calls-with-a-base-in-gs", testRewrittenGS},
	{"calls-are-answered", testAnswers},
	{"calls-return-to-code-that-was-retired", testRetire},
	{"expel-waits-for-who-is-inside", testExpel},
	{"interruptions-keep-segment-bases", testInterruptedBases},
}

// Offsets in the page of code: two loops, and the trampolines that they use. The
// first increments rbx each time.
const (
	comparedLoop   = 0x00 // inc %rbx; jmp comparedTramp; 3 bytes of a cmp; jmp comparedLoop
	comparedNext   = comparedLoop + 3 + 8
	comparedTramp  = 0x700 // so far away that the cmp's place has 06, which isn't an opcode
	comparedTail   = comparedTramp + 15
	plainLoop      = 0x40 // jmp plainTramp; syscall; jmp plainLoop
	plainNext      = plainLoop + 7
	plainTramp     = 0x140
	comparedEntry  = 0x780
	plainCallEntry = 0x188
	plainNumber    = 186 // gettid
)

// newRewritten returns an env with code that calls by trampolines.
func newRewritten(t T, p platform.Platform) (*env, platform.CallRewriter) {
	t.Helper()
	e := newEnv(t, p, nil)
	as, ok := e.as.(platform.CallRewriter)
	if !ok {
		e.close()
		t.Skipf("code can't be rewritten on this platform")
	}
	b := e.mem.b
	le := binary.LittleEndian
	jump := func(at, to int) {
		b[at] = 0xe9
		le.PutUint32(b[at+1:], uint32(to-(at+5)))
	}
	copy(b[comparedLoop:], "\x48\xff\xc3") // inc %rbx
	jump(comparedLoop+3, comparedTramp)
	jump(comparedNext, comparedLoop)
	copy(b[comparedTramp:], "\x48\x8d\x0d\x08\x00\x00\x00\xff\x25....\x0f\x05\x48\x3d\x01\xf0\xff\xff")
	le.PutUint32(b[comparedTramp+9:], comparedEntry-(comparedTramp+13))
	jump(comparedTail+6, comparedNext)
	jump(plainLoop, plainTramp)
	copy(b[plainLoop+5:], "\x0f\x05")
	jump(plainNext, plainLoop)
	copy(b[plainTramp:], "\xb8....\x4c\x8d\x1d....\xff\x25....")
	le.PutUint32(b[plainTramp+1:], plainNumber)
	distance := func(at, to int) { le.PutUint32(b[at-4:], uint32(to-at)) }
	distance(plainTramp+12, plainNext)
	distance(plainTramp+18, plainCallEntry)
	le.PutUint64(b[comparedEntry:], uint64(as.CallEntry()))
	le.PutUint64(b[plainCallEntry:], uint64(as.PlainCallEntry()))
	return e, as
}

func testRewrittenCalls(t T, p platform.Platform) {
	e, _ := newRewritten(t, p)
	defer e.close()
	r := &e.state.Regs
	for _, test := range []struct {
		start, rip uint64
		plain      bool
	}{{comparedLoop, comparedNext - 6, false}, {plainLoop, plainNext, true}} {
		for i := range uint64(20) {
			if i%7 == 0 {
				r.Rip = uint64(codeAt) + test.start
			}
			r.R15, r.R14, r.R13, r.R12, r.Rbp, r.R10, r.R9, r.R8 = 15+i, 14, 13, 12+i, 1, 10, 9, 8
			r.Rdx, r.Rsi, r.Rdi, r.Rbx, r.Rsp = 5, 6, 7+i, 2, 0xdeadbeef+i
			r.FsBase = 0x7000 + i/4
			r.SetReturn(i)
			r.Eflags = r.Eflags&^0x4d5 | 0x41 | i&1<<10
			want := *r
			e.runTo(e.as, platform.EventSyscall)
			want.Rip = uint64(codeAt) + test.rip
			want.Rcx = want.Rip
			if test.plain {
				want.Rax = plainNumber
			} else {
				want.Rbx++
			}
			want.OrigRax = want.Rax
			got := *r
			const status = 0x8d5
			if !test.plain {
				// inc has changed the flags.
				got.Eflags |= status
				want.Eflags |= status
				got.R11 |= status
			}
			want.R11 = want.Eflags
			want.Cs, want.Ss = got.Cs, got.Ss
			if got != want {
				t.Fatalf("at %#x, call %d: registers\n%+v, want\n%+v", test.start, i, got, want)
			}
			if i%5 == 4 {
				e.ctx.PullFP(e.state)
			}
			if i%6 == 5 {
				e.ctx.Park(e.state)
			}
		}
	}
}

func testRewrittenVectors(t T, p platform.Platform) {
	e, _ := newRewritten(t, p)
	defer e.close()
	e.runTo(e.as, platform.EventSyscall)
	for i := range 30 {
		e.ctx.PullFP(e.state)
		x := e.state.FP[xmm0 : xmm0+256]
		pattern(x, i)
		e.state.FP[512] |= 3 // the header: x87 and SSE are in use
		want := append([]byte(nil), x...)
		e.state.Regs.Rip = uint64(codeAt) + uint64(i%2*plainLoop)
		for range 3 {
			e.runTo(e.as, platform.EventSyscall)
			if i%3 == 1 {
				e.ctx.Park(e.state)
			}
		}
		e.ctx.PullFP(e.state)
		if !equal(e.state.FP[xmm0:xmm0+256], want) {
			t.Fatalf("round %d: %x, want %x", i, e.state.FP[xmm0:xmm0+256], want)
		}
	}
}

// interrupting calls f while another goroutine interrupts k.
func (k *task) interrupting(f func()) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for !stop.Load() {
			k.ctx.Interrupt()
		}
	}()
	defer wg.Wait()
	defer stop.Store(true)
	f()
}

func testRewrittenInterrupted(t T, p platform.Platform) {
	e, _ := newRewritten(t, p)
	defer e.close()
	r := &e.state.Regs
	r.Rbx = 0
	e.interrupting(func() {
		for i := range uint64(3000) {
			r.R12 = i * 0x1111111
			ev := e.runAny(e.as)
			for ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGILL) && r.Rip == uint64(codeAt)+comparedNext-6 {
				// It was interrupted on the way back.
				r.Rip = uint64(codeAt) + comparedNext
				ev = e.runAny(e.as)
			}
			if ev.Kind != platform.EventSyscall {
				t.Fatalf("call %d: %s at %#x", i, show(ev), r.Rip)
			}
			if r.Rbx != i+1 || r.SyscallNo() != i || r.R12 != i*0x1111111 {
				t.Fatalf("call %d: rbx %d, number %d, r12 %#x", i, r.Rbx, r.SyscallNo(), r.R12)
			}
			r.SetReturn(i + 1)
			if r.Rip == uint64(codeAt)+comparedNext-6 {
				continue
			}
			t.Fatalf("call %d at %#x", i, r.Rip)
		}
	})
}

func testRewrittenGS(t T, p platform.Platform) {
	e, _ := newRewritten(t, p)
	defer e.close()
	r := &e.state.Regs
	for i, base := range []uint64{0, uint64(dataAt), 0, 0x1000, 0} {
		for _, test := range []struct{ start, rip, trap uint64 }{
			{comparedLoop, comparedNext - 6, comparedTail}, {plainLoop, plainNext, plainNext},
		} {
			r.Rip, r.GsBase = uint64(codeAt)+test.start, base
			e.runTo(e.as, platform.EventSyscall)
			want := uint64(codeAt) + test.rip
			if base != 0 {
				want = uint64(codeAt) + test.trap
			}
			if r.Rip != want || r.GsBase != base {
				t.Errorf("%d: a call at %#x, base %#x; want %#x, %#x", i, r.Rip, r.GsBase, want, base)
			}
		}
	}
}

func testRetire(t T, p platform.Platform) {
	e, as := newRewritten(t, p)
	defer e.close()
	r := &e.state.Regs
	e.runTo(e.as, platform.EventSyscall)
	// Where the cmp was now stands another call.
	copy(e.mem.b[comparedNext-6:], codeSyscalls)
	as.Retire()
	e.runTo(e.as, platform.EventSyscall)
	if r.Rip != uint64(codeAt)+comparedNext-4 {
		t.Errorf("it goes on behind %#x", r.Rip)
	}
}

func testExpel(t T, p platform.Platform) {
	e, as := newRewritten(t, p)
	defer e.close()
	copy(e.mem.b[0x200:], codeCount)
	as.Expel() // nobody
	other := e.newTask()
	defer other.close()
	other.state.Regs.Rip, other.state.Regs.Rdi = uint64(codeAt)+0x200, uint64(dataAt)
	for range 20 {
		done := make(chan platform.Event)
		start := e.counter(0).Load()
		go func() {
			ev, err := other.ctx.Switch(e.as, other.state)
			if err != nil {
				t.Errorf("Switch: %v", err)
			}
			done <- ev
		}()
		for e.counter(0).Load() == start {
		}
		as.Expel()
		now := e.counter(0).Load()
		if ev := <-done; ev.Kind != platform.EventInterrupted {
			t.Errorf("got %s", show(ev))
		}
		if e.counter(0).Load() != now {
			t.Errorf("it was still running")
		}
	}
	e.runTo(e.as, platform.EventSyscall)
}

// A context that is interrupted before it has run has its bases all the same.
func testInterruptedBases(t T, p platform.Platform) {
	e := newEnv(t, p, codeReadFS)
	defer e.close()
	const n = 64
	for i := range n {
		e.setWord(1+16*i, uint64(1000+i))
	}
	e.interrupting(func() {
		for i := range 2000 {
			e.state.Regs.Rip = uint64(codeAt)
			e.state.Regs.FsBase = uint64(dataAt) + uint64(i%n)*128
			e.runTo(e.as, platform.EventSyscall)
			if got := e.state.Regs.SyscallNo(); got != uint64(1000+i%n) {
				t.Fatalf("round %d: through FS: %d", i, got)
			}
		}
	})
}

// What a context was told to answer makes no events, until somebody says no.
func testAnswers(t T, p platform.Platform) {
	e, _ := newRewritten(t, p)
	defer e.close()
	a, ok := e.ctx.(platform.Answerer)
	if !ok {
		t.Skipf("this platform answers no calls")
	}
	const pid, tid = 39, 4711 // getpid returns its own number
	r := &e.state.Regs
	for round := range 20 {
		for _, start := range []uint64{comparedLoop, plainLoop} {
			no, rax := uint64(pid), uint64(pid)
			if start == plainLoop {
				no, rax = plainNumber, tid
			}
			a.Answer(&platform.Answers{PID: pid, TID: tid, PPID: platform.NoAnswer, UID: platform.NoAnswer, EUID: platform.NoAnswer, GID: platform.NoAnswer, EGID: platform.NoAnswer})
			r.Rip, r.Rax, r.Rbx, r.Eflags = uint64(codeAt)+start, no, 0, 0x202|0x8d5
			flags := r.Eflags
			before := *r
			interrupted := false
			e.interrupting(func() {
				for n := 0; n < 50; n++ {
					ev := e.run(e.as)
					switch {
					case ev.Kind == platform.EventInterrupted:
						interrupted = true
					case ev.Kind == platform.EventSyscall && r.SyscallNo() == no:
						// An interruption came while it was answered.
						r.SetReturn(rax)
					case ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGILL) && r.Rip == uint64(codeAt)+comparedNext-6:
						r.Rip = uint64(codeAt) + comparedNext
					default:
						t.Fatalf("round %d: %s at %#x, number %d", round, show(ev), r.Rip, r.SyscallNo())
					}
				}
			})
			if !interrupted {
				t.Errorf("round %d: no interruption", round)
			}
			var wg sync.WaitGroup
			wg.Add(1)
			go func() { defer wg.Done(); a.NoAnswers() }()
			ev := e.runAny(e.as)
			for ev.Kind == platform.EventFault && ev.Signo == int32(unix.SIGILL) && r.Rip == uint64(codeAt)+comparedNext-6 {
				r.Rip = uint64(codeAt) + comparedNext
				ev = e.runAny(e.as)
			}
			wg.Wait()
			if ev.Kind != platform.EventSyscall || r.SyscallNo() != no {
				t.Fatalf("round %d: without answers %s, number %d", round, show(ev), r.SyscallNo())
			}
			if start == plainLoop && r.Eflags&0x8d5 != flags&0x8d5 {
				t.Errorf("round %d: flags %#x, want %#x", round, r.Eflags, flags)
			}
			got := *r
			if got.R15 != before.R15 || got.Rsp != before.Rsp || got.Rdi != before.Rdi || got.Rsi != before.Rsi || got.Rdx != before.Rdx || got.R8 != before.R8 {
				t.Errorf("round %d: registers %+v, want %+v", round, got, before)
			}
		}
	}
	// Each call has its own: here the number of the next one.
	const last = 1000
	a.Answer(&platform.Answers{
		PID: unix.SYS_GETTID, TID: unix.SYS_GETPPID, PPID: unix.SYS_GETUID, UID: unix.SYS_GETEUID,
		EUID: unix.SYS_GETGID, GID: unix.SYS_GETEGID, EGID: last,
	})
	r.Rip, r.Rax, r.Rbx = uint64(codeAt)+comparedLoop, unix.SYS_GETPID, 0
	if e.runTo(e.as, platform.EventSyscall); r.SyscallNo() != last || r.Rbx != 8 {
		t.Errorf("call %d is number %d", r.Rbx, r.SyscallNo())
	}
	// Nor are they another context's.
	a.Answer(&platform.Answers{PID: pid})
	other := e.newTask()
	defer other.close()
	e.ctx.Park(e.state)
	other.state.Regs.Rip, other.state.Regs.Rax = uint64(codeAt)+comparedLoop, pid
	if other.runTo(e.as, platform.EventSyscall); other.state.Regs.SyscallNo() != pid {
		t.Errorf("another context called %d", other.state.Regs.SyscallNo())
	}
}
