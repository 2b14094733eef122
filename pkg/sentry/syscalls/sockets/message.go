package sockets

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var messageRows = []call.Row{
	call.Full(unix.SYS_SENDTO, "sendto", call.Args6(sendto)),
	call.Full(unix.SYS_RECVFROM, "recvfrom", call.Args6(recvfrom)),
	call.Full(unix.SYS_SENDMSG, "sendmsg", call.Args3(sendmsg)),
	call.Full(unix.SYS_RECVMSG, "recvmsg", call.Args3(recvmsg)),
	call.Full(unix.SYS_SENDMMSG, "sendmmsg", call.Args4(sendmmsg)),
	call.Full(unix.SYS_RECVMMSG, "recvmmsg", call.Args5(recvmmsg)),
}

// send sends b with m, waiting as long as the socket says. Of a stream all is
// sent where waiting is allowed. It gives up m.Files either way.
func send(t *kernel.Task, f *vfs.File, s socket.Socket, b *usermem.Buffer, m *socket.Send) (uint64, error) {
	defer func() {
		for _, file := range m.Files {
			file.DecRef()
		}
	}()
	_, timeout := s.Options().Timeouts()
	nonblock := f.NonBlocking() || m.Flags&unix.MSG_DONTWAIT != 0
	var done int64
	err := call.WaitFor(t, f, call.WriteMask, timeout, nonblock, func() error {
		n, err := s.Send(t, b, m)
		done += n
		if n > 0 || err == nil {
			m.Files = nil // they are the socket's now
		}
		return err
	})
	if done > 0 {
		return uint64(done), nil
	}
	brokenPipe(t, s, m.Flags, err)
	return 0, err
}

// receive fills b, waiting as long as the socket says. The caller owns m.Files.
func receive(t *kernel.Task, f *vfs.File, s socket.Socket, b *usermem.Buffer, m *socket.Receive) (uint64, error) {
	timeout, _ := s.Options().Timeouts()
	nonblock := f.NonBlocking() || m.Flags&(unix.MSG_DONTWAIT|unix.MSG_ERRQUEUE) != 0
	all := m.Flags&unix.MSG_WAITALL != 0 && m.Flags&(unix.MSG_PEEK|unix.MSG_OOB) == 0 && s.Options().Type == unix.SOCK_STREAM
	m.Flags &^= unix.MSG_WAITALL | unix.MSG_DONTWAIT
	if nonblock {
		m.Flags |= unix.MSG_DONTWAIT
	}
	var done int64
	err := call.WaitFor(t, f, call.ReadMask, timeout, nonblock, func() error {
		part := socket.Receive{Flags: m.Flags, FileRoom: m.FileRoom}
		n, err := s.Receive(t, b, &part)
		if err != nil {
			return err
		}
		if done == 0 {
			*m = part
		} else if part.Files != nil {
			m.Files, m.Credentials = part.Files, part.Credentials
			m.OutFlags |= part.OutFlags
		}
		done += n
		if all && n > 0 && b.Len() > 0 && len(m.Files) == 0 && !nonblock {
			return unix.EAGAIN
		}
		return nil
	})
	if done > 0 {
		err = nil
	}
	return uint64(done), err
}

func sendto(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size, flags int32, to usermem.Addr, toLen int32) (uint64, error) {
	b, err := call.Buffer(t, a, min(n, call.MaxRW))
	if err != nil {
		return 0, err
	}
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	m := socket.Send{Flags: flags}
	if to != 0 {
		if m.To, err = readAddress(t, to, toLen); err != nil {
			return 0, err
		}
	}
	return send(t, f.File, s, b, &m)
}

func recvfrom(t *kernel.Task, fd call.FD, a usermem.Addr, n call.Size, flags int32, from, lenAt usermem.Addr) (uint64, error) {
	b, err := call.Buffer(t, a, min(n, call.MaxRW))
	if err != nil {
		return 0, err
	}
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	m := socket.Receive{Flags: flags}
	got, err := receive(t, f.File, s, b, &m)
	dropFiles(m.Files)
	if err == nil && from != 0 {
		err = putAddress(t, m.From, from, lenAt)
	}
	if err != nil {
		return 0, err
	}
	return got, nil
}

func dropFiles(files []*vfs.File) {
	for _, f := range files {
		f.DecRef()
	}
}

// message is a struct msghdr.
type message struct {
	at         usermem.Addr
	name       usermem.Addr
	nameLen    int32
	iov        *usermem.Buffer
	control    usermem.Addr
	controlLen uint64
}

// Offsets of what recvmsg(2) writes in a struct msghdr, and the sizes of it and
// of struct mmsghdr.
const (
	msgNameLen    = 8
	msgControlLen = 40
	msgFlags      = 48
	msgSize       = 56
	mmsgSize      = 64
	mmsgLen       = 56
)

