// Package boot puts a Sentry together and serves control requests: a kernel with
// its platform, memory, clocks and file systems; containers with their mounts,
// devices and first process.
//
// Prepare runs before the jail: all that needs the host's files, or new
// processes, is done there. Everything after that happens behind the seccomp
// filter, whose rows HostCalls lists beside those of the jail itself.
//
// Locks: Sandbox.mu guards the table of containers; it comes before all locks of
// the kernel and is not held while something runs in it.
package boot

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/control"
	"vitrine/pkg/locks"
	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/fs/dev"
	"vitrine/pkg/sentry/fs/devpts"
	"vitrine/pkg/sentry/fs/gofer"
	"vitrine/pkg/sentry/fs/host"
	"vitrine/pkg/sentry/fs/pipe"
	"vitrine/pkg/sentry/fs/proc"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/fs/tty"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/loader"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/ptrace"
	"vitrine/pkg/sentry/platform/systrap"
	unixsocket "vitrine/pkg/sentry/socket/unix"
	"vitrine/pkg/sentry/syscalls"
	"vitrine/pkg/sentry/vdso"
	"vitrine/pkg/sentry/vfs"
)

// Options says how the Sentry is to be.
type Options struct {
	Platform    string // "systrap", "ptrace" or "auto"
	TotalMemory uint64 // bytes; 0 for what the host has
	CPUs        int    // 0 for what the process may use
	MaxTasks    int    // processes and threads in the sandbox; 0 for as many as there are pids
	Strace      bool
	Debug       bool
	Log         *os.File // nil for none
}

// Sandbox implements control.Sandbox over a kernel.
type Sandbox struct {
	k       *kernel.Kernel
	account *memfile.Account // of the whole sandbox
	shared  *tmpfs.Anonymous
	devices *dev.Registry
	poller  *host.Poller
	host    *proc.Host
	ns      *kernel.Namespaces // the sandbox's own, but for mounts
	log     *log
	heap    *heapWatch
	calls   []seccomp.Row

	mu         locks.Mutex[locks.Containers]
	containers map[string]*container
	root       string // ID of the first container
	ended      chan struct{}
	status     control.WaitStatus
}

var _ control.Sandbox = (*Sandbox)(nil)

// Prepare makes a kernel without containers.
func Prepare(o *Options) (*Sandbox, error) {
	s := &Sandbox{containers: map[string]*container{}, ended: make(chan struct{}), log: &log{file: o.Log, debug: o.Debug}}
	p, calls, err := newPlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	mf, err := memfile.New()
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	total := o.TotalMemory
	if total == 0 {
		var si unix.Sysinfo_t
		if err := unix.Sysinfo(&si); err != nil {
			return nil, fmt.Errorf("how much memory the host has: %w", err)
		}
		total = uint64(si.Totalram) * uint64(si.Unit)
	}
	if s.account, err = mf.NewAccount("sandbox", total); err != nil {
		return nil, err
	}
	if s.poller, err = host.NewPoller(); err != nil {
		return nil, fmt.Errorf("poller of host descriptors: %w", err)
	}
	if s.shared, err = tmpfs.NewAnonymous(tmpfs.Options{Memory: mf, Account: s.account}); err != nil {
		return nil, err
	}
	s.devices = &dev.Registry{}
	dev.RegisterMemory(s.devices, s.shared)
	s.devices.Register(5, 0, dev.DriverFunc(tty.OpenControlling))
	s.devices.Register(5, 2, dev.DriverFunc(devpts.OpenPtmx))
	if s.host, err = proc.ReadHost(); err != nil {
		return nil, err
	}
	cpu, err := loader.HostCPU()
	if err != nil {
		return nil, err
	}
	keeper := clock.New(clock.HostTSCReliable())
	k := &kernel.Kernel{
		Platform: p, Memory: mf, Opener: vfs.Opener{Special: special{s}}, Syscalls: syscalls.NewTable(),
		CPU: cpu, Random: random{}, Clock: keeper, CPUs: o.CPUs, Logf: s.log.debugf,
	}
	if k.CPUs == 0 {
		k.CPUs = runtime.NumCPU()
	}
	k.Timers = clock.NewQueue(keeper.Monotonic)
	k.BootTime, k.BootMonotonic = keeper.Realtime(), keeper.Monotonic()
	k.CPUID = cpuid.New(cpuid.Dear)
	if k.CPUs <= 64 { // so many processors have a place in an affinity mask
		keeper.AllowGetCPU(k.CPUs)
	}
	if k.VDSO, err = installVDSO(p, keeper, mf, s.account); err != nil {
		return nil, fmt.Errorf("vDSO: %w", err)
	}
	if o.Strace {
		k.Trace = &tracer{table: k.Syscalls.(*syscalls.Table), log: s.log}
	}
	k.Init()
	s.k = k
	limitTasks(k, o.MaxTasks)
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the name of the host: %w", err)
	}
	s.ns = &kernel.Namespaces{UTS: k.NewUTSNamespace(k.RootUserNS, name, ""), IPC: k.NewIPCNamespace(k.RootUserNS),
		Net: k.NewNetNamespace(k.RootUserNS, nil), PIDForChildren: k.RootPIDNS}
	k.Shared, k.NewFilesystem = s.shared, s.mountFor
	unixsocket.Register()
	watchHeap(s, mf)
	s.calls = append(calls, host.HostCalls()...)
	s.calls = append(s.calls, gofer.HostCalls...)
	s.calls = append(s.calls, hostCalls()...)
	return s, nil
}

