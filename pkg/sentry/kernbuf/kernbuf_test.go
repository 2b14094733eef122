package kernbuf

import (
	"bytes"
	"math/rand"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/usermem"
)

// TestRingKeepsBytesInOrder compares a Ring with a plain slice over a random
// sequence of everything that can be done to one.
func TestRingKeepsBytesInOrder(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	acct := memfile.NewHeapAccount(1 << 20)
	var r, other Ring
	r.SetAccount(acct)
	other.SetAccount(acct)
	var want, otherWant []byte
	for step := 0; step < 20000; step++ {
		n := rng.Intn(3 * PageSize)
		if rng.Intn(4) == 0 {
			n = rng.Intn(3) * PageSize
		}
		p := make([]byte, n)
		rng.Read(p)
		switch rng.Intn(7) {
		case 0:
			got, _ := r.Append(p)
			want = append(want, p[:got]...)
		case 1:
			b := usermem.BytesBuffer(p)
			got, _ := r.Fill(&b, n)
			want = append(want, p[:got]...)
		case 2:
			left := p
			got, _ := r.FillFunc(n+5, func(b []byte) (int, error) {
				c := copy(b, left)
				left = left[c:]
				return c, nil
			})
			want = append(want, p[:got]...)
		case 3:
			b := usermem.BytesBuffer(p)
			got, err := r.Drain(&b, n)
			if err != nil || got != min(n, len(want)) || !bytes.Equal(p[:got], want[:got]) {
				t.Fatalf("step %d: drained %d bytes, %v", step, got, err)
			}
			want = want[got:]
		case 4:
			skip := rng.Intn(len(want) + 1)
			b := usermem.BytesBuffer(p)
			got, err := r.Peek(&b, skip, n)
			if err != nil || got != min(n, len(want)-skip) || !bytes.Equal(p[:got], want[skip:skip+got]) {
				t.Fatalf("step %d: peeked %d bytes, %v", step, got, err)
			}
		case 5:
			got, _ := r.MoveTo(&other, n)
			otherWant = append(otherWant, want[:got]...)
			want = want[got:]
		case 6:
			p = make([]byte, len(otherWant)+1)
			b := usermem.BytesBuffer(p)
			got, _ := other.Drain(&b, len(p))
			if !bytes.Equal(p[:got], otherWant) {
				t.Fatalf("step %d: moved bytes differ", step)
			}
			otherWant = nil
			if other.Len() != 0 {
				t.Fatal("bytes left")
			}
		}
		if r.Len() != len(want) {
			t.Fatalf("step %d: length %d, want %d", step, r.Len(), len(want))
		}
		if used := acct.Heap(); used > uint64(len(want)+len(otherWant)+4*PageSize) {
			t.Fatalf("step %d: %d bytes charged for %d", step, used, len(want)+len(otherWant))
		}
	}
	r.Discard(r.Len())
	other.Discard(other.Len())
	if acct.Heap() != 0 {
		t.Errorf("%d bytes still charged for empty rings", acct.Heap())
	}
}

func TestRingStopsAtItsAccountsLimit(t *testing.T) {
	var r Ring
	r.SetAccount(memfile.NewHeapAccount(2 * PageSize))
	if n, err := r.Append(make([]byte, 3*PageSize)); n != 2*PageSize || err != unix.ENOMEM {
		t.Fatalf("Append = %d, %v", n, err)
	}
}

func TestBufsAreCountedUntilFreed(t *testing.T) {
	a := memfile.NewHeapAccount(4 * MaxBuf)
	for _, n := range []int{0, 1, 512, 513, 70000, MaxBuf} {
		b := GetBuf(n, a)
		if b == nil || len(b.Data) != n || a.Heap() < uint64(n) {
			t.Fatalf("GetBuf(%d): %v", n, b)
		}
		b.Free()
		if a.Heap() != 0 {
			t.Fatalf("Free of %d left %d bytes", n, a.Heap())
		}
	}
	if GetBuf(MaxBuf+1, nil) != nil {
		t.Error("a buffer larger than MaxBuf")
	}
	a.SetLimit(PageSize)
	b := GetBuf(PageSize/2, a)
	if GetBuf(PageSize, a) != nil {
		t.Error("a buffer beyond the account's limit")
	}
	b.Free()
}
