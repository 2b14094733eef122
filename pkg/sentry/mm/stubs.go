// Package mm is the memory manager of an application's process.
package mm

import (
	"errors"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// ErrOOM is what HandleFault returns when the container's memory limit or the host's memory is used up.
var ErrOOM = errors.New("out of memory")

// MemoryManager is an application's address space.
type MemoryManager struct{}

// New returns an empty address space with one user.
func New(p platform.Platform, f *memfile.File, acct *memfile.Account, opts Options) (*MemoryManager, error) {
	panic("not yet")
}

func (m *MemoryManager) SetLimits(l Limits)                            { panic("not yet") }
func (m *MemoryManager) Fork() (*MemoryManager, error)                 { panic("not yet") }
func (m *MemoryManager) IncUsers()                                     { panic("not yet") }
func (m *MemoryManager) IncUsersIfAlive() bool                         { panic("not yet") }
func (m *MemoryManager) DecUsers()                                     { panic("not yet") }
func (m *MemoryManager) AddressSpace() platform.AddressSpace           { panic("not yet") }
func (m *MemoryManager) MMap(opts MMapOpts) (usermem.Addr, error)      { panic("not yet") }
func (m *MemoryManager) MUnmap(addr usermem.Addr, length uint64) error { panic("not yet") }
func (m *MemoryManager) MProtect(addr usermem.Addr, length uint64, prot usermem.Access, growsDown bool) error {
	panic("not yet")
}
func (m *MemoryManager) MRemap(old usermem.Addr, oldLen, newLen uint64, opts MRemapOpts) (usermem.Addr, error) {
	panic("not yet")
}
func (m *MemoryManager) SetBrk(start usermem.Addr)                                  { panic("not yet") }
func (m *MemoryManager) Brk(addr usermem.Addr) usermem.Addr                         { panic("not yet") }
func (m *MemoryManager) MAdvise(addr usermem.Addr, length uint64, advice int) error { panic("not yet") }
func (m *MemoryManager) MSync(addr usermem.Addr, length uint64, flags int) error    { panic("not yet") }

// MIncore writes one byte per page of [addr, addr+length) to vec.
func (m *MemoryManager) MIncore(addr usermem.Addr, length uint64, vec usermem.Addr) error {
	panic("not yet")
}
func (m *MemoryManager) MLock(addr usermem.Addr, length uint64, onFault bool, limit uint64) error {
	panic("not yet")
}
func (m *MemoryManager) MUnlock(addr usermem.Addr, length uint64) error             { panic("not yet") }
func (m *MemoryManager) MLockAll(flags int, limit uint64) error                     { panic("not yet") }
func (m *MemoryManager) MUnlockAll()                                                { panic("not yet") }
func (m *MemoryManager) HandleFault(addr usermem.Addr, access usermem.Access) error { panic("not yet") }
func (m *MemoryManager) CopyIn(addr usermem.Addr, dst []byte) (int, error)          { panic("not yet") }
func (m *MemoryManager) CopyOut(addr usermem.Addr, src []byte) (int, error)         { panic("not yet") }
func (m *MemoryManager) ZeroOut(addr usermem.Addr, n uint64) (uint64, error)        { panic("not yet") }
func (m *MemoryManager) Blocks(r usermem.AddrRange, access usermem.Access, f func(b []byte) (int, error)) (uint64, error) {
	panic("not yet")
}
func (m *MemoryManager) CopyInForce(addr usermem.Addr, dst []byte) (int, error)  { panic("not yet") }
func (m *MemoryManager) CopyOutForce(addr usermem.Addr, src []byte) (int, error) { panic("not yet") }

// SharedKey names the futex word at addr for FUTEX calls without FUTEX_PRIVATE_FLAG.
func (m *MemoryManager) SharedKey(addr usermem.Addr) (FutexKey, error)          { panic("not yet") }
func (m *MemoryManager) PrivateKey(addr usermem.Addr) FutexKey                  { panic("not yet") }
func (m *MemoryManager) LoadUint32(addr usermem.Addr) (uint32, error)           { panic("not yet") }
func (m *MemoryManager) SwapUint32(addr usermem.Addr, v uint32) (uint32, error) { panic("not yet") }

// CompareAndSwapUint32 returns the value found; the swap was done when it equals old.
func (m *MemoryManager) CompareAndSwapUint32(addr usermem.Addr, old, v uint32) (uint32, error) {
	panic("not yet")
}
func (m *MemoryManager) VMAs(f func(VMAInfo) bool)           { panic("not yet") }
func (m *MemoryManager) Stats() Stats                        { panic("not yet") }
func (m *MemoryManager) SetArgs(args, env usermem.AddrRange) { panic("not yet") }
func (m *MemoryManager) Args() (args, env usermem.AddrRange) { panic("not yet") }

// AuxvEntry is one pair of the auxiliary vector.
type AuxvEntry struct{ Type, Value uint64 }

func (m *MemoryManager) SetAuxv(v []AuxvEntry) { panic("not yet") }
func (m *MemoryManager) Auxv() []AuxvEntry     { panic("not yet") }
func (m *MemoryManager) SetExecutable(v any)   { panic("not yet") }
func (m *MemoryManager) Executable() any       { panic("not yet") }
func (m *MemoryManager) SetDumpable(v int)     { panic("not yet") }
func (m *MemoryManager) Dumpable() int         { panic("not yet") }

// SetCodeRange and SetDataRange record where the executable lies, for /proc/PID/stat.
func (m *MemoryManager) SetCodeRange(code, data usermem.AddrRange) { panic("not yet") }
func (m *MemoryManager) CodeRange() (code, data usermem.AddrRange) { panic("not yet") }

// StackStart is recorded by exec for /proc/PID/stat.
func (m *MemoryManager) SetStackStart(a usermem.Addr)                               { panic("not yet") }
func (m *MemoryManager) StackStart() usermem.Addr                                   { panic("not yet") }
func (m *MemoryManager) BrkStart() usermem.Addr                                     { panic("not yet") }
func (m *MemoryManager) Invalidate(o memmap.Mappable, r memmap.Range, private bool) { panic("not yet") }
