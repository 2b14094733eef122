// Testsentry is a sentry whose kernel runs a handful of made-up programs in
// goroutines. The tests of runsc's command line use it: everything but the
// application's kernel is the real thing.
//
// Programs: true, false, "exit N", "echo WORDS", cat, env, pwd, id, caps, "sleep"
// (until a signal), "size" (prints the terminal's size at each change), "say FD
// WORDS", nofile (prints that limit), denied (may not be executed), crash (the sentry panics),
// crash-later (it does when the program runs),
// hang-create (Create doesn't return).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/seccomp"
	"vitrine/runsc/sentry/process"
)

func main() { process.Main(prepare) }

func prepare(o *process.Options) (process.Kernel, error) {
	if o.TotalMemory == 666 {
		return nil, fmt.Errorf("a platform can't work with %d bytes", o.TotalMemory)
	}
	return &kernel{containers: map[string]*box{}, ended: make(chan struct{})}, nil
}

// kernel is the Sandbox. mu guards all below.
type kernel struct {
	mu         sync.Mutex
	order      []string
	containers map[string]*box
	ended      chan struct{}
	exit       control.WaitStatus
	nextPID    int32
}

type box struct {
	id        string
	status    control.Status
	init      *program
	processes map[int32]*program
	files     []*os.File // gofer connections
}

type program struct {
	pid     int32
	p       control.Process
	signals chan int
	resized chan [2]uint16
	size    [2]uint16
	done    chan struct{}
	status  control.WaitStatus
}

func (k *kernel) HostCalls() []seccomp.Row            { return nil }
func (k *kernel) Ended() <-chan struct{}              { return k.ended }
func (k *kernel) ExitStatus() control.WaitStatus      { return k.exit }
func (k *kernel) Stats(string) (control.Stats, error) { return control.Stats{Pids: 1}, nil }

func (k *kernel) Update(string, *control.Resources) error { return nil }

func failed(kind control.Kind, format string, args ...any) error {
	return &control.Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// load checks that a program exists. The caller holds mu.
func (k *kernel) load(p *control.Process) (*program, error) {
	switch name := path.Base(p.Args[0]); name {
	case "true", "false", "exit", "echo", "cat", "env", "pwd", "id", "caps", "sleep", "size", "say", "nofile", "crash-later":
	case "denied":
		return nil, failed(control.KindExecPermission, "exec %s: permission denied", p.Args[0])
	case "crash":
		panic("as asked for")
	default:
		return nil, failed(control.KindExecNotFound, "exec %s: no such file or directory", p.Args[0])
	}
	k.nextPID++
	g := &program{pid: k.nextPID, p: *p, signals: make(chan int, 16), resized: make(chan [2]uint16, 16), done: make(chan struct{}),
		size: [2]uint16{p.ConsoleRows, p.ConsoleCols}}
	p.Stdio, p.Console, p.ExtraFiles = [3]*os.File{}, nil, nil // taken out
	return g, nil
}

func (k *kernel) Create(a *control.CreateArgs) error {
	if a.Init.Args[0] == "hang-create" {
		select {}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.containers[a.ID] != nil {
		return failed(control.KindExists, "container %q exists already", a.ID)
	}
	if a.Root == nil {
		return failed(control.KindInvalid, "there is no root")
	}
	g, err := k.load(&a.Init)
	if err != nil {
		return err
	}
	b := &box{id: a.ID, status: control.StatusCreated, init: g, processes: map[int32]*program{g.pid: g}, files: []*os.File{a.Root}}
	a.Root = nil
	for i := range a.Mounts {
		if f := a.Mounts[i].Gofer; f != nil {
			b.files = append(b.files, f)
			a.Mounts[i].Gofer = nil
		}
	}
	k.containers[a.ID] = b
	k.order = append(k.order, a.ID)
	return nil
}

// find returns a container. The caller holds mu.
func (k *kernel) find(id string) (*box, error) {
	if b := k.containers[id]; b != nil {
		return b, nil
	}
	return nil, failed(control.KindNotFound, "container %q does not exist", id)
}

func (k *kernel) process(id string, pid int32) (*box, *program, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(id)
	if err != nil {
		return nil, nil, err
	}
	if pid == 0 {
		return b, b.init, nil
	}
	if g := b.processes[pid]; g != nil {
		return b, g, nil
	}
	return nil, nil, failed(control.KindNotFound, "there is no process %d", pid)
}

func (k *kernel) Start(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(id)
	if err != nil {
		return err
	}
	if b.status != control.StatusCreated {
		return failed(control.KindState, "container %q is %s", id, b.status)
	}
	b.status = control.StatusRunning
	go k.run(b, b.init)
	return nil
}

func (k *kernel) Exec(a *control.ExecArgs) (int32, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(a.ID)
	if err != nil {
		return 0, err
	}
	if wanted := map[bool]control.Status{false: control.StatusRunning, true: control.StatusCreated}[a.BeforeStart]; b.status != wanted {
		return 0, failed(control.KindState, "container %q is %s", a.ID, b.status)
	}
	g, err := k.load(&a.Process)
	if err != nil {
		return 0, err
	}
	b.processes[g.pid] = g
	go k.run(b, g)
	return g.pid, nil
}

func (k *kernel) run(b *box, g *program) {
	g.status = g.main()
	for _, f := range append(g.p.Stdio[:], g.p.Console) {
		if f != nil {
			f.Close()
		}
	}
	k.mu.Lock()
	if g == b.init {
		b.status = control.StatusStopped
	}
	close(g.done)
	k.mu.Unlock()
	if g == b.init {
		k.finish(b)
	}
}

// finish ends the sandbox if its root container has ended.
func (k *kernel) finish(b *box) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.order) > 0 && k.order[0] == b.id {
		k.exit = b.init.status
		select {
		case <-k.ended:
		default:
			close(k.ended)
		}
	}
}

