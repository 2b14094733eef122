package cmd

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/runsc/spec"
)

// doPrefix begins the IDs of do's containers, so that those that a killed
// runsc left behind are known.
const doPrefix = "do-"

func doCommand() *command {
	return &command{
		name: "do", synopsis: "run a command in a sandbox over the host's files, which stay as they are",
		usage: "[flags] [--] COMMAND [ARGS]", minArgs: 1, maxArgs: -1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			p := &processFlags{}
			p.register(f)
			root := f.String("root", "/", "directory of the host that is the root directory")
			pidFile := f.String("pid-file", "", "file to write the sentry's pid to")
			hostname := f.String("hostname", "", "host name inside; the host's without")
			return func(c *Context, args []string) error {
				s, err := doSpec(p, *root, *hostname, args)
				if err != nil {
					return err
				}
				if err := spec.Validate(s); err != nil {
					return err
				}
				if c.Config.Overlay == string(spec.OverlayNone) {
					return errors.New("do never writes to the host: --overlay=none is not for it")
				}
				c.sweep()
				l := c.launchOf(&bundleFlags{pidFile: *pidFile}, fmt.Sprintf("%s%d", doPrefix, os.Getpid()), "/", s)
				l.options.PlainInit = true // Ctrl-C ends it, as without a sandbox
				return l.runForeground()
			}
		},
	}
}

// doSpec is the container of do: the caller's root, directory, ids, environment
// and limits.
func doSpec(p *processFlags, root, hostname string, args []string) (*specs.Spec, error) {
	cwd := "/"
	if root == "/" {
		var err error
		if cwd, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	groups, _ := os.Getgroups()
	process := &specs.Process{
		Args: args, Cwd: cwd, Env: os.Environ(),
		Terminal:     onTerminal(os.Stdin, os.Stdout, os.Stderr),
		User:         specs.User{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())},
		Capabilities: &specs.LinuxCapabilities{},
		Rlimits:      spec.CallerRlimits(),
	}
	// Go has raised its own soft limit of open files; the caller still has
	// the one that was meant.
	var caller unix.Rlimit
	if unix.Prlimit(os.Getppid(), unix.RLIMIT_NOFILE, nil, &caller) == nil {
		for i := range process.Rlimits {
			if r := &process.Rlimits[i]; r.Type == "RLIMIT_NOFILE" {
				r.Soft = min(r.Soft, caller.Cur)
			}
		}
	}
	if os.Getuid() == 0 {
		for _, g := range groups {
			process.User.AdditionalGids = append(process.User.AdditionalGids, uint32(g))
		}
	} else {
		// The gofer shows the caller's files as root's: so is the caller.
		process.User = specs.User{}
	}
	if process.User.UID == 0 {
		all := spec.CapabilityNames()
		process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	}
	if err := p.apply(process); err != nil {
		return nil, err
	}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: root},
		Process: process, Hostname: hostname,
		Mounts: spec.StandardMounts(),
		Linux:  &specs.Linux{Namespaces: spec.StandardNamespaces()},
	}, nil
}

// onTerminal reports whether all of files are terminals: a process with a terminal
// of its own has that for all three, and what is led elsewhere would not get there.
func onTerminal(files ...*os.File) bool {
	for _, f := range files {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err != nil {
			return false
		}
	}
	return true
}

// sweep removes what a do that was killed has left on disk. The sentry ended
// with it.
func (c *Context) sweep() {
	entries, _ := os.ReadDir(c.Store.Root)
	for _, e := range entries {
		id := e.Name()
		var pid int
		if n, _ := fmt.Sscanf(strings.TrimPrefix(id, doPrefix), "%d", &pid); n != 1 || !strings.HasPrefix(id, doPrefix) {
			continue
		}
		// The ID has the pid of its runsc, which may be another process's by now, or
		// this one's.
		if pid == os.Getpid() || unix.Kill(pid, 0) == unix.ESRCH {
			c.Store.Delete(id, true)
		} else if left, err := c.Store.Load(id); err == nil && left.State.Complete && !left.State.Sentry.Alive() {
			c.Store.Delete(id, false)
		}
	}
}
