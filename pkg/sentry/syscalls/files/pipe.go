package files

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pipe"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

var pipeRows = []call.Row{
	call.Full(unix.SYS_PIPE, "pipe", call.Args1(pipeCall)),
	call.Full(unix.SYS_PIPE2, "pipe2", call.Args2(pipe2)),
	call.Full(unix.SYS_SPLICE, "splice", call.Args6(splice)),
	call.Full(unix.SYS_TEE, "tee", call.Args4(tee)),
	call.Full(unix.SYS_VMSPLICE, "vmsplice", call.Args4(vmsplice)),
	call.Full(unix.SYS_SENDFILE, "sendfile", call.Args4(sendfile)),
	call.Full(unix.SYS_COPY_FILE_RANGE, "copy_file_range", call.Args6(copyFileRange)),
}

func pipeCall(t *kernel.Task, fds usermem.Addr) (uint64, error) { return pipe2(t, fds, 0) }

func pipe2(t *kernel.Task, fds usermem.Addr, flags uint32) (uint64, error) {
	if flags&^(unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_DIRECT) != 0 {
		return 0, unix.EINVAL
	}
	r, w := pipe.New(t.Credentials(), flags)
	return 0, call.AddPair(t, r, w, flags&unix.O_CLOEXEC != 0, fds)
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK | unix.SPLICE_F_MORE | unix.SPLICE_F_GIFT

// chunkSize is how many bytes a call copies at a time between files.
const chunkSize = 64 << 10

// twoFiles returns the files of a call that reads one and writes the other:
// EBADF where it can't. Both come with references.
func twoFiles(t *kernel.Task, in, out call.FD) (*vfs.File, *vfs.File, error) {
	r, err := in.File(t)
	if err != nil {
		return nil, nil, err
	}
	if !r.Readable() {
		r.DecRef()
		return nil, nil, unix.EBADF
	}
	w, err := out.File(t)
	if err != nil {
		r.DecRef()
		return nil, nil, err
	}
	if !w.Writable() {
		r.DecRef()
		w.DecRef()
		return nil, nil, unix.EBADF
	}
	return r, w, nil
}

// cursor is where a copying call reads or writes a file: an offset that the
// application keeps, or the file's own.
type cursor struct {
	file *vfs.File
	at   usermem.Addr // of the application's offset; zero for the file's own
	off  int64
	// stream: the file has no offsets.
	stream bool
}

// newCursor reads the offset at at. A file without offsets gives missing if the
// application keeps one.
func newCursor(t *kernel.Task, f *vfs.File, at usermem.Addr, writes bool, missing unix.Errno) (*cursor, error) {
	c := &cursor{file: f, at: at}
	var positional, stream bool
	if writes {
		_, positional = f.Impl().(vfs.WriterAt)
		_, stream = f.Impl().(vfs.Writer)
	} else {
		_, positional = f.Impl().(vfs.ReaderAt)
		_, stream = f.Impl().(vfs.Reader)
	}
	if at == 0 {
		if c.stream = stream || !positional; !c.stream {
			c.off = f.Offset()
		}
		return c, nil
	}
	if !positional {
		return nil, missing
	}
	v, err := usermem.CopyInUint64(t.MM(), at)
	c.off = int64(v)
	if err == nil && c.off < 0 {
		err = unix.EINVAL
	}
	return c, err
}

func (c *cursor) read(t *kernel.Task, p []byte) (int, error) {
	b := usermem.BytesBuffer(p)
	var n int64
	var err error
	if c.stream {
		n, err = c.file.Read(t, &b)
	} else {
		n, err = c.file.ReadAt(t, &b, c.off)
	}
	return int(n), err
}

func (c *cursor) write(t *kernel.Task, p []byte) (int, error) {
	b := usermem.BytesBuffer(p)
	var n int64
	var err error
	if c.stream {
		n, err = c.file.Write(t, &b)
	} else {
		n, err = c.file.WriteAt(t, &b, c.off)
	}
	return int(n), err
}

// advance moves the offset on; done stores it.
func (c *cursor) advance(n int64) { c.off += n }

func (c *cursor) done(t *kernel.Task) error {
	switch {
	case c.stream:
		return nil
	case c.at != 0:
		return usermem.CopyOutUint64(t.MM(), c.at, uint64(c.off))
	}
	_, err := c.file.Seek(t, c.off, unix.SEEK_SET)
	return err
}

// waitReady sleeps until f is ready for mask.
func waitReady(t *kernel.Task, f *vfs.File, mask waiter.Mask) error {
	return t.WaitFor(f, mask, kernel.Forever, func() error {
		if f.Readiness(mask|waiter.Err|waiter.Hup) == 0 {
			return unix.EAGAIN
		}
		return nil
	})
}

// transfer repeats step until it moves something, fails or would have to wait
// for a file that may not be waited for. step returns, with EAGAIN, the file
// that it found not ready.
func transfer(t *kernel.Task, nonblock bool, step func() (n int64, busy *vfs.File, mask waiter.Mask, err error)) (int64, error) {
	for {
		n, busy, mask, err := step()
		if n > 0 || err != unix.EAGAIN || busy == nil || nonblock || busy.NonBlocking() || !busy.Pollable() {
			return n, err
		}
		if err := waitReady(t, busy, mask); err != nil {
			return 0, err
		}
	}
}

func splice(t *kernel.Task, in call.FD, offIn usermem.Addr, out call.FD, offOut usermem.Addr, n call.Size, flags uint32) (uint64, error) {
	if flags&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return 0, nil
	}
	r, w, err := twoFiles(t, in, out)
	if err != nil {
		return 0, err
	}
	defer r.DecRef()
	defer w.DecRef()
	from, to := pipe.Of(r), pipe.Of(w)
	if from != nil && offIn != 0 || to != nil && offOut != 0 {
		return 0, unix.ESPIPE
	}
	limit := int64(min(n, call.MaxRW))
	nonblock := flags&unix.SPLICE_F_NONBLOCK != 0
	var done int64
	switch {
	case from != nil && to != nil:
		done, err = betweenPipes(t, r, w, nonblock, func() (int64, error) { return pipe.Splice(from, to, limit) })
	case from != nil:
		done, err = spliceOut(t, r, w, offOut, limit, nonblock)
	case to != nil:
		done, err = spliceIn(t, r, w, offIn, limit, nonblock)
	default:
		return 0, unix.EINVAL
	}
	return ioResult(t, done, err)
}

