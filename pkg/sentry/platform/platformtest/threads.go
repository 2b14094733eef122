package platformtest

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

var threadTests = []Test{
	{"interrupt-before-switch", testInterruptBefore},
	{"interrupt-that-is-heeded", testHeeded},
	{"interrupt-of-running-code", testInterruptRunning},
	{"interrupt-is-never-lost", testInterruptRaces},
	{"interrupt-spares-others", testInterruptOthers},
	{"unmap-under-running-code", testUnmapRunning},
	{"protect-under-running-code", testProtectRunning},
	{"thousand-contexts", testThousandContexts},
	{"contexts-wander-between-threads", testWander},
	{"two-run-at-a-time", testTwoAtATime},
}

func testInterruptBefore(t T, p platform.Platform) {
	e := newEnv(t, p, codeSpin)
	defer e.close()
	for range 3 {
		e.ctx.Interrupt()
		e.runTo(e.as, platform.EventInterrupted)
		if e.state.Regs.Rip != uint64(codeAt) {
			t.Errorf("RIP is %#x", e.state.Regs.Rip)
		}
	}
}

// start runs codeCount on a goroutine of its own until an event, which it
// sends; the count is word i.
func (e *env) start(k *task, as platform.AddressSpace, i int) <-chan platform.Event {
	k.state.Regs.Rdi = uint64(dataAt) + uint64(8*i)
	done := make(chan platform.Event, 1)
	go func() {
		ev, err := k.ctx.Switch(as, k.state)
		if err != nil {
			k.t.Errorf("Switch: %v", err)
		}
		k.ctx.Park(k.state)
		e.ended.Add(1)
		done <- ev
	}()
	return done
}

// running waits until codeCount counts in word i, or something that start has
// begun since this test's last look is over, which the test then finds out.
func (e *env) running(i int) {
	p := e.counter(i)
	ended := e.ended.Load()
	for was := p.Load(); p.Load() == was && e.ended.Load() == ended; {
		runtime.Gosched()
	}
}

// testHeeded: what was seen to ends no Switch, and what comes afterwards does.
func testHeeded(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	for range 20 {
		e.ctx.Interrupt()
		e.ctx.Heed()
		done := e.start(&e.task, e.as, 0)
		e.running(0)
		select {
		case ev := <-done:
			t.Fatalf("got %s", show(ev))
		default:
		}
		e.ctx.Interrupt()
		if ev := <-done; ev.Kind != platform.EventInterrupted {
			t.Fatalf("got %s", show(ev))
		}
		e.ctx.Heed()
	}
}

func testInterruptRunning(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	for range 20 {
		done := e.start(&e.task, e.as, 0)
		e.running(0)
		e.ctx.Interrupt()
		if ev := <-done; ev.Kind != platform.EventInterrupted {
			t.Fatalf("got %s", show(ev))
		}
		if rip := e.state.Regs.Rip; rip != uint64(codeAt) && rip != uint64(codeAt)+3 {
			t.Errorf("RIP is %#x", rip)
		}
	}
}

func testInterruptRaces(t T, p platform.Platform) {
	e := newEnv(t, p, codeSpin)
	defer e.close()
	// Each interruption ends a Switch that would never end otherwise. The
	// next comes only after it, at any moment of what follows.
	const n = 1000
	back := make(chan struct{}, 1)
	var once atomic.Bool
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range n {
			if ev, err := e.ctx.Switch(e.as, e.state); err != nil || ev.Kind != platform.EventInterrupted {
				t.Errorf("got %s, %v", show(ev), err)
				once.Store(true)
				break
			}
			back <- struct{}{}
		}
		e.ctx.Park(e.state)
	}()
	for range n {
		e.ctx.Interrupt()
		select {
		case <-back:
		case <-finished:
			select {
			case <-back:
			default:
				if once.Load() {
					return
				}
			}
		}
	}
	<-finished
}

func testInterruptOthers(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	k := e.newTask()
	a, b := e.start(&e.task, e.as, 0), e.start(&k, e.as, 8)
	e.running(0)
	e.running(8)
	e.ctx.Interrupt()
	<-a
	e.running(8)
	select {
	case ev := <-b:
		t.Errorf("the other context got %s", show(ev))
	default:
		k.ctx.Interrupt()
		<-b
	}
	k.close()
}

