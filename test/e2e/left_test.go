package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// freezer is a cgroup whose processes stand still: what is killed there ends when
// it is thawed (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst).
type freezer struct {
	t   *testing.T
	dir string
}

// freeze stops the processes with these /proc directories.
func freeze(t *testing.T, processes ...string) *freezer {
	t.Helper()
	f := &freezer{t, fmt.Sprintf("/sys/fs/cgroup/freezer/vitrine-%d-%s", os.Getpid(), filepath.Base(processes[0]))}
	if _, err := os.Stat(filepath.Dir(f.dir)); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root, and the freezer of cgroups version 1, which holds killed processes too: ", err)
	}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.thaw()
		eventually(t, "the processes have left the cgroup", func() bool {
			for _, pid := range strings.Fields(string(mustRead(t, f.dir+"/cgroup.procs"))) {
				os.WriteFile(filepath.Dir(f.dir)+"/cgroup.procs", []byte(pid), 0)
			}
			return unix.Rmdir(f.dir) == nil
		})
	})
	for _, p := range processes {
		f.write("cgroup.procs", filepath.Base(p))
	}
	f.write("freezer.state", "FROZEN")
	eventually(t, "they are frozen", func() bool {
		return strings.TrimSpace(string(mustRead(t, f.dir+"/freezer.state"))) == "FROZEN"
	})
	return f
}

func (f *freezer) write(file, value string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, file), []byte(value), 0); err != nil {
		f.t.Fatal(err)
	}
}

func (f *freezer) thaw() { f.write("freezer.state", "THAWED") }

// While something of a container lives that can't be ended, a delete says what, and
// leaves the state for another.
func TestDeleteOfWhatDoesNotEnd(t *testing.T) {
	start := func(t *testing.T, h *house, id string) (sentry, gofer string) {
		t.Helper()
		h.must("run", "--detach", id)
		return h.families(t)
	}
	member := func(h *house) {
		h.ociSpec("exec sleep 1000", inPause)
	}
	for _, test := range []struct {
		name string
		// hinder does what keeps the container c; its delete has to say says.
		hinder func(t *testing.T, h *house) (release func(), says string)
		args   []string
	}{
		{"sentry", func(t *testing.T, h *house) (func(), string) {
			sentry, _ := start(t, h, "c")
			return freeze(t, sentry).thaw, "its sentry (process " + filepath.Base(sentry) + ") did not end within 10s"
		}, []string{"delete", "--force", "c"}},
		{"stub of a sentry that was killed", func(t *testing.T, h *house) (func(), string) {
			sentry, _ := start(t, h, "c")
			f := freeze(t, descendants(t, sentry)...)
			pid, _ := strconv.Atoi(filepath.Base(sentry))
			unix.Kill(pid, unix.SIGKILL)
			eventually(t, "it is stopped", func() bool { return h.status("c") == "stopped" })
			return f.thaw, "its sentry (process " + filepath.Base(sentry) + ") did not end within 10s"
		}, []string{"delete", "c"}},
		{"gofer of a second container", func(t *testing.T, h *house) (func(), string) {
			_, first := start(t, h, "pause")
			member(h)
			h.must("run", "--detach", "c")
			for _, p := range h.processes() {
				dir, cmdline, _ := strings.Cut(p, " ")
				if dir != first && strings.Contains(cmdline, "gofer --") {
					return freeze(t, dir).thaw, "its gofer (process " + filepath.Base(dir) + ") did not end within 10s"
				}
			}
			t.Fatal("there is no second gofer")
			return nil, ""
		}, []string{"delete", "--force", "c"}},
		{"sentry of a second container", func(t *testing.T, h *house) (func(), string) {
			sentry, _ := start(t, h, "pause")
			member(h)
			h.must("run", "--detach", "c")
			return freeze(t, sentry).thaw, "its sentry (process " + filepath.Base(sentry) + ") has not ended it within 10s"
		}, []string{"delete", "--force", "c"}},
		{"somebody else in its cgroup", func(t *testing.T, h *house) (func(), string) {
			if os.Geteuid() != 0 {
				t.Skip("needs root, to make cgroups")
			}
			cgroup := fmt.Sprintf("/vitrine-left-%d/c", os.Getpid())
			h.ociSpec("exec sleep 1000", func(_, _, l object) { l["cgroupsPath"] = cgroup })
			h.must("run", "--detach", "c")
			dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroup)
			if len(dirs) == 0 {
				dirs, _ = filepath.Glob("/sys/fs/cgroup" + cgroup)
			}
			if len(dirs) == 0 {
				t.Fatal("it has no cgroup")
			}
			other := exec.Command("sleep", "1000")
			if err := other.Start(); err != nil {
				t.Fatal(err)
			}
			release := func() { other.Process.Kill(); other.Wait() }
			t.Cleanup(func() {
				release()
				for _, d := range dirs {
					unix.Rmdir(filepath.Dir(d)) // a parent is shared with others: runsc leaves it
				}
			})
			if err := os.WriteFile(dirs[0]+"/cgroup.procs", fmt.Append(nil, other.Process.Pid), 0); err != nil {
				t.Fatal(err)
			}
			return release, fmt.Sprintf("its cgroup %s is not empty after 10s: process %d (sleep)", dirs[0], other.Process.Pid)
		}, []string{"delete", "--force", "c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := realHouse(t)
			h.ociSpec("exec sleep 1000", nil)
			release, says := test.hinder(t, h)
			r := h.run(test.args...)
			if r.code != 1 || !oneSentence(r.stderr) || !strings.Contains(r.stderr, `container "c" is not removed: `+says+"; delete it again when") {
				t.Errorf("exit code %d, it says %q, and not %q", r.code, r.stderr, says)
			}
			if ids := strings.Fields(h.run("list", "-q").stdout); len(ids) == 0 || ids[0] != "c" {
				t.Errorf("its state is gone: %q", ids)
			}
			release()
			h.must(test.args...)
			if ids := strings.Fields(h.run("list", "-q").stdout); len(ids) > 0 && ids[0] == "c" {
				t.Errorf("it is still there: %q", ids)
			}
		})
	}
}

