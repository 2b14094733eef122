package spec

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
)

// policies are the scheduling policies of sched(7), but for SCHED_DEADLINE, whose
// promise only a host can keep.
var policies = map[specs.LinuxSchedulerPolicy]int32{
	specs.SchedOther: unix.SCHED_NORMAL, specs.SchedBatch: unix.SCHED_BATCH, specs.SchedIdle: unix.SCHED_IDLE,
	specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
}

// scheduler translates process.scheduler. Errors begin with the field below it.
func scheduler(s *specs.Scheduler) (*control.Scheduler, error) {
	if s == nil {
		return nil, nil
	}
	policy, ok := policies[s.Policy]
	if !ok {
		return nil, fmt.Errorf(".policy %q is not supported", s.Policy)
	}
	if s.Nice < -20 || s.Nice > 19 {
		return nil, fmt.Errorf(".nice %d is not between -20 and 19", s.Nice)
	}
	lowest, highest := int32(0), int32(0)
	if policy == unix.SCHED_FIFO || policy == unix.SCHED_RR {
		lowest, highest = 1, 99
	}
	if s.Priority < lowest || s.Priority > highest {
		return nil, fmt.Errorf(".priority %d is not between %d and %d, as %s has them", s.Priority, lowest, highest, s.Policy)
	}
	if s.Runtime != 0 || s.Deadline != 0 || s.Period != 0 {
		return nil, errors.New(".runtime, .deadline and .period are not supported: they are of SCHED_DEADLINE")
	}
	out := &control.Scheduler{Policy: policy, Nice: s.Nice, Priority: s.Priority}
	for _, f := range s.Flags {
		if f != specs.SchedFlagResetOnFork {
			return nil, fmt.Errorf(".flags: %q is not supported", f)
		}
		out.ResetOnFork = true
	}
	return out, nil
}

// callerScheduler is what a child of this process would have where nothing is said:
// its nice value (nice(1)); nil for the usual one.
func callerScheduler() *control.Scheduler {
	// The call itself returns 20 less the nice value (getpriority(2), "C library/kernel differences").
	v, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil || v == 20 {
		return nil
	}
	return &control.Scheduler{Policy: unix.SCHED_NORMAL, Nice: int32(20 - v)}
}

