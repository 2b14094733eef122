// Package sysv has System V IPC: shared memory, semaphores and message queues.
// The objects are package ipc's.
package sysv

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/ipc"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{sysvRows}

var sysvRows = []call.Row{
	call.Partial(unix.SYS_SHMGET, "shmget", call.Args3(shmget), "no SHM_HUGETLB"),
	call.Full(unix.SYS_SHMAT, "shmat", call.Args3(shmat)),
	call.Full(unix.SYS_SHMDT, "shmdt", call.Args1(shmdt)),
	call.Partial(unix.SYS_SHMCTL, "shmctl", call.Args3(shmctl), "SHM_LOCK is remembered; the memory isn't locked"),
	call.Full(unix.SYS_SEMGET, "semget", call.Args3(semget)),
	call.Full(unix.SYS_SEMOP, "semop", call.Args3(semop)),
	call.Full(unix.SYS_SEMTIMEDOP, "semtimedop", call.Args4(semtimedop)),
	call.Full(unix.SYS_SEMCTL, "semctl", call.Args4(semctl)),
	call.Full(unix.SYS_MSGGET, "msgget", call.Args2(msgget)),
	call.Full(unix.SYS_MSGSND, "msgsnd", call.Args4(msgsnd)),
	call.Full(unix.SYS_MSGRCV, "msgrcv", call.Args5(msgrcv)),
	call.Full(unix.SYS_MSGCTL, "msgctl", call.Args3(msgctl)),
}

// Commands of the ctl calls (<linux/ipc.h>, shm.h, sem.h, msg.h).
const (
	ipcRemove = 0
	ipcSet    = 1
	ipcStat   = 2
	ipcInfo   = 3

	shmLock, shmUnlock, shmStat, shmInfo = 11, 12, 13, 14
	msgStat, msgInfo                     = 11, 12

	semGetPID, semGetValue, semGetAll, semGetGrowing, semGetZeroing = 11, 12, 13, 14, 15
	semSetValue, semSetAll, semStat, semInfo                        = 16, 17, 18, 19

	shmRDOnly, shmRound, shmRemap, shmExec = 0o10000, 0o20000, 0o40000, 0o100000
	shmHugeTLB                             = 0o4000

	shmPageAlign = usermem.PageSize // SHMLBA
)

func ipcActor(t *kernel.Task) *ipc.Actor {
	return &ipc.Actor{
		Creds: t.Credentials(), PID: t.ThreadGroup().ID(t.PIDNamespace()), Now: t.Kernel().Clock.Realtime() / call.Second,
		Process: t.ThreadGroup(),
	}
}

func sysv(t *kernel.Task) *ipc.Namespace { return t.Namespaces().IPC.SystemV() }

// putPermissions writes a struct ipc64_perm.
func putPermissions(w *call.Writer, t *kernel.Task, p *ipc.Permissions) {
	ns := t.Credentials().UserNS
	w.U32(uint32(p.Key))
	w.U32(ns.UID(p.UID))
	w.U32(ns.GID(p.GID))
	w.U32(ns.UID(p.CUID))
	w.U32(ns.GID(p.CGID))
	w.U32(p.Mode)
	w.U16(p.Sequence())
	w.Zero(22)
}

const ipcPermSize = 48

// ipcOwner reads what IPC_SET takes, a structure at a that fills b and begins with
// a struct ipc64_perm: EINVAL for ids without a meaning.
func ipcOwner(t *kernel.Task, a usermem.Addr, b []byte) (uid auth.KUID, gid auth.KGID, mode uint32, err error) {
	if _, err := t.MM().CopyIn(a, b); err != nil {
		return 0, 0, 0, err
	}
	ns := t.Credentials().UserNS
	uid, ok := ns.KUID(call.U32(b[4:]))
	gid, ok2 := ns.KGID(call.U32(b[8:]))
	if !ok || !ok2 {
		err = unix.EINVAL
	}
	return uid, gid, call.U32(b[20:]), err
}

func shmget(t *kernel.Task, key int32, size uint64, flags uint32) (uint64, error) {
	if flags&shmHugeTLB != 0 {
		return 0, unix.ENOMEM // no pages of that size are set aside
	}
	k := t.Kernel()
	id, err := sysv(t).ShmGet(ipcActor(t), key, size, flags, k.Memory, t.MM().Account(), func() int64 { return k.Clock.Realtime() / call.Second })
	return uint64(id), err
}

