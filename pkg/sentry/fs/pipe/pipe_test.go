package pipe

import (
	"bytes"
	"math/rand"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

func write(ctx vfs.Context, f *vfs.File, s string) (int64, error) {
	b := usermem.BytesBuffer([]byte(s))
	return f.Write(ctx, &b)
}

func read(ctx vfs.Context, f *vfs.File, n int) (string, error) {
	p := make([]byte, n)
	b := usermem.BytesBuffer(p)
	got, err := f.Read(ctx, &b)
	return string(p[:got]), err
}

// TestPipeDoesWhatLinuxDoes runs random calls on a pipe of the host's and on
// ours and compares every result.
func TestPipeDoesWhatLinuxDoes(t *testing.T) {
	rng := rand.New(rand.NewSource(7))
	ctx := vfstest.NewContext()
	for round := 0; round < 60; round++ {
		var fds [2]int
		direct := 0
		if round%4 == 3 {
			direct = unix.O_DIRECT
		}
		if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC|direct); err != nil {
			t.Fatal(err)
		}
		r, w := New(ctx.Cred, unix.O_NONBLOCK|uint32(direct))
		open := [2]bool{true, true}
		files := [2]*vfs.File{r, w}
		for step := 0; step < 200; step++ {
			op := rng.Intn(8)
			if rng.Intn(60) == 0 {
				op = 8 + rng.Intn(2)
			}
			switch {
			case op < 3 && open[1]:
				// Whole pages, and single bytes, fill a pipe alike on both.
				p := bytes.Repeat([]byte{byte(step)}, []int{1, 1, 4096, 8192, 65536, 100000}[rng.Intn(6)])
				if r.Impl().(*end).Len()%4096 != 0 || direct != 0 {
					p = p[:1]
				}
				hn, herr := unix.Write(fds[1], p)
				b := usermem.BytesBuffer(p)
				n, err := w.Write(ctx, &b)
				if n > 0 && err == unix.EAGAIN {
					err = nil
				}
				if int64(max(hn, 0)) != n || herr != err {
					t.Fatalf("round %d step %d: write of %d = %d, %v; Linux %d, %v", round, step, len(p), n, err, hn, herr)
				}
			case op < 6 && open[0]:
				p := make([]byte, []int{1, 4096, 70000}[rng.Intn(3)])
				if l := r.Impl().(*end).Len(); len(p) == 1 && l > 1 && direct == 0 {
					p = p[:0] // keep page borders the same
				}
				hn, herr := unix.Read(fds[0], p)
				q := make([]byte, len(p))
				b := usermem.BytesBuffer(q)
				n, err := r.Read(ctx, &b)
				if int64(max(hn, 0)) != n || herr != err || !bytes.Equal(p[:n], q[:n]) {
					t.Fatalf("round %d step %d: read of %d = %d, %v; Linux %d, %v", round, step, len(p), n, err, hn, herr)
				}
			case op == 6 || op == 7:
				for i := range fds {
					if !open[i] {
						continue
					}
					pfd := []unix.PollFd{{Fd: int32(fds[i]), Events: unix.POLLIN | unix.POLLOUT}}
					unix.Poll(pfd, 0)
					if got := files[i].Readiness(waiter.In | waiter.Out | waiter.Err | waiter.Hup); int16(got) != pfd[0].Revents {
						t.Fatalf("round %d step %d: end %d is %#x; Linux %#x", round, step, i, got, pfd[0].Revents)
					}
				}
			case op >= 8 && open[op-8]:
				unix.Close(fds[op-8])
				files[op-8].DecRef()
				open[op-8] = false
			}
		}
		for i := range fds {
			if open[i] {
				unix.Close(fds[i])
				files[i].DecRef()
			}
		}
	}
	if used := ctx.Cred.Account.Heap(); used != 0 {
		t.Errorf("%d bytes still charged", used)
	}
}

func TestSmallWritesAreAtomic(t *testing.T) {
	ctx := vfstest.NewContext()
	r, w := New(ctx.Cred, unix.O_NONBLOCK)
	defer r.DecRef()
	defer w.DecRef()
	if n, err := write(ctx, w, strings.Repeat("x", DefaultSize-10)); n != DefaultSize-10 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := write(ctx, w, strings.Repeat("y", 11)); n != 0 || err != unix.EAGAIN {
		t.Errorf("a small write was split: %d, %v", n, err)
	}
	if n, err := write(ctx, w, strings.Repeat("z", AtomicSize+1)); n != 10 || err != unix.EAGAIN {
		t.Errorf("a large write = %d, %v; want 10 and EAGAIN", n, err)
	}
}

