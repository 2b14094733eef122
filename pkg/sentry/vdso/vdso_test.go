package vdso

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
)

func symbolsOf(tb testing.TB, image []byte) map[string]uint64 {
	tb.Helper()
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		tb.Fatal(err)
	}
	syms, err := f.DynamicSymbols()
	if err != nil {
		tb.Fatal(err)
	}
	m := map[string]uint64{}
	for _, s := range syms {
		m[s.Name] = s.Value
		if s.Version != version {
			tb.Errorf("%s has version %q", s.Name, s.Version)
		}
	}
	return m
}

func TestImageIsWhatProgramsLookFor(t *testing.T) {
	image := New()
	if len(image)%pageSize != 0 || len(image) > 2*pageSize {
		t.Errorf("image has %d bytes", len(image))
	}
	m := symbolsOf(t, image)
	for _, name := range exports {
		if m["__vdso_"+name] == 0 || m["__vdso_"+name] != m[name] {
			t.Errorf("%s is at %#x and %#x", name, m["__vdso_"+name], m[name])
		}
	}
	if len(m) != 2*len(exports) {
		t.Errorf("%d symbols, want %d", len(m), 2*len(exports))
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := f.DynString(elf.DT_SONAME); err != nil || len(s) != 1 || s[0] != soname {
		t.Errorf("soname is %q, %v", s, err)
	}
	if bytes.Contains(image, []byte(pageMark)) {
		t.Error("an instruction was not given its distance to the data page")
	}
	if !bytes.Equal(image, New()) {
		t.Error("two images differ")
	}
}

func TestBinutilsHaveNoComplaint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vdso.so")
	if err := os.WriteFile(path, New(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"readelf", "-a", "-W", "--unwind", "--histogram", path},
		{"objdump", "-d", "-T", "--dwarf=frames", path},
	} {
		if _, err := exec.LookPath(args[0]); err != nil {
			t.Skip("needs binutils")
		}
		var stdout, stderr strings.Builder
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil || stderr.Len() > 0 || strings.Contains(strings.ToLower(stdout.String()), "warning") {
			t.Errorf("%s: %v\n%s%s", args[0], err, stderr.String(), stdout.String())
		}
		if args[0] == "objdump" && strings.Contains(stdout.String(), "(bad)") {
			t.Errorf("code holds what is no instruction:\n%s", stdout.String())
		}
	}
}

// running maps a vDSO with a Keeper behind it. Its clock_gettime does not make
// the system call, which the Sentry would answer by the Keeper and not by the
// host's clock, but returns fellBack.
func running(tb testing.TB) (*object, *clock.Keeper) {
	tb.Helper()
	image := bytes.Replace(New(), []byte("\xb8\xe4\x00\x00\x00\x0f\x05"), []byte("\xb8\xe4\x00\x00\x00\x90\x90"), 1)
	o := mapObject(tb, image, symbolsOf(tb, image))
	if !clock.HostTSCReliable() {
		tb.Skip("needs a host whose clock source is the TSC")
	}
	k := clock.New(true)
	k.AllowGetCPU(4096)
	k.Share(o.page)
	for o.page.Valid.Load() == 0 {
		k.Monotonic()
	}
	return o, k
}

const fellBack = unix.SYS_CLOCK_GETTIME

// now reads a clock as a program in the sandbox does.
func now(o *object, k *clock.Keeper, id clock.ID) int64 {
	ts, ret := o.clockCall("clock_gettime", int32(id))
	if ret == fellBack {
		ns, _ := k.Now(id)
		return ns
	}
	return nanos(ts)
}

func nanos(ts [2]int64) int64 { return ts[0]*1e9 + ts[1] }

func hostTime(tb testing.TB, id int32) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano()
}

// TestClocksAgreeWithTheKeeper reads each clock here, there and here again.
func TestClocksAgreeWithTheKeeper(t *testing.T) {
	o, k := running(t)
	answered := 0
	for range 20000 {
		for _, id := range []clock.ID{0, 1, 4, 5, 6, 7, 11} {
			before, _ := k.Now(id)
			ts, ret := o.clockCall("clock_gettime", int32(id))
			after, _ := k.Now(id)
			if ret == fellBack {
				continue
			}
			answered++
			if got := nanos(ts); ret != 0 || ts[1] < 0 || ts[1] >= 1e9 || got < before || got > after {
				t.Fatalf("clock %d is %d, the Keeper says %d to %d", id, got, before, after)
			}
		}
	}
	if answered < 1000 {
		t.Errorf("only %d calls were answered without the kernel", answered)
	}
}

func TestOtherClocksAreTheHosts(t *testing.T) {
	image := New()
	o := mapObject(t, image, symbolsOf(t, image))
	for _, id := range []int32{2, 3} { // CPU time
		before := hostTime(t, id)
		ts, ret := o.clockCall("__vdso_clock_gettime", id)
		if got := nanos(ts); ret != 0 || id == 2 && (got < before || got > hostTime(t, id)) {
			t.Errorf("clock %d is %d, %d", id, got, ret)
		}
	}
	for _, id := range []int32{10, 12, 16, 64, -100, 1 << 30} {
		for _, fn := range []string{"clock_gettime", "clock_getres"} {
			if _, ret := o.clockCall(fn, id); ret != -int(unix.EINVAL) {
				t.Errorf("%s of clock %d returns %d, want EINVAL", fn, id, ret)
			}
		}
	}
}

