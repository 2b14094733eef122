package loader

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/vdso"
	"vitrine/pkg/usermem"
)

// runImage runs what was loaded into m in a process of the host.
func runImage(t *testing.T, enter string, m *fakeMemory, img Image) (string, error) {
	t.Helper()
	dump := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(dump)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range m.vmas {
		b := binary.LittleEndian.AppendUint64(nil, uint64(v.Start))
		b = binary.LittleEndian.AppendUint64(b, v.Len())
		b = binary.LittleEndian.AppendUint64(b, uint64(v.opts.Prot))
		for a := v.Start; a < v.End; a += usermem.PageSize {
			p := m.page(a, usermem.NoAccess)
			if p == nil {
				p = new([usermem.PageSize]byte)
			}
			b = append(b, p[:]...)
		}
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(enter, dump, fmt.Sprintf("%#x", uint64(img.Entry)), fmt.Sprintf("%#x", uint64(img.StackPointer)))
	// The helper's own C library must not take what the program's wants.
	cmd.Env = []string{"GLIBC_TUNABLES=glibc.pthread.rseq=0"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRealProgramsRunAsLoaded loads the host's programs and runs them from the
// image that results, with our vDSO.
func TestRealProgramsRunAsLoaded(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc and a static C library")
	}
	enter := filepath.Join(t.TempDir(), "enter")
	// Out of the way of anything that is loaded.
	if out, err := exec.Command(gcc, "-O1", "-static", "-no-pie", "-Wl,-Ttext-segment=0x60000000", "-o", enter, "testdata/enter.c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A clock that stands still at a time of its own: who prints that has
	// asked the vDSO.
	clockPage := make([]byte, vdso.DataSize)
	clocks := clock.PageAt(clockPage)
	clocks.Valid.Store(1 << 63)
	clocks.Starts[clock.Realtime].Seconds.Store(1_000_000_000)
	image := vdso.New()
	cpu, err := HostCPU()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh -eu\necho \"$0|$1|$A\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	rewriter := cpuid.New(0)
	for _, c := range []struct {
		argv  []string
		check func(out string) bool
	}{
		{[]string{"/bin/echo", "hello", "there"}, func(out string) bool { return out == "hello there\n" }},
		{[]string{"/usr/bin/env"}, func(out string) bool { return out == "A=b\nLANG=C\n" }},
		{[]string{script, "one"}, func(out string) bool { return out == script+"|one|b\n" }},
		{[]string{"/bin/date", "+%s.%N"}, func(out string) bool { return out == "1000000000.000000000\n" }},
		{[]string{"/bin/busybox", "echo", "static"}, func(out string) bool { return out == "static\n" }},
	} {
		f, err := hostFS{}.OpenExec(c.argv[0])
		if err == unix.ENOENT {
			t.Logf("%s is not installed here", c.argv[0])
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		// Below the helper's own stack.
		m := newFakeMemory()
		m.user.End = 0x7e0000000000
		img, err := Load(Args{File: f, Path: c.argv[0], Opener: hostFS{}, Argv: c.argv, Envv: []string{"A=b", "LANG=C"}, StackLimit: 8 << 20},
			Target{Memory: m, UserRange: m.user, Random: rand.Reader, CPU: cpu, CPUID: rewriter,
				VDSO: &VDSO{Mappable: &memFile{data: append(clockPage[:vdso.DataSize:vdso.DataSize], image...)}, DataSize: vdso.DataSize, CodeSize: uint64(len(image))}})
		if err != nil {
			t.Errorf("%s: %v", c.argv[0], err)
			continue
		}
		if out, err := runImage(t, enter, m, img); err != nil || !c.check(out) {
			t.Errorf("%s: %v, printed %q", c.argv, err, out)
		}
	}
}
