package main

import "testing"

func TestEveryRowHasATargetOnEveryPlatformAndNothingElseHas(t *testing.T) {
	for _, platform := range []string{"ptrace", "systrap"} {
		goals, err := targets(targetsText, platform)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, r := range rows {
			if seen[r.name] {
				t.Errorf("there are two rows %q", r.name)
			}
			seen[r.name] = true
			if _, ok := goals[r.name]; !ok {
				t.Errorf("%q has no target on %s", r.name, platform)
			}
		}
		for name := range goals {
			if !seen[name] {
				t.Errorf("there is a target on %s for %q, which is no row", platform, name)
			}
		}
	}
}

func TestTargetsOfAnUnknownPlatformAreNone(t *testing.T) {
	goals, err := targets(targetsText, "other")
	if err != nil || len(goals) != 0 {
		t.Errorf("got %v, %v", goals, err)
	}
	if _, err := targets("row | p\na | 1 parsec\n", "p"); err == nil {
		t.Error("a unit that isn't one was taken")
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  unit
		want  string
	}{
		{0, nanoseconds, "0 ns"},
		{21.33, nanoseconds, "21.3 ns"},
		{9999, nanoseconds, "9999 ns"},
		{10000, nanoseconds, "10.0 us"},
		{1_234_567, nanoseconds, "1235 us"},
		{12_345_678, nanoseconds, "12.3 ms"},
		{1.5, perSecond, "1.50 /s"},
		{12 << 20, byteCount, "12.0 MiB"},
		{3500 << 20, bytesPerSecond, "3500 MiB/s"},
	} {
		got := format(c.value, c.unit)
		if got != c.want {
			t.Errorf("%v is written %q, not %q", c.value, got, c.want)
		}
		if _, err := parse(got); err != nil {
			t.Errorf("%q can't be read again: %v", got, err)
		}
	}
}

func TestAQuietSampleCountsMoreThanAllOthers(t *testing.T) {
	c := column{Samples: []sample{{1, true}, {5, false}, {2, true}, {3, true}}}
	c.summarize()
	if c.Value != 5 || c.Busy {
		t.Errorf("got %v, busy %v", c.Value, c.Busy)
	}
	c = column{Samples: []sample{{4, true}, {2, true}, {9, true}}}
	c.summarize()
	if c.Value != 4 || !c.Busy {
		t.Errorf("all busy: got %v, busy %v", c.Value, c.Busy)
	}
}

func TestPercentile(t *testing.T) {
	v := []float64{9, 1, 8, 2, 7, 3, 6, 4, 5, 10, 11}
	for p, want := range map[int]float64{0: 1, 10: 2, 50: 6, 100: 11} {
		if got := percentile(v, p); got != want {
			t.Errorf("percentile %d is %v, not %v", p, got, want)
		}
	}
}
