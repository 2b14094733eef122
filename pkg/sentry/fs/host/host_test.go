package host

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// patience is how long a test waits for what is to come at once.
const patience = 20 * time.Second

// open returns a file for fd with a listener for mask.
func open(t *testing.T, p *Poller, fd int, kind uint32, mask waiter.Mask) (stream, waiter.ChannelListener) {
	t.Helper()
	f := &file{poller: p, fd: fd, kind: kind, pollable: true}
	t.Cleanup(func() { f.Release(nil) })
	told := waiter.NewChannelListener()
	e := &waiter.Entry{Listener: told, Mask: mask}
	f.EventRegister(e)
	t.Cleanup(func() { f.EventUnregister(e) })
	return stream{f}, told
}

func poller(t *testing.T) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wait(t *testing.T, told waiter.ChannelListener) {
	t.Helper()
	select {
	case <-told:
	case <-time.After(patience):
		t.Fatal("nobody was told")
	}
}

// Who has registered once writes much more than the pipe holds: he is told each time
// that there is room, after a part as after nothing.
func TestRoomIsToldOfEachTime(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(w.Fd())) // in blocking mode, as engines' pipes are
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, int64(len(data))))
		got <- b
	}()
	f, told := open(t, poller(t), fd, unix.S_IFIFO, waiter.Writable)
	for left := data; len(left) > 0; {
		b := usermem.BytesBuffer(left)
		n, err := f.Write(nil, nil, &b)
		if err != nil && err != unix.EAGAIN {
			t.Fatal(err)
		}
		if left = left[n:]; len(left) > 0 {
			wait(t, told)
		}
	}
	if b := <-got; !bytes.Equal(b, data) {
		t.Errorf("%d bytes came through", len(b))
	}
}

// Who waits for input of what is always writable is told of each input, and of the
// end.
func TestInputIsToldOfEachTime(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, told := open(t, poller(t), fds[0], unix.S_IFSOCK, waiter.Readable)
	read := func() (string, error) {
		buf := make([]byte, 16)
		b := usermem.BytesBuffer(buf)
		n, err := f.Read(nil, nil, &b)
		return string(buf[:n]), err
	}
	if _, err := read(); err != unix.EAGAIN {
		t.Fatalf("an empty socket: %v", err)
	}
	for _, word := range []string{"one", "two", "three"} {
		if _, err := unix.Write(fds[1], []byte(word)); err != nil {
			t.Fatal(err)
		}
		wait(t, told)
		if got, err := read(); got != word || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		for { // more than one token may come of one change
			select {
			case <-told:
				continue
			default:
			}
			break
		}
	}
	unix.Close(fds[1])
	wait(t, told)
	if got, err := read(); got != "" || err != nil {
		t.Errorf("at the end: %q, %v", got, err)
	}
}
