package container

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/runsc/spec"
)

// A cgroup is the directories of one container in the host's hierarchies, by
// controller for version 1 and "" for version 2 (cgroups(7)).
type cgroup struct {
	mounts, dirs map[string]string
	// made are the directories that did not exist, parents first.
	made []string
}

// cgroupMounts finds where the hierarchies are mounted, by controller.
func cgroupMounts() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return cgroupMountsOf(string(b)), nil
}

// cgroupMountsOf finds them in a mountinfo (proc_pid_mountinfo(5)). Of several mounts
// of one hierarchy the first is the host's; the others are in somebody's root
// directory, and may go before a container does.
func cgroupMountsOf(mountinfo string) map[string]string {
	mounts := map[string]string{}
	found := func(controller, dir string) {
		if _, earlier := mounts[controller]; !earlier {
			mounts[controller] = dir
		}
	}
	for _, line := range strings.Split(mountinfo, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 {
			continue
		}
		switch g[0] {
		case "cgroup2":
			found("", f[4])
		case "cgroup":
			for _, o := range strings.Split(g[2], ",") {
				switch o {
				case "memory", "cpu", "cpuacct", "cpuset", "pids", "blkio", "freezer", "devices":
					found(o, f[4])
				}
			}
		}
	}
	return mounts
}

// planCgroup finds the directories for a path of the spec's cgroupsPath, in version 2
// alone or in all hierarchies of version 1. None is made yet.
func planCgroup(path string) (*cgroup, error) {
	if strings.Count(path, ":") == 2 {
		return nil, fmt.Errorf("linux.cgroupsPath %q is one for systemd, which is not supported", path)
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	if len(mounts) == 0 {
		return nil, errors.New("cgroups: no hierarchy is mounted")
	}
	if len(mounts) > 1 {
		delete(mounts, "") // an empty version 2 beside version 1
	}
	g := &cgroup{mounts: mounts, dirs: map[string]string{}}
	for controller, mount := range mounts {
		g.dirs[controller] = filepath.Join(mount, filepath.Clean("/"+path))
	}
	return g, nil
}

// missing are the directories that make would make, but for parents.
func (g *cgroup) missing() []string {
	var dirs []string
	for _, dir := range g.dirs {
		if !exists(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// make makes the directories.
func (g *cgroup) make() error {
	for controller, mount := range g.mounts {
		if err := g.mkdir(controller, mount, g.dirs[controller]); err != nil {
			g.remove()
			return fmt.Errorf("cgroups: %w", err)
		}
	}
	return nil
}

func (g *cgroup) mkdir(controller, mount, dir string) error {
	if dir == mount {
		return nil
	}
	if err := g.mkdir(controller, mount, filepath.Dir(dir)); err != nil {
		return err
	}
	if controller == "" {
		// What can't be passed down is found out when a limit is set.
		for _, c := range []string{"+memory", "+cpu", "+cpuset", "+pids"} {
			os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), []byte(c), 0)
		}
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	} else if err == nil {
		g.made = append(g.made, dir)
	}
	if err == nil && controller == "cpuset" {
		// A new one is empty, and takes no process before it is filled.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			file := filepath.Join(dir, name)
			if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == "" {
				if b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name)); err == nil {
					os.WriteFile(file, b, 0)
				}
			}
		}
	}
	return err
}

// owned are the directories to remove with the container: those that were made,
// but for parents that it shares with others.
func (g *cgroup) owned() []string {
	var dirs []string
	for _, made := range g.made {
		for _, dir := range g.dirs {
			if dir == made {
				dirs = append(dirs, dir)
				break
			}
		}
	}
	return dirs
}

func (g *cgroup) remove() {
	for i := len(g.made) - 1; i >= 0; i-- {
		unix.Rmdir(g.made[i])
	}
}

// enter moves the calling thread into the cgroup, and so what it starts. The
// thread is to end afterwards. A version 2 hierarchy moves whole processes:
// there enter is for the child, and returns a directory to start it in.
func (g *cgroup) enter() (startIn *os.File, err error) {
	for controller, dir := range g.dirs {
		if controller == "" {
			return os.Open(dir)
		}
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return nil, fmt.Errorf("cgroups: %w", err)
		}
	}
	return nil, nil
}

// pids.max has room for the sentry's and the gofer's own threads, and for those
// that a task of the application takes: one of the sentry's or two where it waits
// for the gofer, one of a stub, and the stub's process. The Go runtime of a sentry
// that gets no thread ends it.
const (
	headroomPids = 256
	pidsPerTask  = 6
)

// withHeadroom is the host's memory limit for an application's: the sentry
// enforces the application's, which ends a task; the host's is against a sentry
// that doesn't, and would end all. The sentry itself takes some, and so do page
// tables of stubs and page cache of the files that it reads.
func withHeadroom(limit int64) int64 {
	if limit <= 0 || limit > math.MaxInt64/2 {
		return limit
	}
	return limit + limit/16 + 128<<20
}

