package proc

import (
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/kernel/kerneltest"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// idleContext is one whose application never does anything.
type idleContext struct {
	kerneltest.Context
	wake chan struct{}
}

func (c *idleContext) Switch(platform.AddressSpace, *arch.State) (platform.Event, error) {
	<-c.wake
	return platform.Event{Kind: platform.EventInterrupted}, nil
}
func (c *idleContext) Interrupt() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// machine is a kernel with a first process, which the test itself is: its task
// runs no code of an application.
type machine struct {
	*fstest.VFS
	t    *testing.T
	k    *kernel.Kernel
	task *kernel.Task
	acct *memfile.Account
	view vfs.FSView
}

func newMachine(t *testing.T, opts Options) *machine {
	t.Helper()
	keeper := clock.New(false)
	k := &kernel.Kernel{
		Platform: kerneltest.Platform{Contexts: func() platform.Context { return &idleContext{wake: make(chan struct{}, 1)} }},
		CPUs:     3, Clock: keeper, BootTime: keeper.Realtime() - 100*second, BootMonotonic: keeper.Monotonic() - 100*second,
	}
	made := kerneltest.New(t, k, kerneltest.InMemory, nil)
	m := &machine{VFS: made.VFS, t: t, k: k, task: made.Init, acct: made.Account, view: made.View}
	for _, d := range []string{"proc", "bin", "sys"} {
		if err := m.Mkdir("/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	made.Run(t, "/bin/prog", []string{"one", "t w o"}, []string{"A=b", "C=d"})
	m.mountProc(opts)
	return m
}

func (m *machine) mountProc(opts Options) {
	m.t.Helper()
	p, err := New(m.k, m.k.RootPIDNS, opts)
	if err != nil {
		m.t.Fatal(err)
	}
	at, err := m.Resolve("/proc", false)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.NS.MountAt(at, p, "proc", vfs.MountNoSUID|vfs.MountNoDev|vfs.MountNoExec|vfs.MountRelatime); err != nil {
		m.t.Fatal(err)
	}
}

// as makes the task another user.
func (m *machine) as(uid uint32) {
	c := m.task.Credentials().Fork()
	c.RUID, c.EUID, c.SUID, c.FSUID = auth.KUID(uid), auth.KUID(uid), auth.KUID(uid), auth.KUID(uid)
	c.RGID, c.EGID, c.SGID, c.FSGID = auth.KGID(uid), auth.KGID(uid), auth.KGID(uid), auth.KGID(uid)
	c.Permitted, c.Effective = 0, 0
	m.task.SetCredentials(c)
}

// asRoot takes as back.
func (m *machine) asRoot() { m.task.SetCredentials(auth.NewRoot(m.k.RootUserNS)) }

// fork makes a child process, and returns its number and an end for it.
func (m *machine) fork(flags uint64) (int32, func()) {
	m.t.Helper()
	id, err := m.task.Clone(&kernel.CloneArgs{Flags: flags, ExitSignal: signals.Signal(unix.SIGCHLD)})
	if err != nil {
		m.t.Fatal(err)
	}
	tg := m.k.RootPIDNS.Task(id).ThreadGroup()
	var once sync.Once
	end := func() {
		once.Do(func() {
			tg.Kill(kernel.ExitStatus{Code: 3})
			<-tg.Done()
		})
	}
	if flags&unix.CLONE_THREAD == 0 {
		m.t.Cleanup(end)
	}
	return id, end
}

// try returns a file's contents.
func (m *machine) try(path string) (string, error) {
	f, err := m.OpenFile(path, unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer f.DecRef()
	var out strings.Builder
	for {
		part := make([]byte, 777)
		b := usermem.BytesBuffer(part)
		n, err := f.Read(m.Ctx, &b)
		if err != nil {
			return out.String(), err
		}
		if n == 0 {
			return out.String(), nil
		}
		out.Write(part[:n])
	}
}

// read is try that must not fail.
func (m *machine) read(path string) string {
	m.t.Helper()
	s, err := m.try(path)
	if err != nil {
		m.t.Fatalf("%s: %v", path, err)
	}
	return s
}

// write writes to a file as a shell does.
func (m *machine) write(path, data string) error {
	f, err := m.OpenFile(path, unix.O_WRONLY|unix.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer f.DecRef()
	b := usermem.BytesBuffer([]byte(data))
	n, err := f.Write(m.Ctx, &b)
	if err == nil && n != int64(len(data)) {
		m.t.Errorf("%s took %d bytes of %d", path, n, len(data))
	}
	return err
}

// reap collects the status of a child that has ended.
func reap(t *testing.T, m *machine) {
	t.Helper()
	r, err := m.task.WaitChild(&kernel.WaitTarget{Options: unix.WEXITED})
	if err != nil || r.PID == 0 {
		t.Fatalf("waiting: %+v, %v", r, err)
	}
}

func mmapOne(at usermem.Addr) mm.MMapOpts {
	return mm.MMapOpts{Addr: at, Fixed: true, Length: 4096, Prot: usermem.Read | usermem.Write, Private: true}
}

// told is a file that tells of itself in fdinfo.
type told struct{}

func (told) FDInfo(w io.Writer) { io.WriteString(w, "eventfd-count: 7\n") }

// reader is another task's context with the first task's credentials: what a task
// says of itself is for its own goroutine.
type reader struct{ task *kernel.Task }

func (r *reader) Credentials() *auth.Credentials { return r.task.Credentials() }
func (*reader) Memory() usermem.Memory           { return nil }
func (*reader) Block(*waiter.Token) error        { return unix.EINTR }
func (*reader) FileSizeLimit() uint64            { return 1 << 62 }
func (*reader) FileSizeExceeded()                {}
func (*reader) ThreadGroupID() int32             { return 1 }

// walkAll reads all there is in /proc, once; what comes and goes meanwhile may
// fail.
func walkAll(m *machine, ctx vfs.Context) {
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		d, err := m.Opener.Open(ctx, m.view, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0, 0)
		if err != nil {
			return
		}
		var names []vfs.DirEntry
		d.ReadDir(ctx, func(e vfs.DirEntry) bool {
			names = append(names, e)
			return true
		})
		d.DecRef()
		for _, e := range names {
			path := dir + "/" + e.Name
			switch {
			case e.Name == "." || e.Name == "..":
			case e.Type == unix.DT_DIR && depth < 5:
				walk(path, depth+1)
			case e.Type == unix.DT_LNK:
				if p, err := vfs.Resolve(ctx, m.view, path, 0); err == nil {
					if l, ok := p.Inode().(vfs.Link); ok {
						l.Readlink(ctx)
					}
				}
			case e.Type == unix.DT_REG && e.Name != "mem":
				f, err := m.Opener.Open(ctx, m.view, path, unix.O_RDONLY, 0, 0)
				if err != nil {
					continue
				}
				b := usermem.BytesBuffer(make([]byte, 65536))
				f.Read(ctx, &b)
				f.DecRef()
			}
		}
	}
	walk("/proc", 0)
}

// outsider is a reader with credentials of its own.
type outsider struct {
	reader
	cred *auth.Credentials
}

func (o *outsider) Credentials() *auth.Credentials { return o.cred }
