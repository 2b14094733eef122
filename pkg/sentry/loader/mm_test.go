package loader

import (
	"crypto/rand"
	"os"
	"testing"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/vdso"
	"vitrine/pkg/usermem"
)

// nowhere is a platform that runs nothing.
type nowhere struct{ platform.AddressSpace }

func (nowhere) Name() string                                    { return "nowhere" }
func (nowhere) UserRange() usermem.AddrRange                    { return testRange }
func (nowhere) NewAddressSpace() (platform.AddressSpace, error) { return nowhere{}, nil }
func (nowhere) NewContext() platform.Context                    { return nil }
func (nowhere) Forget(int)                                      {}
func (nowhere) Unmap(usermem.AddrRange)                         {}
func (nowhere) Protect(usermem.AddrRange, usermem.Access)       {}
func (nowhere) Flush()                                          {}
func (nowhere) Release()                                        {}
func (nowhere) MapFile(usermem.Addr, platform.File, uint64, uint64, usermem.Access, bool) error {
	return nil
}

// storeFile is a File whose pages are in the memory file.
type storeFile struct {
	memFile
	store *pagestore.Store
}

func (f *storeFile) Mappable() (memmap.Mappable, memmap.Identity, error) { return f.store, nil, nil }

// storeFS opens the host's files with their pages in the memory file.
type storeFS struct {
	file *memfile.File
	acct *memfile.Account
	t    *testing.T
}

func (fs storeFS) OpenExec(path string) (File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &storeFile{memFile: memFile{data: data}, store: pagestore.New(fs.file, fs.acct)}
	b := usermem.BytesBuffer(data)
	if n, err := f.store.WriteAt(&b, 0); err != nil || n != uint64(len(data)) {
		fs.t.Fatalf("filling a store: %d bytes, %v", n, err)
	}
	return f, nil
}

// TestLoadsIntoTheMemoryManager loads a program of the host into a real address
// space and compares what is there with what the fake one got.
func TestLoadsIntoTheMemoryManager(t *testing.T) {
	const path = "/bin/sh"
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs " + path)
	}
	file, err := memfile.New()
	if err != nil {
		t.Fatal(err)
	}
	acct, err := file.NewAccount("test", 0)
	if err != nil {
		t.Fatal(err)
	}
	fs := storeFS{file, acct, t}
	objects := pagestore.New(file, acct)
	if err := objects.Truncate(vdso.Size()); err != nil {
		t.Fatal(err)
	}
	data, size, err := vdso.Install(objects)
	if err != nil {
		t.Fatal(err)
	}
	data.Page.Starts[clock.Realtime].Seconds.Store(77)
	for range 20 {
		m, err := mm.New(nowhere{}, file, acct, mm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		prog, err := fs.OpenExec(path)
		if err != nil {
			t.Fatal(err)
		}
		args := Args{File: prog, Path: path, Opener: fs, Argv: []string{"sh", "-c", "true"}, Envv: []string{"A=b"}, StackLimit: 8 << 20}
		img, err := Load(args, Target{Memory: m, UserRange: m.Bounds(), Random: rand.Reader,
			VDSO: &VDSO{Mappable: objects, DataSize: vdso.DataSize, CodeSize: size}})
		if err != nil {
			t.Fatal(err)
		}
		read := func(a usermem.Addr, n int) []byte {
			t.Helper()
			b := make([]byte, n)
			if _, err := m.CopyIn(a, b); err != nil {
				t.Fatalf("reading %d bytes at %#x: %v", n, a, err)
			}
			return b
		}
		if argc := read(img.StackPointer, 8); argc[0] != 3 {
			t.Errorf("argc is %d", argc[0])
		}
		argRange, env := m.Args()
		if got := string(read(argRange.Start, int(argRange.Len()))) + string(read(env.Start, int(env.Len()))); got != "sh\x00-c\x00true\x00A=b\x00" {
			t.Errorf("strings are %q", got)
		}
		if got := string(read(img.VDSO, 4)); got != "\x7fELF" {
			t.Errorf("the vDSO begins with %q", got)
		}
		if got := read(img.VDSO-vdso.DataSize+64, 1)[0]; got != 77 {
			t.Errorf("the clocks' page holds %d, want what the Sentry wrote, 77", got)
		}
		for _, a := range m.Auxv() {
			if a.Type == atPhdr {
				if got := read(usermem.Addr(a.Value)-elfHeaderSize, 4); string(got) != "\x7fELF" {
					t.Errorf("the program begins with %q", got)
				}
			}
			if a.Type == atBase && img.Interpreter != "" {
				if got := read(usermem.Addr(a.Value), 4); string(got) != "\x7fELF" {
					t.Errorf("the interpreter begins with %q", got)
				}
			}
		}
		// What mmap(2) places must leave the stack its room to grow.
		r, err := m.MMap(mm.MMapOpts{Length: usermem.PageSize, Private: true})
		if err != nil {
			t.Fatal(err)
		}
		if r > img.StackPointer-(8<<20) {
			t.Errorf("a mapping at %#x is in the way of the stack at %#x", r, img.StackPointer)
		}
		if old := m.Brk(0); m.Brk(old+0x5000) != old+0x5000 {
			t.Error("the break can't grow")
		}
		m.DecUsers()
	}
}
