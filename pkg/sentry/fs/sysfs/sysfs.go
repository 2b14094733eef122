// Package sysfs is /sys (sysfs(5)), as far as programs ask it for something: how
// many processors there are and how they hang together, the one NUMA node, that
// there are no huge pages, and the places where other file systems are mounted.
//
// All of it is made by New and never changes, but for the node's memory, which
// is asked for at each reading. Inodes stay the same, so that mounts on them hold.
// Nothing can be written (EACCES at opening, EPERM for names).
//
// What it doesn't do: devices, network interfaces, caches of processors, modules.
// The directories are there, and empty.
package sysfs

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

const (
	rootIno = 1
	// maxCPUs is how many processors the kernel could have (NR_CPUS).
	maxCPUs = 8192
)

// Options say what an instance shows beyond what the kernel knows.
type Options struct {
	// Memory is how many bytes the machine has, and how many of them are free;
	// nil leaves the node's meminfo out.
	Memory func() (total, free uint64)
}

// New returns an instance.
func New(k *kernel.Kernel, o Options) (*vfs.Filesystem, error) {
	fs := &vfs.Filesystem{Type: "sysfs", Dev: vfs.NewDev(), Magic: unix.SYSFS_MAGIC, Policy: vfs.CacheAll}
	t := &tree{build: pseudo.Builder{Dev: fs.Dev, Time: k.BootTime, LastIno: rootIno - 1}, cpus: max(k.CPUs, 1)}
	t.root = t.build.Dir(0o555)
	for _, dir := range []string{"block", "bus", "class/net", "class/block", "class/mem", "class/misc", "class/tty", "dev/block", "dev/char",
		"devices/virtual", "firmware", "fs/cgroup", "fs/fuse/connections", "hypervisor", "kernel/debug", "kernel/security", "kernel/mm",
		"module", "power"} {
		t.build.MkdirAll(t.root, dir, 0o555)
	}
	t.processors()
	t.node(o)
	t.text("kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
	t.text("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise madvise [never]")
	t.text("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force")
	t.text("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152")
	t.text("kernel/mm/transparent_hugepage/use_zero_page", "0")
	fs.SetRoot(t.root)
	return fs, nil
}

// tree is an instance being made.
type tree struct {
	build pseudo.Builder
	root  *pseudo.Dir
	cpus  int
}

// file makes a file of a page's size that can only be read.
func (t *tree) file(path string, gen pseudo.Generator) {
	f := t.build.PutFile(t.root, path, 0o444, gen)
	f.Size, f.Check = pseudo.PartSize, pseudo.ReadOnly
}

func (t *tree) text(path, value string) { t.file(path, pseudo.Text(value+"\n")) }

// list is the numbers 0 to n-1 as %*pbl prints them.
func list(n int) string {
	if n == 1 {
		return "0"
	}
	return fmt.Sprintf("0-%d", n-1)
}

// mask is a mask of width bits as %*pb prints it, with the bits from first on set,
// n of them.
func mask(first, n, width int) string {
	words := make([]uint32, (width+31)/32)
	for i := first; i < first+n; i++ {
		words[i/32] |= 1 << (i % 32)
	}
	var b strings.Builder
	for i := len(words) - 1; i >= 0; i-- {
		digits := 8
		if i == len(words)-1 {
			digits = (width - 32*i + 3) / 4
		} else {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%0*x", digits, words[i])
	}
	return b.String()
}

// processors describes one package whose cores have one thread each, as
// /proc/cpuinfo does.
func (t *tree) processors() {
	const cpu = "devices/system/cpu/"
	t.text(cpu+"online", list(t.cpus))
	t.text(cpu+"possible", list(t.cpus))
	t.text(cpu+"present", list(t.cpus))
	t.text(cpu+"offline", "")
	t.text(cpu+"isolated", "")
	t.text(cpu+"kernel_max", fmt.Sprint(maxCPUs-1))
	for i := range t.cpus {
		topology := fmt.Sprintf("%scpu%d/topology/", cpu, i)
		self, all := mask(i, 1, t.cpus), mask(0, t.cpus, t.cpus)
		t.text(topology+"core_id", fmt.Sprint(i))
		t.text(topology+"physical_package_id", "0")
		t.text(topology+"thread_siblings", self)
		t.text(topology+"thread_siblings_list", fmt.Sprint(i))
		t.text(topology+"core_cpus", self)
		t.text(topology+"core_cpus_list", fmt.Sprint(i))
		t.text(topology+"core_siblings", all)
		t.text(topology+"core_siblings_list", list(t.cpus))
		t.text(topology+"package_cpus", all)
		t.text(topology+"package_cpus_list", list(t.cpus))
	}
}

// node describes the only NUMA node.
func (t *tree) node(o Options) {
	const node = "devices/system/node/"
	for _, name := range []string{"online", "possible", "has_cpu", "has_memory", "has_normal_memory"} {
		t.text(node+name, "0")
	}
	t.text(node+"node0/cpulist", list(t.cpus))
	t.text(node+"node0/cpumap", mask(0, t.cpus, t.cpus))
	t.text(node+"node0/distance", "10")
	if o.Memory == nil {
		return
	}
	t.file(node+"node0/meminfo", pseudo.Whole(func(_ vfs.Context, b *bytes.Buffer) error {
		total, free := o.Memory()
		free = min(free, total)
		for _, l := range []struct {
			name  string
			bytes uint64
		}{{"MemTotal", total}, {"MemFree", free}, {"MemUsed", total - free}} {
			fmt.Fprintf(b, "Node 0 %-15s %8d kB\n", l.name+":", l.bytes>>10)
		}
		return nil
	}))
}
