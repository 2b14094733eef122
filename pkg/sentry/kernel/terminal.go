package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/tty"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
)

// Job returns the task as terminals see it: Task is a tty.Context.
func (t *Task) Job() tty.Job { return job{t} }

// InstallFD implements tty.FDInstaller.
func (t *Task) InstallFD(f *vfs.File, cloexec bool) (int32, error) {
	return t.FDs().Add(f, 0, cloexec, t.tg.Limits().Soft(limits.OpenFiles))
}

type job struct{ t *Task }

func (j job) Session() tty.Session { return sessionRef{j.t.k, j.t.tg.Session()} }
func (j job) Group() tty.Group     { return groupRef{j.t.k, j.t.tg.ProcessGroup()} }
func (j job) LeadsSession() bool   { return j.t.tg.Session().Leader(j.t.k) == j.t.tg }

func (j job) FindGroup(pgid int32) (tty.Group, error) {
	j.t.k.tree.RLock()
	defer j.t.k.tree.RUnlock()
	if g := j.t.PIDNamespace().groups[pgid]; g != nil {
		return groupRef{j.t.k, g}, nil
	}
	return nil, unix.ESRCH
}

func (j job) GroupID(g tty.Group) int32     { return g.(groupRef).g.ID(j.t.PIDNamespace()) }
func (j job) SessionID(s tty.Session) int32 { return s.(sessionRef).s.ID(j.t.PIDNamespace()) }

func (j job) Spared(sig unix.Signal) bool {
	s := signals.Signal(sig)
	if j.t.SignalMask().Has(s) {
		return true
	}
	gs := &j.t.tg.signals
	gs.lock()
	actions := gs.actions
	gs.unlock()
	return actions.Ignored(s)
}

func (j job) Restart() error { return RestartSys }

// sessionRef is a Session as terminals see it, terminalRef a terminal as
// Sessions do.
type sessionRef struct {
	k *Kernel
	s *Session
}

type terminalRef struct {
	*tty.TTY
	k *Kernel
}

// SessionLeaderExited implements Terminal.
func (r terminalRef) SessionLeaderExited(s *Session) { r.SessionEnded(sessionRef{r.k, s}) }

// ForegroundGroup returns the terminal's foreground process group, or nil: tpgid
// of /proc/PID/stat.
func (r terminalRef) ForegroundGroup() *ProcessGroup {
	if g, ok := r.Foreground().(groupRef); ok {
		return g.g
	}
	return nil
}

func (r sessionRef) Terminal() *tty.TTY {
	if t, ok := r.s.Terminal(r.k).(terminalRef); ok {
		return t.TTY
	}
	return nil
}

func (r sessionRef) SetTerminal(t *tty.TTY) error {
	leader := r.s.Leader(r.k)
	if leader == nil {
		return unix.EPERM
	}
	return r.s.SetTerminal(leader, terminalRef{t, r.k})
}

func (r sessionRef) ClearTerminal(t *tty.TTY) { r.s.ClearTerminal(r.k, terminalRef{t, r.k}) }

func (r sessionRef) SignalLeader(sig unix.Signal) {
	if leader := r.s.Leader(r.k); leader != nil {
		leader.SendKernel(sig)
	}
}

// groupRef is a ProcessGroup as terminals see it.
type groupRef struct {
	k *Kernel
	g *ProcessGroup
}

func (r groupRef) Session() tty.Session { return sessionRef{r.k, r.g.Session()} }
func (r groupRef) Orphaned() bool       { return r.g.Orphaned(r.k) }
func (r groupRef) Signal(sig unix.Signal) {
	r.g.Send(r.k, &signals.Info{Signo: int32(sig), Code: signals.CodeKernel})
}

var (
	_ tty.Context     = (*Task)(nil)
	_ tty.FDInstaller = (*Task)(nil)
)