func TestCapacityCanBeChanged(t *testing.T) {
	ctx := vfstest.NewContext()
	ctx.Cred = ctx.Cred.Fork()
	ctx.Cred.Effective = 0
	r, w := New(ctx.Cred, unix.O_NONBLOCK)
	defer r.DecRef()
	defer w.DecRef()
	p := Of(r)
	for _, c := range []struct {
		want uint64
		got  int
		err  error
	}{{1, 4096, nil}, {4097, 8192, nil}, {0, 0, unix.EINVAL}, {1 << 20, 1 << 20, nil}, {1<<20 + 1, 0, unix.EPERM}, {1 << 32, 0, unix.EINVAL}} {
		if got, err := p.SetCapacity(ctx, c.want); got != c.got || err != c.err {
			t.Errorf("SetCapacity(%d) = %d, %v; want %d, %v", c.want, got, err, c.got, c.err)
		}
	}
	write(ctx, w, strings.Repeat("x", 5000))
	if _, err := p.SetCapacity(ctx, 4096); err != unix.EBUSY {
		t.Errorf("shrinking below the contents: %v", err)
	}
}

func TestFIFOOpenWaitsForTheOtherSide(t *testing.T) {
	ctx := vfstest.NewContext()
	path := anon.PipePath(ctx.Cred) // an inode like any other
	if _, err := OpenFIFO(ctx, path, unix.O_WRONLY|unix.O_NONBLOCK); err != unix.ENXIO {
		t.Fatalf("non-blocking open for writing: %v", err)
	}
	if path.Inode().Base().Attachment(pipeKey{}, nil) != nil {
		t.Error("a refused open left a pipe behind")
	}
	type result struct {
		impl any
		err  error
	}
	done := make(chan result)
	reader := vfstest.NewContext()
	go func() {
		impl, err := OpenFIFO(reader, path, unix.O_RDONLY)
		done <- result{impl, err}
	}()
	<-reader.Blocked
	impl, err := OpenFIFO(ctx, path, unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	w := vfs.NewFile(path, impl, unix.O_WRONLY, ctx.Cred)
	r := vfs.NewFile(path, got.impl, unix.O_RDONLY, ctx.Cred)
	write(ctx, w, "hello")
	w.DecRef()
	if s, err := read(ctx, r, 10); s != "hello" || err != nil {
		t.Errorf("read %q, %v", s, err)
	}
	if m := r.Readiness(waiter.In | waiter.Hup); m != waiter.Hup {
		t.Errorf("after the writer left: %#x", m)
	}
	if s, err := read(ctx, r, 10); s != "" || err != nil {
		t.Errorf("read at the end: %q, %v", s, err)
	}
	r.DecRef()
	if path.Inode().Base().Attachment(pipeKey{}, nil) != nil {
		t.Error("the pipe outlived its last end")
	}
}

func TestInterruptedFIFOOpenLeavesNothing(t *testing.T) {
	ctx := vfstest.NewContext()
	path := anon.PipePath(ctx.Cred)
	stop := make(chan struct{}, 1)
	stop <- struct{}{}
	ctx.Stop = stop
	if _, err := OpenFIFO(ctx, path, unix.O_RDONLY); err != unix.EINTR {
		t.Fatal(err)
	}
	if path.Inode().Base().Attachment(pipeKey{}, nil) != nil {
		t.Error("an interrupted open left a pipe behind")
	}
}

func TestSpliceAndTee(t *testing.T) {
	ctx := vfstest.NewContext()
	r1, w1 := New(ctx.Cred, 0)
	r2, w2 := New(ctx.Cred, 0)
	a, b := Of(r1), Of(r2)
	write(ctx, w1, strings.Repeat("p", 4096)+"abc")
	if n, err := Tee(a, b, 10000); n != 4099 || err != nil {
		t.Fatalf("Tee = %d, %v", n, err)
	}
	if n, err := Splice(a, b, 4097); n != 4097 || err != nil {
		t.Fatalf("Splice = %d, %v", n, err)
	}
	want := strings.Repeat("p", 4096) + "abc" + strings.Repeat("p", 4096) + "a"
	if s, _ := read(ctx, r2, 10000); s != want {
		t.Errorf("got %d bytes that differ", len(s))
	}
	if s, _ := read(ctx, r1, 10); s != "bc" {
		t.Errorf("left %q", s)
	}
	if _, err := Splice(a, b, 1); err != unix.EAGAIN {
		t.Errorf("Splice of an empty pipe: %v", err)
	}
	if _, err := Splice(a, a, 1); err != unix.EINVAL {
		t.Errorf("Splice to itself: %v", err)
	}
	if n, err := a.FillFrom(100, func(b []byte) (int, error) { return copy(b, "file"), nil }); n != 4 || err != nil {
		t.Errorf("FillFrom = %d, %v", n, err)
	}
	var out []byte
	if n, err := a.DrainTo(3, func(b []byte) (int, error) { out = append(out, b...); return len(b), nil }); n != 3 || err != nil || string(out) != "fil" {
		t.Errorf("DrainTo = %d, %v, %q", n, err, out)
	}
	w1.DecRef()
	w2.DecRef()
	r2.DecRef()
	if _, err := Splice(a, b, 1); err != unix.EPIPE {
		t.Errorf("Splice to a pipe without readers: %v", err)
	}
	r1.DecRef()
	if used := ctx.Cred.Account.Heap(); used != 0 {
		t.Errorf("%d bytes still charged", used)
	}
}

func TestBadMemoryLosesNothing(t *testing.T) {
	ctx := vfstest.NewContext()
	r, w := New(ctx.Cred, 0)
	defer r.DecRef()
	defer w.DecRef()
	bad, _ := usermem.Addr(1 << 40).Range(10)
	b := usermem.SingleBuffer(ctx.Mem, bad)
	if n, err := w.Write(ctx, &b); n != 0 || err != unix.EFAULT {
		t.Errorf("write from bad memory = %d, %v", n, err)
	}
	write(ctx, w, "kept")
	b = usermem.SingleBuffer(ctx.Mem, bad)
	if n, err := r.Read(ctx, &b); n != 0 || err != unix.EFAULT {
		t.Errorf("read to bad memory = %d, %v", n, err)
	}
	if s, _ := read(ctx, r, 10); s != "kept" {
		t.Errorf("got %q", s)
	}
}

func TestManyWritersAndReaders(t *testing.T) {
	const each = 300
	root := vfstest.NewContext()
	r, w := New(root.Cred, 0)
	var total [256]int
	var mu sync.Mutex
	var writers, readers sync.WaitGroup
	for i := 0; i < 4; i++ {
		writers.Add(1)
		go func() {
			defer writers.Done()
			ctx := vfstest.NewContext()
			p := bytes.Repeat([]byte{byte(i)}, 3000)
			for j := 0; j < each; j++ {
				b := usermem.BytesBuffer(p)
				vfs.BlockOn(ctx, w, waiter.Writable, false, func() error { _, err := w.Write(ctx, &b); return err })
			}
		}()
		readers.Add(1)
		go func() {
			defer readers.Done()
			ctx := vfstest.NewContext()
			p := make([]byte, 3000)
			for {
				var n int64
				vfs.BlockOn(ctx, r, waiter.Readable, false, func() (err error) {
					b := usermem.BytesBuffer(p)
					n, err = r.Read(ctx, &b)
					return err
				})
				if n == 0 {
					return
				}
				mu.Lock()
				for _, c := range p[:n] {
					total[c]++
				}
				mu.Unlock()
			}
		}()
	}
	writers.Wait()
	w.DecRef()
	readers.Wait()
	r.DecRef()
	for i := 0; i < 4; i++ {
		if total[i] != each*3000 {
			t.Errorf("%d bytes of writer %d", total[i], i)
		}
	}
}

func TestNameIsWhatProcShows(t *testing.T) {
	ctx := vfstest.NewContext()
	r, w := New(ctx.Cred, 0)
	defer r.DecRef()
	defer w.DecRef()
	if n := r.MappedName(); !strings.HasPrefix(n, "pipe:[") || n != w.MappedName() {
		t.Errorf("names %q and %q", n, w.MappedName())
	}
}

func BenchmarkOneByte(b *testing.B) {
	ctx := vfstest.NewContext()
	r, w := New(ctx.Cred, 0)
	p := []byte{1}
	var buf usermem.Buffer // a task keeps one
	b.ReportAllocs()
	for b.Loop() {
		buf = usermem.BytesBuffer(p)
		w.Write(ctx, &buf)
		buf = usermem.BytesBuffer(p)
		r.Read(ctx, &buf)
	}
}
