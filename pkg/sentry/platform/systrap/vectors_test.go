package systrap

import (
	"encoding/binary"
	"testing"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
)

// More contexts than may keep their vector state in the stub take turns on its
// threads.
func TestVectorStateOfManyContexts(t *testing.T) {
	p := start(t)
	// XMM0 is loaded, a call made by way of a trampoline, XMM0 stored, and a call made.
	code := []byte{
		0xf3, 0x0f, 0x6f, 0x07, // movdqu (%rdi), %xmm0
		0x4c, 0x8d, 0x1d, 14, 0, 0, 0, // lea 1f(%rip), %r11
		0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov $PlainCallEntry, %rcx
		0xff, 0xe1, // jmp *%rcx
		0x0f, 0x05, // syscall
		0xf3, 0x0f, 0x7f, 0x06, // 1: movdqu %xmm0, (%rsi)
		0x0f, 0x05, // syscall
	}
	binary.LittleEndian.PutUint64(code[13:], plainEntryAddr)
	w := newWorld(t, p, code)
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
