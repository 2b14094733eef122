package dev

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

type special struct{ *Registry }

func (special) OpenFIFO(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

func newTree(t *testing.T) *fstest.VFS {
	t.Helper()
	var o tmpfs.Options
	o.Memory, o.Account = fstest.Memory(t, 0)
	fs, err := NewTree(fstest.NewContext(), o, Console(), Device{Path: "sub/dir/x", Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(200, 1)})
	if err != nil {
		t.Fatal(err)
	}
	anon, err := tmpfs.NewAnonymous(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &Registry{}
	RegisterMemory(r, anon)
	s := fstest.New(fs)
	s.Opener.Special = special{r}
	return s
}

// TestSameAsHost makes the same calls on the devices here and on the host's.
func TestSameAsHost(t *testing.T) {
	ours, host := newTree(t), fstest.Host{Dir: "/dev"}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if _, err := os.Stat("/dev/" + name); err != nil {
			t.Logf("the host has no /dev/%s", name)
			continue
		}
		a, err := ours.Open(name, unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := host.Open(name, unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, call := range []func(f fstest.File) (any, error){
			func(f fstest.File) (any, error) { s, err := f.Read(5000); return len(s), err },
			func(f fstest.File) (any, error) { s, err := f.Pread(10, 99); return len(s), err },
			func(f fstest.File) (any, error) { n, err := f.Write("hello"); return n, err },
			func(f fstest.File) (any, error) { n, err := f.Pwrite("hello", 7); return n, err },
			func(f fstest.File) (any, error) { n, err := f.Seek(50, unix.SEEK_SET); return n, err },
			func(f fstest.File) (any, error) { return nil, f.Truncate(5) },
			func(f fstest.File) (any, error) { st, err := f.Stat(); return st.Mode & unix.S_IFMT, err },
		} {
			x, errX := call(a)
			y, errY := call(b)
			if x != y || errX != errY {
				t.Errorf("%s, call %d: %v, %v; the host has %v, %v", name, i, x, errX, y, errY)
			}
		}
		a.Close()
		b.Close()
	}
}

func TestTree(t *testing.T) {
	s := newTree(t)
	for path, want := range map[string]uint32{
		"null": unix.S_IFCHR | 0o666, "console": unix.S_IFCHR | 0o620, "shm": unix.S_IFDIR | 0o1777, "pts": unix.S_IFDIR | 0o755,
		"fd": unix.S_IFLNK | 0o777, "sub/dir/x": unix.S_IFCHR | 0o600, ".": unix.S_IFDIR | 0o755,
	} {
		if st, err := s.Stat(path); err != nil || st.Mode != want {
			t.Errorf("%s has mode %o, %v; want %o", path, st.Mode, err, want)
		}
	}
	if l, err := s.Readlink("ptmx"); l != "pts/ptmx" {
		t.Error(l, err)
	}
	if _, err := s.Open("sub/dir/x", unix.O_RDWR, 0); err != unix.ENXIO {
		t.Errorf("a device without a driver: %v", err)
	}
}

func TestMappingsOfZeroAreApart(t *testing.T) {
	s := newTree(t)
	f, err := s.OpenFile("zero", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	fill := func() byte {
		m, err := f.Mappable(s.Ctx, &vfs.MapOptions{Length: 4096, Offset: 8192})
		if err != nil {
			t.Fatal(err)
		}
		r := memmap.Range{Start: 8192, End: 8192 + 4096}
		tr, err := m.Translate(r, r, usermem.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := tr[0].File.Slice(tr[0].Offset, 4096)
		was := b[0]
		b[0] = 1
		tr[0].File.DecRef(tr[0].Offset, 4096)
		return was
	}
	if fill() != 0 || fill() != 0 {
		t.Error("a new mapping isn't zero")
	}
}
