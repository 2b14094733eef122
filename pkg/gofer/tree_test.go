package gofer

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// serve serves dir in this process and returns a client.
func serve(t testing.TB, dir string, readOnly bool, ext p9.Extensions) *p9.Client {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := NewTree(fd, "tree", readOnly, false)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := socketpair(t)
	done := make(chan error, 1)
	go func() { done <- p9.Serve(theirs, tree, p9.ServerOptions{Extensions: p9.AllExtensions}) }()
	client, err := p9.Dial(ours, 0, ext)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		unix.Close(fd)
	})
	return client
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func attach(t testing.TB, c *p9.Client) *p9.Fid {
	t.Helper()
	root, q, err := c.Attach("root", 0, "tree")
	ok(t, err)
	if q.Type != p9.QidDir {
		t.Fatalf("root's qid %+v", q)
	}
	return root
}

func walk(t testing.TB, f *p9.Fid, names ...string) *p9.Fid {
	t.Helper()
	to, _, err := f.Walk(names...)
	ok(t, err)
	return to
}

func TestPlainProtocol(t *testing.T) {
	dir := t.TempDir()
	testOperations(t, serve(t, dir, false, 0), dir)
}

func TestExtendedProtocol(t *testing.T) {
	dir := t.TempDir()
	testOperations(t, serve(t, dir, false, p9.AllExtensions), dir)
}

