package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// remains finds what is left on the host of containers: the test adopts their
// orphans, and knows what there was before.
type remains struct {
	h      *house
	cgroup string // cgroupsPath of its containers
	mounts string
	files  []string // of the bundle
}

// newRemains makes the test the one who adopts orphans. The house's specs are to
// have the cgroup.
func newRemains(h *house) *remains {
	t := h.t
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make cgroups")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	r := &remains{h: h, cgroup: fmt.Sprintf("/vitrine-kill-%d", os.Getpid())}
	r.mounts, r.files = r.now()
	t.Cleanup(func() {
		for _, d := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
			parents, _ := filepath.Glob(d + r.cgroup)
			for _, p := range parents {
				unix.Rmdir(p) // a parent is shared with others: runsc leaves it
			}
		}
	})
	return r
}

// now is what mounts and files there are.
func (r *remains) now() (mounts string, files []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.h.t.Fatal(err)
	}
	entries, err := os.ReadDir(r.h.bundle)
	if err != nil {
		r.h.t.Fatal(err)
	}
	for _, e := range entries {
		files = append(files, e.Name())
	}
	return string(b), files
}

// children are the living children of the test, those adopted among them.
func (r *remains) children() []string {
	var living []string
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range tasks {
		b, _ := os.ReadFile(file)
		for _, pid := range strings.Fields(string(b)) {
			n, _ := strconv.Atoi(pid)
			// Those that are dead are taken off the list.
			if got, _ := unix.Wait4(n, nil, unix.WNOHANG, nil); got == 0 {
				line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				living = append(living, pid+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
			}
		}
	}
	return living
}

// check fails the test if anything is left.
func (r *remains) check(when string) {
	t := r.h.t
	t.Helper()
	var left []string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if left = append(r.children(), r.h.processes()...); len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: left running: %q", when, left)
		}
	}
	if entries, _ := os.ReadDir(r.h.root); len(entries) > 0 {
		t.Errorf("%s: left in the state directory: %v", when, entries)
	}
	mounts, files := r.now()
	if mounts != r.mounts {
		t.Errorf("%s: mounts were\n%s\nand are\n%s", when, r.mounts, mounts)
	}
	if !slices.Equal(files, r.files) {
		t.Errorf("%s: the bundle has %q", when, files)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		if dirs, _ := filepath.Glob(pattern + r.cgroup + "/c"); len(dirs) > 0 {
			t.Fatalf("%s: left cgroups: %q", when, dirs)
		}
	}
}

// inCgroup is an edit of a spec that puts the container into r's cgroup.
func (r *remains) inCgroup(more func(s, p, l object)) func(s, p, l object) {
	return func(s, p, l object) {
		l["cgroupsPath"] = r.cgroup + "/c"
		l["resources"] = object{"memory": object{"limit": 256 << 20}}
		if more != nil {
			more(s, p, l)
		}
	}
}

// start starts a command with nothing that ties the test to what it leaves.
func (h *house) start(args ...string) *exec.Cmd {
	h.t.Helper()
	cmd := h.command(args...)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	return cmd
}

// A command that is killed, at any moment of its life, leaves nothing that a forced
// delete doesn't remove. The moments come closer than what happens between them.
func TestCommandsKilledAfterAWhile(t *testing.T) {
	for _, test := range []struct {
		name    string
		before  [][]string
		command []string
		longest time.Duration // about as long as the command takes
	}{
		{name: "create", command: []string{"create", "c"}, longest: 25 * time.Millisecond},
		{name: "start", before: [][]string{{"create", "c"}}, command: []string{"start", "c"}, longest: 6 * time.Millisecond},
		{name: "run", command: []string{"run", "c"}, longest: 30 * time.Millisecond},
		{name: "run detached", command: []string{"run", "--detach", "c"}, longest: 30 * time.Millisecond},
		{name: "exec", before: [][]string{{"run", "--detach", "c"}}, command: []string{"exec", "c", "sleep", "1000"}, longest: 10 * time.Millisecond},
		{name: "exec detached", before: [][]string{{"run", "--detach", "c"}}, command: []string{"exec", "--detach", "c", "sleep", "1000"}, longest: 10 * time.Millisecond},
		{name: "delete", before: [][]string{{"run", "--detach", "c"}}, command: []string{"delete", "--force", "c"}, longest: 20 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := realHouse(t)
			r := newRemains(h)
			h.ociSpec("exec sleep 1000", r.inCgroup(nil))
			_, r.files = r.now()
			const times = 24
			for i := range times {
				for _, args := range test.before {
					h.must(args...)
				}
				after := test.longest * time.Duration(i) / times
				cmd := h.start(test.command...)
				timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
				// A command that is faster is none the worse for the test.
				cmd.Wait()
				timer.Stop()
				for _, args := range [][]string{{"state", "c"}, {"list"}} {
					if res := h.run(args...); res.code != 0 && !oneSentence(res.stderr) {
						t.Errorf("%v after %v: %+v", args, after, res)
					}
				}
				h.must("delete", "--force", "c")
				r.check(fmt.Sprint(test.name, " killed after ", after))
			}
		})
	}
}

