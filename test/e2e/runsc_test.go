// Package e2e holds the contract of runsc's command line: commands, what they
// print, and what they leave behind. The real runsc runs with a sentry whose
// kernel is made up (testsentry) and a gofer that serves nothing (testgofer), so
// that what is tested here is neither.
//
// The tests need root, or user namespaces for everybody.
package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bin is where the programs are with the made-up kernel; real where they are
// with the sentry and gofer that users have.
var bin, real string

func TestMain(m *testing.M) {
	if name := os.Getenv(underEnv); name != "" {
		fmt.Fprintln(os.Stderr, executeUnder(name))
		os.Exit(1)
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "vitrine-e2e-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin, real = filepath.Join(dir, "made-up"), filepath.Join(dir, "real")
		for _, program := range []struct{ to, env, pkg string }{
			{bin + "/runsc", "RUNSC", "vitrine/runsc"},
			{bin + "/sentry", "TESTSENTRY", "vitrine/test/e2e/testsentry"},
			{bin + "/gofer", "TESTGOFER", "vitrine/test/e2e/testgofer"},
			{real + "/runsc", "RUNSC", "vitrine/runsc"},
			{real + "/sentry", "SENTRY", "vitrine/runsc/sentry"},
			{real + "/gofer", "GOFER", "vitrine/runsc/gofer"},
		} {
			if err := provide(program.to, program.env, program.pkg); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return m.Run()
	}())
}

// provide puts a program at path. Bazel has built it, and says where; it has to
// stand beside the others.
func provide(path, env, pkg string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if built := os.Getenv(env); built != "" {
		program, err := os.ReadFile(built)
		if err != nil {
			return err
		}
		return os.WriteFile(path, program, 0o755)
	}
	cmd := exec.Command("go", "build", "-o", path, pkg)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building %s: %w", pkg, err)
	}
	return nil
}

// house is a directory for state and one bundle.
type house struct {
	t      *testing.T
	bin    string
	root   string
	bundle string
	flags  []string // before the command
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir := t.TempDir()
	h := &house{t: t, bin: bin, root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	if err := os.MkdirAll(filepath.Join(h.bundle, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(h.run("list", "-q").stdout) {
			h.run("delete", "--force", id)
		}
		if left, err := os.ReadDir(h.root); err == nil && len(left) > 0 {
			t.Errorf("left in the state directory: %v", left)
		}
		// Those that stand for a process of exec end by themselves, a moment later.
		left := h.processes()
		for deadline := time.Now().Add(20 * time.Second); len(left) > 0 && time.Now().Before(deadline); left = h.processes() {
			time.Sleep(time.Millisecond)
		}
		if len(left) > 0 {
			t.Errorf("left running: %v", left)
		}
	})
	return h
}

// spec writes config.json with the process args and changes made by edit.
func (h *house) spec(edit func(map[string]any), args ...string) {
	h.t.Helper()
	s := map[string]any{
		"ociVersion": "1.0.2",
		"root":       map[string]any{"path": "rootfs"},
		"process": map[string]any{"args": args, "cwd": "/", "env": []string{"A=b"},
			"user": map[string]any{"uid": 1, "gid": 2}},
		"linux": map[string]any{"namespaces": []any{map[string]any{"type": "pid"}, map[string]any{"type": "uts"}}},
	}
	if edit != nil {
		edit(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(string(b))
}

func (h *house) write(config string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.bundle, "config.json"), []byte(config), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

type result struct {
	stdout, stderr string
	code           int
}

// expect compares r; stdout and stderr are regular expressions for all of them.
func (r result) expect(t *testing.T, code int, stdout, stderr string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, x := range []struct{ name, got, want string }{{"stdout", r.stdout, stdout}, {"stderr", r.stderr, stderr}} {
		if !regexp.MustCompile("^" + x.want + "$").MatchString(x.got) {
			t.Errorf("%s is %q, want %q", x.name, x.got, x.want)
		}
	}
}

// startReady starts a command whose container says "ready", and waits until it does.
func (h *house) startReady(args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := h.command(args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, len("ready\n"))); err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

func (h *house) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.bin, "runsc"), append(append([]string{"--root", h.root}, h.flags...), args...)...)
	cmd.Dir = h.bundle
	return cmd
}

