package cmd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/runsc/container"
	"vitrine/runsc/spec"
)

// list collects the values of a flag that may be repeated.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// processFlags change a process object.
type processFlags struct {
	user, cwd string
	env, caps list
	gids      list
	tty       bool
	noNewPriv bool
}

func (p *processFlags) register(f *flag.FlagSet) {
	for _, name := range []string{"user", "u"} {
		f.StringVar(&p.user, name, "", "numeric user, or user:group, to run as")
	}
	f.StringVar(&p.cwd, "cwd", "", "directory to run in")
	for _, name := range []string{"env", "e"} {
		f.Var(&p.env, name, "NAME=VALUE to add to the environment; may be repeated")
	}
	for _, name := range []string{"cap", "c"} {
		f.Var(&p.caps, name, "capability to add to all sets; may be repeated")
	}
	f.Var(&p.gids, "additional-gids", "groups to add; may be repeated")
	for _, name := range []string{"tty", "t"} {
		f.BoolVar(&p.tty, name, false, "give the process a terminal")
	}
	f.BoolVar(&p.noNewPriv, "no-new-privs", false, "the process can't gain privileges by execve")
}

func (p *processFlags) apply(out *specs.Process) error {
	if p.user != "" {
		uid, gid, both := strings.Cut(p.user, ":")
		for _, x := range []struct {
			text string
			use  bool
			to   *uint32
		}{{uid, true, &out.User.UID}, {gid, both, &out.User.GID}} {
			if !x.use {
				continue
			}
			n, err := strconv.ParseUint(x.text, 10, 32)
			if err != nil {
				return fmt.Errorf("--user %q is not of the form UID[:GID]", p.user)
			}
			*x.to = uint32(n)
		}
	}
	if p.cwd != "" {
		out.Cwd = p.cwd
	}
	out.Env = withEnv(out.Env, p.env)
	for _, g := range p.gids {
		for _, one := range strings.Split(g, ",") {
			n, err := strconv.ParseUint(one, 10, 32)
			if err != nil {
				return fmt.Errorf("--additional-gids %q is not a number", one)
			}
			out.User.AdditionalGids = append(out.User.AdditionalGids, uint32(n))
		}
	}
	if len(p.caps) > 0 {
		if _, unknown := spec.CapabilityMask(p.caps); len(unknown) > 0 {
			return fmt.Errorf("--cap %q is not a capability", unknown[0])
		}
		if out.Capabilities == nil {
			out.Capabilities = &specs.LinuxCapabilities{}
		}
		caps := *out.Capabilities
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted, &caps.Inheritable, &caps.Ambient} {
			*set = append((*set)[:len(*set):len(*set)], p.caps...)
		}
		out.Capabilities = &caps
	}
	out.Terminal = out.Terminal || p.tty
	out.NoNewPrivileges = out.NoNewPrivileges || p.noNewPriv
	return nil
}

// withEnv returns env with the variables of more. A name that is there twice would
// have the value that comes first for most programs.
func withEnv(env, more []string) []string {
	out := slices.Clone(env)
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		same := func(old string) bool { return strings.HasPrefix(old, name+"=") || old == name }
		out = append(slices.DeleteFunc(out, same), v)
	}
	return out
}

func execCommand() *command {
	return &command{
		name: "exec", synopsis: "run a further process in a container", usage: "[flags] ID [--] COMMAND [ARGS]", minArgs: 1, maxArgs: -1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			e := &execution{}
			e.process.register(f)
			for _, name := range []string{"detach", "d"} {
				f.BoolVar(&e.detach, name, false, "return when the process runs")
			}
			for _, name := range []string{"process", "p"} {
				f.StringVar(&e.processFile, name, "", "file with the process as JSON, in place of a command")
			}
			f.StringVar(&e.pidFile, "pid-file", "", "file to write the pid to that stands for the process")
			f.StringVar(&e.internalPIDFile, "internal-pid-file", "", "file to write the pid in the sandbox to")
			f.StringVar(&e.consoleSocket, "console-socket", "", "unix socket to send the master of the terminal to")
			f.IntVar(&e.preserveFDs, "preserve-fds", 0, "how many descriptors from 3 on the process gets too")
			f.StringVar(&e.label, "process-label", "", "SELinux label; for hosts that have SELinux, and not used")
			f.StringVar(&e.profile, "apparmor", "", "AppArmor profile; for hosts that have AppArmor, and not used")
			return func(c *Context, args []string) error {
				id, args := args[0], args[1:]
				if len(args) > 0 && args[0] == "--" {
					args = args[1:] // flags end at the ID already
				}
				return e.run(c, id, args)
			}
		},
	}
}

// execution is an exec.
type execution struct {
	process                                              processFlags
	detach                                               bool
	processFile, pidFile, internalPIDFile, consoleSocket string
	preserveFDs                                          int
	label, profile                                       string
}

func (e *execution) spec(c *container.Container, args []string) (*specs.Process, error) {
	if e.processFile != "" {
		if len(args) > 0 {
			return nil, errors.New("exec takes --process or a command, not both")
		}
		b, err := spec.ReadLimited(e.processFile)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		p, err := spec.ParseProcess(b)
		if err != nil {
			return nil, fmt.Errorf("--process: %w", err)
		}
		p.Terminal = p.Terminal || e.process.tty
		return p, nil
	}
	if len(args) == 0 {
		return nil, errors.New("exec needs a command, or --process FILE")
	}
	p := *c.State.Process
	p.Args = args
	p.Terminal = false
	p.ConsoleSize = nil
	if err := e.process.apply(&p); err != nil {
		return nil, err
	}
	return &p, nil
}

