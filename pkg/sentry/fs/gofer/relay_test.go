package gofer

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// relay stands between a client and a server, counts the client's messages and can cut the line.
type relay struct {
	client, server int
	messages       atomic.Int64
	done           sync.WaitGroup
}

// newRelay returns a relay to the server's socket, and the socket for the client.
func newRelay(server int) (*relay, int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, err
	}
	r := &relay{client: p[1], server: server}
	r.done.Add(2)
	go func() {
		defer r.done.Done()
		var head []byte
		rest := 0
		r.pass(r.client, r.server, func(b []byte) {
			for len(b) > 0 {
				if rest > 0 {
					n := min(rest, len(b))
					b, rest = b[n:], rest-n
					continue
				}
				head, b = append(head, b[0]), b[1:]
				if len(head) == 4 {
					rest = int(binary.LittleEndian.Uint32(head)) - 4
					head = head[:0]
					r.messages.Add(1)
				}
			}
		})
	}()
	go func() {
		defer r.done.Done()
		r.pass(r.server, r.client, func([]byte) {})
	}()
	return r, p[0], nil
}

func (r *relay) pass(from, to int, see func([]byte)) {
	defer r.cut()
	buf, control := make([]byte, 1<<16), make([]byte, 4096)
	for {
		n, cn, _, _, err := unix.Recvmsg(from, buf, control, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		see(buf[:n])
		var files []int
		if messages, err := unix.ParseSocketControlMessage(control[:cn]); err == nil {
			for i := range messages {
				if f, err := unix.ParseUnixRights(&messages[i]); err == nil {
					files = append(files, f...)
				}
			}
		}
		var rights []byte
		if len(files) > 0 {
			rights = unix.UnixRights(files...)
		}
		for b := buf[:n]; len(b) > 0 && err == nil; rights = nil {
			n, err = unix.SendmsgN(to, b, rights, nil, unix.MSG_NOSIGNAL)
			b = b[max(n, 0):]
		}
		for _, f := range files {
			unix.Close(f)
		}
		if err != nil {
			return
		}
	}
}

// cut ends the connection on both sides.
func (r *relay) cut() {
	unix.Shutdown(r.client, unix.SHUT_RDWR)
	unix.Shutdown(r.server, unix.SHUT_RDWR)
}

func (r *relay) close() {
	r.cut()
	r.done.Wait()
	unix.Close(r.client)
	unix.Close(r.server)
}
