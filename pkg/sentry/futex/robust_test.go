package futex

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// memory is an application's, from address 0 on.
type memory struct {
	usermem.Memory
	b []byte
}

func (m *memory) CopyIn(a usermem.Addr, p []byte) (int, error) {
	if uint64(a)+uint64(len(p)) > uint64(len(m.b)) || uint64(a) > uint64(len(m.b)) {
		return 0, unix.EFAULT
	}
	return copy(p, m.b[a:]), nil
}

func (m *memory) LoadUint32(a usermem.Addr) (uint32, error) {
	if uint64(a) > uint64(len(m.b)-4) {
		return 0, unix.EFAULT
	}
	return binary.LittleEndian.Uint32(m.b[a:]), nil
}

func (m *memory) CompareAndSwapUint32(a usermem.Addr, old, v uint32) (uint32, error) {
	seen, err := m.LoadUint32(a)
	if err == nil && seen == old {
		binary.LittleEndian.PutUint32(m.b[a:], v)
	}
	return seen, err
}

// A list in memory of 0x1000 bytes: the head at 0x100, entries at multiples of
// 0x20 from 0x200 on, each with its word 8 bytes behind it.
const (
	head   = 0x100
	offset = 8
	me     = 77
)

func list(pending uint64, entries ...uint64) *memory {
	m := &memory{b: make([]byte, 0x1000)}
	le := binary.LittleEndian
	at := uint64(head)
	for _, e := range entries {
		le.PutUint64(m.b[at:], e)
		at = e &^ 1
	}
	le.PutUint64(m.b[at:], head)
	le.PutUint64(m.b[head+8:], offset)
	le.PutUint64(m.b[head+16:], pending)
	return m
}

func (m *memory) word(entry uint64) uint32 { return binary.LittleEndian.Uint32(m.b[entry+offset:]) }
func (m *memory) set(entry uint64, v uint32) {
	binary.LittleEndian.PutUint32(m.b[entry+offset:], v)
}

func TestEndRobustList(t *testing.T) {
	const held, wanted, others, pi, pending = 0x200, 0x220, 0x240, 0x260, 0x280
	m := list(pending, held, wanted, others, pi|1)
	m.set(held, me)
	m.set(wanted, me|Waiters)
	m.set(others, 5|Waiters)
	m.set(pi, me|Waiters)
	m.set(pending, me)
	var woken []usermem.Addr
	EndRobustList(m, head, me, func(a usermem.Addr) { woken = append(woken, a) })
	for _, c := range []struct {
		name  string
		entry uint64
		want  uint32
	}{
		{"held", held, OwnerDied},
		{"waited for", wanted, OwnerDied | Waiters},
		{"another's", others, 5 | Waiters},
		{"with priority inheritance", pi, OwnerDied | Waiters},
		{"pending", pending, OwnerDied},
	} {
		if got := m.word(c.entry); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
	if !slices.Equal(woken, []usermem.Addr{wanted + offset}) {
		t.Errorf("woken: %#x, want the one that isn't handed over otherwise", woken)
	}
}

func TestEndRobustListOfHostileMemory(t *testing.T) {
	const a, b = 0x200, 0x220
	wake := func(usermem.Addr) {}
	ring := list(0, a, b)
	binary.LittleEndian.PutUint64(ring.b[b:], a) // never back at the head
	ring.set(a, me)
	EndRobustList(ring, head, me, wake)
	if got := ring.word(a); got != OwnerDied {
		t.Errorf("in a ring: %#x", got)
	}
	hole := list(0, a)
	binary.LittleEndian.PutUint64(hole.b[a:], 1<<40)
	hole.set(a, me)
	EndRobustList(hole, head, me, wake)
	if got := hole.word(a); got != OwnerDied {
		t.Errorf("before a hole: %#x", got)
	}
	odd := list(0, a+2, b)
	odd.set(b, me)
	EndRobustList(odd, head, me, wake)
	if got := odd.word(b); got != me {
		t.Errorf("behind a word at an odd address: %#x", got)
	}
	EndRobustList(odd, 0xff8, me, wake)
	EndRobustList(odd, ^usermem.Addr(7), me, wake)
}
