package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// posture is what a process has of the host, as /proc shows it. What is equal for
// all threads stands there once.
type posture struct {
	// ids, capabilities and confinement by the names of /proc/PID/status, of all
	// threads.
	status string
	// own are the types of namespaces that aren't the test's.
	own  string
	root string // entries of the root directory
	cwd  string
	// mounts are lines of mountinfo from the root of each on, without numbers.
	mounts      []string
	environment []string // names
	cores       string   // the limit
	// files are what descriptors are of, sorted; connections have no names.
	files []string
}

// statusFields are the lines of /proc/PID/status that count.
var statusFields = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"}

// postureOf reads the posture of the process with the directory dir in /proc. names
// are regular expressions, and what is to stand in the list of files for what they
// match.
func postureOf(t *testing.T, dir string, names [][2]string) *posture {
	t.Helper()
	p := &posture{}
	tasks, err := filepath.Glob(dir + "/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("%s has no threads (%v)", dir, err)
	}
	for _, task := range tasks {
		f := fields(t, task)
		var line []string
		for _, name := range statusFields {
			line = append(line, name+" "+strings.Join(strings.Fields(f[name]), " "))
		}
		if status := strings.Join(line, ", "); p.status == "" {
			p.status = status
		} else if p.status != status {
			t.Errorf("%s: a thread has %s, another %s", dir, p.status, status)
		}
	}
	all, _ := filepath.Glob("/proc/self/ns/*")
	var own []string
	for _, file := range all {
		name := filepath.Base(file)
		ours, _ := os.Readlink(file)
		theirs, err := os.Readlink(dir + "/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if ours != theirs && !strings.HasSuffix(name, "_for_children") {
			own = append(own, name)
		}
	}
	p.own = strings.Join(own, " ")
	entries, err := os.ReadDir(dir + "/root/")
	p.root = fmt.Sprint(entries, err)
	p.cwd, _ = os.Readlink(dir + "/cwd")
	for _, line := range strings.Split(strings.TrimSpace(string(mustRead(t, dir+"/mountinfo"))), "\n") {
		_, rest, _ := strings.Cut(line, " / ")
		p.mounts = append(p.mounts, "/ "+rest)
	}
	for _, v := range bytes.Split(mustRead(t, dir+"/environ"), []byte{0}) {
		if name, _, _ := strings.Cut(string(v), "="); name != "" {
			p.environment = append(p.environment, name)
		}
	}
	slices.Sort(p.environment)
	for _, line := range strings.Split(string(mustRead(t, dir+"/limits")), "\n") {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			p.cores = strings.Join(strings.Fields(rest), " ")
		}
	}
	fds, _ := filepath.Glob(dir + "/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // closed meanwhile
		}
		for _, n := range names {
			if regexp.MustCompile("^(" + n[0] + ")$").MatchString(target) {
				target = n[1]
				break
			}
		}
		p.files = append(p.files, target)
	}
	slices.Sort(p.files)
	return p
}

// What a running sentry, its stubs and its gofer have of the host equals a list, on
// each platform. Whoever changes one of them changes the list, and has to say why.
func TestPosture(t *testing.T) {
	for _, test := range []struct {
		platform string
		// sentry and stub are the descriptors that the platform has beside those of
		// all, once and for each of n stubs.
		sentry, stub func(n int) []string
	}{
		{"ptrace", func(int) []string { return nil }, func(int) []string { return nil }},
		{"systrap", func(n int) []string {
			// What hears of the end of stubs and is told to stop doing so; for each stub
			// its process, and where it reports.
			return slices.Concat([]string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]"},
				slices.Repeat([]string{"anon_inode:[pidfd]", "anon_inode:[eventfd]"}, n))
		}, func(n int) []string {
			// Where each reports: stubs share their table of descriptors.
			return slices.Repeat([]string{"anon_inode:[eventfd]"}, n)
		}},
	} {
		t.Run(test.platform, func(t *testing.T) { testPosture(t, test.platform, test.sentry, test.stub) })
	}
}

