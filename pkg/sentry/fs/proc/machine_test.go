package proc

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/limits"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// idle is a platform whose applications never do anything.
type idle struct{ platform.AddressSpace }

func (idle) Name() string { return "idle" }
func (idle) UserRange() usermem.AddrRange {
	return usermem.AddrRange{Start: 0x1000, End: 0x7ffffffff000}
}
func (idle) NewAddressSpace() (platform.AddressSpace, error) { return idle{}, nil }
func (idle) NewContext() platform.Context                    { return &idleContext{wake: make(chan struct{}, 1)} }
func (idle) Forget(int)                                      {}
func (idle) Unmap(usermem.AddrRange)                         {}
func (idle) Protect(usermem.AddrRange, usermem.Access)       {}
func (idle) Flush()                                          {}
func (idle) Inherit(platform.AddressSpace)                   {}
func (idle) Release()                                        {}
func (idle) MapFile(usermem.Addr, platform.File, uint64, uint64, usermem.Access, bool) error {
	return nil
}

type idleContext struct{ wake chan struct{} }

func (c *idleContext) Switch(platform.AddressSpace, *arch.State) (platform.Event, error) {
	<-c.wake
	return platform.Event{Kind: platform.EventInterrupted}, nil
}
func (*idleContext) PullFP(*arch.State) {}
func (*idleContext) DropFP()            {}
func (*idleContext) Heed()              {}
func (*idleContext) Park(*arch.State)   {}
func (*idleContext) Release()           {}
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

// program is a static ELF file that maps one page.
func program() []byte {
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 62)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, 0x400078)
	b = le.AppendUint64(b, 64)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 5)
	for _, v := range []uint64{0, 0x400000, 0x400000, 128, 128, 4096} {
		b = le.AppendUint64(b, v)
	}
	return append(b, make([]byte, 8)...)
}

func newMachine(t *testing.T, opts Options) *machine {
	t.Helper()
	memory, acct := fstest.Memory(t, 0)
	keeper := clock.New(false)
	k := &kernel.Kernel{
		Platform: idle{}, Memory: memory, Random: rand.Reader, Clock: keeper, Timers: clock.NewQueue(keeper.Monotonic),
		CPUs: 3, BootTime: keeper.Realtime() - 100*second, BootMonotonic: keeper.Monotonic() - 100*second,
		Logf: t.Logf, Opener: vfs.Opener{},
	}
	k.Init()
	fs, err := tmpfs.New(tmpfs.Options{Memory: memory, Account: acct, Mode: unix.S_IFDIR | 0o755})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{VFS: fstest.New(fs), t: t, k: k, acct: acct}
	m.NS.Inode = k.NewNamespaceInode()
	space, err := mm.New(k.Platform, memory, acct, mm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root := m.NS.Root()
	user := k.RootUserNS
	m.task, err = k.NewProcess(&kernel.ProcessArgs{
		Creds: auth.NewRoot(user),
		Namespaces: &kernel.Namespaces{UTS: k.NewUTSNamespace(user, "glass", "(none)"), IPC: k.NewIPCNamespace(user),
			Net: k.NewNetNamespace(user, nil), Mount: m.NS, PIDForChildren: k.RootPIDNS},
		Container: &kernel.Container{ID: "test"}, FS: vfs.NewFSContext(root, root, 0o022), FDs: vfs.NewFDTable(), Limits: limits.NewSet(),
	}, space)
	if err != nil {
		t.Fatal(err)
	}
	m.Ctx = m.task
	m.view = vfs.FSView{Root: root, Start: root}
	for _, d := range []string{"proc", "bin", "sys"} {
		if err := m.Mkdir("/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f, err := m.OpenFile("/bin/prog", unix.O_CREAT|unix.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	b := usermem.BytesBuffer(program())
	if _, err := f.Write(m.task, &b); err != nil {
		t.Fatal(err)
	}
	f.DecRef()
	if err := m.task.Exec(&kernel.ExecArgs{View: m.view, Path: "/bin/prog", Flags: vfs.FollowFinal,
		Argv: []string{"prog", "one", "t w o"}, Envv: []string{"A=b", "C=d"}}); err != nil {
		t.Fatal(err)
	}
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
