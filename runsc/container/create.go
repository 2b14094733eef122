package container

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/trim"
	"vitrine/runsc/config"
	"vitrine/runsc/spec"
)

// SharesWarning is what becomes of a weight of processor time inside a pod.
const SharesWarning = "linux.resources.cpu.shares has no effect on a container inside a pod: the host weighs sandboxes against each other, not the containers of one"

// CreateOptions describes a container to create.
type CreateOptions struct {
	ID     string
	Bundle string // absolute
	Spec   *specs.Spec
	// Stdio or Console are as in control.Process; they stay the caller's.
	Stdio      [3]*os.File
	Console    *os.File
	Rows, Cols uint16
	// ConsoleLeads makes Console the sentry's controlling terminal, which then
	// follows its size. For consoles that are not the caller's own.
	ConsoleLeads bool
	ExtraFiles   []*os.File
	// Join is the ID of the sandbox's root container, or empty for a new
	// sandbox.
	Join string
	// PlainInit is as in control.CreateArgs.
	PlainInit bool
	// Warn is told what Translate accepts without effect.
	Warn func(string)
}

// Created is a container that its creator still holds. Until Detach its
// sentry ends when this process does.
type Created struct {
	*Container
	store  *Store
	line   *os.File // to the sentry; nil if the sandbox is another's
	stderr *os.File // what it writes to standard error; nil if that is the log
	sentry *os.Process
	gofer  *os.Process
}

// Create makes a container, ready to be started. On an error nothing is left but what
// can't be ended, as the error then says, and the state for a delete.
func (s *Store) Create(conf *config.Config, o *CreateOptions) (*Created, error) {
	e, err := s.add(o.ID)
	if err != nil {
		return nil, err
	}
	defer e.unlock()
	k := &creation{conf: conf, o: o, store: s, entry: e}
	created, err := k.run()
	if err != nil {
		if undoErr := k.undo(); undoErr != nil {
			err = fmt.Errorf("%w; container %q is not removed: %w", err, o.ID, undoErr)
		}
		return nil, err
	}
	return created, nil
}

// creation is a Create under way.
type creation struct {
	conf  *config.Config
	o     *CreateOptions
	store *Store
	entry *entry

	state  State
	plan   *spec.Plan
	cgroup *cgroup

	line        *os.File // to the sentry
	sentryErr   *os.File // what it wrote to standard error
	sentry      *os.Process
	gofer       *os.Process
	goferReport *os.File

	// hooksFailed is set when a hook has ended the creation: then those of the
	// end of a container run.
	hooksFailed bool
}

func (k *creation) run() (*Created, error) {
	o := k.o
	k.state = State{
		OCIVersion: o.Spec.Version, ID: o.ID, Bundle: o.Bundle, Sandbox: o.ID,
		Created: time.Now().UTC(), Owner: os.Geteuid(), Annotations: o.Spec.Annotations,
		Terminal: o.Spec.Process.Terminal, Hooks: o.Spec.Hooks, Process: o.Spec.Process,
	}
	if o.Join != "" {
		k.state.Sandbox = o.Join
	}
	if err := k.makeCgroup(); err != nil {
		return nil, err
	}
	var err error
	k.plan, err = spec.Translate(o.Spec, spec.Options{
		ID: o.ID, Bundle: o.Bundle, Overlay: spec.OverlayMode(k.conf.Overlay),
		SharedFiles: k.conf.FileAccess == "shared",
		JoinContainer: func(path string) string {
			if c := k.store.containerOfPath(path); c != nil && c.State.Sandbox == k.state.Sandbox {
				return c.State.ID
			}
			return ""
		},
	})
	if err != nil {
		return nil, err
	}
	defer k.plan.Close()
	defer k.plan.Args.CloseFiles() // those that the sentry wasn't sent
	for _, w := range k.plan.Warnings {
		o.Warn(w)
	}
	if c := k.plan.Args.Resources; o.Join != "" && c.CPUShares > 0 {
		o.Warn(SharesWarning)
	}
	k.state.Rootfs, k.state.Limits = k.plan.Attach[0].Name, k.plan.Args.Resources
	if err := k.startProcesses(); err != nil {
		return nil, err
	}
	if err := k.entry.save(&k.state); err != nil {
		return nil, err
	}
	if h := k.state.Hooks; h != nil {
		for _, stage := range spec.HookStages(h)[:3] {
			r := hookRun{stage.Name, stage.Hooks, k.state.OCI(k.state.Sentry.PID, control.StatusCreating), onHost}
			if stage.Name == "createContainer" {
				r.run = inNamespaces(hookNamespaces(o.Spec.Linux, k.state.Sentry.PID))
			}
			if err := r.untilFailure(); err != nil {
				k.hooksFailed = true
				return nil, k.cause(err)
			}
		}
	}
	if err := k.createInSentry(); err != nil {
		return nil, k.cause(err)
	}
	k.state.Complete = true
	if err := k.entry.save(&k.state); err != nil {
		return nil, err
	}
	if k.sentryErr != nil {
		if said := firstLine(k.sentryErr); said != "" {
			k.o.Warn("sentry: " + said)
		}
	}
	k.goferReport.Close()
	return &Created{Container: &Container{store: k.store, State: k.state}, store: k.store,
		line: k.line, stderr: k.sentryErr, sentry: k.sentry, gofer: k.gofer}, nil
}

