// Package cgroup is what a container sees of control groups: one group, the root
// of a version 2 hierarchy (cgroups(7)), with its limits and what it uses. Language
// run-times size their heaps and pools by it.
//
// It is read-only (EROFS): limits are the sandbox's business, set from outside.
// All is asked for at reading. Nothing is locked here.
//
// What it doesn't do: groups below this one, version 1 hierarchies, pressure, I/O.
package cgroup

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
)

// Options are what the group's limits come from.
type Options struct {
	// Account has the memory limit and what is used. It may be nil.
	Account *memfile.Account
	// Limits returns the others, as they are when it is called. It may be nil.
	Limits func() Limits
	// Container is whose tasks are in the group.
	Container *kernel.Container
}

// Limits are those that change while somebody reads.
type Limits struct {
	// Quota and Period are cpu.max in microseconds; Quota zero is no limit,
	// Period zero 100 ms.
	Quota, Period uint64
	// Weight is cpu.weight; zero means 100.
	Weight uint64
	// CPUs is cpuset.cpus, a list; empty for all.
	CPUs string
	// Tasks is pids.max; zero is no limit.
	Tasks uint64
}

// view is an instance. Constant.
type view struct {
	k    *kernel.Kernel
	ns   *kernel.PIDNamespace
	opts Options
}

// New returns an instance that shows the container's tasks under their numbers in ns.
func New(k *kernel.Kernel, ns *kernel.PIDNamespace, o Options) (*vfs.Filesystem, error) {
	fs := &vfs.Filesystem{Type: "cgroup2", Dev: vfs.NewDev(), Magic: unix.CGROUP2_SUPER_MAGIC, Policy: vfs.CacheAll, ReadOnly: true}
	if o.Limits == nil {
		o.Limits = func() Limits { return Limits{} }
	}
	v := &view{k, ns, o}
	build := pseudo.Builder{Dev: fs.Dev, Time: k.BootTime}
	root := build.Dir(0o555)
	for _, f := range []struct {
		name  string
		write func(b *bytes.Buffer)
	}{
		{"cgroup.controllers", text("cpuset cpu memory pids\n")},
		{"cgroup.subtree_control", text("")},
		{"cgroup.type", text("domain\n")},
		{"cgroup.events", func(b *bytes.Buffer) { fmt.Fprintf(b, "populated %d\nfrozen 0\n", min(1, v.count())) }},
		{"cgroup.stat", text("nr_descendants 0\nnr_dying_descendants 0\n")},
		{"cgroup.max.depth", text("0\n")},
		{"cgroup.max.descendants", text("0\n")},
		{"cgroup.procs", func(b *bytes.Buffer) { v.tasks(b, true) }},
		{"cgroup.threads", func(b *bytes.Buffer) { v.tasks(b, false) }},
		{"cpu.max", func(b *bytes.Buffer) {
			l := o.Limits()
			fmt.Fprintf(b, "%s %d\n", limit(l.Quota), cmp.Or(l.Period, 100_000))
		}},
		{"cpu.weight", func(b *bytes.Buffer) { fmt.Fprintf(b, "%d\n", cmp.Or(o.Limits().Weight, 100)) }},
		{"cpu.stat", v.cpuStat},
		{"cpuset.cpus", func(b *bytes.Buffer) {
			if c := o.Limits().CPUs; c != "" {
				b.WriteString(c + "\n")
			}
		}},
		{"cpuset.cpus.effective", func(b *bytes.Buffer) { b.WriteString(cmp.Or(o.Limits().CPUs, list(max(k.CPUs, 1))) + "\n") }},
		{"cpuset.mems", text("")},
		{"cpuset.mems.effective", text("0\n")},
		{"memory.current", v.memory((*memfile.Account).Usage)},
		{"memory.peak", v.memory((*memfile.Account).Peak)},
		{"memory.min", text("0\n")},
		{"memory.low", text("0\n")},
		{"memory.high", text("max\n")},
		{"memory.max", func(b *bytes.Buffer) {
			var n uint64
			if o.Account != nil {
				n = o.Account.Limit()
			}
			b.WriteString(limit(n) + "\n")
		}},
		{"memory.events", func(b *bytes.Buffer) {
			var n uint64
			if o.Account != nil {
				n = o.Account.Failures()
			}
			fmt.Fprintf(b, "low 0\nhigh 0\nmax %d\noom %d\noom_kill %d\n", n, n, n)
		}},
		{"memory.stat", func(b *bytes.Buffer) {
			var n uint64
			if o.Account != nil {
				n = o.Account.Usage()
			}
			fmt.Fprintf(b, "anon %d\nfile 0\nshmem 0\ninactive_anon 0\nactive_anon %d\ninactive_file 0\nactive_file 0\n", n, n)
		}},
		{"memory.swap.current", text("0\n")},
		{"memory.swap.max", text("0\n")},
		{"pids.current", func(b *bytes.Buffer) { fmt.Fprintf(b, "%d\n", v.count()) }},
		{"pids.max", func(b *bytes.Buffer) { b.WriteString(limit(o.Limits().Tasks) + "\n") }},
	} {
		build.PutFile(root, f.name, 0o444, pseudo.Whole(func(_ vfs.Context, b *bytes.Buffer) error {
			f.write(b)
			return nil
		}))
	}
	fs.SetRoot(root)
	return fs, nil
}

func text(s string) func(*bytes.Buffer) { return func(b *bytes.Buffer) { b.WriteString(s) } }

// limit is a limit as all files print it; zero is none.
func limit(n uint64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatUint(n, 10)
}

func list(n int) string {
	if n == 1 {
		return "0"
	}
	return fmt.Sprintf("0-%d", n-1)
}

// count returns how many tasks are in the group.
func (v *view) count() int {
	n, _ := v.opts.Container.Count(v.k)
	return n
}

// tasks lists processes or threads by number, as the instance's namespace has
// them; those that it doesn't know are left out.
func (v *view) tasks(b *bytes.Buffer, processes bool) {
	var ids []int32
	for _, t := range v.ns.Tasks() {
		if v.opts.Container.Has(t) && (!processes || t == t.ThreadGroup().Leader()) {
			ids = append(ids, t.TID(v.ns))
		}
	}
	slices.SortFunc(ids, cmp.Compare)
	for _, id := range ids {
		fmt.Fprintf(b, "%d\n", id)
	}
}

// cpuStat counts what the container's tasks have used, those that are gone
// included: it never goes back.
func (v *view) cpuStat(b *bytes.Buffer) {
	u := v.opts.Container.Usage(v.k)
	const micro = 1000
	fmt.Fprintf(b, "usage_usec %d\nuser_usec %d\nsystem_usec %d\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
		(u.User+u.System)/micro, u.User/micro, u.System/micro)
}

func (v *view) memory(of func(*memfile.Account) uint64) func(*bytes.Buffer) {
	return func(b *bytes.Buffer) {
		var n uint64
		if v.opts.Account != nil {
			n = of(v.opts.Account)
		}
		fmt.Fprintf(b, "%d\n", n)
	}
}