// A sentry or a gofer that is killed while its container is being made: the command
// says so in a sentence, and cleans up.
func TestFamilyKilledDuringCreate(t *testing.T) {
	for _, victim := range []string{"sentry", "gofer"} {
		t.Run(victim, func(t *testing.T) {
			h := realHouse(t)
			r := newRemains(h)
			h.ociSpec("exec sleep 1000", r.inCgroup(nil))
			_, r.files = r.now()
			said := filepath.Join(t.TempDir(), "said")
			const times = 24
			for i := range times {
				out, err := os.Create(said)
				if err != nil {
					t.Fatal(err)
				}
				cmd := h.command("create", "c")
				cmd.Stderr = out
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				after := 20 * time.Millisecond * time.Duration(i) / times
				timer := time.AfterFunc(after, func() {
					for pid := range childrenOf(cmd.Process.Pid, victim) {
						unix.Kill(pid, unix.SIGKILL)
					}
				})
				err = cmd.Wait()
				timer.Stop()
				out.Close()
				if b, _ := os.ReadFile(said); err != nil && !oneSentence(string(b)) {
					t.Errorf("%s killed after %v: %q", victim, after, b)
				}
				if err != nil {
					r.check(fmt.Sprint(victim, " killed after ", after))
				}
				h.must("delete", "--force", "c")
				r.check(fmt.Sprint(victim, " killed after ", after, ", and deleted"))
			}
		})
	}
}

// childrenOf are the children of a process that run a program of that name.
func childrenOf(pid int, name string) map[int]bool {
	found := map[int]bool{}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range tasks {
		b, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(b)) {
			if exe, _ := os.Readlink("/proc/" + child + "/exe"); filepath.Base(exe) == name {
				n, _ := strconv.Atoi(child)
				found[n] = true
			}
		}
	}
	return found
}

