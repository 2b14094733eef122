package unix

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernbuf"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// plain returns the socket.Context that a task's vfs.Context is; nil for the
// kernel's own work, which then sends without credentials.
func plain(ctx vfs.Context) socket.Context {
	c, _ := ctx.(socket.Context)
	return c
}

// Read implements vfs.Reader.
func (s *Socket) Read(ctx vfs.Context, f *vfs.File, dst *usermem.Buffer) (int64, error) {
	if dst.Len() == 0 && s.typ == unix.SOCK_STREAM {
		return 0, nil
	}
	var m socket.Receive
	if f.NonBlocking() {
		m.Flags = unix.MSG_DONTWAIT
	}
	return s.Receive(plain(ctx), dst, &m)
}

// Write implements vfs.Writer.
func (s *Socket) Write(ctx vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	var m socket.Send
	return s.Send(plain(ctx), src, &m)
}

// Send implements socket.Socket.
func (s *Socket) Send(ctx socket.Context, src *usermem.Buffer, m *socket.Send) (int64, error) {
	if m.Flags&unix.MSG_OOB != 0 {
		return 0, unix.EOPNOTSUPP
	}
	if len(m.Control) > 0 {
		return 0, unix.EINVAL
	}
	if len(m.Files) == 0 {
		return s.send(ctx, src, m, nil)
	}
	// Files take the slow way, with the lock that the collector takes.
	flight.mu.Lock()
	r, err := newRights(ctx, m.Files)
	if err == unix.ETOOMANYREFS { // some may be garbage
		flight.mu.Unlock()
		collect()
		flight.mu.Lock()
		r, err = newRights(ctx, m.Files)
	}
	if err != nil {
		flight.mu.Unlock()
		return 0, err
	}
	n, err := s.send(ctx, src, m, r)
	if n == 0 && err != nil || n == 0 && s.typ == unix.SOCK_STREAM {
		r.land() // the references stay the caller's
	}
	flight.mu.Unlock()
	if n == 0 && err == nil && s.typ == unix.SOCK_STREAM {
		drop(m.Files) // nothing was sent that could carry them
	}
	return n, err
}

func (s *Socket) send(ctx socket.Context, src *usermem.Buffer, m *socket.Send, r *rights) (int64, error) {
	if s.typ == unix.SOCK_STREAM {
		return s.sendStream(ctx, src, m, r)
	}
	return s.sendMessage(ctx, src, m, r)
}

// credFor returns the credentials that a message to peer carries: those given,
// or the task's where one side asked for them.
func (s *Socket) credFor(ctx socket.Context, peer *Socket, given *socket.Credentials) *socket.Credentials {
	if given != nil || ctx == nil {
		return given
	}
	if s.opts.PassCred() || peer != nil && peer.opts.PassCred() {
		c := ctx.Credentials()
		return &socket.Credentials{Process: ctx.Process(), UID: c.RUID, GID: c.RGID}
	}
	return nil
}

func (s *Socket) sendStream(ctx socket.Context, src *usermem.Buffer, m *socket.Send, r *rights) (int64, error) {
	s.mu.Lock()
	peer, noSend, st := s.peer, s.noSend, s.state
	s.mu.Unlock()
	if m.To != nil {
		if st == connected {
			return 0, unix.EISCONN
		}
		return 0, unix.EOPNOTSUPP
	}
	if peer == nil {
		return 0, unix.ENOTCONN
	}
	if noSend {
		return 0, unix.EPIPE
	}
	if src.Len() == 0 {
		return 0, nil
	}
	if err := s.opts.TakeError(); err != nil {
		return 0, err
	}
	n, err := peer.in.putStream(src, s.opts.SendBuffer(), r, s.credFor(ctx, peer, m.Credentials))
	if n > 0 {
		peer.queue.Notify(waiter.Readable)
	}
	return int64(n), err
}

