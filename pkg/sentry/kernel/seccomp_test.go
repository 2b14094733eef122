package kernel

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// ret returns an instruction that answers v.
func ret(v uint32) BPF { return BPF{Code: bpfRet, K: v} }

func TestFilterPrograms(t *testing.T) {
	load := BPF{Code: bpfLd | bpfAbs, K: 0}
	for _, c := range []struct {
		name    string
		program []BPF
		nr      uint32
		refused bool
		want    uint32
	}{
		{name: "answer", program: []BPF{ret(7)}, want: 7},
		{name: "empty", refused: true},
		{name: "no answer", program: []BPF{load}, refused: true},
		{name: "jump behind the end", program: []BPF{{Code: bpfJmp | bpfJa, K: 1}, ret(1)}, refused: true},
		{name: "jump that wraps", program: []BPF{{Code: bpfJmp | bpfJa, K: ^uint32(0)}, ret(1)}, refused: true},
		{name: "odd load", program: []BPF{{Code: bpfLd | bpfAbs, K: 2}, ret(1)}, refused: true},
		{name: "load behind the data", program: []BPF{{Code: bpfLd | bpfAbs, K: dataSize}, ret(1)}, refused: true},
		{name: "division by zero", program: []BPF{{Code: bpfAlu | bpfDiv}, ret(1)}, refused: true},
		{name: "division by X that is zero", program: []BPF{{Code: bpfAlu | bpfDiv | bpfX}, ret(1)}, want: seccompKillThread},
		{name: "memory that nobody wrote", program: []BPF{{Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA}}, refused: true},
		{name: "memory written on one way only", program: []BPF{
			load, {Code: bpfJmp | bpfJeq, K: 1, JT: 0, JF: 1}, {Code: bpfSt, K: 3}, {Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA},
		}, refused: true},
		{name: "memory", program: []BPF{
			load, {Code: bpfSt, K: 3}, {Code: bpfLd | bpfImm}, {Code: bpfLd | bpfMem, K: 3}, {Code: bpfRet | bpfA},
		}, nr: 39, want: 39},
		{name: "branch taken", program: []BPF{load, {Code: bpfJmp | bpfJeq, K: 39, JF: 1}, ret(1), ret(2)}, nr: 39, want: 1},
		{name: "branch not taken", program: []BPF{load, {Code: bpfJmp | bpfJeq, K: 39, JF: 1}, ret(1), ret(2)}, nr: 40, want: 2},
		{name: "arithmetic", program: []BPF{
			load, {Code: bpfMisc}, {Code: bpfAlu | bpfAdd | bpfX}, {Code: bpfAlu | bpfLsh, K: 4}, {Code: bpfAlu | bpfXor, K: 1}, {Code: bpfRet | bpfA},
		}, nr: 5, want: 161},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkFilter(c.program)
			if c.refused {
				if err != unix.EINVAL {
					t.Fatalf("checkFilter = %v, want EINVAL", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var data [dataSize]byte
			binary.LittleEndian.PutUint32(data[:], c.nr)
			if got := (&filter{program: c.program}).run(&data); got != c.want {
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
		var p []BPF
		for ; len(raw) >= 8; raw = raw[8:] {
			p = append(p, BPF{binary.LittleEndian.Uint16(raw), raw[2], raw[3], binary.LittleEndian.Uint32(raw[4:])})
		}
		if checkFilter(p) == nil {
			(&filter{program: p}).run(&[dataSize]byte{})
		}
	})
}

func TestTimerAdvances(t *testing.T) {
	for _, c := range []struct{ expires, period, now, next, missed int64 }{
		{100, 10, 50, 100, 0},
		{100, 10, 100, 110, 0},
		{100, 10, 109, 110, 0},
		{100, 10, 110, 120, 1},
		{100, 10, 1005, 1010, 90},
		{100, 0, 200, 0, 0},
	} {
		if next, missed := advance(c.expires, c.period, c.now); next != c.next || missed != c.missed {
			t.Errorf("advance(%d, %d, %d) = %d, %d; want %d, %d", c.expires, c.period, c.now, next, missed, c.next, c.missed)
		}
	}
}
