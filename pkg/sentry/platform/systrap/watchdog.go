package systrap

import (
	"time"

	"vitrine/pkg/locks"
)

// overdue is how long a thread may take to answer an interruption. One that
// runs a stub's code answers as soon as the host lets it run.
const overdue = 30 * time.Second

// watchdog ends stubs that don't answer interruptions: the application can make
// its own deaf. It sleeps while nobody is asked.
type watchdog struct {
	mu       locks.Mutex[locks.StubWatchdog]
	contexts map[*context]struct{}
	timer    *time.Timer
	armed    bool
	limit    time.Duration
}

func newWatchdog(limit time.Duration) *watchdog {
	w := &watchdog{contexts: make(map[*context]struct{}), limit: limit}
	w.timer = time.AfterFunc(limit, w.look)
	w.timer.Stop()
	return w
}

func (w *watchdog) add(c *context) {
	w.mu.Lock()
	w.contexts[c] = struct{}{}
	w.mu.Unlock()
}

func (w *watchdog) drop(c *context) {
	w.mu.Lock()
	delete(w.contexts, c)
	w.mu.Unlock()
}

// each calls f for all contexts.
func (w *watchdog) each(f func(*context)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.contexts {
		f(c)
	}
}

// arm has it look after a while.
func (w *watchdog) arm() {
	w.mu.Lock()
	if !w.armed {
		w.armed = true
		w.timer.Reset(w.limit)
	}
	w.mu.Unlock()
}

func (w *watchdog) look() {
	now := time.Now().UnixNano()
	w.mu.Lock()
	w.armed = false
	var late []*process
	waiting := false
	for c := range w.contexts {
		asked := c.asked.Load()
		if asked == 0 {
			continue
		}
		waiting = true
		if th := c.running.Load(); th != nil && now-asked >= int64(w.limit) {
			late = append(late, th.proc)
		}
	}
	w.mu.Unlock()
	for _, p := range late {
		p.kill()
	}
	if waiting {
		w.arm()
	}
}
