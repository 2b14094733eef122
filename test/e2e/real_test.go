package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"vitrine/images"
)

// programs are scripts for the root of a real house that do what the made-up
// kernel's do. What isn't here is an applet of busybox.
var programs = map[string]string{
	"exit": "exit $1", "id": `echo $(busybox id -u) $(busybox id -g) "[]"`,
	"sleep": "trap 'exit 143' TERM; echo sleeping; while :; do read x <> /fifo; done",
}

// newRealHouse is newHouse with the real sentry and gofer, and a root file
// system to run things in.
func newRealHouse(t *testing.T) *house {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a root file system")
	}
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip("needs busybox-static: run tools/setup test")
	}
	image, err := images.Root("busybox")
	if err != nil {
		t.Fatal(err)
	}
	h := newHouse(t)
	h.bin = real
	dir := filepath.Join(h.bundle, "rootfs/bin")
	for _, d := range []string{dir, filepath.Join(h.bundle, "rootfs/tmp"), filepath.Join(h.bundle, "rootfs/proc"), filepath.Join(h.bundle, "rootfs/dev")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile(filepath.Join(image, "bin/busybox"))
	if err == nil {
		err = os.WriteFile(dir+"/busybox", busybox, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	applets, err := exec.Command(dir+"/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(applets)) {
		if programs[name] == "" && name != "busybox" {
			os.Symlink("busybox", filepath.Join(dir, name))
		}
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/busybox sh\nPATH=/bin\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "denied"), []byte("#!/bin/sh\n"), 0o644)
	if err := unix.Mkfifo(filepath.Join(h.bundle, "rootfs/fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	return h
}

// asRoot is an edit of a spec: root, with a tmpfs at /tmp and a path to search.
func asRoot(more func(s map[string]any)) func(map[string]any) {
	return func(s map[string]any) {
		p := s["process"].(map[string]any)
		p["user"] = map[string]any{"uid": 0, "gid": 0}
		p["env"] = []string{"PATH=/bin"}
		s["mounts"] = []any{map[string]any{"destination": "/tmp", "type": "tmpfs", "source": "t"}, map[string]any{"destination": "/dev", "type": "tmpfs", "source": "t"}}
		if more != nil {
			more(s)
		}
	}
}

// oneSentence says whether text is what a person should see: one line of
// runsc's.
func oneSentence(text string) bool {
	return strings.HasPrefix(text, "runsc: ") && strings.Count(text, "\n") == 1 && strings.HasSuffix(text, "\n")
}

// A config.json may be anything: what is wrong is said in a sentence, and
// nothing has happened.
func TestBadConfigurations(t *testing.T) {
	set := func(path string, v any) func(map[string]any) {
		return func(s map[string]any) {
			at := s
			names := strings.Split(path, ".")
			for _, n := range names[:len(names)-1] {
				next, ok := at[n].(map[string]any)
				if !ok {
					next = map[string]any{}
					at[n] = next
				}
				at = next
			}
			at[names[len(names)-1]] = v
		}
	}
	mount := func(m map[string]any) func(map[string]any) { return set("mounts", []any{m}) }
	for _, test := range []struct {
		name string
		raw  string
		edit func(map[string]any)
		args []string
		says string // part of the sentence, a regular expression
		code int
	}{
		{name: "empty file", raw: "\x00", says: "config.json"},
		{name: "cut off", raw: `{"ociVersion": "1.0.2", "root": {"path`, says: "config.json: .*unexpected end"},
		{name: "no object", raw: `[1, 2]`, says: "config.json.*array"},
		{name: "rubbish", raw: "\x7fELF\x02", says: "config.json.*invalid character"},
		{name: "deep", raw: strings.Repeat("[", 100000), says: "config.json"},
		{name: "text for a number", edit: set("process.user.uid", "root"), says: "uid"},
		{name: "negative uid", edit: set("process.user.uid", -1), says: "uid"},
		{name: "number for args", edit: set("process.args", 5), says: "args"},
		{name: "no args", edit: set("process.args", []string{}), says: "process.args"},
		{name: "no process", edit: func(s map[string]any) { delete(s, "process") }, says: "process"},
		{name: "empty argument 0", edit: set("process.args", []string{""}), says: "args"},
		{name: "NUL in an argument", edit: set("process.args", []string{"true", "a\x00b"}), says: "args"},
		{name: "NUL in the environment", edit: set("process.env", []string{"A=\x00"}), says: "env"},
		{name: "relative cwd", edit: set("process.cwd", "tmp"), says: "cwd"},
		{name: "unknown capability", edit: set("process.capabilities.effective", []string{"CAP_FLY"})}, /* as other runtimes do: a newer engine may know more */
		{name: "unknown limit", edit: set("process.rlimits", []any{map[string]any{"type": "RLIMIT_FUN", "soft": 1, "hard": 1}}), says: "RLIMIT_FUN"},
		{name: "soft above hard", edit: set("process.rlimits", []any{map[string]any{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}}), says: "rlimits.*above"},
		{name: "no root", edit: func(s map[string]any) { delete(s, "root") }, says: "root"},
		{name: "root is a file", edit: set("root.path", "config.json"), says: "root.path.*not a directory"},
		{name: "root is a link out", edit: set("root.path", "link"), says: "root.path.*(leads out|symlink|symbolic)"},
		{name: "unknown namespace", edit: set("linux.namespaces", []any{map[string]any{"type": "dream"}}), says: "dream"},
		{name: "relative destination", edit: mount(map[string]any{"destination": "x", "type": "tmpfs"})},
		{name: "unknown mount type", edit: mount(map[string]any{"destination": "/x", "type": "nonesuch"}), says: "nonesuch"},
		{name: "bad tmpfs option", edit: mount(map[string]any{"destination": "/x", "type": "tmpfs", "options": []string{"size=many"}}), says: "/x"},
		{name: "negative memory", edit: set("linux.resources.memory.limit", -5), says: "memory.limit -5"},
		{name: "memory for a page", edit: set("linux.resources.memory.limit", 4096), says: "cannot allocate memory", code: 126},
		{name: "text for a limit", edit: set("linux.resources.memory.limit", "1G"), says: "limit"},
		{name: "hook is relative", edit: set("hooks.prestart", []any{map[string]any{"path": "true"}}), says: "hook"},
		{name: "old version", edit: set("ociVersion", "9.9.9"), says: "ociVersion"},
		{name: "unknown fields", edit: set("vendor", map[string]any{"a": 1}), code: 0},
		{name: "cwd leads through a file", edit: set("process.cwd", "/bin/true/x"), says: "/bin/true/x.*not a directory"},
		{name: "cwd is made", edit: set("process.cwd", "/new/dir"), code: 0},
		{name: "long argument", args: []string{"true", strings.Repeat("a", 200<<10)}, says: "exec \"true\": argument list too long", code: 126},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newRealHouse(t)
			os.Symlink("/etc", filepath.Join(h.bundle, "link"))
			args := test.args
			if args == nil {
				args = []string{"true"}
			}
			if h.spec(test.edit, args...); test.raw != "" {
				h.write(strings.TrimPrefix(test.raw, "\x00"))
			}
			r := h.run("run", "c")
			if test.says == "" {
				if r.code != test.code || r.stderr != "" {
					t.Errorf("%+v", r)
				}
				return
			}
			want := test.code
			if want == 0 {
				want = 1
			}
			if r.code != want || !oneSentence(r.stderr) || !regexp.MustCompile(test.says).MatchString(r.stderr) {
				t.Errorf("exit code %d, want %d, with a sentence with %q; it says %q", r.code, want, test.says, r.stderr)
			}
			if r := h.run("list", "-q"); r.stdout != "" {
				t.Errorf("left: %s", r.stdout)
			}
		})
	}
}

// header returns an ELF header for amd64, changed by edit.
func header(edit func(b []byte)) []byte {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)     // ET_EXEC
	le.PutUint16(b[18:], 62)    // EM_X86_64
	le.PutUint32(b[20:], 1)     // version
	le.PutUint64(b[24:], 1<<22) // entry
	le.PutUint64(b[32:], 64)    // program headers
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	p := b[64:]
	le.PutUint32(p, 1) // PT_LOAD
	le.PutUint32(p[4:], 5)
	le.PutUint64(p[16:], 1<<22)
	le.PutUint64(p[32:], uint64(len(b)))
	le.PutUint64(p[40:], uint64(len(b)))
	le.PutUint64(p[48:], 4096)
	edit(b)
	return b
}

