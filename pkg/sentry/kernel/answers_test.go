package kernel

import (
	"testing"

	"vitrine/pkg/sentry/platform"
)

// What is answered instead of the Sentry is among what sched_getaffinity(2) says, and
// so is what the Sentry says itself.
func TestProcessorsAreThoseThatAreAllowed(t *testing.T) {
	for _, c := range []struct {
		cpus     int
		affinity uint64
		allowed  uint64
		answer   uint32
	}{
		{0, 0, 1, platform.CPUUpTo},
		{1, 0, 1, platform.CPUUpTo},
		{4, 0, 0xf, platform.CPUUpTo | 3},
		{4, 0xf, 0xf, platform.CPUUpTo | 3},
		{4, 0x8, 0x8, 3},
		{4, 0x1, 0x1, 0},
		{4, 0x6, 0x6, platform.NoAnswer},
		{4, 0xf0, 0xf, platform.CPUUpTo | 3},
		{64, 0, ^uint64(0), platform.CPUUpTo | 63},
		{64, 1 << 63, 1 << 63, 63},
		{200, 0, ^uint64(0), platform.CPUUpTo | 63},
	} {
		task := &Task{k: &Kernel{CPUs: c.cpus}, scheduling: Scheduling{Affinity: c.affinity}}
		if got := task.AllowedCPUs(); got != c.allowed {
			t.Errorf("%d processors, affinity %#x: %#x is allowed, want %#x", c.cpus, c.affinity, got, c.allowed)
		}
		if got := task.cpuAnswer(); got != c.answer {
			t.Errorf("%d processors, affinity %#x: the answer is %#x, want %#x", c.cpus, c.affinity, got, c.answer)
		}
		if got := task.CPU(); c.allowed>>got&1 == 0 {
			t.Errorf("%d processors, affinity %#x: it is on %d", c.cpus, c.affinity, got)
		}
	}
}
