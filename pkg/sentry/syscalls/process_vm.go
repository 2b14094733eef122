package syscalls

import (
	"reflect"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

var processVMRows = []Row{
	full(unix.SYS_PROCESS_VM_READV, "process_vm_readv", call6(processVMReadv)),
	full(unix.SYS_PROCESS_VM_WRITEV, "process_vm_writev", call6(processVMWritev)),
	partial(unix.SYS_KCMP, "kcmp", call5(kcmp), "all tasks share one I/O context; semaphore adjustments are per process"),
}

// remoteRanges reads an array of struct iovec whose addresses are another
// process's.
func remoteRanges(t *kernel.Task, a Addr, count uint64) ([]usermem.AddrRange, error) {
	if count > 1024 {
		return nil, unix.EINVAL
	}
	raw := make([]byte, 16*count)
	if _, err := t.MM().CopyIn(a, raw); err != nil {
		return nil, err
	}
	var total uint64
	rs := make([]usermem.AddrRange, 0, count)
	for i := range int(count) {
		base, n := Addr(le64(raw[16*i:])), le64(raw[16*i+8:])
		if int64(n) < 0 {
			return nil, unix.EINVAL
		}
		n = min(n, maxRW-total)
		total += n
		end := base + Addr(n)
		if end < base {
			end = base // nothing there: the copy says so
			if n > 0 {
				return append(rs, usermem.AddrRange{Start: base, End: ^Addr(0)}), nil
			}
		}
		rs = append(rs, usermem.AddrRange{Start: base, End: end})
	}
	return rs, nil
}

func processVMReadv(t *kernel.Task, pid PID, local Addr, ln uint64, remote Addr, rn uint64, flags uint64) (uint64, error) {
	return processVM(t, pid, local, ln, remote, rn, flags, false)
}

func processVMWritev(t *kernel.Task, pid PID, local Addr, ln uint64, remote Addr, rn uint64, flags uint64) (uint64, error) {
	return processVM(t, pid, local, ln, remote, rn, flags, true)
}

func processVM(t *kernel.Task, pid PID, local Addr, ln uint64, remote Addr, rn uint64, flags uint64, write bool) (uint64, error) {
	if flags != 0 {
		return 0, unix.EINVAL
	}
	if ln > 1024 {
		return 0, unix.EINVAL
	}
	mine, err := ioVector(t, local, int32(ln))
	if err != nil {
		return 0, err
	}
	if mine.Len() == 0 {
		return 0, nil
	}
	theirs, err := remoteRanges(t, remote, rn)
	if err != nil {
		return 0, err
	}
	o := t.PIDNamespace().Task(int32(pid))
	if o == nil {
		return 0, unix.ESRCH
	}
	if !t.MayAccess(o, true) {
		return 0, unix.EPERM
	}
	m := o.SharedMM()
	if m == nil {
		return 0, unix.ESRCH
	}
	defer m.DecUsers()
	done, err := copyBetween(m, theirs, &mine, write)
	if done > 0 {
		return done, nil
	}
	return 0, err
}

// copyBetween moves bytes between the ranges of another address space and a
// buffer of the caller's, piece by piece, until either ends.
func copyBetween(m *mm.MemoryManager, theirs []usermem.AddrRange, mine *usermem.Buffer, write bool) (done uint64, err error) {
	chunk := make([]byte, 64<<10)
	for _, r := range theirs {
		for r.Start < r.End && mine.Len() > 0 {
			b := chunk[:min(r.Len(), mine.Len(), uint64(len(chunk)))]
			var n int
			if write {
				if n, err = mine.Read(b); n > 0 {
					var e error
					if n, e = m.CopyOut(r.Start, b[:n]); e != nil {
						err = e
					}
				}
			} else if n, err = m.CopyIn(r.Start, b); n > 0 {
				var e error
				if n, e = mine.Write(b[:n]); e != nil {
					err = e
				}
			}
			done += uint64(n)
			if err != nil {
				return done, unix.EFAULT
			}
			r.Start += Addr(n)
		}
	}
	return done, nil
}

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

func kcmp(t *kernel.Task, pid1, pid2 PID, kind int32, i1, i2 uint64) (uint64, error) {
	ns := t.PIDNamespace()
	a, b := ns.Task(int32(pid1)), ns.Task(int32(pid2))
	if a == nil || b == nil {
		return 0, unix.ESRCH
	}
	if !t.MayAccess(a, false) || !t.MayAccess(b, false) {
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
		return order(t, pointer(a.FDs()), pointer(b.FDs())), nil
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
	table := o.FDs()
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
