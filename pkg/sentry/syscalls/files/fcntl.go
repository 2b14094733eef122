package files

import (
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/inotify"
	"vitrine/pkg/sentry/fs/pipe"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var lockRows = []call.Row{
	call.Full(unix.SYS_FLOCK, "flock", call.Args2(flock)),
}

// Commands of fcntl(2) that package unix doesn't name.
const (
	fSetSig   = 10
	fGetSig   = 11
	fGetOwnEx = 16
	fSetOwnEx = 15

	ownerThread  = 0
	ownerProcess = 1
	ownerGroup   = 2
)

// fcntlMore handles the commands for locks, owners, pipes and seals.
func fcntlMore(t *kernel.Task, f *vfs.File, fd call.FD, cmd uint32, arg uint64) (uint64, error) {
	switch cmd {
	case unix.F_GETLK, unix.F_OFD_GETLK:
		return 0, getLock(t, f, usermem.Addr(arg), cmd == unix.F_OFD_GETLK)
	case unix.F_SETLK, unix.F_SETLKW, unix.F_OFD_SETLK, unix.F_OFD_SETLKW:
		return 0, setLock(t, f, fd, cmd, usermem.Addr(arg))
	case unix.F_SETOWN:
		return 0, setOwner(t, f, int32(arg))
	case unix.F_GETOWN:
		return uint64(int64(ownerID(t, f))), nil
	case fSetOwnEx:
		return 0, setOwnerEx(t, f, usermem.Addr(arg))
	case fGetOwnEx:
		var w call.Writer
		kind, id := ownerOf(t, f)
		w.U32(uint32(kind))
		w.U32(uint32(id))
		return 0, w.To(t, usermem.Addr(arg))
	case fSetSig:
		if arg > uint64(signals.Max) {
			return 0, unix.EINVAL
		}
		o := f.Owner()
		o.Signal = int32(arg)
		f.SetOwner(o)
		return 0, nil
	case fGetSig:
		return uint64(f.Owner().Signal), nil
	case unix.F_GETLEASE:
		return unix.F_UNLCK, nil
	case unix.F_SETPIPE_SZ, unix.F_GETPIPE_SZ:
		p := pipe.Of(f)
		if p == nil {
			return 0, unix.EBADF
		}
		if cmd == unix.F_GETPIPE_SZ {
			return uint64(p.Capacity()), nil
		}
		n, err := p.SetCapacity(t, uint64(uint32(arg)))
		return uint64(n), err
	case unix.F_GET_SEALS, unix.F_ADD_SEALS:
		s, ok := f.Impl().(vfs.Sealer)
		if !ok {
			return 0, unix.EINVAL
		}
		if cmd == unix.F_GET_SEALS {
			seals, err := s.Seals()
			return uint64(seals), err
		}
		if !f.Writable() {
			return 0, unix.EPERM
		}
		return 0, s.AddSeals(uint32(arg))
	}
	return 0, unix.EINVAL
}

// flockSize is the size of struct flock.
const flockSize = 32

// readLock reads the struct flock at a. pid must be zero for locks of open file
// descriptions.
func readLock(t *kernel.Task, f *vfs.File, a usermem.Addr, description bool) (vfs.LockRange, error) {
	var b [flockSize]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return vfs.LockRange{}, err
	}
	r, err := f.LockRange(t, &unix.Flock_t{
		Type: int16(call.U16(b[0:])), Whence: int16(call.U16(b[2:])), Start: int64(call.U64(b[8:])), Len: int64(call.U64(b[16:])),
	})
	if err != nil {
		return r, err
	}
	r.PID = t.ThreadGroupID()
	if description {
		if call.U32(b[24:]) != 0 {
			return r, unix.EINVAL
		}
		r.PID = -1
	}
	return r, nil
}

func getLock(t *kernel.Task, f *vfs.File, a usermem.Addr, description bool) error {
	want, err := readLock(t, f, a, description)
	if err != nil {
		return err
	}
	if want.Type != unix.F_RDLCK && want.Type != unix.F_WRLCK {
		return unix.EINVAL
	}
	owner := any(t.FDs())
	if description {
		owner = f
	}
	got, ok := f.GetLock(owner, want)
	var w call.Writer
	if !ok {
		w.U16(unix.F_UNLCK)
		return w.To(t, a)
	}
	w.U16(uint16(got.Type))
	w.U16(unix.SEEK_SET)
	w.Zero(4)
	w.I64(got.Start)
	if got.End == math.MaxInt64 {
		w.I64(0)
	} else {
		w.I64(got.End - got.Start + 1)
	}
	w.U32(uint32(lockOwner(t, got.PID)))
	return w.To(t, a)
}

// lockOwner turns the pid in a lock into one that t knows; zero if there is
// none.
func lockOwner(t *kernel.Task, pid int32) int32 {
	if pid < 0 {
		return pid
	}
	if tg := t.Kernel().RootPIDNS.ThreadGroup(pid); tg != nil {
		return tg.ID(t.PIDNamespace())
	}
	return 0
}

