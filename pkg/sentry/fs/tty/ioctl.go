package tty

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// ioctls of ioctl_tty(2) that package unix has not.
const (
	tcgeta     = 0x5405
	tcseta     = 0x5406
	tcsetaw    = 0x5407
	tcsetaf    = 0x5408
	tcsbrk     = 0x5409
	tcxonc     = 0x540a
	tcflsh     = 0x540b
	tiocexcl   = 0x540c
	tiocnxcl   = 0x540d
	tcsbrkp    = 0x5425
	tcgets2    = 0x802c542a
	tcsets2    = 0x402c542b
	tcsetsw2   = 0x402c542c
	tcsetsf2   = 0x402c542d
	tiocgptn   = 0x80045430
	tiocsptlck = 0x40045431
	tiocgdev   = 0x80045432
	tiocgpkt   = 0x80045438
	tiocgptlck = 0x80045439
	tiocgexcl  = 0x80045440
	tiocgptpr  = 0x5441
	tiocgetd   = 0x5424
	tiocsetd   = 0x5423
)

const (
	termiosLen  = 36
	termios2Len = 44
	termioLen   = 18
	termioCCs   = 8
)

// encode writes the settings as struct termios2, of which struct termios is the
// first part.
func (t *Termios) encode() (b [termios2Len]byte) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], t.Iflag)
	le.PutUint32(b[4:], t.Oflag)
	le.PutUint32(b[8:], t.Cflag)
	le.PutUint32(b[12:], t.Lflag)
	b[16] = t.Line
	copy(b[17:36], t.CC[:])
	le.PutUint32(b[36:], t.Ispeed)
	le.PutUint32(b[40:], t.Ospeed)
	return b
}

func (t *Termios) decode(b []byte) {
	le := binary.LittleEndian
	t.Iflag, t.Oflag, t.Cflag, t.Lflag = le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:])
	t.Line = b[16]
	copy(t.CC[:], b[17:36])
	if len(b) >= termios2Len {
		t.Ispeed, t.Ospeed = le.Uint32(b[36:]), le.Uint32(b[40:])
	}
	// A pseudo terminal has eight bits and no parity, and always listens.
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD
}

// encodeOld writes the settings as struct termio.
func (t *Termios) encodeOld() (b [termioLen]byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], uint16(t.Iflag))
	le.PutUint16(b[2:], uint16(t.Oflag))
	le.PutUint16(b[4:], uint16(t.Cflag))
	le.PutUint16(b[6:], uint16(t.Lflag))
	b[8] = t.Line
	copy(b[9:9+termioCCs], t.CC[:])
	return b
}

func (t *Termios) decodeOld(b []byte) {
	le := binary.LittleEndian
	merge := func(f *uint32, v uint16) { *f = *f&^0xffff | uint32(v) }
	merge(&t.Iflag, le.Uint16(b[0:]))
	merge(&t.Oflag, le.Uint16(b[2:]))
	merge(&t.Cflag, le.Uint16(b[4:]))
	merge(&t.Lflag, le.Uint16(b[6:]))
	t.Line = b[8]
	copy(t.CC[:termioCCs], b[9:9+termioCCs])
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD
}

// arg is the argument of an ioctl: a place in the caller's memory.
type arg struct {
	mem  usermem.Memory
	addr usermem.Addr
}

func (a arg) out(b []byte) (uint64, error) {
	if a.mem == nil {
		return 0, unix.EFAULT
	}
	_, err := a.mem.CopyOut(a.addr, b)
	return 0, err
}

func (a arg) in(b []byte) error {
	if a.mem == nil {
		return unix.EFAULT
	}
	_, err := a.mem.CopyIn(a.addr, b)
	return err
}

func (a arg) outInt(v int32) (uint64, error) {
	return a.out(binary.LittleEndian.AppendUint32(nil, uint32(v)))
}

func (a arg) inInt() (int32, error) {
	var b [4]byte
	err := a.in(b[:])
	return int32(binary.LittleEndian.Uint32(b[:])), err
}

