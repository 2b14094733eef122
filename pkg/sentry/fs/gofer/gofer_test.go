package gofer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	server "vitrine/pkg/gofer"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// tree serves dir in this process and returns a view of its file system.
type tree struct {
	t      testing.TB
	fs     *vfs.Filesystem
	impl   *filesystem
	ctx    vfs.Context
	view   vfs.FSView
	opener vfs.Opener
	line   *relay
}

// serve puts a relay between the two, serveDirect doesn't.
func serve(t testing.TB, dir string, ext p9.Extensions, o Options) *tree {
	t.Helper()
	root, pair := hostTree(t, dir)
	line, socket, err := newRelay(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	tr := connect(t, root, socket, pair[1], ext, o)
	tr.line = line
	t.Cleanup(line.close)
	return tr
}

func serveDirect(t testing.TB, dir string, ext p9.Extensions, o Options) *tree {
	t.Helper()
	root, pair := hostTree(t, dir)
	return connect(t, root, pair[0], pair[1], ext, o)
}

func hostTree(t testing.TB, dir string) (p9.Attacher, [2]int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	root, err := server.NewTree(fd, "tree", false, false)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return root, pair
}

// connect serves root on one socket and attaches to it on the other.
func connect(t testing.TB, root p9.Attacher, ours, theirs int, ext p9.Extensions, o Options) *tree {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p9.Serve(theirs, root, p9.ServerOptions{Extensions: p9.AllExtensions}) }()
	client, err := p9.Dial(ours, 0, ext)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		<-done
	})
	fs, err := New(client, o)
	if err != nil {
		t.Fatal(err)
	}
	return viewOf(t, fs)
}

func viewOf(t testing.TB, fs *vfs.Filesystem) *tree {
	ns := vfs.NewMountNamespace(fs, "tree", 0)
	return &tree{t: t, fs: fs, impl: fs.Impl.(*filesystem),
		ctx:  vfs.KernelContext(auth.NewRoot(auth.NewRootUserNamespace())),
		view: vfs.FSView{Root: ns.Root(), Start: ns.Root()},
	}
}

func (tr *tree) open(path string, flags, mode uint32) *vfs.File {
	tr.t.Helper()
	f, err := tr.opener.Open(tr.ctx, tr.view, path, flags, mode, 0)
	if err != nil {
		tr.t.Fatalf("open %s: %v", path, err)
	}
	return f
}

func (tr *tree) stat(path string) (vfs.Attr, error) {
	var a vfs.Attr
	p, err := vfs.Resolve(tr.ctx, tr.view, path, 0)
	if err != nil {
		return a, err
	}
	return a, p.Inode().Attributes(tr.ctx, &a)
}

func (tr *tree) read(path string) (string, error) {
	f, err := tr.opener.Open(tr.ctx, tr.view, path, unix.O_RDONLY, 0, 0)
	if err != nil {
		return "", err
	}
	defer f.DecRef()
	b := make([]byte, 1<<20)
	buf := usermem.BytesBuffer(b)
	n, err := f.Read(tr.ctx, &buf)
	return string(b[:n]), err
}

func (tr *tree) list(path string) []string {
	tr.t.Helper()
	f := tr.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	defer f.DecRef()
	var names []string
	for {
		n := len(names)
		if err := f.ReadDir(tr.ctx, func(e vfs.DirEntry) bool {
			if len(names) == n+3 {
				return false
			}
			names = append(names, e.Name)
			return true
		}); err != nil {
			tr.t.Fatal(err)
		}
		if len(names) == n {
			return names
		}
	}
}

func TestReadOnlyTree(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "a/b"), 0o755)
	os.WriteFile(filepath.Join(dir, "a/b/file"), []byte("hello"), 0o644)
	tr := serve(t, dir, p9.AllExtensions, Options{ReadOnly: true})
	if s, err := tr.read("/a/b/file"); s != "hello" || err != nil {
		t.Fatalf("read %q, %v", s, err)
	}
	var st unix.Stat_t
	unix.Stat(filepath.Join(dir, "a/b/file"), &st)
	a, err := tr.stat("/a/b/file")
	if err != nil || a.Ino != st.Ino || a.Size != 5 || a.Mode != st.Mode {
		t.Fatalf("stat %+v, %v", a, err)
	}
	if l := tr.list("/a"); len(l) != 3 {
		t.Fatalf("list %q", l)
	}
	if _, err := tr.stat("/a/missing"); err != unix.ENOENT {
		t.Fatal(err)
	}
}

