package gofer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/fs/fstest"
)

// inWords is a System that is asked only for what 9P has words for: no exchanges, no
// files without names, no attributes but users'.
type inWords struct {
	fstest.System
	plain bool // nor fallocate(2)
}

type plainFile struct{ fstest.File }

func (plainFile) Allocate(uint32, int64, int64) error { return nil }

func (s inWords) Open(path string, flags, mode uint32) (fstest.File, error) {
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		flags &^= unix.O_TMPFILE
	}
	f, err := s.System.Open(path, flags, mode)
	if s.plain && err == nil {
		f = plainFile{f}
	}
	return f, err
}

func (s inWords) Rename(old, path string, flags uint32) error {
	return s.System.Rename(old, path, flags&unix.RENAME_NOREPLACE)
}

func user(name string) string { return strings.Replace(name, "trusted.", "user.", 1) }

func (s inWords) SetXattr(path, name, value string, flags uint32) error {
	return s.System.SetXattr(path, user(name), value, flags)
}

func (s inWords) GetXattr(path, name string) (string, error) {
	return s.System.GetXattr(path, user(name))
}

func (s inWords) RemoveXattr(path, name string) error { return s.System.RemoveXattr(path, user(name)) }

func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 11))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestRandomCallsAgainstHost makes the same calls on a tree behind a gofer and on the host, and finds the same
// answers; then, that the gofer's tree really is what the file system says.
func TestRandomCallsAgainstHost(t *testing.T) {
	for _, c := range []struct {
		name string
		ext  p9.Extensions
		o    Options
	}{
		{"exclusive", p9.AllExtensions, Options{}},
		{"shared", p9.AllExtensions, Options{Shared: true}},
		{"forgetful", p9.AllExtensions, Options{MaxFids: 1, MaxIdle: 1}},
		{"plain", 0, Options{}},
		{"no descriptors", p9.AllExtensions &^ p9.ExtOpenFD, Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(40) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					dir := fstest.HostDir(t)
					tr := serve(t, dir, c.ext, c.o)
					ours := fstest.New(tr.fs)
					plain := c.ext&p9.ExtOpenFD == 0
					o := fstest.Options{NoHoles: true}
					fstest.Run(t, randomBytes(seed, 3000), inWords{ours, plain}, inWords{fstest.Host{Dir: fstest.HostDir(t)}, plain}, o)
					runtime.GC()
					sameTree(t, ours, fstest.Host{Dir: dir}, ".")
				})
			}
		})
	}
}

// sameTree compares all that is below path.
func sameTree(t *testing.T, a, b fstest.System, path string) {
	t.Helper()
	la, err := a.ReadDir(path)
	lb, errB := b.ReadDir(path)
	if fmt.Sprint(la) != fmt.Sprint(lb) || err != nil || errB != nil {
		t.Fatalf("%s holds %q, %v; on the host %q, %v", path, la, err, lb, errB)
	}
	for _, e := range lb {
		name, kind, _ := strings.Cut(e, " ")
		if name == "." || name == ".." {
			continue
		}
		p := path + "/" + name
		sa, err := a.Stat(p)
		sb, errB := b.Stat(p)
		sa.Dev, sb.Dev = 0, 0
		if kind == fmt.Sprint(unix.DT_DIR) {
			sa.Size, sb.Size = 0, 0 // as it was when we first looked
		}
		if sa != sb || err != nil || errB != nil {
			t.Fatalf("%s is %+v, %v; on the host %+v, %v", p, sa, err, sb, errB)
		}
		if kind == fmt.Sprint(unix.DT_DIR) {
			sameTree(t, a, b, p)
		}
	}
}

func TestOpenFindsAFileWhileItIsReplaced(t *testing.T) {
	for name, o := range map[string]Options{"exclusive": {}, "shared": {Shared: true}, "forgetful": {MaxFids: 1, MaxIdle: 1}} {
		for _, ext := range []p9.Extensions{p9.AllExtensions, p9.AllExtensions &^ p9.ExtOpenFD, 0} {
			t.Run(fmt.Sprint(name, ext), func(t *testing.T) {
				fstest.OpenWhileReplaced(t, func() *fstest.VFS {
					return fstest.New(serve(t, fstest.HostDir(t), ext, o).fs)
				})
			})
		}
	}
}

// As above, in a tree where somebody else does it.
func TestOpenFindsAFileWhileTheHostReplacesIt(t *testing.T) {
	for _, ext := range []p9.Extensions{p9.AllExtensions, 0} {
		for moments := 0; ; moments++ {
			dir := fstest.HostDir(t)
			v := fstest.New(serve(t, dir, ext, Options{Shared: true}).fs)
			for _, name := range []string{"a", "other"} {
				if err := os.WriteFile(dir+"/"+name, []byte(name), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := v.Stat("a"); err != nil {
				t.Fatal(err)
			}
			ctx := &fstest.Overtaken{Context: v.Ctx, N: moments, Then: func() {
				if err := os.Rename(dir+"/other", dir+"/a"); err != nil {
					t.Error(err)
				}
			}}
			f, err := v.Opener.Open(ctx, v.View(), "a", unix.O_RDONLY, 0, 0)
			if err != nil {
				t.Errorf("extensions %v, moment %d: %v", ext, moments, err)
			} else {
				f.DecRef()
			}
			if ctx.Early() {
				break
			}
		}
	}
}
