package boot

import (
	"cmp"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/control"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
)

const sigKill = signals.Signal(unix.SIGKILL)

// newTask makes a process with its program loaded, that doesn't run yet. The
// files of p stay the caller's.
func (c *container) newTask(p *control.Process) (_ *kernel.Task, err error) {
	k := c.s.k
	cred, err := c.credentials(p)
	if err != nil {
		return nil, err
	}
	lim, err := rlimits(p)
	if err != nil {
		return nil, err
	}
	var term *terminal
	if p.Console != nil {
		if term, err = c.newTerminal(p.Console, p, cred); err != nil {
			return nil, err
		}
		defer func() {
			if term != nil {
				term.close()
			}
		}()
	}
	fds, err := c.openFiles(p, term, cred)
	if err != nil {
		return nil, err
	}
	release := func() {
		for _, f := range fds.DecRef() {
			f.DecRef()
		}
	}
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	cwd, err := c.workingDirectory(p, cred)
	if err != nil {
		release()
		return nil, err
	}
	memory, err := mm.New(k.Platform, k.Memory, c.account, mm.Options{Limits: lim})
	if err != nil {
		release()
		return nil, err
	}
	t, err := k.NewProcess(&kernel.ProcessArgs{
		Creds: cred, Namespaces: c.ns, FS: vfs.NewFSContext(c.root, cwd, umask), FDs: fds, Limits: lim, Container: c.kc,
	}, memory)
	if err != nil {
		memory.DecUsers()
		release()
		if err == unix.EAGAIN {
			err = failf(control.KindState, "the container has as many processes and threads as it may")
		}
		return nil, err
	}
	if term != nil {
		if err := term.tty.Attach(t.Job()); err != nil {
			c.abandon(t)
			return nil, failf(control.KindInternal, "controlling terminal: %v", err)
		}
		tg := t.ThreadGroup()
		drained := make(chan struct{})
		c.s.mu.Lock()
		c.terminals[tg] = consoleOf{term, drained}
		c.s.mu.Unlock()
		go term.finish(tg, drained)
		term = nil
	}
	if p.OOMScoreAdj != nil {
		t.ThreadGroup().OOMScoreAdj().Store(int32(*p.OOMScoreAdj))
	}
	affinity := c.affinity()
	t.SetScheduling(func(s *kernel.Scheduling) {
		s.Affinity = affinity
		if o := p.Scheduler; o != nil {
			s.Policy, s.Nice, s.Priority, s.ResetOnFork = int(o.Policy), int(o.Nice), int(o.Priority), o.ResetOnFork
		}
		if p.IOPriority != nil {
			s.IOPriority = int(*p.IOPriority)
		}
	})
	// As runc, whose processes have privileges when they install theirs: the filter
	// comes without no_new_privs, unless the spec asks for that too.
	if len(c.filter) > 0 {
		err = t.InstallFilter(c.filter)
	}
	if err == nil {
		err = c.exec(t, p)
	}
	if err != nil {
		c.abandon(t)
		return nil, err
	}
	return t, nil
}

// abandon ends a task without ever having run the application.
func (c *container) abandon(t *kernel.Task) {
	t.ThreadGroup().Kill(kernel.ExitStatus{Signal: sigKill})
	t.Start()
	<-t.ThreadGroup().Done()
	c.settle(t.ThreadGroup())
}

// credentials are those of the process's user, with the capabilities that the
// bundle gives.
//
// Ids are those of the container's user namespace.
func (c *container) credentials(p *control.Process) (*auth.Credentials, error) {
	uid, ok := c.user.KUID(p.User.UID)
	if !ok {
		return nil, failf(control.KindInvalid, "process.user.uid %d has no mapping in linux.uidMappings", p.User.UID)
	}
	gid, ok := c.user.KGID(p.User.GID)
	if !ok {
		return nil, failf(control.KindInvalid, "process.user.gid %d has no mapping in linux.gidMappings", p.User.GID)
	}
	cr := &auth.Credentials{
		RUID: uid, EUID: uid, SUID: uid, FSUID: uid, RGID: gid, EGID: gid, SGID: gid, FSGID: gid,
		Bounding: auth.CapSet(p.Capabilities.Bounding) & auth.AllCaps, Effective: auth.CapSet(p.Capabilities.Effective) & auth.AllCaps,
		Inheritable: auth.CapSet(p.Capabilities.Inheritable) & auth.AllCaps, Permitted: auth.CapSet(p.Capabilities.Permitted) & auth.AllCaps,
		Ambient: auth.CapSet(p.Capabilities.Ambient) & auth.AllCaps, NoNewPrivs: p.NoNewPrivileges, UserNS: c.user,
		Account: c.account,
	}
	for _, g := range p.User.AdditionalGIDs {
		id, ok := c.user.KGID(g)
		if !ok {
			return nil, failf(control.KindInvalid, "process.user.additionalGids: %d has no mapping in linux.gidMappings", g)
		}
		cr.Groups = append(cr.Groups, id)
	}
	slices.Sort(cr.Groups)
	return cr, nil
}

