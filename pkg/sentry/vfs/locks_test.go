package vfs_test

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/sentry/vfs/vfstest"
)

// TestRecordLocksDoWhatLinuxDoes runs random F_OFD_SETLK and F_OFD_GETLK calls
// on a file of the host's and on one of ours.
func TestRecordLocksDoWhatLinuxDoes(t *testing.T) {
	ctx := vfstest.NewContext()
	for seed := int64(0); seed < 60; seed++ {
		rng := rand.New(rand.NewSource(seed))
		name := filepath.Join(t.TempDir(), "f")
		os.WriteFile(name, make([]byte, 50), 0o600)
		path := anon.PipePath(ctx.Cred)
		var fds [4]int
		var files [4]*vfs.File
		for i := range fds {
			fd, err := unix.Open(name, []int{unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_RDONLY}[i]|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fds[i] = fd
			files[i] = vfs.NewFile(path, nil, []uint32{unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_RDONLY}[i], ctx.Cred)
		}
		for step := 0; step < 200; step++ {
			i := rng.Intn(len(fds))
			fl := unix.Flock_t{Type: []int16{unix.F_RDLCK, unix.F_WRLCK, unix.F_UNLCK}[rng.Intn(3)], Start: int64(rng.Intn(30)), Len: int64(rng.Intn(12) - 3)}
			switch rng.Intn(20) {
			case 0:
				fl.Start = -1
			case 1:
				fl.Start, fl.Len = 1<<62, 1<<62
			case 2:
				fl.Start, fl.Len = 1<<62, 1<<62+1
			case 3:
				fl.Type = 9
			}
			host := fl
			if rng.Intn(4) == 0 && fl.Type != unix.F_UNLCK {
				herr := unix.FcntlFlock(uintptr(fds[i]), unix.F_OFD_GETLK, &host)
				r, err := files[i].LockRange(ctx, &fl)
				if err != nil || herr != nil {
					if err != herr {
						t.Fatalf("seed %d step %d: get %+v: %v; Linux %v", seed, step, fl, err, herr)
					}
					continue
				}
				// Which of several is found is Linux's affair.
				if _, ok := files[i].GetLock(files[i], r); ok != (host.Type != unix.F_UNLCK) {
					t.Fatalf("seed %d step %d: get %+v: %v; Linux %+v", seed, step, fl, ok, host)
				}
				continue
			}
			herr := unix.FcntlFlock(uintptr(fds[i]), unix.F_OFD_SETLK, &host)
			r, err := files[i].LockRange(ctx, &fl)
			if err == nil {
				err = files[i].SetLock(ctx, nil, r, false)
			}
			if (err == nil) != (herr == nil) || err != nil && err != herr {
				t.Fatalf("seed %d step %d: set %d %+v: %v; Linux %v", seed, step, i, fl, err, herr)
			}
		}
		for i := range fds {
			unix.Close(fds[i])
			files[i].DecRef()
		}
		probe := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
		if _, ok := probe.GetLock(probe, vfs.LockRange{Type: unix.F_WRLCK, End: 1<<63 - 1}); ok {
			t.Fatal("locks outlived their files")
		}
		probe.DecRef()
		if n := ctx.Cred.Account.Heap(); n != 0 {
			t.Fatalf("%d bytes are charged for locks that have gone", n)
		}
	}
}

// Record locks are charged to who opened the file, exactly; where there is no room, what
// would take more of it is refused, and has done nothing.
func TestRecordLocksAreCharged(t *testing.T) {
	ctx := vfstest.NewContext()
	acct := memfile.NewHeapAccount(64 << 10)
	ctx.Cred.Account = acct
	path := anon.PipePath(ctx.Cred)
	f := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	other := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	set := func(f *vfs.File, kind int16, start, end int64) error {
		return f.SetLock(ctx, nil, vfs.LockRange{Type: kind, Start: start, End: end}, false)
	}
	if err := set(f, unix.F_RDLCK, 1<<40, 1<<41); err != nil {
		t.Fatal(err)
	}
	one, n := acct.Heap(), int64(0)
	for ; ; n++ {
		if err := set(f, unix.F_WRLCK, 2*n, 2*n); err == unix.ENOLCK {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if one == 0 || n < 100 || acct.Heap() != uint64(n+1)*one {
		t.Fatalf("%d bytes for %d locks, %d for one", acct.Heap(), n+1, one)
	}
	if err := set(f, unix.F_UNLCK, 1<<40+1, 1<<40+1); err == nil {
		err = set(f, unix.F_UNLCK, 1<<40+3, 1<<40+3)
		if err != unix.ENOLCK {
			t.Errorf("cutting one in two: %v", err)
		}
	} else if err != unix.ENOLCK {
		t.Errorf("cutting one in two: %v", err)
	}
	for _, c := range []struct {
		kind       int16
		start, end int64
		is         int16
	}{{unix.F_RDLCK, 0, 0, unix.F_WRLCK}, {unix.F_WRLCK, 2 * n, 2 * n, unix.F_UNLCK}, {unix.F_WRLCK, 1<<40 + 3, 1<<40 + 3, unix.F_RDLCK}} {
		got, ok := other.GetLock(other, vfs.LockRange{Type: c.kind, Start: c.start, End: c.end})
		if ok != (c.is != unix.F_UNLCK) || ok && got.Type != c.is {
			t.Errorf("at %d: %+v, %v", c.start, got, ok)
		}
	}
	// Giving up takes no room.
	if err := set(f, unix.F_UNLCK, 0, 2); err != nil {
		t.Error(err)
	}
	if err := set(f, unix.F_WRLCK, 0, 0); err != nil {
		t.Error(err)
	}
	if err := set(f, unix.F_UNLCK, 0, 1<<62); err != nil {
		t.Error(err)
	}
	if acct.Heap() != 0 {
		t.Errorf("%d bytes are left", acct.Heap())
	}
	if _, ok := other.GetLock(other, vfs.LockRange{Type: unix.F_WRLCK, End: 1 << 62}); ok {
		t.Error("a lock is left")
	}
	f.DecRef()
	other.DecRef()
}

// BenchmarkRecordLock adds locks that don't touch, to as many as there are already.
func BenchmarkRecordLock(b *testing.B) {
	for _, many := range []int64{1000, 100000} {
		b.Run(fmt.Sprint(many), func(b *testing.B) {
			ctx := vfstest.NewContext()
			f := vfs.NewFile(anon.PipePath(ctx.Cred), nil, unix.O_RDWR, ctx.Cred)
			defer f.DecRef()
			lock := func(i int64) {
				if err := f.SetLock(ctx, nil, vfs.LockRange{Type: unix.F_WRLCK, Start: 2 * i, End: 2 * i}, false); err != nil {
					b.Fatal(err)
				}
			}
			for i := range many {
				lock(i)
			}
			b.ResetTimer()
			for i := range b.N {
				lock(int64(i) * 7919 % many)
			}
		})
	}
}

func TestDeadlockIsRefused(t *testing.T) {
	ctx := vfstest.NewContext()
	path := anon.PipePath(ctx.Cred)
	f := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	defer f.DecRef()
	owners := [3]any{new(int), new(int), new(int)}
	lock := func(c *vfstest.Context, who, at int, wait bool) error {
		return f.SetLock(c, owners[who], vfs.LockRange{Type: unix.F_WRLCK, Start: int64(at), End: int64(at), PID: int32(who)}, wait)
	}
	for i := range owners {
		if err := lock(ctx, i, i, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := lock(ctx, 0, 1, false); err != unix.EAGAIN {
		t.Errorf("without waiting: %v", err)
	}
	done := make(chan error, 2)
	for i := 0; i < 2; i++ {
		c := vfstest.NewContext()
		go func() { done <- lock(c, i, i+1, true) }()
		<-c.Blocked
	}
	if err := lock(ctx, 2, 0, true); err != unix.EDEADLK {
		t.Errorf("closing the circle: %v", err)
	}
	f.ReleaseLocks(owners[2])
	if err := <-done; err != nil {
		t.Errorf("second: %v", err)
	}
	f.ReleaseLocks(owners[1])
	if err := <-done; err != nil {
		t.Errorf("first: %v", err)
	}
	f.ReleaseLocks(owners[0])
}

func TestInterruptedWaitLeavesNoTrace(t *testing.T) {
	ctx := vfstest.NewContext()
	path := anon.PipePath(ctx.Cred)
	f := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	defer f.DecRef()
	a, b := new(int), new(int)
	r := vfs.LockRange{Type: unix.F_WRLCK, End: 10}
	f.SetLock(ctx, a, r, false)
	stop := make(chan struct{}, 1)
	stop <- struct{}{}
	other := vfstest.NewContext()
	other.Stop = stop
	if err := f.SetLock(other, b, r, true); err != unix.EINTR {
		t.Fatal(err)
	}
	// If b still counted as waiting for a, this would be a circle.
	f.SetLock(ctx, b, vfs.LockRange{Type: unix.F_WRLCK, Start: 20, End: 20}, false)
	stop <- struct{}{}
	other.Stop = stop
	if err := f.SetLock(other, a, vfs.LockRange{Type: unix.F_WRLCK, Start: 20, End: 20}, true); err != unix.EINTR {
		t.Errorf("%v", err)
	}
	f.ReleaseLocks(a)
	f.ReleaseLocks(b)
}

func TestFlockDoesWhatLinuxDoes(t *testing.T) {
	ctx := vfstest.NewContext()
	for seed := int64(0); seed < 40; seed++ {
		rng := rand.New(rand.NewSource(seed))
		name := filepath.Join(t.TempDir(), "f")
		os.WriteFile(name, nil, 0o600)
		path := anon.PipePath(ctx.Cred)
		var fds [3]int
		var files [3]*vfs.File
		for i := range fds {
			fds[i] = -1
		}
		for step := 0; step < 100; step++ {
			i := rng.Intn(len(fds))
			if fds[i] < 0 {
				fds[i], _ = unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				files[i] = vfs.NewFile(path, nil, unix.O_RDONLY, ctx.Cred)
			}
			if rng.Intn(8) == 0 {
				unix.Close(fds[i])
				files[i].DecRef()
				fds[i] = -1
				continue
			}
			op := []int{unix.LOCK_SH, unix.LOCK_EX, unix.LOCK_UN, 0, 3}[rng.Intn(5)] | unix.LOCK_NB
			herr := unix.Flock(fds[i], op)
			err := files[i].Flock(ctx, op)
			if (err == nil) != (herr == nil) || err != nil && err != herr {
				t.Fatalf("seed %d step %d: %d, %#x: %v; Linux %v", seed, step, i, op, err, herr)
			}
		}
		for i := range fds {
			if fds[i] >= 0 {
				unix.Close(fds[i])
				files[i].DecRef()
			}
		}
	}
}

func TestFlockWaits(t *testing.T) {
	ctx := vfstest.NewContext()
	path := anon.PipePath(ctx.Cred)
	a := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	b := vfs.NewFile(path, nil, unix.O_RDWR, ctx.Cred)
	a.Flock(ctx, unix.LOCK_EX)
	other := vfstest.NewContext()
	done := make(chan error)
	go func() { done <- b.Flock(other, unix.LOCK_SH) }()
	<-other.Blocked
	a.DecRef()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.DecRef()
}