// limitTasks bounds what lives in the sandbox, so that it leaves the host some
// pids. Go's own limit of threads would end the process long before.
func limitTasks(k *kernel.Kernel, limit int) {
	if limit <= 0 || limit > pids.Max {
		limit = pids.Max
	}
	k.RootPIDNS.SetLimit(limit)
	debug.SetMaxThreads(10000 + 4*limit)
}

// newPlatform starts the platform called name, and returns what it needs of the
// host.
func newPlatform(name string) (platform.Platform, []seccomp.Row, error) {
	switch name {
	case "systrap":
		p, err := systrap.New()
		if err != nil {
			return nil, nil, fmt.Errorf("platform systrap: %w", err)
		}
		return p, systrap.HostCalls, nil
	case "auto":
		p, calls, err := newPlatform("systrap")
		if err == nil {
			return p, calls, nil
		}
		// runsc passes it on as a warning.
		fmt.Fprintf(os.Stderr, "%v: falling back to the slower platform ptrace\n", err)
		return newPlatform("ptrace")
	case "ptrace":
		p, err := ptrace.New()
		if err != nil {
			return nil, nil, fmt.Errorf("platform ptrace: %w", err)
		}
		return p, ptrace.HostCalls, nil
	}
	return nil, nil, fmt.Errorf("platform %q isn't one of: systrap, ptrace", name)
}

func installVDSO(p platform.Platform, k *clock.Keeper, mf *memfile.File, acct *memfile.Account) (*loader.VDSO, error) {
	store := pagestore.New(mf, acct)
	if err := store.Truncate(vdso.Size()); err != nil {
		return nil, err
	}
	data, size, err := vdso.Install(store)
	if err != nil {
		return nil, err
	}
	k.Share(data.Page)
	if r, ok := p.(platform.ClockReader); ok {
		if err := r.ShareClocks(data.File, data.Offset); err != nil {
			return nil, err
		}
	}
	return &loader.VDSO{Mappable: store, DataSize: vdso.DataSize, CodeSize: size}, nil
}

// hostCalls are what the memory file, the timers and terminals need.
func hostCalls() []seccomp.Row {
	const futexWaitBitset, futexWake, private = 9, 1, 128
	const membarrierGlobal = 1
	return []seccomp.Row{
		{Number: unix.SYS_MMAP, Why: "the memory file in the Sentry's view; never executable",
			Checks: []seccomp.Check{seccomp.EqualLow(2, unix.PROT_READ|unix.PROT_WRITE), seccomp.EqualLow(3, unix.MAP_SHARED)}},
		{Number: unix.SYS_FALLOCATE, Why: "giving pages of the memory file back",
			Checks: []seccomp.Check{seccomp.EqualLow(1, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE)}},
		{Number: unix.SYS_FTRUNCATE, Why: "growing the memory file"},
		{Number: unix.SYS_FUTEX, Why: "fine timers",
			Checks: []seccomp.Check{seccomp.OneOfLow(1, futexWaitBitset|private, futexWake|private)}},
		{Number: unix.SYS_PRCTL, Why: "fine timers", Checks: []seccomp.Check{seccomp.EqualLow(0, unix.PR_SET_TIMERSLACK)}},
		{Number: unix.SYS_GETCPU, Why: "getcpu(2)"},
		{Number: unix.SYS_MEMBARRIER, Why: "membarrier(2)", Checks: []seccomp.Check{seccomp.EqualLow(0, membarrierGlobal), seccomp.EqualLow(1, 0)}},
		{Number: unix.SYS_EVENTFD2, Why: "stopping the bridge to a host terminal"},
		{Number: unix.SYS_POLL, Why: "input of a host terminal"},
		{Number: unix.SYS_PPOLL, Why: "input of a host terminal"},
	}
}

// HostCalls are the rows of the seccomp filter that the kernel needs.
func (s *Sandbox) HostCalls() []seccomp.Row { return s.calls }

// Ended is closed when the root container has ended.
func (s *Sandbox) Ended() <-chan struct{} { return s.ended }

// ExitStatus is how the root container's init ended, after Ended.
func (s *Sandbox) ExitStatus() control.WaitStatus { return s.status }

// special opens FIFOs and devices.
type special struct{ s *Sandbox }

// OpenFIFO implements vfs.SpecialFiles.
func (special) OpenFIFO(ctx vfs.Context, p vfs.Path, flags uint32) (any, error) {
	return pipe.OpenFIFO(ctx, p, flags)
}

// OpenDevice implements vfs.SpecialFiles.
func (sp special) OpenDevice(ctx vfs.Context, p vfs.Path, block bool, rdev uint64, flags uint32) (any, *vfs.File, error) {
	return sp.s.devices.OpenDevice(ctx, p, block, rdev, flags)
}

// random reads the host's getrandom(2), which never runs dry.
type random struct{}

// Read implements io.Reader.
func (random) Read(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n, err := unix.Getrandom(p[done:], 0)
		if err != nil && err != unix.EINTR {
			return done, err
		}
		done += max(n, 0)
	}
	return len(p), nil
}
