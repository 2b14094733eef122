package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"vitrine/pkg/seccomp"
)

// underEnv names, in the environment of this program, the confinement in which it is
// to execute its arguments.
const underEnv = "VITRINE_E2E_UNDER"

// underDirEnv names its directory.
const underDirEnv = "VITRINE_E2E_UNDER_DIR"

// confinements are what runsc may find itself in.
var confinements = map[string]func() error{
	"Docker's defaults": func() error {
		if err := seccomp.Install(dockersProfile()); err != nil {
			return err
		}
		return keepOnly(dockersCapabilities)
	},
	"Docker's profile alone":     func() error { return seccomp.Install(dockersProfile()) },
	"root without CAP_SYS_ADMIN": func() error { return keepOnly(dockersCapabilities) },
	"no Syscall User Dispatch": func() error {
		const setSyscallUserDispatch = 59 // PR_SET_SYSCALL_USER_DISPATCH: Linux 5.11
		return seccomp.Install(&seccomp.Filter{Default: seccomp.Allow, Foreign: seccomp.Allow, Rows: []seccomp.Row{
			{Number: unix.SYS_PRCTL, Checks: []seccomp.Check{seccomp.EqualLow(0, setSyscallUserDispatch)}, Action: seccomp.Errno(unix.EINVAL), Why: "an older kernel"},
		}})
	},
}

// executeUnder is what TestMain does in a process of under.
func executeUnder(name string) error {
	confine := confinements[name]
	if confine == nil {
		return fmt.Errorf("there is no confinement %q", name)
	}
	runtime.LockOSThread() // capabilities are a thread's
	if err := confine(); err != nil {
		return err
	}
	if dir := os.Getenv(underDirEnv); dir != "" {
		// Bazel's test programs go somewhere else as they start.
		if err := os.Chdir(dir); err != nil {
			return err
		}
	}
	os.Unsetenv(underEnv)
	os.Unsetenv(underDirEnv)
	return unix.Exec(os.Args[1], os.Args[1:], os.Environ())
}

// under puts a command into a confinement.
func under(name string, cmd *exec.Cmd) *exec.Cmd {
	confined := exec.Command("/proc/self/exe", cmd.Args...)
	confined.Env = append(os.Environ(), underEnv+"="+name, underDirEnv+"="+cmd.Dir)
	confined.Dir = cmd.Dir
	return confined
}

// dockersProfile has the shape of the seccomp profile that Docker runs containers with
// (docs.docker.com, "Seccomp security profiles for Docker"), as it is for one without
// CAP_SYS_ADMIN and a kernel from 4.8 on, where ptrace(2) is allowed.
func dockersProfile() *seccomp.Filter {
	f := &seccomp.Filter{Default: seccomp.Allow, Foreign: seccomp.Allow, Rows: []seccomp.Row{
		{Number: unix.SYS_CLONE, Checks: []seccomp.Check{seccomp.Masked(0, namespaceFlags, 0)}, Why: "no new namespaces"},
		{Number: unix.SYS_CLONE, Action: seccomp.Errno(unix.EPERM), Why: "the others"},
		{Number: unix.SYS_CLONE3, Action: seccomp.Errno(unix.ENOSYS), Why: "its flags can't be seen"},
	}}
	for _, n := range []uint32{
		unix.SYS_ACCT, unix.SYS_ADD_KEY, unix.SYS_BPF, unix.SYS_CLOCK_ADJTIME, unix.SYS_CLOCK_SETTIME, unix.SYS_CREATE_MODULE, unix.SYS_DELETE_MODULE,
		unix.SYS_FINIT_MODULE, unix.SYS_GET_KERNEL_SYMS, unix.SYS_GET_MEMPOLICY, unix.SYS_INIT_MODULE, unix.SYS_IOPERM, unix.SYS_IOPL, unix.SYS_KCMP,
		unix.SYS_KEXEC_FILE_LOAD, unix.SYS_KEXEC_LOAD, unix.SYS_KEYCTL, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_MBIND, unix.SYS_MOUNT, unix.SYS_MOVE_PAGES,
		unix.SYS_NFSSERVCTL, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_PERF_EVENT_OPEN, unix.SYS_PIVOT_ROOT, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
		unix.SYS_QUERY_MODULE, unix.SYS_QUOTACTL, unix.SYS_REBOOT, unix.SYS_REQUEST_KEY, unix.SYS_SET_MEMPOLICY, unix.SYS_SETNS, unix.SYS_SETTIMEOFDAY,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_SYSFS, unix.SYS__SYSCTL, unix.SYS_UMOUNT2, unix.SYS_UNSHARE, unix.SYS_USELIB, unix.SYS_USERFAULTFD,
		unix.SYS_USTAT,
	} {
		f.Rows = append(f.Rows, seccomp.Row{Number: n, Action: seccomp.Errno(unix.EPERM), Why: "blocked by default"})
	}
	return f
}

const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// dockersCapabilities are those of a container of Docker's.
var dockersCapabilities = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FSETID, unix.CAP_FOWNER, unix.CAP_MKNOD, unix.CAP_NET_RAW, unix.CAP_SETGID,
	unix.CAP_SETUID, unix.CAP_SETFCAP, unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_CHROOT, unix.CAP_KILL, unix.CAP_AUDIT_WRITE}

