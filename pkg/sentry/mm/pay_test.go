package mm

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
)

// Mappings and runs of pages are charged, where there are many of them, to the last
// byte: a limit bounds them, a fork pays for its own, and nothing is left at the end.
func TestMappingsAreCharged(t *testing.T) {
	e := newEnv(t, 4<<20)
	m := e.newMM(t, Options{})
	const all = 16384 // pages
	at := mustMap(t, m, MMapOpts{Length: all * pageSize, Prot: usermem.Read, Private: true})
	if n := e.acct.Heap(); n != 0 {
		t.Errorf("one mapping costs %d bytes", n)
	}
	count, err := usermem.Addr(0), error(nil)
	for ; err == nil; count++ {
		err = m.MProtect(at+count*2*pageSize, pageSize, usermem.ReadWrite, false)
	}
	if err != unix.ENOMEM || count > all/2 {
		t.Fatalf("%v at %d", err, count)
	}
	if got, want := e.acct.Heap(), uint64(2*count-freeVMAs)*vmaCost; got < want-4*vmasAtOnce*vmaCost || got > want+4*vmasAtOnce*vmaCost {
		t.Errorf("%d mappings cost %d bytes", 2*count, got)
	}
	if _, err := m.Fork(); err != unix.ENOMEM {
		t.Errorf("a fork with twice as many: %v", err)
	}
	// What is given up makes room.
	if err := m.MUnmap(at+count*pageSize, uint64(all-count)*pageSize); err != nil {
		t.Error(err)
	}
	before := e.acct.Heap()
	child, err := m.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if got := e.acct.Heap(); got < 2*before-4*vmasAtOnce*vmaCost {
		t.Errorf("%d bytes, and with a child %d", before, got)
	}
	child.DecUsers()
	if got := e.acct.Heap(); got != before {
		t.Errorf("%d bytes, and %d when the child has gone", before, got)
	}
	m.DecUsers()
	if got := e.acct.Heap(); got != 0 {
		t.Errorf("%d bytes are left", got)
	}
}
