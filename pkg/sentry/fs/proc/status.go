package proc

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/sentry/vfs"
)

const (
	second   = 1_000_000_000
	tick     = second / 100 // of USER_HZ
	pageSize = 4096
)

// stateNames are the words of /proc/PID/status.
var stateNames = map[byte]string{
	'R': "R (running)", 'S': "S (sleeping)", 'T': "T (stopped)", 't': "t (tracing stop)", 'Z': "Z (zombie)", 'X': "X (dead)",
}

// parentID returns the number of the subject's parent, or zero.
func (s subject) parentID() int32 {
	if p := s.tg.Parent(); p != nil {
		return p.ID(s.p.ns)
	}
	return 0
}

// threadCount counts the leader too where it has ended before the others.
func (s subject) threadCount() int { return max(1, len((&threadsDir{subDir{s: s}}).threads())) }

// escapeName writes a task's name as status does: backslash and newline are
// marked, as Linux's task_name.
func escapeName(n string) string {
	return strings.NewReplacer("\\", "\\\\", "\n", "\\n").Replace(n)
}

// cpuMask returns a bit for each processor that affinity permits.
func cpuMask(k *kernel.Kernel, affinity uint64) uint64 {
	all := ^uint64(0)
	if k.CPUs < 64 {
		all = 1<<max(k.CPUs, 1) - 1
	}
	if affinity&all != 0 {
		return affinity & all
	}
	return all
}

// hexMask prints a bit mask as Linux's %*pb does, width bits wide.
func hexMask(m uint64, width int) string {
	if width > 32 {
		return fmt.Sprintf("%0*x,%08x", (width-32+3)/4, m>>32, uint32(m))
	}
	return fmt.Sprintf("%0*x", (width+3)/4, m)
}

// listMask prints a bit mask as %*pbl does: "0-3,5".
func listMask(m uint64) string {
	var out []string
	for i := 0; i < 64; i++ {
		if m&(1<<i) == 0 {
			continue
		}
		j := i
		for j < 63 && m&(1<<(j+1)) != 0 {
			j++
		}
		if j == i {
			out = append(out, strconv.Itoa(i))
		} else {
			out = append(out, fmt.Sprintf("%d-%d", i, j))
		}
		i = j
	}
	return strings.Join(out, ",")
}

func status(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error {
	ns := s.p.ns
	c := t.Credentials()
	view := ctx.Credentials().UserNS
	fmt.Fprintf(b, "Name:\t%s\n", escapeName(t.Name()))
	if fs := t.FS(); fs != nil {
		fmt.Fprintf(b, "Umask:\t%04o\n", fs.Umask())
	}
	tracer := int32(0)
	if o := t.Tracer(); o != nil {
		tracer = o.TID(ns)
	}
	fmt.Fprintf(b, "State:\t%s\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t%d\n",
		stateNames[t.StateLetter()], s.tg.ID(ns), t.TID(ns), s.parentID(), tracer)
	fmt.Fprintf(b, "Uid:\t%d\t%d\t%d\t%d\nGid:\t%d\t%d\t%d\t%d\n",
		view.UID(c.RUID), view.UID(c.EUID), view.UID(c.SUID), view.UID(c.FSUID),
		view.GID(c.RGID), view.GID(c.EGID), view.GID(c.SGID), view.GID(c.FSGID))
	size := 0
	if fds := t.SharedFDs(); fds != nil {
		size = fds.Size()
	}
	fmt.Fprintf(b, "FDSize:\t%d\nGroups:\t", size)
	for i, g := range c.Groups {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatUint(uint64(view.GID(g)), 10))
	}
	b.WriteString(" \n")
	s.namespaceIDs(t, b)
	err := s.memory(func(m *mm.MemoryManager) error {
		st := m.Stats()
		for _, l := range []struct {
			name  string
			bytes uint64
		}{
			{"VmPeak", st.PeakSize}, {"VmSize", st.Size}, {"VmLck", st.Locked}, {"VmPin", 0}, {"VmHWM", st.PeakRSS},
			{"VmRSS", st.RSS}, {"RssAnon", st.RSSAnon}, {"RssFile", st.RSSFile}, {"RssShmem", st.RSSShmem},
			{"VmData", st.Data}, {"VmStk", st.Stack}, {"VmExe", st.Exec}, {"VmLib", st.Lib},
			{"VmPTE", pageTables(st.RSS)}, {"VmSwap", 0}, {"HugetlbPages", 0},
		} {
			fmt.Fprintf(b, "%s:\t%8d kB\n", l.name, l.bytes>>10)
		}
		b.WriteString("CoreDumping:\t0\n")
		return nil
	})
	if err != nil {
		return err
	}
	sig := t.SignalState()
	fmt.Fprintf(b, "Threads:\t%d\nSigQ:\t%d/%d\n", s.threadCount(), sig.Queued, s.tg.Limits().Soft(limits.SignalsPending))
	fmt.Fprintf(b, "SigPnd:\t%016x\nShdPnd:\t%016x\nSigBlk:\t%016x\nSigIgn:\t%016x\nSigCgt:\t%016x\n",
		uint64(sig.Pending), uint64(sig.Shared), uint64(sig.Mask), uint64(sig.Ignored), uint64(sig.Caught))
	fmt.Fprintf(b, "CapInh:\t%016x\nCapPrm:\t%016x\nCapEff:\t%016x\nCapBnd:\t%016x\nCapAmb:\t%016x\n",
		uint64(c.Inheritable), uint64(c.Permitted), uint64(c.Effective), uint64(c.Bounding), uint64(c.Ambient))
	noNew := 0
	if c.NoNewPrivs {
		noNew = 1
	}
	fmt.Fprintf(b, "NoNewPrivs:\t%d\nSeccomp:\t%d\n", noNew, t.Seccomp().Mode())
	mask := cpuMask(s.p.k, t.Scheduling().Affinity)
	fmt.Fprintf(b, "Cpus_allowed:\t%s\nCpus_allowed_list:\t%s\n", hexMask(mask, s.p.k.CPUs), listMask(mask))
	b.WriteString("Mems_allowed:\t00000000,00000001\nMems_allowed_list:\t0\n")
	u := t.Usage()
	fmt.Fprintf(b, "voluntary_ctxt_switches:\t%d\nnonvoluntary_ctxt_switches:\t%d\n", u.Voluntary, u.Preempted)
	return nil
}

