package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// profile measures a row once more on each subject while perf samples all
// CPUs, and leaves a text in dir: for each subject what processes took, which
// functions of them and of the kernel, and these with what they call.
func (b *bench) profile(dir string, r row, subjects []subject) error {
	if _, err := exec.LookPath("perf"); err != nil {
		return fmt.Errorf("--profile needs perf: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var text strings.Builder
	for _, s := range subjects {
		if r.noNative && s.runtime == "" {
			continue
		}
		fmt.Fprintf(&text, "## %s, %s\n", r.name, s.name)
		if err := b.profileOne(&text, r, s); err != nil {
			return fmt.Errorf("profile of %q on %s: %w", r.name, s.name, err)
		}
	}
	return os.WriteFile(filepath.Join(dir, fileName(r.name)+".txt"), []byte(text.String()), 0o644)
}

func (b *bench) profileOne(text *strings.Builder, r row, s subject) error {
	data := filepath.Join(b.dir, "perf.data")
	defer os.Remove(data)
	// perf samples while the shell runs: from its word to the end of its input.
	perf := exec.Command("perf", "record", "-q", "-e", "cpu-clock", "-a", "-g", "-o", data, "--", "sh", "-c", "echo on; read off")
	var stderr strings.Builder
	perf.Stderr = &stderr
	stdin, err := perf.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := perf.StdoutPipe()
	if err != nil {
		return err
	}
	if err := perf.Start(); err != nil {
		return err
	}
	if err := expect(bufio.NewReader(stdout), "on\n"); err != nil {
		stdin.Close()
		perf.Wait()
		return fmt.Errorf("%w: %s", err, stderr.String())
	}
	b.perf = perf.Process.Pid
	value, measured := r.measure(b, s)
	b.perf = 0
	stdin.Close()
	perf.Wait() // which ends as the shell does: read says 1 at the end of input
	if measured != nil {
		fmt.Fprintf(text, "\nfailed: %v\n", measured)
	} else {
		fmt.Fprintf(text, "\n%s, with the samples taken.\n", format(value, r.unit))
	}
	for _, part := range []struct {
		title string
		lines int
		flags []string
	}{
		{"processes", 12, []string{"--no-children", "--sort", "comm"}},
		{"functions", 50, []string{"--no-children", "--sort", "comm,dso,symbol"}},
		{"functions with what they call", 50, []string{"--children", "--sort", "comm,symbol"}},
	} {
		out, err := output(exec.Command("perf", append([]string{"report", "--stdio", "-q", "-g", "none", "-i", data}, part.flags...)...))
		if err != nil {
			return err
		}
		fmt.Fprintf(text, "\n### %s\n\n%s\n", part.title, head(out, part.lines))
	}
	return nil
}

// head returns the first n lines of a text that aren't empty, without the
// blanks and dashes of empty columns at their ends.
func head(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " -\n"); line != "" && len(lines) < n {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// fileName makes a name for a file from one of a row.
func fileName(row string) string {
	return strings.Join(strings.FieldsFunc(row, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9')
	}), "-")
}
