package callfilter

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/memfile"
)

// Modes of seccomp(2), as /proc/PID/status shows them.
const (
	ModeOff    = 0
	ModeStrict = 1
	ModeFilter = 2
)

// What a filter is charged as, in bytes.
const (
	filterCost      = 256
	instructionCost = 8
)

// State is which system calls a task may make: all of them (nil), those of the strict
// mode, or those that filters allow. Immutable; tasks share what they inherit.
type State struct {
	// filters is nil in the strict mode.
	filters *Chain
}

// Mode returns the mode, one of those above.
func (s *State) Mode() int {
	switch {
	case s == nil:
		return ModeOff
	case s.filters == nil:
		return ModeStrict
	}
	return ModeFilter
}

// Strict returns the state of the strict mode, which leaves a task read, write, exit
// and sigreturn: EINVAL for who has filters.
func (s *State) Strict() (*State, error) {
	if s.Mode() == ModeFilter {
		return nil, unix.EINVAL
	}
	return &State{}, nil
}

// Add returns the state with one more filter, for which a pays: EINVAL for a program
// that isn't one and in the strict mode, ENOMEM where there are too many. The state
// keeps program.
func (s *State) Add(program []Instruction, a *memfile.Account) (*State, error) {
	var before *Chain
	if s != nil {
		if before = s.filters; before == nil {
			return nil, unix.EINVAL
		}
	}
	f, err := before.Add(program)
	if err != nil {
		return nil, err
	}
	if err := memfile.ChargeFor(a, f, filterCost+int64(len(program))*instructionCost); err != nil {
		return nil, err
	}
	return &State{f}, nil
}

// Descends reports whether s has all filters that old has, the oldest of its own.
func (s *State) Descends(old *State) bool {
	return old == nil || old.filters != nil && s.filters.Descends(old.filters)
}

// Refuses reports whether the strict mode ends a task that makes call no.
func (s *State) Refuses(no uint64) bool {
	if s.Mode() != ModeStrict {
		return false
	}
	switch no {
	case unix.SYS_READ, unix.SYS_WRITE, unix.SYS_EXIT, unix.SYS_RT_SIGRETURN:
		return false
	}
	return true
}

// Ask returns what the filters answer to the call that r asks for; Allow without
// filters.
func (s *State) Ask(r *arch.Registers) uint32 {
	if s == nil || s.filters.Allows(r.SyscallNo()) {
		return Allow
	}
	d := DataOf(r)
	return s.filters.Ask(&d)
}
