package arch

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// flat is memory from base on; everything else can't be touched.
type flat struct {
	base usermem.Addr
	b    []byte
}

func (m *flat) at(a usermem.Addr, n int) ([]byte, error) {
	if a < m.base || uint64(a-m.base) > uint64(len(m.b)) {
		return nil, unix.EFAULT
	}
	b := m.b[a-m.base:]
	if len(b) < n {
		return b, unix.EFAULT
	}
	return b[:n], nil
}

func (m *flat) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	b, err := m.at(a, len(dst))
	return copy(dst, b), err
}

func (m *flat) CopyOut(a usermem.Addr, src []byte) (int, error) {
	b, err := m.at(a, len(src))
	return copy(b, src), err
}

func (m *flat) ZeroOut(a usermem.Addr, n uint64) (uint64, error) {
	b, err := m.at(a, int(n))
	clear(b)
	return uint64(len(b)), err
}

func (m *flat) Blocks(r usermem.AddrRange, _ usermem.Access, f func([]byte) (int, error)) (uint64, error) {
	b, err := m.at(r.Start, int(r.Len()))
	if err != nil {
		return 0, err
	}
	n, err := f(b)
	return uint64(n), err
}

func testState() *State {
	s := NewState()
	s.Regs = Registers{
		R15: 15, R14: 14, R13: 13, R12: 12, Rbp: 1, Rbx: 2, R11: 11, R10: 10, R9: 9, R8: 8,
		Rax: 3, Rcx: 4, Rdx: 5, Rsi: 6, Rdi: 7, OrigRax: ^uint64(0), Rip: 0x1234, Cs: UserCs,
		Eflags: FlagCF | FlagDF | flagsSet, Rsp: 0x1f000, Ss: UserDs, FsBase: 0x7000,
	}
	for i := 160; i < 416; i++ { // XMM
		s.FP[i] = byte(i)
	}
	return s
}

func delivery(alt *AltStack) *SignalDelivery {
	d := &SignalDelivery{
		Signo: 11, Handler: 0x4000, Restorer: 0x5000, Flags: flagSigInfo | flagRestorer, Mask: 0xabc,
		AltStack: alt, TrapNo: 14, ErrorCode: 6, FaultAddr: 0x99000,
	}
	for i := range d.Info {
		d.Info[i] = byte(i)
	}
	return d
}

// push and pop do all that a frame needs.
func push(s *State, m usermem.Memory, d *SignalDelivery) error {
	if err := s.PushSignalFrame(m, d); err != nil {
		return err
	}
	return s.Settle(m)
}

func pop(s *State, m usermem.Memory) (uint64, AltStack, error) {
	mask, alt, err := s.PopSignalFrame(m)
	if err == nil {
		err = s.Settle(m)
	}
	return mask, alt, err
}

func TestSignalFrameComesBackAsItWas(t *testing.T) {
	for _, test := range []struct {
		name  string
		alt   AltStack
		flags uint64
		lo    uint64 // where the frame must lie
		hi    uint64
	}{
		{"on the task's stack", NoAltStack, 0, 0x1d000, 0x1f000 - redZone},
		{"alternate stack not asked for", AltStack{Addr: 0x11000, Size: 0x4000}, 0, 0x1d000, 0x1f000 - redZone},
		{"on the alternate stack", AltStack{Addr: 0x11000, Size: 0x4000}, flagOnStack, 0x11000, 0x15000},
		{"on one that disarms itself", AltStack{Addr: 0x11000, Size: 0x4000, Flags: StackAutoDisarm}, flagOnStack, 0x11000, 0x15000},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &flat{0x10000, make([]byte, 0x10000)}
			s := testState()
			want := s.Clone()
			alt := test.alt
			d := delivery(&alt)
			d.Flags |= test.flags
			if err := push(s, m, d); err != nil {
				t.Fatal(err)
			}
			r := &s.Regs
			if r.Rsp < test.lo || r.Rsp >= test.hi || (r.Rsp+8)%16 != 0 {
				t.Errorf("the frame is at %#x", r.Rsp)
			}
			if r.Rip != d.Handler || r.Rdi != 11 || r.Rax != 0 || r.Eflags&FlagDF != 0 {
				t.Errorf("the handler starts with %+v", *r)
			}
			info := make([]byte, SigInfoSize)
			if m.CopyIn(usermem.Addr(r.Rsi), info); !bytes.Equal(info, d.Info[:]) {
				t.Error("the siginfo_t is not where RSI points")
			}
			if !bytes.Equal(s.FP, NewFP()) {
				t.Error("the handler doesn't start with fresh vector registers")
			}
			if disarmed := alt == NoAltStack; disarmed != (test.alt.Flags != 0) {
				t.Errorf("the alternate stack is now %+v", alt)
			}
			r.Rsp += 8 // the handler returns to the restorer
			mask, back, err := pop(s, m)
			if err != nil || mask != d.Mask || back != test.alt {
				t.Fatalf("PopSignalFrame = %#x, %+v, %v", mask, back, err)
			}
			if s.Regs != want.Regs {
				t.Errorf("registers: got %+v, want %+v", s.Regs, want.Regs)
			}
			if !bytes.Equal(s.FP, want.FP) {
				t.Error("vector registers differ")
			}
		})
	}
}

