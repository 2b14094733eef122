// Bundle makes an OCI bundle around a root file system.
//
//	bundle [flags] ROOT DIR -- COMMAND [ARGUMENT...]
//
// ROOT is a directory, or the name of an image, busybox or debian. DIR gets a
// config.json that runs the command in it, which docs/development.md shows how
// to run.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"vitrine/images"
)

func main() {
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: bundle [flags] ROOT DIR -- COMMAND [ARGUMENT...]")
		flag.PrintDefaults()
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bundle:", err)
		os.Exit(1)
	}
}

func run() error {
	cwd := flag.String("cwd", "/", "the command's working `directory`")
	uid := flag.Uint("uid", 0, "the command's user `id`")
	gid := flag.Uint("gid", 0, "the command's group `id`")
	terminal := flag.Bool("terminal", false, "give the command a terminal")
	readonly := flag.Bool("readonly", false, "make the root file system read-only")
	hostNet := flag.Bool("host-network", false, "share the caller's network namespace")
	var env []string
	flag.Func("env", "a further `NAME=value` for the environment; may be given again", func(s string) error {
		if !strings.Contains(s, "=") {
			return fmt.Errorf("no = in it")
		}
		env = append(env, s)
		return nil
	})
	flag.Parse()
	args := flag.Args()
	if len(args) < 4 || args[2] != "--" {
		flag.Usage()
		os.Exit(2)
	}

	root, err := rootOf(args[0])
	if err != nil {
		return err
	}
	spec := images.Spec(root, args[3:]...)
	spec.Root.Readonly = *readonly
	p := spec.Process
	p.Cwd = *cwd
	p.Terminal = *terminal
	p.User.UID, p.User.GID = uint32(*uid), uint32(*gid)
	p.Env = append(p.Env, env...)
	if *hostNet {
		kept := spec.Linux.Namespaces[:0]
		for _, ns := range spec.Linux.Namespaces {
			if ns.Type != "network" {
				kept = append(kept, ns)
			}
		}
		spec.Linux.Namespaces = kept
	}
	return images.WriteBundle(args[1], spec)
}

// rootOf returns the absolute path of a root file system that was given as a
// directory or by an image's name.
func rootOf(root string) (string, error) {
	if root == "busybox" || root == "debian" {
		return images.Root(root)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	if fi, err := os.Stat(root); err != nil {
		return "", err
	} else if !fi.IsDir() {
		return "", fmt.Errorf("%s is not a directory", root)
	}
	return root, nil
}