// A program may be anything too.
func TestBadPrograms(t *testing.T) {
	le := binary.LittleEndian
	h := newRealHouse(t)
	busybox, err := os.ReadFile(filepath.Join(h.bundle, "rootfs/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	const format = "exec format error"
	for _, test := range []struct {
		name string
		text []byte
		mode uint32
		says string
		code int
	}{
		{name: "empty", says: format, code: 126},
		{name: "text", text: []byte("hello\n"), says: format, code: 126},
		{name: "half a header", text: busybox[:40], says: format, code: 126},
		{name: "header only", text: busybox[:64], says: "(" + format + "|input/output error)", code: 126},
		{name: "aarch64", text: header(func(b []byte) { le.PutUint16(b[18:], 183) }), says: format, code: 126},
		{name: "i386", text: header(func(b []byte) { le.PutUint16(b[18:], 3) }), says: format, code: 126},
		{name: "relocatable", text: header(func(b []byte) { le.PutUint16(b[16:], 1) }), says: format, code: 126},
		{name: "headers beyond the end", text: header(func(b []byte) { le.PutUint64(b[32:], 1<<40) }), says: "exec", code: 126},
		{name: "headers beyond all", text: header(func(b []byte) { le.PutUint64(b[32:], ^uint64(0)) }), says: "exec", code: 126},
		{name: "many headers", text: header(func(b []byte) { le.PutUint16(b[56:], 65535) }), says: "exec", code: 126},
		{name: "interpreter missing", text: []byte("#!/nonesuch\n"), says: "no such file", code: 127},
		{name: "interpreter is a directory", text: []byte("#!/bin\n"), says: "permission denied", code: 126},
		{name: "interpreter is itself", text: []byte("#!/bin/bad\n"), says: "exec", code: 126},
		{name: "no interpreter", text: []byte("#!\n"), says: format, code: 126},
		{name: "not executable", text: busybox, mode: 0o644, says: "permission denied", code: 126},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(h.bundle, "rootfs/bin/bad")
			os.Remove(path)
			if test.mode == 0 {
				test.mode = 0o755
			}
			if err := os.WriteFile(path, test.text, os.FileMode(test.mode)); err != nil {
				t.Fatal(err)
			}
			h.spec(nil, "/bin/bad")
			if r := h.run("run", "c"); r.code != test.code || !oneSentence(r.stderr) || !regexp.MustCompile(test.says).MatchString(r.stderr) {
				t.Errorf("exit code %d, want %d, with a sentence with %q; it says %q", r.code, test.code, test.says, r.stderr)
			}
			if left := h.run("list", "-q").stdout; left != "" {
				t.Errorf("left: %s", left)
			}
		})
	}
	// Linux begins to load these, and they end by a signal: as they run, or before.
	for name, text := range map[string][]byte{
		"cut off":                     busybox[:len(busybox)/2],
		"cut off early":               busybox[:5000],
		"cut off late":                busybox[:len(busybox)-100_000],
		"entry nowhere":               header(func(b []byte) { le.PutUint64(b[24:], 0x123456789) }),
		"kernel address":              header(func(b []byte) { le.PutUint64(b[64+16:], 0xffff800000000000) }),
		"huge segment":                header(func(b []byte) { le.PutUint64(b[64+40:], 1<<62) }),
		"file part above memory part": header(func(b []byte) { le.PutUint64(b[64+32:], 1<<20) }),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(h.bundle, "rootfs/bin/bad")
			os.Remove(path)
			os.WriteFile(path, text, 0o755)
			cmd := exec.Command(path)
			if err := cmd.Run(); cmd.ProcessState == nil {
				t.Fatal(err)
			}
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() {
				t.Fatalf("on the host: %v", cmd.ProcessState)
			}
			h.spec(nil, "/bin/bad")
			if r := h.run("run", "c"); r.code != 128+int(status.Signal()) {
				t.Errorf("on the host %v, here %+v", status.Signal(), r)
			}
		})
	}
}

