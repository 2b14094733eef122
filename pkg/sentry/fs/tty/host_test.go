package tty

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/usermem"
)

// result is what both sides read after some input was typed and some output
// written.
type result struct {
	reads  []string // by the slave; one string in raw mode
	screen string   // by the master
}

const endMark = "<END>"

// ours types in on one of our terminals, and writes out.
func ours(t *testing.T, s Termios, in, out string) result {
	t.Helper()
	ctx := fstest.NewContext()
	p := New(0, nil, nil)
	m := p.OpenMaster().(*master)
	impl, err := p.OpenSlave(ctx, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	sl := impl.(*slave)
	var e effects
	p.mu.Lock()
	p.set(s, &e)
	p.unlock(&e)
	src := usermem.BytesBuffer([]byte(in))
	if n, err := m.Write(ctx, nil, &src); int(n) != len(in) || err != nil {
		t.Fatalf("typing: %d, %v", n, err)
	}
	var r result
	for {
		var b [64]byte
		n, err := p.takeInput(b[:], true)
		if err != nil {
			break
		}
		r.reads = append(r.reads, string(b[:n]))
	}
	src = usermem.BytesBuffer([]byte(out + endMark))
	if _, err := sl.Write(ctx, nil, &src); err != nil {
		t.Fatalf("slave write: %v", err)
	}
	for {
		var b [256]byte
		n, err := p.output(b[:])
		if err != nil {
			break
		}
		r.screen += string(b[:n])
	}
	if s.Lflag&unix.ICANON == 0 {
		r.reads = []string{strings.Join(r.reads, "")}
	}
	sl.Release(nil)
	m.Release(nil)
	return r
}

// host does the same with a pseudo terminal of the host. want says how much
// there is to be read, so that nobody waits for what doesn't come.
func host(t *testing.T, s Termios, in, out string, want result) result {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs pseudo terminals of the host: ", err)
	}
	defer unix.Close(m)
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	sl, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs pseudo terminals of the host: ", err)
	}
	defer unix.Close(sl)
	set := unix.Termios{Iflag: s.Iflag, Oflag: s.Oflag, Cflag: s.Cflag, Lflag: s.Lflag}
	copy(set.Cc[:], s.CC[:])
	if err := unix.IoctlSetTermios(sl, unix.TCSETS, &set); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(m, []byte(in)); err != nil {
		t.Fatal(err)
	}
	wait := func(fd int) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, 2000)
			if err != unix.EINTR {
				return n == 1
			}
		}
	}
	var r result
	all := strings.Join(want.reads, "")
	got := ""
	for len(r.reads) < len(want.reads) || s.Lflag&unix.ICANON == 0 && len(got) < len(all) {
		if s.Lflag&unix.ICANON == 0 && len(got) >= len(all) {
			break
		}
		var b [64]byte
		if !wait(sl) {
			r.reads = append(r.reads, "(nothing comes)")
			break
		}
		n, err := unix.Read(sl, b[:])
		if err == unix.EAGAIN {
			continue
		}
		r.reads = append(r.reads, string(b[:max(n, 0)]))
		got += string(b[:max(n, 0)])
	}
	if s.Lflag&unix.ICANON == 0 {
		r.reads = []string{got}
	}
	if _, err := unix.Write(sl, []byte(out+endMark)); err != nil {
		t.Fatal(err)
	}
	for !strings.HasSuffix(strings.ToUpper(r.screen), endMark) && wait(m) {
		var b [256]byte
		n, _ := unix.Read(m, b[:])
		r.screen += string(b[:max(n, 0)])
	}
	return r
}

func compare(t *testing.T, name string, s Termios, in, out string) {
	t.Helper()
	got := ours(t, s, in, out)
	want := host(t, s, in, out, got)
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("%s: iflag %o oflag %o lflag %o, typed %q, written %q:\ngot  %q\nhost %q", name, s.Iflag, s.Oflag, s.Lflag, in, out, got, want)
	}
}

