package kernel

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"

	"vitrine/pkg/clock"
	"vitrine/pkg/locks"
	"vitrine/pkg/sched"
	"vitrine/pkg/sentry/asyncio"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/futex"
	"vitrine/pkg/sentry/loader"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/pids"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/usage"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/waiter"
)

// Release is the kernel release that uname(2) reports: the newest whose calls
// are all in the table. Version is what uname -v prints.
const (
	Release = "4.4.0"
	Version = "#1 SMP Vitrine"
)

// SyscallHandler carries out system calls; package syscalls has it.
type SyscallHandler interface {
	// Call does system call no of t and returns its result, or an errno, one
	// of the Restart errors included.
	Call(t *Task, no uint64) (uint64, error)
}

// Kernel is all that the tasks of a sandbox share. Its exported fields are set
// before the first task runs and constant after.
type Kernel struct {
	Platform platform.Platform
	Memory   *memfile.File
	Opener   vfs.Opener
	Futexes  *futex.Manager
	Syscalls SyscallHandler
	VDSO     *loader.VDSO
	CPU      loader.CPUFeatures
	CPUID    *cpuid.Rewriter
	Random   io.Reader
	Clock    *clock.Keeper
	Timers   *clock.Queue
	// CPUs is how many processors applications see.
	CPUs int
	// BootTime is the sandbox's start on the host's CLOCK_REALTIME and
	// CLOCK_MONOTONIC, in nanoseconds.
	BootTime, BootMonotonic int64

	RootUserNS *auth.UserNamespace
	RootPIDNS  *PIDNamespace

	// Shared is where files of memfd_create(2) are.
	Shared *tmpfs.Anonymous
	// NewFilesystem makes what mount(2) mounts: kind is the type's name, data
	// the options. ENODEV where the type is unknown.
	NewFilesystem func(t *Task, kind, source, data string) (*vfs.Filesystem, error)

	// Starving makes room where t wants a page and its container has none left: what it
	// returns opens when t may try again, or has been killed. Where it is nil, t is.
	Starving func(t *Task) *waiter.Gate

	// Trace, if not nil, is told of each system call: strace-style logging.
	Trace Tracer
	// Logf writes to the debug log; never nil.
	Logf func(format string, args ...any)

	scheduler *sched.Scheduler

	// tree guards the tree of tasks: see doc.go.
	tree  locks.RWMutex[locks.Tasks]
	async asyncio.Queue
	// deadUsage is of all tasks that have ended. Guarded by tree.
	deadUsage usage.Resources
	running   sync.WaitGroup

	tasks    atomic.Int64 // live tasks, for loadavg and sysinfo
	forks    atomic.Uint64
	switches atomic.Uint64
	nsIno    atomic.Uint64

	bootOnce sync.Once
	bootID   string
	// compareSecret hides addresses in what kcmp(2) tells; odd.
	compareSecret uint64
}

// Tracer is told of system calls. Its methods are called on the task's
// goroutine.
type Tracer interface {
	Enter(t *Task, no uint64)
	Exit(t *Task, no uint64, ret uint64, err error)
	Signal(t *Task, signo int32, what string)
	Exec(t *Task, path string)
	ExitTask(t *Task, status ExitStatus)
}

// Init prepares a Kernel whose exported fields are set.
func (k *Kernel) Init() {
	k.async.Deliver = k.sendIO
	k.nsIno.Store(0xF0000000 - 1)
	var secret [8]byte
	io.ReadFull(k.Random, secret[:]) // without it the order is told, which is no harm
	k.compareSecret = binary.LittleEndian.Uint64(secret[:]) | 1
	c, ok := k.Platform.(platform.Cooperator)
	k.scheduler = sched.New(ok)
	if ok {
		c.Cooperate(k.scheduler)
	}
	k.Futexes = futex.NewManager()
	k.RootUserNS = auth.NewRootUserNamespace()
	k.RootPIDNS = pids.NewRoot(numbered{k}, &k.tree, k.RootUserNS, k.NewNamespaceInode())
}

// CompareSecret is an odd number that stays secret; multiplying by it keeps
// identities apart and hides them.
func (k *Kernel) CompareSecret() uint64 { return k.compareSecret }

// NewNamespaceInode returns an inode number for /proc/PID/ns.
func (k *Kernel) NewNamespaceInode() uint64 { return k.nsIno.Add(1) }

// TaskCount returns how many tasks live, ForkCount how many were made.
func (k *Kernel) TaskCount() int64  { return k.tasks.Load() }
func (k *Kernel) ForkCount() uint64 { return k.forks.Load() }

// Wait returns when no task is left.
func (k *Kernel) Wait() { k.running.Wait() }
