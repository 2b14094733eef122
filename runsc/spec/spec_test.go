package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
)

// valid is the least that is accepted, with a place for more.
func valid(more string) string {
	return `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["a"],"cwd":"/"}` + more + `}`
}

func TestParse(t *testing.T) {
	for _, test := range []struct{ name, config, err string }{
		{"least", valid(""), ""},
		{"unknown fields", valid(`,"novelty":{"x":1},"linux":{"novelty":2}`), ""},
		{"not JSON", "{\n\n x}", "line 3 is no JSON"},
		{"empty", "", "line 1 is no JSON"},
		{"wrong type", valid(`,"hostname":5`), "hostname has a JSON number where string is expected"},
		{"wrong type, deep", `{"ociVersion":"1.0.0","process":{"args":"sh"}}`, "process.args has a JSON string where []string is expected"},
		{"no version", `{}`, "ociVersion is missing"},
		{"bad version", `{"ociVersion":"one"}`, `ociVersion "one" is not a version`},
		{"other version", `{"ociVersion":"2.0.0"}`, `ociVersion "2.0.0" is not supported`},
		{"no root", `{"ociVersion":"1.0.0"}`, "root is missing"},
		{"no root path", `{"ociVersion":"1.0.0","root":{}}`, "root.path is missing"},
		{"no process", `{"ociVersion":"1.0.0","root":{"path":"r"}}`, "process is missing"},
		{"no args", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/"}}`, "process.args is empty"},
		{"no cwd", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["a"]}}`, "process.cwd is missing"},
		{"relative cwd", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["a"],"cwd":"b"}}`, `process.cwd "b" is not an absolute path`},
		{"rlimit", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_X"}]}}`, `process.rlimits[0].type "RLIMIT_X" is unknown`},
		{"windows", valid(`,"windows":{}`), "windows is not supported"},
		{"mount without destination", valid(`,"mounts":[{"type":"proc"}]`), "mounts[0].destination is missing"},
		{"mount with ..", valid(`,"mounts":[{"destination":"/a/../b","type":"proc"}]`), `mounts[0].destination "/a/../b" has a ".."`},
		{"mount of unknown type", valid(`,"mounts":[{"destination":"/a","type":"ext4"}]`), `mounts[0].type: file system "ext4" is not supported`},
		{"bind without source", valid(`,"mounts":[{"destination":"/a","type":"bind"}]`), "mounts[0].source of a bind mount is missing"},
		{"bind with data", valid(`,"mounts":[{"destination":"/a","type":"bind","source":"/","options":["size=1"]}]`), `"size=1" is not an option of a bind mount`},
		{"idmap", valid(`,"mounts":[{"destination":"/a","type":"bind","source":"/","options":["idmap"]}]`), `"idmap" is not supported`},
		{"namespace twice", valid(`,"linux":{"namespaces":[{"type":"pid"},{"type":"pid"}]}`), "linux.namespaces[1].type pid is there twice"},
		{"unknown namespace", valid(`,"linux":{"namespaces":[{"type":"x"}]}`), `linux.namespaces[0].type "x" is unknown`},
		{"id maps without user namespace", valid(`,"linux":{"uidMappings":[{"size":1}]}`), "need a namespace of type user"},
		{"hook", valid(`,"hooks":{"poststop":[{"path":"x"}]}`), `hooks.poststop[0].path "x" is not an absolute path`},
		{"hook timeout", valid(`,"hooks":{"prestart":[{"path":"/x","timeout":0}]}`), "hooks.prestart[0].timeout 0 is not above 0"},
		{"intelRdt", valid(`,"linux":{"intelRdt":{}}`), "linux.intelRdt is not supported"},
		{"seccomp", valid(`,"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}`), ""},
		{"device", valid(`,"linux":{"devices":[{"path":"/dev/x","type":"x"}]}`), `linux.devices[0].type "x" is not one of c, b, u, p`},
		{"hostname without uts", valid(`,"hostname":"h","linux":{}`), "hostname needs a namespace of type uts"},
		{"hostname without linux", valid(`,"hostname":"h"`), "hostname needs a namespace of type uts"},
		{"domainname without uts", valid(`,"domainname":"d","linux":{}`), "domainname needs a namespace of type uts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse([]byte(test.config))
			switch {
			case test.err == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.err != "" && err == nil:
				t.Errorf("accepted; want %q", test.err)
			case test.err != "" && !strings.Contains(err.Error(), test.err):
				t.Errorf("error is %q, want %q", err, test.err)
			case err != nil && strings.Contains(err.Error(), "\n"):
				t.Errorf("error has several lines: %q", err)
			}
		})
	}
}

