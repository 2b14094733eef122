package lint

import (
	"fmt"
	"go/format"
	"strings"
	"testing"
	"testing/fstest"
)

func testRows(t *testing.T) Rows {
	t.Helper()
	rows, err := ParseRows(`ROWS = [
    ("facts", [
        "pkg/facts",
    ]),
    # A comment.
    ("objects", [
        "pkg/objects/...",
    ]),
    ("processes", [
        "pkg/objects/proc",
    ]),
    ("programs", [
        "prog/...",
    ]),
    ("outside", [
        "test/...",
    ]),
]
`)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestLongestEntryDecidesTheRow(t *testing.T) {
	rows := testRows(t)
	for dir, want := range map[string]int{
		"pkg/facts":             0,
		"pkg/facts/below":       -1,
		"pkg/factsheet":         -1,
		"pkg/objects":           1,
		"pkg/objects/a/b":       1,
		"pkg/objectsandmore":    -1,
		"pkg/objects/proc":      2,
		"pkg/objects/proc/more": 1,
		"test/x":                4,
		"pkg":                   -1,
	} {
		if got, _ := rows.Of(dir); got != want {
			t.Errorf("the row of %s is %d, want %d", dir, got, want)
		}
	}
}

func TestTablesOfAnotherLayoutAreRefused(t *testing.T) {
	for name, bzl := range map[string]string{
		"no table":         "ROW = []\n",
		"an empty table":   "ROWS = [\n]\n",
		"no end":           "ROWS = [\n    (\"a\", [\n        \"b\",\n    ]),\n",
		"two on a line":    "ROWS = [\n    (\"a\", [\n        \"b\", \"c\",\n    ]),\n]\n",
		"an expression":    "ROWS = [\n    (\"a\", [\n        \"b\" + X,\n    ]),\n]\n",
		"an entry, no row": "ROWS = [\n        \"b\",\n]\n",
		"a comment behind": "ROWS = [\n    (\"a\", [\n        \"b\",  # why\n    ]),\n]\n",
	} {
		if rows, err := ParseRows(bzl); err == nil {
			t.Errorf("%s: read as %v", name, rows)
		}
	}
}

// formatted spares the sources below their blank lines.
func formatted(t *testing.T, src []byte) []byte {
	t.Helper()
	out, err := format.Source(src)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCheck(t *testing.T) {
	const doc = "// Package x is documented.\n"
	for _, c := range []struct {
		name string
		file string
		src  string
		want string // in the one problem; "" for none
	}{
		{"clean", "pkg/facts/a.go", doc + "package facts\n\nimport \"fmt\"\n", ""},
		{"a row above", "pkg/objects/a.go", doc + "package objects\nimport \"m/pkg/facts\"\n", ""},
		{"its own row", "pkg/objects/a.go", doc + "package objects\nimport \"m/pkg/objects/b\"\n", ""},
		{"a row below", "pkg/facts/a.go", doc + "package facts\nimport \"m/pkg/objects/b\"\n",
			"pkg/facts/a.go:4: pkg/facts (row 0, facts) imports pkg/objects/b (row 1, objects)"},
		{"a row below, another system's file", "pkg/facts/a_windows.go", "//go:build never\n\n" + doc + "package facts\nimport \"m/pkg/objects/b\"\n", "imports pkg/objects/b"},
		{"a row below in a test", "pkg/facts/a_test.go", "package facts\nimport \"m/pkg/objects/b\"\n", ""},
		{"from outside", "pkg/objects/a.go", doc + "package objects\nimport \"m/test/x\"\n", "imports test/x (row 4, outside)"},
		{"no row", "pkg/new/a.go", doc + "package fresh\n", "pkg/new has no row"},
		{"outside imports anything", "test/a/a.go", doc + "package a\nimport \"m/pkg/objects\"\nimport \"example.org/x\"\n", ""},
		{"another module", "pkg/facts/a.go", doc + "package facts\nimport \"example.org/x\"\n", "imports example.org/x"},
		{"a module like a permitted one", "pkg/facts/a.go", doc + "package facts\nimport \"golang.org/x/sysother\"\n", "imports golang.org/x/sysother"},
		{"a permitted module", "pkg/facts/a.go", doc + "package facts\nimport \"golang.org/x/sys/unix\"\n", ""},
		{"another module in a program", "prog/a.go", doc + "package main\nimport \"example.org/x\"\n", ""},
		{"another module in a test", "pkg/facts/a_test.go", "package facts\nimport \"example.org/x\"\n", ""},
		{"unsafe in an ordinary file", "pkg/facts/a.go", doc + "package facts\nimport \"unsafe\"\nconst n = unsafe.Sizeof(1)\n", "not named *_unsafe.go"},
		{"unsafe in a test", "pkg/facts/a_test.go", "package facts\nimport _ \"unsafe\"\n", "not named *_unsafe.go"},
		{"unsafe constants", "pkg/facts/a_unsafe.go", doc + "package facts\nimport \"unsafe\"\nconst n = unsafe.Sizeof(1)\n", ""},
		{"unsafe unsaid", "pkg/facts/a_unsafe_amd64.go", doc + "package facts\nimport \"unsafe\"\nfunc f() {\n\t_ = unsafe.Pointer(nil)\n}\n", "a_unsafe_amd64.go:7: unsafe in a declaration without"},
		{"unsafe said inside", "pkg/facts/a_unsafe_test.go", "package facts\nimport \"unsafe\"\nfunc f() {\n\t// SAFETY: nil is always valid.\n\t_ = unsafe.Pointer(nil)\n}\n", ""},
		{"unsafe said before", "pkg/facts/a_unsafe.go", doc + "package facts\nimport \"unsafe\"\n// f is.\n//\n// SAFETY: it is nil.\nfunc f(unsafe.Pointer) {}\n", ""},
		{"unsafe said elsewhere", "pkg/facts/a_unsafe.go", doc + "package facts\nimport \"unsafe\"\n// SAFETY: of another.\nvar x int\nvar y unsafe.Pointer\n", "a_unsafe.go:8"},
		{"assembly", "pkg/facts/a_amd64.s", "// SAFETY: it returns.\n", ""},
		{"assembly unsaid", "pkg/facts/a_amd64.s", "RET\n", "without a comment SAFETY"},
		{"assembly of no processor", "pkg/facts/a.s", "// SAFETY: it returns.\n", "not named *_amd64.s"},
		{"assembly of a test program", "test/a/a.S", "ret\n", ""},
		{"TODO without owner", "pkg/facts/a.go", doc + "package facts\n\n// TODO: later.\n", "a.go:4: a TODO without its owner"},
		{"TODO with no name", "pkg/facts/a.go", doc + "package facts\n\n// TODO(): later.\n", "without its owner"},
		{"TODO with owner", "pkg/facts/a.go", doc + "package facts\n\n// TODO(ada): later.\n", ""},
		{"TODO in a string", "pkg/facts/a.go", doc + "package facts\n\nconst s = \"TODO: x\"\n", ""},
		{"a name that says nothing", "pkg/facts/a.go", doc + "package util\n", "does not say what it is about"},
		{"not formatted", "pkg/facts/a.go", doc + "package facts\n\nvar x  int\n", "not as gofmt writes it"},
		{"no package comment", "pkg/facts/a.go", "package facts\n", "no file of the package has a package comment"},
		{"testdata", "pkg/facts/testdata/a.go", "package util\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := []byte(c.src)
			if c.name != "not formatted" && strings.HasSuffix(c.file, ".go") {
				src = formatted(t, src)
			}
			problems, err := Check(fstest.MapFS{c.file: {Data: src}}, "m", testRows(t))
			if err != nil {
				t.Fatal(err)
			}
			got := strings.TrimSpace(fmt.Sprintln(problems))
			if c.want == "" && len(problems) != 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(got, c.want)) {
				t.Errorf("problems %s, want %q", got, c.want)
			}
		})
	}
}

