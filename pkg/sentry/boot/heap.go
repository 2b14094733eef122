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
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
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
	// killWait is how long the end of a process that was killed is waited for. It may
	// have much to give up, on a machine that is busy.
	killWait = 30 * time.Second
	// settling is how long what a garbage collection has found takes to be given back.
	settling = 20 * time.Millisecond
)

// heapWatch belongs to a Sandbox.
type heapWatch struct {
	s       *Sandbox
	file    *memfile.File
	killing atomic.Bool

	// What is charged, and to whom.
	mu    locks.Mutex[locks.HeapWatch]
	payer *memfile.Account
	rest  int64
}

// sentinel is what the garbage collector finds each time.
type sentinel struct{ self *sentinel }

func watchHeap(s *Sandbox, f *memfile.File) {
	w := &heapWatch{s: s, file: f}
	w.arm()
}

// arm has the watch look after the next garbage collection.
func (w *heapWatch) arm() {
	o := &sentinel{}
	o.self = o
	runtime.AddCleanup(o, func(w *heapWatch) {
		w.arm()
		if w.measure() && !w.killing.Swap(true) {
			go w.killUntilItFits()
		}
	}, w)
}

// measure charges what the heap holds that nobody pays for, and reports whether
// that is too much.
func (w *heapWatch) measure() (over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(samples)
	held := int64(samples[0].Value.Uint64() + samples[1].Value.Uint64())
	rest := max(held-ownHeap-int64(w.file.Heap())+w.rest, 0)
	payer := w.s.soleAccount()
	if payer != w.payer {
		w.payer.Uncharge(w.rest)
		w.payer, w.rest = payer, 0
	}
	payer.ChargeAlways(rest - w.rest)
	w.rest = rest
	return payer.Over()
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

// killUntilItFits drops caches, and then kills one process after the other.
func (w *heapWatch) killUntilItFits() {
	defer w.killing.Store(false)
	w.s.dropCaches()
	for {
		// What hangs together with something that is given back later is found
		// by a later collection.
		for range 3 {
			runtime.GC()
			time.Sleep(settling)
			if !w.measure() {
				return
			}
		}
		tg := w.s.largest()
		if tg == nil {
			return
		}
		w.s.k.Logf("the heap holds more than the memory limit allows: process %d killed", tg.ID(w.s.k.RootPIDNS))
		tg.Kill(kernel.ExitStatus{Signal: sigKill})
		t := time.NewTimer(killWait)
		select {
		case <-tg.Done():
		case <-t.C:
		}
		t.Stop()
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

// largest returns the process to be killed: the one with the most memory, the
// Sentry's for its mappings and descriptors included, as oom_score_adj shifts it; of
// several the youngest. Those that may not be killed (-1000) come last.
func (s *Sandbox) largest() *kernel.ThreadGroup {
	const unkillable = -1000
	total := int64(s.account.Machine() / 1000)
	var best *kernel.ThreadGroup
	var most int64
	for _, t := range s.k.RootPIDNS.Tasks() {
		tg := t.ThreadGroup()
		select {
		case <-tg.Done():
			continue
		default:
		}
		score := sizeOf(t)
		switch adj := int64(tg.OOMScoreAdj().Load()); adj {
		case unkillable:
			score = -1 << 62
		default:
			score += adj * total
		}
		if best == nil || score > most || score == most && tg.StartTime() > best.StartTime() {
			best, most = tg, score
		}
	}
	return best
}

func sizeOf(t *kernel.Task) (bytes int64) {
	const mapping, descriptor = 256, 1024
	if m := t.SharedMM(); m != nil {
		bytes += int64(m.Stats().RSS)
		m.VMAs(func(mm.VMAInfo) bool { bytes += mapping; return true })
		m.DecUsers()
	}
	if f := t.SharedFDs(); f != nil {
		bytes += int64(f.Len()) * descriptor
	}
	return bytes
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