func (e *execution) run(ctx *Context, id string, args []string) error {
	c, err := ctx.Store.Load(id)
	if err != nil {
		return err
	}
	if c.State.Process == nil {
		return fmt.Errorf("cannot exec in container %q: it is being created", id)
	}
	extra, err := ctx.preserved(e.preserveFDs)
	if err != nil {
		return err
	}
	process, err := e.spec(c, args)
	if err != nil {
		return err
	}
	if e.profile != "" {
		process.ApparmorProfile = e.profile
	}
	if e.label != "" {
		process.SelinuxLabel = e.label
	}
	if err := spec.ValidateProcess(process); err != nil {
		return err
	}
	client, err := c.Dial()
	if control.ErrorKind(err) == control.KindGone {
		return fmt.Errorf("cannot exec in container %q: it is stopped", id)
	}
	if err != nil {
		return err
	}
	defer client.Close()
	console, err := openConsole(process.Terminal, e.consoleSocket, e.detach)
	if err != nil {
		return err
	}
	execArgs := &control.ExecArgs{ID: id, KeepExit: true}
	var warnings []string
	execArgs.Process, warnings = spec.Process(process)
	for _, w := range warnings {
		ctx.warn(w)
	}
	p := &execArgs.Process
	if console != nil {
		defer console.Release()
		if console.Rows != 0 {
			p.ConsoleRows, p.ConsoleCols = console.Rows, console.Cols
		}
		p.Console = console.File
	} else {
		p.Stdio = [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	}
	p.ExtraFiles = extra
	if err := container.Duplicate(p); err != nil {
		return err
	}
	signals := make(chan os.Signal, 64)
	if !e.detach {
		signal.Notify(signals)
	}
	pid, err := client.Exec(execArgs)
	if err != nil {
		return fmt.Errorf("exec in container %q: %w", id, err)
	}
	err = writePIDFile(e.internalPIDFile, int(pid))
	if err == nil && e.detach {
		err = e.leave(ctx, id, pid, console)
	} else if err == nil {
		err = writePIDFile(e.pidFile, os.Getpid())
	}
	if err != nil {
		// Nobody would know of it, nor ask for its status.
		client.Signal(id, pid, int(unix.SIGKILL), false)
		client.Wait(context.Background(), id, pid)
		return err
	}
	if e.detach {
		return nil
	}
	stop := forwardSignals(c, pid, console, signals)
	code, err := c.Wait(context.Background(), pid)
	stop()
	if err != nil {
		return err
	}
	return exitWith(code)
}

// leave starts the process that stands for the one in the container.
func (e *execution) leave(ctx *Context, id string, pid int32, console *container.Console) error {
	var leads *os.File
	if console != nil && !console.Own {
		leads = console.File
	}
	waiter, err := ctx.startWaiter(id, pid, leads)
	if err != nil {
		return err
	}
	return writePIDFile(e.pidFile, waiter)
}

// startWaiter starts a runsc that ends as process pid of the container does.
// Its parent will be whoever adopts orphans: an engine's shim. With a console,
// it leads the console's session and follows its size. It holds no directory of the
// caller's, which may be one to unmount.
func (c *Context) startWaiter(id string, pid int32, console *os.File) (int, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	// The waiter closes its end when it waits and takes signals.
	ready, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	defer theirs.Close()
	files := []*os.File{null, null, null, theirs}
	sys := &syscall.SysProcAttr{Setsid: true}
	root, err := filepath.Abs(c.Store.Root)
	if err != nil {
		return 0, err
	}
	args := []string{"runsc", "--root", root, "waiter"}
	if console != nil {
		sys.Setctty, sys.Ctty = true, len(files)
		args = append(args, "--console-fd="+strconv.Itoa(len(files)))
		files = append(files, console)
	}
	args = append(args, id, fmt.Sprint(pid))
	p, err := os.StartProcess("/proc/self/exe", args, &os.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: sys})
	if err != nil {
		return 0, fmt.Errorf("starting the waiter: %w", err)
	}
	theirs.Close()
	if b, _ := io.ReadAll(ready); string(b) != "ready" {
		p.Kill()
		p.Wait()
		return 0, fmt.Errorf("the waiter did not start: %s", b)
	}
	return p.Pid, nil
}

func waiterCommand() *command {
	return &command{
		name: "waiter", synopsis: "end as a process of a container does (internal)", usage: "[--console-fd N] ID PID", minArgs: 2, maxArgs: 2,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			consoleFD := f.Int("console-fd", -1, "terminal to follow the size of")
			return func(c *Context, args []string) error {
				ready := os.NewFile(3, "ready")
				err := c.waiter(args[0], args[1], *consoleFD, ready)
				var exit *exitError
				if err != nil && !errors.As(err, &exit) {
					fmt.Fprint(ready, err)
				}
				return err
			}
		},
	}
}

func (c *Context) waiter(id, pidText string, consoleFD int, ready *os.File) error {
	pid, err := strconv.ParseInt(pidText, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not a pid", pidText)
	}
	target, err := c.Store.Load(id)
	if err != nil {
		return err
	}
	var console *container.Console
	if consoleFD >= 0 {
		console = &container.Console{File: os.NewFile(uintptr(consoleFD), "console")}
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	signal.Ignore(unix.SIGHUP) // the console's; the process gets its own
	stop := forwardSignals(target, int32(pid), console, signals)
	defer stop()
	ready.WriteString("ready")
	ready.Close()
	code, err := target.Wait(context.Background(), int32(pid))
	if err != nil {
		return err
	}
	return exitWith(code)
}
