// Benchmarks measures what the operations of containers cost: natively, in
// Vitrine's sandbox and, on demand, in another runtime, in one run.
//
//	benchmarks [flags]
//
// Each row is one operation. A repetition of it is one run of the program ops
// (ops/ops.c) in a new container, or natively in the same tree by chroot, which
// prints the 10th percentile of many short batches; a row's value is the
// median of its repetitions. The subjects take turns, so that what else the
// machine does meets all alike. A repetition during which others had the
// processors counts only if there are no better ones, and the row is marked.
// With few processors and a busy neighbour no figure is worth much: compare
// ratios from one run, and repeat.
//
// The program must run as root. It writes to a directory that it makes in
// $TMPDIR, in /dev/shm, and nowhere else. What it needs and is not given by
// flags it builds with the go command and gcc, from the source tree in or
// above the working directory.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"vitrine/images"
)

type options struct {
	rows, platforms, image           string
	runtime, sentry, gofer, ops      string
	against, againstName, againstArg string
	runs                             int
	json                             bool
	cpus, profile                    string
}

func main() {
	var o options
	flag.StringVar(&o.rows, "rows", "", "measure only rows whose name matches this `regexp`")
	flag.StringVar(&o.platforms, "platform", "systrap,ptrace", "the sandbox's `platforms`, a column each, separated by commas")
	flag.StringVar(&o.image, "image", "debian", "the `image` to run in")
	flag.IntVar(&o.runs, "runs", 5, "repetitions of each row")
	flag.BoolVar(&o.json, "json", false, "print JSON, with all samples")
	flag.StringVar(&o.cpus, "cpus", "", "keep everything, native runs too, to this `list` of CPUs, such as 0 or 0-1,3")
	flag.StringVar(&o.profile, "profile", "", "measure each row once more under perf, and leave a text a row in this `directory`")
	flag.StringVar(&o.against, "against", "", "`path` of another runtime with runsc's commands, to measure as well")
	flag.StringVar(&o.againstArg, "against-flags", "", "its `flags`, separated by spaces")
	flag.StringVar(&o.runtime, "runsc", "", "the `program` runsc (built if not given)")
	flag.StringVar(&o.sentry, "sentry", "", "the `program` sentry (as runsc finds it)")
	flag.StringVar(&o.gofer, "gofer", "", "the `program` gofer (as runsc finds it)")
	flag.StringVar(&o.ops, "ops", "", "the `program` ops (built if not given)")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if os.Getuid() != 0 {
		return fmt.Errorf("containers and native runs in another root need root")
	}
	pattern, err := regexp.Compile(o.rows)
	if err != nil {
		return fmt.Errorf("--rows: %w", err)
	}
	chosen := slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !pattern.MatchString(r.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("no row matches %q", o.rows)
	}
	if o.runs < 1 {
		return fmt.Errorf("--runs must be 1 at least")
	}
	if o.cpus != "" {
		set, err := parseCPUs(o.cpus)
		if err != nil {
			return fmt.Errorf("--cpus: %w", err)
		}
		if err := pinSelf(&set); err != nil {
			return fmt.Errorf("--cpus: %w", err)
		}
	}
	available, err := cpus()
	if err != nil {
		return err
	}
	// What a runtime leaves behind stays below this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	b, err := prepare(&o)
	if b != nil {
		defer os.RemoveAll(b.dir)
		defer os.RemoveAll(b.tmpfs)
	}
	if err != nil {
		return err
	}

	subjects := []subject{{name: "native"}}
	goals := map[string]map[string]*float64{} // by platform and row
	for _, platform := range strings.Split(o.platforms, ",") {
		flags := []string{"--platform=" + platform}
		if o.sentry != "" {
			flags = append(flags, "--sentry-path="+o.sentry)
		}
		if o.gofer != "" {
			flags = append(flags, "--gofer-path="+o.gofer)
		}
		subjects = append(subjects, subject{name: platform, runtime: o.runtime, flags: flags})
		if goals[platform], err = targets(targetsText, platform); err != nil {
			return err
		}
	}
	if o.against != "" {
		subjects = append(subjects, subject{name: "against", runtime: o.against, flags: strings.Fields(o.againstArg)})
	}

	report := report{
		Time: time.Now().UTC().Truncate(time.Second), Platforms: o.platforms, Runs: o.runs,
		CPUs: runtime.NumCPU(), Kernel: kernel(), LoadBefore: load(),
	}
	if o.cpus != "" {
		report.Pinned = formatCPUs(&available)
	}
	if !o.json {
		report.header(subjects)
	}
	failed := 0
	for _, r := range chosen {
		res := b.row(r, subjects, o.runs)
		res.Redundant = r.oneCPU && available.Count() == 1
		for i := range res.Columns {
			c := &res.Columns[i]
			c.Target = goals[c.Name][r.name]
			if c.Error != "" {
				failed++
			}
		}
		report.Rows = append(report.Rows, res)
		if !o.json {
			res.print()
		}
		if o.profile != "" {
			if err := b.profile(o.profile, r, subjects); err != nil {
				return err
			}
		}
	}
	report.LoadAfter = load()
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(report); err != nil {
			return err
		}
	} else {
		report.footer()
	}
	if failed > 0 {
		return fmt.Errorf("%d measurements failed", failed)
	}
	return nil
}

// prepare makes the scratch directories, and builds what was not given. Even
// with an error, what it returns is to be removed.
func prepare(o *options) (*bench, error) {
	// Builds want the tree, and paths on the command line the place they were
	// given in.
	for _, p := range []*string{&o.runtime, &o.sentry, &o.gofer, &o.ops, &o.against, &o.profile} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	dir, err := os.MkdirTemp("", "vitrine-benchmarks-")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, image: o.image}
	// nobody must find the way to the programs and the bundles.
	if err := os.Chmod(dir, 0o755); err != nil {
		return b, err
	}
	if b.tmpfs, err = os.MkdirTemp("/dev/shm", "vitrine-benchmarks-"); err != nil {
		return b, err
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return b, err
	}
	if b.root, err = images.Root(o.image); err != nil {
		return b, err
	}
	ops := filepath.Join(dir, "bin/ops")
	if o.ops != "" {
		err = command("cp", "-L", o.ops, ops)
	} else if tree := sourceTree(); tree == "" {
		err = fmt.Errorf("no source tree here to build ops from")
	} else {
		err = command("gcc", "-O2", "-static", "-pthread", "-o", ops, filepath.Join(tree, "test/benchmarks/ops/ops.c"))
	}
	if err != nil {
		return b, err
	}
	if o.runtime == "" {
		tree := sourceTree()
		if tree == "" {
			return b, fmt.Errorf("no source tree here to build runsc from")
		}
		programs := filepath.Join(dir, "programs")
		if err := command("go", "-C", tree, "build", "-o", programs+"/", "./runsc", "./runsc/sentry", "./runsc/gofer"); err != nil {
			return b, err
		}
		o.runtime = filepath.Join(programs, "runsc")
	}
	return b, nil
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sourceTree is the root of the tree in or above the working directory.
func sourceTree() string {
	dir, err := os.Getwd()
	for err == nil {
		if _, e := os.Stat(filepath.Join(dir, "test/benchmarks/ops/ops.c")); e == nil {
			return dir
		}
		if dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	return ""
}