// undo removes what there is of a container that can't be created. Where that fails
// the state stays.
func (k *creation) undo() error {
	for _, f := range []*os.File{k.line, k.sentryErr, k.goferReport} {
		if f != nil {
			f.Close()
		}
	}
	c := &Container{store: k.store, State: k.state}
	// Somebody else's sandbox may hold the container already.
	err := c.end()
	if err == nil {
		for _, child := range []*os.Process{k.sentry, k.gofer} {
			if child != nil {
				child.Wait()
			}
		}
		if k.cgroup != nil {
			if err = removeCgroups(k.cgroup.owned()); err == nil {
				k.cgroup.remove()
			}
		}
	}
	if err != nil {
		if saveErr := k.entry.save(&k.state); saveErr != nil {
			return fmt.Errorf("%w; %w", err, saveErr)
		}
		return err
	}
	if k.hooksFailed {
		if err := k.state.poststop(); err != nil {
			k.o.Warn(err.Error())
		}
	}
	return k.entry.remove()
}

// makeCgroup makes the cgroup if the spec wants one. Who may not make any, as a
// caller without privileges, gets none unless it holds limits.
func (k *creation) makeCgroup() error {
	l := k.o.Spec.Linux
	if l == nil || l.CgroupsPath == "" && !limitsAsked(l.Resources) {
		return nil
	}
	path := l.CgroupsPath
	if path == "" {
		path = "/vitrine/" + cgroupName(k.store.Root, k.o.ID)
	}
	g, err := planCgroup(path)
	if err == nil {
		// Written down first: who is killed now leaves nothing that delete doesn't know of.
		if k.state.Cgroups = g.missing(); len(k.state.Cgroups) > 0 {
			err = k.entry.save(&k.state)
		}
	}
	if err == nil {
		err = g.make()
	}
	if err != nil {
		k.state.Cgroups = nil
		if !limitsAsked(l.Resources) && !strings.Contains(err.Error(), "systemd") {
			k.o.Warn(err.Error())
			return nil
		}
		return err
	}
	k.cgroup = g
	k.state.Cgroups = g.owned()
	return g.apply(l.Resources)
}

// cgroupName names the cgroup of a container whose spec names none. IDs are of a
// directory of states: another's container of the same ID has another cgroup.
func cgroupName(root, id string) string {
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	return fmt.Sprintf("%s-%08x", id, crc32.ChecksumIEEE([]byte(root)))
}

// onPassingThread runs f in a goroutine on a thread that ends with it: one that
// has entered a cgroup would keep that busy. The process's first thread never
// ends, so f is not run there.
func onPassingThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return // locked: the thread ends
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // another thread, as the first is held here
			f()
		}()
		<-done
	}()
}

// startProcesses starts sentry and gofer.
func (k *creation) startProcesses() error {
	if k.o.Join != "" {
		root, err := k.store.Load(k.o.Join)
		if err != nil {
			return fmt.Errorf("sandbox of the container: %w", err)
		}
		if root.State.Sandbox != root.State.ID || !root.State.Sentry.Alive() {
			return fmt.Errorf("sandbox %q of the container is not running", k.o.Join)
		}
		k.state.Sentry = root.State.Sentry
	}
	done := make(chan error)
	start := func() {
		var err error
		var startIn *os.File
		if k.cgroup != nil {
			startIn, err = k.cgroup.enter()
		}
		if err == nil && k.o.Join == "" {
			err = k.startSentry(startIn)
		}
		if err == nil {
			err = k.startGofer(startIn)
		}
		if startIn != nil {
			startIn.Close()
		}
		done <- err
	}
	if k.cgroup != nil {
		onPassingThread(start)
	} else {
		go start()
	}
	return <-done
}