// pageTables estimates what an x86-64 processor's page tables for so many
// resident bytes take: an entry of 8 bytes a page, and the three levels above.
func pageTables(rss uint64) uint64 {
	leaf := (rss/512 + pageSize - 1) &^ (pageSize - 1)
	return leaf + 3*pageSize
}

// chain returns the viewer's namespace and those below it, down to ns.
func (p *procfs) chain(ns *kernel.PIDNamespace) []*kernel.PIDNamespace {
	var chain []*kernel.PIDNamespace
	for n := ns; n != nil; n = n.Parent {
		chain = append(chain, n)
		if n == p.ns {
			break
		}
	}
	slices.Reverse(chain)
	return chain
}

// namespaceIDs prints the ids in the viewer's namespace and those below it, down
// to the task's own.
func (s subject) namespaceIDs(t *kernel.Task, b *bytes.Buffer) {
	chain := s.p.chain(t.PIDNamespace())
	group := s.tg.ProcessGroup()
	session := group.Session()
	line := func(name string, id func(*kernel.PIDNamespace) int32) {
		b.WriteString(name)
		for _, ns := range chain {
			fmt.Fprintf(b, "\t%d", id(ns))
		}
		b.WriteByte('\n')
	}
	line("NStgid:", s.tg.ID)
	line("NSpid:", t.TID)
	line("NSpgid:", group.ID)
	line("NSsid:", session.ID)
}

// usage is that of the process, or of the thread that the directory is about.
func (s subject) usage(t *kernel.Task) usage.Resources {
	if s.thread != nil {
		return t.Usage()
	}
	return s.tg.Usage()
}

