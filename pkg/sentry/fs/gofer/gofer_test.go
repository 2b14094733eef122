package gofer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	server "vitrine/pkg/gofer"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/auth"
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
	end    func() // the server's
}

func serve(t testing.TB, dir string, ext p9.Extensions, o Options) *tree {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, err := server.NewTree(fd, "tree", false, false)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p9.Serve(pair[1], host, p9.ServerOptions{Extensions: p9.AllExtensions}) }()
	client, err := p9.Dial(pair[0], 0, ext)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := New(client, o)
	if err != nil {
		t.Fatal(err)
	}
	ns := vfs.NewMountNamespace(fs, "tree", 0)
	tr := &tree{t: t, fs: fs, impl: fs.Impl.(*filesystem),
		ctx:  vfs.KernelContext(auth.NewRoot(auth.NewRootUserNamespace())),
		view: vfs.FSView{Root: ns.Root(), Start: ns.Root()},
		end:  func() { unix.Shutdown(pair[1], unix.SHUT_RDWR) },
	}
	t.Cleanup(func() {
		client.Close()
		<-done
		unix.Close(fd)
	})
	return tr
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
