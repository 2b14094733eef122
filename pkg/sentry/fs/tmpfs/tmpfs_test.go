package tmpfs

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

func newFS(t testing.TB, o Options) (*fstest.VFS, *Storage, *memfile.Account) {
	t.Helper()
	o.Memory, o.Account = fstest.Memory(t, 0)
	fs, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return fstest.New(fs), fs.Impl.(*Storage), o.Account
}

func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestRandomCallsAgainstHost makes the same calls here and on a tmpfs of the
// host, and sees all memory given back at the end.
func TestRandomCallsAgainstHost(t *testing.T) {
	for seed := range uint64(60) {
		s, st, acct := newFS(t, Options{Mode: unix.S_IFDIR | 0o755})
		fstest.Run(t, randomBytes(seed, 3000), s, fstest.Host{Dir: fstest.HostDir(t)}, fstest.Options{NoHoles: true})
		removeAll(t, s, ".")
		if acct.FileUsage() != 0 || st.used.Load() != 1 {
			t.Fatalf("seed %d: %d bytes and %d inodes are left of an empty file system", seed, acct.FileUsage(), st.used.Load())
		}
	}
}

func FuzzCallsAgainstHost(f *testing.F) {
	f.Add(randomBytes(1, 300))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, _, _ := newFS(t, Options{Mode: unix.S_IFDIR | 0o755})
		fstest.Run(t, data, s, fstest.Host{Dir: fstest.HostDir(t)}, fstest.Options{NoHoles: true})
	})
}

