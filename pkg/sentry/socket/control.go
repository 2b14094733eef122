package socket

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// ControlMessage is one of cmsg(3). Data is what follows the header.
type ControlMessage struct {
	Level, Type int32
	Data        []byte
}

const controlHeader = 16 // sizeof(struct cmsghdr)

// Limits of what is sent along.
const (
	MaxControl = 20480 // /proc/sys/net/core/optmem_max: ENOBUFS beyond
	MaxFiles   = 253   // SCM_MAX_FD: EINVAL beyond
)

func align(n int) int { return (n + 7) &^ 7 }

// ParseControl splits a control buffer. The Data alias b. EINVAL for a length
// that doesn't fit. What is left and too short for a header is ignored.
func ParseControl(b []byte) ([]ControlMessage, error) {
	var all []ControlMessage
	for len(b) >= controlHeader {
		n := binary.LittleEndian.Uint64(b)
		if n < controlHeader || n > uint64(len(b)) {
			return nil, unix.EINVAL
		}
		all = append(all, ControlMessage{
			Level: int32(binary.LittleEndian.Uint32(b[8:])),
			Type:  int32(binary.LittleEndian.Uint32(b[12:])),
			Data:  b[controlHeader:n],
		})
		b = b[min(align(int(n)), len(b)):]
	}
	return all, nil
}

// Descriptors decodes the data of SCM_RIGHTS.
func Descriptors(data []byte) []int32 {
	fds := make([]int32, len(data)/4)
	for i := range fds {
		fds[i] = int32(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return fds
}

// UserCredentials is struct ucred as an application sees it.
type UserCredentials struct {
	PID      int32
	UID, GID uint32
}

// ParseCredentials decodes the data of SCM_CREDENTIALS; EINVAL unless it has
// the right size.
func ParseCredentials(data []byte) (UserCredentials, error) {
	if len(data) != 12 {
		return UserCredentials{}, unix.EINVAL
	}
	le := binary.LittleEndian
	return UserCredentials{int32(le.Uint32(data)), le.Uint32(data[4:]), le.Uint32(data[8:])}, nil
}

// Bytes returns c as struct ucred.
func (c UserCredentials) Bytes() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 12), uint32(c.PID))
	b = binary.LittleEndian.AppendUint32(b, c.UID)
	return binary.LittleEndian.AppendUint32(b, c.GID)
}

// For returns c as ctx's task sees it. A nil c is nobody.
func (c *Credentials) For(ctx Context) UserCredentials {
	if c == nil {
		return UserCredentials{0, 65534, 65534}
	}
	ns := ctx.Credentials().UserNS
	u := UserCredentials{UID: ns.UID(c.UID), GID: ns.GID(c.GID)}
	if c.Process != nil {
		u.PID = ctx.ProcessID(c.Process)
	}
	return u
}

// ControlWriter fills a control buffer of a given size as put_cmsg of Linux
// does.
type ControlWriter struct {
	// Buf is what has been written.
	Buf []byte
	// Truncated says that something didn't fit (MSG_CTRUNC).
	Truncated bool
	room      int
}

// NewControlWriter returns a writer for a buffer of size bytes.
func NewControlWriter(size int) *ControlWriter { return &ControlWriter{room: max(size, 0)} }

// FileRoom returns how many descriptors still fit.
func (w *ControlWriter) FileRoom() int {
	return max(w.room-controlHeader, 0) / 4
}

// Put appends a message, cut to what fits.
func (w *ControlWriter) Put(level, typ int32, data []byte) {
	if w.room < controlHeader {
		w.Truncated = true
		return
	}
	n := controlHeader + len(data)
	if n > w.room {
		w.Truncated = true
		n = w.room
	}
	le := binary.LittleEndian
	w.Buf = le.AppendUint64(w.Buf, uint64(n))
	w.Buf = le.AppendUint32(w.Buf, uint32(level))
	w.Buf = le.AppendUint32(w.Buf, uint32(typ))
	w.Buf = append(w.Buf, data[:n-controlHeader]...)
	space := min(align(n), w.room)
	w.Buf = append(w.Buf, make([]byte, space-n)...)
	w.room -= space
}

// PutDescriptors appends SCM_RIGHTS; the caller has put no more than FileRoom.
func (w *ControlWriter) PutDescriptors(fds []int32) {
	var data []byte
	for _, fd := range fds {
		data = binary.LittleEndian.AppendUint32(data, uint32(fd))
	}
	w.Put(unix.SOL_SOCKET, unix.SCM_RIGHTS, data)
}
