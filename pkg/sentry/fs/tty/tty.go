// Package tty has terminals: pseudo terminals (pty(7)) with the line discipline
// of termios(3), and what job control asks of them.
//
// A TTY is a pair. Its master side is what a terminal emulator, sshd or the
// container's runtime holds; its slave side is the terminal of a session. Bytes
// written to the master go through the line discipline into the input that the
// slave reads, and are echoed; bytes written to the slave are processed into the
// output that the master reads. Both queues are bounded.
//
// Open files come from OpenMaster and OpenSlave; package devpts gives them
// names. Driver functions open /dev/tty and /dev/console. A Bridge connects a
// master with descriptors of the host.
//
// Job control concerns the caller, whom the package gets to know as a Job, by
// assertion of the vfs.Context that a call comes with; without one there are no
// checks and no controlling terminal.
//
// Locking: TTY.mu is a leaf. Jobs, Sessions, Groups and wait queues are called
// without it, so they may take any lock.
//
// What it doesn't do: EXTPROC, ECHOPRT (taken for ECHOE), hardware settings
// (kept, without effect), other line disciplines, virtual consoles.
package tty

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// Context is a vfs.Context whose task takes part in job control.
type Context interface {
	vfs.Context
	// Job returns the task as terminals see it, nil for the kernel itself.
	Job() Job
}

// Job is a task as terminals see it. Sessions and Groups are comparable: equal
// means the same.
type Job interface {
	Session() Session
	// LeadsSession reports whether the task's process is the session leader.
	LeadsSession() bool
	Group() Group
	// FindGroup returns the process group with a number of the task's pid
	// namespace, or ESRCH.
	FindGroup(pgid int32) (Group, error)
	// GroupID and SessionID return numbers in the task's pid namespace, or
	// zero.
	GroupID(g Group) int32
	SessionID(s Session) int32
	// Spared reports whether the task ignores or blocks the signal.
	Spared(sig unix.Signal) bool
	// Restart is the error of a call to be restarted after a signal.
	Restart() error
}

// Session is a session of processes.
type Session interface {
	// Terminal returns the controlling terminal, or nil.
	Terminal() *TTY
	// SetTerminal makes t the controlling terminal; EPERM if there is one.
	SetTerminal(t *TTY) error
	// ClearTerminal takes t away, if it is the one.
	ClearTerminal(t *TTY)
	// SignalLeader sends a signal to the leader, if it lives.
	SignalLeader(sig unix.Signal)
}

// Group is a process group.
type Group interface {
	// In reports whether s is the group's session.
	In(s Session) bool
	Signal(sig unix.Signal)
	// Orphaned reports whether nobody in the session looks after the group
	// (setpgid(2)).
	Orphaned() bool
}

// FDInstaller is a context that can give its task a descriptor (TIOCGPTPEER).
// It takes over the reference to f, if it succeeds.
type FDInstaller interface {
	InstallFD(f *vfs.File, cloexec bool) (int32, error)
}

func jobOf(ctx vfs.Context) Job {
	if c, ok := ctx.(Context); ok {
		return c.Job()
	}
	return nil
}

const (
	// inputSize bounds what waits to be read from the slave, as in Linux.
	inputSize = 4096
	// lostSize is what Linux has waiting for the line discipline at the most.
	lostSize = 8192
	// outputSize is where writers to the slave wait; echoes may go beyond, to
	// twice as much.
	outputSize = 8192
)

// slaveMajor is the first of eight major numbers for slaves.
const slaveMajor = 136

// SlaveDevice returns the device number of the slave numbered index.
func SlaveDevice(index uint32) uint64 { return unix.Mkdev(slaveMajor+index>>8, index&0xff) }

// WindowSize is struct winsize of ioctl_tty(2).
type WindowSize struct{ Rows, Cols, XPixels, YPixels uint16 }

// TTY is a pseudo terminal. Safe for concurrent use.
type TTY struct {
	index   uint32
	onClose func() // when the master has closed
	onEnd   func() // when both sides have
	// peer returns the place of the slave, for TIOCGPTPEER; set before use.
	peer func(vfs.Path) vfs.Path

	// Wait queues of both sides.
	masterQueue, slaveQueue waiter.Queue

	mu locks.Mutex[locks.Leaf]
	disc
	size    WindowSize
	locked  bool // TIOCSPTLCK: the slave can't be opened
	masters int  // open files
	slaves  int
	// opened: the slave has been opened; hungUp: the master has closed.
	opened, hungUp bool
	exclusive      bool // TIOCEXCL

	session    Session
	foreground Group
}

// New returns a terminal without open files. onClose is called when the master
// closes, onEnd when both sides have; either may be nil.
func New(index uint32, onClose, onEnd func()) *TTY {
	t := &TTY{index: index, onClose: onClose, onEnd: onEnd}
	t.disc.init()
	return t
}

// Index returns the terminal's number in its devpts.
func (t *TTY) Index() uint32 { return t.index }

