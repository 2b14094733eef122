package systrap

import (
	"encoding/binary"
	"testing"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
)

// loadCallStore is code in which, over and over, XMM0 is loaded from (RDI), a call made
// by way of a trampoline, XMM0 stored to (RSI), and a call made.
func loadCallStore() []byte {
	code := []byte{
		0xf3, 0x0f, 0x6f, 0x07, // movdqu (%rdi), %xmm0
		0x4c, 0x8d, 0x1d, 14, 0, 0, 0, // lea 1f(%rip), %r11
		0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov $PlainCallEntry, %rcx
		0xff, 0xe1, // jmp *%rcx
		0x0f, 0x05, // syscall
		0xf3, 0x0f, 0x7f, 0x06, // 1: movdqu %xmm0, (%rsi)
		0x0f, 0x05, // syscall
		0xeb, 0xdf, // jmp to the first
	}
	binary.LittleEndian.PutUint64(code[13:], plainEntryAddr)
	return code
}

// More contexts than may keep their vector state in the stub take turns on its
// threads.
func TestVectorStateOfManyContexts(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, loadCallStore())
	type one struct {
		c *context
		s *arch.State
	}
	all := make([]one, maxKept+20)
	for i := range all {
		s := arch.NewState()
		s.Exec(codeAt, stackAt+2048)
		s.Regs.Rax, s.Regs.Rdi, s.Regs.Rsi = answerNumbers, stackAt, stackAt+64
		all[i] = one{p.NewContext().(*context), s}
	}
	run := func(o one) {
		t.Helper()
		for {
			switch ev, err := o.c.Switch(w.as, o.s); {
			case err != nil:
				t.Fatal(err)
			case ev.Kind == platform.EventSyscall:
				o.c.Park(o.s)
				return
			}
		}
	}
	for i, o := range all {
		word := wordAt(w.stack.b)
		word.Store(uint32(i) + 1000)
		run(o)
		if o.c.kept != (i < maxKept) || o.c.inArea != o.c.kept {
			t.Fatalf("context %d: in an area: %v, kept: %v", i, o.c.inArea, o.c.kept)
		}
	}
	for i, o := range all {
		run(o)
		if got := wordAt(w.stack.b[64:]).Load(); got != uint32(i)+1000 {
			t.Fatalf("context %d has %d", i, got)
		}
		o.c.Release()
	}
	proc := w.as.proc
	if proc.kept.Load() != 0 {
		t.Errorf("%d areas are kept by nobody", proc.kept.Load())
	}
	if n, most := proc.slots, maxKept; n > most {
		t.Errorf("%d slots are in use", n)
	}
}

// A context that comes back to a thread has gone on elsewhere in between.
func TestContextThatComesBackToAThread(t *testing.T) {
	p := start(t)
	w := newWorld(t, p, loadCallStore())
	newState := func() *arch.State {
		s := arch.NewState()
		s.Exec(codeAt, stackAt+2048)
		s.Regs.Rax, s.Regs.Rdi, s.Regs.Rsi = answerNumbers, stackAt, stackAt+64
		return s
	}
	run := func(c *context, s *arch.State) *thread {
		t.Helper()
		for {
			switch ev, err := c.Switch(w.as, s); {
			case err != nil:
				t.Fatal(err)
			case ev.Kind == platform.EventSyscall:
				return c.thread
			}
		}
	}
	a, b := p.NewContext().(*context), p.NewContext().(*context)
	defer a.Release()
	sa, sb := newState(), newState()
	load, stored := wordAt(w.stack.b), wordAt(w.stack.b[64:])
	load.Store(1000)
	first := run(a, sa)
	second := run(b, sb)
	if first == second {
		t.Fatal("two contexts have one thread")
	}
	b.Park(sb)
	b.Release()
	a.Park(sa)
	on := func(th *thread) {
		t.Helper()
		// One that looks is taken before others.
		w.as.proc.hot.Store(th)
		w.as.proc.free = []*thread{first}
		if th == first {
			w.as.proc.free[0] = second
		}
		if got := run(a, sa); got != th {
			t.Fatal("it runs on the other thread")
		}
	}
	on(second)
	if got := stored.Load(); got != 1000 {
		t.Errorf("%d was stored, want 1000", got)
	}
	load.Store(2000)
	sa.Regs.Rax = answerNumbers
	run(a, sa)
	a.Park(sa)
	on(first)
	if got := stored.Load(); got != 2000 {
		t.Errorf("%d was stored, want 2000", got)
	}
}
