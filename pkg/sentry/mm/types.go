package mm

import (
	"fmt"
	"math"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// NoLimit is the value of a limit that is not set (RLIM_INFINITY).
const NoLimit = math.MaxUint64

// Limits are the resource limits that a MemoryManager asks for when it needs
// them, in bytes. The methods are called with locks held: they must not call
// back. They are safe for concurrent use.
type Limits interface {
	AddressSpaceLimit() uint64 // RLIMIT_AS
	DataLimit() uint64         // RLIMIT_DATA
	StackLimit() uint64        // RLIMIT_STACK
}

// FixedLimits are Limits that never change.
type FixedLimits struct{ AddressSpace, Data, Stack uint64 }

// AddressSpaceLimit implements Limits.
func (l FixedLimits) AddressSpaceLimit() uint64 { return l.AddressSpace }

// DataLimit implements Limits.
func (l FixedLimits) DataLimit() uint64 { return l.Data }

// StackLimit implements Limits.
func (l FixedLimits) StackLimit() uint64 { return l.Stack }

// Options are the parameters of New.
type Options struct {
	// Limits may be nil: nothing is limited, and the stack is 8 MiB.
	Limits Limits
	// NoRandom makes the layout the same each time, as
	// personality(ADDR_NO_RANDOMIZE) does.
	NoRandom bool
	// Loading says that a program will be put in place, and MapAhead called
	// then: until then nothing is mapped ahead.
	Loading bool
}

// MMapOpts are the parameters of MMap; see mmap(2).
type MMapOpts struct {
	// Addr is a hint, or the place when Fixed or FixedNoReplace is set.
	Addr   usermem.Addr
	Length uint64
	// Offset is in Mappable, page-aligned.
	Offset uint64
	Prot   usermem.Access
	// MaxProt is what mprotect may give later; zero means anything.
	MaxProt usermem.Access

	Private        bool
	Fixed          bool // MAP_FIXED
	FixedNoReplace bool // MAP_FIXED_NOREPLACE
	GrowsDown      bool // MAP_GROWSDOWN
	Populate       bool // MAP_POPULATE
	Locked         bool // MAP_LOCKED
	NoReserve      bool // MAP_NORESERVE
	Stack          bool // MAP_STACK; no effect, as on Linux
	// Steady promises that nobody changes the object while it is mapped, as
	// MAP_DENYWRITE once did, which the dynamic linker still says. Pages of a
	// private mapping may then be copied before they are written.
	Steady   bool
	Map32Bit bool // MAP_32BIT

	// LockLimit bounds locked memory (RLIMIT_MEMLOCK) where Locked is set or
	// mlockall(MCL_FUTURE) is in force. Zero locks nothing: pass NoLimit for
	// a caller with CAP_IPC_LOCK.
	LockLimit uint64

	// Mappable is nil for anonymous memory. A shared anonymous mapping gets
	// a page store of its own.
	Mappable memmap.Mappable
	// Identity may be nil. MMap takes a reference of its own.
	Identity memmap.Identity
	// Name is what /proc/PID/maps shows where there is no Identity: "[heap]",
	// "[stack]", "[vdso]".
	Name string
}

// MRemapOpts are the flags of mremap(2).
type MRemapOpts struct {
	MayMove   bool         // MREMAP_MAYMOVE
	Fixed     bool         // MREMAP_FIXED: NewAddr is where it goes
	DontUnmap bool         // MREMAP_DONTUNMAP
	NewAddr   usermem.Addr // with Fixed, or a hint with DontUnmap
	LockLimit uint64       // as in MMapOpts
}

// Fault is the error of HandleFault that becomes a signal. The values are
// shared: compare fields, do not change them.
type Fault struct {
	Signo int32 // SIGSEGV or SIGBUS
	Code  int32 // si_code
}

func (f *Fault) Error() string { return fmt.Sprintf("page fault: signal %d code %d", f.Signo, f.Code) }

// The si_codes of a Fault: sigaction(2).
const (
	SegvMapErr = 1 // SEGV_MAPERR: nothing is mapped there
	SegvAccErr = 2 // SEGV_ACCERR: the mapping does not permit it
	BusAdrErr  = 2 // BUS_ADRERR: the object has no such page
)

// VMAInfo describes a mapping for /proc/PID/maps, smaps and the like.
type VMAInfo struct {
	// Identity is what is mapped, without a reference: to compare it.
	Identity   memmap.Identity
	Range      usermem.AddrRange
	Prot       usermem.Access
	MaxProt    usermem.Access
	Private    bool
	GrowsDown  bool
	Locked     bool
	DontFork   bool
	NoReserve  bool
	WipeOnFork bool
	Offset     uint64
	Device     uint64
	Inode      uint64
	Name       string
	// Resident is how many bytes have pages, and PrivateResident how many of
	// those are private copies (Anonymous in smaps).
	Resident        uint64
	PrivateResident uint64
}

// Stats are the sizes of /proc/PID/status and statm, in bytes.
type Stats struct {
	Size, PeakSize         uint64 // VmSize, VmPeak
	RSS, PeakRSS           uint64 // VmRSS, VmHWM
	RSSAnon, RSSFile       uint64 // parts of RSS
	RSSShmem               uint64
	Locked                 uint64 // VmLck
	Data, Stack, Exec, Lib uint64 // VmData, VmStk, VmExe, VmLib
}

// FutexKey says which futex word an address names; two addresses with equal
// keys are the same word. It is comparable.
type FutexKey struct {
	// Object is the *MemoryManager of a private word, or the Mappable of a
	// shared one.
	Object any
	// Offset is the address, or the offset in the Mappable.
	Offset uint64
}
