package processes

import (
	"reflect"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
)

// What kcmp(2) compares.
const (
	kcmpFile = iota
	kcmpVM
	kcmpFiles
	kcmpFS
	kcmpSighand
	kcmpIO
	kcmpSysVSem
	kcmpTypes
)

func kcmp(t *kernel.Task, pid1, pid2 call.PID, kind int32, i1, i2 uint64) (uint64, error) {
	ns := t.PIDNamespace()
	a, b := ns.Task(int32(pid1)), ns.Task(int32(pid2))
	if a == nil || b == nil {
		return 0, unix.ESRCH
	}
	mayCompare := func(o *kernel.Task) bool {
		return o.AccessibleTo(t.ThreadGroup(), t.Credentials(), auth.RealIDs)
	}
	if !mayCompare(a) || !mayCompare(b) {
		return 0, unix.EPERM
	}
	switch kind {
	case kcmpFile:
		x, err := fileIdentity(a, i1)
		if err != nil {
			return 0, err
		}
		y, err := fileIdentity(b, i2)
		if err != nil {
			return 0, err
		}
		return order(t, x, y), nil
	case kcmpVM:
		return order(t, memoryIdentity(a), memoryIdentity(b)), nil
	case kcmpFiles:
		return order(t, pointer(a.SharedFDs()), pointer(b.SharedFDs())), nil
	case kcmpFS:
		return order(t, pointer(a.FS()), pointer(b.FS())), nil
	case kcmpSighand:
		return order(t, a.ThreadGroup().SignalActionsIdentity(), b.ThreadGroup().SignalActionsIdentity()), nil
	case kcmpIO:
		return 0, nil
	case kcmpSysVSem:
		return order(t, pointer(a.ThreadGroup()), pointer(b.ThreadGroup())), nil
	}
	return 0, unix.EINVAL
}

func pointer(p any) uintptr { return reflect.ValueOf(p).Pointer() }

func memoryIdentity(o *kernel.Task) uintptr {
	m := o.SharedMM()
	if m == nil {
		return 0
	}
	defer m.DecUsers()
	return pointer(m)
}

func fileIdentity(o *kernel.Task, fd uint64) (uintptr, error) {
	table := o.SharedFDs()
	if table == nil || fd > 1<<31-1 {
		return 0, unix.EBADF
	}
	f, err := table.Get(int32(fd))
	if err != nil {
		return 0, unix.EBADF
	}
	defer f.DecRef()
	return pointer(f), nil
}

// order compares identities as kcmp(2) does: 0 for the same, 1 and 2 for an
// order that is the same each time but tells nothing of addresses.
func order(t *kernel.Task, a, b uintptr) uint64 {
	secret := t.Kernel().CompareSecret()
	x, y := uint64(a)*secret, uint64(b)*secret
	switch {
	case x == y:
		return 0
	case x < y:
		return 1
	}
	return 2
}
