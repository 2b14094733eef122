package pseudo

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/vfs"
)

// newTree returns a file system with a file in parts, whose text differs each
// time it is begun, and a file that takes writes.
func newTree(t *testing.T) (s *fstest.VFS, begun, parts *int, stored *[]string) {
	t.Helper()
	begun, parts, stored = new(int), new(int), new([]string)
	fs := &vfs.Filesystem{Type: "pseudo", Dev: vfs.NewDev(), Policy: vfs.CacheDynamic}
	b := Builder{Dev: fs.Dev}
	root := b.Dir(0o755)
	b.PutFile(root, "a/b/long", 0o444, func(_ vfs.Context, out *bytes.Buffer, at int64) (int64, error) {
		if at == 0 {
			*begun++
		}
		*parts++
		if at == 10 {
			return Done, nil
		}
		out.WriteString(strings.Repeat(fmt.Sprint(at), 1000))
		out.WriteString(fmt.Sprintf("(%d)\n", *begun))
		return at + 1, nil
	})
	b.PutFile(root, "a/fails", 0o444, Whole(func(vfs.Context, *bytes.Buffer) error { return unix.ESRCH }))
	b.PutFile(root, "a/in", 0o200, nil).Store = func(_ vfs.Context, data []byte) error {
		*stored = append(*stored, string(data))
		if string(data) == "bad" {
			return unix.EINVAL
		}
		return nil
	}
	root.Put("link", b.Symlink(FixedTarget("a/b")))
	fs.SetRoot(root)
	return fstest.New(fs), begun, parts, stored
}

// whole is what the long file reads the n-th time.
func whole(n int) string {
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "%s(%d)\n", strings.Repeat(fmt.Sprint(i), 1000), n)
	}
	return b.String()
}

func TestPiecesFitTogether(t *testing.T) {
	for _, size := range []int{1, 7, 1000, 1004, 4096, 20000} {
		s, _, parts, _ := newTree(t)
		f, err := s.Open("/link/long", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for round := 1; round <= 2; round++ {
			var got strings.Builder
			for {
				p, err := f.Read(size)
				if err != nil {
					t.Fatal(err)
				}
				if p == "" {
					break
				}
				got.WriteString(p)
			}
			if got.String() != whole(round) {
				t.Errorf("in pieces of %d, reading %d gives %d bytes, not the expected %d", size, round, got.Len(), len(whole(round)))
			}
			if *parts != 11*round {
				t.Errorf("in pieces of %d, %d parts were made for %d readings", size, *parts, round)
			}
			if _, err := f.Seek(0, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
}

func TestAnyOffsetCanBeRead(t *testing.T) {
	s, begun, _, _ := newTree(t)
	f, err := s.Open("/a/b/long", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{9000, 1, 5000, 0, 10039, 10040, 10041, 1 << 40, 2} {
		before := *begun
		got, err := f.Pread(100, off)
		want := ""
		if text := whole(max(*begun, 1)); off < int64(len(text)) {
			want = text[off:min(off+100, int64(len(text)))]
		}
		if err != nil || got != want {
			t.Errorf("at %d (begun %d, then %d times): %q, %v; want %q", off, before, *begun, got, err, want)
		}
	}
}

func TestWritesAreTakenWhole(t *testing.T) {
	s, _, _, stored := newTree(t)
	f, err := s.Open("/a/in", unix.O_WRONLY|unix.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for data, want := range map[string]error{"good": nil, "bad": unix.EINVAL} {
		if n, err := f.Write(data); err != want || err == nil && n != len(data) {
			t.Errorf("%q: %d, %v", data, n, err)
		}
	}
	if n, err := f.Write(strings.Repeat("x", 10000)); n != maxStore || err != nil {
		t.Errorf("a write of 10000 bytes: %d, %v", n, err)
	}
	if len(*stored) != 3 || !slices.Contains(*stored, "good") {
		t.Errorf("it got %d writes", len(*stored))
	}
	for path, want := range map[string]error{"/a/in": unix.EINVAL, "/a/fails": unix.ESRCH} {
		g, err := s.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := g.Read(10); err != want {
			t.Errorf("reading %s: %v, want %v", path, err, want)
		}
		g.Close()
	}
	g, err := s.Open("/a/fails", unix.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, err := g.Write("x"); err != unix.EIO {
		t.Errorf("writing what can't be written: %v", err)
	}
}

func TestNamesKeepTheirOrderAndInodes(t *testing.T) {
	s, _, _, _ := newTree(t)
	names, err := s.ReadDir("/a")
	if want := []string{". 4", ".. 4", "b 4", "fails 8", "in 8"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("names are %q, %v; want %q", names, err, want)
	}
	if st, err := s.Stat("/"); err != nil || st.Nlink != 3 {
		t.Errorf("the root has %d links, %v", st.Nlink, err)
	}
	a, _ := s.Resolve("/a/b", false)
	b, _ := s.Resolve("/link", true)
	if a != b {
		t.Error("a name that was looked up twice is two places")
	}
}
