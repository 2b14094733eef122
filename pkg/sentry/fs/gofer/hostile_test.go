package gofer

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/vfs"
)

// liar is a tree whose attributes and names are lies.
type liar struct {
	attr  p9.Attr
	names []string
	again bool // never comes to the end of a directory
}

func (l *liar) Attach(string, uint32, string) (p9.Node, error) { return &lie{l, dirAttr(1)}, nil }

func dirAttr(path uint64) p9.Attr {
	return p9.Attr{Qid: p9.Qid{Type: p9.QidDir, Path: path}, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
}

type lie struct {
	l    *liar
	attr p9.Attr
}

func (n *lie) Walk(string) (p9.Node, p9.Attr, error) { return &lie{n.l, n.l.attr}, n.l.attr, nil }
func (n *lie) GetAttr() (p9.Attr, error)             { return n.attr, nil }
func (n *lie) SetAttr(*p9.SetAttr) error             { return nil }
func (n *lie) Open(uint32) (p9.Handle, error)        { return n, nil }
func (n *lie) Release()                              {}
func (n *lie) Close()                                {}
func (n *lie) Readlink() (string, error)             { return "", nil }
func (n *lie) Make(*p9.MakeArgs) (p9.Node, p9.Attr, error) {
	return &lie{n.l, n.l.attr}, n.l.attr, nil
}
func (n *lie) Link(string, p9.Node) error           { return nil }
func (n *lie) Rename(string, p9.Node, string) error { return nil }
func (n *lie) Unlink(string, uint32) error          { return nil }

func (n *lie) ReadDir(offset uint64, plus bool, yield func(*p9.Dirent) bool) error {
	for i, name := range n.l.names {
		if offset > uint64(i) && !n.l.again {
			continue
		}
		e := p9.Dirent{Name: name, Offset: uint64(i + 1), Type: 4, Qid: n.l.attr.Qid, HasAttr: plus, Attr: n.l.attr}
		if n.l.again {
			e.Offset = 1
		}
		if !yield(&e) {
			return nil
		}
	}
	return nil
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	file := p9.Attr{Qid: p9.Qid{Path: 2}, Mode: unix.S_IFREG | 0o644, Nlink: 1}
	with := func(f func(a *p9.Attr)) *liar {
		a := file
		f(&a)
		return &liar{attr: a}
	}
	for _, c := range []struct {
		name string
		l    *liar
		fine bool // nothing to complain about, but nothing may break either
	}{
		{"no type", with(func(a *p9.Attr) { a.Mode = 0 }), false},
		{"a size below zero", with(func(a *p9.Attr) { a.Size = math.MaxUint64 }), false},
		{"times out of range", with(func(a *p9.Attr) {
			a.Mtime = p9.Time{Sec: math.MaxUint64 / 2, Nsec: math.MaxUint64}
			a.Ctime = p9.Time{Sec: 1 << 63}
		}), true},
		{"the root below itself", &liar{attr: dirAttr(1)}, true},
		{"a file with the root's number", with(func(a *p9.Attr) { a.Qid.Path = 1 }), true},
		{"a name with a slash", &liar{attr: file, names: []string{"a/b"}}, false},
		{"an empty name", &liar{attr: file, names: []string{""}}, false},
		{"a NUL", &liar{attr: file, names: []string{"a\x00"}}, false},
		{"a directory without an end", &liar{attr: file, names: []string{"x", "."}, again: true}, true},
		{"only the dot without an end", &liar{attr: file, names: []string{"."}, again: true}, true},
	} {
		for _, ext := range []p9.Extensions{p9.AllExtensions, p9.AllExtensions &^ p9.ExtList, 0} {
			t.Run(c.name, func(t *testing.T) {
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				tr := connect(t, c.l, pair[0], pair[1], ext, Options{})
				_, err = tr.stat("/x")
				failed := err != nil
				f := tr.open("/", unix.O_RDONLY, 0)
				n := 0
				if err := f.ReadDir(tr.ctx, func(e vfs.DirEntry) bool { n++; return n < 1000 }); err != nil {
					failed = true
				}
				f.DecRef()
				if failed == c.fine {
					t.Errorf("failed: %v", failed)
				}
				// Whatever these answer, they return.
				tr.stat("/x/y/z")
				tr.read("/x")
				vfs.Mkdir(tr.ctx, tr.view, "/x/new", 0o755)
				vfs.Rename(tr.ctx, tr.view, "/x", tr.view, "/y", 0)
				vfs.Unlink(tr.ctx, tr.view, "/x")
			})
		}
	}
}

func TestTreeOfOneFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	os.WriteFile(name, []byte("content"), 0o644)
	for _, ext := range []p9.Extensions{p9.AllExtensions, 0} {
		root, pair := hostTree(t, name)
		tr := connect(t, root, pair[0], pair[1], ext, Options{})
		p := vfs.Path{Mount: tr.view.Root.Mount, Dentry: tr.fs.Root()}
		f, err := tr.opener.OpenPath(tr.ctx, p, unix.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := readAll(tr, f); s != "content" || err != nil {
			t.Errorf("%q, %v", s, err)
		}
		var a vfs.Attr
		if err := f.Stat(tr.ctx, &a); err != nil || a.Size != 7 {
			t.Errorf("%+v, %v", a, err)
		}
		f.DecRef()
	}
}
