package boot

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/control"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/fs/gofer"
	"vitrine/pkg/sentry/fs/overlay"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/trim"
)

// container is a set of processes with a root of their own.
type container struct {
	id      string
	s       *Sandbox
	account *memfile.Account
	kc      *kernel.Container
	cred    *auth.Credentials // the Sentry's, for what it does in the container: all capabilities
	user    *auth.UserNamespace
	ns      *kernel.Namespaces
	root    vfs.Path
	args    *control.CreateArgs
	filter  []callfilter.Instruction // of all processes that are started from outside; may be empty

	// resources are the limits as last set, read without a lock, in the middle of
	// reads of files too.
	resources atomic.Pointer[control.Resources]

	// gofers are the file systems with a connection to a gofer, overlays those over
	// some of them. Whoever makes or destroys the container has them.
	gofers, overlays []*vfs.Filesystem

	// made is closed when Create is done with the container, well or not.
	made chan struct{}

	// Guarded by Sandbox.mu.
	status control.Status
	init   *kernel.Task
	// execed are processes of Exec whose status somebody may still ask for;
	// unclaimed those of them that have ended, in that order, and may since have
	// been asked for.
	execed    map[int32]*kernel.ThreadGroup
	unclaimed []*kernel.ThreadGroup
	// terminals are those of processes that were started with one.
	terminals map[*kernel.ThreadGroup]consoleOf
}

// consoleOf is a process's terminal; drained is closed when its last output was
// shown.
type consoleOf struct {
	*terminal
	drained <-chan struct{}
}

func failf(kind control.Kind, format string, args ...any) error {
	return &control.Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Create implements control.Sandbox.
func (s *Sandbox) Create(args *control.CreateArgs) error {
	s.mu.Lock()
	if s.containers[args.ID] != nil {
		s.mu.Unlock()
		return failf(control.KindExists, "container %s exists already", args.ID)
	}
	c := &container{id: args.ID, s: s, args: args, kc: &kernel.Container{ID: args.ID}, user: s.k.RootUserNS, status: control.StatusCreating, made: make(chan struct{}), execed: map[int32]*kernel.ThreadGroup{},
		terminals: map[*kernel.ThreadGroup]consoleOf{}}
	s.containers[args.ID] = c
	first := s.root == ""
	if first {
		s.root = args.ID
	}
	s.mu.Unlock()
	defer close(c.made)
	err := c.create()
	if err != nil {
		c.kc.SetQuota(s.k, 0, 0)
		c.letGo()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.containers, args.ID)
		if first {
			s.root = ""
		}
		return err
	}
	c.status = control.StatusCreated
	return nil
}

func (c *container) create() error {
	var err error
	if c.account, err = c.s.account.NewAccount(c.id, 0); err != nil {
		return err
	}
	c.account.FreeHeap(freeHeap)
	if err := c.setResources(&c.args.Resources); err != nil {
		return err
	}
	if err := c.makeNamespaces(); err != nil {
		return err
	}
	if err := c.mountAll(); err != nil {
		return err
	}
	for _, f := range c.args.Seccomp {
		c.filter = append(c.filter, callfilter.Instruction{Code: f.Code, JT: f.Jt, JF: f.Jf, K: f.K})
	}
	t, err := c.newTask(&c.args.Init)
	if err != nil {
		return err
	}
	c.init = t
	if c.args.PlainInit {
		t.ThreadGroup().Unspare()
	}
	return nil
}

func (s *Sandbox) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil || c.status == control.StatusCreating {
		return nil, failf(control.KindNotFound, "container %s doesn't exist in this sandbox", id)
	}
	return c, nil
}

// Start implements control.Sandbox.
func (s *Sandbox) Start(id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if c.status != control.StatusCreated {
		s.mu.Unlock()
		return failf(control.KindState, "container %s is %s, not created", id, c.status)
	}
	c.status = control.StatusRunning
	s.mu.Unlock()
	tg := c.init.ThreadGroup()
	// What the sandbox was set up with, it needs no more.
	trim.Soon()
	c.init.Start()
	go func() {
		<-tg.Done()
		c.ended()
	}()
	return nil
}

