package tty

import (
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// chunk is how much is moved under the lock at a time.
const chunk = 2048

// master is an open master side, slave an open slave side.
type master struct{ t *TTY }
type slave struct{ t *TTY }

// OpenMaster opens the master side.
func (t *TTY) OpenMaster() any {
	t.mu.Lock()
	t.masters++
	t.mu.Unlock()
	return &master{t}
}

// OpenSlave opens the slave side: EIO when it is locked or the master has
// closed. Without O_NOCTTY it becomes the controlling terminal of a session
// leader that has none.
func (t *TTY) OpenSlave(ctx vfs.Context, flags uint32) (any, error) {
	t.mu.Lock()
	switch {
	case t.hungUp || t.locked:
		t.mu.Unlock()
		return nil, unix.EIO
	case t.exclusive && t.slaves > 0 && !ctx.Credentials().HasRootCap(unix.CAP_SYS_ADMIN):
		t.mu.Unlock()
		return nil, unix.EBUSY
	}
	t.slaves++
	t.opened = true
	free := t.session == nil
	t.mu.Unlock()
	t.masterQueue.Notify(waiter.Writable)
	if j := jobOf(ctx); free && flags&unix.O_NOCTTY == 0 && flags&unix.O_ACCMODE != unix.O_WRONLY &&
		j != nil && j.LeadsSession() && j.Session().Terminal() == nil {
		t.Attach(j) // another may have been faster
	}
	return &slave{t}, nil
}

// Release implements vfs.Releaser.
func (m *master) Release(*vfs.File) {
	m.t.mu.Lock()
	m.t.masters--
	last := m.t.masters == 0
	m.t.mu.Unlock()
	if last {
		m.t.hangUp()
	}
}

// Release implements vfs.Releaser.
func (s *slave) Release(*vfs.File) {
	s.t.mu.Lock()
	s.t.slaves--
	last := s.t.slaves == 0
	if last {
		s.t.exclusive = false
	}
	ended := last && s.t.hungUp
	s.t.mu.Unlock()
	if ended && s.t.onEnd != nil {
		s.t.onEnd()
	}
	if last {
		s.t.masterQueue.Notify(waiter.Readable | waiter.Hup)
	}
}

// Read implements vfs.Reader: EIO once the slave has closed and all is read.
func (m *master) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	var b [chunk]byte
	n, err := m.t.output(b[:min(uint64(len(b)), dst.Len())])
	if err != nil {
		return 0, err
	}
	n, err = dst.Write(b[:n])
	return int64(n), err
}

// output moves output into b.
func (t *TTY) output(b []byte) (int, error) {
	var e effects
	t.mu.Lock()
	n := 0
	if t.packet && len(b) > 0 {
		if t.status != 0 {
			b[0], t.status = t.status, 0
			t.unlock(&e)
			return 1, nil
		}
		b[0] = 0 // data
		b, n = b[1:], 1
	}
	got := copy(b, t.out)
	if got == 0 {
		closed := t.opened && t.slaves == 0
		t.unlock(&e)
		if closed {
			return 0, unix.EIO
		}
		return 0, unix.EAGAIN
	}
	t.out = t.out[:copy(t.out, t.out[got:])]
	if len(t.out) < outputSize {
		e.wakeS |= waiter.Writable
	}
	t.unlock(&e)
	return n + got, nil
}

// Write implements vfs.Writer: input from the one at the keyboard.
func (m *master) Write(_ vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	var done int64
	for src.Len() > 0 {
		m.t.mu.Lock()
		room := m.t.admits(done)
		m.t.mu.Unlock()
		if room == 0 {
			break
		}
		var b [chunk]byte
		n, err := src.Read(b[:min(room, len(b))])
		m.t.input(b[:n])
		done += int64(n)
		if err != nil {
			if done > 0 {
				err = nil
			}
			return done, err
		}
	}
	if done == 0 && src.Len() > 0 {
		return 0, unix.EAGAIN
	}
	return done, nil
}

