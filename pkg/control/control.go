// Package control is what runsc and a sentry say to each other: create this
// container, start it, run one more process in it, tell me when it ended.
//
// The sentry implements [Sandbox]; [Serve] makes it answer on a listening unix
// socket. runsc holds a [Client], which is a Sandbox too, so that a caller
// can't tell the wire from the thing. Everything in the arguments is resolved:
// runsc has read the OCI bundle, refused what is not supported, opened the
// files and started the gofers. The sentry needs no path of the host, and
// can't use one.
//
// # The wire
//
// A connection is a SOCK_STREAM unix socket that carries one request at a time:
// a frame with a method number, descriptors (SCM_RIGHTS) and a body, then the
// frame of the answer. A body is the fields of the Go type one after the other
// (code.go): runsc and the sentry are of one build, so there are no field names
// and no versions, but for one number that the first frame of each side carries. Requests that take long (Wait) occupy their
// connection; whoever wants something else meanwhile opens another. Closing the
// connection cancels the request that is under way.
//
// Descriptors in arguments are received close-on-exec and belong to the
// receiver, which closes them, whether the call works or not: see
// [CreateArgs.CloseFiles].
//
// # Errors
//
// What a Sandbox returns as [*Error] arrives with its Kind; any other error
// arrives as KindInternal with its text. Exit codes hang on kinds, never on
// texts.
//
// # Concurrency
//
// A Sandbox and a Client are safe for concurrent use. There are no locks
// that a caller has to know of.
package control

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// Sandbox is one sentry with its containers.
//
// A container is named by the ID it was created with. A process is named by its
// PID in the sandbox's outermost PID namespace, which Exec returns and Processes
// lists; PID 0 stands for the container's init process.
//
// The first container is the sandbox's root container: when its init process
// has ended the sandbox ends, other containers with it, and the sentry exits
// with init's [WaitStatus.Code].
type Sandbox interface {
	// Create makes a container and loads its init process, which doesn't run
	// before Start. What exec(2) of the process would refuse, Create refuses
	// (KindExecNotFound, KindExecPermission, KindExecFormat); nothing of the
	// container is left after an error. KindExists if the ID is taken.
	Create(args *CreateArgs) error
	// Start runs the init process of a created container. KindState if
	// it was started before.
	Start(id string) error
	// Exec starts one more process in a running container and returns its
	// PID. Its ExitStatus is kept until somebody has waited for it (or for as long
	// as KeepExit says in its args).
	Exec(args *ExecArgs) (pid int32, err error)
	// Wait returns when the process has ended, or with ctx's error when ctx
	// is done. Any number of callers may wait for one process. The status of
	// init stays known as long as the container exists; that of a process of
	// Exec until the first Wait has returned it.
	Wait(ctx context.Context, id string, pid int32) (WaitStatus, error)
	// Signal sends a signal to the process, or with all to every process of
	// the container, as somebody outside of all its PID namespaces. KindState if the container is not created, running or
	// paused; KindNotFound if there is no such process.
	Signal(id string, pid int32, signo int, all bool) error
	// Processes lists the live processes of a container, init first.
	Processes(id string) ([]ProcessInfo, error)
	// Pause stops all tasks of a container until Resume, unseen by them.
	Pause(id string) error
	Resume(id string) error
	// Resize sets the size of the terminal a process was started with.
	// Nothing happens if it has none.
	Resize(id string, pid int32, rows, cols uint16) error
	// Destroy ends a container in whatever state: kills all its processes,
	// gives up its mounts, closes its gofer connections, and forgets it. The
	// sandbox ends with its root container. Calling it for a container that
	// doesn't exist is no error.
	Destroy(id string) error
	// State says how a container is.
	State(id string) (ContainerState, error)
	// Update changes the limits that the sentry enforces or shows. All of r
	// counts: what is zero in it is no limit from now on.
	Update(id string, r *Resources) error
	// Stats returns what a container uses.
	Stats(id string) (Stats, error)
	// Containers lists the IDs of all containers, the root container first.
	Containers() ([]string, error)
}

