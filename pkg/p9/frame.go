package p9

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// begin starts a message in b's memory: the header, its size still open.
func begin(b []byte, kind uint8, tag uint16) []byte {
	return append(b[:0], 0, 0, 0, 0, kind, byte(tag), byte(tag>>8))
}

// finish puts the size in.
func finish(b []byte) { binary.LittleEndian.PutUint32(b, uint32(len(b))) }

// sendAll writes b to a stream socket, whole, with file (if not negative) riding on its first byte. The caller
// holds what keeps messages apart.
func sendAll(socket int, b []byte, file int) error {
	var rights []byte
	if file >= 0 {
		rights = unix.UnixRights(file)
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(socket, b, rights, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			if err := waitFor(socket, unix.POLLOUT); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		b, rights = b[n:], nil
	}
	return nil
}

// waitFor blocks until a non-blocking socket is ready. A socket given to this package may be either kind.
func waitFor(socket int, events int16) error {
	p := []unix.PollFd{{Fd: int32(socket), Events: events}}
	for {
		if _, err := unix.Poll(p, -1); err != unix.EINTR {
			return err
		}
	}
}

// inbox cuts a stream into messages. It reads as much as there is, up to its size, and grows to the message
// at hand when that is larger. It has one user at a time.
type inbox struct {
	socket     int
	wantRights bool // accept descriptors; without, the kernel drops them
	buf        []byte
	start, end int   // unread part of buf
	files      []int // lostFile for one that came and found no room
	control    []byte
}

const inboxSize = 16 << 10

// queued is the next message, whole, if it is already here. It stays valid until fill.
func (in *inbox) queued(limit uint32) (message []byte, err error) {
	b := in.buf[in.start:in.end]
	if len(b) < 4 {
		return nil, nil
	}
	size := binary.LittleEndian.Uint32(b)
	if size < HeaderSize || size > limit {
		return nil, unix.EPROTO
	}
	if uint64(len(b)) < uint64(size) {
		return nil, nil
	}
	in.start += int(size)
	return b[:size:size], nil
}

// fill reads once from the socket. Messages given out before are invalid afterwards. The end of the stream
// is EPIPE.
func (in *inbox) fill() error {
	if in.start == in.end {
		in.start, in.end = 0, 0
	}
	if in.buf == nil {
		in.buf = make([]byte, inboxSize)
	}
	need := 0
	if in.end-in.start >= 4 {
		need = int(binary.LittleEndian.Uint32(in.buf[in.start:])) // queued has checked it against the limit
	}
	if need > len(in.buf) {
		larger := make([]byte, need)
		in.end = copy(larger, in.buf[in.start:in.end])
		in.start, in.buf = 0, larger
	} else if in.start > 0 && (need > len(in.buf)-in.start || len(in.buf)-in.end < 4) {
		in.end = copy(in.buf, in.buf[in.start:in.end])
		in.start = 0
	}
	for {
		n, err := in.receive(in.buf[in.end:])
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			if err := waitFor(in.socket, unix.POLLIN); err != nil {
				return err
			}
		case err != nil:
			return err
		case n == 0:
			return unix.EPIPE
		default:
			in.end += n
			return nil
		}
	}
}

// maxRights is SCM_MAX_FD: the most descriptors one message of the socket can bring.
const maxRights = 253

// maxQueuedFiles bounds the descriptors that wait for their message.
const maxQueuedFiles = 1024

func (in *inbox) receive(b []byte) (int, error) {
	if !in.wantRights {
		return unix.Read(in.socket, b)
	}
	if in.control == nil {
		in.control = make([]byte, unix.CmsgSpace(4*maxRights))
	}
	n, controlLen, flags, _, err := unix.Recvmsg(in.socket, b, in.control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return n, err
	}
	if flags&unix.MSG_CTRUNC != 0 && controlLen == 0 {
		// This process has as many open files as it may. The place in the queue stays: the next descriptor is
		// another message's.
		in.files = append(in.files, lostFile)
	}
	messages, err := unix.ParseSocketControlMessage(in.control[:controlLen])
	if err != nil {
		return 0, err
	}
	for i := range messages {
		if files, err := unix.ParseUnixRights(&messages[i]); err == nil {
			in.files = append(in.files, files...)
		}
	}
	if len(in.files) > maxQueuedFiles {
		return 0, unix.EPROTO
	}
	return n, nil
}

// lostFile stands for a descriptor that there was no room for.
const lostFile = -1

// file takes the descriptor that belongs to the message at hand, or lostFile; ok is false if the peer sent none.
// Descriptors ride on their message's first byte, so they stand in the queue in the order of the messages that
// announce them.
func (in *inbox) file() (f int, ok bool) {
	if len(in.files) == 0 {
		return lostFile, false
	}
	f = in.files[0]
	in.files = in.files[:copy(in.files, in.files[1:])]
	return f, true
}

// close closes the descriptors nobody took.
func (in *inbox) close() {
	for _, f := range in.files {
		if f != lostFile {
			unix.Close(f)
		}
	}
	in.files = nil
}