// ended is what follows the end of init.
func (c *container) ended() {
	c.killAll()
	c.kc.SetQuota(c.s.k, 0, 0)
	c.settle(c.init.ThreadGroup())
	s := c.s
	s.mu.Lock()
	c.status = control.StatusStopped
	root := s.root == c.id
	s.mu.Unlock()
	if root {
		s.end(waitStatus(c.init.ThreadGroup().ExitStatus()))
	}
}

// end ends the sandbox.
func (s *Sandbox) end(st control.WaitStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
	default:
		s.status = st
		close(s.ended)
	}
}

// commandLine returns the arguments that t's process was started with, as far as the
// first limit bytes go, or nil where its memory is gone.
func commandLine(t *kernel.Task, limit int) []string {
	m := t.SharedMM()
	if m == nil {
		return nil
	}
	defer m.DecUsers()
	args, _ := m.Args()
	b := make([]byte, min(args.Len(), uint64(limit)))
	n, _ := m.CopyInForce(args.Start, b)
	return strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00")
}

func waitStatus(st kernel.ExitStatus) control.WaitStatus {
	if st.Signal != 0 {
		return control.WaitStatus{Signal: int32(st.Signal), CoreDumped: st.Core}
	}
	return control.WaitStatus{ExitCode: int32(st.Code)}
}

// groups lists the live processes of the container.
func (c *container) groups() []*kernel.ThreadGroup {
	var all []*kernel.ThreadGroup
	seen := map[*kernel.ThreadGroup]bool{}
	for _, t := range c.ns.PIDForChildren.Tasks() {
		tg := t.ThreadGroup()
		select {
		case <-tg.Done():
			continue
		default:
		}
		if !seen[tg] && t.Container() == c.id {
			seen[tg] = true
			all = append(all, tg)
		}
	}
	return all
}

// killAll ends all processes and waits until they are gone.
func (c *container) killAll() {
	for {
		all := c.groups()
		if len(all) == 0 {
			return
		}
		for _, tg := range all {
			tg.Kill(kernel.ExitStatus{Signal: sigKill})
		}
		for _, tg := range all {
			<-tg.Done()
		}
	}
}

// Exec implements control.Sandbox.
func (s *Sandbox) Exec(args *control.ExecArgs) (int32, error) {
	c, err := s.container(args.ID)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	status := c.status
	s.mu.Unlock()
	wanted := control.StatusRunning
	if args.BeforeStart {
		wanted = control.StatusCreated
	}
	if status != wanted {
		return 0, failf(control.KindState, "container %s is %s, not %s", args.ID, status, wanted)
	}
	c.makeRoom()
	t, err := c.newTask(&args.Process)
	if err != nil {
		return 0, err
	}
	tg := t.ThreadGroup()
	pid := tg.ID(s.k.RootPIDNS)
	s.mu.Lock()
	c.execed[pid] = tg
	s.mu.Unlock()
	t.Start()
	go func() {
		<-tg.Done()
		if args.KeepExit {
			c.keep(pid, tg)
			return
		}
		c.settle(tg)
		c.forget(pid, tg)
	}()
	return pid, nil
}

// maxUnclaimed is how many processes of Exec may end before the status of one that
// nobody has asked for is forgotten: who would have asked may be dead.
const maxUnclaimed = 1024

// keep notes that a process of Exec has ended.
func (c *container) keep(pid int32, tg *kernel.ThreadGroup) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.execed[pid] != tg {
		return // it was quickly asked for
	}
	if c.unclaimed = append(c.unclaimed, tg); len(c.unclaimed) <= maxUnclaimed {
		return
	}
	oldest := c.unclaimed[0]
	c.unclaimed = c.unclaimed[1:]
	delete(c.terminals, oldest)
	for pid, tg := range c.execed {
		if tg == oldest {
			delete(c.execed, pid)
			break
		}
	}
}

// forget drops the status of a process of Exec.
func (c *container) forget(pid int32, tg *kernel.ThreadGroup) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.execed[pid] == tg {
		delete(c.execed, pid)
	}
	if i := slices.Index(c.unclaimed, tg); i >= 0 {
		c.unclaimed = slices.Delete(c.unclaimed, i, i+1)
	}
}

