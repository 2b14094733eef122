package gofer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// buildDir is where the tests build what they run, and "" until they do.
var buildDir string

var gofer = sync.OnceValues(func() (string, error) {
	if built := os.Getenv("GOFER"); built != "" { // by Bazel
		return filepath.Abs(built)
	}
	var err error
	if buildDir, err = os.MkdirTemp("", "gofer-test"); err != nil {
		return "", err
	}
	path := filepath.Join(buildDir, "gofer")
	out, err := exec.Command("go", "build", "-o", path, "vitrine/runsc/gofer").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// program returns the path of runsc/gofer.
func program(t testing.TB) string {
	t.Helper()
	path, err := gofer()
	if err != nil {
		t.Fatalf("cannot build runsc/gofer: %v", err)
	}
	return path
}

func TestMain(m *testing.M) {
	unix.Umask(0)
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	os.Exit(code)
}

func socketpair(t testing.TB) (int, int) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// jailed is a running gofer in its jail.
type jailed struct {
	pid    int
	client *p9.Client
	cmd    *exec.Cmd
}

const jailFlags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// startJailed runs the real program on dir, with the namespaces runsc gives it.
func startJailed(t testing.TB, dir, mode string, attr *syscall.SysProcAttr) *jailed {
	t.Helper()
	path := program(t)
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ours, theirs := socketpair(t)
	conn := os.NewFile(uintptr(theirs), "conn")
	defer conn.Close()
	reportRead, reportWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reportRead.Close()
	stray, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	cmd := exec.Command(path, "--attach", "3:"+mode+":tree", "--conn", "4", "--report-fd=5")
	cmd.ExtraFiles = []*os.File{root, conn, reportWrite, stray}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if attr == nil {
		attr = &syscall.SysProcAttr{Cloneflags: jailFlags}
	}
	attr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		if os.Geteuid() != 0 {
			t.Skipf("needs to be allowed to make namespaces: %v", err)
		}
		t.Fatal(err)
	}
	reportWrite.Close()
	if report, _ := io.ReadAll(reportRead); len(report) > 0 {
		t.Fatalf("the gofer did not start: %s%s", report, stderr.String())
	}
	client, err := p9.Dial(ours, 0, p9.AllExtensions)
	if err != nil {
		t.Fatalf("%v; stderr: %s", err, stderr.String())
	}
	g := &jailed{pid: cmd.Process.Pid, client: client, cmd: cmd}
	t.Cleanup(func() {
		client.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gofer ended with %v: %s", err, stderr.String())
		}
	})
	return g
}

func statusField(t testing.TB, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in status", name)
	return ""
}

// TestPosture: what the running server is, equals an exact list.
func TestPosture(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	g := startJailed(t, t.TempDir(), "rw", nil)
	var want uint64
	for _, c := range Capabilities {
		want |= 1 << c.Number
	}
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(g.pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		for name, want := range map[string]uint64{"CapInh": 0, "CapPrm": want, "CapEff": want, "CapBnd": 0, "CapAmb": 0} {
			if got, _ := strconv.ParseUint(statusField(t, id, name), 16, 64); got != want {
				t.Errorf("thread %d: %s is %x, want %x", id, name, got, want)
			}
		}
		for name, want := range map[string]string{"Seccomp": "2", "NoNewPrivs": "1", "Seccomp_filters": "1"} {
			if got := statusField(t, id, name); got != want {
				t.Errorf("thread %d: %s is %s, want %s", id, name, got, want)
			}
		}
	}
	proc := "/proc/" + strconv.Itoa(g.pid)
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts"} {
		theirs, err := os.Readlink(proc + "/ns/" + ns)
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		if err != nil || theirs == ours {
			t.Errorf("namespace %s is shared (%v)", ns, err)
		}
	}
	root, err := os.ReadDir(proc + "/root/")
	if err != nil || len(root) != 0 {
		t.Errorf("the root holds %v (%v)", root, err)
	}
	mounts, err := os.ReadFile(proc + "/mounts")
	if err != nil || !strings.HasPrefix(string(mounts), "vitrine-empty / tmpfs ro,nosuid,nodev,noexec") ||
		strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("mounts (%v):\n%s", err, mounts)
	}
	fds, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, fd := range fds {
		link, _ := os.Readlink(proc + "/fd/" + fd.Name())
		got[fd.Name()] = link
	}
	// 2: the log; 3: the tree; 4: the connection; one more: the copy of /proc/self/fd.
	if len(got) != 4 || got["2"] == "" || got["3"] == "" || !strings.HasPrefix(got["4"], "socket:") {
		t.Errorf("descriptors: %v", got)
	}
	if limits, _ := os.ReadFile(proc + "/limits"); !bytes.Contains(limits, []byte("Max core file size        0                    0")) {
		t.Errorf("core dumps are possible:\n%s", limits)
	}
	rollup, _ := os.ReadFile(proc + "/smaps_rollup")
	for line := range strings.Lines(string(rollup)) {
		if strings.HasPrefix(line, "Pss:") {
			t.Logf("idle: %s", strings.TrimSpace(line))
		}
	}
}

func TestServesInJail(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	testOperations(t, startJailed(t, dir, "rw", nil).client, dir)
}

func TestFailsWithASentence(t *testing.T) {
	path := program(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "as many --conn as --attach"},
		{[]string{"--attach", "3:xx"}, "FD:ro or FD:rw"},
		{[]string{"--attach", "99:ro", "--conn", "3"}, "bad file descriptor"},
		{[]string{"--attach", "3:ro", "--conn", "4"}, "namespaces of its own"},
		{[]string{"--bogus", "1"}, "unknown flag"},
	} {
		dir, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		read, write, _ := os.Pipe()
		cmd := exec.Command(path, append(c.args, "--report-fd", "5")...)
		cmd.ExtraFiles = []*os.File{dir, dir, write}
		err = cmd.Run()
		write.Close()
		dir.Close()
		report, _ := io.ReadAll(read)
		read.Close()
		if err == nil || strings.Count(string(report), "\n") != 1 || !strings.Contains(string(report), c.want) {
			t.Errorf("%v: %v, %q, want one sentence with %q", c.args, err, report, c.want)
		}
	}
}

// TestUnprivileged: in a user namespace with one id, everything works but giving files away, which says so.
func TestUnprivileged(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() == 0 {
		os.Chown(dir, 0, 0)
	}
	g := startJailed(t, dir, "rw", &syscall.SysProcAttr{
		Cloneflags:  jailFlags | unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	})
	root, _, err := g.client.Attach("root", 0, "tree")
	if err != nil {
		t.Fatal(err)
	}
	res, err := root.Make(&p9.MakeArgs{Name: "mine", Mode: 0o644, UID: 0, GID: 0}, p9.MakeOptions{Open: true, OpenFlags: unix.O_RDWR})
	if err != nil || res.File < 0 {
		t.Fatalf("making a file of our own: %v", err)
	}
	unix.Close(res.File)
	if _, err := root.Make(&p9.MakeArgs{Name: "theirs", Mode: 0o644, UID: 1000, GID: 1000}, p9.MakeOptions{}); err != unix.EINVAL && err != unix.EPERM {
		t.Errorf("making a file of another's: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "theirs")); !os.IsNotExist(err) {
		t.Errorf("the file that could not be given away is still there (%v)", err)
	}
}