// testOperations makes every request once or more and looks at dir for what came of it.
func testOperations(t *testing.T, c *p9.Client, dir string) {
	root := attach(t, c)
	ext := c.Extensions() != 0
	path := func(name string) string { return filepath.Join(dir, name) }

	// Make, write, read.
	f := walk(t, root)
	must[p9.Qid](t)(f.Create("file", unix.O_RDWR, 0o640, p9.NoID))
	data := bytes.Repeat([]byte("0123456789abcdef"), 50000)
	if n, err := f.Write(data, 0); n != len(data) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	got := make([]byte, len(data)+10)
	if n, err := f.Read(got, 0); n != len(data) || err != nil || !bytes.Equal(got[:n], data) {
		t.Fatalf("read %d, %v", n, err)
	}
	if n, err := f.Read(got, uint64(len(data))); n != 0 || err != nil {
		t.Errorf("at the end: read %d, %v", n, err)
	}
	ok(t, f.Fsync(false))
	ok(t, f.Fsync(true))
	a := must[p9.Attr](t)(f.Getattr())
	var st unix.Stat_t
	ok(t, unix.Lstat(path("file"), &st))
	if a.Mode != unix.S_IFREG|0o640 || a.Size != uint64(len(data)) || a.Qid.Path != st.Ino || a.Nlink != 1 ||
		a.Mtime.Sec != uint64(st.Mtim.Sec) || a.Mtime.Nsec != uint64(st.Mtim.Nsec) || ext && a.Ino != st.Ino {
		t.Errorf("attributes %+v", a)
	}
	wantErr(t, "opening an open fid", second(f.Open(0)), unix.EBUSY)

	// Locks: of two fids on one file.
	g := walk(t, root, "file")
	must[p9.Qid](t)(g.Open(unix.O_RDWR))
	ok(t, f.Lock(&p9.FileLock{Type: p9.LockWrite, Start: 10, Length: 10, PID: 1}))
	wantErr(t, "a lock in the way", g.Lock(&p9.FileLock{Type: p9.LockRead, Start: 15, Length: 1}), unix.EAGAIN)
	if l := must[p9.FileLock](t)(g.GetLock(&p9.FileLock{Type: p9.LockRead})); l.Type != p9.LockWrite || l.Start != 10 || l.Length != 10 {
		t.Errorf("lock %+v", l)
	}
	ok(t, f.Lock(&p9.FileLock{Type: p9.LockUnlock}))
	ok(t, g.Lock(&p9.FileLock{Type: p9.LockRead, Start: 15, Length: 1}))
	ok(t, g.Clunk())

	// Attributes change.
	ok(t, f.Setattr(&p9.SetAttr{Valid: p9.SetMode | p9.SetSize | p9.SetAtime | p9.SetAtimeTo | p9.SetMtime | p9.SetMtimeTo,
		Mode: 0o755, Size: 5, Atime: p9.Time{Sec: 1, Nsec: 2}, Mtime: p9.Time{Sec: 3, Nsec: 4}}))
	if a := must[p9.Attr](t)(f.Getattr()); a.Mode&0o7777 != 0o755 || a.Size != 5 || a.Atime != (p9.Time{Sec: 1, Nsec: 2}) ||
		a.Mtime != (p9.Time{Sec: 3, Nsec: 4}) {
		t.Errorf("after setattr: %+v", a)
	}
	ok(t, f.Setattr(&p9.SetAttr{Valid: p9.SetMtime}))
	if a := must[p9.Attr](t)(f.Getattr()); a.Mtime.Sec < 1000 || a.Atime.Sec != 1 {
		t.Errorf("after touching: %+v", a)
	}
	if os.Geteuid() == 0 {
		ok(t, f.Setattr(&p9.SetAttr{Valid: p9.SetUID | p9.SetGID, UID: 1234, GID: 2345}))
		if a := must[p9.Attr](t)(f.Getattr()); a.UID != 1234 || a.GID != 2345 {
			t.Errorf("after chown: %+v", a)
		}
	}
	wantErr(t, "a bad time", f.Setattr(&p9.SetAttr{Valid: p9.SetMtime | p9.SetMtimeTo, Mtime: p9.Time{Nsec: 1e9}}), unix.EINVAL)
	wantErr(t, "an unknown attribute", f.Setattr(&p9.SetAttr{Valid: 1 << 20}), unix.EINVAL)

	// Extended attributes, if the file system has them.
	if err := unix.Setxattr(path("file"), "user.probe", []byte("x"), 0); err == nil {
		ok(t, f.SetXattr("user.one", []byte("value"), unix.XATTR_CREATE))
		wantErr(t, "creating it again", f.SetXattr("user.one", []byte("v"), unix.XATTR_CREATE), unix.EEXIST)
		if v, err := f.GetXattr("user.one"); string(v) != "value" || err != nil {
			t.Errorf("xattr %q, %v", v, err)
		}
		if names, err := f.ListXattr(); err != nil || !slices.Contains(names, "user.one") || !slices.Contains(names, "user.probe") {
			t.Errorf("xattrs %q, %v", names, err)
		}
		ok(t, f.SetXattr("user.empty", nil, 0))
		ok(t, f.RemoveXattr("user.one"))
		wantErr(t, "a removed xattr", second(f.GetXattr("user.one")), unix.ENODATA)
	} else {
		t.Logf("no user xattrs here: %v", err)
	}
	wantErr(t, "a trusted xattr", f.SetXattr("trusted.x", []byte("v"), 0), unix.EOPNOTSUPP)
	ok(t, f.Clunk())
	wantErr(t, "a clunked fid", second(f.Getattr()), unix.EBADF)

	// Other kinds.
	must[p9.Qid](t)(root.Mkdir("dir", 0o711, p9.NoID))
	must[p9.Qid](t)(root.Symlink("link", "/etc/passwd", p9.NoID))
	must[p9.Qid](t)(root.Mknod("fifo", unix.S_IFIFO|0o600, 0, 0, p9.NoID))
	must[p9.Qid](t)(root.Mknod("socket", unix.S_IFSOCK|0o600, 0, 0, p9.NoID))
	wantErr(t, "a device", second(root.Mknod("null", unix.S_IFCHR|0o600, 1, 3, p9.NoID)), unix.EPERM)
	wantErr(t, "mkdir of what is there", second(root.Mkdir("dir", 0o711, p9.NoID)), unix.EEXIST)
	if target := must[string](t)(walk(t, root, "link").Readlink()); target != "/etc/passwd" {
		t.Errorf("link to %q", target)
	}
	wantErr(t, "readlink of a file", second(walk(t, root, "file").Readlink()), unix.EINVAL)
	wantErr(t, "opening a link", second(walk(t, root, "link").Open(0)), unix.ELOOP)
	wantErr(t, "opening a fifo", second(walk(t, root, "fifo").Open(0)), unix.ENXIO)
	wantErr(t, "opening a socket", second(walk(t, root, "socket").Open(0)), unix.ENXIO)
	wantErr(t, "chmod of a link", walk(t, root, "link").Setattr(&p9.SetAttr{Valid: p9.SetMode}), unix.EOPNOTSUPP)
	wantErr(t, "writing to a directory", second(walk(t, root, "dir").Open(unix.O_RDWR)), unix.EISDIR)

	// Names move.
	d := walk(t, root, "dir")
	file := walk(t, root, "file")
	ok(t, root.Link(file, "hard"))
	ok(t, root.RenameAt("hard", d, "moved"))
	var st2 unix.Stat_t
	ok(t, unix.Lstat(path("dir/moved"), &st2))
	if st2.Ino != st.Ino || st2.Nlink != 2 {
		t.Errorf("the moved link is inode %d with %d links", st2.Ino, st2.Nlink)
	}
	wantErr(t, "rmdir of a full one", root.UnlinkAt("dir", unix.AT_REMOVEDIR), unix.ENOTEMPTY)
	wantErr(t, "unlink of a directory", root.UnlinkAt("dir", 0), unix.EISDIR)
	ok(t, d.UnlinkAt("moved", 0))
	wantErr(t, "walking to what is gone", third(d.Walk("moved")), unix.ENOENT)
	wantErr(t, "linking a directory", root.Link(d, "dir2"), unix.EPERM)
	if ext {
		wantErr(t, "Tremove", walk(t, root, "fifo").Remove(), unix.EOPNOTSUPP)
	} else {
		moving := walk(t, root, "fifo")
		ok(t, moving.Rename(d, "pipe"))
		ok(t, unix.Lstat(path("dir/pipe"), &st2))
		ok(t, moving.Remove())
		wantErr(t, "the removed name", unix.Lstat(path("dir/pipe"), &st2), unix.ENOENT)
	}

	// Directories: many names, in several messages.
	for i := range 3000 {
		ok(t, os.WriteFile(filepath.Join(path("dir"), "name-of-some-length-"+string(rune('a'+i%26))+itoa(i)), nil, 0o600))
	}
	for _, plus := range []bool{false, true} {
		open := walk(t, d)
		must[p9.Qid](t)(open.Open(unix.O_RDONLY | unix.O_DIRECTORY))
		seen := map[string]bool{}
		messages := 0
		for offset := uint64(0); ; messages++ {
			read := open.Readdir
			if plus {
				read = open.ReaddirPlus
			}
			list := must[[]p9.Dirent](t)(read(offset, nil))
			if len(list) == 0 {
				break
			}
			for _, e := range list {
				if seen[e.Name] {
					t.Fatalf("%s twice", e.Name)
				}
				seen[e.Name] = true
				if plus && ext && e.Name[0] != '.' && (!e.HasAttr || e.Attr.Mode != unix.S_IFREG|0o600) {
					t.Fatalf("entry %+v", e)
				}
				offset = e.Offset
			}
		}
		if len(seen) != 3002 || messages < 2 {
			t.Errorf("%d names in %d messages", len(seen), messages)
		}
		if list := must[[]p9.Dirent](t)(open.Readdir(0, nil)); len(list) == 0 {
			t.Error("nothing after a rewind")
		}
		ok(t, open.Clunk())
	}

	s := must[p9.Statfs](t)(root.Statfs())
	var host unix.Statfs_t
	ok(t, unix.Statfs(dir, &host))
	if s.Blocks != host.Blocks || s.Type != uint32(host.Type) || s.NameLength != uint32(host.Namelen) {
		t.Errorf("statfs %+v", s)
	}
	testWalkGetattr(t, c, root)
	if ext {
		testDonation(t, root, path)
	}
	if err := c.Clunk(walk(t, root), walk(t, root), walk(t, root)); err != nil {
		t.Error(err)
	}
}