func (k *creation) startSentry(startIn *os.File) error {
	c, err := sentryChild(k.conf)
	if err != nil {
		return err
	}
	listener, err := control.Listen(filepath.Join(k.entry.path, socketFile))
	if err != nil {
		return err
	}
	defer listener.Close()
	var theirs *os.File
	if k.line, theirs, err = socketPair(unix.SOCK_SEQPACKET, "line to the sentry"); err != nil {
		return err
	}
	defer theirs.Close()
	exit, err := os.OpenFile(filepath.Join(k.entry.path, exitFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer exit.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := k.openLog()
	if err != nil {
		return err
	}
	stderr := log
	if log != nil {
		defer log.Close()
	} else {
		fd, err := unix.MemfdCreate("sentry-stderr", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("memfd_create: %w", err)
		}
		k.sentryErr = os.NewFile(uintptr(fd), "sentry-stderr")
		stderr = k.sentryErr
	}
	c.files = []*os.File{null, null, stderr}
	c.flag("parent-fd", theirs)
	c.flag("control-fd", listener)
	c.flag("exit-fd", exit)
	if log != nil {
		c.flag("log-fd", log)
	}
	if k.o.ConsoleLeads {
		c.flag("console-fd", k.o.Console)
		c.sys.Setctty = true
		c.sys.Ctty = len(c.files) - 1
	}
	inCgroup(c, startIn)
	if k.sentry, err = c.start(); err != nil {
		return err
	}
	k.state.Sentry = identify(k.sentry.Pid)
	return nil
}

func inCgroup(c *child, startIn *os.File) {
	if startIn != nil {
		c.sys.UseCgroupFD = true
		c.sys.CgroupFD = int(startIn.Fd())
	}
}

// openLog opens --debug-log, if it is used.
func (k *creation) openLog() (*os.File, error) {
	if k.conf.DebugLog == "" {
		return nil, nil
	}
	path := strings.ReplaceAll(k.conf.DebugLog, "%ID%", k.o.ID)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("--debug-log: %w", err)
	}
	return f, nil
}

func (k *creation) startGofer(startIn *os.File) error {
	c, err := goferChild(k.conf)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	c.files = []*os.File{null, null, null}
	log, err := k.openLog()
	if err != nil {
		return err
	}
	if log != nil {
		defer log.Close()
		c.flag("log-fd", log)
		c.files[2] = log
	}
	var report *os.File
	if k.goferReport, report, err = os.Pipe(); err != nil {
		return err
	}
	defer report.Close()
	c.flag("report-fd", report)
	for _, a := range k.plan.Attach {
		ours, theirs, err := socketPair(unix.SOCK_STREAM, "gofer connection")
		if err != nil {
			return err
		}
		defer theirs.Close()
		if a.Mount < 0 {
			k.plan.Args.Root = ours
		} else {
			k.plan.Args.Mounts[a.Mount].Gofer = ours
		}
		mode := "rw"
		if a.ReadOnly {
			mode = "ro"
		}
		c.args = append(c.args, fmt.Sprintf("--attach=%d:%s:%s", c.fd(a.File), mode, a.Name),
			fmt.Sprintf("--conn=%d", c.fd(theirs)))
	}
	inCgroup(c, startIn)
	if k.gofer, err = c.start(); err != nil {
		return err
	}
	k.state.Gofer = identify(k.gofer.Pid)
	return nil
}

// createInSentry has the sentry create the container.
func (k *creation) createInSentry() error {
	c := &Container{store: k.store, State: k.state}
	client, err := c.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	k.plan.Args.PlainInit = k.o.PlainInit
	p := &k.plan.Args.Init
	p.Console = k.o.Console
	if k.o.Console == nil {
		p.Stdio = k.o.Stdio
	}
	if k.o.Rows != 0 || k.o.Cols != 0 {
		p.ConsoleRows, p.ConsoleCols = k.o.Rows, k.o.Cols
	}
	p.ExtraFiles = k.o.ExtraFiles
	// The client closes what it sends; these are the caller's.
	if err := Duplicate(p); err != nil {
		return err
	}
	return client.Create(k.plan.Args)
}

// duplicate replaces files, where they are not nil, with duplicates.
func duplicate(places ...**os.File) error {
	for i, place := range places {
		if *place == nil {
			continue
		}
		fd := -1
		raw, err := (*place).SyscallConn()
		if err == nil {
			raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
		}
		if err != nil {
			for _, later := range places[i:] {
				*later = nil
			}
			return fmt.Errorf("duplicating %s: %w", (*place).Name(), err)
		}
		// NewFile of a non-blocking one would leave it so; it is only sent.
		*place = os.NewFile(uintptr(fd), (*place).Name())
	}
	return nil
}

// cause finds out why something failed: what gofer or sentry have said before
// they ended explains more than the broken connection.
func (k *creation) cause(err error) error {
	if k.goferReport != nil {
		// Ready and ended gofers have closed it; one that hangs has not.
		k.goferReport.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if b, _ := io.ReadAll(io.LimitReader(k.goferReport, 4096)); len(b) > 0 {
			return fmt.Errorf("gofer: %s", strings.TrimSpace(string(b)))
		}
	}
	if k.gofer != nil && !k.state.Gofer.Alive() {
		if state, waitErr := k.gofer.Wait(); waitErr == nil && !state.Success() { // it ends well when its connections close
			return fmt.Errorf("the gofer ended while the container was created (%s): %w", state, err)
		}
	}
	if control.ErrorKind(err) != control.KindGone || k.sentry == nil {
		return err
	}
	if cause := lastMessage(k.line); cause != "" {
		return fmt.Errorf("sentry: %s", cause)
	}
	state, waitErr := k.sentry.Wait()
	if waitErr != nil {
		return err
	}
	return sentryEnded("was created", state, "", k.sentryErr)
}

// sentryEnded says that a sentry ended while its container did something, and why: as
// it said itself, or wrote to standard error.
func sentryEnded(while string, state *os.ProcessState, said string, stderr *os.File) error {
	if said == "" {
		said = firstLine(stderr)
	}
	if said != "" {
		said = ": " + said
	}
	return fmt.Errorf("the sentry ended while the container %s (%s)%s", while, state, said)
}

// lastMessage returns what a sentry that can't go on has sent before it ended.
func lastMessage(line *os.File) string {
	b := make([]byte, 4096)
	n, _ := line.Read(b)
	return strings.TrimSpace(string(b[:n]))
}

// firstLine returns the first line of a file, or "" of nil.
func firstLine(f *os.File) string {
	b := make([]byte, 4096)
	n, _ := f.ReadAt(b, 0)
	line, _, _ := strings.Cut(strings.TrimSpace(string(b[:n])), "\n")
	return line
}

// StartNow starts the container, before anybody else may.
func (c *Created) StartNow() error {
	e, err := c.store.lock(c.State.ID)
	if err != nil {
		return err
	}
	defer e.unlock()
	return c.Container.start(e)
}

// Detach lets the container outlive this process.
func (c *Created) Detach() error {
	if c.line == nil {
		return nil
	}
	if _, err := c.line.Write([]byte{'D'}); err != nil {
		return errors.New("the sentry ended before it was detached")
	}
	return nil
}

// SetWaiter records the process that stands for the container.
func (c *Created) SetWaiter(pid int) error {
	e, err := c.store.lock(c.State.ID)
	if err != nil {
		return err
	}
	defer e.unlock()
	c.State.Waiter = identify(pid)
	return e.save(&c.State)
}

// WaitExit waits for the end of a container that wasn't detached, and of its
// processes, and returns init's exit code. A sentry that died counts as killed, as
// in Wait, and the error says how.
func (c *Created) WaitExit() (int, error) {
	if c.sentry == nil {
		return c.Wait(context.Background(), 0)
	}
	// All that this process does from here on is to wait.
	trim.Soon()
	state, err := c.sentry.Wait()
	if err != nil {
		return 0, fmt.Errorf("waiting for the sentry: %w", err)
	}
	if code, ok := c.ExitCode(); ok {
		return code, nil
	}
	return 128 + int(unix.SIGKILL), sentryEnded("ran", state, lastMessage(c.line), c.stderr)
}

// Destroy ends and removes the container, whatever its state.
func (c *Created) Destroy() error {
	e, err := c.store.lock(c.State.ID)
	if errors.Is(err, ErrNotExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	defer e.unlock()
	err = c.Container.destroy(e)
	// Children of this process: their last traces.
	if c.sentry != nil && !c.State.Sentry.Alive() {
		c.sentry.Wait()
	}
	if !c.State.Gofer.Alive() {
		c.gofer.Wait()
	}
	return err
}

// Duplicate replaces the standard files and the console of p with duplicates,
// for a call that closes what it sends.
func Duplicate(p *control.Process) error {
	return duplicate(&p.Console, &p.Stdio[0], &p.Stdio[1], &p.Stdio[2])
}
