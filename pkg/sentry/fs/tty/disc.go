package tty

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/waiter"
)

// Termios is struct termios of the kernel (termios(3)), with speeds.
type Termios struct {
	Iflag, Oflag, Cflag, Lflag uint32
	Line                       uint8
	CC                         [19]uint8
	Ispeed, Ospeed             uint32
}

// Flags that package unix has not.
const (
	iuclc = 0o1000
	olcuc = 0o2
	xtabs = 0o14000
	// disabled is _POSIX_VDISABLE.
	disabled = 0
)

// DefaultTermios is what a new terminal has.
func DefaultTermios() Termios {
	return Termios{
		Iflag: unix.ICRNL | unix.IXON,
		Oflag: unix.OPOST | unix.ONLCR,
		Cflag: unix.B38400 | unix.CS8 | unix.CREAD,
		Lflag: unix.ISIG | unix.ICANON | unix.ECHO | unix.ECHOE | unix.ECHOK | unix.ECHOCTL | unix.ECHOKE | unix.IEXTEN,
		CC: [19]uint8{unix.VINTR: 3, unix.VQUIT: 0o34, unix.VERASE: 0o177, unix.VKILL: 0o25, unix.VEOF: 4, unix.VMIN: 1,
			unix.VSTART: 0o21, unix.VSTOP: 0o23, unix.VSUSP: 0o32, unix.VREPRINT: 0o22, unix.VDISCARD: 0o17,
			unix.VWERASE: 0o27, unix.VLNEXT: 0o26},
		Ispeed: 38400, Ospeed: 38400,
	}
}

// kind says what a byte of input is.
type kind uint8

const (
	plain   kind = iota
	lineEnd      // the last of a line; delivered
	fileEnd      // ends a line, or the input; not delivered
)

type input struct {
	b byte
	k kind
}

// disc is the line discipline, guarded by TTY.mu.
type disc struct {
	termios Termios
	// in is what the slave has to read, with lines complete ones in it. start
	// is where the line being edited begins, at column canonColumn.
	in          []input
	lines       int
	start       int
	canonColumn int
	// lost is how many bytes had no room, since a writer was told.
	lost int
	// literal: the next byte has no special meaning (VLNEXT).
	literal bool
	// out is what the master has to read; column is where the cursor is.
	out    []byte
	column int
	// stopped: output waits for VSTART; held: by TCXONC.
	stopped, held bool
	// packet: the master reads status bytes; status is what it hasn't yet.
	packet bool
	status uint8
}

func (d *disc) init() { d.termios = DefaultTermios() }

func (d *disc) iflag(f uint32) bool { return d.termios.Iflag&f != 0 }
func (d *disc) oflag(f uint32) bool { return d.termios.Oflag&f != 0 }
func (d *disc) lflag(f uint32) bool { return d.termios.Lflag&f != 0 }

// is reports whether c is the special character cc.
func (d *disc) is(c byte, cc int) bool { return d.termios.CC[cc] != disabled && d.termios.CC[cc] == c }

// room returns how many bytes of input can be taken. A line that is too long
// loses its end, but its newline must come through.
func (d *disc) room() int {
	if d.lflag(unix.ICANON) && d.lines == 0 {
		return inputSize
	}
	room := inputSize - 1 - len(d.in)
	if d.iflag(unix.PARMRK) {
		room /= 2 // some are doubled
	}
	return max(0, room)
}

// admits is room for a writer that has written done bytes of a call. Of a line
// that has no end Linux takes what its worker keeps up with, so that now and then
// a writer finds no room and has to try again. Here, where nothing lags behind,
// that comes after as many bytes as Linux would have waiting: who writes until
// there is no room comes to an end.
func (d *disc) admits(done int64) int {
	if d.lost < lostSize {
		return d.room()
	}
	if done == 0 {
		d.lost = 0
	}
	return 0
}

// setStatus tells the master of a change, in packet mode.
func (d *disc) setStatus(set, clear uint8, e *effects) {
	if d.packet {
		d.status = d.status&^clear | set
		e.wakeM |= waiter.Readable | waiter.Pri
	}
}

