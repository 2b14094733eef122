package platformtest

import (
	"encoding/binary"
	"runtime"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

var stateTests = []Test{
	{"system-call-sees-and-sets-registers", testSyscallRegisters},
	{"results-that-look-like-restarts", testRestartLookalike},
	{"segment-bases", testSegmentBases},
	{"hostile-registers", testHostileRegisters},
	{"hostile-vector-state", testHostileFP},
	{"vector-state-xmm", testVectors("xmm", codeXMM, 48, 0)},
	{"vector-state-ymm", testVectors("ymm", codeYMM, 96, arch.FeatureAVX)},
	{"vector-state-zmm", testVectors("zmm", codeZMM, 200, arch.FeatureHiZMM)},
	{"vector-state-of-two-contexts", testVectorsOfTwo},
	{"vector-state-survives-a-fault", testVectorsFault},
	{"vector-state-can-be-read-and-changed", testPullFP},
	{"vector-state-of-signal-frames", testFrames},
	{"vector-state-goes-to-another-address-space", testVectorsMove},
}

func haveAVX() bool { return arch.FPFeatures()&arch.FeatureAVX != 0 }

func testSyscallRegisters(t T, p platform.Platform) {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	want := arch.Registers{
		R15: 15, R14: 14, R13: 13, R12: 12, Rbp: 1, Rbx: 2, R10: 10, R9: 9, R8: 8,
		Rdx: 5, Rsi: 6, Rdi: 7, Rsp: 0xdeadbeef, FsBase: 0x7000, GsBase: 0x8000,
	}
	for i := range uint64(5) {
		r := &e.state.Regs
		want.Rax = i
		rip := r.Rip
		*r = want
		r.Rip = rip
		e.runTo(e.as, platform.EventSyscall)
		if r.SyscallNo() != i || r.SyscallArgs() != (arch.SyscallArgs{7, 6, 5, 10, 8, 9}) {
			t.Errorf("call %d: number %d, arguments %v", i, r.SyscallNo(), r.SyscallArgs())
		}
		if r.Rip != uint64(codeAt)+2 {
			t.Errorf("call %d: RIP is %#x, want behind the instruction", i, r.Rip)
		}
		got := *r
		got.Rax, got.Rcx, got.R11, got.OrigRax, got.Rip, got.Cs, got.Eflags, got.Ss = i, 0, 0, 0, 0, 0, 0, 0
		if got != want {
			t.Errorf("call %d: registers %+v, want %+v", i, got, want)
		}
	}
	// What is set as the result is the next call's number; a restarted call
	// comes again.
	e.state.Regs.SetReturn(4711)
	e.runTo(e.as, platform.EventSyscall)
	for range 3 {
		if got := e.state.Regs.SyscallNo(); got != 4711 {
			t.Errorf("the application got %d", got)
		}
		e.state.Regs.RestartSyscall()
		e.runTo(e.as, platform.EventSyscall)
	}
}

func testRestartLookalike(t T, p platform.Platform) {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	// The host's kernel uses these for itself.
	for _, errno := range []uint64{512, 513, 514, 516} {
		e.runTo(e.as, platform.EventSyscall)
		e.state.Regs.SetReturn(-errno)
		e.ctx.Interrupt()
		e.runTo(e.as, platform.EventSyscall)
		if got := e.state.Regs.SyscallNo(); got != -errno {
			t.Errorf("the application got %d, want %d", int64(got), -int64(errno))
		}
	}
}

func testSegmentBases(t T, p platform.Platform) {
	e := newEnv(t, p, codeReadFS)
	defer e.close()
	e.setWord(1, 41)
	e.setWord(17, 42)
	e.state.Regs.FsBase = uint64(dataAt)
	e.runTo(e.as, platform.EventSyscall)
	if got := e.state.Regs.SyscallNo(); got != 41 {
		t.Errorf("through FS: %d", got)
	}

	f := newEnv(t, p, codeWriteFS)
	defer f.close()
	f.setWord(1, 51)
	f.setWord(17, 52)
	for i, want := range []uint64{51, 52, 51} {
		base := uint64(dataAt) + uint64(i%2)*128
		f.state.Regs.Rdi = base
		ev := f.runAny(f.as)
		if ev.Kind == platform.EventFault && ev.Signo == 4 {
			return // the processor, or the host, has no wrfsbase
		}
		if got := f.state.Regs; ev.Kind != platform.EventSyscall || got.SyscallNo() != want || got.FsBase != base {
			t.Errorf("after wrfsbase: %s, read %d, base %#x", show(ev), got.SyscallNo(), got.FsBase)
		}
	}
}

// runAny runs to any event but an interruption.
func (k *task) runAny(as platform.AddressSpace) platform.Event {
	k.t.Helper()
	for {
		if ev := k.run(as); ev.Kind != platform.EventInterrupted {
			return ev
		}
	}
}

func testHostileRegisters(t T, p platform.Platform) {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	const ones = ^uint64(0)
	all := arch.Registers{
		R15: ones, R14: ones, R13: ones, R12: ones, Rbp: ones, Rbx: ones, R11: ones, R10: ones, R9: ones, R8: ones,
		Rax: ones, Rcx: ones, Rdx: ones, Rsi: ones, Rdi: ones, OrigRax: ones, Rip: ones, Cs: ones, Eflags: ones,
		Rsp: ones, Ss: ones, FsBase: ones, GsBase: ones, Ds: ones, Es: ones, Fs: ones, Gs: ones,
	}
	at := uint64(codeAt)
	for i, r := range []arch.Registers{
		all,
		{},
		{Rip: at, Eflags: ones &^ arch.FlagTF},
		{Rip: at, Cs: 0x10, Ss: 0x18},
		{Rip: at, Cs: 0x1, Ss: 0x1},
		{Rip: at, Ds: 0x10, Es: 0x18, Fs: 0x20, Gs: 0x28},
		{Rip: at, Ds: 0xffff, Es: 0x2b, Fs: 0x1234, Gs: 0x33},
		{Rip: at, FsBase: 1 << 63, GsBase: ones},
		{Rip: at, FsBase: 0x7ffffffff000, GsBase: 0x800000000000},
		{Rip: at, Rsp: ones},
		{Rip: at, Rsp: 1 << 63},
		{Rip: at, Cs: 0x23},
		{Rip: 0x7ffffffff000},
		{Rip: 0x7ffffffffffe},
		{Rip: 0x800000000000},
		{Rip: 0xffff800000000000},
		{Rip: at, OrigRax: 1, Rax: ones - 512},
	} {
		e.state.Regs = r
		if _, err := e.ctx.Switch(e.as, e.state); err != nil {
			t.Fatalf("registers %d: Switch: %v", i, err)
		}
		// What came of it must be as good.
		if _, err := e.ctx.Switch(e.as, e.state); err != nil {
			t.Fatalf("registers %d, again: Switch: %v", i, err)
		}
	}
	e.state.Exec(at, uint64(stackAt))
	e.runTo(e.as, platform.EventSyscall)
}

func testHostileFP(t T, p platform.Platform) {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	for seed := range 64 {
		e.ctx.PullFP(e.state)
		for i := range e.state.FP {
			e.state.FP[i] = byte(0xff - seed*i)
		}
		e.runTo(e.as, platform.EventSyscall)
	}
}

// testVectors tests that registers keep their values over system calls, over
// Park, and when the context moves to another thread.
func testVectors(name string, code []byte, size int, feature uint64) func(T, platform.Platform) {
	return func(t T, p platform.Platform) {
		if arch.FPFeatures()&feature != feature {
			t.Skipf("the processor has no %s registers", name)
		}
		e := newEnv(t, p, code)
		defer e.close()
		in, out := e.mem.b[dataOff:dataOff+size], e.mem.b[dataOff+page:dataOff+page+size]
		e.state.Regs.Rdi, e.state.Regs.Rsi = uint64(dataAt), uint64(dataAt+page)
		for i := range 12 {
			pattern(in, i)
			clear(out)
			e.runTo(e.as, platform.EventSyscall) // loaded
			switch i % 3 {
			case 1:
				e.ctx.Park(e.state)
			case 2:
				e.ctx.Park(e.state)
				// This goroutine keeps its thread, so the other one has another.
				runtime.LockOSThread()
				done := make(chan struct{})
				go func() {
					defer close(done)
					if _, err := e.ctx.Switch(e.as, e.state); err != nil {
						t.Errorf("Switch on another thread: %v", err)
					}
					e.ctx.Park(e.state)
				}()
				<-done
				runtime.UnlockOSThread()
			}
			if i%3 != 2 {
				e.runTo(e.as, platform.EventSyscall) // stored
			}
			if !equal(in, out) {
				t.Fatalf("round %d: %s registers came back as %x, want %x", i, name, out, in)
			}
		}
	}
}

func testVectorsOfTwo(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	const n, size = 4, 48
	var tasks [n]task
	for i := range tasks {
		tasks[i] = e.newTask()
		defer tasks[i].close()
		r := &tasks[i].state.Regs
		r.Rdi, r.Rsi = uint64(dataAt)+uint64(i*64), uint64(dataAt+page)+uint64(i*64)
	}
	for round := range 6 {
		for i := range tasks {
			pattern(e.mem.b[dataOff+i*64:][:size], round*16+i)
			tasks[i].runTo(e.as, platform.EventSyscall)
			tasks[i].ctx.Park(tasks[i].state)
		}
		for i := range tasks {
			tasks[i].runTo(e.as, platform.EventSyscall)
			if round%2 == 0 {
				tasks[i].ctx.Park(tasks[i].state)
			}
			in, out := e.mem.b[dataOff+i*64:][:size], e.mem.b[dataOff+page+i*64:][:size]
			if !equal(in, out) {
				t.Fatalf("round %d, context %d: got %x, want %x", round, i, out, in)
			}
		}
		for i := range tasks {
			tasks[i].ctx.Park(tasks[i].state)
		}
	}
}

func testVectorsFault(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	const size = 48
	in, out := e.mem.b[dataOff:dataOff+size], e.mem.b[dataOff+page:dataOff+page+size]
	pattern(in, 99)
	e.state.Regs.Rdi, e.state.Regs.Rsi = uint64(dataAt), uint64(dataAt+page)
	e.runTo(e.as, platform.EventSyscall)
	r := usermem.AddrRange{Start: dataAt + page, End: dataAt + 2*page}
	for range 3 {
		e.as.Unmap(r)
		e.fault(e.as, pageFault(r.Start, usermem.Write, segvMapErr))
		e.ctx.Park(e.state)
	}
	e.mapIn(e.as, r.Start, dataOff+page, page, usermem.ReadWrite)
	e.runTo(e.as, platform.EventSyscall)
	if !equal(in, out) {
		t.Errorf("after faults: %x, want %x", out, in)
	}
}

// xmm0 is where XMM0 is in an XSAVE image.
const xmm0 = 160

func testPullFP(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	in, out := e.mem.b[dataOff:dataOff+16], e.mem.b[dataOff+page:dataOff+page+16]
	e.state.Regs.Rdi, e.state.Regs.Rsi = uint64(dataAt), uint64(dataAt+page)
	for i := range 4 {
		pattern(in, i)
		e.runTo(e.as, platform.EventSyscall)
		if i%2 == 1 {
			e.ctx.Park(e.state)
		}
		e.ctx.PullFP(e.state)
		if got := e.state.FP[xmm0 : xmm0+16]; !equal(got, in) {
			t.Errorf("PullFP gives %x, want %x", got, in)
		}
		pattern(e.state.FP[xmm0:xmm0+16], 100+i)
		want := append([]byte(nil), e.state.FP[xmm0:xmm0+16]...)
		e.runTo(e.as, platform.EventSyscall)
		if !equal(out, want) {
			t.Errorf("the application has %x, want %x", out, want)
		}
		// Another state, as after execve.
		e.state = e.state.Clone()
	}
}

func testVectorsMove(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	other := e.space()
	defer other.Release()
	const size = 48
	in, out := e.mem.b[dataOff:dataOff+size], e.mem.b[dataOff+page:dataOff+page+size]
	e.state.Regs.Rdi, e.state.Regs.Rsi = uint64(dataAt), uint64(dataAt+page)
	for i := range 4 {
		pattern(in, i)
		e.runTo(e.as, platform.EventSyscall)
		e.runTo(other, platform.EventSyscall)
		if !equal(in, out) {
			t.Fatalf("round %d: %x, want %x", i, out, in)
		}
	}
}

// testFrames has vector state saved to and loaded from the application's memory, as
// the frames of signals are, where the platform does that.
func testFrames(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	const size = 48
	const at = uint64(dataAt) + 2*page
	in, out := e.mem.b[dataOff:dataOff+size], e.mem.b[dataOff+page:dataOff+page+size]
	image := e.mem.b[dataOff+2*page : dataOff+4*page]
	e.state.Regs.Rdi, e.state.Regs.Rsi = uint64(dataAt), uint64(dataAt+page)
	for i := range 4 {
		pattern(in, i)
		e.runTo(e.as, platform.EventSyscall)
		want := append([]byte(nil), in...)
		if i%2 == 1 {
			e.ctx.Park(e.state)
		}
		e.state.Vectors = arch.FrameVectors{Do: arch.FrameSave, Addr: at}
		for range 2 {
			if pattern(image, 7); i == 3 {
				e.ctx.Interrupt() // at any moment, or just before
			}
			if e.run(e.as).Kind != platform.EventInterrupted {
				break
			}
		}
		if e.state.Vectors.Do != 0 {
			return // it leaves all that to its caller
		}
		notes, magic := arch.FrameNotes()
		if !equal(image[xmm0:xmm0+16], want[:16]) || !equal(image[464:512], notes[:]) || binary.LittleEndian.Uint32(image[arch.FPSize():]) != magic {
			t.Fatalf("round %d: the frame is %x, of %x", i, image[:512], want)
		}
		if err := arch.CheckFP(image[:arch.FPSize()]); err != nil || image[512]&3 != 3 {
			t.Fatalf("round %d: the frame's header is %x: %v", i, image[512:576], err)
		}
		if !equal(out, make([]byte, size)) {
			t.Fatalf("round %d: a handler would begin with %x", i, out)
		}
		e.ctx.Heed()

		pattern(in, 50+i)
		e.runTo(e.as, platform.EventSyscall)
		e.state.Vectors = arch.FrameVectors{Do: arch.FrameLoad, Addr: at}
		if i%2 == 1 {
			e.ctx.Park(e.state)
		}
		e.runTo(e.as, platform.EventSyscall)
		if !equal(out, want) {
			t.Fatalf("round %d: %x comes back, want %x", i, out, want)
		}
	}

	// What it can't do it leaves, and all as it was.
	good := append([]byte(nil), image...)
	for name, test := range map[string]struct {
		do    arch.FrameOp
		addr  uint64
		forge func()
	}{
		"save to no memory":       {arch.FrameSave, 0x1000, nil},
		"save to code":            {arch.FrameSave, uint64(codeAt), nil},
		"save to the platform's":  {arch.FrameSave, uint64(p.UserRange().End) - 64, nil},
		"save beyond addresses":   {arch.FrameSave, 1 << 63, nil},
		"load from no memory":     {arch.FrameLoad, 0x1000, nil},
		"load from the end":       {arch.FrameLoad, ^uint64(63), nil},
		"load from an odd place":  {arch.FrameLoad, at + 8, nil},
		"load without mark":       {arch.FrameLoad, at, func() { image[464] ^= 1 }},
		"load without other mark": {arch.FrameLoad, at, func() { image[arch.FPSize()] ^= 1 }},
		"load of another size":    {arch.FrameLoad, at, func() { image[480] ^= 64 }},
		"load of other features":  {arch.FrameLoad, at, func() { image[472] ^= 1 }},
		"load of unknown state":   {arch.FrameLoad, at, func() { image[519] = 0x80 }},
		"load of bad MXCSR":       {arch.FrameLoad, at, func() { image[27] = 0x80 }},
		"load, compacted":         {arch.FrameLoad, at, func() { image[527] = 0x80 }},
	} {
		copy(image, good)
		if test.forge != nil {
			test.forge()
		}
		pattern(in, 77)
		e.runTo(e.as, platform.EventSyscall)
		before := e.state.Regs
		e.state.Vectors = arch.FrameVectors{Do: test.do, Addr: test.addr}
		e.runTo(e.as, platform.EventFrame)
		if e.state.Vectors != (arch.FrameVectors{Do: test.do, Addr: test.addr}) || e.state.Regs != before {
			t.Fatalf("%s: now it is %+v at %+v", name, e.state.Vectors, e.state.Regs)
		}
		e.state.Vectors = arch.FrameVectors{}
		if test.do == arch.FrameSave {
			e.ctx.PullFP(e.state)
			if got := e.state.FP[xmm0 : xmm0+16]; !equal(got, in[:16]) {
				t.Errorf("%s: %x is left, want %x", name, got, in[:16])
			}
		}
		e.ctx.DropFP()
		e.runTo(e.as, platform.EventSyscall)
	}
}
