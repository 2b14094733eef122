package tty

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

var errRestart = errors.New("restart")

type session struct {
	tty  *TTY
	sent []unix.Signal
}

func (s *session) Terminal() *TTY { return s.tty }
func (s *session) SetTerminal(t *TTY) error {
	if s.tty != nil {
		return unix.EPERM
	}
	s.tty = t
	return nil
}
func (s *session) ClearTerminal(t *TTY) {
	if s.tty == t {
		s.tty = nil
	}
}
func (s *session) SignalLeader(sig unix.Signal) { s.sent = append(s.sent, sig) }

type group struct {
	id       int32
	s        *session
	orphaned bool
	sent     []unix.Signal
}

func (g *group) In(s Session) bool      { return s == g.s }
func (g *group) Signal(sig unix.Signal) { g.sent = append(g.sent, sig) }
func (g *group) Orphaned() bool         { return g.orphaned }

// job is a task, and its memory.
type job struct {
	*fstest.Context
	g      *group
	leader bool
	spared bool
	groups []*group
	mem    [64]byte
}

func (j *job) Job() Job                { return j }
func (j *job) Session() Session        { return j.g.s }
func (j *job) LeadsSession() bool      { return j.leader }
func (j *job) Group() Group            { return j.g }
func (j *job) Spared(unix.Signal) bool { return j.spared }
func (j *job) Restart() error          { return errRestart }
func (j *job) GroupID(g Group) int32   { return g.(*group).id }
func (j *job) SessionID(Session) int32 { return 1 }
func (j *job) FindGroup(id int32) (Group, error) {
	for _, g := range j.groups {
		if g.id == id {
			return g, nil
		}
	}
	return nil, unix.ESRCH
}
func (j *job) Memory() usermem.Memory { return j }
func (j *job) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	return copy(dst, j.mem[a:]), nil
}
func (j *job) CopyOut(a usermem.Addr, src []byte) (int, error) { return copy(j.mem[a:], src), nil }
func (j *job) ZeroOut(usermem.Addr, uint64) (uint64, error)    { return 0, unix.EFAULT }
func (j *job) Blocks(usermem.AddrRange, usermem.Access, func([]byte) (int, error)) (uint64, error) {
	return 0, unix.EFAULT
}

func write(t *testing.T, j *job, s *slave, data string) error {
	t.Helper()
	src := usermem.BytesBuffer([]byte(data))
	_, err := s.Write(j, nil, &src)
	return err
}

func read(j *job, s *slave) (string, error) {
	b := make([]byte, 100)
	dst := usermem.BytesBuffer(b)
	n, err := s.Read(j, nil, &dst)
	return string(b[:n]), err
}

