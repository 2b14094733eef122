package fstest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// HostDir returns an empty directory on a tmpfs of the host.
func HostDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vitrine")
	if err != nil {
		t.Skip("needs a tmpfs of the host on /dev/shm: ", err)
	}
	os.Chmod(dir, 0o755)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Options for Run.
type Options struct {
	// NoHoles leaves SEEK_DATA and SEEK_HOLE out: where holes are is not
	// part of the comparison.
	NoHoles bool
	// NoDirLinks leaves st_nlink of directories out.
	NoDirLinks bool
}

// stream takes choices from fuzz data; at its end it gives zeros.
type stream struct {
	data []byte
}

func (s *stream) pick(n int) int {
	if len(s.data) == 0 {
		return 0
	}
	v := int(s.data[0])
	s.data = s.data[1:]
	if n > 256 && len(s.data) > 0 {
		v = v<<8 | int(s.data[0])
		s.data = s.data[1:]
	}
	return v % n
}

func (s *stream) path() string {
	names := [...]string{"a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/b", "f", "f/a", "f/g", "."}
	return names[s.pick(len(names))]
}

func (s *stream) offset() int64 {
	base := int64(s.pick(6)) * 4096
	switch s.pick(3) {
	case 0:
		return base
	case 1:
		return base + int64(s.pick(5000))
	}
	return max(0, base-int64(s.pick(20)))
}

func (s *stream) bytes(step int) string {
	n := [...]int{1, 10, 100, 4096, 5000, 8192, 13000}[s.pick(7)]
	return strings.Repeat(fmt.Sprintf("%03d,", step%1000), n/4+1)[:n]
}