func (h *house) run(args ...string) result {
	h.t.Helper()
	var out, errOut bytes.Buffer
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		h.t.Fatalf("runsc %v: %v", args, err)
	}
	return result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// must runs a command that has to work, with files for output, so that
// detached processes don't hold the pipes.
func (h *house) must(args ...string) string {
	h.t.Helper()
	out, err := os.CreateTemp(h.t.TempDir(), "out")
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	cmd := h.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	runErr := cmd.Run()
	b, _ := os.ReadFile(out.Name())
	if runErr != nil {
		h.t.Fatalf("runsc %v: %v: %s", args, runErr, b)
	}
	return string(b)
}

func (h *house) status(id string) string {
	h.t.Helper()
	var s struct{ Status string }
	r := h.run("state", id)
	if r.code != 0 {
		return r.stderr
	}
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Status
}

// processes are those of this house that run: sentries and gofers have names of
// it among their arguments or descriptors.
func (h *house) processes() []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		exe, _ := os.Readlink(p + "/exe")
		if filepath.Dir(exe) != h.bin {
			continue
		}
		cmdline, _ := os.ReadFile(p + "/cmdline")
		mine := bytes.Contains(cmdline, []byte(filepath.Dir(h.root)))
		fds, _ := filepath.Glob(p + "/fd/*")
		for _, fd := range fds {
			target, _ := os.Readlink(fd)
			mine = mine || strings.HasPrefix(target, filepath.Dir(h.root))
		}
		if mine {
			found = append(found, p+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// eventually waits until f holds: for what other processes do in their own
// time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so in 20 seconds: %s", what)
		}
	}
}

