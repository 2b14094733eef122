package cmd

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/runsc/container"
	"vitrine/runsc/spec"
)

func createCommand() *command {
	return &command{
		name: "create", synopsis: "create a container from a bundle, to be started later", usage: "[flags] ID", minArgs: 1, maxArgs: 1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			b := &bundleFlags{detach: true}
			b.register(f)
			return func(c *Context, args []string) error {
				l, err := c.newLaunch(b, args[0])
				if err != nil {
					return err
				}
				return l.create()
			}
		},
	}
}

func runCommand() *command {
	return &command{
		name: "run", synopsis: "create and start a container", usage: "[flags] ID", minArgs: 1, maxArgs: 1,
		setup: func(f *flag.FlagSet) func(*Context, []string) error {
			b := &bundleFlags{}
			b.register(f)
			for _, name := range []string{"detach", "d"} {
				f.BoolVar(&b.detach, name, false, "return when the container runs")
			}
			keep := f.Bool("keep", false, "don't delete the container when it has ended")
			f.Bool("no-subreaper", false, "accepted and not used")
			return func(c *Context, args []string) error {
				l, err := c.newLaunch(b, args[0])
				if err != nil {
					return err
				}
				if b.detach {
					if err := l.create(); err != nil {
						return err
					}
					err := c.Store.Start(args[0])
					if err != nil && !isWarning(err) {
						if deleteErr := c.Store.Delete(args[0], true); deleteErr != nil {
							err = fmt.Errorf("%w; %w", err, deleteErr)
						}
					}
					return err
				}
				l.keep = *keep
				return l.runForeground()
			}
		},
	}
}

func startCommand() *command {
	return &command{
		name: "start", synopsis: "start a created container", usage: "ID", minArgs: 1, maxArgs: 1,
		setup: func(*flag.FlagSet) func(*Context, []string) error {
			return func(c *Context, args []string) error { return c.Store.Start(args[0]) }
		},
	}
}

// launch is a container that a command makes.
type launch struct {
	c       *Context
	options container.CreateOptions
	flags   *bundleFlags
	console *container.Console
	keep    bool
}

func (c *Context) newLaunch(b *bundleFlags, id string) (*launch, error) {
	if err := spec.ValidateID(id); err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(b.bundle)
	if err != nil {
		return nil, err
	}
	s, err := spec.Load(bundle)
	if err != nil {
		return nil, err
	}
	l := c.launchOf(b, id, bundle, s)
	l.options.ExtraFiles, err = c.preserved(b.preserveFDs)
	return l, err
}

func (c *Context) launchOf(b *bundleFlags, id, bundle string, s *specs.Spec) *launch {
	return &launch{c: c, flags: b, options: container.CreateOptions{
		ID: id, Bundle: bundle, Spec: s, Join: c.joins(s), Warn: c.warn,
		Stdio: [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
	}}
}

// joins is the sandbox that a container of a pod belongs to: CRI's engines say so in
// annotations, others by the namespaces of a container of this runtime, which can
// only be shared inside its sandbox.
func (c *Context) joins(s *specs.Spec) string {
	for _, prefix := range []string{"io.kubernetes.cri.", "io.kubernetes.cri-o."} {
		kind := s.Annotations[prefix+"container-type"]
		if kind == "" {
			kind = s.Annotations[prefix+"ContainerType"]
		}
		if kind == "container" {
			if id := s.Annotations[prefix+"sandbox-id"]; id != "" {
				return id
			}
			return s.Annotations[prefix+"SandboxID"]
		}
	}
	if s.Linux == nil {
		return ""
	}
	for _, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.PIDNamespace, specs.IPCNamespace, specs.UserNamespace:
			if sandbox := c.Store.SandboxOfPath(n.Path); sandbox != "" {
				return sandbox
			}
		}
	}
	return ""
}

