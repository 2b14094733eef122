package systrap

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/stub"
)

// Answers in the stub: a system call that comes by a trampoline, and whose result
// is known beforehand, is answered by stubEntry itself. The results are in the
// command page, which the application can't change, for each slot: in word i+1
// that of call answerCalls[i], plus one; zero asks the Sentry. The last word says
// whether those of madeCalls may be answered, too: what they return is made in the stub,
// from the clocks' page (clock.Page), by the host, or for getcpu from the word before
// that.
//
// A context has its own, and they are written to the slot of the thread that it
// takes, before that runs. Those of the slot's last context can't be seen by
// another.

// answerCalls are the calls, all below answerNumbers.
var answerCalls = [...]int{unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID}

// madeCalls is what CLOCKS of the stub's code answers.
var madeCalls = [...]int{unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY, unix.SYS_TIME, unix.SYS_CLOCK_GETRES, unix.SYS_SCHED_YIELD, unix.SYS_GETCPU}

const (
	answerNumbers = 320
	// answerBytes is how much of the command page a slot has.
	answerBytes = 64
	answerOpen  = answerBytes - 4
	answerCPU   = answerOpen - 4
	// answerMade is what the index of calls has for madeCalls.
	answerMade = 0x80
	// To get from an address in a slot to that: slotSize is 2^14, answerBytes 2^6.
	slotMask    = 1<<slotsShift - slotSize
	answerShift = 14 - 6
)

// answering is a context's part.
type answering struct {
	// now is what is to be answered: NoAnswers empties it before it looks
	// for the thread that runs, and a Switch looks at it again after it has
	// written its slot.
	now atomic.Pointer[platform.Answers]
	// not says that the next call isn't to be answered: its answer couldn't be
	// stored.
	not bool
}

var _ platform.Answerer = (*context)(nil)

// Answer implements platform.Answerer.
func (c *context) Answer(a *platform.Answers) { c.answers.now.Store(a) }

// NoAnswers implements platform.Answerer.
func (c *context) NoAnswers() {
	c.answers.now.Store(nil)
	if th := c.running.Load(); th != nil {
		th.writeAnswers(nil)
	}
}

// giveAnswers sees to it that th answers what c does. c is seen to run in th.
func (c *context) giveAnswers(th *thread) {
	for {
		a := c.answers.now.Load()
		if c.answers.not {
			a = nil
		}
		if a == th.answers {
			return
		}
		th.writeAnswers(a)
		th.answers = a
	}
}

// writeAnswers fills the slot's part of the command page.
func (th *thread) writeAnswers(a *platform.Answers) {
	var v [len(answerCalls)]uint32
	var cpu, open uint32
	if a != nil {
		v = [...]uint32{a.PID, a.TID, a.PPID, a.UID, a.EUID, a.GID, a.EGID}
		for i := range v {
			v[i]++ // NoAnswer becomes zero
		}
		cpu = a.CPU + 1
	}
	if a != nil && a.Clocks && th.proc.clocks {
		open = 1
	}
	page := th.proc.Commands()[cmdAnswers+th.index*answerBytes:]
	for i := range v {
		wordAt(page[4*(i+1):]).Store(v[i])
	}
	wordAt(page[answerCPU:]).Store(cpu)
	wordAt(page[answerOpen:]).Store(open)
}

// notAnswered puts registers back to where a call is about to begin that was
// interrupted while stubAnswer or stubPlainAnswer answered it.
func (th *thread) notAnswered(r *arch.Registers) {
	call := th.shared.call
	switch {
	case r.Rip >= answerAddr && r.Rip < plainAnswerAddr:
		r.Rip = r.Rcx - 2
		r.Rax = call[callRAX]
	case r.Rip >= plainAnswerAddr && r.Rip < answerUndoAddr:
		r.Rip = r.Rcx - 2
		r.Rax = call[callRAX]
		r.Eflags = flagsByLahf(r.Eflags, call[callFlags])
	}
}

// leaveEntry puts registers back to where a call is about to begin that has come to
// stubEntry or stubPlainEntry, if they are there: the trampoline that is looked into
// has gone, or an answer can't be stored. What else faults there has been jumped
// to, and gets its own registers likewise.
func (th *thread) leaveEntry(r *arch.Registers) bool {
	if r.Rip < entryAddr || r.Rip >= answerAddr {
		return false
	}
	call := th.shared.call
	if r.R15 == th.sharedAddr() {
		r.R15, r.Rsp = call[callR15], call[callRSP]
	}
	if r.R8 == clocksAddr && r.R11 == th.sharedAddr() {
		r.Rdx, r.R8, r.R9, r.R10 = call[callRDX], call[callR8], call[callR9], call[callR10]
	}
	r.Rax = call[callRAX]
	if r.Rip >= plainEntryAddr {
		r.Eflags = flagsByLahf(r.Eflags, call[callFlags])
	}
	r.Rip = call[callTail] - 2
	return true
}

// flagsByLahf returns flags with those that lahf and seto have left in rax.
func flagsByLahf(flags, rax uint64) uint64 {
	const byLahf = arch.FlagSF | arch.FlagZF | arch.FlagAF | arch.FlagPF | arch.FlagCF
	return flags&^(byLahf|arch.FlagOF) | rax>>8&byLahf | rax&1*arch.FlagOF
}

// clocks is the page that the answers of clocks are made from, in the stubs' words.
type clocks struct {
	fd     int
	offset uint64
}

var _ platform.ClockReader = (*Platform)(nil)

// ShareClocks implements platform.ClockReader.
func (p *Platform) ShareClocks(f platform.File, offset uint64) error {
	fd, err := p.factory.Take(f.FD())
	if err == nil {
		p.clocks.Store(&clocks{fd, offset})
	}
	return err
}

// mapClocks has a stub that nobody uses see the clocks, if there are any.
func (p *Platform) mapClocks(proc *process) {
	c := p.clocks.Load()
	if c == nil || proc.clocks {
		return
	}
	_, errno, err := proc.Run([]stub.Command{{Nr: unix.SYS_MMAP, Args: [6]uint64{
		clocksAddr, clocksSize, unix.PROT_READ, unix.MAP_SHARED | unix.MAP_FIXED, uint64(c.fd), c.offset,
	}}})
	proc.clocks = err == nil && errno == 0
}
