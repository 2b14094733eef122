package ptrace

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/platform/platformtest"
)

// TestSuiteInJail runs the suite in a process without capabilities whose host
// calls are held to HostCalls, for each of the calls that these name.
func TestSuiteInJail(t *testing.T) {
	const mark = "VITRINE_TEST_JAIL"
	if os.Getenv(mark) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSuiteInJail$", "-test.v")
		cmd.Env = append(os.Environ(), mark+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_GETPID, 0, 0, 0); e == unix.ENOTSUP {
		t.Skip("needs a test that is built without cgo, for calls on all threads")
	}
	p := start(t)
	enterJail(t)
	if e := ptrace(0x4208, os.Getpid(), 0, 0); e != unix.ENOTRECOVERABLE {
		t.Fatalf("the jail doesn't hold: %v", e)
	}
	for _, test := range platformtest.All() {
		t.Run(test.Name, func(t *testing.T) { test.Run(t, p) })
	}
}

// runtimeCalls are calls of Go's runtime and the tests that share a number with
// a row of HostCalls.
var runtimeCalls = []seccomp.Row{
	{Number: unix.SYS_MMAP, Checks: []seccomp.Check{seccomp.Masked(3, unix.MAP_PRIVATE|unix.MAP_ANON, unix.MAP_PRIVATE|unix.MAP_ANON)}},
	{Number: unix.SYS_TGKILL, Checks: []seccomp.Check{seccomp.Equal(0, uint64(os.Getpid()))}},
}

// enterJail drops all capabilities and refuses what HostCalls doesn't allow.
func enterJail(t *testing.T) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	// SAFETY: both live until the call returns.
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); e != 0 {
		t.Fatal(e)
	}
	f := seccomp.Filter{Default: seccomp.Allow, Rows: append(append([]seccomp.Row(nil), HostCalls...), runtimeCalls...)}
	refused := make(map[uint32]bool)
	for _, r := range f.Rows {
		refused[r.Number] = true
	}
	// Rows of a number are tried in order; these come last.
	for nr := range refused {
		f.Rows = append(f.Rows, seccomp.Row{Number: nr, Action: seccomp.Errno(unix.ENOTRECOVERABLE)})
	}
	if err := seccomp.Install(&f); err != nil {
		t.Fatal(err)
	}
}
