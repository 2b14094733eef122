package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vitrine/pkg/control"
)

// A container whose state can't be read hides no other, and a forced delete ends it
// all the same.
func TestUnreadableState(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "good")
	h.must("run", "--detach", "spoilt")
	if err := os.WriteFile(filepath.Join(h.root, "spoilt/state.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.run("list")
	if r.code != 1 || !strings.Contains(r.stdout, "good") || !oneSentence(r.stderr) || !strings.Contains(r.stderr, `"spoilt"`) {
		t.Errorf("list: %+v", r)
	}
	if r := h.run("delete", "spoilt"); r.code != 1 || !oneSentence(r.stderr) {
		t.Errorf("delete: %+v", r)
	}
	h.must("delete", "--force", "spoilt")
	eventually(t, "only the other's processes are left", func() bool { return len(h.processes()) == 2 })
	if got := h.status("good"); got != "running" {
		t.Errorf("the other is %s", got)
	}
}

// What a do that was killed has left is in no other's way, whoever has its pid since.
func TestDoAfterADoThatWasKilled(t *testing.T) {
	h := newHouse(t)
	out, err := exec.Command("/bin/sh", "-c", `mkdir -p "$1/do-$$" && exec "$0" --root "$1" do echo done`, filepath.Join(h.bin, "runsc"), h.root).CombinedOutput()
	if err != nil || string(out) != "done\n" {
		t.Errorf("with the pid of the one that was killed: %q, %v", out, err)
	}
	id := fmt.Sprint("do-", os.Getpid())
	dir := filepath.Join(h.root, id)
	state := fmt.Sprintf(`{"id": %q, "sandbox": %q, "complete": true, "sentry": {"pid": %d, "start": 1}}`, id, id, os.Getpid())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	h.must("do", "true")
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there: another process has the pid", dir)
	}
}

// A process of exec that nobody could be told of doesn't run on.
func TestExecThatCannotWriteItsPID(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "c")
	for _, args := range [][]string{
		{"--internal-pid-file", "/nonesuch/pid"}, {"--detach", "--internal-pid-file", "/nonesuch/pid"},
		{"--pid-file", "/nonesuch/pid"}, {"--detach", "--pid-file", "/nonesuch/pid"},
	} {
		r := h.run(append(append([]string{"exec"}, args...), "c", "sleep", "2000")...)
		if r.code != 1 || !oneSentence(r.stderr) || !strings.Contains(r.stderr, "/nonesuch/") {
			t.Errorf("%v: %+v", args, r)
		}
		if out := h.must("ps", "c"); strings.Contains(out, "sleep 2000") {
			t.Errorf("%v: it runs on: %s", args, out)
		}
	}
}

// What stands for a process of exec is in no directory that its caller may want to
// unmount.
func TestWaiterIsInTheRootDirectory(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	root, err := filepath.Rel(h.bundle, h.root)
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(h.bin, "runsc"), append([]string{"--root", root}, args...)...)
		cmd.Dir = h.bundle
		if err := cmd.Run(); err != nil {
			t.Fatal(args, err)
		}
	}
	run("run", "--detach", "c")
	run("exec", "--detach", "--pid-file", "pid", "c", "sleep")
	pid := string(mustRead(t, filepath.Join(h.bundle, "pid")))
	if cwd, err := os.Readlink("/proc/" + pid + "/cwd"); cwd != "/" {
		t.Errorf("it is in %q, %v", cwd, err)
	}
}

// A weight of processor time inside a pod has no effect, and that is said.
func TestSharesInAPod(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "pause")
	h.ociSpec("exec sleep 1000", func(s, p, l object) {
		inPause(s, p, l)
		l["resources"] = object{"cpu": object{"shares": 512}}
	})
	log := filepath.Join(h.bundle, "log")
	h.flags = append(h.flags, "--log", log)
	for _, args := range [][]string{{"run", "--detach", "c"}, {"update", "--cpu-share", "256", "c"}} {
		h.must(args...)
		const want = `level=warning msg="linux.resources.cpu.shares has no effect on a container inside a pod: the host weighs sandboxes against each other, not the containers of one"`
		if b, _ := os.ReadFile(log); strings.Count(string(b), want) != 1 {
			t.Errorf("%s logs %q", args[0], b)
		}
		os.Remove(log)
	}
	for _, flag := range []string{"--cpu-share", "--cpu-period"} {
		if r := h.run("update", flag, "-5", "c"); r.code != 1 || !oneSentence(r.stderr) || !strings.Contains(r.stderr, "is not a number from 0 on") {
			t.Errorf("%s: %+v", flag, r)
		}
	}
}