// Status bytes of packet mode (ioctl_tty(2)).
const (
	pktFlushRead  = 1
	pktFlushWrite = 2
	pktStop       = 4
	pktStart      = 8
	pktNoStop     = 16
	pktDoStop     = 32
)

func (d *disc) stop(e *effects) {
	if !d.stopped {
		d.stopped = true
		d.setStatus(pktStop, pktStart, e)
	}
}

func (d *disc) resume(e *effects) {
	if d.stopped {
		d.stopped = false
		d.setStatus(pktStart, pktStop, e)
		e.wakeS |= waiter.Writable
	}
}

var signalKeys = [...]struct {
	cc     int
	signal unix.Signal
}{{unix.VINTR, unix.SIGINT}, {unix.VQUIT, unix.SIGQUIT}, {unix.VSUSP, unix.SIGTSTP}}

// receive takes one byte from the master.
func (d *disc) receive(c byte, e *effects) {
	if d.iflag(unix.ISTRIP) {
		c &= 0x7f
	}
	if d.iflag(iuclc) && d.lflag(unix.IEXTEN) && isUpper(c) {
		c += 'a' - 'A'
	}
	if d.literal {
		d.literal = false
		d.beginLine()
		if c == 0xff && d.iflag(unix.PARMRK) {
			d.add(c, plain)
		}
		d.add(c, plain)
		d.echo(c)
		return
	}
	if d.iflag(unix.IXON) {
		switch {
		case d.is(c, unix.VSTART):
			d.resume(e)
			return
		case d.is(c, unix.VSTOP):
			d.stop(e)
			return
		}
		if d.iflag(unix.IXANY) {
			d.resume(e)
		}
	}
	if d.lflag(unix.ISIG) {
		for _, key := range signalKeys {
			if !d.is(c, key.cc) {
				continue
			}
			if !d.lflag(unix.NOFLSH) {
				d.flushInput(e)
				d.flushOutput(e)
			}
			d.resume(e)
			d.echo(c)
			e.signal(key.signal)
			return
		}
	}
	switch {
	case c == '\r':
		if d.iflag(unix.IGNCR) {
			return
		}
		if d.iflag(unix.ICRNL) {
			c = '\n'
		}
	case c == '\n' && d.iflag(unix.INLCR):
		c = '\r'
	}
	if d.lflag(unix.ICANON) && d.edit(c) {
		return
	}
	d.beginLine()
	if c != '\n' {
		d.echo(c)
	} else if d.lflag(unix.ECHO) {
		d.process(c)
	}
	if c == 0xff && d.iflag(unix.PARMRK) {
		d.add(c, plain)
	}
	d.add(c, plain)
}

// beginLine remembers where the echo of a line begins, at its first byte.
func (d *disc) beginLine() {
	if d.lflag(unix.ECHO) && len(d.in) == d.start {
		d.canonColumn = d.column
	}
}

// edit does what c means in canonical mode; false if it is an ordinary byte.
func (d *disc) edit(c byte) bool {
	ext := d.lflag(unix.IEXTEN)
	switch {
	case d.is(c, unix.VERASE):
		d.erase(c, 1)
	case d.is(c, unix.VKILL):
		d.kill(c)
	case ext && d.is(c, unix.VWERASE):
		d.erase(c, 2)
	case ext && d.is(c, unix.VLNEXT):
		d.literal = true
		if d.lflag(unix.ECHO) && d.lflag(unix.ECHOCTL) {
			d.put('^')
			d.put('\b')
		}
	case ext && d.lflag(unix.ECHO) && d.is(c, unix.VREPRINT):
		d.echo(c)
		d.process('\n')
		for _, b := range d.in[d.start:] {
			d.echo(b.b)
		}
	case c == '\n':
		if d.lflag(unix.ECHO) || d.lflag(unix.ECHONL) {
			d.process('\n')
		}
		d.end(c, lineEnd)
	case d.is(c, unix.VEOF):
		d.end(disabled, fileEnd)
	case d.is(c, unix.VEOL), ext && d.is(c, unix.VEOL2):
		d.echo(c)
		if c == 0xff && d.iflag(unix.PARMRK) {
			d.add(c, plain)
		}
		d.end(c, lineEnd)
	default:
		return false
	}
	return true
}

