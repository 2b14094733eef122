// Package socket is what all kinds of sockets share: what a socket can be asked,
// how addresses and control messages are laid out, options that every family
// has, and the register of families.
//
// A family is a package that calls Register; New makes a socket of it. The file
// of a socket has an implementation that is a Socket. No method blocks: what
// can't be done yet returns EAGAIN, and the caller waits, for as long as
// Options say, through waiter.Waitable. Connect returns EINPROGRESS once, where
// Linux does, and EALREADY after that; it is done when the socket is writable.
// A Send that took a part of a stream returns how much, with EAGAIN. EPIPE
// means that the caller sends SIGPIPE unless told not to.
//
// Options has a lock, which is a leaf.
//
// The package knows nothing of descriptors: files come and go as *vfs.File with
// a reference.
package socket

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Context is the task that makes a call.
type Context interface {
	vfs.Context
	// Network is the task's network namespace.
	Network() *Namespace
	// View and Umask are for names in the file system.
	View() vfs.FSView
	Umask() uint32
	// Process is the task's process, as Credentials carry it.
	Process() any
	// ProcessID returns the pid of what Process returned for some task, in
	// this task's pid namespace; zero if it has none there.
	ProcessID(process any) int32
	// FileLimit is RLIMIT_NOFILE.
	FileLimit() uint64
}

// Credentials say who is at the other side (unix(7), SO_PEERCRED).
type Credentials struct {
	Process any
	UID     auth.KUID
	GID     auth.KGID
}

// Namespace is a network namespace: a place where families keep what belongs
// to one. Safe for concurrent use.
type Namespace struct {
	mu    locks.Mutex[locks.Leaf]
	state map[any]any
}

// State returns what is kept under key, after keeping what make returns if
// there is nothing.
func (n *Namespace) State(key any, make func() any) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	v, ok := n.state[key]
	if !ok {
		if n.state == nil {
			n.state = map[any]any{}
		}
		v = make()
		n.state[key] = v
	}
	return v
}

// Send is the rest of a sendmsg(2).
type Send struct {
	// To is the address, or nil.
	To []byte
	// Flags are MSG_*; MSG_DONTWAIT, MSG_NOSIGNAL are the caller's affair.
	Flags int32
	// Files are sent along (SCM_RIGHTS). If Send returns more than zero, or
	// no error, their references have become the socket's.
	Files []*vfs.File
	// Credentials are what the sender gave (SCM_CREDENTIALS), checked.
	Credentials *Credentials
	// Control are control messages of other kinds.
	Control []ControlMessage
}

// Receive is the rest of a recvmsg(2), and its results.
type Receive struct {
	// Flags are MSG_PEEK, MSG_TRUNC, MSG_OOB, MSG_ERRQUEUE, and MSG_DONTWAIT
	// where the caller won't wait, be it because of O_NONBLOCK.
	Flags int32
	// FileRoom is how many descriptors the control buffer has room for. Files
	// that don't fit are closed, with MSG_CTRUNC.
	FileRoom int

	From        []byte
	OutFlags    int32 // MSG_TRUNC, MSG_CTRUNC, MSG_EOR
	Files       []*vfs.File
	Credentials *Credentials // set if SO_PASSCRED is
	Control     []ControlMessage
}

// Socket is what the file of a socket implements, along with vfs.Reader,
// vfs.Writer and vfs.Ioctler. Addresses are sockaddrs as applications write
// them, not empty where given.
type Socket interface {
	waiter.Waitable
	Options() *Options
	Bind(ctx Context, addr []byte) error
	Connect(ctx Context, addr []byte) error
	Listen(ctx Context, backlog int) error
	// Accept returns a new socket's file; flags has O_NONBLOCK. The peer's
	// address is what its PeerName returns.
	Accept(ctx Context, flags uint32) (*vfs.File, error)
	Shutdown(ctx Context, how int) error
	Name(ctx Context) ([]byte, error)
	PeerName(ctx Context) ([]byte, error)
	// GetOption returns the whole value: the caller cuts it to its buffer.
	GetOption(ctx Context, level, name int) ([]byte, error)
	SetOption(ctx Context, level, name int, value []byte) error
	Send(ctx Context, src *usermem.Buffer, m *Send) (int64, error)
	// Receive returns the length of what was stored, or with MSG_TRUNC that
	// of the whole message.
	Receive(ctx Context, dst *usermem.Buffer, m *Receive) (int64, error)
}

// Of returns the socket behind f, or ENOTSOCK.
func Of(f *vfs.File) (Socket, error) {
	if s, ok := f.Impl().(Socket); ok {
		return s, nil
	}
	return nil, unix.ENOTSOCK
}

// Family makes sockets of one address family. flags has O_NONBLOCK.
type Family interface {
	// Socket does socket(2). typ is one that Linux knows; an error says what
	// is wrong with it (ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM).
	Socket(ctx Context, typ, protocol int, flags uint32) (*vfs.File, error)
	// Pair does socketpair(2) (EOPNOTSUPP where there are none).
	Pair(ctx Context, typ, protocol int, flags uint32) (a, b *vfs.File, err error)
}

// maxFamily is AF_MAX of Linux 4.4.
const maxFamily = 41

var (
	familiesMu locks.RWMutex[locks.Leaf]
	families   [maxFamily]Family
)

// Register makes f the maker of sockets of a family. It is called when the
// Sentry is put together.
func Register(family int, f Family) {
	familiesMu.Lock()
	families[family] = f
	familiesMu.Unlock()
}

func lookup(family, typ int) (Family, int, uint32, error) {
	flags := uint32(typ &^ 0xf)
	typ &= 0xf
	if flags&^(unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK) != 0 {
		return nil, 0, 0, unix.EINVAL
	}
	if family < 0 || family >= maxFamily {
		return nil, 0, 0, unix.EAFNOSUPPORT
	}
	if typ > unix.SOCK_PACKET {
		return nil, 0, 0, unix.EINVAL
	}
	familiesMu.RLock()
	f := families[family]
	familiesMu.RUnlock()
	if f == nil {
		return nil, 0, 0, unix.EAFNOSUPPORT
	}
	return f, typ, flags & unix.SOCK_NONBLOCK, nil
}

// New does socket(2): typ comes with its flags.
func New(ctx Context, family, typ, protocol int) (*vfs.File, error) {
	f, typ, flags, err := lookup(family, typ)
	if err != nil {
		return nil, err
	}
	return f.Socket(ctx, typ, protocol, flags)
}

// NewPair does socketpair(2).
func NewPair(ctx Context, family, typ, protocol int) (a, b *vfs.File, err error) {
	f, typ, flags, err := lookup(family, typ)
	if err != nil {
		return nil, nil, err
	}
	return f.Pair(ctx, typ, protocol, flags)
}
