package processes

import (
	"fmt"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var cloneRows = []call.Row{
	call.Full(unix.SYS_CLONE, "clone", call.Args5(clone)),
	call.Partial(unix.SYS_CLONE3, "clone3", call.Args2(clone3), "no CLONE_NEWCGROUP and CLONE_NEWTIME (EINVAL); CLONE_INTO_CGROUP finds no group to go to"),
	call.Full(unix.SYS_FORK, "fork", call.Args0(fork)),
	call.Full(unix.SYS_VFORK, "vfork", call.Args0(vfork)),
}

// exitSignal is CSIGNAL: where clone(2) has the exit signal among the flags.
const exitSignal = 0xff

func clone(t *kernel.Task, flags uint64, stack, ptid, ctid usermem.Addr, tls uint64) (uint64, error) {
	// The high half is ignored: the flags there are of clone3(2).
	flags &= 0xffffffff
	tid, err := t.Clone(&kernel.CloneArgs{
		Flags: flags &^ exitSignal, ExitSignal: signals.Signal(flags & exitSignal),
		Stack: stack, PIDFD: ptid, ParentTID: ptid, ChildTID: ctid, TLS: tls,
	})
	return uint64(tid), err
}

func fork(t *kernel.Task) (uint64, error) { return clone(t, uint64(unix.SIGCHLD), 0, 0, 0, 0) }

func vfork(t *kernel.Task) (uint64, error) {
	return clone(t, unix.CLONE_VM|unix.CLONE_VFORK|uint64(unix.SIGCHLD), 0, 0, 0, 0)
}

// The sizes of struct clone_args: as it was first, and since set_tid_size and cgroup are
// its last.
const (
	cloneArgsFirst  = 64
	cloneArgsCgroup = 88
)

// clone3Known are the flags of clone3(2); it refuses others, where clone(2) ignores them.
const clone3Known = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_PTRACE | unix.CLONE_VFORK |
	unix.CLONE_PARENT | unix.CLONE_THREAD | unix.CLONE_NEWNS | unix.CLONE_SYSVSEM | unix.CLONE_SETTLS | unix.CLONE_PARENT_SETTID |
	unix.CLONE_CHILD_CLEARTID | unix.CLONE_UNTRACED | unix.CLONE_CHILD_SETTID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_IO | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND | unix.CLONE_INTO_CGROUP

const (
	// maxSetTID is how many namespaces can be nested: MAX_PID_NS_LEVEL.
	maxSetTID = 32
	// userEnd is TASK_SIZE_MAX.
	userEnd = 0x7ffffffff000
)

// cloneArgsPtr points to a struct clone_args.
type cloneArgsPtr usermem.Addr

// cloneArgs is a struct clone_args.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// read reads as much of it as there is; the rest is zero.
func (p cloneArgsPtr) read(t *kernel.Task, size call.Size) (cloneArgs, error) {
	b, err := call.CopyInStruct(t, usermem.Addr(p), size, cloneArgsFirst, cloneArgsCgroup)
	if err != nil {
		return cloneArgs{}, err
	}
	w := func(i int) uint64 { return call.U64(b[8*i:]) }
	return cloneArgs{w(0), w(1), w(2), w(3), w(4), w(5), w(6), w(7), w(8), w(9), w(10)}, nil
}

// Print shows what every version has of the structure, or its address where there is
// none to read.
func (p cloneArgsPtr) Print(t *kernel.Task) string {
	a, err := p.read(t, cloneArgsFirst)
	if err != nil {
		return fmt.Sprintf("%#x", uint64(p))
	}
	return fmt.Sprintf("{flags=%#x, pidfd=%#x, child_tid=%#x, parent_tid=%#x, exit_signal=%d, stack=%#x, stack_size=%#x, tls=%#x}",
		a.flags, a.pidfd, a.childTID, a.parentTID, a.exitSignal, a.stack, a.stackSize, a.tls)
}

func clone3(t *kernel.Task, p cloneArgsPtr, size call.Size) (uint64, error) {
	a, err := p.read(t, size)
	if err != nil {
		return 0, err
	}
	switch {
	case a.setTIDSize > maxSetTID, (a.setTID == 0) != (a.setTIDSize == 0),
		a.exitSignal > exitSignal || a.exitSignal != 0 && !signals.Signal(a.exitSignal).Valid(),
		a.flags&unix.CLONE_INTO_CGROUP != 0 && (a.cgroup > 1<<31-1 || size < cloneArgsCgroup):
		return 0, unix.EINVAL
	}
	chosen := make([]int32, a.setTIDSize)
	if a.setTIDSize != 0 {
		b := make([]byte, 4*a.setTIDSize)
		if _, err := t.MM().CopyIn(usermem.Addr(a.setTID), b); err != nil {
			return 0, err
		}
		for i := range chosen {
			chosen[i] = int32(call.U32(b[4*i:]))
		}
	}
	switch {
	case a.flags&^clone3Known != 0,
		a.flags&(unix.CLONE_THREAD|unix.CLONE_PARENT) != 0 && a.exitSignal != 0,
		(a.stack == 0) != (a.stackSize == 0), a.stack > userEnd || a.stackSize > userEnd-a.stack:
		return 0, unix.EINVAL
	}
	if a.flags&unix.CLONE_INTO_CGROUP != 0 {
		return 0, intoCgroup(t, call.FD(a.cgroup))
	}
	tid, err := t.Clone(&kernel.CloneArgs{
		Flags: a.flags, ExitSignal: signals.Signal(a.exitSignal), Stack: usermem.Addr(a.stack + a.stackSize),
		PIDFD: usermem.Addr(a.pidfd), ParentTID: usermem.Addr(a.parentTID), ChildTID: usermem.Addr(a.childTID), TLS: a.tls, SetTID: chosen,
	})
	return uint64(tid), err
}

// intoCgroup returns why no child can be made in the group whose directory d is: the
// one that there is can't be written to.
func intoCgroup(t *kernel.Task, d call.FD) error {
	f, err := d.Use(t)
	if err != nil {
		return err
	}
	defer f.DecRef()
	if fs := f.Path().Dentry.Filesystem(); fs.Magic == unix.CGROUP2_SUPER_MAGIC && f.Path().Dentry == fs.Root() {
		return unix.EROFS
	}
	return unix.EBADF
}