// Commands that are killed at the stages that hooks hold: each waits for a word that doesn't come.
func TestCommandsKilledInHooks(t *testing.T) {
	for _, stage := range hookStages {
		t.Run(stage, func(t *testing.T) {
			h := realHouse(t)
			r := newRemains(h)
			there, hold := filepath.Join(h.bundle, "there"), filepath.Join(h.bundle, "hold")
			if err := unix.Mkfifo(hold, 0o600); err != nil {
				t.Fatal(err)
			}
			// Only the first time: a delete runs poststop's again.
			hook := shellHook("test -e "+there+" && exit; touch "+there+"; exec cat "+hold, nil)
			if stage == "startContainer" {
				hook = shellHook("exec sleep 1000", nil)
			}
			h.ociSpec("exec sleep 1000", r.inCgroup(func(s, _, _ object) { s["hooks"] = object{stage: array{hook}} }))
			_, r.files = r.now()
			var cmd *exec.Cmd
			switch stage {
			case "startContainer", "poststart":
				h.must("create", "c")
				cmd = h.start("start", "c")
			case "poststop":
				h.must("run", "--detach", "c")
				cmd = h.start("delete", "--force", "c")
			default:
				cmd = h.start("create", "c")
			}
			eventually(t, "the hook runs", func() bool {
				if stage == "startContainer" {
					return strings.Contains(h.run("ps", "c").stdout, "sleep 1000")
				}
				_, err := os.Stat(there)
				return err == nil
			})
			cmd.Process.Kill()
			cmd.Wait()
			// A hook's process is the host's: it has to be let go.
			if stage != "startContainer" {
				f, err := os.OpenFile(hold, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			want := map[string]string{"startContainer": "created", "poststart": "running"}[stage]
			if want == "" {
				want = "stopped"
			}
			eventually(t, "it is "+want, func() bool { return h.status("c") == want })
			if r := h.run("delete", "c"); want == "running" && (r.code != 1 || !oneSentence(r.stderr)) || want != "running" && r.code != 0 {
				t.Errorf("delete of what is %s: %+v", want, r)
			}
			h.must("delete", "--force", "c")
			os.Remove(there)
			r.check(stage)
		})
	}
}

// inPause makes a container one of the sandbox of "pause".
func inPause(s, _, _ object) {
	s["annotations"] = object{"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pause"}
}

// secondCreateHeld runs "pause" and begins to create a second container of its sandbox,
// "c", whose gofer it stops.
func secondCreateHeld(h *house, r *remains) *exec.Cmd {
	h.t.Helper()
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "pause")
	h.ociSpec("exec sleep 1000", inPause)
	_, r.files = r.now()
	cmd := h.start("create", "c")
	eventually(h.t, "its gofer has started, and stopped", func() bool {
		for gofer := range childrenOf(cmd.Process.Pid, "gofer") {
			return unix.Kill(gofer, unix.SIGSTOP) == nil
		}
		return false
	})
	eventually(h.t, "it is being created", func() bool { return h.status("c") == "creating" })
	return cmd
}

// A second container whose create is killed while the sandbox waits for its files can
// be deleted, and the first goes on.
func TestSecondCreateKilledInTheMiddle(t *testing.T) {
	h := realHouse(t)
	r := newRemains(h)
	cmd := secondCreateHeld(h, r)
	cmd.Process.Kill()
	cmd.Wait()
	h.must("delete", "--force", "c")
	if s := h.status("pause"); s != "running" {
		t.Errorf("the first container is %s", s)
	}
	h.must("delete", "--force", "pause")
	r.check("create killed in the middle")
}

// A second container of a sandbox, whose create is killed: the first goes on, and
// nothing of the second stays when it is deleted.
func TestSecondCreateKilled(t *testing.T) {
	h := realHouse(t)
	r := newRemains(h)
	h.ociSpec("exec sleep 1000", nil)
	pidFile := filepath.Join(t.TempDir(), "pid")
	h.must("run", "--detach", "--pid-file", pidFile, "pause")
	h.ociSpec("exec sleep 1000", r.inCgroup(inPause))
	_, r.files = r.now()
	const times = 24
	for i := range times {
		cmd := h.start("create", "c")
		timer := time.AfterFunc(25*time.Millisecond*time.Duration(i)/times, func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		h.must("delete", "--force", "c")
		if s := h.status("pause"); s != "running" {
			t.Fatalf("the first container is %s", s)
		}
		if n := len(h.processes()); n != 2 {
			eventually(t, "only the first's processes are left", func() bool { return len(h.processes()) == 2 })
		}
		if out := h.must("ps", "pause"); strings.Count(out, "\n") != 2 {
			t.Errorf("processes of the first container: %s", out)
		}
	}
	h.must("delete", "--force", "pause")
	r.check("second create killed")
}

// A sandbox whose first container ends while a second waits for its files ends all
// the same.
func TestSandboxEndsWhileAContainerIsCreated(t *testing.T) {
	h := realHouse(t)
	r := newRemains(h)
	cmd := secondCreateHeld(h, r)
	h.must("kill", "pause", "KILL")
	eventually(t, "the sandbox has ended", func() bool { return h.status("pause") == "stopped" })
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("the create that was under way ends with %d", code)
	}
	h.must("delete", "--force", "c")
	h.must("delete", "--force", "pause")
	r.check("the sandbox ended in the middle of a create")
}
