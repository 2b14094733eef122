package arch

// CPUID executes the instruction, on whatever CPU the caller is.
func CPUID(leaf, sub uint32) (a, b, c, d uint32) { return cpuid(leaf, sub) }

// HybridCPUs reports whether the machine has CPUs of several kinds, which answer
// CPUID differently (SDM vol. 2, CPUID, leaf 7, EDX bit 15).
func HybridCPUs() bool {
	top, _, _, _ := cpuid(0, 0)
	if top < 7 {
		return false
	}
	_, _, _, d := cpuid(7, 0)
	return d&(1<<15) != 0
}