// DeviceNumber returns that of the slave.
func (t *TTY) DeviceNumber() uint64 { return SlaveDevice(t.index) }

// Foreground returns the foreground process group, or nil.
func (t *TTY) Foreground() Group {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.foreground
}

// Unlock lets the slave be opened, as unlockpt(3) does.
func (t *TTY) Unlock() {
	t.mu.Lock()
	t.locked = false
	t.mu.Unlock()
}

// Lock keeps the slave from being opened: the state of a new pair.
func (t *TTY) Lock() {
	t.mu.Lock()
	t.locked = true
	t.mu.Unlock()
}

// effects is what has to be done once mu is released.
type effects struct {
	signals [4]unix.Signal // to the foreground group
	n       int
	wakeM   waiter.Mask
	wakeS   waiter.Mask
}

func (e *effects) signal(s unix.Signal) {
	for _, old := range e.signals[:e.n] {
		if old == s {
			return
		}
	}
	if e.n < len(e.signals) {
		e.signals[e.n] = s
		e.n++
	}
}

// unlock releases mu and carries out e.
func (t *TTY) unlock(e *effects) {
	g := t.foreground
	t.mu.Unlock()
	if g != nil {
		for _, s := range e.signals[:e.n] {
			g.Signal(s)
		}
	}
	if e.wakeS != 0 {
		t.slaveQueue.Notify(e.wakeS)
	}
	if e.wakeM != 0 {
		t.masterQueue.Notify(e.wakeM)
	}
}

// Size returns the window size.
func (t *TTY) Size() WindowSize {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.size
}

// Resize sets the window size; the foreground group gets SIGWINCH when it
// changes.
func (t *TTY) Resize(s WindowSize) {
	var e effects
	t.mu.Lock()
	if t.size != s {
		t.size = s
		e.signal(unix.SIGWINCH)
	}
	t.unlock(&e)
}

// controls reports whether t is the controlling terminal of j's session.
func (t *TTY) controls(j Job) bool { return j != nil && j.Session().Terminal() == t }

// checkJob lets the caller go on if it is in the foreground, or t isn't its
// controlling terminal, or sig doesn't concern it. write is for calls that who
// is spared the signal may make anyway (SIGTTOU).
func (t *TTY) checkJob(j Job, sig unix.Signal) error {
	if !t.controls(j) {
		return nil
	}
	t.mu.Lock()
	fg := t.foreground
	t.mu.Unlock()
	g := j.Group()
	if fg == nil || fg == g {
		return nil
	}
	if j.Spared(sig) {
		if sig == unix.SIGTTIN {
			return unix.EIO
		}
		return nil
	}
	if g.Orphaned() {
		return unix.EIO
	}
	g.Signal(sig)
	return j.Restart()
}

// Attach makes t the controlling terminal of j's session, which j leads, and
// its group the foreground group.
func (t *TTY) Attach(j Job) error {
	s, g := j.Session(), j.Group()
	if err := s.SetTerminal(t); err != nil {
		return err
	}
	t.mu.Lock()
	if t.session != nil && t.session != s {
		t.mu.Unlock()
		s.ClearTerminal(t)
		return unix.EPERM
	}
	t.session, t.foreground = s, g
	t.mu.Unlock()
	return nil
}

// SessionEnded is to be called when the leader of s ends, or gives its terminal
// t up: the foreground group gets SIGHUP and SIGCONT, and t is free for another
// session.
func (t *TTY) SessionEnded(s Session) {
	t.mu.Lock()
	if t.session != s {
		t.mu.Unlock()
		return
	}
	g := t.foreground
	t.session, t.foreground = nil, nil
	t.mu.Unlock()
	s.ClearTerminal(t)
	if g != nil {
		g.Signal(unix.SIGHUP)
		g.Signal(unix.SIGCONT)
	}
}

// hangUp ends the slave side: the master has closed.
func (t *TTY) hangUp() {
	t.mu.Lock()
	if t.hungUp {
		t.mu.Unlock()
		return
	}
	t.hungUp = true
	s, g := t.session, t.foreground
	ended := t.slaves == 0
	t.session, t.foreground = nil, nil
	t.mu.Unlock()
	if s != nil {
		s.ClearTerminal(t)
		s.SignalLeader(unix.SIGHUP)
		s.SignalLeader(unix.SIGCONT)
	}
	if g != nil {
		g.Signal(unix.SIGHUP)
		g.Signal(unix.SIGCONT)
	}
	t.slaveQueue.Notify(waiter.Readable | waiter.Writable | waiter.Hup | waiter.Err)
	if t.onClose != nil {
		t.onClose()
	}
	if ended && t.onEnd != nil {
		t.onEnd()
	}
}

// SetPeer says how the place of the slave is found from that of an open master.
// It is called before the master is opened.
func (t *TTY) SetPeer(f func(vfs.Path) vfs.Path) { t.peer = f }
