package mm

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// PrivateKey names the futex word at addr for FUTEX_PRIVATE_FLAG.
func (m *MemoryManager) PrivateKey(addr usermem.Addr) FutexKey { return FutexKey{m, uint64(addr)} }

// SharedKey names the futex word at addr for calls without FUTEX_PRIVATE_FLAG.
// It fails with EFAULT where nothing is mapped. The key of a shared object is
// valid while the caller's mapping of it lasts, or whoever waits holds it.
func (m *MemoryManager) SharedKey(addr usermem.Addr) (FutexKey, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.vmas.Find(uint64(addr))
	if !ok || !e.Value.prot.Effective().Has(usermem.Read) {
		return FutexKey{}, unix.EFAULT
	}
	if e.Value.private {
		return FutexKey{m, uint64(addr)}, nil
	}
	return FutexKey{e.Value.mappable, uint64(addr) + e.Value.base}, nil
}

// LoadUint32 reads the word at addr, which is aligned, at once.
func (m *MemoryManager) LoadUint32(addr usermem.Addr) (v uint32, err error) {
	return m.atomically(addr, wordLoad, 0, 0)
}

// SwapUint32 replaces the word at addr, which is aligned, and returns what was
// there.
func (m *MemoryManager) SwapUint32(addr usermem.Addr, v uint32) (uint32, error) {
	return m.atomically(addr, wordSwap, 0, v)
}

// CompareAndSwapUint32 replaces the word at addr, which is aligned, if it is old.
// It returns what was there.
func (m *MemoryManager) CompareAndSwapUint32(addr usermem.Addr, old, v uint32) (uint32, error) {
	return m.atomically(addr, wordCompareAndSwap, old, v)
}

type wordOp uint8

const (
	wordLoad wordOp = iota
	wordSwap
	wordCompareAndSwap
)

func (m *MemoryManager) atomically(addr usermem.Addr, op wordOp, old, v uint32) (uint32, error) {
	if addr%4 != 0 {
		return 0, unix.EINVAL
	}
	access := usermem.Write
	if op == wordLoad {
		access = usermem.Read
	}
	for range maxRetries {
		m.pageMu.RLock()
		e, ok := m.vmas.Find(uint64(addr))
		if ok && e.Value.permits(access, false) {
			a, ok := m.areas.Find(uint64(addr))
			if ok && (op == wordLoad || m.writable(e.Value, a.Value)) {
				got, err := m.word(a.Value, uint64(addr), op, old, v)
				m.pageMu.RUnlock()
				return got, err
			}
		}
		m.pageMu.RUnlock()
		if err := m.ensure(addr, 4, access, false); err != nil {
			return 0, unix.EFAULT
		}
	}
	return 0, unix.EFAULT
}

func (m *MemoryManager) word(a area, addr uint64, op wordOp, old, v uint32) (uint32, error) {
	b, err := a.file.Slice(a.offset(addr), 4)
	if err != nil || len(b) < 4 {
		return 0, unix.EFAULT
	}
	if a.file == memmap.File(m.file) {
		return wordAt(b, op, old, v), nil
	}
	var got uint32
	err = usermem.Guard(func() error {
		got = wordAt(b, op, old, v)
		return nil
	})
	return got, err
}

func wordAt(b []byte, op wordOp, old, v uint32) uint32 {
	// SAFETY: b holds four bytes of a page that pageMu keeps, and its start
	// is as aligned as the address in the application, which is checked.
	p := (*uint32)(unsafe.Pointer(&b[0]))
	switch op {
	case wordSwap:
		return atomic.SwapUint32(p, v)
	case wordCompareAndSwap:
		for {
			got := atomic.LoadUint32(p)
			if got != old || atomic.CompareAndSwapUint32(p, old, v) {
				return got
			}
		}
	}
	return atomic.LoadUint32(p)
}
