package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/seccomp"
	"vitrine/pkg/seccomp/profile"
)

// OverlayMode says where a container's writes to host trees go.
type OverlayMode string

// The values of --overlay.
const (
	OverlayRoot OverlayMode = "root" // those to the root into memory, those to binds to the host
	OverlayAll  OverlayMode = "all"  // all into memory
	OverlayNone OverlayMode = "none" // all to the host
)

// Attach is a host tree that the gofer serves.
type Attach struct {
	File     *os.File // O_PATH
	Name     string   // for messages of the gofer
	ReadOnly bool
	// Mount is the index in CreateArgs.Mounts, or -1 for the root.
	Mount int
}

// Plan is what a bundle comes to.
type Plan struct {
	Args     *control.CreateArgs
	Attach   []Attach
	Warnings []string
}

// Close closes the files of the plan.
func (p *Plan) Close() {
	for _, a := range p.Attach {
		a.File.Close()
	}
}

// Options are what the translation needs beside the spec.
type Options struct {
	ID      string
	Bundle  string // absolute
	Overlay OverlayMode
	// SharedFiles says that others change the trees while the container
	// runs, the root included (--file-access=shared).
	SharedFiles bool
	// JoinContainer gives the ID of the container that a namespace path
	// belongs to, or "" if none.
	JoinContainer func(path string) string
}

// Translate makes a plan of a valid spec.
//
// Accepted with a warning, because engines send them always and they speak of
// the host kernel's defences, which the application doesn't meet, or of the
// host's mounts, whose later changes are not followed (rslave):
// process.apparmorProfile, process.selinuxLabel and linux.mountLabel on hosts
// that have the security module, device rules of linux.resources (there are
// no devices of the host), and namespaces given by the path of a host namespace that is no container's of this sandbox.
func Translate(s *specs.Spec, o Options) (*Plan, error) {
	p := &Plan{Args: &control.CreateArgs{
		ID:           o.ID,
		RootReadonly: s.Root.Readonly,
		RootOverlay:  control.OverlayMemory,
		Hostname:     s.Hostname,
		Domainname:   s.Domainname,
		Annotations:  s.Annotations,
	}}
	done := false
	defer func() {
		if !done {
			p.Close()
		}
	}()
	if o.Overlay == OverlayNone && !s.Root.Readonly {
		// Who may not write needs no way to the host, and the missing mount
		// points of a read-only root are made in memory.
		p.Args.RootOverlay = control.OverlayNone
	}
	if p.Args.RootShared = o.SharedFiles && p.Args.RootOverlay == control.OverlayNone; o.SharedFiles && !p.Args.RootShared {
		p.Warnings = append(p.Warnings, "--file-access=shared: changes below a layer in memory are not followed; --overlay=none and a writable root go with it")
	}
	var warnings []string
	p.Args.Init, warnings = Process(s.Process)
	p.Warnings = append(p.Warnings, warnings...)

	root, name, err := openRoot(s.Root.Path, o.Bundle)
	if err != nil {
		return nil, err
	}
	p.Attach = append(p.Attach, Attach{File: root, Name: name, Mount: -1,
		ReadOnly: s.Root.Readonly || p.Args.RootOverlay != control.OverlayNone})

	for i := range s.Mounts {
		if err := p.addMount(&s.Mounts[i], o); err != nil {
			return nil, fmt.Errorf("mounts[%d]%w", i, err)
		}
	}
	if s.Linux != nil {
		if err := p.addLinux(s.Linux, o); err != nil {
			return nil, err
		}
	}
	done = true
	return p, nil
}

// openRoot opens root.path. A relative one must lie in the bundle, whatever
// symbolic links lead there.
func openRoot(path, bundle string) (*os.File, string, error) {
	full := path
	if !filepath.IsAbs(path) {
		full = filepath.Join(bundle, path)
		real, err := filepath.EvalSymlinks(full)
		if err != nil {
			return nil, "", fmt.Errorf("root.path: %w", err)
		}
		if base, err := filepath.EvalSymlinks(bundle); err == nil {
			if rel, err := filepath.Rel(base, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
				return nil, "", fmt.Errorf("root.path %q leads out of the bundle, to %s", path, real)
			}
		}
		full = real
	}
	fd, err := unix.Open(full, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("root.path: %w", &os.PathError{Op: "open", Path: full, Err: err})
	}
	return os.NewFile(uintptr(fd), full), full, nil
}

// options are a mount's words sorted.
type options struct {
	flags, propagation uint64
	data               []string
	bind, copyUp       bool
}

