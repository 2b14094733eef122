package processes

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/usermem"
)

var schedRows = []call.Row{
	call.Partial(unix.SYS_SCHED_SETSCHEDULER, "sched_setscheduler", call.Args3(schedSetscheduler), "remembered; the host schedules"),
	call.Full(unix.SYS_SCHED_GETSCHEDULER, "sched_getscheduler", call.Args1(schedGetscheduler)),
	call.Partial(unix.SYS_SCHED_SETPARAM, "sched_setparam", call.Args2(schedSetparam), "remembered; the host schedules"),
	call.Full(unix.SYS_SCHED_GETPARAM, "sched_getparam", call.Args2(schedGetparam)),
	call.Partial(unix.SYS_SCHED_SETATTR, "sched_setattr", call.Args3(schedSetattr), "remembered; the host schedules; no SCHED_DEADLINE"),
	call.Full(unix.SYS_SCHED_GETATTR, "sched_getattr", call.Args4(schedGetattr)),
	call.Full(unix.SYS_SCHED_GET_PRIORITY_MAX, "sched_get_priority_max", call.Args1(schedGetPriorityMax)),
	call.Full(unix.SYS_SCHED_GET_PRIORITY_MIN, "sched_get_priority_min", call.Args1(schedGetPriorityMin)),
	call.Full(unix.SYS_SCHED_RR_GET_INTERVAL, "sched_rr_get_interval", call.Args2(schedRRGetInterval)),
	call.Partial(unix.SYS_SCHED_SETAFFINITY, "sched_setaffinity", call.Args3(schedSetaffinity), "remembered; the host schedules"),
	call.Full(unix.SYS_SCHED_GETAFFINITY, "sched_getaffinity", call.Args3(schedGetaffinity)),
	call.Full(unix.SYS_GETPRIORITY, "getpriority", call.Args2(getpriority)),
	call.Partial(unix.SYS_SETPRIORITY, "setpriority", call.Args3(setpriority), "remembered; the host schedules"),
	call.Full(unix.SYS_IOPRIO_GET, "ioprio_get", call.Args2(ioprioGet)),
	call.Partial(unix.SYS_IOPRIO_SET, "ioprio_set", call.Args3(ioprioSet), "remembered; the host schedules"),
	call.Full(unix.SYS_SYSINFO, "sysinfo", call.Args1(sysinfo)),
	call.Full(unix.SYS_MEMBARRIER, "membarrier", call.Args2(membarrier)),
}

// Policies of sched(7) and the flag that goes with them.
const (
	schedOther    = 0
	schedFIFO     = 1
	schedRR       = 2
	schedBatch    = 3
	schedIdle     = 5
	schedDeadline = 6
	schedReset    = 0x40000000 // SCHED_RESET_ON_FORK
)

func realTime(policy int) bool { return policy == schedFIFO || policy == schedRR }

func schedTask(t *kernel.Task, pid call.PID) (*kernel.Task, error) {
	if pid < 0 {
		return nil, unix.EINVAL
	}
	if pid == 0 {
		return t, nil
	}
	if o := t.PIDNamespace().Task(int32(pid)); o != nil {
		return o, nil
	}
	return nil, unix.ESRCH
}

// ownsScheduling reports whether t may change o's scheduling by being the same
// user (sched(7), "Privileges and resource limits").
func ownsScheduling(t, o *kernel.Task) bool {
	c, v := t.Credentials(), o.Credentials()
	return c.EUID == v.EUID || c.EUID == v.RUID
}

// setScheduler applies the rules of sched_setscheduler(2). policy is -1 to keep
// it; nice is only for policies that have it, nil to keep it.
func setScheduler(t, o *kernel.Task, policy, priority int, nice *int, reset bool) error {
	old := o.Scheduling()
	if policy < 0 {
		policy, reset = old.Policy, old.ResetOnFork
	}
	switch policy {
	case schedOther, schedBatch, schedIdle:
		if priority != 0 {
			return unix.EINVAL
		}
	case schedFIFO, schedRR:
		if priority < 1 || priority > 99 {
			return unix.EINVAL
		}
	default:
		return unix.EINVAL
	}
	if !t.Credentials().HasCapIn(unix.CAP_SYS_NICE, o.Credentials().UserNS) {
		l := o.ThreadGroup().Limits()
		if nice != nil && !realTime(policy) && *nice < old.Nice && uint64(20-*nice) > l.Soft(limits.Nice) {
			return unix.EPERM
		}
		if realTime(policy) {
			limit := l.Soft(limits.RealTimePriority)
			if policy != old.Policy && limit == 0 || priority > old.Priority && uint64(priority) > limit {
				return unix.EPERM
			}
		}
		if old.Policy == schedIdle && policy != schedIdle && uint64(20-old.Nice) > l.Soft(limits.Nice) {
			return unix.EPERM
		}
		if !ownsScheduling(t, o) || old.ResetOnFork && !reset {
			return unix.EPERM
		}
	}
	o.SetScheduling(func(s *kernel.Scheduling) {
		s.Policy, s.Priority, s.ResetOnFork = policy, priority, reset
		if nice != nil && !realTime(policy) {
			s.Nice = *nice
		}
	})
	return nil
}

