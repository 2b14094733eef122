package processes

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/usermem"
)

var systemRows = []call.Row{
	call.Full(unix.SYS_UNAME, "uname", call.Args1(uname)),
	call.Full(unix.SYS_SETHOSTNAME, "sethostname", call.Args2(sethostname)),
	call.Full(unix.SYS_SETDOMAINNAME, "setdomainname", call.Args2(setdomainname)),
	call.Full(unix.SYS_GETRANDOM, "getrandom", call.Args3(getrandom)),
	call.Full(unix.SYS_GETRLIMIT, "getrlimit", call.Args2(getrlimit)),
	call.Full(unix.SYS_SETRLIMIT, "setrlimit", call.Args2(setrlimit)),
	call.Full(unix.SYS_PRLIMIT64, "prlimit64", call.Args4(prlimit)),
	call.Full(unix.SYS_GETRUSAGE, "getrusage", call.Args2(getrusage)),
	call.Full(unix.SYS_TIMES, "times", call.Args1(times)),
	call.Full(unix.SYS_SCHED_YIELD, "sched_yield", call.Args0(schedYield)),
	call.Full(unix.SYS_GETCPU, "getcpu", call.Args2(getcpu)),
	call.Full(unix.SYS_PERSONALITY, "personality", call.Args1(personality)),
	call.Partial(unix.SYS_PRCTL, "prctl", call.Args5(prctl), "no PR_SET_MM, PR_SET_PTRACER, PR_MCE_KILL, PR_TASK_PERF_EVENTS_*"),
	call.Partial(unix.SYS_SYNC, "sync", call.Args0(sync), "waits for nothing: what was written is the host's to keep; fsync asks for the disk"),
	call.Partial(unix.SYS_SYNCFS, "syncfs", call.Args1(syncfs), "checks the descriptor, and waits for nothing"),
}

func uname(t *kernel.Task, a usermem.Addr) (uint64, error) {
	host, domain := t.Namespaces().UTS.Names()
	var b [6 * 65]byte
	for i, s := range []string{"Linux", host, kernel.Release, kernel.Version, "x86_64", domain} {
		copy(b[65*i:65*i+64], s)
	}
	_, err := t.MM().CopyOut(a, b[:])
	return 0, err
}

func readName(t *kernel.Task, a usermem.Addr, n int32) (string, error) {
	ns := t.Namespaces().UTS
	if !t.Credentials().HasCapIn(unix.CAP_SYS_ADMIN, ns.UserNS) {
		return "", unix.EPERM
	}
	if n < 0 || n > 64 {
		return "", unix.EINVAL
	}
	b := make([]byte, n)
	_, err := t.MM().CopyIn(a, b)
	return string(b), err
}

func sethostname(t *kernel.Task, a usermem.Addr, n int32) (uint64, error) {
	s, err := readName(t, a, n)
	if err == nil {
		t.Namespaces().UTS.SetHost(s)
	}
	return 0, err
}

func setdomainname(t *kernel.Task, a usermem.Addr, n int32) (uint64, error) {
	s, err := readName(t, a, n)
	if err == nil {
		t.Namespaces().UTS.SetDomain(s)
	}
	return 0, err
}

func getrandom(t *kernel.Task, a usermem.Addr, n call.Size, flags uint32) (uint64, error) {
	if flags&^(unix.GRND_NONBLOCK|unix.GRND_RANDOM) != 0 {
		return 0, unix.EINVAL
	}
	n = min(n, 1<<25-1)
	b, err := call.Buffer(t, a, n)
	if err != nil {
		return 0, err
	}
	got, err := b.Blocks(usermem.Write, t.Kernel().Random.Read)
	if got > 0 {
		err = nil
	}
	return got, err
}

func getrlimit(t *kernel.Task, r uint32, a usermem.Addr) (uint64, error) {
	if r >= uint32(limits.Count) {
		return 0, unix.EINVAL
	}
	return 0, putLimit(t, a, t.ThreadGroup().Limits().Get(limits.Resource(r)))
}

func putLimit(t *kernel.Task, a usermem.Addr, l limits.Limit) error {
	var w call.Writer
	w.U64(l.Soft)
	w.U64(l.Hard)
	return w.To(t, a)
}

