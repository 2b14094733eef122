package overlay

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

type fixture struct {
	*fstest.VFS
	fs      *FS
	lower   *fstest.VFS
	account *memfile.Account
}

// fill makes the tree that the overlay is put over.
func fill(t testing.TB, s fstest.System) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"d", "d/e", "f", "f/g"} {
		must(s.Mkdir(d, 0o755))
	}
	for i, p := range []string{"a", "d/a", "d/e/a", "d/e/b"} {
		f, err := s.Open(p, unix.O_CREAT|unix.O_RDWR, 0o644)
		must(err)
		_, err = f.Write(strings.Repeat(fmt.Sprintf("lower%d,", i), 2500))
		must(err)
		f.Close()
	}
	must(s.Link("d/a", "b"))
	must(s.Symlink("d/e/a", "c"))
	must(s.SetXattr("d/e/b", "trusted.x", "below", 0))
	must(s.Mknod("f/a", unix.S_IFSOCK|0o600))
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	mem, acct := fstest.Memory(t, 0)
	lower, err := tmpfs.New(tmpfs.Options{Memory: mem, Account: acct, Mode: unix.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	ls := fstest.New(lower)
	fill(t, ls)
	mem, acct = fstest.Memory(t, 0)
	o, err := New(lower, fstest.NewContext().Cred, tmpfs.Options{Memory: mem, Account: acct})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{fstest.New(o), o.Impl.(*FS), ls, acct}
}

func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 9))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func run(t testing.TB, data []byte) {
	t.Helper()
	f := newFixture(t)
	host := fstest.Host{Dir: fstest.HostDir(t)}
	fill(t, host)
	fstest.Run(t, data, f, host, fstest.Options{NoHoles: true})
	// What is below is as it was.
	pristine := fstest.Host{Dir: fstest.HostDir(t)}
	fill(t, pristine)
	fstest.Run(t, nil, f.lower, pristine, fstest.Options{})
}

func TestRandomCallsAgainstHost(t *testing.T) {
	for seed := range uint64(60) {
		run(t, randomBytes(seed, 2500))
	}
}

func FuzzCallsAgainstHost(f *testing.F) {
	f.Add(randomBytes(1, 300))
	f.Fuzz(func(t *testing.T, data []byte) { run(t, data) })
}