func TestJobControl(t *testing.T) {
	s := &session{}
	fg, bg := &group{id: 10, s: s}, &group{id: 11, s: s}
	other := &group{id: 12, s: &session{}}
	leader := &job{Context: fstest.NewContext(), g: fg, leader: true, groups: []*group{fg, bg, other}}
	back := &job{Context: fstest.NewContext(), g: bg, groups: leader.groups}

	p := New(3, nil, nil)
	m := p.OpenMaster().(*master)
	// Not for who doesn't lead, nor with O_NOCTTY.
	impl, _ := p.OpenSlave(back, unix.O_RDWR)
	impl.(*slave).Release(nil)
	p.OpenSlave(leader, unix.O_RDWR|unix.O_NOCTTY)
	if s.tty != nil {
		t.Fatal("the terminal controls a session that didn't take it")
	}
	impl, _ = p.OpenSlave(leader, unix.O_RDWR)
	sl := impl.(*slave)
	if s.tty != p {
		t.Fatal("opening didn't make it the controlling terminal")
	}
	if _, err := sl.Ioctl(leader, nil, unix.TIOCGPGRP, 0); err != nil || leader.mem[0] != 10 {
		t.Errorf("foreground group %d, %v", leader.mem[0], err)
	}
	p.input([]byte("in\n\x03"))
	if !slices.Equal(fg.sent, []unix.Signal{unix.SIGINT}) {
		t.Errorf("interrupt sent %v", fg.sent)
	}
	p.input([]byte("in\n"))
	// Reading in the background.
	if _, err := read(back, sl); err != errRestart || !slices.Equal(bg.sent, []unix.Signal{unix.SIGTTIN}) {
		t.Errorf("background read: %v, sent %v", err, bg.sent)
	}
	back.spared = true
	if _, err := read(back, sl); err != unix.EIO {
		t.Errorf("background read, spared: %v", err)
	}
	back.spared, bg.orphaned = false, true
	if _, err := read(back, sl); err != unix.EIO {
		t.Errorf("background read, orphaned: %v", err)
	}
	bg.orphaned, bg.sent = false, nil
	// Writing there is allowed until TOSTOP.
	if err := write(t, back, sl, "x"); err != nil {
		t.Error(err)
	}
	var e effects
	p.mu.Lock()
	n := p.termios
	n.Lflag |= unix.TOSTOP
	p.set(n, &e)
	p.unlock(&e)
	if err := write(t, back, sl, "x"); err != errRestart || !slices.Equal(bg.sent, []unix.Signal{unix.SIGTTOU}) {
		t.Errorf("background write with TOSTOP: %v, sent %v", err, bg.sent)
	}
	// Changing settings stops even without.
	if _, err := sl.Ioctl(back, nil, tcflsh, unix.TCIFLUSH); err != errRestart {
		t.Errorf("background flush: %v", err)
	}
	back.spared = true
	if err := write(t, back, sl, "x"); err != nil {
		t.Errorf("background write, spared: %v", err)
	}
	back.spared = false
	// The foreground changes, but only within the session.
	for id, want := range map[byte]error{12: unix.EPERM, 99: unix.ESRCH, 11: nil} {
		leader.spared = true
		leader.mem = [64]byte{id}
		if _, err := sl.Ioctl(leader, nil, unix.TIOCSPGRP, 0); err != want {
			t.Errorf("TIOCSPGRP %d: %v, want %v", id, err, want)
		}
	}
	if got, err := read(back, sl); got != "in\n" || err != nil {
		t.Errorf("foreground read: %q, %v", got, err)
	}
	bg.sent = nil
	p.Resize(WindowSize{Rows: 24, Cols: 80})
	p.Resize(WindowSize{Rows: 24, Cols: 80})
	if !slices.Equal(bg.sent, []unix.Signal{unix.SIGWINCH}) {
		t.Errorf("resizing sent %v", bg.sent)
	}
	// Another session can't have it, unless root steals it.
	thief := &job{Context: fstest.NewContext(), g: other, leader: true}
	if _, err := sl.Ioctl(thief, nil, unix.TIOCSCTTY, 0); err != unix.EPERM {
		t.Errorf("TIOCSCTTY: %v", err)
	}
	// Hang up.
	bg.sent = nil
	m.Release(nil)
	if want := []unix.Signal{unix.SIGHUP, unix.SIGCONT}; !slices.Equal(bg.sent, want) || !slices.Equal(s.sent, want) || s.tty != nil {
		t.Errorf("hanging up sent %v and %v", bg.sent, s.sent)
	}
	if got, err := read(leader, sl); got != "" || err != nil {
		t.Errorf("read after hanging up: %q, %v", got, err)
	}
	if err := write(t, leader, sl, "x"); err != unix.EIO {
		t.Errorf("write after hanging up: %v", err)
	}
	if _, err := p.OpenSlave(leader, unix.O_RDWR); err != unix.EIO {
		t.Errorf("open after hanging up: %v", err)
	}
	if r := sl.Readiness(waiter.In); r&(waiter.In|waiter.Hup) != waiter.In|waiter.Hup {
		t.Errorf("readiness after hanging up: %#x", r)
	}
}