// flagWords are the words of mount(8) that set and clear flags.
var flagWords = map[string]struct {
	clear bool
	flag  uint64
}{
	"ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"nosuid": {false, unix.MS_NOSUID}, "suid": {true, unix.MS_NOSUID},
	"nodev": {false, unix.MS_NODEV}, "dev": {true, unix.MS_NODEV},
	"noexec": {false, unix.MS_NOEXEC}, "exec": {true, unix.MS_NOEXEC},
	"sync": {false, unix.MS_SYNCHRONOUS}, "async": {true, unix.MS_SYNCHRONOUS},
	"dirsync": {false, unix.MS_DIRSYNC},
	"mand":    {false, unix.MS_MANDLOCK}, "nomand": {true, unix.MS_MANDLOCK},
	"noatime": {false, unix.MS_NOATIME}, "atime": {true, unix.MS_NOATIME},
	"nodiratime": {false, unix.MS_NODIRATIME}, "diratime": {true, unix.MS_NODIRATIME},
	"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME},
	"strictatime": {false, unix.MS_STRICTATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	"silent": {false, unix.MS_SILENT}, "loud": {true, unix.MS_SILENT},
	"iversion": {false, unix.MS_I_VERSION}, "noiversion": {true, unix.MS_I_VERSION},
	"acl": {false, unix.MS_POSIXACL}, "noacl": {true, unix.MS_POSIXACL},
	"lazytime": {false, unix.MS_LAZYTIME}, "nolazytime": {true, unix.MS_LAZYTIME},
	"nosymfollow": {false, 256}, "symfollow": {true, 256}, // MS_NOSYMFOLLOW
	"defaults": {false, 0},
	// The recursive ones: a bind here is one mount, with all below it.
	"rro": {false, unix.MS_RDONLY}, "rrw": {true, unix.MS_RDONLY},
	"rnosuid": {false, unix.MS_NOSUID}, "rsuid": {true, unix.MS_NOSUID},
	"rnodev": {false, unix.MS_NODEV}, "rdev": {true, unix.MS_NODEV},
	"rnoexec": {false, unix.MS_NOEXEC}, "rexec": {true, unix.MS_NOEXEC},
	"rnoatime": {false, unix.MS_NOATIME}, "ratime": {true, unix.MS_NOATIME},
}

var propagationWords = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// fsTypes are the file systems that the sentry makes.
var fsTypes = map[string]bool{
	"proc": true, "sysfs": true, "tmpfs": true, "devpts": true, "mqueue": true,
	"cgroup": true, "cgroup2": true, "devtmpfs": true,
}

// parseOptions sorts a mount's options and checks its type.
func parseOptions(m *specs.Mount) (options, error) {
	var o options
	for _, word := range m.Options {
		if word == "bind" || word == "rbind" {
			o.bind = true
		} else if word == "tmpcopyup" {
			o.copyUp = true
		} else if f, ok := flagWords[word]; ok {
			if f.clear {
				o.flags &^= f.flag
			} else {
				o.flags |= f.flag
			}
		} else if p, ok := propagationWords[word]; ok {
			o.propagation = p
		} else if word == "idmap" || word == "ridmap" {
			return o, fmt.Errorf(".options: %q is not supported", word)
		} else if word != "" {
			o.data = append(o.data, word)
		}
	}
	if m.Type == "bind" {
		o.bind = true
	}
	if o.bind {
		if m.Source == "" {
			return o, errors.New(".source of a bind mount is missing")
		}
		if len(o.data) > 0 {
			return o, fmt.Errorf(".options: %q is not an option of a bind mount", o.data[0])
		}
		return o, checkOptions(m, &o)
	}
	if m.Type == "" {
		return o, errors.New(".type is missing")
	}
	if !fsTypes[m.Type] {
		return o, fmt.Errorf(".type: file system %q is not supported", m.Type)
	}
	return o, checkOptions(m, &o)
}

func (p *Plan) addMount(m *specs.Mount, o Options) error {
	words, err := parseOptions(m)
	if err != nil {
		return err
	}
	out := control.Mount{
		Destination: filepath.Clean("/" + m.Destination),
		Type:        m.Type, Source: m.Source,
		Flags: words.flags, Data: words.data, CopyUp: words.copyUp,
	}
	if words.bind {
		out.Type = "bind"
		if !filepath.IsAbs(m.Source) {
			out.Source = filepath.Join(o.Bundle, m.Source)
		}
		fd, err := unix.Open(out.Source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf(".source: %w", &os.PathError{Op: "open", Path: out.Source, Err: err})
		}
		// A volume may be another container's too.
		out.Shared = true
		out.Overlay = control.OverlayNone
		if o.Overlay == OverlayAll {
			out.Overlay = control.OverlayMemory
		}
		if words.propagation&unix.MS_SLAVE != 0 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("mounts at %s: what the host mounts below %s from now on is not seen in the container", out.Destination, out.Source))
		}
		p.Attach = append(p.Attach, Attach{
			File: os.NewFile(uintptr(fd), out.Source), Name: out.Source, Mount: len(p.Args.Mounts),
			ReadOnly: words.flags&unix.MS_RDONLY != 0 || out.Overlay != control.OverlayNone,
		})
	}
	p.Args.Mounts = append(p.Args.Mounts, out)
	return nil
}

