package gofer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// benchTree serves a directory of 1,000 files without a relay.
func benchTree(b *testing.B, o Options) *tree {
	b.Helper()
	dir := b.TempDir()
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d", i)), []byte("some text"), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return serveDirect(b, dir, p9.AllExtensions, o)
}

func BenchmarkStatCached(b *testing.B) {
	tr := benchTree(b, Options{})
	p, err := vfs.Resolve(tr.ctx, tr.view, "/file1", 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var a vfs.Attr
	for b.Loop() {
		if err := p.Inode().Attributes(tr.ctx, &a); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatAfterWrite(b *testing.B) {
	tr := benchTree(b, Options{})
	f := tr.open("/file1", unix.O_RDWR, 0)
	b.ReportAllocs()
	var a vfs.Attr
	for b.Loop() {
		of(f.Inode()).node.writes.Add(1)
		f.Stat(tr.ctx, &a)
	}
}

func BenchmarkLookup(b *testing.B) {
	tr := benchTree(b, Options{})
	d := tr.fs.Root().Inode().(vfs.Directory)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Lookup(tr.ctx, "file1"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRevalidate(b *testing.B) {
	tr := benchTree(b, Options{Shared: true})
	for b.Loop() {
		if _, err := tr.stat("/file1"); err != nil {
			b.Fatal(err)
		}
	}
}

func benchOpenReadClose(b *testing.B, o Options, keep int) {
	tr := benchTree(b, o)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		f := tr.open(fmt.Sprintf("/file%d", i%1000), unix.O_RDONLY, 0)
		dst := usermem.BytesBuffer(buf)
		if _, err := f.Read(tr.ctx, &dst); err != nil {
			b.Fatal(err)
		}
		f.DecRef()
		i += keep
	}
}

func BenchmarkOpenReadClose(b *testing.B)      { benchOpenReadClose(b, Options{}, 0) }
func BenchmarkOpenReadCloseFirst(b *testing.B) { benchOpenReadClose(b, Options{MaxIdle: 1}, 1) }

func BenchmarkOpenReadCloseHost(b *testing.B) {
	name := filepath.Join(b.TempDir(), "file")
	os.WriteFile(name, []byte("some text"), 0o644)
	buf := make([]byte, 4096)
	for b.Loop() {
		fd, err := unix.Open(name, unix.O_RDONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		unix.Read(fd, buf)
		unix.Close(fd)
	}
}

func BenchmarkRead4K(b *testing.B) {
	tr := benchTree(b, Options{})
	f := tr.open("/file1", unix.O_RDWR, 0)
	buf := make([]byte, 4096)
	dst := usermem.BytesBuffer(buf)
	f.WriteAt(tr.ctx, &dst, 0)
	b.ReportAllocs()
	for b.Loop() {
		dst := usermem.BytesBuffer(buf)
		f.ReadAt(tr.ctx, &dst, 0)
	}
}

func BenchmarkWrite4K(b *testing.B) {
	tr := benchTree(b, Options{})
	f := tr.open("/file1", unix.O_RDWR, 0)
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		src := usermem.BytesBuffer(buf)
		f.WriteAt(tr.ctx, &src, 0)
	}
}

func benchReaddir(b *testing.B, forget bool) {
	tr := benchTree(b, Options{})
	d := tr.fs.Root().Inode().(*directory)
	for b.Loop() {
		if forget {
			d.listMu.Lock()
			d.list = nil
			d.listMu.Unlock()
		}
		f := tr.open("/", unix.O_RDONLY, 0)
		n := 0
		if err := f.ReadDir(tr.ctx, func(vfs.DirEntry) bool { n++; return true }); n != 1002 {
			b.Fatal(n, err)
		}
		f.DecRef()
	}
}

func BenchmarkReaddir1000(b *testing.B)      { benchReaddir(b, false) }
func BenchmarkReaddir1000First(b *testing.B) { benchReaddir(b, true) }

func BenchmarkCreateWriteUnlink(b *testing.B) {
	tr := serveDirect(b, b.TempDir(), p9.AllExtensions, Options{})
	for b.Loop() {
		f := tr.open("/file", unix.O_CREAT|unix.O_RDWR, 0o644)
		f.Write(tr.ctx, bytesBuffer("some text"))
		f.DecRef()
		if err := vfs.Unlink(tr.ctx, tr.view, "/file"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateWriteUnlinkHost(b *testing.B) {
	name := filepath.Join(b.TempDir(), "file")
	for b.Loop() {
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR, 0o644)
		if err != nil {
			b.Fatal(err)
		}
		unix.Write(fd, []byte("some text"))
		unix.Close(fd)
		if err := unix.Unlink(name); err != nil {
			b.Fatal(err)
		}
	}
}