// process returns the process with a pid of the outermost namespace; zero is
// init.
func (c *container) process(pid int32) (*kernel.ThreadGroup, error) {
	if pid == 0 {
		return c.init.ThreadGroup(), nil
	}
	c.s.mu.Lock()
	tg := c.execed[pid]
	c.s.mu.Unlock()
	if tg != nil {
		return tg, nil
	}
	if tg := c.s.k.RootPIDNS.ThreadGroup(pid); tg != nil {
		if l := tg.Leader(); l != nil && l.Container() == c.id {
			return tg, nil
		}
	}
	return nil, failf(control.KindNotFound, "container %s has no process %d", c.id, pid)
}

// Wait implements control.Sandbox.
func (s *Sandbox) Wait(ctx context.Context, id string, pid int32) (control.WaitStatus, error) {
	c, err := s.container(id)
	if err != nil {
		return control.WaitStatus{}, err
	}
	tg, err := c.process(pid)
	if err != nil {
		return control.WaitStatus{}, err
	}
	select {
	case <-tg.Done():
	case <-ctx.Done():
		return control.WaitStatus{}, ctx.Err()
	}
	c.settle(tg)
	if pid != 0 {
		c.forget(pid, tg)
	}
	return waitStatus(tg.ExitStatus()), nil
}

// Signal implements control.Sandbox.
func (s *Sandbox) Signal(id string, pid int32, signo int, all bool) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	status := c.status
	s.mu.Unlock()
	if status == control.StatusStopped {
		return failf(control.KindState, "container %s is stopped", id)
	}
	if signo < 0 || signo > 64 {
		return failf(control.KindInvalid, "%d is not a signal", signo)
	}
	var tg *kernel.ThreadGroup
	if !all {
		var err error
		if tg, err = c.process(pid); err != nil {
			return err
		}
	}
	if status == control.StatusCreated && (all || pid == 0) {
		// Nothing runs that could take a signal: one whose default is to end
		// the process does so.
		if sig := signals.Signal(signo); sig.Valid() && endsByDefault(sig) {
			c.init.ThreadGroup().Kill(kernel.ExitStatus{Signal: sig})
			return s.Start(id)
		}
		return nil
	}
	switch {
	case signo == 0:
	case all:
		c.kc.Broadcast(s.k, signals.Signal(signo))
	default:
		// Who sends it has no number in there.
		info := &signals.Info{Signo: int32(signo), Code: signals.CodeUser}
		tg.Send(info)
	}
	return nil
}

// endsByDefault reports whether a process that doesn't catch s ends by it.
func endsByDefault(s signals.Signal) bool {
	d := signals.DefaultOf(s)
	return d == signals.Terminate || d == signals.CoreDump
}

// Processes implements control.Sandbox.
func (s *Sandbox) Processes(id string) ([]control.ProcessInfo, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	k := s.k
	var out []control.ProcessInfo
	for _, tg := range c.groups() {
		l := tg.Leader()
		u := tg.Usage()
		p := control.ProcessInfo{
			PID: tg.ID(k.RootPIDNS), NSPID: tg.ID(tg.PIDNamespace()), UID: uint32(l.Credentials().RUID),
			Threads: int32(len(tg.Tasks())), StartTime: k.BootTime + tg.StartTime() - k.BootMonotonic,
			CPUTime: u.User + u.System, State: l.StateLetter(), Comm: l.Name(),
		}
		if parent := tg.Parent(); parent != nil {
			p.PPID = parent.ID(k.RootPIDNS)
		}
		p.Args = commandLine(l, 4096)
		if term := tg.Session().Terminal(); term != nil {
			p.TTY = terminalName(term.DeviceNumber())
		}
		if tg == c.init.ThreadGroup() {
			out = append([]control.ProcessInfo{p}, out...)
		} else {
			out = append(out, p)
		}
	}
	return out, nil
}

// Pause implements control.Sandbox.
func (s *Sandbox) Pause(id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if c.status != control.StatusRunning {
		defer s.mu.Unlock()
		return failf(control.KindState, "container %s is %s, not running", id, c.status)
	}
	c.status = control.StatusPaused
	s.mu.Unlock()
	c.kc.Pause(s.k)
	return nil
}

// Resume implements control.Sandbox.
func (s *Sandbox) Resume(id string) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if c.status != control.StatusPaused {
		defer s.mu.Unlock()
		return failf(control.KindState, "container %s is %s, not paused", id, c.status)
	}
	c.status = control.StatusRunning
	s.mu.Unlock()
	c.kc.Resume()
	return nil
}

