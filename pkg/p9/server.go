package p9

import (
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"vitrine/pkg/locks"

	"golang.org/x/sys/unix"
)

// ServerOptions are the limits of a served connection. Zeros mean the defaults.
type ServerOptions struct {
	Extensions Extensions // offered; 0: plain 9P2000.L
	Msize      uint32     // largest message accepted, MinMsize to MaxMsize; default MaxMsize
	MaxFids    int        // default 65536; one more is EMFILE
}

const (
	defaultMaxFids = 1 << 16
	// maxRunning bounds the requests of a connection that are handled beside its loop.
	maxRunning = 16
	// maxXattrBytes bounds the attribute values all fids of a connection hold.
	maxXattrBytes = 1 << 20
)

// Serve answers requests that arrive on socket, a connected stream socket, until the other end closes it (then it returns
// nil) or breaks the protocol (then EPROTO). It closes the socket and releases every node before it returns. A client
// may send anything at all: the worst it can do is end its own connection.
func Serve(socket int, root Attacher, o ServerOptions) error {
	if o.Msize == 0 {
		o.Msize = MaxMsize
	}
	if o.MaxFids == 0 {
		o.MaxFids = defaultMaxFids
	}
	s := &session{root: root, options: o, msize: MinMsize, fids: map[uint32]*fid{}, socket: socket}
	s.in.socket = socket
	s.slots = make(chan struct{}, maxRunning)
	err := s.loop()
	unix.Shutdown(socket, unix.SHUT_RDWR) // nobody waits for room to answer
	s.running.Wait()
	s.dropFids()
	unix.Close(socket)
	if err == unix.EPIPE || err == unix.ECONNRESET {
		return nil
	}
	return err
}

// session is one connection.
type session struct {
	socket  int
	root    Attacher
	options ServerOptions

	// Written by Tversion only, when nothing else runs.
	msize  uint32
	ext    Extensions
	agreed bool

	in      inbox // the loop's
	running sync.WaitGroup
	slots   chan struct{} // one taken for each goroutine of a request

	sendMu locks.Mutex[locks.P9Send]
	failed atomic.Bool // an answer could not be sent

	mu         locks.Mutex[locks.Leaf]
	fids       map[uint32]*fid
	tags       map[uint16]*underway // requests with a goroutine
	xattrBytes int
}

// underway is a request with a goroutine of its own.
type underway struct {
	flush    bool
	answered chan struct{} // closed when the answer is out
}

// nodeRef shares a node among fids, requests and, in plain sessions, children.
type nodeRef struct {
	node   Node
	refs   atomic.Int32
	parent *nodeRef // only where Trename and Tremove need it
	name   string   // in parent; guarded by session.mu, as parent is
}

func newRef(n Node) *nodeRef {
	r := &nodeRef{node: n}
	r.refs.Store(1)
	return r
}

func (r *nodeRef) take() *nodeRef {
	r.refs.Add(1)
	return r
}

func (r *nodeRef) put() {
	for r != nil && r.refs.Add(-1) == 0 {
		r.node.Release()
		r = r.parent
	}
}

// fid is what a number of the client's means. The table holds one reference, each request that uses it another.
type fid struct {
	refs  atomic.Int32
	ref   *nodeRef
	xattr *xattrFid // set for the fids of Txattrwalk and Txattrcreate

	mu     locks.Mutex[locks.P9Fid]
	handle Handle // set once, by Tlopen or Tlcreate
	flags  uint32
}

// xattrFid is an extended attribute being read or written.
type xattrFid struct {
	name    string
	writing bool
	flags   uint32

	mu    locks.Mutex[locks.P9Fid]
	value []byte // writing: what came so far, capacity as announced
}

func (s *session) putFid(f *fid) {
	if f.refs.Add(-1) != 0 {
		return
	}
	if f.handle != nil {
		f.handle.Close()
	}
	if f.xattr != nil {
		s.mu.Lock()
		s.xattrBytes -= cap(f.xattr.value)
		s.mu.Unlock()
	}
	f.ref.put()
}

// lookup takes a fid for the time of a request; putFid gives it back.
func (s *session) lookup(id uint32) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fids[id]
	if f == nil {
		return nil, unix.EBADF
	}
	f.refs.Add(1)
	return f, nil
}

// install puts a new fid with ref, which it takes over in any case, into the table. With replace, a fid of
// that number must be there and goes; without, none may be.
func (s *session) install(id uint32, f *fid, replace bool) error {
	f.refs.Store(1)
	s.mu.Lock()
	old := s.fids[id]
	err := error(nil)
	switch {
	case id == NoFid, !replace && old != nil:
		err = unix.EBADF
	case replace && old == nil:
		err = unix.EBADF
	case !replace && len(s.fids) >= s.options.MaxFids:
		err = unix.EMFILE
	default:
		s.fids[id] = f
	}
	s.mu.Unlock()
	if err != nil {
		s.putFid(f)
		return err
	}
	if old != nil {
		s.putFid(old)
	}
	return nil
}

// remove takes a fid out of the table; the table's reference is the caller's.
func (s *session) remove(id uint32) (*fid, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.fids[id]
	if f == nil {
		return nil, unix.EBADF
	}
	delete(s.fids, id)
	return f, nil
}

