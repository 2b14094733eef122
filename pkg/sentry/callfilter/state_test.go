package callfilter

import (
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/memfile"
)

// refuse is a filter that answers EPERM to getppid(2) and allows the rest.
func refuse() []Instruction {
	return []Instruction{{Code: bpfLd | bpfAbs, K: 0}, {Code: bpfJmp | bpfJeq, K: unix.SYS_GETPPID, JF: 1}, ret(Errno | uint32(unix.EPERM)), ret(Allow)}
}

func TestModesDontMix(t *testing.T) {
	var off *State
	if off.Mode() != ModeOff || off.Refuses(unix.SYS_OPEN) || !off.Descends(nil) {
		t.Error("who has no filters may do anything")
	}
	acct := memfile.NewHeapAccount(0)
	strict, err := off.Strict()
	if err != nil || strict.Mode() != ModeStrict {
		t.Fatalf("strict: %v, mode %d", err, strict.Mode())
	}
	if _, err := strict.Add([]Instruction{ret(Allow)}, acct); err != unix.EINVAL {
		t.Errorf("a filter in the strict mode: %v", err)
	}
	if again, err := strict.Strict(); err != nil || again.Mode() != ModeStrict {
		t.Errorf("strict twice: %v", err)
	}
	filtered, err := off.Add(refuse(), acct)
	if err != nil || filtered.Mode() != ModeFilter {
		t.Fatalf("filtered: %v, mode %d", err, filtered.Mode())
	}
	if _, err := filtered.Strict(); err != unix.EINVAL {
		t.Errorf("strict with filters: %v", err)
	}
	if filtered.Descends(strict) || !filtered.Descends(nil) || !filtered.Descends(filtered) {
		t.Error("a filter descends from the wrong states")
	}
}

func TestStrictModeLeavesFourCalls(t *testing.T) {
	s := &State{}
	for no := range uint64(500) {
		want := no != unix.SYS_READ && no != unix.SYS_WRITE && no != unix.SYS_EXIT && no != unix.SYS_RT_SIGRETURN
		if s.Refuses(no) != want {
			t.Errorf("call %d: refused %v, want %v", no, !want, want)
		}
	}
}

func TestFiltersAreAskedAndPaidFor(t *testing.T) {
	const limit = 4096
	acct := memfile.NewHeapAccount(limit)
	var off *State
	s, err := off.Add(refuse(), acct)
	if err != nil {
		t.Fatal(err)
	}
	const more = (limit - filterCost - 4*instructionCost) / (filterCost + instructionCost)
	for n := range more + 1 {
		added, err := s.Add([]Instruction{ret(Allow)}, acct)
		if (err == nil) != (n < more) || err != nil && err != unix.ENOMEM {
			t.Fatalf("filter %d: %v", n, err)
		}
		if err == nil {
			s = added
		}
	}
	for no, want := range map[uint64]uint32{unix.SYS_GETPPID: Errno | uint32(unix.EPERM), unix.SYS_READ: Allow, 1 << 20: Allow} {
		r := &arch.Registers{OrigRax: no}
		if got := s.Ask(r); got != want {
			t.Errorf("call %d: %#x, want %#x", no, got, want)
		}
		if s.Refuses(no) || off.Ask(r) != Allow {
			t.Errorf("call %d: refused by the wrong one", no)
		}
	}
}
