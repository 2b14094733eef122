package systrap

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

// Waking a thread that sleeps on another, idle CPU costs ten times what a
// switch on one CPU does, and looking for a word that another CPU writes a
// tenth. So there are two good ways to hand over, and placement says which one
// a stub thread and the Sentry thread that serves it are at.
//
// Apart: on two CPUs, each looking for the other's word for a while. It needs a
// CPU for each side of every active context, and an application that is back
// soon.
//
// A thread whose task goes to sleep looks on for a while, and makes room when
// another one is resumed on its CPU: so tasks that wait for each other take turns
// there without waking anybody on a CPU that has gone to sleep.
//
// Together: on one CPU, each asleep while the other runs. The Sentry's thread,
// which is Go's, is bound to the CPU from its first such sleep on until its task
// goes to sleep itself and no other one takes the thread.
//
// Loose: wherever the host puts them, asleep while the other runs. It is for
// threads that compute: after a millisecond or more they are let go (looser).
//
// Nothing here affects what happens, only when.
type placement struct {
	mode manner
	// cpu is the only CPU that the stub thread may run on, or -1.
	cpu int
	// quick counts events in a row that came soon, toApart is how many make a
	// pair go apart: more each time that this turned out wrong, which is when it
	// didn't last.
	quick, toApart int
	// rounds counts hand-overs since the CPU was chosen, lasted those since the pair
	// went apart.
	rounds, lasted int
}

type manner uint8

const (
	loose manner = iota
	together
	apart
)

const (
	// looks is how often a side looks when apart, about 50 us: longer than the host's
	// clock tick keeps a CPU, which in a virtual machine is 20. firstLooks is that for
	// who has just been sent to a CPU that may sleep.
	looks, firstLooks = 2500, 5 * looks
	// soon is what it has to be worth it.
	soon = 15 * time.Microsecond
	// patience is how long a stub thread that computes stays bound.
	patience = time.Millisecond

	minToApart, maxToApart = 32, 256
	// worthwhile is how many rounds apart make up for going there, or for one that
	// was looked for in vain, and rechoose after how many together the host chooses the CPU anew.
	worthwhile, rechoose = 64, 1024
)

// roomy reports whether each side of every active context can have a CPU.
func (p *Platform) roomy() bool { return 2*int(p.active.Load()) <= p.cpus.count }

// cpus is which CPUs the Sentry may use.
type cpus struct {
	count int
	all   cpuSet
}

func hostCPUs() cpus {
	var c cpus
	if getAffinity(0, &c.all) != 0 {
		for i := range c.all {
			c.all[i] = ^uint64(0)
		}
	}
	for cpu := range len(c.all) * 64 {
		if c.has(cpu) {
			c.count++
		}
	}
	return c
}

func (c *cpus) has(cpu int) bool { return c.all[cpu/64]&(1<<(cpu%64)) != 0 }

// after returns the CPU that comes after one.
func (c *cpus) after(cpu int) int {
	for n := range len(c.all) * 64 {
		if next := (cpu + 1 + n) % (len(c.all) * 64); c.has(next) {
			return next
		}
	}
	return cpu
}

// bind has the stub thread run on cpu, or with -1 anywhere.
func (th *thread) bind(p *Platform, cpu int) {
	if th.place.cpu == cpu {
		return
	}
	th.place.cpu = cpu
	th.place.rounds = 0
	if cpu < 0 {
		setAffinity(th.tid, &p.cpus.all)
	} else {
		setAffinity(th.tid, oneCPU(cpu))
	}
}

// spinners is which stub thread looks for its word on each CPU.
type spinners struct {
	mu locks.Mutex[locks.StubSpinners]
	at []atomic.Pointer[thread] // by CPU; changed under mu
}

// take says that th is to run on cpu: who looks there makes room.
func (s *spinners) take(cpu int, th *thread) {
	if s.at[cpu].Load() == th {
		return
	}
	s.mu.Lock()
	if old := s.at[cpu].Swap(th); old != nil && old != th {
		old.rest()
	}
	s.mu.Unlock()
}

// drop forgets the threads of p, whose memory is about to go.
func (s *spinners) drop(p *process) {
	s.mu.Lock()
	for cpu := range s.at {
		if th := s.at[cpu].Load(); th != nil && th.proc == p {
			s.at[cpu].Store(nil)
		}
	}
	s.mu.Unlock()
}

// server is a thread of the Sentry that serves stub threads, known by the
// address of its thread-local storage.
type server struct {
	tid int
	cpu atomic.Int32 // the only CPU that it may run on, or -1
	// boundFor is the context that it was bound for last.
	boundFor atomic.Pointer[context]
}

var servers sync.Map // of addresses to *server

// thisServer returns that of the calling thread. One that isn't known may have
// got its CPU from the thread that made it.
func (p *Platform) thisServer() *server {
	base := threadBase()
	if v, ok := servers.Load(base); ok {
		return v.(*server)
	}
	s := &server{tid: unix.Gettid()}
	s.cpu.Store(-1)
	servers.Store(base, s)
	setAffinity(0, &p.cpus.all)
	return s
}