func (s *session) dropFids() {
	s.mu.Lock()
	fids := s.fids
	s.fids = map[uint32]*fid{}
	s.mu.Unlock()
	for _, f := range fids {
		s.putFid(f)
	}
}

// reserveXattr counts n bytes of attribute values.
func (s *session) reserveXattr(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > maxXattrBytes-s.xattrBytes {
		return unix.ENOMEM
	}
	s.xattrBytes += n
	return nil
}

// worker is the memory one request is handled in.
type worker struct {
	s     *session
	in    coder
	out   coder
	file  int // goes with the answer, -1: none
	names []string
	attrs []Attr
	copy  []byte // the request, for a goroutine of its own
}

var workerPool = sync.Pool{New: func() any { return new(worker) }}

func (s *session) loop() error {
	w := &worker{s: s}
	for !s.failed.Load() {
		message, err := s.in.queued(s.msize)
		if err != nil {
			return err
		}
		if message == nil {
			if err := s.in.fill(); err != nil {
				return err
			}
			continue
		}
		kind, tag := message[4], binary.LittleEndian.Uint16(message[5:])
		if kind == typeTversion {
			s.running.Wait()
			w.handle(message)
			continue
		}
		if !s.agreed || tag == NoTag {
			return unix.EPROTO
		}
		if s.tagBusy(tag) {
			return unix.EPROTO
		}
		// Handle it here, unless it may take long or others wait behind it.
		if kind == typeTfsync || kind == typeTflush || s.in.end > s.in.start {
			select {
			case s.slots <- struct{}{}:
				s.beside(message, tag)
				continue
			default:
				if kind == typeTflush {
					// It would wait for others; none of them waits for us.
					s.slots <- struct{}{}
					s.beside(message, tag)
					continue
				}
			}
		}
		w.handle(message)
		w.trim()
	}
	return unix.EPIPE
}

func (s *session) tagBusy(tag uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags[tag] != nil
}

// beside handles a message on a goroutine. A slot is taken.
func (s *session) beside(message []byte, tag uint16) {
	w := workerPool.Get().(*worker)
	w.s = s
	w.copy = append(w.copy[:0], message...)
	s.mu.Lock()
	if s.tags == nil {
		s.tags = map[uint16]*underway{}
	}
	s.tags[tag] = &underway{flush: message[4] == typeTflush, answered: make(chan struct{})}
	s.mu.Unlock()
	s.running.Add(1)
	go func() {
		w.handle(w.copy)
		<-s.slots
		w.s = nil
		w.trim()
		if cap(w.copy) <= keepBuffers {
			workerPool.Put(w)
		}
		s.running.Done()
	}()
}

// trim lets go of memory that only an unusually large message needed.
func (w *worker) trim() {
	if cap(w.out.buf) > keepBuffers {
		w.out.buf = nil
	}
}

// errNoAuth answers Tauth: an error whose number is 0 tells diod's clients that none is needed. Others take any
// error for that.
var errNoAuth = errors.New("no authentication needed")

// handle answers one request.
func (w *worker) handle(message []byte) {
	s := w.s
	kind, tag := message[4], binary.LittleEndian.Uint16(message[5:])
	w.in = coder{buf: message, pos: HeaderSize, dec: true}
	w.out = coder{buf: begin(w.out.buf, kind+1, tag)}
	w.file = -1
	err := w.dispatch(kind)
	if err == nil && (w.out.bad || len(w.out.buf) > int(s.msize)) {
		err = unix.EMSGSIZE
	}
	file := w.file
	if err != nil {
		errno, ok := err.(unix.Errno)
		if err != errNoAuth && (!ok || errno == 0) {
			errno = unix.EIO
		}
		w.out = coder{buf: begin(w.out.buf, typeRlerror, tag)}
		r := Rlerror{Errno: uint32(errno)}
		r.wire(&w.out)
		w.file = -1
	}
	finish(w.out.buf)
	// The tag is the client's again as soon as it has the answer, so it leaves the table just before.
	// Whoever waits to flush it goes on after the answer is out.
	s.sendMu.Lock()
	s.mu.Lock()
	request := s.tags[tag]
	delete(s.tags, tag)
	s.mu.Unlock()
	if sendAll(s.socket, w.out.buf, w.file) != nil {
		s.failed.Store(true)
		unix.Shutdown(s.socket, unix.SHUT_RDWR) // the loop sees it as the end
	}
	s.sendMu.Unlock()
	if request != nil {
		close(request.answered)
	}
	if file >= 0 {
		unix.Close(file)
	}
}

// request decodes the whole body into m.
func (w *worker) request(m message) error {
	m.wire(&w.in)
	return w.decoded()
}

// about decodes m and takes the fid whose number m has at id, for the time of the
// request. Requests that are made often do both by themselves: m is on their stack
// then.
func (w *worker) about(m message, id *uint32) (*fid, error) {
	if err := w.request(m); err != nil {
		return nil, err
	}
	return w.s.lookup(*id)
}

func (w *worker) decoded() error {
	if w.in.bad || w.in.pos != len(w.in.buf) {
		return unix.EINVAL
	}
	return nil
}

// checkName refuses what is not a single component that can be made or found.
func checkName(name string) error {
	if len(name) > MaxName {
		return unix.ENAMETOOLONG
	}
	if name == "" || name == "." || name == ".." {
		return unix.EINVAL
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return unix.EINVAL
		}
	}
	return nil
}
