package tmpfs

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/fstest"
)

// Whatever of names, targets and attributes is made of an empty file ends with ENOSPC,
// and all of it comes back.
func TestNamesAndInodesAreCharged(t *testing.T) {
	long := strings.Repeat("t", 4000)
	for _, c := range []struct {
		kind string
		make func(s *fstest.VFS, i int) error
		gone func(s *fstest.VFS, i int) error
	}{
		{"files", func(s *fstest.VFS, i int) error {
			f, err := s.Open(fmt.Sprint(i), unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err == nil {
				f.Close()
			}
			return err
		}, func(s *fstest.VFS, i int) error { return s.Unlink(fmt.Sprint(i)) }},
		{"directories", func(s *fstest.VFS, i int) error { return s.Mkdir(fmt.Sprint(i), 0o700) },
			func(s *fstest.VFS, i int) error { return s.Rmdir(fmt.Sprint(i)) }},
		{"links", func(s *fstest.VFS, i int) error { return s.Symlink(long, fmt.Sprint(i)) },
			func(s *fstest.VFS, i int) error { return s.Unlink(fmt.Sprint(i)) }},
		{"names", func(s *fstest.VFS, i int) error { return s.Link("a", fmt.Sprint(i)) },
			func(s *fstest.VFS, i int) error { return s.Unlink(fmt.Sprint(i)) }},
		{"attributes", func(s *fstest.VFS, i int) error { return s.SetXattr("a", fmt.Sprint("user.", i), "", 0) },
			func(s *fstest.VFS, i int) error { return s.RemoveXattr("a", fmt.Sprint("user.", i)) }},
	} {
		t.Run(c.kind, func(t *testing.T) {
			mem, acct := fstest.Memory(t, 256<<10)
			fs, err := New(Options{Memory: mem, Account: acct, Inodes: 1 << 40})
			if err != nil {
				t.Fatal(err)
			}
			s := fstest.New(fs)
			f, err := s.Open("a", unix.O_CREAT|unix.O_WRONLY, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			before := acct.Heap()
			n := 0
			for ; err == nil && n < 1<<20; n++ {
				err = c.make(s, n)
			}
			if err != unix.ENOSPC || acct.Heap() > 256<<10 || acct.Heap() < 200<<10 {
				t.Errorf("%d made, then %v with %d bytes charged", n-1, err, acct.Heap())
			}
			for i := range n - 1 {
				if err := c.gone(s, i); err != nil {
					t.Fatal(err)
				}
			}
			if acct.Heap() != before {
				t.Errorf("%d bytes still charged", int64(acct.Heap())-int64(before))
			}
		})
	}
}
