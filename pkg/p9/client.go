package p9

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

// Client is the asking end of a connection. All its methods, and those of its fids, are safe for concurrent
// use. They return nil or a unix.Errno; when the peer is gone or breaks the protocol, every call under
// way and every later one gets EIO.
//
// The client makes no system calls but sendmsg, recvmsg, poll (if the socket is non-blocking), and close of descriptors
// it drops and, in Close, of its socket.
type Client struct {
	socket int
	msize  uint32
	ext    Extensions

	sendMu locks.Mutex[locks.Leaf] // held while a message goes onto the socket

	in inbox // belongs to the reader

	mu      locks.Mutex[locks.Leaf]
	calls   []*call  // by tag; nil: free, or the call is not waiting
	tags    []uint16 // free tags below len(calls)
	asleep  int      // how many calls have sleeping set
	reading bool     // somebody is the reader, or has been appointed
	broken  bool     // no more answers
	closed  bool
	nextFid uint32   // the first fid never used
	fids    []uint32 // used and free again
}

// call is one request under way and its answer.
type call struct {
	tag  uint16
	out  coder
	in   []byte // the answer's body
	kind uint8  // the answer's type
	file int    // the answer's descriptor or -1
	into []byte // where the data of an Rread goes, instead of in
	n    int    // how much of it came

	// Guarded by Client.mu. A caller that sleeps gets exactly one token through wake, from the one who
	// clears sleeping.
	state     uint8
	sleeping  bool
	appointed bool // is, or is about to be, the reader
	wake      chan struct{}
}

const (
	callWaiting  = iota
	callAnswered // in, kind and file are there
	callBroken   // no answer will come
)

// maxTags bounds the requests under way; further callers get EAGAIN. The Sentry has nowhere near as many tasks
// waiting for one file server.
const maxTags = 1 << 15

var callPool = sync.Pool{New: func() any { return &call{wake: make(chan struct{}, 1), file: -1} }}

