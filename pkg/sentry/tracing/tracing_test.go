package tracing

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/signals"
)

const trap = Code(unix.SIGTRAP)

// The numbers are those of sys/ptrace.h: who has asked by an option sees the event.
func TestOptionsAskForEvents(t *testing.T) {
	for _, c := range []struct {
		option uint64
		event  Event
		code   Code
	}{
		{unix.PTRACE_O_TRACEFORK, Fork, trap | unix.PTRACE_EVENT_FORK<<8},
		{unix.PTRACE_O_TRACEVFORK, Vfork, trap | unix.PTRACE_EVENT_VFORK<<8},
		{unix.PTRACE_O_TRACECLONE, Clone, trap | unix.PTRACE_EVENT_CLONE<<8},
		{unix.PTRACE_O_TRACEEXEC, Exec, trap | unix.PTRACE_EVENT_EXEC<<8},
		{unix.PTRACE_O_TRACEVFORKDONE, VforkDone, trap | unix.PTRACE_EVENT_VFORK_DONE<<8},
		{unix.PTRACE_O_TRACEEXIT, Exit, trap | unix.PTRACE_EVENT_EXIT<<8},
		{unix.PTRACE_O_TRACESECCOMP, Seccomp, trap | unix.PTRACE_EVENT_SECCOMP<<8},
	} {
		var e Tracee
		e.Begin(false, AllOptions&^c.option)
		if e.Asked(c.event) || !e.Kills() {
			t.Errorf("event %d is told by other options", c.event)
		}
		e.SetOptions(c.option)
		if !e.Asked(c.event) || e.Kills() || c.event.Code() != c.code {
			t.Errorf("event %d: asked %v, code %#x, want %#x", c.event, e.Asked(c.event), c.event.Code(), c.code)
		}
	}
	if AllOptions != unix.PTRACE_O_MASK&^unix.PTRACE_O_SUSPEND_SECCOMP {
		t.Errorf("the options are %#x, of %#x", AllOptions, unix.PTRACE_O_MASK)
	}
}

func TestClonesAreForksVforksOrClones(t *testing.T) {
	chld := signals.Signal(unix.SIGCHLD)
	for _, c := range []struct {
		flags uint64
		exit  signals.Signal
		want  Event
	}{{0, chld, Fork}, {unix.CLONE_VFORK, chld, Vfork}, {unix.CLONE_VFORK, 0, Vfork}, {unix.CLONE_THREAD, 0, Clone}, {0, 7, Clone}} {
		if got := OfClone(c.flags, c.exit); got != c.want {
			t.Errorf("flags %#x with signal %d: %d, want %d", c.flags, c.exit, got, c.want)
		}
	}
}

func TestStopIsToldOnceAndGoesOnWithASignal(t *testing.T) {
	var e Tracee
	e.Begin(false, 0)
	usr1 := signals.Signal(unix.SIGUSR1)
	info := &signals.Info{Signo: int32(usr1), Code: signals.CodeUser}
	gate := e.Stand(Code(usr1), info)
	if gate.Opened() || !e.Stopped() || !e.Answers() {
		t.Fatal("it doesn't stand")
	}
	for _, c := range []struct{ keep, told bool }{{true, true}, {false, true}, {false, false}} {
		if code, ok := e.Report(c.keep); ok != c.told || ok && code.Signal() != int32(usr1) {
			t.Errorf("%+v: %#x, %v", c, code, ok)
		}
	}
	got, err := e.Info(&signals.Info{Signo: 9})
	if err != nil || got.Signo != int32(usr1) || info.Signo != 9 {
		t.Errorf("its siginfo: %+v, %v; then %+v", got, err, info)
	}
	e.Continue(3)
	if !gate.Opened() || e.Stopped() {
		t.Error("it stands yet")
	}
	if s := e.Over(); s != 3 {
		t.Errorf("it goes on with %d", s)
	}
	if _, err := e.Info(nil); err != unix.EINVAL {
		t.Errorf("the siginfo of no stop: %v", err)
	}
	// A signal that was for one stop isn't for the next.
	e.Stand(Code(usr1), nil)
	if s := e.Over(); s != 0 {
		t.Errorf("it goes on with %d where nobody said so", s)
	}
}

func TestOnlyWhoWasSeizedListens(t *testing.T) {
	stopped := signals.Signal(unix.SIGTSTP)
	var e Tracee
	e.Begin(false, 0)
	if c := e.GroupStop(stopped); c != Code(stopped) || e.GroupStop(0) != 0 {
		t.Errorf("attached: a group stop is %#x", c)
	}
	e.Stand(e.GroupStop(stopped), nil)
	if err := e.Listen(); err != unix.EIO {
		t.Errorf("attached: %v", err)
	}
	e.Over()

	e.Begin(true, 0)
	e.Stand(Exec.Code(), nil)
	if err := e.Listen(); err != unix.EIO {
		t.Errorf("at another stop: %v", err)
	}
	e.Over()
	gate := e.Stand(e.GroupStop(stopped), nil)
	if code, ok := e.Report(false); !ok || code != Code(stopped)|unix.PTRACE_EVENT_STOP<<8 {
		t.Errorf("seized: a group stop is %#x, %v", code, ok)
	}
	if e.Relisten() {
		t.Error("it doesn't listen")
	}
	if err := e.Listen(); err != nil || !e.Listening() || e.Answers() || !e.Stopped() || gate.Opened() {
		t.Errorf("listening: %v", err)
	}
	if _, ok := e.Report(false); ok {
		t.Error("a task that listens has nothing to tell")
	}
	if !e.Relisten() || !e.Answers() {
		t.Error("it doesn't answer at the end of the group stop")
	}
	if code, ok := e.Report(false); !ok || code != trap|unix.PTRACE_EVENT_STOP<<8 {
		t.Errorf("the end of a group stop is told as %#x, %v", code, ok)
	}
}

func TestStopsOfCallsSayWhichEnd(t *testing.T) {
	var e Tracee
	for _, options := range []uint64{0, unix.PTRACE_O_TRACESYSGOOD} {
		e.Begin(false, options)
		for _, end := range []Place{AtEntry, AtExit} {
			e.Stand(e.AtSyscall(end), nil)
			want, bit := Elsewhere, Code(0)
			if options != 0 {
				want, bit = end, 0x80
			}
			if e.Place() != want || e.Code() != trap|bit || e.Message() != uint64(end) || e.Code().Signal() != int32(unix.SIGTRAP) {
				t.Errorf("options %#x: end %d is %d, code %#x, message %d", options, end, e.Place(), e.Code(), e.Message())
			}
			e.Over()
		}
	}
	e.SetMessage(5)
	e.Stand(Seccomp.Code(), nil)
	if e.Place() != AtSeccomp || e.Message() != 5 {
		t.Errorf("a filter's stop is at %d", e.Place())
	}
	e.Begin(true, 0)
	if e.Message() != 0 || !e.Seized() {
		t.Error("another tracer sees what was for the first")
	}
}
