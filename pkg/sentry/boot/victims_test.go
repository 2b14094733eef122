package boot

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vitrine/pkg/sentry/kernel"
)

// fakeProcess is a process of a fakeSandbox.
type fakeProcess struct {
	s    *fakeSandbox
	c    candidate
	done chan struct{}
	deaf bool // it doesn't end
}

func (p *fakeProcess) Done() <-chan struct{} { return p.done }

func (p *fakeProcess) Kill(st kernel.ExitStatus) {
	p.s.killed = append(p.s.killed, p.c.name)
	p.c.ending = true
	if !p.deaf {
		p.end()
	}
}

// end makes the process's memory garbage.
func (p *fakeProcess) end() {
	p.s.garbage += p.c.bytes
	p.s.live -= p.c.bytes
	close(p.done)
}

// fakeSandbox is one whose heap is a number.
type fakeSandbox struct {
	processes     []*fakeProcess
	live, garbage int64
	marked        int64 // what the last collection left
	killed        []string
	log           strings.Builder
	// during is called in the middle of a collection.
	during func()
	caches int64
}

func (s *fakeSandbox) add(name string, bytes int64) *fakeProcess {
	p := &fakeProcess{s: s, done: make(chan struct{})}
	p.c = candidate{process: p, pid: int32(len(s.processes) + 1), name: name, container: "c", bytes: bytes, start: int64(len(s.processes)), init: name == "init"}
	s.processes = append(s.processes, p)
	s.live += bytes
	return p
}

func (s *fakeSandbox) killer() *killer {
	return &killer{
		candidates: func() (all []candidate) {
			for _, p := range s.processes {
				if !ended(p) {
					all = append(all, p.c)
				}
			}
			return all
		},
		collect: func() {
			// What becomes garbage after this is found by the next.
			s.garbage = 0
			s.marked = s.live
			if f := s.during; f != nil {
				s.during = nil
				f()
			}
		},
		drop:     func() { s.live -= s.caches; s.caches = 0 },
		logf:     func(format string, args ...any) { fmt.Fprintf(&s.log, format+"\n", args...) },
		describe: func() {},
		wait:     func(process) {},
	}
}

// makeRoom wants no more than limit to be in use.
func (s *fakeSandbox) makeRoom(limit int64) bool {
	return s.killer().makeRoom(&want{why: "test", fits: func() bool { return s.marked <= limit }, among: func(*candidate) bool { return true }, total: 1 << 20})
}

func (s *fakeSandbox) expect(t *testing.T, killed ...string) {
	t.Helper()
	if !slices.Equal(s.killed, killed) {
		t.Errorf("killed: %v; want %v\n%s", s.killed, killed, s.log.String())
	}
}

func TestFattestProcessIsKilled(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 300)
	s.add("small", 100)
	s.add("fat", 1000)
	s.add("thin", 10)
	if !s.makeRoom(500) {
		t.Error("there is no room")
	}
	s.expect(t, "fat")
}

func TestCachesGoBeforeProcesses(t *testing.T) {
	s := &fakeSandbox{live: 600, caches: 600}
	s.add("init", 300)
	if !s.makeRoom(500) {
		t.Error("there is no room")
	}
	s.expect(t)
}

// The process that has grown ends while garbage is collected: the collection doesn't
// find what it has left, and the only one that is still there isn't to blame.
func TestNobodyIsKilledForOneThatHasEnded(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 300)
	fat := s.add("fat", 1000)
	k := s.killer()
	collections := 0
	collect := k.collect
	k.collect = func() {
		if collections++; collections == 2 { // after caches have been dropped
			s.during = fat.end
		}
		collect()
	}
	if !k.makeRoom(&want{why: "test", fits: func() bool { return s.marked <= 500 }, among: func(*candidate) bool { return true }, total: 1 << 20}) {
		t.Error("there is no room")
	}
	s.expect(t)
}

// Nor for one that is ending, which takes its time.
func TestNobodyIsKilledForOneThatIsEnding(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 300)
	fat := s.add("fat", 1000)
	fat.c.ending = true
	k := s.killer()
	k.wait = func(p process) { fat.end() }
	if !k.makeRoom(&want{why: "test", fits: func() bool { return s.marked <= 500 }, among: func(*candidate) bool { return true }, total: 1 << 20}) {
		t.Error("there is no room")
	}
	s.expect(t)
}

// One that doesn't end is waited for once; then it is another's turn.
func TestOneThatIsStuckIsNotWaitedForAgain(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 300)
	fat, second := s.add("fat", 1000), s.add("second", 900)
	fat.deaf = true
	waits := map[process]int{}
	k := s.killer()
	k.wait = func(p process) { waits[p]++ }
	if !k.makeRoom(&want{why: "test", fits: func() bool { return s.marked <= 1300 }, among: func(*candidate) bool { return true }, total: 1 << 20}) {
		t.Error("there is no room")
	}
	s.expect(t, "fat", "second")
	if waits[fat] != 1 || waits[second] != 1 {
		t.Errorf("%d and %d waits", waits[fat], waits[second])
	}
	fat.end()
	k.await(second)
	if len(k.stuck) != 0 {
		t.Error("one that has ended is remembered")
	}
}

// Its init costs a container all others: it stands against all of them, not each.
func TestInitStandsAgainstAllOthers(t *testing.T) {
	for _, c := range []struct {
		init   int64
		others []int64
		limit  int64
		killed []string
	}{
		{300, []int64{200, 200}, 500, []string{"1"}},
		{300, []int64{100, 100}, 400, []string{"init"}},
		{300, []int64{0, 0}, 200, []string{"init"}},
		{0, []int64{0, 0}, -1, []string{"1", "0", "init"}},
		{1000, []int64{400, 400, 400}, 1500, []string{"2", "init"}},
	} {
		s := &fakeSandbox{}
		s.add("init", c.init)
		for i, bytes := range c.others {
			s.add(fmt.Sprint(i), bytes)
		}
		if fits := s.makeRoom(c.limit); fits != (c.limit >= 0) {
			t.Errorf("%+v: room %v", c, fits)
		}
		s.expect(t, c.killed...)
	}
}

// The inits of a pod's members compete with the processes of their own container only.
func TestInitsOfAPod(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 500)
	other := s.add("init", 400)
	other.c.container = "other"
	for range 3 {
		p := s.add("child", 200)
		p.c.container = "other"
	}
	s.makeRoom(1200)
	s.expect(t, "init")
	if !ended(s.processes[0]) {
		t.Errorf("the other's init was killed, which is smaller than what it would take along")
	}
}

func TestAdjustmentsOfTheScore(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 100)
	spared := s.add("spared", 2000)
	spared.c.adjust = unkillable
	s.add("fat", 1000)
	wanted := s.add("wanted", 10)
	wanted.c.adjust = 1000 // as if it had all memory, a mebibyte
	s.makeRoom(2200)
	s.expect(t, "wanted", "fat")
	s.killed = nil
	s.makeRoom(2050)
	s.expect(t, "init")
	s.killed = nil
	s.makeRoom(0)
	s.expect(t, "spared") // better than the whole sandbox
}

func TestOnlyThoseThatMayAreKilled(t *testing.T) {
	s := &fakeSandbox{}
	s.add("init", 1000)
	s.add("fat", 500)
	s.add("thin", 10)
	ok := s.killer().makeRoom(&want{why: "test", fits: func() bool { return s.marked <= 100 }, among: func(c *candidate) bool { return !c.init }, total: 1 << 20})
	if ok {
		t.Error("there is room")
	}
	s.expect(t, "fat", "thin")
}