func setLock(t *kernel.Task, f *vfs.File, fd call.FD, cmd uint32, a usermem.Addr) error {
	description := cmd == unix.F_OFD_SETLK || cmd == unix.F_OFD_SETLKW
	want, err := readLock(t, f, a, description)
	if err != nil {
		return err
	}
	table := t.FDs()
	var owner any
	if !description {
		owner = table
	}
	if err := f.SetLock(t, owner, want, cmd == unix.F_SETLKW || cmd == unix.F_OFD_SETLKW); err != nil {
		return err
	}
	if want.Type != unix.F_UNLCK && !description {
		// Another thread may have closed the descriptor, before there was a
		// lock to lose.
		now, err := table.Get(int32(fd))
		if err == nil {
			now.DecRef()
		}
		if now != f {
			f.ReleaseLocks(table)
			return unix.EBADF
		}
	}
	return nil
}

func flock(t *kernel.Task, fd call.FD, op int32) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, f.Flock(t, int(op))
}

// setOwner is F_SETOWN: a process, or a process group if negative; zero is
// nobody.
func setOwner(t *kernel.Task, f *vfs.File, id int32) error {
	if id == math.MinInt32 {
		return unix.EINVAL
	}
	if id < 0 {
		return setOwnerTo(t, f, ownerGroup, -id)
	}
	return setOwnerTo(t, f, ownerProcess, id)
}

func setOwnerEx(t *kernel.Task, f *vfs.File, a usermem.Addr) error {
	var b [8]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return err
	}
	kind := int32(call.U32(b[0:]))
	switch kind {
	case ownerThread, ownerProcess, ownerGroup:
		return setOwnerTo(t, f, kind, int32(call.U32(b[4:])))
	}
	return unix.EINVAL
}

func setOwnerTo(t *kernel.Task, f *vfs.File, kind, id int32) error {
	c := t.Credentials()
	o := vfs.Owner{ID: id, Kind: kind, Signal: f.Owner().Signal, UID: c.RUID, EUID: c.EUID}
	if id != 0 {
		ns := t.PIDNamespace()
		switch kind {
		case ownerGroup:
			if g := ns.ProcessGroup(id); g != nil {
				o.Target = g
			}
		default:
			if task := ns.Task(id); task != nil {
				if o.Target = task; kind == ownerProcess {
					o.Target = task.ThreadGroup()
				}
			}
		}
		if o.Target == nil {
			return unix.ESRCH
		}
	}
	f.SetOwner(o)
	return nil
}

// ownerOf returns the owner's kind and its number in t's pid namespace.
func ownerOf(t *kernel.Task, f *vfs.File) (kind, id int32) {
	o := f.Owner()
	ns := t.PIDNamespace()
	switch target := o.Target.(type) {
	case *kernel.Task:
		id = target.TID(ns)
	case *kernel.ThreadGroup:
		id = target.ID(ns)
	case *kernel.ProcessGroup:
		id = target.ID(ns)
	default:
		return ownerThread, 0
	}
	return o.Kind, id
}

// ownerID is the owner as F_GETOWN tells it.
func ownerID(t *kernel.Task, f *vfs.File) int32 {
	kind, id := ownerOf(t, f)
	if kind == ownerGroup {
		return -id
	}
	return id
}

// setAsync turns O_ASYNC on or off. It reports false for files that send no
// signals: only terminals, pipes, FIFOs, sockets and inotify do (open(2)).
func setAsync(t *kernel.Task, f *vfs.File, fd call.FD, on bool) bool {
	var a vfs.Attr
	if !f.Pollable() || f.Stat(t, &a) != nil {
		return false
	}
	switch a.Type() {
	case unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		if inotify.Of(f) == nil {
			return false
		}
	}
	if was := f.Flags()&unix.O_ASYNC != 0; on == was {
		return true
	}
	if !on {
		f.SetAsync(nil)
		return true
	}
	f.SetAsync(t.NewAsyncIO(f, int32(fd)))
	return true
}

// ownerIoctl does the requests of ioctl(2) that are fcntl(2) by other names. It
// reports false for others.
func ownerIoctl(t *kernel.Task, f *vfs.File, fd call.FD, cmd uint32, arg usermem.Addr) (bool, error) {
	const (
		fioSetOwn = 0x8901
		siocSPgrp = 0x8902
		fioGetOwn = 0x8903
		siocGPgrp = 0x8904
		fioAsync  = 0x5452
	)
	switch cmd {
	case fioAsync:
		v, err := usermem.CopyInUint32(t.MM(), arg)
		if err != nil {
			return true, err
		}
		if !setAsync(t, f, fd, v != 0) && v != 0 {
			return true, unix.ENOTTY
		}
		return true, nil
	case fioSetOwn, siocSPgrp, fioGetOwn, siocGPgrp:
		if !isSocket(f) {
			return false, nil
		}
		if cmd == fioGetOwn || cmd == siocGPgrp {
			return true, usermem.CopyOutUint32(t.MM(), arg, uint32(ownerID(t, f)))
		}
		v, err := usermem.CopyInUint32(t.MM(), arg)
		if err != nil {
			return true, err
		}
		return true, setOwner(t, f, int32(v))
	}
	return false, nil
}

// isSocket reports whether f is a socket's.
func isSocket(f *vfs.File) bool { _, err := socket.Of(f); return err == nil }
