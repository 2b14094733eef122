// Package spec reads OCI bundles: it loads config.json, refuses what is wrong or
// not supported in one sentence that names the field, and translates the rest
// into what a sentry is asked to create.
//
// [Load] and [Validate] know nothing of sandboxes. [Translate] makes the
// [control.CreateArgs] and the list of host trees that the container's gofer
// serves. Numbering, flags and option words are those of the OCI runtime spec
// 1.x (config.md, config-linux.md) and mount(8).
//
// # What is not supported
//
// Nothing is ignored silently. A field that would change what the application
// can do and is not supported is refused by its path, for example
// "linux.intelRdt is not supported". Fields about the host's own defences,
// which engines send with every container and which have nothing to act upon
// here, are accepted and logged as warnings: see [Translate]. Fields the runtime
// spec doesn't know are tolerated, as the spec demands.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/seccomp/profile"
)

// maxConfig is the largest config.json read, in bytes.
const maxConfig = 16 << 20

// Load reads and validates config.json of a bundle directory.
func Load(bundle string) (*specs.Spec, error) {
	b, err := ReadLimited(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	s, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	return s, nil
}

// ReadLimited reads a file of the size that a config.json may have.
func ReadLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxConfig {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxConfig)
	}
	return b, nil
}

// Parse decodes and validates the bytes of a config.json.
func Parse(b []byte) (*specs.Spec, error) {
	s := &specs.Spec{}
	if err := decode(b, s); err != nil {
		return nil, err
	}
	if err := Validate(s); err != nil {
		return nil, err
	}
	return s, nil
}

// ParseProcess decodes and validates the bytes of a process object, as exec
// --process takes it.
func ParseProcess(b []byte) (*specs.Process, error) {
	p := &specs.Process{}
	if err := decode(b, p); err != nil {
		return nil, err
	}
	if err := validateProcess("", p); err != nil {
		return nil, err
	}
	return p, nil
}

// ValidateProcess is what ParseProcess does with a process that it has decoded.
func ValidateProcess(p *specs.Process) error { return validateProcess("", p) }

// decode makes the errors of encoding/json sentences for people.
func decode(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	var typeErr *json.UnmarshalTypeError
	var syntaxErr *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &typeErr):
		field := typeErr.Field
		if field == "" {
			field = "the document"
		}
		return fmt.Errorf("%s has a JSON %s where %s is expected", field, typeErr.Value, typeErr.Type)
	case errors.As(err, &syntaxErr):
		line := 1 + strings.Count(string(b[:min(int(syntaxErr.Offset), len(b))]), "\n")
		return fmt.Errorf("line %d is no JSON: %s", line, syntaxErr.Error())
	}
	return err
}

// ValidateID refuses container IDs that could not be a directory's name or be
// told from a flag.
func ValidateID(id string) error {
	if id == "" {
		return errors.New("the container ID is empty")
	}
	// A cgroup's name has nine characters more.
	if len(id) > unix.NAME_MAX-9 {
		return fmt.Errorf("container ID of %d characters is too long", len(id))
	}
	for i, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
		case i > 0 && (r == '-' || r == '+' || r == '.'):
		default:
			return fmt.Errorf("container ID %q is not of the form [A-Za-z0-9_][A-Za-z0-9_+.-]*", id)
		}
	}
	return nil
}

// Validate says what is wrong with a spec or asks for what is not supported.
func Validate(s *specs.Spec) error {
	if s.Version == "" {
		return errors.New("ociVersion is missing")
	}
	var major, minor, patch int
	if n, _ := fmt.Sscanf(s.Version, "%d.%d.%d", &major, &minor, &patch); n != 3 {
		return fmt.Errorf("ociVersion %q is not a version", s.Version)
	}
	if major != 1 {
		return fmt.Errorf("ociVersion %q is not supported; this is an implementation of 1.x", s.Version)
	}
	if s.Root == nil {
		return errors.New("root is missing")
	}
	if s.Root.Path == "" {
		return errors.New("root.path is missing")
	}
	for _, x := range []struct {
		there bool
		field string
	}{{s.Solaris != nil, "solaris"}, {s.Windows != nil, "windows"}, {s.VM != nil, "vm"}, {s.ZOS != nil, "zos"}} {
		if x.there {
			return fmt.Errorf("%s is not supported; this is a runtime for Linux", x.field)
		}
	}
	if s.Process == nil {
		return errors.New("process is missing")
	}
	if err := validateProcess("process.", s.Process); err != nil {
		return err
	}
	if len(s.Hostname) > 64 {
		return errors.New("hostname is longer than 64 bytes")
	}
	if len(s.Domainname) > 64 {
		return errors.New("domainname is longer than 64 bytes")
	}
	for i, m := range s.Mounts {
		if err := validateMount(&m); err != nil {
			return fmt.Errorf("mounts[%d]%w", i, err)
		}
	}
	if err := validateHooks(s.Hooks); err != nil {
		return err
	}
	if s.Linux != nil {
		if err := validateLinux(s.Linux); err != nil {
			return err
		}
	}
	for _, x := range []struct{ field, name string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		if x.name != "" && !hasNamespace(s, specs.UTSNamespace) {
			return fmt.Errorf("%s needs a namespace of type uts in linux.namespaces", x.field)
		}
	}
	return nil
}

