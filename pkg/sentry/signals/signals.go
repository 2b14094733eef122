// Package signals has the parts of signal(7) that need no task: numbers, sets,
// siginfo, actions, and queues of pending signals. Who gets a signal, and when,
// is the kernel's business.
//
// A Pending belongs to whoever guards it (the kernel's ThreadGroup). A Table has a
// lock of its own, a leaf, for processes may share it.
package signals

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
)

// Signal is a signal number, 1 to 64.
type Signal int32

// Max is the highest signal; the real-time signals begin at RealTimeMin.
const (
	Max         Signal = 64
	RealTimeMin Signal = 32
)

// Valid reports whether s is a signal.
func (s Signal) Valid() bool { return s >= 1 && s <= Max }

// RealTime reports whether s queues.
func (s Signal) RealTime() bool { return s >= RealTimeMin }

// Set is a set of signals: bit n-1 is signal n, as in the kernel's sigset_t.
type Set uint64

// SetOf returns the set of the signals given.
func SetOf(ss ...Signal) Set {
	var set Set
	for _, s := range ss {
		set |= 1 << (s - 1)
	}
	return set
}

// Has reports whether s is in the set.
func (set Set) Has(s Signal) bool { return set&(1<<(s-1)) != 0 }

// Unblockable can be neither blocked, caught nor ignored.
var Unblockable = SetOf(Signal(unix.SIGKILL), Signal(unix.SIGSTOP))

// StopSignals stop by default; SIGSTOP always does.
var StopSignals = SetOf(Signal(unix.SIGSTOP), Signal(unix.SIGTSTP), Signal(unix.SIGTTIN), Signal(unix.SIGTTOU))

// Synchronous signals come from the task's own instructions; they are
// delivered first.
var Synchronous = SetOf(Signal(unix.SIGSEGV), Signal(unix.SIGBUS), Signal(unix.SIGILL), Signal(unix.SIGTRAP), Signal(unix.SIGFPE), Signal(unix.SIGSYS))

// Default is what a signal does that isn't caught (signal(7), "Standard signals").
type Default uint8

const (
	Terminate Default = iota
	CoreDump
	Stop
	Continue
	Ignore
)

// DefaultOf returns what s does by default.
func DefaultOf(s Signal) Default {
	switch unix.Signal(s) {
	case unix.SIGCHLD, unix.SIGURG, unix.SIGWINCH:
		return Ignore
	case unix.SIGCONT:
		return Continue
	case unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return Stop
	case unix.SIGQUIT, unix.SIGILL, unix.SIGABRT, unix.SIGFPE, unix.SIGSEGV, unix.SIGBUS, unix.SIGSYS,
		unix.SIGTRAP, unix.SIGXCPU, unix.SIGXFSZ:
		return CoreDump
	}
	return Terminate
}

// si_code values (sigaction(2)).
const (
	CodeUser    = 0
	CodeKernel  = 0x80
	CodeQueue   = -1
	CodeTimer   = -2
	CodeMesgQ   = -3
	CodeAsyncIO = -4
	CodeSigIO   = -5
	CodeTkill   = -6

	ChildExited    = 1
	ChildKilled    = 2
	ChildDumped    = 3
	ChildTrapped   = 4
	ChildStopped   = 5
	ChildContinued = 6

	SegvMapErr = 1
	SegvAccErr = 2
	BusAdrAln  = 1
	BusAdrErr  = 2
	TrapBrkpt  = 1
	TrapTrace  = 2
	SysSeccomp = 1
)

// InfoSize is the size of siginfo_t.
const InfoSize = 128

// Info is a siginfo_t: si_signo, si_errno and si_code, and the union as raw
// bytes in the layout of x86-64, that begins at offset 16.
type Info struct {
	Signo, Errno, Code int32
	fields             [32]byte
}