func readPriority(t *kernel.Task, pid call.PID, a usermem.Addr) (*kernel.Task, int, error) {
	if a == 0 || pid < 0 {
		return nil, 0, unix.EINVAL
	}
	var b [4]byte
	if _, err := t.MM().CopyIn(a, b[:]); err != nil {
		return nil, 0, err
	}
	o, err := schedTask(t, pid)
	return o, int(int32(call.U32(b[:]))), err
}

func schedSetscheduler(t *kernel.Task, pid call.PID, policy int32, a usermem.Addr) (uint64, error) {
	if policy < 0 {
		return 0, unix.EINVAL
	}
	o, priority, err := readPriority(t, pid, a)
	if err != nil {
		return 0, err
	}
	return 0, setScheduler(t, o, int(policy&^schedReset), priority, nil, policy&schedReset != 0)
}

func schedSetparam(t *kernel.Task, pid call.PID, a usermem.Addr) (uint64, error) {
	o, priority, err := readPriority(t, pid, a)
	if err != nil {
		return 0, err
	}
	return 0, setScheduler(t, o, -1, priority, nil, false)
}

func schedGetscheduler(t *kernel.Task, pid call.PID) (uint64, error) {
	o, err := schedTask(t, pid)
	if err != nil {
		return 0, err
	}
	s := o.Scheduling()
	if s.ResetOnFork {
		return uint64(s.Policy) | schedReset, nil
	}
	return uint64(s.Policy), nil
}

func schedGetparam(t *kernel.Task, pid call.PID, a usermem.Addr) (uint64, error) {
	if a == 0 || pid < 0 {
		return 0, unix.EINVAL
	}
	o, err := schedTask(t, pid)
	if err != nil {
		return 0, err
	}
	var w call.Writer
	w.U32(uint32(o.Scheduling().Priority))
	return 0, w.To(t, a)
}

// schedAttrSize is SCHED_ATTR_SIZE_VER0, the size of struct sched_attr in 4.4.
const schedAttrSize = 48

func schedSetattr(t *kernel.Task, pid call.PID, a usermem.Addr, flags uint32) (uint64, error) {
	if a == 0 || pid < 0 || flags != 0 {
		return 0, unix.EINVAL
	}
	var b [4096]byte
	if _, err := t.MM().CopyIn(a, b[:4]); err != nil {
		return 0, err
	}
	size := call.U32(b[:])
	if size == 0 {
		size = schedAttrSize
	}
	tooBig := func() error {
		var w call.Writer
		w.U32(schedAttrSize)
		if err := w.To(t, a); err != nil {
			return err
		}
		return unix.E2BIG
	}
	if size < schedAttrSize || size > 4096 {
		return 0, tooBig()
	}
	if _, err := t.MM().CopyIn(a, b[:size]); err != nil {
		return 0, err
	}
	for _, x := range b[schedAttrSize:size] {
		if x != 0 {
			return 0, tooBig()
		}
	}
	policy, f := int(int32(call.U32(b[4:]))), call.U64(b[8:])
	nice := max(-20, min(19, int(int32(call.U32(b[16:])))))
	if policy < 0 || f&^1 != 0 {
		return 0, unix.EINVAL
	}
	o, err := schedTask(t, pid)
	if err != nil {
		return 0, err
	}
	if policy == schedDeadline {
		return 0, unix.EPERM // as for one without privileges
	}
	return 0, setScheduler(t, o, policy, int(int32(call.U32(b[20:]))), &nice, f&1 != 0)
}

