package boot

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// Objects that applications can make many of are charged to their container. The
// heap watch is for all else that an application may make the Sentry's heap grow by,
// and for what is charged too little: after each garbage collection it charges what
// the heap holds beyond that, and where the limit is passed it does what is done for
// want of a page: a process is killed, until what is left fits.

const (
	// ownHeap is how much of the heap, in bytes, is the Sentry's business.
	ownHeap = 32 << 20
	// freeHeap is how much of it each container's objects may take, in bytes, before
	// they count towards its limit.
	freeHeap = 4 << 20
	// heapSlack is how much more than an application's limit the Go runtime may
	// take before it collects garbage all the time.
	heapSlack = 64 << 20
	// While less than smallHeap, in bytes, is alive, garbage is collected when it is
	// sparePercent of smallHeap: each collection stops all tasks for a quarter of a
	// millisecond, and at 100 there are 70 in a second of making threads. Beyond, when
	// it is as much as what is alive.
	smallHeap, sparePercent, usualPercent = 4 << 20, 200, 100
	// pageRoom is how much memory, in bytes, there has to be for who wanted a page.
	pageRoom = 256 << 10
	// execRoom is how much a process that is started from outside is to find.
	execRoom = 1 << 20
)

// heapWatch belongs to a Sandbox.
type heapWatch struct {
	s       *Sandbox
	file    *memfile.File
	killing atomic.Bool
	killer  killer
	turn    chan struct{} // holds a token while nobody uses killer

	mu locks.Mutex[locks.HeapWatch]
	// What is charged, and to whom.
	payer *memfile.Account
	rest  int64
	// percent is the runtime's GOGC.
	percent int
	// starving are what opens when room has been made for the tasks that want pages of
	// an account now.
	starving map[*memfile.Account]*waiter.Gate
}

// sentinel is what the garbage collector finds each time.
type sentinel struct{ self *sentinel }

func watchHeap(s *Sandbox, f *memfile.File) {
	w := &heapWatch{s: s, file: f, turn: make(chan struct{}, 1), starving: map[*memfile.Account]*waiter.Gate{}}
	w.killer = killer{candidates: s.candidates, collect: collectGarbage, drop: s.dropCaches, logf: s.k.Logf, describe: w.describe, wait: waitKilled}
	w.turn <- struct{}{}
	s.heap, s.k.Starving = w, w.feed
	w.percent = sparePercent
	debug.SetGCPercent(sparePercent)
	w.arm()
}

// arm has the watch look after the next garbage collection.
func (w *heapWatch) arm() {
	o := &sentinel{}
	o.self = o
	runtime.AddCleanup(o, func(w *heapWatch) {
		w.arm()
		if w.measure() && !w.killing.Swap(true) {
			go func() {
				defer w.killing.Store(false)
				w.makeRoom(&want{why: "the heap holds more than the memory limit allows", fits: func() bool { return !w.measure() },
					among: func(*candidate) bool { return true }, total: int64(w.s.account.Machine())})
			}()
		}
	}, w)
}

// makeRoom is killer.makeRoom when it is the caller's turn.
func (w *heapWatch) makeRoom(x *want) bool {
	<-w.turn
	defer func() { w.turn <- struct{}{} }()
	return w.killer.makeRoom(x)
}

// measure charges what the heap holds that nobody pays for, and reports whether
// that is too much.
func (w *heapWatch) measure() (over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	live, stacks := heapSizes()
	w.pace(live)
	rest := max(live+stacks-ownHeap-int64(w.file.Heap())+w.rest, 0)
	payer := w.s.soleAccount()
	if payer != w.payer {
		w.payer.Uncharge(w.rest)
		w.payer, w.rest = payer, 0
	}
	payer.ChargeAlways(rest - w.rest)
	w.rest = rest
	return payer.Over()
}

// pace says how much garbage there may be, from what is alive. Caller holds mu.
func (w *heapWatch) pace(live int64) {
	percent := w.percent
	switch {
	case live > smallHeap:
		percent = usualPercent
	case live < smallHeap/2:
		percent = sparePercent
	}
	if percent != w.percent {
		w.percent = percent
		debug.SetGCPercent(percent)
	}
}

// heapSizes returns how much the last garbage collection left, and the stacks of
// goroutines, in bytes.
func heapSizes() (live, stacks int64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64())
}