// betweenPipes does move, waiting for bytes in r and room in w.
func betweenPipes(t *kernel.Task, r, w *vfs.File, nonblock bool, move func() (int64, error)) (int64, error) {
	return transfer(t, nonblock, func() (int64, *vfs.File, waiter.Mask, error) {
		n, err := move()
		if err == unix.EAGAIN && w.Readiness(call.WriteMask) != 0 {
			return n, r, call.ReadMask, err
		}
		return n, w, call.WriteMask, err
	})
}

// spliceOut moves bytes from the pipe r to another file.
func spliceOut(t *kernel.Task, r, w *vfs.File, at usermem.Addr, limit int64, nonblock bool) (int64, error) {
	c, err := newCursor(t, w, at, true, unix.EINVAL)
	if err != nil {
		return 0, err
	}
	if w.Flags()&unix.O_APPEND != 0 {
		return 0, unix.EINVAL
	}
	n, err := transfer(t, nonblock, func() (int64, *vfs.File, waiter.Mask, error) {
		busy, mask := r, call.ReadMask
		n, err := pipe.Of(r).DrainTo(limit, func(p []byte) (int, error) {
			n, err := c.write(t, p)
			c.advance(int64(n))
			if err == unix.EAGAIN {
				busy, mask = w, call.WriteMask
			}
			return n, err
		})
		return n, busy, mask, err
	})
	if n > 0 {
		err = c.done(t)
		if err != nil {
			return 0, err
		}
	}
	return n, err
}