func readLimit(t *kernel.Task, a usermem.Addr) (l limits.Limit, err error) {
	var b [16]byte
	_, err = t.MM().CopyIn(a, b[:])
	return limits.Limit{Soft: call.U64(b[:]), Hard: call.U64(b[8:])}, err
}

func setrlimit(t *kernel.Task, r uint32, a usermem.Addr) (uint64, error) {
	if r >= uint32(limits.Count) {
		return 0, unix.EINVAL
	}
	l, err := readLimit(t, a)
	if err != nil {
		return 0, err
	}
	return 0, setLimit(t, t.ThreadGroup(), limits.Resource(r), l)
}

// maxOpenFiles is fs.nr_open.
const maxOpenFiles = 1 << 20

func setLimit(t *kernel.Task, tg *kernel.ThreadGroup, r limits.Resource, l limits.Limit) error {
	if r == limits.OpenFiles && l.Hard > maxOpenFiles {
		return unix.EPERM
	}
	_, err := tg.Limits().Swap(r, l, t.Credentials().HasRootCap(unix.CAP_SYS_RESOURCE))
	if err == nil && r == limits.CPU {
		tg.Timers().CheckCPU()
	}
	return err
}

func prlimit(t *kernel.Task, pid call.PID, r uint32, n, old usermem.Addr) (uint64, error) {
	if r >= uint32(limits.Count) {
		return 0, unix.EINVAL
	}
	tg, err := process(t, pid)
	if err != nil {
		return 0, err
	}
	var l limits.Limit
	if n != 0 {
		if l, err = readLimit(t, n); err != nil {
			return 0, err
		}
	}
	if tg != t.ThreadGroup() {
		c, v := t.Credentials(), tg.Leader().Credentials()
		same := c.RUID == v.RUID && c.RUID == v.EUID && c.RUID == v.SUID && c.RGID == v.RGID && c.RGID == v.EGID && c.RGID == v.SGID
		if !same && !c.HasCapIn(unix.CAP_SYS_RESOURCE, v.UserNS) {
			return 0, unix.EPERM
		}
	}
	was := tg.Limits().Get(limits.Resource(r))
	if n != 0 {
		if err := setLimit(t, tg, limits.Resource(r), l); err != nil {
			return 0, err
		}
	}
	if old != 0 {
		return 0, putLimit(t, old, was)
	}
	return 0, nil
}

func getrusage(t *kernel.Task, who int32, a usermem.Addr) (uint64, error) {
	var u usage.Resources
	switch who {
	case unix.RUSAGE_SELF:
		u = t.ThreadGroup().Usage()
		u.MaxRSS = t.MM().Stats().PeakRSS
	case unix.RUSAGE_CHILDREN:
		u = t.ThreadGroup().ChildUsage()
	case unix.RUSAGE_THREAD:
		u = t.Usage()
		u.MaxRSS = t.MM().Stats().PeakRSS
	default:
		return 0, unix.EINVAL
	}
	return 0, putRusage(t, a, &u)
}

func times(t *kernel.Task, a usermem.Addr) (uint64, error) {
	const tick = call.Second / 100
	k := t.Kernel()
	if a != 0 {
		u, c := t.ThreadGroup().Usage(), t.ThreadGroup().ChildUsage()
		var w call.Writer
		for _, v := range []int64{u.User, u.System, c.User, c.System} {
			w.I64(v / tick)
		}
		if err := w.To(t, a); err != nil {
			return 0, err
		}
	}
	return uint64((k.Clock.Monotonic() - k.BootMonotonic) / tick), nil
}

func schedYield(t *kernel.Task) (uint64, error) {
	t.Yield()
	return 0, nil
}

func getcpu(t *kernel.Task, cpu, node usermem.Addr) (uint64, error) {
	if cpu != 0 {
		if err := usermem.CopyOutUint32(t.MM(), cpu, t.CPU()); err != nil {
			return 0, err
		}
	}
	if node != 0 {
		return 0, usermem.CopyOutUint32(t.MM(), node, 0)
	}
	return 0, nil
}

func personality(t *kernel.Task, p uint32) (uint64, error) {
	old := t.Personality().Load()
	if p != 0xffffffff {
		t.Personality().Store(p)
	}
	return uint64(old), nil
}