func TestTestsHaveARule(t *testing.T) {
	tree := fstest.MapFS{
		"pkg/facts/BUILD.bazel": {Data: []byte("go_test(\n    srcs = [\"a_test.go\", \"c_test.go\"],\n    deps = [\"//pkg/facts/more\"],\n)\n\ngo_test(\n    srcs = [\"c_test.go\"],\n)\n")},
		"pkg/facts/a_test.go":   {Data: []byte("package facts\n\nimport _ \"m/pkg/facts/more\"\n")},
		"pkg/facts/b_test.go":   {Data: []byte("package facts\n")},
		"pkg/facts/c_test.go":   {Data: []byte("package facts\n\nimport _ \"m/pkg/facts/more\"\n")},
	}
	problems, err := Check(tree, "m", testRows(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(problems); len(problems) != 2 || !strings.Contains(got, "pkg/facts/b_test.go:1: no rule") ||
		!strings.Contains(got, "pkg/facts/c_test.go:3: a rule of this test in BUILD.bazel lacks //pkg/facts/more") {
		t.Errorf("problems %s", got)
	}
}

func TestPackageCommentInAnyFile(t *testing.T) {
	tree := fstest.MapFS{
		"pkg/facts/a.go":   {Data: []byte("package facts\n")},
		"pkg/facts/doc.go": {Data: []byte("// Package facts is documented.\npackage facts\n")},
	}
	if problems, err := Check(tree, "m", testRows(t)); err != nil || len(problems) != 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestFilesThatDoNotParseAreAnError(t *testing.T) {
	tree := fstest.MapFS{"pkg/facts/a.go": {Data: []byte("package\n")}}
	if problems, err := Check(tree, "m", testRows(t)); err == nil {
		t.Errorf("no error, %v", problems)
	}
}

func TestCheckDeps(t *testing.T) {
	const (
		mod = "module m\n\ngo 1.26\n\nrequire example.org/one v1.0.0\n\nrequire (\n\texample.org/two v2.0.0 // indirect\n)\n"
		sum = "example.org/one v1.0.0 h1:a=\nexample.org/one v1.0.0/go.mod h1:b=\nexample.org/two v2.0.0 h1:c=\n"
		bzl = "go_repository(\n    name = \"one\",\n    importpath = \"example.org/one\",\n    sum = \"h1:a=\",\n    version = \"v1.0.0\",\n)\n" +
			"go_repository(\n    name = \"two\",\n    importpath = \"example.org/two\",\n    sum = \"h1:c=\",\n    version = \"v2.0.0\",\n)\n"
	)
	if wrong := CheckDeps(mod, sum, bzl); len(wrong) != 0 {
		t.Errorf("equal: %q", wrong)
	}
	for name, c := range map[string]struct{ mod, sum, bzl, want string }{
		"version": {mod, sum, strings.Replace(bzl, "v1.0.0", "v1.0.1", 1), "example.org/one is"},
		"sum":     {mod, strings.Replace(sum, "h1:c=", "h1:d=", 1), bzl, "example.org/two is"},
		"missing": {strings.Replace(mod, ")", "\tgopkg.in/x.v1 v1.0.0\n)", 1), sum, bzl, "gopkg.in/x.v1 is in go.mod and not"},
	} {
		if wrong := CheckDeps(c.mod, c.sum, c.bzl); len(wrong) != 1 || !strings.Contains(wrong[0], c.want) {
			t.Errorf("%s: %q, want one with %q", name, wrong, c.want)
		}
	}
}
