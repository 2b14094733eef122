package e2e

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// realHouse is a house whose containers run in the real sentry, with busybox as
// the root.
func realHouse(t *testing.T) *house {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox, linked statically:", err)
	}
	h := newHouse(t)
	h.bin = real
	h.flags = []string{"--platform=ptrace"}
	root := filepath.Join(h.bundle, "rootfs")
	for _, d := range []string{"bin", "etc", "data/sub"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"data/file", "data/sub/below"} {
		if err := os.WriteFile(filepath.Join(root, f), []byte(f+"\n"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range strings.Fields(string(applets)) {
		os.Symlink("busybox", filepath.Join(root, "bin", a))
	}
	return h
}

type object = map[string]any
type array = []any

// ociSpec writes a config.json that runs script, with edit's changes.
func (h *house) ociSpec(script string, edit func(s, process, linux object)) {
	h.t.Helper()
	caps := array{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_FOWNER"}
	h.spec(func(s object) {
		p := s["process"].(object)
		p["env"] = array{"PATH=/bin"}
		p["user"] = object{"uid": 0, "gid": 0}
		p["capabilities"] = object{"bounding": caps, "effective": caps, "permitted": caps}
		l := s["linux"].(object)
		l["namespaces"] = array{object{"type": "pid"}, object{"type": "uts"}, object{"type": "ipc"}, object{"type": "network"}, object{"type": "mount"}}
		s["mounts"] = array{
			object{"destination": "/proc", "type": "proc", "source": "proc"},
			object{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": array{"mode=755"}},
			object{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": array{"newinstance", "ptmxmode=0666", "mode=0620"}},
		}
		if edit != nil {
			edit(s, p, l)
		}
	}, "sh", "-c", script)
}

// mount adds a mount.
func mount(s object, destination, kind, source string, options ...any) {
	s["mounts"] = append(s["mounts"].(array), object{"destination": destination, "type": kind, "source": source, "options": options})
}

// namespaces replaces those of the spec.
func namespaces(linux object, types ...string) {
	var all array
	for _, t := range types {
		all = append(all, object{"type": t})
	}
	linux["namespaces"] = all
}

// Each field of config.json is carried out, or refused by its name.
func TestFieldsAreCarriedOutOrRefused(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	userNamespace := func(l object) {
		namespaces(l, "pid", "uts", "ipc", "network", "mount", "user")
		rows := array{object{"containerID": 0, "hostID": 1000, "size": 10}, object{"containerID": 10, "hostID": 0, "size": 1}}
		l["uidMappings"], l["gidMappings"] = rows, rows
	}
	sysctl := func(pairs ...string) func(s, p, l object) {
		return func(_, _, l object) {
			m := object{}
			for i := 0; i < len(pairs); i += 2 {
				m[pairs[i]] = pairs[i+1]
			}
			l["sysctl"] = m
		}
	}
	resources := func(r object) func(s, p, l object) {
		return func(s, _, l object) {
			l["resources"] = r
			mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", "ro")
		}
	}
	process := func(key string, v any) func(s, p, l object) { return func(_, p, _ object) { p[key] = v } }
	linux := func(key string, v any) func(s, p, l object) { return func(_, _, l object) { l[key] = v } }
	mounting := func(m ...any) func(s, p, l object) {
		return func(s, _, _ object) {
			mount(s, m[0].(string), m[1].(string), m[2].(string), m[3:]...)
		}
	}
	for _, test := range []struct {
		name   string
		edit   func(s, process, linux object)
		script string
		stdout string // a regular expression for all of it
		stderr string // the same
		code   int
	}{
		{name: "hostname", edit: func(s, _, _ object) { s["hostname"], s["domainname"] = "h", "d" }, script: "hostname; cat /proc/sys/kernel/domainname", stdout: "h\nd\n"},
		{name: "the sandbox's UTS namespace", edit: func(_, _, l object) { namespaces(l, "pid") }, script: "hostname", stdout: regexp.QuoteMeta(hostname) + "\n"},
		{name: "the sandbox's PID namespace", edit: func(_, _, l object) { namespaces(l, "uts") }, script: "echo $$; sleep 0 & wait; echo done", stdout: "1\ndone\n"},

		{name: "sysctl of the UTS namespace", edit: sysctl("kernel.domainname", "dom"), script: "cat /proc/sys/kernel/domainname", stdout: "dom\n"},
		{name: "sysctls of the IPC namespace", edit: sysctl("kernel.shmmax", "65536", "kernel.msgmnb", "32768", "kernel.sem", "250 32000 100 128"),
			script: "cd /proc/sys/kernel; cat shmmax msgmnb sem", stdout: "65536\n32768\n250\t32000\t100\t128\n"},
		{name: "sysctls that Docker sends", edit: sysctl("net.ipv4.ip_unprivileged_port_start", "0", "net.ipv4.ping_group_range", "0 2147483647"),
			script: "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range", stdout: "0\n0\t2147483647\n"},
		{name: "sysctl as it is", edit: sysctl("net.core.somaxconn", "4096", "fs.mqueue.msg_max", "10"), script: "true"},
		{name: "sysctl that is fixed", edit: sysctl("net.core.somaxconn", "5"), code: 1,
			stderr: "runsc: linux.sysctl net.core.somaxconn=5 is not supported: the setting can't be changed: it is \"4096\"\n"},
		{name: "sysctl of queues", edit: sysctl("fs.mqueue.msg_max", "20"), code: 1, stderr: "runsc: linux.sysctl fs.mqueue.msg_max=20 is not supported: .*\n"},
		{name: "sysctl that is unknown", edit: sysctl("net.no.such", "5"), code: 1, stderr: "runsc: linux.sysctl net.no.such=5 is not supported: there is no such setting in /proc/sys\n"},
		{name: "sysctl out of bounds", edit: sysctl("kernel.shmmni", "-1"), code: 1, stderr: "runsc: linux.sysctl kernel.shmmni=-1 is not supported: \"-1\" is out of bounds: invalid argument\n"},
		{name: "sysctl without its namespace", edit: func(s, p, l object) {
			namespaces(l, "pid")
			l["sysctl"] = object{"kernel.shmmax": "1"}
		}, code: 1, stderr: "runsc: linux.sysctl kernel.shmmax: a change needs a new namespace of type ipc in linux.namespaces\n"},

		{name: "user namespace", edit: func(_, _, l object) { userNamespace(l) },
			script: "id -u; cat /proc/self/uid_map | tr -s ' '; touch /tmpfile; stat -c %u /tmpfile; stat -c %u /bin",
			stdout: "0\n 0 1000 10\n 10 0 1\n0\n10\n"},
		{name: "user namespace, tmpfs", edit: func(s, _, l object) {
			userNamespace(l)
			mount(s, "/t", "tmpfs", "t", "uid=3", "mode=700")
		}, script: "stat -c '%u %g %a' /t /dev/pts/.. ", stdout: "3 0 700\n0 0 755\n"},
		{name: "user without a mapping", edit: func(_, p, l object) {
			userNamespace(l)
			p["user"] = object{"uid": 77, "gid": 0}
		}, code: 1, stderr: "runsc: process.user.uid 77 has no mapping in linux.uidMappings\n"},
		{name: "user namespace without maps", edit: func(_, _, l object) { namespaces(l, "user") }, code: 1,
			stderr: "runsc: config.json: linux.uidMappings is empty, and a new namespace of type user needs it\n"},
		{name: "maps that overlap", edit: func(_, _, l object) {
			userNamespace(l)
			l["gidMappings"] = array{object{"containerID": 0, "hostID": 1, "size": 2}, object{"containerID": 1, "hostID": 7, "size": 2}}
		}, code: 1, stderr: "runsc: config.json: linux.gidMappings\\[0\\] and \\[1\\] overlap\n"},
		{name: "namespace of strangers", edit: linux("namespaces", array{object{"type": "pid", "path": "/proc/1/ns/pid"}}), code: 1,
			stderr: "runsc: linux.namespaces: /proc/1/ns/pid is no pid namespace of this sandbox, and can't be joined\n"},
		{name: "mount namespace by path", edit: linux("namespaces", array{object{"type": "mount", "path": "/proc/1/ns/mnt"}}), code: 1,
			stderr: "runsc: linux.namespaces: /proc/1/ns/mnt is no mount namespace of this sandbox, and can't be joined\n"},

		{name: "limits are shown", edit: resources(object{"memory": object{"limit": 64 << 20}, "pids": object{"limit": 50}, "cpu": object{"shares": 2}}),
			script: "cd /sys/fs/cgroup; cat memory.max pids.max cpu.weight", stdout: "67108864\n50\n1\n"},
		{name: "limit of tasks", edit: resources(object{"pids": object{"limit": 5}}),
			script: "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; echo all", stdout: "(?s).*Resource temporarily unavailable.*", code: 2},
		{name: "block I/O", edit: resources(object{"blockIO": object{"weight": 300}}), code: 1, stderr: "runsc: config.json: linux.resources.blockIO.weight is not supported\n"},
		{name: "no block I/O", edit: resources(object{"blockIO": object{"weight": 0}}), script: "true"},
		{name: "real-time", edit: resources(object{"cpu": object{"realtimeRuntime": 5}}), code: 1, stderr: "runsc: config.json: linux.resources.cpu.realtimeRuntime is not supported\n"},
		{name: "swappiness", edit: resources(object{"memory": object{"swappiness": 5}}), code: 1, stderr: "runsc: config.json: linux.resources.memory.swappiness is not supported\n"},

		{name: "scheduler", edit: process("scheduler", object{"policy": "SCHED_BATCH", "nice": 7}), script: "cut -d' ' -f19,41 /proc/self/stat", stdout: "7 3\n"},
		{name: "real-time scheduler", edit: process("scheduler", object{"policy": "SCHED_RR", "priority": 5}), script: "cut -d' ' -f40,41 /proc/self/stat", stdout: "5 2\n"},
		{name: "deadlines", edit: process("scheduler", object{"policy": "SCHED_DEADLINE"}), code: 1, stderr: "runsc: config.json: process.scheduler.policy \"SCHED_DEADLINE\" is not supported\n"},
		{name: "I/O priority", edit: process("ioPriority", object{"class": "IOPRIO_CLASS_IDLE", "priority": 0}), script: "ionice -p $$", stdout: "idle.*\n"},
		{name: "I/O priority out of bounds", edit: process("ioPriority", object{"class": "IOPRIO_CLASS_BE", "priority": 8}), code: 1, stderr: "runsc: config.json: process.ioPriority.priority 8 is not between 0 and 7\n"},
		{name: "OOM score", edit: process("oomScoreAdj", 100), script: "cat /proc/self/oom_score_adj", stdout: "100\n"},
		{name: "umask", edit: process("user", object{"uid": 0, "gid": 0, "umask": 0o27}), script: "umask", stdout: "0027\n"},

		{name: "root's propagation", edit: linux("rootfsPropagation", "shared"), code: 1, stderr: "runsc: config.json: linux.rootfsPropagation \"shared\" is not supported: .*\n"},
		{name: "root that slaves", edit: linux("rootfsPropagation", "rslave"), script: "true"},
		{name: "mount's propagation", edit: mounting("/m", "tmpfs", "m", "rshared"), code: 1, stderr: "runsc: config.json: mounts\\[3\\].options: \"rshared\" is not supported: .*\n"},
		{name: "mandatory locks", edit: mounting("/m", "tmpfs", "m", "mand"), code: 1, stderr: "runsc: config.json: mounts\\[3\\].options: \"mand\" is not supported\n"},
		{name: "synchronous bind", edit: mounting("/m", "bind", "/etc", "sync"), code: 1, stderr: "runsc: config.json: mounts\\[3\\].options: \"sync\" is not supported for a bind mount\n"},
		{name: "options of tmpfs", edit: mounting("/m", "tmpfs", "m", "size=8k", "mode=711", "uid=4", "gid=5", "noexec"),
			script: "stat -c '%a %u %g' /m; dd if=/dev/zero of=/m/f bs=1k count=20 2>/dev/null; stat -c %s /m/f; grep ' /m ' /proc/mounts | grep -o noexec", stdout: "711 4 5\n8192\nnoexec\n"},
		{name: "unknown option of tmpfs", edit: mounting("/m", "tmpfs", "m", "frob=1"), code: 1, stderr: "runsc: mounting tmpfs at /m with \"frob=1\": invalid argument\n"},
		{name: "option of a file system without", edit: mounting("/m", "sysfs", "m", "frob"), code: 1, stderr: "runsc: config.json: mounts\\[3\\].options: \"frob\" is not an option of sysfs\n"},
		{name: "tmpcopyup", edit: mounting("/data", "tmpfs", "m", "tmpcopyup"),
			script: "cat /data/file /data/sub/below; stat -c %a /data/file; grep -o 'tmpfs /data' /proc/mounts; echo x > /data/new", stdout: "data/file\ndata/sub/below\n640\n", code: 0},
		{name: "mqueue and cgroup", edit: func(s, _, _ object) {
			mount(s, "/dev/mqueue", "mqueue", "mqueue", "nosuid")
			mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", "ro")
		}, script: "stat -f -c %t /dev/mqueue /sys/fs/cgroup", stdout: "19800202\n63677270\n"},
		{name: "read-only root without overlay", edit: func(s, _, _ object) {
			s["root"].(object)["readonly"] = true
			mount(s, "/new/point", "tmpfs", "m")
		}, script: "touch /x; touch /new/point/y; ls /new/point", stdout: "y\n", stderr: "touch: /x: Read-only file system\n"},

		{name: "device without a driver", edit: linux("devices", array{object{"path": "/dev/odd/one", "type": "c", "major": 240, "minor": 7, "fileMode": 0o622, "uid": 3, "gid": 4}}),
			script: "stat -c '%t %T %a %u %g' /dev/odd/one; cat /dev/odd/one", stdout: "f0 7 622 3 4\n", stderr: "cat: can't open '/dev/odd/one': No such device or address\n", code: 1},
		{name: "default devices without a mount", edit: func(s, _, _ object) { s["mounts"] = s["mounts"].(array)[:1] },
			script: "cd /dev; for d in null zero full random urandom tty; do stat -c '%t %T %a' $d; done; head -c 3 zero | wc -c; ls -d fd stdin; ls / | grep -c dev",
			stdout: "1 3 666\n1 5 666\n1 7 666\n1 8 666\n1 9 666\n5 0 666\n3\nfd\nstdin\n1\n"},
		{name: "FIFO", edit: linux("devices", array{object{"path": "/dev/fifo", "type": "p"}}), script: "stat -c %F /dev/fifo", stdout: "fifo\n"},
		{name: "masked and read-only paths", edit: func(_, _, l object) {
			l["maskedPaths"], l["readonlyPaths"] = array{"/data/sub", "/data/file"}, array{"/etc"}
		}, script: "ls /data/sub; cat /data/file; touch /etc/x", stderr: "touch: /etc/x: Read-only file system\n", code: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := realHouse(t)
			h.ociSpec(test.script, test.edit)
			h.run("run", "c").expect(t, test.code, test.stdout, test.stderr)
		})
	}
}

// A bind of a directory or a file, writable or not.
func TestBinds(t *testing.T) {
	h := realHouse(t)
	host := t.TempDir()
	file := filepath.Join(host, "one")
	if err := os.WriteFile(file, []byte("one\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	h.ociSpec("cat /dir/one /made/file; echo two > /made/file; echo x > /dir/one; echo $?; mount | grep -c /made/file", func(s, _, _ object) {
		mount(s, "/dir", "bind", host, "rbind", "ro")
		mount(s, "/made/file", "bind", file, "rbind", "rw", "rprivate")
	})
	if r := h.run("run", "c"); r.stdout != "one\none\n1\n1\n" || !strings.Contains(r.stderr, "Read-only file system") {
		t.Errorf("%+v", r)
	}
	if b, _ := os.ReadFile(file); string(b) != "two\n" {
		t.Errorf("the host has %q", b)
	}
}

// cpuTime is what a container has used, in nanoseconds.
func (h *house) cpuTime(id string) int64 {
	h.t.Helper()
	var s struct {
		Data struct {
			CPU struct {
				Usage struct{ Total int64 }
			}
			Pids struct{ Current int }
		}
	}
	if err := json.Unmarshal([]byte(h.must("events", "--stats", id)), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Data.CPU.Usage.Total
}

func TestPauseStopsWhatComputes(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("while :; do :; done", nil)
	h.must("run", "--detach", "c")
	eventually(t, "it computes", func() bool { return h.cpuTime("c") > 0 })
	h.must("pause", "c")
	eventually(t, "it has stopped", func() bool {
		before := h.cpuTime("c")
		return h.cpuTime("c") == before
	})
	before := h.cpuTime("c")
	if r := h.run("exec", "c", "true"); r.code != 1 || !strings.Contains(r.stderr, "container c is paused, not running") {
		t.Errorf("exec: %+v", r)
	}
	if h.cpuTime("c") != before {
		t.Error("a paused container computes")
	}
	h.must("resume", "c")
	eventually(t, "it computes again", func() bool { return h.cpuTime("c") > before })
	h.must("pause", "c")
	h.must("delete", "--force", "c")
}

// Signals from outside: of those that a namespace's init has no handler for only
// SIGKILL ends it (pid_namespaces(7)).
func TestSignalsFromOutside(t *testing.T) {
	h := realHouse(t)
	for _, test := range []struct {
		script, signal string
		code           int
	}{{"kill -TERM $$; kill -HUP $$; exec sleep 1000", "KILL", 137}, {"trap 'exit 7' USR1; while :; do sleep 0.01; done", "USR1", 7}} {
		h.ociSpec("echo ready; "+test.script, nil)
		cmd := h.startReady("run", "c")
		if test.signal == "USR1" {
			eventually(t, "the trap is set", func() bool {
				r := h.run("exec", "c", "sh", "-c", "grep SigCgt /proc/1/status")
				return !strings.Contains(r.stdout, "0000000000000000")
			})
		} else {
			eventually(t, "it sleeps", func() bool { return h.run("exec", "c", "grep", "-q", "sleep", "/proc/1/comm").code == 0 })
		}
		if test.signal == "KILL" {
			for _, ignored := range []string{"TERM", "INT", "USR1"} {
				h.must("kill", "c", ignored)
				h.must("kill", "--all", "c", ignored)
			}
			if s := h.status("c"); s != "running" {
				t.Errorf("after signals that it has no handler for it is %s", s)
			}
		}
		h.must("kill", "c", test.signal)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != test.code {
			t.Errorf("%s after %s: exit code %d, want %d", test.script, test.signal, code, test.code)
		}
	}
}

func TestSignalsToACreatedContainer(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("sleep 1000", nil)
	h.must("create", "c")
	h.must("kill", "c", "WINCH")
	if s := h.status("c"); s != "created" {
		t.Errorf("after SIGWINCH: %s", s)
	}
	h.must("kill", "c", "HUP")
	eventually(t, "it has ended", func() bool { return h.status("c") == "stopped" })
	if out := h.must("wait", "c"); out != "129\n" {
		t.Errorf("wait: %q", out)
	}
	h.must("delete", "c")
	h.must("create", "c")
	h.must("delete", "--force", "c")
}

func TestExec(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "c")
	for _, test := range []struct {
		args   []string
		stdout string
		code   int
	}{
		{[]string{"exec", "--user", "5:6", "--additional-gids", "9", "c", "id", "-G"}, "6 9\n", 0},
		{[]string{"exec", "--cwd", "/data", "--env", "X=y", "c", "sh", "-c", "pwd; echo $X"}, "/data\ny\n", 0},
		{[]string{"exec", "--cap", "CAP_NET_RAW", "c", "grep", "CapEff", "/proc/self/status"}, "CapEff:\t000000000820200b|CapEff.*\n", 0},
		{[]string{"exec", "c", "sh", "-c", "exit 9"}, "", 9},
		{[]string{"exec", "c", "sh", "-c", "kill -KILL $$"}, "", 137},
		{[]string{"exec", "--user", "root", "c", "true"}, "", 1},
		{[]string{"exec", "--process-label", "x", "c", "true"}, "", 1},
		{[]string{"exec", "c", "nonesuch"}, "", 127},
		{[]string{"exec", "c", "/etc"}, "", 126},
	} {
		r := h.run(test.args...)
		if !regexp.MustCompile("^("+test.stdout+")$").MatchString(r.stdout) || r.code != test.code {
			t.Errorf("%v: %+v, want %q and %d", test.args, r, test.stdout, test.code)
		}
	}
	if out := h.must("ps", "c"); !regexp.MustCompile(`(?s)^UID +PID .*\n0 +1 +0 .*sleep 1000\n$`).MatchString(out) {
		t.Errorf("ps: %s", out)
	}
}

// Standard input that isn't a terminal goes through, with its end.
func TestStandardInput(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("cat; echo end", nil)
	cmd := h.command("run", "c")
	cmd.Stdin = strings.NewReader("line\n")
	out, err := cmd.Output()
	if string(out) != "line\nend\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// The first container's share of processor time is the cgroup's to hold; that of a
// further one the sandbox's.
func TestQuotaOfASecondContainer(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "pause")
	second := func(id string, quota int) {
		h.ociSpec("sleep 0.01; while :; do :; done", func(s, p, l object) {
			inPause(s, p, l)
			l["cgroupsPath"] = "/vitrine-test-quota/" + id
			if quota > 0 {
				l["resources"] = object{"cpu": object{"quota": quota, "period": 50000}}
			}
		})
		h.must("run", "--detach", id)
	}
	defer func() {
		h.run("delete", "--force", "slow")
		h.run("delete", "--force", "fast")
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/vitrine-test-quota")
		for _, d := range append(dirs, "/sys/fs/cgroup/vitrine-test-quota") {
			unix.Rmdir(d)
		}
	}()
	second("slow", 2500)
	second("fast", 0)
	eventually(t, "the fast one has computed", func() bool { return h.cpuTime("fast") > 1e9 })
	slow, fast := h.cpuTime("slow"), h.cpuTime("fast")
	if slow*3 > fast {
		t.Errorf("a twentieth of a processor did %d ms of work, a whole one %d", slow/1e6, fast/1e6)
	}
	// Without its bound it goes on.
	h.must("update", "--cpu-quota", "-1", "slow")
	eventually(t, "it computes", func() bool { return h.cpuTime("slow") > slow+5e8 })
	h.must("pause", "slow")
	h.must("resume", "slow")
	h.must("kill", "slow", "KILL")
	eventually(t, "it has ended", func() bool { return h.status("slow") == "stopped" })
}

// Output that nobody reads for a while fills the pipe; then all of it comes.
func TestOutputWaitsForItsReader(t *testing.T) {
	h := realHouse(t)
	const size = 3000000
	h.ociSpec("head -c 3000000 /dev/zero | tr '\\0' x", nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := h.command("run", "c")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	eventually(t, "the pipe is full", func() bool {
		n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ) // FIONREAD
		return err != nil || n == 1<<16
	})
	got, err := io.ReadAll(r)
	if len(got) != size || strings.Trim(string(got), "x") != "" || err != nil {
		t.Errorf("%d bytes came, %v", len(got), err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// A container is as nice as who makes it, unless the spec says otherwise: as a child
// is.
func TestNiceIsTheCallers(t *testing.T) {
	h := realHouse(t)
	for _, test := range []struct {
		edit func(s, p, l object)
		want string
	}{{nil, "11\n"}, {func(_, p, _ object) { p["scheduler"] = object{"policy": "SCHED_OTHER", "nice": 3} }, "3\n"}} {
		h.ociSpec("cut -d' ' -f19 /proc/self/stat", test.edit)
		cmd := h.command("run", "c")
		cmd.Args = append([]string{"nice", "-n", "11"}, cmd.Args...)
		cmd.Path, _ = exec.LookPath("nice")
		before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
		if err != nil || before != 20 {
			cmd.Args = cmd.Args[3:]
			cmd.Path = cmd.Args[0]
			test.want = strings.ReplaceAll(test.want, "11", strconv.Itoa(20-before))
		}
		if out, err := cmd.Output(); string(out) != test.want || err != nil {
			t.Errorf("%q, %v; want %q", out, err, test.want)
		}
	}
}

func TestUpdate(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", func(s, _, l object) {
		l["resources"] = object{"pids": object{"limit": 60}}
		mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", "ro")
	})
	h.must("run", "--detach", "c")
	h.must("update", "--pids-limit", "70", "--memory", "134217728", "c")
	if r := h.run("exec", "c", "cat", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/memory.max"); r.stdout != "70\n134217728\n" {
		t.Errorf("%+v", r)
	}
	h.must("update", "--memory", "-1", "c")
	if r := h.run("exec", "c", "cat", "/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/memory.max"); r.stdout != "70\nmax\n" {
		t.Errorf("%+v", r)
	}
	h.must("update", "--pids-limit", "1", "c")
	if r := h.run("exec", "c", "true"); r.code == 0 {
		t.Errorf("a second task beyond the limit: %+v", r)
	}
}

// A sentry that is killed leaves a stopped container, whose hooks still run.
func TestSentryKilled(t *testing.T) {
	h := realHouse(t)
	trace := filepath.Join(h.bundle, "trace")
	h.ociSpec("exec sleep 1000", func(s, _, _ object) {
		s["hooks"] = object{"poststop": array{object{"path": "/bin/sh", "args": array{"sh", "-c", "cat > " + trace}}}}
	})
	pidFile := filepath.Join(h.bundle, "pid")
	h.must("run", "--detach", "--pid-file", pidFile, "c")
	b, _ := os.ReadFile(pidFile)
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	unix.Kill(pid, unix.SIGKILL)
	eventually(t, "it is stopped", func() bool { return h.status("c") == "stopped" })
	if out := h.must("list"); !strings.Contains(out, "stopped") {
		t.Errorf("list: %s", out)
	}
	if out := h.must("wait", "c"); out != "137\n" {
		t.Errorf("wait: %q", out)
	}
	h.must("delete", "c")
	if b, err := os.ReadFile(trace); err != nil || !strings.Contains(string(b), `"status":"stopped"`) {
		t.Errorf("poststop got %q, %v", b, err)
	}
}

// When the host's terminal goes away the processes are told, and a size set there
// reaches them.
func TestTerminalHangsUp(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", nil)
	h.must("run", "--detach", "c")
	socket := newConsoleSocket(t)
	pidFile := filepath.Join(h.bundle, "pid")
	h.must("exec", "--tty", "--detach", "--pid-file", pidFile, "--console-socket", socket.path, "c",
		"sh", "-c", "trap 'echo hup > /hung; exit 3' HUP; trap 'stty size' WINCH; echo set; while :; do sleep 0.01; done")
	master := socket.master()
	read := func(want string) {
		t.Helper()
		var got strings.Builder
		b := make([]byte, 256)
		for !strings.Contains(got.String(), want) {
			n, err := master.Read(b)
			if err != nil {
				t.Fatalf("the terminal shows %q: %v", got.String(), err)
			}
			got.Write(b[:n])
		}
	}
	read("set\r\n")
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99}); err != nil {
		t.Fatal(err)
	}
	read("33 99\r\n")
	if out := h.must("ps", "c"); !strings.Contains(out, "pts/0") {
		t.Errorf("ps: %s", out)
	}
	master.Close()
	eventually(t, "it heard of it", func() bool { return h.run("exec", "c", "cat", "/hung").stdout == "hup\n" })
}

// Containers of a sandbox share the namespaces they ask for, and not the others.
func TestJoinedNamespaces(t *testing.T) {
	h := realHouse(t)
	h.ociSpec("exec sleep 1000", func(s, _, l object) {
		s["hostname"] = "pod"
		l["sysctl"] = object{"kernel.msgmax": "4096"}
	})
	pidFile := filepath.Join(h.bundle, "pid")
	h.must("run", "--detach", "--pid-file", pidFile, "pause")
	b, _ := os.ReadFile(pidFile)
	of := func(types ...string) func(s, p, l object) {
		return func(_, _, l object) {
			all := array{object{"type": "mount"}}
			for _, x := range []struct{ name, file string }{{"uts", "uts"}, {"ipc", "ipc"}, {"network", "net"}, {"pid", "pid"}} {
				n := object{"type": x.name}
				for _, j := range types {
					if j == x.name {
						n["path"] = "/proc/" + string(b) + "/ns/" + x.file
					}
				}
				all = append(all, n)
			}
			l["namespaces"] = all
		}
	}
	h.ociSpec("cat /proc/1/comm; hostname; cat /proc/sys/kernel/msgmax", of("uts", "ipc", "pid"))
	if r := h.run("run", "second"); r.stdout != "sleep\npod\n4096\n" || r.code != 0 {
		t.Errorf("all joined: %+v", r)
	}
	h.ociSpec("cat /proc/1/comm; cat /proc/sys/kernel/msgmax", of("uts"))
	h.edit(func(s object) { inPause(s, nil, nil) })
	if r := h.run("run", "third"); r.stdout != "cat\n8192\n" && r.stdout != "sh\n8192\n" || r.code != 0 {
		t.Errorf("names joined: %+v", r)
	}
}

// edit changes config.json.
func (h *house) edit(f func(object)) {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(h.bundle, "config.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	s := object{}
	if err := json.Unmarshal(b, &s); err != nil {
		h.t.Fatal(err)
	}
	f(s)
	if b, err = json.Marshal(s); err != nil {
		h.t.Fatal(err)
	}
	h.write(string(b))
}

// consoleSocket is where an engine takes terminals.
type consoleSocket struct {
	t    *testing.T
	path string
	fd   int
}

func newConsoleSocket(t *testing.T) *consoleSocket {
	t.Helper()
	dir, err := os.MkdirTemp("", "vitrine-tty-") // t.TempDir's name may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &consoleSocket{t: t, path: filepath.Join(dir, "s")}
	if c.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(c.fd) })
	if err := unix.Bind(c.fd, &unix.SockaddrUnix{Name: c.path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(c.fd, 1); err != nil {
		t.Fatal(err)
	}
	return c
}

// master takes the master of a terminal.
func (c *consoleSocket) master() *os.File {
	c.t.Helper()
	fd, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(fd)
	oob := make([]byte, 64)
	name := make([]byte, 64)
	length, n, _, _, err := unix.Recvmsg(fd, name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || !strings.HasPrefix(string(name[:length]), "/dev/pts/") {
		c.t.Fatalf("%q, %v", name[:length], err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) == 0 {
		c.t.Fatalf("no terminal came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "master")
}

// Do's command is ended by what ends a command, be it the init of a namespace or not.
func TestDoIsEndedBySignals(t *testing.T) {
	h := realHouse(t)
	for _, signal := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		cmd := h.startReady("do", "--root", filepath.Join(h.bundle, "rootfs"), "--", "/bin/sh", "-c", "echo ready; exec sleep 1000")
		cmd.Process.Signal(signal)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 128+int(signal.(unix.Signal)) {
			t.Errorf("%v: exit code %d", signal, code)
		}
	}
}