// input takes bytes from the master.
func (t *TTY) input(b []byte) {
	var e effects
	t.mu.Lock()
	for _, c := range b {
		t.receive(c, &e)
	}
	if len(t.in) > 0 {
		e.wakeS |= waiter.Readable
	}
	if len(t.out) > 0 {
		e.wakeM |= waiter.Readable
	}
	t.unlock(&e)
}

// Read implements vfs.Reader, with the rules of termios(3) for VMIN and VTIME.
func (s *slave) Read(ctx vfs.Context, f *vfs.File, dst *usermem.Buffer) (int64, error) {
	t := s.t
	if err := t.checkJob(jobOf(ctx), unix.SIGTTIN); err != nil {
		return 0, err
	}
	if dst.Len() == 0 {
		return 0, nil
	}
	nonBlocking := f != nil && f.NonBlocking()
	var b [chunk]byte
	buf := b[:min(uint64(len(b)), dst.Len())]
	n, err := t.takeInput(buf, nonBlocking)
	if err == errTimed {
		n, err = t.takeTimed(ctx, buf)
	}
	if err != nil {
		return 0, err
	}
	n, err = dst.Write(buf[:n])
	return int64(n), err
}

// errTimed says that a read depends on the clock.
const errTimed = unix.ETIME

// takeInput is a read that doesn't wait.
func (t *TTY) takeInput(b []byte, nonBlocking bool) (int, error) {
	var e effects
	t.mu.Lock()
	if t.hungUp {
		t.unlock(&e)
		return 0, nil
	}
	want, empty := 1, error(unix.EAGAIN)
	if !t.lflag(unix.ICANON) && !nonBlocking {
		least := int(t.termios.CC[unix.VMIN])
		if t.termios.CC[unix.VTIME] != 0 && len(t.in) < min(max(least, 1), len(b)) {
			t.unlock(&e)
			return 0, errTimed
		}
		if least == 0 {
			empty = nil
		}
		want = min(least, len(b))
	}
	if !t.available(want) {
		t.unlock(&e)
		return 0, empty
	}
	n := t.take(b)
	e.wakeM |= waiter.Writable
	t.unlock(&e)
	return n, nil
}

// takeTimed is a read in raw mode with VTIME. With VMIN the clock runs between
// bytes, without it from the start.
func (t *TTY) takeTimed(ctx vfs.Context, b []byte) (int, error) {
	ready := new(waiter.Token)
	entry := waiter.Entry{Listener: ready, Mask: waiter.Readable | waiter.Internal}
	t.slaveQueue.Register(&entry)
	defer t.slaveQueue.Unregister(&entry)
	t.mu.Lock()
	least := min(int(t.termios.CC[unix.VMIN]), len(b))
	pause := time.Duration(t.termios.CC[unix.VTIME]) * 100 * time.Millisecond
	t.mu.Unlock()
	expired := make(chan struct{})
	var timer *time.Timer
	start := func() {
		if timer == nil {
			timer = time.AfterFunc(pause, func() {
				close(expired)
				ready.Notify(nil, 0)
			})
		}
	}
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	if least == 0 {
		start()
	}
	last := 0
	for {
		over := false
		select {
		case <-expired:
			over = true
		default:
		}
		var e effects
		t.mu.Lock()
		have := len(t.in)
		if t.hungUp || t.lflag(unix.ICANON) {
			t.mu.Unlock()
			return t.takeInput(b, false)
		}
		if have >= max(least, 1) || over {
			n := t.take(b)
			e.wakeM |= waiter.Writable
			t.unlock(&e)
			return n, nil
		}
		t.mu.Unlock()
		if least > 0 && have > last {
			// A byte came: the clock starts anew.
			last = have
			if timer != nil && timer.Stop() {
				timer = nil
			}
			start()
		}
		if err := ctx.Block(ready); err != nil {
			if last > 0 {
				return t.takeInput(b, true)
			}
			return 0, err
		}
	}
}

