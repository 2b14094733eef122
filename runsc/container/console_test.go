package container

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A terminal is there also where its name in /dev/pts isn't, or is another's.
func TestConsoleWithoutItsName(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir, err := os.MkdirTemp("", "vitrine-tty-") // t.TempDir's name may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 1); err != nil {
		t.Fatal(err)
	}
	type result struct {
		console *Console
		err     error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // the thread ends with its mount namespace
		err := unix.Unshare(unix.CLONE_NEWNS)
		for _, m := range []struct {
			from, to, kind string
			flags          uintptr
		}{
			{"", "/", "", unix.MS_PRIVATE | unix.MS_REC},
			{"none", "/dev", "tmpfs", 0},
			{"none", "/dev/terminals", "devpts", 0},
		} {
			if err == nil && m.to != "/" {
				os.Mkdir(m.to, 0o755)
			}
			if err == nil {
				err = unix.Mount(m.from, m.to, m.kind, m.flags, "")
			}
		}
		if err == nil {
			err = os.Symlink("terminals/ptmx", "/dev/ptmx")
		}
		r := result{err: err}
		if err == nil {
			r.console, r.err = NewConsole(path)
		}
		made <- r
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.console.Release()
	if err := unix.IoctlSetWinsize(int(r.console.File.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 12, Col: 34}); err != nil {
		t.Fatal(err)
	}
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	oob, name := make([]byte, 64), make([]byte, 64)
	n, oobn, _, _, err := unix.Recvmsg(fd, name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || !strings.HasPrefix(string(name[:n]), "/dev/pts/") {
		t.Fatalf("%q, %v", name[:n], err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) == 0 {
		t.Fatalf("no terminal came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if size, err := unix.IoctlGetWinsize(fds[0], unix.TIOCGWINSZ); err != nil || size.Row != 12 || size.Col != 34 {
		t.Errorf("the master's size is %+v, %v: it is of another terminal", size, err)
	}
}