func readMessage(t *kernel.Task, at usermem.Addr) (*message, error) {
	var b [msgSize]byte
	if _, err := t.MM().CopyIn(at, b[:]); err != nil {
		return nil, err
	}
	m := &message{at: at, name: usermem.Addr(call.U64(b[0:])), nameLen: int32(call.U32(b[msgNameLen:])),
		control: usermem.Addr(call.U64(b[32:])), controlLen: call.U64(b[msgControlLen:])}
	if m.name == 0 {
		m.nameLen = 0
	}
	if m.nameLen < 0 {
		return nil, unix.EINVAL
	}
	m.nameLen = min(m.nameLen, socket.MaxAddress)
	count := call.U64(b[24:])
	if count > 1024 {
		return nil, unix.EMSGSIZE
	}
	var err error
	m.iov, err = call.Vector(t, usermem.Addr(call.U64(b[16:])), int32(count))
	return m, err
}

func sendmsg(t *kernel.Task, fd call.FD, msg usermem.Addr, flags int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return sendMessage(t, f.File, s, msg, flags)
}

func sendMessage(t *kernel.Task, f *vfs.File, s socket.Socket, msg usermem.Addr, flags int32) (uint64, error) {
	h, err := readMessage(t, msg)
	if err != nil {
		return 0, err
	}
	m := socket.Send{Flags: flags}
	if h.name != 0 && h.nameLen > 0 {
		if m.To, err = readAddress(t, h.name, h.nameLen); err != nil {
			return 0, err
		}
	}
	if h.controlLen > 0 {
		if err := readControl(t, s, h, &m); err != nil {
			dropFiles(m.Files)
			return 0, err
		}
	}
	return send(t, f, s, h.iov, &m)
}

// readControl reads the control messages of h into m.
func readControl(t *kernel.Task, s socket.Socket, h *message, m *socket.Send) error {
	if h.controlLen > socket.MaxControl {
		return unix.ENOBUFS
	}
	raw := make([]byte, h.controlLen)
	if _, err := t.MM().CopyIn(h.control, raw); err != nil {
		return err
	}
	all, err := socket.ParseControl(raw)
	if err != nil {
		return err
	}
	family := s.Options().Family
	for _, c := range all {
		switch {
		case c.Level != unix.SOL_SOCKET:
			m.Control = append(m.Control, c)
		case c.Type == unix.SCM_RIGHTS && family == unix.AF_UNIX:
			fds := socket.Descriptors(c.Data)
			if len(fds)+len(m.Files) > socket.MaxFiles {
				return unix.EINVAL
			}
			for _, fd := range fds {
				f, err := call.FD(fd).File(t)
				if err != nil {
					return err
				}
				m.Files = append(m.Files, f)
			}
		case c.Type == unix.SCM_CREDENTIALS && (family == unix.AF_UNIX || family == unix.AF_NETLINK):
			if m.Credentials, err = readCredentials(t, c.Data); err != nil {
				return err
			}
		case family == unix.AF_UNIX:
			return unix.EINVAL
		case c.Type != unix.SCM_RIGHTS && c.Type != unix.SCM_CREDENTIALS:
			m.Control = append(m.Control, c)
		}
	}
	return nil
}

// readCredentials checks that t may say of itself what SCM_CREDENTIALS says
// (unix(7)).
func readCredentials(t *kernel.Task, data []byte) (*socket.Credentials, error) {
	u, err := socket.ParseCredentials(data)
	if err != nil {
		return nil, err
	}
	c := t.Credentials()
	uid, ok := c.UserNS.KUID(u.UID)
	gid, ok2 := c.UserNS.KGID(u.GID)
	if !ok || !ok2 {
		return nil, unix.EINVAL
	}
	ns := t.PIDNamespace()
	if u.PID != t.ThreadGroup().ID(ns) && !c.HasCapIn(unix.CAP_SYS_ADMIN, ns.UserNS) ||
		uid != c.RUID && uid != c.EUID && uid != c.SUID && !c.HasCap(unix.CAP_SETUID) ||
		gid != c.RGID && gid != c.EGID && gid != c.SGID && !c.HasCap(unix.CAP_SETGID) {
		return nil, unix.EPERM
	}
	tg := ns.ThreadGroup(u.PID)
	if tg == nil {
		return nil, unix.ESRCH
	}
	return &socket.Credentials{Process: tg, UID: uid, GID: gid}, nil
}

func recvmsg(t *kernel.Task, fd call.FD, msg usermem.Addr, flags int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	n, _, err := receiveMessage(t, f.File, s, msg, flags)
	return n, err
}

