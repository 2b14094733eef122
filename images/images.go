// Package images gives tests and tools root file systems to run in containers,
// and OCI bundles around them.
//
// [Root] returns the tree of an image, which it builds if that has not been
// done on this machine: "busybox", a shell and small tools in one static
// binary, built in a second; or "debian", a bookworm with interpreters, a
// compiler and a database, which takes about a minute and needs Debian's
// archive. The recipes are the shell scripts beside this file. The trees are
// shared by all who ask, and not to be written to.
//
// [Spec] is a configuration with the namespaces, mounts and capabilities that
// container engines give by default, and [WriteBundle] makes a directory of it
// for a runtime's create or run. The program images/bundle does both.
//
// The package does not run containers, and has nothing of networking: a bundle
// has a network namespace of its own, empty.
package images

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Root returns the absolute path of an image's tree, built if need be. The
// script images/build is looked for in the working directory and those above
// it, where both go test and Bazel have it. Building needs root. It is safe
// for concurrent use, by several processes too.
func Root(name string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	build := ""
	for d := dir; ; d = filepath.Dir(d) {
		build = filepath.Join(d, "images/build")
		if _, err := os.Stat(build); err == nil {
			break
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("neither %s nor a directory above has images/build", dir)
		}
	}
	var stderr strings.Builder
	cmd := exec.Command(build, name)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", build, name, err, strings.TrimSpace(stderr.String()))
	}
	return filepath.Join(strings.TrimSpace(string(out)), "root"), nil
}

// capabilities are those that Docker, containerd and Podman give by default.
var capabilities = []string{
	"CAP_AUDIT_WRITE",
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_MKNOD",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW",
	"CAP_SETFCAP",
	"CAP_SETGID",
	"CAP_SETPCAP",
	"CAP_SETUID",
	"CAP_SYS_CHROOT",
}

// Spec returns a configuration for a command in a root file system, which is
// an absolute path or one relative to the bundle. The command runs as root, in
// namespaces of its own of all kinds but user, without a terminal. The caller
// may change all of it.
func Spec(root string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "vitrine",
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args: args,
			Cwd:  "/",
			Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
				"HOME=/root",
				"TERM=xterm",
			},
			Capabilities: &specs.LinuxCapabilities{
				Bounding:  capabilities,
				Effective: capabilities,
				Permitted: capabilities,
			},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi",
				"/proc/asound",
				"/proc/kcore",
				"/proc/keys",
				"/proc/latency_stats",
				"/proc/scsi",
				"/proc/timer_list",
				"/sys/firmware",
			},
			ReadonlyPaths: []string{
				"/proc/bus",
				"/proc/fs",
				"/proc/irq",
				"/proc/sys",
				"/proc/sysrq-trigger",
			},
		},
	}
}

// WriteBundle makes a directory, with those above it, and writes config.json
// in it.
func WriteBundle(dir string, spec *specs.Spec) error {
	b, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), append(b, '\n'), 0o644)
}
