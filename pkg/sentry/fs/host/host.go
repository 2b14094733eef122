// Package host makes open files of descriptors that runsc gave to the sandbox:
// standard input, output and error, and those of --preserve-fds.
//
// The descriptors are shared with processes of the host, so their flags are left
// alone: a descriptor in blocking mode is asked by poll(2) before it is read or
// written. Whoever waits for one is woken by a Poller, one goroutine for all
// descriptors that sleeps in epoll_wait(2).
//
// What it doesn't do: mmap(2) of host files, ioctl(2) beyond the terminal's
// settings and size, opening again through /proc/self/fd.
//
// Locks: Poller.mu and file.mu are leaves.
package host

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// HostCalls are the host calls that files of this package make in the jail.
func HostCalls() []seccomp.Row {
	return []seccomp.Row{
		{Number: unix.SYS_PPOLL, Why: "whether a descriptor that runsc gave is ready"},
		{Number: unix.SYS_EPOLL_WAIT, Why: "waiting for descriptors that runsc gave"},
		{Number: unix.SYS_READV, Why: "reading from descriptors that runsc gave"},
		{Number: unix.SYS_WRITEV, Why: "writing to descriptors that runsc gave"},
		{Number: unix.SYS_PREAD64, Why: "reading from files that runsc gave"},
		{Number: unix.SYS_PWRITE64, Why: "writing to files that runsc gave"},
		{Number: unix.SYS_LSEEK, Why: "moving in files that runsc gave"},
		{Number: unix.SYS_FSYNC, Why: "writing files that runsc gave to disk"},
		{Number: unix.SYS_FTRUNCATE, Why: "cutting files that runsc gave"},
		{Number: unix.SYS_IOCTL, Checks: []seccomp.Check{seccomp.OneOfLow(1, unix.TCGETS, unix.TIOCGWINSZ)}, Why: "whether a descriptor that runsc gave is a terminal, and how large"},
	}
}

// Poller wakes who waits for host descriptors.
type Poller struct {
	epfd int

	mu    locks.Mutex[locks.Leaf]
	files map[int32]*file
}

// NewPoller starts a Poller. It is called before the jail is up.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	p := &Poller{epfd: fd, files: map[int32]*file{}}
	go p.run()
	return p, nil
}

func (p *Poller) run() {
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(p.epfd, events, -1)
		if err != nil && err != unix.EINTR {
			return
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			f := p.files[e.Fd]
			p.mu.Unlock()
			if f != nil {
				f.ready(waiter.Mask(e.Events))
			}
		}
	}
}

// filesystem is where host files are, for stat(2).
var filesystem = sync.OnceValue(func() *vfs.Mount {
	fs := &vfs.Filesystem{Type: "hostfs", Dev: vfs.NewDev(), Magic: 0x958458f6}
	fs.SetRoot(&inode{fd: -1, attr: vfs.Attr{Mode: unix.S_IFDIR | 0o500, Nlink: 1}})
	return vfs.NewInternalMount(fs)
})

// inode is a host file as stat(2) sees it.
type inode struct {
	vfs.InodeBase
	fd   int
	mu   locks.Mutex[locks.Leaf]
	attr vfs.Attr
}

func (i *inode) Attributes(_ vfs.Context, a *vfs.Attr) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fd >= 0 && i.attr.Type() == unix.S_IFREG {
		var st unix.Stat_t
		if err := unix.Fstat(i.fd, &st); err == nil {
			i.attr.Size, i.attr.Blocks = st.Size, uint64(st.Blocks)
			i.attr.Mtime, i.attr.Ctime = st.Mtim.Nano(), st.Ctim.Nano()
		}
	}
	*a = i.attr
	return nil
}