func shmat(t *kernel.Task, id int32, a usermem.Addr, flags uint32) (uint64, error) {
	if id < 0 {
		return 0, unix.EINVAL
	}
	o := mm.MMapOpts{Prot: usermem.Read, MaxProt: usermem.AnyAccess, LockLimit: call.LockLimit(t)}
	write := flags&shmRDOnly == 0
	if write {
		o.Prot |= usermem.Write
	} else {
		o.MaxProt &^= usermem.Write
	}
	if flags&shmExec != 0 {
		o.Prot |= usermem.Execute
	}
	if a == 0 && flags&shmRemap != 0 {
		return 0, unix.EINVAL
	}
	if a&(shmPageAlign-1) != 0 {
		if flags&shmRound == 0 {
			return 0, unix.EINVAL
		}
		a = a.RoundDown()
	}
	s, err := sysv(t).ShmAttach(ipcActor(t), id, write, flags&shmExec != 0)
	if err != nil {
		return 0, err
	}
	defer s.EndAttach()
	o.Addr, o.Length, o.Mappable, o.Identity = a, s.Size(), s.Store(), s
	if a != 0 {
		o.Fixed, o.FixedNoReplace = flags&shmRemap != 0, flags&shmRemap == 0
	}
	at, err := t.MM().MMap(o)
	if err == unix.EEXIST {
		err = unix.EINVAL
	}
	return uint64(at), err
}