// bind has the calling thread run on cpu, which is for c, or with -1 anywhere.
// The thread that c was served by before, if the Go scheduler has taken that
// away, is let go.
func (c *context) bind(cpu int) {
	all := &c.platform.cpus.all
	s := c.platform.thisServer()
	if old := c.server.Load(); old != s {
		c.server.Store(s)
		if old != nil && old.boundFor.CompareAndSwap(c, nil) && old.cpu.Swap(-1) >= 0 {
			setAffinity(old.tid, all)
		}
	}
	if int(s.cpu.Load()) == cpu {
		return
	}
	s.cpu.Store(int32(cpu))
	if cpu < 0 {
		s.boundFor.Store(nil)
		setAffinity(0, all)
	} else {
		s.boundFor.Store(c)
		setAffinity(0, oneCPU(cpu))
	}
}

// handOver resumes the thread and waits for the event that ends its command.
func (c *context) handOver(th *thread) error {
	p, pl := c.platform, &th.place
	n := 0
	if p.cpus.count > 1 {
		if pl.mode == apart && !p.roomy() {
			pl.mode = together
		}
		pl.rounds++
		switch me := currentCPU(); pl.mode {
		case apart:
			if pl.cpu < 0 || pl.cpu == me {
				c.bind(-1)
				th.bind(p, p.cpus.after(me))
				n = firstLooks
			}
			p.spinners.take(pl.cpu, th)
			n = max(n, looks)
			pl.lasted++
		case together:
			if pl.rounds >= rechoose {
				pl.mode = loose
				th.bind(p, -1)
			} else {
				th.bind(p, me)
				p.spinners.take(me, th)
			}
		}
		if pl.mode == loose {
			c.bind(-1)
		}
	}
	th.resume(n)
	if n > 0 && spinOn(&th.shared.event, th.number, n) {
		return nil
	}
	return c.sleep(th)
}

// sleep waits for the event, asleep.
func (c *context) sleep(th *thread) error {
	p, pl := c.platform, &th.place
	if p.cpus.count == 1 {
		return c.pause(th)
	}
	if pl.mode == apart {
		// It computes, or has lost its CPU to somebody.
		if pl.lasted >= worthwhile {
			pl.toApart = minToApart
		} else {
			pl.mode, pl.quick = together, 0
			pl.toApart = min(2*max(pl.toApart, minToApart), maxToApart)
		}
		pl.lasted = 0
	}
	th.shared.spin = 0
	before := time.Now()
	bound := pl.mode != apart && pl.cpu >= 0 && th.shared.event.Load() != th.number // else the wake-up was a switch already
	if bound {
		c.bind(pl.cpu)
		p.looser.watch(c, before)
	}
	err := c.pause(th)
	if bound {
		c.sleeps.Store(0)
	}
	switch took := time.Since(before); {
	case took > patience:
		pl.mode = loose
		pl.quick = 0
		c.bind(-1)
		th.bind(p, -1)
	case pl.mode == apart:
	case took > soon:
		pl.quick = 0
		pl.mode = together
	case pl.mode == loose:
		pl.mode = together
	default:
		pl.quick++
		if pl.quick >= max(pl.toApart, minToApart) && p.roomy() {
			c.bind(-1)
			pl.mode = apart
			pl.quick = 0
		}
	}
	return err
}

// pause waits for the event, asleep. Meanwhile other contexts may need the thread of
// the Sentry, unless the event comes as soon as the last ones.
func (c *context) pause(th *thread) error {
	s := c.platform.scheduler
	if s == nil || th.place.quick > 0 && s.Waiting() {
		return th.await()
	}
	s.Away()
	defer s.Back()
	return th.await()
}

// await waits for the event that ends the command, asleep.
func (th *thread) await() error {
	s := th.shared
	for {
		s.sentrySleeps.Swap(1)
		v := s.event.Load()
		if v == th.number || th.proc.lost.Load() {
			break
		}
		futexWait(&s.event, v)
	}
	s.sentrySleeps.Store(0)
	if s.event.Load() != th.number {
		return errLost
	}
	return nil
}

// looser lets threads that compute run on any CPU, when they have run bound to one
// for longer than patience. A deadline for each sleep would do as well, but to set the
// processor's timer, in a virtual machine, takes longer than most sleeps.
type looser struct {
	timer *time.Timer
	armed atomic.Bool
}

func newLooser(p *Platform) *looser {
	l := &looser{}
	l.timer = time.AfterFunc(patience, func() { l.look(p) })
	l.timer.Stop()
	return l
}

// watch says that c's threads are bound since a time.
func (l *looser) watch(c *context, since time.Time) {
	c.sleeps.Store(since.UnixNano())
	if !l.armed.Load() && !l.armed.Swap(true) {
		l.timer.Reset(2 * patience)
	}
}

func (l *looser) look(p *Platform) {
	l.armed.Store(false)
	now := time.Now().UnixNano()
	waiting := false
	p.watchdog.each(func(c *context) {
		since := c.sleeps.Load()
		if since == 0 {
			return
		}
		if now-since < int64(patience) {
			waiting = true
			return
		}
		th, s := c.running.Load(), c.server.Load()
		if th != nil && s != nil && c.sleeps.CompareAndSwap(since, 0) {
			setAffinity(th.tid, &p.cpus.all)
			setAffinity(s.tid, &p.cpus.all)
		}
	})
	if waiting && !l.armed.Swap(true) {
		l.timer.Reset(2 * patience)
	}
}