func bit(b bool) int32 {
	if b {
		return 1
	}
	return 0
}

// Ioctl implements vfs.Ioctler for the master.
func (m *master) Ioctl(ctx vfs.Context, f *vfs.File, cmd uint32, raw uint64) (uint64, error) {
	t := m.t
	a := arg{ctx.Memory(), usermem.Addr(raw)}
	switch cmd {
	case tiocgptn:
		return a.outInt(int32(t.index))
	case tiocsptlck:
		v, err := a.inInt()
		if err == nil {
			if v != 0 {
				t.Lock()
			} else {
				t.Unlock()
			}
		}
		return 0, err
	case tiocgptlck:
		t.mu.Lock()
		v := t.locked
		t.mu.Unlock()
		return a.outInt(bit(v))
	case unix.TIOCPKT:
		v, err := a.inInt()
		if err != nil {
			return 0, err
		}
		t.mu.Lock()
		t.packet, t.status = v != 0, 0
		t.mu.Unlock()
		return 0, nil
	case tiocgpkt:
		t.mu.Lock()
		v := t.packet
		t.mu.Unlock()
		return a.outInt(bit(v))
	case tiocgptpr:
		return t.openPeer(ctx, f, uint32(raw))
	case unix.TIOCSIG:
		sig := unix.Signal(raw)
		if sig != unix.SIGINT && sig != unix.SIGQUIT && sig != unix.SIGTSTP {
			return 0, unix.EINVAL
		}
		var e effects
		t.mu.Lock()
		e.signal(sig)
		t.unlock(&e)
		return 0, nil
	case unix.TIOCINQ:
		t.mu.Lock()
		n := len(t.out)
		t.mu.Unlock()
		return a.outInt(int32(n))
	case unix.TIOCGPGRP, unix.TIOCGSID:
		// The master tells of the slave's, whoever asks.
		j := jobOf(ctx)
		t.mu.Lock()
		s, g := t.session, t.foreground
		t.mu.Unlock()
		if cmd == unix.TIOCGSID {
			if j == nil || s == nil {
				return 0, unix.ENOTTY
			}
			return a.outInt(j.SessionID(s))
		}
		if j == nil || g == nil {
			return a.outInt(0)
		}
		return a.outInt(j.GroupID(g))
	case tcflsh:
		// From here input and output are the other way round.
		switch raw {
		case unix.TCIFLUSH:
			raw = unix.TCOFLUSH
		case unix.TCOFLUSH:
			raw = unix.TCIFLUSH
		}
		return 0, t.flush(raw)
	case unix.TIOCSCTTY:
		return 0, unix.EIO
	}
	return t.ioctl(ctx, cmd, raw, a, nil)
}

// openPeer does TIOCGPTPEER.
func (t *TTY) openPeer(ctx vfs.Context, f *vfs.File, flags uint32) (uint64, error) {
	fds, ok := ctx.(FDInstaller)
	if !ok || f == nil {
		return 0, unix.EIO
	}
	impl, err := t.OpenSlave(ctx, flags)
	if err != nil {
		return 0, err
	}
	p := f.Path()
	if t.peer != nil {
		p = t.peer(p)
	}
	n := vfs.NewFile(p, impl, flags&(unix.O_ACCMODE|unix.O_NONBLOCK), ctx.Credentials())
	fd, err := fds.InstallFD(n, flags&unix.O_CLOEXEC != 0)
	if err != nil {
		n.DecRef()
		return 0, err
	}
	return uint64(fd), nil
}

