// Package config holds runsc's global flags: their names, defaults and checks,
// and the file that --config names.
//
// A Config is filled once, before any command runs, and not changed afterwards.
package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Config is the global flags.
type Config struct {
	// Root is the directory of the containers' state.
	Root string
	// Log is a file that errors and warnings are appended to as well;
	// LogFormat is "text" or "json", for engines.
	Log       string
	LogFormat string
	// Debug logs more, to DebugLog: a file, or a pattern with %ID%.
	Debug    bool
	DebugLog string
	// Platform is how application code is run.
	Platform string
	// Network is what the sandbox's network is connected to.
	Network string
	// Overlay says where writes to host trees go: root, all or none.
	Overlay string
	// FileAccess says whether others change the root while a container runs.
	FileAccess string
	// Strace logs applications' system calls to DebugLog.
	Strace bool
	// SystemdCgroup is what engines with systemd ask for.
	SystemdCgroup bool
	// Rootless is accepted for runc's sake: whether it is, shows by itself.
	Rootless string
	// SentryPath and GoferPath are the other two programs, if not found
	// beside this one.
	SentryPath string
	GoferPath  string
	// TotalMemory in bytes and CPUs are what a sandbox shows; 0: the host's.
	TotalMemory uint64
	CPUs        int
	// NoJail leaves sentry and gofer unconfined, to debug them.
	NoJail bool
	// File is the file that was read.
	File string
}

// DefaultRoot is where state is kept without --root.
func DefaultRoot() string {
	if os.Geteuid() == 0 {
		return "/run/vitrine"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return dir + "/vitrine"
	}
	return fmt.Sprintf("/tmp/vitrine-%d", os.Geteuid())
}

// Register defines the flags.
func (c *Config) Register(f *flag.FlagSet) {
	f.StringVar(&c.Root, "root", DefaultRoot(), "directory of the containers' state")
	f.StringVar(&c.Log, "log", "", "file to append errors and warnings to, beside standard error")
	f.StringVar(&c.LogFormat, "log-format", "text", "format of that file: text or json")
	f.BoolVar(&c.Debug, "debug", false, "log what helps to find mistakes to --debug-log")
	f.StringVar(&c.DebugLog, "debug-log", "", "file for the sandbox's own log; %ID% stands for the container's ID")
	f.StringVar(&c.Platform, "platform", "auto", "how application code is run: auto, systrap or ptrace")
	f.StringVar(&c.Network, "network", "none", "what the sandbox's network is connected to: none (loopback only)")
	f.StringVar(&c.Overlay, "overlay", "root", "what of the host is written in memory only: root, all or none")
	f.StringVar(&c.FileAccess, "file-access", "exclusive", "who changes the root while the container runs: exclusive (it alone) or shared")
	f.BoolVar(&c.Strace, "strace", false, "log the system calls of applications to --debug-log")
	f.BoolVar(&c.SystemdCgroup, "systemd-cgroup", false, "have systemd make cgroups (not supported)")
	f.StringVar(&c.Rootless, "rootless", "auto", "accepted and not used: privileges show by themselves")
	f.StringVar(&c.SentryPath, "sentry-path", "", "the sentry program")
	f.StringVar(&c.GoferPath, "gofer-path", "", "the gofer program")
	f.Uint64Var(&c.TotalMemory, "total-memory", 0, "memory that a sandbox shows, in bytes")
	f.IntVar(&c.CPUs, "cpus", 0, "processors that a sandbox shows")
	f.BoolVar(&c.NoJail, "no-jail", false, "leave sentry and gofer unconfined (to debug them)")
	f.StringVar(&c.File, "config", "", "file with a line \"flag = value\" for each flag to set")
}

// Load reads --config into flags that the command line doesn't set, and checks
// everything. f is parsed.
func (c *Config) Load(f *flag.FlagSet) error {
	if c.File != "" {
		given := map[string]bool{}
		f.Visit(func(f *flag.Flag) { given[f.Name] = true })
		b, err := os.ReadFile(c.File)
		if err != nil {
			return fmt.Errorf("--config: %w", err)
		}
		err = parseFile(string(b), func(name, value string) error {
			if f.Lookup(name) == nil || name == "config" {
				return fmt.Errorf("there is no flag %q", name)
			}
			if given[name] {
				return nil
			}
			return f.Set(name, value)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", c.File, err)
		}
	}
	return c.check()
}

func (c *Config) check() error {
	for _, x := range []struct{ flag, value, allowed string }{
		{"log-format", c.LogFormat, "text json"},
		{"platform", c.Platform, "auto systrap ptrace"},
		{"network", c.Network, "none"},
		{"overlay", c.Overlay, "root all none"},
		{"file-access", c.FileAccess, "exclusive shared"},
	} {
		found := false
		for _, a := range strings.Fields(x.allowed) {
			found = found || a == x.value
		}
		if !found {
			return fmt.Errorf("--%s=%s is not supported; it is one of: %s", x.flag, x.value,
				strings.ReplaceAll(x.allowed, " ", ", "))
		}
	}
	if c.SystemdCgroup {
		return errors.New("--systemd-cgroup is not supported; configure the engine for the cgroupfs driver")
	}
	if c.Strace && c.DebugLog == "" {
		return errors.New("--strace needs --debug-log, where the calls go")
	}
	if c.Log != "" {
		f, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		f.Close()
	}
	if c.CPUs < 0 {
		return fmt.Errorf("--cpus=%d is negative", c.CPUs)
	}
	return nil
}

// parseFile calls set for each assignment of a TOML document that has nothing
// but top-level keys with strings, integers and booleans: all that flags need.
// Anything else is refused.
func parseFile(text string, set func(name, value string) error) error {
	seen := map[string]bool{}
	for i, line := range strings.Split(text, "\n") {
		fail := func(err error) error { return fmt.Errorf("line %d: %w", i+1, err) }
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		if !ok {
			return fail(errors.New("not of the form flag = value"))
		}
		name = strings.Trim(strings.TrimSpace(name), `"'`)
		if seen[name] {
			return fail(fmt.Errorf("%s is set twice", name))
		}
		seen[name] = true
		value, err := parseValue(strings.TrimSpace(rest))
		if err == nil {
			err = set(name, value)
		}
		if err != nil {
			return fail(err)
		}
	}
	return nil
}

// parseValue reads one TOML string, integer or boolean and a comment behind it.
func parseValue(s string) (string, error) {
	value, rest := "", ""
	switch {
	case strings.HasPrefix(s, `"`):
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return "", errors.New("the string has no end")
		}
		if value, err = strconv.Unquote(quoted); err != nil {
			return "", err
		}
		rest = s[len(quoted):]
	case strings.HasPrefix(s, "'"):
		end := strings.IndexByte(s[1:], '\'')
		if end < 0 {
			return "", errors.New("the string has no end")
		}
		value, rest = s[1:1+end], s[end+2:]
	default:
		value, rest, _ = strings.Cut(s, "#")
		value = strings.TrimSpace(value)
		if rest != "" {
			rest = "#" + rest
		}
		if value != "true" && value != "false" {
			number := strings.ReplaceAll(value, "_", "")
			if _, err := strconv.ParseInt(number, 0, 64); err != nil {
				return "", fmt.Errorf("%q is neither a string, an integer nor a boolean", value)
			}
			value = number
		}
	}
	rest = strings.TrimSpace(rest)
	if rest != "" && rest[0] != '#' {
		return "", fmt.Errorf("unexpected %q behind the value", rest)
	}
	return value, nil
}
