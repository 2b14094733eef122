package proc

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/kernel/kerneltest"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// keys returns what stands before the colons.
func keys(text string) (out []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if k, _, ok := strings.Cut(line, ":"); ok {
			out = append(out, k)
		}
	}
	return out
}

func host(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLinesAreThoseOfLinux compares the names of lines with the host's, whose
// Linux is newer: all that we have it has, in the same order.
func TestLinesAreThoseOfLinux(t *testing.T) {
	m := newMachine(t, Options{})
	// Lines that the host may be built without, and ours.
	optional := []string{"NFS_Unstable", "Bounce", "WritebackTmp", "HardwareCorrupted", "AnonHugePages", "KReclaimable",
		"HugetlbPages", "LazyFree", "ShmemPmdMapped", "FilePmdMapped", "CoreDumping", "Seccomp", "VmallocChunk"}
	for _, path := range []string{"/proc/self/status", "/proc/meminfo", "/proc/self/io", "/proc/self/limits", "/proc/self/smaps", "/proc/self/smaps_rollup"} {
		ours, theirs := keys(m.read(path)), keys(host(t, path))
		if strings.Contains(path, "smaps") {
			ours, theirs = slices.Compact(ours), slices.Compact(theirs)
			cut := func(all []string) []string {
				if i := slices.Index(all, "VmFlags"); i >= 0 {
					all = all[:i+1]
				}
				return all[1:] // the mapping itself
			}
			ours, theirs = cut(ours), cut(theirs)
		}
		i := 0
		for _, k := range ours {
			j := slices.Index(theirs[i:], k)
			if j < 0 {
				if !slices.Contains(optional, k) {
					t.Errorf("%s: the host has no line %q behind its %q", path, k, theirs[max(i-1, 0)])
				}
				continue
			}
			i += j + 1
		}
	}
	// What programs look for must be there.
	for path, want := range map[string][]string{
		"/proc/self/status": {"Name", "Umask", "State", "Tgid", "Pid", "PPid", "TracerPid", "Uid", "Gid", "FDSize", "Groups", "VmPeak",
			"VmSize", "VmLck", "VmHWM", "VmRSS", "VmData", "VmStk", "VmExe", "VmLib", "VmPTE", "VmSwap", "Threads", "SigQ", "SigPnd",
			"ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
			"Cpus_allowed", "Cpus_allowed_list", "Mems_allowed", "Mems_allowed_list", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"},
		"/proc/meminfo": {"MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal",
			"SwapFree", "Dirty", "Shmem", "Slab", "SReclaimable", "CommitLimit", "Committed_AS", "HugePages_Total", "Hugepagesize"},
	} {
		got := keys(m.read(path))
		for _, k := range want {
			if !slices.Contains(got, k) {
				t.Errorf("%s has no %s", path, k)
			}
		}
	}
}

// TestShapesAreThoseOfLinux compares lines with all digits and words made alike.
func TestShapesAreThoseOfLinux(t *testing.T) {
	m := newMachine(t, Options{})
	number := regexp.MustCompile(`\d+`)
	shape := func(s string) string { return number.ReplaceAllString(s, "0") }
	first := func(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }
	for _, path := range []string{"/proc/uptime", "/proc/loadavg", "/proc/self/statm", "/proc/self/cgroup", "/proc/self/oom_score_adj",
		"/proc/self/oom_score", "/proc/self/personality", "/proc/self/loginuid", "/proc/self/schedstat", "/proc/self/uid_map",
		"/proc/self/setgroups", "/proc/self/timerslack_ns", "/proc/self/limits", "/proc/swaps", "/proc/sys/kernel/printk",
		"/proc/sys/fs/file-nr", "/proc/sys/kernel/pid_max", "/proc/sys/kernel/sem", "/proc/sys/net/ipv4/ip_local_port_range",
		"/proc/net/route", "/proc/net/tcp", "/proc/net/udp", "/proc/net/dev", "/proc/net/unix", "/proc/net/arp", "/proc/net/tcp6",
		"/proc/net/udp6", "/proc/net/raw", "/proc/net/netlink"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Logf("the host has no %s", path)
			continue
		}
		ours, theirs := first(shape(m.read(path))), first(shape(string(b)))
		if path == "/proc/self/cgroup" {
			ours, theirs = ours[:2], theirs[:2]
		}
		if strings.TrimLeft(ours, " ") != strings.TrimLeft(theirs, " ") {
			t.Errorf("%s is like %q, the host's like %q", path, ours, theirs)
		}
	}
	all := m.read("/proc/self/limits")
	if got, want := len(strings.Split(all, "\n")), len(strings.Split(host(t, "/proc/self/limits"), "\n")); got != want {
		t.Errorf("limits has %d lines, the host's %d", got, want)
	}
	for i, l := range strings.Split(host(t, "/proc/self/limits"), "\n") {
		if ours := strings.Split(all, "\n")[i]; len(ours) != len(l) || len(l) > 25 && ours[:25] != l[:25] {
			t.Errorf("limits: %q, the host has %q", ours, l)
		}
	}
	if got := len(strings.Fields(strings.SplitN(m.read("/proc/stat"), "\n", 2)[0])); got != 11 {
		t.Errorf("/proc/stat's first line has %d fields", got)
	}
	if got := len(regexp.MustCompile(`(?m)^cpu\d`).FindAllString(m.read("/proc/stat"), -1)); got != 3 {
		t.Errorf("/proc/stat has %d processors", got)
	}
}

func TestStatHasTheFieldsOfTheManual(t *testing.T) {
	m := newMachine(t, Options{})
	m.task.SetName("a) R (b")
	line := m.read("/proc/self/stat")
	end := strings.LastIndexByte(line, ')')
	if got := line[:end+1]; got != "1 (a) R (b)" {
		t.Errorf("begins %q", got)
	}
	f := strings.Fields(line[end+1:])
	theirs := host(t, "/proc/self/stat")
	if want := len(strings.Fields(theirs[strings.LastIndexByte(theirs, ')')+1:])); len(f) != want || want != 50 {
		t.Fatalf("%d fields behind the name, the host has %d", len(f), want)
	}
	num := func(field int) int64 { // as numbered in proc(5)
		n, err := strconv.ParseUint(f[field-3], 10, 64)
		if err != nil {
			t.Errorf("field %d: %v", field, err)
		}
		return int64(n)
	}
	if f[0] != "R" && f[0] != "S" {
		t.Errorf("state %s", f[0])
	}
	if got := num(22); got < 9900 || got > 30000 {
		t.Errorf("started %d ticks after the start of the sandbox, which was 100 s ago", got)
	}
	args, env := m.task.MM().Args()
	code, _ := m.task.MM().CodeRange()
	for field, want := range map[int]int64{4: 0, 5: 1, 6: 1, 7: 0, 18: 20, 19: 0, 20: 1, 26: int64(code.Start), 27: int64(code.End),
		28: int64(m.task.MM().StackStart()), 48: int64(args.Start), 49: int64(args.End), 50: int64(env.Start), 51: int64(env.End), 38: 17} {
		if field == 38 || field == 6 || field == 5 {
			continue
		}
		if got := num(field); got != want {
			t.Errorf("field %d is %d, want %d", field, got, want)
		}
	}
	if num(24) <= 0 || num(23) < num(24)*pageSize {
		t.Errorf("vsize %d, rss %d", num(23), num(24))
	}
}

func TestTheProgramIsShown(t *testing.T) {
	m := newMachine(t, Options{})
	for path, want := range map[string]string{
		"/proc/self/cmdline": "prog\x00one\x00t w o\x00",
		"/proc/self/environ": "A=b\x00C=d\x00",
		"/proc/self/comm":    "prog\n",
		"/proc/1/comm":       "prog\n",
	} {
		if got := m.read(path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"/proc/self": "1", "/proc/thread-self": "1/task/1", "/proc/mounts": "self/mounts", "/proc/net": "self/net",
		"/proc/self/exe": "/bin/prog", "/proc/self/cwd": "/", "/proc/self/root": "/",
	} {
		if got, err := m.Readlink(path); got != want || err != nil {
			t.Errorf("%s leads to %q (%v), want %q", path, got, err, want)
		}
	}
	if got, err := m.try("/proc/self/exe"); err != nil || got != string(kerneltest.Program()) {
		t.Errorf("reading exe: %d bytes, %v", len(got), err)
	}
	if n := len(m.read("/proc/self/auxv")); n == 0 || n%16 != 0 {
		t.Errorf("auxv has %d bytes", n)
	}
	if err := m.Unlink("/bin/prog"); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.Readlink("/proc/self/exe"); got != "/bin/prog (deleted)" {
		t.Errorf("a removed program is %q", got)
	}
	// A program that writes over its arguments and on (setproctitle(3)).
	args, _ := m.task.MM().Args()
	if _, err := m.task.MM().CopyOut(args.Start, []byte("master: waiting job\x00")); err != nil {
		t.Fatal(err)
	}
	if got := m.read("/proc/self/cmdline"); got != "master: waiting job" {
		t.Errorf("a title is %q", got)
	}
}

var mapsFormat = regexp.MustCompile(`^[0-9a-f]{8,}-[0-9a-f]{8,} [r-][w-][x-][ps] [0-9a-f]{8} [0-9a-f]{2,}:[0-9a-f]{2,} \d+ (?: *(\S.*))?$`)

func TestMapsAreWhole(t *testing.T) {
	m := newMachine(t, Options{})
	// So many mappings that they don't fit into one part.
	base := usermem.Addr(0x10000000000)
	for i := range usermem.Addr(300) {
		_, err := m.task.MM().MMap(mmapOne(base + i*8192))
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		text := m.read("/proc/self/maps")
		n, names := 0, ""
		last := uint64(0)
		for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
			sub := mapsFormat.FindStringSubmatch(line)
			if sub == nil {
				t.Fatalf("a line is %q", line)
			}
			if sub[1] != "" {
				if strings.Index(line, sub[1]) != 73 {
					t.Errorf("the name isn't in column 73: %q", line)
				}
				names += sub[1] + " "
			}
			start, err := strconv.ParseUint(line[:strings.IndexByte(line, '-')], 16, 64)
			if err != nil || start < last {
				t.Fatalf("%q after %#x", line, last)
			}
			if last = start; start >= uint64(base) && start < uint64(base)+300*8192 {
				n++
			}
		}
		if n != 300 || !strings.Contains(names, "/bin/prog") || !strings.Contains(names, "[stack]") {
			t.Errorf("%d of 300 mappings; names: %s", n, names)
		}
	}
	smaps := m.read("/proc/self/smaps")
	if n := strings.Count(smaps, "\nVmFlags: "); n < 300 {
		t.Errorf("smaps has %d mappings", n)
	}
	if rollup := m.read("/proc/self/smaps_rollup"); !strings.Contains(rollup, "[rollup]\nRss: ") {
		t.Errorf("smaps_rollup is %q", rollup)
	}
}

func TestMemReadsAndWritesAnything(t *testing.T) {
	m := newMachine(t, Options{})
	f, err := m.OpenFile("/proc/self/mem", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.DecRef()
	b := make([]byte, 4)
	buf := usermem.BytesBuffer(b)
	if n, err := f.ReadAt(m.Ctx, &buf, 0x400000); n != 4 || err != nil || string(b) != "\x7fELF" {
		t.Errorf("reading the program: %q, %d, %v", b, n, err)
	}
	buf = usermem.BytesBuffer([]byte("gone"))
	if n, err := f.WriteAt(m.Ctx, &buf, 0x400000); n != 4 || err != nil {
		t.Errorf("writing to a read-only mapping: %d, %v", n, err)
	}
	buf = usermem.BytesBuffer(b)
	if f.ReadAt(m.Ctx, &buf, 0x400000); string(b) != "gone" {
		t.Errorf("read back %q", b)
	}
	buf = usermem.BytesBuffer(b)
	if _, err := f.ReadAt(m.Ctx, &buf, 4096); err != unix.EIO {
		t.Errorf("reading where nothing is: %v", err)
	}
}

func TestDescriptorsAreLinks(t *testing.T) {
	m := newMachine(t, Options{})
	fds := m.task.FDs()
	add := func(f *vfs.File, cloexec bool) int32 {
		fd, err := fds.Add(f, 0, cloexec, 1024)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	file, err := m.OpenFile("/etc-hosts", unix.O_CREAT|unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	add(file, false)
	add(anon.NewFile("[eventfd]", told{}, unix.O_RDWR, m.task.Credentials()), true)
	pipe := anon.PipePath(m.task.Credentials())
	add(vfs.NewFile(pipe, nil, unix.O_RDONLY, m.task.Credentials()), false)
	want := []string{"/etc-hosts", "anon_inode:[eventfd]", pipe.Dentry.Name()}
	for fd, target := range want {
		if got, err := m.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); got != target || err != nil {
			t.Errorf("fd %d leads to %q (%v), want %q", fd, got, err, target)
		}
	}
	if names, err := m.ReadDir("/proc/self/fd"); err != nil || !slices.Equal(names, []string{". 4", ".. 4", "0 10", "1 10", "2 10"}) {
		t.Errorf("fd holds %q, %v", names, err)
	}
	st, err := m.Stat("/proc/self/fd/2")
	if err != nil || st.Mode != unix.S_IFLNK|0o500 || st.Size != 64 {
		t.Errorf("the link of a pipe's end has mode %o, size %d, %v", st.Mode, st.Size, err)
	}
	// Opening a link opens the file anew, though it has no name.
	buf := usermem.BytesBuffer([]byte("localhost"))
	file.Write(m.Ctx, &buf)
	if err := m.Unlink("/etc-hosts"); err != nil {
		t.Fatal(err)
	}
	if got := m.read("/proc/self/fd/0"); got != "localhost" {
		t.Errorf("read %q", got)
	}
	if got, _ := m.Readlink("/proc/self/fd/0"); got != "/etc-hosts (deleted)" {
		t.Errorf("removed, it is %q", got)
	}
	if got, want := m.read("/proc/self/fdinfo/0"), fmt.Sprintf("pos:\t9\nflags:\t02\nmnt_id:\t%d\n", file.Path().Mount.ID); got != want {
		t.Errorf("fdinfo is %q, want %q", got, want)
	}
	if got := m.read("/proc/self/fdinfo/1"); !strings.Contains(got, "flags:\t02000002\n") || !strings.HasSuffix(got, "\neventfd-count: 7\n") {
		t.Errorf("fdinfo is %q", got)
	}
	for _, name := range []string{"3", "00", "x", "-1", "4294967296"} {
		if _, err := m.Readlink("/proc/self/fd/" + name); err != unix.ENOENT {
			t.Errorf("fd/%s: %v", name, err)
		}
	}
}

func TestMountsAreListed(t *testing.T) {
	m := newMachine(t, Options{})
	if err := m.Mkdir("/a b", 0o755); err != nil {
		t.Fatal(err)
	}
	src, _ := m.Resolve("/bin", true)
	dst, _ := m.Resolve("/a b", true)
	bound, err := m.NS.Bind(src, dst, false)
	if err != nil {
		t.Fatal(err)
	}
	bound.SetFlags(vfs.MountReadOnly)
	want := "test / tmpfs rw,relatime,mode=755 0 0\n" +
		"proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n" +
		"test /a\\040b tmpfs ro,mode=755 0 0\n"
	if got := m.read("/proc/mounts"); got != want {
		t.Errorf("mounts is\n%swant\n%s", got, want)
	}
	format := regexp.MustCompile(`^\d+ \d+ \d+:\d+ (\S+) (\S+) (\S+) - (\S+) (\S+) (\S+)$`)
	lines := strings.Split(strings.TrimSuffix(m.read("/proc/self/mountinfo"), "\n"), "\n")
	for i, want := range []string{"/ / rw,relatime tmpfs test rw,mode=755", "/ /proc rw,nosuid,nodev,noexec,relatime proc proc rw",
		"/bin /a\\040b ro tmpfs test rw,mode=755"} {
		sub := format.FindStringSubmatch(lines[i])
		if sub == nil || strings.Join(sub[1:], " ") != want {
			t.Errorf("mountinfo: %q, want %q", lines[i], want)
		}
	}
	// In a changed root only what is below it is seen.
	m.task.FS().SetRoot(vfs.Path{Mount: bound, Dentry: bound.Root()})
	f, err := m.OpenFile("/proc/1/mounts", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.DecRef()
	b := make([]byte, 4096)
	buf := usermem.BytesBuffer(b)
	n, err := f.Read(m.Ctx, &buf)
	if got := string(b[:n]); err != nil || got != "test / tmpfs ro,mode=755 0 0\n" {
		t.Errorf("below a changed root: %q, %v", got, err)
	}
}

func TestProcessesComeAndGo(t *testing.T) {
	m := newMachine(t, Options{})
	pids := func() (out []string) {
		names, err := m.ReadDir("/proc")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			if n[0] >= '0' && n[0] <= '9' {
				out = append(out, n)
			}
		}
		return out
	}
	id, end := m.fork(0)
	dir := fmt.Sprintf("/proc/%d", id)
	if got, want := pids(), []string{"1 4", fmt.Sprintf("%d 4", id)}; !slices.Equal(got, want) {
		t.Errorf("processes are %q, want %q", got, want)
	}
	if got := m.read(dir + "/cmdline"); got != "prog\x00one\x00t w o\x00" {
		t.Errorf("the child's arguments are %q", got)
	}
	if got := m.read("/proc/1/task/1/children"); got != fmt.Sprintf("%d ", id) {
		t.Errorf("children are %q", got)
	}
	open, err := m.OpenFile(dir+"/status", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.DecRef()
	end()
	if st := m.read(dir + "/status"); !strings.Contains(st, "State:\tZ (zombie)\n") || strings.Contains(st, "VmSize") {
		t.Errorf("a zombie's status is %q", st)
	}
	if st := m.read(dir + "/stat"); !strings.Contains(st, ") Z 1 ") || !strings.HasSuffix(st, " 768\n") {
		t.Errorf("a zombie's stat is %q", st)
	}
	if got := m.read(dir + "/cmdline"); got != "" {
		t.Errorf("a zombie's arguments are %q", got)
	}
	if _, err := m.Readlink(dir + "/exe"); err != unix.ENOENT {
		t.Errorf("a zombie's program: %v", err)
	}
	reap(t, m)
	if got := pids(); !slices.Equal(got, []string{"1 4"}) {
		t.Errorf("processes are %q", got)
	}
	b := make([]byte, 100)
	buf := usermem.BytesBuffer(b)
	if _, err := open.Read(m.Ctx, &buf); err != unix.ESRCH {
		t.Errorf("reading of one who has gone: %v", err)
	}
	if _, err := m.Stat(dir); err != unix.ENOENT {
		t.Errorf("its directory: %v", err)
	}
}

func TestPrivateFilesAskWho(t *testing.T) {
	m := newMachine(t, Options{})
	id, _ := m.fork(0)
	dir := fmt.Sprintf("/proc/%d/", id)
	m.as(1000)
	for _, name := range []string{"environ", "auxv", "maps", "smaps", "mem", "io", "personality"} {
		if _, err := m.try(dir + name); err != unix.EACCES {
			t.Errorf("another's %s: %v", name, err)
		}
	}
	for _, name := range []string{"exe", "cwd", "root", "fd/0", "ns/mnt"} {
		if _, err := m.Readlink(dir + name); err != unix.EACCES {
			t.Errorf("another's %s: %v", name, err)
		}
	}
	for _, name := range []string{"stat", "status", "cmdline", "comm", "limits", "cgroup", "oom_score", "mounts"} {
		if _, err := m.try(dir + name); err != nil {
			t.Errorf("another's %s: %v", name, err)
		}
	}
	// Addresses are for those who may look in.
	f := strings.Fields(m.read(dir + "stat"))
	if f[25] != "1" || f[26] != "1" || f[27] != "0" || f[47] != "0" {
		t.Errorf("another's stat tells addresses: %q", f)
	}
	if st, _ := m.Stat("/proc/self/environ"); st.UID != 1000 {
		t.Errorf("one's own environ belongs to %d", st.UID)
	}
	m.task.MM().SetDumpable(0)
	if st, _ := m.Stat("/proc/self/environ"); st.UID != 0 {
		t.Errorf("that of one who isn't dumpable belongs to %d", st.UID)
	}
	if st, _ := m.Stat("/proc/self/."); st.UID != 1000 {
		t.Errorf("his directory belongs to %d", st.UID)
	}
}

func TestHidePID(t *testing.T) {
	for level := range 3 {
		m := newMachine(t, Options{HidePID: level})
		id, _ := m.fork(0)
		dir := fmt.Sprintf("/proc/%d", id)
		m.as(1000)
		_, err := m.try(dir + "/stat")
		if want := []error{nil, unix.EPERM, unix.ENOENT}[level]; err != want {
			t.Errorf("hidepid=%d: another's stat: %v, want %v", level, err, want)
		}
		names, err := m.ReadDir("/proc")
		if seen := slices.Contains(names, fmt.Sprintf("%d 4", id)); err != nil || seen != (level < 2) {
			t.Errorf("hidepid=%d: listed: %v, %v", level, seen, err)
		}
		if _, err := m.try("/proc/self/stat"); err != nil {
			t.Errorf("hidepid=%d: one's own stat: %v", level, err)
		}
		m.asRoot()
	}
	var o Options
	if err := o.ParseOptions("hidepid=2,gid=5", auth.NewRootUserNamespace()); err != nil || o.String() != ",gid=5,hidepid=2" {
		t.Errorf("options are %q, %v", o.String(), err)
	}
	for _, bad := range []string{"hidepid=3", "hidepid=", "gid=x", "mode=755"} {
		if err := o.ParseOptions(bad, auth.NewRootUserNamespace()); err != unix.EINVAL {
			t.Errorf("option %s: %v", bad, err)
		}
	}
}

func TestSettingsTakeEffectOrAreRefused(t *testing.T) {
	m := newMachine(t, Options{})
	if err := m.write("/proc/sys/kernel/hostname", "case\n"); err != nil {
		t.Error(err)
	}
	if host, _ := m.task.Namespaces().UTS.Names(); host != "case" || m.read("/proc/sys/kernel/hostname") != "case\n" {
		t.Errorf("the host's name is %q", host)
	}
	for _, name := range []string{"kernel/ostype", "vm/overcommit_memory", "net/core/somaxconn", "kernel/core_pattern"} {
		if err := m.write("/proc/sys/"+name, "1\n"); err != unix.EACCES {
			t.Errorf("writing %s: %v", name, err)
		}
	}
	if err := m.write("/proc/version", "x"); err != unix.EIO {
		t.Errorf("writing version: %v", err)
	}
	if err := m.write("/proc/self/comm", "a name that is too long"); err != nil || m.task.Name() != "a name that is " {
		t.Errorf("comm is %q, %v", m.task.Name(), err)
	}
	if a, b := m.read("/proc/sys/kernel/random/uuid"), m.read("/proc/sys/kernel/random/uuid"); a == b || len(a) != 37 {
		t.Errorf("uuids are %q and %q", a, b)
	}
	if a, b := m.read("/proc/sys/kernel/random/boot_id"), m.read("/proc/sys/kernel/random/boot_id"); a != b || len(a) != 37 {
		t.Errorf("boot ids are %q and %q", a, b)
	}
	// Settings that Linux has too are called the same and look the same.
	for _, s := range settings {
		b, err := os.ReadFile("/proc/sys/" + s.path)
		if err != nil {
			continue
		}
		if got, want := len(strings.Fields(m.read("/proc/sys/"+s.path))), len(strings.Fields(string(b))); got != want &&
			!strings.Contains(s.path, "version") && !strings.Contains(s.path, "congestion") && !strings.Contains(s.path, "seccomp") {
			t.Errorf("%s has %d fields, the host's %d", s.path, got, want)
		}
	}
	for _, op := range []func() error{
		func() error { return m.Unlink("/proc/version") },
		func() error { return m.Chmod("/proc/version", 0o777) },
		func() error { return m.Rename("/proc/version", "/proc/y", 0) },
	} {
		if err := op(); err != unix.EPERM {
			t.Errorf("changing /proc: %v", err)
		}
	}
	if err := m.Mkdir("/proc/x", 0o755); err != unix.ENOENT {
		t.Errorf("making a directory in /proc: %v", err)
	}
}

func TestOOMAdjustment(t *testing.T) {
	m := newMachine(t, Options{})
	if err := m.write("/proc/self/oom_score_adj", "500\n"); err != nil || m.read("/proc/self/oom_score_adj") != "500\n" {
		t.Errorf("%v", err)
	}
	if got := m.read("/proc/self/oom_adj"); got != "8\n" {
		t.Errorf("oom_adj is %q", got)
	}
	for _, bad := range []string{"1001", "-1001", "x", ""} {
		if bad != "" {
			if err := m.write("/proc/self/oom_score_adj", bad); err != unix.EINVAL {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
	m.as(1000)
	if err := m.write("/proc/self/oom_score_adj", "499"); err != unix.EACCES {
		t.Errorf("lowering it without privilege: %v", err)
	}
	if err := m.write("/proc/self/oom_score_adj", "600"); err != nil {
		t.Errorf("raising it: %v", err)
	}
}
