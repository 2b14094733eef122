package waiter

import (
	"sync"
	"testing"

	"vitrine/pkg/sched"
)

func TestTokenIsTakenOnce(t *testing.T) {
	var k Token
	if k.Take() {
		t.Error("it was never given")
	}
	k.Give()
	k.Notify(nil, In)
	if !k.Take() || k.Take() {
		t.Error("given twice, it is taken once")
	}
}

// TestTokenWakes gives a token to a thread that sleeps, or is about to.
func TestTokenWakes(t *testing.T) {
	s := sched.New(true)
	for range 1000 {
		var k, answer Token
		th := s.NewThread()
		th.Start(func() {
			k.Expect(th)
			for !k.Take() {
				th.Park()
			}
			answer.Give()
		})
		k.Give()
		answer.Wait()
	}
}

func TestGateOpensForAll(t *testing.T) {
	s := sched.New(true)
	var g, other Gate
	var all sync.WaitGroup
	for range 100 {
		all.Add(1)
		th := s.NewThread()
		th.Start(func() {
			defer all.Done()
			other.Expect(th)
			other.Forget(th)
			g.Expect(th)
			for !g.Opened() {
				th.Park()
			}
			g.Forget(th)
		})
	}
	g.Open()
	g.Open()
	all.Wait()
	if other.Opened() || (*Gate)(nil).Opened() {
		t.Error("a gate is open that nobody opened")
	}
	if len(other.waiting) != 0 || len(g.waiting) != 0 {
		t.Errorf("%d and %d are remembered", len(other.waiting), len(g.waiting))
	}
}