// fill makes dirs directories, nested in threes, with files in each.
func fill(t testing.TB, dir string, dirs, files int) (paths []string) {
	t.Helper()
	at := []string{"/"}
	for i := range dirs {
		parent := at[i/3]
		p := filepath.Join(parent, fmt.Sprintf("dir%d", i))
		if err := os.Mkdir(filepath.Join(dir, p), 0o755); err != nil {
			t.Fatal(err)
		}
		at = append(at, p)
		for j := range files {
			f := filepath.Join(p, fmt.Sprintf("file%d", j))
			if err := os.WriteFile(filepath.Join(dir, f), []byte(f), 0o644); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, f)
		}
	}
	return paths
}

// find lists and stats all that is below path and returns how many directories and other files there are.
func (tr *tree) find(path string) (dirs, files int) {
	tr.t.Helper()
	dirs = 1
	for _, name := range tr.list(path + "/") {
		if name == "." || name == ".." {
			continue
		}
		a, err := tr.stat(path + "/" + name)
		if err != nil {
			tr.t.Fatalf("stat %s/%s: %v", path, name, err)
		}
		if a.IsDir() {
			d, f := tr.find(path + "/" + name)
			dirs, files = dirs+d, files+f
		} else {
			files++
		}
	}
	return dirs, files
}

func TestMessages(t *testing.T) {
	dir := t.TempDir()
	paths := fill(t, dir, 40, 10)
	for _, readOnly := range []bool{false, true} {
		tr := serve(t, dir, p9.AllExtensions, Options{ReadOnly: readOnly})
		costs := func(what string, most int64, f func()) {
			t.Helper()
			before := tr.line.messages.Load()
			f()
			if n := tr.line.messages.Load() - before; n > most {
				t.Errorf("%s took %d messages instead of at most %d", what, n, most)
			}
		}
		costs("the first find of 41 directories", 41, func() {
			if d, f := tr.find(""); d != 41 || f != 400 {
				t.Errorf("%d directories, %d files", d, f)
			}
		})
		costs("another find", 0, func() { tr.find("") })
		costs("names that are missing", 0, func() {
			for i := range 100 {
				if _, err := tr.stat(fmt.Sprintf("/dir0/no%d", i)); err != unix.ENOENT {
					t.Error(err)
				}
			}
		})
		costs("the first reads of ten files", 10, func() {
			for _, p := range paths[:10] {
				if s, err := tr.read(p); s != p || err != nil {
					t.Errorf("%s holds %q, %v", p, s, err)
				}
			}
		})
		costs("further reads of ten files", 0, func() {
			for _, p := range paths[:10] {
				tr.read(p)
			}
		})
	}
	tr := serve(t, dir, p9.AllExtensions, Options{})
	before := tr.line.messages.Load()
	if _, err := tr.read(paths[0]); err != nil {
		t.Fatal(err)
	}
	if n := tr.line.messages.Load() - before; n > 3 {
		t.Errorf("two lookups and an open took %d messages", n)
	}
	before = tr.line.messages.Load()
	for _, p := range paths[1:10] {
		if s, err := tr.read(p); s != p || err != nil {
			t.Fatal(s, err)
		}
	}
	if n := tr.line.messages.Load() - before; n > 11 {
		t.Errorf("nine more lookups and opens took %d messages", n)
	}
	for _, p := range paths[10:30] {
		tr.stat(p)
	}
	guessed := 0
	for _, p := range paths[10:30] {
		q, err := vfs.Resolve(tr.ctx, tr.view, p, 0)
		if err != nil {
			t.Fatal(err)
		}
		guessed += len(of(q.Inode()).node.descriptors)
	}
	if guessed > 4 {
		t.Errorf("%d of 20 files that were only looked at have been opened", guessed)
	}
	before = tr.line.messages.Load()
	for i := range 10 {
		tr.open(fmt.Sprintf("/dir0/new%d", i), unix.O_CREAT|unix.O_RDWR|unix.O_EXCL, 0o600).DecRef()
	}
	if n := tr.line.messages.Load() - before; n > 21 {
		t.Errorf("ten lookups of missing names and ten creations took %d messages", n)
	}
}

