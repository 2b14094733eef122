package control

import (
	"errors"
	"os"
)

// filer is an argument with descriptors. files returns pointers to all places
// for them, those of ExtraFiles last, because their number is what is left.
type filer interface {
	files() []**os.File
	setExtra(n int)
}

func (p *Process) stdFiles() []**os.File {
	return []**os.File{&p.Stdio[0], &p.Stdio[1], &p.Stdio[2], &p.Console}
}

func (p *Process) extraFiles() []**os.File {
	fs := make([]**os.File, len(p.ExtraFiles))
	for i := range fs {
		fs[i] = &p.ExtraFiles[i]
	}
	return fs
}

func (p *Process) setExtra(n int) {
	if p.ExtraFiles = nil; n > 0 {
		p.ExtraFiles = make([]*os.File, n)
	}
}

func (a *CreateArgs) files() []**os.File {
	fs := append([]**os.File{&a.Root}, a.Init.stdFiles()...)
	for i := range a.Mounts {
		fs = append(fs, &a.Mounts[i].Gofer)
	}
	return append(fs, a.Init.extraFiles()...)
}

func (a *CreateArgs) setExtra(n int) { a.Init.setExtra(n) }

func (a *ExecArgs) files() []**os.File {
	return append(a.Process.stdFiles(), a.Process.extraFiles()...)
}

func (a *ExecArgs) setExtra(n int) { a.Process.setExtra(n) }

// CloseFiles closes all descriptors of the container that are still there. An
// implementation of Create takes those it keeps out (sets them to nil).
func (a *CreateArgs) CloseFiles() { closeFiles(a.files()) }

// CloseFiles closes all descriptors of the process that are still there. An
// implementation of Exec takes those it keeps out (sets them to nil).
func (a *ExecArgs) CloseFiles() { closeFiles(a.files()) }

func closeFiles(places []**os.File) {
	for _, p := range places {
		if *p != nil {
			(*p).Close()
			*p = nil
		}
	}
}

// present tells which places hold a descriptor, and those descriptors.
func present(places []**os.File) (there []bool, files []*os.File) {
	there = make([]bool, len(places))
	for i, p := range places {
		if *p != nil {
			there[i] = true
			files = append(files, *p)
		}
	}
	return there, files
}

// fill puts received files where they belong. On an error it has taken none.
func fill(v filer, there []bool, files []*os.File) error {
	v.setExtra(0)
	extra := len(there) - len(v.files())
	if extra < 0 {
		return errTruncated
	}
	if extra > maxFiles {
		return errors.New("control message has too many descriptors")
	}
	v.setExtra(extra)
	places := v.files()
	n := 0
	for _, t := range there {
		if t {
			n++
		}
	}
	if n != len(files) {
		return errors.New("control message has a wrong number of descriptors")
	}
	for i, t := range there {
		if t {
			*places[i], files = files[0], files[1:]
		}
	}
	return nil
}

// withFiles is a body whose value has descriptors.
type withFiles struct {
	there []bool
	value interface {
		coded
		filer
	}
}

func (w *withFiles) code(c *coder) {
	slice(c, &w.there, c.bool)
	w.value.code(c)
}
