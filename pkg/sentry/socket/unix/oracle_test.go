package unix

import (
	"fmt"
	"math/rand"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// task is a socket.Context without a kernel.
type task struct {
	*vfstest.Context
	net  *socket.Namespace
	view vfs.FSView
}

func newTask() *task {
	Register()
	return &task{Context: vfstest.NewContext(), net: &socket.Namespace{}}
}

func (t *task) Network() *socket.Namespace { return t.net }
func (t *task) View() vfs.FSView           { return t.view }
func (t *task) Umask() uint32              { return 0o022 }
func (t *task) Process() any               { return t.PID }
func (t *task) ProcessID(p any) int32      { return p.(int32) }
func (t *task) FileLimit() uint64          { return 1024 }

// as returns the same task with other credentials and number.
func (t *task) as(pid int32, change func(c *auth.Credentials)) *task {
	n := *t
	ctx := *t.Context
	ctx.PID, ctx.Cred = pid, ctx.Cred.Fork()
	if change != nil {
		change(ctx.Cred)
	}
	n.Context = &ctx
	return &n
}

func sockaddr(name string) []byte {
	if name == "" {
		return nil
	}
	return socket.UnixAddress{Name: name, Abstract: true}.Bytes()
}

// world is a set of sockets, the host's or ours, by number.
type world interface {
	socket(typ int) int
	pair(typ int) (int, int)
	bind(i int, name string) error
	connect(i int, name string) error
	listen(i, backlog int) error
	accept(i int) (int, error)
	close(i int)
	send(i int, p []byte, to string) (int, error)
	recv(i, n, flags int) string
	shutdown(i, how int) error
	poll(i int) uint16
	queued(i int) (int, error)
	name(i int, peer bool) string
	option(i, name int) (int, error)
}

type hostWorld struct{ fds []int }

func (w *hostWorld) add(fd int) int { w.fds = append(w.fds, fd); return len(w.fds) - 1 }
func (w *hostWorld) socket(typ int) int {
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return w.add(fd)
}

func (w *hostWorld) pair(typ int) (int, int) {
	p, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return w.add(p[0]), w.add(p[1])
}

var prefix = fmt.Sprintf("vitrine-test-%d-", os.Getpid())

func hostAddr(name string) unix.Sockaddr { return &unix.SockaddrUnix{Name: "@" + prefix + name} }

func (w *hostWorld) bind(i int, name string) error    { return unix.Bind(w.fds[i], hostAddr(name)) }
func (w *hostWorld) connect(i int, name string) error { return unix.Connect(w.fds[i], hostAddr(name)) }
func (w *hostWorld) listen(i, backlog int) error      { return unix.Listen(w.fds[i], backlog) }
func (w *hostWorld) shutdown(i, how int) error        { return unix.Shutdown(w.fds[i], how) }
func (w *hostWorld) close(i int)                      { unix.Close(w.fds[i]) }

func (w *hostWorld) accept(i int) (int, error) {
	fd, _, err := unix.Accept4(w.fds[i], unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return -1, err
	}
	return w.add(fd), nil
}

func (w *hostWorld) send(i int, p []byte, to string) (int, error) {
	var sa unix.Sockaddr
	if to != "" {
		sa = hostAddr(to)
	}
	return unix.SendmsgN(w.fds[i], p, nil, sa, unix.MSG_NOSIGNAL)
}

func hostName(sa unix.Sockaddr) string {
	if u, ok := sa.(*unix.SockaddrUnix); ok {
		return strings.TrimPrefix(strings.TrimPrefix(u.Name, "@"), prefix)
	}
	return ""
}

func (w *hostWorld) recv(i, n, flags int) string {
	p := make([]byte, n)
	got, _, out, from, err := unix.Recvmsg(w.fds[i], p, nil, flags)
	return fmt.Sprint(got, p[:max(min(got, n), 0)], out&(unix.MSG_TRUNC|unix.MSG_EOR), hostName(from), err)
}

func (w *hostWorld) poll(i int) uint16 {
	p := []unix.PollFd{{Fd: int32(w.fds[i]), Events: unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP}}
	unix.Poll(p, 0)
	return uint16(p[0].Revents)
}

func (w *hostWorld) queued(i int) (int, error) { return unix.IoctlGetInt(w.fds[i], unix.TIOCINQ) }

func (w *hostWorld) name(i int, peer bool) string {
	f := unix.Getsockname
	if peer {
		f = unix.Getpeername
	}
	sa, err := f(w.fds[i])
	return fmt.Sprint(hostName(sa), err)
}

func (w *hostWorld) option(i, name int) (int, error) {
	return unix.GetsockoptInt(w.fds[i], unix.SOL_SOCKET, name)
}

type ourWorld struct {
	t     *task
	files []*vfs.File
}

func (w *ourWorld) add(f *vfs.File) int { w.files = append(w.files, f); return len(w.files) - 1 }

func (w *ourWorld) s(i int) socket.Socket {
	s, err := socket.Of(w.files[i])
	if err != nil {
		panic(err)
	}
	return s
}

func (w *ourWorld) socket(typ int) int {
	f, err := socket.New(w.t, unix.AF_UNIX, typ|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	return w.add(f)
}

func (w *ourWorld) pair(typ int) (int, int) {
	a, b, err := socket.NewPair(w.t, unix.AF_UNIX, typ|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	return w.add(a), w.add(b)
}

func (w *ourWorld) bind(i int, name string) error    { return w.s(i).Bind(w.t, sockaddr(name)) }
func (w *ourWorld) connect(i int, name string) error { return w.s(i).Connect(w.t, sockaddr(name)) }
func (w *ourWorld) listen(i, backlog int) error      { return w.s(i).Listen(w.t, backlog) }
func (w *ourWorld) shutdown(i, how int) error        { return w.s(i).Shutdown(w.t, how) }
func (w *ourWorld) close(i int)                      { w.files[i].DecRef() }

func (w *ourWorld) accept(i int) (int, error) {
	f, err := w.s(i).Accept(w.t, unix.O_NONBLOCK)
	if err != nil {
		return -1, err
	}
	return w.add(f), nil
}

func (w *ourWorld) send(i int, p []byte, to string) (int, error) {
	b := usermem.BytesBuffer(p)
	n, err := w.s(i).Send(w.t, &b, &socket.Send{To: sockaddr(to)})
	if n > 0 && err == unix.EAGAIN {
		err = nil
	}
	return int(n), err
}

func addrName(b []byte) string {
	a, err := socket.ParseUnixAddress(b)
	if err != nil {
		return ""
	}
	return a.Name
}

func (w *ourWorld) recv(i, n, flags int) string {
	p := make([]byte, n)
	b := usermem.BytesBuffer(p)
	m := socket.Receive{Flags: int32(flags) | unix.MSG_DONTWAIT}
	got, err := w.s(i).Receive(w.t, &b, &m)
	if err != nil {
		got = -1
	}
	return fmt.Sprint(got, p[:max(min(int(got), n), 0)], m.OutFlags, addrName(m.From), err)
}

func (w *ourWorld) poll(i int) uint16 {
	return uint16(w.files[i].Readiness(waiter.In | waiter.Out | waiter.RdHup | waiter.Err | waiter.Hup))
}

func (w *ourWorld) queued(i int) (int, error) {
	if _, err := w.files[i].Ioctl(w.t, unix.TIOCINQ, 0); err != nil {
		return 0, err
	}
	v, err := usermem.CopyInUint32(w.t.Mem, 0)
	return int(v), err
}

func (w *ourWorld) name(i int, peer bool) string {
	f := w.s(i).Name
	if peer {
		f = w.s(i).PeerName
	}
	b, err := f(w.t)
	return fmt.Sprint(addrName(b), err)
}

func (w *ourWorld) option(i, name int) (int, error) {
	b, err := w.s(i).GetOption(w.t, unix.SOL_SOCKET, name)
	if err != nil {
		return 0, err
	}
	return int(b[0]), nil
}

// TestSocketsDoWhatLinuxDoes runs random calls on sockets of all types, the
// host's and ours, and compares what each call returned.
func TestSocketsDoWhatLinuxDoes(t *testing.T) {
	types := []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}
	names := []string{"a", "b", "c"}
	for seed := int64(0); seed < 150; seed++ {
		rng := rand.New(rand.NewSource(seed))
		host, ours := &hostWorld{}, &ourWorld{t: newTask()}
		var open []int
		var log []string
		typ := types[rng.Intn(3)]
		for step := 0; step < 250; step++ {
			if len(open) < 2 || len(open) < 7 && rng.Intn(25) == 0 {
				if rng.Intn(10) == 0 {
					typ = types[rng.Intn(3)]
				}
				if rng.Intn(3) == 0 {
					host.pair(typ)
					a, b := ours.pair(typ)
					open = append(open, a, b)
				} else {
					host.socket(typ)
					open = append(open, ours.socket(typ))
				}
				log = append(log, fmt.Sprint("new type ", typ, open))
			}
			k := rng.Intn(len(open))
			i := open[k]
			name := names[rng.Intn(len(names))]
			do := func(w world) string { return "" }
			var what string
			switch op := rng.Intn(40); {
			case op < 3:
				what = fmt.Sprint("bind ", i, name)
				do = func(w world) string { return fmt.Sprint(w.bind(i, name)) }
			case op < 7:
				what = fmt.Sprint("connect ", i, name)
				do = func(w world) string { return fmt.Sprint(w.connect(i, name)) }
			case op < 9:
				n := rng.Intn(3)
				what = fmt.Sprint("listen ", i, n)
				do = func(w world) string { return fmt.Sprint(w.listen(i, n)) }
			case op < 12:
				what = fmt.Sprint("accept ", i)
				do = func(w world) string { n, err := w.accept(i); return fmt.Sprint(n, err) }
			case op < 13 && rng.Intn(2) == 0:
				how := rng.Intn(4)
				what = fmt.Sprint("shutdown ", i, how)
				do = func(w world) string { return fmt.Sprint(w.shutdown(i, how)) }
			case op == 13 && rng.Intn(2) == 0:
				what = fmt.Sprint("close ", i)
				do = func(w world) string { w.close(i); return "" }
				open = append(open[:k], open[k+1:]...)
			case op < 22:
				p := make([]byte, []int{0, 1, 5, 100, 3000}[rng.Intn(5)])
				rng.Read(p)
				to := ""
				if rng.Intn(4) == 0 {
					to = name
				}
				what = fmt.Sprint("send ", i, len(p), to)
				do = func(w world) string {
					n, err := w.send(i, p, to)
					if err != nil {
						n = 0
					}
					return fmt.Sprint(n, err)
				}
			case op < 32:
				n := []int{1, 3, 100, 10000}[rng.Intn(4)]
				flags := []int{0, 0, 0, unix.MSG_PEEK, unix.MSG_TRUNC}[rng.Intn(5)]
				if typ == unix.SOCK_STREAM {
					flags &^= unix.MSG_TRUNC
				}
				what = fmt.Sprint("recv ", i, n, flags)
				do = func(w world) string { return w.recv(i, n, flags) }
			case op < 36:
				what = fmt.Sprint("poll ", i)
				do = func(w world) string { return fmt.Sprintf("%#x", w.poll(i)) }
			case op < 37:
				what = fmt.Sprint("queued ", i)
				do = func(w world) string { n, err := w.queued(i); return fmt.Sprint(n, err) }
			case op < 39:
				peer := op == 38
				what = fmt.Sprint("name ", i, peer)
				do = func(w world) string { return w.name(i, peer) }
			case op == 39:
				o := []int{unix.SO_ERROR, unix.SO_TYPE, unix.SO_ACCEPTCONN, unix.SO_DOMAIN}[rng.Intn(4)]
				what = fmt.Sprint("option ", i, o)
				do = func(w world) string { n, err := w.option(i, o); return fmt.Sprint(n, err) }
			}
			want, got := do(host), do(ours)
			log = append(log, what+" = "+want)
			if got != want {
				t.Fatalf("seed %d step %d: %s\ngot   %.200s\nLinux %.200s\nafter:\n%.2500s", seed, step, what, got, want,
					strings.Join(log[max(0, len(log)-40):], "\n"))
			}
			if strings.HasPrefix(what, "accept") && !strings.HasPrefix(want, "-1") {
				open = append(open, len(ours.files)-1)
			}
		}
		for _, i := range open {
			host.close(i)
			ours.close(i)
		}
		if used := ours.t.Cred.Account.Heap(); used != 0 {
			t.Errorf("seed %d: %d bytes still charged", seed, used)
		}
	}
}
