package config

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func load(t *testing.T, file string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vitrine.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Config{}
	f := flag.NewFlagSet("runsc", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.Register(f)
	if err := f.Parse(append([]string{"--config", path}, args...)); err != nil {
		t.Fatal(err)
	}
	return c, c.Load(f)
}

func TestFileSetsFlagsAndTheCommandLineWins(t *testing.T) {
	c, err := load(t, "# how we run\nplatform = \"ptrace\" # slow\nstrace=true\ndebug-log = \"l\"\ntotal-memory = 1_000_000\nroot = '/a#b'\noverlay = \"none\"\n",
		"--overlay=all")
	if err != nil {
		t.Fatal(err)
	}
	if c.Platform != "ptrace" || !c.Strace || c.TotalMemory != 1000000 || c.Root != "/a#b" || c.Overlay != "all" {
		t.Errorf("got %+v", c)
	}
}

func TestFileErrors(t *testing.T) {
	for file, want := range map[string]string{
		"nonsense":                       "line 1: not of the form",
		"\nnoflag = 1":                   `line 2: there is no flag "noflag"`,
		"config = \"x\"":                 `there is no flag "config"`,
		"strace = maybe":                 "neither a string, an integer nor a boolean",
		"strace = 7":                     "line 1: parse error",
		"platform = \"vax\"":             "--platform=vax is not supported; it is one of",
		"platform = \"kvm":               "the string has no end",
		"platform = \"kvm\" x":           `unexpected "x"`,
		"strace = true\nstrace = true":   "strace is set twice",
		"systemd-cgroup = true":          "cgroupfs driver",
		"[section]":                      "not of the form",
		"cpus = -1":                      "negative",
		"platform = [\"kvm\", \"auto\"]": "neither a string",
	} {
		_, err := load(t, file)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want %q", file, err, want)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("a = \"b\" # c\nd=1\n")
	f.Fuzz(func(t *testing.T, text string) {
		parseFile(text, func(name, value string) error { return nil })
	})
}
