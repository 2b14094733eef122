package kernel_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	server "vitrine/pkg/gofer"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/dev"
	"vitrine/pkg/sentry/fs/gofer"
	"vitrine/pkg/sentry/fs/overlay"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/kernel/kerneltest"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/syscalls"
	"vitrine/pkg/sentry/vfs"
)

// The benchmarks of this file are what the Sentry does for a system call, without the
// platform: all that follows Switch until the next.

// scripted is a platform whose first task makes the calls that next says, and whose
// others make those of child, or exit.
type scripted struct {
	cooperative
	next  func(r *arch.Registers) bool // false: it is at its end
	used  bool                         // the first has its context
	child func(r *arch.Registers)
}

func (s *scripted) NewContext() platform.Context {
	c := &scriptedContext{script: s, child: s.used}
	s.used = true
	return c
}

type scriptedContext struct {
	callerContext
	script *scripted
	child  bool
}

func (c *scriptedContext) Switch(_ platform.AddressSpace, st *arch.State) (platform.Event, error) {
	if c.child && c.script.child != nil {
		c.script.child(&st.Regs)
	} else if c.child {
		st.Regs.OrigRax, st.Regs.Rdi = unix.SYS_EXIT, 0
	} else if !c.script.next(&st.Regs) {
		st.Regs.OrigRax, st.Regs.Rdi = unix.SYS_EXIT_GROUP, 0
	}
	return platform.Event{Kind: platform.EventSyscall}, nil
}

// served has the directory dir of the host served by a gofer in this process, below an
// overlay: what a container has as its root.
func served(b *testing.B, dir string) kerneltest.Root {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	tree, err := server.NewTree(fd, "tree", false, false)
	if err != nil {
		b.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p9.Serve(pair[1], tree, p9.ServerOptions{Extensions: p9.AllExtensions}) }()
	client, err := p9.Dial(pair[0], 0, p9.AllExtensions)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close(); <-done })
	return func(m *memfile.File, a *memfile.Account) (*vfs.Filesystem, error) {
		lower, err := gofer.New(client, gofer.Options{})
		if err != nil {
			return nil, err
		}
		return overlay.New(lower, auth.NewRoot(auth.NewRootUserNamespace()), tmpfs.Options{Memory: m, Account: a})
	}
}

type devices struct{ *dev.Registry }

func (devices) OpenFIFO(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

// program's writable memory: strings first, then room to read into.
const (
	strings = 0x10000000
	room    = 0x10010000
)

// call is a system call: its number and its arguments.
type call [7]uint64

// hostTree makes a directory of the host like a container's root, with some files.
func hostTree(b *testing.B) string {
	dir := b.TempDir()
	names := filepath.Join(dir, "usr/lib/python/names")
	if err := os.MkdirAll(names, 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
		b.Fatal(err)
	}
	for i := range 9 {
		if err := os.MkdirAll(filepath.Join(dir, "usr/share/doc", fmt.Sprintf("package%d", i)), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(names, fmt.Sprintf("file%d", i)), []byte("some text"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 4<<20), 0o644); err != nil {
		b.Fatal(err)
	}
	return dir
}

// runCalls measures rounds of calls. paths are in the application's memory at path(0), path(1),
// and so on; before is made once, and its results are what round is told. All must succeed.
func runCalls(b *testing.B, paths []string, before []call, round func(results []int64) []call) {
	var calls []call
	runTasks(b, nil, paths, before, func(w *kerneltest.Machine, results []int64, i int) (call, bool) {
		if calls == nil {
			calls = round(results)
		}
		return calls[i], i == len(calls)-1
	})
}

// runTasks is runCalls for a task that makes others, whose calls child says. next says
// the i-th call of a round, and whether it is the last. Where a futex has changed already is no
// failure.
func runTasks(b *testing.B, child func(r *arch.Registers, w *kerneltest.Machine), paths []string, before []call, next func(w *kerneltest.Machine, results []int64, i int) (call, bool)) {
	before = append([]call{{unix.SYS_MMAP, strings, 0x20000, unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED, ^uint64(0), 0}}, before...)
	var results []int64
	made, perRound := 0, 0
	s := &scripted{}
	k := &kernel.Kernel{Platform: s, CPUs: 2, Logf: func(string, ...any) {}, Syscalls: syscalls.NewTable(), Clock: clock.New(clock.HostTSCReliable())}
	w := kerneltest.New(b, k, served(b, hostTree(b)), memfile.NewHeapAccount(0))
	w.Run(b, "/prog", nil, nil)
	begun := false
	s.next = func(r *arch.Registers) bool {
		if begun && int64(r.Rax) < 0 && int64(r.Rax) > -4096 && !(r.OrigRax == unix.SYS_FUTEX && unix.Errno(-r.Rax) == unix.EAGAIN) {
			b.Errorf("call %d: %v", r.OrigRax, unix.Errno(-r.Rax))
			return false
		}
		if n := len(results); n < len(before) {
			if begun {
				results = append(results, int64(r.Rax))
				n++
			}
			begun = true
			if n == 1 {
				w.Init.MM().CopyOut(strings, pack(paths))
			}
			if n < len(before) {
				set(r, &before[n])
				return true
			}
		}
		if made == 0 && !b.Loop() {
			return false
		}
		c, last := next(w, results[1:], made)
		set(r, &c)
		made++
		if last {
			made, perRound = 0, made
		}
		return true
	}
	if child != nil {
		s.child = func(r *arch.Registers) { child(r, w) }
	}
	registry := &dev.Registry{}
	dev.RegisterMemory(registry, nil)
	k.Opener.Special = devices{registry}
	b.ReportAllocs()
	w.Init.Start()
	<-w.Init.ThreadGroup().Done()
	k.Wait()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*max(perRound, 1)), "ns/call")
}

