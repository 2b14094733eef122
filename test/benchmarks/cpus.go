package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// parseCPUs reads a list as cpuset(7) has it: numbers and ranges, separated by
// commas.
func parseCPUs(list string) (unix.CPUSet, error) {
	const most = 1024 // what a CPUSet holds
	var set unix.CPUSet
	for _, part := range strings.Split(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 31)
		if err != nil {
			return set, fmt.Errorf("%q is no list of CPUs", list)
		}
		to, err := strconv.ParseUint(last, 10, 31)
		if err != nil || to < from || to >= most {
			return set, fmt.Errorf("%q is no list of CPUs", list)
		}
		for cpu := from; cpu <= to; cpu++ {
			set.Set(int(cpu))
		}
	}
	return set, nil
}

// formatCPUs writes a set as parseCPUs reads it.
func formatCPUs(set *unix.CPUSet) string {
	var parts []string
	for cpu, left := 0, set.Count(); left > 0; cpu++ {
		first := cpu
		for set.IsSet(cpu) {
			cpu++
		}
		switch n := cpu - first; n {
		case 0:
			continue
		case 1:
			parts = append(parts, strconv.Itoa(first))
			left--
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", first, cpu-1))
			left -= n
		}
	}
	return strings.Join(parts, ",")
}

// pinSelf keeps this process, and all that it starts from now on, to CPUs.
func pinSelf(set *unix.CPUSet) error {
	// Each thread has its own; new ones take that of the thread that makes
	// them, so until all have it there may be another.
	done := map[string]bool{}
	for {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		before := len(done)
		for _, e := range entries {
			if done[e.Name()] {
				continue
			}
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, set); err != nil && err != unix.ESRCH {
				return fmt.Errorf("sched_setaffinity to CPUs %s: %w", formatCPUs(set), err)
			}
			done[e.Name()] = true
		}
		if len(done) == before {
			break
		}
	}
	got, err := cpus()
	if err == nil && got != *set {
		err = fmt.Errorf("of the CPUs %s only %s are there", formatCPUs(set), formatCPUs(&got))
	}
	return err
}

// cpus are those that this process may use.
func cpus() (unix.CPUSet, error) {
	var set unix.CPUSet
	err := unix.SchedGetaffinity(0, &set)
	return set, err
}

// firstCPU is one of them.
func firstCPU() (int, error) {
	set, err := cpus()
	if err != nil {
		return 0, err
	}
	cpu := 0
	for !set.IsSet(cpu) {
		cpu++
	}
	return cpu, nil
}