// Dial begins a session on a connected stream socket, which from then on is the client's, also on error. It asks for want
// and for messages of at most msize bytes (0: DefaultMsize), and falls back to plain 9P2000.L with a peer that knows
// nothing else.
func Dial(socket int, msize uint32, want Extensions) (*Client, error) {
	if msize == 0 {
		msize = DefaultMsize
	}
	c := &Client{socket: socket, msize: min(max(msize, MinMsize), MaxMsize), nextFid: 1}
	c.in.socket = socket
	err := c.version(want)
	if err != nil && want != 0 {
		// Peers refuse a version they don't know in different ways: "unknown", a plainer one, an error (diod).
		err = c.version(0)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.in.wantRights = c.ext&ExtOpenFD != 0
	return c, nil
}

func (c *Client) version(want Extensions) error {
	var r Rversion
	if err := c.ask(typeTversion, &Tversion{Msize: c.msize, Version: versionString(want)}, &r); err != nil {
		return err
	}
	got, ok := parseVersion(r.Version)
	if !ok || got&^want != 0 {
		return unix.EPROTONOSUPPORT
	}
	if r.Msize > c.msize || r.Msize < MinMsize {
		return unix.EPROTO
	}
	c.msize, c.ext = r.Msize, got
	return nil
}

// Extensions says what was agreed on.
func (c *Client) Extensions() Extensions { return c.ext }

// Msize is the agreed size of the largest message, in bytes.
func (c *Client) Msize() uint32 { return c.msize }

// MaxIO is the most data one Read or Write message carries, in bytes.
func (c *Client) MaxIO() int { return int(c.msize) - ioHeader }

// Close ends the session. Calls under way get EIO. It must not be called twice.
func (c *Client) Close() {
	unix.Shutdown(c.socket, unix.SHUT_RDWR) // wakes a reader, who then closes up
	c.mu.Lock()
	c.closed = true
	c.breakLocked()
	reader := c.reading
	c.mu.Unlock()
	if !reader {
		c.release()
	}
}

// release closes the socket. The caller is or was the last reader.
func (c *Client) release() {
	c.sendMu.Lock() // no one is writing to a number that may soon be another file's
	defer c.sendMu.Unlock()
	c.in.close()
	unix.Close(c.socket)
	c.socket = -1
}

// start takes a call and begins its message. Pair it with done.
func (c *Client) start(kind uint8) *call {
	cl := callPool.Get().(*call)
	cl.state, cl.file, cl.into, cl.n, cl.in = callWaiting, -1, nil, 0, cl.in[:0]
	cl.out = coder{buf: begin(cl.out.buf, kind, NoTag)}
	return cl
}

// keepBuffers is the largest buffer a call takes with it into the pool.
const keepBuffers = 64 << 10

// done gives a call back. A descriptor nobody took is closed.
func (c *Client) done(cl *call) {
	if cl.file >= 0 {
		unix.Close(cl.file)
		cl.file = -1
	}
	if cap(cl.out.buf) > keepBuffers || cap(cl.in) > keepBuffers {
		return
	}
	callPool.Put(cl)
}

// ask sends m, of type kind, and decodes its answer into r.
func (c *Client) ask(kind uint8, m, r message) error {
	cl := c.start(kind)
	defer c.done(cl)
	m.wire(&cl.out)
	in, err := c.exchange(cl)
	if err != nil {
		return err
	}
	r.wire(&in)
	return in.end()
}

// end is the error of a message that has been decoded: one that is too short, too long or has a bad value in it.
func (c *coder) end() error {
	if c.bad || c.pos != len(c.buf) {
		return unix.EIO
	}
	return nil
}

// exchange sends the call's message, waits for its answer, and returns the answer's body.
func (c *Client) exchange(cl *call) (coder, error) {
	if cl.out.bad || len(cl.out.buf) > int(c.msize) {
		return coder{}, unix.ENAMETOOLONG
	}
	want := cl.out.buf[4] + 1
	if err := c.register(cl); err != nil {
		return coder{}, err
	}
	binary.LittleEndian.PutUint16(cl.out.buf[5:], cl.tag)
	finish(cl.out.buf)
	c.sendMu.Lock()
	err := unix.Errno(0)
	if c.socket < 0 || sendAll(c.socket, cl.out.buf, -1) != nil {
		err = unix.EIO
	}
	c.sendMu.Unlock()
	if err != 0 {
		// Part of the message may be out; the stream is of no more use.
		c.mu.Lock()
		c.breakLocked()
		c.mu.Unlock()
	}
	if !c.await(cl) {
		return coder{}, unix.EIO
	}
	in := coder{buf: cl.in, dec: true}
	switch cl.kind {
	case want:
		return in, nil
	case typeRlerror:
		var e Rlerror
		e.wire(&in)
		if in.bad || e.Errno == 0 || e.Errno > 4095 {
			return in, unix.EIO
		}
		return in, unix.Errno(e.Errno)
	}
	return in, unix.EIO
}

// register gives the call a tag.
func (c *Client) register(cl *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.closed {
		return unix.EIO
	}
	if cl.out.buf[4] == typeTversion {
		// Alone on the connection; it sits at index 0 but goes out as NoTag.
		if len(c.calls) == 0 {
			c.calls, c.tags = append(c.calls, nil), append(c.tags, 0)
		}
		cl.tag = NoTag
		c.calls[0] = cl
		return nil
	}
	if n := len(c.tags); n > 0 {
		cl.tag = c.tags[n-1]
		c.tags = c.tags[:n-1]
	} else if len(c.calls) < maxTags {
		cl.tag = uint16(len(c.calls))
		c.calls = append(c.calls, nil)
	} else {
		return unix.EAGAIN
	}
	c.calls[cl.tag] = cl
	return nil
}

// await returns when the call is answered or broken, reading the socket itself if nobody else does.
func (c *Client) await(cl *call) (answered bool) {
	c.mu.Lock()
	if cl.state == callWaiting {
		if c.reading {
			cl.sleeping = true
			c.asleep++
			c.mu.Unlock()
			<-cl.wake
			c.mu.Lock()
		} else {
			c.reading, cl.appointed = true, true
		}
	}
	for cl.appointed && cl.state == callWaiting {
		c.mu.Unlock()
		err := c.readOne(cl)
		c.mu.Lock()
		if err != nil {
			c.breakLocked()
		}
	}
	answered = cl.state == callAnswered
	release := false
	if cl.appointed {
		// Leave the reader's place to somebody else. In a broken session nobody takes it, and if that is
		// because of Close, the last reader tidies up.
		cl.appointed = false
		c.reading = !c.broken && c.appointLocked()
		release = c.broken && c.closed
	}
	c.mu.Unlock()
	if release {
		c.release()
	}
	return answered
}

// readOne handles one message, or one piece of one. The caller is the reader.
func (c *Client) readOne(me *call) error {
	message, err := c.in.queued(c.msize)
	if err != nil {
		return err
	}
	if message == nil {
		return c.in.fill()
	}
	return c.deliver(message)
}

// appointLocked wakes one sleeping caller as the next reader. Only those who sleep have sent their request
// whole; one who is still sending may itself have to wait for a reader.
func (c *Client) appointLocked() bool {
	if c.asleep == 0 {
		return false
	}
	for _, cl := range c.calls {
		if cl != nil && cl.sleeping {
			cl.appointed = true
			c.wakeLocked(cl)
			return true
		}
	}
	return false
}

// breakLocked fails every call under way and all to come.
func (c *Client) breakLocked() {
	c.broken = true
	for i, cl := range c.calls {
		if cl != nil {
			c.calls[i] = nil
			cl.state = callBroken
			c.wakeLocked(cl)
		}
	}
}

// wakeLocked wakes the caller if it sleeps.
func (c *Client) wakeLocked(cl *call) {
	if cl.sleeping {
		cl.sleeping = false
		c.asleep--
		cl.wake <- struct{}{} // has room: one token a sleep
	}
}

// deliver hands a message to the call it answers. The caller is the reader.
func (c *Client) deliver(message []byte) error {
	kind, tag := message[4], binary.LittleEndian.Uint16(message[5:])
	slot := int(tag)
	if tag == NoTag {
		slot = 0
	}
	c.mu.Lock()
	if slot >= len(c.calls) || c.calls[slot] == nil || c.calls[slot].tag != tag {
		c.mu.Unlock()
		return unix.EPROTO
	}
	// Out of the table, the call is the reader's alone until its state changes: its caller waits for that,
	// and breakLocked does not see it.
	cl := c.calls[slot]
	c.calls[slot] = nil
	c.mu.Unlock()
	err := cl.accept(kind, message[HeaderSize:], &c.in)
	c.mu.Lock()
	defer c.mu.Unlock()
	if tag != NoTag {
		c.tags = append(c.tags, tag)
	}
	cl.state = callAnswered
	if err != nil {
		cl.state = callBroken
	}
	c.wakeLocked(cl)
	return err
}

// accept takes an answer out of the inbox.
func (cl *call) accept(kind uint8, body []byte, in *inbox) error {
	cl.kind = kind
	if announcesFile(kind, body) {
		var ok bool
		if cl.file, ok = in.file(); !ok {
			return unix.EPROTO
		}
	}
	if kind == typeRread && cl.into != nil && len(body) >= 4 {
		n := binary.LittleEndian.Uint32(body)
		if uint64(n) != uint64(len(body)-4) || int(n) > len(cl.into) {
			return unix.EPROTO
		}
		cl.n = copy(cl.into, body[4:])
		body = body[:0]
	}
	cl.in = append(cl.in[:0], body...)
	return nil
}

// announcesFile says whether an answer's body says that a descriptor comes with it: the last byte does.
func announcesFile(kind uint8, body []byte) bool {
	switch kind {
	case typeRwalkgetattr, typeRopenfd, typeRmake:
		return len(body) > 0 && body[len(body)-1] == 1
	}
	return false
}

// takeFile gives the caller the answer's descriptor, -1 if there is none or there was no room for it.
func (cl *call) takeFile() int {
	f := cl.file
	cl.file = -1
	return f
}

// newFids reserves n fids with consecutive numbers and returns the first, NoFid if there are none left.
func (c *Client) newFids(n int) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 1 && len(c.fids) > 0 {
		f := c.fids[len(c.fids)-1]
		c.fids = c.fids[:len(c.fids)-1]
		return f
	}
	if uint64(c.nextFid)+uint64(n) >= uint64(NoFid) {
		return NoFid
	}
	f := c.nextFid
	c.nextFid += uint32(n)
	return f
}

// freeFid makes a number available again. The server has forgotten it.
func (c *Client) freeFid(fid uint32) {
	c.mu.Lock()
	c.fids = append(c.fids, fid)
	c.mu.Unlock()
}
