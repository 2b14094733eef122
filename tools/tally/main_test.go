package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

const printed = `INFO: Build completed
check:go vet ./... PASSED
//a:go_test                                                    (cached) PASSED in 0.1s
//a:tap_test                                                             PASSED in 0.2s
//a:plain_test                                                           FLAKY, failed in 1 out of 2 in 0.1s
//b:go_test                                                              FAILED in 0.3s
  /somewhere/test.log
//b:tap_test                                                             FAILED in 2 out of 2 in 0.3s
//b:late_test                                                           TIMEOUT in 60.0s
//b:broken_test                                                 FAILED TO BUILD
//b:unrun_test                                                        NO STATUS
//c/d:shards_test                                                        PASSED in 0.2s

Executed 5 out of 9 tests
check:go build ./... FAILED
`

var logs = fstest.MapFS{
	"a/go_test/test.xml": {Data: []byte(`<testsuites><testsuite><testcase name="A"></testcase><testcase name="B"><skipped message="Skipped">=== RUN B
    b_test.go:7: needs a moon
--- SKIP: B (0.00s)</skipped></testcase><testcase name="D"><skipped/></testcase><testcase name="C"/></testsuite></testsuites>`)},
	"a/tap_test/test.xml":   {Data: []byte(`<testsuites><testsuite><testcase name="a/tap_test"/></testsuite></testsuites>`)},
	"a/tap_test/test.log":   {Data: []byte("1..3\nok 1\nok 2 - two\nok 3 - three # SKIP no such thing\nok then\n")},
	"b/go_test/test.xml":    {Data: []byte(`<testsuites><testsuite><testcase name="A"></testcase><testcase name="B"><failure>x</failure></testcase></testsuite></testsuites>`)},
	"b/tap_test/test.xml":   {Data: []byte(`<testsuites><testsuite><testcase name="b/tap_test"><error/></testcase></testsuite></testsuites>`)},
	"b/tap_test/test.log":   {Data: []byte("ok 1 - one\nnot ok 2 - two\nnot ok 3\n")},
	"b/late_test/test.xml":  {Data: []byte(`<testsuites><testsuite><testcase name="old"/></testsuite></testsuites>`)},
	"b/unrun_test/test.xml": {Data: []byte(`<testsuites><testsuite><testcase name="old"/></testsuite></testsuites>`)},

	"c/d/shards_test/shard_1_of_2/test.xml": {Data: []byte(`<testsuites><testsuite><testcase name="A"/></testsuite></testsuites>`)},
	"c/d/shards_test/shard_2_of_2/test.xml": {Data: []byte(`<testsuites><testsuite><testcase name="B"/></testsuite></testsuites>`)},
}

func TestCount(t *testing.T) {
	results, err := readResults(strings.NewReader(printed))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if count(results, logs).print(&b) {
		t.Error("all is well, with failures")
	}
	// Passed: vet 1, a:go 2, a:tap 2, a:plain 1, b:go 1, b:tap 1, c/d:shards 2.
	const want = `SKIPPED: //a:go_test B: needs a moon
SKIPPED: //a:go_test D: no reason given
SKIPPED: //a:tap_test three: no such thing
FAILED: //b:go_test
	B
FAILED: //b:tap_test
	- two
FAILED: //b:late_test TIMEOUT
FAILED: //b:broken_test FAILED TO BUILD
FAILED: //b:unrun_test NO STATUS
FAILED: check:go build ./...
10 passed, 7 failed
`
	if b.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", b.String(), want)
	}
}

func TestLastResultOfATargetCounts(t *testing.T) {
	results, err := readResults(strings.NewReader("//a:a FAILED in 1s\n//a:a PASSED in 1s"))
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0] != (result{"//a:a", "PASSED"}) {
		t.Errorf("%v", results)
	}
}

func TestNothingRunIsNotWell(t *testing.T) {
	var b strings.Builder
	if count(nil, logs).print(&b) {
		t.Error("all is well, with no test run")
	}
	if b.String() != "0 passed, 0 failed\n" {
		t.Errorf("printed %q", b.String())
	}
}