func TestDeadServerIsEIO(t *testing.T) {
	dir := t.TempDir()
	paths := fill(t, dir, 9, 20)
	for _, o := range []Options{{}, {Shared: true}} {
		tr := serve(t, dir, p9.AllExtensions, o)
		f := tr.open(paths[0], unix.O_RDWR, 0)
		list := tr.open("/dir1", unix.O_RDONLY, 0)
		var all sync.WaitGroup
		for g := range 8 {
			all.Add(1)
			go func() {
				defer all.Done()
				for i := range paths {
					if g == 0 && i == len(paths)/2 {
						tr.line.cut()
					}
					tr.read(paths[(i*7+g*20)%len(paths)])
				}
			}()
		}
		all.Wait()
		if _, err := tr.stat("/dir0/unknown"); err != unix.EIO {
			t.Errorf("lookup: %v", err)
		}
		if err := list.ReadDir(tr.ctx, func(vfs.DirEntry) bool { return true }); err != unix.EIO {
			t.Errorf("readdir: %v", err)
		}
		if err := vfs.Mkdir(tr.ctx, tr.view, "/new", 0o755); err != unix.EIO {
			t.Errorf("mkdir: %v", err)
		}
		if err := vfs.Unlink(tr.ctx, tr.view, paths[0]); err != unix.EIO {
			t.Errorf("unlink: %v", err)
		}
		if err := vfs.Chmod(tr.ctx, f.Path(), 0o600); err != unix.EIO {
			t.Errorf("chmod: %v", err)
		}
		f.DecRef()
		list.DecRef()
	}
}

func TestSharedTreeSeesWhatOthersDo(t *testing.T) {
	dir := t.TempDir()
	tr := serve(t, dir, p9.AllExtensions, Options{Shared: true})
	host := filepath.Join(dir, "file")
	for round := range 3 {
		if _, err := tr.stat("/file"); err != unix.ENOENT {
			t.Fatal(err)
		}
		want := strings.Repeat("x", round+1)
		os.WriteFile(host, []byte(want), 0o640)
		if s, err := tr.read("/file"); s != want || err != nil {
			t.Fatalf("%q, %v", s, err)
		}
		os.WriteFile(host, []byte(want+want), 0o640)
		if a, err := tr.stat("/file"); a.Size != int64(2*len(want)) || err != nil {
			t.Fatalf("%d, %v", a.Size, err)
		}
		if l := tr.list("/"); len(l) != 3 {
			t.Fatal(l)
		}
		os.Remove(host)
		os.Mkdir(host, 0o700)
		if a, err := tr.stat("/file"); !a.IsDir() || err != nil {
			t.Fatalf("%o, %v", a.Mode, err)
		}
		os.Remove(host)
	}
}

func TestNamesOfOneFileAreOneInode(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "a"), nil, 0o644)
	os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b"))
	tr := serve(t, dir, p9.AllExtensions, Options{})
	a, b := tr.open("/a", unix.O_RDWR, 0), tr.open("/b", unix.O_RDONLY, 0)
	if a.Inode().Base() != b.Inode().Base() {
		t.Error("two inodes")
	}
	if _, err := a.WriteAt(tr.ctx, bytesBuffer("hello"), 0); err != nil {
		t.Fatal(err)
	}
	var at vfs.Attr
	if b.Stat(tr.ctx, &at); at.Size != 5 || at.Nlink != 2 {
		t.Errorf("%+v", at)
	}
	a.DecRef()
	b.DecRef()
}

func bytesBuffer(s string) *usermem.Buffer {
	b := usermem.BytesBuffer([]byte(s))
	return &b
}

