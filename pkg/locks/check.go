//go:build lockcheck

package locks

import (
	"bytes"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// A mode is how a lock is held; a set of them is how it may be held.
type mode int

const (
	reading mode = 1 << iota
	writing
)

func (m mode) String() string {
	if m == reading {
		return "for reading"
	}
	return "for writing"
}

// A nesting is what a caller says about the locks it holds already.
type nesting int

const (
	inOrder nesting = iota // all are of ranks above
	nested                 // some may be of the same rank
)

// A holding is one lock held by one goroutine.
type holding struct {
	lock any // the pointer to it
	rank int // in order
	mode mode
	site [12]uintptr // where it was taken, innermost call first
}

func (h *holding) String() string {
	return fmt.Sprintf("%s %p %v, taken at%s", rankName(h.rank), h.lock, h.mode, callers(h.site[:]))
}

// A shard is a part of the table of held locks, by goroutine. Its mutex is
// taken last and never held while anything else is waited for.
type shard struct {
	mu   sync.Mutex
	held map[uint64][]holding
}

var shards [64]shard

// ofThisGoroutine returns the calling goroutine's number and the shard that
// has its locks, locked.
func ofThisGoroutine() (uint64, *shard) {
	g := goroutine()
	s := &shards[g%uint64(len(shards))]
	s.mu.Lock()
	if s.held == nil {
		s.held = make(map[uint64][]holding)
	}
	return g, s
}

// goroutine returns the calling goroutine's number. The runtime tells it only
// in the first line of a stack trace, "goroutine 7 [running]:".
func goroutine() uint64 {
	var buf [40]byte
	line := buf[:runtime.Stack(buf[:], false)]
	line = bytes.TrimPrefix(line, []byte("goroutine "))
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		line = line[:i]
	}
	g, err := strconv.ParseUint(string(line), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("locks: no goroutine number in a stack trace: %v", err))
	}
	return g
}

var ranks = func() map[reflect.Type]int {
	m := make(map[reflect.Type]int, len(order))
	for i, r := range order {
		m[reflect.TypeOf(r)] = i
	}
	return m
}()

func rankOf[R Rank]() int {
	t := reflect.TypeFor[R]()
	r, ok := ranks[t]
	if !ok {
		panic(fmt.Sprintf("locks: %v is not in the order of ranks", t))
	}
	return r
}

func rankName(r int) string { return reflect.TypeOf(order[r]).Name() }

// mayWait panics if the calling goroutine holds a lock that forbids it to wait
// for this one.
func mayWait[R Rank](lock any, n nesting) {
	r := rankOf[R]()
	g, s := ofThisGoroutine()
	defer s.mu.Unlock()
	for i := range s.held[g] {
		h := &s.held[g][i]
		switch {
		case h.lock == lock:
			fail("a goroutine waits for a lock that it holds", lock, r, h)
		case h.rank > r:
			fail(fmt.Sprintf("%s comes before %s", rankName(r), rankName(h.rank)), lock, r, h)
		case h.rank == r && n != nested:
			fail(fmt.Sprintf("a second %s without NestedLock", rankName(r)), lock, r, h)
		}
	}
}

// taken records that the calling goroutine holds a lock.
func taken[R Rank](lock any, m mode) {
	h := holding{lock: lock, rank: rankOf[R](), mode: m}
	runtime.Callers(3, h.site[:])
	g, s := ofThisGoroutine()
	defer s.mu.Unlock()
	s.held[g] = append(s.held[g], h)
}

// released records that the calling goroutine gives a lock back, and panics if
// it does not hold it. Locks need not be released in the reverse order.
func released[R Rank](lock any, m mode) {
	g, s := ofThisGoroutine()
	defer s.mu.Unlock()
	held := s.held[g]
	for i := len(held) - 1; i >= 0; i-- {
		if held[i].lock != lock || held[i].mode != m {
			continue
		}
		if len(held) == 1 {
			delete(s.held, g)
		} else {
			s.held[g] = append(held[:i], held[i+1:]...)
		}
		return
	}
	fail(fmt.Sprintf("a release of a lock that the goroutine does not hold %v", m), lock, rankOf[R](), nil)
}

// assertHeld panics unless the calling goroutine holds the lock in one of the modes.
func assertHeld[R Rank](lock any, modes mode) {
	g, s := ofThisGoroutine()
	defer s.mu.Unlock()
	for _, h := range s.held[g] {
		if h.lock == lock && h.mode&modes != 0 {
			return
		}
	}
	fail("the lock should be held here", lock, rankOf[R](), nil)
}

func assertNoneHeld() {
	g, s := ofThisGoroutine()
	defer s.mu.Unlock()
	if held := s.held[g]; len(held) != 0 {
		panic(fmt.Sprintf("locks: no lock should be held here\n\theld: %v", &held[0]))
	}
}

// fail panics with what is wrong, the place of the call to this package, and
// the lock that is held, if one is to blame.
func fail(what string, lock any, rank int, h *holding) {
	var site [12]uintptr
	runtime.Callers(4, site[:])
	msg := fmt.Sprintf("locks: %s\n\there: %s %p at%s", what, rankName(rank), lock, callers(site[:]))
	if h != nil {
		msg += fmt.Sprintf("\n\theld: %v", h)
	}
	panic(msg)
}

// callers writes out a call stack, one indented line a function.
func callers(pcs []uintptr) string {
	var b strings.Builder
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.PC != 0 && !strings.HasPrefix(f.Function, "runtime.") {
			fmt.Fprintf(&b, "\n\t\t%s\n\t\t\t%s:%d", f.Function, f.File, f.Line)
		}
		if !more {
			return b.String()
		}
	}
}