// Run takes calls from data, makes each on both systems, and fails t at the
// first difference. It ends with a comparison of the whole trees.
func Run(t testing.TB, data []byte, ours, host System, o Options) {
	t.Helper()
	s := &stream{data}
	type pair struct {
		ours, host File
		name       string
	}
	var files []pair
	defer func() {
		for _, f := range files {
			f.ours.Close()
			f.host.Close()
		}
	}()
	var log []string
	check := func(call string, got, want any, gotErr, wantErr error) {
		t.Helper()
		log = append(log, fmt.Sprintf("%s = %.60v, %v", call, want, wantErr))
		g, w := fmt.Sprint(got), fmt.Sprint(want)
		if gotErr != wantErr && !(gotErr == nil && wantErr == nil) || g != w {
			if len(log) > 40 {
				log = log[len(log)-40:]
			}
			for i := range min(len(g), len(w)) {
				if g[i] != w[i] {
					g, w = fmt.Sprintf("at %d %.80q", i, g[max(0, i-8):]), fmt.Sprintf("at %d %.80q", i, w[max(0, i-8):])
					break
				}
			}
			t.Fatalf("%s: got %.200s, %v; the host has %.200s, %v; after:\n%s", call, g, gotErr, w, wantErr, strings.Join(log, "\n"))
		}
	}
	text := func(st Stat, err error) string {
		if err != nil {
			return ""
		}
		if o.NoDirLinks && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			st.Nlink = 0
		}
		return st.Text()
	}
	for _, dir := range []string{"d", "d/e", "f"} {
		if len(data) == 0 {
			break
		}
		check("mkdir "+dir, "", "", ours.Mkdir(dir, 0o755), host.Mkdir(dir, 0o755))
	}
	for step := 0; len(s.data) > 0; step++ {
		switch op := s.pick(26); op {
		case 0, 1, 2:
			p := s.path()
			flags := uint32([...]int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR}[s.pick(3)])
			flags |= uint32([...]int{0, unix.O_CREAT, unix.O_CREAT | unix.O_EXCL, unix.O_TRUNC, unix.O_CREAT | unix.O_TRUNC,
				unix.O_APPEND, unix.O_DIRECTORY, unix.O_NOFOLLOW | unix.O_CREAT, unix.O_TMPFILE}[s.pick(9)])
			f, err := ours.Open(p, flags|unix.O_NONBLOCK, 0o640)
			g, errHost := host.Open(p, flags|unix.O_NONBLOCK, 0o640)
			if err == nil && errHost == nil {
				if len(files) == 6 {
					files[0].ours.Close()
					files[0].host.Close()
					files = files[1:]
				}
				files = append(files, pair{f, g, p})
			}
			check(fmt.Sprintf("open(%s, %#o)", p, flags), "", "", err, errHost)
		case 3:
			p := s.path()
			check("mkdir "+p, "", "", ours.Mkdir(p, 0o750), host.Mkdir(p, 0o750))
		case 4:
			p := s.path()
			check("unlink "+p, "", "", ours.Unlink(p), host.Unlink(p))
		case 5:
			p := s.path()
			check("rmdir "+p, "", "", ours.Rmdir(p), host.Rmdir(p))
		case 6, 7, 8:
			p, q := s.path(), s.path()
			flags := [...]uint32{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT}[s.pick(5)]
			check(fmt.Sprintf("rename %s %s %d", p, q, flags), "", "", ours.Rename(p, q, flags), host.Rename(p, q, flags))
		case 9:
			p, q := s.path(), s.path()
			check("link "+p+" "+q, "", "", ours.Link(p, q), host.Link(p, q))
		case 10:
			p, q := s.path(), s.path()
			check("symlink "+p+" "+q, "", "", ours.Symlink(p, q), host.Symlink(p, q))
		case 11:
			p := s.path()
			mode := [...]uint32{unix.S_IFSOCK | 0o600, unix.S_IFREG | 0o600}[s.pick(2)]
			check("mknod "+p, "", "", ours.Mknod(p, mode), host.Mknod(p, mode))
		case 12:
			p, n := s.path(), s.offset()
			check(fmt.Sprintf("truncate %s %d", p, n), "", "", ours.Truncate(p, n), host.Truncate(p, n))
		case 13:
			p, m := s.path(), [...]uint32{0o600, 0o755, 0o4755}[s.pick(3)]
			check("chmod "+p, "", "", ours.Chmod(p, m), host.Chmod(p, m))
		case 14:
			p := s.path()
			a, err := ours.Stat(p)
			b, errHost := host.Stat(p)
			check("stat "+p, text(a, err), text(b, errHost), err, errHost)
		case 15:
			p := s.path()
			a, err := ours.Readlink(p)
			b, errHost := host.Readlink(p)
			check("readlink "+p, a, b, err, errHost)
		case 16:
			p := s.path()
			a, err := ours.ReadDir(p)
			b, errHost := host.ReadDir(p)
			check("readdir "+p, a, b, err, errHost)
		case 17:
			p, n := s.path(), "trusted."+[...]string{"x", "y"}[s.pick(2)]
			switch s.pick(3) {
			case 0:
				fl := uint32(s.pick(3))
				check("setxattr "+p, "", "", ours.SetXattr(p, n, p, fl), host.SetXattr(p, n, p, fl))
			case 1:
				a, err := ours.GetXattr(p, n)
				b, errHost := host.GetXattr(p, n)
				check("getxattr "+p, a, b, err, errHost)
			case 2:
				check("removexattr "+p, "", "", ours.RemoveXattr(p, n), host.RemoveXattr(p, n))
			}
		default:
			if len(files) == 0 {
				continue
			}
			i := s.pick(len(files))
			f := files[i]
			what := fmt.Sprintf("on %s (#%d): ", f.name, i)
			switch op {
			case 18:
				n := []int{1, 100, 5000, 40000}[s.pick(4)]
				a, err := f.ours.Read(n)
				b, errHost := f.host.Read(n)
				check(what+"read", a, b, err, errHost)
			case 19:
				d := s.bytes(step)
				a, err := f.ours.Write(d)
				b, errHost := f.host.Write(d)
				check(fmt.Sprint(what, "write ", len(d)), a, b, err, errHost)
			case 20:
				off := s.offset()
				a, err := f.ours.Pread(6000, off)
				b, errHost := f.host.Pread(6000, off)
				check(fmt.Sprint(what, "pread at ", off), a, b, err, errHost)
			case 21:
				d, off := s.bytes(step), s.offset()
				a, err := f.ours.Pwrite(d, off)
				b, errHost := f.host.Pwrite(d, off)
				check(fmt.Sprint(what, "pwrite ", len(d), " at ", off), a, b, err, errHost)
			case 22:
				off, whence := s.offset(), s.pick(5)
				if st, _ := f.host.Stat(); st.Mode&unix.S_IFMT == unix.S_IFDIR {
					off, whence = 0, []int{0, 2}[whence%2] // cookies are each system's own
				}
				if o.NoHoles {
					whence %= 3
				}
				a, err := f.ours.Seek(off, whence)
				b, errHost := f.host.Seek(off, whence)
				check(fmt.Sprint(what, "seek ", off, whence), a, b, err, errHost)
			case 23:
				n := s.offset()
				check(fmt.Sprint(what, "ftruncate ", n), "", "", f.ours.Truncate(n), f.host.Truncate(n))
			case 24:
				m, off, n := []uint32{0, 1, 3}[s.pick(3)], s.offset(), s.offset()
				check(fmt.Sprint(what, "fallocate ", m, off, n), "", "", f.ours.Allocate(m, off, n), f.host.Allocate(m, off, n))
			case 25:
				a, err := f.ours.Stat()
				b, errHost := f.host.Stat()
				check(what+"fstat", text(a, err), text(b, errHost), err, errHost)
				if s.pick(2) == 0 {
					f.ours.Close()
					f.host.Close()
					files = append(files[:i], files[i+1:]...)
				}
			}
		}
	}
	var walk func(p string)
	walk = func(p string) {
		a, err := ours.ReadDir(p)
		b, errHost := host.ReadDir(p)
		check("at the end: readdir "+p, a, b, err, errHost)
		for _, e := range b {
			name, _, _ := strings.Cut(e, " ")
			if name == "." || name == ".." {
				continue
			}
			q := p + "/" + name
			x, err := ours.Stat(q)
			y, errHost := host.Stat(q)
			check("at the end: stat "+q, text(x, err), text(y, errHost), err, errHost)
			switch y.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				walk(q)
			case unix.S_IFREG:
				f, err := ours.Open(q, unix.O_RDONLY, 0)
				g, errHost := host.Open(q, unix.O_RDONLY, 0)
				check("at the end: open "+q, "", "", err, errHost)
				c, err := f.Pread(1<<20, 0)
				d, errHost := g.Pread(1<<20, 0)
				check("at the end: read "+q, c, d, err, errHost)
				f.Close()
				g.Close()
			}
		}
	}
	walk(".")
}
