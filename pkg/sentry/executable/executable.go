// Package executable opens files to run them: execve(2)'s rules about which file may
// be run, and that nobody writes to it meanwhile.
//
//	File    a program that is open: the loader reads and maps it
//	Opener  opens programs by path for the loader, which finds the interpreters
//	        of scripts and of ELF files by itself
//	Kept    the program that an address space runs, for as long as it runs it
//
// A file that is open for writing isn't run, and one that is run can't be opened for
// writing (ETXTBSY), until Release, or the last DecRef of what keeps it. What set-user-id
// bits do to credentials is for package auth, what the file holds for the loader.
//
// There are no locks. A File belongs to the task that opened it; a Kept is safe for
// concurrent use.
package executable

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/loader"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// File is a program that is being executed: it can't be written meanwhile.
type File struct {
	ctx  vfs.Context
	file *vfs.File
	attr vfs.Attr
}

// Open opens the program at p for ctx, whose credentials count: EACCES unless it is
// a regular file that may be executed, ELOOP for a symbolic link, ETXTBSY for what
// is being written, ESTALE for what is gone (vfs.Late).
func Open(ctx vfs.Context, p vfs.Path) (*File, error) {
	f := &File{ctx: ctx}
	if err := p.Inode().Attributes(ctx, &f.attr); err != nil {
		return nil, err
	}
	if f.attr.Type() == unix.S_IFLNK {
		return nil, unix.ELOOP
	}
	if f.attr.Type() != unix.S_IFREG || p.Mount.Flags()&vfs.MountNoExec != 0 {
		return nil, unix.EACCES
	}
	if err := vfs.CheckPermission(ctx.Credentials(), &f.attr, vfs.MayExec); err != nil {
		return nil, err
	}
	impl, err := p.Inode().Open(ctx, p, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	f.file = vfs.NewFile(p, impl, unix.O_RDONLY, ctx.Credentials())
	if err := p.Inode().Base().DenyWrite(); err != nil {
		f.file.DecRef()
		return nil, err
	}
	return f, nil
}

// ReadAt, Mappable and Release implement loader.File.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	b := usermem.BytesBuffer(p)
	n, err := f.file.ReadAt(f.ctx, &b, off)
	return int(n), err
}

func (f *File) Mappable() (memmap.Mappable, memmap.Identity, error) {
	m, err := f.file.Mappable(f.ctx, &vfs.MapOptions{
		Length: uint64(max(f.attr.Size, 1)), Private: true, Prot: usermem.Read | usermem.Execute, MaxProt: usermem.AnyAccess,
	})
	return m, f.file, err
}

func (f *File) Release() {
	f.file.Inode().Base().AllowWrite()
	f.file.DecRef()
}

// Version implements loader.Versioned.
func (f *File) Version() cpuid.File {
	a := &f.attr
	return cpuid.File{Device: a.Dev, Inode: a.Ino, Size: a.Size, MTime: a.Mtime, CTime: a.Ctime}
}

// Program is what credentials change by: on a mount with nosuid no bits count.
func (f *File) Program() auth.Program {
	p := auth.Program{UID: f.attr.UID, GID: f.attr.GID}
	if f.file.Path().Mount.Flags()&vfs.MountNoSUID == 0 {
		p.Mode = f.attr.Mode
	}
	return p
}

// Readable reports whether c may read the program: who may not may not look into the
// memory of a process that runs it, either.
func (f *File) Readable(c *auth.Credentials) bool {
	return vfs.CheckPermission(c, &f.attr, vfs.MayRead) == nil
}

// Opener opens programs for the loader, as Ctx, from View.
type Opener struct {
	Ctx  vfs.Context
	View vfs.FSView
}

// OpenExec implements loader.Opener.
func (o Opener) OpenExec(path string) (loader.File, error) {
	f, err := o.Walk(path, vfs.FollowFinal)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Walk opens the program that path leads to.
func (o Opener) Walk(path string, flags vfs.WalkFlags) (*File, error) {
	for late := (vfs.Late{}); ; {
		p, err := vfs.Resolve(o.Ctx, o.View, path, flags)
		if err != nil {
			return nil, err
		}
		f, err := Open(o.Ctx, p)
		if err == nil || !late.Again(p, err) {
			return f, err
		}
	}
}

// Kept is a program as the address spaces that run it keep it, for /proc/PID/exe.
type Kept struct {
	file *File
	refs atomic.Int64
}

// Keep takes f over, with one reference.
func Keep(f *File) *Kept {
	k := &Kept{file: f}
	k.refs.Store(1)
	return k
}

// Path returns where the program is.
func (k *Kept) Path() vfs.Path { return k.file.file.Path() }

// IncRef and DecRef implement mm.Executable.
func (k *Kept) IncRef() { k.refs.Add(1) }
func (k *Kept) DecRef() {
	if k.refs.Add(-1) == 0 {
		k.file.Release()
	}
}