// openConsole gives the process the terminal it asks for.
func openConsole(wanted bool, socket string, detach bool) (*container.Console, error) {
	switch {
	case !wanted && socket != "":
		return nil, errors.New("--console-socket needs process.terminal to be true")
	case !wanted:
		return nil, nil
	case socket != "":
		return container.NewConsole(socket)
	case detach:
		return nil, errors.New("a terminal for a detached process needs --console-socket")
	}
	return container.CallerConsole()
}

func (l *launch) openConsole() error {
	console, err := openConsole(l.options.Spec.Process.Terminal, l.flags.consoleSocket, l.flags.detach)
	if err != nil || console == nil {
		return err
	}
	l.console = console
	l.options.Console, l.options.Rows, l.options.Cols = console.File, console.Rows, console.Cols
	l.options.ConsoleLeads = !console.Own && l.options.Join == ""
	return nil
}

// create makes a detached container.
func (l *launch) create() (err error) {
	if err := l.openConsole(); err != nil {
		return err
	}
	if l.console != nil {
		defer l.console.Release()
	}
	created, err := l.c.Store.Create(l.c.Config, &l.options)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			created.Destroy()
		}
	}()
	if l.options.Join != "" {
		var leads *os.File
		if l.console != nil && !l.console.Own {
			leads = l.console.File
		}
		pid, err := l.c.startWaiter(l.options.ID, 0, leads)
		if err != nil {
			return err
		}
		if err := created.SetWaiter(pid); err != nil {
			return err
		}
	}
	if err := writePIDFile(l.flags.pidFile, created.PID()); err != nil {
		return err
	}
	return created.Detach()
}

// runForeground makes a container, waits for it, and removes it.
func (l *launch) runForeground() error {
	if err := l.openConsole(); err != nil {
		return err
	}
	if l.console != nil {
		defer l.console.Release()
	}
	// From now on a signal is the container's.
	// It takes half a millisecond to say so for all of them.
	signals := make(chan os.Signal, 64)
	taken := make(chan struct{})
	go func() {
		signal.Notify(signals)
		close(taken)
	}()
	created, err := l.c.Store.Create(l.c.Config, &l.options)
	<-taken
	if err != nil {
		return err
	}
	code, err := l.runCreated(created, signals)
	if !l.keep || err != nil {
		switch destroyErr := created.Destroy(); {
		case destroyErr == nil:
		case err != nil:
			return fmt.Errorf("%w; %w", err, destroyErr)
		case isWarning(destroyErr):
			Report(l.c.Config, destroyErr)
		default:
			return &exitError{max(code, 1), destroyErr}
		}
	}
	if err == nil {
		err = exitWith(code)
	}
	return err
}

func (l *launch) runCreated(created *container.Created, signals chan os.Signal) (int, error) {
	if err := writePIDFile(l.flags.pidFile, created.PID()); err != nil {
		return 0, err
	}
	stop := forwardSignals(created.Container, 0, l.console, signals)
	defer stop()
	if err := created.StartNow(); isWarning(err) {
		Report(l.c.Config, err)
	} else if err != nil {
		return 0, err
	}
	code, err := created.WaitExit()
	if err != nil {
		return 0, &exitError{max(code, 1), err}
	}
	return code, nil
}

// forwardSignals passes signals on to a process until stop is called: SIGWINCH
// as the console's new size.
func forwardSignals(c *container.Container, pid int32, console *container.Console, signals chan os.Signal) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var client *control.Client
		for {
			var s os.Signal
			select {
			case <-done:
				if client != nil {
					client.Close()
				}
				return
			case s = <-signals:
			}
			signo := s.(syscall.Signal)
			switch signo {
			case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU:
				continue // runsc's own
			}
			if client == nil {
				var err error
				if client, err = c.Dial(); err != nil {
					client = nil
					continue
				}
			}
			if signo == unix.SIGWINCH {
				if console != nil {
					rows, cols := console.Size()
					client.Resize(c.State.ID, pid, rows, cols)
				}
				continue
			}
			client.Signal(c.State.ID, pid, int(signo), false)
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
		<-ended
	}
}
