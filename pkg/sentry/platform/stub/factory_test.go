package stub

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
)

// TestStubsThatEndAtOnce: the host may have no memory for a stub, or end it. Who
// waits for it hears of that, and the factory goes on.
func TestStubsThatEndAtOnce(t *testing.T) {
	f, err := Start(&Program{
		Rows:    []seccomp.Row{{Number: unix.SYS_EXIT_GROUP, Why: "the test"}},
		Code:    []byte("\x31\xff\xb8\xe7\x00\x00\x00\x0f\x05"), // exit_group(0)
		Handler: PlatformCode,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 200 {
		if p, err := f.NewProcess(func(*Process) {}); err == nil {
			t.Fatalf("a stub that has ended is %+v", p)
		}
	}
	r, w, err := pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(r)
	defer unix.Close(w)
	if n, err := f.Take(r); err != nil || n < fdFree {
		t.Errorf("afterwards a descriptor is %d, %v", n, err)
	}
}

func pipe() (r, w int, err error) {
	var p [2]int
	err = unix.Pipe2(p[:], unix.O_CLOEXEC)
	return p[0], p[1], err
}