// keepOnly takes all other capabilities from the calling thread, for good.
func keepOnly(caps []int) error {
	var mask uint64
	for _, c := range caps {
		mask |= 1 << c
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if mask&(1<<c) == 0 {
			// EINVAL: a kernel that doesn't know it.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
				return fmt.Errorf("dropping capability %d: %w", c, err)
			}
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{}
	for i := range data {
		part := uint32(mask >> (32 * i))
		data[i] = unix.CapUserData{Effective: part, Permitted: part}
	}
	return unix.Capset(&header, &data[0])
}

// runUnder runs a command in a confinement.
func runUnder(t *testing.T, name string, cmd *exec.Cmd) (out string, code int) {
	t.Helper()
	confined := under(name, cmd)
	b, err := confined.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), confined.ProcessState.ExitCode()
}

// Inside a user namespace of somebody without privileges, where only one id is mapped,
// containers run.
func TestInAnUnprivilegedUserNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox, linked statically:", err)
	}
	const somebody = 12345
	for _, platform := range []string{"ptrace", "systrap"} {
		t.Run(platform, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "vitrine-somebody-") // t.TempDir's parent is the test's alone
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			for _, name := range []string{"runsc", "sentry", "gofer"} {
				b, err := os.ReadFile(filepath.Join(real, name))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, name), b, 0o755)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			root := filepath.Join(dir, "rootfs")
			if err := os.Mkdir(root, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, "busybox"), busybox, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, somebody, somebody); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(root, somebody, somebody); err != nil {
				t.Fatal(err)
			}
			// unshare(1) as somebody: its user namespace has somebody as root, and nobody else.
			cmd := exec.Command("unshare", "--user", "--map-root-user", filepath.Join(dir, "runsc"), "--root", filepath.Join(dir, "state"), "--platform="+platform,
				"do", "--root", root, "--", "/busybox", "sh", "-c", "echo hello from $(/busybox id -u); echo data > /file; /busybox cat /file")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: somebody, Gid: somebody}}
			cmd.Dir = "/"
			out, err := cmd.CombinedOutput()
			if strings.HasPrefix(string(out), "unshare: unshare failed: ") {
				t.Skipf("needs user namespaces for everybody: %s", out)
			}
			if err != nil || string(out) != "hello from 0\ndata\n" {
				t.Errorf("%q, %v", out, err)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "state")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Where runsc isn't allowed what it needs, it says what that is.
func TestInAContainerOfDockers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to have what Docker takes away")
	}
	const says = `^runsc: starting .*/(sentry|gofer): operation not permitted \(it needs clone\(2\) with namespaces of its own, ` +
		`which a seccomp profile such as Docker's default, or the host's settings of user namespaces, forbid\)\n$`
	for _, test := range []struct {
		name string
		out  string // a regular expression
		code int
	}{
		{"Docker's defaults", says, 1},
		{"Docker's profile alone", says, 1},
		{"root without CAP_SYS_ADMIN", "^data/file\n7\n$", 0},
	} {
		for _, platform := range []string{"ptrace", "systrap"} {
			t.Run(test.name+" on "+platform, func(t *testing.T) {
				h := realHouse(t)
				h.flags = []string{"--platform=" + platform}
				h.ociSpec("cat /data/file; chown 7:7 /data/file; stat -c %u /data/file", nil)
				if err := os.Chown(filepath.Join(h.bundle, "rootfs/data/file"), 33, 33); err != nil {
					t.Fatal(err)
				}
				h.flags = append(h.flags, "--overlay=none")
				out, code := runUnder(t, test.name, h.command("run", "c"))
				if code != test.code || !regexp.MustCompile(test.out).MatchString(out) {
					t.Errorf("exit code %d, %q", code, out)
				}
			})
		}
	}
}

// On a kernel without Syscall User Dispatch, systrap's stubs have a second filter in its
// place, and programs find no difference.
func TestSystrapWithoutSyscallUserDispatch(t *testing.T) {
	h := realHouse(t)
	h.flags = []string{"--platform=systrap"}
	for _, name := range []string{"fork", "rewrite", "sigaction", "traps"} {
		program := os.Getenv("SYSCALLS_" + name)
		if program == "" {
			program = filepath.Join(h.bundle, name)
			cc, err := exec.LookPath("gcc")
			if err != nil {
				t.Skip("needs gcc: ", err)
			}
			out, err := exec.Command(cc, "-static", "-O1", "-U_FORTIFY_SOURCE", "-pthread", "-o", program, "../syscalls/"+name+".c").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		program, err := filepath.Abs(program)
		if err != nil {
			t.Fatal(err)
		}
		out, code := runUnder(t, "no Syscall User Dispatch", h.command("do", "--", program))
		if code != 0 || strings.Contains(out, "not ok") || !regexp.MustCompile(`(?m)^ok 1`).MatchString(out) {
			t.Errorf("%s: exit code %d: %s", name, code, out)
		}
	}
	// The test would say nothing if the filter weren't there: it shows.
	h.ociSpec("echo up; exec sleep 1000", nil)
	out, err := os.Create(filepath.Join(h.bundle, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := under("no Syscall User Dispatch", h.command("run", "--detach", "c"))
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		t.Fatal(err, string(mustRead(t, out.Name())))
	}
	eventually(t, "it runs", func() bool { return string(mustRead(t, out.Name())) == "up\n" })
	sentry, _ := h.families(t)
	most := ""
	for _, stub := range descendants(t, sentry) {
		threads, _ := filepath.Glob(stub + "/task/*/status")
		for _, file := range threads {
			most = max(most, fields(t, file)["Seccomp_filters"])
		}
	}
	// The test's, the stubs' own, and the second.
	if most != "3" {
		t.Errorf("a stub's threads are under %s filters at most", most)
	}
}
