package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/namespaces"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
)

// What package pids has, of this kernel's tasks.
type (
	PIDNamespace = pids.Namespace[*Task, *ThreadGroup]
	ProcessGroup = pids.Group[*Task, *ThreadGroup]
	Session      = pids.Session[*Task, *ThreadGroup]
	ids          = pids.IDs[*Task, *ThreadGroup]
)

// numbered is the kernel as pids knows it.
type numbered struct{ k *Kernel }

func (numbered) Leads(t *Task) (*ThreadGroup, bool) {
	if t != t.tg.leader {
		return nil, false
	}
	return t.tg, true
}

func (numbered) ParentGroup(tg *ThreadGroup) (g *ProcessGroup, ended bool) {
	if tg.parent == nil {
		return nil, tg.zombie
	}
	return tg.parent.group, tg.zombie
}

func (n numbered) SignalGroup(g *ProcessGroup, sig unix.Signal) {
	n.k.SendGroup(g, &signals.Info{Signo: int32(sig), Code: signals.CodeKernel})
}

func (numbered) SignalProcess(tg *ThreadGroup, sig unix.Signal) { tg.SendKernel(sig) }

// NewPIDNamespace returns a namespace below parent: ENOSPC where that is too deep.
func (k *Kernel) NewPIDNamespace(parent *PIDNamespace, user *auth.UserNamespace) (*PIDNamespace, error) {
	return parent.NewChild(user, k.NewNamespaceInode())
}

// Namespaces are those of a task. Immutable once shared.
type Namespaces struct {
	UTS   *namespaces.UTS
	IPC   *namespaces.IPC
	Net   *namespaces.Net
	Mount *vfs.MountNamespace
	// PIDForChildren is where the next child's pid comes from.
	PIDForChildren *PIDNamespace
}

// NewUTSNamespace returns a namespace with names.
func (k *Kernel) NewUTSNamespace(user *auth.UserNamespace, host, domain string) *namespaces.UTS {
	return namespaces.NewUTS(user, k.NewNamespaceInode(), host, domain)
}

// NewIPCNamespace returns an empty namespace.
func (k *Kernel) NewIPCNamespace(user *auth.UserNamespace) *namespaces.IPC {
	return namespaces.NewIPC(user, k.NewNamespaceInode())
}

// NewNetNamespace returns a namespace with stack, which may be nil.
func (k *Kernel) NewNetNamespace(user *auth.UserNamespace, stack any) *namespaces.Net {
	return namespaces.NewNet(user, k.NewNamespaceInode(), stack)
}

// SemaphoreUndo is what the process takes back at its end (semop(2), SEM_UNDO).
func (tg *ThreadGroup) SemaphoreUndo() *ipc.Undo { return &tg.undo }
