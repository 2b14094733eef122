package arch

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// AltStack is a task's alternate signal stack, as sigaltstack(2) sets it.
type AltStack struct {
	Addr  usermem.Addr
	Flags uint32
	Size  uint64
}

// Flags of AltStack.
const (
	StackOnStack    = 1       // SS_ONSTACK
	StackDisable    = 2       // SS_DISABLE
	StackAutoDisarm = 1 << 31 // SS_AUTODISARM
)

// NoAltStack is what a task starts with.
var NoAltStack = AltStack{Flags: StackDisable}

// covers reports whether sp lies on the stack, its end included, for a stack
// grows down.
func (a AltStack) covers(sp uint64) bool {
	return a.Size != 0 && sp > uint64(a.Addr) && sp-uint64(a.Addr) <= a.Size
}

// Active reports whether a task with stack pointer sp runs on the stack, in
// which case sigaltstack(2) refuses to change it (EPERM). One that disarms
// itself never counts as active.
func (a AltStack) Active(sp uint64) bool { return a.Flags&StackAutoDisarm == 0 && a.covers(sp) }

// Flags of sigaction(2) that a frame depends on.
const (
	flagSigInfo  = 0x4
	flagRestorer = 0x04000000
	flagOnStack  = 0x08000000
)

// SigInfoSize is the size of a siginfo_t in bytes.
const SigInfoSize = 128

// SignalDelivery is what the handler of a signal is to find.
type SignalDelivery struct {
	Signo int
	Info  [SigInfoSize]byte
	// Handler, Restorer and Flags are those of sigaction(2).
	Handler, Restorer uint64
	Flags             uint64
	// Mask are the signals that sigreturn blocks again.
	Mask uint64
	// AltStack is the task's; it is reset if it disarms itself.
	AltStack *AltStack
	// TrapNo, ErrorCode and FaultAddr are those of the task's last exception.
	TrapNo, ErrorCode, FaultAddr uint64
}

// Sizes and places in struct rt_sigframe, struct ucontext and struct
// sigcontext (arch/x86/include/uapi/asm/{ucontext,sigcontext}.h).
const (
	framePretcode   = 0
	frameUcontext   = 8
	frameMcontext   = frameUcontext + 40
	frameSigmask    = frameMcontext + 256
	frameInfo       = frameSigmask + 8
	frameSize       = frameInfo + SigInfoSize
	redZone         = 128
	ucFlags         = 1 | 2 | 4 // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
	xstateMagic1    = 0x46505853
	xstateMagic2    = 0x46505845
	xstateMagicSize = 4
)

// flagsSigreturn are the flags that sigreturn restores (FIX_EFLAGS).
const flagsSigreturn = FlagAC | FlagOF | FlagDF | FlagTF | FlagSF | FlagZF | FlagAF | FlagPF | FlagCF | FlagRF