// Files that hold limits of swap: of memory and swap together in version 1, if the
// host counts it, and of swap alone in version 2.
const (
	swapFile1 = "memory.memsw.limit_in_bytes"
	swapFile2 = "memory.swap.max"
)

// applySwap limits memory and swap together, given the limit of memory.
func (g *cgroup) applySwap(limit int64, swap *int64) error {
	if swap == nil || *swap == 0 {
		return nil
	}
	file, value := "", ""
	if dir := g.dirs["memory"]; dir != "" {
		file, value = filepath.Join(dir, swapFile1), strconv.FormatInt(withHeadroom(*swap), 10)
	} else if dir := g.dirs[""]; dir != "" {
		file, value = filepath.Join(dir, swapFile2), strconv.FormatInt(*swap-limit, 10)
		if *swap < 0 {
			value = "max"
		}
	}
	if file == "" || !exists(file) {
		if *swap < 0 || !hostSwaps() {
			return nil // there is nothing to hold
		}
		return errors.New("linux.resources.memory.swap: the host's cgroups don't count swap")
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("linux.resources.memory.swap: %w", err)
	}
	return nil
}

// hostSwaps reports whether the host has swap (proc(5), /proc/swaps).
func hostSwaps() bool {
	b, err := os.ReadFile("/proc/swaps")
	return err != nil || strings.Count(string(b), "\n") > 1
}

// applyQuota sets the quota of processor time and its period; each stays as it is
// where it isn't given. Version 2 of cgroups has both in one file (cpu.max).
func (g *cgroup) applyQuota(c *specs.LinuxCPU) error {
	period, quota := "", ""
	if c.Period != nil && *c.Period != 0 {
		period = strconv.FormatUint(*c.Period, 10)
	}
	if c.Quota != nil && *c.Quota != 0 {
		quota = strconv.FormatInt(*c.Quota, 10)
	}
	write := func(field, dir, file, value string) error {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			return fmt.Errorf("linux.resources.%s: %w", field, err)
		}
		return nil
	}
	if period == "" && quota == "" {
		return nil
	}
	if dir, ok := g.dirs["cpu"]; ok {
		if period != "" {
			if err := write("cpu.period", dir, "cpu.cfs_period_us", period); err != nil {
				return err
			}
		}
		if quota != "" {
			return write("cpu.quota", dir, "cpu.cfs_quota_us", quota)
		}
		return nil
	}
	dir, ok := g.dirs[""]
	if !ok {
		return errors.New("linux.resources.cpu.quota: the host has no cgroup for it")
	}
	b, err := os.ReadFile(filepath.Join(dir, "cpu.max"))
	if err != nil {
		return fmt.Errorf("linux.resources.cpu.quota: %w", err)
	}
	now := strings.Fields(string(b))
	if len(now) != 2 {
		return fmt.Errorf("linux.resources.cpu.quota: cpu.max of the host is %q", b)
	}
	switch {
	case quota == "":
		quota = now[0]
	case *c.Quota < 0:
		quota = "max"
	}
	if period == "" {
		period = now[1]
	}
	return write("cpu.quota", dir, "cpu.max", quota+" "+period)
}