func rlimits(p *control.Process) (*limits.Set, error) {
	lim := limits.NewSet()
	for _, r := range p.Rlimits {
		if r.Resource < 0 || r.Resource >= int(limits.Count) {
			return nil, failf(control.KindInvalid, "resource limit %d doesn't exist", r.Resource)
		}
		if _, err := lim.Swap(limits.Resource(r.Resource), limits.Limit{Soft: r.Soft, Hard: r.Hard}, true); err != nil {
			return nil, failf(control.KindInvalid, "the soft limit %d of resource %d is above the hard limit %d", r.Soft, r.Resource, r.Hard)
		}
	}
	return lim, nil
}

// openFiles makes the descriptors 0, 1, 2 and those that follow.
func (c *container) openFiles(p *control.Process, term *terminal, cred *auth.Credentials) (*vfs.FDTable, error) {
	fds := vfs.NewFDTable()
	fail := func(err error) (*vfs.FDTable, error) {
		for _, f := range fds.DecRef() {
			f.DecRef()
		}
		return nil, err
	}
	add := func(f *os.File) error {
		if f == nil {
			null, err := c.s.k.Opener.Open(vfs.KernelContext(c.cred), c.view(), "/dev/null", unix.O_RDWR, 0, 0)
			if err != nil {
				return failf(control.KindInternal, "opening /dev/null in the container: %v", err)
			}
			_, err = fds.Add(null, 0, false, 1<<20)
			return err
		}
		fd, err := duplicate(f)
		if err != nil {
			return err
		}
		file, err := c.s.poller.NewFile(fd, cred)
		if err != nil {
			unix.Close(fd)
			return err
		}
		_, err = fds.Add(file, 0, false, 1<<20)
		return err
	}
	std := p.Stdio[:]
	if term != nil {
		f, err := term.open(cred)
		if err != nil {
			return fail(failf(control.KindInternal, "opening the terminal: %v", err))
		}
		for i := range int32(3) {
			if i > 0 {
				f.IncRef()
			}
			fds.Add(f, i, false, 1<<20)
		}
		std = nil
	}
	for _, f := range append(slices.Clone(std), p.ExtraFiles...) {
		if err := add(f); err != nil {
			return fail(err)
		}
	}
	return fds, nil
}

// workingDirectory resolves the process's directory, and makes it where it is
// missing.
func (c *container) workingDirectory(p *control.Process, cred *auth.Credentials) (vfs.Path, error) {
	at, err := c.makeDirs(p.Cwd, 0o755)
	if err != nil {
		return vfs.Path{}, failf(control.KindInvalid, "working directory %s: %v", p.Cwd, err)
	}
	if _, ok := at.Inode().(vfs.Directory); !ok {
		return vfs.Path{}, failf(control.KindExecPermission, "working directory %s is not a directory", p.Cwd)
	}
	if err := vfs.Access(vfs.KernelContext(cred), at, cred, vfs.MayExec); err != nil {
		return vfs.Path{}, failf(control.KindExecPermission, "working directory %s: %v", p.Cwd, err)
	}
	return at, nil
}

// exec loads the program, looked for in PATH as execvp(3) does. One that turns
// out bad when the old one is gone kills the process, as on Linux: that is how it
// ends, not an error of who started it.
func (c *container) exec(t *kernel.Task, p *control.Process) error {
	name := cmp.Or(p.Path, p.Args[0])
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, dir := range strings.Split(pathOf(p.Env), ":") {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, path.Join(dir, name))
		}
	}
	var last error = unix.ENOENT
	for _, file := range candidates {
		err := t.Exec(&kernel.ExecArgs{View: t.FS().View(), Path: file, Flags: vfs.FollowFinal, Argv: p.Args, Envv: p.Env})
		if err == nil {
			return nil
		}
		if t.ThreadGroup().Ending() {
			if err != unix.ENOMEM {
				return nil
			}
			last = err // worth a sentence
			break
		}
		if err != unix.ENOENT && err != unix.ENOTDIR {
			last = err
			if err != unix.EACCES {
				break
			}
		}
	}
	switch last {
	case unix.ENOENT, unix.ENOTDIR:
		if strings.Contains(name, "/") {
			return failf(control.KindExecNotFound, "exec %s: no such file or directory", strconv.Quote(name))
		}
		return failf(control.KindExecNotFound, "exec %s: executable file not found in $PATH", strconv.Quote(name))
	case unix.EACCES, unix.EPERM, unix.EISDIR:
		return failf(control.KindExecPermission, "exec %s: permission denied", strconv.Quote(name))
	case unix.ENOEXEC, unix.ELIBBAD:
		return failf(control.KindExecFormat, "exec %s: %v", strconv.Quote(name), last)
	}
	return failf(control.KindExecPermission, "exec %s: %v", strconv.Quote(name), last)
}

// pathOf returns PATH of an environment, or what execvp(3) uses without one.
func pathOf(env []string) string {
	for _, e := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			return v
		}
	}
	return "/bin:/usr/bin"
}

// duplicate returns a descriptor of its own for f, without touching f's mode,
// which others on the host may share.
func duplicate(f *os.File) (fd int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) }); e != nil {
		return -1, e
	}
	return fd, err
}