func (i *Info) put32(off int, v uint32) { binary.LittleEndian.PutUint32(i.fields[off-16:], v) }
func (i *Info) put64(off int, v uint64) { binary.LittleEndian.PutUint64(i.fields[off-16:], v) }
func (i *Info) get32(off int) uint32    { return binary.LittleEndian.Uint32(i.fields[off-16:]) }
func (i *Info) get64(off int) uint64    { return binary.LittleEndian.Uint64(i.fields[off-16:]) }

// PID, UID and Value are si_pid, si_uid and si_value.
func (i *Info) PID() int32        { return int32(i.get32(16)) }
func (i *Info) SetPID(v int32)    { i.put32(16, uint32(v)) }
func (i *Info) UID() uint32       { return i.get32(20) }
func (i *Info) SetUID(v uint32)   { i.put32(20, v) }
func (i *Info) Value() uint64     { return i.get64(24) }
func (i *Info) SetValue(v uint64) { i.put64(24, v) }

// TimerID and Overrun are si_timerid and si_overrun.
func (i *Info) TimerID() int32     { return int32(i.get32(16)) }
func (i *Info) SetTimerID(v int32) { i.put32(16, uint32(v)) }
func (i *Info) Overrun() int32     { return int32(i.get32(20)) }
func (i *Info) SetOverrun(v int32) { i.put32(20, uint32(v)) }

// Status is si_status, with the times that follow it, in clock ticks.
func (i *Info) Status() int32     { return int32(i.get32(24)) }
func (i *Info) SetStatus(v int32) { i.put32(24, uint32(v)) }
func (i *Info) SetTimes(user, system int64) {
	i.put64(32, uint64(user))
	i.put64(40, uint64(system))
}
func (i *Info) Times() (user, system int64) { return int64(i.get64(32)), int64(i.get64(40)) }

// Addr is si_addr; Band and FD are si_band and si_fd.
func (i *Info) Addr() uint64     { return i.get64(16) }
func (i *Info) SetAddr(v uint64) { i.put64(16, v) }
func (i *Info) SetBand(v int64)  { i.put64(16, uint64(v)) }
func (i *Info) Band() int64      { return int64(i.get64(16)) }
func (i *Info) SetFD(v int32)    { i.put32(24, uint32(v)) }
func (i *Info) FD() int32        { return int32(i.get32(24)) }

// SetSyscall sets si_call_addr, si_syscall and si_arch (seccomp(2)).
func (i *Info) SetSyscall(addr uint64, nr int32, arch uint32) {
	i.put64(16, addr)
	i.put32(24, uint32(nr))
	i.put32(28, arch)
}

// Bytes returns the siginfo_t.
func (i *Info) Bytes() (b [InfoSize]byte) {
	binary.LittleEndian.PutUint32(b[0:], uint32(i.Signo))
	binary.LittleEndian.PutUint32(b[4:], uint32(i.Errno))
	binary.LittleEndian.PutUint32(b[8:], uint32(i.Code))
	copy(b[16:], i.fields[:])
	return b
}

// FromBytes sets i from a siginfo_t.
func (i *Info) FromBytes(b *[InfoSize]byte) {
	i.Signo = int32(binary.LittleEndian.Uint32(b[0:]))
	i.Errno = int32(binary.LittleEndian.Uint32(b[4:]))
	i.Code = int32(binary.LittleEndian.Uint32(b[8:]))
	copy(i.fields[:], b[16:])
}

// Handlers that aren't addresses.
const (
	HandlerDefault = 0
	HandlerIgnore  = 1
)

// Flags of sigaction(2).
const (
	FlagNoCldStop = 0x1
	FlagNoCldWait = 0x2
	FlagSigInfo   = 0x4
	FlagRestorer  = 0x04000000
	FlagOnStack   = 0x08000000
	FlagRestart   = 0x10000000
	FlagNoDefer   = 0x40000000
	FlagResetHand = 0x80000000
)

// Action is the kernel's struct sigaction.
type Action struct {
	Handler, Flags, Restorer uint64
	Mask                     Set
}

