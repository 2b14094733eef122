// Package container is the life of OCI containers on this host: it starts a
// sentry and a gofer, keeps what must be known of them under --root, and ends
// them. The commands of package cmd are thin around it.
//
// # A container on disk
//
// ROOT/ID/ holds state.json (replaced in one step), control.sock, where the
// sentry of a sandbox's root container listens, and exit, which the sentry
// writes its exit status to. The directory itself is locked with flock(2) by
// create, start and delete; reading needs no lock. What is on disk says which
// processes belong to the container, by pid and start time; how the container
// is, only the sentry says. A container whose sentry is dead is stopped, however
// that came about, and can be deleted. What of it can't be ended yet, a process that
// is frozen or a cgroup that others are in, keeps its directory.
//
// # Who depends on whom
//
// Until a container is created, and for as long as a foreground runsc stays,
// the sentry ends with runsc (package process has the line between them). A
// gofer ends when its connections close, thus with the sentry. Everything of
// the application is in the sentry's PID namespace. So no process outlives a
// SIGKILL of any other that it should not outlive; what remains on disk is
// removed by delete.
package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
)

// Container is a container as last read from disk.
type Container struct {
	store *Store
	State State
}

// Dial connects to the container's sentry. KindGone if it is dead.
func (c *Container) Dial() (*control.Client, error) {
	client, err := control.Dial(filepath.Join(c.store.dir(c.State.Sandbox), socketFile))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, &control.Error{Kind: control.KindGone, Message: fmt.Sprintf("container %q has no running sentry", c.State.ID)}
	}
	return client, err
}

// Status says how the container is, and how init ended if that is known.
func (c *Container) Status() (control.ContainerState, error) {
	stopped := control.ContainerState{Status: control.StatusStopped}
	if !c.State.Sentry.Alive() {
		return stopped, nil
	}
	if !c.State.Complete {
		return control.ContainerState{Status: control.StatusCreating}, nil
	}
	client, err := c.Dial()
	if err == nil {
		defer client.Close()
		var state control.ContainerState
		if state, err = client.State(c.State.ID); err == nil {
			return state, nil
		}
	}
	switch control.ErrorKind(err) {
	case control.KindGone, control.KindNotFound:
		return stopped, nil
	}
	if !c.State.Sentry.Alive() {
		return stopped, nil
	}
	return control.ContainerState{}, err
}

// PID is the host process that stands for the container: it ends with the
// exit status of init.
func (c *Container) PID() int { return c.process().PID }

func (c *Container) process() ProcessID {
	if c.State.Waiter.PID != 0 {
		return c.State.Waiter
	}
	return c.State.Sentry
}

// ExitCode is the exit code that the sentry of a stopped root container left
// behind; ok is false if it was killed before it could.
func (c *Container) ExitCode() (code int, ok bool) {
	b, err := os.ReadFile(filepath.Join(c.store.dir(c.State.ID), exitFile))
	if err != nil {
		return 0, false
	}
	n, _ := fmt.Sscan(string(b), &code)
	return code, n == 1
}

// Wait waits for a process of the container, init with pid 0, and returns its
// exit code. A sentry that died counts as killed.
func (c *Container) Wait(ctx context.Context, pid int32) (int, error) {
	client, err := c.Dial()
	if err == nil {
		defer client.Close()
		var status control.WaitStatus
		if status, err = client.Wait(ctx, c.State.ID, pid); err == nil {
			return status.Code(), nil
		}
	}
	switch kind := control.ErrorKind(err); {
	case kind == control.KindGone, kind == control.KindNotFound && pid == 0:
		if pid == 0 && c.State.Sandbox == c.State.ID {
			if code, ok := c.ExitCode(); ok {
				return code, nil
			}
		}
		return 128 + int(unix.SIGKILL), nil
	}
	return 0, err
}

// Start starts a created container.
func (s *Store) Start(id string) error {
	e, c, err := s.lockAndLoad(id)
	if err != nil {
		return err
	}
	defer e.unlock()
	state, err := c.Status()
	if err != nil {
		return err
	}
	if state.Status != control.StatusCreated {
		return fmt.Errorf("cannot start container %q: it is %s, not created", id, state.Status)
	}
	return c.start(e)
}

// start runs the hooks around the start. The caller holds the lock e.
func (c *Container) start(e *entry) error {
	client, err := c.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	hooks := c.State.Hooks
	if hooks != nil && len(hooks.StartContainer) > 0 {
		pid, err := c.initPID(client)
		if err == nil {
			r := hookRun{"startContainer", hooks.StartContainer, c.State.OCI(pid, control.StatusCreated), c.inSandbox(client)}
			err = r.untilFailure()
		}
		if err != nil {
			// As the spec has it, that is the end of the container.
			if destroyErr := c.destroy(e); destroyErr != nil {
				return fmt.Errorf("%w; %w", err, destroyErr)
			}
			return err
		}
	}
	if err := client.Start(c.State.ID); err != nil {
		return fmt.Errorf("starting container %q: %w", c.State.ID, err)
	}
	if hooks != nil {
		// The container runs already: as the spec has it, a failure is logged.
		r := hookRun{"poststart", hooks.Poststart, c.State.OCI(c.PID(), control.StatusRunning), onHost}
		return r.all()
	}
	return nil
}

// HookWarning is an error of a hook that doesn't end the operation.
type HookWarning struct{ Err error }

func (w *HookWarning) Error() string { return w.Err.Error() }