// encodeDevice is the encoding of device numbers in tty_nr: new_encode_dev.
func encodeDevice(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func stat(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error {
	ns := s.p.ns
	group := s.tg.ProcessGroup()
	session := group.Session()
	tty, tpgid := uint32(0), int32(-1)
	if term := session.Terminal(); term != nil {
		tty = encodeDevice(term.DeviceNumber())
		if g, ok := term.Foreground().(*kernel.ProcessGroup); ok {
			tpgid = g.ID(ns)
		}
	}
	state := t.StateLetter()
	const randomized, exiting = 0x400000, 0x4
	flags := randomized
	if state == 'Z' || state == 'X' {
		flags |= exiting
	}
	u := s.usage(t)
	cu := s.tg.ChildUsage()
	sched := t.Scheduling()
	priority := int64(20 + sched.Nice)
	if sched.Priority != 0 {
		priority = -1 - int64(sched.Priority)
	}
	start := (s.tg.StartTime() - s.p.k.BootMonotonic) / tick
	fmt.Fprintf(b, "%d (%s) %c %d %d %d %d %d %d", t.TID(ns), t.Name(), state, s.parentID(), group.ID(ns), session.ID(ns), int32(tty), tpgid, flags)
	fmt.Fprintf(b, " %d %d 0 0 %d %d %d %d %d %d %d 0 %d", u.MinorFaults, cu.MinorFaults,
		u.User/tick, u.System/tick, cu.User/tick, cu.System/tick, priority, sched.Nice, s.threadCount(), start)
	permitted := s.mayInspect(ctx, t)
	var vsize, rss uint64
	var low, high [8]uint64 // fields 26 to 28, and 45 to 51
	err := s.memory(func(m *mm.MemoryManager) error {
		st := m.Stats()
		vsize, rss = st.Size, st.RSS/pageSize
		if !permitted {
			low[0], low[1] = 1, 1
			return nil
		}
		code, data := m.CodeRange()
		args, env := m.Args()
		low = [8]uint64{uint64(code.Start), uint64(code.End), uint64(m.StackStart())}
		high = [8]uint64{uint64(data.Start), uint64(data.End), uint64(m.BrkStart()),
			uint64(args.Start), uint64(args.End), uint64(env.Start), uint64(env.End)}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(b, " %d %d %d %d %d %d 0 0", vsize, rss, s.tg.Limits().Soft(limits.RSS), low[0], low[1], low[2])
	sig := t.SignalState()
	const shown = 0x7fffffff // the fields are for the first 31 signals
	fmt.Fprintf(b, " %d %d %d %d", uint64(sig.Pending)&shown, uint64(sig.Mask)&shown, uint64(sig.Ignored)&shown, uint64(sig.Caught)&shown)
	wchan := 0
	if state == 'S' {
		wchan = 1
	}
	cpu := 0
	if m := cpuMask(s.p.k, sched.Affinity); m&1 == 0 {
		for m>>cpu&1 == 0 {
			cpu++
		}
	}
	exitSignal := int(s.tg.ExitSignal())
	if s.thread != nil && s.thread != s.tg.Leader() {
		exitSignal = -1
	}
	fmt.Fprintf(b, " %d 0 0 %d %d %d %d 0 0 0", wchan, exitSignal, cpu, sched.Priority, sched.Policy)
	for _, v := range high[:7] {
		fmt.Fprintf(b, " %d", v)
	}
	code := uint32(0)
	if permitted && state == 'Z' {
		code = s.tg.ExitStatus().Wait()
	}
	fmt.Fprintf(b, " %d\n", code)
	return nil
}

func statm(s subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	var st mm.Stats
	err := s.memory(func(m *mm.MemoryManager) error {
		st = m.Stats()
		return nil
	})
	fmt.Fprintf(b, "%d %d %d %d 0 %d 0\n", st.Size/pageSize, st.RSS/pageSize, (st.RSSFile+st.RSSShmem)/pageSize,
		st.Exec/pageSize, (st.Data+st.Stack)/pageSize)
	return err
}

func schedstat(s subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	u := t.Usage()
	fmt.Fprintf(b, "%d 0 %d\n", u.User+u.System, u.Voluntary+u.Preempted)
	return nil
}

// ioCounts is /proc/PID/io; of a process it has its children's too, once they are
// waited for. What reaches a disk is the host's to know.
func ioCounts(s subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	n := s.usage(t).IO
	if s.thread == nil {
		n.Add(s.tg.ChildUsage().IO)
	}
	fmt.Fprintf(b, "rchar: %d\nwchar: %d\nsyscr: %d\nsyscw: %d\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
		n.ReadBytes, n.WrittenBytes, n.Reads, n.Writes)
	return nil
}

// limitNames are the lines of /proc/PID/limits.
var limitNames = []struct {
	r    limits.Resource
	name string
	unit string
}{
	{limits.CPU, "Max cpu time", "seconds"},
	{limits.FileSize, "Max file size", "bytes"},
	{limits.Data, "Max data size", "bytes"},
	{limits.Stack, "Max stack size", "bytes"},
	{limits.Core, "Max core file size", "bytes"},
	{limits.RSS, "Max resident set", "bytes"},
	{limits.Processes, "Max processes", "processes"},
	{limits.OpenFiles, "Max open files", "files"},
	{limits.LockedMemory, "Max locked memory", "bytes"},
	{limits.AddressSpace, "Max address space", "bytes"},
	{limits.Locks, "Max file locks", "locks"},
	{limits.SignalsPending, "Max pending signals", "signals"},
	{limits.MessageQueue, "Max msgqueue size", "bytes"},
	{limits.Nice, "Max nice priority", ""},
	{limits.RealTimePriority, "Max realtime priority", ""},
	{limits.RealTimeTime, "Max realtime timeout", "us"},
}

func showLimits(s subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	fmt.Fprintf(b, "%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units")
	num := func(v uint64) string {
		if v == limits.Infinity {
			return "unlimited"
		}
		return strconv.FormatUint(v, 10)
	}
	for _, l := range limitNames {
		v := s.tg.Limits().Get(l.r)
		fmt.Fprintf(b, "%-25s %-20s %-20s ", l.name, num(v.Soft), num(v.Hard))
		if l.unit != "" {
			fmt.Fprintf(b, "%-10s", l.unit)
		}
		b.WriteByte('\n')
	}
	return nil
}

// oomScore is how much of the memory the process uses, in thousandths, with the
// adjustment (proc(5)).
func oomScore(s subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	total, _, _ := s.p.memoryTotals()
	score := int64(0)
	err := s.memory(func(m *mm.MemoryManager) error {
		score = int64(m.Stats().RSS * 1000 / max(total, 1))
		return nil
	})
	fmt.Fprintf(b, "%d\n", max(0, score+int64(s.tg.OOMScoreAdj().Load())))
	return err
}
