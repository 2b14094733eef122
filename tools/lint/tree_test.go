package lint

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// treeRoot returns the root of the source tree. Under Bazel go.mod is a link
// to the one in the tree, among the test's runfiles.
func treeRoot(t *testing.T) string {
	t.Helper()
	mod, err := filepath.EvalSymlinks("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	mod, err = filepath.Abs(mod)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(mod)
}

func read(t *testing.T, name ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(name...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTree(t *testing.T) {
	root := treeRoot(t)
	rows, err := ParseRows(read(t, root, "tools/rules/rows.bzl"))
	if err != nil {
		t.Fatalf("tools/rules/rows.bzl: %v", err)
	}
	m := regexp.MustCompile(`(?m)^module (\S+)$`).FindStringSubmatch(read(t, root, "go.mod"))
	if m == nil {
		t.Fatal("go.mod names no module")
	}
	problems, err := Check(os.DirFS(root), m[1], rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
}

func TestDepsBzlIsAsGoModSays(t *testing.T) {
	root := treeRoot(t)
	for _, w := range CheckDeps(read(t, root, "go.mod"), read(t, root, "go.sum"), read(t, root, "deps.bzl")) {
		t.Errorf("%s; run tools/gazelle", w)
	}
}

// Under Bazel, GAZELLE is the program that Bazel built; under go test,
// tools/gazelle has its own.
func TestBuildFilesAreAsGazelleWritesThem(t *testing.T) {
	root := treeRoot(t)
	cmd := exec.Command(filepath.Join(root, "tools/gazelle"), "-mode=diff")
	cmd.Env = os.Environ()
	if g := os.Getenv("GAZELLE"); g != "" {
		g, err := filepath.Abs(filepath.Join("../..", g))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "GAZELLE="+g)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("tools/gazelle would change BUILD files (%v):\n%s", err, out)
	}
}
