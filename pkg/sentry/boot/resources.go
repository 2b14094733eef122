package boot

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"vitrine/pkg/control"
	"vitrine/pkg/sentry/fs/cgroup"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/pids"
)

// Update implements control.Sandbox.
func (s *Sandbox) Update(id string, r *control.Resources) error {
	c, err := s.container(id)
	if err != nil {
		return err
	}
	return c.setResources(r)
}

// defaultPeriod is that of a quota, in microseconds, where none is given.
const defaultPeriod = 100000

// setResources puts limits in place. The host's cgroup holds the processor time of
// the sandbox as a whole, which is the first container's limit; that of others is
// held here.
func (c *container) setResources(r *control.Resources) error {
	k := c.s.k
	if _, err := countCPUs(r.Cpus); err != nil {
		return failf(control.KindInvalid, "linux.resources.cpu.cpus %q is no list of processors", r.Cpus)
	}
	c.account.SetLimit(uint64(max(r.MemoryLimit, 0)))
	c.boundHeap()
	c.kc.SetLimit(k, int(min(max(r.PidsLimit, 0), pids.Max)))
	limits := *r
	if !c.isRoot() {
		c.kc.SetQuota(k, r.CPUQuota*1000, int64(cmp.Or(r.CPUPeriod, defaultPeriod))*1000)
	}
	before := c.affinity()
	c.resources.Store(&limits)
	now := c.affinity()
	if now == before || c.ns == nil {
		return nil
	}
	for _, tg := range c.groups() {
		for _, t := range tg.Tasks() {
			t.SetScheduling(func(s *kernel.Scheduling) { s.Affinity = now })
		}
	}
	return nil
}

// isRoot reports whether it is the sandbox's first container.
func (c *container) isRoot() bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.root == c.id
}

// affinity is where tasks may run at first; zero for anywhere.
func (c *container) affinity() uint64 {
	r := c.resources.Load()
	if r == nil {
		return 0
	}
	n, _ := countCPUs(r.Cpus)
	if n > 0 && n < min(max(c.s.k.CPUs, 1), 64) {
		return 1<<n - 1
	}
	return 0
}

// limits are what the container's view of its cgroup shows.
func (c *container) limits() cgroup.Limits {
	r := c.resources.Load()
	l := cgroup.Limits{Quota: uint64(max(r.CPUQuota, 0)), Period: r.CPUPeriod, Tasks: uint64(max(r.PidsLimit, 0))}
	if r.CPUShares != 0 {
		// As runc and systemd convert shares of version 1: 2..262144 to 1..10000.
		shares := min(max(r.CPUShares, 2), 262144)
		l.Weight = 1 + (shares-2)*9999/262142
	}
	if n, _ := countCPUs(r.Cpus); n > 0 {
		// The sandbox numbers its processors from 0.
		n = min(n, max(c.s.k.CPUs, 1))
		l.CPUs = "0"
		if n > 1 {
			l.CPUs = fmt.Sprintf("0-%d", n-1)
		}
	}
	return l
}

// countCPUs returns how many processors a list like "0-2,7" has (cpuset(7)); none
// for the empty list.
func countCPUs(list string) (n int, err error) {
	const most = 1 << 13 // CPU_SETSIZE of any host, and more
	seen := map[uint64]bool{}
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		if part == "" {
			continue
		}
		first, last, _ := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return 0, err
		}
		to, err := strconv.ParseUint(cmp.Or(last, first), 10, 16)
		if err != nil || to < from || to >= most {
			return 0, strconv.ErrRange
		}
		for ; from <= to; from++ {
			seen[from] = true
		}
	}
	return len(seen), nil
}