// apply sets limits. What an engine asks for and the host doesn't have is an
// error that names the field; negative values lift limits.
func (g *cgroup) apply(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	set := func(field, controller, file1, file2, value1, value2 string) error {
		dir, ok := g.dirs[controller]
		file, value := file1, value1
		if !ok {
			dir, ok = g.dirs[""]
			file, value = file2, value2
		}
		if !ok || file == "" {
			return fmt.Errorf("linux.resources.%s: the host has no cgroup for it", field)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			return fmt.Errorf("linux.resources.%s: %w", field, err)
		}
		return nil
	}
	number := func(v int64) string { return strconv.FormatInt(v, 10) }
	orMax := func(v int64) string {
		if v < 0 {
			return "max"
		}
		return number(v)
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && *m.Limit != 0 {
			memory := func() error {
				return set("memory.limit", "memory", "memory.limit_in_bytes", "memory.max", number(withHeadroom(*m.Limit)), orMax(withHeadroom(*m.Limit)))
			}
			swap := func() error { return g.applySwap(*m.Limit, m.Swap) }
			// Neither may pass the other on the way: the second order is for
			// raising both.
			if err := memory(); err != nil {
				if swap() != nil {
					return err
				}
				if err := memory(); err != nil {
					return err
				}
			} else if err := swap(); err != nil {
				return err
			}
		}
		if m.Reservation != nil && *m.Reservation != 0 {
			if err := set("memory.reservation", "memory", "memory.soft_limit_in_bytes", "memory.low", number(*m.Reservation), number(max(*m.Reservation, 0))); err != nil {
				return err
			}
		}
	}
	if c := r.CPU; c != nil {
		if c.Shares != nil && *c.Shares != 0 {
			// The map of cpu.shares' range to cpu.weight's.
			weight := 1 + (min(max(*c.Shares, 2), 262144)-2)*9999/262142
			if err := set("cpu.shares", "cpu", "cpu.shares", "cpu.weight", strconv.FormatUint(*c.Shares, 10), strconv.FormatUint(weight, 10)); err != nil {
				return err
			}
		}
		if err := g.applyQuota(c); err != nil {
			return err
		}
		if c.Cpus != "" {
			if err := set("cpu.cpus", "cpuset", "cpuset.cpus", "cpuset.cpus", c.Cpus, c.Cpus); err != nil {
				return err
			}
		}
		if c.Mems != "" {
			if err := set("cpu.mems", "cpuset", "cpuset.mems", "cpuset.mems", c.Mems, c.Mems); err != nil {
				return err
			}
		}
	}
	if r.Pids != nil && r.Pids.Limit != 0 {
		// The sentry enforces the application's limit; this is against a
		// sentry that doesn't.
		value := "max"
		if r.Pids.Limit > 0 {
			value = number(pidsPerTask*min(r.Pids.Limit, 1<<22) + headroomPids)
		}
		if err := set("pids.limit", "pids", "pids.max", "pids.max", value, value); err != nil {
			return err
		}
	}
	for file, value := range r.Unified {
		dir, ok := g.dirs[""]
		if !ok || strings.Contains(file, "/") {
			return fmt.Errorf("linux.resources.unified %q: the host has no cgroup version 2 for it", file)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			return fmt.Errorf("linux.resources.unified %q: %w", file, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// limitsAsked says whether resources have a limit that a cgroup must hold.
func limitsAsked(r *specs.LinuxResources) bool {
	if r == nil {
		return false
	}
	return r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 ||
		r.CPU != nil && (r.CPU.Quota != nil && *r.CPU.Quota > 0 || r.CPU.Cpus != "") ||
		r.Pids != nil && r.Pids.Limit > 0 || len(r.Unified) > 0
}

// Update sets new limits for a container: in its cgroup, if it has one, and in the
// sentry. What r doesn't speak of stays.
func (s *Store) Update(id string, r *specs.LinuxResources) error {
	e, c, err := s.lockAndLoad(id)
	if err != nil {
		return err
	}
	defer e.unlock()
	client, err := c.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if len(c.State.Cgroups) > 0 {
		if err := c.updateCgroup(r); err != nil {
			return err
		}
	} else if limitsAsked(r) && c.State.Sandbox == c.State.ID && r.CPU != nil && (r.CPU.Quota != nil || r.CPU.Cpus != "") {
		return fmt.Errorf("container %q has no cgroup, which limits of processor time need", id)
	}
	spec.Limits(&c.State.Limits, r)
	if err := client.Update(id, &c.State.Limits); err != nil {
		return fmt.Errorf("limits of container %q: %w", id, err)
	}
	return e.save(&c.State)
}

// updateCgroup sets new limits in the container's cgroups.
func (c *Container) updateCgroup(r *specs.LinuxResources) error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	if len(mounts) > 1 {
		delete(mounts, "")
	}
	g := &cgroup{dirs: map[string]string{}}
	for controller, mount := range mounts {
		for _, dir := range c.State.Cgroups {
			if strings.HasPrefix(dir, mount+"/") {
				g.dirs[controller] = dir
			}
		}
	}
	return g.apply(r)
}

// removeCgroups removes directories and those below them, which only the sandbox
// can have made. Processes that end just now are waited for.
func removeCgroups(dirs []string) error {
	deadline := time.Now().Add(patience)
	for _, dir := range dirs {
		if err := removeCgroup(dir, deadline); err != nil {
			return err
		}
	}
	return nil
}

func removeCgroup(dir string, deadline time.Time) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		for _, e := range entries {
			if e.IsDir() {
				if err := removeCgroup(filepath.Join(dir, e.Name()), deadline); err != nil {
					return err
				}
			}
		}
	}
	for try := 0; ; try++ {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY {
			return fmt.Errorf("removing its cgroup %s: %w", dir, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("its cgroup %s is not empty after %v: %s; delete it again when that is", dir, patience, strings.Join(membersOf(dir), ", "))
		}
		if try > 0 {
			waitForMembers(dir)
		}
	}
}

// membersOf names the processes in a cgroup.
func membersOf(dir string) []string {
	b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	all := strings.Fields(string(b))
	for i, pid := range all {
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		all[i] = fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
	}
	return all
}

// waitForMembers waits a moment for the processes that are in a cgroup now to end.
// They were killed, or end because their sentry was.
func waitForMembers(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, f := range strings.Fields(string(b)) {
		pid, _ := strconv.Atoi(f)
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
			unix.Close(fd)
		}
	}
	// The cgroup is left a little after the end shows (RCU).
	unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
}
