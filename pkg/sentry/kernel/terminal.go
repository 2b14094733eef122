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

func (j job) Session() tty.Session { return j.t.tg.Session() }
func (j job) Group() tty.Group     { return j.t.tg.ProcessGroup() }
func (j job) LeadsSession() bool   { return j.t.tg.Session().Leader() == j.t.tg }

func (j job) FindGroup(pgid int32) (tty.Group, error) {
	if g := j.t.PIDNamespace().ProcessGroup(pgid); g != nil {
		return g, nil
	}
	return nil, unix.ESRCH
}

func (j job) GroupID(g tty.Group) int32     { return g.(*ProcessGroup).ID(j.t.PIDNamespace()) }
func (j job) SessionID(s tty.Session) int32 { return s.(*Session).ID(j.t.PIDNamespace()) }

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

var (
	_ tty.Context     = (*Task)(nil)
	_ tty.FDInstaller = (*Task)(nil)
)