// Ioctl implements vfs.Ioctler for the slave.
func (s *slave) Ioctl(ctx vfs.Context, f *vfs.File, cmd uint32, raw uint64) (uint64, error) {
	t := s.t
	t.mu.Lock()
	hungUp := t.hungUp
	t.mu.Unlock()
	if hungUp {
		if cmd == unix.TIOCSPGRP {
			return 0, unix.ENOTTY
		}
		return 0, unix.EIO
	}
	j := jobOf(ctx)
	a := arg{ctx.Memory(), usermem.Addr(raw)}
	switch cmd {
	case unix.TIOCSCTTY:
		return 0, t.setControlling(ctx, j, raw == 1)
	case unix.TIOCNOTTY:
		if !t.controls(j) {
			return 0, unix.ENOTTY
		}
		if j.LeadsSession() {
			t.SessionEnded(j.Session())
		}
		return 0, nil
	case unix.TIOCGPGRP, unix.TIOCGSID:
		if !t.controls(j) {
			return 0, unix.ENOTTY
		}
		if cmd == unix.TIOCGSID {
			return a.outInt(j.SessionID(j.Session()))
		}
		t.mu.Lock()
		g := t.foreground
		t.mu.Unlock()
		if g == nil {
			return a.outInt(0)
		}
		return a.outInt(j.GroupID(g))
	case unix.TIOCSPGRP:
		return 0, t.setForeground(j, a)
	case unix.TIOCINQ:
		t.mu.Lock()
		n := 0
		if t.lflag(unix.ICANON) {
			for _, c := range t.in[:t.start] {
				if c.k != fileEnd {
					n++
				}
			}
		} else {
			n = len(t.in)
		}
		t.mu.Unlock()
		return a.outInt(int32(n))
	}
	return t.ioctl(ctx, cmd, raw, a, j)
}

// setControlling does TIOCSCTTY.
func (t *TTY) setControlling(ctx vfs.Context, j Job, steal bool) error {
	if j == nil || !j.LeadsSession() {
		return unix.EPERM
	}
	s := j.Session()
	switch s.Terminal() {
	case t:
		return nil
	case nil:
	default:
		return unix.EPERM
	}
	t.mu.Lock()
	old := t.session
	t.mu.Unlock()
	if old != nil {
		if !steal || !ctx.Credentials().HasRootCap(unix.CAP_SYS_ADMIN) {
			return unix.EPERM
		}
		old.ClearTerminal(t)
		t.mu.Lock()
		if t.session == old {
			t.session, t.foreground = nil, nil
		}
		t.mu.Unlock()
	}
	return t.Attach(j)
}