func schedGetattr(t *kernel.Task, pid call.PID, a usermem.Addr, size, flags uint32) (uint64, error) {
	if a == 0 || pid < 0 || size > 4096 || size < schedAttrSize || flags != 0 {
		return 0, unix.EINVAL
	}
	o, err := schedTask(t, pid)
	if err != nil {
		return 0, err
	}
	s := o.Scheduling()
	var w call.Writer
	w.U32(schedAttrSize)
	w.U32(uint32(s.Policy))
	if s.ResetOnFork {
		w.U64(1)
	} else {
		w.U64(0)
	}
	if realTime(s.Policy) {
		w.U32(0)
	} else {
		w.U32(uint32(int32(s.Nice)))
	}
	w.U32(uint32(s.Priority))
	w.Zero(24)
	return 0, w.To(t, a)
}

func schedGetPriorityMax(_ *kernel.Task, policy int32) (uint64, error) {
	switch policy {
	case schedFIFO, schedRR:
		return 99, nil
	case schedOther, schedBatch, schedIdle, schedDeadline:
		return 0, nil
	}
	return 0, unix.EINVAL
}

func schedGetPriorityMin(_ *kernel.Task, policy int32) (uint64, error) {
	switch policy {
	case schedFIFO, schedRR:
		return 1, nil
	case schedOther, schedBatch, schedIdle, schedDeadline:
		return 0, nil
	}
	return 0, unix.EINVAL
}

func schedRRGetInterval(t *kernel.Task, pid call.PID, a usermem.Addr) (uint64, error) {
	o, err := schedTask(t, pid)
	if err != nil {
		return 0, err
	}
	var slice int64
	switch o.Scheduling().Policy {
	case schedRR:
		slice = 100_000_000
	case schedFIFO:
	default:
		slice = 4_000_000
	}
	var w call.Writer
	w.Timespec(slice)
	return 0, w.To(t, a)
}

func schedSetaffinity(t *kernel.Task, pid call.PID, size uint32, a usermem.Addr) (uint64, error) {
	var b [8]byte
	if _, err := t.MM().CopyIn(a, b[:min(size, 8)]); err != nil {
		return 0, err
	}
	o := t
	if pid != 0 {
		if o = t.PIDNamespace().Task(int32(pid)); o == nil {
			return 0, unix.ESRCH
		}
	}
	if !ownsScheduling(t, o) && !t.Credentials().HasCapIn(unix.CAP_SYS_NICE, o.Credentials().UserNS) {
		return 0, unix.EPERM
	}
	set := call.U64(b[:]) & t.Kernel().AllCPUs()
	if set == 0 {
		return 0, unix.EINVAL
	}
	o.SetScheduling(func(s *kernel.Scheduling) { s.Affinity = set })
	return 0, nil
}

func schedGetaffinity(t *kernel.Task, pid call.PID, size uint32, a usermem.Addr) (uint64, error) {
	if size&7 != 0 || uint64(size)*8 < uint64(bits.Len64(t.Kernel().AllCPUs())) {
		return 0, unix.EINVAL
	}
	o := t
	if pid != 0 {
		if o = t.PIDNamespace().Task(int32(pid)); o == nil {
			return 0, unix.ESRCH
		}
	}
	var w call.Writer
	w.U64(o.AllowedCPUs())
	return 8, w.To(t, a)
}

// priorityTasks calls f for the tasks that which and who of getpriority(2) or
// ioprio_get(2) mean, and reports how many there were. The numbers are those of
// PRIO_PROCESS, PRIO_PGRP and PRIO_USER.
func priorityTasks(t *kernel.Task, which int32, who int32, f func(o *kernel.Task)) (n int) {
	ns := t.PIDNamespace()
	each := func(tasks []*kernel.Task) {
		for _, o := range tasks {
			f(o)
			n++
		}
	}
	switch which {
	case unix.PRIO_PROCESS:
		o := t
		if who != 0 {
			o = ns.Task(who)
		}
		if o != nil {
			each([]*kernel.Task{o})
		}
	case unix.PRIO_PGRP:
		g := t.ThreadGroup().ProcessGroup()
		if who != 0 {
			g = ns.ProcessGroup(who)
		}
		if g != nil {
			for _, tg := range g.Members() {
				each(tg.Tasks())
			}
		}
	case unix.PRIO_USER:
		k := t.Credentials().RUID
		if who != 0 {
			var ok bool
			if k, ok = t.Credentials().UserNS.KUID(uint32(who)); !ok {
				return 0
			}
		}
		for _, o := range ns.Tasks() {
			if o.Credentials().RUID == k && o.Alive() {
				each([]*kernel.Task{o})
			}
		}
	}
	return n
}

