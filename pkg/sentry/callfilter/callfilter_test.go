package callfilter

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// ret returns an instruction that answers v.
func ret(v uint32) Instruction { return Instruction{Code: bpfRet, K: v} }

// length is how many filters there are.
func length(c *Chain) (n int) {
	for ; c != nil; c = c.before {
		n++
	}
	return n
}

func TestFilterPrograms(t *testing.T) {
	load := Instruction{Code: bpfLd | bpfAbs, K: 0}
	for _, c := range []struct {
		name    string
		program []Instruction
		nr      uint32
		refused bool
		want    uint32
	}{
		{name: "answer", program: []Instruction{ret(7)}, want: 7},
		{name: "empty", refused: true},
		{name: "no answer", program: []Instruction{load}, refused: true},
		{name: "jump behind the end", program: []Instruction{{Code: bpfJmp | bpfJa, K: 1}, ret(1)}, refused: true},
		{name: "jump that wraps", program: []Instruction{{Code: bpfJmp | bpfJa, K: ^uint32(0)}, ret(1)}, refused: true},
		{name: "odd load", program: []Instruction{{Code: bpfLd | bpfAbs, K: 2}, ret(1)}, refused: true},
		{name: "load behind the data", program: []Instruction{{Code: bpfLd | bpfAbs, K: dataSize}, ret(1)}, refused: true},
		{name: "division by zero", program: []Instruction{{Code: bpfAlu | bpfDiv}, ret(1)}, refused: true},
		{name: "division by X that is zero", program: []Instruction{{Code: bpfAlu | bpfDiv | bpfX}, ret(1)}, want: KillThread},
		{name: "memory that nobody wrote", program: []Instruction{{Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA}}, refused: true},
		{name: "memory written on one way only", program: []Instruction{
			load, {Code: bpfJmp | bpfJeq, K: 1, JT: 0, JF: 1}, {Code: bpfSt, K: 3}, {Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA},
		}, refused: true},
		{name: "memory", program: []Instruction{
			load, {Code: bpfSt, K: 3}, {Code: bpfLd | bpfImm}, {Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA},
		}, nr: 39, want: 39},
		{name: "branch taken", program: []Instruction{load, {Code: bpfJmp | bpfJeq, K: 39, JF: 1}, ret(1), ret(2)}, nr: 39, want: 1},
		{name: "branch not taken", program: []Instruction{load, {Code: bpfJmp | bpfJeq, K: 39, JF: 1}, ret(1), ret(2)}, nr: 40, want: 2},
		{name: "arithmetic", program: []Instruction{
			load, {Code: bpfMisc}, {Code: bpfAlu | bpfAdd | bpfX}, {Code: bpfAlu | bpfLsh, K: 4}, {Code: bpfAlu | bpfXor, K: 1}, {Code: bpfRet | bpfA},
		}, nr: 5, want: 161},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(c.program)
			if c.refused {
				if err != unix.EINVAL {
					t.Fatalf("Check = %v, want EINVAL", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var data Data
			binary.LittleEndian.PutUint32(data[:], c.nr)
			if got, _ := run(c.program, &data, dataSize); got != c.want {
				t.Errorf("answer %#x, want %#x", got, c.want)
			}
		})
	}
}

// FuzzFilter runs whatever the check lets pass: it must come to an end without
// touching what isn't there.
func FuzzFilter(f *testing.F) {
	f.Add([]byte{0x20, 0, 0, 0, 0, 0, 0, 0, 0x15, 0, 0, 1, 39, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p []Instruction
		for ; len(raw) >= 8; raw = raw[8:] {
			p = append(p, Instruction{binary.LittleEndian.Uint16(raw), raw[2], raw[3], binary.LittleEndian.Uint32(raw[4:])})
		}
		if Check(p) == nil {
			run(p, &Data{}, dataSize)
		}
	})
}

func TestTheGravestAnswerCounts(t *testing.T) {
	var c *Chain
	add := func(answer uint32) {
		t.Helper()
		n, err := c.Add([]Instruction{ret(answer)})
		if err != nil {
			t.Fatal(err)
		}
		c = n
	}
	if got := c.Ask(&Data{}); got != Allow {
		t.Errorf("no filter answers %#x", got)
	}
	for _, s := range []struct{ answer, want uint32 }{
		{Allow, Allow}, {Log, Log}, {Errno | 1, Errno | 1}, {Errno | 2, Errno | 2}, {Trace, Errno | 2},
		{KillThread, KillThread}, {KillProcess, KillProcess}, {Allow, KillProcess},
	} {
		add(s.answer)
		if got := c.Ask(&Data{}); got != s.want {
			t.Errorf("with %#x added: %#x, want %#x", s.answer, got, s.want)
		}
	}
	if length(c) != 8 {
		t.Errorf("%d filters", length(c))
	}
}

func TestChainsKnowWhatTheyWereBuiltOn(t *testing.T) {
	add := func(c *Chain) *Chain {
		n, err := c.Add([]Instruction{ret(Allow)})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	a := add(nil)
	b, c := add(a), add(a)
	for _, s := range []struct {
		c, old *Chain
		want   bool
	}{{a, nil, true}, {b, a, true}, {b, b, true}, {b, c, false}, {a, b, false}, {nil, nil, true}, {nil, a, false}} {
		if got := s.c.Descends(s.old); got != s.want {
			t.Errorf("Descends of %d filters and %d: %v", length(s.c), length(s.old), got)
		}
	}
}

func TestChainsAreBounded(t *testing.T) {
	long := make([]Instruction, maxProgram)
	for i := range long {
		long[i] = ret(Allow)
	}
	var c *Chain
	for range maxChain / (maxProgram + 4) {
		n, err := c.Add(long)
		if err != nil {
			t.Fatalf("filter %d: %v", length(c)+1, err)
		}
		c = n
	}
	if _, err := c.Add(long); err != unix.ENOMEM {
		t.Errorf("one filter more: %v, want ENOMEM", err)
	}
	if _, err := (*Chain)(nil).Add(append(long, ret(Allow))); err != unix.EINVAL {
		t.Errorf("a program that is too long: %v, want EINVAL", err)
	}
}

// What a chain remembers as always allowed is what each of its programs allows
// without a look at anything but the number.
func TestAlwaysAllowed(t *testing.T) {
	load := func(k uint32) Instruction { return Instruction{Code: bpfLd | bpfAbs, K: k} }
	// 2 is allowed if its first argument is 0, 3 is an error, 4 is logged, the rest is
	// allowed; the second program allows all but 5, and what has a high number.
	var none *Chain
	first, err := none.Add([]Instruction{load(0),
		{Code: bpfJmp | bpfJeq, K: 2, JT: 3}, {Code: bpfJmp | bpfJeq, K: 3, JT: 5}, {Code: bpfJmp | bpfJeq, K: 4, JT: 5}, ret(Allow),
		load(16), {Code: bpfJmp | bpfJeq, K: 0, JF: 1}, ret(Allow), ret(Errno), ret(Log)})
	if err != nil {
		t.Fatal(err)
	}
	second, err := first.Add([]Instruction{load(4), {Code: bpfJmp | bpfJeq, K: AuditArch, JF: 3}, load(0),
		{Code: bpfJmp | bpfJeq, K: 5, JT: 1}, {Code: bpfJmp | bpfJge, K: 500, JF: 1}, ret(Trap), ret(Allow)})
	if err != nil {
		t.Fatal(err)
	}
	for no, want := range map[uint64][3]bool{0: {true, true, true}, 1: {true, true, true}, 2: {true}, 3: {true}, 4: {true}, 5: {true, true}, 499: {true, true, true},
		500: {true, true}, 511: {true, true}, 512: {true}, 1 << 32: {true}, ^uint64(0): {true}} {
		if got := [3]bool{none.Allows(no), first.Allows(no), second.Allows(no)}; got != want {
			t.Errorf("call %d: %v, want %v", no, got, want)
		}
	}
}
