// Package process is the life of a sentry process around its kernel: it reads
// the command line, lets the kernel make what must be made before the jail, goes
// into the jail, serves control requests, and ends with the root container's
// exit status.
//
// [Main] is the whole of it. It is apart from the main package so that a test
// can put another kernel in.
//
// # The line to runsc
//
// Descriptor --parent-fd is one end of a SOCK_SEQPACKET pair whose other end
// only runsc has. A sentry that can't start sends the cause, one sentence, and
// exits. While the line is up the sentry depends on runsc: when it breaks, the
// sentry ends at once, and all of its PID namespace with it. A byte 'D' from
// runsc ends the dependence: the container is detached.
package process

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
	"vitrine/pkg/seccomp"
	"vitrine/pkg/sentry/boot/jail"
)

// Options is what the command line says to the kernel.
type Options struct {
	// Platform is the name of a platform or "auto".
	Platform string
	// TotalMemory is the memory that the sandbox shows, in bytes; 0: as much
	// as the host has.
	TotalMemory uint64
	// CPUs is how many processors the sandbox shows; 0: as many as it may use.
	CPUs int
	// MaxTasks bounds the processes and threads in the sandbox; 0: the kernel's
	// own limit.
	MaxTasks int
	// Strace logs each system call of applications to Log.
	Strace bool
	// Debug logs what helps to find mistakes to Log.
	Debug bool
	// Log is where to, or nil.
	Log *os.File
}

// Kernel is what serves the containers.
type Kernel interface {
	control.Sandbox
	// HostCalls are the rows of the seccomp filter that the kernel and its
	// platform need beside those of the jail.
	HostCalls() []seccomp.Row
	// Ended is closed when the root container has ended. All methods of
	// Sandbox return soon afterwards, but for a Create that waits for its gofer.
	Ended() <-chan struct{}
	// ExitStatus is how the root container's init ended. Valid after Ended.
	ExitStatus() control.WaitStatus
}

// Main runs the process; it doesn't return. Prepare makes the kernel while the
// process still sees the host's files and has the capabilities of its user
// namespace.
func Main(prepare func(*Options) (Kernel, error)) {
	// It is started by a descriptor, and would be called by its number in ps.
	// (Not by os, whose files have the runtime make a poller, which the jail closes.)
	if fd, err := unix.Open("/proc/self/comm", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		unix.Write(fd, []byte("sentry"))
		unix.Close(fd)
	}
	p, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "sentry:", err)
		p.fail(err)
		os.Exit(exitFailed)
	}
	if err := p.run(prepare); err != nil {
		p.fail(err)
		os.Exit(exitFailed)
	}
	os.Exit(p.code)
}

// exitFailed is the exit status of a sentry that couldn't start.
const exitFailed = 1

type process struct {
	options  Options
	parent   *os.File
	listener *os.File
	exit     *os.File
	console  *os.File
	noJail   bool
	code     int
}