// TestCollectedInodesGiveBack: inodes nobody has any more leave the table, and their fids and descriptors go.
func TestCollectedInodesGiveBack(t *testing.T) {
	dir := t.TempDir()
	paths := fill(t, dir, 3, 50)
	tr := serve(t, dir, p9.AllExtensions, Options{})
	func() {
		// Straight from the directories, so that no dentry holds them.
		for _, p := range paths {
			d, err := vfs.Resolve(tr.ctx, tr.view, filepath.Dir(p), 0)
			if err != nil {
				t.Fatal(err)
			}
			v, err := d.Inode().(vfs.Directory).Lookup(tr.ctx, filepath.Base(p))
			if err != nil {
				t.Fatal(err)
			}
			if err := v.SetAttributes(tr.ctx, &vfs.SetAttr{Mask: vfs.SetMode, Mode: 0o600}); err != nil {
				t.Fatal(err)
			}
		}
	}()
	for {
		runtime.GC()
		tr.impl.mu.Lock()
		n, fids := len(tr.impl.table), tr.impl.withFid.n
		tr.impl.mu.Unlock()
		if n == 4 && fids <= 3 {
			break
		}
		runtime.Gosched()
	}
}

func TestIdleDescriptorsAreBounded(t *testing.T) {
	dir := t.TempDir()
	paths := fill(t, dir, 3, 50)
	tr := serve(t, dir, p9.AllExtensions, Options{MaxIdle: 10, MaxFids: 10})
	held := tr.open(paths[0], unix.O_RDONLY, 0)
	for _, p := range paths {
		tr.open(p, unix.O_RDWR, 0).DecRef()
	}
	kept := 0
	for _, p := range paths {
		q, err := vfs.Resolve(tr.ctx, tr.view, p, 0)
		if err != nil {
			t.Fatal(err)
		}
		kept += len(of(q.Inode()).node.descriptors)
	}
	if kept > 12 {
		t.Errorf("%d descriptors are kept", kept)
	}
	if s, err := readAll(tr, held); s != paths[0] || err != nil {
		t.Errorf("the one in use: %q, %v", s, err)
	}
	held.DecRef()
}

func readAll(tr *tree, f *vfs.File) (string, error) {
	b := make([]byte, 100)
	buf := usermem.BytesBuffer(b)
	n, err := f.ReadAt(tr.ctx, &buf, 0)
	return string(b[:n]), err
}

// space is an address space that only remembers what it lost.
type space struct{ lost []memmap.Range }

func (s *space) Invalidate(_ memmap.Mappable, r memmap.Range, _ bool) { s.lost = append(s.lost, r) }

func TestMappingsFollowTheFile(t *testing.T) {
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1024) // four pages
	os.WriteFile(filepath.Join(dir, "file"), content, 0o644)
	tr := serve(t, dir, p9.AllExtensions, Options{})
	ro, rw := tr.open("/file", unix.O_RDONLY, 0), tr.open("/file", unix.O_RDWR, 0)
	defer rw.DecRef()
	m, err := ro.Mappable(tr.ctx, &vfs.MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m2, _ := rw.Mappable(tr.ctx, &vfs.MapOptions{}); m2 != m {
		t.Error("two openings are mapped as two files")
	}
	all := memmap.Range{End: 4 * usermem.PageSize}
	s := &space{}
	m.AddMapping(s, all, true)
	ts, err := m.Translate(memmap.Range{End: usermem.PageSize}, all, usermem.Read)
	if err != nil || len(ts) != 1 || ts[0].Source != all {
		t.Fatalf("%+v, %v", ts, err)
	}
	ro.DecRef()
	b, err := ts[0].File.Slice(ts[0].Offset+4096, 16)
	if err != nil || string(b) != "0123456789abcdef" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := m.Translate(memmap.Range{Start: 4 * usermem.PageSize, End: 5 * usermem.PageSize}, memmap.Range{End: 5 * usermem.PageSize}, usermem.Read); err == nil {
		t.Error("a page behind the end")
	}
	if err := vfs.Truncate(tr.ctx, rw.Path(), rw, 100); err != nil {
		t.Fatal(err)
	}
	if len(s.lost) != 1 || s.lost[0].Start != usermem.PageSize {
		t.Errorf("lost %v", s.lost)
	}
	if _, err := m.Translate(memmap.Range{Start: usermem.PageSize, End: all.End}, all, usermem.Read); err == nil {
		t.Error("a page that was truncated")
	}
	rw.WriteAt(tr.ctx, bytesBuffer("x"), 4096)
	if _, err := m.Translate(memmap.Range{Start: usermem.PageSize, End: 2 * usermem.PageSize}, all, usermem.Write); err != nil {
		t.Errorf("a page that was written again: %v", err)
	} else {
		ts[0].File.DecRef(usermem.PageSize, usermem.PageSize)
	}
	m.RemoveMapping(s, all, true)
	ts[0].File.DecRef(0, all.Len())
}

