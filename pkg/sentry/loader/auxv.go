package loader

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

// Types of auxiliary vector entries: getauxval(3), <linux/auxvec.h>.
const (
	atNull        = 0
	atPhdr        = 3
	atPhent       = 4
	atPhnum       = 5
	atPagesz      = 6
	atBase        = 7
	atFlags       = 8
	atEntry       = 9
	atUID         = 11
	atEUID        = 12
	atGID         = 13
	atEGID        = 14
	atPlatform    = 15
	atHWCap       = 16
	atClkTck      = 17
	atSecure      = 23
	atRandom      = 25
	atHWCap2      = 26
	atExecFn      = 31
	atSysinfoEHdr = 33
	atMinSigStkSz = 51

	maxAuxv = 21

	clockTicks = 100 // USER_HZ
)

// CPUFeatures is what the auxiliary vector tells about the processor.
type CPUFeatures struct {
	HWCap  uint64 // EDX of CPUID leaf 1
	HWCap2 uint64
	// MinSigStackSize is the size of a signal frame with all of the
	// processor's state, in bytes; zero leaves it out.
	MinSigStackSize uint64
}

// hwCap2FSGSBase says that FSGSBASE instructions may be used.
const hwCap2FSGSBase = 1 << 1

// HostCPU returns the features that the host's kernel tells this process of.
func HostCPU() (CPUFeatures, error) {
	v, err := unix.Auxv()
	if err != nil {
		return CPUFeatures{}, err
	}
	var c CPUFeatures
	for _, a := range v {
		switch a[0] {
		case atHWCap:
			c.HWCap = uint64(a[1])
		case atHWCap2:
			// GS may hold a platform's own base, which is not for copying.
			c.HWCap2 = uint64(a[1]) &^ hwCap2FSGSBase
		case atMinSigStkSz:
			c.MinSigStackSize = uint64(a[1])
		}
	}
	return c, nil
}

// auxv returns the auxiliary vector, in Linux's order.
func (p *Program) auxv(t *Target, img *Image, main placed, base usermem.Addr, st stackTop) []mm.AuxvEntry {
	v := make([]mm.AuxvEntry, 0, maxAuxv)
	add := func(kind, value uint64) { v = append(v, mm.AuxvEntry{Type: kind, Value: value}) }
	if img.VDSO != 0 {
		add(atSysinfoEHdr, uint64(img.VDSO))
	}
	if t.CPU.MinSigStackSize != 0 {
		add(atMinSigStkSz, t.CPU.MinSigStackSize)
	}
	add(atHWCap, t.CPU.HWCap)
	add(atPagesz, usermem.PageSize)
	add(atClkTck, clockTicks)
	add(atPhdr, uint64(main.phdrs))
	add(atPhent, phdrSize)
	add(atPhnum, uint64(len(p.elf.phdrs)))
	add(atBase, uint64(base))
	add(atFlags, 0)
	add(atEntry, uint64(main.entry))
	c := &t.Credentials
	add(atUID, uint64(c.UID))
	add(atEUID, uint64(c.EUID))
	add(atGID, uint64(c.GID))
	add(atEGID, uint64(c.EGID))
	var secure uint64
	if c.Secure {
		secure = 1
	}
	add(atSecure, secure)
	add(atRandom, uint64(st.random))
	add(atHWCap2, t.CPU.HWCap2)
	add(atExecFn, uint64(st.execfn))
	add(atPlatform, uint64(st.platform))
	add(atNull, 0)
	return v
}
