package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Host is what /proc tells of the host: nothing but the kind of its processor and
// how much memory it has. Read-only once made, and may be shared.
type Host struct {
	// CPU are the lines of the host's first processor in /proc/cpuinfo, some of
	// which are rewritten for each processor of the sandbox.
	CPU []Line
	// Memory is the host's memory in bytes.
	Memory uint64
}

// Line is a line "Key : Value" of /proc/cpuinfo; Tabs is what fills up the key.
type Line struct{ Key, Tabs, Value string }

// ReadHost reads the host's /proc. It is called before the jail closes.
func ReadHost() (*Host, error) {
	cpu, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil, fmt.Errorf("asking the host for its processors: %w", err)
	}
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("asking the host for its memory: %w", err)
	}
	return ParseHost(string(cpu), string(mem)), nil
}

// ParseHost makes a Host of the texts of the host's /proc/cpuinfo and
// /proc/meminfo. What isn't there stays empty.
func ParseHost(cpuinfo, meminfo string) *Host {
	h := &Host{}
	for line := range strings.SplitSeq(cpuinfo, "\n") {
		key, val, ok := strings.Cut(line, ":")
		if !ok {
			if len(h.CPU) > 0 {
				break
			}
			continue
		}
		name := strings.TrimRight(key, "\t ")
		l := Line{name, key[len(name):], strings.TrimSpace(val)}
		h.CPU = append(h.CPU, l)
	}
	for line := range strings.SplitSeq(meminfo, "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseUint(f[1], 10, 54)
			if err == nil {
				h.Memory = kb << 10
			}
		}
	}
	return h
}

// cpuinfo appends /proc/cpuinfo's paragraph of processor n of count: one package
// whose cores have one thread each.
func (h *Host) cpuinfo(b *bytes.Buffer, n, count int) {
	if len(h.CPU) == 0 {
		b.WriteString("processor\t: " + strconv.Itoa(n) + "\n")
	}
	for _, l := range h.CPU {
		switch l.Key {
		case "processor", "core id", "apicid", "initial apicid":
			l.Value = strconv.Itoa(n)
		case "physical id":
			l.Value = "0"
		case "siblings", "cpu cores":
			l.Value = strconv.Itoa(count)
		}
		b.WriteString(l.Key + l.Tabs + ":")
		if l.Value != "" {
			b.WriteString(" " + l.Value)
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}
