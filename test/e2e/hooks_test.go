package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/test/terminal"
)

var hookStages = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// shellHook is a hook that runs script.
func shellHook(script string, more object) object {
	h := object{"path": "/bin/sh", "args": array{"sh", "-c", script}, "env": array{"PATH=/bin:/usr/bin"}}
	for k, v := range more {
		h[k] = v
	}
	return h
}

// Each hook gets the state, in the namespaces that are right for it.
func TestHooks(t *testing.T) {
	h := realHouse(t)
	trace := filepath.Join(h.bundle, "trace")
	if err := os.Mkdir(trace, 0o777); err != nil {
		t.Fatal(err)
	}
	const look = `; for n in net ipc uts mnt pid; do readlink /proc/self/ns/$n; done > $D/$S.ns; env | sort > $D/$S.env`
	h.ociSpec("cat /hook /hook.env; exec sleep 1000", func(s, p, _ object) {
		hooks := object{}
		for _, stage := range hookStages {
			hook := shellHook("cat > $D/$S.state"+look, object{"env": array{"PATH=/bin:/usr/bin", "D=" + trace, "S=" + stage}})
			if stage == "startContainer" {
				hook = shellHook("echo in $(cat /proc/1/comm) $$ $(id -u) > /hook; cat >> /hook; env | sort > /hook.env", object{"env": array{"PATH=/bin", "X=y"}})
			}
			hooks[stage] = array{hook}
		}
		s["hooks"] = hooks
		s["annotations"] = object{"a": "b"}
	})
	pidFile := filepath.Join(h.bundle, "pid")
	out, err := os.Create(filepath.Join(h.bundle, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := h.command("create", "--pid-file", pidFile, "c")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(pidFile)
	sentry := string(b)
	read := func(file string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(trace, file))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	state := func(name, text, status string, pid int) {
		t.Helper()
		var s struct {
			OCIVersion, ID, Status, Bundle string
			Pid                            int
			Annotations                    map[string]string
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Errorf("%s: %v in %q", name, err, text)
		}
		if s.OCIVersion != "1.0.2" || s.ID != "c" || s.Status != status || s.Bundle != h.bundle || s.Pid != pid || s.Annotations["a"] != "b" {
			t.Errorf("%s got %s", name, text)
		}
	}
	pid, _ := strconv.Atoi(sentry)
	for _, stage := range []string{"prestart", "createRuntime", "createContainer"} {
		state(stage, read(stage+".state"), "creating", pid)
	}
	namespace := func(pid, name string) string {
		link, _ := os.Readlink("/proc/" + pid + "/ns/" + name)
		return link
	}
	for _, stage := range []string{"prestart", "createRuntime"} {
		for i, name := range []string{"net", "ipc", "uts", "mnt", "pid"} {
			if got := strings.Split(read(stage+".ns"), "\n")[i]; got != namespace("self", name) {
				t.Errorf("%s ran in the namespace %s", stage, got)
			}
		}
	}
	inside := strings.Split(read("createContainer.ns"), "\n")
	for i, name := range []string{"net", "ipc", "uts"} {
		if inside[i] != namespace(sentry, name) {
			t.Errorf("createContainer ran in the namespace %s, the sentry's is %s", inside[i], namespace(sentry, name))
		}
	}
	if inside[3] == namespace("self", "mnt") || inside[3] == namespace(sentry, "mnt") || inside[4] != namespace("self", "pid") {
		t.Errorf("createContainer ran in %s and %s", inside[3], inside[4])
	}
	if env := read("createContainer.env"); !regexp.MustCompile(`^D=.*\n(OLDPWD=.*\n)?PATH=/bin:/usr/bin\nPWD=.*\nS=createContainer\n$`).MatchString(env) {
		t.Errorf("environment: %q", env)
	}

	h.must("start", "c")
	state("poststart", read("poststart.state"), "running", pid)
	var said string
	eventually(t, "it has told", func() bool {
		b, _ := os.ReadFile(out.Name())
		said = string(b)
		return strings.Contains(said, "X=y")
	})
	// Init has number 1 and waits; the hook is another process with init's ids.
	first, rest, _ := strings.Cut(said, "\n")
	if !regexp.MustCompile(`^in sh [2-9]\d* 0$`).MatchString(first) {
		t.Errorf("startContainer wrote %q", first)
	}
	end := strings.LastIndexByte(rest, '}')
	state("startContainer", rest[:end+1], "created", 1)
	if !regexp.MustCompile(`^PATH=/bin\nPWD=/\n(SHLVL=1\n)?X=y\n$`).MatchString(strings.TrimPrefix(rest[end+1:], "\n")) {
		t.Errorf("its environment: %q", rest[end+1:])
	}
	if _, err := os.Stat(filepath.Join(trace, "poststop.state")); err == nil {
		t.Error("poststop ran early")
	}
	h.must("kill", "c", "KILL")
	eventually(t, "it is stopped", func() bool { return h.status("c") == "stopped" })
	h.must("delete", "c")
	state("poststop", read("poststop.state"), "stopped", 0)
}

// A createContainer hook joins the namespace that the spec names.
func TestHookInNamedNamespace(t *testing.T) {
	h := realHouse(t)
	trace := filepath.Join(h.bundle, "trace")
	h.ociSpec("true", func(s, _, l object) {
		l["namespaces"] = array{object{"type": "pid"}, object{"type": "network", "path": "/proc/self/ns/net"}, object{"type": "uts"}}
		s["hooks"] = object{"createContainer": array{shellHook("readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc > "+trace, nil)}}
	})
	if r := h.run("run", "c"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	b, _ := os.ReadFile(trace)
	got := strings.Split(string(b), "\n")
	for i, x := range []struct {
		name string
		own  bool
	}{{"net", true}, {"uts", false}, {"ipc", true}} { // one that isn't in the spec is the runtime's
		ours, _ := os.Readlink("/proc/self/ns/" + x.name)
		if (got[i] == ours) != x.own {
			t.Errorf("%s is %s, the runtime's is %s", x.name, got[i], ours)
		}
	}
}

// What a hook that fails does, at each stage: those of the container's end run, and
// it is gone; but a container that runs goes on running.
func TestHooksThatFail(t *testing.T) {
	for _, stage := range hookStages {
		for _, how := range []struct{ name, script, says string }{
			{"fails", "echo broken >&2; exit 3", `\[1\] /bin/sh: exit status 3: broken\n`},
			{"hangs", "exec sleep 1000", `\[1\] /bin/sh: was killed after its timeout of 1 s\n`},
			{"isn't there", "", `\[1\] /nonesuch: .*no such file or directory\n`},
		} {
			t.Run(stage+" "+how.name, func(t *testing.T) {
				h := realHouse(t)
				trace := filepath.Join(h.bundle, "trace")
				h.ociSpec("exec sleep 1000", func(s, _, _ object) {
					note := func(name string) object { return shellHook("echo "+name+" >> "+trace, nil) }
					hooks := object{}
					for _, other := range hookStages {
						if other != "startContainer" {
							hooks[other] = array{note(other)}
						}
					}
					first, bad, last := note(stage+"-1"), shellHook(how.script, object{"timeout": 1}), note(stage+"-3")
					if how.script == "" {
						bad = object{"path": "/nonesuch"}
					} else if how.name == "fails" {
						delete(bad, "timeout")
					}
					if stage == "startContainer" {
						first, last = shellHook("true", nil), shellHook("true", nil)
					}
					hooks[stage] = array{first, bad, last}
					s["hooks"] = hooks
				})
				code, warning, told := 1, "", "prestart\ncreateRuntime\ncreateContainer\n"
				switch stage {
				case "poststart":
					code, warning, told = 0, "warning: ", told+"poststart-1\npoststart-3\n"
				case "poststop":
					told += "poststart\n"
				case "startContainer":
					told += "poststop\n"
				default:
					before, _, _ := strings.Cut(told, stage+"\n")
					told = before + stage + "-1\npoststop\n"
				}
				says := "^runsc: " + warning + "hook " + stage + how.says + "$"
				check := func(args ...string) {
					t.Helper()
					out, err := os.Create(filepath.Join(h.bundle, "out"))
					if err != nil {
						t.Fatal(err)
					}
					defer out.Close()
					cmd := h.command(args...)
					cmd.Stdout, cmd.Stderr = out, out
					cmd.Run()
					said, _ := os.ReadFile(out.Name())
					if got := cmd.ProcessState.ExitCode(); got != code || !regexp.MustCompile(says).Match(said) {
						t.Errorf("%v: exit code %d, want %d; it says %q, want %s", args, got, code, said, says)
					}
				}
				switch stage {
				case "poststop":
					h.must("run", "--detach", "c")
				case "startContainer", "poststart":
					h.must("create", "c")
					check("start", "c")
				default:
					check("create", "c")
				}
				switch stage {
				case "poststart":
					if s := h.status("c"); s != "running" {
						t.Errorf("it is %s", s)
					}
				case "poststop":
					h.must("kill", "c", "KILL")
					eventually(t, "it is stopped", func() bool { return h.status("c") == "stopped" })
					code, warning = 0, "warning: "
					says = "^runsc: warning: hook poststop" + how.says + "$"
					check("delete", "c")
					told += "poststop-1\npoststop-3\n"
				}
				if got, _ := os.ReadFile(trace); string(got) != told {
					t.Errorf("hooks ran: %q, want %q", got, told)
				}
				if stage != "poststart" {
					if r := h.run("state", "c"); r.code != 1 || !strings.Contains(r.stderr, "does not exist") {
						t.Errorf("afterwards: %+v", r)
					}
				}
			})
		}
	}
}

// A startContainer hook runs with what init has: its user, its capabilities, its
// system call filter.
func TestStartContainerHookIsConfinedAsInit(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("cat /tmp/hook", func(s, p, l object) {
		mount(s, "/tmp", "tmpfs", "t", "mode=1777")
		p["user"] = object{"uid": 5, "gid": 6}
		p["capabilities"] = object{}
		l["seccomp"] = typicalProfile("mkdir", "mkdirat")
		s["hooks"] = object{"startContainer": array{shellHook("exec > /tmp/hook 2>&1; id -u; id -g; grep -E 'CapEff|Seccomp:' /proc/self/status; mkdir /tmp/d || true", nil)}}
	})
	if r := h.run("run", "c"); r.code != 0 || r.stdout != "5\n6\nCapEff:\t0000000000000000\nSeccomp:\t2\nmkdir: can't create directory '/tmp/d': Operation not permitted\n" {
		t.Errorf("%+v", r)
	}
}

// A hook that hangs ends with all of its process group.
func TestHookThatHangsLeavesNoProcess(t *testing.T) {
	for _, stage := range []string{"createRuntime", "createContainer", "poststop"} {
		t.Run(stage, func(t *testing.T) {
			h := realHouse(t)
			file := filepath.Join(h.bundle, "pids")
			h.ociSpec("true", func(s, _, _ object) {
				s["hooks"] = object{stage: array{shellHook("sleep 1000 & echo $$ $! > "+file+"; wait", object{"timeout": 1})}}
			})
			if r := h.run("run", "c"); !strings.Contains(r.stderr, "was killed after its timeout of 1 s") {
				t.Errorf("%+v", r)
			}
			pids := strings.Fields(string(mustRead(t, file)))
			if len(pids) != 2 {
				t.Fatalf("the hook wrote %q", pids)
			}
			for _, pid := range pids {
				eventually(t, "process "+pid+" has ended", func() bool {
					b, err := os.ReadFile("/proc/" + pid + "/stat")
					return err != nil || strings.Contains(string(b), ") Z ")
				})
			}
		})
	}
}

// Ctrl-C at a terminal ends a command whose hook hangs, and the hook.
func TestInterruptEndsHook(t *testing.T) {
	for _, stage := range hookStages {
		t.Run(stage, func(t *testing.T) {
			h := realHouse(t)
			master, slave := terminal.Open(t)
			h.ociSpec("exec sleep 1000", func(s, _, _ object) {
				s["hooks"] = object{stage: array{object{"path": "/bin/sleep", "args": array{"sleep", "2000"}}}}
			})
			args := []string{"run", "--detach", "c"}
			if stage == "poststop" {
				h.must(args...)
				args = []string{"delete", "--force", "c"}
			}
			out, err := os.Create(filepath.Join(h.bundle, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd := h.command(args...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, out
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var hook map[int]bool
			eventually(t, "the hook runs", func() bool {
				if stage == "startContainer" {
					return strings.Contains(h.run("ps", "c").stdout, "2000")
				}
				hook = childrenOf(cmd.Process.Pid, "sleep")
				return len(hook) > 0
			})
			if _, err := master.WriteString("\x03"); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("it goes on")
				cmd.Process.Kill()
				<-ended
			}
			want := "hook " + stage + "[0] /bin/sleep: was ended, as runsc got signal SIGINT\n"
			if said := string(mustRead(t, out.Name())); !strings.HasPrefix(said, "runsc: ") || !strings.HasSuffix(said, want) {
				t.Errorf("it says %q", said)
			}
			for pid := range hook {
				if unix.Kill(pid, unix.SIGKILL) == nil {
					t.Errorf("process %d is left", pid)
				}
			}
		})
	}
}

// Hooks that fail with a warning don't decide how a command ends: what they accompany
// does.
func TestExitCodesBesideFailingHooks(t *testing.T) {
	bad := func(says string) array { return array{shellHook("echo "+says+" >&2; exit 3", nil)} }
	for _, test := range []struct {
		name, script string
		hooks        object
		before, run  []string
		code         int
		says         string
		status       string
	}{
		{"the container's exit code", "exit 7", object{"poststop": bad("after")}, nil, []string{"run", "c"}, 7,
			"runsc: warning: hook poststop[0] /bin/sh: exit status 3: after\n", ""},
		{"it runs in the background", "exec sleep 1000", object{"poststart": bad("begun")}, nil, []string{"run", "--detach", "c"}, 0,
			"runsc: warning: hook poststart[0] /bin/sh: exit status 3: begun\n", "running"},
		{"another hook ends it", "exec sleep 1000", object{"poststop": bad("after"), "startContainer": bad("before")}, []string{"create", "c"}, []string{"start", "c"}, 1,
			"runsc: hook startContainer[0] /bin/sh: exit status 3: before; hook poststop[0] /bin/sh: exit status 3: after\n", ""},
		{"another hook ends it in the foreground", "exec sleep 1000", object{"poststop": bad("after"), "startContainer": bad("before")}, nil, []string{"run", "c"}, 1,
			"runsc: hook startContainer[0] /bin/sh: exit status 3: before; hook poststop[0] /bin/sh: exit status 3: after\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := realHouse(t)
			h.ociSpec(test.script, func(s, _, _ object) { s["hooks"] = test.hooks })
			if test.before != nil {
				h.must(test.before...)
			}
			out, err := os.Create(filepath.Join(h.bundle, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			cmd := h.command(test.run...)
			cmd.Stdout, cmd.Stderr = out, out
			cmd.Run()
			if said := string(mustRead(t, out.Name())); cmd.ProcessState.ExitCode() != test.code || said != test.says {
				t.Errorf("exit code %d, want %d; it says %q, want %q", cmd.ProcessState.ExitCode(), test.code, said, test.says)
			}
			if got := h.status("c"); test.status != "" && got != test.status || test.status == "" && !strings.Contains(got, "does not exist") {
				t.Errorf("afterwards it is %q, want %q", got, test.status)
			}
		})
	}
}
