// Package memory has the calls on address spaces: the caller's (mmap, brk,
// mlock, ...), other processes' (process_vm_readv), and memfd_create. The rules
// are package mm's.
package memory

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{memoryRows, processVMRows}

var memoryRows = []call.Row{
	call.Full(unix.SYS_MMAP, "mmap", call.Args6(mmap)),
	call.Full(unix.SYS_MUNMAP, "munmap", call.Args2(munmap)),
	call.Full(unix.SYS_MPROTECT, "mprotect", call.Args3(mprotect)),
	call.Full(unix.SYS_MREMAP, "mremap", call.Args5(mremap)),
	call.Full(unix.SYS_BRK, "brk", call.Args1(brk)),
	call.Full(unix.SYS_MADVISE, "madvise", call.Args3(madvise)),
	call.Full(unix.SYS_MSYNC, "msync", call.Args3(msync)),
	call.Full(unix.SYS_MINCORE, "mincore", call.Args3(mincore)),
	call.Full(unix.SYS_MLOCK, "mlock", call.Args2(mlock)),
	call.Full(unix.SYS_MLOCK2, "mlock2", call.Args3(mlock2)),
	call.Full(unix.SYS_MUNLOCK, "munlock", call.Args2(munlock)),
	call.Full(unix.SYS_MLOCKALL, "mlockall", call.Args1(mlockall)),
	call.Full(unix.SYS_MUNLOCKALL, "munlockall", call.Args0(munlockall)),
	call.Full(unix.SYS_MEMFD_CREATE, "memfd_create", call.Args2(memfdCreate)),
}

// protection returns what prot allows; bits that mean nothing are ignored, as by
// mmap(2).
func protection(prot uint32) usermem.Access {
	return usermem.Access(prot & (unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC))
}

func mmap(t *kernel.Task, a usermem.Addr, length uint64, prot, flags uint32, fd call.FD, off uint64) (uint64, error) {
	if off&usermem.PageMask != 0 || length == 0 {
		return 0, unix.EINVAL
	}
	o := mm.MMapOpts{
		Addr: a, Length: length, Offset: off,
		Fixed: flags&unix.MAP_FIXED != 0, FixedNoReplace: flags&unix.MAP_FIXED_NOREPLACE != 0,
		GrowsDown: flags&unix.MAP_GROWSDOWN != 0, Populate: flags&unix.MAP_POPULATE != 0 && flags&unix.MAP_NONBLOCK == 0,
		Locked: flags&unix.MAP_LOCKED != 0, NoReserve: flags&unix.MAP_NORESERVE != 0, Stack: flags&unix.MAP_STACK != 0,
		Steady:   flags&unix.MAP_DENYWRITE != 0,
		Map32Bit: flags&unix.MAP_32BIT != 0, MaxProt: usermem.AnyAccess,
	}
	o.Prot = protection(prot)
	switch flags & unix.MAP_TYPE {
	case unix.MAP_PRIVATE:
		o.Private = true
	case unix.MAP_SHARED, unix.MAP_SHARED_VALIDATE:
	default:
		return 0, unix.EINVAL
	}
	if o.Locked {
		if o.LockLimit = call.LockLimit(t); o.LockLimit == 0 {
			return 0, unix.EPERM
		}
	} else {
		o.LockLimit = call.LockLimit(t)
	}
	if flags&unix.MAP_ANONYMOUS == 0 {
		f, err := fd.IOFile(t)
		if err != nil {
			return 0, err
		}
		defer f.DecRef()
		if err := mapFile(t, f, &o); err != nil {
			return 0, err
		}
	} else if o.GrowsDown && !o.Private {
		return 0, unix.EINVAL
	} else {
		o.Offset = 0
	}
	if !o.Fixed && !o.FixedNoReplace {
		o.Addr = o.Addr.RoundDown() // a hint needn't be aligned
	}
	at, err := t.MM().MMap(o)
	return uint64(at), err
}

