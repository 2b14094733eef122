package gofer

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// These tests talk to diod (Debian package diod), whose client and server nobody here wrote: its tools to our
// program in its jail, and our client to its server. A kernel with v9fs would be another peer; TestLinuxMount uses it where it is there.

func tool(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/", "/bin/"} {
		if unix.Access(dir+name, unix.X_OK) == nil {
			return dir + name
		}
	}
	t.Skipf("needs %s", name)
	return ""
}

// listen starts a gofer of its own, jailed if we may, for every client that connects to a Unix socket, and
// returns the socket's path.
func listen(t *testing.T, dir, name string) string {
	t.Helper()
	path := program(t)
	// Short: a socket's path has 107 bytes at most.
	place, err := os.MkdirTemp("", "9p")
	ok(t, err)
	t.Cleanup(func() { os.RemoveAll(place) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(place, "s"), Net: "unix"})
	ok(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			conn, _ := c.File()
			root, _ := os.Open(dir)
			cmd := exec.Command(path, "--attach", "3:rw:"+name, "--conn", "4")
			cmd.ExtraFiles = []*os.File{root, conn}
			cmd.Stderr = os.Stderr
			if os.Geteuid() == 0 {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: jailFlags}
			} else {
				cmd.Args = append(cmd.Args, "--no-jail")
			}
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			conn.Close()
			root.Close()
			c.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the gofer ended with %v", err)
			}
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return filepath.Join(place, "s")
}

func TestDiodsToolsReadOurTree(t *testing.T) {
	ls, cat := tool(t, "diodls"), tool(t, "diodcat")
	dir := t.TempDir()
	ok(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
	text := bytes.Repeat([]byte("a line of text\n"), 40000)
	ok(t, os.WriteFile(filepath.Join(dir, "sub", "big"), text, 0o640))
	ok(t, os.WriteFile(filepath.Join(dir, "small"), []byte("small\n"), 0o604))
	ok(t, os.Symlink("small", filepath.Join(dir, "link")))
	for i := range 500 {
		ok(t, os.WriteFile(filepath.Join(dir, "sub", "file"+strconv.Itoa(i)), nil, 0o600))
	}
	socket := listen(t, dir, "/tree")

	out, err := exec.Command(ls, "-s", socket, "-a", "/tree", "-l").CombinedOutput()
	if err != nil {
		t.Fatalf("diodls: %v: %s", err, out)
	}
	for _, want := range []string{"drwxr-xr-x", "-rw----r--", " 6 ", "small", "link", ".."} {
		if !strings.Contains(string(out), want) {
			t.Errorf("diodls does not say %q:\n%s", want, out)
		}
	}
	out, err = exec.Command(ls, "-s", socket, "-a", "/tree", "sub").CombinedOutput()
	if err != nil || strings.Count(string(out), "file") != 500 {
		t.Errorf("diodls sub: %v, %d files", err, strings.Count(string(out), "file"))
	}
	out, err = exec.Command(cat, "-s", socket, "-a", "/tree", "small", "sub/big").Output()
	if err != nil || !bytes.Equal(out, append([]byte("small\n"), text...)) {
		t.Errorf("diodcat: %v, %d bytes", err, len(out))
	}
	out, err = exec.Command(cat, "-s", socket, "-a", "/tree", "none").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No such file") {
		t.Errorf("diodcat of nothing: %v, %s", err, out)
	}
	out, err = exec.Command(ls, "-s", socket, "-a", "/etc").CombinedOutput()
	if err == nil {
		t.Errorf("diodls of another tree: %s", out)
	}
}

// TestDiodsLoadWritesOurTree: diodload copies the file zero to the file null of the tree ctl from several threads.
func TestDiodsLoadWritesOurTree(t *testing.T) {
	load := tool(t, "diodload")
	dir := t.TempDir()
	zero := bytes.Repeat([]byte{0x5a}, 1<<20)
	ok(t, os.WriteFile(filepath.Join(dir, "zero"), zero, 0o644))
	ok(t, os.WriteFile(filepath.Join(dir, "null"), nil, 0o644))
	socket := listen(t, dir, "ctl")
	for _, args := range [][]string{{}, {"-g"}} {
		out, err := exec.Command(load, append(args, "-s", socket, "-r", "1", "-n", "1")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "ops/s") || strings.Contains(string(out), " 0 ops/s") {
			t.Errorf("diodload %v: %v: %s", args, err, out)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "null"))
	if err != nil || len(got) == 0 || !bytes.Equal(got, zero[:len(got)]) {
		t.Errorf("what it wrote: %d bytes, %v", len(got), err)
	}
}

