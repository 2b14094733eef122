package waiter

import "testing"

// thing is ready when it was told to be.
type thing struct {
	Queue
	ready Mask
}

func (t *thing) Readiness(m Mask) Mask    { return t.ready & m }
func (t *thing) EventRegister(e *Entry)   { t.Register(e) }
func (t *thing) EventUnregister(e *Entry) { t.Unregister(e) }

func TestPollWaitsForManyObjects(t *testing.T) {
	var a, b thing
	var p Poll
	p.Reset(4)
	p.Objects[0] = Polled{Object: &a, Mask: In}
	p.Objects[1] = Polled{Ready: Nval} // a descriptor that isn't open
	p.Objects[2] = Polled{Object: &b, Mask: Out}
	p.Objects[3] = Polled{Object: &b, Mask: 0}
	if n := p.Check(); n != 1 || p.Objects[1].Ready != Nval {
		t.Fatalf("%d ready", n)
	}
	p.Register()
	b.ready = Out | Hup
	b.Notify(Out | Hup)
	select {
	case <-p.C:
	default:
		t.Fatal("no token")
	}
	// Hup comes whether it was asked for or not.
	if n := p.Check(); n != 3 || p.Objects[2].Ready != Out|Hup || p.Objects[3].Ready != Hup {
		t.Errorf("%d ready: %#x, %#x", n, p.Objects[2].Ready, p.Objects[3].Ready)
	}
	p.Unregister()
	if !a.Empty() || !b.Empty() {
		t.Error("entries left behind")
	}
	b.Notify(Out)
	p.Reset(0)
	if len(p.C) != 0 {
		t.Error("an old token")
	}
}

// wakes counts, and may say that nobody was woken.
type wakes struct {
	n    int
	idle bool
}

func (w *wakes) Notify(*Entry, Mask)               { w.n++ }
func (w *wakes) NotifyExclusive(*Entry, Mask) bool { w.n++; return !w.idle }

func TestExclusiveEntriesAreWokenOneByOne(t *testing.T) {
	var q Queue
	idle, first, second, plain := &wakes{idle: true}, &wakes{}, &wakes{}, &wakes{}
	for _, w := range []*wakes{idle, first, second} {
		q.Register(&Entry{Listener: w, Mask: In, Exclusive: true})
	}
	q.Register(&Entry{Listener: plain, Mask: In})
	q.Notify(In)
	if idle.n != 1 || first.n != 1 || second.n != 0 || plain.n != 1 {
		t.Errorf("woken %d, %d, %d, %d times", idle.n, first.n, second.n, plain.n)
	}
}