func removeAll(t *testing.T, s *fstest.VFS, dir string) {
	t.Helper()
	f, err := s.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.DecRef()
	// Names are removed while the directory is read.
	err = f.Impl().(vfs.DirReader).ReadDir(s.Ctx, f, 0, func(e vfs.DirEntry) bool {
		if e.Name == "." || e.Name == ".." {
			return true
		}
		p := dir + "/" + e.Name
		if e.Type == unix.DT_DIR {
			removeAll(t, s, p)
			err = s.Rmdir(p)
		} else {
			err = s.Unlink(p)
		}
		if err != nil {
			t.Fatalf("removing %s: %v", p, err)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestPagesGoWithLastNameAndOpenFile(t *testing.T) {
	s, st, acct := newFS(t, Options{})
	f, _ := s.Open("x", unix.O_CREAT|unix.O_RDWR, 0o600)
	f.Write(string(make([]byte, 5*4096)))
	g, _ := s.OpenFile("x", unix.O_PATH, 0)
	if err := s.Unlink("x"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if acct.FileUsage() != 5*4096 {
		t.Errorf("%d bytes in use while an O_PATH descriptor is open", acct.FileUsage())
	}
	h, err := s.Opener.OpenPath(s.Ctx, g.Path(), unix.O_RDONLY)
	if err != nil {
		t.Fatalf("opening again through O_PATH: %v", err)
	}
	g.DecRef()
	var a vfs.Attr
	if h.Stat(s.Ctx, &a); a.Size != 5*4096 || a.Nlink != 0 {
		t.Errorf("size %d, nlink %d", a.Size, a.Nlink)
	}
	h.DecRef()
	if acct.FileUsage() != 0 || st.used.Load() != 1 {
		t.Errorf("%d bytes, %d inodes after the last close", acct.FileUsage(), st.used.Load())
	}
}

func TestSizeAndInodeLimits(t *testing.T) {
	s, _, _ := newFS(t, Options{Size: 4 * 4096, Inodes: 3})
	f, err := s.Open("x", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Write(string(make([]byte, 6*4096)))
	if n != 4*4096 || err != nil {
		t.Errorf("write into a full file system: %d, %v", n, err)
	}
	if n, err = f.Write("x"); n != 0 || err != unix.ENOSPC {
		t.Errorf("write into a full file system: %d, %v", n, err)
	}
	var sf unix.Statfs_t
	if err := vfs.Statfs(s.Ctx, s.NS.Root(), &sf); err != nil || sf.Blocks != 4 || sf.Bfree != 0 || sf.Files != 3 || sf.Ffree != 1 {
		t.Errorf("statfs: %+v, %v", sf, err)
	}
	if err := s.Mkdir("d", 0o700); err != nil {
		t.Error(err)
	}
	if err := s.Mkdir("e", 0o700); err != unix.ENOSPC {
		t.Errorf("a fourth inode: %v", err)
	}
	f.Truncate(0)
	if n, err = f.Write("x"); n != 1 || err != nil {
		t.Errorf("after truncation: %d, %v", n, err)
	}
}

func TestOptions(t *testing.T) {
	ns := fstest.NewContext().Cred.UserNS
	for _, c := range []struct {
		in   string
		ok   bool
		want string
	}{
		{"", true, ""},
		{"size=64m,mode=755,uid=5,gid=6", true, ",size=65536k,mode=755,uid=5,gid=6"},
		{"size=50%", true, ",size=512k"},
		{"size=1000", true, ",size=4k"},
		{"nr_blocks=2,nr_inodes=1k", true, ",size=8k,nr_inodes=1024"},
		{"size=-1", false, ""},
		{"size=99999999999e", false, ""},
		{"bogus", false, ""},
		{"mode=9", false, ""},
	} {
		var o Options
		err := o.ParseOptions(c.in, 1<<20, ns)
		if (err == nil) != c.ok || err == nil && o.String() != c.want {
			t.Errorf("%q gives %q, %v; want %q", c.in, o.String(), err, c.want)
		}
	}
}

func TestSeals(t *testing.T) {
	mem, acct := fstest.Memory(t, 0)
	a, err := NewAnonymous(Options{Memory: mem, Account: acct})
	if err != nil {
		t.Fatal(err)
	}
	ctx := fstest.NewContext()
	if _, err := a.NewMemfd(ctx.Cred, "x", 1<<20); err != unix.EINVAL {
		t.Errorf("unknown flag: %v", err)
	}
	f, _ := a.NewMemfd(ctx.Cred, "x", unix.MFD_ALLOW_SEALING)
	write := func(s string, off int64) error {
		b := usermem.BytesBuffer([]byte(s))
		_, err := f.WriteAt(ctx, &b, off)
		return err
	}
	seal := f.Impl().(vfs.Sealer)
	if err := write("hello", 0); err != nil {
		t.Fatal(err)
	}
	seal.AddSeals(unix.F_SEAL_SHRINK | unix.F_SEAL_GROW)
	if err := write("abc", 5); err != unix.EPERM {
		t.Errorf("growing against a seal: %v", err)
	}
	if err := vfs.Truncate(ctx, f.Path(), f, 2); err != unix.EPERM {
		t.Errorf("shrinking against a seal: %v", err)
	}
	if err := write("abc", 0); err != nil {
		t.Error(err)
	}
	seal.AddSeals(unix.F_SEAL_WRITE | unix.F_SEAL_SEAL)
	if err := write("abc", 0); err != unix.EPERM {
		t.Errorf("writing against a seal: %v", err)
	}
	if err := seal.AddSeals(unix.F_SEAL_WRITE); err != unix.EPERM {
		t.Errorf("sealing against a seal: %v", err)
	}
	if got, _ := seal.Seals(); got != allSeals {
		t.Errorf("seals are %#x", got)
	}
	g, _ := a.NewMemfd(ctx.Cred, "y", 0)
	if got, _ := g.Impl().(vfs.Sealer).Seals(); got != unix.F_SEAL_SEAL {
		t.Errorf("seals without MFD_ALLOW_SEALING are %#x", got)
	}
	if name, _ := vfs.PathName(vfs.Path{}, f.Path()); name != "/memfd:x" {
		t.Errorf("name is %q", name)
	}
	f.DecRef()
	g.DecRef()
	if acct.FileUsage() != 0 {
		t.Errorf("%d bytes left", acct.FileUsage())
	}
}

func TestCookiesStayRightWhileNamesChange(t *testing.T) {
	s, _, _ := newFS(t, Options{})
	for i := range 200 {
		if err := s.Mknod(name(i), unix.S_IFREG|0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, _ := s.OpenFile(".", unix.O_RDONLY, 0)
	seen := map[string]int{}
	for n := 0; ; n++ {
		done := true
		if err := f.ReadDir(s.Ctx, func(e vfs.DirEntry) bool {
			if !done {
				return false
			}
			seen[e.Name]++
			done = false
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if done {
			break
		}
		if n >= 2 {
			// What was seen goes, and others come and go.
			s.Unlink(name(n - 2))
			s.Mknod("zz", unix.S_IFREG)
			s.Unlink("zz")
		}
	}
	for i := range 200 {
		if seen[name(i)] != 1 {
			t.Errorf("%s was seen %d times", name(i), seen[name(i)])
		}
	}
}

func name(i int) string { return string([]byte{'n', byte('a' + i/26), byte('a' + i%26)}) }

func TestPagesOfLostFileSystemAreFreed(t *testing.T) {
	mem, acct := fstest.Memory(t, 0)
	func() {
		fs, err := New(Options{Memory: mem, Account: acct, Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		s := fstest.New(fs)
		f, _ := s.Open("x", unix.O_CREAT|unix.O_RDWR, 0o600)
		f.Write("hello")
		f.Close()
	}()
	for i := 0; acct.FileUsage() != 0; i++ {
		if i > 1000 {
			t.Fatalf("%d bytes left", acct.FileUsage())
		}
		runtime.GC()
		runtime.Gosched()
	}
}

func TestConcurrentUse(t *testing.T) {
	s, st, acct := newFS(t, Options{})
	s.Mkdir("d", 0o700)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 300 {
				p := "d/" + name(i%7)
				switch (i + g) % 6 {
				case 0, 1:
					if f, err := s.Open(p, unix.O_CREAT|unix.O_RDWR, 0o600); err == nil {
						f.Write("hello world")
						f.Pread(5, 0)
						f.Close()
					}
				case 2:
					s.Unlink(p)
				case 3:
					s.Rename(p, "d/"+name((i+3)%7), 0)
				case 4:
					s.ReadDir("d")
				case 5:
					s.Truncate(p, int64(i))
				}
			}
		})
	}
	wg.Wait()
	removeAll(t, s, "d")
	if acct.FileUsage() != 0 || st.used.Load() != 2 {
		t.Errorf("%d bytes, %d inodes left", acct.FileUsage(), st.used.Load())
	}
}

func BenchmarkCreateUnlink(b *testing.B) {
	s, _, _ := newFS(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		f, err := s.OpenFile("x", unix.O_CREAT|unix.O_RDWR|unix.O_EXCL, 0o600)
		if err != nil {
			b.Fatal(err)
		}
		f.DecRef()
		s.Unlink("x")
	}
}

func BenchmarkStat(b *testing.B) {
	s, _, _ := newFS(b, Options{})
	s.Mkdir("d", 0o700)
	s.Mknod("d/x", unix.S_IFREG)
	view := s.View()
	b.ReportAllocs()
	var a vfs.Attr
	for b.Loop() {
		p, err := vfs.Resolve(s.Ctx, view, "d/x", 0)
		if err != nil {
			b.Fatal(err)
		}
		p.Inode().Attributes(s.Ctx, &a)
	}
}

func TestHoles(t *testing.T) {
	s, _, _ := newFS(t, Options{})
	f, _ := s.Open("x", unix.O_CREAT|unix.O_RDWR, 0o600)
	f.Truncate(10 * 4096)
	f.Pwrite("x", 3*4096)
	f.Pwrite(string(make([]byte, 8192)), 6*4096)
	f.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 7*4096, 4096)
	for _, c := range []struct {
		off    int64
		whence int
		want   int64
		err    error
	}{
		{0, unix.SEEK_DATA, 3 * 4096, nil}, {0, unix.SEEK_HOLE, 0, nil}, {3*4096 + 5, unix.SEEK_DATA, 3*4096 + 5, nil},
		{3 * 4096, unix.SEEK_HOLE, 4 * 4096, nil}, {4 * 4096, unix.SEEK_DATA, 6 * 4096, nil}, {6 * 4096, unix.SEEK_HOLE, 7 * 4096, nil},
		{7 * 4096, unix.SEEK_DATA, 0, unix.ENXIO}, {10 * 4096, unix.SEEK_HOLE, 0, unix.ENXIO},
	} {
		if got, err := f.Seek(c.off, c.whence); got != c.want || err != c.err {
			t.Errorf("seek %d, %d: %d, %v; want %d, %v", c.off, c.whence, got, err, c.want, c.err)
		}
	}
	var a vfs.Attr
	fstest.VFSFile(f).Stat(s.Ctx, &a)
	if a.Blocks != 16 {
		t.Errorf("%d blocks", a.Blocks)
	}
}

func TestOpenFindsAFileWhileItIsReplaced(t *testing.T) {
	fstest.OpenWhileReplaced(t, func() *fstest.VFS {
		s, _, _ := newFS(t, Options{})
		return s
	})
}

// A file made by O_TMPFILE that was closed has no name to get, and a file that was
// removed keeps its size for who found it before.
func TestLateUseOfAFileThatIsGone(t *testing.T) {
	s, storage, _ := newFS(t, Options{})
	f, err := s.OpenFile("/", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := f.Path()
	f.DecRef()
	if err := vfs.LinkPath(s.Ctx, p, s.View(), "name"); err != unix.ENOENT {
		t.Errorf("linking what was closed: %v", err)
	}
	h, err := s.Open("a", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	h.Write("12345")
	h.Close()
	if p, err = s.Resolve("a", false); err != nil {
		t.Fatal(err)
	}
	if err := s.Unlink("a"); err != nil {
		t.Fatal(err)
	}
	var a vfs.Attr
	if err := p.Inode().Attributes(s.Ctx, &a); err != nil || a.Size != 5 || a.Nlink != 0 {
		t.Errorf("size %d, %d names, %v", a.Size, a.Nlink, err)
	}
	if _, err := s.Opener.OpenPath(s.Ctx, p, unix.O_RDWR); err != unix.ESTALE {
		t.Errorf("opening it: %v", err)
	}
	if bytes, inodes := storage.Usage(); bytes != 0 || inodes != 1 {
		t.Errorf("%d bytes and %d inodes are left", bytes, inodes)
	}
}
