package signals

import (
	"testing"

	"golang.org/x/sys/unix"
)

const (
	usr1  = Signal(unix.SIGUSR1)
	usr2  = Signal(unix.SIGUSR2)
	chld  = Signal(unix.SIGCHLD)
	catch = 0x1000 // where a handler might be
)

func TestHandlerForOnceIsGoneWhenDelivered(t *testing.T) {
	var a Table
	a.Set(usr1, Action{Handler: catch, Flags: FlagResetHand})
	a.Set(usr2, Action{Handler: catch})
	for _, want := range []uint64{catch, HandlerDefault} {
		if got := a.Deliver(usr1); got.Handler != want {
			t.Errorf("for once: %#x, want %#x", got.Handler, want)
		}
		if got := a.Deliver(usr2); got.Handler != catch {
			t.Errorf("for good: %#x", got.Handler)
		}
	}
}

func TestForceTakesIgnoranceAndBlocksAway(t *testing.T) {
	for _, c := range []struct {
		handler uint64
		blocked bool
		forced  bool
	}{
		{HandlerDefault, false, false}, {catch, false, false}, {HandlerIgnore, false, true}, {catch, true, true}, {HandlerDefault, true, true},
	} {
		var a Table
		a.Set(usr1, Action{Handler: c.handler})
		want := c.handler
		if c.forced {
			want = HandlerDefault
		}
		if forced := a.Force(usr1, c.blocked); forced != c.forced || a.Get(usr1).Handler != want {
			t.Errorf("%+v: %v, then %#x", c, forced, a.Get(usr1).Handler)
		}
	}
}

func TestExecKeepsOnlyWhatIsIgnored(t *testing.T) {
	var a Table
	a.Set(usr1, Action{Handler: catch, Flags: FlagRestart, Restorer: 7, Mask: SetOf(usr2)})
	a.Set(usr2, Action{Handler: HandlerIgnore, Flags: FlagRestart, Mask: SetOf(usr1)})
	n := a.ForExec()
	if got := n.Get(usr1); got != (Action{}) {
		t.Errorf("caught before: %+v", got)
	}
	if got := n.Get(usr2); got != (Action{Handler: HandlerIgnore}) {
		t.Errorf("ignored before: %+v", got)
	}
	if got := a.Get(usr1).Handler; got != catch {
		t.Errorf("the old table has changed: %#x", got)
	}
}

func TestForkedTablesChangeApart(t *testing.T) {
	var a Table
	a.Set(usr1, Action{Handler: catch})
	b := a.Fork()
	a.Set(usr1, Action{Handler: HandlerIgnore})
	if got := b.Get(usr1).Handler; got != catch {
		t.Errorf("the copy's handler is %#x", got)
	}
}

func TestTableSaysWhatIsIgnoredAndCaught(t *testing.T) {
	var a Table
	if !a.Ignored(chld) || a.Ignored(usr1) {
		t.Error("defaults")
	}
	if ignored, caught := a.Sets(); ignored != 0 || caught != 0 {
		t.Errorf("by choice: %#x, %#x", ignored, caught)
	}
	old := a.Set(usr1, Action{Handler: HandlerIgnore, Mask: Unblockable | SetOf(usr2)})
	if old != (Action{}) || a.Get(usr1).Mask != SetOf(usr2) {
		t.Errorf("was %+v, is %+v: SIGKILL and SIGSTOP can't be blocked", old, a.Get(usr1))
	}
	a.Set(usr2, Action{Handler: catch})
	if ignored, caught := a.Sets(); ignored != SetOf(usr1) || caught != SetOf(usr2) {
		t.Errorf("by choice: %#x, %#x", ignored, caught)
	}
}