// A container of a pod that can't be created, or is deleted, leaves nothing in the
// sandbox: no connection to its gofer, which ends, and no terminal.
func TestPodMembersLeaveNoDescriptors(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "pause")
	sentry, _ := h.families(t)
	descriptors := func() map[string]int {
		count := map[string]int{}
		fds, _ := filepath.Glob(sentry + "/fd/*")
		for _, fd := range fds {
			if target, err := os.Readlink(fd); err == nil {
				kind, _, _ := strings.Cut(target, ":[")
				count[kind]++
			}
		}
		return count
	}
	socket := newConsoleSocket(t)
	for _, test := range []struct {
		name string
		args []string
		code int
		edit func(s, p, l object)
	}{
		{"no such program", []string{"create"}, 127, func(_, p, _ object) { p["args"] = array{"/nonesuch"} }},
		{"no such program on a terminal", []string{"create", "--console-socket", socket.path}, 127, func(_, p, _ object) {
			p["args"], p["terminal"] = array{"/nonesuch"}, true
		}},
		{"no directory to run in", []string{"create", "--console-socket", socket.path}, 126, func(_, p, _ object) { p["cwd"], p["terminal"] = "/bin/busybox", true }},
		{"bad mount behind a bind", []string{"create"}, 1, func(s, _, _ object) {
			mount(s, "/data", "bind", h.bundle, "rbind")
			mount(s, "/x", "tmpfs", "x", "size=many")
		}},
		{"it works", []string{"run"}, 0, func(_, p, _ object) { p["args"] = array{"cat", "/data/file"} }},
	} {
		h.ociSpec("true", func(s, p, l object) {
			inPause(s, p, l)
			test.edit(s, p, l)
		})
		again := func() {
			t.Helper()
			if r := h.run(append(test.args, "c")...); r.code != test.code {
				t.Fatalf("%s: %+v", test.name, r)
			}
			if test.args[len(test.args)-1] == socket.path {
				socket.master().Close()
			}
		}
		again() // what is made once and kept
		before := descriptors()
		for range 8 {
			again()
		}
		var after map[string]int
		ended := func() bool {
			after = descriptors()
			for kind, n := range after {
				if n > before[kind] {
					return false
				}
			}
			return len(h.processes()) == 2
		}
		for deadline := time.Now().Add(10 * time.Second); !ended(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s: the sentry had %v and has %v; processes: %q", test.name, before, after, h.processes())
				break
			}
		}
	}
}

// A command that hangs in a hook doesn't make others hang.
func TestDeleteWhileAHookHangs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	there, hold := filepath.Join(h.bundle, "there"), filepath.Join(h.bundle, "hold")
	if err := unix.Mkfifo(hold, 0o600); err != nil {
		t.Fatal(err)
	}
	h.spec(func(s map[string]any) {
		s["hooks"] = object{"createRuntime": array{shellHook("touch "+there+"; exec cat "+hold, nil)}}
	}, "true")
	cmd := h.start("create", "c")
	eventually(t, "the hook runs", func() bool { _, err := os.Stat(there); return err == nil })
	r := h.run("delete", "--force", "c")
	if r.code != 1 || !oneSentence(r.stderr) || !strings.Contains(r.stderr, `container "c" is in the hands of another command`) {
		t.Errorf("%+v", r)
	}
	if s := h.status("c"); s != "creating" {
		t.Errorf("it is %s", s)
	}
	f, err := os.OpenFile(hold, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the create: %v", err)
	}
	h.must("delete", "--force", "c")
}
