package platformtest

import (
	"slices"
	"time"

	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// Cost measures one operation. Measure returns nanoseconds an operation, one
// value per batch.
type Cost struct {
	Name    string
	Measure func(t T, p platform.Platform) []float64
}

// Median returns the middle of the samples, and their 10th percentile.
func Median(samples []float64) (median, low float64) {
	if len(samples) == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(samples))
	return s[len(s)/2], s[len(s)/10]
}

// Costs returns what platform-test measures.
func Costs() []Cost {
	return []Cost{
		{"switch: system call", costSyscall},
		{"switch, with Park after each", costPark},
		{"switch, vector state read and loaded", costFP},
		{"fault and back: load", costFault(codeLoad)},
		{"fault and back: add to memory", costFault(codeAdd)},
		{"fault, map a page, go on", costFaultMap},
		{"map 16 pages with precommit, per page", costPrecommit},
		{"map and unmap a page, flushed", costMapUnmap},
		{"protect a page, flushed", costProtect},
		{"map 100 pages in one go, per page", costBatch},
		{"interrupt of running code", costInterrupt},
		{"new address space, first switch, release", costNewSpace},
		{"new address space alone", costNewSpaceAlone},
		{"computing: 1 context, per million steps", costCompute(1)},
		{"computing: 2 contexts, per million steps of each", costCompute(2)},
	}
}

// sample runs batches of n operations.
func sample(batches, n int, f func()) []float64 {
	var s []float64
	for range batches {
		start := time.Now()
		for range n {
			f()
		}
		s = append(s, float64(time.Since(start).Nanoseconds())/float64(n))
	}
	return s
}

func costSyscall(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	return sample(100, 200, func() {
		e.run(e.as)
		e.state.Regs.SetReturn(1)
	})
}

func costPark(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	return sample(50, 100, func() {
		e.run(e.as)
		e.ctx.Park(e.state)
	})
}

func costFP(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	return sample(50, 100, func() {
		e.run(e.as)
		e.ctx.PullFP(e.state)
	})
}

func costFault(code []byte) func(T, platform.Platform) []float64 {
	return func(t T, p platform.Platform) []float64 {
		e := newEnv(t, p, code)
		defer e.close()
		e.state.Regs.Rdi = uint64(dataAt + 1<<26)
		return sample(50, 100, func() { e.run(e.as) })
	}
}

func costFaultMap(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeTouchPages)
	defer e.close()
	const start = dataAt + 1<<26
	e.state.Regs.Rdi = uint64(start)
	return sample(50, 20, func() {
		ev := e.run(e.as)
		i := uint64(ev.Addr-start) / page % dataPages
		e.mapIn(e.as, ev.Addr.RoundDown(), dataOff+i*page, page, usermem.ReadWrite)
	})
}

func costPrecommit(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeTouchPages)
	defer e.close()
	const start, n = dataAt + 1<<26, 16
	e.state.Regs.Rdi = uint64(start)
	s := sample(50, 10, func() {
		ev := e.run(e.as)
		i := uint64(ev.Addr-start) / page % (dataPages - n)
		if err := e.as.MapFile(ev.Addr.RoundDown(), e.mem, dataOff+i*page, n*page, usermem.ReadWrite, true); err != nil {
			t.Fatalf("MapFile: %v", err)
		}
	})
	for i := range s {
		s[i] /= n
	}
	return s
}

func costMapUnmap(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	const at = dataAt + 1<<26
	e.run(e.as)
	return sample(50, 50, func() {
		e.mapIn(e.as, at, dataOff, page, usermem.ReadWrite)
		e.as.Unmap(usermem.AddrRange{Start: at, End: at + page})
		e.as.Flush()
	})
}

func costProtect(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	e.run(e.as)
	access := usermem.Read
	return sample(50, 50, func() {
		e.as.Protect(usermem.AddrRange{Start: dataAt, End: dataAt + page}, access)
		access ^= usermem.Write
		e.as.Flush()
	})
}

func costBatch(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	const at, n = dataAt + 1<<26, 100
	e.run(e.as)
	s := sample(30, 5, func() {
		for i := range n {
			e.mapIn(e.as, at+usermem.Addr(2*i*page), dataOff, page, usermem.ReadWrite)
		}
		e.as.Flush()
	})
	for i := range s {
		s[i] /= n
	}
	return s
}

func costInterrupt(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeCount)
	defer e.close()
	var s []float64
	for range 50 {
		done := e.start(&e.task, e.as, 0)
		e.running(0)
		start := time.Now()
		e.ctx.Interrupt()
		<-done
		s = append(s, float64(time.Since(start).Nanoseconds()))
	}
	return s
}

func costNewSpace(t T, p platform.Platform) []float64 {
	e := newEnv(t, p, codeSyscalls)
	defer e.close()
	return sample(30, 5, func() {
		as := e.space()
		e.state.Regs.Rip = uint64(codeAt)
		e.run(as)
		as.Release()
	})
}

func costNewSpaceAlone(t T, p platform.Platform) []float64 {
	var s []float64
	for range 50 {
		start := time.Now()
		as, err := p.NewAddressSpace()
		s = append(s, float64(time.Since(start).Nanoseconds()))
		if err != nil {
			t.Fatalf("NewAddressSpace: %v", err)
		}
		as.Release()
	}
	return s
}

// costCompute runs n contexts that count down without any event in between:
// where there are as many CPUs, two take as long as one.
func costCompute(n int) func(T, platform.Platform) []float64 {
	return func(t T, p platform.Platform) []float64 {
		e := newEnv(t, p, codeCountDown)
		defer e.close()
		const millions = 200
		var s []float64
		for range 5 {
			start := time.Now()
			done := make(chan struct{})
			for range n {
				go func() {
					defer func() { done <- struct{}{} }()
					k := e.newTask()
					defer k.close()
					k.state.Regs.Rdi = millions * 1e6
					if _, err := k.ctx.Switch(e.as, k.state); err != nil {
						t.Errorf("Switch: %v", err)
					}
				}()
			}
			for range n {
				<-done
			}
			s = append(s, float64(time.Since(start).Nanoseconds())/millions)
		}
		return s
	}
}
