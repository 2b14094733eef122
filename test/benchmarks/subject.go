package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"vitrine/images"
)

// subject is what a row is measured on: a runtime, or the host itself if there
// is none.
type subject struct {
	name    string
	runtime string   // path of a program that takes runsc's commands
	flags   []string // of the runtime, before the command
}

// bench has what all rows need.
type bench struct {
	dir   string // scratch, on a disk
	tmpfs string // scratch, in memory
	root  string // the image's tree
	image string
	ids   atomic.Int64
	perf  int // the process that profiles, which is no subject's, or 0
}

// exitUnavailable is ops's status when the image lacks what an operation needs.
const exitUnavailable = 3

// Where a container finds the scratch directories and the program ops.
const (
	insideOps   = "/srv"
	insideDir   = "/var/tmp"
	insideTmpfs = "/mnt"
)

// opsCommand is the command that runs the program ops on a subject. Call done
// when it has ended.
func (b *bench) opsCommand(s subject, args ...string) (cmd *exec.Cmd, done func(), err error) {
	if s.runtime == "" {
		args = append([]string{"-r", b.root, "-d", b.dir, "-t", b.tmpfs}, args...)
		return exec.Command(filepath.Join(b.dir, "bin/ops"), args...), func() {}, nil
	}
	c, err := b.container(s, append([]string{insideOps + "/ops", "-d", insideDir, "-t", insideTmpfs}, args...)...)
	if err != nil {
		return nil, nil, err
	}
	return c.run(), c.remove, nil
}

// ops runs the program ops once and returns what it printed.
func (b *bench) ops(s subject, pin bool, args []string) (float64, error) {
	cmd, done, err := b.opsCommand(s, args...)
	if err != nil {
		return 0, err
	}
	defer done()
	if pin {
		cpu, err := firstCPU()
		if err != nil {
			return 0, err
		}
		cmd.Args = append([]string{"taskset", "-c", strconv.Itoa(cpu), cmd.Path}, cmd.Args[1:]...)
		path, err := exec.LookPath("taskset")
		if err != nil {
			return 0, err
		}
		cmd.Path = path
	}
	out, err := output(cmd)
	if err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitUnavailable {
			err = unavailable{err}
		}
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(out), 64)
}

// timeout is for one run of anything.
const timeout = 60 * time.Second

// output runs a command and returns what it printed; an error tells what it
// said.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Output may be held open by what a killed command leaves behind.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	late := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		err = fmt.Errorf("it took more than %v", timeout)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// container is one to run.
type container struct {
	s      subject
	id     string
	bundle string
	state  string
}

// container prepares one.
func (b *bench) container(s subject, argv ...string) (*container, error) {
	id := fmt.Sprintf("bench-%d-%d", os.Getpid(), b.ids.Add(1))
	c := &container{s: s, id: id, bundle: filepath.Join(b.dir, id), state: filepath.Join(b.dir, "state")}
	spec := images.Spec(b.root, argv...)
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: insideOps, Type: "bind", Source: filepath.Join(b.dir, "bin"), Options: []string{"bind", "ro"}},
		specs.Mount{Destination: insideTmpfs, Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1g"}})
	return c, images.WriteBundle(c.bundle, spec)
}

func (c *container) command(args ...string) *exec.Cmd {
	return exec.Command(c.s.runtime, append(append([]string{"--root", c.state}, c.s.flags...), args...)...)
}

// run is the command that runs the container to its end, and deletes it.
func (c *container) run() *exec.Cmd { return c.command("run", "--bundle", c.bundle, c.id) }

func (c *container) remove() {
	c.command("delete", "--force", c.id).Run()
	os.RemoveAll(c.bundle)
}

// startUp is the time of running /bin/true in a new container.
func (b *bench) startUp(s subject) (float64, error) {
	wall, _, err := b.startUps(s)
	return wall, err
}

// startUpCPU is the processor time of that.
func (b *bench) startUpCPU(s subject) (float64, error) {
	_, cpu, err := b.startUps(s)
	return cpu, err
}

// startUps measures some in a row: the 10th percentile, in nanoseconds.
func (b *bench) startUps(s subject) (wall, cpu float64, err error) {
	const times = 11
	var walls, cpus []float64
	for range times {
		w, c, err := b.startOnce(s)
		if err != nil {
			return 0, 0, err
		}
		walls, cpus = append(walls, w), append(cpus, c)
	}
	return percentile(walls, 10), percentile(cpus, 10), nil
}

