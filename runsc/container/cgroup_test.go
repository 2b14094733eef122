package container

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A limit of swap goes where the host's cgroups have one, in the form they have it,
// and is refused by name where they have none and the host swaps.
func TestSwap(t *testing.T) {
	const limit = 1 << 30
	for _, test := range []struct {
		name       string
		controller string
		file       string // that is there
		swap       int64
		want       string // in the file
	}{
		{name: "version 1", controller: "memory", file: swapFile1, swap: 2 << 30, want: "2415919104"},
		{name: "version 1, no limit", controller: "memory", file: swapFile1, swap: -1, want: "-1"},
		{name: "version 2", controller: "", file: swapFile2, swap: 2 << 30, want: "1073741824"},
		{name: "version 2, no swap", controller: "", file: swapFile2, swap: 1 << 30, want: "0"},
		{name: "version 2, no limit", controller: "", file: swapFile2, swap: -1, want: "max"},
		{name: "none asked for", controller: "", file: swapFile2, swap: 0, want: ""},
		{name: "version 1 that doesn't count", controller: "memory", swap: 2 << 30},
		{name: "version 2 that doesn't count", controller: "", swap: 2 << 30},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, test.file)
		if test.file != "" {
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		g := &cgroup{dirs: map[string]string{test.controller: dir}}
		err := g.applySwap(limit, &test.swap)
		if test.file == "" {
			if (err != nil) != hostSwaps() || err != nil && !strings.Contains(err.Error(), "linux.resources.memory.swap") {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if b, _ := os.ReadFile(file); err != nil || string(b) != test.want {
			t.Errorf("%s: %q, %v, want %q", test.name, b, err, test.want)
		}
	}
}