func testWalkGetattr(t *testing.T, c *p9.Client, root *p9.Fid) {
	var res p9.WalkResult
	ok(t, root.WalkGetattr(nil, p9.WalkOptions{}, &res))
	if len(res.Attrs) != 1 || !res.Attrs[0].IsDir() || len(res.Fids) != 1 || res.Err != 0 {
		t.Errorf("no names: %+v", res)
	}
	ok(t, root.WalkGetattr([]string{"dir", "none", "x"}, p9.WalkOptions{}, &res))
	if len(res.Attrs) != 1 || res.Err != unix.ENOENT || len(res.Fids) != 0 {
		t.Errorf("a name that isn't there: %+v", res)
	}
	ok(t, root.WalkGetattr([]string{"link", "x"}, p9.WalkOptions{Each: true}, &res))
	if len(res.Attrs) != 1 || res.Err != unix.ENOTDIR || !res.Attrs[0].IsSymlink() || len(res.Fids) != 1 {
		t.Fatalf("through a link: %+v", res)
	}
	if target := must[string](t)(res.Fids[0].Readlink()); target != "/etc/passwd" {
		t.Errorf("link to %q", target)
	}
	ok(t, c.Clunk(res.Fids...))
	must[p9.Qid](t)(walk(t, root, "dir").Mkdir("sub", 0o755, p9.NoID))
	ok(t, root.WalkGetattr([]string{"dir", "sub"}, p9.WalkOptions{Each: true}, &res))
	if len(res.Attrs) != 2 || len(res.Fids) != 2 || res.Err != 0 || !res.Attrs[1].IsDir() {
		t.Errorf("two names: %+v", res)
	}
	ok(t, c.Clunk(res.Fids...))
}