// PushSignalFrame makes the task run a signal handler: it writes the frame that
// Linux's rt_sigreturn(2) takes back and sets the registers. The vector state is
// still to be saved: see Vectors, which was empty. It fails with EFAULT, and nothing
// is changed but perhaps memory, when the frame can't be written: the task must then
// get a SIGSEGV that it can't catch on this stack.
func (s *State) PushSignalFrame(m usermem.Memory, d *SignalDelivery) error {
	if d.Flags&flagRestorer == 0 {
		return unix.EFAULT
	}
	r := &s.Regs
	sp := r.Rsp - redZone
	alt := *d.AltStack
	nested := alt.Active(r.Rsp)
	entering := d.Flags&flagOnStack != 0 && alt.Size != 0 && !alt.Active(sp)
	if entering {
		sp = uint64(alt.Addr) + alt.Size
	}
	fpAt := (sp - uint64(len(s.FP)) - xstateMagicSize) &^ 63
	at := (fpAt-frameSize)&^15 - 8
	if (nested || entering) && !alt.covers(at) {
		return unix.EFAULT
	}

	le := binary.LittleEndian
	f := s.room()[:frameSize]
	clear(f)
	le.PutUint64(f[framePretcode:], d.Restorer)
	le.PutUint64(f[frameUcontext:], ucFlags)
	le.PutUint64(f[frameUcontext+16:], uint64(alt.Addr))
	le.PutUint32(f[frameUcontext+24:], alt.Flags)
	le.PutUint64(f[frameUcontext+32:], alt.Size)
	words := [...]uint64{
		r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15,
		r.Rdi, r.Rsi, r.Rbp, r.Rbx, r.Rdx, r.Rax, r.Rcx, r.Rsp,
		r.Rip, r.Eflags, r.Cs&0xffff | r.Ss<<48,
		d.ErrorCode, d.TrapNo, d.Mask, d.FaultAddr, fpAt,
	}
	for i, w := range words {
		le.PutUint64(f[frameMcontext+8*i:], w)
	}
	le.PutUint64(f[frameSigmask:], d.Mask)
	size := frameSize
	if d.Flags&flagSigInfo != 0 {
		copy(f[frameInfo:], d.Info[:])
	} else {
		size = frameInfo
	}
	if _, err := m.CopyOut(usermem.Addr(at), f[:size]); err != nil {
		return unix.EFAULT
	}

	r.Rdi, r.Rsi, r.Rdx = uint64(d.Signo), at+frameInfo, at+frameUcontext
	r.Rax = 0
	r.Rip, r.Rsp = d.Handler, at
	r.Cs, r.Ss = UserCs, UserDs
	r.Eflags &^= FlagDF | FlagRF | FlagTF
	s.Vectors = FrameVectors{FrameSave, fpAt}
	if alt.Flags&StackAutoDisarm != 0 {
		*d.AltStack = NoAltStack
	}
	return nil
}

// room returns a buffer for a frame or its vector state.
func (s *State) room() []byte {
	if s.frame == nil {
		s.frame = make([]byte, max(frameSize, len(s.FP)))
	}
	return s.frame
}

// Settle does what is left in Vectors, by copying. Before FrameSave the caller has
// called the platform's PullFP, after FrameLoad it calls DropFP. It fails with EFAULT,
// and s.FP isn't changed, where the frame can't be written or isn't valid.
func (s *State) Settle(m usermem.Memory) error {
	v := s.Vectors
	s.Vectors = FrameVectors{}
	switch v.Do {
	case FrameSave:
		if err := s.saveFP(m, usermem.Addr(v.Addr)); err != nil {
			return err
		}
		ResetFP(s.FP)
	case FrameLoad:
		return s.restoreFP(m, usermem.Addr(v.Addr))
	}
	return nil
}

// FrameNotes returns what stands in the 48 bytes that software has in the image of
// a frame that holds all of the state, and the word behind it (struct
// _fpx_sw_bytes, FP_XSTATE_MAGIC2).
func FrameNotes() (notes [legacyArea - fpReserved]byte, magic uint32) {
	le := binary.LittleEndian
	le.PutUint32(notes[0:], xstateMagic1)
	le.PutUint32(notes[4:], uint32(FPSize()+xstateMagicSize))
	le.PutUint64(notes[8:], FPFeatures())
	le.PutUint32(notes[16:], uint32(FPSize()))
	return notes, xstateMagic2
}

// saveFP writes the vector state of a frame. As with XSAVE, what isn't in use stays as
// it is.
func (s *State) saveFP(m usermem.Memory, at usermem.Addr) error {
	le := binary.LittleEndian
	notes, magic := FrameNotes()
	sw := s.FP[fpReserved:legacyArea]
	copy(sw, notes[:])
	features := le.Uint64(s.FP[fpHeader:])
	le.PutUint64(s.FP[fpHeader:], features|FeatureX87|FeatureSSE)
	n, _ := FPInUse(s.FP)
	_, err := m.CopyOut(at, s.FP[:n])
	if err == nil {
		err = usermem.CopyOutUint32(m, at+usermem.Addr(len(s.FP)), magic)
	}
	clear(sw)
	le.PutUint64(s.FP[fpHeader:], features)
	if err != nil {
		return unix.EFAULT
	}
	return nil
}

