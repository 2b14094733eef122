package events

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/epoll"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

var epollRows = []call.Row{
	call.Full(unix.SYS_EPOLL_CREATE, "epoll_create", call.Args1(epollCreate)),
	call.Full(unix.SYS_EPOLL_CREATE1, "epoll_create1", call.Args1(epollCreate1)),
	call.Full(unix.SYS_EPOLL_CTL, "epoll_ctl", call.Args4(epollCtl)),
	call.Full(unix.SYS_EPOLL_WAIT, "epoll_wait", call.Args4(epollWait)),
	call.Full(unix.SYS_EPOLL_PWAIT, "epoll_pwait", call.Args6(epollPwait)),
}

func epollCreate(t *kernel.Task, size int32) (uint64, error) {
	if size <= 0 {
		return 0, unix.EINVAL
	}
	return epollCreate1(t, 0)
}

func epollCreate1(t *kernel.Task, flags uint32) (uint64, error) {
	if flags&^unix.EPOLL_CLOEXEC != 0 {
		return 0, unix.EINVAL
	}
	return call.AddFile(t, epoll.New(t.Credentials()), flags&unix.EPOLL_CLOEXEC != 0)
}

// epollEvent is the size of struct epoll_event, which is packed.
const epollEvent = 12

func epollCtl(t *kernel.Task, epfd call.FD, op int32, fd call.FD, event usermem.Addr) (uint64, error) {
	var ev epoll.Event
	if op != unix.EPOLL_CTL_DEL {
		var b [epollEvent]byte
		if _, err := t.MM().CopyIn(event, b[:]); err != nil {
			return 0, err
		}
		ev = epoll.Event{Events: call.U32(b[:]), Data: call.U64(b[4:])}
	}
	f, err := epfd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	target, err := fd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer target.DecRef()
	if !target.Pollable() {
		return 0, unix.EPERM
	}
	ep := epoll.Of(f.File)
	if ep == nil {
		return 0, unix.EINVAL
	}
	return 0, ep.Control(int(op), int32(fd), target.File, ev)
}

func epollWait(t *kernel.Task, epfd call.FD, events usermem.Addr, most, timeout int32) (uint64, error) {
	if most <= 0 || most > math.MaxInt32/epollEvent {
		return 0, unix.EINVAL
	}
	if r, ok := events.Range(uint64(most) * epollEvent); !ok || r.End > t.MM().Bounds().End {
		return 0, unix.EFAULT
	}
	f, err := epfd.UseIO(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	ep := epoll.Of(f.File)
	if ep == nil {
		return 0, unix.EINVAL
	}
	var room [16]epoll.Event
	evs := room[:]
	if int(most) < len(evs) {
		evs = evs[:most]
	} else if most > 16 {
		// A call may return fewer than it has room for: no more memory than
		// is good for a busy server.
		evs = make([]epoll.Event, min(most, 1024))
	}
	n, err := waitEpoll(t, ep, evs, timeout)
	if n == 0 {
		return 0, err
	}
	b := make([]byte, 0, epollEvent*n)
	for _, e := range evs[:n] {
		b = binary.LittleEndian.AppendUint32(b, e.Events)
		b = binary.LittleEndian.AppendUint64(b, e.Data)
	}
	if _, err := t.MM().CopyOut(events, b); err != nil {
		return 0, err
	}
	return uint64(n), nil
}

// waitEpoll waits for events, up to timeout milliseconds unless that is
// negative. EINTR only where there are none.
func waitEpoll(t *kernel.Task, ep *epoll.Epoll, evs []epoll.Event, timeout int32) (int, error) {
	if n := ep.Wait(evs); n > 0 || timeout == 0 {
		return n, nil
	}
	end := kernel.Forever
	if timeout > 0 {
		end = call.Deadline(t, int64(timeout)*1_000_000)
	}
	ready := new(waiter.Token)
	for {
		// Exclusive: an event wakes one thread. Wait passes on what it leaves,
		// to those who are registered, so that this one must not be any more.
		e := waiter.Entry{Listener: ready, Mask: epoll.WaitMask, Exclusive: true}
		ep.EventRegister(&e)
		n := ep.Wait(evs)
		var err error
		if n == 0 {
			err = t.BlockUntil(ready, end)
		}
		ep.EventUnregister(&e)
		if n == 0 {
			n = ep.Wait(evs)
		}
		switch {
		case n > 0:
			return n, nil
		case err == kernel.ErrTimeout:
			return 0, nil
		case err != nil:
			return 0, unix.EINTR
		}
	}
}

func epollPwait(t *kernel.Task, epfd call.FD, events usermem.Addr, most, timeout int32, set usermem.Addr, size call.Size) (uint64, error) {
	return masked(t, set, size, func() (uint64, error) { return epollWait(t, epfd, events, most, timeout) })
}
