package unix

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/socket"
)

func TestSocketsWithAPath(t *testing.T) {
	mem, acct := fstest.Memory(t, 0)
	fs, err := tmpfs.New(tmpfs.Options{Memory: mem, Account: acct})
	if err != nil {
		t.Fatal(err)
	}
	sys := fstest.New(fs)
	ctx := newTask()
	ctx.view = sys.View()
	addr := func(p string) []byte { return socket.UnixAddress{Name: p}.Bytes() }
	server, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err := of(server).Bind(ctx, addr("sock")); err != nil {
		t.Fatal(err)
	}
	st, err := sys.Stat("sock")
	if err != nil || st.Mode != unix.S_IFSOCK|0o755 {
		t.Fatalf("mode %o, %v", st.Mode, err)
	}
	other, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err := of(other).Bind(ctx, addr("sock")); err != unix.EADDRINUSE {
		t.Errorf("a second bind: %v", err)
	}
	if err := of(other).Connect(ctx, addr("sock")); err != unix.ECONNREFUSED {
		t.Errorf("before listen: %v", err)
	}
	of(server).Listen(ctx, 5)
	sys.Link("sock", "again")
	f, _ := sys.Open("plain", unix.O_CREAT|unix.O_RDWR, 0o644)
	f.Close()
	nobody := ctx.as(7, func(c *auth.Credentials) { c.FSUID, c.FSGID, c.Effective = 99, 99, 0 })
	dgram, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	for _, c := range []struct {
		who  *task
		file string
		want error
	}{{ctx, "missing", unix.ENOENT}, {ctx, "plain", unix.ECONNREFUSED}, {nobody, "sock", unix.EACCES}, {ctx, "again", nil}} {
		if err := of(other).Connect(c.who, addr(c.file)); err != c.want {
			t.Errorf("connect to %s: %v; want %v", c.file, err, c.want)
		}
	}
	if err := of(dgram).Connect(ctx, addr("sock")); err != unix.EPROTOTYPE {
		t.Errorf("a datagram socket to a stream: %v", err)
	}
	if n, err := of(other).PeerName(ctx); err != nil || string(n) != string(addr("sock")) {
		t.Errorf("peer %q, %v", n, err)
	}
	if _, err := sys.OpenFile("sock", unix.O_RDWR, 0); err != unix.ENXIO {
		t.Errorf("open(2): %v", err)
	}
	server.DecRef()
	other.DecRef()
	late, _ := socket.New(ctx, unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err := of(late).Connect(ctx, addr("sock")); err != unix.ECONNREFUSED {
		t.Errorf("after the listener went: %v", err)
	}
	late.DecRef()
	dgram.DecRef()
}