// collectGarbage returns when what is garbage now has been given back, and what hung
// together with that, too.
func collectGarbage() {
	const rounds = 4
	samples := []metrics.Sample{{Name: "/gc/cleanups/executed:cleanups"}, {Name: "/gc/cleanups/queued:cleanups"}}
	read := func() (executed, queued uint64) {
		metrics.Read(samples)
		return samples[0].Value.Uint64(), samples[1].Value.Uint64()
	}
	// The watch's own sentinel is one of each round.
	const own = 1
	for range rounds {
		_, before := read()
		runtime.GC()
		executed, queued := read()
		// Cleanups run in goroutines of the runtime, that have no way to be waited for.
		for pause := time.Microsecond; executed < queued && pause < time.Second; pause *= 2 {
			time.Sleep(pause)
			executed, _ = read()
		}
		if queued-before <= own {
			return
		}
	}
}

// soleAccount is that of the only container, or of the sandbox where it isn't known
// whose the heap is.
func (s *Sandbox) soleAccount() *memfile.Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) == 1 {
		for _, c := range s.containers {
			if c.account != nil {
				return c.account
			}
		}
	}
	return s.account
}

// feed implements kernel.Kernel.Starving: it makes room for a page of t.
func (w *heapWatch) feed(t *kernel.Task) *waiter.Gate {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, id := t.MM().Account(), t.Container()
	gate := w.starving[a]
	if gate == nil {
		gate = new(waiter.Gate)
		w.starving[a] = gate
		go func() {
			w.makeRoom(&want{why: "a page is wanted", fits: func() bool { return a.Headroom() >= pageRoom }, total: int64(a.Bound()),
				among: func(c *candidate) bool { return c.container == id || !isFull(a) }})
			w.mu.Lock()
			delete(w.starving, a)
			w.mu.Unlock()
			gate.Open()
		}()
	}
	return gate
}

// isFull reports whether it is a's own limit that leaves no room.
func isFull(a *memfile.Account) bool {
	limit := a.Limit()
	return limit != 0 && a.Usage()+pageRoom > limit
}

// makeRoom sees to it that a process that is about to be started finds some memory, at
// the cost of others but init.
func (c *container) makeRoom() {
	a := c.account
	fits := func() bool {
		if a.Headroom() < execRoom || a.Charge(execRoom) != nil {
			return false
		}
		a.Uncharge(execRoom)
		return true
	}
	if !fits() {
		c.s.heap.makeRoom(&want{why: "a process is to be started in " + c.id, fits: fits, total: int64(a.Bound()),
			among: func(o *candidate) bool { return o.container == c.id && !o.init && o.adjust != unkillable }})
	}
}

// dropCaches makes all file systems that are mounted forget what they can look up
// again.
func (s *Sandbox) dropCaches() {
	seen := map[*vfs.Filesystem]bool{}
	for _, t := range s.k.RootPIDNS.Tasks() {
		ns := t.Namespaces()
		if ns == nil || ns.Mount == nil {
			continue
		}
		for _, m := range ns.Mount.Mounts() {
			if fs := m.Mount.Filesystem(); !seen[fs] {
				seen[fs] = true
				fs.Reclaim()
			}
		}
	}
}

// candidates lists the processes that haven't ended.
func (s *Sandbox) candidates() (all []candidate) {
	inits := map[*kernel.ThreadGroup]bool{}
	s.mu.Lock()
	for _, c := range s.containers {
		if c.init != nil {
			inits[c.init.ThreadGroup()] = true
		}
	}
	s.mu.Unlock()
	seen := map[*kernel.ThreadGroup]bool{}
	for _, t := range s.k.RootPIDNS.Tasks() {
		tg := t.ThreadGroup()
		if seen[tg] || ended(tg) {
			continue
		}
		seen[tg] = true
		all = append(all, candidate{
			process: tg, pid: tg.ID(s.k.RootPIDNS), name: t.Name(), container: t.Container(), bytes: tg.Charged(),
			adjust: tg.OOMScoreAdj().Load(), start: tg.StartTime(), init: inits[tg], ending: tg.Ending(),
		})
	}
	return all
}

// describe writes to the debug log what memory is used for.
func (w *heapWatch) describe() {
	live, stacks := heapSizes()
	w.mu.Lock()
	rest := w.rest
	w.mu.Unlock()
	w.s.k.Logf("  the heap holds %d bytes and %d of stacks; %d bytes are charged, of them %d that nobody else pays", live, stacks, w.file.Heap(), rest)
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	for _, c := range w.s.containers {
		if a := c.account; a != nil {
			w.s.k.Logf("  container %s: %d of %d bytes, %d of them pages", c.id, a.Usage(), a.Limit(), a.FileUsage())
		}
	}
}

// boundHeap tells the Go runtime how far its heap may grow with garbage.
func (c *container) boundHeap() {
	if !c.isRoot() {
		return
	}
	if bound := c.account.Bound(); bound != 0 && bound < 1<<62 {
		debug.SetMemoryLimit(int64(bound + heapSlack))
	}
}