// add appends to the input, unless it is full.
func (d *disc) add(c byte, k kind) {
	if len(d.in) < inputSize-1 {
		d.in = append(d.in, input{c, k})
	} else {
		d.lost++
	}
	if !d.lflag(unix.ICANON) {
		d.start = len(d.in)
	}
}

// end completes the line. There is always room for its end.
func (d *disc) end(c byte, k kind) {
	if len(d.in) >= inputSize {
		d.in = d.in[:inputSize-1]
	}
	d.in = append(d.in, input{c, k})
	d.lines++
	d.start = len(d.in)
}

// continuation reports whether b goes on a character in UTF-8.
func (d *disc) continuation(b byte) bool { return d.iflag(unix.IUTF8) && b&0xc0 == 0x80 }

// erase removes the last character, or word, of the line being edited.
func (d *disc) erase(c byte, unit int) {
	word := func(b byte) bool {
		return b >= '0' && b <= '9' || isUpper(b) || isLower(b) || b == '_' || b == 0xdf || b == 0xff
	}
	seen := false
	for len(d.in) > d.start {
		// The whole of a character in UTF-8, or nothing.
		at := len(d.in) - 1
		for at > d.start && d.continuation(d.in[at].b) {
			at--
		}
		b := d.in[at].b
		if d.continuation(b) {
			return
		}
		if unit == 2 {
			if word(b) {
				seen = true
			} else if seen {
				return
			}
		}
		d.in = d.in[:at]
		if d.lflag(unix.ECHO) {
			if !d.lflag(unix.ECHOE) && unit == 1 {
				d.echo(c)
			} else {
				d.rubOut(b)
			}
		}
		if unit == 1 {
			return
		}
	}
}

// rubOut takes what was echoed for b off the screen. The line is already
// without it.
func (d *disc) rubOut(b byte) {
	switch {
	case b == '\t':
		// Back to where the rest of the line ends.
		col := d.canonColumn
		for _, c := range d.in[d.start:] {
			col += d.width(c.b, col)
		}
		for n := 8 - col&7; n > 0; n-- {
			d.put('\b')
			if d.column > 0 {
				d.column--
			}
		}
	case b < 0x20 || b == 0x7f:
		if !d.lflag(unix.ECHOCTL) {
			return
		}
		d.rub()
		d.rub()
	default:
		d.rub()
	}
}

func (d *disc) rub() {
	for _, c := range [3]byte{'\b', ' ', '\b'} {
		d.put(c)
	}
	if d.column > 0 {
		d.column--
	}
}

// width is how many columns the echo of b takes at column col.
func (d *disc) width(b byte, col int) int {
	switch {
	case b == '\t':
		return 8 - col&7
	case b < 0x20 || b == 0x7f:
		if d.lflag(unix.ECHOCTL) {
			return 2
		}
		return 0
	case d.continuation(b):
		return 0
	}
	return 1
}

// kill removes the line being edited.
func (d *disc) kill(c byte) {
	if len(d.in) == d.start {
		return
	}
	if d.lflag(unix.ECHO) && d.lflag(unix.ECHOK) && d.lflag(unix.ECHOKE) && d.lflag(unix.ECHOE) {
		for len(d.in) > d.start {
			n := len(d.in)
			d.erase(c, 1)
			if len(d.in) == n {
				break
			}
		}
		return
	}
	d.in = d.in[:d.start]
	if d.lflag(unix.ECHO) {
		d.echo(c)
		if d.lflag(unix.ECHOK) {
			d.process('\n')
		}
	}
}

// echo shows an input byte.
func (d *disc) echo(c byte) {
	if !d.lflag(unix.ECHO) || len(d.out) >= 2*outputSize {
		return
	}
	if d.lflag(unix.ECHOCTL) && (c < 0x20 || c == 0x7f) && c != '\t' {
		d.put('^')
		d.put(c ^ 0x40)
		d.column += 2
		return
	}
	d.process(c)
}

// put appends to the output as it is.
func (d *disc) put(c byte) {
	if len(d.out) < 4*outputSize {
		d.out = append(d.out, c)
	}
}