// spliceIn moves bytes from another file to the pipe w.
func spliceIn(t *kernel.Task, r, w *vfs.File, at usermem.Addr, limit int64, nonblock bool) (int64, error) {
	c, err := newCursor(t, r, at, false, unix.EINVAL)
	if err != nil {
		return 0, err
	}
	to := pipe.Of(w)
	var n int64
	if c.stream {
		n, err = spliceStream(t, r, w, limit, nonblock)
	} else {
		n, err = transfer(t, nonblock, func() (int64, *vfs.File, waiter.Mask, error) {
			n, err := spliceAt(t, c, to, limit)
			return n, w, call.WriteMask, err
		})
	}
	if n > 0 {
		if err := c.done(t); err != nil {
			return 0, err
		}
	}
	return n, err
}

// spliceAt fills a pipe from a file with offsets. The file is read before the
// pipe is locked: what a file of /proc tells may need other pipes' locks. What
// doesn't fit any more is read again next time.
func spliceAt(t *kernel.Task, c *cursor, to *pipe.Pipe, limit int64) (int64, error) {
	buf := make([]byte, min(limit, chunkSize))
	var total int64
	for total < limit {
		got, err := c.read(t, buf[:min(limit-total, int64(len(buf)))])
		if got == 0 {
			if total > 0 {
				err = nil
			}
			return total, err
		}
		rest := buf[:got]
		n, err := to.FillFrom(int64(got), func(p []byte) (int, error) {
			k := copy(p, rest)
			rest = rest[k:]
			return k, nil
		})
		c.advance(n)
		total += n
		if err != nil || n < int64(got) {
			if total > 0 {
				err = nil
			}
			return total, err
		}
	}
	return total, nil
}

// spliceStream fills a pipe from a file without offsets, straight into the
// pipe's memory. Files that come over a socket are dropped when the pipe isn't
// locked any more: they may be its ends.
func spliceStream(t *kernel.Task, r, w *vfs.File, limit int64, nonblock bool) (int64, error) {
	sock, _ := socket.Of(r)
	return transfer(t, nonblock, func() (int64, *vfs.File, waiter.Mask, error) {
		busy, mask := w, call.WriteMask
		var landed []*vfs.File
		n, err := pipe.Of(w).FillFrom(limit, func(p []byte) (int, error) {
			b := usermem.BytesBuffer(p)
			var n int64
			var err error
			if sock != nil {
				m := socket.Receive{FileRoom: socket.MaxFiles}
				n, err = sock.Receive(t, &b, &m)
				landed = append(landed, m.Files...)
			} else {
				n, err = r.Read(t, &b)
			}
			if err == unix.EAGAIN {
				busy, mask = r, call.ReadMask
			}
			return int(n), err
		})
		for _, f := range landed {
			f.DecRef()
		}
		return n, busy, mask, err
	})
}

func tee(t *kernel.Task, in, out call.FD, n call.Size, flags uint32) (uint64, error) {
	if flags&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return 0, nil
	}
	r, w, err := twoFiles(t, in, out)
	if err != nil {
		return 0, err
	}
	defer r.DecRef()
	defer w.DecRef()
	from, to := pipe.Of(r), pipe.Of(w)
	if from == nil || to == nil || from == to {
		return 0, unix.EINVAL
	}
	done, err := betweenPipes(t, r, w, flags&unix.SPLICE_F_NONBLOCK != 0, func() (int64, error) {
		return pipe.Tee(from, to, int64(min(n, call.MaxRW)))
	})
	return ioResult(t, done, err)
}

func vmsplice(t *kernel.Task, fd call.FD, iov usermem.Addr, count uint32, flags uint32) (uint64, error) {
	if flags&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	if pipe.Of(f) == nil {
		return 0, unix.EBADF
	}
	b, err := call.Vector(t, iov, int32(min(count, 1<<31-1)))
	if err != nil || b.Len() == 0 {
		return 0, err
	}
	op, mask := f.Read, call.ReadMask
	if f.Writable() {
		op, mask = f.Write, call.WriteMask
	}
	n, err := transfer(t, flags&unix.SPLICE_F_NONBLOCK != 0, func() (int64, *vfs.File, waiter.Mask, error) {
		n, err := op(t, b)
		return n, f, mask, err
	})
	return ioResult(t, n, err)
}

