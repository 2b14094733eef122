package eventfd

import (
	"encoding/binary"
	"math"
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs/vfstest"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// TestEventFDDoesWhatLinuxDoes runs random calls on the host's and on ours.
func TestEventFDDoesWhatLinuxDoes(t *testing.T) {
	rng := rand.New(rand.NewSource(3))
	ctx := vfstest.NewContext()
	values := []uint64{0, 1, 2, 1000, math.MaxUint64 - 1, math.MaxUint64 - 2, math.MaxUint64}
	for round := 0; round < 40; round++ {
		flags := unix.EFD_NONBLOCK
		if round%2 == 1 {
			flags |= unix.EFD_SEMAPHORE
		}
		initial := rng.Intn(3)
		fd, err := unix.Eventfd(uint(initial), flags)
		if err != nil {
			t.Fatal(err)
		}
		f, err := New(uint32(initial), uint32(flags), ctx.Cred)
		if err != nil {
			t.Fatal(err)
		}
		for step := 0; step < 100; step++ {
			var p, q [16]byte
			n := []int{8, 8, 8, 16, 7, 0}[rng.Intn(6)]
			var hn int
			var herr, oerr error
			var on int64
			buf := usermem.BytesBuffer(q[:n])
			// Newer kernels refuse to write more than 8 bytes; eventfd(2) doesn't.
			if rng.Intn(2) == 0 && n <= 8 {
				v := values[rng.Intn(len(values))]
				binary.LittleEndian.PutUint64(p[:], v)
				q = p
				hn, herr = unix.Write(fd, p[:n])
				on, oerr = f.Write(ctx, &buf)
			} else {
				hn, herr = unix.Read(fd, p[:n])
				on, oerr = f.Read(ctx, &buf)
			}
			if int64(max(hn, 0)) != on || herr != oerr || p != q {
				t.Fatalf("round %d step %d: %d, %v, %x; Linux %d, %v, %x", round, step, on, oerr, q, hn, herr, p)
			}
			pfd := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
			unix.Poll(pfd, 0)
			if got := f.Readiness(waiter.In | waiter.Out); int16(got) != pfd[0].Revents {
				t.Fatalf("round %d step %d: ready %#x; Linux %#x", round, step, got, pfd[0].Revents)
			}
		}
		unix.Close(fd)
		f.DecRef()
	}
	if _, err := New(0, 0x10, ctx.Cred); err != unix.EINVAL {
		t.Errorf("unknown flag: %v", err)
	}
}