func TestSessionEnd(t *testing.T) {
	s := &session{}
	g := &group{id: 1, s: s}
	j := &job{Context: fstest.NewContext(), g: g, leader: true}
	p := New(0, nil, nil)
	p.OpenMaster()
	p.OpenSlave(j, unix.O_RDWR)
	p.SessionEnded(&session{})
	if s.tty != p || g.sent != nil {
		t.Error("another session's end took the terminal away")
	}
	p.SessionEnded(s)
	if s.tty != nil || !slices.Equal(g.sent, []unix.Signal{unix.SIGHUP, unix.SIGCONT}) {
		t.Errorf("the session's end sent %v", g.sent)
	}
}

func TestPacketMode(t *testing.T) {
	j := &job{Context: fstest.NewContext(), g: &group{s: &session{}}}
	p := New(0, nil, nil)
	m := p.OpenMaster().(*master)
	impl, _ := p.OpenSlave(j, unix.O_RDWR)
	j.mem[0] = 1
	if _, err := m.Ioctl(j, nil, unix.TIOCPKT, 0); err != nil {
		t.Fatal(err)
	}
	write(t, j, impl.(*slave), "hi")
	var b [10]byte
	if n, err := p.output(b[:]); string(b[:n]) != "\x00hi" || err != nil {
		t.Errorf("%q, %v", b[:n], err)
	}
	p.input([]byte("\x13"))
	if r := m.Readiness(waiter.In | waiter.Pri); r != waiter.In|waiter.Pri {
		t.Errorf("readiness %#x", r)
	}
	if n, err := p.output(b[:]); n != 1 || b[0] != pktStop || err != nil {
		t.Errorf("%d, %v, %v", n, b[0], err)
	}
}

func TestQueuesAreBounded(t *testing.T) {
	j := &job{Context: fstest.NewContext(), g: &group{s: &session{}}}
	p := New(0, nil, nil)
	m := p.OpenMaster().(*master)
	impl, _ := p.OpenSlave(j, unix.O_RDWR)
	sl := impl.(*slave)
	for range 100 {
		src := usermem.BytesBuffer([]byte(strings.Repeat("\t", 4000)))
		sl.Write(j, nil, &src)
		src = usermem.BytesBuffer([]byte(strings.Repeat("long", 1000)))
		m.Write(j, nil, &src)
	}
	if len(p.in) > inputSize || len(p.out) > 4*outputSize {
		t.Errorf("%d bytes of input, %d of output", len(p.in), len(p.out))
	}
	src := usermem.BytesBuffer([]byte("\n"))
	n, err := m.Write(j, nil, &src)
	if err == unix.EAGAIN { // which comes now and then, where so much is lost
		n, err = m.Write(j, nil, &src)
	}
	if n != 1 || err != nil {
		t.Errorf("the newline of a line too long: %d, %v", n, err)
	}
	total := 0
	for {
		got, err := read(j, sl)
		if err != nil {
			break
		}
		total += len(got)
	}
	if total != inputSize {
		t.Errorf("%d bytes could be read", total)
	}
}

func TestBridge(t *testing.T) {
	j := &job{Context: fstest.NewContext(), g: &group{s: &session{}}}
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := New(0, nil, nil)
	b, err := NewBridge(p, int(inR.Fd()), int(outW.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	impl, err := p.OpenSlave(j, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	sl := impl.(*slave)
	ready := waiter.NewChannelListener()
	e := waiter.Entry{Listener: ready, Mask: waiter.Readable}
	sl.EventRegister(&e)
	io.WriteString(inW, "typed\n")
	for {
		got, err := read(j, sl)
		if err == unix.EAGAIN {
			<-ready
			continue
		}
		if got != "typed\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		break
	}
	sl.EventUnregister(&e)
	write(t, j, sl, "shown\n")
	sl.Release(nil)
	<-b.Done()
	b.Close()
	outW.Close()
	if got, _ := io.ReadAll(outR); string(got) != "typed\r\nshown\r\n" {
		t.Errorf("%q", got)
	}
	inR.Close()
	inW.Close()
	outR.Close()
}