func TestIdentityStaysAcrossCopyUp(t *testing.T) {
	f := newFixture(t)
	before, _ := f.Stat("d/a")
	p, _ := f.Resolve("d/a", false)
	q, _ := f.Resolve("b", false)
	if p.Inode().Base() != q.Inode().Base() {
		t.Error("two names of one lower file are two inodes")
	}
	r, err := f.Open("b", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := f.Open("d/a", unix.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.Pwrite("changed", 5000)
	if got, _ := r.Pread(7, 5000); got != "changed" {
		t.Errorf("opened before the write, it reads %q", got)
	}
	if err := f.Rename("d/a", "f/g/z", 0); err != nil {
		t.Fatal(err)
	}
	after, _ := f.Stat("f/g/z")
	other, _ := r.Stat()
	if after.Ino != before.Ino || after.Dev != before.Dev || other != after || after.Nlink != 2 {
		t.Errorf("before %+v, after %+v, open %+v", before, after, other)
	}
	r.Close()
	w.Close()
}

func TestChangedInodesAreFoundAgain(t *testing.T) {
	f := newFixture(t)
	ino, _ := f.Stat("d/e/b")
	if err := f.Chmod("d/e/b", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Mknod("d/e/new", unix.S_IFREG|0o600); err != nil {
		t.Fatal(err)
	}
	// Another dentry cache over the same overlay knows nothing yet.
	for range 3 {
		runtime.GC()
	}
	fresh := &vfs.Filesystem{Type: "overlay", Dev: f.fs.Dev(), Policy: vfs.CacheAll}
	root, err := f.fs.node(f.Ctx, f.lower.NS.Root().Inode())
	if err != nil {
		t.Fatal(err)
	}
	fresh.SetRoot(root)
	g := fstest.New(fresh)
	if st, err := g.Stat("d/e/b"); err != nil || st.Ino != ino.Ino || st.Mode&0o777 != 0o600 {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := g.Stat("d/e/new"); err != nil {
		t.Error(err)
	}
}

func TestWhatIsCopied(t *testing.T) {
	f := newFixture(t)
	if err := f.Chmod("d/e/a", 0o600); err != nil {
		t.Fatal(err)
	}
	if n := f.account.FileUsage(); n != 0 {
		t.Errorf("chmod copied %d bytes", n)
	}
	w, _ := f.Open("d/e/a", unix.O_WRONLY|unix.O_APPEND, 0)
	w.Write("more")
	w.Close()
	if n := f.account.FileUsage(); n != 4096 {
		t.Errorf("appending copied %d bytes", n)
	}
	w, _ = f.Open("d/a", unix.O_WRONLY|unix.O_TRUNC, 0)
	w.Close()
	if n := f.account.FileUsage(); n != 4096 {
		t.Errorf("O_TRUNC copied %d bytes", n-4096)
	}
	if err := f.Unlink("d/e/a"); err != nil {
		t.Fatal(err)
	}
	if n := f.account.FileUsage(); n != 0 {
		t.Errorf("%d bytes are left of a removed file", n)
	}
	r, _ := f.Open("d/e/b", unix.O_RDONLY, 0)
	r.Read(10)
	r.Close()
	if n, inodes := f.fs.Usage(); n != 0 || inodes > 3 {
		t.Errorf("reading left %d bytes and %d inodes", n, inodes)
	}
}

// as is an address space that maps one object at its own offsets, and keeps
// translations until they are invalidated.
type as struct {
	mu    sync.Mutex
	m     memmap.Mappable
	pages map[uint64]memmap.Translation
}

func (a *as) Invalidate(m memmap.Mappable, r memmap.Range, private bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if m != a.m {
		panic("told of an object that isn't mapped")
	}
	for off, t := range a.pages {
		if off >= r.Start && off < r.End {
			t.File.DecRef(t.Offset, 4096)
			delete(a.pages, off)
		}
	}
}

func (a *as) touch(t *testing.T, off uint64, access usermem.Access) []byte {
	t.Helper()
	a.mu.Lock()
	tr, ok := a.pages[off]
	a.mu.Unlock()
	if !ok || !tr.Access.Has(access) {
		if ok {
			a.Invalidate(a.m, memmap.Range{Start: off, End: off + 4096}, false)
		}
		r := memmap.Range{Start: off, End: off + 4096}
		ts, err := a.m.Translate(r, r, access)
		if err != nil {
			t.Fatalf("translating %#x: %v", off, err)
		}
		tr = ts[0]
		if tr.Source != r || !tr.Access.Has(access) {
			t.Fatalf("translation is %+v", tr)
		}
		a.mu.Lock()
		a.pages[off] = tr
		a.mu.Unlock()
	}
	b, err := tr.File.Slice(tr.Offset, 4096)
	if err != nil || len(b) != 4096 {
		t.Fatalf("slice: %d, %v", len(b), err)
	}
	return b
}

func (f *fixture) mapFile(t *testing.T, file fstest.File, write bool) *as {
	t.Helper()
	o := &vfs.MapOptions{Length: 20000, Private: !write, Prot: usermem.Read, MaxProt: usermem.AnyAccess}
	m, err := fstest.VFSFile(file).Mappable(f.Ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	a := &as{m: m, pages: map[uint64]memmap.Translation{}}
	if err := m.AddMapping(a, memmap.Range{Start: 0, End: 20480}, write); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestMappingsStayCoherent(t *testing.T) {
	f := newFixture(t)
	r, _ := f.Open("d/a", unix.O_RDONLY, 0)
	ro := f.mapFile(t, r, false)
	lower, _ := r.Pread(20000, 0)
	for off := uint64(0); off < 16384; off += 4096 {
		if string(ro.touch(t, off, usermem.Read)) != lower[off:off+4096] {
			t.Fatalf("page %#x differs from the file", off)
		}
	}
	if f.account.FileUsage() != 0 {
		t.Errorf("mapping for reading copied %d bytes", f.account.FileUsage())
	}
	w, _ := f.Open("b", unix.O_RDWR, 0)
	w.Pwrite("WRITTEN", 4096+10)
	if got := string(ro.touch(t, 4096, usermem.Read)[10:17]); got != "WRITTEN" {
		t.Errorf("the mapping shows %q after write", got)
	}
	w.Pwrite(strings.Repeat("x", 8192), 8192)
	if got := ro.touch(t, 8192, usermem.Read)[0]; got != 'x' {
		t.Errorf("the mapping shows %q after a write of whole pages", got)
	}
	rw := f.mapFile(t, w, true)
	copy(rw.touch(t, 0, usermem.ReadWrite), "THROUGH")
	if got := string(ro.touch(t, 0, usermem.Read)[:7]); got != "THROUGH" {
		t.Errorf("the mapping shows %q after a write through another", got)
	}
	if got, _ := r.Pread(7, 0); got != "THROUGH" {
		t.Errorf("read gives %q after a write through a mapping", got)
	}
	if got, _ := r.Pread(10, 20); got != lower[20:30] {
		t.Errorf("the rest of the page is %q", got)
	}
	w.Truncate(100)
	if _, err := ro.m.Translate(memmap.Range{Start: 4096, End: 8192}, memmap.Range{Start: 4096, End: 8192}, usermem.Read); err == nil {
		t.Error("a page behind the end can be mapped")
	}
	if len(ro.pages) > 1 {
		t.Errorf("%d pages are still mapped after truncation", len(ro.pages))
	}
	if b := ro.touch(t, 0, usermem.Read); b[99] == 0 || b[100] != 0 {
		t.Error("the cut page isn't cut")
	}
	for _, a := range []*as{ro, rw} {
		a.Invalidate(a.m, memmap.Range{Start: 0, End: 1 << 30}, true)
		a.m.RemoveMapping(a, memmap.Range{Start: 0, End: 20480}, a == rw)
	}
	f.Unlink("b")
	f.Unlink("d/a")
	r.Close()
	w.Close()
	if f.account.FileUsage() != 0 {
		t.Errorf("%d bytes left", f.account.FileUsage())
	}
}

func TestMovedLowerDirectory(t *testing.T) {
	f := newFixture(t)
	if err := f.Rename("d", "f/g/moved", 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Mkdir("d", 0o700); err != nil {
		t.Fatal(err)
	}
	if names, _ := f.ReadDir("d"); len(names) != 2 {
		t.Errorf("a new directory shows lower names: %q", names)
	}
	g, err := f.Open("f/g/moved/e/a", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := g.Read(6); got != "lower2" {
		t.Error(got)
	}
	g.Close()
	names, _ := f.ReadDir("f/g/moved")
	if want := "[. 4 .. 4 a 8 e 4]"; fmt.Sprint(names) != want {
		t.Errorf("%v, want %v", names, want)
	}
}

func TestConcurrentUse(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				paths := []string{"a", "b", "d/a", "d/e/a", "d/e/b", "f/n"}
				p := paths[(i*7+g)%len(paths)]
				switch (i + g) % 7 {
				case 0, 1:
					if h, err := f.Open(p, unix.O_CREAT|unix.O_RDWR, 0o600); err == nil {
						h.Pwrite("hello", int64(i*50))
						h.Pread(50, 4090)
						h.Close()
					}
				case 2:
					if h, err := f.Open(p, unix.O_RDONLY, 0); err == nil {
						h.Read(9000)
						h.Close()
					}
				case 3:
					f.Rename(p, "f/n", 0)
				case 4:
					f.Chmod(p, 0o640)
				case 5:
					f.Unlink(p)
				case 6:
					f.ReadDir("d/e")
					f.Stat(p)
				}
			}
		})
	}
	wg.Wait()
	for _, p := range []string{"a", "b", "d/a", "d/e/a", "d/e/b", "f/n"} {
		f.Unlink(p)
	}
	// The directories that names went from are left.
	if n, inodes := f.fs.Usage(); n != 0 || inodes > 4 {
		t.Errorf("%d bytes and %d inodes left", n, inodes)
	}
}

// Whoever comes by a name that goes before he is done keeps nothing of the file, and
// brings nothing back.
func TestLateUseOfARemovedFileKeepsNothing(t *testing.T) {
	uses := map[string]func(f *fixture, p vfs.Path) error{
		"nothing": func(*fixture, vfs.Path) error { return nil },
		"read":    func(f *fixture, p vfs.Path) error { return f.openLate(p, unix.O_RDONLY) },
		"write":   func(f *fixture, p vfs.Path) error { return f.openLate(p, unix.O_RDWR) },
		"cut":     func(f *fixture, p vfs.Path) error { return f.openLate(p, unix.O_WRONLY|unix.O_TRUNC) },
		"path":    func(f *fixture, p vfs.Path) error { return f.openLate(p, unix.O_PATH) },
		"chmod":   func(f *fixture, p vfs.Path) error { return vfs.Chmod(f.Ctx, p, 0o600) },
		"truncate": func(f *fixture, p vfs.Path) error {
			return vfs.Truncate(f.Ctx, p, nil, 4096)
		},
		"setxattr": func(f *fixture, p vfs.Path) error {
			return vfs.SetXattr(f.Ctx, p, "user.x", make([]byte, 2000), 0)
		},
		"link": func(f *fixture, p vfs.Path) error {
			if err := vfs.LinkPath(f.Ctx, p, f.View(), "d/late"); err != unix.ENOENT {
				return fmt.Errorf("link: %v", err)
			}
			return nil
		},
	}
	for _, before := range []string{"", "read", "chmod", "write", "open and chmod"} {
		for _, name := range []string{"d/e/a", "new"} {
			want := int64(-1)
			for _, use := range append([]string{"nothing"}, slices.Sorted(maps.Keys(uses))...) {
				f := newFixture(t)
				h, err := f.Open("new", unix.O_CREAT|unix.O_RDWR, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				h.Write(strings.Repeat("new", 5000))
				h.Close()
				p, err := f.Resolve(name, false)
				if err != nil {
					t.Fatal(err)
				}
				h = nil
				switch before {
				case "read", "open and chmod":
					if h, err = f.Open(name, unix.O_RDONLY, 0); err == nil {
						_, err = h.Read(10)
					}
					if before == "open and chmod" {
						err = errors.Join(err, f.Unlink(name), vfs.Chmod(f.Ctx, p, 0o640))
					}
					h.Close()
				case "chmod":
					err = f.Chmod(name, 0o640)
				case "write":
					if h, err = f.Open(name, unix.O_WRONLY, 0); err == nil {
						_, err = h.Write("changed")
						h.Close()
					}
				}
				if before != "open and chmod" {
					err = errors.Join(err, f.Unlink(name))
				}
				if err != nil {
					t.Fatal(err)
				}
				if err := uses[use](f, p); err != nil {
					t.Errorf("after %q of %s, %s: %v", before, name, use, err)
				}
				if name == "d/e/a" {
					f.Unlink("new")
				}
				bytes, inodes := f.fs.Usage()
				if want < 0 {
					want = inodes
				}
				if bytes != 0 || inodes != want {
					t.Errorf("after %q of %s, %s leaves %d bytes, and %d inodes where %d were", before, name, use, bytes, inodes, want)
				}
				if f, ok := p.Inode().(*file); ok && f.HasContent() {
					t.Errorf("after %q of %s, %s leaves a content", before, name, use)
				}
			}
		}
	}
}

// openLate opens a file that is gone, and reports if that works.
func (f *fixture) openLate(p vfs.Path, flags uint32) error {
	h, err := f.Opener.OpenPath(f.Ctx, p, flags)
	switch err {
	case nil:
		src := usermem.BytesBuffer([]byte("late"))
		h.Write(f.Ctx, &src)
		h.DecRef()
		return errors.New("it opens")
	case unix.ESTALE:
		return nil
	}
	return err
}

func TestOpenFindsAFileWhileItIsReplaced(t *testing.T) {
	fstest.OpenWhileReplaced(t, func() *fstest.VFS { return newFixture(t).VFS })
}

func BenchmarkStat(b *testing.B) {
	f := newFixture(b)
	view := f.View()
	b.ReportAllocs()
	var a vfs.Attr
	for b.Loop() {
		p, err := vfs.Resolve(f.Ctx, view, "d/e/a", 0)
		if err != nil {
			b.Fatal(err)
		}
		p.Inode().Attributes(f.Ctx, &a)
	}
}

// failing is memory of which only the first bytes can be read.
type failing struct{ good []byte }

func (m failing) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	n := 0
	if uint64(a) < uint64(len(m.good)) {
		n = copy(dst, m.good[a:])
	}
	if n < len(dst) {
		return n, unix.EFAULT
	}
	return n, nil
}
func (m failing) CopyOut(usermem.Addr, []byte) (int, error)    { return 0, unix.EFAULT }
func (m failing) ZeroOut(usermem.Addr, uint64) (uint64, error) { return 0, unix.EFAULT }
func (m failing) Blocks(r usermem.AddrRange, _ usermem.Access, f func([]byte) (int, error)) (uint64, error) {
	var done uint64
	if uint64(r.Start) < uint64(len(m.good)) {
		n, err := f(m.good[r.Start:min(uint64(r.End), uint64(len(m.good)))])
		done = uint64(n)
		if err != nil {
			return done, err
		}
	}
	if done < r.Len() {
		return done, unix.EFAULT
	}
	return done, nil
}

func TestShortWriteKeepsWhatIsBelow(t *testing.T) {
	for _, good := range []int{0, 10, 5000, 8192, 9000} {
		f := newFixture(t)
		h, err := f.Open("a", unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		want, _ := h.Pread(1<<20, 0)
		src := usermem.SingleBuffer(failing{[]byte(strings.Repeat("!", good))}, usermem.AddrRange{Start: 0, End: 14000})
		n, _ := fstest.VFSFile(h).WriteAt(f.Ctx, &src, 100)
		got, _ := h.Pread(1<<20, 0)
		want = want[:100] + strings.Repeat("!", int(n)) + want[100+int(n):]
		if got != want {
			t.Errorf("with %d good bytes of memory, after a write of %d, the file is wrong", good, n)
		}
		h.Close()
	}
}

func TestHolesOfPartlyCopiedFile(t *testing.T) {
	f := newFixture(t)
	h, _ := f.Open("a", unix.O_RDWR, 0)
	h.Truncate(100 << 10)
	h.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096)
	for _, c := range [][3]int64{
		{0, unix.SEEK_DATA, 0}, {0, unix.SEEK_HOLE, 4096}, {4096, unix.SEEK_DATA, 8192}, {8192, unix.SEEK_HOLE, 20480},
	} {
		if got, err := h.Seek(c[0], int(c[1])); got != c[2] || err != nil {
			t.Errorf("seek %d, %d: %d, %v; want %d", c[0], c[1], got, err, c[2])
		}
	}
	if _, err := h.Seek(20480, unix.SEEK_DATA); err != unix.ENXIO {
		t.Errorf("data behind the last: %v", err)
	}
	h.Close()
}

// over returns an overlay over files that have their names in them.
func over(t *testing.T, names []string) *vfs.Filesystem {
	t.Helper()
	mem, acct := fstest.Memory(t, 0)
	options := tmpfs.Options{Memory: mem, Account: acct, Mode: unix.S_IFDIR | 0o755}
	lower, err := tmpfs.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ls := fstest.New(lower)
	for _, name := range names {
		f, err := ls.Open(name, unix.O_CREAT|unix.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(name)
		f.Close()
	}
	options.Mode = 0
	o, err := New(lower, fstest.NewContext().Cred, options)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Files that were read and closed keep their contents, but only so many of them, and
// not those that have no name any more.
func TestIdleContentsAreBounded(t *testing.T) {
	name := func(i int) string { return fmt.Sprint("f", i) }
	var names []string
	for i := range 3 * maxIdle {
		names = append(names, name(i))
	}
	o := over(t, names)
	s := fstest.New(o)
	ctx := vfs.KernelContext(fstest.NewContext().Cred)
	inode := func(i int) *file {
		t.Helper()
		c, err := o.Root().Inode().(vfs.Directory).Lookup(ctx, name(i))
		if err != nil {
			t.Fatal(err)
		}
		return c.(*file)
	}
	var files []*file
	for i := range 3 * maxIdle {
		files = append(files, inode(i))
	}
	for round := range 2 {
		for i := range files {
			f, err := s.Open(name(i), unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := f.Read(10); err != nil || got != name(i) {
				t.Fatalf("round %d: %q, %v", round, got, err)
			}
			f.Close()
		}
		kept := 0
		for _, f := range files {
			if f.HasContent() {
				kept++
			}
		}
		if kept != maxIdle {
			t.Errorf("%d contents are kept, want %d", kept, maxIdle)
		}
	}
	last := len(files) - 1
	f, err := s.Open(name(last), unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Unlink(name(last)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if files[last].HasContent() {
		t.Error("a file without a name keeps its content")
	}
}

// After Close no closed file keeps what it has of the lower one, nor does one that is
// closed later.
func TestCloseGivesContentsUp(t *testing.T) {
	names := []string{"closed before", "closed after"}
	o := over(t, names)
	s := fstest.New(o)
	ctx := vfs.KernelContext(fstest.NewContext().Cred)
	for i, name := range names {
		f, err := s.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := f.Read(20); err != nil || got != name {
			t.Fatalf("%q, %v", got, err)
		}
		if i == 1 {
			Close(o)
		}
		f.Close()
		inode, err := o.Root().Inode().(vfs.Directory).Lookup(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if kept := inode.(*file).HasContent(); kept != (i == 0) {
			t.Errorf("%s: kept is %v", name, kept)
		}
	}
	inode, _ := o.Root().Inode().(vfs.Directory).Lookup(ctx, names[0])
	if inode.(*file).HasContent() {
		t.Error("what was idle is still there")
	}
}
