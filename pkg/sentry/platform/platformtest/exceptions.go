package platformtest

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

var exceptionTests = []Test{
	{"breakpoint", testBreakpoint},
	{"single-step", testSingleStep},
	{"exceptions", testExceptions},
	{"jump-to-an-address-that-is-not-canonical", testNonCanonicalJump},
	{"vsyscall-page", testVsyscall},
	{"32-bit-system-calls", test32Bit},
	{"cpuid-and-rdtsc", testCPUID},
}

func testBreakpoint(t T, p platform.Platform) {
	e := newEnv(t, p, []byte{0x90, 0xcc, 0x0f, 0x05})
	defer e.close()
	e.fault(e.as, platform.Event{Signo: int32(unix.SIGTRAP), Code: siKernel, TrapNo: 3})
	if e.state.Regs.Rip != uint64(codeAt)+2 {
		t.Errorf("RIP is %#x, want behind the int3", e.state.Regs.Rip)
	}
	e.runTo(e.as, platform.EventSyscall)
}

func testSingleStep(t T, p platform.Platform) {
	e := newEnv(t, p, codeSingleStep)
	defer e.close()
	const trapTrace = 2
	// The trap comes after the instruction that follows popf.
	for _, rip := range []usermem.Addr{codeAt + 10, codeAt + 11} {
		ev := e.runTo(e.as, platform.EventFault)
		if ev.Signo != int32(unix.SIGTRAP) || ev.Code != trapTrace || ev.Addr != rip || e.state.Regs.Rip != uint64(rip) || ev.TrapNo != 1 {
			t.Fatalf("got %s at %#x, want a step to %#x", show(ev), e.state.Regs.Rip, uint64(rip))
		}
	}
	if e.state.Regs.Eflags&arch.FlagTF == 0 {
		t.Errorf("the trap flag has gone")
	}
	// The Sentry steps, too.
	e.state.Exec(uint64(codeAt)+9, uint64(stackAt)-64)
	e.state.Regs.Eflags |= arch.FlagTF
	e.runTo(e.as, platform.EventFault)
	if e.state.Regs.Rip != uint64(codeAt)+10 {
		t.Errorf("a step from nop leads to %#x", e.state.Regs.Rip)
	}
	e.state.Regs.Eflags &^= arch.FlagTF
	e.runTo(e.as, platform.EventSyscall)
}

func testExceptions(t T, p platform.Platform) {
	for _, test := range []struct {
		name   string
		code   []byte
		rdi    uint64
		want   platform.Event
		offset usermem.Addr // of RIP
		addrIs bool         // si_addr is RIP
	}{
		{name: "undefined instruction", code: []byte{0x0f, 0x0b},
			want: platform.Event{Signo: 4, Code: 2, TrapNo: 6}, addrIs: true},
		{name: "division by zero", code: codeDivide, offset: 2,
			want: platform.Event{Signo: 8, Code: 1, TrapNo: 0}, addrIs: true},
		{name: "SSE division by zero", code: codeSIMDException, offset: 16,
			want: platform.Event{Signo: 8, Code: 7, TrapNo: 19}, addrIs: true},
		{name: "privileged instruction", code: []byte{0xf4},
			want: platform.Event{Signo: 11, Code: siKernel, TrapNo: 13}},
		{name: "port", code: []byte{0xec},
			want: platform.Event{Signo: 11, Code: siKernel, TrapNo: 13}},
		{name: "load from an address that is not canonical", code: codeLoad, rdi: 1 << 63,
			want: platform.Event{Signo: 11, Code: siKernel, TrapNo: 13}},
		{name: "load from the kernel's half", code: codeLoad, rdi: 0xffff888000000000,
			want: platform.Event{Signo: 11, Code: segvMapErr, Addr: 0xffff888000000000, Access: usermem.Read, TrapNo: 14}},
		{name: "misaligned with AC", code: codeMisaligned, offset: 9,
			want: platform.Event{Signo: 7, Code: 1, TrapNo: 17}},
	} {
		e := newEnv(t, p, test.code)
		e.state.Regs.Rdi = test.rdi
		ev := e.runTo(e.as, platform.EventFault)
		if want := uint64(codeAt + test.offset); e.state.Regs.Rip != want {
			t.Errorf("%s: RIP is %#x, want %#x", test.name, e.state.Regs.Rip, want)
		}
		want := test.want
		want.Kind, want.ErrorCode = platform.EventFault, ev.ErrorCode
		if test.addrIs {
			want.Addr = codeAt + test.offset
		}
		if ev.TrapNo == 17 {
			want.Addr = ev.Addr // hosts differ
		}
		if ev != want {
			t.Errorf("%s: got %s, want %s", test.name, show(ev), show(want))
		}
		// The context is as good as new.
		e.state.Exec(uint64(codeAt)+0x800, uint64(stackAt)-64)
		copy(e.mem.b[0x800:], codeSyscalls)
		e.runTo(e.as, platform.EventSyscall)
		e.close()
	}
}

