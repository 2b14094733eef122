// Package sockets has the calls on sockets, and encodes their messages. What an
// address or an option means is the matter of the family (package socket).
package sockets

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{messageRows, socketRows}

var socketRows = []call.Row{
	call.Partial(unix.SYS_SOCKET, "socket", call.Args3(socketCall), "the families that are registered"),
	call.Full(unix.SYS_SOCKETPAIR, "socketpair", call.Args4(socketpair)),
	call.Full(unix.SYS_BIND, "bind", call.Args3(bind)),
	call.Full(unix.SYS_LISTEN, "listen", call.Args2(listen)),
	call.Full(unix.SYS_ACCEPT, "accept", call.Args3(accept)),
	call.Full(unix.SYS_ACCEPT4, "accept4", call.Args4(accept4)),
	call.Full(unix.SYS_CONNECT, "connect", call.Args3(connect)),
	call.Full(unix.SYS_GETSOCKNAME, "getsockname", call.Args3(getsockname)),
	call.Full(unix.SYS_GETPEERNAME, "getpeername", call.Args3(getpeername)),
	call.Full(unix.SYS_SHUTDOWN, "shutdown", call.Args2(shutdown)),
	call.Full(unix.SYS_SETSOCKOPT, "setsockopt", call.Args5(setsockopt)),
	call.Full(unix.SYS_GETSOCKOPT, "getsockopt", call.Args5(getsockopt)),
}

// socketAt returns the socket at fd, with its file: EBADF, ENOTSOCK.
func socketAt(t *kernel.Task, fd call.FD) (vfs.InUse, socket.Socket, error) {
	file, err := fd.UseIO(t)
	if err != nil {
		return file, nil, err
	}
	s, err := socket.Of(file.File)
	if err != nil {
		file.DecRef()
	}
	return file, s, err
}

// readAddress reads a sockaddr: EINVAL if its length can't be one's.
func readAddress(t *kernel.Task, a usermem.Addr, n int32) ([]byte, error) {
	if n < 0 || n > socket.MaxAddress {
		return nil, unix.EINVAL
	}
	b := make([]byte, n)
	_, err := t.MM().CopyIn(a, b)
	return b, err
}

// putAddress writes as much of an address as there is room for, and how long
// all of it is: at lenAt, where the room was said.
func putAddress(t *kernel.Task, addr []byte, at, lenAt usermem.Addr) error {
	n, err := usermem.CopyInUint32(t.MM(), lenAt)
	if err != nil {
		return err
	}
	if int32(n) < 0 {
		return unix.EINVAL
	}
	if _, err := t.MM().CopyOut(at, addr[:min(int(n), len(addr))]); err != nil {
		return err
	}
	return usermem.CopyOutUint32(t.MM(), lenAt, uint32(len(addr)))
}

func socketCall(t *kernel.Task, family, typ, protocol int32) (uint64, error) {
	f, err := socket.New(t, int(family), int(typ), int(protocol))
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, typ&unix.SOCK_CLOEXEC != 0)
}

func socketpair(t *kernel.Task, family, typ, protocol int32, fds usermem.Addr) (uint64, error) {
	a, b, err := socket.NewPair(t, int(family), int(typ), int(protocol))
	if err != nil {
		return 0, err
	}
	return 0, call.AddPair(t, a, b, typ&unix.SOCK_CLOEXEC != 0, fds)
}

func bind(t *kernel.Task, fd call.FD, a usermem.Addr, n int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	addr, err := readAddress(t, a, n)
	if err != nil {
		return 0, err
	}
	return 0, s.Bind(t, addr)
}

// maxBacklog is net.core.somaxconn.
const maxBacklog = 4096

func listen(t *kernel.Task, fd call.FD, backlog uint32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, s.Listen(t, int(min(backlog, maxBacklog)))
}

func accept(t *kernel.Task, fd call.FD, a, lenAt usermem.Addr) (uint64, error) {
	return accept4(t, fd, a, lenAt, 0)
}