// maySend checks what Linux does before it looks at where a message of size
// bytes goes.
func (s *Socket) maySend(size uint64) error {
	s.mu.Lock()
	noSend, st := s.noSend, s.state
	s.mu.Unlock()
	buffer := s.opts.SendBuffer()
	if s.typ == unix.SOCK_SEQPACKET {
		if err := s.opts.TakeError(); err != nil {
			return err
		}
		if st != connected {
			return unix.ENOTCONN
		}
	}
	if size > uint64(buffer-32) || size > kernbuf.MaxBuf {
		return unix.EMSGSIZE
	}
	if err := s.opts.TakeError(); err != nil {
		return err
	}
	if noSend {
		return unix.EPIPE
	}
	if s.wmem.Load() >= int64(buffer) {
		return vfs.ErrWouldBlock
	}
	return nil
}

// destination returns where a message goes, and whether that was named.
func (s *Socket) destination(ctx socket.Context, m *socket.Send) (*Socket, bool, error) {
	if m.To != nil && s.typ == unix.SOCK_DGRAM {
		o, err := s.peerFor(ctx, m.To)
		return o, true, err
	}
	if peer := s.peerOf(); peer != nil {
		return peer, false, nil
	}
	return nil, false, unix.ENOTCONN
}

func (s *Socket) sendMessage(ctx socket.Context, src *usermem.Buffer, m *socket.Send, r *rights) (int64, error) {
	size := src.Len()
	if err := s.maySend(size); err != nil {
		return 0, err
	}
	o, named, err := s.destination(ctx, m)
	if err != nil {
		return 0, err
	}
	if s.opts.PassCred() {
		s.mu.Lock()
		err := s.autobind()
		s.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
	o.mu.Lock()
	gone, theirs := o.state == closed, o.peer
	o.mu.Unlock()
	if s.typ == unix.SOCK_DGRAM {
		if gone {
			if !named {
				s.mu.Lock()
				was := s.peer == o
				if was {
					s.peer = nil
				}
				s.mu.Unlock()
				if was {
					// What it had sent goes with it. The files can't be
					// dropped here, where flight.mu may be held.
					var files []*vfs.File
					if r != nil {
						files, _ = s.purgeLocked()
					} else {
						flight.mu.Lock()
						files, _ = s.purgeLocked()
						flight.mu.Unlock()
					}
					if len(files) > 0 {
						go drop(files)
					}
				}
			}
			return 0, unix.ECONNREFUSED
		}
		if theirs != nil && theirs != s {
			return 0, unix.EPERM
		}
	}
	msg := message{from: s, rights: r, cred: s.credFor(ctx, o, m.Credentials)}
	again := *src
	if size > 0 {
		if msg.data = kernbuf.GetBuf(int(size), s.payer); msg.data == nil {
			return 0, unix.ENOBUFS
		}
		if _, err := src.Read(msg.data.Data); err != nil {
			msg.data.Free()
			return 0, err
		}
	}
	// Only a peer of ours alone may be given more than others would wait for.
	limited := s.typ == unix.SOCK_DGRAM && o != s && theirs != s
	if err := o.in.putMessage(msg, limited); err != nil {
		if msg.data != nil {
			msg.data.Free()
		}
		*src = again
		if err == vfs.ErrWouldBlock {
			s.watch(o)
			if !o.in.full() {
				s.queue.Notify(waiter.Writable)
			}
		}
		return 0, err
	}
	o.queue.Notify(waiter.Readable)
	return int64(size), nil
}

// putMessage appends m. With limited it refuses more than maxDatagrams.
func (q *inbox) putMessage(m message, limited bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return unix.EPIPE
	}
	if limited && q.messages.len() > maxDatagrams {
		return vfs.ErrWouldBlock
	}
	m.from.wmem.Add(int64(m.len() + messageCost))
	q.messages.push(m)
	return nil
}

// Receive implements socket.Socket.
func (s *Socket) Receive(ctx socket.Context, dst *usermem.Buffer, m *socket.Receive) (int64, error) {
	if m.Flags&unix.MSG_OOB != 0 {
		return 0, unix.EOPNOTSUPP
	}
	s.mu.Lock()
	st, peer := s.state, s.peer
	s.mu.Unlock()
	if s.typ == unix.SOCK_STREAM && st != connected {
		return 0, unix.EINVAL
	}
	if s.typ == unix.SOCK_SEQPACKET && st != connected {
		return 0, unix.ENOTCONN
	}
	n, files, err := s.receive(peer, dst, m, false)
	if err == errRights {
		flight.mu.Lock()
		n, files, err = s.receive(peer, dst, m, true)
		flight.mu.Unlock()
	}
	if err != nil {
		drop(files)
	} else if len(files) > 0 {
		keep := min(len(files), m.FileRoom)
		if keep < len(files) {
			m.OutFlags |= unix.MSG_CTRUNC
		}
		m.Files = files[:keep]
		drop(files[keep:])
	}
	return n, err
}

