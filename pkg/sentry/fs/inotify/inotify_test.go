package inotify

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// decode prints events, with cookies numbered in order of appearance.
func decode(b []byte, cookies map[uint32]int) []string {
	var out []string
	le := binary.LittleEndian
	for len(b) >= 16 {
		n := int(le.Uint32(b[12:]))
		c := 0
		if k := le.Uint32(b[8:]); k != 0 {
			if cookies[k] == 0 {
				cookies[k] = len(cookies) + 1
			}
			c = cookies[k]
		}
		out = append(out, fmt.Sprintf("%d %#x %d %d %s", int32(le.Uint32(b)), le.Uint32(b[4:]), c, n, strings.TrimRight(string(b[16:16+n]), "\x00")))
		b = b[16+n:]
	}
	return out
}

func newSystem(t *testing.T) *fstest.VFS {
	mem, acct := fstest.Memory(t, 0)
	fs, err := tmpfs.New(tmpfs.Options{Memory: mem, Account: acct})
	if err != nil {
		t.Fatal(err)
	}
	return fstest.New(fs)
}

// TestEventsAreLinuxs makes random calls in a directory of the host's and in a
// tmpfs of ours, both watched, and compares all events.
func TestEventsAreLinuxs(t *testing.T) {
	masks := []uint32{unix.IN_ALL_EVENTS, unix.IN_ALL_EVENTS, unix.IN_CREATE | unix.IN_DELETE, unix.IN_ALL_EVENTS | unix.IN_ONESHOT,
		unix.IN_ALL_EVENTS | unix.IN_EXCL_UNLINK, unix.IN_MODIFY | unix.IN_MASK_ADD, 0, unix.IN_MOVE_SELF | unix.IN_DELETE_SELF,
		unix.IN_ALL_EVENTS | unix.IN_MASK_CREATE, unix.IN_MODIFY | unix.IN_MASK_ADD | unix.IN_MASK_CREATE, 1 << 12}
	paths := []string{"a", "b", "d", "d/a", "d/b", "e", "e/a", "."}
	for seed := int64(0); seed < 80; seed++ {
		rng := rand.New(rand.NewSource(seed))
		ours := newSystem(t)
		dir := fstest.HostDir(t)
		host := fstest.Host{Dir: dir}
		hfd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(ours.Ctx.Credentials(), unix.IN_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		in := Of(f)
		var log []string
		var openHost, openOurs []fstest.File
		hc, oc := map[uint32]int{}, map[uint32]int{}
		for step := 0; step < 120; step++ {
			p, q := paths[rng.Intn(len(paths)-1)], paths[rng.Intn(len(paths)-1)]
			var what string
			var hr, or any
			on := func(name string, f func(s fstest.System) error) {
				what = name
				hr, or = f(host), f(ours)
			}
			switch op := rng.Intn(13); op {
			case 0, 1:
				w := paths[rng.Intn(len(paths))]
				mask := masks[rng.Intn(len(masks))]
				hwd, herr := unix.InotifyAddWatch(hfd, dir+"/"+w, mask)
				owd := int32(-1)
				oerr := CheckMask(mask)
				if oerr == nil {
					var path vfs.Path
					if path, oerr = ours.Resolve(w, true); oerr == nil {
						if owd, oerr = in.AddWatch(ours.Ctx, path, mask); oerr != nil {
							owd = -1
						}
					}
				}
				hr, or = fmt.Sprint(hwd, herr), fmt.Sprint(owd, oerr)
				what = fmt.Sprintf("watch %s %#x", w, mask)
			case 2:
				wd := 1 + rng.Intn(5)
				_, herr := unix.InotifyRmWatch(hfd, uint32(wd))
				what, hr, or = fmt.Sprint("unwatch ", wd), fmt.Sprint(herr), fmt.Sprint(in.RemoveWatch(int32(wd)))
			case 3:
				on("mkdir "+p, func(s fstest.System) error { return s.Mkdir(p, 0o755) })
			case 4:
				// A file that is open keeps the directory it was in, on Linux.
				if len(openHost) > 0 {
					continue
				}
				on("rmdir "+p, func(s fstest.System) error { return s.Rmdir(p) })
			case 5:
				on("unlink "+p, func(s fstest.System) error { return s.Unlink(p) })
			case 6:
				on("rename "+p+" "+q, func(s fstest.System) error { return s.Rename(p, q, 0) })
			case 7:
				on("link "+p+" "+q, func(s fstest.System) error { return s.Link(p, q) })
			case 8:
				on("chmod "+p, func(s fstest.System) error { return s.Chmod(p, 0o700) })
			case 9, 10:
				what = "open " + p
				fl := uint32([]int{unix.O_RDONLY, unix.O_RDWR | unix.O_CREAT, unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC}[rng.Intn(3)])
				h, herr := host.Open(p, fl, 0o644)
				o, oerr := ours.Open(p, fl, 0o644)
				if herr == nil && oerr == nil {
					openHost, openOurs = append(openHost, h), append(openOurs, o)
				}
				hr, or = herr, oerr
			case 11:
				if len(openHost) > 0 {
					i := rng.Intn(len(openHost))
					what = "close"
					openHost[i].Close()
					openOurs[i].Close()
					openHost = append(openHost[:i], openHost[i+1:]...)
					openOurs = append(openOurs[:i], openOurs[i+1:]...)
				}
			case 12:
				if len(openHost) > 0 {
					i := rng.Intn(len(openHost))
					what = "write and read"
					openHost[i].Write("abc")
					openOurs[i].Write("abc")
					openHost[i].Pread(2, 0)
					openOurs[i].Pread(2, 0)
				}
			}
			log = append(log, fmt.Sprint(what, " = ", hr))
			var hb, ob [65536]byte
			hn, _ := unix.Read(hfd, hb[:])
			b := usermem.BytesBuffer(ob[:])
			n, _ := f.Read(ours.Ctx, &b)
			want, got := decode(hb[:max(hn, 0)], hc), decode(ob[:n], oc)
			// Within one call only the order of one watch's events counts.
			byWatch := func(a, b string) int { return strings.Compare(a[:1], b[:1]) }
			slices.SortStableFunc(want, byWatch)
			slices.SortStableFunc(got, byWatch)
			if fmt.Sprint(hr) != fmt.Sprint(or) || strings.Join(want, "\n") != strings.Join(got, "\n") {
				t.Fatalf("seed %d step %d: %s = %v; Linux %v\ngot\n  %s\nLinux\n  %s\nafter:\n%s", seed, step, what, or, hr,
					strings.Join(got, "\n  "), strings.Join(want, "\n  "), strings.Join(log[max(0, len(log)-15):], "\n"))
			}
		}
		for i := range openHost {
			openHost[i].Close()
			openOurs[i].Close()
		}
		unix.Close(hfd)
		f.DecRef()
		if used := ours.Ctx.Credentials().Account.Heap(); used != 0 {
			t.Errorf("seed %d: %d bytes still charged", seed, used)
		}
	}
	if len(users.of) != 0 {
		t.Errorf("limits still count %v", users.of)
	}
}

func TestReadsReturnWholeEvents(t *testing.T) {
	s := newSystem(t)
	f, _ := New(s.Ctx.Credentials(), 0)
	defer f.DecRef()
	root, _ := s.Resolve(".", true)
	Of(f).AddWatch(s.Ctx, root, unix.IN_CREATE)
	s.Mkdir("one", 0o755)
	s.Mkdir("two", 0o755)
	for _, c := range []struct {
		room, got int64
		err       error
	}{{31, 0, unix.EINVAL}, {50, 32, nil}, {100, 32, nil}, {100, 0, unix.EAGAIN}} {
		b := usermem.BytesBuffer(make([]byte, c.room))
		if n, err := f.Read(s.Ctx, &b); n != c.got || err != c.err {
			t.Errorf("read of %d = %d, %v", c.room, n, err)
		}
	}
}

func TestQueueOverflowsOnce(t *testing.T) {
	ctx := vfstest.NewContext()
	f, _ := New(ctx.Cred, 0)
	in := Of(f)
	in.mu.Lock()
	for i := 0; i < MaxQueuedEvents+10; i++ {
		in.push(event{wd: int32(i), mask: unix.IN_OPEN})
	}
	last := in.events[len(in.events)-1]
	if len(in.events) != MaxQueuedEvents+1 || last.mask != unix.IN_Q_OVERFLOW || last.wd != -1 {
		t.Errorf("%d events, the last %+v", len(in.events), last)
	}
	in.mu.Unlock()
	before := ctx.Cred.Account.Heap()
	f.DecRef()
	if before == 0 || ctx.Cred.Account.Heap() != 0 {
		t.Errorf("charged %d, after the end %d", before, ctx.Cred.Account.Heap())
	}
}

func TestConcurrentWatching(t *testing.T) {
	s := newSystem(t)
	f, _ := New(s.Ctx.Credentials(), 0)
	root, _ := s.Resolve(".", true)
	var wg sync.WaitGroup
	for i := 0; i < 3; i++ {
		wg.Add(2)
		go func() {
			defer wg.Done()
			for j := 0; j < 300; j++ {
				wd, _ := Of(f).AddWatch(s.Ctx, root, unix.IN_ALL_EVENTS)
				Of(f).RemoveWatch(wd)
			}
		}()
		go func() {
			defer wg.Done()
			name := string(rune('a' + i))
			for j := 0; j < 300; j++ {
				s.Mkdir(name, 0o755)
				s.Rmdir(name)
			}
		}()
	}
	wg.Wait()
	wd, err := Of(f).AddWatch(s.Ctx, root, unix.IN_CREATE)
	if err != nil || wd <= 0 {
		t.Fatal(wd, err)
	}
	s.Mkdir("last", 0o755)
	if f.Readiness(waiter.In) == 0 {
		t.Error("no event in the end")
	}
	f.DecRef()
}