func TestValidateID(t *testing.T) {
	for id, ok := range map[string]bool{
		"a": true, "A-1_b.c+d": true, "": false, ".": false, "..": false, "-a": false, "a/b": false, "a b": false,
		"a\x00": false, "é": false, strings.Repeat("a", 246): true, strings.Repeat("a", 247): false,
	} {
		if err := ValidateID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// The bits are those of capabilities(7).
func TestCapabilityMask(t *testing.T) {
	mask, unknown := CapabilityMask([]string{"CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE", "CAP_X", "KILL"})
	if mask != 1<<unix.CAP_CHOWN|1<<unix.CAP_KILL|1<<unix.CAP_CHECKPOINT_RESTORE {
		t.Errorf("mask is %x", mask)
	}
	if strings.Join(unknown, " ") != "CAP_X KILL" {
		t.Errorf("unknown are %v", unknown)
	}
}

func bundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTranslate(t *testing.T) {
	dir := bundle(t)
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Parse([]byte(`{"ociVersion":"1.0.2","root":{"path":"rootfs","readonly":true},
		"process":{"args":["a"],"cwd":"/x/","user":{"uid":1,"gid":2,"additionalGids":[3]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],
			"capabilities":{"effective":["CAP_KILL"]},"consoleSize":{"height":3,"width":4}},
		"mounts":[{"destination":"proc","type":"proc","source":"proc","options":["nosuid","ro","rw","hidepid=2","rprivate"]},
			{"destination":"/d/","source":"data","options":["rbind","ro"]}],
		"linux":{"namespaces":[{"type":"pid"},{"type":"ipc","path":"/proc/5/ns/ipc"},{"type":"network","path":"/proc/6/ns/net"}],
			"resources":{"memory":{"limit":7},"pids":{"limit":8}},"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"},
			"maskedPaths":["/m"],"readonlyPaths":["/r"],"sysctl":{"a.b":"c"},"devices":[{"path":"/dev/x","type":"u","major":1,"minor":2}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Translate(s, Options{ID: "i", Bundle: dir, Overlay: OverlayRoot, JoinContainer: func(path string) string {
		if path == "/proc/5/ns/ipc" {
			return "pause"
		}
		return ""
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	a := p.Args
	if a.ID != "i" || !a.RootReadonly || a.RootOverlay != control.OverlayMemory {
		t.Errorf("container: %+v", a)
	}
	i := a.Init
	if i.Cwd != "/x" || i.User.UID != 1 || i.User.GID != 2 || i.User.AdditionalGIDs[0] != 3 || i.Capabilities.Effective != 1<<unix.CAP_KILL ||
		i.Rlimits[0] != (control.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 2}) || i.ConsoleRows != 3 || i.ConsoleCols != 4 {
		t.Errorf("process: %+v", i)
	}
	m := a.Mounts[0]
	if m.Destination != "/proc" || m.Flags != unix.MS_NOSUID || len(m.Data) != 1 || m.Data[0] != "hidepid=2" {
		t.Errorf("first mount: %+v", m)
	}
	m = a.Mounts[1]
	if m.Destination != "/d" || m.Type != "bind" || m.Source != filepath.Join(dir, "data") || m.Flags != unix.MS_RDONLY || !m.Shared {
		t.Errorf("second mount: %+v", m)
	}
	if len(p.Attach) != 2 || p.Attach[0].Mount != -1 || !p.Attach[0].ReadOnly || p.Attach[1].Mount != 1 || !p.Attach[1].ReadOnly {
		t.Errorf("attached: %+v", p.Attach)
	}
	if a.Namespaces[1].Join != "pause" || a.Namespaces[2].Join != "" || a.Resources.MemoryLimit != 7 || a.Resources.PidsLimit != 8 {
		t.Errorf("namespaces, resources: %+v %+v", a.Namespaces, a.Resources)
	}
	if d := a.Devices[0]; d.Type != 'c' || d.Major != 1 || d.Minor != 2 || d.Mode != 0o666 {
		t.Errorf("device: %+v", d)
	}
	if len(p.Warnings) != 1 { // the host's network namespace
		t.Errorf("warnings: %q", p.Warnings)
	}
}

func TestRootMayNotLeadOutOfTheBundle(t *testing.T) {
	dir := bundle(t)
	if err := os.Symlink("/", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("rootfs", filepath.Join(dir, "in")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"out": "leads out of the bundle", "in": "", "rootfs": "", "out/etc": "leads out of the bundle", "config": "no such file", "/": ""} {
		f, _, err := openRoot(path, dir)
		if err == nil {
			f.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

func TestExampleIsValid(t *testing.T) {
	b, err := json.Marshal(Example([]string{"sh"}, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(b); err != nil {
		t.Error(err)
	}
}

// No config.json makes the parser panic, and none that it accepts makes the
// translation panic.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(valid("")))
	example, _ := json.Marshal(Example([]string{"sh"}, "/"))
	f.Add(example)
	f.Add([]byte(valid(`,"hooks":{"prestart":[{"path":"/x"}]},"linux":{"resources":{"pids":{"limit":1}},"devices":[{"path":"/d","type":"c"}]}`)))
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		s.Root.Path = "rootfs"
		var mounts []specs.Mount
		for _, m := range s.Mounts {
			if m.Source == "" || !strings.HasPrefix(m.Source, "/") {
				mounts = append(mounts, m)
			}
		}
		s.Mounts = mounts
		if p, err := Translate(s, Options{ID: "i", Bundle: dir, Overlay: OverlayAll}); err == nil {
			p.Close()
		}
	})
}