// testDonation: descriptors that arrive are the very files, with the access asked for.
func testDonation(t *testing.T, root *p9.Fid, path func(string) string) {
	ok(t, os.WriteFile(path("given"), []byte("hello"), 0o644))
	var res p9.WalkResult
	ok(t, root.WalkGetattr([]string{"given"}, p9.WalkOptions{Open: true, OpenFlags: unix.O_RDWR}, &res))
	if res.File < 0 {
		t.Fatalf("no descriptor: %+v", res)
	}
	buf := make([]byte, 10)
	if n, err := unix.Pread(res.File, buf, 0); string(buf[:max(n, 0)]) != "hello" || err != nil {
		t.Errorf("read %q, %v", buf[:max(n, 0)], err)
	}
	must[int](t)(unix.Pwrite(res.File, []byte("J"), 0))
	unix.Close(res.File)
	if text, _ := os.ReadFile(path("given")); string(text) != "Jello" {
		t.Errorf("the file holds %q", text)
	}
	file, _, err := res.Fids[0].OpenFile(unix.O_RDONLY)
	ok(t, err)
	_, err = unix.Pwrite(file, []byte("x"), 0)
	wantErr(t, "writing to a read-only descriptor", err, unix.EBADF)
	unix.Close(file)
	file, a, err := res.Fids[0].OpenFile(unix.O_WRONLY | unix.O_TRUNC)
	ok(t, err)
	if a.Size != 0 {
		t.Errorf("after O_TRUNC: %d bytes", a.Size)
	}
	unix.Close(file)
	_, _, err = root.OpenFile(0)
	wantErr(t, "a directory's descriptor", err, unix.EISDIR)

	uid, gid := uint32(4321), uint32(5432)
	if os.Geteuid() != 0 {
		uid, gid = p9.NoID, p9.NoID
	}
	made, err := root.Make(&p9.MakeArgs{Name: "made", Mode: 0o4755, UID: uid, GID: gid},
		p9.MakeOptions{Open: true, OpenFlags: unix.O_RDWR})
	ok(t, err)
	if made.File < 0 || !made.Created || made.Attr.Mode != unix.S_IFREG|0o4755 || os.Geteuid() == 0 && (made.Attr.UID != uid || made.Attr.GID != gid) {
		t.Errorf("made %+v", made)
	}
	unix.Close(made.File)
	made, err = root.Make(&p9.MakeArgs{Name: "made", Mode: 0o600, UID: 1, GID: 1}, p9.MakeOptions{NoFid: true})
	ok(t, err)
	if made.Created || made.Fid != nil || made.File != -1 || made.Attr.Mode != unix.S_IFREG|0o4755 {
		t.Errorf("made again: %+v", made)
	}
	_, err = root.Make(&p9.MakeArgs{Name: "made", Mode: 0o600}, p9.MakeOptions{Exclusive: true})
	wantErr(t, "exclusive", err, unix.EEXIST)
	for name, args := range map[string]p9.MakeArgs{
		"m-dir":  {Mode: unix.S_IFDIR | 0o700, UID: uid, GID: gid},
		"m-link": {Mode: unix.S_IFLNK | 0o777, UID: uid, GID: gid, Target: "../.."},
		"m-fifo": {Mode: unix.S_IFIFO | 0o700, UID: uid, GID: gid},
	} {
		args.Name = name
		made, err := root.Make(&args, p9.MakeOptions{})
		ok(t, err)
		var st unix.Stat_t
		ok(t, unix.Lstat(path(name), &st))
		if st.Mode != args.Mode || made.Attr.Mode != args.Mode || uid != p9.NoID && (st.Uid != uid || st.Gid != gid) {
			t.Errorf("%s: host %o %d:%d, answer %+v", name, st.Mode, st.Uid, st.Gid, made.Attr)
		}
	}
}

