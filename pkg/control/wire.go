package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// wireVersion is in every frame: "VT" and a number that changes with
	// code.go.
	wireVersion uint32 = 0x5654_0003

	headerSize = 16
	// maxBody is more than the largest config.json that runsc takes.
	maxBody = 64 << 20
	// maxFiles is how many descriptors one frame may carry.
	maxFiles = 4096
	// filesPerMessage is below the kernel's SCM_MAX_FD (253).
	filesPerMessage = 250
)

// A frame is a header of four little-endian words (version, kind, length of the
// body, number of descriptors), for each filesPerMessage descriptors behind the
// first that many one more byte, and the body. Kind is the method in a request,
// and replyOK or replyError in an answer.
type frame struct {
	kind  uint32
	body  []byte
	files []*os.File
}

const (
	replyOK    uint32 = 0
	replyError uint32 = 1
)

// conn is a connected, non-blocking unix stream socket.
type conn struct {
	file *os.File
	raw  syscall.RawConn
}

// newConn takes fd over.
func newConn(fd int) (*conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("control socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "control")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &conn{file: f, raw: raw}, nil
}

func (c *conn) close() { c.file.Close() }

// send writes a frame. The files stay the caller's.
func (c *conn) send(f *frame) error {
	if len(f.body) > maxBody || len(f.files) > maxFiles {
		return fmt.Errorf("message of %d bytes with %d descriptors is too large", len(f.body), len(f.files))
	}
	head := make([]byte, headerSize, headerSize+len(f.body))
	binary.LittleEndian.PutUint32(head[0:], wireVersion)
	binary.LittleEndian.PutUint32(head[4:], f.kind)
	binary.LittleEndian.PutUint32(head[8:], uint32(len(f.body)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(f.files)))
	files := f.files
	if len(files) <= filesPerMessage {
		return c.write(append(head, f.body...), files)
	}
	if err := c.write(head, files[:filesPerMessage]); err != nil {
		return err
	}
	for files = files[filesPerMessage:]; len(files) > 0; {
		n := min(len(files), filesPerMessage)
		if err := c.write([]byte{0}, files[:n]); err != nil {
			return err
		}
		files = files[n:]
	}
	return c.write(f.body, nil)
}

// write sends all of b; files go with its first byte.
func (c *conn) write(b []byte, files []*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Not Fd: it makes the open file, which others share, blocking.
			raw, err := f.SyscallConn()
			if err != nil {
				return err
			}
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		rights = unix.UnixRights(fds...)
	}
	var sendErr error
	err := c.raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			n, err := unix.SendmsgN(int(fd), b, rights, nil, unix.MSG_NOSIGNAL)
			switch err {
			case nil:
				b, rights = b[n:], nil
			case unix.EINTR:
			case unix.EAGAIN:
				return false
			default:
				sendErr = err
				return true
			}
		}
		return true
	})
	if err == nil {
		err = sendErr
	}
	return err
}

// receive reads a frame, whose files are the caller's. At the end of the
// connection, between frames, it returns io.EOF.
func (c *conn) receive() (*frame, error) {
	f := &frame{}
	if err := c.receiveInto(f); err != nil {
		for _, file := range f.files {
			file.Close()
		}
		return nil, err
	}
	return f, nil
}

func (c *conn) receiveInto(f *frame) error {
	head := make([]byte, headerSize)
	if err := c.readFull(head, f); err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint32(head); v != wireVersion {
		return fmt.Errorf("control message of version %#x, not %#x: runsc and sentry are of different builds", v, wireVersion)
	}
	f.kind = binary.LittleEndian.Uint32(head[4:])
	length := binary.LittleEndian.Uint32(head[8:])
	nfiles := binary.LittleEndian.Uint32(head[12:])
	if length > maxBody || nfiles > maxFiles {
		return fmt.Errorf("control message of %d bytes with %d descriptors is too large", length, nfiles)
	}
	if extra := (int(nfiles)+filesPerMessage-1)/filesPerMessage - 1; extra > 0 {
		// Each byte read alone: a message's descriptors come with it.
		for i := 0; i < extra; i++ {
			if err := c.readFull(make([]byte, 1), f); err != nil {
				return unexpected(err)
			}
		}
	}
	f.body = make([]byte, length)
	if err := c.readFull(f.body, f); err != nil {
		return unexpected(err)
	}
	if len(f.files) != int(nfiles) {
		return fmt.Errorf("control message has %d descriptors, not %d", len(f.files), nfiles)
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readFull fills b and adds the descriptors that come along to f.
func (c *conn) readFull(b []byte, f *frame) error {
	if len(b) == 0 {
		return nil
	}
	var oob []byte
	var recvErr error
	got := 0
	err := c.raw.Read(func(fd uintptr) bool {
		if oob == nil {
			oob = make([]byte, unix.CmsgSpace(filesPerMessage*4))
		}
		for got < len(b) {
			n, oobn, flags, _, err := unix.Recvmsg(int(fd), b[got:], oob, unix.MSG_CMSG_CLOEXEC)
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false
			case err != nil:
				recvErr = err
				return true
			}
			if oobn > 0 {
				if recvErr = takeRights(oob[:oobn], f); recvErr != nil {
					return true
				}
			}
			if flags&unix.MSG_CTRUNC != 0 {
				recvErr = errors.New("descriptors of a control message were lost: too many open files")
				return true
			}
			if n == 0 {
				recvErr = io.EOF
				if got > 0 {
					recvErr = io.ErrUnexpectedEOF
				}
				return true
			}
			got += n
		}
		return true
	})
	if err == nil {
		err = recvErr
	}
	return err
}

// takeRights adds the descriptors in oob to f.
func takeRights(oob []byte, f *frame) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("control message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // not SCM_RIGHTS
		}
		for _, fd := range fds {
			f.files = append(f.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if len(f.files) > maxFiles {
		return errors.New("control message has too many descriptors")
	}
	return nil
}
