package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what --json prints. Values are in nanoseconds, bytes, bytes per
// second, times per second or calls per operation.
type report struct {
	Time       time.Time
	Kernel     string
	Platforms  string
	CPUs       int    // of the machine
	Pinned     string `json:",omitempty"` // the list of CPUs that all ran on, of --cpus
	Runs       int
	LoadBefore string // as the start of /proc/loadavg
	LoadAfter  string
	Rows       []result
}

type result struct {
	Name    string
	Unit    string
	Columns []column
	// Redundant means that another row says the same, for want of CPUs.
	Redundant bool `json:",omitempty"`
	unit      unit
}

type column struct {
	Name    string
	Value   float64  `json:",omitempty"` // the median of the samples that count
	Spread  float64  `json:",omitempty"` // half of their range, as a part of it
	Busy    bool     // no sample was taken while the machine was quiet
	Target  *float64 `json:",omitempty"`
	Samples []sample `json:",omitempty"`
	Error   string   `json:",omitempty"`
	// Unavailable is why it can't be measured here.
	Unavailable string `json:",omitempty"`
}

type sample struct {
	Value float64
	Busy  bool // others wanted the processors too, right before or after
}

// row measures a row on all subjects, by turns.
func (b *bench) row(r row, subjects []subject, runs int) result {
	res := result{Name: r.name, unit: r.unit, Unit: []string{"ns", "B/s", "B", "/s", "calls"}[r.unit]}
	for _, s := range subjects {
		res.Columns = append(res.Columns, column{Name: s.name})
	}
	for range runs {
		for i, s := range subjects {
			c := &res.Columns[i]
			if r.noNative && s.runtime == "" || c.Error != "" || c.Unavailable != "" {
				continue
			}
			busy := busyNow()
			v, err := r.measure(b, s)
			if errors.As(err, &unavailable{}) {
				c.Unavailable = err.Error()
				continue
			}
			if err != nil {
				c.Error = err.Error()
				continue
			}
			c.Samples = append(c.Samples, sample{v, busy || busyNow()})
		}
	}
	for i := range res.Columns {
		res.Columns[i].summarize()
	}
	return res
}

// summarize takes the median of the quiet samples, if there are any.
func (c *column) summarize() {
	if len(c.Samples) == 0 || c.Error != "" {
		return
	}
	var quiet, all []float64
	for _, s := range c.Samples {
		all = append(all, s.Value)
		if !s.Busy {
			quiet = append(quiet, s.Value)
		}
	}
	c.Busy = len(quiet) == 0
	if c.Busy {
		quiet = all
	}
	c.Value = percentile(quiet, 50)
	if c.Value > 0 {
		c.Spread = (slices.Max(quiet) - slices.Min(quiet)) / 2 / c.Value
	}
}

// percentile returns the p-th of values, which is one of them.
func percentile(values []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)*p/100]
}

// Widths of what a column prints.
const nameWidth, valueWidth, spreadWidth, ratioWidth, targetWidth = 26, 13, 6, 8, 13

func (r report) header(subjects []subject) {
	fmt.Println(r.head() + "\n")
	fmt.Printf("%-*s", nameWidth, "")
	for i, s := range subjects {
		fmt.Printf("%*s%*s", valueWidth, s.name, spreadWidth, "+-")
		if i > 0 {
			fmt.Printf("%*s%*s  ", ratioWidth, "ratio", targetWidth, "target")
		}
	}
	fmt.Println()
}

// head is the line that says what the table was measured on.
func (r report) head() string {
	cpus := fmt.Sprintf("%d CPUs", r.CPUs)
	if r.Pinned != "" {
		cpus = fmt.Sprintf("all on CPUs %s of %d", r.Pinned, r.CPUs)
	}
	return fmt.Sprintf("%s, Linux %s, %s, %d runs, load %s", r.Time.Format(time.RFC3339), r.Kernel, cpus, r.Runs, r.LoadBefore)
}

func (r report) footer() {
	fmt.Printf("\nload %s. A ratio is the time, or one by the rate, that of the host being 1.\n"+
		"+- is half of the range of the repetitions that count. "+
		"~ no repetition was undisturbed: others used the processors. ! misses the target.\n", r.LoadAfter)
	for _, res := range r.Rows {
		if res.Redundant {
			fmt.Println("= is about one CPU, and all had only one.")
			break
		}
	}
}

func (r result) print() {
	var line strings.Builder
	name := r.Name
	if r.Redundant {
		name = "= " + name
	}
	fmt.Fprintf(&line, "%-*s", nameWidth, name)
	for i := range r.Columns {
		c := &r.Columns[i]
		c.print(&line, r.unit)
		if i > 0 {
			c.compare(&line, &r.Columns[0], r.unit)
		}
	}
	fmt.Println(strings.TrimRight(line.String(), " "))
	for _, why := range r.reasons() {
		fmt.Println("  " + why)
	}
}

// reasons are why cells have no value, each with the columns that it is of.
func (r result) reasons() []string {
	var whys, names []string
	for _, c := range r.Columns {
		why := c.Error + c.Unavailable
		if why == "" {
			continue
		}
		if i := slices.Index(whys, why); i >= 0 {
			names[i] += ", " + c.Name
			continue
		}
		whys, names = append(whys, why), append(names, c.Name)
	}
	for i := range whys {
		whys[i] = names[i] + ": " + whys[i]
	}
	return whys
}

func (c *column) print(line *strings.Builder, u unit) {
	value, spread := "-", ""
	switch {
	case c.Error != "":
		value = "failed"
	case len(c.Samples) > 0:
		value = format(c.Value, u)
		spread = strconv.FormatFloat(100*c.Spread, 'f', 0, 64) + "%"
		if c.Busy {
			value = "~" + value
		}
	}
	fmt.Fprintf(line, "%*s%*s", valueWidth, value, spreadWidth, spread)
}

// compare prints the ratio to the host's and the target.
func (c *column) compare(line *strings.Builder, native *column, u unit) {
	ratio, target, missed := "", "", "  "
	// Operations without a call of their own have nothing to compare with.
	if c.Value > 0 && native.Value > 0 && (u != calls || native.Value > 0.5) {
		x := c.Value / native.Value
		if u == bytesPerSecond {
			x = 1 / x
		}
		ratio = strconv.FormatFloat(x, 'f', 2, 64)
	}
	if c.Target != nil {
		target = format(*c.Target, u)
		if len(c.Samples) > 0 && c.Error == "" && (u == bytesPerSecond && c.Value < *c.Target || u != bytesPerSecond && c.Value > *c.Target) {
			missed = " !"
		}
	}
	fmt.Fprintf(line, "%*s%*s%s", ratioWidth, ratio, targetWidth, target, missed)
}

// busyNow says whether anybody else wants to run right now: more than half of
// some looks within a few milliseconds find a thread that does.
func busyNow() bool {
	const looks = 8
	found := 0
	for range looks {
		n, err := field("/proc/stat", "procs_running")
		if err == nil && n > 1 { // this thread runs
			found++
		}
		time.Sleep(time.Millisecond)
	}
	return found > looks/2
}

// load is the start of /proc/loadavg.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], " ")
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