// mustShare are the types of namespaces that are only ever named to share something.
var mustShare = map[specs.LinuxNamespaceType]bool{specs.PIDNamespace: true, specs.UserNamespace: true, specs.IPCNamespace: true}

func (p *Plan) addLinux(l *specs.Linux, o Options) error {
	a := p.Args
	a.Sysctls, a.MaskedPaths, a.ReadonlyPaths = l.Sysctl, l.MaskedPaths, l.ReadonlyPaths
	for _, d := range l.Devices {
		device := control.Device{Path: filepath.Clean(d.Path), Type: d.Type[0], Mode: 0o666,
			Major: uint32(d.Major), Minor: uint32(d.Minor)}
		if device.Type == 'u' {
			device.Type = 'c'
		}
		if d.FileMode != nil {
			device.Mode = uint32(d.FileMode.Perm())
		}
		if d.UID != nil {
			device.UID = *d.UID
		}
		if d.GID != nil {
			device.GID = *d.GID
		}
		a.Devices = append(a.Devices, device)
	}
	for _, n := range l.Namespaces {
		ns := control.Namespace{Type: control.NamespaceType(n.Type)}
		if n.Path != "" {
			if o.JoinContainer != nil {
				ns.Join = o.JoinContainer(n.Path)
			}
			if ns.Join == "" && mustShare[n.Type] || n.Type == specs.MountNamespace {
				return fmt.Errorf("linux.namespaces: %s is no %s namespace of this sandbox, and can't be joined", n.Path, n.Type)
			}
			if ns.Join == "" {
				p.Warnings = append(p.Warnings,
					fmt.Sprintf("linux.namespaces: %s is no namespace of this sandbox; a new %s namespace takes its place", n.Path, n.Type))
			}
		}
		a.Namespaces = append(a.Namespaces, ns)
	}
	for _, m := range l.UIDMappings {
		a.UIDMap = append(a.UIDMap, control.IDMap{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Size})
	}
	for _, m := range l.GIDMappings {
		a.GIDMap = append(a.GIDMap, control.IDMap{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Size})
	}
	if l.Resources != nil && len(l.Resources.Devices) > 0 {
		p.Warnings = append(p.Warnings, "linux.resources.devices: there are no devices of the host to allow or deny")
	}
	if l.MountLabel != "" {
		p.Warnings = append(p.Warnings, "linux.mountLabel: the mounts are the sandbox's, and have no labels")
	}
	if l.Seccomp != nil {
		var err error
		if a.Seccomp, err = filterProgram(l.Seccomp); err != nil {
			return fmt.Errorf("linux.seccomp%w", err)
		}
	}
	Limits(&a.Resources, l.Resources)
	return nil
}

// filterProgram is the program that the container's processes run under.
func filterProgram(p *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	f, err := profile.Translate(p)
	if err != nil {
		return nil, err
	}
	program, err := seccomp.Assemble(f)
	if err != nil {
		return nil, fmt.Errorf(": %w", err)
	}
	return program, nil
}

// Limits puts what r says into limits, and leaves what it doesn't speak of; -1 is
// no limit.
func Limits(limits *control.Resources, r *specs.LinuxResources) {
	if r == nil {
		return
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		limits.MemoryLimit = max(*r.Memory.Limit, 0)
	}
	if r.Pids != nil {
		limits.PidsLimit = max(pidsLimit(r.Pids), 0)
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil {
			limits.CPUQuota = max(*c.Quota, 0)
		}
		if c.Period != nil {
			limits.CPUPeriod = *c.Period
		}
		if c.Shares != nil {
			limits.CPUShares = *c.Shares
		}
		if c.Cpus != "" {
			limits.Cpus = c.Cpus
		}
	}
}

// pidsLimit is the limit whatever type the field has in the spec's version.
func pidsLimit(p *specs.LinuxPids) int64 { return p.Limit }