func (b *bench) startOnce(s subject) (wall, cpu float64, err error) {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: b.root}
	cmd.Dir = "/"
	if s.runtime != "" {
		c, err := b.container(s, "/bin/true")
		if err != nil {
			return 0, 0, err
		}
		defer os.RemoveAll(c.bundle)
		cmd = c.run()
	}
	before, err := cpuUsed()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if _, err := output(cmd); err != nil {
		return 0, 0, err
	}
	wall = float64(time.Since(start))
	if err := b.reap(); err != nil {
		return 0, 0, err
	}
	after, err := cpuUsed()
	return wall, after - before, err
}

// cpuUsed is the processor time of this process and of all that it has waited
// for, in nanoseconds.
func cpuUsed() (float64, error) {
	var sum int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var ru unix.Rusage
		if err := unix.Getrusage(who, &ru); err != nil {
			return 0, err
		}
		sum += ru.Utime.Nano() + ru.Stime.Nano()
	}
	return float64(sum), nil
}

// reap waits for all processes that ended up below this one. Call it when none
// should be left.
func (b *bench) reap() error {
	for {
		children, err := b.below(false)
		if err != nil || len(children) == 0 {
			return err
		}
		for _, pid := range children {
			if _, err := unix.Wait4(pid, nil, 0, nil); err != nil && err != unix.EINTR && err != unix.ECHILD {
				return err
			}
		}
	}
}

// idle calls f with the processes of a sandbox in which sleep runs.
func (b *bench) idle(s subject, f func(pids []int) (float64, error)) (float64, error) {
	c, err := b.container(s, "/bin/sh", "-c", "echo ready; exec sleep 1000")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(c.bundle)
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	var stderr bytes.Buffer
	cmd := c.run()
	cmd.Stdout, cmd.Stderr = w, &stderr
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	defer func() {
		c.command("kill", c.id, "KILL").Run()
		late := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
		cmd.Wait()
		late.Stop()
		c.remove()
		b.reap()
	}()
	r.SetReadDeadline(time.Now().Add(timeout))
	if n, err := r.Read(make([]byte, 10)); n == 0 {
		return 0, fmt.Errorf("no sign of the container: %w: %s", err, stderr.String())
	}
	// sleep must get to its sleep: what is measured is the state that lasts.
	time.Sleep(2 * time.Second)
	pids, err := b.below(true)
	if err != nil {
		return 0, err
	}
	if len(pids) == 0 {
		return 0, fmt.Errorf("the sandbox has ended: %s", stderr.String())
	}
	return f(pids)
}

// idleMemory is the memory of all processes: what they share counts once.
func (b *bench) idleMemory(s subject) (float64, error) {
	return b.idle(s, func(pids []int) (float64, error) {
		sum := 0.0
		for _, pid := range pids {
			kb, err := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
			if err != nil {
				return 0, err
			}
			sum += kb * 1024
		}
		return sum, nil
	})
}

// idleWakeups is how often per second any thread of them starts to run.
func (b *bench) idleWakeups(s subject) (float64, error) {
	const span = 5 * time.Second
	return b.idle(s, func(pids []int) (float64, error) {
		before, err := switches(pids)
		if err != nil {
			return 0, err
		}
		time.Sleep(span)
		after, err := switches(pids)
		return (after - before) / span.Seconds(), err
	})
}

// switches is how often the threads of processes have given up the processor.
func switches(pids []int) (float64, error) {
	sum := 0.0
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return 0, err
		}
		for _, t := range threads {
			for _, name := range []string{"voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"} {
				n, err := field(t, name)
				if err != nil {
					return 0, err
				}
				sum += n
			}
		}
	}
	return sum, nil
}

// field returns the number after a name at the start of a line.
func field(file, name string) (float64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}

// below returns the children of this process or, if all, those of theirs too,
// but for those that are being started: a runtime leaves some behind that are
// no more its children, but this process is the reaper of what is below it. A
// profile's are left out.
func (b *bench) below(all bool) ([]int, error) {
	parents := map[int]int{}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, s := range stats {
		text, err := os.ReadFile(s)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything.
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		if err != nil || len(f) < 2 {
			continue
		}
		if parents[pid], err = strconv.Atoi(f[1]); err != nil {
			return nil, err
		}
	}
	self := os.Getpid()
	var below []int
	for pid := range parents {
		for p := pid; p > 1 && p != b.perf; p = parents[p] {
			if parents[p] == self {
				if all || p == pid {
					below = append(below, pid)
				}
				break
			}
		}
	}
	return below, nil
}