func testNonCanonicalJump(t T, p platform.Platform) {
	e := newEnv(t, p, codeJump)
	defer e.close()
	const bad = 1 << 62
	e.state.Regs.Rdi = bad
	ev := e.runTo(e.as, platform.EventFault)
	if ev.Signo != int32(unix.SIGSEGV) {
		t.Errorf("a jump gives %s", show(ev))
	}
	// And a state that starts there.
	e.state.Exec(bad, uint64(stackAt)-64)
	ev = e.runTo(e.as, platform.EventFault)
	if ev.Signo != int32(unix.SIGSEGV) || e.state.Regs.Rip != bad {
		t.Errorf("a state that starts there gives %s at %#x", show(ev), e.state.Regs.Rip)
	}
}

func testVsyscall(t T, p platform.Platform) {
	e := newEnv(t, p, codeJump)
	defer e.close()
	for _, addr := range []usermem.Addr{0xffffffffff600000, 0xffffffffff600400, 0xffffffffff600800, 0xffffffffff600010} {
		e.state.Exec(uint64(codeAt), uint64(stackAt)-64)
		// A return address, as a call would leave it.
		binary.LittleEndian.PutUint64(e.mem.b[stackOff+stackSize-64:], uint64(codeAt))
		e.state.Regs.Rdi = uint64(addr)
		ev := e.runTo(e.as, platform.EventFault)
		if ev.Signo != int32(unix.SIGSEGV) || ev.Addr != addr || ev.Access != usermem.Execute {
			t.Errorf("%#x: got %s", uint64(addr), show(ev))
		}
		if r := e.state.Regs; r.Rip != uint64(addr) || r.Rsp != uint64(stackAt)-64 {
			t.Errorf("%#x: RIP %#x, RSP %#x", uint64(addr), r.Rip, r.Rsp)
		}
	}
}

func test32Bit(t T, p platform.Platform) {
	// int 0x80 with getpid's number: must not reach the host.
	e := newEnv(t, p, []byte{0xcd, 0x80, 0x0f, 0x05})
	defer e.close()
	e.state.Regs.Rax, e.state.Regs.Rcx = 20, 0x1111
	ev := e.runTo(e.as, platform.EventFault)
	if ev.Signo != int32(unix.SIGSEGV) || ev.Code != siKernel || e.state.Regs.Rip != uint64(codeAt) || e.state.Regs.Rax != 20 {
		t.Errorf("int 0x80: got %s at %#x with RAX %d", show(ev), e.state.Regs.Rip, e.state.Regs.Rax)
	}
	e.state.Regs.Rip += 2
	e.runTo(e.as, platform.EventSyscall)

	f := newEnv(t, p, codeSysenter)
	defer f.close()
	f.state.Regs.Rax = 20
	if ev := f.runTo(f.as, platform.EventFault); ev.Signo != int32(unix.SIGSEGV) && ev.Signo != int32(unix.SIGILL) {
		t.Errorf("sysenter: got %s", show(ev))
	}
}

func testCPUID(t T, p platform.Platform) {
	e := newEnv(t, p, codeCPUID)
	defer e.close()
	e.runTo(e.as, platform.EventSyscall)
}
