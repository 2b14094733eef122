package unix

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/pipe"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

func pair(t *testing.T, ctx *task, typ int) (a, b *vfs.File) {
	t.Helper()
	a, b, err := socket.NewPair(ctx, unix.AF_UNIX, typ, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func of(f *vfs.File) *Socket { return f.Impl().(*Socket) }

func send(ctx *task, f *vfs.File, s string, m *socket.Send) (int64, error) {
	b := usermem.BytesBuffer([]byte(s))
	return of(f).Send(ctx, &b, m)
}

func recv(ctx *task, f *vfs.File, n int, m *socket.Receive) (string, error) {
	p := make([]byte, n)
	b := usermem.BytesBuffer(p)
	got, err := of(f).Receive(ctx, &b, m)
	return string(p[:min(int(got), n)]), err
}

func newPipe(ctx *task) (r, w *vfs.File) { return pipe.New(ctx.Cred, 0) }

func TestFilesComeWithTheirBytes(t *testing.T) {
	for _, typ := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		ctx := newTask()
		a, b := pair(t, ctx, typ)
		r, w := newPipe(ctx)
		if typ == unix.SOCK_STREAM {
			send(ctx, a, "before", &socket.Send{})
		}
		if n, err := send(ctx, a, "hello", &socket.Send{Files: []*vfs.File{r, w}}); n != 5 || err != nil {
			t.Fatal(n, err)
		}
		send(ctx, a, "after", &socket.Send{})
		m := socket.Receive{Flags: unix.MSG_PEEK, FileRoom: 1}
		if typ == unix.SOCK_STREAM {
			// The read stops where the files' message ends.
			if s, err := recv(ctx, b, 6, &socket.Receive{}); s != "before" || err != nil {
				t.Fatalf("%q, %v", s, err)
			}
		}
		if s, err := recv(ctx, b, 100, &m); s != "hello" || err != nil || len(m.Files) != 1 || m.OutFlags != unix.MSG_CTRUNC {
			t.Fatalf("type %d: peek %q, %v, %+v", typ, s, err, m)
		}
		m.Files[0].DecRef()
		m = socket.Receive{FileRoom: 2}
		if s, err := recv(ctx, b, 100, &m); s != "hello" || err != nil || len(m.Files) != 2 || m.OutFlags != 0 {
			t.Fatalf("type %d: %q, %v, %+v", typ, s, err, m)
		}
		if m.Files[0] != r || m.Files[1] != w || r.References() != 1 {
			t.Errorf("type %d: other files, or %d references", typ, r.References())
		}
		m.Files[0].DecRef()
		m.Files[1].DecRef()
		if s, _ := recv(ctx, b, 100, &socket.Receive{}); s != "after" {
			t.Errorf("type %d: %q", typ, s)
		}
		a.DecRef()
		b.DecRef()
		if len(flight.users) != 0 {
			t.Errorf("still in flight: %v", flight.users)
		}
	}
}

func TestFilesNobodyReadAreClosed(t *testing.T) {
	ctx := newTask()
	a, b := pair(t, ctx, unix.SOCK_DGRAM)
	r, w := newPipe(ctx)
	send(ctx, a, "", &socket.Send{Files: []*vfs.File{w}})
	b.DecRef()
	if m := r.Readiness(waiter.Hup); m != waiter.Hup {
		t.Error("the file outlived the socket it was sent to")
	}
	r.DecRef()
	// A failed send leaves the references where they were.
	r, w = newPipe(ctx)
	if _, err := send(ctx, a, "x", &socket.Send{Files: []*vfs.File{w}}); err == nil || w.References() != 1 {
		t.Errorf("send to nobody: %v, %d references", err, w.References())
	}
	r.DecRef()
	w.DecRef()
	a.DecRef()
}

// TestCyclesAreCollected sends sockets over each other and closes them: nothing
// may be left but what is reachable.
func TestCyclesAreCollected(t *testing.T) {
	ctx := newTask()
	probe := func() (r, w *vfs.File) { return newPipe(ctx) }
	t.Run("itself", func(t *testing.T) {
		a, b := pair(t, ctx, unix.SOCK_STREAM)
		r, w := probe()
		b.IncRef()
		send(ctx, a, "x", &socket.Send{Files: []*vfs.File{b, w}}) // b into b's inbox
		b.DecRef()
		if r.Readiness(0) != 0 {
			t.Fatal("gone too early")
		}
		a.DecRef()
		if r.Readiness(0) != waiter.Hup {
			t.Error("a socket in its own inbox was not collected")
		}
	})
	t.Run("two pairs", func(t *testing.T) {
		a, b := pair(t, ctx, unix.SOCK_SEQPACKET)
		c, d := pair(t, ctx, unix.SOCK_STREAM)
		r, w := probe()
		send(ctx, a, "x", &socket.Send{Files: []*vfs.File{d}}) // d into b
		b.IncRef()
		send(ctx, c, "x", &socket.Send{Files: []*vfs.File{b, w}})
		a.DecRef()
		if r.Readiness(0) != 0 {
			t.Error("collected though nothing was cut off")
		}
		b.DecRef()
		c.DecRef()
		if r.Readiness(0) != waiter.Hup {
			t.Error("two sockets in each other's inboxes were not collected")
		}
	})
	t.Run("reachable", func(t *testing.T) {
		a, b := pair(t, ctx, unix.SOCK_STREAM)
		c, d := pair(t, ctx, unix.SOCK_STREAM)
		r, w := probe()
		send(ctx, a, "x", &socket.Send{Files: []*vfs.File{d}}) // b holds d
		send(ctx, c, "x", &socket.Send{Files: []*vfs.File{w}}) // d holds w
		other, _ := pair(t, ctx, unix.SOCK_DGRAM)
		other.DecRef() // runs the collector
		c.DecRef()
		m := socket.Receive{FileRoom: 5}
		if _, err := recv(ctx, b, 1, &m); err != nil || len(m.Files) != 1 || m.Files[0] != d {
			t.Fatal(err, m.Files)
		}
		m = socket.Receive{FileRoom: 5}
		if _, err := recv(ctx, d, 1, &m); err != nil || len(m.Files) != 1 || r.Readiness(0) != 0 {
			t.Fatal("a reachable file was collected", err)
		}
	})
	t.Run("long chain", func(t *testing.T) {
		if locks.Checked {
			t.Skip("takes minutes with checked locks")
		}
		// Each socket's inbox holds the one before: closing the last
		// releases all, without a recursion as deep.
		r, w := probe()
		last := w
		for range 1200 {
			a, b := pair(t, ctx, unix.SOCK_DGRAM)
			if _, err := send(ctx, a, "", &socket.Send{Files: []*vfs.File{last}}); err != nil {
				t.Fatal(err)
			}
			a.DecRef()
			last = b
		}
		last.DecRef()
		if r.Readiness(0) != waiter.Hup {
			t.Error("the chain was not released")
		}
	})
	if len(flight.sockets) != 0 && t.Failed() {
		t.Log(flight.sockets)
	}
}

func TestFilesInFlightAreLimited(t *testing.T) {
	ctx := newTask().as(5, func(c *auth.Credentials) { c.RUID = 77; c.Effective = 0 })
	a, b := pair(t, ctx, unix.SOCK_STREAM)
	_, w := newPipe(ctx)
	var err error
	sent := 0
	for ; err == nil && sent < 3000; sent++ {
		for range 4 {
			w.IncRef()
		}
		_, err = send(ctx, a, "x", &socket.Send{Files: []*vfs.File{w, w, w, w}})
		if err == unix.EAGAIN {
			t.Fatal("full before the limit")
		}
	}
	if err != unix.ETOOMANYREFS || sent != 1024/4+2 {
		t.Errorf("after %d: %v", sent, err)
	}
	a.DecRef()
	b.DecRef()
}

func TestCredentials(t *testing.T) {
	ctx := newTask()
	alice := ctx.as(10, func(c *auth.Credentials) { c.RUID, c.EUID, c.RGID = 1000, 1000, 100 })
	bob := ctx.as(11, func(c *auth.Credentials) { c.RUID, c.EUID = 1001, 1001 })
	a, b := pair(t, ctx, unix.SOCK_STREAM)
	send(alice, a, "plain", &socket.Send{})
	of(b).SetOption(ctx, unix.SOL_SOCKET, unix.SO_PASSCRED, []byte{1, 0, 0, 0})
	send(alice, a, "one", &socket.Send{})
	send(alice, a, "two", &socket.Send{})
	send(bob, a, "three", &socket.Send{})
	for _, want := range []struct {
		text string
		cred socket.UserCredentials
	}{{"plain", socket.UserCredentials{PID: 0, UID: 65534, GID: 65534}}, {"onetwo", socket.UserCredentials{PID: 10, UID: 1000, GID: 100}}, {"three", socket.UserCredentials{PID: 11, UID: 1001, GID: 0}}} {
		var m socket.Receive
		s, err := recv(ctx, b, 100, &m)
		if s != want.text || err != nil || m.Credentials.For(ctx) != want.cred {
			t.Errorf("%q, %v, %+v; want %+v", s, err, m.Credentials, want)
		}
	}
	a.DecRef()
	b.DecRef()

	server, _ := socket.New(alice, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	client, _ := socket.New(bob, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	of(server).Bind(alice, sockaddr("s"))
	of(server).Listen(alice, 1)
	if err := of(client).Connect(bob, sockaddr("s")); err != nil {
		t.Fatal(err)
	}
	accepted, err := of(server).Accept(alice, 0)
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[*vfs.File]socket.UserCredentials{client: {PID: 10, UID: 1000, GID: 0}, accepted: {PID: 11, UID: 1001, GID: 0}} {
		if got, err := of(f).GetOption(ctx, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil || string(got) != string(want.Bytes()) {
			t.Errorf("SO_PEERCRED %x, %v; want %x", got, err, want.Bytes())
		}
		f.DecRef()
	}
	server.DecRef()
}

func TestConnectWaitsForRoomInTheBacklog(t *testing.T) {
	ctx := newTask()
	server, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	of(server).Bind(ctx, sockaddr("s"))
	of(server).Listen(ctx, 0)
	first, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err := of(first).Connect(ctx, sockaddr("s")); err != nil {
		t.Fatal(err)
	}
	second, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	waits := ctx.as(2, nil)
	done := make(chan error)
	go func() {
		done <- vfs.BlockOn(waits, second, waiter.Writable, false, func() error { return of(second).Connect(waits, sockaddr("s")) })
	}()
	<-waits.Blocked
	if _, err := of(server).Accept(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// A listener that goes resets who waits to be accepted.
	server.DecRef()
	if _, err := recv(ctx, second, 1, &socket.Receive{}); err != unix.ECONNRESET {
		t.Errorf("after the listener went: %v", err)
	}
	first.DecRef()
	second.DecRef()
}

func TestDatagramSenderWaitsForRoom(t *testing.T) {
	ctx := newTask()
	server, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	of(server).Bind(ctx, sockaddr("d"))
	client, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	of(client).Connect(ctx, sockaddr("d"))
	n := 0
	for ; ; n++ {
		if _, err := send(ctx, client, "x", &socket.Send{}); err != nil {
			break
		}
	}
	if n != maxDatagrams+1 || client.Readiness(waiter.Out) != 0 {
		t.Fatalf("%d datagrams, then %#x", n, client.Readiness(waiter.Out))
	}
	waits := ctx.as(2, nil)
	done := make(chan error)
	go func() {
		done <- vfs.BlockOn(waits, client, waiter.Writable, false, func() error { _, err := send(waits, client, "y", &socket.Send{}); return err })
	}()
	<-waits.Blocked
	recv(ctx, server, 1, &socket.Receive{})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	server.DecRef()
	client.DecRef()
}

func TestStreamBetweenTwoTasks(t *testing.T) {
	ctx := newTask()
	a, b := pair(t, ctx, unix.SOCK_STREAM)
	const total = 3 << 20
	text := strings.Repeat("0123456789", total/10)
	go func() {
		w := ctx.as(2, nil)
		buf := usermem.BytesBuffer([]byte(text))
		vfs.BlockOn(w, a, waiter.Writable, false, func() error { _, err := a.Write(w, &buf); return err })
		a.DecRef()
	}()
	var got strings.Builder
	for {
		p := make([]byte, 70000)
		var n int64
		err := vfs.BlockOn(ctx, b, waiter.Readable, false, func() (err error) {
			buf := usermem.BytesBuffer(p)
			n, err = b.Read(ctx, &buf)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		got.Write(p[:n])
	}
	if got.String() != text {
		t.Errorf("%d bytes that differ", got.Len())
	}
	b.DecRef()
	if used := ctx.Cred.Account.Heap(); used != 0 {
		t.Errorf("%d bytes still charged", used)
	}
}

func TestUnknownKindsAreRefused(t *testing.T) {
	ctx := newTask()
	for _, c := range []struct {
		family, typ, protocol int
		want                  error
	}{
		{unix.AF_UNIX, unix.SOCK_RDM, 0, unix.ESOCKTNOSUPPORT},
		{unix.AF_UNIX, unix.SOCK_STREAM, 5, unix.EPROTONOSUPPORT},
		{unix.AF_UNIX, 15, 0, unix.EINVAL},
		{unix.AF_UNIX, unix.SOCK_STREAM | 0x10, 0, unix.EINVAL},
		{unix.AF_APPLETALK, unix.SOCK_STREAM, 0, unix.EAFNOSUPPORT},
		{1000, unix.SOCK_STREAM, 0, unix.EAFNOSUPPORT},
	} {
		if _, err := socket.New(ctx, c.family, c.typ, c.protocol); err != c.want {
			t.Errorf("%d, %d, %d: %v; want %v", c.family, c.typ, c.protocol, err, c.want)
		}
	}
}

func BenchmarkStreamOneByte(b *testing.B) {
	ctx := newTask()
	x, y, _ := socket.NewPair(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	p := []byte{1}
	var buf usermem.Buffer
	b.ReportAllocs()
	for b.Loop() {
		buf = usermem.BytesBuffer(p)
		x.Write(ctx, &buf)
		buf = usermem.BytesBuffer(p)
		y.Read(ctx, &buf)
	}
}