func TestLineDisciplineAgainstHost(t *testing.T) {
	flags := func(iset, iclear, oset, oclear, lset, lclear uint32) Termios {
		s := DefaultTermios()
		s.Iflag = s.Iflag&^iclear | iset
		s.Oflag = s.Oflag&^oclear | oset
		s.Lflag = s.Lflag&^lclear | lset
		return s
	}
	plain := DefaultTermios()
	withEOL := DefaultTermios()
	withEOL.CC[unix.VEOL], withEOL.CC[unix.VEOL2] = ';', ':'
	raw := flags(0, unix.ICRNL|unix.IXON, 0, unix.OPOST, 0, unix.ICANON|unix.ECHO|unix.ISIG|unix.IEXTEN)
	for _, c := range []struct {
		name    string
		s       Termios
		in, out string
	}{
		{"line", plain, "hello\n", "shown\n"},
		{"two lines", plain, "a\nbc\n", ""},
		{"erase", plain, "abc\x7f\x7fX\n", ""},
		{"erase too much", plain, "a\x7f\x7f\x7fX\n", ""},
		{"erase without echoe", flags(0, 0, 0, 0, 0, unix.ECHOE), "abc\x7f\x7fX\n", ""},
		{"kill", plain, "abc\x15def\n", ""},
		{"kill without echoke", flags(0, 0, 0, 0, 0, unix.ECHOKE), "abc\x15def\n", ""},
		{"kill without echok", flags(0, 0, 0, 0, 0, unix.ECHOK|unix.ECHOKE), "abc\x15def\n", ""},
		{"word", plain, "foo bar_1  \x17baz\n", ""},
		{"word at start", plain, "  \x17baz\n", ""},
		{"literal", plain, "\x16\x03\x16\x7fa\n", ""},
		{"literal newline", plain, "a\x16\nb\n", ""},
		{"control", plain, "\x01\x02\x1b[A\n", ""},
		{"control without echoctl", flags(0, 0, 0, 0, 0, unix.ECHOCTL), "\x01\x02\x7f\x7fx\n", ""},
		{"erase control", plain, "a\x01\x7f\x7fb\n", ""},
		{"erase tab", plain, "ab\tc\x7f\x7fd\n", ""},
		{"erase tab behind prompt", plain, "x\n", "prompt$ "},
		{"reprint", plain, "ab\x12c\n", ""},
		{"end of file in a line", plain, "abc\x04def\n", ""},
		{"end of file", plain, "\x04", ""},
		{"end of file behind line", plain, "abc\n\x04x\n", ""},
		{"eol", withEOL, "a;b:c\n", ""},
		{"carriage return", plain, "a\rb\n", ""},
		{"igncr", flags(unix.IGNCR, 0, 0, 0, 0, 0), "a\rb\n", ""},
		{"inlcr", flags(unix.INLCR, unix.ICRNL, 0, 0, 0, 0), "a\rb\n\x04", ""},
		{"istrip", flags(unix.ISTRIP, 0, 0, 0, 0, 0), "a\xe1\n", ""},
		{"iuclc", flags(iuclc, 0, 0, 0, 0, 0), "aBC\n", ""},
		{"utf-8", flags(unix.IUTF8, 0, 0, 0, 0, 0), "a\u00e9\u20ac\x7f\x7fb\n", ""},
		{"bytes", plain, "a\u00e9\x7fb\n", ""},
		{"parmrk", flags(unix.PARMRK, 0, 0, 0, 0, 0), "a\xffb\n", ""},
		{"no echo", flags(0, 0, 0, 0, 0, unix.ECHO), "secret\n", ""},
		{"echonl", flags(0, 0, 0, 0, unix.ECHONL, unix.ECHO), "secret\n", ""},
		{"raw", raw, "a\r\n\x03\x04\x7f", "x\ty\nz\r"},
		{"raw with isig", flags(0, 0, 0, 0, 0, unix.ICANON), "ab", ""},
		{"noflsh", flags(0, 0, 0, 0, unix.NOFLSH, 0), "abc\x03def\n", ""},
		{"quit", flags(0, 0, 0, 0, unix.NOFLSH, 0), "abc\x1cdef\x1ag\n", ""},
		{"stop and start", plain, "\x13a\x11b\n", ""},
		{"ixany", flags(unix.IXANY, 0, 0, 0, 0, 0), "\x13ab\n", ""},
		{"no ixon", flags(0, unix.IXON, 0, 0, 0, 0), "\x13\x11b\n", ""},
		{"opost off", flags(0, 0, 0, unix.OPOST, 0, 0), "a\n", "x\ty\nz\r"},
		{"onlcr off", flags(0, 0, 0, unix.ONLCR, 0, 0), "a\n", "x\ny"},
		{"ocrnl", flags(0, 0, unix.OCRNL, 0, 0, 0), "a\n", "x\ry\r"},
		{"onocr", flags(0, 0, unix.ONOCR, 0, 0, 0), "a\n", "\rx\ry\n\rz"},
		{"onlret", flags(0, 0, unix.ONLRET, unix.ONLCR, 0, 0), "a\tb\n", "x\n\ty"},
		{"xtabs", flags(0, 0, xtabs, 0, 0, 0), "a\tb\n", "ab\tc\bd\te\x1b\tf\n\t"},
		{"olcuc", flags(0, 0, olcuc, 0, 0, 0), "abc\n", "xYz"},
		{"no iexten", flags(0, 0, 0, 0, 0, unix.IEXTEN), "a \x16b\x17c\n", ""},
	} {
		compare(t, c.name, c.s, c.in, c.out)
	}
}

// TestRandomTypingAgainstHost types at random, with random settings.
func TestRandomTypingAgainstHost(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	keys := []string{"a", "b", "Z", " ", "_", "\t", "\n", "\r", "\x7f", "\x7f", "\x15", "\x17", "\x16", "\x12", "\x01", "\b", "\xff", "\u00e9", "\u20ac"}
	for range 400 {
		s := DefaultTermios()
		flip := func(f *uint32, bits ...uint32) {
			for _, b := range bits {
				if rng.IntN(3) == 0 {
					*f ^= b
				}
			}
		}
		flip(&s.Iflag, unix.ICRNL, unix.INLCR, unix.IGNCR, unix.IUTF8, iuclc, unix.PARMRK)
		flip(&s.Oflag, unix.ONLCR, unix.OCRNL, unix.ONOCR, unix.ONLRET, xtabs, olcuc)
		flip(&s.Lflag, unix.ECHO, unix.ECHOE, unix.ECHOK, unix.ECHOKE, unix.ECHOCTL, unix.ECHONL, unix.IEXTEN)
		// A line that begins where a whole one ended: what IUTF8 makes of
		// torn characters isn't compared.
		var in, out strings.Builder
		for range rng.IntN(40) {
			in.WriteString(keys[rng.IntN(len(keys))])
			out.WriteString(keys[rng.IntN(7)])
		}
		in.WriteString("\x04\x04")
		if !utf8.ValidString(in.String()) {
			s.Iflag &^= unix.IUTF8
		}
		compare(t, "random", s, in.String(), out.String())
		if t.Failed() {
			return
		}
	}
}