// receiveMessage does recvmsg(2). It returns the flags it stored, too.
func receiveMessage(t *kernel.Task, f *vfs.File, s socket.Socket, msg usermem.Addr, flags int32) (uint64, int32, error) {
	h, err := readMessage(t, msg)
	if err != nil {
		return 0, 0, err
	}
	room := int(min(h.controlLen, socket.MaxControl))
	if h.control == 0 {
		room = 0
	}
	files := room
	if s.Options().PassCred() {
		files -= 32 // a control message with a struct ucred
	}
	m := socket.Receive{Flags: flags &^ unix.MSG_CMSG_CLOEXEC, FileRoom: socket.NewControlWriter(files).FileRoom()}
	n, err := receive(t, f, s, h.iov, &m)
	if err != nil {
		dropFiles(m.Files)
		return 0, 0, err
	}
	w := socket.NewControlWriter(room)
	if m.Credentials != nil {
		w.Put(unix.SOL_SOCKET, unix.SCM_CREDENTIALS, m.Credentials.For(t).Bytes())
	}
	for _, c := range m.Control {
		w.Put(c.Level, c.Type, c.Data)
	}
	putFiles(t, w, m.Files, flags&unix.MSG_CMSG_CLOEXEC != 0)
	out := m.OutFlags | flags&unix.MSG_CMSG_CLOEXEC
	if w.Truncated {
		out |= unix.MSG_CTRUNC
	}
	if h.name != 0 {
		if err := putAddress(t, m.From, h.name, h.at+msgNameLen); err != nil {
			return 0, 0, err
		}
	}
	if _, err := t.MM().CopyOut(h.control, w.Buf); err != nil {
		return 0, 0, err
	}
	if err := usermem.CopyOutUint32(t.MM(), h.at+msgFlags, uint32(out)); err != nil {
		return 0, 0, err
	}
	return n, out, usermem.CopyOutUint64(t.MM(), h.at+msgControlLen, uint64(len(w.Buf)))
}

// putFiles gives files descriptors and puts those into w. What there are no
// descriptors or no room for is dropped.
func putFiles(t *kernel.Task, w *socket.ControlWriter, files []*vfs.File, cloexec bool) {
	if len(files) == 0 {
		return
	}
	var fds []int32
	for i, f := range files {
		if i >= w.FileRoom() {
			dropFiles(files[i:])
			w.Truncated = true
			break
		}
		fd, err := call.AddFile(t, f, cloexec)
		if err != nil {
			dropFiles(files[i+1:])
			w.Truncated = true
			break
		}
		fds = append(fds, int32(fd))
	}
	if len(fds) > 0 {
		w.PutDescriptors(fds)
	}
}

func sendmmsg(t *kernel.Task, fd call.FD, vec usermem.Addr, n uint32, flags int32) (uint64, error) {
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	n = min(n, 1024)
	for i := range n {
		at := vec + usermem.Addr(i)*mmsgSize
		sent, err := sendMessage(t, f.File, s, at, flags)
		if err == nil {
			err = usermem.CopyOutUint32(t.MM(), at+mmsgLen, uint32(sent))
		}
		if err != nil {
			if i > 0 {
				return uint64(i), nil
			}
			return 0, err
		}
	}
	return uint64(n), nil
}

func recvmmsg(t *kernel.Task, fd call.FD, vec usermem.Addr, n uint32, flags int32, timeout usermem.Addr) (uint64, error) {
	limit, err := call.SpecLimit(t, timeout)
	if err != nil {
		return 0, err
	}
	f, s, err := socketAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	if err := s.Options().TakeError(); err != nil {
		return 0, err
	}
	var got uint64
	for got < uint64(n) {
		at := vec + usermem.Addr(got)*mmsgSize
		var size uint64
		var out int32
		size, out, err = receiveMessage(t, f.File, s, at, flags&^unix.MSG_WAITFORONE)
		if err == nil {
			err = usermem.CopyOutUint32(t.MM(), at+mmsgLen, uint32(size))
		}
		if err != nil {
			break
		}
		got++
		if flags&unix.MSG_WAITFORONE != 0 {
			flags |= unix.MSG_DONTWAIT
		}
		// The time is looked at after each message only (recvmmsg(2), BUGS).
		if timeout != 0 && t.Kernel().Clock.Monotonic() >= limit.End || out&unix.MSG_OOB != 0 {
			break
		}
	}
	if got == 0 {
		return 0, err
	}
	if e, ok := err.(unix.Errno); ok && e != unix.EAGAIN && e < kernel.RestartSys {
		s.Options().SetError(e) // for the next call
	}
	return got, limit.Finish(t, nil)
}
