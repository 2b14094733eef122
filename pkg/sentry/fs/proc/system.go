package proc

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
)

// fillSystem puts the fixed names into /proc.
func (p *procfs) fillSystem(root *pseudo.Dir) {
	file := func(name string, f func(b *bytes.Buffer)) { root.Put(name, p.build.File(0o444, print(f))) }
	root.Put("self", p.build.Symlink(p.self))
	root.Put("thread-self", p.build.Symlink(p.threadSelf))
	root.Put("mounts", p.build.Symlink(pseudo.FixedTarget("self/mounts")))
	root.Put("net", p.build.Symlink(pseudo.FixedTarget("self/net")))
	root.Put("cpuinfo", p.build.File(0o444, func(_ vfs.Context, b *bytes.Buffer, at int64) (int64, error) {
		n := max(p.k.CPUs, 1)
		p.opts.Host.cpuinfo(b, int(at), n)
		if at++; at >= int64(n) {
			at = pseudo.Done
		}
		return at, nil
	}))
	file("meminfo", p.meminfo)
	file("stat", p.kernelStat)
	file("uptime", p.uptime)
	file("loadavg", p.loadavg)
	file("vmstat", p.vmstat)
	file("version", func(b *bytes.Buffer) {
		fmt.Fprintf(b, "Linux version %s (vitrine@vitrine) (Go) %s\n", kernel.Release, kernel.Version)
	})
	root.Put("cmdline", p.build.File(0o444, pseudo.Text(p.opts.CommandLine+"\n")))
	root.Put("filesystems", p.build.File(0o444, pseudo.Text(filesystems)))
	root.Put("devices", p.build.File(0o444, pseudo.Text(devices)))
	root.Put("partitions", p.build.File(0o444, pseudo.Text("")))
	root.Put("diskstats", p.build.File(0o444, pseudo.Text("")))
	root.Put("modules", p.build.File(0o444, pseudo.Text("")))
	root.Put("kallsyms", p.build.File(0o444, pseudo.Text("")))
	file("locks", p.locks)
	p.fillSysVIPC(root)
	root.Put("swaps", p.build.File(0o444, pseudo.Text("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")))
	root.Put("cgroups", p.build.File(0o444, pseudo.Text(cgroups)))
	file("interrupts", func(b *bytes.Buffer) {
		b.WriteString("    ")
		for i := range max(p.k.CPUs, 1) {
			fmt.Fprintf(b, "       %-8s", "CPU"+strconv.Itoa(i))
		}
		b.WriteByte('\n')
	})
}

// filesystems are the types that mount(2) makes in a sandbox.
const filesystems = "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tcgroup\nnodev\tcgroup2\nnodev\tdevtmpfs\n" +
	"nodev\tsockfs\nnodev\tpipefs\nnodev\tdevpts\nnodev\toverlay\nnodev\tmqueue\nnodev\t9p\n"

// cgroups are the controllers of the one hierarchy there is, version 2
// (cgroups(7)): Java looks here for how to read its limits.
const cgroups = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t1\npids\t0\t1\t1\n"

// devices are the major numbers of /dev.
const devices = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n136 pts\n\nBlock devices:\n"

// self is the process that asks, as the instance numbers it; nobody from
// outside its namespace has a self.
func (p *procfs) self(ctx vfs.Context) (string, error) {
	if tg := p.caller(ctx); tg != nil {
		if id := tg.ID(p.ns); id != 0 {
			return strconv.Itoa(int(id)), nil
		}
	}
	return "", unix.ENOENT
}

func (p *procfs) threadSelf(ctx vfs.Context) (string, error) {
	if t := p.callerTask(ctx); t != nil {
		if id := t.TID(p.ns); id != 0 {
			return fmt.Sprintf("%d/task/%d", t.ThreadGroup().ID(p.ns), id), nil
		}
	}
	return "", unix.ENOENT
}

// memoryTotals returns the memory that there is, what is used of it, and what is
// kept for use soon, in bytes.
func (p *procfs) memoryTotals() (total, used, kept uint64) {
	used, kept = p.k.Memory.Usage()
	total = p.opts.Host.Memory
	if a := p.opts.Account; a != nil {
		used, kept = a.Usage(), 0
		if l := a.Limit(); l != 0 && (total == 0 || l < total) {
			total = l
		}
	}
	return max(total, used), used, kept
}

