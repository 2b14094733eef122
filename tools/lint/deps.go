package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

var (
	requireLine = regexp.MustCompile(`(?m)^(?:require )?\t?([^\s()]+\.[^\s()]+) (v[^\s]+)(?: // indirect)?$`)
	sumLine     = regexp.MustCompile(`(?m)^(\S+) (v[^\s/]+) (h1:\S+)$`)
	repository  = regexp.MustCompile(`(?s)importpath = "([^"]+)",.*?sum = "([^"]+)",.*?version = "([^"]+)"`)
)

// CheckDeps compares the modules that go.mod requires with those that deps.bzl
// gives to Bazel, and returns a sentence for each that differs in version or
// sum, or is missing in deps.bzl.
func CheckDeps(goMod, goSum, depsBzl string) []string {
	sums := make(map[string]string)
	for _, m := range sumLine.FindAllStringSubmatch(goSum, -1) {
		sums[m[1]+" "+m[2]] = m[3]
	}
	bazel := make(map[string]string)
	for _, m := range repository.FindAllStringSubmatch(depsBzl, -1) {
		bazel[m[1]] = m[3] + " " + m[2]
	}
	var wrong []string
	for _, m := range requireLine.FindAllStringSubmatch(goMod, -1) {
		module, version := m[1], m[2]
		want := version + " " + sums[module+" "+version]
		switch got, ok := bazel[module]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s is in go.mod and not in deps.bzl", module))
		case got != want:
			wrong = append(wrong, fmt.Sprintf("%s is %q in go.mod and go.sum, %q in deps.bzl", module, strings.TrimSpace(want), got))
		}
	}
	slices.Sort(wrong)
	return wrong
}