// isUpper and isLower know Latin-1, as the kernel does.
func isUpper(c byte) bool { return c >= 'A' && c <= 'Z' || c >= 0xc0 && c <= 0xde && c != 0xd7 }
func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= 0xe0 && c <= 0xfe && c != 0xf7 }

// process puts c through output processing (termios(3), c_oflag).
func (d *disc) process(c byte) {
	if !d.oflag(unix.OPOST) {
		d.put(c)
		return
	}
	switch c {
	case '\n':
		if d.oflag(unix.ONLCR) {
			d.put('\r')
		}
		if d.oflag(unix.ONLCR) || d.oflag(unix.ONLRET) {
			d.column = 0
		}
		d.canonColumn = d.column
	case '\r':
		if d.oflag(unix.ONOCR) && d.column == 0 {
			return
		}
		if d.oflag(unix.OCRNL) {
			c = '\n'
			if d.oflag(unix.ONLRET) {
				d.column, d.canonColumn = 0, 0
			}
			break
		}
		d.column, d.canonColumn = 0, 0
	case '\t':
		n := 8 - d.column&7
		d.column += n
		if d.termios.Oflag&xtabs == xtabs {
			for ; n > 0; n-- {
				d.put(' ')
			}
			return
		}
	case '\b':
		if d.column > 0 {
			d.column--
		}
	default:
		if d.oflag(olcuc) && isLower(c) {
			c -= 'a' - 'A'
		}
		if c >= 0x20 && c != 0x7f && !d.continuation(c) {
			d.column++
		}
	}
	d.put(c)
}

// flushInput drops what the slave hasn't read, flushOutput what the master
// hasn't.
func (d *disc) flushInput(e *effects) {
	d.in, d.lines, d.start, d.literal = d.in[:0], 0, 0, false
	d.setStatus(pktFlushRead, 0, e)
	e.wakeM |= waiter.Writable
}

func (d *disc) flushOutput(e *effects) {
	d.out = d.out[:0]
	d.setStatus(pktFlushWrite, 0, e)
	e.wakeS |= waiter.Writable
}

// set puts other settings in force.
func (d *disc) set(n Termios, e *effects) {
	old := d.termios
	d.termios = n
	if (old.Lflag^n.Lflag)&unix.ICANON != 0 {
		d.literal = false
		if n.Lflag&unix.ICANON != 0 {
			// What is there counts as a line.
			d.lines = 0
			for i := range d.in {
				d.in[i].k = plain
			}
			if len(d.in) > 0 {
				d.in[len(d.in)-1].k = lineEnd
				d.lines = 1
			}
		} else {
			// Marks of the end are nothing but bytes now.
			d.lines = 0
		}
		d.start = len(d.in)
	}
	if n.Iflag&unix.IXON == 0 && old.Iflag&unix.IXON != 0 {
		d.resume(e)
	}
	keys := func(t *Termios) bool {
		return t.Iflag&unix.IXON != 0 && t.CC[unix.VSTOP] == 0o23 && t.CC[unix.VSTART] == 0o21
	}
	if was, is := keys(&old), keys(&n); was != is {
		if is {
			d.setStatus(pktDoStop, pktNoStop, e)
		} else {
			d.setStatus(pktNoStop, pktDoStop, e)
		}
	}
	e.wakeS |= waiter.Readable | waiter.Writable
	e.wakeM |= waiter.Writable
}

// available returns how many bytes a read could have, and whether it would get
// something, if want bytes were needed in raw mode.
func (d *disc) available(want int) bool {
	if d.lflag(unix.ICANON) {
		return d.lines > 0
	}
	return len(d.in) >= max(want, 1)
}

// take moves input into b: of a line at most, in canonical mode.
func (d *disc) take(b []byte) int {
	canon := d.lflag(unix.ICANON)
	n, used := 0, 0
	for used < len(d.in) {
		c := d.in[used]
		if canon && c.k == fileEnd {
			// Also where b is just full: the line ends here.
			used++
			d.lines--
			break
		}
		if n == len(b) {
			break
		}
		b[n] = c.b
		n++
		used++
		if canon && c.k == lineEnd {
			d.lines--
			break
		}
	}
	d.in = d.in[:copy(d.in, d.in[used:])]
	d.start = max(0, d.start-used)
	return n
}
