package mm

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/usermem"
)

// The region in which our MemoryManager and the host's kernel do the same. Far
// from where the host puts anything by itself.
const (
	regionStart = 0x10_0000_0000
	regionPages = 40
	filePages   = 12
)

var steps = flag.Int("mm.steps", 3000, "operations per seed of TestSameAsLinux")

func native(trap, a, b, c, d, e, f uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall6(trap, a, b, c, d, e, f)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// nativeTouch reads or writes a byte of this process as the kernel sees it,
// which gives EFAULT instead of a signal.
func nativeTouch(addr usermem.Addr, write bool, b byte) (byte, error) {
	v := []byte{b}
	local := []unix.Iovec{{Base: &v[0], Len: 1}}
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: 1}}
	var err error
	if write {
		_, err = unix.ProcessVMWritev(os.Getpid(), local, remote, 0)
	} else {
		_, err = unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	}
	return v[0], err
}

type object struct {
	fd    int
	store *pagestore.Store
}

// TestSameAsLinux does random operations in our MemoryManager and in the
// process of the test: results, contents and kinds of fault must be equal.
func TestSameAsLinux(t *testing.T) {
	seeds, steps := uint64(8), *steps
	if locks.Checked { // a hundred times as slow
		seeds, steps = 2, steps/8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { sameAsLinux(t, seed, steps) })
	}
}