// Write implements vfs.Writer.
func (s *slave) Write(ctx vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	t := s.t
	t.mu.Lock()
	tostop := t.lflag(unix.TOSTOP)
	t.mu.Unlock()
	if tostop {
		if err := t.checkJob(jobOf(ctx), unix.SIGTTOU); err != nil {
			return 0, err
		}
	}
	var done int64
	for src.Len() > 0 {
		t.mu.Lock()
		room, hungUp := t.outputRoom(), t.hungUp
		t.mu.Unlock()
		if hungUp {
			if done > 0 {
				break
			}
			return 0, unix.EIO
		}
		if room <= 0 {
			break
		}
		var b [chunk]byte
		n, err := src.Read(b[:min(room, len(b))])
		var e effects
		t.mu.Lock()
		for _, c := range b[:n] {
			t.process(c)
		}
		if n > 0 {
			e.wakeM |= waiter.Readable
		}
		t.unlock(&e)
		done += int64(n)
		if err != nil {
			if done > 0 {
				err = nil
			}
			return done, err
		}
	}
	if done == 0 && src.Len() > 0 {
		return 0, unix.EAGAIN
	}
	return done, nil
}

// outputRoom returns how much the slave may write. mu is held.
func (t *TTY) outputRoom() int {
	if t.stopped || t.held {
		return 0
	}
	return outputSize - len(t.out)
}

// Readiness implements waiter.Waitable.
func (m *master) Readiness(mask waiter.Mask) waiter.Mask {
	t := m.t
	t.mu.Lock()
	defer t.mu.Unlock()
	var r waiter.Mask
	if len(t.out) > 0 || t.packet && t.status != 0 {
		r |= waiter.Readable
	}
	if t.packet && t.status != 0 {
		r |= waiter.Pri
	}
	if t.room() > 0 {
		r |= waiter.Writable
	}
	if t.opened && t.slaves == 0 {
		r |= waiter.Hup
	}
	return r & (mask | waiter.Hup | waiter.Err)
}

// EventRegister and EventUnregister implement waiter.Waitable.
func (m *master) EventRegister(e *waiter.Entry)   { m.t.masterQueue.Register(e) }
func (m *master) EventUnregister(e *waiter.Entry) { m.t.masterQueue.Unregister(e) }

// Readiness implements waiter.Waitable.
func (s *slave) Readiness(mask waiter.Mask) waiter.Mask {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	var r waiter.Mask
	want := 1
	if t.termios.CC[unix.VTIME] == 0 {
		want = int(t.termios.CC[unix.VMIN])
	}
	if t.available(want) {
		r |= waiter.Readable
	}
	if t.outputRoom() > 0 {
		r |= waiter.Writable
	}
	if t.hungUp {
		r |= waiter.Readable | waiter.Writable | waiter.Hup | waiter.Err
	}
	return r & (mask | waiter.Hup | waiter.Err)
}

// EventRegister and EventUnregister implement waiter.Waitable.
func (s *slave) EventRegister(e *waiter.Entry)   { s.t.slaveQueue.Register(e) }
func (s *slave) EventUnregister(e *waiter.Entry) { s.t.slaveQueue.Unregister(e) }

// TerminalOf returns the terminal behind what an open file does, and whether
// it is the master side; nil if it is none.
func TerminalOf(impl any) (t *TTY, isMaster bool) {
	switch f := impl.(type) {
	case *master:
		return f.t, true
	case *slave:
		return f.t, false
	}
	return nil, false
}

// OpenControlling opens /dev/tty: the caller's controlling terminal, or ENXIO.
// It is a driver's function.
func OpenControlling(ctx vfs.Context, _ vfs.Path, _ uint64, flags uint32) (any, *vfs.File, error) {
	j := jobOf(ctx)
	if j == nil {
		return nil, nil, unix.ENXIO
	}
	t := j.Session().Terminal()
	if t == nil {
		return nil, nil, unix.ENXIO
	}
	impl, err := t.OpenSlave(ctx, flags|unix.O_NOCTTY)
	return impl, nil, err
}