// SetAttributes changes what the sandbox sees; the host's file keeps its owner
// and mode.
func (i *inode) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	if s.Mask&vfs.SetSize != 0 {
		if err := unix.Ftruncate(i.fd, s.Size); err != nil {
			return err
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if s.Mask&vfs.SetMode != 0 {
		i.attr.Mode = i.attr.Mode&unix.S_IFMT | s.Mode
	}
	if s.Mask&vfs.SetUID != 0 {
		i.attr.UID = s.UID
	}
	if s.Mask&vfs.SetGID != 0 {
		i.attr.GID = s.GID
	}
	return nil
}

func (i *inode) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

// file is an open host descriptor.
type file struct {
	poller *Poller
	fd     int
	kind   uint32 // S_IFMT
	tty    bool

	queue    waiter.Queue
	mu       locks.Mutex[locks.Leaf]
	inEpoll  bool
	pollable bool
}

// stream is a file that is read and written in order; positioned is a regular
// file, whose offset is the host's, shared with whoever else has it open.
type stream struct{ *file }
type positioned struct{ stream }

// NewFile returns an open file for fd, which it owns from now on. owner is whom
// stat(2) shows.
func (p *Poller) NewFile(fd int, owner *auth.Credentials) (*vfs.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil, errors.New("a directory can't be handed into a sandbox as an open file")
	}
	m := filesystem()
	i := &inode{fd: fd, attr: vfs.Attr{
		Mode: st.Mode, Nlink: 1, UID: owner.FSUID, GID: owner.FSGID, Ino: st.Ino, Size: st.Size, Blocks: uint64(st.Blocks),
		BlockSize: uint32(st.Blksize), Rdev: st.Rdev, Dev: m.Filesystem().Dev,
		Atime: st.Atim.Nano(), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}}
	f := &file{poller: p, fd: fd, kind: st.Mode & unix.S_IFMT, pollable: true}
	name := "host:[" + kindName(f.kind) + "]"
	if f.kind == unix.S_IFCHR {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		f.tty = err == nil
	}
	d := vfs.NewDetachedDentry(m.Filesystem(), name, i)
	var impl any = stream{f}
	if f.kind == unix.S_IFREG {
		f.pollable = false
		impl = positioned{stream{f}}
	}
	return vfs.NewFile(vfs.Path{Mount: m, Dentry: d}, impl, uint32(flags)&(unix.O_ACCMODE|unix.O_APPEND|unix.O_NONBLOCK), owner), nil
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "device"
	}
	return "file"
}

// Release closes the descriptor.
func (f *file) Release(*vfs.File) {
	f.poller.mu.Lock()
	delete(f.poller.files, int32(f.fd))
	f.poller.mu.Unlock()
	f.mu.Lock()
	if f.inEpoll {
		// Closing does it only for the last descriptor: others of the host have the file too.
		unix.EpollCtl(f.poller.epfd, unix.EPOLL_CTL_DEL, f.fd, nil)
	}
	f.mu.Unlock()
	unix.Close(f.fd)
}

// Readiness implements waiter.Waitable.
func (f *file) Readiness(mask waiter.Mask) waiter.Mask {
	if !f.pollable {
		return mask & (waiter.Readable | waiter.Writable)
	}
	fds := []unix.PollFd{{Fd: int32(f.fd), Events: int16(mask)}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return 0
	}
	return waiter.Mask(uint16(fds[0].Revents))
}

// EventRegister implements waiter.Waitable: the Poller watches the descriptor
// from the first time on.
func (f *file) EventRegister(e *waiter.Entry) {
	f.queue.Register(e)
	if f.pollable {
		f.watch()
	}
}

// EventUnregister implements waiter.Waitable.
func (f *file) EventUnregister(e *waiter.Entry) {
	f.queue.Unregister(e)
}

// watch has the Poller tell of each change from now on: who registers once may look
// and sleep many times, and what he doesn't wait for must not use up what he does.
// Nobody has to wait any longer for it to go on: nothing is told unless the host's
// side does something.
func (f *file) watch() {
	f.mu.Lock()
	watched := f.inEpoll
	f.inEpoll = true
	f.mu.Unlock()
	if watched {
		return
	}
	f.poller.mu.Lock()
	f.poller.files[int32(f.fd)] = f
	f.poller.mu.Unlock()
	ev := unix.EpollEvent{Fd: int32(f.fd), Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET}
	if err := unix.EpollCtl(f.poller.epfd, unix.EPOLL_CTL_ADD, f.fd, &ev); err != nil {
		f.mu.Lock()
		f.inEpoll = false
		f.mu.Unlock()
		// What can't be watched is always ready (poll(2)).
		go f.queue.Notify(waiter.Readable | waiter.Writable)
	}
}