// CreateArgs describes a container.
type CreateArgs struct {
	// ID names the container; unique in the sandbox.
	ID string

	// Root is the connection to the gofer that serves the root file system.
	// Nil only if Mounts begins with one at "/" that needs no gofer.
	Root *os.File
	// RootReadonly makes the root mount read-only (EROFS).
	RootReadonly bool
	// RootOverlay says where writes to the root go.
	RootOverlay Overlay
	// RootShared says that others change the tree behind Root: what was seen
	// there must be looked up anew.
	RootShared bool

	// Mounts, in the order to make them. Missing mount points are made as
	// the OCI runtimes do.
	Mounts []Mount
	// Devices to make below /dev in addition to the default ones.
	Devices []Device

	Hostname   string
	Domainname string
	// Sysctls by dotted name, validated against the list of known names by
	// the sentry: KindUnsupported otherwise.
	Sysctls map[string]string
	// MaskedPaths can't be read; ReadonlyPaths not be written.
	MaskedPaths   []string
	ReadonlyPaths []string

	// Namespaces the container has of its own or joins. Of a type that is
	// not listed it uses the sandbox's, but for mounts: those are always its own.
	Namespaces []Namespace
	// UIDMap and GIDMap of a new user namespace.
	UIDMap []IDMap
	GIDMap []IDMap

	Resources Resources

	// Seccomp is the filter that Init and all processes of Exec run under
	// (seccomp(2)); none if it is empty. It sets no no_new_privs.
	Seccomp []unix.SockFilter

	// Annotations of the spec, for debugging only.
	Annotations map[string]string

	// Init is the first process.
	Init Process
	// PlainInit lets signals end Init that it has no handler for. Without, only
	// SIGKILL does, for it is the init of its PID namespace (pid_namespaces(7)).
	PlainInit bool
}

// ExecArgs describes a further process of a container.
type ExecArgs struct {
	ID      string
	Process Process
	// KeepExit keeps the exit status for a later Wait. Without it the status
	// of a process nobody waits for at its end is forgotten.
	KeepExit bool
	// BeforeStart says that the container is created and not started, in place of
	// running: for what is to happen in it before its init process runs.
	BeforeStart bool
}

// Process describes a process to start.
type Process struct {
	// Args has at least one element. Args[0] is looked up in PATH of Env as
	// execvp(3) does, inside the container, if it has no slash.
	Args []string
	// Path is the program, if that isn't Args[0].
	Path string
	Env  []string
	// Cwd is absolute. Where it is missing it is made, with the process's ids
	// as its owner, as runc does.
	Cwd  string
	User User

	Capabilities    Capabilities
	NoNewPrivileges bool
	Rlimits         []Rlimit
	// OOMScoreAdj is what /proc/self/oom_score_adj shows, if set.
	OOMScoreAdj *int
	// Scheduler and IOPriority, if set, are what sched_getattr(2) and
	// ioprio_get(2) show; the host schedules.
	Scheduler  *Scheduler
	IOPriority *int32 // class and level as ioprio_set(2) takes them

	// Stdio are host descriptors for 0, 1 and 2; a nil one is /dev/null. Not
	// used with a Console.
	Stdio [3]*os.File
	// Console, if not nil, is a host terminal in raw mode. The process gets a
	// terminal of the sandbox's own (its line discipline, its controlling
	// terminal) as 0, 1 and 2, which the sentry bridges to Console in both
	// directions. runsc may have another owner of the terminal behind it: the
	// sentry does nothing but read and write.
	Console *os.File
	// ConsoleRows and ConsoleCols are the terminal's first size.
	ConsoleRows uint16
	ConsoleCols uint16
	// ExtraFiles are host descriptors for 3 and up (--preserve-fds).
	ExtraFiles []*os.File
}

// Scheduler is how a process is scheduled (sched(7)).
type Scheduler struct {
	Policy      int32 // SCHED_*
	Nice        int32
	Priority    int32
	ResetOnFork bool
}

// User is who a process is.
type User struct {
	UID            uint32
	GID            uint32
	AdditionalGIDs []uint32
	// Umask, if not nil; otherwise 022.
	Umask *uint32
}

// Capabilities are bit masks by capability number (capabilities(7)).
type Capabilities struct {
	Bounding, Effective, Inheritable, Permitted, Ambient uint64
}

// Rlimit is a resource limit; Resource is RLIMIT_* of setrlimit(2).
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// IDMap is a row of a user namespace's map.
type IDMap struct {
	ContainerID, HostID, Size uint32
}

// Overlay says where writes to a tree of the host go.
type Overlay string

const (
	// OverlayNone: to the host, through the gofer.
	OverlayNone Overlay = "none"
	// OverlayMemory: to a layer in the sentry's memory, gone with the container.
	OverlayMemory Overlay = "memory"
)