func set(r *arch.Registers, c *call) {
	r.OrigRax, r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9 = c[0], c[1], c[2], c[3], c[4], c[5], c[6]
}

// pack puts strings into slots of slotSize bytes.
func pack(paths []string) []byte {
	out := make([]byte, 0, len(paths)*slotSize)
	for _, p := range paths {
		out = append(out, p...)
		out = append(out, make([]byte, slotSize-len(p))...)
	}
	return out
}

const slotSize = 64

func path(i int) uint64 { return strings + uint64(i)*slotSize }

func openAt(i int, flags, mode uint64) call {
	return call{unix.SYS_OPENAT, ^uint64(99), path(i), flags, mode}
}

// BenchmarkGetppid is the least that a call costs.
func BenchmarkGetppid(b *testing.B) {
	runCalls(b, nil, nil, func([]int64) []call { return []call{{unix.SYS_GETPPID}} })
}

func BenchmarkRead1(b *testing.B) {
	runCalls(b, []string{"/zero"}, []call{{unix.SYS_MKNODAT, ^uint64(99), path(0), unix.S_IFCHR | 0o666, unix.Mkdev(1, 5)}, openAt(0, unix.O_RDWR, 0)}, func(r []int64) []call {
		return []call{{unix.SYS_READ, uint64(r[1]), room, 1}}
	})
}

func BenchmarkPread4K(b *testing.B) {
	runCalls(b, []string{"/big"}, []call{openAt(0, unix.O_RDONLY, 0)}, func(r []int64) (c []call) {
		for i := range uint64(64) {
			c = append(c, call{unix.SYS_PREAD64, uint64(r[0]), room, 4096, i * 37 % 64 * 4096})
		}
		return c
	})
}

func BenchmarkStat(b *testing.B) {
	var names []string
	for i := range 256 {
		names = append(names, fmt.Sprintf("/usr/lib/python/names/file%d", i))
	}
	runCalls(b, names, nil, func([]int64) (c []call) {
		for i := range names {
			c = append(c, call{unix.SYS_STAT, path(i), room})
		}
		return c
	})
}

// The descriptor of what is opened is the lowest that is free.
func BenchmarkOpenReadClose(b *testing.B) {
	runCalls(b, []string{"/usr/lib/python/names/file7"}, nil, func([]int64) []call {
		return []call{openAt(0, unix.O_RDONLY, 0), {unix.SYS_READ, 0, room, 4096}, {unix.SYS_CLOSE, 0}}
	})
}

func BenchmarkCreateUnlink(b *testing.B) {
	runCalls(b, []string{"/tmp", "created"}, []call{openAt(0, unix.O_RDONLY|unix.O_DIRECTORY, 0)}, func(r []int64) []call {
		return []call{{unix.SYS_OPENAT, uint64(r[0]), path(1), unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, 0o644}, {unix.SYS_CLOSE, 1}, {unix.SYS_UNLINKAT, uint64(r[0]), path(1), 0}}
	})
}

// BenchmarkList lists a directory of 1,000 names.
func BenchmarkList(b *testing.B) {
	runCalls(b, []string{"/usr/lib/python/names"}, []call{openAt(0, unix.O_RDONLY|unix.O_DIRECTORY, 0)}, func(r []int64) []call {
		return []call{{unix.SYS_LSEEK, uint64(r[0]), 0, unix.SEEK_SET}, {unix.SYS_GETDENTS64, uint64(r[0]), room, 32768}, {unix.SYS_GETDENTS64, uint64(r[0]), room, 32768}}
	})
}

const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD | unix.CLONE_SYSVSEM

// BenchmarkThread is a thread that is made, exits, and is waited for.
func BenchmarkThread(b *testing.B) {
	runCalls(b, nil, nil, func([]int64) []call { return []call{{unix.SYS_CLONE, threadFlags | unix.CLONE_VFORK, room}} })
}

const futexWait, futexWake = 128, 128 + 1 // with FUTEX_PRIVATE_FLAG

// BenchmarkTurns is two threads that wake each other by turns, each by a futex.
func BenchmarkTurns(b *testing.B) {
	turn := func(w *kerneltest.Machine, me byte, i int) call {
		if i%2 == 0 {
			w.Init.MM().CopyOut(strings, []byte{1 - me})
			return call{unix.SYS_FUTEX, strings, futexWake, 1}
		}
		return call{unix.SYS_FUTEX, strings, futexWait, uint64(1 - me)}
	}
	made := 1
	child := func(r *arch.Registers, w *kerneltest.Machine) {
		c := turn(w, 1, made)
		set(r, &c)
		made++
	}
	runTasks(b, child, []string{""}, []call{{unix.SYS_CLONE, threadFlags, room}}, func(w *kerneltest.Machine, _ []int64, i int) (call, bool) {
		return turn(w, 0, i), i == 1
	})
}

// BenchmarkListSmall opens and lists a directory of nine names, as a walk through a tree does.
func BenchmarkListSmall(b *testing.B) {
	runCalls(b, []string{"/usr/share/doc"}, nil, func([]int64) []call {
		return []call{openAt(0, unix.O_RDONLY|unix.O_DIRECTORY, 0), {unix.SYS_NEWFSTATAT, 0, path(1), room, unix.AT_EMPTY_PATH}, {unix.SYS_GETDENTS64, 0, room, 32768}, {unix.SYS_GETDENTS64, 0, room, 32768}, {unix.SYS_CLOSE, 0}}
	})
}
