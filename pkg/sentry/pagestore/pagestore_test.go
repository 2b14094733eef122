package pagestore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

func newStore(t testing.TB, limit uint64) (*Store, *memfile.Account) {
	t.Helper()
	f, err := memfile.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	a, err := f.NewAccount("test", limit)
	if err != nil {
		t.Fatal(err)
	}
	return New(f, a), a
}

func readAll(t testing.TB, s *Store, off uint64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	dst := usermem.BytesBuffer(b)
	got, err := s.ReadAt(&dst, off)
	if err != nil {
		t.Fatal(err)
	}
	return b[:got]
}

// TestSameAsTmpfs does random operations on a Store and on a memfd of the host.
func TestSameAsTmpfs(t *testing.T) {
	const limit = 40 * pageSize
	for seed := range uint64(4) {
		s, acct := newStore(t, 0)
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		host := os.NewFile(uintptr(fd), "test")
		rng := rand.New(rand.NewPCG(seed, 5))
		for step := range 3000 {
			off, n := uint64(rng.IntN(limit)), uint64(1+rng.IntN(5*pageSize))
			op := rng.IntN(9)
			// Linux has pages that are allocated and still a hole to lseek(2);
			// so a seed has either.
			if seed%2 == 0 && op == 4 || seed%2 == 1 && (op == 5 || op == 6) {
				op = 7
			}
			var ours, theirs error
			switch op {
			case 0, 1:
				b := make([]byte, n)
				for i := range b {
					b[i] = byte(rng.IntN(256))
				}
				src := usermem.BytesBuffer(b)
				_, ours = s.WriteAt(&src, off)
				_, theirs = host.WriteAt(b, int64(off))
			case 2:
				ours, theirs = s.Truncate(off), host.Truncate(int64(off))
			case 3:
				ours = s.PunchHole(off, n)
				theirs = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
			case 4:
				keep := rng.IntN(2) == 0
				mode := uint32(0)
				if keep {
					mode = unix.FALLOC_FL_KEEP_SIZE
				}
				ours, theirs = s.Allocate(off, n, keep), unix.Fallocate(fd, mode, int64(off), int64(n))
			case 5, 6:
				whence, seek := unix.SEEK_HOLE, s.NextHole
				if op == 6 {
					whence, seek = unix.SEEK_DATA, s.NextData
				}
				var a uint64
				var b int64
				a, ours = seek(off)
				b, theirs = unix.Seek(fd, int64(off), whence)
				if ours == nil && theirs == nil && a != uint64(b) {
					t.Fatalf("seed %d step %d: seek %d from %#x gives %#x, tmpfs %#x", seed, step, whence, off, a, b)
				}
			default:
				want := make([]byte, n)
				m, _ := host.ReadAt(want, int64(off))
				if got := readAll(t, s, off, int(n)); !bytes.Equal(got, want[:m]) {
					t.Fatalf("seed %d step %d: %d bytes at %#x differ from tmpfs's %d", seed, step, len(got), off, m)
				}
			}
			if (ours == nil) != (theirs == nil) {
				t.Fatalf("seed %d step %d: operation %d at %#x: %v, tmpfs %v", seed, step, op, off, ours, theirs)
			}
			var u unix.Stat_t
			unix.Fstat(fd, &u)
			if s.Size() != uint64(u.Size) || s.Pages() != uint64(u.Blocks)/8 {
				t.Fatalf("seed %d step %d: operation %d at %#x+%#x: size %#x and %d pages, tmpfs %#x and %d", seed, step, op, off, n, s.Size(), s.Pages(), u.Size, u.Blocks/8)
			}
			if acct.Usage() != s.Pages()*pageSize {
				t.Fatalf("%d bytes are charged for %d pages", acct.Usage(), s.Pages())
			}
		}
		host.Close()
		s.Release()
		if acct.Usage() != 0 {
			t.Fatalf("%d bytes are left", acct.Usage())
		}
	}
}

// space records what it is told.
type space struct{ got []memmap.Range }

func (s *space) Invalidate(m memmap.Mappable, r memmap.Range, private bool) { s.got = append(s.got, r) }

func TestMappingsAreToldOfWhatGoes(t *testing.T) {
	s, acct := newStore(t, 0)
	s.Truncate(10 * pageSize)
	near, far := &space{}, &space{}
	s.AddMapping(near, memmap.Range{Start: 0, End: 2 * pageSize}, true)
	s.AddMapping(far, memmap.Range{Start: 4 * pageSize, End: 10 * pageSize}, true)
	s.Truncate(3 * pageSize)
	if len(near.got) != 0 || len(far.got) != 1 {
		t.Errorf("near was told %v, far %v", near.got, far.got)
	}
	if err := s.AddSeals(unix.F_SEAL_WRITE); err != unix.EBUSY {
		t.Errorf("sealing a mapped object: %v", err)
	}
	s.RemoveMapping(near, memmap.Range{Start: 0, End: pageSize}, true)
	s.RemoveMapping(near, memmap.Range{Start: pageSize, End: 2 * pageSize}, true)
	s.RemoveMapping(far, memmap.Range{Start: 4 * pageSize, End: 10 * pageSize}, true)
	if err := s.AddSeals(unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL); err != nil {
		t.Error(err)
	}
	src := usermem.BytesBuffer([]byte("x"))
	_, write := s.WriteAt(&src, 0)
	for name, err := range map[string]error{
		"write": write, "grow": s.Truncate(8 * pageSize), "shrink": s.Truncate(0), "punch": s.PunchHole(0, pageSize),
		"map": s.AddMapping(near, memmap.Range{Start: 0, End: pageSize}, true), "seal": s.AddSeals(0),
	} {
		if err != unix.EPERM {
			t.Errorf("%s of a sealed object: %v", name, err)
		}
	}
	if _, err := s.Translate(memmap.Range{Start: 3 * pageSize, End: 4 * pageSize}, memmap.Range{Start: 0, End: 4 * pageSize}, usermem.Read); !errors.As(err, new(memmap.BusError)) {
		t.Errorf("a page behind the end: %v", err)
	}
	ts, err := s.Translate(memmap.Range{Start: 0, End: pageSize}, memmap.Range{Start: 0, End: 3 * pageSize}, usermem.Read)
	if err != nil || ts[0].Access.Has(usermem.Write) {
		t.Errorf("a page of a sealed object: %+v, %v", ts, err)
	}
	for _, tr := range ts {
		tr.File.DecRef(tr.Offset, tr.Source.Len())
	}
	s.Release()
	if acct.Usage() != 0 {
		t.Errorf("%d bytes are left", acct.Usage())
	}
}

func TestWriteStopsAtTheLimit(t *testing.T) {
	s, _ := newStore(t, 3*pageSize)
	src := usermem.BytesBuffer(make([]byte, 5*pageSize))
	if n, err := s.WriteAt(&src, 0); n != 3*pageSize || err != unix.ENOSPC || s.Size() != 3*pageSize {
		t.Errorf("wrote %d, %v, size %d", n, err, s.Size())
	}
	src = usermem.BytesBuffer([]byte("xy"))
	if _, err := s.WriteAt(&src, MaxSize); err != unix.EFBIG {
		t.Errorf("write at the largest offset: %v", err)
	}
}

func BenchmarkWriteRead4K(b *testing.B) {
	s, _ := newStore(b, 0)
	buf := make([]byte, pageSize)
	b.ReportAllocs()
	for b.Loop() {
		src := usermem.BytesBuffer(buf)
		s.WriteAt(&src, 0)
		dst := usermem.BytesBuffer(buf)
		s.ReadAt(&dst, 0)
	}
}