// The contract, row by row: each runs in a fresh house, once with the made-up
// kernel and once with the real one, whose root has programs of the same names.
func TestCommands(t *testing.T) {
	for _, test := range []struct {
		name   string
		madeUp bool     // what the row is about is the made-up kernel's
		args   []string // of the container's process
		edit   func(map[string]any)
		run    []string
		stdout string // a regular expression for all of it
		stderr string
		code   int
	}{
		{name: "exit code", args: []string{"exit", "7"}, run: []string{"run", "c"}, code: 7},
		{name: "output", args: []string{"echo", "hello"}, run: []string{"run", "c"}, stdout: "hello\n"},
		{name: "environment", args: []string{"env"}, run: []string{"run", "c"}, stdout: "A=b\n"},
		{name: "user", args: []string{"id"}, run: []string{"run", "c"}, stdout: "1 2 \\[\\]\n"},
		{name: "not found", args: []string{"nonesuch"}, run: []string{"run", "c"}, code: 127, stderr: "runsc: exec (nonesuch: no such file or directory|\"nonesuch\": executable file not found in .PATH)\n"},
		{name: "not executable", args: []string{"denied"}, run: []string{"run", "c"}, code: 126, stderr: "runsc: exec \"?denied\"?: permission denied\n"},
		{name: "the sentry panics", madeUp: true, args: []string{"crash"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: the sentry ended while the container was created \\(exit status 2\\): panic: as asked for.*\n"},
		{name: "the sentry panics later", madeUp: true, args: []string{"crash-later"}, run: []string{"run", "c"}, code: 137, stderr: "runsc: the sentry ended while the container ran \\(exit status 2\\): panic: as asked for.*\n"},
		{name: "the sentry can't start", madeUp: true, args: []string{"true"}, run: []string{"--total-memory=666", "run", "c"}, code: 1, stderr: "runsc: sentry: a platform can't work with 666 bytes\n"},
		{name: "no sentry program", args: []string{"true"}, run: []string{"--sentry-path=/nonesuch", "run", "c"}, code: 1, stderr: "runsc: starting /nonesuch: no such file or directory\n"},
		{name: "no gofer program", args: []string{"true"}, run: []string{"--gofer-path=/nonesuch", "run", "c"}, code: 1, stderr: "runsc: starting /nonesuch: no such file or directory\n"},
		{name: "bad ID", args: []string{"true"}, run: []string{"run", "../c"}, code: 1, stderr: "runsc: container ID \"../c\" is not of the form .*\n"},
		{name: "no such container", run: []string{"state", "c"}, code: 1, stderr: "runsc: container \"c\": container does not exist\n"},
		{name: "delete of nothing", run: []string{"delete", "c"}, code: 1, stderr: "runsc: container \"c\": container does not exist\n"},
		{name: "forced delete of nothing", run: []string{"delete", "--force", "c"}},
		{name: "unknown command", run: []string{"frobnicate"}, code: 1, stderr: "runsc: there is no command \"frobnicate\"; .*\n"},
		{name: "unknown flag", run: []string{"run", "--frobnicate", "c"}, code: 1, stderr: "runsc: run: flag provided but not defined: -frobnicate\n"},
		{name: "unknown global value", run: []string{"--platform=vax", "list"}, code: 1, stderr: "runsc: --platform=vax is not supported; it is one of: auto, systrap, ptrace\n"},
		{name: "calls logged nowhere", run: []string{"--strace", "list"}, code: 1, stderr: "runsc: --strace needs --debug-log, where the calls go\n"},
		{name: "log that can't be written", run: []string{"--log", "/nonesuch/log", "list"}, code: 1, stderr: "runsc: --log: open /nonesuch/log: no such file or directory\n"},
		{name: "missing argument", run: []string{"state"}, code: 1, stderr: "runsc: state takes 1 argument\\(s\\); usage: runsc state ID\n"},
		{name: "empty list", run: []string{"list"}, stdout: "ID +PID +STATUS +BUNDLE +CREATED +OWNER\n"},
		{name: "empty JSON list", run: []string{"list", "--format", "json"}, stdout: "\\[\\]\n"},
		{name: "no bundle", run: []string{"run", "--bundle", "/nonesuch", "c"}, code: 1, stderr: "runsc: open /nonesuch/config.json: no such file or directory\n"},
		{name: "no root", edit: func(s map[string]any) { s["root"] = map[string]any{"path": "gone"} }, args: []string{"true"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: root.path: .*gone: no such file or directory\n"},
		{name: "root leads out", edit: func(s map[string]any) { s["root"] = map[string]any{"path": "../.."} }, args: []string{"true"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: root.path \"../..\" leads out of the bundle, to .*\n"},
		{name: "bind source missing", edit: func(s map[string]any) {
			s["mounts"] = []any{map[string]any{"destination": "/x", "type": "bind", "source": "/nonesuch"}}
		}, args: []string{"true"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: mounts\\[0\\].source: open /nonesuch: no such file or directory\n"},
		{name: "bind and tmpfs", edit: func(s map[string]any) {
			s["mounts"] = []any{map[string]any{"destination": "/x", "type": "bind", "source": "/etc", "options": []string{"ro"}}, map[string]any{"destination": "/t", "type": "tmpfs", "source": "t", "options": []string{"size=1k"}}}
		}, args: []string{"true"}, run: []string{"run", "c"}},
		{name: "terminal without one", edit: func(s map[string]any) { s["process"].(map[string]any)["terminal"] = true }, args: []string{"true"}, run: []string{"create", "c"}, code: 1, stderr: "runsc: a terminal for a detached process needs --console-socket\n"},
		{name: "hook fails", edit: func(s map[string]any) {
			s["hooks"] = map[string]any{"createRuntime": []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", "echo broken >&2; exit 3"}}}}
		}, args: []string{"true"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: hook createRuntime\\[0\\] /bin/sh: exit status 3: broken\n"},
		{name: "hook hangs", edit: func(s map[string]any) {
			s["hooks"] = map[string]any{"prestart": []any{map[string]any{"path": "/bin/sleep", "args": []string{"sleep", "1000"}, "timeout": 1}}}
		}, args: []string{"true"}, run: []string{"run", "c"}, code: 1, stderr: "runsc: hook prestart\\[0\\] /bin/sleep: was killed after its timeout of 1 s\n"},
		{name: "do", madeUp: true, run: []string{"do", "echo", "-n", "x"}, stdout: "-n x\n"},
		{name: "do, not found", madeUp: true, run: []string{"do", "--", "nonesuch"}, code: 127, stderr: "runsc: exec nonesuch: no such file or directory\n"},
		{name: "do, flags", madeUp: true, run: []string{"do", "--user", "5:6", "--additional-gids", "7", "id"}, stdout: "5 6 \\[.*7\\]\n"},
		{name: "do, exit code", madeUp: true, run: []string{"do", "exit", "42"}, code: 42},
		{name: "help", run: []string{"help"}, stdout: "(?s)Usage: runsc .*delete.*"},
		{name: "help of a command", run: []string{"kill", "--help"}, stdout: "(?s)kill \\[--all\\] ID \\[SIGNAL\\] - .*"},
		{name: "version", run: []string{"--version"}, stdout: "runsc version .*\nspec: 1.*\n"},
		{name: "features", run: []string{"features"}, stdout: "(?s).*\"ociVersionMax\": \"1.*"},
		{name: "platforms", run: []string{"platforms"}, stdout: "(?s)auto .*ptrace.*"},
		{name: "events without stats", run: []string{"events", "c"}, code: 1, stderr: "runsc: events without --stats is not supported\n"},
	} {
		try := func(t *testing.T, h *house) {
			h.spec(test.edit, test.args...)
			r := h.run(test.run...)
			r.expect(t, test.code, test.stdout, test.stderr)
		}
		t.Run(test.name, func(t *testing.T) { try(t, newHouse(t)) })
		if !test.madeUp {
			t.Run(test.name+", really", func(t *testing.T) { try(t, newRealHouse(t)) })
		}
	}
}

func TestLifeOfADetachedContainer(t *testing.T) {
	h := newHouse(t)
	trace := filepath.Join(h.bundle, "trace")
	hook := func(name string) []any {
		return []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c",
			"echo " + name + " $(tr ',' '\\n' | grep -o '\"status\":\"[a-z]*\"') >> " + trace}, "env": []string{"PATH=/bin:/usr/bin"}}}
	}
	h.spec(func(s map[string]any) {
		hooks := map[string]any{}
		for _, n := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"} {
			hooks[n] = hook(n)
		}
		// In the made-up kernel, whose programs can't write to the host.
		hooks["startContainer"] = []any{map[string]any{"path": "/bin/true"}}
		s["hooks"] = hooks
	}, "sleep")
	pidFile := filepath.Join(h.bundle, "pid")
	h.must("create", "--pid-file", pidFile, "c")
	if s := h.status("c"); s != "created" {
		t.Errorf("after create: %s", s)
	}
	if r := h.run("create", "c"); r.code != 1 || !strings.Contains(r.stderr, "exists already") {
		t.Errorf("second create: %+v", r)
	}
	h.must("start", "c")
	if r := h.run("start", "c"); r.code != 1 || !strings.Contains(r.stderr, "it is running, not created") {
		t.Errorf("second start: %+v", r)
	}
	if r := h.run("exec", "--env", "X=y", "c", "env"); r.stdout != "A=b\nX=y\n" || r.code != 0 {
		t.Errorf("exec: %+v", r)
	}
	if r := h.run("exec", "c", "exit", "5"); r.code != 5 {
		t.Errorf("exec: %+v", r)
	}
	if r := h.run("exec", "--cap", "CAP_KILL", "--no-new-privs", "c", "caps"); r.stdout != "20 true\n" {
		t.Errorf("exec: %+v", r)
	}
	h.must("pause", "c")
	if s := h.status("c"); s != "paused" {
		t.Errorf("after pause: %s", s)
	}
	h.must("resume", "c")
	if r := h.run("delete", "c"); r.code != 1 || !strings.Contains(r.stderr, "it is running, not stopped") {
		t.Errorf("delete: %+v", r)
	}
	if out := h.must("ps", "c"); !strings.Contains(out, "sleep") {
		t.Errorf("ps: %s", out)
	}
	pid, _ := os.ReadFile(pidFile)
	if out := h.must("ps", "--format", "json", "c"); out != "["+string(pid)+"]\n" {
		t.Errorf("ps: %s", out)
	}
	h.must("kill", "c", "SIGTERM")
	if out := h.must("wait", "c"); out != "143\n" {
		t.Errorf("wait: %q", out)
	}
	eventually(t, "the container is stopped", func() bool { return h.status("c") == "stopped" })
	if out := h.must("wait", "c"); out != "143\n" {
		t.Errorf("wait after the end: %q", out)
	}
	if r := h.run("kill", "c"); r.code != 1 || !strings.Contains(r.stderr, "container not running") {
		t.Errorf("kill after the end: %+v", r)
	}
	h.must("delete", "c")
	want := "prestart \"status\":\"creating\"\ncreateRuntime \"status\":\"creating\"\ncreateContainer \"status\":\"creating\"\n" +
		"poststart \"status\":\"running\"\npoststop \"status\":\"stopped\"\n"
	if got, _ := os.ReadFile(trace); string(got) != want {
		t.Errorf("hooks: got\n%swant\n%s", got, want)
	}
}

// The process that --pid-file names ends with the status of the process in the
// container, and its parent may be whoever reaps orphans: as a shim does.
func TestPIDFileProcessesReportStatus(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	h := newHouse(t)
	h.spec(nil, "sleep")
	file := filepath.Join(h.bundle, "pid")
	read := func() int {
		t.Helper()
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(b))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	wait := func(pid int) int {
		t.Helper()
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil {
			t.Fatalf("wait4(%d): %v", pid, err)
		}
		return status.ExitStatus()
	}
	h.must("run", "--detach", "--pid-file", file, "c")
	sentry := read()

	h.must("exec", "--detach", "--pid-file", file, "c", "exit", "12")
	if code := wait(read()); code != 12 {
		t.Errorf("exec's waiter ended with %d", code)
	}
	h.must("exec", "--detach", "--pid-file", file, "c", "sleep")
	waiter := read()
	unix.Kill(waiter, unix.SIGINT)
	if code := wait(waiter); code != 130 {
		t.Errorf("exec's waiter ended with %d after SIGINT", code)
	}
	process := filepath.Join(h.bundle, "process.json")
	os.WriteFile(process, []byte(`{"args":["exit","13"],"cwd":"/","user":{"uid":0,"gid":0}}`), 0o644)
	h.must("exec", "--process", process, "--detach", "--pid-file", file, "c")
	if code := wait(read()); code != 13 {
		t.Errorf("exec's waiter ended with %d", code)
	}

	// A second container in the same sandbox, as CRI has them.
	h.spec(func(s map[string]any) {
		s["annotations"] = map[string]any{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "c"}
	}, "exit", "21")
	h.must("create", "--pid-file", file, "c2")
	second := read()
	if second == sentry {
		t.Error("two containers have one pid")
	}
	h.must("start", "c2")
	if code := wait(second); code != 21 {
		t.Errorf("the second container's waiter ended with %d", code)
	}
	if s := h.status("c"); s != "running" {
		t.Errorf("the first container is %s", s)
	}
	if s := h.status("c2"); s != "stopped" {
		t.Errorf("the second container is %s", s)
	}
	h.must("delete", "c2")
	h.must("kill", "c", "9")
	if code := wait(sentry); code != 137 {
		t.Errorf("the sentry ended with %d", code)
	}
	h.must("delete", "c")
	for { // gofers
		if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil {
			break
		}
	}
}

// Whatever is killed at whatever time, no process is left, and delete removes
// the rest.
func TestKilledAtAnyStage(t *testing.T) {
	for _, stage := range []struct {
		name  string
		begin func(h *house) *exec.Cmd
		ready func(h *house) bool
	}{
		{"create hangs in the sentry", func(h *house) *exec.Cmd { h.spec(nil, "hang-create"); return h.command("create", "c") },
			func(h *house) bool { return h.status("c") == "creating" }},
		{"create hangs in a hook", func(h *house) *exec.Cmd {
			h.spec(func(s map[string]any) {
				s["hooks"] = map[string]any{"prestart": []any{map[string]any{"path": "/bin/sh", "args": []string{"sh", "-c", "read x; exec cat " + h.bundle + "/fifo"}}}}
			}, "true")
			unix.Mkfifo(filepath.Join(h.bundle, "fifo"), 0o600)
			return h.command("create", "c")
		}, func(h *house) bool { return h.status("c") == "creating" }},
		{"run in the foreground", func(h *house) *exec.Cmd { h.spec(nil, "sleep"); return h.command("run", "c") },
			func(h *house) bool { return h.status("c") == "running" }},
		{"do", func(h *house) *exec.Cmd { return h.command("do", "sleep") },
			func(h *house) bool { return strings.Contains(h.run("list").stdout, "running") }},
	} {
		t.Run(stage.name, func(t *testing.T) {
			h := newHouse(t)
			cmd := stage.begin(h)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it got so far", func() bool { return stage.ready(h) })
			cmd.Process.Kill()
			cmd.Wait()
			// The hook's process is the host's: it has to be let go.
			if f, err := os.OpenFile(filepath.Join(h.bundle, "fifo"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				f.Close()
			}
			eventually(t, "no process is left", func() bool { return len(h.processes()) == 0 })
			if stage.name == "do" {
				h.run("do", "true")
				if left, _ := os.ReadDir(h.root); len(left) != 0 {
					t.Errorf("the next do left %v", left)
				}
				return
			}
			if s := h.status("c"); s != "stopped" {
				t.Errorf("status is %s", s)
			}
			h.must("delete", "c")
		})
	}
	t.Run("sentry", func(t *testing.T) {
		h := newHouse(t)
		h.spec(nil, "sleep")
		file := filepath.Join(h.bundle, "pid")
		h.must("run", "-d", "--pid-file", file, "c")
		b, _ := os.ReadFile(file)
		pid, _ := strconv.Atoi(string(b))
		unix.Kill(pid, unix.SIGKILL)
		eventually(t, "no process is left", func() bool { return len(h.processes()) == 0 })
		if s := h.status("c"); s != "stopped" {
			t.Errorf("status is %s", s)
		}
		if out := h.must("wait", "c"); out != "137\n" {
			t.Errorf("wait: %s", out)
		}
		h.must("delete", "c")
	})
}

// One container may be asked and ended by many at once: every command ends, one
// delete wins, nothing is left.
func TestManyCommandsAtOnce(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	h.must("run", "-d", "c")
	var all sync.WaitGroup
	for i := range 20 {
		all.Add(1)
		go func() {
			defer all.Done()
			args := [][]string{{"state", "c"}, {"kill", "c", "KILL"}, {"delete", "--force", "c"}, {"list"}, {"run", "-d", "c"}}[i%5]
			// A file: a container that a "run" leaves behind has it open too.
			out, err := os.Create(filepath.Join(h.bundle, fmt.Sprint("said", i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer out.Close()
			cmd := h.command(args...)
			cmd.Stderr = out
			cmd.Run()
			said, _ := os.ReadFile(out.Name())
			if text := string(said); strings.Contains(text, "panic") || strings.Count(text, "\n") > 1 {
				t.Errorf("runsc %v said %s", args, text)
			}
		}()
	}
	all.Wait()
}

func TestForegroundPassesSignalsOn(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	cmd := h.command("run", "c")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, len("sleeping\n")))
	cmd.Process.Signal(unix.SIGUSR1)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 128+int(unix.SIGUSR1) {
		t.Errorf("exit code %d", code)
	}
}

// With a console socket the engine gets the master, and a size set there
// reaches the process.
func TestConsoleSocket(t *testing.T) {
	for _, how := range []string{"run", "exec"} {
		t.Run(how, func(t *testing.T) {
			h := newHouse(t)
			socket := newConsoleSocket(t)
			if how == "run" {
				h.spec(func(s map[string]any) { s["process"].(map[string]any)["terminal"] = true }, "size")
				h.must("run", "-d", "--console-socket", socket.path, "c")
			} else {
				h.spec(nil, "sleep")
				h.must("run", "-d", "c")
				h.must("exec", "-d", "--tty", "--console-socket", socket.path, "c", "size")
			}
			master := socket.master()
			defer master.Close()
			buf := make([]byte, 64)
			n, _ := master.Read(buf)
			if string(buf[:n]) != "0 0\n" {
				t.Errorf("first size %q", buf[:n])
			}
			if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
				t.Fatal(err)
			}
			n, _ = master.Read(buf)
			if string(buf[:n]) != "33 77\n" {
				t.Errorf("size after a change %q", buf[:n])
			}
		})
	}
}

// do gives the command what a child of the caller's would have.
func TestDoIsLikeTheCaller(t *testing.T) {
	h := newHouse(t)
	cmd := exec.Command("/bin/sh", "-c", `ulimit -n 777; export SEEN=yes; r="$0 --root $1"; cd /; $r do nofile; cd /usr; $r do pwd; $r do env | grep SEEN; echo in | $r do cat; :`,
		filepath.Join(bin, "runsc"), h.root)
	out, err := cmd.CombinedOutput()
	if want := "777\n/usr\nSEEN=yes\nin\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestPreservedDescriptors(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "say", "4", "hello")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := h.command("run", "--preserve-fds", "2", "c")
	cmd.ExtraFiles = []*os.File{os.Stdin, w}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.Close()
	if b, _ := io.ReadAll(r); string(b) != "hello\n" {
		t.Errorf("got %q", b)
	}
	// Beyond those there are runsc's own.
	h.spec(nil, "sleep")
	h.must("run", "--detach", "other")
	for _, args := range [][]string{{"run", "--preserve-fds=3", "c"}, {"run", "--preserve-fds=-1", "c"}, {"exec", "--preserve-fds=3", "other", "true"}} {
		cmd := h.command(args...)
		cmd.ExtraFiles = []*os.File{os.Stdin, os.Stdin}
		if out, err := cmd.CombinedOutput(); err == nil || !oneSentence(string(out)) || !strings.Contains(string(out), "the caller has left 2 descriptor(s) open from 3 on") {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}

// What the caller left open goes to neither sentry nor gofer.
func TestNoDescriptorLeaks(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	secret, err := os.Create(filepath.Join(h.bundle, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	out, err := os.Create(filepath.Join(h.bundle, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := h.command("run", "-d", "c")
	cmd.Stdout = out
	cmd.ExtraFiles = []*os.File{secret, secret, secret}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	processes := h.processes()
	if len(processes) != 2 {
		t.Fatalf("processes: %q", processes)
	}
	for _, p := range processes {
		fds, _ := filepath.Glob(strings.Fields(p)[0] + "/fd/*")
		for _, fd := range fds {
			if target, _ := os.Readlink(fd); target == secret.Name() {
				t.Errorf("%s is %s in %s", fd, target, p)
			}
		}
	}
}

func TestErrorsReachTheLog(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "nonesuch")
	log := filepath.Join(h.bundle, "log.json")
	h.run("--log", log, "--log-format", "json", "create", "c")
	b, _ := os.ReadFile(log)
	var entry struct{ Level, Msg, Time string }
	if err := json.Unmarshal(b, &entry); err != nil || entry.Level != "error" || entry.Time == "" ||
		entry.Msg != "exec nonesuch: no such file or directory" {
		t.Errorf("log has %s", b)
	}
}

func TestCgroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make cgroups")
	}
	h := newHouse(t)
	path := fmt.Sprintf("/vitrine-test-%d/c", os.Getpid())
	h.spec(func(s map[string]any) {
		l := s["linux"].(map[string]any)
		l["cgroupsPath"] = path
		l["resources"] = map[string]any{"memory": map[string]any{"limit": 256 << 20}, "cpu": map[string]any{"shares": 512}}
	}, "sleep")
	file := filepath.Join(h.bundle, "pid")
	h.must("run", "-d", "--pid-file", file, "c")
	pid, _ := os.ReadFile(file)
	groups, _ := os.ReadFile("/proc/" + string(pid) + "/cgroup")
	if !strings.Contains(string(groups), path+"\n") {
		t.Errorf("the sentry is in %s", groups)
	}
	dirs := func() []string {
		one, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
		two, _ := filepath.Glob("/sys/fs/cgroup" + path)
		return append(one, two...)
	}
	if len(dirs()) == 0 {
		t.Error("there is no cgroup directory")
	}
	limit := func() string {
		for _, name := range []string{"/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes", "/sys/fs/cgroup" + path + "/memory.max"} {
			if b, err := os.ReadFile(name); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
		return "none"
	}
	// The application's limit is the sentry's to hold; the host's leaves room for the sentry.
	held := func(asked int) bool {
		n, err := strconv.Atoi(limit())
		return err == nil && n > asked+64<<20 && n < asked+256<<20
	}
	if !held(256 << 20) {
		t.Errorf("limit is %s", limit())
	}
	update := h.command("update", "--resources", "-", "c")
	update.Stdin = strings.NewReader(`{"memory":{"limit":134217728}}`)
	if out, err := update.CombinedOutput(); err != nil {
		t.Errorf("update: %v: %s", err, out)
	}
	if !held(128 << 20) {
		t.Errorf("limit is %s after update", limit())
	}
	h.must("delete", "--force", "c")
	if left := dirs(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for _, d := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		parents, _ := filepath.Glob(d + filepath.Dir(path))
		for _, p := range parents {
			unix.Rmdir(p) // a parent is shared with others: runsc leaves it
		}
	}
}

func TestJail(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	file := filepath.Join(h.bundle, "pid")
	h.must("run", "-d", "--pid-file", file, "c")
	b, _ := os.ReadFile(file)
	pid := string(b)
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for _, line := range strings.Split(string(status), "\n") {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	for k, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if fields[k] != want {
			t.Errorf("%s is %s, want %s", k, fields[k], want)
		}
	}
	for _, ns := range []string{"user", "pid", "mnt", "net", "ipc", "uts"} {
		ours, _ := os.Readlink("/proc/self/ns/" + ns)
		theirs, _ := os.Readlink("/proc/" + pid + "/ns/" + ns)
		if theirs == "" || ours == theirs {
			t.Errorf("namespace %s: %s, ours is %s", ns, theirs, ours)
		}
	}
	mounts, _ := os.ReadFile("/proc/" + pid + "/mountinfo")
	if !regexp.MustCompile(`^\d+ \d+ \S+ / / ro,nosuid,nodev,noexec,relatime - tmpfs jail ro,[^\n]*\n$`).Match(mounts) {
		t.Errorf("mounts: %s", mounts)
	}
	if entries, err := os.ReadDir("/proc/" + pid + "/root/"); err != nil || len(entries) != 0 {
		t.Errorf("root directory has %v, %v", entries, err)
	}
}
