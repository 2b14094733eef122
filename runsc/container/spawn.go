package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"vitrine/runsc/config"
)

// nobody is the host id that a sentry started by root is.
const nobody = 65534

// program finds one of the two other programs: as the flag says, beside runsc,
// in ../libexec/vitrine, or where Bazel has built it.
func program(name, flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("finding the %s program: %w", name, err)
	}
	dir := filepath.Dir(self)
	candidates := []string{filepath.Join(dir, name), filepath.Join(dir, "../libexec/vitrine", name)}
	built := filepath.Join(dir, "..", name, name+"_", name)
	for _, c := range append(candidates, built) {
		if unix.Access(c, unix.X_OK) == nil {
			return c, nil
		}
	}
	return "", fmt.Errorf("the %s program is not there: looked for %s", name, strings.Join(candidates, " and "))
}

// child is a process to start. Its descriptors 0, 1, 2 are the first files.
type child struct {
	path  string
	args  []string
	env   []string
	files []*os.File
	sys   syscall.SysProcAttr
}

// fd adds f and returns its number in the child.
func (c *child) fd(f *os.File) int {
	c.files = append(c.files, f)
	return len(c.files) - 1
}

// flag adds a flag whose value is f's number in the child.
func (c *child) flag(name string, f *os.File) {
	c.args = append(c.args, fmt.Sprintf("--%s=%d", name, c.fd(f)))
}

// childEnv is for the Go runtime of a child: it must not follow the limits of
// cgroups by files that it opens before the jail closes them, and need not name
// its mappings.
var childEnv = []string{"GODEBUG=containermaxprocs=0,updatemaxprocs=0,decoratemappings=0"}

// start starts the child with no other environment. The program is opened
// first and executed by descriptor, because as nobody it might not find the
// way there.
func (c *child) start() (*os.Process, error) {
	exe, err := unix.Open(c.path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	defer unix.Close(exe)
	// The descriptors of the child are moved into place before exec: this one
	// must not be where one of them goes on its way.
	highest := 0
	for _, f := range c.files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		raw.Control(func(fd uintptr) { highest = max(highest, int(fd)) })
	}
	high, err := unix.FcntlInt(uintptr(exe), unix.F_DUPFD_CLOEXEC, highest+2*len(c.files)+16)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.path, err)
	}
	defer unix.Close(high)
	p, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", high), append([]string{c.path}, c.args...),
		&os.ProcAttr{Env: append(childEnv[:len(childEnv):len(childEnv)], c.env...), Files: c.files, Sys: &c.sys, Dir: "/"})
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return nil, fmt.Errorf("starting %s: %w%s", c.path, err, hint(err))
	}
	return p, nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return " (are user namespaces limited by /proc/sys/user?)"
	case errors.Is(err, unix.EPERM):
		return " (it needs clone(2) with namespaces of its own, which a seccomp profile such as Docker's default, or the host's settings of user namespaces, forbid)"
	}
	return ""
}

// newUserNamespace makes the child root of a new user namespace: nobody outside, or who
// the caller is if that isn't root, or is root of a user namespace without a nobody.
func (c *child) newUserNamespace() {
	c.sys.Cloneflags |= unix.CLONE_NEWUSER
	uid, gid := os.Geteuid(), os.Getegid()
	c.sys.Credential = &syscall.Credential{NoSetGroups: true}
	if uid == 0 && mapped("/proc/self/uid_map", nobody) && mapped("/proc/self/gid_map", nobody) {
		uid, gid = nobody, nobody
		c.sys.GidMappingsEnableSetgroups = true
		c.sys.Credential.NoSetGroups = false
	}
	c.sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	c.sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
}

// mapped reports whether the caller's user namespace has an id
// (user_namespaces(7), "User and group ID mappings").
func mapped(file string, id int) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return true // what follows says what is wrong
	}
	for line := range strings.Lines(string(b)) {
		var inside, outside, length int
		if n, _ := fmt.Sscan(line, &inside, &outside, &length); n == 3 && id >= inside && id-inside < length {
			return true
		}
	}
	return false
}

// identityMap is a map of all ids that the caller's user namespace has to themselves.
func identityMap(file string) ([]syscall.SysProcIDMap, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []syscall.SysProcIDMap
	for line := range strings.Lines(string(b)) {
		var inside, outside, length int
		if n, _ := fmt.Sscan(line, &inside, &outside, &length); n == 3 {
			all = append(all, syscall.SysProcIDMap{ContainerID: inside, HostID: inside, Size: length})
		}
	}
	return all, nil
}

// hasCapability reports whether the calling thread has a capability in its user
// namespace.
func hasCapability(capability uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[capability/32].Effective&(1<<(capability%32)) != 0
}

const isolated = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// sentryChild describes the sentry process.
func sentryChild(conf *config.Config) (*child, error) {
	path, err := program("sentry", conf.SentryPath)
	if err != nil {
		return nil, err
	}
	c := &child{path: path}
	c.sys.Setsid = true // no signals of the caller's terminal
	c.sys.Cloneflags = isolated
	c.newUserNamespace()
	// With fewer threads the first steps into the jail take half as long; the
	// sentry then takes all processors.
	c.env = []string{"GOMAXPROCS=1"}
	c.args = []string{"--platform=" + conf.Platform}
	if conf.TotalMemory != 0 {
		c.args = append(c.args, fmt.Sprintf("--total-memory=%d", conf.TotalMemory))
	}
	if conf.CPUs != 0 {
		c.args = append(c.args, fmt.Sprintf("--cpus=%d", conf.CPUs))
	}
	c.args = append(c.args, fmt.Sprintf("--max-tasks=%d", maxTasks()))
	for _, f := range []struct {
		set  bool
		name string
	}{{conf.Strace, "strace"}, {conf.Debug, "debug"}, {conf.NoJail, "no-jail"}} {
		if f.set {
			c.args = append(c.args, "--"+f.name)
		}
	}
	return c, nil
}

// maxTasks is how many processes and threads a sandbox may have where its spec
// has no limit: a part of the host's pids, since each takes some of them
// (pidsPerTask). The sentry's own PID namespace has other limits in /proc.
func maxTasks() int {
	limit := 1 << 22
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	return max(limit/pidsPerTask, 256)
}

// goferChild describes the gofer process. A gofer of root's stays root of the
// host, because files have owners; its jail is its own affair. Where root may make
// namespaces only in a user namespace, that has all ids too.
func goferChild(conf *config.Config) (*child, error) {
	path, err := program("gofer", conf.GoferPath)
	if err != nil {
		return nil, err
	}
	c := &child{path: path}
	c.sys.Setsid = true
	c.sys.Cloneflags = isolated
	if os.Geteuid() != 0 {
		c.newUserNamespace()
	} else if !hasCapability(unix.CAP_SYS_ADMIN) {
		c.sys.Cloneflags |= unix.CLONE_NEWUSER
		c.sys.GidMappingsEnableSetgroups = true
		if c.sys.UidMappings, err = identityMap("/proc/self/uid_map"); err != nil {
			return nil, err
		}
		if c.sys.GidMappings, err = identityMap("/proc/self/gid_map"); err != nil {
			return nil, err
		}
	}
	if conf.NoJail {
		c.args = append(c.args, "--no-jail")
	}
	return c, nil
}

// socketPair returns two connected sockets. The second is for a child.
func socketPair(kind int, name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
