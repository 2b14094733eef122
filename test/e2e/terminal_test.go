package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vitrine/test/terminal"
)

// At a terminal, what is led elsewhere gets there.
func TestDoWithRedirections(t *testing.T) {
	for _, redirected := range []int{1, 2} {
		h := realHouse(t)
		_, slave := terminal.Open(t)
		file, err := os.Create(filepath.Join(h.bundle, "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd := h.command("do", "--root", filepath.Join(h.bundle, "rootfs"), "--", "/bin/sh", "-c", fmt.Sprintf("echo led elsewhere >&%d", redirected))
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
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