// Statuses that nobody takes are kept for a while, and not for ever.
func TestStatusesThatNobodyTakes(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "c")
	client, err := control.Dial(filepath.Join(h.root, "c/control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	run := func(script string) int32 {
		t.Helper()
		pid, err := client.Exec(&control.ExecArgs{ID: "c", KeepExit: true, Process: control.Process{Args: []string{"/bin/sh", "-c", script}, Cwd: "/"}})
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	first := run("exit 3")
	live := run("exec sleep 1000")
	var last int32
	for range 1100 {
		last = run(":")
		eventually(t, "it has ended", func() bool {
			all, err := client.Processes("c")
			return err == nil && len(all) == 2
		})
	}
	var e *control.Error
	if _, err := client.Wait(context.Background(), "c", first); !errors.As(err, &e) || e.Kind != control.KindNotFound {
		t.Errorf("the first's status: %v", err)
	}
	if s, err := client.Wait(context.Background(), "c", last); err != nil || s != (control.WaitStatus{}) {
		t.Errorf("the last's status: %v, %v", s, err)
	}
	client.Signal("c", live, 9, false)
	if s, err := client.Wait(context.Background(), "c", live); err != nil || s.Signal != 9 {
		t.Errorf("the status of one that lived on: %v, %v", s, err)
	}
}

// Containers of the same ID in different directories of states have nothing in common:
// the limits of one don't hold for the other.
func TestSameIDInAnotherRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make cgroups")
	}
	h, other := newHouse(t), newHouse(t)
	cgroups := map[string]bool{}
	for _, x := range []*house{h, other} {
		x.spec(func(s map[string]any) {
			s["linux"].(object)["resources"] = object{"pids": object{"limit": 10}}
		}, "sleep")
		x.must("run", "--detach", "c")
		sentry, _ := x.families(t)
		cgroups[string(mustRead(t, sentry+"/cgroup"))] = true
	}
	if len(cgroups) != 2 {
		t.Errorf("both are in the cgroups %v", cgroups)
	}
	h.must("delete", "--force", "c")
	if s := other.status("c"); s != "running" {
		t.Errorf("the other is %s", s)
	}
}

// Flags end at the ID: a "--" behind it is not the command.
func TestExecBehindTwoDashes(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	h.must("run", "--detach", "c")
	if out := h.must("exec", "c", "--", "echo", "--", "x"); out != "-- x\n" {
		t.Errorf("got %q", out)
	}
}

// A variable that exec or do is told has one value, whatever it had before.
func TestVariablesAreReplaced(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	h.must("run", "--detach", "c")
	if out := h.must("exec", "--env", "A=c", "--env", "B=d", "--env", "B=e", "c", "env"); out != "A=c\nB=e\n" {
		t.Errorf("exec's environment is %q", out)
	}
	if out := h.must("do", "--env", "PATH=/x", "env"); strings.Count("\n"+out, "\nPATH=") != 1 || !strings.Contains("\n"+out, "\nPATH=/x\n") {
		t.Errorf("do's environment is %q", out)
	}
}

// One container that can't be deleted, or whose hook fails, doesn't keep the others.
func TestDeleteOfSeveral(t *testing.T) {
	h := newHouse(t)
	h.spec(func(s map[string]any) { s["hooks"] = object{"poststop": array{object{"path": "/nonesuch"}}} }, "sleep")
	h.must("create", "a")
	h.spec(nil, "sleep")
	h.must("run", "--detach", "b")
	h.must("create", "c")
	r := h.run("delete", "a", "b", "nonesuch", "c")
	if want := "runsc: warning: hook poststop[0] /nonesuch: "; !strings.HasPrefix(r.stderr, want) {
		t.Errorf("it says %q, want %q", r.stderr, want)
	}
	if want := "runsc: cannot delete container \"b\": it is running, not stopped; container \"nonesuch\": container does not exist\n"; r.code != 1 || !strings.HasSuffix(r.stderr, want) {
		t.Errorf("%d, %q; want %q", r.code, r.stderr, want)
	}
	if left := h.must("list", "-q"); left != "b\n" {
		t.Errorf("left is %q", left)
	}
}

// A pid file that can't be put in place leaves nothing beside it.
func TestCreateThatCannotWriteItsPID(t *testing.T) {
	h := newHouse(t)
	h.spec(nil, "sleep")
	place := t.TempDir()
	if err := os.Mkdir(filepath.Join(place, "pid"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := h.run("create", "--pid-file", filepath.Join(place, "pid"), "c")
	if r.code != 1 || !strings.HasPrefix(r.stderr, "runsc: --pid-file: ") || !oneSentence(r.stderr) {
		t.Errorf("%+v", r)
	}
	if all, _ := os.ReadDir(place); len(all) != 1 {
		t.Errorf("beside it there is %v", all)
	}
	if s := h.status("c"); !strings.Contains(s, "does not exist") {
		t.Errorf("the container is %q", s)
	}
}
