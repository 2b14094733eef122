// Package timers has the timers of a process: the interval timers of
// setitimer(2), POSIX timers (timer_create(2)) and the limit of CPU time
// (RLIMIT_CPU). A Set is those of one process, which it knows as an interface.
//
// Those of real time are timers of the kernel's queue, in CLOCK_MONOTONIC. For
// those of CPU time there is no tick: a timer of real time is set for when the
// budget could be used up at the earliest, and then the clocks are read again.
// While all threads sleep it isn't set at all; the first to wake up sets it.
//
// A periodic timer is only set again when its signal has been taken, as on
// Linux: however short the period, it costs no more than the process that takes
// the signals. The periods missed are the overrun.
//
// Set's lock (locks.ProcessTimers) comes after that of the process's signals,
// for SignalTaken is called with those held, and before the queue's. It is never
// held while the process is asked for its CPU time or sent a signal. All methods
// are safe for concurrent use.
package timers

import (
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/signals"
)

// Which interval timer (setitimer(2)).
const (
	Real = iota
	Virtual
	Prof
	kinds
)

// Process is whose timers they are. Its methods are called with no lock of this
// package held, but for Running.
type Process interface {
	// CPUTime returns what the process has used, in nanoseconds: in user mode,
	// and in all.
	CPUTime() (user, total int64)
	// Running returns how many threads don't sleep. It takes no locks.
	Running() int
	Limits() *limits.Set
	// Tab is who pays for POSIX timers.
	Tab() *memfile.Tab
	// SendTimer queues the signal of a timer, for a thread, or for the process
	// where that is nil. It reports false if the signal did not get a place in
	// the queue, because it is ignored or waits already.
	SendTimer(thread Thread, info *signals.Info, timer signals.Timer) bool
	// SendKernel sends a signal of the kernel's own.
	SendKernel(s unix.Signal)
}

// Thread is a thread of the process. CPUTime is what it has used, in
// nanoseconds, and takes no locks.
type Thread interface{ CPUTime() int64 }

const (
	// cpuGrain is the shortest time after which CPU clocks are read again.
	cpuGrain = 200_000
	// idlePeriod is the shortest period of a timer whose signals nobody takes.
	idlePeriod = 10_000_000
)

// Set is the timers of one process. Init comes before all else.
type Set struct {
	process Process
	clock   *clock.Keeper
	queue   *clock.Queue

	mu locks.Mutex[locks.ProcessTimers]
	// dead: the process has ended; nothing is set any more.
	dead     bool
	interval [kinds]intervalTimer
	posix    map[int32]*posixTimer
	nextID   int32

	// wall is the timer that reads the CPU clocks again. asleep: it isn't set
	// though there is a budget, because no thread runs; budget is what was
	// left then.
	wall   *clock.Timer
	asleep atomic.Bool
	budget int64
}

// Init makes ts that of p: c says the time, on q are the timers of real time.
func (ts *Set) Init(p Process, c *clock.Keeper, q *clock.Queue) {
	ts.process, ts.clock, ts.queue = p, c, q
}

// intervalTimer is one of setitimer(2). Real time is CLOCK_MONOTONIC, the other
// two are clocks of CPU time. Zero expires means not set.
type intervalTimer struct {
	expires, period int64
	wall            *clock.Timer // for Real
	generation      uint64
}

// Setting is a timer's time and period in nanoseconds: struct itimerspec.
// Value is from now, zero for a timer that isn't set.
type Setting struct{ Value, Interval int64 }

// advance moves expires beyond now by whole periods, and returns how many
// further ones there were.
func advance(expires, period, now int64) (next, missed int64) {
	if period <= 0 {
		return 0, 0
	}
	if now < expires {
		return expires, 0
	}
	missed = (now - expires) / period
	next = expires + missed*period
	if next > math.MaxInt64-period {
		return math.MaxInt64, missed
	}
	return next + period, missed
}

// left returns what a timer shows at now.
func left(expires, period, now int64) int64 {
	if expires == 0 {
		return 0
	}
	if expires <= now {
		if period == 0 {
			return 1 // about to expire: not the zero of one that isn't set
		}
		expires, _ = advance(expires, period, now)
	}
	return max(expires-now, 1)
}

