package p9

import (
	"encoding/binary"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
)

func pair(t testing.TB) (int, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// script is a peer whose answers a test writes. It has answered Tversion with version when dialScript returns.
type script struct {
	t      testing.TB
	socket int
	in     inbox
}

func dialScript(t testing.TB, version string) (*Client, *script) {
	t.Helper()
	ours, theirs := pair(t)
	p := &script{t: t, socket: theirs, in: inbox{socket: theirs}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if m := p.next(); m != nil {
			p.answer(m, &Rversion{Msize: 8192, Version: version})
		}
	}()
	c, err := Dial(ours, 8192, AllExtensions)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	return c, p
}

// next is a copy of the next request, nil at the end.
func (p *script) next() []byte {
	for {
		m, err := p.in.queued(MaxMsize)
		if err != nil {
			p.t.Errorf("the client sent a bad message: %v", err)
			return nil
		}
		if m != nil {
			return append([]byte(nil), m...)
		}
		if p.in.fill() != nil {
			return nil
		}
	}
}

func (p *script) answer(request []byte, m message) {
	p.send(request[4]+1, binary.LittleEndian.Uint16(request[5:]), m, -1)
}

func (p *script) send(kind uint8, tag uint16, m message, file int) {
	out := coder{buf: begin(nil, kind, tag)}
	m.wire(&out)
	finish(out.buf)
	sendAll(p.socket, out.buf, file)
}

func TestADeadPeerIsEIOForAll(t *testing.T) {
	c, p := dialScript(t, "9P2000.L")
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if _, _, err := c.Attach("", 0, ""); err != unix.EIO {
				t.Errorf("got %v, want EIO", err)
			}
		})
	}
	for range 20 {
		p.next() // every request is there, none is answered
	}
	unix.Close(p.socket)
	callers.Wait()
	if _, _, err := c.Attach("", 0, ""); err != unix.EIO {
		t.Errorf("later: %v, want EIO", err)
	}
	c.Close()
}

// A descriptor that finds no room is an error of the call that asked for it; the next call gets its own.
func TestADescriptorWithoutRoomIsEMFILE(t *testing.T) {
	c, p := dialScript(t, "9P2000.L+openfd")
	defer c.Close()
	defer unix.Close(p.socket)
	var files [2]int
	if err := unix.Pipe2(files[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(files[0])
	defer unix.Close(files[1])
	ask := func(file int) (got int, err error) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			if m := p.next(); m != nil {
				p.send(m[4]+1, binary.LittleEndian.Uint16(m[5:]), &Ropenfd{HasFD: true}, file)
			}
		}()
		if got, _, err = (&Fid{c: c, id: 1}).OpenFile(unix.O_RDONLY); err != unix.EIO {
			<-done // it was sent
		}
		return got, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := ask(files[0])
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != unix.EMFILE {
		t.Errorf("got %v, want EMFILE", err)
	}
	got, err := ask(files[1])
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(got)
	var want, is unix.Stat_t
	unix.Fstat(files[1], &want)
	unix.Fstat(got, &is)
	if flags, err := unix.FcntlInt(uintptr(got), unix.F_GETFL, 0); err != nil || is.Ino != want.Ino || flags&unix.O_ACCMODE != unix.O_WRONLY {
		t.Errorf("got file %d with flags %#x, %v; want %d", is.Ino, flags, err, want.Ino)
	}
}

func TestCloseIsEIOForAll(t *testing.T) {
	c, p := dialScript(t, "9P2000.L")
	defer unix.Close(p.socket)
	var callers sync.WaitGroup
	for range 20 {
		callers.Go(func() {
			if _, _, err := c.Attach("", 0, ""); err != unix.EIO {
				t.Errorf("got %v, want EIO", err)
			}
		})
	}
	for range 20 {
		p.next()
	}
	c.Close()
	callers.Wait()
	if p.next() != nil {
		t.Error("the socket is still open")
	}
}

func TestAnswersInAnyOrder(t *testing.T) {
	c, p := dialScript(t, "9P2000.L")
	defer unix.Close(p.socket)
	defer c.Close()
	var callers sync.WaitGroup
	for round := range 50 {
		const n = 8
		for i := range n {
			callers.Go(func() {
				f, q, err := c.Attach("", uint32(i), "")
				if err != nil || q.Path != uint64(i)+uint64(round)*1000 {
					t.Errorf("caller %d got %+v, %v", i, q, err)
					return
				}
				c.freeFid(f.id)
			})
		}
		var requests [][]byte
		for range n {
			requests = append(requests, p.next())
		}
		for i := range n {
			r := requests[(i*5+3)%n]
			var m Tattach
			m.wire(&coder{buf: r, pos: HeaderSize, dec: true})
			p.answer(r, &Rattach{Qid: Qid{Path: uint64(m.NUname) + uint64(round)*1000}})
		}
		callers.Wait()
	}
}

func TestErrorsAreErrnos(t *testing.T) {
	c, p := dialScript(t, "9P2000.L")
	defer unix.Close(p.socket)
	defer c.Close()
	go func() {
		for _, code := range []uint32{uint32(unix.ENOENT), 0, 1 << 31} {
			m := p.next()
			p.send(typeRlerror, binary.LittleEndian.Uint16(m[5:]), &Rlerror{Errno: code}, -1)
		}
		p.answer(p.next(), &Rlopen{})
		m := p.next()
		p.send(typeRclunk, binary.LittleEndian.Uint16(m[5:]), &Rattach{}, -1)
	}()
	for i, want := range []error{unix.ENOENT, unix.EIO, unix.EIO, unix.EIO, unix.EIO} {
		if _, _, err := c.Attach("", 0, ""); err != want {
			t.Errorf("answer %d: %v, want %v", i, err, want)
		}
	}
}

func TestBrokenAnswersBreakTheConnection(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"no such tag":      {7, 0, 0, 0, typeRclunk, 99, 0},
		"the version tag":  {7, 0, 0, 0, typeRclunk, 0xff, 0xff},
		"too small":        {6, 0, 0, 0, typeRclunk, 0, 0},
		"too large":        {0, 0, 0, 0x7f, typeRclunk, 0, 0},
		"descriptor lacks": {8, 0, 0, 0, typeRopenfd, 0, 0, 1},
	} {
		c, p := dialScript(t, versionString(AllExtensions))
		go func() {
			p.next()
			unix.Write(p.socket, bytes)
		}()
		if _, _, err := c.Attach("", 0, ""); err != unix.EIO {
			t.Errorf("%s: %v, want EIO", name, err)
		}
		if _, _, err := c.Attach("", 0, ""); err != unix.EIO {
			t.Errorf("%s, later: %v, want EIO", name, err)
		}
		c.Close()
		unix.Close(p.socket)
	}
}

