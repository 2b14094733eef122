// Runsc is an OCI runtime whose containers run on an application kernel: see
// ARCHITECTURE.md. Docker, containerd, Podman and people call it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/google/subcommands"
	"golang.org/x/sys/unix"
	"vitrine/runsc/cmd"
	"vitrine/runsc/config"
	"vitrine/runsc/container"
)

func main() { os.Exit(run()) }

// inheritedFiles counts the descriptors from 3 on that the caller has left open. Those
// that the Go runtime has opened are close-on-exec; what is inherited is not.
func inheritedFiles() int {
	n := 0
	for {
		if flags, err := unix.FcntlInt(uintptr(3+n), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			return n
		}
		n++
	}
}

func run() int {
	inherited := inheritedFiles()
	// What the caller has left open must not reach a child. Those that a
	// command hands on on purpose go by another way.
	unix.CloseRange(3, 1<<31-1, unix.CLOSE_RANGE_CLOEXEC)

	conf := &config.Config{}
	flags := flag.NewFlagSet("runsc", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	conf.Register(flags)
	showVersion := false
	flags.BoolVar(&showVersion, "version", false, "print the version")
	flags.BoolVar(&showVersion, "v", false, "print the version")

	commander := subcommands.NewCommander(flags, "runsc")
	commander.Register(commander.HelpCommand(), "")
	commander.Register(commander.FlagsCommand(), "")
	for _, c := range cmd.All() {
		commander.Register(c, "")
	}
	for _, c := range cmd.Internal() {
		commander.Register(c, "internal")
	}

	switch err := flags.Parse(os.Args[1:]); {
	case err == flag.ErrHelp:
		flags.SetOutput(os.Stdout)
		commander.Explain(os.Stdout)
		return 0
	case err != nil:
		return cmd.Report(conf, err)
	case showVersion:
		cmd.PrintVersion()
		return 0
	case flags.NArg() == 0:
		return cmd.Report(conf, fmt.Errorf("a command is missing; \"runsc help\" lists them"))
	}
	name := flags.Arg(0)
	var command subcommands.Command
	commander.VisitCommands(func(_ *subcommands.CommandGroup, c subcommands.Command) {
		if c.Name() == name {
			command = c
		}
	})
	if command == nil {
		return cmd.Report(conf, fmt.Errorf("there is no command %q; \"runsc help\" lists them", name))
	}
	if err := conf.Load(flags); err != nil {
		return cmd.Report(conf, err)
	}
	// The commander would print a flag's error its own way.
	commandFlags := flag.NewFlagSet(name, flag.ContinueOnError)
	commandFlags.SetOutput(io.Discard)
	command.SetFlags(commandFlags)
	switch err := commandFlags.Parse(flags.Args()[1:]); {
	case err == flag.ErrHelp:
		fmt.Print(command.Usage())
		commandFlags.SetOutput(os.Stdout)
		commandFlags.PrintDefaults()
		return 0
	case err != nil:
		return cmd.Report(conf, fmt.Errorf("%s: %w", name, err))
	}
	shared := &cmd.Context{Config: conf, Store: &container.Store{Root: conf.Root}, Inherited: inherited}
	return int(command.Execute(context.Background(), commandFlags, shared))
}
