package container

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A limit of swap goes where the host's cgroups have one, in the form they have it,
// and is refused by name where they have none and the host swaps.
func TestSwap(t *testing.T) {
	const limit = 1 << 30
	for _, test := range []struct {
		name       string
		controller string
		file       string // that is there
		swap       int64
		want       string // in the file
	}{
		{name: "version 1", controller: "memory", file: swapFile1, swap: 2 << 30, want: "2415919104"},
		{name: "version 1, no limit", controller: "memory", file: swapFile1, swap: -1, want: "-1"},
		{name: "version 2", controller: "", file: swapFile2, swap: 2 << 30, want: "1073741824"},
		{name: "version 2, no swap", controller: "", file: swapFile2, swap: 1 << 30, want: "0"},
		{name: "version 2, no limit", controller: "", file: swapFile2, swap: -1, want: "max"},
		{name: "none asked for", controller: "", file: swapFile2, swap: 0, want: ""},
		{name: "version 1 that doesn't count", controller: "memory", swap: 2 << 30},
		{name: "version 2 that doesn't count", controller: "", swap: 2 << 30},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, test.file)
		if test.file != "" {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		g := &cgroup{dirs: map[string]string{test.controller: dir}}
		err := g.applySwap(limit, &test.swap)
		if test.file == "" {
			if (err != nil) != hostSwaps() || err != nil && !strings.Contains(err.Error(), "linux.resources.memory.swap") {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if b, _ := os.ReadFile(file); err != nil || string(b) != test.want {
			t.Errorf("%s: %q, %v, want %q", test.name, b, err, test.want)
		}
	}
}

// A container's cgroup is made where the host has its hierarchies, and not in a view of
// them that may be unmounted before it is removed.
func TestFirstMountOfACgroupHierarchyCounts(t *testing.T) {
	got := cgroupMountsOf(`30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
32 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 23 0:26 / /srv/chroot/sys/fs/cgroup rw - cgroup2 cgroup2 rw
42 23 0:27 / /srv/chroot/sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
`)
	want := map[string]string{"": "/sys/fs/cgroup", "cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What of quota and period isn't given stays as it is.
func TestQuotaAndPeriodStayUnlessGiven(t *testing.T) {
	number := func(v int64) *int64 { return &v }
	unsigned := func(v uint64) *uint64 { return &v }
	for _, test := range []struct {
		name   string
		cpu    specs.LinuxCPU
		before string
		want   string
	}{
		{"quota", specs.LinuxCPU{Quota: number(20000)}, "max 50000\n", "20000 50000"},
		{"period", specs.LinuxCPU{Period: unsigned(30000)}, "20000 50000\n", "20000 30000"},
		{"both", specs.LinuxCPU{Quota: number(1000), Period: unsigned(2000)}, "max 100000\n", "1000 2000"},
		{"no limit", specs.LinuxCPU{Quota: number(-1)}, "20000 50000\n", "max 50000"},
		{"none", specs.LinuxCPU{}, "20000 50000\n", "20000 50000\n"},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "cpu.max")
		if err := os.WriteFile(file, []byte(test.before), 0o644); err != nil {
			t.Fatal(err)
		}
		g := &cgroup{dirs: map[string]string{"": dir}}
		if err := g.apply(&specs.LinuxResources{CPU: &test.cpu}); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if b, _ := os.ReadFile(file); string(b) != test.want {
			t.Errorf("%s: %q, want %q", test.name, b, test.want)
		}
	}
}