func itoa(i int) string {
	var b []byte
	for ; i > 0 || b == nil; i /= 10 {
		b = append([]byte{byte('0' + i%10)}, b...)
	}
	return string(b)
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

func TestReadOnlyTree(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	ok(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	c := serve(t, dir, true, p9.AllExtensions)
	root := attach(t, c)
	f := walk(t, root, "file")
	for _, flags := range []uint32{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC} {
		wantErr(t, "opening to write", second(f.Open(flags)), unix.EROFS)
		wantErr(t, "a descriptor to write", third(f.OpenFile(flags)), unix.EROFS)
	}
	var res p9.WalkResult
	ok(t, root.WalkGetattr([]string{"file"}, p9.WalkOptions{Open: true, OpenFlags: unix.O_RDWR}, &res))
	if res.File >= 0 {
		t.Error("a writable descriptor came with the walk")
	}
	file, _, err := f.OpenFile(unix.O_RDONLY)
	ok(t, err)
	if flags := must[int](t)(unix.FcntlInt(uintptr(file), unix.F_GETFL, 0)); flags&unix.O_ACCMODE != unix.O_RDONLY {
		t.Errorf("descriptor with flags %#o", flags)
	}
	unix.Close(file)
	wantErr(t, "create", second(walk(t, root).Create("new", unix.O_RDWR, 0o600, 0)), unix.EROFS)
	wantErr(t, "make", second(root.Make(&p9.MakeArgs{Name: "new", Mode: 0o600}, p9.MakeOptions{})), unix.EROFS)
	wantErr(t, "mkdir", second(root.Mkdir("new", 0o700, 0)), unix.EROFS)
	wantErr(t, "mkdir of what is there", second(root.Mkdir("dir", 0o700, 0)), unix.EEXIST)
	wantErr(t, "symlink", second(root.Symlink("new", "x", 0)), unix.EROFS)
	wantErr(t, "mknod", second(root.Mknod("new", unix.S_IFIFO, 0, 0, 0)), unix.EROFS)
	wantErr(t, "link", root.Link(f, "new"), unix.EROFS)
	wantErr(t, "rename", root.RenameAt("file", root, "new"), unix.EROFS)
	wantErr(t, "unlink", root.UnlinkAt("file", 0), unix.EROFS)
	wantErr(t, "rmdir", root.UnlinkAt("dir", unix.AT_REMOVEDIR), unix.EROFS)
	wantErr(t, "setattr", f.Setattr(&p9.SetAttr{Valid: p9.SetMode, Mode: 0o600}), unix.EROFS)
	wantErr(t, "truncate", f.Setattr(&p9.SetAttr{Valid: p9.SetSize}), unix.EROFS)
	wantErr(t, "xattr", f.SetXattr("user.x", []byte("y"), 0), unix.EROFS)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("the tree has changed: %v, %v", entries, err)
	}
}

// TestNamesDoNotEscape: nothing but a plain component is walked, made or removed.
func TestNamesDoNotEscape(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "tree")
	ok(t, os.Mkdir(dir, 0o755))
	ok(t, os.WriteFile(filepath.Join(outer, "secret"), []byte("secret"), 0o644))
	ok(t, os.Symlink("..", filepath.Join(dir, "up")))
	ok(t, os.Symlink("../secret", filepath.Join(dir, "peek")))
	ok(t, os.Symlink("/", filepath.Join(dir, "host")))
	ok(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for _, ext := range []p9.Extensions{0, p9.AllExtensions} {
		root := attach(t, serve(t, dir, false, ext))
		top := must[p9.Attr](t)(root.Getattr()).Qid
		for _, name := range []string{"..", ".", "", "/", "/etc", "../secret", "up/secret", "file/..", "a\x00b", string(make([]byte, 255))} {
			if _, q, err := root.Walk(name); err == nil && (name[0] != '.' || q[0] != top) {
				t.Errorf("walked %q to %+v, out of %+v", name, q, top)
			}
			if err := root.UnlinkAt(name, 0); err == nil {
				t.Errorf("removed %q", name)
			}
			if _, err := root.Mkdir(name, 0o700, p9.NoID); err == nil {
				t.Errorf("made %q", name)
			}
			if err := root.RenameAt("file", root, name); err == nil {
				t.Errorf("moved to %q", name)
			}
			if err := root.RenameAt(name, root, "new"); err == nil {
				t.Errorf("moved %q", name)
			}
		}
		for _, names := range [][]string{{"up", "secret"}, {"host", "etc"}, {"up", ".."}, {"..", "secret"}, {".", "..", "..", "secret"}, {"peek", "x"}} {
			if _, _, err := root.Walk(names...); err == nil {
				t.Errorf("walked %q", names)
			}
		}
		peek := walk(t, root, "peek")
		if a := must[p9.Attr](t)(peek.Getattr()); !a.IsSymlink() {
			t.Errorf("a link's fid shows its target: %+v", a)
		}
		if err := peek.Setattr(&p9.SetAttr{Valid: p9.SetSize}); err == nil {
			t.Error("truncated through a link")
		}
		if _, _, err := root.Client().Attach("root", 0, "../.."); err == nil {
			t.Error("attached to a path")
		}
	}
	if text, err := os.ReadFile(filepath.Join(outer, "secret")); string(text) != "secret" {
		t.Errorf("the secret is %q, %v", text, err)
	}
}

// TestRacesDoNotEscape walks and creates while somebody on the host swaps a directory for a link that leads out.
func TestRacesDoNotEscape(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "tree")
	ok(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	ok(t, os.MkdirAll(filepath.Join(outer, "out", "b"), 0o755))
	ok(t, os.WriteFile(filepath.Join(outer, "out", "b", "secret"), []byte("secret"), 0o644))
	ok(t, os.Symlink("../out", filepath.Join(dir, "trap")))
	root := attach(t, serve(t, dir, false, p9.AllExtensions))

	var stop atomic.Bool
	var swapping sync.WaitGroup
	swapping.Add(1)
	swaps := 0
	go func() {
		defer swapping.Done()
		d, _ := unix.Open(dir, unix.O_PATH, 0)
		defer unix.Close(d)
		for !stop.Load() {
			if unix.Renameat2(d, "a", d, "trap", unix.RENAME_EXCHANGE) == nil {
				swaps++
			}
		}
	}()
	var res p9.WalkResult
	for range 3000 {
		ok(t, root.WalkGetattr([]string{"a", "b", "secret"}, p9.WalkOptions{Open: true}, &res))
		if res.Err == 0 || res.File >= 0 {
			t.Error("walked out of the tree")
			break
		}
		if ok(t, root.WalkGetattr([]string{"a", "b"}, p9.WalkOptions{}, &res)); len(res.Fids) == 1 {
			b := res.Fids[0]
			b.Mkdir("inside", 0o700, p9.NoID)
			b.Make(&p9.MakeArgs{Name: "file", Mode: 0o600, UID: p9.NoID, GID: p9.NoID}, p9.MakeOptions{NoFid: true})
			ok(t, b.Clunk())
		}
	}
	stop.Store(true)
	swapping.Wait()
	if swaps == 0 {
		t.Error("nothing was swapped")
	}
	filepath.WalkDir(filepath.Join(outer, "out"), func(path string, d fs.DirEntry, err error) error {
		if d.Name() == "inside" || d.Name() == "file" {
			t.Errorf("%s was made outside the tree", path)
		}
		return nil
	})
}

// TestReopeningKeepsTheFile: a fid means its file, whatever its name means by now.
func TestReopeningKeepsTheFile(t *testing.T) {
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "file"), []byte("first"), 0o644))
	root := attach(t, serve(t, dir, false, p9.AllExtensions))
	f := walk(t, root, "file")
	ok(t, os.Remove(filepath.Join(dir, "file")))
	ok(t, os.WriteFile(filepath.Join(dir, "file"), []byte("second"), 0o644))
	must[p9.Qid](t)(f.Open(unix.O_RDONLY))
	buf := make([]byte, 10)
	if n, err := f.Read(buf, 0); err != nil || string(buf[:n]) != "first" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestConcurrentCallers(t *testing.T) {
	dir := t.TempDir()
	c := serve(t, dir, false, p9.AllExtensions)
	root := attach(t, c)
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			name := "file" + itoa(i)
			for range 100 {
				made, err := root.Make(&p9.MakeArgs{Name: name, Mode: 0o600, UID: p9.NoID, GID: p9.NoID}, p9.MakeOptions{Open: true, OpenFlags: unix.O_RDWR})
				if err != nil || made.File < 0 {
					t.Errorf("make: %v", err)
					return
				}
				text := []byte(name)
				unix.Pwrite(made.File, text, 0)
				unix.Close(made.File)
				if _, err := made.Fid.Open(unix.O_RDWR); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, 20)
				if n, err := made.Fid.Read(got, 0); err != nil || string(got[:n]) != name {
					t.Errorf("read %q, %v, want %q", got[:n], err, name)
					return
				}
				if err := made.Fid.Fsync(true); err != nil {
					t.Error(err)
				}
				made.Fid.Clunk()
				if err := root.UnlinkAt(name, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
}

func BenchmarkGetattr(b *testing.B) {
	root := attach(b, serve(b, b.TempDir(), false, p9.AllExtensions))
	b.ReportAllocs()
	for b.Loop() {
		root.Getattr()
	}
}

func BenchmarkWalkOpen(b *testing.B) {
	dir := b.TempDir()
	ok(b, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	root := attach(b, serve(b, dir, false, p9.AllExtensions))
	b.ReportAllocs()
	var res p9.WalkResult
	names := []string{"file"}
	for b.Loop() {
		root.WalkGetattr(names, p9.WalkOptions{Open: true}, &res)
		unix.Close(res.File)
		res.Fids[0].Clunk()
	}
}
