package platformtest

import (
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

var memoryTests = []Test{
	{"user-range-can-be-mapped-to-its-ends", testUserRange},
	{"mapping-outside-the-user-range-is-refused", testMapOutside},
	{"faults-tell-address-and-access", testFaultAccess},
	{"instructions-of-every-kind-tell-their-access", testInstructionAccess},
	{"mapping-after-a-fault-lets-the-instruction-go-on", testMapAfterFault},
	{"mapping-replaces-what-was-there", testMapReplaces},
	{"protect-skips-holes", testProtectHoles},
	{"unmap-cuts-mappings", testUnmapCuts},
	{"pages-are-shared-between-address-spaces", testShared},
	{"many-mappings-in-one-go", testManyMappings},
	{"precommit", testPrecommit},
	{"file-end-is-sigbus", testFileEnd},
	{"forget-and-map-another-file-of-that-number", testForget},
	{"hundred-address-spaces", testHundredSpaces},
	{"hundred-address-spaces-on-two-threads", testHundredOnTwo},
	{"more-mappings-than-the-host-allows", testTooManyMappings},
	{"inherited-address-spaces-are-empty", testInherit},
	{"released-address-spaces-leave-nothing-behind", testReleaseLeavesNothing},
	{"abandoned-address-spaces-are-unmapped-when-told", testAbandon},
}

func testUserRange(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	r := p.UserRange()
	if !r.Start.PageAligned() || !r.End.PageAligned() || r.Start > 0x100000 || r.Len() < 1<<46 {
		t.Errorf("UserRange is %v", r)
	}
	for i, addr := range []usermem.Addr{r.Start, r.End - page} {
		e.mapIn(e.as, addr, dataOff+uint64(i)*page, page, usermem.ReadWrite)
		e.state.Regs.Rip = uint64(codeAt)
		e.state.Regs.Rdi, e.state.Regs.Rax = uint64(addr), 77
		e.runTo(e.as, platform.EventSyscall)
		if got := e.word(i * page / 8); got != 77 {
			t.Errorf("a store to %#x is not seen: %d", uint64(addr), got)
		}
	}
}

func testMapOutside(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	r := p.UserRange()
	for _, x := range []usermem.AddrRange{
		{Start: r.End, End: r.End + page},
		{Start: r.End - page, End: r.End + page},
		{Start: 0, End: page},
		{Start: ^usermem.Addr(0) - page + 1, End: 0},
	} {
		if err := e.as.MapFile(x.Start, e.mem, 0, uint64(x.End-x.Start), usermem.ReadWrite, false); err == nil {
			t.Errorf("mapping at %v works", x)
		}
	}
	// Nor can these hurt.
	for _, x := range []usermem.AddrRange{{Start: r.End, End: r.End + 1<<20}, {Start: 0, End: page}} {
		e.as.Unmap(x)
		e.as.Protect(x, usermem.NoAccess)
	}
	e.state.Regs.Rdi = uint64(dataAt)
	e.runTo(e.as, platform.EventSyscall)
}

func testFaultAccess(t T, p platform.Platform) {
	for _, test := range []struct {
		name   string
		code   []byte
		access usermem.Access // of the page; none: mapped without
		mapped bool
		want   usermem.Access
	}{
		{"load from a hole", codeLoad, 0, false, usermem.Read},
		{"store to a hole", codeStore, 0, false, usermem.Write},
		{"jump into a hole", codeJump, 0, false, usermem.Execute},
		{"load from a page without access", codeLoad, usermem.NoAccess, true, usermem.Read},
		{"store to a page without access", codeStore, usermem.NoAccess, true, usermem.Write},
		{"store to a read-only page", codeStore, usermem.Read, true, usermem.Write},
		{"jump to data", codeJump, usermem.ReadWrite, true, usermem.Execute},
		{"jump to read-only data", codeJump, usermem.Read, true, usermem.Execute},
		{"store to code", codeStore, usermem.Read | usermem.Execute, true, usermem.Write},
	} {
		e := newEnv(t, p, test.code)
		const at = dataAt + 1<<26
		code := int32(segvMapErr)
		if test.mapped {
			e.mapIn(e.as, at, dataOff, page, test.access)
			code = segvAccErr
		}
		const off = 0x128
		e.state.Regs.Rdi = uint64(at + off)
		ev := e.runTo(e.as, platform.EventFault)
		want := pageFault(at+off, test.want, code)
		want.Kind, want.ErrorCode = ev.Kind, ev.ErrorCode
		if ev != want {
			t.Errorf("%s: got %s, want %s", test.name, show(ev), show(want))
		}
		rip := uint64(codeAt)
		if test.want == usermem.Execute {
			rip = uint64(at + off)
		}
		if e.state.Regs.Rip != rip {
			t.Errorf("%s: RIP is %#x, not in front of the instruction", test.name, e.state.Regs.Rip)
		}
		e.close()
	}
}

func testInstructionAccess(t T, p platform.Platform) {
	const hole = dataAt + 1<<26
	for _, test := range []struct {
		name          string
		code          []byte
		rdi, rsi, rsp usermem.Addr
		want          usermem.Access
		at            usermem.Addr
		readOnly      bool // the page at hole can be read
		needAVX       bool
	}{
		{name: "add to memory, read-only", code: codeAdd, rdi: hole, readOnly: true, want: usermem.Write, at: hole},
		{name: "xadd", code: codeExchange, rdi: hole, want: usermem.Write, at: hole},
		{name: "push of memory: the load", code: codePushMemory, rdi: hole, rsp: stackAt - 64, want: usermem.Read, at: hole},
		{name: "push of memory: the store", code: codePushMemory, rdi: dataAt, rsp: hole + 8, want: usermem.Write, at: hole},
		{name: "movs: the load", code: codeMovs, rdi: dataAt, rsi: hole, want: usermem.Read, at: hole},
		{name: "movs: the store", code: codeMovs, rdi: hole, rsi: dataAt, want: usermem.Write, at: hole},
		{name: "movs within a read-only page", code: codeMovs, rdi: hole, rsi: hole, readOnly: true, want: usermem.Write, at: hole},
		{name: "call: the push", code: codeCall, rdi: codeAt, rsp: hole + 8, want: usermem.Write, at: hole},
		{name: "store of a vector", code: codeStoreYMM, rdi: hole, want: usermem.Write, at: hole, needAVX: true},
		{name: "sum with a vector", code: codeAddYMM, rdi: hole, want: usermem.Read, at: hole, needAVX: true},
	} {
		if test.needAVX && !haveAVX() {
			continue
		}
		e := newEnv(t, p, test.code)
		code := int32(segvMapErr)
		if test.readOnly {
			e.mapIn(e.as, hole, dataOff, page, usermem.Read)
			code = segvAccErr
		}
		r := &e.state.Regs
		r.Rdi, r.Rsi = uint64(test.rdi), uint64(test.rsi)
		if test.rsp != 0 {
			r.Rsp = uint64(test.rsp)
		}
		ev := e.runTo(e.as, platform.EventFault)
		want := pageFault(test.at, test.want, code)
		want.Kind, want.ErrorCode = ev.Kind, ev.ErrorCode
		if ev != want {
			t.Errorf("%s: got %s, want %s", test.name, show(ev), show(want))
		}
		e.close()
	}
}

func testMapAfterFault(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	const at = dataAt + 1<<24
	e.state.Regs.Rdi, e.state.Regs.Rax = uint64(at), 5
	e.fault(e.as, pageFault(at, usermem.Write, segvMapErr))
	e.mapIn(e.as, at, dataOff, page, usermem.Read)
	e.fault(e.as, pageFault(at, usermem.Write, segvAccErr))
	e.as.Protect(usermem.AddrRange{Start: at, End: at + page}, usermem.ReadWrite)
	e.runTo(e.as, platform.EventSyscall)
	if e.word(0) != 5 {
		t.Errorf("the store is not seen: %d", e.word(0))
	}
	e.as.Unmap(usermem.AddrRange{Start: at, End: at + page})
	e.state.Regs.Rip = uint64(codeAt)
	e.fault(e.as, pageFault(at, usermem.Write, segvMapErr))
}

func testMapReplaces(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	for i := range 3 {
		e.setWord(i*page/8, uint64(100+i))
		e.mapIn(e.as, dataAt, dataOff+uint64(i*page), page, usermem.Read)
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(dataAt)
		// The call's number is what was loaded.
		e.runTo(e.as, platform.EventSyscall)
		if got := e.state.Regs.SyscallNo(); got != uint64(100+i) {
			t.Errorf("mapping %d: the application reads %d", i, got)
		}
	}
}

func testProtectHoles(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	const at = dataAt + 1<<26
	for i := range 8 {
		if i%2 == 1 {
			e.mapIn(e.as, at+usermem.Addr(i*page), dataOff+uint64(i*page), page, usermem.Read)
		}
	}
	e.as.Protect(usermem.AddrRange{Start: at, End: at + 8*page}, usermem.ReadWrite)
	for i := range 8 {
		addr := at + usermem.Addr(i*page)
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(addr)
		if i%2 == 1 {
			e.runTo(e.as, platform.EventSyscall)
		} else {
			e.fault(e.as, pageFault(addr, usermem.Write, segvMapErr))
		}
	}
}

func testUnmapCuts(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	// A hole in the middle, one over the start, one over nothing.
	e.as.Unmap(usermem.AddrRange{Start: dataAt + 4*page, End: dataAt + 6*page})
	e.as.Unmap(usermem.AddrRange{Start: dataAt - 4*page, End: dataAt + page})
	e.as.Unmap(usermem.AddrRange{Start: dataAt + 1<<28, End: dataAt + 1<<29})
	for i := range 8 {
		addr := dataAt + usermem.Addr(i*page)
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(addr)
		if i == 0 || i == 4 || i == 5 {
			e.fault(e.as, pageFault(addr, usermem.Read, segvMapErr))
		} else {
			e.runTo(e.as, platform.EventSyscall)
		}
	}
}

func testShared(t T, p platform.Platform) {
	e := newEnv(t, p, codeAdd)
	defer e.close()
	other := e.space()
	defer other.Release()
	k := e.newTask()
	defer k.close()
	e.state.Regs.Rdi, k.state.Regs.Rdi = uint64(dataAt), uint64(dataAt)
	for i := range 10 {
		e.state.Regs.Rip, k.state.Regs.Rip = uint64(codeAt), uint64(codeAt)
		e.runTo(e.as, platform.EventSyscall)
		k.runTo(other, platform.EventSyscall)
		if got := e.word(0); got != uint64(2*i+2) {
			t.Fatalf("after %d additions the sum is %d", 2*i+2, got)
		}
	}
}

func testManyMappings(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	// In reverse order of the file, so that the host can't merge them.
	const n, at = 1500, dataAt + 1<<28
	for i := range n {
		e.setWord(i*page/8, uint64(i))
		e.mapIn(e.as, at+usermem.Addr((n-i)*page), dataOff+uint64(i*page), page, usermem.Read)
	}
	for i := range n {
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(at)+uint64((n-i)*page)
		e.runTo(e.as, platform.EventSyscall)
		if got := e.state.Regs.SyscallNo(); got != uint64(i) {
			t.Fatalf("page %d holds %d", i, got)
		}
	}
}

func testPrecommit(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	const at = dataAt + 1<<28
	for i, access := range []usermem.Access{usermem.ReadWrite, usermem.Read, usermem.NoAccess} {
		addr := at + usermem.Addr(i<<20)
		if err := e.as.MapFile(addr, e.mem, dataOff, 64*page, access, true); err != nil {
			t.Fatalf("MapFile with precommit: %v", err)
		}
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(addr+page)
		if access.Has(usermem.Write) {
			e.runTo(e.as, platform.EventSyscall)
		} else {
			e.fault(e.as, pageFault(addr+page, usermem.Write, segvAccErr))
		}
	}
}

func testFileEnd(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	small, err := newMemory(page)
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer small.close(p)
	const at = dataAt + 1<<28
	if err := e.as.MapFile(at, small, 0, 2*page, usermem.ReadWrite, false); err != nil {
		t.Fatalf("MapFile beyond the end: %v", err)
	}
	e.state.Regs.Rdi = uint64(at + page)
	const busAdrErr = 2
	ev := e.runTo(e.as, platform.EventFault)
	if ev.Signo != 7 || ev.Code != busAdrErr || ev.Addr != at+page || ev.Access != usermem.Read {
		t.Errorf("got %s", show(ev))
	}
	e.as.Unmap(usermem.AddrRange{Start: at, End: at + 2*page})
	e.as.Flush()
}

func testForget(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	const at = dataAt + 1<<28
	for i := range 4 {
		m, err := newMemory(page)
		if err != nil {
			t.Fatalf("%v", err)
		}
		m.b[0] = byte(i + 1)
		if err := e.as.MapFile(at, m, 0, page, usermem.Read, false); err != nil {
			t.Fatalf("MapFile: %v", err)
		}
		e.as.Flush()
		m.close(p)
		// The mapping outlives the descriptor.
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(at)
		e.runTo(e.as, platform.EventSyscall)
		if got := e.state.Regs.SyscallNo(); got != uint64(i+1) {
			t.Errorf("file %d: the application reads %d", i, got)
		}
	}
}

func testHundredSpaces(t T, p platform.Platform) {
	e := newEnv(t, p, codeAdd)
	defer e.close()
	const n = 100
	spaces := make([]platform.AddressSpace, n)
	for i := range spaces {
		spaces[i] = e.space()
		// Each sees another page at the same address.
		e.mapIn(spaces[i], dataAt, dataOff+uint64(i*page), page, usermem.ReadWrite)
	}
	e.state.Regs.Rdi = uint64(dataAt)
	for range 2 {
		for _, as := range spaces {
			e.state.Regs.Rip = uint64(codeAt)
			e.runTo(as, platform.EventSyscall)
		}
	}
	for i, as := range spaces {
		if got := e.word(i * page / 8); got != 2 {
			t.Errorf("address space %d counted %d of 2", i, got)
		}
		as.Release()
	}
}

func testReleaseLeavesNothing(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	for range 20 {
		as := e.space()
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(dataAt)
		e.runTo(as, platform.EventSyscall)
		as.Release()
		// Perhaps the same host process; it must be empty.
		as, err := p.NewAddressSpace()
		if err != nil {
			t.Fatalf("NewAddressSpace: %v", err)
		}
		e.state.Regs.Rip = uint64(codeAt)
		e.fault(as, pageFault(codeAt, usermem.Execute, segvMapErr))
		as.Release()
	}
}

// testAbandon gives up address spaces in all states: who did it is told once of each.
func testAbandon(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	var told [30]chan struct{}
	for i := range told {
		as := e.space()
		a, ok := as.(platform.Abandoner)
		if !ok {
			as.Release()
			t.Skipf("address spaces of %s are only released", p.Name())
		}
		if i%3 != 0 { // else nothing has run in it
			e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(dataAt)
			e.runTo(as, platform.EventSyscall)
		}
		if i%3 == 2 { // nothing is left in it
			next, err := p.NewAddressSpace()
			if err != nil {
				t.Fatalf("NewAddressSpace: %v", err)
			}
			e.ctx.PullFP(e.state)
			next.Inherit(as)
			defer next.Release()
		}
		told[i] = make(chan struct{}) // closing it twice would panic
		e.ctx.Park(e.state)
		a.Abandon(func() { close(told[i]) })
	}
	for _, c := range told {
		<-c
	}
}

func testHundredOnTwo(t T, p platform.Platform) {
	e := newEnv(t, p, codeAdd)
	defer e.close()
	const n, threads, rounds = 100, 2, 3
	spaces := make([]platform.AddressSpace, n)
	for i := range spaces {
		spaces[i] = e.space()
		e.mapIn(spaces[i], dataAt, dataOff+uint64(i*page), page, usermem.ReadWrite)
	}
	tasks := make([]task, threads)
	for i := range tasks {
		tasks[i] = e.newTask()
		tasks[i].state.Regs.Rdi = uint64(dataAt)
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, 1)
	turn <- struct{}{}
	for i := range tasks {
		wg.Add(1)
		go func() {
			defer wg.Done()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for range rounds {
				<-turn
				for _, as := range spaces {
					k := &tasks[i]
					k.state.Regs.Rip = uint64(codeAt)
					if ev, err := k.ctx.Switch(as, k.state); err != nil || ev.Kind != platform.EventSyscall {
						t.Errorf("got %s, %v", show(ev), err)
					}
				}
				tasks[i].ctx.Park(tasks[i].state)
				turn <- struct{}{}
			}
		}()
	}
	wg.Wait()
	for i, as := range spaces {
		if got := e.word(i * page / 8); got != threads*rounds {
			t.Errorf("address space %d counted %d of %d", i, got, threads*rounds)
		}
		as.Release()
	}
	for i := range tasks {
		tasks[i].close()
	}
}

func testTooManyMappings(t T, p platform.Platform) {
	e := newEnv(t, p, codeStore)
	defer e.close()
	// Every second page; sysctl vm.max_map_count is 65,530 unless somebody
	// has changed it.
	const n, at = 70000, dataAt + 1<<30
	failed := 0
	for i := range n {
		addr := at + usermem.Addr(2*i*page)
		if err := e.as.MapFile(addr, e.mem, dataOff, page, usermem.ReadWrite, false); err != nil {
			if err != unix.ENOMEM {
				t.Fatalf("mapping %d: %v", i, err)
			}
			failed++
		}
	}
	e.as.Flush()
	touch := func(addr usermem.Addr) platform.Event {
		e.state.Regs.Rip, e.state.Regs.Rdi = uint64(codeAt), uint64(addr)
		return e.runAny(e.as)
	}
	if failed > 0 {
		// At the limit nothing can be cut in two. What should go has gone, and
		// what should be read-only isn't writable.
		cut := usermem.AddrRange{Start: dataAt + 8*page, End: dataAt + 9*page}
		e.as.Unmap(cut)
		if ev := touch(cut.Start); ev.Kind != platform.EventFault {
			t.Errorf("after Unmap at the limit: %s", show(ev))
		}
		cut = usermem.AddrRange{Start: dataAt + 80*page, End: dataAt + 81*page}
		e.as.Protect(cut, usermem.Read)
		if ev := touch(cut.Start); ev.Kind != platform.EventFault {
			t.Errorf("after Protect at the limit: %s", show(ev))
		}
	}
	e.as.Unmap(usermem.AddrRange{Start: at, End: at + 2*n*page})
	// A mapping that failed late is reported late, once.
	if err := e.as.MapFile(at, e.mem, dataOff, page, usermem.ReadWrite, false); err != nil {
		e.mapIn(e.as, at, dataOff, page, usermem.ReadWrite)
	}
	if ev := touch(at); ev.Kind != platform.EventSyscall {
		t.Errorf("afterwards: %s", show(ev))
	}
}

func testInherit(t T, p platform.Platform) {
	e := newEnv(t, p, codeLoad)
	defer e.close()
	// The same task goes on in a new address space, again and again, as with
	// execve(2). What only the old one had is gone, and vector state is loaded.
	only := dataAt + 1<<30
	for range 20 {
		e.mapIn(e.as, only, dataOff, page, usermem.Read)
		e.state.Exec(uint64(codeAt), uint64(stackAt)-64)
		e.state.Regs.Rdi = uint64(only)
		e.runTo(e.as, platform.EventSyscall)
		next := e.space()
		next.Inherit(e.as)
		e.ctx.Park(e.state)
		e.as.Release()
		e.as = next
		e.ctx.PullFP(e.state)
		e.state.Exec(uint64(codeAt), uint64(stackAt)-64)
		e.state.Regs.Rdi = uint64(only)
		e.fault(e.as, pageFault(only, usermem.Read, segvMapErr))
		e.state.Regs.Rdi = uint64(dataAt)
		e.runTo(e.as, platform.EventSyscall)
	}
}
