package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/runsc/spec"
)

// Hooks are programs that a spec wants run at points of a container's life (OCI
// runtime spec, config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle"). All
// get the state as JSON on standard input, and are killed after their timeout.
//
//   - prestart, createRuntime: on the host, in runsc's namespaces. The sentry is
//     there, and with it the network namespace that engines configure.
//   - createContainer: on the host too, in the container's network, IPC and UTS
//     namespaces as the host knows them: those that the spec names by path, or
//     the sentry's. Its mount namespace is one of its own with the host's files, as
//     before pivot_root; mounts that it makes reach nobody, for the container's
//     are made in the sentry. It is in none of the sandbox's PID namespaces.
//   - startContainer: in the sandbox, as a process of the container beside init,
//     which is loaded and hasn't run: with init's ids, capabilities, limits and
//     system call filter, as runc has it.
//   - poststart, poststop: on the host.
//
// A hook on the host leads a process group, which ends with it when its time is up.
// So a terminal's Ctrl-C, which goes to runsc's group, doesn't reach it: signals that
// end runsc are passed on to a hook while it runs, and end the operation when it has
// ended, however it has.
//
// One that fails ends the operation, and the container, and then the poststop
// hooks run; but a failure of poststart or poststop is a warning, and those after
// it run all the same.

// hookRun is the hooks of one point.
type hookRun struct {
	name  string
	hooks []specs.Hook
	state *specs.State
	run   func(h *specs.Hook, state []byte) error
}

// untilFailure runs the hooks in order; the first that fails ends it.
func (r *hookRun) untilFailure() error {
	if len(r.hooks) == 0 {
		return nil
	}
	state, err := json.Marshal(r.state)
	if err != nil {
		return err
	}
	for i := range r.hooks {
		if err := r.run(&r.hooks[i], state); err != nil {
			return fmt.Errorf("hook %s[%d] %s: %w", r.name, i, r.hooks[i].Path, err)
		}
	}
	return nil
}

// all runs the hooks in order, whether they fail or not. The error is a
// HookWarning.
func (r *hookRun) all() error {
	var failures []error
	for i := range r.hooks {
		one := hookRun{r.name, r.hooks[i : i+1], r.state, r.run}
		if err := one.untilFailure(); err != nil {
			failures = append(failures, fmt.Errorf("hook %s[%d]%s", r.name, i, strings.TrimPrefix(err.Error(), "hook "+r.name+"[0]")))
		}
	}
	if len(failures) == 0 {
		return nil
	}
	return &HookWarning{errors.Join(failures...)}
}

// poststop runs the last hooks of a container that is gone.
func (s *State) poststop() error {
	if s.Hooks == nil {
		return nil
	}
	r := hookRun{"poststop", s.Hooks.Poststop, s.OCI(0, control.StatusStopped), onHost}
	return r.all()
}

// onHost runs a hook in the namespaces of runsc.
func onHost(h *specs.Hook, state []byte) error { return hookProcess(h, state, (*exec.Cmd).Start) }

// hookProcess runs a hook that start starts.
func hookProcess(h *specs.Hook, state []byte, start func(*exec.Cmd) error) error {
	ctx, cancel := hookContext(h)
	defer cancel()
	var output tail
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		if err := unix.Kill(-cmd.Process.Pid, unix.SIGKILL); err != unix.ESRCH {
			return err
		}
		return os.ErrProcessDone
	}
	cmd.Stdin = bytes.NewReader(state)
	cmd.Stdout, cmd.Stderr = &output, &output
	// A grandchild that keeps the pipe must not hold us up.
	cmd.WaitDelay = time.Second
	coming := catchSignals()
	err := start(cmd)
	if err == nil {
		coming.passTo(func(s unix.Signal) { unix.Kill(-cmd.Process.Pid, s) })
		err = cmd.Wait()
	}
	came := coming.end()
	switch {
	case ctx.Err() != nil && err != nil:
		return timedOut(h)
	case came != 0:
		return interrupted(came)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	}
	return output.explain(err)
}

// caught are the signals that come to end this process, from catchSignals to end.
type caught struct {
	signals chan os.Signal
	first   chan unix.Signal
}

func catchSignals() *caught {
	c := &caught{signals: make(chan os.Signal, 16)}
	for _, s := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		if !signal.Ignored(s) { // nohup(1)
			signal.Notify(c.signals, s)
		}
	}
	return c
}

// passTo calls send for each signal, in a goroutine.
func (c *caught) passTo(send func(unix.Signal)) {
	c.first = make(chan unix.Signal, 1)
	go func() {
		came := unix.Signal(0)
		for s := range c.signals {
			if came == 0 {
				came = s.(unix.Signal)
			}
			send(s.(unix.Signal))
		}
		c.first <- came
	}()
}

// end returns the first signal that was passed on, or 0.
func (c *caught) end() unix.Signal {
	signal.Stop(c.signals)
	close(c.signals)
	if c.first == nil {
		return 0
	}
	return <-c.first
}

func interrupted(s unix.Signal) error {
	return fmt.Errorf("was ended, as runsc got signal %s", unix.SignalName(s))
}

// hookContext ends with the hook's timeout.
func hookContext(h *specs.Hook) (context.Context, context.CancelFunc) {
	if h.Timeout == nil {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), time.Duration(*h.Timeout)*time.Second)
}

func timedOut(h *specs.Hook) error {
	return fmt.Errorf("was killed after its timeout of %d s", *h.Timeout)
}