func testUnmapRunning(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	done := e.start(&e.task, e.as, 0)
	e.running(0)
	e.as.Unmap(usermem.AddrRange{Start: dataAt, End: dataAt + page})
	e.as.Flush()
	// From here on the page could belong to somebody else.
	was := e.counter(0).Load()
	ev := <-done
	if e.counter(0).Load() != was {
		t.Errorf("the application wrote after Unmap")
	}
	if ev.Kind != platform.EventFault || ev.Addr != dataAt || ev.Code != segvMapErr || ev.Signo != int32(unix.SIGSEGV) {
		t.Errorf("got %s", show(ev))
	}
}

func testProtectRunning(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	for range 10 {
		done := e.start(&e.task, e.as, 0)
		e.running(0)
		e.as.Protect(usermem.AddrRange{Start: dataAt, End: dataAt + page}, usermem.Read)
		ev := <-done
		if ev.Kind != platform.EventFault || ev.Access != usermem.Write || ev.Code != segvAccErr {
			t.Errorf("got %s", show(ev))
		}
		e.as.Protect(usermem.AddrRange{Start: dataAt, End: dataAt + page}, usermem.ReadWrite)
	}
}

func testThousandContexts(t T, p platform.Platform) {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	const n, nspaces = 1000, 5
	var spaces [nspaces]platform.AddressSpace
	for i := range spaces {
		spaces[i] = e.space()
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			k := e.newTask()
			defer k.close()
			for j := range 5 {
				k.state.Regs.Rax = uint64(i)
				ev, err := k.ctx.Switch(spaces[(i+j/2)%nspaces], k.state)
				if err != nil || ev.Kind != platform.EventSyscall || k.state.Regs.SyscallNo() != uint64(i) {
					t.Errorf("context %d: %s, %v", i, show(ev), err)
					return
				}
				if j%2 == 0 {
					k.ctx.Park(k.state)
					runtime.Gosched()
				}
			}
		}()
	}
	wg.Wait()
	for _, as := range spaces {
		as.Release()
	}
}

func testWander(t T, p platform.Platform) {
	e := newEnv(t, p, codeXMM)
	defer e.close()
	// Tokens go round between goroutines; each stands for a context.
	const n, goroutines, rounds = 4, 4, 100
	type token struct {
		task
		i, left int
	}
	tokens := make(chan *token, n)
	for i := range n {
		k := &token{e.newTask(), i, rounds}
		k.state.Regs.Rdi, k.state.Regs.Rsi = uint64(dataAt)+uint64(i*64), uint64(dataAt+page)+uint64(i*64)
		tokens <- k
	}
	var wg sync.WaitGroup
	var open atomic.Int32
	open.Store(n)
	for range goroutines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := range tokens {
				in, out := e.mem.b[dataOff+k.i*64:][:48], e.mem.b[dataOff+page+k.i*64:][:48]
				loaded := k.left%2 == 1
				if !loaded {
					pattern(in, k.left)
				}
				ev, err := k.ctx.Switch(e.as, k.state)
				if err != nil || ev.Kind != platform.EventSyscall {
					t.Errorf("got %s, %v", show(ev), err)
					k.left = 1
				} else if loaded && !equal(in, out) {
					t.Errorf("context %d has %x, want %x", k.i, out, in)
				}
				k.ctx.Park(k.state)
				if k.left--; k.left > 0 {
					tokens <- k
					continue
				}
				k.ctx.Release()
				if open.Add(-1) == 0 {
					close(tokens)
				}
			}
		}()
	}
	wg.Wait()
}

func testTwoAtATime(t T, p platform.Platform) {
	e := newEnv(t, p, codeCount)
	defer e.close()
	// Neither ever stops: both count only if both run.
	k := e.newTask()
	a, b := e.start(&e.task, e.as, 0), e.start(&k, e.as, 8)
	for range 3 {
		e.running(0)
		e.running(8)
	}
	e.ctx.Interrupt()
	k.ctx.Interrupt()
	<-a
	<-b
	k.close()
}
