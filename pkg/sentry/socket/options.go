package socket

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/waiter"
)

// Sizes of buffers in bytes (socket(7)): the values of /proc/sys/net/core.
const (
	DefaultBuffer = 212992
	MaxBuffer     = 212992
	minSendBuffer = 4608
	minRecvBuffer = 2304
)

// Options are the options of the level SOL_SOCKET that all families keep alike.
// Safe for concurrent use.
type Options struct {
	// Family, Type and Protocol are constant.
	Family, Type, Protocol int

	mu                 locks.Mutex[locks.Leaf]
	sendBuffer         int
	recvBuffer         int
	lowat              int32
	sendWait, recvWait int64
	linger, lingerTime int32
	flags              map[int]int32 // the plain ones
	passCred           bool
	err                unix.Errno
	peekOffset         int32
}

// NewOptions returns options as a new socket has them.
func NewOptions(family, typ, protocol int) *Options {
	return &Options{Family: family, Type: typ, Protocol: protocol, sendBuffer: DefaultBuffer, recvBuffer: DefaultBuffer,
		lowat: 1, peekOffset: -1}
}

// Timeouts returns SO_RCVTIMEO and SO_SNDTIMEO in nanoseconds; zero is forever.
func (o *Options) Timeouts() (recv, send int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.recvWait, o.sendWait
}

// SendBuffer and RecvBuffer return SO_SNDBUF and SO_RCVBUF.
func (o *Options) SendBuffer() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sendBuffer
}

func (o *Options) RecvBuffer() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.recvBuffer
}

// PassCred returns SO_PASSCRED.
func (o *Options) PassCred() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.passCred
}

// PeekOffset returns SO_PEEK_OFF; negative is off. MovePeekOffset adds n to it,
// not below zero, unless it is off.
func (o *Options) PeekOffset() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int(o.peekOffset)
}

func (o *Options) MovePeekOffset(n int) {
	o.mu.Lock()
	if o.peekOffset >= 0 {
		o.peekOffset = int32(min(max(int(o.peekOffset)+n, 0), math.MaxInt32))
	}
	o.mu.Unlock()
}

// Linger returns SO_LINGER, in seconds.
func (o *Options) Linger() (on bool, seconds int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.linger != 0, int(o.lingerTime)
}

// Flag returns one of the options that are a plain number: SO_REUSEADDR,
// SO_KEEPALIVE, SO_BROADCAST and so on.
func (o *Options) Flag(name int) int32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.flags[name]
}

// SetError makes err the socket's pending error; TakeError returns and clears it.
func (o *Options) SetError(err unix.Errno) {
	o.mu.Lock()
	o.err = err
	o.mu.Unlock()
}

func (o *Options) TakeError() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := o.err
	o.err = 0
	if err == 0 {
		return nil
	}
	return err
}

// ErrorMask returns waiter.Err if an error is pending.
func (o *Options) ErrorMask() waiter.Mask {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != 0 {
		return waiter.Err
	}
	return 0
}

func word(v int32) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

func boolean(b bool) []byte {
	if b {
		return word(1)
	}
	return word(0)
}

func timeval(ns int64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(ns/1e9))
	return binary.LittleEndian.AppendUint64(b, uint64(ns%1e9/1e3))
}

// plain are options whose value is kept and means nothing here, or is asked for
// by Flag. Those that are true are booleans.
var plain = map[int]bool{
	unix.SO_DEBUG: true, unix.SO_REUSEADDR: true, unix.SO_KEEPALIVE: true, unix.SO_DONTROUTE: true,
	unix.SO_BROADCAST: true, unix.SO_OOBINLINE: true, unix.SO_REUSEPORT: true, unix.SO_TIMESTAMP: true,
	unix.SO_TIMESTAMPNS: true, unix.SO_RXQ_OVFL: true, unix.SO_NO_CHECK: true, unix.SO_PASSSEC: true,
	unix.SO_LOCK_FILTER: true, unix.SO_WIFI_STATUS: true, unix.SO_NOFCS: true,
	unix.SO_PRIORITY: false, unix.SO_MARK: false, unix.SO_BUSY_POLL: false, unix.SO_TIMESTAMPING: false,
	unix.SO_INCOMING_CPU: false,
}

