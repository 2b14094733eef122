package syscalls

import (
	"testing"

	"vitrine/pkg/sentry/syscalls/call"
)

func TestEachCallHasOneRow(t *testing.T) {
	seen := map[uint64]string{}
	for _, family := range families {
		for _, r := range family {
			if was, ok := seen[r.Number]; ok {
				t.Errorf("call %d is both %s and %s", r.Number, was, r.Name)
			}
			seen[r.Number] = r.Name
		}
	}
}

func TestRowsAreNamedAsTheirNumbers(t *testing.T) {
	for _, family := range families {
		for _, r := range family {
			if want := nameOf(r.Number); r.Name != want {
				t.Errorf("row %d is called %s, the call %s", r.Number, r.Name, want)
			}
			if r.Handle == nil {
				t.Errorf("%s has a row but no handler", r.Name)
			}
			if (r.Level == call.LevelPartial || r.Level == call.LevelRefused) && r.Note == "" {
				t.Errorf("%s is %v and doesn't say why", r.Name, r.Level)
			}
		}
	}
}
