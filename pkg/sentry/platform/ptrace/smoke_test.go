package ptrace

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/usermem"
)

type tf int

func (f tf) FD() int { return int(f) }

func TestSmoke(t *testing.T) {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fd, _ := unix.MemfdCreate("m", 0)
	unix.Ftruncate(fd, 1<<20)
	m, _ := unix.Mmap(fd, 0, 1<<20, 3, 1)
	// loop: syscall; jmp loop
	copy(m, []byte{0x0f, 0x05, 0xeb, 0xfc})
	copy(m[16:], []byte{0x48, 0x89, 0x07, 0xeb, 0xfb})
	as, err := p.NewAddressSpace()
	if err != nil {
		t.Fatal(err)
	}
	if err := as.MapFile(0x10000, tf(fd), 0, 4096, usermem.Read|usermem.Execute, false); err != nil {
		t.Fatal(err)
	}
	c := p.NewContext()
	s := arch.NewState()
	s.Regs.Rip = 0x10000
	s.Regs.Rax = 39
	for i := 0; i < 3; i++ {
		ev, err := c.Switch(as, s)
		fmt.Printf("%+v %v %+v\n", ev, err, s.Regs)
		if err != nil {
			t.Fatal(err)
		}
	}
	n := 20000
	st := time.Now()
	for i := 0; i < n; i++ {
		c.Switch(as, s)
		s.Regs.Rax = 39
	}
	fmt.Println(time.Since(st) / time.Duration(n))
	s.Regs.Rip = 0x10010
	s.Regs.Rdi = 0x20000
	for i := 0; i < 3; i++ {
		ev, err := c.Switch(as, s)
		fmt.Printf("%+v %v %+v\n", ev, err, s.Regs)
	}
	n = 20000
	st = time.Now()
	for i := 0; i < n; i++ {
		c.Switch(as, s)
	}
	fmt.Println("fault", time.Since(st)/time.Duration(n))
	c.Park(s)
	c.Release()
	as.Release()
}
