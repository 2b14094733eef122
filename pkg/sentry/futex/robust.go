package futex

import "vitrine/pkg/usermem"

// Robust futexes (Documentation/robust-futex-ABI.txt): a thread keeps a list of
// those it holds, in its own memory. The list's head has the first entry, the
// offset of the word from an entry, and an entry that is about to be added or
// removed. Bit 0 of a pointer says that the futex is one with priority
// inheritance.

// robustLimit is how many entries are looked at: the list may be a ring.
const robustLimit = 2048

// Memory is an address space with futexes and lists in it.
type Memory interface {
	usermem.Memory
	Target
}

// EndRobustList marks the futexes of the list at head that thread tid holds as
// ownerless, when it has ended, and calls wake for those that somebody waits for.
// Memory that can't be read ends the walk. No locks are held.
func EndRobustList(m Memory, head usermem.Addr, tid uint32, wake func(usermem.Addr)) {
	var h [3]uint64
	for i := range h {
		v, err := usermem.CopyInUint64(m, head+usermem.Addr(8*i))
		if err != nil {
			return
		}
		h[i] = v
	}
	entry, offset, pending := h[0], h[1], h[2]
	for n := 0; usermem.Addr(entry&^1) != head && n < robustLimit; n++ {
		next, err := usermem.CopyInUint64(m, usermem.Addr(entry&^1)) // before anybody reuses the entry
		if entry&^1 != pending&^1 {
			if !ownerDied(m, usermem.Addr(entry&^1+offset), entry&1 != 0, tid, wake) {
				return
			}
		}
		if err != nil {
			return
		}
		entry = next
	}
	if pending != 0 {
		ownerDied(m, usermem.Addr(pending&^1+offset), pending&1 != 0, tid, wake)
	}
}

// ownerDied marks the word at addr, if tid holds it. It reports false for a word
// that isn't one.
func ownerDied(m Memory, addr usermem.Addr, pi bool, tid uint32, wake func(usermem.Addr)) bool {
	if addr&3 != 0 {
		return false
	}
	for {
		v, err := m.LoadUint32(addr)
		if err != nil {
			return false
		}
		if v&TIDMask != tid {
			return true
		}
		ok, err := cas(m, addr, v, v&Waiters|OwnerDied)
		if err != nil {
			return false
		}
		if ok {
			if v&Waiters != 0 && !pi {
				wake(addr)
			}
			return true
		}
	}
}