func TestSignalFrameThatDoesNotFit(t *testing.T) {
	for _, test := range []struct {
		name string
		rsp  uint64
		alt  AltStack
	}{
		{"unmapped stack", 0x10100, NoAltStack},
		{"stack at zero", 0, NoAltStack},
		{"stack not canonical", 0x8000_0000_0000_0000, NoAltStack},
		{"alternate stack too small", 0x1f000, AltStack{Addr: 0x11000, Size: 0x400}},
		{"alternate stack used up", 0x11200, AltStack{Addr: 0x11000, Size: 0x4000}},
		{"alternate stack wraps", 0x1f000, AltStack{Addr: ^usermem.Addr(0) - 100, Size: 0x4000}},
	} {
		m := &flat{0x10000, make([]byte, 0x10000)}
		s := testState()
		s.Regs.Rsp = test.rsp
		want := s.Regs
		d := delivery(&test.alt)
		d.Flags |= flagOnStack
		if err := s.PushSignalFrame(m, d); err != unix.EFAULT {
			t.Errorf("%s: %v", test.name, err)
		}
		if s.Regs != want || s.Vectors != (FrameVectors{}) {
			t.Errorf("%s: the registers have changed", test.name)
		}
	}
}

func TestSigreturnOfForgedFrames(t *testing.T) {
	le := binary.LittleEndian
	pushed := func() (*flat, *State, usermem.Addr) {
		m := &flat{0x10000, make([]byte, 0x10000)}
		s := testState()
		alt := NoAltStack
		if err := push(s, m, delivery(&alt)); err != nil {
			t.Fatal(err)
		}
		at := usermem.Addr(s.Regs.Rsp)
		s.Regs.Rsp += 8
		return m, s, at
	}
	word := func(m *flat, at usermem.Addr, i int) []byte { return m.b[at-m.base+frameMcontext+usermem.Addr(8*i):] }
	fpOf := func(m *flat, at usermem.Addr) []byte { return m.b[usermem.Addr(le.Uint64(word(m, at, 23)))-m.base:] }

	m, s, at := pushed()
	le.PutUint64(word(m, at, 17), ^uint64(0)) // flags: I/O privilege, virtual-8086, ...
	le.PutUint64(word(m, at, 18), 0)          // kernel selectors
	if _, _, err := pop(s, m); err != nil {
		t.Fatal(err)
	}
	if r := s.Regs; r.Eflags&^(flagsUser|flagsSet) != 0 || r.Eflags&flagsSet != flagsSet || r.Cs != UserCs || r.Ss != UserDs {
		t.Errorf("forged flags and selectors give %+v", r)
	}

	for _, test := range []struct {
		name  string
		forge func(fp []byte)
	}{
		{"MXCSR", func(fp []byte) { le.PutUint32(fp[fpMXCSR:], 1<<31) }},
		{"features", func(fp []byte) { le.PutUint64(fp[fpHeader:], ^uint64(0)) }},
		{"AMX", func(fp []byte) { le.PutUint64(fp[fpHeader:], 1<<18) }},
		{"compaction", func(fp []byte) { le.PutUint64(fp[fpHeader+8:], 1<<63) }},
		{"reserved bytes", func(fp []byte) { fp[fpHeaderEnd-1] = 1 }},
	} {
		m, s, at := pushed()
		test.forge(fpOf(m, at))
		if _, _, err := pop(s, m); err != unix.EFAULT {
			t.Errorf("forged %s: %v", test.name, err)
		}
		if CheckFP(s.FP) != nil {
			t.Errorf("forged %s: the state is bad", test.name)
		}
	}

	// Without its marks only the first 512 bytes of the image count.
	m, s, at = pushed()
	le.PutUint32(fpOf(m, at)[fpReserved:], 0)
	if _, _, err := pop(s, m); err != nil {
		t.Fatal(err)
	}
	if s.FP[161] != 161 {
		t.Error("XMM registers are not restored from a frame without marks")
	}

	// No image at all.
	m, s, at = pushed()
	le.PutUint64(word(m, at, 23), 0)
	if _, _, err := pop(s, m); err != nil || !bytes.Equal(s.FP, NewFP()) {
		t.Error("a frame without vector state doesn't reset it:", err)
	}

	m, s, at = pushed()
	le.PutUint64(word(m, at, 23), ^uint64(0)-100)
	if _, _, err := pop(s, m); err != unix.EFAULT {
		t.Error("vector state at a bad address:", err)
	}
	s.Regs.Rsp = 0
	if _, _, err := pop(s, m); err != unix.EFAULT {
		t.Error("a frame at a bad address:", err)
	}
}

func FuzzSanitize(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0))
	f.Add(^uint64(0), ^uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, flags, sel, base uint64) {
		r := Registers{Eflags: flags, Cs: sel, Ss: sel >> 16, Ds: sel >> 32, Es: sel >> 48, Fs: sel, Gs: sel, FsBase: base, GsBase: base}
		r.Sanitize()
		again := r
		again.Sanitize()
		if again != r {
			t.Errorf("not stable: %+v, then %+v", r, again)
		}
		if r.Cs&3 != 3 || r.Ss&3 != 3 || r.Eflags&(3<<12|1<<17) != 0 || r.FsBase >= taskSize {
			t.Errorf("not sane: %+v", r)
		}
	})
}
