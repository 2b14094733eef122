package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// newTerminal makes a pseudo-terminal of the host.
func newTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return master, terminal
}

// At a terminal, what is led elsewhere gets there.
func TestDoWithRedirections(t *testing.T) {
	for _, redirected := range []int{1, 2} {
		h := realHouse(t)
		_, terminal := newTerminal(t)
		file, err := os.Create(filepath.Join(h.bundle, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd := h.command("do", "--root", filepath.Join(h.bundle, "rootfs"), "--", "/bin/sh", "-c", fmt.Sprintf("echo led elsewhere >&%d", redirected))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		if redirected == 1 {
			cmd.Stdout = file
		} else {
			cmd.Stderr = file
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
		if got := string(mustRead(t, file.Name())); got != "led elsewhere\n" {
			t.Errorf("descriptor %d led to a file that has %q", redirected, strings.TrimSpace(got))
		}
	}
}
