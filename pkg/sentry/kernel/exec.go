package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/abi/linux"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/executable"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/loader"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// ExecArgs are the arguments of execve(2) and execveat(2).
type ExecArgs struct {
	// View and Path name the program; Flags are those of the walk.
	View  vfs.FSView
	Path  string
	Flags vfs.WalkFlags
	// File is the program of execveat(2) with an empty path.
	File *vfs.File
	// ShownPath is what scripts and AT_EXECFN get, if not Path; Inaccessible
	// says that nobody can open it after the exec.
	ShownPath    string
	Inaccessible bool
	Argv, Envv   []string
}

// Exec replaces the task's program. After an error the old one goes on, unless
// the error came after the point of no return: then the process is killed.
func (t *Task) Exec(a *ExecArgs) error {
	var file *executable.File
	var err error
	if a.File != nil {
		file, err = executable.Open(t, a.File.Path())
	} else {
		file, err = executable.Opener{Ctx: t, View: a.View}.Walk(a.Path, a.Flags)
	}
	if err != nil {
		return err
	}
	path := a.Path
	if a.ShownPath != "" {
		path = a.ShownPath
	}
	prog, err := loader.Prepare(loader.Args{
		File: file, Path: path, PathInaccessible: a.Inaccessible, Opener: executable.Opener{Ctx: t, View: t.fs.View()},
		Argv: a.Argv, Envv: a.Envv, StackLimit: t.tg.Limits().Soft(limits.Stack),
	})
	if err != nil {
		file.Release()
		return err
	}
	final := prog.File().(*executable.File)
	creds, secure, noDump := t.execCredentials(final)
	memory, err := mm.New(t.k.Platform, t.k.Memory, t.mm.Account(), mm.Options{
		Limits: t.tg.Limits(), NoRandom: t.personality.Load()&linux.ADDR_NO_RANDOMIZE != 0, Loading: true,
	})
	if err != nil {
		prog.Release()
		file.Release()
		return err
	}
	oldID := t.seenByTracer(t)
	if err := t.killSiblings(); err != nil {
		memory.DecUsers()
		prog.Release()
		file.Release()
		return err
	}
	ns := creds.UserNS
	img, err := prog.Map(loader.Target{
		Memory: memory, UserRange: t.k.Platform.UserRange(), NoRandom: t.personality.Load()&linux.ADDR_NO_RANDOMIZE != 0,
		Random: t.k.Random, CPU: t.k.CPU, VDSO: t.k.VDSO, CPUID: t.k.CPUID,
		Credentials: loader.Credentials{UID: ns.UID(creds.RUID), EUID: ns.UID(creds.EUID), GID: ns.GID(creds.RGID), EGID: ns.GID(creds.EGID), Secure: secure},
	})
	if err != nil {
		memory.DecUsers()
		file.Release()
		if memory.Starved() {
			err = unix.ENOMEM
		}
		// There is nothing to go back to (execve(2), BUGS of the caller).
		t.k.Logf("task %d: %s couldn't be loaded, after its headers had been found good: %v: killed", t.ids.Root(), path, err)
		t.tg.Kill(ExitStatus{Signal: signals.Signal(unix.SIGSEGV)})
		return err
	}
	if final != file {
		file.Release()
	}
	memory.MapAhead()
	memory.SetExecutable(executable.Keep(final))
	dumpable := 1
	if noDump {
		dumpable = 0
	}
	memory.SetDumpable(dumpable)
	if !secure && !noDump && creds.NoMoreThan(t.Credentials()) {
		memory.Inherit(t.mm)
	}
	t.becomes(memory, creds, &img)
	if tr := t.k.Trace; tr != nil {
		tr.Exec(t, path)
	}
	t.traceExec(oldID)
	return nil
}

// becomes makes the task one that runs the new program.
func (t *Task) becomes(memory *mm.MemoryManager, creds *auth.Credentials, img *loader.Image) {
	tg := t.tg
	t.exitMemory()
	t.endsLocks.Store(false)
	t.robustList = 0
	t.park()
	old := t.mm
	t.mu.Lock()
	t.mm = memory
	t.name = img.Comm
	t.mu.Unlock()
	t.unpark()
	t.creds.Store(creds)
	g := &tg.signals
	g.lock()
	g.actions = g.actions.ForExec()
	g.unlock()
	t.sig.stack = arch.NoAltStack
	tg.timers.DeleteAllPosix()
	t.k.tree.Lock()
	tg.execed = true
	t.pdeathSignal = 0
	tg.exitSignal = sigChldUnlessNone(tg.exitSignal)
	t.k.tree.Unlock()
	// What others learn of the exec by comes when all else is as it is to be: that the
	// parent of a vfork(2) goes on, that files are closed.
	t.releaseVfork()
	if old != nil {
		old.DecUsers()
	}
	if t.fds.Shared() {
		shared := t.fds
		if own, err := shared.Fork(); err == nil {
			t.SetFDs(own)
			closeAll(t, shared, shared.DecRef())
		} else {
			t.outOfMemory(err)
		}
	}
	closeAll(t, t.fds, t.fds.RemoveIf(func(_ int32, cloexec bool) bool { return cloexec }))
	t.state.Exec(uint64(img.Entry), uint64(img.StackPointer))
	t.ctx.DropFP()
	t.NoReturn()
	t.syscall.restart = 0
}

func sigChldUnlessNone(s signals.Signal) signals.Signal {
	if s == 0 {
		return 0
	}
	return sigChld
}

// killSiblings ends all other threads and waits until they are gone; the task
// then takes the process's number over, whoever was its leader.
func (t *Task) killSiblings() error {
	k, tg := t.k, t.tg
	k.tree.Lock()
	g := &tg.signals
	g.lock()
	if g.exiting || g.execer != nil {
		g.unlock()
		k.tree.Unlock()
		return RestartNoIntr // somebody else ends us
	}
	wait := len(tg.tasks) > 1
	if wait {
		g.execer = t
		t.alone = new(waiter.Gate)
		for _, o := range tg.tasks {
			if o != t {
				o.interrupt()
			}
		}
	}
	g.unlock()
	k.tree.Unlock()
	if wait {
		ok := t.blockKillable(t.alone)
		g.lock()
		g.execer = nil
		g.unlock()
		if !ok {
			return unix.EINTR
		}
	}
	k.tree.Lock()
	defer k.tree.Unlock()
	if tg.leader != t {
		t.forgetIDs()
		old := tg.leader
		old.unlink()
		old.forgetIDs()
		t.ids.Become(&tg.ids)
		tg.leader = t
		t.rememberIDs()
		t.pay(processCost) // as much as the leader had
	}
	return nil
}

// execCredentials returns the credentials after execve(2) of f. secure is AT_SECURE;
// noDump says that the program may not be looked into.
func (t *Task) execCredentials(f *executable.File) (c *auth.Credentials, secure, noDump bool) {
	old := t.Credentials()
	c, secure = old.Exec(f.Program())
	noDump = c.EUID != old.EUID || c.EGID != old.EGID || !f.Readable(old)
	return c, secure, noDump
}