// Timer is the source of a queued signal that can be merged: a POSIX timer
// updates the overrun count when its signal is taken, or dropped.
type Timer interface{ SignalTaken(i *Info) (keep bool) }

type queued struct {
	info  Info
	timer Timer
	next  *queued
	paid  bool
}

// entryCost is what an entry of a queue is charged as, in bytes.
const entryCost = 192

func (p *Pending) gone(q *queued) {
	p.count--
	if q.paid {
		p.Tab.Uncharge(entryCost)
	}
}

// Pending is a queue of signals that wait for delivery, of a thread or of a
// process.
type Pending struct {
	// Tab pays for entries of real-time signals, of which there may be many.
	Tab *memfile.Tab

	set   Set
	queue [Max]*queued
	last  [Max]*queued
	count int
	// spare is an entry that was taken, for the next.
	spare *queued
}

// Set returns which signals wait.
func (p *Pending) Set() Set { return p.set }

// Count returns how many queue entries there are.
func (p *Pending) Count() int { return p.count }

// Add queues info. A standard signal that waits already is dropped (it reports
// true: all is well). Where limit entries are queued already, or nobody pays for one
// more, it reports false for a real-time signal that carries something; of others
// (kill(2)) one waits and the rest is dropped, as on Linux.
func (p *Pending) Add(info *Info, timer Timer, limit uint64) bool {
	s := Signal(info.Signo)
	n := s - 1
	if !s.RealTime() && p.set.Has(s) {
		return true
	}
	paid := false
	if s.RealTime() {
		paid = uint64(p.count) < limit && p.Tab.Charge(entryCost) == nil
		if !paid && info.Code != CodeUser && info.Code != CodeKernel {
			return false
		}
		if !paid && p.set.Has(s) {
			return true
		}
	}
	q := p.spare
	if p.spare = nil; q == nil {
		q = new(queued)
	}
	*q = queued{info: *info, timer: timer, paid: paid}
	if p.last[n] != nil {
		p.last[n].next = q
	} else {
		p.queue[n] = q
	}
	p.last[n] = q
	p.set |= 1 << n
	p.count++
	return true
}

// Next returns the signal of mask that is to be delivered first: synchronous
// ones before others, then by number. Zero if there is none.
func (p *Pending) Next(mask Set) Signal {
	m := p.set & mask
	if s := m & Synchronous; s != 0 {
		m = s
	}
	if m == 0 {
		return 0
	}
	return Signal(bits.TrailingZeros64(uint64(m)) + 1)
}

// Take removes the first entry of s and returns it.
func (p *Pending) Take(s Signal) (Info, bool) {
	n := s - 1
	for {
		q := p.queue[n]
		if q == nil {
			return Info{}, false
		}
		p.queue[n] = q.next
		p.gone(q)
		if q.next == nil {
			p.last[n] = nil
			p.set &^= 1 << n
		}
		if q.timer == nil || q.timer.SignalTaken(&q.info) {
			info := q.info
			*q = queued{}
			p.spare = q
			return info, true
		}
	}
}

// Discard drops all signals in mask. Timers go on as if theirs had been taken.
func (p *Pending) Discard(mask Set) {
	for m := p.set & mask; m != 0; m &= m - 1 {
		n := bits.TrailingZeros64(uint64(m))
		for q := p.queue[n]; q != nil; q = q.next {
			p.gone(q)
			if q.timer != nil {
				q.timer.SignalTaken(&q.info)
			}
		}
		p.queue[n], p.last[n] = nil, nil
	}
	p.set &^= mask
}

// Each calls f for the queued signals, by number and then in order, for
// ptrace(PTRACE_PEEKSIGINFO).
func (p *Pending) Each(f func(*Info) bool) {
	for m := p.set; m != 0; m &= m - 1 {
		for q := p.queue[bits.TrailingZeros64(uint64(m))]; q != nil; q = q.next {
			if !f(&q.info) {
				return
			}
		}
	}
}