func sameAsLinux(t *testing.T, seed uint64, steps int) {
	e := newEnv(t, 0)
	m := e.newMM(t, Options{})
	rng := rand.New(rand.NewPCG(seed, 7))
	var objects []object
	for range 2 {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		objects = append(objects, object{fd, pagestore.New(e.file, e.acct)})
	}
	resize := func(o object, size uint64) {
		if err := unix.Ftruncate(o.fd, int64(size)); err != nil {
			t.Fatal(err)
		}
		if err := o.store.Truncate(size); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objects {
		resize(o, filePages*pageSize)
	}
	// Mappings at the region's end may have grown out of it.
	defer native(unix.SYS_MUNMAP, regionStart, 2*regionPages*pageSize, 0, 0, 0, 0)

	var log []string
	fail := func(format string, args ...any) {
		t.Helper()
		for _, l := range log[max(0, len(log)-40):] {
			t.Log(l)
		}
		t.Fatalf(format, args...)
	}
	same := func(what string, ours, theirs error) {
		t.Helper()
		if !errors.Is(ours, theirs) {
			fail("%s: we say %v, Linux says %v", what, ours, theirs)
		}
	}
	pick := func(maxPages int) (usermem.Addr, uint64) {
		first := rng.IntN(regionPages)
		n := 1 + rng.IntN(min(maxPages, regionPages-first))
		return regionStart + usermem.Addr(first)*pageSize, uint64(n) * pageSize
	}
	prots := []usermem.Access{0, usermem.Read, usermem.ReadWrite, usermem.ReadWrite, usermem.Read | usermem.Execute, usermem.ReadWrite}

	for range steps {
		addr, length := pick(10)
		prot := prots[rng.IntN(len(prots))]
		var what string
		switch op := rng.IntN(20); op {
		case 0, 1, 2: // mmap
			o := MMapOpts{Addr: addr, Length: length, Prot: prot, Fixed: true, Private: rng.IntN(2) == 0, Populate: rng.IntN(4) == 0}
			flags, fd := unix.MAP_FIXED|unix.MAP_SHARED, -1
			if o.Private {
				flags = unix.MAP_FIXED | unix.MAP_PRIVATE
			}
			if rng.IntN(4) == 0 {
				o.Fixed, o.FixedNoReplace = false, true
				flags = flags&^unix.MAP_FIXED | unix.MAP_FIXED_NOREPLACE
			}
			if o.Populate {
				flags |= unix.MAP_POPULATE
			}
			if i := rng.IntN(4); i < 2 {
				o.Mappable, o.Offset = objects[i].store, uint64(rng.IntN(filePages))*pageSize
				fd = objects[i].fd
			} else {
				flags |= unix.MAP_ANONYMOUS
			}
			what = fmt.Sprintf("mmap %+v", o)
			log = append(log, what)
			_, theirs := native(unix.SYS_MMAP, uintptr(addr), uintptr(length), uintptr(prot), uintptr(flags), uintptr(fd), uintptr(o.Offset))
			_, ours := m.MMap(o)
			same(what, ours, theirs)
		case 3: // munmap
			what = fmt.Sprintf("munmap %#x %#x", addr, length)
			log = append(log, what)
			_, theirs := native(unix.SYS_MUNMAP, uintptr(addr), uintptr(length), 0, 0, 0, 0)
			same(what, m.MUnmap(addr, length), theirs)
		case 4, 5: // mprotect
			what = fmt.Sprintf("mprotect %#x %#x %v", addr, length, prot)
			log = append(log, what)
			_, theirs := native(unix.SYS_MPROTECT, uintptr(addr), uintptr(length), uintptr(prot), 0, 0, 0)
			same(what, m.MProtect(addr, length, prot, false), theirs)
		case 6, 7: // mremap; old lengths of a page, as merging differs
			to, newLen := pick(4)
			o := MRemapOpts{MayMove: true, Fixed: true, NewAddr: to}
			flags := unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED
			oldLen := uint64(pageSize)
			switch rng.IntN(4) {
			case 0:
				o, flags = MRemapOpts{}, 0
			case 1:
				oldLen = 0
			}
			o.LockLimit = NoLimit
			what = fmt.Sprintf("mremap %#x %#x %#x %+v", addr, oldLen, newLen, o)
			log = append(log, what)
			_, theirs := native(unix.SYS_MREMAP, uintptr(addr), uintptr(oldLen), uintptr(newLen), uintptr(flags), uintptr(to), 0)
			_, ours := m.MRemap(addr, oldLen, newLen, o)
			same(what, ours, theirs)
		case 8, 9: // madvise
			advice := []int{unix.MADV_DONTNEED, unix.MADV_REMOVE, unix.MADV_WILLNEED, unix.MADV_DONTFORK, unix.MADV_WIPEONFORK, unix.MADV_DONTNEED, madvPopulateRead, madvPopulateWrite, 77}[rng.IntN(9)]
			what = fmt.Sprintf("madvise %#x %#x %d", addr, length, advice)
			log = append(log, what)
			_, theirs := native(unix.SYS_MADVISE, uintptr(addr), uintptr(length), uintptr(advice), 0, 0, 0)
			same(what, m.MAdvise(addr, length, advice), theirs)
		case 10: // msync
			flags := rng.IntN(8)
			what = fmt.Sprintf("msync %#x %#x %d", addr, length, flags)
			log = append(log, what)
			_, theirs := native(unix.SYS_MSYNC, uintptr(addr), uintptr(length), uintptr(flags), 0, 0, 0)
			same(what, m.MSync(addr, length, flags), theirs)
		case 11: // truncate
			o := objects[rng.IntN(2)]
			size := uint64(rng.IntN(filePages+1)) * pageSize
			what = fmt.Sprintf("truncate %d %#x", o.fd, size)
			log = append(log, what)
			resize(o, size)
		case 12: // write and read a file
			o := objects[rng.IntN(2)]
			b := make([]byte, 1+rng.IntN(3*pageSize))
			for i := range b {
				b[i] = byte(rng.IntN(256))
			}
			off := uint64(rng.IntN(filePages * pageSize))
			what = fmt.Sprintf("pwrite %d %#x %#x", o.fd, off, len(b))
			log = append(log, what)
			// Up to a page's end: what is mapped behind the end of a tmpfs
			// file differs between kernels.
			if end := (off + uint64(len(b)) + pageSize - 1) &^ (pageSize - 1); end > o.store.Size() {
				resize(o, end)
			}
			if _, err := unix.Pwrite(o.fd, b, int64(off)); err != nil {
				t.Fatal(err)
			}
			src := usermem.BytesBuffer(b)
			if n, err := o.store.WriteAt(&src, off); err != nil || n != uint64(len(b)) {
				fail("WriteAt: %d, %v", n, err)
			}
		case 13: // copy out
			b := make([]byte, 1+rng.IntN(3*pageSize))
			for i := range b {
				b[i] = byte(rng.IntN(256))
			}
			at := addr + usermem.Addr(rng.IntN(pageSize))
			what = fmt.Sprintf("copy out %#x %#x", at, len(b))
			log = append(log, what)
			// A byte at a time for the host: it stops at pages of its choice.
			n := 0
			for n < len(b) {
				step := min(len(b)-n, int(pageSize-(at+usermem.Addr(n)).PageOffset()))
				local := []unix.Iovec{{Base: &b[n], Len: uint64(step)}}
				remote := []unix.RemoteIovec{{Base: uintptr(at) + uintptr(n), Len: step}}
				if _, err := unix.ProcessVMWritev(os.Getpid(), local, remote, 0); err != nil {
					break
				}
				n += step
			}
			if got, err := m.CopyOut(at, b); got != n || (err != nil) != (n < len(b)) {
				fail("%s: %d, %v; Linux %d", what, got, err, n)
			}
		default: // touch
			at := addr + usermem.Addr(rng.IntN(pageSize))
			write, b := rng.IntN(2) == 0, byte(rng.IntN(256))
			what = fmt.Sprintf("touch %#x write=%v", at, write)
			log = append(log, what)
			theirs, theirErr := nativeTouch(at, write, b)
			ours, err := touch(t, m, at, write, b)
			if (err != nil) != (theirErr != nil) || ours != theirs && err == nil {
				fail("%s: %d, %v; Linux %d, %v", what, ours, err, theirs, theirErr)
			}
			if err != nil {
				_, unmapped := native(unix.SYS_MSYNC, uintptr(at.RoundDown()), pageSize, unix.MS_ASYNC, 0, 0, 0)
				if f := err.(*Fault); (unmapped != nil) != (f.Signo == int32(unix.SIGSEGV) && f.Code == SegvMapErr) {
					fail("%s: %v, but Linux has a mapping there: %v", what, err, unmapped == nil)
				}
			}
		}
		check(t, m)
		compareRegion(m, what, fail)
	}
	m.DecUsers()
	for _, o := range objects {
		o.store.Release()
	}
	if e.acct.Usage() != 0 {
		t.Errorf("%d bytes are left", e.acct.Usage())
	}
}

// compareRegion compares all bytes, page by page.
func compareRegion(m *MemoryManager, what string, fail func(string, ...any)) {
	var ours, theirs [pageSize]byte
	for i := range regionPages {
		at := regionStart + usermem.Addr(i)*pageSize
		local := []unix.Iovec{{Base: &theirs[0], Len: pageSize}}
		remote := []unix.RemoteIovec{{Base: uintptr(at), Len: pageSize}}
		_, theirErr := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
		_, err := m.CopyIn(at, ours[:])
		if (err != nil) != (theirErr != nil) || err == nil && ours != theirs {
			fail("after %s: page %#x differs (%v; Linux %v)", what, at, err, theirErr)
		}
	}
}