// ready tells those who wait.
func (f *file) ready(m waiter.Mask) { f.queue.Notify(m) }

// Read implements vfs.Reader.
func (s stream) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	if dst.Len() == 0 {
		return 0, nil
	}
	if s.pollable && s.Readiness(waiter.In) == 0 {
		return 0, unix.EAGAIN
	}
	var total int64
	n, err := dst.Blocks(usermem.Write, func(b []byte) (int, error) {
		if total > 0 {
			return 0, nil
		}
		n, err := retry(func() (int, error) { return unix.Readv(s.fd, [][]byte{b}) })
		total += int64(n)
		return n, err
	})
	if n > 0 {
		return int64(n), nil
	}
	return 0, err
}

// Write implements vfs.Writer. It ends early only where there is no more room, which
// those who wait are told of: whoever has written a part sleeps until then.
func (s stream) Write(_ vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	if src.Len() == 0 {
		return 0, nil
	}
	if s.pollable && s.Readiness(waiter.Out) == 0 {
		return 0, unix.EAGAIN
	}
	first := true
	n, err := src.Blocks(usermem.Read, func(b []byte) (int, error) {
		done := 0
		for done < len(b) {
			if !first && s.pollable && s.Readiness(waiter.Out)&waiter.Out == 0 {
				break
			}
			first = false
			part := b[done:]
			// A pipe that is writable takes PIPE_BUF bytes without blocking.
			if s.kind == unix.S_IFIFO && len(part) > 4096 {
				part = part[:4096]
			}
			n, err := retry(func() (int, error) { return unix.Writev(s.fd, [][]byte{part}) })
			done += n
			if err != nil {
				return done, err
			}
		}
		return done, nil
	})
	if n > 0 {
		return int64(n), nil
	}
	return 0, err
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// ReadAt implements vfs.ReaderAt, for pread(2).
func (p positioned) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	n, err := dst.Blocks(usermem.Write, func(b []byte) (int, error) {
		n, err := retry(func() (int, error) { return unix.Pread(p.fd, b, off) })
		off += int64(n)
		return n, err
	})
	return int64(n), err
}

// WriteAt implements vfs.WriterAt, for pwrite(2).
func (p positioned) WriteAt(_ vfs.Context, src *usermem.Buffer, off int64) (int64, error) {
	n, err := src.Blocks(usermem.Read, func(b []byte) (int, error) {
		n, err := retry(func() (int, error) { return unix.Pwrite(p.fd, b, off) })
		off += int64(n)
		return n, err
	})
	return int64(n), err
}

// Seek implements vfs.Seeker.
func (p positioned) Seek(_ vfs.Context, _ *vfs.File, _, off int64, whence int) (int64, error) {
	return unix.Seek(p.fd, off, whence)
}

// Sync implements vfs.Syncer.
func (f *file) Sync(vfs.Context, bool) error {
	if f.kind != unix.S_IFREG {
		return unix.EINVAL
	}
	return unix.Fsync(f.fd)
}

// Ioctl lets a host terminal's settings and size be read.
func (f *file) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	if !f.tty {
		return 0, unix.ENOTTY
	}
	switch cmd {
	case unix.TIOCGWINSZ:
		ws, err := unix.IoctlGetWinsize(f.fd, unix.TIOCGWINSZ)
		if err != nil {
			return 0, err
		}
		b := []byte{byte(ws.Row), byte(ws.Row >> 8), byte(ws.Col), byte(ws.Col >> 8), 0, 0, 0, 0}
		_, err = ctx.Memory().CopyOut(usermem.Addr(arg), b)
		return 0, err
	}
	return 0, unix.ENOTTY
}
