package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// growers are kinds of test/hostile/grow.c that would make the Sentry grow as long as
// they are let: of each family one, and what would grow fastest.
var growers = []string{
	"files", "names", "symlinks", "rootfiles", "vmas", "manyvmas", "maps", "tasks", "fdtables", "eventfds", "openfiles", "locks", "bigpipes", "streams",
	"datagrams", "rights", "listeners", "sockets", "messages", "longmessages", "undos", "events", "epolls", "manytimers", "signals", "mounts",
	"mountspaces", "utsspaces", "users", "taskfilters", "groups", "arguments", "memfds", "xattrs", "deep",
}

// What an application makes of the Sentry's own memory counts towards its limit: it is
// refused more, or loses a process, and the Sentry goes on, no larger than the limit
// and the headroom that runsc leaves it in the host's cgroup.
func TestSentryStaysSmall(t *testing.T) {
	const limit, overhead = 64 << 20, 128 << 20
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc, for test/hostile/grow.c")
	}
	h := newRealHouse(t)
	log := filepath.Join(t.TempDir(), "log")
	h.flags = []string{"--debug", "--debug-log", log}
	t.Cleanup(func() {
		if t.Failed() { // who was killed, and why
			text, _ := os.ReadFile(log)
			t.Logf("the debug log ends with:\n%s", text[max(len(text)-20000, 0):])
		}
	})
	source := os.Getenv("GROW") // Bazel says where
	if source == "" {
		source = "../hostile/grow.c"
	}
	grow := filepath.Join(h.bundle, "rootfs", "grow")
	if out, err := exec.Command(cc, "-static", "-O1", "-w", "-o", grow, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer os.Remove(grow)
	h.spec(asRoot(func(s map[string]any) {
		s["hostname"] = "hostile"
		s["mounts"] = append(s["mounts"].([]any), map[string]any{"destination": "/proc", "type": "proc", "source": "proc"})
		caps := []string{"CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "CAP_SETGID", "CAP_KILL", "CAP_IPC_OWNER"}
		s["process"].(map[string]any)["capabilities"] = map[string]any{"bounding": caps, "effective": caps, "permitted": caps}
		s["linux"].(map[string]any)["resources"] = map[string]any{"memory": map[string]any{"limit": limit}}
	}), "sh", "-c", "exec cat /fifo")
	h.must("run", "-d", "c")
	for _, kind := range growers {
		r := h.run("exec", "c", "/grow", "-t", "3", kind)
		t.Log(kind, r.code, strings.TrimSpace(r.stdout))
		// It may be the one that is killed.
		if r.code != 137 && !regexp.MustCompile(`^`+kind+` \d+ (E[A-Z]+|killed by 9|time)\n$`).MatchString(r.stdout) {
			t.Errorf("%s: %+v", kind, r)
		}
		if s := h.status("c"); s != "running" {
			t.Fatalf("%s: the container is %s", kind, s)
		}
		// What it has left, others can't be refused for.
		if r := h.run("exec", "c", "echo", "fine"); r.stdout != "fine\n" {
			t.Errorf("after %s: %+v", kind, r)
		}
	}
	sentry, _ := h.families(t)
	status, err := os.ReadFile(filepath.Join("/proc", filepath.Base(sentry), "status"))
	if err != nil {
		t.Fatal(err)
	}
	peak, _ := strconv.Atoi(regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindStringSubmatch(string(status) + "VmHWM: 0 kB")[1])
	t.Logf("the sentry took %d MiB at most", peak>>10)
	if peak == 0 || peak<<10 > limit+overhead {
		t.Errorf("the sentry took %d KiB; the limit is %d, and %d above it are its own", peak, limit>>10, overhead>>10)
	}
}

// Where init wants a page and there is none left, it isn't init that dies, for another
// has more.
func TestInitOutlivesAFatterProcess(t *testing.T) {
	h := newRealHouse(t)
	h.spec(asRoot(func(s map[string]any) {
		s["mounts"] = append(s["mounts"].([]any), map[string]any{"destination": "/proc", "type": "proc", "source": "proc"})
		s["linux"].(map[string]any)["resources"] = map[string]any{"memory": map[string]any{"limit": 64 << 20}}
	}), "sh", "-c", `{ dd if=/dev/zero bs=45M count=1 2>/dev/null; echo dd $? >/tmp/dd; } | busybox sleep 1000 & 
		until [ "$(cut -d' ' -f2 /proc/$(pidof dd)/statm 2>/dev/null)" -gt 11000 ]; do :; done 2>/dev/null
		x=$(head -c 16m /dev/zero | tr '\0' x); echo init has ${#x}
		until [ -s /tmp/dd ]; do :; done; cat /tmp/dd`)
	if r := h.run("run", "c"); r.code != 0 || r.stdout != "init has 16777216\ndd 137\n" {
		t.Errorf("%+v", r)
	}
}