// Get answers getsockopt(2) of SOL_SOCKET; ENOPROTOOPT for what the socket must
// answer itself or nobody knows.
func (o *Options) Get(name int) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch name {
	case unix.SO_TYPE:
		return word(int32(o.Type)), nil
	case unix.SO_DOMAIN:
		return word(int32(o.Family)), nil
	case unix.SO_PROTOCOL:
		return word(int32(o.Protocol)), nil
	case unix.SO_ERROR:
		err := o.err
		o.err = 0
		return word(int32(err)), nil
	case unix.SO_SNDBUF:
		return word(int32(o.sendBuffer)), nil
	case unix.SO_RCVBUF:
		return word(int32(o.recvBuffer)), nil
	case unix.SO_RCVLOWAT:
		return word(o.lowat), nil
	case unix.SO_SNDLOWAT:
		return word(1), nil
	case unix.SO_RCVTIMEO:
		return timeval(o.recvWait), nil
	case unix.SO_SNDTIMEO:
		return timeval(o.sendWait), nil
	case unix.SO_LINGER:
		return append(word(o.linger), word(o.lingerTime)...), nil
	case unix.SO_PASSCRED:
		return boolean(o.passCred), nil
	case unix.SO_PEEK_OFF:
		if o.Family != unix.AF_UNIX {
			return nil, unix.EOPNOTSUPP
		}
		return word(o.peekOffset), nil
	}
	if _, ok := plain[name]; ok {
		return word(o.flags[name]), nil
	}
	return nil, unix.ENOPROTOOPT
}

// Set does setsockopt(2) of SOL_SOCKET as far as Get answers.
func (o *Options) Set(ctx Context, name int, value []byte) error {
	if len(value) < 4 {
		return unix.EINVAL
	}
	v := int32(binary.LittleEndian.Uint32(value))
	o.mu.Lock()
	defer o.mu.Unlock()
	switch name {
	case unix.SO_TYPE, unix.SO_DOMAIN, unix.SO_PROTOCOL, unix.SO_ERROR, unix.SO_SNDLOWAT, unix.SO_ACCEPTCONN, unix.SO_PEERCRED:
		return unix.ENOPROTOOPT
	case unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE:
		if !ctx.Credentials().HasRootCap(unix.CAP_NET_ADMIN) {
			return unix.EPERM
		}
		if name == unix.SO_SNDBUFFORCE {
			o.sendBuffer = buffer(v, minSendBuffer, 1<<26)
		} else {
			o.recvBuffer = buffer(v, minRecvBuffer, 1<<26)
		}
	case unix.SO_SNDBUF:
		o.sendBuffer = buffer(v, minSendBuffer, MaxBuffer)
	case unix.SO_RCVBUF:
		o.recvBuffer = buffer(v, minRecvBuffer, MaxBuffer)
	case unix.SO_RCVLOWAT:
		if v < 0 {
			v = math.MaxInt32
		}
		o.lowat = max(v, 1)
	case unix.SO_RCVTIMEO, unix.SO_SNDTIMEO:
		if len(value) < 16 {
			return unix.EINVAL
		}
		sec := int64(binary.LittleEndian.Uint64(value))
		usec := int64(binary.LittleEndian.Uint64(value[8:]))
		if usec < 0 || usec >= 1e6 {
			return unix.EDOM
		}
		ns := int64(0)
		switch {
		case sec < 0:
			ns = 1 // at once, as Linux has it
		case sec < math.MaxInt64/1_000_000_000-1:
			ns = sec*1e9 + usec*1e3
		}
		if name == unix.SO_RCVTIMEO {
			o.recvWait = ns
		} else {
			o.sendWait = ns
		}
	case unix.SO_LINGER:
		if len(value) < 8 {
			return unix.EINVAL
		}
		o.linger = 0
		if v != 0 {
			o.linger, o.lingerTime = 1, int32(binary.LittleEndian.Uint32(value[4:]))
		}
	case unix.SO_PASSCRED:
		o.passCred = v != 0
	case unix.SO_PEEK_OFF:
		if o.Family != unix.AF_UNIX {
			return unix.EOPNOTSUPP
		}
		o.peekOffset = max(v, -1)
	case unix.SO_MARK, unix.SO_PRIORITY, unix.SO_DEBUG:
		privileged := name != unix.SO_PRIORITY || v < 0 || v > 6
		if privileged && (name != unix.SO_DEBUG || v != 0) && !ctx.Credentials().HasCap(unix.CAP_NET_ADMIN) {
			if name == unix.SO_DEBUG {
				return unix.EACCES
			}
			return unix.EPERM
		}
		o.setFlag(name, v)
	default:
		isBool, ok := plain[name]
		if !ok {
			return unix.ENOPROTOOPT
		}
		if isBool && v != 0 {
			v = 1
		}
		o.setFlag(name, v)
	}
	return nil
}

func (o *Options) setFlag(name int, v int32) {
	if o.flags == nil {
		o.flags = map[int]int32{}
	}
	o.flags[name] = v
}

// buffer doubles what was asked for, as Linux does for its own overhead.
func buffer(v int32, least, most int) int {
	return max(2*min(int(uint32(v)&math.MaxInt32), most), least)
}
