// Command platform-test checks a platform on this host, and measures what its
// operations cost:
//
//	platform-test --platform=ptrace
//
// It prints a line per test in the Test Anything Protocol (version 13), then a
// table of costs in nanoseconds, as comments. The exit status is 1 if a test
// failed and 2 if the platform doesn't start.
package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"sync/atomic"

	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/sentry/platform/platformtest"
	"vitrine/pkg/sentry/platform/ptrace"
	"vitrine/pkg/sentry/platform/systrap"
)

// platforms makes each platform by its name.
var platforms = map[string]func() (platform.Platform, error){
	"ptrace":  func() (platform.Platform, error) { return ptrace.New() },
	"systrap": func() (platform.Platform, error) { return systrap.New() },
}

func main() {
	name := flag.String("platform", "ptrace", "the platform to test")
	costs := flag.Bool("costs", true, "measure costs after the tests")
	list := flag.Bool("list", false, "list the tests and do nothing")
	only := flag.String("run", "", "a regular expression: run only tests and costs whose names match")
	flag.Parse()
	os.Exit(run(*name, *costs, *list, *only))
}

func run(name string, costs, list bool, only string) int {
	match, err := regexp.Compile(only)
	if err != nil {
		fmt.Fprintf(os.Stderr, "platform-test: --run: %v\n", err)
		return 2
	}
	var tests []platformtest.Test
	for _, test := range platformtest.All() {
		if match.MatchString(test.Name) {
			tests = append(tests, test)
		}
	}
	if list {
		for _, test := range tests {
			fmt.Println(test.Name)
		}
		return 0
	}
	start, ok := platforms[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "platform-test: there is no platform %q\n", name)
		return 2
	}
	p, err := start()
	if err != nil {
		fmt.Fprintf(os.Stderr, "platform-test: %s doesn't work here: %v\n", name, err)
		return 2
	}

	fmt.Printf("TAP version 13\n1..%d\n", len(tests))
	failed := 0
	for i, test := range tests {
		r := runTest(func(t platformtest.T) { test.Run(t, p) })
		switch {
		case r.failed.Load():
			failed++
			fmt.Printf("not ok %d - %s\n", i+1, test.Name)
		case r.skipped != "":
			fmt.Printf("ok %d - %s # SKIP %s\n", i+1, test.Name, r.skipped)
		default:
			fmt.Printf("ok %d - %s\n", i+1, test.Name)
		}
	}
	if failed > 0 {
		return 1
	}
	if costs {
		return printCosts(p, match)
	}
	return 0
}

func printCosts(p platform.Platform, match *regexp.Regexp) int {
	fmt.Printf("#\n# %-50s %12s %12s\n", "cost, ns", "median", "10th pct.")
	status := 0
	for _, c := range platformtest.Costs() {
		if !match.MatchString(c.Name) {
			continue
		}
		var samples []float64
		if r := runTest(func(t platformtest.T) { samples = c.Measure(t, p) }); r.failed.Load() {
			status = 1
			continue
		}
		median, low := platformtest.Median(samples)
		fmt.Printf("# %-50s %12.0f %12.0f\n", c.Name, median, low)
	}
	return status
}

// result is one test's; it implements platformtest.T.
type result struct {
	failed  atomic.Bool
	skipped string
}

// runTest runs f on a goroutine of its own, which Fatalf and Skipf end.
func runTest(f func(platformtest.T)) *result {
	r := &result{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r
}

func (r *result) Helper() {}

func (r *result) Errorf(format string, args ...any) {
	fmt.Printf("# "+format+"\n", args...)
	r.failed.Store(true)
}

func (r *result) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *result) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}