// Every resource may be limited to nothing: the process may die of it, and the
// sandbox doesn't.
func TestRlimitsOfZero(t *testing.T) {
	h := newRealHouse(t)
	for _, name := range []string{"AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK"} {
		t.Run(name, func(t *testing.T) {
			h.spec(asRoot(func(s map[string]any) {
				s["process"].(map[string]any)["rlimits"] = []any{map[string]any{"type": "RLIMIT_" + name, "soft": 0, "hard": 0}}
			}), "sh", "-c", "echo alive; echo x > /tmp/x; true | true; exit 3")
			r := h.run("run", "c")
			if r.code == 1 && !oneSentence(r.stderr) || strings.Contains(r.stderr, "sentry") {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A container that has used up its memory loses the process that wants more, by
// SIGKILL; the others go on.
func TestMemoryLimit(t *testing.T) {
	h := newRealHouse(t)
	h.spec(asRoot(func(s map[string]any) {
		s["linux"].(map[string]any)["resources"] = map[string]any{"memory": map[string]any{"limit": 64 << 20}}
	}), "sh", "-c", `busybox sleep 1000 & other=$!
		tail /dev/zero; echo tail $?
		dd if=/dev/zero of=/tmp/x bs=1M count=100 2>/dev/null; echo dd $?; rm /tmp/x
		dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo read $?
		kill -0 $other && echo other alive; head -c 30m /dev/zero | tail -c 1 | wc -c`)
	r := h.run("run", "c")
	out := regexp.MustCompile(`^tail 137\ndd (137|1)\nread 137\nother alive\n1\n$`)
	if r.code != 0 || !out.MatchString(r.stdout) {
		t.Errorf("%+v", r)
	}
}

// A fork bomb gets as many processes as it may have; commands go on working.
func TestForkBomb(t *testing.T) {
	h := newRealHouse(t)
	h.spec(asRoot(func(s map[string]any) {
		s["linux"].(map[string]any)["resources"] = map[string]any{"pids": map[string]any{"limit": 50}}
	}), "sh", "-c", `sh -c "while :; do sleep 1000 & done" 2>/dev/null; sleep 1000 & exec cat /fifo`)
	h.must("run", "-d", "c")
	// The one that forks ends when it can't, which makes room for the last one.
	eventually(t, "there are 50 that stay", func() bool {
		out := h.run("ps", "c").stdout
		return strings.Count(out, "\n") == 51 && regexp.MustCompile(`:\d\d +cat /fifo\n`).MatchString(out)
	})
	if r := h.run("exec", "c", "true"); r.code != 1 || !oneSentence(r.stderr) || !strings.Contains(r.stderr, "as many processes") {
		t.Errorf("exec: %+v", r)
	}
	if s := h.status("c"); s != "running" {
		t.Errorf("status %s", s)
	}
	h.must("kill", "c", "KILL")
	if out := h.must("wait", "c"); out != "137\n" {
		t.Errorf("wait: %s", out)
	}
}

// A host file system that is full is the application's ENOSPC.
func TestFullDisk(t *testing.T) {
	h := newRealHouse(t)
	disk := filepath.Join(h.bundle, "disk")
	os.Mkdir(disk, 0o777)
	if err := unix.Mount("small", disk, "tmpfs", 0, "size=1m,nr_inodes=20"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	h.spec(asRoot(func(s map[string]any) {
		s["mounts"] = append(s["mounts"].([]any), map[string]any{"destination": "/disk", "type": "bind", "source": disk, "options": []string{"rw"}})
	}), "sh", "-c", `dd if=/dev/zero of=/disk/big bs=64k count=100; echo $?; rm /disk/big
		for i in $(seq 30); do touch /disk/f$i || break; done; echo $i; mkdir /disk/d; echo $?; rm /disk/f*; echo fine > /disk/g; cat /disk/g`)
	r := h.run("run", "c")
	if r.code != 0 || !regexp.MustCompile(`^1\n[12]\d\n1\nfine\n$`).MatchString(r.stdout) || strings.Count(r.stderr, "No space left on device") != 3 {
		t.Errorf("%+v", r)
	}
	if b, err := os.ReadFile(disk + "/g"); string(b) != "fine\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// families returns the sentry and the gofer of a container by their command
// lines.
func (h *house) families(t *testing.T) (sentry, gofer string) {
	t.Helper()
	for _, p := range h.processes() {
		dir, cmdline, _ := strings.Cut(p, " ")
		switch filepath.Base(strings.Fields(cmdline)[0]) {
		case "sentry":
			sentry = dir
		case "gofer":
			gofer = dir
		}
	}
	if sentry == "" || gofer == "" {
		t.Fatalf("processes: %q", h.processes())
	}
	return sentry, gofer
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fields reads a file of "name: value" lines.
func fields(t *testing.T, path string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, line := range strings.Split(string(mustRead(t, path)), "\n") {
		k, v, _ := strings.Cut(line, ":")
		m[k] = strings.TrimSpace(v)
	}
	return m
}

// descendants are the /proc directories of all processes below one.
func descendants(t *testing.T, dir string) []string {
	t.Helper()
	of := map[string][]string{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		b, err := os.ReadFile(p + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		of["/proc/"+f[1]] = append(of["/proc/"+f[1]], p)
	}
	var found []string
	for queue := []string{dir}; len(queue) > 0; queue = queue[1:] {
		found = append(found, of[queue[0]]...)
		queue = append(queue, of[queue[0]]...)
	}
	return found
}

// Whoever of the family is killed at whatever time: nobody stays, every command
// says why in a sentence, and delete removes the rest.
func TestFamilyKilled(t *testing.T) {
	for _, who := range []string{"sentry", "gofer", "stub"} {
		for _, stage := range []string{"created", "running"} {
			t.Run(who+" while "+stage, func(t *testing.T) {
				h := newRealHouse(t)
				h.spec(nil, "sleep")
				h.must("create", "c")
				if stage == "running" {
					h.must("start", "c")
				}
				sentry, gofer := h.families(t)
				stubs := descendants(t, sentry)
				victim := map[string]string{"sentry": sentry, "gofer": gofer, "stub": stubs[len(stubs)-1]}[who]
				pid, _ := strconv.Atoi(filepath.Base(victim))
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if who == "sentry" {
					eventually(t, "no process is left", func() bool { return len(h.processes()) == 0 })
					if s := h.status("c"); s != "stopped" {
						t.Errorf("status is %s", s)
					}
				}
				for _, args := range [][]string{{"exec", "c", "true"}, {"start", "c"}, {"kill", "c", "KILL"}, {"state", "c"}, {"list"}, {"ps", "c"}} {
					start := time.Now()
					if r := h.run(args...); r.code != 0 && !oneSentence(r.stderr) {
						t.Errorf("%s of %s: %+v after %s", who, args, r, time.Since(start))
					}
				}
				h.must("delete", "--force", "c")
				for _, p := range slices.Concat([]string{sentry, gofer}, stubs) {
					eventually(t, fmt.Sprint(p, " is gone"), func() bool {
						b, err := os.ReadFile(p + "/stat")
						return err != nil || bytes.Contains(b, []byte(") Z ")) || bytes.Contains(b, []byte(") X "))
					})
				}
			})
		}
	}
}

// Binding a tree into itself doubles the mounts each time: there is an end to
// it, soon, and all of them can be taken away again.
func TestMountsOfMounts(t *testing.T) {
	h := newRealHouse(t)
	h.spec(asRoot(func(s map[string]any) {
		caps := []string{"CAP_SYS_ADMIN"}
		s["process"].(map[string]any)["capabilities"] = map[string]any{"bounding": caps, "effective": caps, "permitted": caps}
	}), "sh", "-c", `mkdir /x; n=0; while mount -o rbind / /x && test $n -lt 40; do n=$((n+1)); done; test $n -lt 20 && echo full
		while umount -l /x 2>/dev/null; do :; done; mount -t tmpfs t /x && echo room`)
	if r := h.run("run", "c"); r.code != 0 || r.stdout != "full\nroom\n" || !strings.Contains(r.stderr, "No space left") {
		t.Errorf("%+v", r)
	}
}
