// Tally counts what passed and what failed in a run of "bazel test".
//
//	tally [-status N] [-logs DIR] LOG
//
// LOG is what Bazel printed, of which the lines with a target's result count,
// and lines of the form "check:WHAT PASSED" or "check:WHAT FAILED", for checks
// made without Bazel. DIR is bazel-testlogs; there a target's test.xml and
// test.log say how many cases it had: the tests of a Go test, or the lines
// "ok" and "not ok" of one that prints TAP. A target without such counts as
// one, and so does each that failed without a failed case, was not built or
// did not come to its end. Skipped cases count as neither.
//
// Tally lists what was skipped, with the reason, and what failed, and prints
// "N passed, N failed" last. It fails if anything failed, if nothing passed, or
// if Bazel's exit status, N, is not 0.
package main

import (
	"bufio"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

func main() {
	status := flag.Int("status", 0, "Bazel's exit status")
	logs := flag.String("logs", "bazel-testlogs", "Bazel's directory of test logs")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	f, err := os.Open(flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	defer f.Close()
	results, err := readResults(f)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally:", err)
		os.Exit(1)
	}
	t := count(results, os.DirFS(*logs))
	if *status != 0 && t.failed == 0 {
		t.fail(fmt.Sprintf("bazel ended with status %d", *status), 1)
	}
	if !t.print(os.Stdout) {
		os.Exit(1)
	}
}

// A result is what a line of Bazel's summary says of one target.
type result struct {
	target string // a label, or "check:" and what was checked
	status string // PASSED, FLAKY, or one of a failure
}

var resultLine = regexp.MustCompile(`^(//\S+|check:.*?)\s+(?:\(cached\) )?(PASSED|FLAKY|FAILED TO BUILD|FAILED|TIMEOUT|INCOMPLETE|REMOTE FAILURE|NO STATUS|BLAZE HALTED BEFORE TESTING)\b`)

// readResults returns the results in what Bazel printed, the last one of each target.
func readResults(r io.Reader) ([]result, error) {
	var results []result
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if m := resultLine.FindStringSubmatch(line); m != nil {
			results = slices.DeleteFunc(results, func(r result) bool { return r.target == m[1] })
			results = append(results, result{m[1], m[2]})
		}
		if err == io.EOF {
			return results, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// A tallying is the sum so far.
type tallying struct {
	passed, failed int
	failures       []string // what failed, in words
	skips          []string // what was skipped, and why
}

func (t *tallying) skip(target string, o outcome) {
	for _, s := range o.skipped {
		t.skips = append(t.skips, target+" "+s)
	}
}

func (t *tallying) fail(what string, n int) {
	t.failed += n
	t.failures = append(t.failures, what)
}

// print writes the sum, and reports whether all is well.
func (t *tallying) print(w io.Writer) bool {
	for _, s := range t.skips {
		fmt.Fprintln(w, "SKIPPED:", s)
	}
	for _, f := range t.failures {
		fmt.Fprintln(w, "FAILED:", strings.TrimSpace(f))
	}
	fmt.Fprintf(w, "%d passed, %d failed\n", t.passed, t.failed)
	return t.failed == 0 && t.passed > 0
}

func count(results []result, logs fs.FS) *tallying {
	t := new(tallying)
	for _, r := range results {
		switch r.status {
		case "PASSED", "FLAKY":
			o := cases(logs, r.target)
			t.passed += max(o.passed, 1)
			t.skip(r.target, o)
		case "FAILED":
			// Only of a run that came to its end are the logs its own.
			o := cases(logs, r.target)
			t.passed += o.passed
			t.skip(r.target, o)
			t.fail(strings.Join(append([]string{r.target}, o.failed...), "\n\t"), max(len(o.failed), 1))
		default:
			t.fail(r.target+" "+r.status, 1)
		}
	}
	return t
}

// An outcome is what a target's logs tell of its cases: how many passed, and those
// that failed and that were skipped, in words.
type outcome struct {
	passed          int
	failed, skipped []string
}

func (o *outcome) add(more outcome) {
	o.passed += more.passed
	o.failed = append(o.failed, more.failed...)
	o.skipped = append(o.skipped, more.skipped...)
}

// cases returns the outcome of one target's last run; nothing if its logs tell
// nothing of cases.
func cases(logs fs.FS, target string) (all outcome) {
	label, ok := strings.CutPrefix(target, "//")
	if !ok {
		return all
	}
	pkg, name, _ := strings.Cut(label, ":")
	for _, pattern := range []string{"test.xml", "shard_*/test.xml"} {
		files, err := fs.Glob(logs, path.Join(pkg, name, pattern))
		if err != nil {
			continue
		}
		for _, file := range files {
			all.add(casesOf(logs, path.Dir(file)))
		}
	}
	return all
}

// casesOf reads the logs in one directory.
func casesOf(logs fs.FS, dir string) outcome {
	if log, err := fs.ReadFile(logs, path.Join(dir, "test.log")); err == nil {
		if o := tap(string(log)); o.passed+len(o.failed)+len(o.skipped) > 0 {
			return o
		}
	}
	b, err := fs.ReadFile(logs, path.Join(dir, "test.xml"))
	if err != nil {
		return outcome{}
	}
	return junit(b)
}

var tapLine = regexp.MustCompile(`(?m)^(ok|not ok) \d+(?: (.*))?$`)

// tap counts the lines of a Test Anything Protocol. The directive SKIP makes a
// line count as neither.
func tap(log string) (o outcome) {
	for _, m := range tapLine.FindAllStringSubmatch(log, -1) {
		what, directive, _ := strings.Cut(m[2], "# ")
		switch {
		case strings.HasPrefix(strings.ToUpper(directive), "SKIP"):
			o.skipped = append(o.skipped, strings.TrimPrefix(strings.TrimSpace(what), "- ")+": "+strings.TrimSpace(directive[len("SKIP"):]))
		case m[1] == "ok":
			o.passed++
		default:
			o.failed = append(o.failed, m[2])
		}
	}
	return o
}

// sourceLine begins what a Go test says.
var sourceLine = regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`)

// junit counts the cases of a test.xml. For a test that writes none Bazel
// does, with one case for the whole; it counts like any other.
func junit(b []byte) (o outcome) {
	var suites struct {
		Suites []struct {
			Cases []struct {
				Name    string    `xml:"name,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct {
					Text string `xml:",chardata"`
				} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &suites); err != nil {
		return outcome{}
	}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			switch {
			case c.Failure != nil || c.Error != nil:
				o.failed = append(o.failed, c.Name)
			case c.Skipped != nil:
				reason := "no reason given"
				if said := sourceLine.FindAllStringSubmatch(c.Skipped.Text, -1); len(said) > 0 {
					reason = said[len(said)-1][1]
				}
				o.skipped = append(o.skipped, c.Name+": "+reason)
			default:
				o.passed++
			}
		}
	}
	return o
}