func hasNamespace(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	if s.Linux == nil {
		return false
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}

func validateProcess(prefix string, p *specs.Process) error {
	if len(p.Args) == 0 {
		return fmt.Errorf("%sargs is empty", prefix)
	}
	if p.Args[0] == "" {
		return fmt.Errorf("%sargs[0] is empty", prefix)
	}
	if p.Cwd == "" {
		return fmt.Errorf("%scwd is missing", prefix)
	}
	if !filepath.IsAbs(p.Cwd) {
		return fmt.Errorf("%scwd %q is not an absolute path", prefix, p.Cwd)
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"args", p.Args}, {"env", p.Env}} {
		for i, v := range list.values {
			if strings.IndexByte(v, 0) >= 0 {
				return fmt.Errorf("%s%s[%d] has a NUL byte", prefix, list.name, i)
			}
		}
	}
	for i, r := range p.Rlimits {
		if _, ok := rlimits[r.Type]; !ok {
			return fmt.Errorf("%srlimits[%d].type %q is unknown", prefix, i, r.Type)
		}
		if r.Soft > r.Hard {
			return fmt.Errorf("%srlimits[%d]: soft limit %d is above hard limit %d", prefix, i, r.Soft, r.Hard)
		}
		for _, earlier := range p.Rlimits[:i] {
			if earlier.Type == r.Type {
				return fmt.Errorf("%srlimits[%d].type %s is there twice", prefix, i, r.Type)
			}
		}
	}
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		return fmt.Errorf("%soomScoreAdj %d is not between -1000 and 1000", prefix, *p.OOMScoreAdj)
	}
	if err := validateLabels(prefix, p); err != nil {
		return err
	}
	if _, err := scheduler(p.Scheduler); err != nil {
		return fmt.Errorf("%sscheduler%w", prefix, err)
	}
	if _, err := ioPriority(p.IOPriority); err != nil {
		return fmt.Errorf("%sioPriority%w", prefix, err)
	}
	if p.CommandLine != "" {
		return fmt.Errorf("%scommandLine is not supported; it is Windows's", prefix)
	}
	if p.User.Username != "" {
		return fmt.Errorf("%suser.username is not supported; it is Windows's", prefix)
	}
	if p.ExecCPUAffinity != nil {
		return fmt.Errorf("%sexecCPUAffinity is not supported", prefix)
	}
	if p.User.Umask != nil && *p.User.Umask > 0o777 {
		return fmt.Errorf("%suser.umask %#o is above 0777", prefix, *p.User.Umask)
	}
	return nil
}

func validateMount(m *specs.Mount) error {
	if m.Destination == "" {
		return errors.New(".destination is missing")
	}
	// The spec asks for an absolute path; older engines send relative ones,
	// which mean the same.
	for _, part := range strings.Split(m.Destination, "/") {
		if part == ".." {
			return fmt.Errorf(".destination %q has a \"..\"", m.Destination)
		}
	}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		return errors.New(": mounts with uidMappings or gidMappings are not supported")
	}
	_, err := parseOptions(m)
	return err
}

