package vfs

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
)

// counted is what a test's open file is: it counts its ends.
type counted struct{ ends atomic.Int32 }

func (c *counted) Release(*File) { c.ends.Add(1) }

func newCounted() (*File, *counted) {
	c := &counted{}
	return NewFile(Path{Dentry: NewDetachedDentry(&Filesystem{}, "test", nil)}, c, unix.O_RDWR, auth.NewRoot(auth.NewRootUserNamespace())), c
}

// TestFilesEndOnceAndNotInUse has threads look descriptors up that others close, replace
// and add, while the table grows: what was found hasn't ended, and everything ends once.
func TestFilesEndOnceAndNotInUse(t *testing.T) {
	const fds, threads, rounds = 8, 4, 3000
	table := NewFDTable()
	var mu sync.Mutex
	var all []*counted
	add := func() *File {
		f, c := newCounted()
		mu.Lock()
		all = append(all, c)
		mu.Unlock()
		return f
	}
	for range threads - 1 {
		table.IncRef()
	}
	var wg sync.WaitGroup
	for n := range threads {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(n)))
			for i := range rounds {
				fd := int32(r.IntN(fds))
				switch r.IntN(6) {
				case 0:
					if f, err := table.Remove(fd); err == nil {
						f.DecRef()
					}
				case 1:
					old, err := table.Replace(add(), fd, fd%2 == 0, 1<<20)
					if err != nil {
						t.Error(err)
					} else if old != nil {
						old.DecRef()
					}
				case 2:
					if _, err := table.Add(add(), int32(i), false, 1<<20); err != nil {
						t.Error(err)
					}
				default:
					f, err := table.Use(fd)
					if err != nil {
						continue
					}
					if f.Impl().(*counted).ends.Load() != 0 {
						t.Error("a file that had ended was found")
					}
					f.DecRef()
				}
			}
			for _, f := range table.DecRef() {
				f.DecRef()
			}
		})
	}
	wg.Wait()
	for _, c := range all {
		if n := c.ends.Load(); n != 1 {
			t.Fatalf("a file ended %d times", n)
		}
	}
	if _, err := table.Get(0); err != unix.EBADF {
		t.Errorf("an empty table: %v", err)
	}
}

// TestSoleUserNeedsNoReference says when a call counts itself among a file's users.
func TestSoleUserNeedsNoReference(t *testing.T) {
	table := NewFDTable()
	f, _ := newCounted()
	if fd, err := table.Add(f, 0, false, 10); fd != 0 || err != nil {
		t.Fatal(fd, err)
	}
	for users, want := range []int64{1, 2} {
		u, err := table.Use(0)
		if err != nil || f.References() != want {
			t.Errorf("%d other users: %d references, %v", users, f.References(), err)
		}
		u.DecRef()
		if f.References() != 1 {
			t.Errorf("%d references after the use", f.References())
		}
		table.IncRef()
	}
	if _, err := table.Use(1); err != unix.EBADF {
		t.Error(err)
	}
	if _, err := table.Use(-1); err != unix.EBADF {
		t.Error(err)
	}
}

func TestCloseOnExecGoesWithTheDescriptor(t *testing.T) {
	table := NewFDTable()
	for fd := range int32(3) {
		f, _ := newCounted()
		if _, err := table.Add(f, 100*fd, fd == 1, 1000); err != nil {
			t.Fatal(err)
		}
	}
	child, err := table.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if got := child.RemoveIf(func(_ int32, cloexec bool) bool { return cloexec }); len(got) != 1 {
		t.Errorf("%d files are closed by exec, want 1", len(got))
	}
	if got := child.FDs(); len(got) != 2 || got[0] != 0 || got[1] != 200 || child.Len() != 2 {
		t.Errorf("left are %v", got)
	}
	f, _ := newCounted()
	if _, err := child.Add(f, 100, false, 1000); err != nil {
		t.Fatal(err)
	}
	if on, err := child.CloseOnExec(100); on || err != nil {
		t.Errorf("a new descriptor has the flag of the one before: %v", err)
	}
	if on, err := table.CloseOnExec(100); !on || err != nil {
		t.Errorf("the parent's lost its flag: %v", err)
	}
}
