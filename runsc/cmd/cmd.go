// Package cmd is runsc's commands: each decodes its arguments, calls package
// container, and prints. What a command line looks like follows runc, because
// engines were written for it.
//
// A command returns the exit code of runsc: 0, the container's own, 127 and 126
// for a program that can't be found or executed, otherwise 1. An error is one
// sentence on standard error, and in the file of --log.
package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/subcommands"
	"vitrine/pkg/control"
	"vitrine/runsc/config"
	"vitrine/runsc/container"
)

// Context is what a command works with.
type Context struct {
	Config *config.Config
	Store  *container.Store
	// Inherited is how many descriptors from 3 on runsc was started with.
	Inherited int
}

// exitError is an error with an exit code, or, without an error, just a code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitWith is the end of a command whose process ended with code.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// command is a row of the table of commands.
type command struct {
	name, synopsis string
	// usage is the arguments behind the name.
	usage string
	// minArgs and maxArgs are how many arguments there may be; maxArgs -1: any
	// number.
	minArgs, maxArgs int
	// setup defines flags and returns what runs.
	setup func(f *flag.FlagSet) func(c *Context, args []string) error

	run func(c *Context, args []string) error
}

// All are the commands that help lists.
func All() []subcommands.Command {
	return []subcommands.Command{
		createCommand(), startCommand(), runCommand(), doCommand(), execCommand(), specCommand(),
		stateCommand(), listCommand(), psCommand(), waitCommand(), killCommand(), deleteCommand(),
		pauseCommand(), resumeCommand(), updateCommand(), eventsCommand(),
		featuresCommand(), platformsCommand(), versionCommand(),
	}
}

// Internal are the commands that runsc calls itself.
func Internal() []subcommands.Command { return []subcommands.Command{waiterCommand()} }

// Name implements subcommands.Command.
func (c *command) Name() string { return c.name }

// Synopsis implements subcommands.Command.
func (c *command) Synopsis() string { return c.synopsis }

// Usage implements subcommands.Command.
func (c *command) Usage() string {
	return fmt.Sprintf("%s %s - %s\n", c.name, c.usage, c.synopsis)
}

// SetFlags implements subcommands.Command.
func (c *command) SetFlags(f *flag.FlagSet) { c.run = c.setup(f) }

// Execute implements subcommands.Command.
func (c *command) Execute(_ context.Context, f *flag.FlagSet, args ...any) subcommands.ExitStatus {
	ctx := args[0].(*Context)
	err := error(nil)
	if n := f.NArg(); n < c.minArgs || c.maxArgs >= 0 && n > c.maxArgs {
		err = fmt.Errorf("%s takes %s; usage: runsc %s %s", c.name, countWords(c.minArgs, c.maxArgs), c.name, c.usage)
	} else {
		err = c.run(ctx, f.Args())
	}
	return subcommands.ExitStatus(Report(ctx.Config, err))
}

func countWords(least, most int) string {
	switch {
	case most < 0:
		return fmt.Sprintf("%d arguments or more", least)
	case least == most:
		return fmt.Sprintf("%d argument(s)", least)
	}
	return fmt.Sprintf("%d to %d arguments", least, most)
}

// Report prints err, if it has something to say, and returns the exit code.
func Report(conf *config.Config, err error) int {
	if err == nil {
		return 0
	}
	if isWarning(err) {
		logTo(conf, "warning", err.Error())
		fmt.Fprintln(os.Stderr, "runsc: warning:", oneLine(err))
		return 0
	}
	code := control.ExitCode(err)
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, "runsc:", oneLine(err))
	logTo(conf, "error", oneLine(err))
	return code
}

// isWarning says whether err is one of a hook that doesn't end the operation, and
// nothing else.
func isWarning(err error) bool {
	_, is := err.(*container.HookWarning)
	return is
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// warn logs what is no error.
func (c *Context) warn(message string) { logTo(c.Config, "warning", message) }

// logTo appends to --log, in the format that engines parse.
func logTo(conf *config.Config, level, message string) {
	if conf == nil || conf.Log == "" {
		return
	}
	f, err := os.OpenFile(conf.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339Nano)
	if conf.LogFormat == "json" {
		json.NewEncoder(f).Encode(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, message, now})
		return
	}
	fmt.Fprintf(f, "time=%q level=%s msg=%q\n", now, level, message)
}

// bundleFlags are those of create and run.
type bundleFlags struct {
	bundle, pidFile, consoleSocket string
	preserveFDs                    int
	detach                         bool
}

func (b *bundleFlags) register(f *flag.FlagSet) {
	for _, name := range []string{"bundle", "b"} {
		f.StringVar(&b.bundle, name, ".", "directory of config.json")
	}
	f.StringVar(&b.pidFile, "pid-file", "", "file to write the pid to that stands for the container")
	f.StringVar(&b.consoleSocket, "console-socket", "", "unix socket to send the master of the container's terminal to")
	f.IntVar(&b.preserveFDs, "preserve-fds", 0, "how many descriptors from 3 on the process gets too")
	var ignored bool
	f.BoolVar(&ignored, "no-pivot", false, "accepted and not used")
	f.BoolVar(&ignored, "no-new-keyring", false, "accepted and not used")
}

// writePIDFile writes the file in one step: engines watch for it.
func writePIDFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, fmt.Appendf(nil, "%d", pid), 0o644); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}

// preserved are the n descriptors that --preserve-fds hands on. One that isn't the
// caller's would be runsc's own.
func (c *Context) preserved(n int) ([]*os.File, error) {
	if n < 0 || n > c.Inherited {
		return nil, fmt.Errorf("--preserve-fds=%d: the caller has left %d descriptor(s) open from 3 on", n, c.Inherited)
	}
	var files []*os.File
	for fd := 3; fd < 3+n; fd++ {
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("descriptor %d", fd)))
	}
	return files, nil
}

func printJSON(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s\n", b)
	return err
}
