package arch

import (
	"encoding/binary"
	"errors"
	"sync"
)

func cpuid(leaf, sub uint32) (a, b, c, d uint32)
func xgetbv() uint64

// Feature bits of XCR0 and of an XSAVE header (SDM vol. 1 §13.1).
const (
	FeatureX87    = 1 << 0
	FeatureSSE    = 1 << 1
	FeatureAVX    = 1 << 2
	FeatureOpmask = 1 << 5
	FeatureZMMHi  = 1 << 6
	FeatureHiZMM  = 1 << 7
	FeaturePKRU   = 1 << 9

	// featuresKnown are those that applications get. AMX (bits 17 and 18)
	// is not: Linux gives it only to a process that has asked by
	// arch_prctl(2), and the stubs never ask. MPX (3 and 4) has gone.
	featuresKnown = FeatureX87 | FeatureSSE | FeatureAVX | FeatureOpmask | FeatureZMMHi | FeatureHiZMM | FeaturePKRU
)

// Places in an XSAVE image.
const (
	fpMXCSR     = 24
	fpMXCSRMask = 28
	fpReserved  = 464 // sw_reserved: free for software
	fpHeader    = 512
	fpHeaderEnd = 576
	legacyArea  = 512
)

type fpInfo struct {
	features uint64
	size     int
	parts    []fpPart
}

// fpPart is a part of the state behind the header, and where it ends.
type fpPart struct {
	feature uint64
	end     int
}

var fpFacts = sync.OnceValue(func() fpInfo {
	leaves, _, _, _ := cpuid(0, 0)
	_, _, c, _ := cpuid(1, 0)
	if leaves < 0xd || c&(1<<27) == 0 {
		// No XSAVE: FXSAVE's area, with an empty header behind it.
		return fpInfo{features: FeatureX87 | FeatureSSE, size: fpHeaderEnd}
	}
	info := fpInfo{features: xgetbv() & featuresKnown, size: fpHeaderEnd}
	for i := uint32(2); i < 63; i++ {
		if info.features&(1<<i) != 0 {
			size, off, _, _ := cpuid(0xd, i)
			info.size = max(info.size, int(off+size))
			info.parts = append(info.parts, fpPart{1 << i, int(off + size)})
		}
	}
	return info
})

// FPSize is the size of State.FP in bytes: an XSAVE image in the standard
// format that holds all of FPFeatures.
func FPSize() int { return fpFacts().size }

// FPFeatures are the parts of the vector state that applications can use, as
// bits of XCR0.
func FPFeatures() uint64 { return fpFacts().features }

// FPInUse returns how much of fp, an image, holds what its header says is in use,
// and what that says. The rest is as it is at first.
func FPInUse(fp []byte) (n int, features uint64) {
	info := fpFacts()
	features = binary.LittleEndian.Uint64(fp[fpHeader:]) & info.features
	n = fpHeaderEnd
	for _, p := range info.parts {
		if features&p.feature != 0 {
			n = max(n, p.end)
		}
	}
	return n, features
}

// CopyFP makes to the same as from, which may change meanwhile, but for what isn't in
// use there.
func CopyFP(to, from []byte) {
	n, features := FPInUse(from)
	clear(to[copy(to, from[:n]):])
	binary.LittleEndian.PutUint64(to[fpHeader:], features)
}

// NewFP returns the state that a program starts with.
func NewFP() []byte {
	fp := make([]byte, FPSize())
	ResetFP(fp)
	return fp
}

// ResetFP makes fp what a program starts with (exec, and the entry of a signal
// handler): all registers zero, the control words at their defaults.
func ResetFP(fp []byte) {
	clear(fp)
	binary.LittleEndian.PutUint16(fp[0:], 0x37f)
	binary.LittleEndian.PutUint32(fp[fpMXCSR:], 0x1f80)
	binary.LittleEndian.PutUint64(fp[fpHeader:], FeatureX87|FeatureSSE)
}

// mxcsrMask are the bits of MXCSR that can be set: those that every processor
// with XSAVE and AVX has, denormals-are-zero included.
const mxcsrMask = 0xffff

// ErrBadFP says that an XSAVE image asks for what the processor would refuse.
var ErrBadFP = errors.New("arch: reserved bits in the floating-point state")

// CheckFP reports whether XRSTOR would take fp: the rules are those that Linux
// applies to a frame in rt_sigreturn(2).
func CheckFP(fp []byte) error {
	le := binary.LittleEndian
	if len(fp) < fpHeaderEnd {
		return ErrBadFP
	}
	if le.Uint32(fp[fpMXCSR:])&^mxcsrMask != 0 || le.Uint64(fp[fpHeader:])&^FPFeatures() != 0 {
		return ErrBadFP
	}
	// xcomp_bv and the rest of the header.
	for _, b := range fp[fpHeader+8 : fpHeaderEnd] {
		if b != 0 {
			return ErrBadFP
		}
	}
	return nil
}

// SanitizeFP makes fp acceptable by dropping what CheckFP refuses.
func SanitizeFP(fp []byte) {
	le := binary.LittleEndian
	le.PutUint32(fp[fpMXCSR:], le.Uint32(fp[fpMXCSR:])&mxcsrMask)
	le.PutUint64(fp[fpHeader:], le.Uint64(fp[fpHeader:])&FPFeatures())
	clear(fp[fpHeader+8 : fpHeaderEnd])
}
