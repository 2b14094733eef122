package devpts

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/dev"
	"vitrine/pkg/sentry/fs/fstest"
	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/fs/tty"
	"vitrine/pkg/sentry/vfs"
)

type special struct{ *dev.Registry }

func (special) OpenFIFO(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ENXIO }

func TestTerminalsComeAndGo(t *testing.T) {
	o, err := Parse("newinstance,ptmxmode=0666,mode=0620,gid=5,max=2", fstest.NewContext().Cred.UserNS)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := o.String(), ",gid=5,mode=620,ptmxmode=666,max=2"; got != want {
		t.Errorf("options %q, want %q", got, want)
	}
	var to tmpfs.Options
	to.Memory, to.Account = fstest.Memory(t, 0)
	tree, err := dev.NewTree(fstest.NewContext(), to, dev.Device{Path: "ptmx2", Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(5, 2)})
	if err != nil {
		t.Fatal(err)
	}
	s := fstest.New(tree)
	r := &dev.Registry{}
	r.Register(5, 2, dev.DriverFunc(OpenPtmx))
	r.Register(5, 0, dev.DriverFunc(tty.OpenControlling))
	s.Opener.Special = special{r}
	pts, _ := s.Resolve("pts", true)
	if _, err := s.NS.MountAt(pts, New(o), "devpts", 0); err != nil {
		t.Fatal(err)
	}

	a, err := s.OpenFile("ptmx", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.OpenFile("ptmx2", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenFile("ptmx", unix.O_RDWR, 0); err != unix.ENOSPC {
		t.Errorf("more than max: %v", err)
	}
	for i, f := range []*vfs.File{a, b} {
		p, isMaster := tty.TerminalOf(f.Impl())
		if p == nil || !isMaster || p.Index() != uint32(i) {
			t.Fatalf("terminal %d is %v", i, p)
		}
	}
	st, err := s.Stat("pts/1")
	if err != nil || st.Mode != unix.S_IFCHR|0o620 {
		t.Errorf("%o, %v", st.Mode, err)
	}
	if _, err := s.Open("pts/1", unix.O_RDWR, 0); err != unix.EIO {
		t.Errorf("opening a locked slave: %v", err)
	}
	p, _ := tty.TerminalOf(b.Impl())
	p.Unlock()
	sl, err := s.Open("pts/1", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("tty", unix.O_RDWR, 0); err != unix.ENXIO {
		t.Errorf("/dev/tty of nobody: %v", err)
	}
	names, _ := s.ReadDir("pts")
	if want := 5; len(names) != want {
		t.Errorf("%q", names)
	}
	b.DecRef()
	if _, err := s.Stat("pts/1"); err != unix.ENOENT {
		t.Errorf("the slave of a closed master: %v", err)
	}
	// The number is free only when the slave has closed too.
	if _, err := s.OpenFile("ptmx", unix.O_RDWR, 0); err != unix.ENOSPC {
		t.Errorf("number used twice: %v", err)
	}
	sl.Close()
	c, err := s.OpenFile("ptmx", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	c.DecRef()
	a.DecRef()
	if err := s.Mknod("pts/x", unix.S_IFREG|0o600); err != unix.EPERM {
		t.Errorf("making a file: %v", err)
	}
}
