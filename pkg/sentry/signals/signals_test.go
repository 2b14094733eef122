package signals

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
)

// What carries something is refused beyond the limit; of what kill(2) sends one
// waits, however often it is sent (RLIMIT_SIGPENDING in getrlimit(2) is silent; Linux
// does so).
func TestQueueEndsAtTheLimit(t *testing.T) {
	s := RealTimeMin
	plain, carrying := &Info{Signo: int32(s), Code: CodeUser}, &Info{Signo: int32(s), Code: -1} // SI_QUEUE
	var p Pending
	for range 3 {
		if !p.Add(carrying, nil, 3) {
			t.Fatal("refused below the limit")
		}
	}
	if p.Add(carrying, nil, 3) {
		t.Error("sigqueue(3) beyond the limit")
	}
	for range 1000 {
		if !p.Add(plain, nil, 3) {
			t.Fatal("kill(2) refused beyond the limit")
		}
	}
	if p.Count() != 3 {
		t.Errorf("%d entries with a limit of 3", p.Count())
	}
	other := &Info{Signo: int32(s) + 1, Code: CodeUser}
	p.Add(other, nil, 3)
	p.Add(other, nil, 3)
	if p.Count() != 4 {
		t.Errorf("%d entries; want one of the signal that didn't wait", p.Count())
	}
}

func TestEntriesArePaidFor(t *testing.T) {
	a := memfile.NewHeapAccount(1 << 20)
	owner := new([64]byte)
	tab, err := memfile.NewTab(a, owner, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := Pending{Tab: tab}
	s := RealTimeMin
	n := 0
	for p.Add(&Info{Signo: int32(s), Code: -1}, nil, 1<<40) {
		if n++; n > 1<<20 {
			t.Fatal("no end")
		}
	}
	if a.Heap() < 900<<10 {
		t.Errorf("refused at %d bytes", a.Heap())
	}
	if info, ok := p.Take(s); !ok || unix.Signal(info.Signo) != unix.Signal(s) {
		t.Errorf("Take: %v, %v", info, ok)
	}
	if !p.Add(&Info{Signo: int32(s), Code: -1}, nil, 1<<40) {
		t.Error("no room after one was taken")
	}
	p.Discard(SetOf(s))
	if a.Heap() != 0 || p.Count() != 0 {
		t.Errorf("%d bytes, %d entries left", a.Heap(), p.Count())
	}
	*owner = [64]byte{}
}