// Delete removes a stopped container, or with force any. With force, a container
// that isn't there is no error.
func (s *Store) Delete(id string, force bool) error {
	e, err := s.lock(id)
	if force && errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer e.unlock()
	c, err := s.Load(id)
	if err != nil {
		if !force {
			return err
		}
		// Which processes there are isn't known, but where a sentry listens is.
		c = &Container{store: s, State: State{ID: id, Sandbox: id}}
		if err := c.endInSentry(); err != nil {
			return err
		}
		return e.remove()
	}
	// By force, also one whose sentry doesn't answer.
	if !force {
		state, err := c.Status()
		if err != nil {
			return err
		}
		switch state.Status {
		case control.StatusStopped, control.StatusCreated:
		default:
			return fmt.Errorf("cannot delete container %q: it is %s, not stopped", id, state.Status)
		}
	}
	return c.destroy(e)
}

// destroy ends all that is left of the container and removes it. What can't be ended
// yet leaves the state, so that it can be tried again. The caller holds the lock.
func (c *Container) destroy(e *entry) error {
	err := c.end()
	if err == nil {
		err = removeCgroups(c.State.Cgroups)
	}
	if err != nil {
		return fmt.Errorf("container %q is not removed: %w", c.State.ID, err)
	}
	hookErr := c.State.poststop()
	if err := e.remove(); err != nil {
		return fmt.Errorf("removing the state of container %q: %w", c.State.ID, err)
	}
	return hookErr
}

// end ends the container's processes, in the sandbox and on the host.
func (c *Container) end() error {
	s := &c.State
	sentry, gofer, waiter := member{"sentry", s.Sentry}, member{"gofer", s.Gofer}, member{"waiter", s.Waiter}
	if s.Sandbox == s.ID {
		// The sentry goes with its root container: no need to ask it.
		return kill(sentry, gofer, waiter)
	}
	if s.Sentry.Alive() {
		if !s.Complete {
			// The sentry may be making it yet, from files that don't come.
			if err := kill(gofer); err != nil {
				return err
			}
		}
		if err := c.endInSentry(); err != nil {
			return err
		}
	}
	return kill(gofer, waiter)
}

// endInSentry has the sentry end a container that is not its first.
func (c *Container) endInSentry() error {
	ended := make(chan error, 1)
	go func() {
		client, err := c.Dial()
		if err == nil {
			defer client.Close()
			err = client.Destroy(c.State.ID)
		}
		if control.ErrorKind(err) == control.KindGone {
			// It takes no requests any more: it is ending.
			err = end(0, member{"sentry", c.State.Sentry})
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		return fmt.Errorf("its sentry (process %d) has not ended it within %v; delete it again when that answers", c.State.Sentry.PID, patience)
	}
}

// patience is how long what was killed may take to end.
const patience = 10 * time.Second

// member is a process of a container's family.
type member struct {
	name string
	ProcessID
}

// kill kills processes and waits until they are gone or zombies.
func kill(members ...member) error { return end(unix.SIGKILL, members...) }

// end sends a signal that ends processes, or with 0 none, and waits until they
// are gone or zombies. Those that aren't then are what the error says: they may be
// frozen, or wait for a device.
func end(signo unix.Signal, members ...member) error {
	open := map[member]int{}
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for _, m := range members {
		if !m.Alive() {
			continue
		}
		fd, err := unix.PidfdOpen(m.PID, 0)
		if err == nil {
			open[m] = fd
			// The descriptor might be of a process that has the pid since.
			if m.Alive() {
				err = unix.PidfdSendSignal(fd, signo, nil, 0)
			}
		}
		if err != nil && err != unix.ESRCH {
			return fmt.Errorf("killing its %s (process %d): %w", m.name, m.PID, err)
		}
	}
	var left []string
	deadline := time.Now().Add(patience)
	for _, m := range members {
		fd, there := open[m]
		for there && m.Alive() {
			remaining := max(time.Until(deadline), 0)
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(remaining/time.Millisecond))
			if n == 0 && err == nil {
				left = append(left, fmt.Sprintf("%s (process %d)", m.name, m.PID))
			}
			if err != unix.EINTR {
				break
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("its %s did not end within %v; delete it again when that is gone", strings.Join(left, " and "), patience)
	}
	return nil
}

// Signal sends a signal to init, or with all to every process.
func (c *Container) Signal(signo int, all bool) error {
	notRunning := fmt.Errorf("cannot signal container %q: container not running", c.State.ID)
	if !c.State.Sentry.Alive() {
		if all {
			return nil // as runc: nobody is left
		}
		return notRunning
	}
	if !c.State.Complete {
		return fmt.Errorf("cannot signal container %q: it is being created", c.State.ID)
	}
	client, err := c.Dial()
	if err == nil {
		defer client.Close()
		err = client.Signal(c.State.ID, 0, signo, all)
	}
	switch control.ErrorKind(err) {
	case control.KindGone, control.KindNotFound, control.KindState:
		if all {
			return nil
		}
		return notRunning
	}
	return err
}

// SandboxOfPath returns the ID of the running sandbox that has the process which a
// path like /proc/PID/ns/ipc is about, or "".
func (s *Store) SandboxOfPath(path string) string {
	c := s.containerOfPath(path)
	if c == nil || !c.State.Sentry.Alive() {
		return ""
	}
	return c.State.Sandbox
}

// containerOfPath finds the container whose living process a path like
// /proc/PID/ns/net is about, or nil.
func (s *Store) containerOfPath(path string) *Container {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return nil
	}
	var pid int
	if n, _ := fmt.Sscanf(rest, "%d/ns/", &pid); n != 1 {
		return nil
	}
	all, _ := s.List() // those that can be read
	for _, c := range all {
		// The pid of one that has ended may be anybody's by now.
		if p := c.process(); p.PID == pid && p.Alive() {
			return c
		}
	}
	return nil
}