// TestDescriptorsMeetTheirMessages: two answers with descriptors around one without, in one piece of stream.
func TestDescriptorsMeetTheirMessages(t *testing.T) {
	c, p := dialScript(t, versionString(AllExtensions))
	defer unix.Close(p.socket)
	defer c.Close()
	var files [3]int
	for i := range files {
		var err error
		if files[i], err = unix.MemfdCreate("file", unix.MFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		unix.Write(files[i], []byte{byte('a' + i)})
	}
	var callers sync.WaitGroup
	for i := range 3 {
		callers.Go(func() {
			f := &Fid{c: c, id: uint32(i)}
			fd, _, err := f.OpenFile(0)
			if i == 1 {
				if err != unix.EACCES {
					t.Errorf("got %d, %v", fd, err)
				}
				return
			}
			var b [1]byte
			if err != nil {
				t.Error(err)
			} else if unix.Pread(fd, b[:], 0); b[0] != byte('a'+i) {
				t.Errorf("caller %d got file %q", i, b)
			}
			unix.Close(fd)
		})
	}
	requests := map[uint32][]byte{}
	for range 3 {
		r := p.next()
		requests[binary.LittleEndian.Uint32(r[HeaderSize:])] = r
	}
	tag := func(i uint32) uint16 { return binary.LittleEndian.Uint16(requests[i][5:]) }
	p.send(typeRopenfd, tag(2), &Ropenfd{HasFD: true}, files[2])
	p.send(typeRlerror, tag(1), &Rlerror{Errno: uint32(unix.EACCES)}, -1)
	p.send(typeRopenfd, tag(0), &Ropenfd{HasFD: true}, files[0])
	callers.Wait()
	for _, f := range files {
		unix.Close(f)
	}
}

func TestPlainPeersAreSpokenPlainlyWith(t *testing.T) {
	ours, theirs := pair(t)
	p := &script{t: t, socket: theirs, in: inbox{socket: theirs}}
	go func() {
		p.answer(p.next(), &Rversion{Msize: 8192, Version: "unknown"})
		p.answer(p.next(), &Rversion{Msize: 8192, Version: "9P2000.L"})
	}()
	c, err := Dial(ours, 0, AllExtensions)
	if err != nil {
		t.Fatal(err)
	}
	if c.Extensions() != 0 || c.Msize() != 8192 {
		t.Errorf("extensions %v, msize %d", c.Extensions(), c.Msize())
	}
	c.Close()
	unix.Close(theirs)
}

func TestCallsLeaveLittleGarbage(t *testing.T) {
	if locks.Checked {
		t.Skip("checked locks allocate")
	}

	ours, theirs := pair(t)
	go Serve(theirs, emptyTree{}, ServerOptions{Extensions: AllExtensions})
	c, err := Dial(ours, 0, AllExtensions)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	root, _, err := c.Attach("", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(200, func() { root.Getattr() }); n > 4 {
		t.Errorf("%v allocations a getattr, both ends together", n)
	}
}

// emptyTree is a root directory and nothing else.
type emptyTree struct{}

func (emptyTree) Attach(string, uint32, string) (Node, error)    { return emptyTree{}, nil }
func (emptyTree) Walk(string) (Node, Attr, error)                { return nil, Attr{}, unix.ENOENT }
func (emptyTree) GetAttr() (Attr, error)                         { return Attr{Mode: unix.S_IFDIR | 0o755}, nil }
func (emptyTree) SetAttr(*SetAttr) error                         { return unix.EPERM }
func (emptyTree) Open(uint32) (Handle, error)                    { return emptyTree{}, nil }
func (emptyTree) Release()                                       {}
func (emptyTree) Close()                                         {}
func (emptyTree) ReadDir(uint64, bool, func(*Dirent) bool) error { return nil }

func TestLimitsOfTheServer(t *testing.T) {
	ours, theirs := pair(t)
	go Serve(theirs, emptyTree{}, ServerOptions{Extensions: AllExtensions, MaxFids: 10})
	c, err := Dial(ours, 0, AllExtensions)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	root, _, err := c.Attach("", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		_, _, err := root.Walk()
		if want := error(nil); i < 9 && err != want || i >= 9 && err != unix.EMFILE {
			t.Errorf("fid %d: %v", i, err)
		}
	}
	// An attribute being written takes its memory at once: not more than the connection may have.
	for _, e := range []error{root.SetXattr("user.x", nil, 0), second(root.GetXattr("user.x"))} {
		if e != unix.EMFILE && e != unix.EOPNOTSUPP {
			t.Error(e)
		}
	}
}

func second[T any](_ T, err error) error { return err }
