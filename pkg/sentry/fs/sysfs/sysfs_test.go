package sysfs

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/kernel"
)

func newSystem(t *testing.T, cpus int) *fstest.VFS {
	t.Helper()
	fs, err := New(&kernel.Kernel{CPUs: cpus}, Options{Memory: func() (uint64, uint64) { return 1 << 30, 1 << 20 }})
	if err != nil {
		t.Fatal(err)
	}
	return fstest.New(fs)
}

func read(t *testing.T, s fstest.System, path string) string {
	t.Helper()
	f, err := s.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return ""
	}
	defer f.Close()
	b, err := f.Read(65536)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return b
}

// walk calls f for each file.
func walk(t *testing.T, s fstest.System, dir string, f func(path string)) {
	t.Helper()
	names, err := s.ReadDir(dir + "/")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		name, kind, _ := strings.Cut(n, " ")
		switch {
		case name == "." || name == "..":
		case kind == "4":
			walk(t, s, dir+"/"+name, f)
		case kind == "8":
			f(dir + "/" + name)
		default:
			t.Errorf("%s/%s: %s", dir, name, kind)
		}
	}
}

// TestFilesAreThoseOfTheHost compares what describes as many processors as the
// host has with the host's.
func TestFilesAreThoseOfTheHost(t *testing.T) {
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Skip("needs the host's /sys")
	}
	n := runtime.NumCPU()
	if strings.TrimSpace(string(online)) != list(n) {
		t.Skip("needs all of the host's processors")
	}
	s := newSystem(t, n)
	// What depends on the host's build, its processor, or its use.
	differ := []string{"kernel_max", "meminfo", "core_id", "thread_siblings", "thread_siblings_list", "core_cpus", "core_cpus_list",
		"enabled", "defrag", "shmem_enabled", "use_zero_page", "physical_package_id", "core_siblings", "core_siblings_list",
		"package_cpus", "package_cpus_list", "possible", "cpulist", "cpumap", "online"}
	same := 0
	walk(t, s, "", func(path string) {
		ours := read(t, s, path)
		theirs, err := os.ReadFile("/sys" + path)
		if err != nil {
			return
		}
		if strings.Count(ours, "\n") > strings.Count(string(theirs), "\n") {
			t.Errorf("%s has more lines than the host's", path)
		}
		if slices.Contains(differ, path[strings.LastIndexByte(path, '/')+1:]) && !strings.HasPrefix(path, "/devices/system/cpu/online") {
			return
		}
		same++
		if ours != string(theirs) {
			t.Errorf("%s is %q, the host's is %q", path, ours, theirs)
		}
	})
	if same < 5 {
		t.Errorf("only %d files could be compared", same)
	}
}

func TestMasksAndLists(t *testing.T) {
	for _, c := range []struct {
		first, n, width int
		want            string
	}{{0, 2, 2, "3"}, {1, 1, 2, "2"}, {0, 8, 8, "ff"}, {4, 1, 5, "10"}, {0, 32, 32, "ffffffff"}, {32, 1, 33, "1,00000000"},
		{0, 33, 33, "1,ffffffff"}, {0, 64, 64, "ffffffff,ffffffff"}, {64, 1, 72, "01,00000000,00000000"}} {
		if got := mask(c.first, c.n, c.width); got != c.want {
			t.Errorf("mask(%d, %d, %d) is %q, want %q", c.first, c.n, c.width, got, c.want)
		}
	}
	s := newSystem(t, 40)
	if got := read(t, s, "/devices/system/cpu/cpu39/topology/thread_siblings"); got != "80,00000000\n" {
		t.Errorf("the last of 40 processors is %q", got)
	}
	if got := read(t, s, "/devices/system/node/node0/meminfo"); got != "Node 0 MemTotal:        1048576 kB\nNode 0 MemFree:            1024 kB\nNode 0 MemUsed:         1047552 kB\n" {
		t.Errorf("meminfo is %q", got)
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	s := newSystem(t, 1)
	for _, c := range []struct {
		what string
		err  error
	}{
		{"opening a file for writing", func() error { _, err := s.Open("/devices/system/cpu/online", unix.O_WRONLY, 0); return err }()},
		{"truncating", func() error { _, err := s.Open("/devices/system/cpu/online", unix.O_TRUNC, 0); return err }()},
	} {
		if c.err != unix.EACCES {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	for _, err := range []error{s.Mkdir("/x", 0o755), s.Unlink("/devices/system/cpu/online"), s.Rmdir("/block"), s.Chmod("/block", 0o777)} {
		if err != unix.EPERM {
			t.Errorf("changing names: %v", err)
		}
	}
}
