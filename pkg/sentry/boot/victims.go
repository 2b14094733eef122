package boot

import (
	"cmp"
	"slices"
	"time"

	"vitrine/pkg/sentry/kernel"
)

// Who wants memory where there is none left waits until it has been made: garbage is
// collected, caches are dropped, and, one after the other, processes killed.

const (
	// killWait is how long the end of a process that was killed is waited for. It may
	// have much to give up, on a machine that is busy.
	killWait = 30 * time.Second
	// patience is how often in a row garbage is collected again because processes have
	// ended meanwhile, instead of killing one.
	patience = 5
)

// candidate is a process as the choice of whom to kill sees it.
type candidate struct {
	process
	pid       int32
	name      string
	container string
	bytes     int64 // that it is charged
	adjust    int32 // oom_score_adj
	start     int64
	init      bool // of its container
	ending    bool
}

// process is a *kernel.ThreadGroup.
type process interface {
	Done() <-chan struct{}
	Kill(kernel.ExitStatus)
}

// unkillable is the oom_score_adj of those that may not be killed: they come last.
const unkillable = -1000

// score is what the one with the most is killed for (proc(5), oom_score); total is
// how much memory there is.
func (c *candidate) score(total int64) int64 {
	if c.adjust == unkillable {
		return -1 << 62
	}
	return c.bytes + int64(c.adjust)*(total/1000)
}

// fattest returns the process to be killed: the one with the highest score, of several
// the youngest. With its init a container loses all others: so that one stands against
// the sum of theirs.
func fattest(all []candidate, total int64) (candidate, bool) {
	others := map[string]int64{} // by container
	for i := range all {
		if c := &all[i]; !c.init {
			others[c.container] += max(c.score(total), 1)
		}
	}
	var best candidate
	most, found := int64(0), false
	for _, c := range all {
		score := c.score(total)
		if c.init && c.adjust != unkillable && score <= others[c.container] {
			score = -1 << 61
		}
		if !found || cmp.Or(cmp.Compare(score, most), cmp.Compare(c.start, best.start)) > 0 {
			best, most, found = c, score, true
		}
	}
	return best, found
}

// killer makes room. One call at a time.
type killer struct {
	// candidates lists the processes that haven't ended.
	candidates func() []candidate
	// collect finds what is garbage, and returns when it has been given back; drop has
	// caches forget what they can look up again.
	collect, drop func()
	// logf is for the debug log; describe writes there what memory is used for.
	logf     func(format string, args ...any)
	describe func()
	// wait waits for the end of a process, not for ever.
	wait func(process)

	// stuck have been waited for in vain.
	stuck map[process]bool
}

// want is what is wanted of a killer.
type want struct {
	why   string
	fits  func() bool           // whether there is room
	among func(*candidate) bool // who may be killed
	total int64                 // how much memory there is, in bytes
}

// makeRoom frees memory until what is wanted fits, and reports whether it does.
func (k *killer) makeRoom(w *want) bool {
	dropped, patient := false, patience
	for {
		before := k.candidates()
		k.collect()
		if w.fits() {
			return true
		}
		if !dropped {
			k.drop()
			dropped = true
			continue
		}
		// A collection knows nothing of what became garbage after it had begun: while it
		// ran, the one that has grown may have ended, and those that are left would have
		// to do for it.
		now := k.candidates()
		if patient > 0 && k.leaving(before, now) {
			patient--
			continue
		}
		now = slices.DeleteFunc(now, func(c candidate) bool { return c.ending || !w.among(&c) })
		v, ok := fattest(now, w.total)
		if !ok {
			k.logf("%s: there is nobody to be killed", w.why)
			return false
		}
		k.explain(w, v, now)
		v.Kill(kernel.ExitStatus{Signal: sigKill})
		k.await(v.process)
		patient = patience
	}
}

// leaving waits for those that are ending, and reports whether somebody has ended
// since before was listed.
func (k *killer) leaving(before, now []candidate) (some bool) {
	lives := make(map[process]bool, len(now))
	for _, c := range now {
		lives[c.process] = true
		if c.ending && !k.stuck[c.process] {
			k.logf("process %d (%s), charged %d bytes, is ending", c.pid, c.name, c.bytes)
			k.await(c.process)
			some = true
		}
	}
	for _, c := range before {
		some = some || !lives[c.process]
	}
	return some
}

// await waits for the end of a process.
func (k *killer) await(p process) {
	k.wait(p)
	for old := range k.stuck {
		if ended(old) {
			delete(k.stuck, old)
		}
	}
	if !ended(p) {
		if k.stuck == nil {
			k.stuck = map[process]bool{}
		}
		k.stuck[p] = true
	}
}

// explain writes to the debug log why v is killed.
func (k *killer) explain(w *want, v candidate, all []candidate) {
	k.logf("%s: process %d (%s) is killed", w.why, v.pid, v.name)
	k.describe()
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(b.score(w.total), a.score(w.total)) })
	for i, c := range all {
		if i == 20 {
			k.logf("  and %d more", len(all)-i)
			break
		}
		k.logf("  process %d (%s) of %s: %d bytes, oom_score_adj %d, init %v", c.pid, c.name, c.container, c.bytes, c.adjust, c.init)
	}
}

func ended(p process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}

// waitKilled is killer.wait.
func waitKilled(p process) {
	t := time.NewTimer(killWait)
	defer t.Stop()
	select {
	case <-p.Done():
	case <-t.C:
	}
}