func sync(t *kernel.Task) (uint64, error) { return 0, nil }

func syncfs(t *kernel.Task, fd call.FD) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	f.DecRef()
	return 0, nil
}

func prctl(t *kernel.Task, op int32, a2, a3, a4, a5 uint64) (uint64, error) {
	tg := t.ThreadGroup()
	switch op {
	case unix.PR_SET_PDEATHSIG:
		if a2 != 0 && !signals.Signal(a2).Valid() {
			return 0, unix.EINVAL
		}
		t.SetParentDeathSignal(signals.Signal(a2))
	case unix.PR_GET_PDEATHSIG:
		return 0, usermem.CopyOutUint32(t.MM(), usermem.Addr(a2), uint32(t.ParentDeathSignal()))
	case unix.PR_GET_DUMPABLE:
		return uint64(t.MM().Dumpable()), nil
	case unix.PR_SET_DUMPABLE:
		if a2 > 1 {
			return 0, unix.EINVAL
		}
		t.MM().SetDumpable(int(a2))
	case unix.PR_SET_NAME:
		var b [16]byte
		s, err := usermem.CopyInString(t.MM(), usermem.Addr(a2), len(b))
		if err == unix.ENAMETOOLONG {
			if _, err := t.MM().CopyIn(usermem.Addr(a2), b[:15]); err != nil {
				return 0, err
			}
			s, err = string(b[:15]), nil
		}
		if err != nil {
			return 0, err
		}
		t.SetName(s)
	case unix.PR_GET_NAME:
		var b [16]byte
		copy(b[:15], t.Name())
		_, err := t.MM().CopyOut(usermem.Addr(a2), b[:])
		return 0, err
	case unix.PR_SET_CHILD_SUBREAPER:
		tg.SetSubreaper(a2 != 0)
	case unix.PR_GET_CHILD_SUBREAPER:
		var v uint32
		if tg.Subreaper() {
			v = 1
		}
		return 0, usermem.CopyOutUint32(t.MM(), usermem.Addr(a2), v)
	case unix.PR_SET_NO_NEW_PRIVS:
		if a2 != 1 || a3|a4|a5 != 0 {
			return 0, unix.EINVAL
		}
		c := t.Credentials().Fork()
		c.NoNewPrivs = true
		t.SetCredentials(c)
	case unix.PR_GET_NO_NEW_PRIVS:
		if a2|a3|a4|a5 != 0 {
			return 0, unix.EINVAL
		}
		if t.Credentials().NoNewPrivs {
			return 1, nil
		}
	case unix.PR_SET_TIMERSLACK:
		t.SetScheduling(func(s *kernel.Scheduling) {
			if s.TimerSlack = a2; a2 == 0 {
				s.TimerSlack = 50000
			}
		})
	case unix.PR_GET_TIMERSLACK:
		return t.Scheduling().TimerSlack, nil
	case unix.PR_GET_KEEPCAPS:
		if t.Credentials().SecureBits&auth.SecbitKeepCaps != 0 {
			return 1, nil
		}
	case unix.PR_SET_KEEPCAPS:
		c := t.Credentials().Fork()
		if c.SecureBits&auth.SecbitKeepCapsLocked != 0 {
			return 0, unix.EPERM
		}
		switch a2 {
		case 0:
			c.SecureBits &^= auth.SecbitKeepCaps
		case 1:
			c.SecureBits |= auth.SecbitKeepCaps
		default:
			return 0, unix.EINVAL
		}
		t.SetCredentials(c)
	case unix.PR_GET_SECUREBITS:
		return uint64(t.Credentials().SecureBits), nil
	case unix.PR_SET_SECUREBITS:
		c := t.Credentials().Fork()
		locked := (c.SecureBits & 0xaa) >> 1 // bits whose lock is set
		if uint32(a2)&^auth.SecbitsAll != 0 || (c.SecureBits^uint32(a2))&locked != 0 ||
			c.SecureBits&0xaa&^uint32(a2) != 0 || !c.HasCap(unix.CAP_SETPCAP) {
			return 0, unix.EPERM
		}
		c.SecureBits = uint32(a2)
		t.SetCredentials(c)
	case unix.PR_CAPBSET_READ:
		if a2 > auth.LastCap {
			return 0, unix.EINVAL
		}
		if t.Credentials().Bounding.Has(int(a2)) {
			return 1, nil
		}
	case unix.PR_CAPBSET_DROP:
		c := t.Credentials().Fork()
		if !c.HasCap(unix.CAP_SETPCAP) {
			return 0, unix.EPERM
		}
		if a2 > auth.LastCap {
			return 0, unix.EINVAL
		}
		c.Bounding &^= auth.CapOf(int(a2))
		t.SetCredentials(c)
	case unix.PR_CAP_AMBIENT:
		return capAmbient(t, a2, a3, a4|a5)
	case unix.PR_GET_TIMING:
		return unix.PR_TIMING_STATISTICAL, nil
	case unix.PR_SET_TIMING:
		if a2 != unix.PR_TIMING_STATISTICAL {
			return 0, unix.EINVAL
		}
	case unix.PR_GET_TID_ADDRESS:
		return 0, usermem.CopyOutUint64(t.MM(), usermem.Addr(a2), uint64(t.ClearTID()))
	case unix.PR_SET_TSC:
		if a2 != unix.PR_TSC_ENABLE {
			return 0, unix.EINVAL
		}
	case unix.PR_SET_MM:
		return 0, unix.EPERM // as without CAP_SYS_RESOURCE
	case unix.PR_MCE_KILL_GET:
		if a2|a3|a4|a5 != 0 {
			return 0, unix.EINVAL
		}
		return unix.PR_MCE_KILL_DEFAULT, nil
	case unix.PR_SET_THP_DISABLE:
		if a3|a4|a5 != 0 {
			return 0, unix.EINVAL
		}
		// There are no huge pages to begin with.
	case unix.PR_GET_THP_DISABLE:
		if a2|a3|a4|a5 != 0 {
			return 0, unix.EINVAL
		}
	case unix.PR_SET_SECCOMP:
		return prctlSeccomp(t, a2, usermem.Addr(a3))
	case unix.PR_GET_SECCOMP:
		return uint64(t.Seccomp().Mode()), nil
	case unix.PR_GET_TSC:
		return 0, usermem.CopyOutUint32(t.MM(), usermem.Addr(a2), unix.PR_TSC_ENABLE)
	default:
		return 0, unix.EINVAL
	}
	return 0, nil
}

