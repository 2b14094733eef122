// The runtime is not to keep files of the host's cgroups open, which the jail would close under it.
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Gofer is a container's file server: it serves the trees it was given descriptors of, over 9P connections it was given
// descriptors of, and can do nothing else.
//
//	gofer --attach FD:ro|rw[:NAME] ... --conn FD ... [--log-fd FD] [--report-fd FD] [--no-jail]
//
// The first --conn is served the first --attach's tree, the second the second's, and so on; connections beyond
// the number of trees are an error. It ends, with status 0, when all connections are closed.
//
// If it cannot start, it writes one sentence to the report descriptor (standard error without one) and ends with
// status 1. When it serves, it closes the report descriptor without a word. The log descriptor takes what the Go runtime says in a crash.
//
// It locks itself up (pkg/gofer.EnterJail), for which it must be the first process of a PID namespace
// and have a mount namespace of its own; --no-jail leaves that out, for tests and for looking into things.
//
// This program stays small on purpose: a Go program's memory is what it links and touches, so os, fmt, flag and net
// are left out, and the arguments come from /proc.
package main

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"vitrine/pkg/gofer"
	"vitrine/pkg/p9"
	"vitrine/pkg/trim"
)

// attachment is one --attach.
type attachment struct {
	fd       int
	readOnly bool
	name     string
}

// options is the command line.
type options struct {
	attach []attachment
	conns  []int
	log    int
	report int
	noJail bool
}

// problem is a sentence for the person who started us.
type problem string

func (p problem) Error() string { return string(p) }

func main() {
	takeName()
	o := options{log: -1, report: -1}
	args, err := commandLine()
	if err == nil {
		err = o.parse(args)
	}
	var trees []*gofer.Tree
	if err == nil {
		trees, err = o.start()
	}
	if err != nil {
		to := o.report
		if to < 0 {
			to = 2
		}
		unix.Write(to, []byte("gofer: "+err.Error()+"\n"))
		unix.Exit(1)
	}
	if o.report >= 0 {
		unix.Close(o.report)
	}
	// Most of what it was set up with, it needs no more.
	trim.Soon()
	var serving sync.WaitGroup
	for i, conn := range o.conns {
		serving.Go(func() {
			p9.Serve(conn, trees[i], p9.ServerOptions{Extensions: p9.AllExtensions})
		})
	}
	serving.Wait()
	unix.Exit(0)
}

// takeName has ps show the program's name, which is started by a descriptor and would be called by its number.
func takeName() {
	if fd, err := unix.Open("/proc/self/comm", unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
		unix.Write(fd, []byte("gofer"))
		unix.Close(fd)
	}
}

// commandLine reads the arguments.
func commandLine() ([]string, error) {
	fd, err := unix.Open("/proc/self/cmdline", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, problem("cannot read the command line in /proc: " + err.Error())
	}
	defer unix.Close(fd)
	var all []byte
	var buf [4096]byte
	for {
		n, err := unix.Read(fd, buf[:])
		if err != nil {
			return nil, problem("cannot read the command line in /proc: " + err.Error())
		}
		if n == 0 {
			break
		}
		all = append(all, buf[:n]...)
	}
	args := strings.Split(strings.TrimSuffix(string(all), "\x00"), "\x00")
	return args[1:], nil
}

// parse reads on behind a mistake, so that the report descriptor is known when the first one is told.
func (o *options) parse(args []string) error {
	var first error
	for len(args) > 0 {
		flag := args[0]
		args = args[1:]
		if flag == "--no-jail" {
			o.noJail = true
			continue
		}
		flag, value, found := strings.Cut(flag, "=")
		err := error(problem("no value for " + flag))
		if !found && len(args) > 0 {
			value, args, found = args[0], args[1:], true
		}
		if found {
			err = o.set(flag, value)
		}
		if first == nil {
			first = err
		}
	}
	if first == nil && (len(o.conns) == 0 || len(o.conns) != len(o.attach)) {
		first = problem("as many --conn as --attach are wanted, and at least one")
	}
	return first
}

func (o *options) set(flag, value string) error {
	var a attachment
	if flag == "--attach" {
		var mode string
		value, mode, _ = strings.Cut(value, ":")
		mode, a.name, _ = strings.Cut(mode, ":")
		if mode != "ro" && mode != "rw" {
			return problem("--attach wants FD:ro or FD:rw")
		}
		a.readOnly = mode == "ro"
	}
	n, err := strconv.ParseUint(value, 10, 31)
	fd := int(n)
	switch flag {
	case "--attach":
		a.fd = fd
		o.attach = append(o.attach, a)
	case "--conn":
		o.conns = append(o.conns, fd)
	case "--log-fd":
		o.log = fd
	case "--report-fd":
		o.report = fd
	default:
		return problem("unknown flag " + flag)
	}
	if err != nil {
		if flag == "--report-fd" {
			o.report = -1
		}
		return problem(flag + " wants the number of a descriptor, not \"" + value + "\"")
	}
	return nil
}

// start makes the trees and the jail.
func (o *options) start() ([]*gofer.Tree, error) {
	if o.log >= 0 && o.log != 2 {
		if err := unix.Dup3(o.log, 2, 0); err != nil {
			return nil, problem("cannot use the log descriptor: " + err.Error())
		}
	}
	keep := []int{2}
	if o.report >= 0 {
		keep = append(keep, o.report)
	}
	trees := make([]*gofer.Tree, 0, len(o.attach))
	for i, a := range o.attach {
		t, err := gofer.NewTree(a.fd, a.name, a.readOnly, !o.noJail)
		if err != nil {
			return nil, problem("--attach descriptor " + strconv.Itoa(a.fd) + " is no directory or file to serve: " + err.Error())
		}
		trees = append(trees, t)
		keep = append(keep, a.fd, o.conns[i])
	}
	if o.noJail {
		unix.Umask(0)
		return trees, nil
	}
	return trees, gofer.EnterJail(keep)
}
