package ptrace

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/platform/platformtest"
	"vitrine/pkg/sentry/platform/stub"
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

// runtimeCalls are calls of Go's runtime, the tests and the testing package
// that share a number with a row of HostCalls.
var runtimeCalls = []stub.Row{
	{Nr: unix.SYS_MMAP, Args: []stub.Arg{{Index: 3, Value: unix.MAP_PRIVATE | unix.MAP_ANON}}},
	{Nr: unix.SYS_MMAP, Args: []stub.Arg{{Index: 3, Value: unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_FIXED}}},
	{Nr: unix.SYS_MMAP, Args: []stub.Arg{{Index: 3, Value: unix.MAP_PRIVATE | unix.MAP_ANON | unix.MAP_NORESERVE}}},
	{Nr: unix.SYS_TGKILL, Args: []stub.Arg{{Index: 0, Value: uint64(os.Getpid())}}},
}

// enterJail drops all capabilities and refuses what HostCalls doesn't allow.
func enterJail(t *testing.T) {
	rows := append(append([]stub.Row(nil), HostCalls...), runtimeCalls...)
	prog := []unix.SockFilter{}
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	jump := func(k uint32, jt, jf uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: jt, Jf: jf}
	}
	const load, ret, allow, refuse = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_RET | unix.BPF_K, 0x7fff0000, 0x00050000
	numbers := map[uintptr]bool{}
	for _, r := range rows {
		numbers[r.Nr] = true
		prog = append(prog, stmt(load, 0), jump(uint32(r.Nr), 0, uint8(2*len(r.Args)+1)))
		for i, a := range r.Args {
			prog = append(prog, stmt(load, uint32(16+8*a.Index)), jump(uint32(a.Value), 0, uint8(2*(len(r.Args)-i)-1)))
		}
		prog = append(prog, stmt(ret, allow))
	}
	prog = append(prog, stmt(load, 0))
	for nr := range numbers {
		prog = append(prog, jump(uint32(nr), 0, 1), stmt(ret, refuse|uint32(unix.ENOTRECOVERABLE)))
	}
	prog = append(prog, stmt(ret, allow))
	// SAFETY: the structures live until the calls that take their addresses
	// return; prog, which fprog points to, is kept alive to the end.
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}

	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); e != 0 {
		t.Fatal(e)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); e != 0 {
		t.Fatal(e)
	}
	const modeFilter, tsync = 1, 1
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, modeFilter, tsync, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		t.Fatal(e)
	}
	runtime.KeepAlive(prog)
}