// Mount is one mount of a container.
type Mount struct {
	// Destination is an absolute, clean path in the container; symbolic
	// links in it are resolved there.
	Destination string
	// Type is a file system type that the sentry makes itself (tmpfs, proc,
	// sysfs, devpts, mqueue, cgroup, dev), or "bind" for one with a Gofer.
	Type string
	// Source is what mountinfo shows; for a bind, the host path.
	Source string
	// Flags are MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME... of
	// mount(2). MS_REC and MS_BIND are not among them.
	Flags uint64
	// Data are the file system's own options ("size=64m", "mode=1777").
	Data []string
	// CopyUp begins a tmpfs with what the directory held that it is mounted on.
	CopyUp bool
	// Gofer serves a bind mount; its attach point may be a file.
	Gofer *os.File
	// Shared says that others change the tree behind the gofer: what was seen
	// there must be looked up anew.
	Shared bool
	// Overlay says where writes to a bind go.
	Overlay Overlay
}

// Device is a device node.
type Device struct {
	Path         string
	Type         byte // 'c', 'b', 'p' as in mknod(1)
	Major, Minor uint32
	Mode         uint32 // permission bits
	UID, GID     uint32
}

// NamespaceType is the OCI name of a type of namespaces.
type NamespaceType string

// The types of namespaces(7), by the names of the OCI runtime spec.
const (
	NamespacePID     NamespaceType = "pid"
	NamespaceNetwork NamespaceType = "network"
	NamespaceMount   NamespaceType = "mount"
	NamespaceIPC     NamespaceType = "ipc"
	NamespaceUTS     NamespaceType = "uts"
	NamespaceUser    NamespaceType = "user"
	NamespaceCgroup  NamespaceType = "cgroup"
	NamespaceTime    NamespaceType = "time"
)

// Namespace is one a container uses in place of the sandbox's.
type Namespace struct {
	Type NamespaceType
	// Join is the ID of a container whose namespace is joined; empty for a
	// new one.
	Join string
}

// Resources are limits the sentry enforces or shows, beside what the host's
// cgroup holds. Zero: no limit.
type Resources struct {
	MemoryLimit int64  // bytes
	PidsLimit   int64  // tasks
	CPUQuota    int64  // microseconds a period
	CPUPeriod   uint64 // microseconds
	CPUShares   uint64 // as cpu.shares
	Cpus        string // list as of cpuset.cpus
}

// WaitStatus says how a process ended.
type WaitStatus struct {
	// Signal that killed it, or 0.
	Signal int32
	// CoreDumped with Signal.
	CoreDumped bool
	// ExitCode if it exited: 0-255.
	ExitCode int32
}

// Code is what a shell and container engines make of the status: the exit
// code, or 128 and the signal.
func (s WaitStatus) Code() int {
	if s.Signal != 0 {
		return 128 + int(s.Signal)
	}
	return int(s.ExitCode)
}

// Status is where a container is in its life.
type Status string

// The states of the OCI runtime spec, and paused.
const (
	StatusCreating Status = "creating"
	StatusCreated  Status = "created"
	StatusRunning  Status = "running"
	StatusPaused   Status = "paused"
	StatusStopped  Status = "stopped"
)

// ContainerState is what State returns.
type ContainerState struct {
	Status Status
	// InitPID in the sandbox's outermost PID namespace.
	InitPID int32
	// Exit is how init ended, if Status is StatusStopped.
	Exit WaitStatus
}

// ProcessInfo is a row of Processes.
type ProcessInfo struct {
	PID     int32 // in the sandbox's outermost PID namespace
	NSPID   int32 // in the container's PID namespace
	PPID    int32 // in the sandbox's outermost PID namespace; 0 for init and for processes of Exec
	UID     uint32
	Threads int32
	// StartTime in nanoseconds since the epoch.
	StartTime int64
	// CPUTime in nanoseconds, user and system.
	CPUTime int64
	// State is the letter of /proc/PID/stat: R, S, D, T, Z.
	State byte
	// TTY is its controlling terminal ("pts/0") or empty.
	TTY string
	// Comm and Args are bounded in length by the sentry (4096 bytes of Args).
	Comm string
	Args []string
}

// Stats is what a container uses.
type Stats struct {
	Pids        int64 // tasks
	MemoryUsage int64 // bytes of application memory, tmpfs included
	MemoryPeak  int64 // bytes
	MemoryLimit int64 // bytes, 0 if none
	CPUTime     int64 // nanoseconds of application and sentry code
	OOMKills    int64
}
