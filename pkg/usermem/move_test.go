package usermem

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMove(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for _, n := range []int{0, 1, 4096, moveMin - 1, moveMin, moveMin + 1, moveMin + 36<<10 - 1, 1 << 20, 1<<20 + 12345} {
		for _, shift := range []int{0, 1, 33} {
			src := make([]byte, n+shift)
			r.Read(src)
			dst := make([]byte, n+shift+100)
			if got := Move(dst[shift:shift+n], src[shift:]); got != n {
				t.Fatalf("%d bytes: moved %d", n, got)
			}
			if !bytes.Equal(dst[shift:shift+n], src[shift:]) {
				t.Errorf("%d bytes at %d: not the same", n, shift)
			}
			if !bytes.Equal(dst[:shift], make([]byte, shift)) || !bytes.Equal(dst[shift+n:], make([]byte, 100)) {
				t.Errorf("%d bytes at %d: bytes beside them changed", n, shift)
			}
		}
	}
	if got := Move(make([]byte, moveMin+5), make([]byte, moveMin)); got != moveMin {
		t.Errorf("a shorter source: moved %d", got)
	}
}

// What overlaps is moved as the built-in copy moves it.
func TestMoveOverlap(t *testing.T) {
	const n = moveMin + 5000
	for _, by := range []int{0, 1, 64, 4096, 40 << 10, n - 1, n} {
		for _, up := range []bool{true, false} {
			got, want := make([]byte, 2*n), make([]byte, 2*n)
			rand.New(rand.NewSource(int64(by))).Read(got)
			copy(want, got)
			if up {
				Move(got[by:by+n], got[:n])
				copy(want[by:by+n], want[:n])
			} else {
				Move(got[:n], got[by:by+n])
				copy(want[:n], want[by:by+n])
			}
			if !bytes.Equal(got, want) {
				t.Errorf("moved by %d (up: %v): not what copy makes", by, up)
			}
		}
	}
}

// A file that was cut below a mapping gives an error, also in the middle of a
// large move, and the goroutine goes on.
func TestMoveFault(t *testing.T) {
	for _, cut := range []int64{0, moveMin / 2} {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Truncate(2 * moveMin)
		b, err := unix.Mmap(int(f.Fd()), 0, 2*moveMin, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(b)
		f.Truncate(cut)
		if err := Guard(func() error { Move(make([]byte, 2*moveMin), b); return nil }); err != unix.EFAULT {
			t.Errorf("from a file cut at %d: %v", cut, err)
		}
		if err := Guard(func() error { Move(b, make([]byte, 2*moveMin)); return nil }); err != unix.EFAULT {
			t.Errorf("to a file cut at %d: %v", cut, err)
		}
	}
}

// The source is larger than the caches, the destination isn't: what a read of a
// large file does.
func BenchmarkMove(b *testing.B) {
	const all = 256 << 20
	fd, err := unix.MemfdCreate("", unix.MFD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	unix.Ftruncate(fd, all+1<<20)
	m, err := unix.Mmap(fd, 0, all+1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Munmap(m)
	for i := range m {
		m[i] = byte(i)
	}
	for _, size := range []int{32 << 10, 128 << 10, 1 << 20} {
		for _, how := range []struct {
			name string
			move func(dst, src []byte) int
		}{{"copy", func(dst, src []byte) int { return copy(dst, src) }}, {"Move", Move}} {
			b.Run(fmt.Sprintf("%s/%d", how.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for i := 0; i < b.N; i++ {
					at := i * size % all
					how.move(m[all:all+size], m[at:at+size])
				}
			})
			b.Run(fmt.Sprintf("%s/%d/cached", how.name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for i := 0; i < b.N; i++ {
					how.move(m[all:all+size], m[:size])
				}
			})
		}
	}
}