// errRights says that a receive must be done again with flight.mu held.
const errRights = unix.Errno(1 << 20)

// atEnd returns what a receive gives when nothing is queued: nil for the end of
// the stream. in.mu is held.
func (s *Socket) atEnd(flags int32) error {
	if err := s.opts.TakeError(); err != nil {
		return err
	}
	// A datagram socket that doesn't wait never sees that it was shut down.
	if s.in.closed && (s.typ != unix.SOCK_DGRAM || flags&unix.MSG_DONTWAIT == 0) {
		return nil
	}
	return vfs.ErrWouldBlock
}

// receive does the work; locked says that flight.mu is held. The caller owns
// the files, even with an error.
func (s *Socket) receive(peer *Socket, dst *usermem.Buffer, m *socket.Receive, locked bool) (int64, []*vfs.File, error) {
	if s.typ == unix.SOCK_STREAM {
		return s.receiveStream(peer, dst, m, locked)
	}
	return s.receiveMessage(dst, m, locked)
}

func (s *Socket) receiveStream(peer *Socket, dst *usermem.Buffer, m *socket.Receive, locked bool) (int64, []*vfs.File, error) {
	q := &s.in
	q.mu.Lock()
	skip := 0
	peek := m.Flags&unix.MSG_PEEK != 0
	if peek {
		skip = max(s.opts.PeekOffset(), 0)
	}
	if q.ring.Len() <= skip {
		err := s.atEnd(m.Flags)
		q.mu.Unlock()
		return 0, nil, err
	}
	passCred := s.opts.PassCred()
	g := q.next(skip, passCred)
	if g.rights != nil && !locked {
		q.mu.Unlock()
		return 0, nil, errRights
	}
	n, err := q.ring.Peek(dst, skip, g.length)
	if n == 0 {
		q.mu.Unlock()
		return 0, nil, err
	}
	if g := peer.addr.Load(); g != nil {
		m.From = g.Bytes()
	}
	var files []*vfs.File
	// The files come with the first of their bytes.
	take := g.rights
	if take != nil && !q.reaches(take, skip+n) {
		take = nil
	}
	if passCred {
		m.Credentials = g.cred
		if g.cred == nil {
			m.Credentials = &socket.Credentials{UID: 65534, GID: 65534}
		}
	}
	wake := false
	if peek {
		if take != nil {
			files = take.copies()
		}
	} else {
		if take != nil {
			files = take.land()
		}
		before, spans := q.ring.Len(), q.spans.len()
		q.consume(n, take)
		low := peer.opts.SendBuffer() / 4
		wake = before > low && q.ring.Len() <= low || spans >= maxSpans
	}
	q.mu.Unlock()
	if peek {
		s.opts.MovePeekOffset(n)
	} else {
		s.opts.MovePeekOffset(-n)
	}
	if wake {
		peer.queue.Notify(waiter.Writable | waiter.WrBand)
	}
	return int64(n), files, nil
}

// reaches reports whether the first n bytes have one of those that r came with.
// mu is held.
func (q *inbox) reaches(r *rights, n int) bool {
	for i := 0; i < q.spans.len(); i++ {
		if s := q.spans.at(i); s.rights == r {
			return s.start < q.read+uint64(n)
		}
	}
	return false
}