// copyFile copies up to limit bytes from one file with offsets to another file,
// waiting for the latter where that may be.
func copyFile(t *kernel.Task, from, to *cursor, limit int64) (int64, error) {
	buf := make([]byte, min(limit, chunkSize))
	var total int64
	for total < limit {
		got, err := from.read(t, buf[:min(limit-total, int64(len(buf)))])
		if err != nil || got == 0 {
			return total, err
		}
		for p := buf[:got]; len(p) > 0; {
			n, err := to.write(t, p)
			p = p[n:]
			total += int64(n)
			from.advance(int64(n))
			to.advance(int64(n))
			if err == unix.EAGAIN && !to.file.NonBlocking() && to.file.Pollable() {
				if err = waitReady(t, to.file, call.WriteMask); err == nil {
					continue
				}
			}
			if err != nil || n == 0 {
				return total, err
			}
		}
		if t.SignalPending() {
			return total, kernel.RestartSys
		}
	}
	return total, nil
}

func sendfile(t *kernel.Task, out, in call.FD, offset usermem.Addr, n call.Size) (uint64, error) {
	if offset != 0 {
		if _, err := usermem.CopyInUint64(t.MM(), offset); err != nil {
			return 0, err
		}
	}
	r, w, err := twoFiles(t, in, out)
	if err != nil {
		return 0, err
	}
	defer r.DecRef()
	defer w.DecRef()
	from, err := newCursor(t, r, offset, false, unix.ESPIPE)
	if err != nil {
		return 0, err
	}
	var a vfs.Attr
	if err := r.Stat(t, &a); err != nil {
		return 0, err
	}
	if int64(n) < 0 || w.Flags()&unix.O_APPEND != 0 || from.stream || a.Type() != unix.S_IFREG && a.Type() != unix.S_IFBLK {
		return 0, unix.EINVAL
	}
	to, err := newCursor(t, w, 0, true, unix.EINVAL)
	if err != nil {
		return 0, err
	}
	done, err := copyFile(t, from, to, int64(min(n, call.MaxRW)))
	t.CountRead(uint64(done))
	t.CountWrite(uint64(done))
	if done > 0 {
		if e := from.done(t); e != nil {
			return 0, e
		}
		to.done(t)
	}
	return ioResult(t, done, err)
}

func copyFileRange(t *kernel.Task, in call.FD, offIn usermem.Addr, out call.FD, offOut usermem.Addr, n call.Size, flags uint32) (uint64, error) {
	r, err := in.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer r.DecRef()
	w, err := out.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer w.DecRef()
	var a, b vfs.Attr
	if err := r.Stat(t, &a); err != nil {
		return 0, err
	}
	if err := w.Stat(t, &b); err != nil {
		return 0, err
	}
	if flags != 0 {
		return 0, unix.EINVAL
	}
	if a.IsDir() || b.IsDir() {
		return 0, unix.EISDIR
	}
	if a.Type() != unix.S_IFREG || b.Type() != unix.S_IFREG {
		return 0, unix.EINVAL
	}
	if !r.Readable() || !w.Writable() || w.Flags()&unix.O_APPEND != 0 {
		return 0, unix.EBADF
	}
	from, err := newCursor(t, r, offIn, false, unix.EINVAL)
	if err != nil {
		return 0, err
	}
	to, err := newCursor(t, w, offOut, true, unix.EINVAL)
	if err != nil {
		return 0, err
	}
	if int64(n) < 0 || from.off+int64(n) < 0 || to.off+int64(n) < 0 {
		return 0, unix.EOVERFLOW
	}
	n = min(n, call.Size(max(a.Size-from.off, 0)))
	if r.Inode() == w.Inode() && n > 0 && from.off < to.off+int64(n) && to.off < from.off+int64(n) {
		return 0, unix.EINVAL
	}
	done, err := copyFile(t, from, to, int64(min(n, call.MaxRW)))
	t.CountRead(uint64(done))
	t.CountWrite(uint64(done))
	if done > 0 {
		if e := from.done(t); e != nil {
			return 0, e
		}
		if e := to.done(t); e != nil {
			return 0, e
		}
	}
	return ioResult(t, done, err)
}
