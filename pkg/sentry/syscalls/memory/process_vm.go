package memory

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var processVMRows = []call.Row{
	call.Full(unix.SYS_PROCESS_VM_READV, "process_vm_readv", call.Args6(processVMReadv)),
	call.Full(unix.SYS_PROCESS_VM_WRITEV, "process_vm_writev", call.Args6(processVMWritev)),
}

// remoteRanges reads an array of struct iovec whose addresses are another
// process's.
func remoteRanges(t *kernel.Task, a usermem.Addr, count uint64) ([]usermem.AddrRange, error) {
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
		base, n := usermem.Addr(call.U64(raw[16*i:])), call.U64(raw[16*i+8:])
		if int64(n) < 0 {
			return nil, unix.EINVAL
		}
		n = min(n, call.MaxRW-total)
		total += n
		end := base + usermem.Addr(n)
		if end < base {
			end = base // nothing there: the copy says so
			if n > 0 {
				return append(rs, usermem.AddrRange{Start: base, End: ^usermem.Addr(0)}), nil
			}
		}
		rs = append(rs, usermem.AddrRange{Start: base, End: end})
	}
	return rs, nil
}

func processVMReadv(t *kernel.Task, pid call.PID, local usermem.Addr, ln uint64, remote usermem.Addr, rn uint64, flags uint64) (uint64, error) {
	return processVM(t, pid, local, ln, remote, rn, flags, false)
}

func processVMWritev(t *kernel.Task, pid call.PID, local usermem.Addr, ln uint64, remote usermem.Addr, rn uint64, flags uint64) (uint64, error) {
	return processVM(t, pid, local, ln, remote, rn, flags, true)
}

func processVM(t *kernel.Task, pid call.PID, local usermem.Addr, ln uint64, remote usermem.Addr, rn uint64, flags uint64, write bool) (uint64, error) {
	if flags != 0 {
		return 0, unix.EINVAL
	}
	if ln > 1024 {
		return 0, unix.EINVAL
	}
	mine, err := call.Vector(t, local, int32(ln))
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
	if !o.AccessibleTo(t.ThreadGroup(), t.Credentials(), auth.RealIDs) {
		return 0, unix.EPERM
	}
	m := o.SharedMM()
	if m == nil {
		return 0, unix.ESRCH
	}
	defer m.DecUsers()
	done, err := copyBetween(m, theirs, mine, write)
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
			r.Start += usermem.Addr(n)
		}
	}
	return done, nil
}