func shmdt(t *kernel.Task, a usermem.Addr) (uint64, error) {
	if !a.PageAligned() {
		return 0, unix.EINVAL
	}
	// What is left of the attachment at a: pieces of it may have been unmapped
	// or protected otherwise.
	var seg *ipc.Segment
	var pieces []usermem.AddrRange
	t.MM().VMAsFrom(a, func(v mm.VMAInfo) bool {
		s, ok := v.Identity.(*ipc.Segment)
		if ok && (seg == nil || s == seg) && v.Range.Start >= a && uint64(v.Range.Start-a) == v.Offset {
			seg = s
			pieces = append(pieces, v.Range)
		}
		return seg == nil && v.Range.Start <= a || seg != nil && uint64(v.Range.End-a) < seg.Size()
	})
	if seg == nil {
		return 0, unix.EINVAL
	}
	seg.Detached(t.ThreadGroup().ID(t.PIDNamespace()))
	for _, p := range pieces {
		if err := t.MM().MUnmap(p.Start, p.Len()); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func shmctl(t *kernel.Task, id int32, cmd int32, a usermem.Addr) (uint64, error) {
	if cmd < 0 || id < 0 {
		return 0, unix.EINVAL
	}
	ns := sysv(t)
	act := ipcActor(t)
	var w call.Writer
	switch cmd {
	case ipcInfo:
		_, highest := ns.Segments()
		l := ns.Limits()
		w.U64(l.SegmentSize)
		w.U64(ipc.MinSegmentSize)
		w.U64(uint64(l.Segments))
		w.U64(uint64(l.Segments))
		w.U64(l.SegmentPages)
		w.Zero(32)
		return uint64(highest), w.To(t, a)
	case shmInfo:
		all, highest := ns.Segments()
		var total, resident uint64
		for _, s := range all {
			total += (s.Size + usermem.PageMask) / usermem.PageSize
			resident += s.Resident
		}
		w.U32(uint32(len(all)))
		w.U32(0)
		w.U64(total)
		w.U64(resident)
		w.Zero(24)
		return uint64(highest), w.To(t, a)
	case ipcStat, shmStat:
		s, err := ns.ShmStat(act, id, cmd == shmStat)
		if err != nil {
			return 0, err
		}
		putPermissions(&w, t, &s.Permissions)
		w.U64(s.Size)
		w.I64(s.ATime)
		w.I64(s.DTime)
		w.I64(s.CTime)
		w.U32(uint32(s.Created))
		w.U32(uint32(s.Last))
		w.U64(s.Attached)
		w.Zero(16)
		return statResult(cmd == shmStat, s.ID), w.To(t, a)
	case ipcSet:
		var b [ipcPermSize]byte
		uid, gid, mode, err := ipcOwner(t, a, b[:])
		if err != nil {
			return 0, err
		}
		return 0, ns.ShmSet(act, id, uid, gid, mode)
	case ipcRemove:
		return 0, ns.ShmRemove(act, id)
	case shmLock, shmUnlock:
		able := t.Credentials().HasCap(unix.CAP_IPC_LOCK)
		if !able && cmd == shmLock && t.ThreadGroup().Limits().Soft(limits.LockedMemory) == 0 {
			return 0, unix.EPERM
		}
		return 0, ns.ShmLock(act, id, cmd == shmLock, able)
	}
	return 0, unix.EINVAL
}

// statResult is what the STAT commands return: the identifier for those that
// are given an index.
func statResult(byIndex bool, id int32) uint64 {
	if byIndex {
		return uint64(id)
	}
	return 0
}

func semget(t *kernel.Task, key, n int32, flags uint32) (uint64, error) {
	id, err := sysv(t).SemGet(ipcActor(t), key, int(n), flags)
	return uint64(id), err
}

func semop(t *kernel.Task, id int32, ops usermem.Addr, n uint32) (uint64, error) {
	return semOperate(t, id, ops, n, kernel.Forever)
}

func semtimedop(t *kernel.Task, id int32, ops usermem.Addr, n uint32, timeout usermem.Addr) (uint64, error) {
	until := kernel.Forever
	if timeout != 0 {
		d, err := call.ReadTimespec(t, timeout)
		if err != nil {
			return 0, err
		}
		until = call.Deadline(t, d)
	}
	return semOperate(t, id, ops, n, until)
}

func semOperate(t *kernel.Task, id int32, a usermem.Addr, n uint32, until int64) (uint64, error) {
	if n < 1 || id < 0 {
		return 0, unix.EINVAL
	}
	ns := sysv(t)
	if int64(n) > int64(ns.Limits().Operations) {
		return 0, unix.E2BIG
	}
	raw := make([]byte, 6*n)
	if _, err := t.MM().CopyIn(a, raw); err != nil {
		return 0, err
	}
	ops := make([]ipc.Op, n)
	for i := range ops {
		r := raw[6*i:]
		ops[i] = ipc.Op{Num: uint16(r[0]) | uint16(r[1])<<8, Op: int16(uint16(r[2]) | uint16(r[3])<<8), Flags: int16(uint16(r[4]) | uint16(r[5])<<8)}
	}
	set, err := ns.Set(id)
	if err != nil {
		return 0, err
	}
	undo := t.ThreadGroup().SemaphoreUndo()
	var waits *ipc.Op
	stop := func() {
		if waits != nil {
			set.Waiting(*waits, -1)
			waits = nil
		}
	}
	defer stop()
	noWait := false
	err = t.WaitFor(set, waiter.Internal, until, func() error {
		stop()
		blocked, err := set.Operate(ipcActor(t), ops, undo)
		if err == unix.EAGAIN {
			if noWait = blocked.Flags&ipc.NoWait != 0; noWait {
				return nil
			}
			set.Waiting(blocked, 1)
			waits = &blocked
		}
		return err
	})
	switch {
	case noWait, err == kernel.ErrTimeout:
		return 0, unix.EAGAIN
	case err == kernel.RestartSys:
		return 0, unix.EINTR // never restarted (signal(7))
	}
	return 0, err
}

func semctl(t *kernel.Task, id, n, cmd int32, arg uint64) (uint64, error) {
	if id < 0 {
		return 0, unix.EINVAL
	}
	ns := sysv(t)
	act := ipcActor(t)
	a := usermem.Addr(arg)
	var w call.Writer
	switch cmd {
	case ipcInfo, semInfo:
		all, highest, semaphores := ns.Sets()
		l := ns.Limits()
		usz, aem := uint32(20), uint32(ipc.MaxValue)
		if cmd == semInfo {
			usz, aem = uint32(len(all)), uint32(semaphores)
		}
		for _, v := range []uint32{
			uint32(l.Semaphores), uint32(l.Sets), uint32(l.Semaphores), uint32(l.Semaphores), uint32(l.PerSet),
			uint32(l.Operations), uint32(l.Operations), usz, ipc.MaxValue, aem,
		} {
			w.U32(v)
		}
		return uint64(highest), w.To(t, a)
	case ipcStat, semStat:
		s, err := ns.SemStat(act, id, cmd == semStat)
		if err != nil {
			return 0, err
		}
		putPermissions(&w, t, &s.Permissions)
		w.I64(s.OTime)
		w.U64(0)
		w.I64(s.CTime)
		w.U64(0)
		w.U64(uint64(s.Count))
		w.Zero(16)
		return statResult(cmd == semStat, s.ID), w.To(t, a)
	case ipcSet:
		var b [ipcPermSize]byte
		uid, gid, mode, err := ipcOwner(t, a, b[:])
		if err != nil {
			return 0, err
		}
		return 0, ns.SemSet(act, id, uid, gid, mode)
	case ipcRemove:
		return 0, ns.SemRemove(act, id)
	}
	set, err := ns.Set(id)
	if err != nil {
		return 0, err
	}
	switch cmd {
	case semGetPID, semGetValue, semGetGrowing, semGetZeroing:
		s, err := set.Get(act, int(n))
		if err != nil {
			return 0, err
		}
		switch cmd {
		case semGetPID:
			return uint64(s.PID), nil
		case semGetValue:
			return uint64(s.Value), nil
		case semGetGrowing:
			return uint64(s.Growing), nil
		}
		return uint64(s.Zeroing), nil
	case semGetAll:
		all, err := set.GetAll(act)
		if err != nil {
			return 0, err
		}
		for _, v := range all {
			w.U16(v)
		}
		return 0, w.To(t, a)
	case semSetValue:
		return 0, set.SetValue(act, int(n), int32(uint32(arg)))
	case semSetAll:
		raw := make([]byte, 2*set.Count())
		if _, err := t.MM().CopyIn(a, raw); err != nil {
			return 0, err
		}
		values := make([]uint16, set.Count())
		for i := range values {
			values[i] = uint16(raw[2*i]) | uint16(raw[2*i+1])<<8
		}
		return 0, set.SetAll(act, values)
	}
	return 0, unix.EINVAL
}

func msgget(t *kernel.Task, key int32, flags uint32) (uint64, error) {
	id, err := sysv(t).MsgGet(ipcActor(t), key, flags)
	return uint64(id), err
}

func msgsnd(t *kernel.Task, id int32, a usermem.Addr, n uint64, flags uint32) (uint64, error) {
	kind, err := usermem.CopyInUint64(t.MM(), a)
	if err != nil {
		return 0, err
	}
	if n > sysv(t).Limits().Message || int64(n) < 0 || id < 0 || int64(kind) < 1 {
		return 0, unix.EINVAL
	}
	text := make([]byte, n)
	if _, err := t.MM().CopyIn(a+8, text); err != nil {
		return 0, err
	}
	q, err := sysv(t).Queue(id)
	if err != nil {
		return 0, err
	}
	send := func() error { return q.Send(ipcActor(t), int64(kind), text) }
	if flags&ipc.NoWait != 0 {
		return 0, send()
	}
	return 0, noHand(t.WaitFor(q, waiter.Internal, kernel.Forever, send))
}

// noHand makes a call that was interrupted one that is restarted only if no
// handler ran (signal(7)).
func noHand(err error) error {
	if err == kernel.RestartSys {
		return kernel.RestartNoHand
	}
	return err
}

func msgrcv(t *kernel.Task, id int32, a usermem.Addr, n uint64, kind int64, flags uint32) (uint64, error) {
	if id < 0 || int64(n) < 0 {
		return 0, unix.EINVAL
	}
	if flags&ipc.MsgCopy != 0 && (flags&ipc.MsgExcept != 0 || flags&ipc.NoWait == 0) {
		return 0, unix.EINVAL
	}
	q, err := sysv(t).Queue(id)
	if err != nil {
		return 0, err
	}
	var got int64
	var text []byte
	receive := func() (err error) {
		got, text, err = q.Receive(ipcActor(t), kind, n, flags)
		return err
	}
	if flags&ipc.NoWait != 0 {
		if err = receive(); err == unix.EAGAIN {
			err = unix.ENOMSG
		}
	} else {
		err = noHand(t.WaitFor(q, waiter.Internal, kernel.Forever, receive))
	}
	if err != nil {
		return 0, err
	}
	var w call.Writer
	w.I64(got)
	w.Buf = append(w.Buf, text...)
	return uint64(len(text)), w.To(t, a)
}

func msgctl(t *kernel.Task, id, cmd int32, a usermem.Addr) (uint64, error) {
	if id < 0 || cmd < 0 {
		return 0, unix.EINVAL
	}
	ns := sysv(t)
	act := ipcActor(t)
	var w call.Writer
	switch cmd {
	case ipcInfo, msgInfo:
		all, highest := ns.Queues()
		l := ns.Limits()
		pool, m, tql := uint32(uint64(l.Queues)*l.QueueBytes/1024), uint32(l.QueueBytes), uint32(l.QueueBytes)
		if cmd == msgInfo {
			pool, m, tql = uint32(len(all)), 0, 0
			for _, q := range all {
				m += uint32(q.Messages)
				tql += uint32(q.Bytes)
			}
		}
		for _, v := range []uint32{pool, m, uint32(l.Message), uint32(l.QueueBytes), uint32(l.Queues), 16, tql, 0xffff} {
			w.U32(v)
		}
		return uint64(highest), w.To(t, a)
	case ipcStat, msgStat:
		q, err := ns.MsgStat(act, id, cmd == msgStat)
		if err != nil {
			return 0, err
		}
		putPermissions(&w, t, &q.Permissions)
		w.I64(q.STime)
		w.I64(q.RTime)
		w.I64(q.CTime)
		w.U64(q.Bytes)
		w.U64(q.Messages)
		w.U64(q.Limit)
		w.U32(uint32(q.Sender))
		w.U32(uint32(q.Receiver))
		w.Zero(16)
		return statResult(cmd == msgStat, q.ID), w.To(t, a)
	case ipcSet:
		var b [ipcPermSize + 48]byte
		uid, gid, mode, err := ipcOwner(t, a, b[:])
		if err != nil {
			return 0, err
		}
		return 0, ns.MsgSet(act, id, uid, gid, mode, call.U64(b[ipcPermSize+40:]))
	case ipcRemove:
		return 0, ns.MsgRemove(act, id)
	}
	return 0, unix.EINVAL
}