// after returns now+d, or the last time there is.
func after(now, d int64) int64 {
	if d > math.MaxInt64-now {
		return math.MaxInt64
	}
	return now + d
}

// Interval does getitimer(2).
func (ts *Set) Interval(which int) Setting {
	now := ts.intervalClock(which)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	i := &ts.interval[which]
	return Setting{left(i.expires, i.period, now), i.period}
}

func (ts *Set) intervalClock(which int) int64 {
	if which == Real {
		return ts.clock.Monotonic()
	}
	user, total := ts.process.CPUTime()
	if which == Virtual {
		return user
	}
	return total
}

// SetInterval does setitimer(2) and returns the old setting.
func (ts *Set) SetInterval(which int, s Setting) Setting {
	now := ts.intervalClock(which)
	ts.mu.Lock()
	i := &ts.interval[which]
	old := Setting{left(i.expires, i.period, now), i.period}
	i.generation++
	i.expires, i.period = 0, 0
	if s.Value != 0 && !ts.dead {
		i.expires, i.period = after(now, s.Value), s.Interval
	}
	if which == Real {
		if i.wall == nil {
			i.wall = ts.queue.NewTimer(ts.realExpired)
		}
		i.setWall(i.expires)
	}
	ts.mu.Unlock()
	if which != Real {
		ts.CheckCPU()
	}
	return old
}

func (i *intervalTimer) setWall(when int64) {
	if when == 0 {
		i.wall.Stop()
	} else {
		i.wall.Set(when)
	}
}

// realExpired is what ITIMER_REAL does.
func (ts *Set) realExpired() {
	ts.mu.Lock()
	i := &ts.interval[Real]
	now := ts.clock.Monotonic()
	if ts.dead || i.expires == 0 || i.expires > now {
		// Set anew meanwhile: then this is what is set already.
		if !ts.dead {
			i.setWall(i.expires)
		}
		ts.mu.Unlock()
		return
	}
	if i.period == 0 {
		i.expires = 0
	}
	generation := i.generation
	ts.mu.Unlock()
	info := signals.Info{Signo: int32(unix.SIGALRM), Code: signals.CodeKernel}
	if ts.process.SendTimer(nil, &info, alarmSignal{ts, generation}) {
		return
	}
	// Nobody is going to take it: it goes on by itself, at leisure.
	ts.mu.Lock()
	if i.generation == generation && i.expires != 0 && !ts.dead {
		i.expires, _ = advance(i.expires, i.period, now)
		i.setWall(max(i.expires, now+idlePeriod))
	}
	ts.mu.Unlock()
}

// alarmSignal is a queued SIGALRM of ITIMER_REAL.
type alarmSignal struct {
	set        *Set
	generation uint64
}

// SignalTaken implements signals.Timer: the next period begins.
func (a alarmSignal) SignalTaken(*signals.Info) bool {
	ts := a.set
	ts.mu.Lock()
	defer ts.mu.Unlock()
	i := &ts.interval[Real]
	if i.generation == a.generation && i.expires != 0 && !ts.dead {
		i.expires, _ = advance(i.expires, i.period, ts.clock.Monotonic())
		i.setWall(i.expires)
	}
	return true
}

// Stop ends all timers, with the process.
func (ts *Set) Stop() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.dead = true
	if w := ts.interval[Real].wall; w != nil {
		w.Stop()
	}
	for _, p := range ts.posix {
		p.disarm()
	}
	ts.dropPosix()
	if ts.wall != nil {
		ts.wall.Stop()
	}
	ts.asleep.Store(false)
}

// Awake is called by each thread of the process that wakes up, after Running
// counts it.
func (ts *Set) Awake() {
	if ts.asleep.Load() {
		ts.awake()
	}
}

