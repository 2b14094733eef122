package spec

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are those of the example, as runc's.
var defaultCapabilities = []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}

// StandardMounts are the kernel file systems that a container usually has.
func StandardMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

// StandardNamespaces are a new one of each usual type.
func StandardNamespaces() []specs.LinuxNamespace {
	return []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
	}
}

// Example is the spec that the command "spec" writes.
func Example(args []string, cwd string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: false},
		Process: &specs.Process{
			Args: args, Cwd: cwd,
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: defaultCapabilities, Effective: defaultCapabilities, Permitted: defaultCapabilities,
			},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Hostname: "vitrine",
		Mounts:   StandardMounts(),
		Linux: &specs.Linux{
			Namespaces: StandardNamespaces(),
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// CapabilityNames are all names, with CAP_.
func CapabilityNames() []string {
	var names []string
	for _, n := range capabilityNames {
		names = append(names, "CAP_"+n)
	}
	return names
}

// MountOptionWords are the words in a mount's options that are not the file
// system's own.
func MountOptionWords() []string {
	words := []string{"bind", "rbind"}
	for w := range flagWords {
		words = append(words, w)
	}
	for w := range propagationWords {
		words = append(words, w)
	}
	slices.Sort(words)
	return words
}
