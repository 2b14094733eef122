package gofer

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// TestInJail uses a tree from a process that can make no host calls on files but HostCalls. The server is in this one.
func TestInJail(t *testing.T) {
	const mark = "VITRINE_TEST_JAIL"
	if os.Getenv(mark) != "" {
		inJail(t)
		return
	}
	root, pair := hostTree(t, t.TempDir())
	go p9.Serve(pair[1], root, p9.ServerOptions{Extensions: p9.AllExtensions})
	socket := os.NewFile(uintptr(pair[0]), "socket")
	defer socket.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInJail$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.ExtraFiles = []*os.File{socket}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

func inJail(t *testing.T) {
	f := seccomp.Filter{Default: seccomp.Allow, Rows: append([]seccomp.Row(nil), HostCalls...)}
	f.Rows = append(f.Rows,
		// The Go runtime's and the test's.
		seccomp.Row{Number: unix.SYS_MMAP, Checks: []seccomp.Check{seccomp.Masked(3, unix.MAP_PRIVATE|unix.MAP_ANON, unix.MAP_PRIVATE|unix.MAP_ANON)}},
		seccomp.Row{Number: unix.SYS_CLOCK_GETTIME, Checks: []seccomp.Check{seccomp.OneOfLow(0, unix.CLOCK_MONOTONIC, unix.CLOCK_REALTIME)}})
	refuse := []uint32{unix.SYS_OPEN, unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_STAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_GETDENTS64,
		unix.SYS_PREADV, unix.SYS_PWRITEV, unix.SYS_PREADV2, unix.SYS_PWRITEV2, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_FCNTL, unix.SYS_PRLIMIT64}
	for _, r := range f.Rows {
		refuse = append(refuse, r.Number)
	}
	for _, nr := range refuse {
		f.Rows = append(f.Rows, seccomp.Row{Number: nr, Action: seccomp.Errno(unix.ENOTRECOVERABLE)})
	}
	// Installing it on all threads needs the flag in seccomp(2) only.
	if err := seccomp.Install(&f); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Open("/", unix.O_RDONLY, 0); err != syscall.ENOTRECOVERABLE {
		t.Fatalf("the jail doesn't hold: %v", err)
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fs, err := Dial(3, Options{})
	ok(err)
	tr := viewOf(t, fs)
	ok(vfs.Mkdir(tr.ctx, tr.view, "/d", 0o755))
	file := tr.open("/d/f", unix.O_CREAT|unix.O_RDWR|unix.O_SYNC, 0o644)
	_, err = file.WriteAt(tr.ctx, bytesBuffer(strings.Repeat("some text", 1000)), 0)
	ok(err)
	ok(vfs.Truncate(tr.ctx, file.Path(), file, 5000))
	ok(file.Impl().(vfs.Allocator).Allocate(tr.ctx, 0, 0, 8192))
	_, err = file.Seek(tr.ctx, 0, unix.SEEK_HOLE)
	ok(err)
	ok(file.Sync(tr.ctx, false))
	ok(file.Sync(tr.ctx, true))
	var a vfs.Attr
	ok(file.Stat(tr.ctx, &a))
	if s, err := readAll(tr, file); err != nil || len(s) != 100 || a.Size != 8192 {
		t.Fatalf("%q, %v, %+v", s, err, a)
	}
	m, err := file.Mappable(tr.ctx, nil)
	ok(err)
	r := memmap.Range{End: usermem.PageSize}
	ts, err := m.Translate(r, r, usermem.Read)
	ok(err)
	b, err := ts[0].File.Slice(0, 4)
	ok(err)
	if string(b) != "some" {
		t.Fatalf("%q is mapped", b)
	}
	ts[0].File.DecRef(0, usermem.PageSize)
	ok(vfs.Chmod(tr.ctx, file.Path(), 0o600))
	file.DecRef()
	ok(vfs.Rename(tr.ctx, tr.view, "/d/f", tr.view, "/g", 0))
	if l := tr.list("/"); len(l) != 4 {
		t.Fatal(l)
	}
	ok(vfs.Unlink(tr.ctx, tr.view, "/g"))
	Close(fs)
}