func (ts *Set) awake() {
	if !ts.asleep.CompareAndSwap(true, false) {
		return
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if !ts.dead {
		ts.setCPUWall(after(ts.clock.Monotonic(), max(ts.budget, cpuGrain)))
	}
}

func (ts *Set) setCPUWall(when int64) {
	if ts.wall == nil {
		ts.wall = ts.queue.NewTimer(ts.CheckCPU)
	}
	ts.wall.Set(when)
}

// CheckCPU reads the CPU clocks, does what has become due, and sees to it that
// it is called again in time. The caller holds no locks. It must be called when
// RLIMIT_CPU has changed, and when a process with one begins to run.
func (ts *Set) CheckCPU() {
	user, total := ts.process.CPUTime()
	budget := int64(math.MaxInt64)
	var due []func()
	ts.mu.Lock()
	if ts.dead {
		ts.mu.Unlock()
		return
	}
	for which, now := range [kinds]int64{Virtual: user, Prof: total} {
		i := &ts.interval[which]
		if which == Real || i.expires == 0 {
			continue
		}
		if now >= i.expires {
			signo := unix.SIGVTALRM
			if which == Prof {
				signo = unix.SIGPROF
			}
			due = append(due, func() { ts.process.SendKernel(signo) })
			i.expires, _ = advance(i.expires, i.period, now)
		}
		if i.expires != 0 {
			budget = min(budget, i.expires-now)
		}
	}
	for _, p := range ts.posix {
		if p.clock != cpuClock || p.expires == 0 || p.queued {
			continue
		}
		now := total
		if p.thread != nil {
			now = p.thread.CPUTime()
		}
		if now < p.expires {
			budget = min(budget, p.expires-now)
			continue
		}
		if f := p.expired(now); f != nil {
			due = append(due, f)
		}
	}
	ts.mu.Unlock()
	limit, act := ts.cpuLimit(total)
	budget = min(budget, limit)
	if act != nil {
		due = append(due, act)
	}
	for _, f := range due {
		f()
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, p := range ts.posix {
		if p.clock == cpuClock && p.unwanted {
			p.unwanted = false
			// Those that are due again, with nobody to take their signal.
			budget = min(budget, idlePeriod)
		}
	}
	ts.budget = budget
	ts.asleep.Store(false)
	running := ts.process.Running()
	switch {
	case ts.dead:
	case budget == math.MaxInt64:
		if ts.wall != nil {
			ts.wall.Stop()
		}
	case running == 0 && ts.allBlocked():
		if ts.wall != nil {
			ts.wall.Stop()
		}
	default:
		// One more thread may begin to run.
		ts.setCPUWall(after(ts.clock.Monotonic(), max(budget/int64(running+1), cpuGrain)))
	}
}

// allBlocked says that nobody runs, having set asleep so that whoever wakes up
// says so.
func (ts *Set) allBlocked() bool {
	ts.asleep.Store(true)
	if ts.process.Running() <= 0 {
		return true
	}
	ts.asleep.Store(false)
	return false
}

// Limited reports whether there is an RLIMIT_CPU.
func (ts *Set) Limited() bool {
	l := ts.process.Limits().Get(limits.CPU)
	return min(l.Soft, l.Hard) != limits.Infinity
}

// cpuLimit applies RLIMIT_CPU to a CPU time: how much is left, and what to do.
func (ts *Set) cpuLimit(total int64) (budget int64, act func()) {
	l := ts.process.Limits().Get(limits.CPU)
	budget = math.MaxInt64
	const most = math.MaxInt64 / second
	ns := func(s uint64) int64 { return int64(min(max(s, 1), most)) * second }
	if l.Hard < most {
		if total >= ns(l.Hard) {
			return budget, func() { ts.process.SendKernel(unix.SIGKILL) }
		}
		budget = ns(l.Hard) - total
	}
	if l.Soft < most {
		if total >= ns(l.Soft) {
			// Once more each second (setrlimit(2)).
			l.Soft = min(uint64(total/second)+1, l.Hard)
			ts.process.Limits().Swap(limits.CPU, l, true)
			act = func() { ts.process.SendKernel(unix.SIGXCPU) }
		}
		budget = min(budget, ns(l.Soft)-total)
	}
	return budget, act
}

const second = 1_000_000_000

// timerClock is what a POSIX timer counts in.
type timerClock uint8

const (
	wallClock timerClock = iota
	cpuClock
)

// posixTimer is one of timer_create(2). Guarded by Set.mu.
type posixTimer struct {
	set   *Set
	id    int32
	clock timerClock
	// base is the clock that absolute times are of, for one of real time.
	base   clock.ID
	thread Thread // whose CPU time it is; nil for the process's
	// What to do at the end; target is the thread that gets the signal.
	notify Notify

	wall            *clock.Timer
	expires, period int64 // zero expires: not set
	// queued: the signal waits to be taken; then the timer isn't running.
	queued     bool
	generation uint64
	deleted    bool
	unwanted   bool // a signal of CPU time was ignored
	overrun    int32
}

// Notify is what a POSIX timer does when it expires: send Signal with Value to
// the process, or to Target, or nothing.
type Notify struct {
	None   bool
	Signal signals.Signal
	Value  uint64
	// ValueIsID: the value is the timer's number, as without a sigevent.
	ValueIsID bool
	Target    Thread
}

// NewPosix makes a timer of real time, on the clock base, or of CPU time: that of thread, or of the process if that is nil. EAGAIN: there are too many
// (RLIMIT_SIGPENDING), or nobody pays for it.
func (ts *Set) NewPosix(base clock.ID, cpu bool, thread Thread, n Notify) (int32, error) {
	limit := ts.process.Limits().Soft(limits.SignalsPending)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if uint64(len(ts.posix)) >= limit || ts.dead {
		return 0, unix.EAGAIN
	}
	if ts.process.Tab().Charge(timerCost) != nil {
		return 0, unix.EAGAIN
	}
	if ts.posix == nil {
		ts.posix = map[int32]*posixTimer{}
	}
	id := ts.nextID
	for ts.posix[id] != nil {
		id = (id + 1) & math.MaxInt32
	}
	ts.nextID = (id + 1) & math.MaxInt32
	p := &posixTimer{set: ts, id: id, base: base, thread: thread, notify: n}
	if n.ValueIsID {
		p.notify.Value = uint64(id)
	}
	if cpu {
		p.clock = cpuClock
	} else {
		p.wall = ts.queue.NewTimer(p.wallExpired)
	}
	ts.posix[id] = p
	return id, nil
}

func (p *posixTimer) disarm() {
	p.generation++
	p.expires, p.period, p.queued = 0, 0, false
	if p.wall != nil {
		p.wall.Stop()
	}
}

// now reads the timer's clock. No locks are held.
func (p *posixTimer) now() int64 {
	switch {
	case p.clock == wallClock:
		return p.set.clock.Monotonic()
	case p.thread != nil:
		return p.thread.CPUTime()
	}
	_, total := p.set.process.CPUTime()
	return total
}

func (ts *Set) posixTimer(id int32) (*posixTimer, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if p := ts.posix[id]; p != nil {
		return p, nil
	}
	return nil, unix.EINVAL
}

// Posix does timer_gettime(2).
func (ts *Set) Posix(id int32) (Setting, error) {
	p, err := ts.posixTimer(id)
	if err != nil {
		return Setting{}, err
	}
	now := p.now()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return p.setting(now), nil
}

func (p *posixTimer) setting(now int64) Setting {
	s := Setting{left(p.expires, p.period, now), p.period}
	if p.notify.None && p.period == 0 && p.expires <= now {
		s.Value = 0 // nothing else tells that it has expired
	}
	return s
}

// SetPosix does timer_settime(2). With absolute, s.Value is a time of the
// timer's clock.
func (ts *Set) SetPosix(id int32, s Setting, absolute bool) (old Setting, err error) {
	p, err := ts.posixTimer(id)
	if err != nil {
		return old, err
	}
	now := p.now()
	if absolute && s.Value != 0 && p.clock == wallClock && p.base != clock.Monotonic {
		base, _ := ts.clock.Now(p.base)
		s.Value, absolute = max(s.Value-base, 1), false
	}
	ts.mu.Lock()
	if p.deleted || ts.dead {
		ts.mu.Unlock()
		return old, unix.EINVAL
	}
	old = p.setting(now)
	p.disarm()
	p.overrun = 0
	if s.Value != 0 {
		p.period = s.Interval
		if p.expires = s.Value; !absolute {
			p.expires = after(now, s.Value)
		}
		p.expires = max(p.expires, 1)
		if p.wall != nil && !p.notify.None {
			p.wall.Set(p.expires)
		}
	}
	ts.mu.Unlock()
	if p.clock == cpuClock {
		ts.CheckCPU()
	}
	return old, nil
}

// Overrun does timer_getoverrun(2).
func (ts *Set) Overrun(id int32) (int32, error) {
	p, err := ts.posixTimer(id)
	if err != nil {
		return 0, err
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return p.overrun, nil
}

// timerCost is what a POSIX timer is charged as, in bytes.
const timerCost = 512

// dropPosix forgets all POSIX timers. mu is held.
func (ts *Set) dropPosix() {
	if n := len(ts.posix); n > 0 {
		ts.process.Tab().Uncharge(int64(n) * timerCost)
	}
	ts.posix = nil
}

// DeletePosix does timer_delete(2).
func (ts *Set) DeletePosix(id int32) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	p := ts.posix[id]
	if p == nil {
		return unix.EINVAL
	}
	p.disarm()
	p.deleted = true
	delete(ts.posix, id)
	ts.process.Tab().Uncharge(timerCost)
	return nil
}

// DeleteAllPosix deletes all: execve(2).
func (ts *Set) DeleteAllPosix() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, p := range ts.posix {
		p.disarm()
		p.deleted = true
	}
	ts.dropPosix()
}

// wallExpired is called by the queue.
func (p *posixTimer) wallExpired() {
	ts := p.set
	ts.mu.Lock()
	now := ts.clock.Monotonic()
	if p.deleted || ts.dead || p.expires == 0 || p.expires > now || p.queued {
		ts.mu.Unlock()
		return
	}
	f := p.expired(now)
	ts.mu.Unlock()
	if f != nil {
		f()
	}
}

// expired takes note that the timer's time has come; what it returns is to be
// called without locks. mu is held.
func (p *posixTimer) expired(now int64) func() {
	if p.notify.None {
		if p.period == 0 {
			p.expires = 0
		} else {
			p.expires, _ = advance(p.expires, p.period, now)
			p.unwanted = true
		}
		return nil
	}
	info := signals.Info{Signo: int32(p.notify.Signal), Code: signals.CodeTimer}
	info.SetTimerID(p.id)
	info.SetValue(p.notify.Value)
	generation := p.generation
	p.queued = true
	if p.period == 0 {
		p.expires = 0
	}
	return func() {
		if p.set.process.SendTimer(p.notify.Target, &info, posixSignal{p, generation}) {
			return
		}
		ts := p.set
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if p.generation != generation {
			return
		}
		p.queued = false
		if p.expires == 0 {
			return
		}
		p.expires, _ = advance(p.expires, p.period, now)
		if p.unwanted = p.wall == nil; !p.unwanted {
			p.wall.Set(max(p.expires, now+idlePeriod))
		}
	}
}

// posixSignal is the queued signal of a POSIX timer.
type posixSignal struct {
	p          *posixTimer
	generation uint64
}

// SignalTaken implements signals.Timer: the periods that went by while the
// signal waited are told, and the next one begins.
func (s posixSignal) SignalTaken(i *signals.Info) bool {
	p := s.p
	ts := p.set
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if p.deleted || ts.dead {
		return false
	}
	if p.generation != s.generation {
		return true // set anew since: that is another signal
	}
	p.queued, p.overrun = false, 0
	if p.expires != 0 {
		if p.clock == cpuClock {
			// Reading the process's clock takes locks that come before
			// those held here; the queue does it.
			ts.setCPUWall(ts.clock.Monotonic())
			if p.thread != nil {
				p.overrunUntil(p.thread.CPUTime())
			}
		} else {
			p.overrunUntil(ts.clock.Monotonic())
			p.wall.Set(p.expires)
		}
	}
	i.SetOverrun(p.overrun)
	return true
}

func (p *posixTimer) overrunUntil(now int64) {
	var missed int64
	p.expires, missed = advance(p.expires, p.period, now)
	p.overrun = int32(min(missed, math.MaxInt32))
}
