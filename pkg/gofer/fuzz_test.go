package gofer

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// frame puts a header before a message's body.
func frame(kind byte, tag uint16, body []byte) []byte {
	m := binary.LittleEndian.AppendUint32(nil, uint32(len(body)+p9.HeaderSize))
	m = append(m, kind, byte(tag), byte(tag>>8))
	return append(m, body...)
}

// hello is Tversion with all extensions and Tattach of fid 1.
func hello() []byte {
	version := "9P2000.L+walk+openfd+make+plus+clunks"
	body := binary.LittleEndian.AppendUint32(nil, 8192)
	body = binary.LittleEndian.AppendUint16(body, uint16(len(version)))
	b := frame(100, p9.NoTag, append(body, version...))
	return append(b, frame(104, 0, []byte{1, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255})...)
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// FuzzServer sends a stream of messages to a server of a small tree: fuzz holds them as kind, length, body, and 0xff for the
// rest of it raw. The server must end when the stream does, must leave no descriptor behind, and must not
// touch what is beside its tree.
func FuzzServer(f *testing.F) {
	seed := func(messages ...[]byte) {
		var b []byte
		for _, m := range messages {
			b = append(append(b, m[0], byte(len(m)-1)), m[1:]...)
		}
		f.Add(b)
	}
	fid := func(n byte) []byte { return []byte{n, 0, 0, 0} }
	cat := func(kind byte, parts ...[]byte) []byte {
		m := []byte{kind}
		for _, p := range parts {
			m = append(m, p...)
		}
		return m
	}
	str := func(s string) []byte { return append([]byte{byte(len(s)), 0}, s...) }
	zero8 := make([]byte, 8)
	seed(cat(110, fid(1), fid(2), []byte{1, 0}, str("file")), cat(12, fid(2), fid(2)), cat(118, fid(2), zero8, fid(2), []byte("ab")),
		cat(116, fid(2), zero8, fid(100)), cat(50, fid(2)), cat(120, fid(2)))
	seed(cat(110, fid(1), fid(3), []byte{0, 0}), cat(12, fid(3), fid(0)), cat(40, fid(3), zero8, fid(255)), cat(206, fid(3), zero8, []byte{0, 10, 0, 0}))
	seed(cat(72, fid(1), str("d"), fid(255), fid(0)), cat(74, fid(1), str("d"), fid(1), str("e")), cat(76, fid(1), str("e"), []byte{0, 2, 0, 0}))
	seed(cat(200, fid(1), fid(5), []byte{3}, fid(0), []byte{2, 0}, str("dir"), str("inner")), cat(208, []byte{2, 0}, fid(5), fid(6)))
	seed(cat(204, fid(1), fid(7), []byte{2}, fid(2), str("new"), fid(255), zero8, fid(0), fid(0), str("")), cat(202, fid(7), fid(0)))
	seed(cat(16, fid(1), str("l"), str("../../beside"), fid(0)), cat(110, fid(1), fid(8), []byte{1, 0}, str("l")), cat(22, fid(8)), cat(12, fid(8), fid(2)))
	seed(cat(110, fid(1), fid(2), []byte{1, 0}, str("file")), cat(32, fid(2), str("user.a"), []byte{2, 0, 0, 0, 0, 0, 0, 0}, fid(0)),
		cat(118, fid(2), zero8, fid(2), []byte("xy")), cat(120, fid(2)), cat(30, fid(1), fid(9), str("")))
	seed(cat(110, fid(1), fid(2), []byte{1, 0}, str("..")), cat(108, []byte{0, 0}), cat(122, fid(1)), cat(8, fid(1)), cat(24, fid(1), zero8))
	f.Add([]byte{0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte{0xff, 0, 0, 0, 0, 0, 0, 0})

	outer := f.TempDir()
	f.Fuzz(func(t *testing.T, input []byte) {
		before := openFiles(t)
		dir := filepath.Join(outer, "tree")
		os.RemoveAll(dir)
		ok(t, os.MkdirAll(filepath.Join(dir, "dir", "inner"), 0o755))
		ok(t, os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644))
		ok(t, os.WriteFile(filepath.Join(outer, "beside"), []byte("untouched"), 0o644))

		root, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
		ok(t, err)
		tree, err := NewTree(root, "", false, false)
		ok(t, err)
		ours, theirs := socketpair(t)
		served := make(chan struct{})
		go func() {
			p9.Serve(theirs, tree, p9.ServerOptions{Extensions: p9.AllExtensions})
			close(served)
		}()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			var buf [4096]byte
			for {
				if n, err := unix.Read(ours, buf[:]); n <= 0 && err != unix.EINTR {
					return
				}
			}
		}()
		stream := hello()
		for tag := uint16(1); len(input) >= 2; tag++ {
			if input[0] == 0xff {
				stream = append(stream, input[1:]...)
				break
			}
			n := min(int(input[1]), len(input)-2)
			stream = append(stream, frame(input[0], tag, input[2:2+n])...)
			input = input[2+n:]
		}
		for len(stream) > 0 {
			n, err := unix.SendmsgN(ours, stream, nil, nil, unix.MSG_NOSIGNAL)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break // it has hung up on us
			}
			stream = stream[n:]
		}
		unix.Shutdown(ours, unix.SHUT_WR)
		<-served
		<-drained
		unix.Close(ours)
		unix.Close(root)
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
		if text, err := os.ReadFile(filepath.Join(outer, "beside")); string(text) != "untouched" {
			t.Errorf("the file beside the tree holds %q, %v", text, err)
		}
		if entries, err := os.ReadDir(outer); err != nil || len(entries) > 2 {
			t.Errorf("beside the tree: %v, %v", entries, err)
		}
	})
}
