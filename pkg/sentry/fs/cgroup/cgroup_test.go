package cgroup

import (
	"crypto/rand"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
)

func TestLimitsAreShown(t *testing.T) {
	f, a := fstest.Memory(t, 64<<20)
	if _, err := f.Alloc(memfile.Request{Account: a, Pages: 2}); err != nil {
		t.Fatal(err)
	}
	k := &kernel.Kernel{CPUs: 4, Clock: clock.New(false), Random: rand.Reader}
	k.Init()
	for _, c := range []struct {
		opts Options
		want map[string]string
	}{
		{Options{}, map[string]string{"memory.max": "max\n", "memory.current": "0\n", "cpu.max": "max 100000\n", "cpu.weight": "100\n", "pids.max": "max\n", "cpuset.cpus": "", "cpuset.cpus.effective": "0-3\n"}},
		{Options{Account: a, Limits: func() Limits { return Limits{Quota: 150000, Weight: 50, Tasks: 12, CPUs: "0,2"} }}, map[string]string{
			"memory.max": "67108864\n", "memory.current": "8192\n", "memory.peak": "8192\n", "cpu.max": "150000 100000\n", "cpu.weight": "50\n",
			"pids.max": "12\n", "pids.current": "0\n", "cgroup.procs": "", "cpuset.cpus": "0,2\n", "cpuset.cpus.effective": "0,2\n",
			"cgroup.controllers": "cpuset cpu memory pids\n",
			"cpu.stat":           "usage_usec 0\nuser_usec 0\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
		}},
	} {
		c.opts.Container = &kernel.Container{ID: "test"}
		fs, err := New(k, k.RootPIDNS, c.opts)
		if err != nil {
			t.Fatal(err)
		}
		s := fstest.New(fs)
		for name, want := range c.want {
			g, err := s.Open("/"+name, unix.O_RDONLY, 0)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got, err := g.Read(4096); got != want || err != nil {
				t.Errorf("%s is %q (%v), want %q", name, got, err, want)
			}
			g.Close()
		}
		if _, err := s.Open("/memory.max", unix.O_WRONLY, 0); err != unix.EROFS {
			t.Errorf("writing a limit: %v", err)
		}
		if err := s.Mkdir("/below", 0o755); err != unix.EROFS {
			t.Errorf("making a group: %v", err)
		}
	}
}
