package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/seccomp/profile"
	"vitrine/runsc/container"
	"vitrine/runsc/spec"
)

// simple is a command without flags.
func simple(name, usage, synopsis string, minArgs, maxArgs int, run func(*Context, []string) error) *command {
	return &command{name: name, usage: usage, synopsis: synopsis, minArgs: minArgs, maxArgs: maxArgs,
		setup: func(*flag.FlagSet) func(*Context, []string) error { return run }}
}

// listed is a container as state and list show it.
type listed struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      control.Status    `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func describe(c *container.Container) (*listed, error) {
	state, err := c.Status()
	if err != nil {
		return nil, err
	}
	l := &listed{OCIVersion: c.State.OCIVersion, ID: c.State.ID, Status: state.Status, Bundle: c.State.Bundle,
		Rootfs: c.State.Rootfs, Created: c.State.Created, Annotations: c.State.Annotations}
	if l.OCIVersion == "" {
		l.OCIVersion = specs.Version
	}
	if l.Status != control.StatusStopped {
		l.PID = c.PID()
	}
	if c.State.Owner == 0 {
		l.Owner = "root"
	} else if u, err := user.LookupId(strconv.Itoa(c.State.Owner)); err == nil {
		l.Owner = u.Username
	} else {
		l.Owner = "#" + strconv.Itoa(c.State.Owner)
	}
	return l, nil
}

func stateCommand() *command {
	return simple("state", "ID", "print the state of a container as JSON", 1, 1, func(c *Context, args []string) error {
		target, err := c.Store.Load(args[0])
		if err != nil {
			return err
		}
		l, err := describe(target)
		if err != nil {
			return err
		}
		return printJSON(l)
	})
}

func listCommand() *command {
	return &command{name: "list", synopsis: "list containers", usage: "[--format table|json] [-q]", maxArgs: 0,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			format := stringFlag(f, "table", "table or json", "format", "f")
			quiet := boolFlag(f, "print IDs only", "quiet", "q")
			return func(c *Context, _ []string) error {
				all, failed := c.Store.List()
				if *quiet {
					for _, one := range all {
						fmt.Println(one.State.ID)
					}
					return failed
				}
				rows := []*listed{}
				for _, one := range all {
					l, err := describe(one)
					if err != nil {
						failed = errors.Join(failed, fmt.Errorf("container %q: %w", one.State.ID, err))
						continue
					}
					rows = append(rows, l)
				}
				switch *format {
				case "json":
					return errors.Join(json.NewEncoder(os.Stdout).Encode(rows), failed)
				case "table":
					w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
					fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
					for _, l := range rows {
						fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", l.ID, l.PID, l.Status, l.Bundle, l.Created.Format(time.RFC3339Nano), l.Owner)
					}
					return errors.Join(w.Flush(), failed)
				}
				return fmt.Errorf("--format %q is neither table nor json", *format)
			}
		}}
}

func stringFlag(f *flag.FlagSet, value, usage string, names ...string) *string {
	p := new(string)
	for _, n := range names {
		f.StringVar(p, n, value, usage)
	}
	return p
}

func boolFlag(f *flag.FlagSet, usage string, names ...string) *bool {
	p := new(bool)
	for _, n := range names {
		f.BoolVar(p, n, false, usage)
	}
	return p
}

func psCommand() *command {
	return &command{name: "ps", synopsis: "list the processes of a container", usage: "[--format table|json] ID", minArgs: 1, maxArgs: -1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			format := stringFlag(f, "table", "table, or json: the host pids that stand for the container", "format", "f")
			return func(c *Context, args []string) error {
				target, err := c.Store.Load(args[0])
				if err != nil {
					return err
				}
				switch *format {
				case "json":
					pids := []int{}
					if target.State.Sentry.Alive() {
						pids = append(pids, target.PID())
					}
					return json.NewEncoder(os.Stdout).Encode(pids)
				case "table":
				default:
					return fmt.Errorf("--format %q is neither table nor json", *format)
				}
				client, err := dialRunning(target)
				if err != nil {
					return err
				}
				defer client.Close()
				processes, err := client.Processes(args[0])
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(os.Stdout, 1, 1, 3, ' ', 0)
				fmt.Fprint(w, "UID\tPID\tPPID\tSTIME\tTTY\tTIME\tCMD\n")
				for _, p := range processes {
					tty, command := p.TTY, strings.Join(p.Args, " ")
					if tty == "" {
						tty = "?"
					}
					if command == "" {
						command = "[" + p.Comm + "]"
					}
					cpu := time.Duration(p.CPUTime).Truncate(time.Second)
					fmt.Fprintf(w, "%d\t%d\t%d\t%s\t%s\t%02d:%02d:%02d\t%s\n", p.UID, p.PID, p.PPID,
						time.Unix(0, p.StartTime).Format("15:04"), tty,
						int(cpu.Hours()), int(cpu.Minutes())%60, int(cpu.Seconds())%60, printable(command))
				}
				return w.Flush()
			}
		}}
}

// printable keeps what an application calls itself from commanding a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// dialRunning connects to the sentry of a container that has one.
func dialRunning(c *container.Container) (*control.Client, error) {
	client, err := c.Dial()
	if control.ErrorKind(err) == control.KindGone {
		return nil, fmt.Errorf("container %q is not running", c.State.ID)
	}
	return client, err
}

func waitCommand() *command {
	return &command{name: "wait", synopsis: "wait for the end of a container and print its exit code", usage: "[--pid PID] ID", minArgs: 1, maxArgs: 1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			pid := f.Int("pid", 0, "wait for this process of the sandbox instead of init")
			return func(c *Context, args []string) error {
				target, err := c.Store.Load(args[0])
				if err != nil {
					return err
				}
				code, err := target.Wait(context.Background(), int32(*pid))
				if err != nil {
					return err
				}
				fmt.Println(code)
				return nil
			}
		}}
}

func killCommand() *command {
	return &command{name: "kill", synopsis: "send a signal to a container's init process", usage: "[--all] ID [SIGNAL]", minArgs: 1, maxArgs: 2,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			all := boolFlag(f, "send it to every process of the container", "all", "a")
			pid := f.Int("pid", 0, "send it to this process of the sandbox instead of init")
			return func(c *Context, args []string) error {
				signo := int(unix.SIGTERM)
				if len(args) > 1 {
					var err error
					if signo, err = parseSignal(args[1]); err != nil {
						return err
					}
				}
				target, err := c.Store.Load(args[0])
				if err != nil {
					return err
				}
				if *pid != 0 {
					client, err := dialRunning(target)
					if err != nil {
						return err
					}
					defer client.Close()
					return client.Signal(args[0], int32(*pid), signo, false)
				}
				return target.Signal(signo, *all)
			}
		}}
}

func parseSignal(s string) (int, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("signal %d is not between 0 and 64", n)
		}
		return n, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, fmt.Errorf("%q is not a signal", s)
}

func deleteCommand() *command {
	return &command{name: "delete", synopsis: "remove a stopped container", usage: "[--force] ID...", minArgs: 1, maxArgs: -1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			force := boolFlag(f, "kill it if it is not stopped", "force", "f")
			return func(c *Context, args []string) error {
				var failures []error
				for _, id := range args {
					if err := c.Store.Delete(id, *force); isWarning(err) {
						Report(c.Config, err)
					} else if err != nil {
						failures = append(failures, err)
					}
				}
				return errors.Join(failures...)
			}
		}}
}

func pauseCommand() *command {
	return simple("pause", "ID", "stop all processes of a container, unseen by them", 1, 1, func(c *Context, args []string) error {
		return withClient(c, args[0], func(client *control.Client) error { return client.Pause(args[0]) })
	})
}

func resumeCommand() *command {
	return simple("resume", "ID", "let the processes of a paused container go on", 1, 1, func(c *Context, args []string) error {
		return withClient(c, args[0], func(client *control.Client) error { return client.Resume(args[0]) })
	})
}

func withClient(c *Context, id string, f func(*control.Client) error) error {
	target, err := c.Store.Load(id)
	if err != nil {
		return err
	}
	client, err := dialRunning(target)
	if err != nil {
		return err
	}
	defer client.Close()
	return f(client)
}

func updateCommand() *command {
	return &command{name: "update", synopsis: "change the limits of a container", usage: "[flags] ID", minArgs: 1, maxArgs: 1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			file := stringFlag(f, "", "file with the resources object of the runtime spec, - for standard input", "resources", "r")
			r := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}}
			number := func(name, usage string, set func(n int64)) {
				f.Func(name, usage, func(s string) error {
					n, err := strconv.ParseInt(s, 10, 64)
					if err != nil {
						return errors.New("is not a number")
					}
					set(n)
					return nil
				})
			}
			unsigned := func(name, usage string, p **uint64) {
				f.Func(name, usage, func(s string) error {
					n, err := strconv.ParseUint(s, 10, 64)
					if err != nil {
						return errors.New("is not a number from 0 on")
					}
					*p = &n
					return nil
				})
			}
			number("memory", "memory limit in bytes", func(n int64) { r.Memory.Limit = &n })
			number("memory-reservation", "memory reservation in bytes", func(n int64) { r.Memory.Reservation = &n })
			number("memory-swap", "limit of memory and swap in bytes", func(n int64) { r.Memory.Swap = &n })
			number("cpu-quota", "microseconds a period", func(n int64) { r.CPU.Quota = &n })
			unsigned("cpu-period", "length of a period in microseconds", &r.CPU.Period)
			unsigned("cpu-share", "weight against other sandboxes", &r.CPU.Shares)
			number("pids-limit", "processes", func(n int64) { r.Pids = &specs.LinuxPids{Limit: n} })
			f.StringVar(&r.CPU.Cpus, "cpuset-cpus", "", "processors to use")
			f.StringVar(&r.CPU.Mems, "cpuset-mems", "", "memory nodes to use")
			return func(c *Context, args []string) error {
				if *file != "" {
					var b []byte
					var err error
					if *file == "-" {
						b, err = io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
					} else {
						b, err = spec.ReadLimited(*file)
					}
					if err == nil {
						*r = specs.LinuxResources{}
						err = json.Unmarshal(b, r)
					}
					if err != nil {
						return fmt.Errorf("--resources: %w", err)
					}
				}
				target, err := c.Store.Load(args[0])
				if err != nil {
					return err
				}
				if err := spec.ValidateResources(r); err != nil {
					return err
				}
				if r.CPU != nil && r.CPU.Shares != nil && target.State.Sandbox != target.State.ID {
					c.warn(container.SharesWarning)
				}
				return c.Store.Update(target.State.ID, r)
			}
		}}
}

func eventsCommand() *command {
	return &command{name: "events", synopsis: "print what a container uses", usage: "--stats ID", minArgs: 1, maxArgs: 1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			stats := f.Bool("stats", false, "print once and end")
			f.Duration("interval", 0, "not supported")
			return func(c *Context, args []string) error {
				if !*stats {
					return errors.New("events without --stats is not supported")
				}
				return withClient(c, args[0], func(client *control.Client) error {
					s, err := client.Stats(args[0])
					if err != nil {
						return err
					}
					type object = map[string]any
					return json.NewEncoder(os.Stdout).Encode(object{"type": "stats", "id": args[0], "data": object{
						"cpu":  object{"usage": object{"total": s.CPUTime}},
						"pids": object{"current": s.Pids},
						"memory": object{"usage": object{"usage": s.MemoryUsage, "max": s.MemoryPeak,
							"limit": s.MemoryLimit, "failcnt": s.OOMKills}},
					}})
				})
			}
		}}
}

func featuresCommand() *command {
	return simple("features", "", "print what this runtime can do, as the OCI spec has it", 0, 0, func(*Context, []string) error {
		type object = map[string]any
		actions, operators, archs, knownFlags, flags := profile.Features()
		return printJSON(object{
			"ociVersionMin": "1.0.0", "ociVersionMax": specs.Version,
			"hooks":        []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
			"mountOptions": spec.MountOptionWords(),
			"linux": object{
				"namespaces":      []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"},
				"capabilities":    spec.CapabilityNames(),
				"cgroup":          object{"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
				"seccomp":         object{"enabled": true, "actions": actions, "operators": operators, "archs": archs, "knownFlags": knownFlags, "supportedFlags": flags},
				"apparmor":        object{"enabled": false},
				"selinux":         object{"enabled": false},
				"intelRdt":        object{"enabled": false},
				"mountExtensions": object{"idmap": object{"enabled": false}},
			},
			"annotations": object{"io.vitrine.version": version()},
		})
	})
}

func platformsCommand() *command {
	return simple("platforms", "", "list the ways application code can be run", 0, 0, func(*Context, []string) error {
		fmt.Println("auto     systrap where it works, else ptrace")
		fmt.Println("systrap  system calls become signals; needs Linux 5.9 and a processor with FSGSBASE")
		fmt.Println("ptrace   PTRACE_SYSEMU; works wherever ptrace does; slow")
		return nil
	})
}

// version is what the build says.
func version() string {
	revision := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	return revision
}

// PrintVersion prints what --version and version say.
func PrintVersion() {
	fmt.Printf("runsc version %s\nspec: %s\n", version(), specs.Version)
}

func versionCommand() *command {
	return simple("version", "", "print the version", 0, 0, func(*Context, []string) error {
		PrintVersion()
		return nil
	})
}

func specCommand() *command {
	return &command{name: "spec", synopsis: "write an example config.json", usage: "[--bundle DIR] [--cwd DIR] [-- ARGS]", maxArgs: -1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			bundle := stringFlag(f, ".", "directory to write it to", "bundle", "b")
			cwd := f.String("cwd", "/", "directory that the process runs in")
			rootless := f.Bool("rootless", false, "accepted: the example is the same")
			return func(_ *Context, args []string) error {
				_ = *rootless
				if len(args) == 0 {
					args = []string{"sh"}
				}
				s := spec.Example(args, *cwd)
				b, err := json.MarshalIndent(s, "", "\t")
				if err != nil {
					return err
				}
				path := filepath.Join(*bundle, "config.json")
				file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
				if err != nil {
					return err
				}
				_, err = file.Write(append(b, '\n'))
				if closeErr := file.Close(); err == nil {
					err = closeErr
				}
				return err
			}
		}}
}