func parse(args []string) (*process, error) {
	p := &process{}
	flags := flag.NewFlagSet("sentry", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	last := 2
	// Files are made after the rest is closed: with the first one the Go
	// runtime's poller opens descriptors of its own.
	var given []func()
	file := func(place **os.File, name, usage string) {
		flags.Func(name, usage, func(s string) error {
			fd, err := strconv.Atoi(s)
			if err != nil || fd < 3 {
				return fmt.Errorf("%q is not a descriptor above 2", s)
			}
			last = max(last, fd)
			given = append(given, func() {
				// The sockets become pollable by being non-blocking here.
				if place == &p.parent || place == &p.listener {
					unix.SetNonblock(fd, true)
				}
				*place = os.NewFile(uintptr(fd), name)
			})
			return nil
		})
	}
	file(&p.parent, "parent-fd", "the line to runsc")
	file(&p.listener, "control-fd", "a listening unix socket to serve control requests on")
	file(&p.exit, "exit-fd", "a file to write the exit status to")
	file(&p.console, "console-fd", "the controlling terminal, whose size is the root container's console's")
	file(&p.options.Log, "log-fd", "where logs go")
	flags.StringVar(&p.options.Platform, "platform", "auto", "ptrace, systrap or auto")
	flags.Uint64Var(&p.options.TotalMemory, "total-memory", 0, "memory that the sandbox shows, in bytes")
	flags.IntVar(&p.options.CPUs, "cpus", 0, "processors that the sandbox shows")
	flags.IntVar(&p.options.MaxTasks, "max-tasks", 0, "processes and threads that the sandbox may have")
	flags.BoolVar(&p.options.Strace, "strace", false, "log system calls of applications")
	flags.BoolVar(&p.options.Debug, "debug", false, "log more")
	flags.BoolVar(&p.noJail, "no-jail", false, "keep root directory, capabilities and all host calls (for debugging the sentry)")
	err := flags.Parse(args)
	if closeErr := jail.CloseFrom(last + 1); err == nil {
		err = closeErr
	}
	for _, f := range given {
		f()
	}
	if err != nil {
		return p, err
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if p.listener == nil || p.parent == nil {
		return p, errors.New("--control-fd and --parent-fd are needed; runsc starts this program")
	}
	return p, nil
}

func (p *process) run(prepare func(*Options) (Kernel, error)) error {
	if !p.noJail {
		if err := jail.ForbidCoreDumps(); err != nil {
			return err
		}
		if err := jail.DropBoundingSet(); err != nil {
			return err
		}
	}
	// runsc starts it with one, for the sake of the step before. Threads that wait
	// for application code count, until the Go runtime has found that out: more
	// than processors, for somebody to go on meanwhile.
	runtime.GOMAXPROCS(2 * runtime.NumCPU())
	go p.watchParent()
	// The terminal of a detached container hangs up and changes its size.
	// Hanging up shows in reads from it too.
	signal.Ignore(unix.SIGHUP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGTSTP)
	kernel, err := prepare(&p.options)
	if err != nil {
		return err
	}
	if !p.noJail {
		if err := jail.EmptyRoot(); err != nil {
			return err
		}
		if err := jail.DropPrivileges(); err != nil {
			return err
		}
		if err := jail.Confine(kernel.HostCalls(), p.options.Debug); err != nil {
			return err
		}
	}
	if p.console != nil {
		go p.followWindow(kernel)
	}
	server := control.NewServer(kernel)
	served := make(chan error, 1)
	go func() { served <- server.Serve(p.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("control socket: %w", err)
	case <-kernel.Ended():
	}
	status := kernel.ExitStatus()
	p.code = status.Code()
	if p.exit != nil {
		fmt.Fprintln(p.exit, p.code)
	}
	p.listener.Close()
	drained := make(chan struct{})
	go func() {
		server.Drain()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(answerTime):
	}
	return nil
}

// answerTime is how long the end of the sandbox waits for answers to be made and sent:
// that to a Create may wait for a gofer that never speaks.
const answerTime = 2 * time.Second

// watchParent ends the process when runsc goes away before it let go.
func (p *process) watchParent() {
	b := make([]byte, 1)
	if n, _ := p.parent.Read(b); n == 1 && b[0] == 'D' {
		return
	}
	os.Exit(128 + int(unix.SIGKILL))
}

// fail tells runsc why.
func (p *process) fail(err error) {
	if p.parent != nil {
		// One message; the pair keeps it when this end is closed.
		p.parent.WriteString(err.Error())
	}
}

// followWindow passes the console's size on when it changes.
func (p *process) followWindow(kernel Kernel) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	for range changed {
		size, err := unix.IoctlGetWinsize(int(p.console.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			continue
		}
		if ids, err := kernel.Containers(); err == nil && len(ids) > 0 {
			kernel.Resize(ids[0], 0, size.Row, size.Col)
		}
	}
}