// Resize implements control.Sandbox.
func (s *Sandbox) Resize(id string, pid int32, rows, cols uint16) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	tg, err := c.process(pid)
	if err != nil {
		return err
	}
	s.mu.Lock()
	t := c.terminals[tg]
	s.mu.Unlock()
	if t.terminal != nil {
		t.bridge.Resize(rows, cols)
	}
	return nil
}

// settle waits until the last output of a process with a terminal was shown, and
// forgets the terminal.
func (c *container) settle(tg *kernel.ThreadGroup) {
	c.s.mu.Lock()
	t := c.terminals[tg]
	delete(c.terminals, tg)
	c.s.mu.Unlock()
	if t.terminal != nil {
		<-t.drained
	}
}

// Destroy implements control.Sandbox.
func (s *Sandbox) Destroy(id string) error {
	s.mu.Lock()
	c := s.containers[id]
	if c == nil {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	// One that is being made has processes that nobody can end yet. Its maker may
	// have gone.
	<-c.made
	s.mu.Lock()
	if s.containers[id] != c {
		s.mu.Unlock()
		return nil
	}
	created := c.status == control.StatusCreated
	root := s.root == id
	s.mu.Unlock()
	if created && c.init != nil {
		c.init.ThreadGroup().Kill(kernel.ExitStatus{Signal: sigKill})
		s.Start(id)
	}
	c.kc.Resume()
	c.killAll()
	if root {
		s.end(waitStatus(c.init.ThreadGroup().ExitStatus()))
	}
	s.mu.Lock()
	gone := s.containers[id] == c
	delete(s.containers, id)
	s.mu.Unlock()
	if gone {
		c.letGo()
	}
	return nil
}

// letGo gives up the container's account, and ends the connections to its gofers,
// which end by that.
func (c *container) letGo() {
	for _, fs := range c.overlays {
		overlay.Close(fs)
	}
	for _, fs := range c.gofers {
		gofer.Close(fs)
	}
	if c.account != nil {
		c.account.Close()
	}
}

// State implements control.Sandbox.
func (s *Sandbox) State(id string) (control.ContainerState, error) {
	c, err := s.container(id)
	if err != nil {
		return control.ContainerState{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := control.ContainerState{Status: c.status, InitPID: c.init.ThreadGroup().ID(s.k.RootPIDNS)}
	if c.status == control.StatusStopped {
		st.Exit = waitStatus(c.init.ThreadGroup().ExitStatus())
	}
	return st, nil
}

// Stats implements control.Sandbox.
func (s *Sandbox) Stats(id string) (control.Stats, error) {
	c, err := s.container(id)
	if err != nil {
		return control.Stats{}, err
	}
	st := control.Stats{MemoryUsage: int64(c.account.Usage()), MemoryPeak: int64(c.account.Peak()), MemoryLimit: int64(c.account.Limit()),
		OOMKills: int64(c.account.Failures())}
	u := c.kc.Usage(s.k)
	st.CPUTime = u.User + u.System
	for _, tg := range c.groups() {
		st.Pids += int64(len(tg.Tasks()))
	}
	return st, nil
}

// Containers implements control.Sandbox.
func (s *Sandbox) Containers() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	if s.containers[s.root] != nil {
		ids = append(ids, s.root)
	}
	for id := range s.containers {
		if id != s.root {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// view is from where paths of the container are resolved by the kernel itself.
func (c *container) view() vfs.FSView { return vfs.FSView{Root: c.root, Start: c.root} }

// makeDirs makes the directory p and those above it that are missing, and
// returns its place.
func (c *container) makeDirs(p string, mode uint32) (vfs.Path, error) {
	ctx := vfs.KernelContext(c.cred)
	at, err := vfs.Resolve(ctx, c.view(), p, vfs.FollowFinal)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return at, err
	}
	built := ""
	for _, part := range strings.Split(strings.Trim(path.Clean(p), "/"), "/") {
		built += "/" + part
		if err := vfs.Mkdir(ctx, c.view(), built, mode); err != nil && err != unix.EEXIST {
			return vfs.Path{}, err
		}
	}
	return vfs.Resolve(ctx, c.view(), p, vfs.FollowFinal)
}