func validateHooks(h *specs.Hooks) error {
	for _, stage := range HookStages(h) {
		for i, hook := range stage.Hooks {
			name := fmt.Sprintf("hooks.%s[%d]", stage.Name, i)
			if !filepath.IsAbs(hook.Path) {
				return fmt.Errorf("%s.path %q is not an absolute path", name, hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return fmt.Errorf("%s.timeout %d is not above 0", name, *hook.Timeout)
			}
		}
	}
	return nil
}

// HookStage is the hooks of one point of a container's life.
type HookStage struct {
	Name  string
	Hooks []specs.Hook
}

// HookStages lists hooks in the order of a container's life. h may be nil.
func HookStages(h *specs.Hooks) []HookStage {
	if h == nil {
		return nil
	}
	return []HookStage{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and what Docker uses
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	}
}

func validateLinux(l *specs.Linux) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, n := range l.Namespaces {
		if !knownNamespace(n.Type) {
			return fmt.Errorf("linux.namespaces[%d].type %q is unknown", i, n.Type)
		}
		if seen[n.Type] {
			return fmt.Errorf("linux.namespaces[%d].type %s is there twice", i, n.Type)
		}
		seen[n.Type] = true
		if n.Path != "" && !filepath.IsAbs(n.Path) {
			return fmt.Errorf("linux.namespaces[%d].path %q is not an absolute path", i, n.Path)
		}
	}
	if err := validateMappings(l); err != nil {
		return err
	}
	for i, d := range l.Devices {
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("linux.devices[%d].path %q is not an absolute path", i, d.Path)
		}
		switch d.Type {
		case "c", "b", "u", "p":
		default:
			return fmt.Errorf("linux.devices[%d].type %q is not one of c, b, u, p", i, d.Type)
		}
	}
	switch l.RootfsPropagation {
	case "", "private", "rprivate", "slave", "rslave":
	case "shared", "rshared", "unbindable", "runbindable":
		return fmt.Errorf("linux.rootfsPropagation %q is not supported: mounts of a container are seen nowhere else", l.RootfsPropagation)
	default:
		return fmt.Errorf("linux.rootfsPropagation %q is unknown", l.RootfsPropagation)
	}
	for _, x := range []struct {
		there bool
		field string
	}{
		{l.IntelRdt != nil, "intelRdt"},
		{l.MountLabel != "" && !hasSELinux(), "mountLabel"},
		{l.Personality != nil && l.Personality.Domain != specs.PerLinux, "personality.domain other than LINUX"},
		{l.Personality != nil && len(l.Personality.Flags) > 0, "personality.flags"},
		{len(l.TimeOffsets) > 0, "timeOffsets"},
	} {
		if x.there {
			return fmt.Errorf("linux.%s is not supported", x.field)
		}
	}
	if l.Seccomp != nil {
		if _, err := profile.Translate(l.Seccomp); err != nil {
			return fmt.Errorf("linux.seccomp%w", err)
		}
	}
	for name := range l.Sysctl {
		if strings.Contains(name, "..") || name == "" {
			return fmt.Errorf("linux.sysctl %q is not a name", name)
		}
	}
	return ValidateResources(l.Resources)
}

func knownNamespace(t specs.LinuxNamespaceType) bool {
	switch t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		return true
	}
	return false
}

// rlimits are the names of getrlimit(2) and their numbers.
var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// CallerRlimits are the limits of this process, in the spec's form.
func CallerRlimits() []specs.POSIXRlimit {
	var list []specs.POSIXRlimit
	for name, resource := range rlimits {
		var r unix.Rlimit
		if unix.Getrlimit(resource, &r) == nil {
			list = append(list, specs.POSIXRlimit{Type: name, Soft: r.Cur, Hard: r.Max})
		}
	}
	slices.SortFunc(list, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
	return list
}

// capabilityNames are those of capabilities(7) by number.
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// AllCapabilities has the bits of all capabilities.
const AllCapabilities = uint64(1)<<len(capabilityNames) - 1

// CapabilityMask makes a mask of names like "CAP_KILL". Names that are unknown
// are returned too: a newer engine may send them, and they can't be granted.
func CapabilityMask(names []string) (mask uint64, unknown []string) {
next:
	for _, name := range names {
		for i, known := range capabilityNames {
			if short, ok := strings.CutPrefix(strings.ToUpper(name), "CAP_"); ok && short == known {
				mask |= 1 << i
				continue next
			}
		}
		unknown = append(unknown, name)
	}
	return mask, unknown
}

// Process translates a process object. Descriptors and the console's size are
// the caller's to add.
func Process(p *specs.Process) (control.Process, []string) {
	out := control.Process{
		Args: p.Args, Env: p.Env, Cwd: filepath.Clean(p.Cwd),
		User: control.User{UID: p.User.UID, GID: p.User.GID, AdditionalGIDs: p.User.AdditionalGids,
			Umask: p.User.Umask},
		NoNewPrivileges: p.NoNewPrivileges,
		OOMScoreAdj:     p.OOMScoreAdj,
	}
	if out.Scheduler, _ = scheduler(p.Scheduler); out.Scheduler == nil {
		out.Scheduler = callerScheduler()
	}
	out.IOPriority, _ = ioPriority(p.IOPriority)
	var warnings []string
	if c := p.Capabilities; c != nil {
		for _, set := range []struct {
			mask  *uint64
			names []string
		}{
			{&out.Capabilities.Bounding, c.Bounding}, {&out.Capabilities.Effective, c.Effective},
			{&out.Capabilities.Inheritable, c.Inheritable}, {&out.Capabilities.Permitted, c.Permitted},
			{&out.Capabilities.Ambient, c.Ambient},
		} {
			var unknown []string
			*set.mask, unknown = CapabilityMask(set.names)
			for _, name := range unknown {
				warnings = append(warnings, fmt.Sprintf("capability %q is unknown and not granted", name))
			}
		}
	}
	for _, r := range p.Rlimits {
		out.Rlimits = append(out.Rlimits, control.Rlimit{Resource: rlimits[r.Type], Soft: r.Soft, Hard: r.Hard})
	}
	warnings = append(warnings, labelWarnings(p)...)
	if c := p.ConsoleSize; c != nil {
		out.ConsoleRows, out.ConsoleCols = uint16(min(c.Height, 65535)), uint16(min(c.Width, 65535))
	}
	return out, warnings
}