// mapFile applies the rules of mmap(2) for files and fills o.
func mapFile(t *kernel.Task, f *vfs.File, o *mm.MMapOpts) error {
	if !f.Readable() {
		return unix.EACCES
	}
	if !o.Private && !f.Writable() {
		if o.Prot.Has(usermem.Write) {
			return unix.EACCES
		}
		o.MaxProt &^= usermem.Write
	}
	if f.Path().Mount.Flags()&vfs.MountNoExec != 0 {
		if o.Prot.Has(usermem.Execute) {
			return unix.EPERM
		}
		o.MaxProt &^= usermem.Execute
	}
	if o.GrowsDown {
		return unix.EINVAL
	}
	if o.Offset+o.Length < o.Offset || o.Offset+o.Length > math.MaxInt64 {
		return unix.EOVERFLOW
	}
	opts := vfs.MapOptions{Length: o.Length, Offset: o.Offset, Private: o.Private, Prot: o.Prot, MaxProt: o.MaxProt}
	m, err := f.Mappable(t, &opts)
	if err != nil {
		return err
	}
	o.Mappable, o.Identity, o.MaxProt, o.Name = m, f, opts.MaxProt, opts.Name
	return nil
}

func munmap(t *kernel.Task, a usermem.Addr, n uint64) (uint64, error) { return 0, t.MM().MUnmap(a, n) }

func mprotect(t *kernel.Task, a usermem.Addr, n uint64, prot uint32) (uint64, error) {
	const known = unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC | unix.PROT_GROWSDOWN | unix.PROT_GROWSUP | 8 /* PROT_SEM */
	if prot&^known != 0 || prot&unix.PROT_GROWSUP != 0 {
		return 0, unix.EINVAL
	}
	p := protection(prot)
	return 0, t.MM().MProtect(a, n, p, prot&unix.PROT_GROWSDOWN != 0)
}

func mremap(t *kernel.Task, a usermem.Addr, oldLen, newLen uint64, flags uint32, to usermem.Addr) (uint64, error) {
	if flags&^(unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED) != 0 {
		return 0, unix.EINVAL
	}
	if flags&unix.MREMAP_FIXED != 0 && flags&unix.MREMAP_MAYMOVE == 0 {
		return 0, unix.EINVAL
	}
	at, err := t.MM().MRemap(a, oldLen, newLen, mm.MRemapOpts{
		MayMove: flags&unix.MREMAP_MAYMOVE != 0, Fixed: flags&unix.MREMAP_FIXED != 0, NewAddr: to, LockLimit: call.LockLimit(t),
	})
	return uint64(at), err
}

func brk(t *kernel.Task, a usermem.Addr) (uint64, error) { return uint64(t.MM().Brk(a)), nil }

func madvise(t *kernel.Task, a usermem.Addr, n uint64, advice int32) (uint64, error) {
	return 0, t.MM().MAdvise(a, n, int(advice))
}

func msync(t *kernel.Task, a usermem.Addr, n uint64, flags int32) (uint64, error) {
	return 0, t.MM().MSync(a, n, int(flags))
}

func mincore(t *kernel.Task, a usermem.Addr, n uint64, vec usermem.Addr) (uint64, error) {
	return 0, t.MM().MIncore(a, n, vec)
}

func mlock(t *kernel.Task, a usermem.Addr, n uint64) (uint64, error) { return mlock2(t, a, n, 0) }

func mlock2(t *kernel.Task, a usermem.Addr, n uint64, flags uint32) (uint64, error) {
	if flags&^linux.MLOCK_ONFAULT != 0 {
		return 0, unix.EINVAL
	}
	limit := call.LockLimit(t)
	if limit == 0 {
		return 0, unix.EPERM
	}
	return 0, t.MM().MLock(a, n, flags != 0, limit)
}

func munlock(t *kernel.Task, a usermem.Addr, n uint64) (uint64, error) {
	return 0, t.MM().MUnlock(a, n)
}

func mlockall(t *kernel.Task, flags uint32) (uint64, error) {
	if flags == 0 || flags&^(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) != 0 || flags == unix.MCL_ONFAULT {
		return 0, unix.EINVAL
	}
	limit := call.LockLimit(t)
	if limit == 0 {
		return 0, unix.EPERM
	}
	return 0, t.MM().MLockAll(int(flags), limit)
}

func munlockall(t *kernel.Task) (uint64, error) {
	t.MM().MUnlockAll()
	return 0, nil
}

// memfdNameMax is the longest name of memfd_create(2), in bytes.
const memfdNameMax = 249

func memfdCreate(t *kernel.Task, name usermem.Addr, flags uint32) (uint64, error) {
	if flags&^(unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING) != 0 {
		return 0, unix.EINVAL
	}
	s, err := usermem.CopyInString(t.MM(), name, memfdNameMax+1)
	if err == unix.ENAMETOOLONG {
		err = unix.EINVAL
	}
	if err != nil {
		return 0, err
	}
	f, err := t.Kernel().Shared.NewMemfd(t.Credentials(), s, flags)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.MFD_CLOEXEC != 0)
}