// setForeground does TIOCSPGRP.
func (t *TTY) setForeground(j Job, a arg) error {
	if err := t.checkJob(j, unix.SIGTTOU); err != nil {
		return err
	}
	if !t.controls(j) {
		return unix.ENOTTY
	}
	pgid, err := a.inInt()
	if err != nil {
		return err
	}
	if pgid < 0 {
		return unix.EINVAL
	}
	g, err := j.FindGroup(pgid)
	if err != nil {
		return err
	}
	s := j.Session()
	if !g.In(s) {
		return unix.EPERM
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session != s {
		return unix.ENOTTY
	}
	t.foreground = g
	return nil
}

// ioctl does what both sides have in common; j is nil for the master.
func (t *TTY) ioctl(ctx vfs.Context, cmd uint32, raw uint64, a arg, j Job) (uint64, error) {
	switch cmd {
	case unix.TCSETS, unix.TCSETSW, unix.TCSETSF, tcsets2, tcsetsw2, tcsetsf2, tcseta, tcsetaw, tcsetaf,
		tcflsh, tcsbrk, tcsbrkp, tcxonc:
		if err := t.checkJob(j, unix.SIGTTOU); err != nil {
			return 0, err
		}
	}
	switch cmd {
	case unix.TCGETS, tcgets2, tcgeta:
		t.mu.Lock()
		s := t.termios
		t.mu.Unlock()
		b := s.encode()
		switch cmd {
		case unix.TCGETS:
			return a.out(b[:termiosLen])
		case tcgets2:
			return a.out(b[:])
		}
		old := s.encodeOld()
		return a.out(old[:])
	case unix.TCSETS, unix.TCSETSW, unix.TCSETSF:
		return 0, t.change(a, termiosLen, cmd == unix.TCSETSF)
	case tcsets2, tcsetsw2, tcsetsf2:
		return 0, t.change(a, termios2Len, cmd == tcsetsf2)
	case tcseta, tcsetaw, tcsetaf:
		return 0, t.change(a, termioLen, cmd == tcsetaf)
	case unix.TIOCGWINSZ:
		s := t.Size()
		var b []byte
		for _, v := range [4]uint16{s.Rows, s.Cols, s.XPixels, s.YPixels} {
			b = binary.LittleEndian.AppendUint16(b, v)
		}
		return a.out(b)
	case unix.TIOCSWINSZ:
		var b [8]byte
		if err := a.in(b[:]); err != nil {
			return 0, err
		}
		le := binary.LittleEndian
		t.Resize(WindowSize{le.Uint16(b[0:]), le.Uint16(b[2:]), le.Uint16(b[4:]), le.Uint16(b[6:])})
		return 0, nil
	case tcflsh:
		return 0, t.flush(raw)
	case tcxonc:
		return 0, t.flow(raw)
	case tcsbrk, tcsbrkp, unix.TIOCSBRK, unix.TIOCCBRK:
		return 0, nil // there is no line to break, and what is written has left
	case unix.TIOCOUTQ:
		return a.outInt(0)
	case unix.TIOCSTI:
		if !ctx.Credentials().HasRootCap(unix.CAP_SYS_ADMIN) {
			return 0, unix.EPERM
		}
		var b [1]byte
		if err := a.in(b[:]); err != nil {
			return 0, err
		}
		t.input(b[:])
		return 0, nil
	case tiocexcl, tiocnxcl:
		t.mu.Lock()
		t.exclusive = cmd == tiocexcl
		t.mu.Unlock()
		return 0, nil
	case tiocgexcl:
		t.mu.Lock()
		v := t.exclusive
		t.mu.Unlock()
		return a.outInt(bit(v))
	case tiocgdev:
		return a.outInt(int32(t.DeviceNumber()))
	case tiocgetd:
		return a.outInt(0)
	case tiocsetd:
		if n, err := a.inInt(); err != nil || n == 0 {
			return 0, err
		}
		return 0, unix.EINVAL
	}
	return 0, unix.ENOTTY
}

// change puts settings from the caller's memory in force.
func (t *TTY) change(a arg, size int, flush bool) error {
	var b [termios2Len]byte
	if err := a.in(b[:size]); err != nil {
		return err
	}
	var e effects
	t.mu.Lock()
	n := t.termios
	if size == termioLen {
		n.decodeOld(b[:size])
	} else {
		n.decode(b[:size])
	}
	if flush {
		t.flushInput(&e)
	}
	t.set(n, &e)
	t.unlock(&e)
	return nil
}

// flush does TCFLSH.
func (t *TTY) flush(what uint64) error {
	var e effects
	t.mu.Lock()
	defer t.unlock(&e)
	switch what {
	case unix.TCIFLUSH:
		t.flushInput(&e)
	case unix.TCOFLUSH:
		t.flushOutput(&e)
	case unix.TCIOFLUSH:
		t.flushInput(&e)
		t.flushOutput(&e)
	default:
		return unix.EINVAL
	}
	return nil
}

// flow does TCXONC.
func (t *TTY) flow(what uint64) error {
	var e effects
	t.mu.Lock()
	defer t.unlock(&e)
	switch what {
	case unix.TCOOFF:
		t.held = true
	case unix.TCOON:
		t.held = false
		e.wakeS |= waiter.Writable
	case unix.TCIOFF, unix.TCION:
		cc := unix.VSTOP
		if what == unix.TCION {
			cc = unix.VSTART
		}
		if c := t.termios.CC[cc]; c != disabled {
			t.put(c)
			e.wakeM |= waiter.Readable
		}
	default:
		return unix.EINVAL
	}
	return nil
}