func getpriority(t *kernel.Task, which, who int32) (uint64, error) {
	if which < 0 || which > unix.PRIO_USER {
		return 0, unix.EINVAL
	}
	best := 0
	if priorityTasks(t, which, who, func(o *kernel.Task) { best = max(best, 20-o.Scheduling().Nice) }) == 0 {
		return 0, unix.ESRCH
	}
	return uint64(best), nil
}

func setpriority(t *kernel.Task, which, who, nice int32) (uint64, error) {
	if which < 0 || which > unix.PRIO_USER {
		return 0, unix.EINVAL
	}
	nice = max(-20, min(19, nice))
	var err error
	n := priorityTasks(t, which, who, func(o *kernel.Task) {
		if e := setNice(t, o, int(nice)); e != nil {
			err = e
		}
	})
	if n == 0 {
		return 0, unix.ESRCH
	}
	return 0, err
}

func setNice(t, o *kernel.Task, nice int) error {
	c, v := t.Credentials(), o.Credentials()
	able := c.HasCapIn(unix.CAP_SYS_NICE, v.UserNS)
	if v.RUID != c.EUID && v.EUID != c.EUID && !able {
		return unix.EPERM
	}
	if nice < o.Scheduling().Nice && !able && uint64(20-nice) > o.ThreadGroup().Limits().Soft(limits.Nice) {
		return unix.EACCES
	}
	o.SetScheduling(func(s *kernel.Scheduling) { s.Nice = nice })
	return nil
}

// Classes of ioprio_set(2), in bits 13 and up.
const (
	ioClassShift = 13
	ioRealTime   = 1
	ioBestEffort = 2
	ioIdle       = 3
)

func ioprioGet(t *kernel.Task, which, who int32) (uint64, error) {
	if which < 1 || which > 3 {
		return 0, unix.EINVAL
	}
	// The best: the lowest class that is one, and the lowest level in it.
	best := -1
	n := priorityTasks(t, which-1, who, func(o *kernel.Task) {
		p := o.Scheduling().IOPriority
		switch {
		case best < 0:
			best = p
		case best>>ioClassShift == 0:
			best = p
		case p>>ioClassShift != 0:
			best = min(best, p)
		}
	})
	if n == 0 {
		return 0, unix.ESRCH
	}
	return uint64(best), nil
}

func ioprioSet(t *kernel.Task, which, who, prio int32) (uint64, error) {
	c := t.Credentials()
	level := prio & (1<<ioClassShift - 1)
	switch prio >> ioClassShift {
	case ioRealTime:
		if !c.HasRootCap(unix.CAP_SYS_ADMIN) {
			return 0, unix.EPERM
		}
		fallthrough
	case ioBestEffort:
		if level >= 8 {
			return 0, unix.EINVAL
		}
	case ioIdle:
	case 0:
		if level != 0 {
			return 0, unix.EINVAL
		}
	default:
		return 0, unix.EINVAL
	}
	if which < 1 || which > 3 {
		return 0, unix.EINVAL
	}
	var err error
	n := priorityTasks(t, which-1, who, func(o *kernel.Task) {
		v := o.Credentials()
		if v.RUID != c.EUID && v.RUID != c.RUID && !c.HasRootCap(unix.CAP_SYS_NICE) {
			err = unix.EPERM
			return
		}
		o.SetScheduling(func(s *kernel.Scheduling) { s.IOPriority = int(prio) })
	})
	if n == 0 {
		return 0, unix.ESRCH
	}
	return 0, err
}

// membarrier(2) has one command in 4.4, MEMBARRIER_CMD_SHARED. The host does it
// for all threads there are, those that run applications included.
func membarrier(_ *kernel.Task, cmd int32, flags uint32) (uint64, error) {
	const shared = 1
	if flags != 0 {
		return 0, unix.EINVAL
	}
	switch cmd {
	case 0:
		return shared, nil
	case shared:
		if _, _, e := unix.Syscall(unix.SYS_MEMBARRIER, shared, 0, 0); e != 0 {
			return 0, unix.ENOSYS
		}
		return 0, nil
	}
	return 0, unix.EINVAL
}