func accept4(t *kernel.Task, fd call.FD, a, lenAt usermem.Addr, flags uint32) (uint64, error) {
	if flags&^(unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	var n *vfs.File
	timeout, _ := s.Options().Timeouts()
	err = call.WaitFor(t, f.File, call.ReadMask, timeout, f.NonBlocking(), func() (err error) {
		n, err = s.Accept(t, flags&unix.SOCK_NONBLOCK)
		return err
	})
	if err != nil {
		return 0, err
	}
	if a != 0 {
		if err = putPeer(t, n, a, lenAt); err != nil {
			n.DecRef()
			return 0, err
		}
	}
	return call.AddFile(t, n, flags&unix.SOCK_CLOEXEC != 0)
}

// putPeer writes the address of who connected; ECONNABORTED if he has gone.
func putPeer(t *kernel.Task, f *vfs.File, a, lenAt usermem.Addr) error {
	s, err := socket.Of(f)
	if err != nil {
		return err
	}
	addr, err := s.PeerName(t)
	if err != nil {
		return unix.ECONNABORTED
	}
	return putAddress(t, addr, a, lenAt)
}

func connect(t *kernel.Task, fd call.FD, a usermem.Addr, n int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	addr, err := readAddress(t, a, n)
	if err != nil {
		return 0, err
	}
	_, timeout := s.Options().Timeouts()
	err = call.WaitFor(t, f.File, call.WriteMask, timeout, f.NonBlocking(), func() error { return s.Connect(t, addr) })
	if f.NonBlocking() || err != unix.EINPROGRESS && err != unix.EALREADY {
		return 0, err
	}
	// Under way: it is done when the socket is writable.
	end := kernel.Forever
	if timeout > 0 {
		end = call.Deadline(t, timeout)
	}
	err = t.WaitFor(f, call.WriteMask, end, func() error {
		if f.Readiness(call.WriteMask|waiter.Err|waiter.Hup) == 0 {
			return unix.EAGAIN
		}
		return s.Options().TakeError()
	})
	if err == kernel.ErrTimeout {
		return 0, unix.EINPROGRESS
	}
	return 0, call.WaitEnd(err, timeout)
}

func getsockname(t *kernel.Task, fd call.FD, a, lenAt usermem.Addr) (uint64, error) {
	return socketName(t, fd, a, lenAt, socket.Socket.Name)
}

func getpeername(t *kernel.Task, fd call.FD, a, lenAt usermem.Addr) (uint64, error) {
	return socketName(t, fd, a, lenAt, socket.Socket.PeerName)
}

func socketName(t *kernel.Task, fd call.FD, a, lenAt usermem.Addr, name func(socket.Socket, socket.Context) ([]byte, error)) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	addr, err := name(s, t)
	if err != nil {
		return 0, err
	}
	return 0, putAddress(t, addr, a, lenAt)
}

func shutdown(t *kernel.Task, fd call.FD, how int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, s.Shutdown(t, int(how))
}

// maxOption is the longest value of an option.
const maxOption = 64 << 10

func setsockopt(t *kernel.Task, fd call.FD, level, name int32, value usermem.Addr, n int32) (uint64, error) {
	if n < 0 {
		return 0, unix.EINVAL
	}
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	b := make([]byte, min(n, maxOption))
	if _, err := t.MM().CopyIn(value, b); err != nil {
		return 0, err
	}
	return 0, s.SetOption(t, int(level), int(name), b)
}

func getsockopt(t *kernel.Task, fd call.FD, level, name int32, value, lenAt usermem.Addr) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	n, err := usermem.CopyInUint32(t.MM(), lenAt)
	if err != nil {
		return 0, err
	}
	if int32(n) < 0 {
		return 0, unix.EINVAL
	}
	b, err := s.GetOption(t, int(level), int(name))
	if err != nil {
		return 0, err
	}
	b = b[:min(len(b), int(n))]
	if _, err := t.MM().CopyOut(value, b); err != nil {
		return 0, err
	}
	return 0, usermem.CopyOutUint32(t.MM(), lenAt, uint32(len(b)))
}

// brokenPipe sends SIGPIPE for EPIPE of a stream, unless flags say not to.
func brokenPipe(t *kernel.Task, s socket.Socket, flags int32, err error) {
	if err == unix.EPIPE && flags&unix.MSG_NOSIGNAL == 0 && s.Options().Type == unix.SOCK_STREAM {
		t.SendSignal(&signals.Info{Signo: int32(unix.SIGPIPE), Code: signals.CodeUser})
	}
}
