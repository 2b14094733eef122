// Package unix is unix(7): sockets between processes of one sandbox, with
// files and credentials as messages.
//
// A Socket has an inbox, into which its peers put what they send, in their own
// context: a byte is copied once from the sender's memory to a pooled buffer
// and once from there. Streams are a ring of bytes with spans that carry files
// or credentials; the other types are queues of messages. A connection is two
// sockets that point at each other; the one that accept(2) will return exists,
// without a file, from connect(2) on.
//
// Files in flight keep each other alive where sockets are sent over sockets.
// What nobody can receive any more is found and closed when a socket is closed
// (flight.go).
//
// Lock order: flight.mu; Socket.mu, the lower id first; inbox.mu; wait queues
// (a Socket's space queue before other Sockets' own). Application memory is
// touched under inbox.mu. References to files are dropped with no lock held.
//
// Not done: SO_PASSSEC, MSG_OOB (EOPNOTSUPP, as in Linux 4.4), sock_diag.
package unix

import (
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// state of a Socket's connection.
type state uint8

const (
	unconnected state = iota
	listening
	connected // streams and seqpackets; datagram sockets only have a peer
	closed
)

// Socket is a socket of AF_UNIX. Safe for concurrent use.
type Socket struct {
	queue waiter.Queue
	// space wakes those who wait for room with a socket that isn't their
	// peer: in the inbox of a datagram socket, in a listener's backlog.
	space waiter.Queue
	id    uint64
	opts  *socket.Options
	typ   int
	names *names
	payer *memfile.Account
	file  atomic.Pointer[vfs.File] // without a reference
	wmem  atomic.Int64             // charged for messages sent and not read
	in    inbox
	// addr is nil until bound, and doesn't change after that.
	addr atomic.Pointer[socket.UnixAddress]

	mu        locks.Mutex[locks.Socket]
	state     state
	path      vfs.Path // where it is bound, if that is a file
	peer      *Socket
	noSend    bool // SHUT_WR here, SHUT_RD there, or the peer is gone
	backlog   int
	pending   []*Socket           // of a listener: not accepted yet
	cred      *socket.Credentials // of who listens or connected
	peerCred  *socket.Credentials
	forward   waiter.Entry // in watching.space
	watching  *Socket
	forwardMu locks.Mutex[locks.SocketForward] // guards forward and watching
}

var lastID atomic.Uint64

// cost is what a socket is charged as, in bytes, besides its file: until it is
// closed, accepted before or not.
const cost = 1024

// newSocket returns a socket: ENOMEM where nobody pays for it.
func newSocket(ns *names, c *auth.Credentials, typ int) (*Socket, error) {
	if err := c.Account.Charge(cost); err != nil {
		return nil, err
	}
	s := &Socket{id: lastID.Add(1), typ: typ, names: ns, payer: c.Account, opts: socket.NewOptions(unix.AF_UNIX, typ, 0)}
	s.in.ring.SetAccount(s.payer)
	s.forward.Listener, s.forward.Mask = (*forwarder)(s), waiter.Writable
	return s, nil
}

// forwarder passes events of another's space queue on to the Socket's own.
type forwarder Socket

func (f *forwarder) Notify(*waiter.Entry, waiter.Mask) { f.queue.PassOn(waiter.Writable) }

// watch makes other's space wake s; nil ends that.
func (s *Socket) watch(other *Socket) {
	s.forwardMu.Lock()
	defer s.forwardMu.Unlock()
	if s.watching == other {
		return
	}
	if s.watching != nil {
		s.watching.space.Unregister(&s.forward)
	}
	if s.watching = other; other != nil {
		other.space.Register(&s.forward)
	}
}

// family implements socket.Family.
type family struct{}

// Register makes sockets of AF_UNIX possible.
func Register() { socket.Register(unix.AF_UNIX, family{}) }

func checkType(typ, protocol int) (int, error) {
	if protocol != 0 && protocol != unix.AF_UNIX {
		return 0, unix.EPROTONOSUPPORT
	}
	switch typ {
	case unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET:
		return typ, nil
	case unix.SOCK_RAW: // Linux takes it for SOCK_DGRAM
		return unix.SOCK_DGRAM, nil
	}
	return 0, unix.ESOCKTNOSUPPORT
}

func (s *Socket) newFile(c *auth.Credentials, flags uint32) *vfs.File {
	f := vfs.NewFile(anon.SocketPath(c), s, unix.O_RDWR|flags&unix.O_NONBLOCK, c)
	s.file.Store(f)
	return f
}

// Socket implements socket.Family.
func (family) Socket(ctx socket.Context, typ, protocol int, flags uint32) (*vfs.File, error) {
	typ, err := checkType(typ, protocol)
	if err != nil {
		return nil, err
	}
	s, err := newSocket(namesOf(ctx), ctx.Credentials(), typ)
	if err != nil {
		return nil, err
	}
	return s.newFile(ctx.Credentials(), flags), nil
}

// Pair implements socket.Family.
func (family) Pair(ctx socket.Context, typ, protocol int, flags uint32) (*vfs.File, *vfs.File, error) {
	typ, err := checkType(typ, protocol)
	if err != nil {
		return nil, nil, err
	}
	a, err := newSocket(namesOf(ctx), ctx.Credentials(), typ)
	if err != nil {
		return nil, nil, err
	}
	b, err := newSocket(namesOf(ctx), ctx.Credentials(), typ)
	if err != nil {
		a.payer.Uncharge(cost)
		return nil, nil, err
	}
	a.peer, b.peer = b, a
	who := credentialsOf(ctx)
	a.peerCred, b.peerCred = who, who
	if typ != unix.SOCK_DGRAM {
		a.state, b.state = connected, connected
	}
	return a.newFile(ctx.Credentials(), flags), b.newFile(ctx.Credentials(), flags), nil
}

// credentialsOf returns who ctx's task is to SO_PEERCRED.
func credentialsOf(ctx socket.Context) *socket.Credentials {
	c := ctx.Credentials()
	return &socket.Credentials{Process: ctx.Process(), UID: c.EUID, GID: c.EGID}
}

// names are the abstract names of a network namespace. Each type of socket has
// its own, as on Linux.
type names struct {
	mu    locks.Mutex[locks.Leaf]
	bound map[nameKey]*Socket
	last  uint32 // autobind
}

type nameKey struct {
	name string
	typ  int
}

type namesKey struct{}

func namesOf(ctx socket.Context) *names {
	return ctx.Network().State(namesKey{}, func() any { return &names{bound: map[nameKey]*Socket{}} }).(*names)
}

// socketKey is the key of a bound Socket among an inode's attachments.
type socketKey struct{}

// bindAbstract gives s a name; EADDRINUSE if it is taken. s.mu is held.
func (s *Socket) bindAbstract(name string) error {
	s.names.mu.Lock()
	defer s.names.mu.Unlock()
	if s.names.bound[nameKey{name, s.typ}] != nil {
		return unix.EADDRINUSE
	}
	s.names.bound[nameKey{name, s.typ}] = s
	s.addr.Store(&socket.UnixAddress{Name: name, Abstract: true})
	return nil
}

// autobind gives s a name of five hexadecimal digits (unix(7)). s.mu is held.
func (s *Socket) autobind() error {
	if s.addr.Load() != nil {
		return nil
	}
	for range 1 << 20 {
		s.names.mu.Lock()
		s.names.last = (s.names.last + 1) & 0xfffff
		n := strconv.FormatUint(uint64(s.names.last)|1<<20, 16)[1:]
		s.names.mu.Unlock()
		if s.bindAbstract(n) == nil {
			return nil
		}
	}
	return unix.ENOSPC
}

// Bind implements socket.Socket.
func (s *Socket) Bind(ctx socket.Context, addr []byte) error {
	a, err := socket.ParseUnixAddress(addr)
	if err != nil {
		return err
	}
	if a.Name == "" || a.Abstract {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a.Unnamed() {
			return s.autobind()
		}
		if s.addr.Load() != nil {
			return unix.EINVAL
		}
		return s.bindAbstract(a.Name)
	}
	s.mu.Lock()
	bound := s.addr.Load() != nil
	s.mu.Unlock()
	if bound {
		return unix.EINVAL
	}
	// No lock is held while the file system works.
	p, err := vfs.Mknod(ctx, ctx.View(), a.Name, unix.S_IFSOCK|0o777&^ctx.Umask(), 0)
	if err == unix.EEXIST {
		return unix.EADDRINUSE
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.addr.Load() != nil { // another thread was faster; its name counts
		return unix.EINVAL
	}
	s.addr.Store(&a)
	s.path = p
	p.Inode().Base().Attachment(socketKey{}, func() any { return s })
	return nil
}

// find returns the socket bound to a.
func (s *Socket) find(ctx socket.Context, a socket.UnixAddress) (*Socket, error) {
	if a.Abstract {
		s.names.mu.Lock()
		defer s.names.mu.Unlock()
		if o := s.names.bound[nameKey{a.Name, s.typ}]; o != nil {
			return o, nil
		}
		return nil, unix.ECONNREFUSED
	}
	p, err := vfs.Resolve(ctx, ctx.View(), a.Name, vfs.FollowFinal)
	if err != nil {
		return nil, err
	}
	var attr vfs.Attr
	if err := p.Inode().Attributes(ctx, &attr); err != nil {
		return nil, err
	}
	if err := vfs.CheckPermission(ctx.Credentials(), &attr, vfs.MayWrite); err != nil {
		return nil, err
	}
	if attr.Type() != unix.S_IFSOCK {
		return nil, unix.ECONNREFUSED
	}
	if o, ok := p.Inode().Base().Attachment(socketKey{}, nil).(*Socket); ok {
		return o, nil
	}
	return nil, unix.ECONNREFUSED
}

// peerFor decodes an address to connect or send to, and finds its socket.
func (s *Socket) peerFor(ctx socket.Context, addr []byte) (*Socket, error) {
	a, err := socket.ParseUnixAddress(addr)
	if err != nil || a.Unnamed() {
		return nil, unix.EINVAL
	}
	o, err := s.find(ctx, a)
	if err == nil && o.typ != s.typ {
		err = unix.EPROTOTYPE
	}
	return o, err
}

// lockTwo locks two sockets in the order of their ids.
func lockTwo(a, b *Socket) func() {
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	if a.id > b.id {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.NestedLock()
	return func() { b.mu.Unlock(); a.mu.Unlock() }
}

// Connect implements socket.Socket. EAGAIN while a listener's backlog is full.
func (s *Socket) Connect(ctx socket.Context, addr []byte) error {
	if s.typ == unix.SOCK_DGRAM {
		return s.connectDatagram(ctx, addr)
	}
	if family, err := socket.AddressFamily(addr); err != nil || family != unix.AF_UNIX {
		return unix.EINVAL
	}
	o, err := s.peerFor(ctx, addr)
	if err != nil {
		return err
	}
	server, err := newSocket(s.names, ctx.Credentials(), s.typ)
	if err != nil {
		return err
	}
	unlock := lockTwo(s, o)
	err = s.connectTo(ctx, o, server)
	unlock()
	if err != nil {
		server.payer.Uncharge(cost)
	}
	if err == vfs.ErrWouldBlock {
		s.watch(o)
		o.mu.Lock()
		room := len(o.pending) <= o.backlog || o.state != listening
		o.mu.Unlock()
		if room { // came before the watch
			s.queue.Notify(waiter.Writable)
		}
		return err
	}
	s.watch(nil)
	if err == nil {
		o.queue.Notify(waiter.Readable)
		s.queue.Notify(waiter.Writable)
	}
	return err
}

// connectTo makes server, which nobody knows yet, the peer of s and queues it
// with the listener o. Both locks are held.
func (s *Socket) connectTo(ctx socket.Context, o, server *Socket) error {
	switch {
	case o.state != listening || o.in.isShut():
		return unix.ECONNREFUSED
	case len(o.pending) > o.backlog:
		return vfs.ErrWouldBlock
	case s.state == connected:
		return unix.EISCONN
	case s.state != unconnected:
		return unix.EINVAL
	}
	if s.opts.PassCred() {
		if err := s.autobind(); err != nil {
			return err
		}
	}
	server.state, server.peer = connected, s
	server.addr.Store(o.addr.Load())
	server.peerCred = credentialsOf(ctx)
	s.state, s.peer, s.peerCred = connected, server, o.cred
	o.pending = append(o.pending, server)
	return nil
}

func (s *Socket) connectDatagram(ctx socket.Context, addr []byte) error {
	family, err := socket.AddressFamily(addr)
	if err != nil {
		return err
	}
	var o *Socket
	if family != unix.AF_UNSPEC {
		if o, err = s.peerFor(ctx, addr); err != nil {
			return err
		}
		o.mu.Lock()
		gone, theirs := o.state == closed, o.peer
		o.mu.Unlock()
		if gone {
			return unix.ECONNREFUSED
		}
		if theirs != nil && theirs != s {
			return unix.EPERM
		}
	}
	s.mu.Lock()
	if o != nil && s.opts.PassCred() {
		if err := s.autobind(); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	old := s.peer
	s.peer = o
	s.mu.Unlock()
	s.watch(nil)
	if old != nil && old != o {
		// What the old peer sent is lost (unix(7) is silent; Linux does so).
		if s.purge() {
			old.mu.Lock()
			mutual := old.peer == s
			old.mu.Unlock()
			if mutual {
				old.opts.SetError(unix.ECONNRESET)
				old.queue.Notify(waiter.Err)
			}
		}
	}
	s.queue.Notify(waiter.Writable)
	return nil
}

// Listen implements socket.Socket.
func (s *Socket) Listen(ctx socket.Context, backlog int) error {
	if s.typ == unix.SOCK_DGRAM {
		return unix.EOPNOTSUPP
	}
	const somaxconn = 4096
	if backlog < 0 || backlog > somaxconn {
		backlog = somaxconn
	}
	s.mu.Lock()
	if s.addr.Load() == nil || s.state != unconnected && s.state != listening {
		s.mu.Unlock()
		return unix.EINVAL
	}
	grown := backlog > s.backlog
	s.state, s.backlog, s.cred = listening, backlog, credentialsOf(ctx)
	s.mu.Unlock()
	if grown {
		s.space.Notify(waiter.Writable)
	}
	return nil
}

// Accept implements socket.Socket.
func (s *Socket) Accept(ctx socket.Context, flags uint32) (*vfs.File, error) {
	if s.typ == unix.SOCK_DGRAM {
		return nil, unix.EOPNOTSUPP
	}
	s.mu.Lock()
	if s.state != listening {
		s.mu.Unlock()
		return nil, unix.EINVAL
	}
	if len(s.pending) == 0 {
		s.mu.Unlock()
		if s.in.isShut() && !s.file.Load().NonBlocking() {
			return nil, unix.EINVAL
		}
		return nil, vfs.ErrWouldBlock
	}
	n := s.pending[0]
	s.pending[0] = nil
	s.pending = s.pending[1:]
	// With the file it may be sent, and found by the collector.
	f := n.newFile(ctx.Credentials(), flags)
	s.mu.Unlock()
	s.space.Notify(waiter.Writable)
	return f, nil
}

// Shutdown implements socket.Socket.
func (s *Socket) Shutdown(_ socket.Context, how int) error {
	if how < unix.SHUT_RD || how > unix.SHUT_RDWR {
		return unix.EINVAL
	}
	read, write := how != unix.SHUT_WR, how != unix.SHUT_RD
	s.mu.Lock()
	peer := s.peer
	s.noSend = s.noSend || write
	s.mu.Unlock()
	if read {
		s.in.shut()
	}
	if peer != nil && s.typ != unix.SOCK_DGRAM {
		if write {
			peer.in.shut()
		}
		if read {
			peer.mu.Lock()
			peer.noSend = true
			peer.mu.Unlock()
		}
		peer.queue.Notify(peer.Readiness(shutEvents))
	}
	s.queue.Notify(s.Readiness(shutEvents))
	s.space.Notify(waiter.Writable)
	return nil
}

const shutEvents = waiter.Readable | waiter.Writable | waiter.RdHup | waiter.Hup | waiter.Err

// Name implements socket.Socket.
func (s *Socket) Name(socket.Context) ([]byte, error) { return s.address(), nil }

// address returns the name as a sockaddr.
func (s *Socket) address() []byte {
	a := s.addr.Load()
	if a == nil {
		return socket.UnixAddress{}.Bytes()
	}
	return a.Bytes()
}

// PeerName implements socket.Socket.
func (s *Socket) PeerName(socket.Context) ([]byte, error) {
	s.mu.Lock()
	p := s.peer
	s.mu.Unlock()
	if p == nil {
		return nil, unix.ENOTCONN
	}
	return p.address(), nil
}

// Options implements socket.Socket.
func (s *Socket) Options() *socket.Options { return s.opts }

// GetOption implements socket.Socket.
func (s *Socket) GetOption(ctx socket.Context, level, name int) ([]byte, error) {
	if level != unix.SOL_SOCKET {
		return nil, unix.EOPNOTSUPP
	}
	switch name {
	case unix.SO_PEERCRED:
		s.mu.Lock()
		c := s.peerCred
		s.mu.Unlock()
		if c == nil {
			return socket.UserCredentials{PID: 0, UID: auth.NoID, GID: auth.NoID}.Bytes(), nil
		}
		return c.For(ctx).Bytes(), nil
	case unix.SO_ACCEPTCONN:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state == listening {
			return []byte{1, 0, 0, 0}, nil
		}
		return []byte{0, 0, 0, 0}, nil
	}
	return s.opts.Get(name)
}

// SetOption implements socket.Socket.
func (s *Socket) SetOption(ctx socket.Context, level, name int, value []byte) error {
	if level != unix.SOL_SOCKET {
		return unix.EOPNOTSUPP
	}
	err := s.opts.Set(ctx, name, value)
	if name == unix.SO_SNDBUF || name == unix.SO_SNDBUFFORCE {
		s.queue.Notify(waiter.Writable)
	}
	return err
}

// Release implements vfs.Releaser.
func (s *Socket) Release(*vfs.File) {
	s.close()
	collect()
}

// close ends the socket for its peers and drops what it holds.
func (s *Socket) close() {
	s.payer.Uncharge(cost)
	s.watch(nil)
	s.mu.Lock()
	s.state, s.noSend = closed, true
	peer, pending := s.peer, s.pending
	s.pending = nil
	addr, path := s.addr.Load(), s.path
	s.mu.Unlock()
	if addr != nil {
		s.unbind(addr, path)
	}
	s.in.shut()
	for _, n := range pending {
		n.closeFor(n.peerOf(), true)
		n.close()
	}
	unread := s.purge()
	if peer != nil {
		if s.typ != unix.SOCK_DGRAM {
			s.closeFor(peer, unread)
		} else {
			s.mu.Lock()
			s.peer = nil
			s.mu.Unlock()
		}
	}
	s.space.Notify(waiter.Writable)
}

func (s *Socket) peerOf() *Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// closeFor tells a connected peer that s is gone; unread that it left something.
func (s *Socket) closeFor(peer *Socket, unread bool) {
	peer.mu.Lock()
	peer.noSend = true
	peer.mu.Unlock()
	peer.in.shut()
	if unread {
		peer.opts.SetError(unix.ECONNRESET)
	}
	peer.queue.Notify(shutEvents)
}

// unbind gives the name up.
func (s *Socket) unbind(a *socket.UnixAddress, p vfs.Path) {
	if a.Abstract {
		s.names.mu.Lock()
		if s.names.bound[nameKey{a.Name, s.typ}] == s {
			delete(s.names.bound, nameKey{a.Name, s.typ})
		}
		s.names.mu.Unlock()
	}
	if p.Ok() {
		p.Inode().Base().Detach(socketKey{}, s)
	}
}

// Readiness implements waiter.Waitable (unix(7) and poll(2)).
func (s *Socket) Readiness(mask waiter.Mask) waiter.Mask {
	s.mu.Lock()
	state, noSend, peer := s.state, s.noSend, s.peer
	waiting := len(s.pending) > 0
	s.mu.Unlock()
	m := s.opts.ErrorMask()
	readable, noRecv := s.in.state()
	if noRecv {
		m |= waiter.RdHup | waiter.Readable
		if noSend {
			m |= waiter.Hup
		}
	}
	if readable || waiting {
		m |= waiter.Readable
	}
	if s.typ != unix.SOCK_DGRAM && state == unconnected {
		m |= waiter.Hup
	}
	if mask&waiter.Writable != 0 && state != listening && s.writable(peer) {
		m |= waiter.Writable | waiter.WrBand
	}
	return m & (mask | waiter.Err | waiter.Hup)
}

// writable reports whether poll(2) calls s writable: three quarters of the
// buffer are free, and a peer that isn't ours alone has room.
func (s *Socket) writable(peer *Socket) bool {
	buffer := s.opts.SendBuffer()
	if s.typ == unix.SOCK_STREAM {
		return peer == nil || peer.in.bytesQueued()*4 <= buffer
	}
	if int(s.wmem.Load())*4 > buffer {
		return false
	}
	if s.typ == unix.SOCK_DGRAM && peer != nil && peer != s && peer.peerOf() != s && peer.in.full() {
		s.watch(peer)
		return !peer.in.full()
	}
	return true
}

// EventRegister implements waiter.Waitable.
func (s *Socket) EventRegister(e *waiter.Entry) { s.queue.Register(e) }

// EventUnregister implements waiter.Waitable.
func (s *Socket) EventUnregister(e *waiter.Entry) { s.queue.Unregister(e) }