// tail keeps the last that was written.
type tail struct{ last []byte }

const tailSize = 1024

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.last = append(t.last, p[max(len(p)-tailSize, 0):]...)
	t.last = t.last[max(len(t.last)-tailSize, 0):]
	return len(p), nil
}

// explain adds what a hook has said to how it ended.
func (t *tail) explain(err error) error {
	if said := strings.TrimSpace(string(t.last)); said != "" {
		return fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// hookNamespace is a namespace of the host that stands for one of a container's.
type hookNamespace struct {
	kind specs.LinuxNamespaceType
	path string
	flag int
}

// hookNamespaces are those that the host has of a container: by the path that the
// spec gives, or the sentry's. What the spec doesn't name is the runtime's.
func hookNamespaces(l *specs.Linux, sentry int) []hookNamespace {
	if l == nil {
		return nil
	}
	var all []hookNamespace
	for _, n := range l.Namespaces {
		h := hookNamespace{kind: n.Type, path: n.Path}
		file := ""
		switch n.Type {
		case specs.NetworkNamespace:
			file, h.flag = "net", unix.CLONE_NEWNET
		case specs.IPCNamespace:
			file, h.flag = "ipc", unix.CLONE_NEWIPC
		case specs.UTSNamespace:
			file, h.flag = "uts", unix.CLONE_NEWUTS
		default:
			continue
		}
		if h.path == "" {
			h.path = fmt.Sprintf("/proc/%d/ns/%s", sentry, file)
		}
		all = append(all, h)
	}
	return all
}

// inNamespaces returns what runs a hook in namespaces, and in a mount namespace of
// its own.
func inNamespaces(all []hookNamespace) func(*specs.Hook, []byte) error {
	return func(h *specs.Hook, state []byte) error {
		return hookProcess(h, state, func(cmd *exec.Cmd) error {
			started := make(chan error)
			onPassingThread(func() {
				err := enterNamespaces(all)
				if err == nil {
					cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS
					err = cmd.Start()
				}
				started <- err
			})
			return <-started
		})
	}
}

// enterNamespaces moves the calling thread, which is to end.
func enterNamespaces(all []hookNamespace) error {
	for _, n := range all {
		fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, n.flag)
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("entering the %s namespace %s: %w", n.kind, n.path, err)
		}
	}
	return nil
}

// inSandbox returns what runs a hook as a process of a container that is created.
func (c *Container) inSandbox(client control.Sandbox) func(*specs.Hook, []byte) error {
	return func(h *specs.Hook, state []byte) error {
		if c.State.Process == nil {
			return errors.New("the container's process is not known")
		}
		args := &control.ExecArgs{ID: c.State.ID, KeepExit: true, BeforeStart: true}
		args.Process, _ = spec.Process(c.State.Process)
		p := &args.Process
		if p.Path, p.Args, p.Env = h.Path, h.Args, h.Env; len(p.Args) == 0 {
			p.Args = []string{h.Path}
		}
		in, err := fileOf(state)
		if err != nil {
			return err
		}
		out, theirs, err := os.Pipe()
		if err != nil {
			in.Close()
			return err
		}
		defer out.Close()
		p.Stdio = [3]*os.File{in, theirs, theirs}
		if err := duplicate(&p.Stdio[2]); err != nil {
			in.Close()
			theirs.Close()
			return err
		}
		var output tail
		read := make(chan struct{})
		go func() {
			defer close(read)
			io.Copy(&output, out)
		}()
		coming := catchSignals()
		pid, err := client.Exec(args)
		if err != nil {
			coming.end()
			return errors.New(err.Error()) // without its exit code: the container's program was found
		}
		ctx, cancel := hookContext(h)
		defer cancel()
		coming.passTo(func(s unix.Signal) { client.Signal(c.State.ID, pid, int(s), false) })
		status, err := client.Wait(ctx, c.State.ID, pid)
		came := coming.end()
		if err != nil && ctx.Err() != nil {
			client.Signal(c.State.ID, pid, int(unix.SIGKILL), false)
			// Its status is kept until somebody has taken it.
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			client.Wait(ctx, c.State.ID, pid)
			return timedOut(h)
		}
		// A process that it has left behind must not hold us up.
		out.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		switch {
		case came != 0:
			return interrupted(came)
		case err != nil:
			return err
		case status.Signal != 0:
			return output.explain(fmt.Errorf("ended by signal %d", status.Signal))
		case status.ExitCode != 0:
			return output.explain(fmt.Errorf("exit status %d", status.ExitCode))
		}
		return nil
	}
}

// initPID is init's pid as its own namespace numbers it.
func (c *Container) initPID(client control.Sandbox) (int, error) {
	all, err := client.Processes(c.State.ID)
	if err != nil {
		return 0, err
	}
	if len(all) == 0 {
		return 0, errors.New("the container has no process")
	}
	return int(all[0].NSPID), nil
}

// fileOf returns a file with these bytes, to be read from its beginning.
func fileOf(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if _, err = f.Write(b); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OCI is the state object of the runtime spec.
func (s *State) OCI(pid int, status control.Status) *specs.State {
	version := s.OCIVersion
	if version == "" {
		version = specs.Version
	}
	return &specs.State{Version: version, ID: s.ID, Status: specs.ContainerState(status), Pid: pid,
		Bundle: s.Bundle, Annotations: s.Annotations}
}
