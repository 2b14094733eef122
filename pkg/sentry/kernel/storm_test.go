package kernel_test

import (
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/kernel/kerneltest"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
)

// cooperative is a platform whose contexts are coroutines.
type cooperative struct{ kerneltest.Platform }

func (cooperative) Cooperate(platform.Scheduler) {}

// callerContext is one whose application does nothing but call the kernel, which is the
// test.
type callerContext struct {
	kerneltest.Context
	interrupted atomic.Bool
}

func (c *callerContext) Switch(platform.AddressSpace, *arch.State) (platform.Event, error) {
	if c.interrupted.Swap(false) {
		return platform.Event{Kind: platform.EventInterrupted}, nil
	}
	return platform.Event{Kind: platform.EventSyscall}, nil
}
func (c *callerContext) Interrupt() { c.interrupted.Store(true) }

// storm is what all tasks do: anything, to each other.
type storm struct {
	t    *testing.T
	k    *kernel.Kernel
	view vfs.FSView
	left atomic.Int64 // calls still to be made
	seed uint64
	rngs sync.Map // *kernel.Task -> *mathrand.Rand
}

func (s *storm) rng(t *kernel.Task) *mathrand.Rand {
	if r, ok := s.rngs.Load(t); ok {
		return r.(*mathrand.Rand)
	}
	r := mathrand.New(mathrand.NewPCG(s.seed, uint64(t.TID(s.k.RootPIDNS))))
	s.rngs.Store(t, r)
	return r
}

const word = kerneltest.Page + 0x10 // in the program's page

// Call implements kernel.SyscallHandler.
func (s *storm) Call(t *kernel.Task, _ uint64) (uint64, error) {
	r := s.rng(t)
	init := t.TID(s.k.RootPIDNS) == 1
	if s.left.Add(-1) < 0 {
		return 0, s.end(t, init)
	}
	someone := func() *kernel.Task {
		all := s.k.RootPIDNS.Tasks()
		return all[r.IntN(len(all))]
	}
	pick := []unix.Signal{unix.SIGCHLD, unix.SIGSTOP, unix.SIGTSTP, unix.SIGCONT, unix.SIGCONT, unix.SIGUSR1, unix.SIGKILL, unix.Signal(40)}
	switch op := r.IntN(36); {
	case init || op < 8:
		flags := []uint64{0, 0, unix.CLONE_VM | unix.CLONE_VFORK, unix.CLONE_PARENT, unix.CLONE_NEWPID, unix.CLONE_PTRACE, unix.CLONE_FILES | unix.CLONE_FS}[r.IntN(7)]
		const thread = unix.CLONE_VM | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_FILES | unix.CLONE_FS
		if !init && op < 4 {
			flags = thread
		}
		if init {
			flags = 0
			if r.IntN(4) != 0 {
				_, err := t.WaitChild(&kernel.WaitTarget{Options: unix.WNOHANG | unix.WEXITED | unix.WALL})
				return 0, err
			}
		}
		a := &kernel.CloneArgs{Flags: flags}
		if flags == unix.CLONE_PARENT && t.ThreadGroup().Parent() == nil {
			return 0, nil
		}
		if flags&unix.CLONE_THREAD == 0 {
			a.ExitSignal = signals.Signal(unix.SIGCHLD)
		}
		n, err := t.Clone(a)
		return uint64(n), err
	case op < 14:
		_, err := t.WaitChild(&kernel.WaitTarget{Options: unix.WNOHANG | unix.WEXITED | unix.WSTOPPED | unix.WCONTINUED | unix.WALL})
		return 0, err
	case op < 18:
		o, sig := someone(), pick[r.IntN(len(pick))]
		return 0, t.Kill(o.ThreadGroup().ID(t.PIDNamespace()), signals.Signal(sig))
	case op < 19:
		o, info := someone(), &signals.Info{Signo: int32(pick[r.IntN(6)]), Code: signals.CodeTkill}
		info.SetPID(t.TID(s.k.RootPIDNS))
		return 0, o.SendSignal(info)
	case op < 21:
		if r.IntN(2) == 0 {
			_, err := t.SetSID()
			return 0, err
		}
		return 0, t.SetPGID(0, []int32{0, someone().ThreadGroup().ID(t.PIDNamespace())}[r.IntN(2)])
	case op < 24:
		o := someone()
		if o.TID(s.k.RootPIDNS) == 1 {
			return 0, nil // who would have it go on?
		}
		switch r.IntN(5) {
		case 0:
			return 0, t.Attach(o, r.IntN(2) == 0, uint64(r.IntN(1<<8)))
		case 1:
			return 0, t.Interrupt(o)
		case 2:
			return 0, t.ListenTrace(o)
		case 3:
			return 0, t.TraceMe()
		}
		return 0, t.KillTrace(o)
	case op < 28:
		for _, o := range s.k.RootPIDNS.Tasks() {
			if o.Tracer() == t && o.TraceStopped() {
				t.ResumeTrace(o, []kernel.Resumption{kernel.ResumeRun, kernel.ResumeSyscall, kernel.ResumeStep, kernel.ResumeDetach}[r.IntN(4)], 0)
			}
		}
		return 0, nil
	case op < 30:
		return 0, t.Exec(&kernel.ExecArgs{View: s.view, Path: "/prog", Flags: vfs.FollowFinal, Argv: []string{"prog"}})
	case op < 31:
		t.Exit(uint8(r.IntN(256)))
		return 0, nil
	case op < 32:
		t.ExitGroup(uint8(r.IntN(256)))
		return 0, nil
	case op < 33:
		handler := []uint64{signals.HandlerDefault, signals.HandlerIgnore}[r.IntN(2)]
		t.ThreadGroup().SignalAction(signals.Signal(unix.SIGCHLD), &signals.Action{Handler: handler})
		return 0, nil
	case op < 34:
		return 0, s.k.Futexes.Wait(t, word, r.IntN(2) == 0, 0, ^uint32(0), s.k.Clock.Monotonic()+int64(r.IntN(1_000_000)))
	case op < 35:
		_, err := t.FutexWake(word, r.IntN(2) == 0, 1, ^uint32(0))
		return 0, err
	}
	t.SetSignalMask(signals.Set(r.Uint64()))
	return 0, t.Unshare([]uint64{unix.CLONE_FILES, unix.CLONE_NEWPID, unix.CLONE_NEWUTS}[r.IntN(3)])
}

