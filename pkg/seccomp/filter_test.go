package seccomp

import (
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	number, arch uint32
	ip           uint64
	args         [6]uint64
}

func (d *data) word(offset uint32) uint32 {
	half := func(v uint64) uint32 {
		if offset&4 != 0 {
			return uint32(v >> 32)
		}
		return uint32(v)
	}
	switch {
	case offset == 0:
		return d.number
	case offset == 4:
		return d.arch
	case offset < 16:
		return half(d.ip)
	}
	return half(d.args[(offset-16)/8])
}

// interpret runs a program as the kernel would (Documentation/networking/filter.rst) and counts its steps.
func interpret(t testing.TB, program []unix.SockFilter, d *data) (result Action, steps int) {
	t.Helper()
	var a uint32
	for pc := 0; ; {
		if pc >= len(program) {
			t.Fatalf("ran off the program's end")
		}
		in := program[pc]
		pc++
		steps++
		jump := func(taken bool) {
			if taken {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case loadAbs:
			if in.K%4 != 0 || in.K > 60 {
				t.Fatalf("load from %d", in.K)
			}
			a = d.word(in.K)
		case andConst:
			a &= in.K
		case jumpEqual:
			jump(a == in.K)
		case jumpGreater:
			jump(a > in.K)
		case jumpAtLeast:
			jump(a >= in.K)
		case jumpAlways:
			pc += int(in.K)
		case returnConst:
			return Action(in.K), steps
		default:
			t.Fatalf("instruction %#x", in.Code)
		}
	}
}

// decide says what f means, read off its documentation rather than off its program.
func decide(f *Filter, d *data) Action {
	or := func(a, zero Action) Action {
		if a == 0 {
			return zero
		}
		return a
	}
	if d.arch != unix.AUDIT_ARCH_X86_64 || d.number >= x32Bit {
		return or(f.Foreign, KillProcess)
	}
	beyond := len(f.Rows) > 0
rows:
	for _, r := range f.Rows {
		beyond = beyond && d.number > r.Number
		if r.Number != d.number {
			continue
		}
		for _, c := range r.Checks {
			v := d.ip
			if c.arg < 6 {
				v = d.args[c.arg]
			}
			holds := false
			switch c.op {
			case opMasked:
				holds = v&c.mask == c.value
			case opOther:
				holds = v != c.value
			case opAtMost:
				holds = v <= c.value
			case opAtLeast:
				holds = v >= c.value
			case opOneOf:
				for _, w := range c.values {
					holds = holds || v == w
				}
			case opOneOfLow:
				for _, w := range c.values {
					holds = holds || uint32(v) == uint32(w)
				}
			}
			if !holds {
				continue rows
			}
		}
		return or(r.Action, Allow)
	}
	if beyond {
		return or(f.Beyond, or(f.Default, KillProcess))
	}
	return or(f.Default, KillProcess)
}

func TestChecksCompareSixtyFourBits(t *testing.T) {
	const big = 0x1_0000_0005
	for _, c := range []struct {
		name  string
		check Check
		yes   []uint64
		no    []uint64
	}{
		{"Equal", Equal(1, 5), []uint64{5}, []uint64{4, 6, big}},
		{"EqualLow", EqualLow(1, 5), []uint64{5, big}, []uint64{4, 6}},
		{"NotEqual", NotEqual(1, big), []uint64{0, 5, 1 << 32, 2<<32 | 5, big + 1}, []uint64{big}},
		{"Masked", Masked(1, 0xf0, 0x30), []uint64{0x30, 0x3f, 0xff00000f3f}, []uint64{0x20, 0}},
		{"impossible mask", Masked(1, 0xf0, 1), nil, []uint64{0, 1, 0xf1}},
		{"OnlyBits", OnlyBits(1, 3), []uint64{0, 1, 2, 3}, []uint64{4, 1 << 40, 1<<40 | 1}},
		{"OneOf", OneOf(1, 1, 3, big), []uint64{1, 3, big}, []uint64{0, 2, 5, 1<<32 | 1}},
		{"OneOf nothing", OneOf(1), nil, []uint64{0, 1}},
		{"OneOfLow", OneOfLow(1, 1, 3), []uint64{1, 3, 1<<32 | 1}, []uint64{0, 2, 1 << 32}},
		{"AtMost", AtMost(1, big), []uint64{0, 5, big, 0xffffffff}, []uint64{big + 1, 2 << 32, 2<<32 | 1}},
		{"AtLeast", AtLeast(1, big), []uint64{big, big + 1, 2 << 32}, []uint64{0, 0xffffffff, 1 << 32, big - 1}},
	} {
		f := &Filter{Rows: []Row{{Number: 7, Checks: []Check{c.check}}}, Default: Errno(unix.EPERM)}
		program, err := Assemble(f)
		if err != nil {
			t.Fatal(err)
		}
		run := func(v uint64, want Action) {
			d := &data{number: 7, arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{1: v}}
			if got, _ := interpret(t, program, d); got != want {
				t.Errorf("%s of %#x: got %#x, want %#x", c.name, v, got, want)
			}
		}
		for _, v := range c.yes {
			run(v, Allow)
		}
		for _, v := range c.no {
			run(v, Errno(unix.EPERM))
		}
	}
}

func TestForeignCallsAreRefused(t *testing.T) {
	f := &Filter{Rows: []Row{{Number: 1}}, Foreign: Trap}
	program, err := Assemble(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []data{
		{number: 1, arch: unix.AUDIT_ARCH_I386},
		{number: 1 | x32Bit, arch: unix.AUDIT_ARCH_X86_64},
		{number: 0xffffffff, arch: unix.AUDIT_ARCH_X86_64},
	} {
		if got, _ := interpret(t, program, &d); got != Trap {
			t.Errorf("%#x on %#x: %#x", d.number, d.arch, got)
		}
	}
	d := data{number: 1, arch: unix.AUDIT_ARCH_X86_64}
	if got, _ := interpret(t, program, &d); got != Allow {
		t.Errorf("the allowed call: %#x", got)
	}
}

func TestCallSitesAreConfined(t *testing.T) {
	f := &Filter{Rows: []Row{{Number: 1, Checks: []Check{CallerAtLeast(0x7fff00001000), CallerBelow(0x7fff00002000)}}},
		Default: Trap}
	program, _ := Assemble(f)
	for ip, want := range map[uint64]Action{
		0x7fff00000fff: Trap, 0x7fff00001000: Allow, 0x7fff00001fff: Allow, 0x7fff00002000: Trap, 0x1000: Trap} {
		d := data{number: 1, arch: unix.AUDIT_ARCH_X86_64, ip: ip}
		if got, _ := interpret(t, program, &d); got != want {
			t.Errorf("from %#x: %#x, want %#x", ip, got, want)
		}
	}
}

// randomFilter draws values from a small pool, so that calls meet rows and neighbours of their values.
func randomFilter(r *rand.Rand) (*Filter, func() *data) {
	pool := []uint64{0, 1, 2, 3, 0xffffffff, 1 << 32, 1<<32 | 1, 1<<32 | 2, 1 << 63, ^uint64(0)}
	pick := func() uint64 { return pool[r.Intn(len(pool))] }
	f := &Filter{Default: Trap}
	if r.Intn(2) == 0 {
		f.Beyond = Errno(unix.ENOSYS)
	}
	numbers := 1 + r.Intn(400)
	errors, checks := 1+r.Intn(100), 1+r.Intn(4)
	for i := r.Intn(300); i >= 0; i-- {
		row := Row{Number: uint32(r.Intn(numbers)), Action: Errno(unix.Errno(1 + r.Intn(errors)))}
		if r.Intn(4) == 0 {
			row.Action = 0
		}
		for j := r.Intn(checks); j > 0; j-- {
			arg := r.Intn(6)
			var c Check
			switch r.Intn(7) {
			case 6:
				c = NotEqual(arg, pick())
			case 0:
				c = Equal(arg, pick())
			case 1:
				c = Masked(arg, pick(), pick())
			case 2, 3:
				vs := make([]uint64, r.Intn(8))
				if r.Intn(20) == 0 {
					vs = make([]uint64, 400)
				}
				for k := range vs {
					vs[k] = pick()
					if len(vs) > 100 {
						vs[k] += uint64(k) << (8 + r.Intn(2)*24)
					}
				}
				c = OneOf(arg, vs...)
				if r.Intn(2) == 0 {
					c = OneOfLow(arg, vs...)
				}
			case 4:
				c = AtMost(arg, pick())
			case 5:
				c = AtLeast(arg, pick())
			}
			row.Checks = append(row.Checks, c)
		}
		f.Rows = append(f.Rows, row)
	}
	return f, func() *data {
		d := &data{number: uint32(r.Intn(numbers + 2)), arch: unix.AUDIT_ARCH_X86_64}
		for i := range d.args {
			d.args[i] = pick()
		}
		return d
	}
}

func TestProgramsMeanWhatTheirTablesSay(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	tooLong, checked := 0, 0
	for range 600 {
		f, call := randomFilter(r)
		program, err := Assemble(f)
		if err == ErrTooLong {
			tooLong++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		checked++
		for range 300 {
			d := call()
			got, _ := interpret(t, program, d)
			if want := decide(f, d); got != want {
				t.Fatalf("call %+v: got %#x, want %#x", d, got, want)
			}
		}
	}
	if checked < 200 {
		t.Fatalf("only %d filters checked, %d too long", checked, tooLong)
	}
}

func TestSearchIsLogarithmic(t *testing.T) {
	f := &Filter{}
	for i := range 256 {
		f.Rows = append(f.Rows, Row{Number: uint32(i), Action: Errno(unix.Errno(1 + i%2))})
	}
	program, err := Assemble(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 256 {
		d := data{number: uint32(i), arch: unix.AUDIT_ARCH_X86_64}
		// 4 of the head, 8 or 9 levels with at most a step over a stone each, the return.
		if got, steps := interpret(t, program, &d); got != Errno(unix.Errno(1+i%2)) || steps > 4+9+4+1 {
			t.Errorf("call %d: %#x after %d steps", i, got, steps)
		}
	}
}

// Neighbours with one action take one comparison together.
func TestNeighboursShareInstructions(t *testing.T) {
	f := &Filter{Default: Errno(unix.EPERM)}
	for i := range 300 {
		if i%50 != 0 {
			f.Rows = append(f.Rows, Row{Number: uint32(i)})
		}
	}
	program, err := Assemble(f)
	if err != nil {
		t.Fatal(err)
	}
	// The head with its return, a comparison for each of 12 changes, two returns.
	if len(program) > 5+12+2 {
		t.Errorf("%d instructions", len(program))
	}
}

func TestBadTablesAreRefused(t *testing.T) {
	long := make([]uint64, 5000)
	for _, c := range []struct {
		f    Filter
		want error
	}{
		{Filter{Rows: []Row{{Number: x32Bit}}}, ErrBadNumber},
		{Filter{Rows: []Row{{Checks: []Check{Equal(7, 0)}}}}, ErrBadArgument},
		{Filter{Rows: []Row{{Checks: []Check{OneOf(0, long...)}}}}, ErrTooLong},
	} {
		if _, err := Assemble(&c.f); err != c.want {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
}

const childMark = "VITRINE_SECCOMP_TEST_CHILD"

// TestKernelObeys runs this test binary again; that child installs a filter on itself and makes calls.
func TestKernelObeys(t *testing.T) {
	if mode := os.Getenv(childMark); mode != "" {
		child(mode)
	}
	self := func(mode string) (string, error) {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelObeys$")
		cmd.Env = append(os.Environ(), childMark+"="+mode)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := self("allowed")
	if err != nil || !strings.Contains(out, "refused with EXDEV") {
		t.Errorf("allowed calls: %v\n%s", err, out)
	}
	for _, mode := range []string{"forbidden", "forbidden on another thread"} {
		_, err = self(mode)
		exit, ok := err.(*exec.ExitError)
		if !ok {
			t.Fatalf("%s: %v", mode, err)
		}
		if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGSYS {
			t.Errorf("%s: the child ended with %v, want SIGSYS", mode, err)
		}
	}
}

func child(mode string) {
	// Everything the Go runtime may do stays allowed by default; the filter takes two calls away.
	other := make(chan func())
	ready := make(chan struct{})
	go func() { // a thread that exists before the filter does
		close(ready)
		(<-other)()
	}()
	<-ready
	err := Install(&Filter{
		Default: Allow,
		Rows: []Row{
			{Number: unix.SYS_UNAME, Action: KillProcess, Why: "the call that must kill"},
			{Number: unix.SYS_GETPRIORITY, Checks: []Check{EqualLow(0, 77)}, Action: Errno(unix.EXDEV), Why: "an error"},
		},
	})
	if err != nil {
		println(err.Error())
		os.Exit(3)
	}
	if _, err := unix.Getpriority(77, 0); err == unix.EXDEV {
		println("refused with EXDEV")
	}
	if nnp, _ := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); nnp != 1 {
		os.Exit(4)
	}
	uname := func() {
		var u unix.Utsname
		unix.Uname(&u)
		os.Exit(5)
	}
	switch mode {
	case "forbidden":
		uname()
	case "forbidden on another thread":
		other <- uname
		select {}
	}
	os.Exit(0)
}

func BenchmarkAssemble(b *testing.B) {
	f := &Filter{}
	for i := range 80 {
		f.Rows = append(f.Rows, Row{Number: uint32(i * 3), Checks: []Check{OnlyBits(1, 7)}})
	}
	b.ReportAllocs()
	for b.Loop() {
		Assemble(f)
	}
}
