package main

import (
	"bufio"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

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
				t.Errorf("%q has neither a target on %s nor a dash", r.name, platform)
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
		{0, calls, "0 calls"},
		{1.024, calls, "1.02 calls"},
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

func TestCPUListsAreReadAndWritten(t *testing.T) {
	for list, want := range map[string]string{
		"0":          "0",
		"0-1":        "0-1",
		"3,0,1":      "0-1,3",
		"5-7,6,9":    "5-7,9",
		"1023":       "1023",
		"0,2-3,4-10": "0,2-10",
	} {
		set, err := parseCPUs(list)
		if err != nil {
			t.Errorf("%q: %v", list, err)
		} else if got := formatCPUs(&set); got != want {
			t.Errorf("%q is written %q, not %q", list, got, want)
		}
	}
	for _, list := range []string{"", ",", "0,", "-1", "1-", "3-1", "a", "0-x", "1024", "0-99999999999"} {
		if set, err := parseCPUs(list); err == nil {
			t.Errorf("%q was taken for %q", list, formatCPUs(&set))
		}
	}
}

func TestHeadSaysWhichCPUsAllWasKeptTo(t *testing.T) {
	r := report{CPUs: 2, Runs: 3, Kernel: "6.1", LoadBefore: "0"}
	if got := r.head(); !strings.Contains(got, ", 2 CPUs,") {
		t.Errorf("not pinned: %q", got)
	}
	r.Pinned = "0"
	if got := r.head(); !strings.Contains(got, ", all on CPUs 0 of 2,") {
		t.Errorf("pinned: %q", got)
	}
}

func TestWhatCannotBeMeasuredHereIsNoFailure(t *testing.T) {
	measure := func(*bench, subject) (float64, error) {
		return 0, fmt.Errorf("wrapped: %w", unavailable{errors.New("no perf")})
	}
	var b bench
	res := b.row(row{name: "r", unit: calls, measure: measure}, []subject{{name: "native"}}, 3)
	c := res.Columns[0]
	if c.Error != "" || c.Unavailable != "wrapped: no perf" || len(c.Samples) != 0 {
		t.Errorf("got %+v", c)
	}
	goal := 1.0
	c.Target = &goal
	var line strings.Builder
	c.print(&line, calls)
	c.compare(&line, &column{}, calls)
	if got := strings.Fields(line.String()); !slices.Equal(got, []string{"-", "1.00", "calls"}) {
		t.Errorf("printed %q", got)
	}
}

func TestAReasonIsSaidOnceWithAllItIsOf(t *testing.T) {
	r := result{Columns: []column{
		{Name: "native", Unavailable: "no perf"}, {Name: "systrap", Error: "killed"}, {Name: "x"}, {Name: "ptrace", Unavailable: "no perf"},
	}}
	if got, want := r.reasons(), []string{"native, ptrace: no perf", "systrap: killed"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOpsMustSayWhatIsExpected(t *testing.T) {
	if err := expect(bufio.NewReader(strings.NewReader("ready\nx")), "ready\n"); err != nil {
		t.Error(err)
	}
	for _, said := range []string{"", "ready", "done\n"} {
		if err := expect(bufio.NewReader(strings.NewReader(said)), "ready\n"); err == nil {
			t.Errorf("%q was taken for ready", said)
		}
	}
}

func TestProfileNamesAndHeads(t *testing.T) {
	if got := fileName("sh, 500 x /bin/true"); got != "sh-500-x-bin-true" {
		t.Errorf("the file's name is %q", got)
	}
	if got := head("\n a   -   -\n\nb\nc\n", 2); got != " a\nb" {
		t.Errorf("the head is %q", got)
	}
	seen := map[string]string{}
	for _, r := range rows {
		n := fileName(r.name)
		if other, ok := seen[n]; ok {
			t.Errorf("%q and %q have one file", r.name, other)
		}
		seen[n] = r.name
	}
}
