// Package kerneltest makes kernels for tests: with a platform that executes nothing,
// some files and a first process, whose program is one empty page.
//
//	Platform  a platform without address spaces to speak of
//	Context   what a context of it does that the test doesn't care about
//	Machine   a kernel with its first process
//
// It is for tests only. What tasks do is for the test's contexts and its handler of
// system calls; what is read and written goes by the usual locks.
package kerneltest

import (
	"crypto/rand"
	"encoding/binary"
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
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Platform is a platform whose contexts Contexts makes, and its own address space.
type Platform struct {
	platform.AddressSpace
	Contexts func() platform.Context
}

func (Platform) Name() string { return "test" }
func (Platform) UserRange() usermem.AddrRange {
	return usermem.AddrRange{Start: 0x1000, End: 0x7ffffffff000}
}
func (Platform) NewAddressSpace() (platform.AddressSpace, error) { return Platform{}, nil }
func (p Platform) NewContext() platform.Context                  { return p.Contexts() }
func (Platform) Forget(int)                                      {}
func (Platform) Unmap(usermem.AddrRange)                         {}
func (Platform) Protect(usermem.AddrRange, usermem.Access)       {}
func (Platform) Flush()                                          {}
func (Platform) Inherit(platform.AddressSpace)                   {}
func (Platform) Release()                                        {}
func (Platform) MapFile(usermem.Addr, platform.File, uint64, uint64, usermem.Access, bool) error {
	return nil
}

// Context is a platform.Context but for Switch and Interrupt.
type Context struct{}

func (Context) PullFP(*arch.State) {}
func (Context) DropFP()            {}
func (Context) Heed()              {}
func (Context) Park(*arch.State)   {}
func (Context) Release()           {}

// Page is where the page of a Program is.
const Page = 0x400000

// Program is a static ELF file that maps one page.
func Program() []byte {
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, 62)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, Page+0x78)
	b = le.AppendUint64(b, 64)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 5)
	for _, v := range []uint64{0, Page, Page, 128, 128, 4096} {
		b = le.AppendUint64(b, v)
	}
	return append(b, make([]byte, 8)...)
}

// Machine is a kernel with a first process, and its files.
type Machine struct {
	*fstest.VFS
	Kernel *kernel.Kernel
	// Init is the first process's task. It hasn't started; VFS's calls are its own.
	Init    *kernel.Task
	Account *memfile.Account
	View    vfs.FSView
}

// Root makes the root of a machine's files, of memory that the account pays for.
type Root func(*memfile.File, *memfile.Account) (*vfs.Filesystem, error)

// InMemory is a Root that is empty.
func InMemory(memory *memfile.File, acct *memfile.Account) (*vfs.Filesystem, error) {
	return tmpfs.New(tmpfs.Options{Memory: memory, Account: acct, Mode: unix.S_IFDIR | 0o755})
}

// New returns a machine with kernel k, whose Platform is set. heap pays for what tasks
// make the kernel hold; nil: nobody does.
func New(t testing.TB, k *kernel.Kernel, root Root, heap *memfile.Account) *Machine {
	t.Helper()
	memory, acct := fstest.Memory(t, 0)
	if k.Clock == nil {
		k.Clock = clock.New(false)
	}
	k.Memory, k.Random, k.Timers = memory, rand.Reader, clock.NewQueue(k.Clock.Monotonic)
	if k.Logf == nil {
		k.Logf = t.Logf
	}
	k.Init()
	fs, err := root(memory, acct)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{VFS: fstest.New(fs), Kernel: k, Account: acct}
	m.NS.Inode = k.NewNamespaceInode()
	space, err := mm.New(k.Platform, memory, acct, mm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	top, user := m.NS.Root(), k.RootUserNS
	cred := auth.NewRoot(user)
	cred.Account = heap
	m.Init, err = k.NewProcess(&kernel.ProcessArgs{
		Creds: cred,
		Namespaces: &kernel.Namespaces{UTS: k.NewUTSNamespace(user, "glass", "(none)"), IPC: k.NewIPCNamespace(user),
			Net: k.NewNetNamespace(user, nil), Mount: m.NS, PIDForChildren: k.RootPIDNS},
		Container: &kernel.Container{ID: "test"}, FS: vfs.NewFSContext(top, top, 0o022), FDs: vfs.NewFDTable(), Limits: limits.NewSet(),
	}, space)
	if err != nil {
		t.Fatal(err)
	}
	m.Ctx = m.Init
	m.View = vfs.FSView{Root: top, Start: top}
	return m
}

// Run puts Program at path and has Init execute it, with args after its name, and env.
func (m *Machine) Run(t testing.TB, path string, args, env []string) {
	t.Helper()
	f, err := m.OpenFile(path, unix.O_CREAT|unix.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	b := usermem.BytesBuffer(Program())
	if _, err := f.Write(m.Init, &b); err != nil {
		t.Fatal(err)
	}
	f.DecRef()
	if err := m.Init.Exec(&kernel.ExecArgs{View: m.View, Path: path, Flags: vfs.FollowFinal, Argv: append([]string{"prog"}, args...), Envv: env}); err != nil {
		t.Fatal(err)
	}
}