func (p *procfs) meminfo(b *bytes.Buffer) {
	total, used, _ := p.memoryTotals()
	free := total - used
	var file, shmem uint64
	p.eachMemory(func(st *mm.Stats) {
		file += st.RSSFile
		shmem += st.RSSShmem
	})
	// Pages of files and shared memory may be in several address spaces.
	shmem = min(shmem, used)
	anon := used - shmem
	for _, l := range []struct {
		name  string
		bytes uint64
	}{
		{"MemTotal", total}, {"MemFree", free}, {"MemAvailable", free}, {"Buffers", 0}, {"Cached", shmem}, {"SwapCached", 0},
		{"Active", anon}, {"Inactive", shmem}, {"Active(anon)", anon}, {"Inactive(anon)", shmem},
		{"Active(file)", 0}, {"Inactive(file)", 0}, {"Unevictable", 0}, {"Mlocked", 0}, {"SwapTotal", 0}, {"SwapFree", 0},
		{"Dirty", 0}, {"Writeback", 0}, {"AnonPages", anon}, {"Mapped", file + shmem}, {"Shmem", shmem},
		{"KReclaimable", 0}, {"Slab", 0}, {"SReclaimable", 0}, {"SUnreclaim", 0}, {"KernelStack", 0}, {"PageTables", 0},
		{"NFS_Unstable", 0}, {"Bounce", 0}, {"WritebackTmp", 0}, {"CommitLimit", total}, {"Committed_AS", used},
		{"VmallocTotal", 0}, {"VmallocUsed", 0}, {"VmallocChunk", 0}, {"HardwareCorrupted", 0}, {"AnonHugePages", 0},
	} {
		fmt.Fprintf(b, "%-15s %8d kB\n", l.name+":", l.bytes>>10)
	}
	b.WriteString("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\nHugepagesize:       2048 kB\n")
}

func (p *procfs) vmstat(b *bytes.Buffer) {
	total, used, _ := p.memoryTotals()
	u := p.k.TotalUsage()
	fmt.Fprintf(b, "nr_free_pages %d\nnr_anon_pages %d\npgfault %d\npgmajfault 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n",
		(total-used)/pageSize, used/pageSize, u.MinorFaults)
}

// up returns how long the sandbox runs, in nanoseconds.
func (p *procfs) up() int64 { return max(0, p.k.Clock.Monotonic()-p.k.BootMonotonic) }

// cpuTimes returns what all tasks have used, and what is left of the processors'
// time since the start, in nanoseconds.
func (p *procfs) cpuTimes() (user, system, idle int64) {
	u := p.k.TotalUsage()
	return u.User, u.System, max(0, p.up()*int64(max(p.k.CPUs, 1))-u.User-u.System)
}

func (p *procfs) uptime(b *bytes.Buffer) {
	_, _, idle := p.cpuTimes()
	up := p.up()
	fmt.Fprintf(b, "%d.%02d %d.%02d\n", up/second, up%second/tick, idle/second, idle%second/tick)
}

// counts returns how many tasks want to run, and how many there are, in the
// instance's namespace.
func (p *procfs) counts() (running, all int) {
	for _, t := range p.ns.Tasks() {
		all++
		if t.StateLetter() == 'R' {
			running++
		}
	}
	return running, all
}

// kernelStat is /proc/stat. What a processor has done isn't known one by one: the
// total is shared out evenly.
func (p *procfs) kernelStat(b *bytes.Buffer) {
	user, system, idle := p.cpuTimes()
	n := int64(max(p.k.CPUs, 1))
	line := func(name string, share int64) {
		fmt.Fprintf(b, "%s %d 0 %d %d 0 0 0 0 0 0\n", name, user/share/tick, system/share/tick, idle/share/tick)
	}
	line("cpu ", 1)
	for i := range n {
		line("cpu"+strconv.FormatInt(i, 10), n)
	}
	u := p.k.TotalUsage()
	running, _ := p.counts()
	fmt.Fprintf(b, "intr 0\nctxt %d\nbtime %d\nprocesses %d\nprocs_running %d\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
		u.Voluntary+u.Preempted, p.k.BootTime/second, p.k.ForkCount(), max(running, 1))
}

// load keeps the averages of /proc/loadavg without a clock tick: what all tasks
// ran between two readings, over the time in between, is how many ran on average.
type load struct {
	mu      locks.Mutex[locks.Leaf]
	at      int64 // when it was last read, in nanoseconds since the start
	used    int64
	average [3]float64
}

// loadPeriods are the times, in seconds, over which the averages decay.
var loadPeriods = [3]float64{60, 300, 900}

// update brings the averages up to the time at, when tasks have used so much.
func (l *load) update(at, used int64) [3]float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	// Two readings close to each other see chance, not load.
	if passed := at - l.at; passed >= second/10 {
		n := float64(max(0, used-l.used)) / float64(passed)
		for i, period := range loadPeriods {
			keep := math.Exp(-float64(passed) / second / period)
			l.average[i] = l.average[i]*keep + n*(1-keep)
		}
		l.at, l.used = at, used
	}
	return l.average
}

func (p *procfs) loadavg(b *bytes.Buffer) {
	u := p.k.TotalUsage()
	l := p.load.update(p.up(), u.User+u.System)
	running, all := p.counts()
	fmt.Fprintf(b, "%.2f %.2f %.2f %d/%d %d\n", l[0], l[1], l[2], max(running, 1), all, p.ns.LastPID())
}

// eachMemory calls f for each address space of the instance's processes, once.
func (p *procfs) eachMemory(f func(st *mm.Stats)) {
	seen := map[any]bool{}
	for _, t := range p.ns.Tasks() {
		m := t.SharedMM()
		if m == nil {
			continue
		}
		if !seen[m] {
			seen[m] = true
			st := m.Stats()
			f(&st)
		}
		m.DecUsers()
	}
}