// TestManyAtOnce runs calls that get into each other's way; the race detector and the comparison at the end judge.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	tr := serve(t, dir, p9.AllExtensions, Options{MaxFids: 8, MaxIdle: 4})
	for _, d := range []string{"/a", "/b", "/a/c"} {
		if err := vfs.Mkdir(tr.ctx, tr.view, d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dirs := []string{"/a", "/b", "/a/c"}
	var all sync.WaitGroup
	for g := range 6 {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range 300 {
				p := fmt.Sprintf("%s/f%d", dirs[(i+g)%3], i%7)
				q := fmt.Sprintf("%s/f%d", dirs[(i*5+g)%3], (i+1)%7)
				switch (i + g) % 8 {
				case 0, 1:
					if f, err := tr.opener.Open(tr.ctx, tr.view, p, unix.O_CREAT|unix.O_RDWR, 0o644, 0); err == nil {
						f.WriteAt(tr.ctx, bytesBuffer("some text"), int64(i))
						var a vfs.Attr
						f.Stat(tr.ctx, &a)
						vfs.Truncate(tr.ctx, f.Path(), f, int64(i%20))
						f.DecRef()
					}
				case 2:
					vfs.Unlink(tr.ctx, tr.view, p)
				case 3:
					vfs.Rename(tr.ctx, tr.view, p, tr.view, q, 0)
				case 4:
					if o, err := vfs.Resolve(tr.ctx, tr.view, p, 0); err == nil {
						vfs.LinkPath(tr.ctx, o, tr.view, q)
					}
				case 5:
					tr.list(dirs[i%3])
				case 6:
					tr.read(q)
				case 7:
					tr.stat(p)
					if i%50 == 0 {
						runtime.GC()
					}
				}
			}
		}()
	}
	all.Wait()
	sameTree(t, fstest.New(tr.fs), fstest.Host{Dir: dir}, ".")
}

// A file that is read often is read through a mapping, of which there is less than
// was known once others have cut the file.
func TestManySmallReadsAreThoseOfTheFile(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("0123456789", 2000)
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	tr := serveDirect(t, dir, p9.AllExtensions, Options{})
	f := tr.open("f", unix.O_RDWR, 0)
	defer f.DecRef()
	read := func(off int64, n int) string {
		t.Helper()
		b := make([]byte, n)
		buf := usermem.BytesBuffer(b)
		got, err := f.ReadAt(tr.ctx, &buf, off)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:got])
	}
	for i := range 3 * viewReads {
		off := i * 401 % (len(content) + 500)
		want := content[min(off, len(content)):min(off+4096, len(content))]
		if got := read(int64(off), 4096); got != want {
			t.Fatalf("read %d at %d: %d bytes, want %d: %.40q", i, off, len(got), len(want), got)
		}
	}
	if v := f.Impl().(*file).view(0, 100); len(v) != 100 {
		t.Fatalf("the file isn't mapped: %d bytes", len(v))
	}
	if _, err := f.WriteAt(tr.ctx, bytesBuffer("written"), 5000); err != nil {
		t.Fatal(err)
	}
	if got := read(4998, 11); got != "89written78" {
		t.Errorf("after a write: %q", got)
	}
	if err := os.Truncate(path, 4000); err != nil {
		t.Fatal(err)
	}
	if got := read(8192, 100); got != "" {
		t.Errorf("%q behind the end", got)
	}
	if got := read(3990, 10); got != content[3990:4000] {
		t.Errorf("%q before the end", got)
	}
}