// end has init kill and wait for all others, who just leave.
func (s *storm) end(t *kernel.Task, init bool) error {
	if !init {
		t.ExitGroup(0)
		return nil
	}
	t.Kill(-1, signals.Signal(unix.SIGKILL))
	if _, err := t.WaitChild(&kernel.WaitTarget{Options: unix.WEXITED | unix.WALL}); err == unix.ECHILD {
		t.ExitGroup(7)
	}
	return nil
}

// TestStorm has processes and threads be born, exec, signal, trace, stop, wait for and end
// each other, in any order. Whatever they do the kernel keeps its order of locks (built
// with lockcheck) and has no races (with -race), everybody ends when told to, and nothing
// is left: no number, no charge.
func TestStorm(t *testing.T) {
	const calls = 5000
	caller := kerneltest.Platform{Contexts: func() platform.Context { return &callerContext{} }}
	for name, p := range map[string]platform.Platform{"goroutines": caller, "coroutines": cooperative{caller}} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(2) {
				runStorm(t, p, seed, calls)
			}
		})
	}
}

func runStorm(t *testing.T, p platform.Platform, seed uint64, calls int64) {
	s := &storm{t: t, seed: seed}
	s.left.Store(calls)
	s.k = &kernel.Kernel{Platform: p, CPUs: 2, Logf: func(string, ...any) {}, Syscalls: s}
	m := kerneltest.New(t, s.k, kerneltest.InMemory, memfile.NewHeapAccount(0))
	s.k.RootPIDNS.SetLimit(60)
	s.view = m.View
	m.Run(t, "/prog", nil, nil)
	init := m.Init
	init.Start()
	<-init.ThreadGroup().Done()
	s.k.Wait()
	if st := init.ThreadGroup().ExitStatus(); st.Code != 7 || st.Signal != 0 {
		t.Errorf("seed %d: init ended with %+v", seed, st)
	}
	if n := s.k.TaskCount(); n != 0 {
		t.Errorf("seed %d: %d tasks are left", seed, n)
	}
	// Only init, for whom nobody waits, may still have a number.
	for _, o := range s.k.RootPIDNS.Tasks() {
		if o != init {
			t.Errorf("seed %d: task %d is left", seed, o.TID(s.k.RootPIDNS))
		}
	}
}