func capAmbient(t *kernel.Task, op, which, rest uint64) (uint64, error) {
	if rest != 0 {
		return 0, unix.EINVAL
	}
	c := t.Credentials().Fork()
	if op == unix.PR_CAP_AMBIENT_CLEAR_ALL {
		if which != 0 {
			return 0, unix.EINVAL
		}
		c.Ambient = 0
		t.SetCredentials(c)
		return 0, nil
	}
	if which > auth.LastCap {
		return 0, unix.EINVAL
	}
	bit := auth.CapOf(int(which))
	switch op {
	case unix.PR_CAP_AMBIENT_IS_SET:
		if c.Ambient&bit != 0 {
			return 1, nil
		}
		return 0, nil
	case unix.PR_CAP_AMBIENT_RAISE:
		if c.Permitted&bit == 0 || c.Inheritable&bit == 0 || c.SecureBits&auth.SecbitNoCapAmbientRaise != 0 {
			return 0, unix.EPERM
		}
		c.Ambient |= bit
	case unix.PR_CAP_AMBIENT_LOWER:
		c.Ambient &^= bit
	default:
		return 0, unix.EINVAL
	}
	t.SetCredentials(c)
	return 0, nil
}

func sysinfo(t *kernel.Task, a usermem.Addr) (uint64, error) {
	k := t.Kernel()
	acct := t.MM().Account()
	total, used := acct.Bound(), acct.Usage()
	var w call.Writer
	w.I64((k.Clock.Monotonic() - k.BootMonotonic) / call.Second)
	w.Zero(24) // load averages
	w.U64(total)
	w.U64(total - min(total, used))
	w.Zero(8 * 4) // shared, buffers, swap
	w.U16(uint16(min(k.TaskCount(), 1<<16-1)))
	w.Zero(6)
	w.Zero(16) // high memory
	w.U32(1)   // unit
	w.Zero(4)
	return 0, w.To(t, a)
}