// TestOurClientSpeaksToDiod drives diod's server, which knows no extension.
func TestOurClientSpeaksToDiod(t *testing.T) {
	server := tool(t, "diod")
	if os.Geteuid() != 0 {
		t.Skip("needs root, as diod does")
	}
	dir := t.TempDir()
	ours, theirs := socketpair(t)
	conn := os.NewFile(uintptr(theirs), "conn")
	cmd := exec.Command(server, "-f", "-r", "3", "-w", "3", "-n", "-N", "-L", "stderr", "-e", dir, "-c", "/dev/null")
	cmd.ExtraFiles = []*os.File{conn}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	ok(t, cmd.Start())
	conn.Close()
	c, err := p9.Dial(ours, 0, p9.AllExtensions)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("%v: %s", err, stderr.String())
	}
	defer func() {
		c.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}()
	if c.Extensions() != 0 {
		t.Errorf("diod agreed to %v", c.Extensions())
	}
	root, _, err := c.Attach("root", 0, dir)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	f := walk(t, root)
	must[p9.Qid](t)(f.Create("file", unix.O_RDWR, 0o640, 0))
	data := bytes.Repeat([]byte("0123456789"), 30000)
	if n, err := f.Write(data, 0); n != len(data) || err != nil {
		t.Fatalf("wrote %d, %v: %s", n, err, stderr.String())
	}
	got := make([]byte, len(data)+1)
	if n, err := f.Read(got, 0); n != len(data) || err != nil || !bytes.Equal(got[:n], data) {
		t.Errorf("read %d, %v", n, err)
	}
	ok(t, f.Fsync(false))
	ok(t, f.Setattr(&p9.SetAttr{Valid: p9.SetSize | p9.SetMode, Size: 7, Mode: 0o604}))
	if a := must[p9.Attr](t)(f.Getattr()); a.Size != 7 || a.Mode != unix.S_IFREG|0o604 {
		t.Errorf("attributes %+v", a)
	}
	ok(t, f.Lock(&p9.FileLock{Type: p9.LockWrite, PID: 1, ClientID: "vitrine"}))
	must[p9.Qid](t)(root.Mkdir("dir", 0o755, 0))
	d := walk(t, root, "dir")
	must[p9.Qid](t)(d.Symlink("link", "../file", 0))
	if target := must[string](t)(walk(t, d, "link").Readlink()); target != "../file" {
		t.Errorf("link to %q", target)
	}
	ok(t, d.Link(f, "hard"))
	ok(t, walk(t, d, "hard").Rename(root, "moved"))
	ok(t, walk(t, root, "moved").Remove())
	list := walk(t, d)
	must[p9.Qid](t)(list.Open(unix.O_RDONLY))
	names := map[string]bool{}
	for offset := uint64(0); ; {
		entries := must[[]p9.Dirent](t)(list.ReaddirPlus(offset, nil))
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			names[e.Name], offset = true, e.Offset
		}
	}
	if len(names) != 3 || !names["link"] {
		t.Errorf("names %v", names)
	}
	if s := must[p9.Statfs](t)(root.Statfs()); s.BlockSize == 0 {
		t.Errorf("statfs %+v", s)
	}
	var res p9.WalkResult
	ok(t, root.WalkGetattr([]string{"dir", "none"}, p9.WalkOptions{Each: true}, &res))
	if len(res.Attrs) != 1 || res.Err != unix.ENOENT || len(res.Fids) != 1 {
		t.Errorf("walk %+v", res)
	}
	// diod 1.0.24 has the older requests only.
	wantErr(t, "Tunlinkat", root.UnlinkAt("dir", unix.AT_REMOVEDIR), unix.EOPNOTSUPP)
	wantErr(t, "rmdir of a full one", walk(t, root, "dir").Remove(), unix.ENOTEMPTY)
	ok(t, walk(t, d, "link").Remove())
	ok(t, f.Remove())
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestLinuxMount lets the kernel's own client (v9fs) work on our tree.
func TestLinuxMount(t *testing.T) {
	systems, _ := os.ReadFile("/proc/filesystems")
	if !strings.Contains(string(systems), "\t9p\n") {
		t.Skip("needs a kernel with v9fs (9p in /proc/filesystems)")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, at := t.TempDir(), t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
	socket := listen(t, dir, "tree")
	ok(t, unix.Mount(socket, at, "9p", 0, "trans=unix,version=9p2000.L,aname=tree,uname=root,access=any"))
	defer unix.Unmount(at, unix.MNT_DETACH)
	if text, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(text) != "text" {
		t.Errorf("read %q, %v", text, err)
	}
	ok(t, os.WriteFile(filepath.Join(at, "new"), []byte("written"), 0o600))
	if text, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || string(text) != "written" {
		t.Errorf("the host has %q, %v", text, err)
	}
	ok(t, os.Rename(filepath.Join(at, "new"), filepath.Join(at, "newer")))
	ok(t, os.Remove(filepath.Join(at, "newer")))
	ok(t, unix.Unmount(at, 0))
}
