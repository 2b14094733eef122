package clock

import (
	"os"
	"strings"
)

// readTSC returns the time stamp counter.
func readTSC() uint64

// readTSCAbout is readTSC that waits for no instruction that comes before it.
func readTSCAbout() uint64

func cpuid(leaf uint32) (eax, ebx, ecx, edx uint32)

// HostTSCReliable reports whether the host's own clock runs on the TSC: then
// it is synchronous on all processors and of constant rate. It reads /sys and must be called
// before the process gives that up; where there is no /sys the processor's
// word is taken (APM vol. 3, CPUID Fn8000_0007, EDX bit 8).
func HostTSCReliable() bool {
	b, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if err == nil {
		return strings.TrimSpace(string(b)) == "tsc"
	}
	if top, _, _, _ := cpuid(0x80000000); top < 0x80000007 {
		return false
	}
	_, _, _, edx := cpuid(0x80000007)
	return edx&(1<<8) != 0
}
