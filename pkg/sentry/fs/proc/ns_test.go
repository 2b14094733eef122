package proc

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
)

func TestNamespaceLinksOpenNamespaces(t *testing.T) {
	m := newMachine(t, Options{})
	names, err := m.ReadDir("/proc/self/ns")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names[2:] {
		name, _, _ := strings.Cut(n, " ")
		link, err := m.Readlink("/proc/self/ns/" + name)
		kind, _, _ := strings.Cut(name, "_")
		var ino uint64
		if _, e := fmt.Sscanf(link, kind+":[%d]", &ino); err != nil || e != nil || ino < 4026531835 {
			t.Errorf("%s leads to %q, %v", name, link, err)
		}
		theirs, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil || theirs[:len(kind)+2] != link[:len(kind)+2] {
			t.Errorf("the host's %s leads to %q, %v", name, theirs, err)
		}
		f, err := m.OpenFile("/proc/self/ns/"+name, unix.O_RDONLY, 0)
		if err != nil {
			t.Errorf("opening %s: %v", name, err)
			continue
		}
		ns, ok := NamespaceOf(f)
		if st := f.InodeID(); !ok || st != ino {
			t.Errorf("%s: inode %d, %v", name, st, ok)
		}
		if got, err := f.Ioctl(m.Ctx, unix.NS_GET_NSTYPE, 0); got != ns.Flag || err != nil {
			t.Errorf("%s: type %#x, %v", name, got, err)
		}
		f.DecRef()
	}
	f, err := m.OpenFile("/proc/self/ns/uts", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.DecRef()
	if ns, ok := NamespaceOf(f); !ok || ns.Flag != unix.CLONE_NEWUTS || ns.Object != any(m.task.Namespaces().UTS) {
		t.Errorf("uts is %+v, %v", ns, ok)
	}
	// setns(2) takes it.
	n, ok := f.Impl().(kernel.NamespaceFile)
	if !ok {
		t.Fatal("the open file isn't a NamespaceFile")
	}
	if err := m.task.SetNamespace(n.Namespace(), unix.CLONE_NEWUTS); err != nil {
		t.Errorf("entering the namespace: %v", err)
	}
	v, err := m.OpenFile("/proc/version", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.DecRef()
	if _, ok := NamespaceOf(v); ok {
		t.Error("/proc/version is a namespace")
	}
}

// TestPIDNamespacesSeeThemselves looks at a namespace's own /proc, and from above.
func TestPIDNamespacesSeeThemselves(t *testing.T) {
	m := newMachine(t, Options{})
	id, _ := m.fork(unix.CLONE_NEWPID)
	if got := m.read(fmt.Sprintf("/proc/%d/status", id)); !strings.Contains(got, fmt.Sprintf("NSpid:\t%d\t1\n", id)) ||
		!strings.Contains(got, "PPid:\t1\n") {
		t.Errorf("from above its status is %q", got)
	}
	inner := m.k.RootPIDNS.Task(id).PIDNamespace()
	p, err := New(m.k, inner, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Mkdir("/inner", 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := m.Resolve("/inner", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.NS.MountAt(at, p, "proc", 0); err != nil {
		t.Fatal(err)
	}
	if got := m.read("/inner/1/status"); !strings.Contains(got, "\nPid:\t1\nPPid:\t0\n") || !strings.Contains(got, "NSpid:\t1\n") {
		t.Errorf("from within its status is %q", got)
	}
	if _, err := m.Readlink("/inner/self"); err != unix.ENOENT {
		t.Errorf("self for one from outside: %v", err)
	}
	if _, err := m.Stat(fmt.Sprintf("/inner/%d", id)); id != 1 && err != unix.ENOENT {
		t.Errorf("a number from outside: %v", err)
	}
}

func TestIDMapsFollowTheManual(t *testing.T) {
	m := newMachine(t, Options{})
	if got, want := m.read("/proc/self/uid_map"), host(t, "/proc/self/uid_map"); got != want && strings.Contains(want, "4294967295") {
		t.Errorf("the first namespace's map is %q, want %q", got, want)
	}
	if err := m.write("/proc/self/uid_map", "0 0 1"); err != unix.EPERM {
		t.Errorf("setting the first namespace's map: %v", err)
	}
	m.as(1000)
	if err := m.task.Unshare(unix.CLONE_NEWUSER); err != nil {
		t.Fatal(err)
	}
	for data, want := range map[string]error{
		"0 0 1":                 unix.EPERM,  // not his own
		"0 1000 2":              unix.EPERM,  // more than his own
		"0 1000 0":              unix.EINVAL, // empty
		"0 1000":                unix.EINVAL,
		"0 1000 1 1":            unix.EINVAL,
		"0 1000 1\n0 2000 1":    unix.EINVAL, // overlap
		"0 1000 1\n5 1000 1":    unix.EINVAL,
		"0 4294967295 1":        unix.EINVAL,
		"1 0 4294967295":        unix.EINVAL,
		"-1 1000 1":             unix.EINVAL,
		"0 1000 1\n\n1 1001 1":  unix.EINVAL,
		"0 1000 1\n1 1001 1":    unix.EPERM,
		strings.Repeat("x", 99): unix.EINVAL,
	} {
		if err := m.write("/proc/self/uid_map", data); err != want {
			t.Errorf("%q: %v, want %v", data, err, want)
		}
	}
	if err := m.write("/proc/self/uid_map", "0 1000 1\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.write("/proc/self/uid_map", "0 1000 1\n"); err != unix.EPERM {
		t.Errorf("setting the map twice: %v", err)
	}
	if got := m.read("/proc/self/uid_map"); got != "         0       1000          1\n" {
		t.Errorf("the map is %q", got)
	}
	if err := m.write("/proc/self/gid_map", "0 1000 1"); err != unix.EPERM {
		t.Errorf("a gid map while setgroups is allowed: %v", err)
	}
	if err := m.write("/proc/self/setgroups", "deny"); err != nil || m.read("/proc/self/setgroups") != "deny\n" {
		t.Errorf("setgroups: %v", err)
	}
	if err := m.write("/proc/self/setgroups", "allow"); err != unix.EPERM {
		t.Errorf("allowing setgroups again: %v", err)
	}
	if err := m.write("/proc/self/gid_map", "0 1000 1"); err != nil {
		t.Error(err)
	}
	if got := m.read("/proc/self/status"); !strings.Contains(got, "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n") {
		t.Errorf("within, the status is %q", got)
	}
	if got := m.task.Credentials().EUID; got != auth.KUID(1000) {
		t.Errorf("it is user %d", got)
	}
}

// TestIDRangesLieInOneLineOfTheParent maps ids in a namespace whose parent has a
// hole between two lines.
func TestIDRangesLieInOneLineOfTheParent(t *testing.T) {
	m := newMachine(t, Options{})
	unshare := func() {
		t.Helper()
		if err := m.task.Unshare(unix.CLONE_NEWUSER); err != nil {
			t.Fatal(err)
		}
	}
	unshare()
	outer := m.task.Credentials().UserNS
	if err := outer.SetUIDMap([]auth.IDMap{{First: 0, ParentFirst: 0, Length: 1}, {First: 2, ParentFirst: 2, Length: 8}}); err != nil {
		t.Fatal(err)
	}
	unshare()
	// Only one who is privileged in the parent may map more than himself.
	inner := m.task.Credentials().UserNS
	c := m.task.Credentials().Fork()
	c.UserNS = outer
	ctx := &outsider{reader{m.task}, c}
	for data, want := range map[string]error{"0 0 3": unix.EPERM, "0 1 1": unix.EPERM, "0 3 8": unix.EPERM, "0 2 9": unix.EPERM} {
		if err := setIDMap(m.task, ctx, data, false); err != want {
			t.Errorf("%q: %v, want %v", data, err, want)
		}
	}
	if err := setIDMap(m.task, ctx, "0 2 8\n9 0 1", false); err != nil {
		t.Error(err)
	}
	if got := inner.UID(2); got != 0 {
		t.Errorf("user 2 is %d within", got)
	}
}

func TestThreadsAreListedInTask(t *testing.T) {
	m := newMachine(t, Options{})
	const thread = unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_FS
	id, _ := m.fork(thread)
	names, err := m.ReadDir("/proc/self/task")
	if want := []string{". 4", ".. 4", "1 4", fmt.Sprintf("%d 4", id)}; err != nil || !slices.Equal(names, want) {
		t.Errorf("threads are %q, %v", names, err)
	}
	if names, _ := m.ReadDir("/proc"); slices.Contains(names, fmt.Sprintf("%d 4", id)) {
		t.Error("a thread is listed in /proc")
	}
	for _, dir := range []string{"/proc/1/task/", "/proc/"} {
		got := m.read(fmt.Sprintf("%s%d/status", dir, id))
		if !strings.Contains(got, fmt.Sprintf("Tgid:\t1\nNgid:\t0\nPid:\t%d\n", id)) || !strings.Contains(got, "Threads:\t2\n") {
			t.Errorf("a thread's status below %s is %q", dir, got)
		}
	}
	f := strings.Fields(m.read(fmt.Sprintf("/proc/self/task/%d/stat", id)))
	if f[37] != "-1" || f[19] != "2" {
		t.Errorf("a thread's stat is %q", f)
	}
	if _, err := m.Stat(fmt.Sprintf("/proc/self/task/%d/task", id)); err != unix.ENOENT {
		t.Errorf("task below a thread: %v", err)
	}
	if err := m.write(fmt.Sprintf("/proc/self/task/%d/comm", id), "worker"); err != nil {
		t.Error(err)
	}
	if got := m.read(fmt.Sprintf("/proc/%d/comm", id)); got != "worker\n" {
		t.Errorf("its name is %q", got)
	}
	m.task.ThreadGroup().Kill(kernel.ExitStatus{})
}

func TestReadersAndTasksAtOnce(t *testing.T) {
	m := newMachine(t, Options{})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			ctx := &reader{m.task}
			for {
				select {
				case <-done:
					return
				default:
				}
				walkAll(m, ctx)
			}
		})
	}
	for range 30 {
		_, end := m.fork(0)
		end()
		reap(t, m)
	}
	close(done)
	wg.Wait()
}

func TestLoadIsAnAverage(t *testing.T) {
	var l load
	got := l.update(60*second, 120*second) // two tasks ran for a minute
	for i, want := range []float64{2 * (1 - math.Exp(-1)), 2 * (1 - math.Exp(-0.2)), 2 * (1 - math.Exp(-60.0/900))} {
		if math.Abs(got[i]-want) > 1e-9 {
			t.Errorf("average %d is %v, want %v", i, got[i], want)
		}
	}
	if again := l.update(60*second+1, 120*second); again != got {
		t.Error("a reading right after another changes the averages")
	}
	if idle := l.update(3600*second, 120*second); idle[0] > 1e-9 || idle[2] > 0.1 {
		t.Errorf("after an idle hour the averages are %v", idle)
	}
}

func TestCPUInfoIsTheHosts(t *testing.T) {
	h, err := ReadHost()
	if err != nil {
		t.Fatal(err)
	}
	theirs, _, _ := strings.Cut(host(t, "/proc/cpuinfo"), "\n\n")
	var b bytes.Buffer
	h.cpuinfo(&b, 0, 3)
	ours := b.String()
	if got, want := keys(ours), keys(theirs); !slices.Equal(got, want) {
		t.Errorf("keys are %q, the host's %q", got, want)
	}
	if !strings.Contains(ours, "processor\t: 0\n") || !strings.HasSuffix(ours, "\n\n") {
		t.Errorf("a paragraph is %q", ours)
	}
	for _, line := range strings.Split(theirs, "\n") {
		if k, _, _ := strings.Cut(line, "\t"); slices.Contains([]string{"siblings", "cpu cores", "cpu MHz", "bogomips", "processor", "core id", "apicid", "initial apicid", "physical id"}, k) {
			continue
		}
		if !strings.Contains(ours, line+"\n") {
			t.Errorf("the host's line %q is missing", line)
		}
	}
	if h.Memory < 1<<20 {
		t.Errorf("memory is %d bytes", h.Memory)
	}
	m := newMachine(t, Options{Host: h})
	if n := strings.Count(m.read("/proc/cpuinfo"), "processor\t: "); n != 3 {
		t.Errorf("%d processors", n)
	}
	if !strings.Contains(m.read("/proc/meminfo"), fmt.Sprintf("MemTotal:       %8d kB\n", h.Memory>>10)) {
		t.Errorf("meminfo is %q", m.read("/proc/meminfo"))
	}
}

func TestAnAccountsLimitIsTheMemory(t *testing.T) {
	h, err := ReadHost()
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, Options{Host: h})
	m.acct.SetLimit(64 << 20)
	m.mountProc(Options{Host: h, Account: m.acct})
	if got := m.read("/proc/meminfo"); !strings.HasPrefix(got, "MemTotal:          65536 kB\n") {
		t.Errorf("meminfo begins %q", got[:60])
	}
}

// FuzzIDMap gives all that can be written to uid_map to its parser.
func FuzzIDMap(f *testing.F) {
	f.Add("0 1000 1\n")
	f.Add("0 0 4294967295")
	f.Add("5 5 5\n1 1 1\n")
	f.Fuzz(func(t *testing.T, data string) {
		m, err := parseIDMap(data)
		if err != nil {
			return
		}
		for i, a := range m {
			if a.Length == 0 || uint64(a.First)+uint64(a.Length) > math.MaxUint32 || uint64(a.ParentFirst)+uint64(a.Length) > math.MaxUint32 {
				t.Errorf("%q gives %v", data, a)
			}
			for _, b := range m[:i] {
				if a.First < b.First+b.Length && b.First < a.First+a.Length {
					t.Errorf("%q gives %v and %v, which overlap", data, a, b)
				}
			}
		}
	})
}