func testPosture(t *testing.T, platform string, ofSentry, ofStub func(n int) []string) {
	h := newRealHouse(t)
	h.flags = []string{"--platform=" + platform}
	h.spec(asRoot(nil), "sh", "-c", "echo up; read x")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	hold, release, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer release.Close()
	cmd := h.command("run", "-d", "c")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = hold, w, null
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	hold.Close()
	if n, err := r.Read(make([]byte, 3)); n != 3 {
		t.Fatal(n, err)
	}
	sentry, gofer := h.families(t)

	none := "CapInh 0000000000000000, CapPrm 0000000000000000, CapEff 0000000000000000, CapBnd 0000000000000000, CapAmb 0000000000000000, NoNewPrivs 1, Seccomp 2, Seccomp_filters 1"
	nobody := "Uid 65534 65534 65534 65534, Gid 65534 65534 65534 65534, Groups , "
	jail := []string{"/ / ro,nosuid,nodev,noexec,relatime - tmpfs jail ro,size=4k,nr_inodes=2,mode=555,uid=65534,gid=65534"}
	sorted := func(files ...string) []string { slices.Sort(files); return files }
	// wanted is what there is with n stubs, beside the process that makes them.
	wanted := func(n int) map[string]*posture {
		return map[string]*posture{
			"sentry": {
				status: nobody + none, own: "ipc mnt net pid user uts", root: "[] <nil>", cwd: "/", mounts: jail, cores: "0 0 bytes",
				environment: []string{"GODEBUG", "GOMAXPROCS"},
				files: sorted(append(ofSentry(n),
					"/dev/null", "/dev/null", // standard input and output
					"/dev/null",                             // the container's standard error
					"/memfd:sentry-stderr (deleted)",        // standard error
					"/memfd:vitrine-memory (deleted)",       // all memory of applications
					"/memfd:vitrine-stub-control (deleted)", // what stubs are told by
					"anon_inode:[eventfd]",                  // of the Go runtime's poller
					"anon_inode:[eventpoll]",                // the Go runtime's
					"anon_inode:[eventpoll]",                // of the container's descriptors
					"pipe", "pipe",                          // the container's standard input and output
					"socket", "socket", "socket", "socket", // the line to runsc, control, the factory of stubs, the gofer
					"state/exit", // the exit status is written to it
					"tree/bin/busybox",
				)...),
			},
			"stub": {
				status: nobody + none, own: "ipc mnt net pid user uts", root: "[] <nil>", cwd: "/", mounts: jail, cores: "0 0 bytes",
				files: sorted(append(ofStub(n),
					"/memfd:vitrine-memory (deleted)", "/memfd:vitrine-stub (deleted)", "/memfd:vitrine-stub-control (deleted)",
					"socket", // where descriptors to map come from
					"tree/bin/busybox",
				)...),
			},
			"gofer": {
				// chown, dac_override, fowner, fsetid: what serving files of several owners takes.
				status: "Uid 0 0 0 0, Gid 0 0 0 0, Groups" + groups(t) + ", CapInh 0000000000000000, CapPrm 000000000000001b, CapEff 000000000000001b, " +
					"CapBnd 0000000000000000, CapAmb 0000000000000000, NoNewPrivs 1, Seccomp 2, Seccomp_filters 1",
				own: "ipc mnt net pid uts", root: "[] <nil>", cwd: "/", cores: "0 0 bytes",
				mounts:      []string{"/ / ro,nosuid,nodev,noexec,relatime - tmpfs vitrine-empty rw,size=4k,nr_inodes=2,mode=555"},
				environment: []string{"GODEBUG"},
				files: []string{
					"/",                // the directory of its own descriptors
					"/dev/null",        // standard error
					"socket",           // the sentry
					"tree",             // what it serves, and
					"tree",             // the sentry's handle of it
					"tree/bin/busybox", // others
				},
			},
		}
	}
	names := [][2]string{
		{`socket:.*`, "socket"}, {`pipe:.*`, "pipe"}, {regexp.QuoteMeta(filepath.Join(h.root, "c")) + `/exit`, "state/exit"},
		{regexp.QuoteMeta(filepath.Join(h.bundle, "rootfs")), "tree"},
		{regexp.QuoteMeta(filepath.Join(h.bundle, "rootfs")) + `/bin/(busybox|sh)`, "tree/bin/busybox"},
	}
	// differences says who has what it is not to have.
	differences := func() (all []string) {
		stubs := descendants(t, sentry)
		if len(stubs) < 2 {
			return []string{fmt.Sprintf("there are the stubs %q", stubs)}
		}
		want := wanted(len(stubs) - 1)
		for _, x := range []struct {
			who  string
			dirs []string
		}{{"sentry", []string{sentry}}, {"stub", stubs}, {"gofer", []string{gofer}}} {
			for _, dir := range x.dirs {
				if got, want := fmt.Sprintf("%+v", *postureOf(t, dir, names)), fmt.Sprintf("%+v", *want[x.who]); got != want {
					all = append(all, fmt.Sprintf("%s %s has\n%s\nand not\n%s", x.who, dir, got, want))
				}
			}
		}
		return all
	}
	// Connections of runsc's that are over, and threads and stubs that begin, take a
	// moment.
	var last []string
	for try := 0; try < 200; try++ {
		if last = differences(); len(last) == 0 {
			return
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 5e6}, nil)
	}
	for _, d := range last {
		t.Error(d)
	}
}

// groups are the test's own, in the form of /proc/PID/status.
func groups(t *testing.T) string {
	t.Helper()
	if list := strings.Join(strings.Fields(fields(t, "/proc/self/status")["Groups"]), " "); list != "" {
		return " " + list
	}
	return " "
}