func TestNotReadyMeansSystemCall(t *testing.T) {
	image := New()
	o := mapObject(t, image, symbolsOf(t, image))
	check := func(state string) {
		t.Helper()
		before := hostTime(t, unix.CLOCK_MONOTONIC)
		ts, ret := o.clockCall("clock_gettime", unix.CLOCK_MONOTONIC)
		if got := nanos(ts); ret != 0 || got < before || got > hostTime(t, unix.CLOCK_MONOTONIC) {
			t.Errorf("%s: the clock is %d, %d", state, got, ret)
		}
		before = hostTime(t, unix.CLOCK_REALTIME) / 1000
		tv, _, ret := o.gettimeofday(true, false)
		if got := tv[0]*1e6 + tv[1]; ret != 0 || got < before || got > hostTime(t, unix.CLOCK_REALTIME)/1000 {
			t.Errorf("%s: the time of day is %d, %d", state, got, ret)
		}
		before /= 1e6
		if got, _ := o.time(false); got < before || got > hostTime(t, unix.CLOCK_REALTIME)/1e9+1 {
			t.Errorf("%s: the time is %d", state, got)
		}
		if cpu, _, ret := o.getcpu(); ret != 0 || int(cpu) >= 4096 {
			t.Errorf("%s: getcpu says %d, %d", state, cpu, ret)
		}
	}
	check("no numbers")
	o.page.Valid.Store(1)
	check("expired")
	o.page.Valid.Store(^uint64(0))
	o.page.Seq.Store(1)
	check("being written for ever")
}

// TestSecondsAreSplitExactly puts the clock near the ends of seconds.
func TestSecondsAreSplitExactly(t *testing.T) {
	image := New()
	o := mapObject(t, image, symbolsOf(t, image))
	o.page.Valid.Store(^uint64(0)) // with rates of zero, the clocks stand still
	for _, ns := range []uint64{0, 1, 999, 1000, 999_999_999, 1e9, 1e9 + 1, 1763786690_999999999, 1763786691_000000000, 1<<63 - 1} {
		// As much of it as is no second may also have come from the TSC.
		o.page.Starts[0].Seconds.Store(ns/1e9 - min(ns/1e9, 1))
		o.page.Starts[0].Nanoseconds.Store(ns%1e9 + min(ns/1e9, 1)*1e9)
		ts, ret := o.clockCall("clock_gettime", 0)
		if want := [2]int64{int64(ns / 1e9), int64(ns % 1e9)}; ret != 0 || ts != want {
			t.Errorf("%d ns are %v, want %v", ns, ts, want)
		}
		tv, zone, ret := o.gettimeofday(true, true)
		if want := [2]int64{int64(ns / 1e9), int64(ns % 1e9 / 1000)}; ret != 0 || tv != want || zone != [2]int32{} {
			t.Errorf("%d ns are %v, zone %v, want %v", ns, tv, zone, want)
		}
		if got, stored := o.time(true); got != int64(ns/1e9) || stored != got {
			t.Errorf("%d ns are %d seconds, stored %d", ns, got, stored)
		}
	}
	if _, zone, ret := o.gettimeofday(false, true); ret != 0 || zone != [2]int32{} {
		t.Errorf("gettimeofday without a time returns %d and %v", ret, zone)
	}
	for id, want := range map[int32]int64{0: 1, 1: 1, 4: 1, 7: 1, 11: 1, 5: clock.CoarseResolution, 6: clock.CoarseResolution} {
		if ts, ret := o.clockCall("clock_getres", id); ret != 0 || ts != [2]int64{0, want} {
			t.Errorf("resolution of clock %d is %v, %d", id, ts, ret)
		}
	}
}

func TestGetCPUTellsTheProcessor(t *testing.T) {
	o, _ := running(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	for cpu := range 1024 {
		if !all.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Fatal(err)
		}
		if got, _, ret := o.getcpu(); ret != 0 || int(got) != cpu {
			t.Errorf("getcpu on %d says %d, %d", cpu, got, ret)
		}
	}
}

// TestMonotonicWhileThePageChanges reads the clock while another thread corrects
// it, here and in the Keeper in turn.
func TestMonotonicWhileThePageChanges(t *testing.T) {
	o, k := running(t)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			k.Update()
		}
	}()
	last := int64(0)
	for i := range 1_000_000 {
		var t1 int64
		if i%2 == 0 {
			t1 = now(o, k, clock.Monotonic)
		} else {
			t1 = k.Monotonic()
		}
		if t1 < last {
			t.Fatalf("went back by %d ns", last-t1)
		}
		last = t1
	}
	stop.Store(true)
	<-done
}

func BenchmarkClockGettime(b *testing.B) {
	o, _ := running(b)
	o.page.Valid.Store(1 << 62) // nobody is there to correct it
	call := clockCaller(o.fn["clock_gettime"])
	for b.Loop() {
		call()
	}
}

// BenchmarkHostClockGettime is the host's own vDSO, for comparison.
func BenchmarkHostClockGettime(b *testing.B) {
	auxv, err := unix.Auxv()
	if err != nil {
		b.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		b.Fatal(err)
	}
	defer mem.Close()
	for _, a := range auxv {
		if a[0] != 33 { // AT_SYSINFO_EHDR
			continue
		}
		image := make([]byte, 2*pageSize)
		n, err := mem.ReadAt(image, int64(a[1]))
		if n == 0 {
			b.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(image[:n]))
		if err != nil {
			b.Fatal(err)
		}
		syms, err := f.DynamicSymbols()
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range syms {
			if s.Name == "__vdso_clock_gettime" {
				call := clockCaller(a[1] + uintptr(s.Value))
				for b.Loop() {
					call()
				}
				return
			}
		}
	}
	b.Skip("the host gives no vDSO")
}

// BenchmarkKeeper is the same question asked of the Sentry.
func BenchmarkKeeper(b *testing.B) {
	_, k := running(b)
	for b.Loop() {
		k.Monotonic()
	}
}
