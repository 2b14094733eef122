package control

import "os"

// files returns pointers to all descriptors of the process, in wire order.
func (p *Process) files() []**os.File {
	fs := []**os.File{&p.Stdio[0], &p.Stdio[1], &p.Stdio[2], &p.Console}
	for i := range p.ExtraFiles {
		fs = append(fs, &p.ExtraFiles[i])
	}
	return fs
}

// files returns pointers to all descriptors of the container, in wire order.
func (a *CreateArgs) files() []**os.File {
	fs := append([]**os.File{&a.Root}, a.Init.files()...)
	for i := range a.Mounts {
		fs = append(fs, &a.Mounts[i].Gofer)
	}
	return fs
}

func (a *ExecArgs) files() []**os.File { return a.Process.files() }

// CloseFiles closes all descriptors of the container that are still there. An
// implementation of Create takes those it keeps out (sets them to nil).
func (a *CreateArgs) CloseFiles() { closeFiles(a.files()) }

// CloseFiles closes all descriptors of the process that are still there.
func (a *ExecArgs) CloseFiles() { closeFiles(a.files()) }

func closeFiles(files []**os.File) {
	for _, f := range files {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}
