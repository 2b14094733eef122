// Package platformtest is the conformance suite of platforms: what every
// implementation of platform.Platform must do, tested through that interface
// alone, with application code of a few instructions. test/platform-test runs
// it from the command line, the platforms' own Go tests run it too. Costs
// measures what a platform's operations cost; no test asserts a time.
//
// Main types: Test, Cost, and T, which *testing.T implements.
package platformtest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// T is what a test reports to: the part of *testing.T that the suite needs.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	// Fatalf doesn't return. It is called on the test's own goroutine only.
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Test is one test of the suite.
type Test struct {
	Name string
	Run  func(t T, p platform.Platform)
}

// All returns the suite.
func All() []Test {
	var all []Test
	all = append(all, memoryTests...)
	all = append(all, exceptionTests...)
	all = append(all, stateTests...)
	all = append(all, threadTests...)
	all = append(all, callTests...)
	return all
}

// Where tests put things.
const (
	codeAt  = usermem.Addr(0x10000000)
	dataAt  = usermem.Addr(0x20000000)
	stackAt = usermem.Addr(0x30000000)
	page    = usermem.PageSize

	// Offsets in the memory file: a page of code, then data, then a stack.
	dataOff   = 1 << 16
	stackOff  = 12 << 20
	fileSize  = 16 << 20
	dataPages = 1536
	stackSize = 16 * page
)

// memory is a memfd that tests map, with the Sentry's view of it.
type memory struct {
	fd int
	b  []byte
}

// FD implements platform.File.
func (m *memory) FD() int { return m.fd }

func newMemory(size int64) (*memory, error) {
	fd, err := unix.MemfdCreate("platformtest", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return nil, err
	}
	b, err := unix.Mmap(fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &memory{fd, b}, nil
}

func (m *memory) close(p platform.Platform) {
	p.Forget(m.fd)
	unix.Munmap(m.b)
	unix.Close(m.fd)
}

// env is an address space with code, data and a stack in it.
type env struct {
	t   T
	p   platform.Platform
	mem *memory
	as  platform.AddressSpace
	task
	ended atomic.Int32 // how many of what start has begun are over
}

// task is a context with its state.
type task struct {
	t     T
	ctx   platform.Context
	state *arch.State
}

func newEnv(t T, p platform.Platform, code []byte) *env {
	t.Helper()
	mem, err := newMemory(fileSize)
	if err != nil {
		t.Fatalf("memory for a test: %v", err)
	}
	e := &env{t: t, p: p, mem: mem}
	copy(mem.b, code)
	e.as = e.space()
	e.task = e.newTask()
	return e
}

// space makes another address space like the first.
func (e *env) space() platform.AddressSpace {
	e.t.Helper()
	as, err := e.p.NewAddressSpace()
	if err != nil {
		e.t.Fatalf("NewAddressSpace: %v", err)
	}
	e.mapIn(as, codeAt, 0, page, usermem.Read|usermem.Execute)
	e.mapIn(as, dataAt, dataOff, dataPages*page, usermem.ReadWrite)
	e.mapIn(as, stackAt-stackSize, stackOff, stackSize, usermem.ReadWrite)
	return as
}

// newTask returns a task that starts at the code.
func (e *env) newTask() task {
	k := task{e.t, e.p.NewContext(), arch.NewState()}
	k.state.Exec(uint64(codeAt), uint64(stackAt)-64)
	return k
}

func (e *env) close() {
	e.task.close()
	e.as.Release()
	e.mem.close(e.p)
}

func (k *task) close() {
	k.ctx.Park(k.state)
	k.ctx.Release()
}

func (e *env) mapIn(as platform.AddressSpace, addr usermem.Addr, off, length uint64, access usermem.Access) {
	e.t.Helper()
	if err := as.MapFile(addr, e.mem, off, length, access, false); err != nil {
		e.t.Fatalf("MapFile(%#x): %v", uint64(addr), err)
	}
}

// run switches to the application, which must not be lost.
func (k *task) run(as platform.AddressSpace) platform.Event {
	k.t.Helper()
	ev, err := k.ctx.Switch(as, k.state)
	if err != nil {
		k.t.Fatalf("Switch: %v", err)
	}
	return ev
}

// runTo switches until something else than a spurious interruption happens,
// and checks that it is of the kind.
func (k *task) runTo(as platform.AddressSpace, kind platform.EventKind) platform.Event {
	k.t.Helper()
	ev := k.run(as)
	for ev.Kind == platform.EventInterrupted && kind != platform.EventInterrupted {
		ev = k.run(as)
	}
	if ev.Kind != kind {
		k.t.Fatalf("got %s at %#x, want %s", show(ev), k.state.Regs.Rip, kindName(kind))
	}
	return ev
}

// fault runs to a fault and compares it with want; where want has no TrapNo it
// isn't compared, nor is the error code.
func (k *task) fault(as platform.AddressSpace, want platform.Event) platform.Event {
	k.t.Helper()
	ev := k.runTo(as, platform.EventFault)
	got := ev
	got.ErrorCode = 0
	want.Kind = platform.EventFault
	if want.TrapNo == 0 {
		got.TrapNo = 0
	}
	if got != want {
		k.t.Fatalf("got %s, want %s", show(ev), show(want))
	}
	return ev
}

// pageFault is the event of a page fault.
func pageFault(addr usermem.Addr, access usermem.Access, code int32) platform.Event {
	return platform.Event{Signo: int32(unix.SIGSEGV), Code: code, Addr: addr, Access: access, TrapNo: 14}
}

// Values of si_code (sigaction(2)).
const (
	segvMapErr = 1
	segvAccErr = 2
	siKernel   = 0x80
)

func kindName(k platform.EventKind) string {
	switch k {
	case platform.EventSyscall:
		return "a system call"
	case platform.EventFault:
		return "a fault"
	case platform.EventInterrupted:
		return "an interruption"
	case platform.EventFrame:
		return "a frame"
	}
	return fmt.Sprintf("kind %d", k)
}

func show(ev platform.Event) string {
	if ev.Kind != platform.EventFault {
		return kindName(ev.Kind)
	}
	return fmt.Sprintf("fault{signal %d code %d addr %#x access %v vector %d error %#x}",
		ev.Signo, ev.Code, uint64(ev.Addr), ev.Access, ev.TrapNo, ev.ErrorCode)
}

// word returns the i-th word of the data.
func (e *env) word(i int) uint64 { return binary.LittleEndian.Uint64(e.mem.b[dataOff+8*i:]) }

func (e *env) setWord(i int, v uint64) {
	binary.LittleEndian.PutUint64(e.mem.b[dataOff+8*i:], v)
}

// pattern fills b with bytes that depend on seed.
func pattern(b []byte, seed int) {
	for i := range b {
		b[i] = byte(seed + i*7 + i>>8)
	}
}

func equal(a, b []byte) bool { return bytes.Equal(a, b) }