// ioPriority translates process.ioPriority into ioprio_set(2)'s number.
func ioPriority(p *specs.LinuxIOPriority) (*int32, error) {
	if p == nil {
		return nil, nil
	}
	classes := map[specs.IOPriorityClass]int32{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}
	class, ok := classes[p.Class]
	if !ok {
		return nil, fmt.Errorf(".class %q is unknown", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return nil, fmt.Errorf(".priority %d is not between 0 and 7", p.Priority)
	}
	v := class<<13 | int32(p.Priority)
	return &v, nil
}

// validateMappings checks the maps of a user namespace as the kernel does
// (user_namespaces(7), "Defining user and group ID mappings").
func validateMappings(l *specs.Linux) error {
	var user *specs.LinuxNamespace
	for i := range l.Namespaces {
		if l.Namespaces[i].Type == specs.UserNamespace {
			user = &l.Namespaces[i]
		}
	}
	if user == nil {
		if len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0 {
			return errors.New("linux.uidMappings and gidMappings need a namespace of type user in linux.namespaces")
		}
		return nil
	}
	for _, x := range []struct {
		name string
		rows []specs.LinuxIDMapping
	}{{"uidMappings", l.UIDMappings}, {"gidMappings", l.GIDMappings}} {
		if len(x.rows) == 0 && user.Path == "" {
			return fmt.Errorf("linux.%s is empty, and a new namespace of type user needs it", x.name)
		}
		if len(x.rows) > 340 {
			return fmt.Errorf("linux.%s has %d rows; 340 are supported", x.name, len(x.rows))
		}
		for i, r := range x.rows {
			if r.Size == 0 {
				return fmt.Errorf("linux.%s[%d].size is 0", x.name, i)
			}
			if uint64(r.ContainerID)+uint64(r.Size) > math.MaxUint32 || uint64(r.HostID)+uint64(r.Size) > math.MaxUint32 {
				return fmt.Errorf("linux.%s[%d] goes beyond the highest id", x.name, i)
			}
			for j, o := range x.rows[:i] {
				if overlap(r.ContainerID, o.ContainerID, r.Size, o.Size) || overlap(r.HostID, o.HostID, r.Size, o.Size) {
					return fmt.Errorf("linux.%s[%d] and [%d] overlap", x.name, j, i)
				}
			}
		}
	}
	return nil
}

func overlap(a, b, lengthA, lengthB uint32) bool {
	return uint64(a) < uint64(b)+uint64(lengthB) && uint64(b) < uint64(a)+uint64(lengthA)
}

// ValidateResources refuses limits that nothing here holds; zeros, which engines
// send for what wasn't asked for, are no limits. r may be nil.
func ValidateResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	type field struct {
		there bool
		name  string
	}
	fields := []field{
		{len(r.Rdma) > 0, "rdma"},
		{r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0), "network"},
		{len(r.HugepageLimits) > 0, "hugepageLimits"},
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit < -1 {
			return fmt.Errorf("linux.resources.memory.limit %d is negative", *m.Limit)
		}
		// It counts memory too, and means nothing without a limit of that.
		if m.Swap != nil && *m.Swap > 0 {
			if m.Limit == nil || *m.Limit == 0 {
				return errors.New("linux.resources.memory.swap needs linux.resources.memory.limit")
			}
			if *m.Limit < 0 || *m.Swap < *m.Limit {
				return fmt.Errorf("linux.resources.memory.swap %d is below linux.resources.memory.limit, which it includes", *m.Swap)
			}
		}
		fields = append(fields, field{set(m.Kernel) && *m.Kernel != -1, "memory.kernel"}, field{set(m.KernelTCP) && *m.KernelTCP != -1, "memory.kernelTCP"},
			field{m.Swappiness != nil, "memory.swappiness"}, field{set(m.DisableOOMKiller), "memory.disableOOMKiller"},
			field{set(m.CheckBeforeUpdate), "memory.checkBeforeUpdate"})
	}
	if c := r.CPU; c != nil {
		fields = append(fields, field{set(c.Burst), "cpu.burst"}, field{set(c.RealtimeRuntime), "cpu.realtimeRuntime"},
			field{set(c.RealtimePeriod), "cpu.realtimePeriod"}, field{set(c.Idle), "cpu.idle"})
	}
	if b := r.BlockIO; b != nil {
		fields = append(fields, field{set(b.Weight), "blockIO.weight"}, field{set(b.LeafWeight), "blockIO.leafWeight"},
			field{len(b.WeightDevice) > 0, "blockIO.weightDevice"},
			field{len(b.ThrottleReadBpsDevice) > 0, "blockIO.throttleReadBpsDevice"}, field{len(b.ThrottleWriteBpsDevice) > 0, "blockIO.throttleWriteBpsDevice"},
			field{len(b.ThrottleReadIOPSDevice) > 0, "blockIO.throttleReadIOPSDevice"}, field{len(b.ThrottleWriteIOPSDevice) > 0, "blockIO.throttleWriteIOPSDevice"})
	}
	for _, f := range fields {
		if f.there {
			return fmt.Errorf("linux.resources.%s is not supported", f.name)
		}
	}
	return nil
}

// set reports whether p is there and not zero.
func set[T comparable](p *T) bool {
	var zero T
	return p != nil && *p != zero
}

// noData are the file systems that have no options of their own.
var noData = []string{"sysfs", "mqueue", "cgroup", "cgroup2"}

// checkOptions refuses options of a mount that would not be carried out.
func checkOptions(m *specs.Mount, o *options) error {
	refuse := func(why string, flags uint64) error {
		for _, word := range m.Options {
			if f, ok := flagWords[word]; ok && !f.clear && f.flag&flags != 0 {
				return fmt.Errorf(".options: %q is not supported%s", word, why)
			}
		}
		return nil
	}
	if o.flags&neverFlags != 0 {
		return refuse("", neverFlags)
	}
	if o.bind && o.flags&syncFlags != 0 {
		return refuse(" for a bind mount", syncFlags)
	}
	if o.propagation&(unix.MS_SHARED|unix.MS_UNBINDABLE) != 0 {
		for _, word := range m.Options {
			if strings.HasSuffix(word, "shared") || strings.HasSuffix(word, "unbindable") {
				return fmt.Errorf(".options: %q is not supported: mounts of a container are seen nowhere else", word)
			}
		}
	}
	if o.copyUp && m.Type != "tmpfs" {
		return fmt.Errorf(".options: %q is only for a tmpfs", "tmpcopyup")
	}
	if len(o.data) > 0 && slices.Contains(noData, m.Type) {
		return fmt.Errorf(".options: %q is not an option of %s", o.data[0], m.Type)
	}
	return nil
}

const (
	// neverFlags ask for what no mount here does: mandatory locks, ACLs, links
	// that lead nowhere.
	neverFlags = unix.MS_MANDLOCK | unix.MS_POSIXACL | 256
	// syncFlags ask the host's files to be durable at each write.
	syncFlags = unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC
)