func (s *Socket) receiveMessage(dst *usermem.Buffer, m *socket.Receive, locked bool) (int64, []*vfs.File, error) {
	q := &s.in
	if err := s.opts.TakeError(); err != nil { // before what is queued, unlike a stream
		return 0, nil, err
	}
	q.mu.Lock()
	if q.messages.len() == 0 {
		err := s.atEnd(m.Flags)
		q.mu.Unlock()
		return 0, nil, err
	}
	msg := q.messages.at(0)
	if msg.rights != nil && !locked {
		q.mu.Unlock()
		return 0, nil, errRights
	}
	size := msg.len()
	peek := m.Flags&unix.MSG_PEEK != 0
	skip := 0
	if peek {
		skip = min(max(s.opts.PeekOffset(), 0), size)
	}
	n := 0
	var err error
	if size > skip {
		n, err = dst.Write(msg.data.Data[skip:])
	}
	if n < size-skip && err == nil {
		m.OutFlags |= unix.MSG_TRUNC
	}
	m.From = msg.from.address()
	if s.opts.PassCred() {
		if m.Credentials = msg.cred; msg.cred == nil {
			m.Credentials = &socket.Credentials{UID: 65534, GID: 65534}
		}
	}
	var files []*vfs.File
	if peek {
		if err == nil && msg.rights != nil {
			files = msg.rights.copies()
		}
		q.mu.Unlock()
		s.opts.MovePeekOffset(n)
	} else {
		// As on Linux, a message that couldn't be stored is lost.
		gone := *msg
		q.messages.pop()
		q.mu.Unlock()
		if gone.rights != nil {
			files = gone.rights.land()
		}
		s.opts.MovePeekOffset(-size)
		s.consumed(&gone)
	}
	if err != nil {
		return 0, files, err
	}
	if m.Flags&unix.MSG_TRUNC != 0 {
		n = size - skip
	}
	return int64(n), files, nil
}

// consumed gives a message's memory back and wakes who waits for that.
func (s *Socket) consumed(m *message) {
	if m.data != nil {
		cost := int64(m.len() + messageCost)
		m.data.Free()
		s.uncharge(m.from, cost)
	} else {
		s.uncharge(m.from, messageCost)
	}
	if s.typ == unix.SOCK_DGRAM {
		s.space.Notify(waiter.Writable)
	}
}

func (s *Socket) uncharge(from *Socket, cost int64) {
	low := int64(from.opts.SendBuffer() / 4)
	if after := from.wmem.Add(-cost); after <= low && after+cost > low {
		from.queue.Notify(waiter.Writable | waiter.WrBand)
	}
}

// purge drops all that was received, and reports whether there was anything.
func (s *Socket) purge() bool {
	flight.mu.Lock()
	files, any := s.purgeLocked()
	flight.mu.Unlock()
	drop(files)
	return any
}

// purgeLocked is purge with flight.mu held. The caller drops the files.
func (s *Socket) purgeLocked() (files []*vfs.File, any bool) {
	q := &s.in
	q.mu.Lock()
	n := q.messages.len()
	any = q.ring.Len() > 0 || n > 0
	if s.typ == unix.SOCK_SEQPACKET && n == 1 && q.messages.at(0).len() == 0 {
		any = false // Linux doesn't count a lone empty packet
	}
	for ; q.spans.len() > 0; q.spans.pop() {
		if r := q.spans.at(0).rights; r != nil {
			files = append(files, r.land()...)
		}
	}
	q.read = q.wrote
	q.ring.Discard(q.ring.Len())
	msgs := q.messages
	q.messages = fifo[message]{}
	q.mu.Unlock()
	for ; msgs.len() > 0; msgs.pop() {
		m := msgs.at(0)
		if m.rights != nil {
			files = append(files, m.rights.land()...)
		}
		s.consumed(m)
	}
	return files, any
}

// Ioctl implements vfs.Ioctler.
func (s *Socket) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	var v int
	switch cmd {
	case unix.TIOCINQ:
		s.mu.Lock()
		st := s.state
		s.mu.Unlock()
		if st == listening {
			return 0, unix.EINVAL
		}
		s.in.mu.Lock()
		if v = s.in.ring.Len(); s.in.messages.len() > 0 {
			if s.typ == unix.SOCK_DGRAM {
				v = s.in.messages.at(0).len()
			} else {
				for i := 0; i < s.in.messages.len(); i++ {
					v += s.in.messages.at(i).len()
				}
			}
		}
		s.in.mu.Unlock()
	case unix.TIOCOUTQ:
		if v = int(s.wmem.Load()); s.typ == unix.SOCK_STREAM {
			if p := s.peerOf(); p != nil {
				v = p.in.bytesQueued()
			}
		}
	default:
		return 0, unix.ENOTTY
	}
	return 0, usermem.CopyOutUint32(ctx.Memory(), usermem.Addr(arg), uint32(v))
}