func (g *program) main() control.WaitStatus {
	in, out := io.Reader(g.p.Stdio[0]), io.Writer(g.p.Stdio[1])
	if g.p.Console != nil {
		in, out = g.p.Console, g.p.Console
	}
	args := g.p.Args
	switch path.Base(args[0]) {
	case "false":
		return control.WaitStatus{ExitCode: 1}
	case "exit":
		n, _ := strconv.Atoi(args[1])
		return control.WaitStatus{ExitCode: int32(n)}
	case "echo":
		fmt.Fprintln(out, strings.Join(args[1:], " "))
	case "cat":
		// Bare, or it takes splice(2) and the like, which the jail refuses.
		io.Copy(struct{ io.Writer }{out}, struct{ io.Reader }{in})
	case "env":
		fmt.Fprintln(out, strings.Join(g.p.Env, "\n"))
	case "pwd":
		fmt.Fprintln(out, g.p.Cwd)
	case "id":
		fmt.Fprintln(out, g.p.User.UID, g.p.User.GID, g.p.User.AdditionalGIDs)
	case "caps":
		fmt.Fprintf(out, "%x %v\n", g.p.Capabilities.Effective, g.p.NoNewPrivileges)
	case "nofile":
		for _, r := range g.p.Rlimits {
			if r.Resource == unix.RLIMIT_NOFILE {
				fmt.Fprintln(out, r.Soft)
			}
		}
	case "crash-later":
		panic("as asked for")
	case "say":
		n, _ := strconv.Atoi(args[1])
		fmt.Fprintln(g.p.ExtraFiles[n-3], strings.Join(args[2:], " "))
	case "sleep":
		fmt.Fprintln(out, "sleeping")
		return control.WaitStatus{Signal: int32(<-g.signals)}
	case "size":
		fmt.Fprintf(out, "%d %d\n", g.size[0], g.size[1])
		for {
			select {
			case s := <-g.resized:
				fmt.Fprintf(out, "%d %d\n", s[0], s[1])
			case s := <-g.signals:
				return control.WaitStatus{Signal: int32(s)}
			}
		}
	}
	return control.WaitStatus{}
}

func (k *kernel) Wait(ctx context.Context, id string, pid int32) (control.WaitStatus, error) {
	_, g, err := k.process(id, pid)
	if err != nil {
		return control.WaitStatus{}, err
	}
	select {
	case <-ctx.Done():
		return control.WaitStatus{}, ctx.Err()
	case <-g.done:
		return g.status, nil
	}
}

func (k *kernel) Signal(id string, pid int32, signo int, all bool) error {
	b, g, err := k.process(id, pid)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch b.status {
	case control.StatusStopped:
		return failed(control.KindState, "container %q is stopped", id)
	case control.StatusCreated:
		if signo == int(unix.SIGKILL) {
			b.status = control.StatusStopped
			b.init.status.Signal = 9
			close(b.init.done)
			go k.finish(b)
		}
		return nil
	}
	targets := []*program{g}
	if all {
		targets = nil
		for _, p := range b.processes {
			targets = append(targets, p)
		}
	}
	for _, p := range targets {
		if signo != 0 {
			select {
			case p.signals <- signo:
			default:
			}
		}
	}
	return nil
}

func (k *kernel) Processes(id string) ([]control.ProcessInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(id)
	if err != nil {
		return nil, err
	}
	var list []control.ProcessInfo
	for pid, g := range b.processes {
		list = append(list, control.ProcessInfo{PID: pid, NSPID: pid, State: 'S', Comm: path.Base(g.p.Args[0]), Args: g.p.Args, StartTime: time.Now().UnixNano()})
	}
	return list, nil
}

func (k *kernel) setStatus(id string, from, to control.Status) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(id)
	if err != nil {
		return err
	}
	if b.status != from {
		return failed(control.KindState, "container %q is %s, not %s", id, b.status, from)
	}
	b.status = to
	return nil
}

func (k *kernel) Pause(id string) error {
	return k.setStatus(id, control.StatusRunning, control.StatusPaused)
}

func (k *kernel) Resume(id string) error {
	return k.setStatus(id, control.StatusPaused, control.StatusRunning)
}

func (k *kernel) Resize(id string, pid int32, rows, cols uint16) error {
	_, g, err := k.process(id, pid)
	if err == nil {
		select {
		case g.resized <- [2]uint16{rows, cols}:
		default:
		}
	}
	return err
}

func (k *kernel) Destroy(id string) error {
	k.mu.Lock()
	b := k.containers[id]
	k.mu.Unlock()
	if b == nil {
		return nil
	}
	k.Signal(id, 0, int(unix.SIGKILL), true)
	k.mu.Lock()
	delete(k.containers, id)
	for _, f := range b.files {
		f.Close()
	}
	k.mu.Unlock()
	k.finish(b)
	return nil
}

func (k *kernel) State(id string) (control.ContainerState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, err := k.find(id)
	if err != nil {
		return control.ContainerState{}, err
	}
	return control.ContainerState{Status: b.status, InitPID: b.init.pid}, nil
}

func (k *kernel) Containers() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.order...), nil
}