// PopSignalFrame is rt_sigreturn(2): it restores what a frame at the stack
// pointer says and returns the signal mask and the alternate stack to set. The
// vector state is still to be loaded: see Vectors, which was empty. When it fails the
// task gets a SIGSEGV.
func (s *State) PopSignalFrame(m usermem.Memory) (mask uint64, alt AltStack, err error) {
	r := &s.Regs
	f := s.room()[:frameInfo-frameUcontext]
	if _, err := m.CopyIn(usermem.Addr(r.Rsp-8+frameUcontext), f); err != nil {
		return 0, AltStack{}, unix.EFAULT
	}
	le := binary.LittleEndian
	word := func(i int) uint64 { return le.Uint64(f[frameMcontext-frameUcontext+8*i:]) }
	mask = le.Uint64(f[frameSigmask-frameUcontext:])
	alt = AltStack{usermem.Addr(le.Uint64(f[16:])), le.Uint32(f[24:]), le.Uint64(f[32:])}

	for i, p := range [...]*uint64{
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15,
		&r.Rdi, &r.Rsi, &r.Rbp, &r.Rbx, &r.Rdx, &r.Rax, &r.Rcx, &r.Rsp, &r.Rip,
	} {
		*p = word(i)
	}
	r.Eflags = r.Eflags&^flagsSigreturn | word(17)&flagsSigreturn
	r.Cs, r.Ss = word(18)&0xffff|3, word(18)>>48|3
	r.OrigRax = ^uint64(0)
	r.Sanitize()
	s.Vectors = FrameVectors{FrameLoad, word(23)}
	return mask, alt, nil
}

// restoreFP loads the vector state of a frame. Without the marks of an XSAVE
// image only the first 512 bytes count (FXSAVE), and the rest is reset.
func (s *State) restoreFP(m usermem.Memory, at usermem.Addr) error {
	if at == 0 {
		ResetFP(s.FP)
		return nil
	}
	le := binary.LittleEndian
	fp := s.room()[:len(s.FP)]
	if _, err := m.CopyIn(at, fp[:legacyArea]); err != nil {
		return unix.EFAULT
	}
	sw := fp[fpReserved:legacyArea]
	extended, size := uint64(le.Uint32(sw[4:])), uint64(le.Uint32(sw[16:]))
	features := le.Uint64(sw[8:])
	whole := le.Uint32(sw) == xstateMagic1 && size >= fpHeaderEnd && size <= uint64(len(fp)) && size <= extended
	if whole {
		magic, err := usermem.CopyInUint32(m, at+usermem.Addr(size))
		if err != nil {
			return unix.EFAULT
		}
		whole = magic == xstateMagic2
	}
	if whole {
		if _, err := m.CopyIn(at+fpHeader, fp[fpHeader:fpHeaderEnd]); err != nil || CheckFP(fp) != nil {
			return unix.EFAULT
		}
		// What the header leaves out need not be there.
		n, _ := FPInUse(fp)
		clear(fp[fpHeaderEnd:])
		if n := min(n, int(size)); n > fpHeaderEnd {
			if _, err := m.CopyIn(at+fpHeaderEnd, fp[fpHeaderEnd:n]); err != nil {
				return unix.EFAULT
			}
		}
		// What the frame's notes leave out is reset.
		le.PutUint64(fp[fpHeader:], le.Uint64(fp[fpHeader:])&features)
	} else {
		clear(fp[legacyArea:])
		le.PutUint64(fp[fpHeader:], FeatureX87|FeatureSSE)
		if CheckFP(fp) != nil {
			return unix.EFAULT
		}
	}
	clear(fp[fpReserved:legacyArea])
	copy(s.FP, fp)
	return nil
}
