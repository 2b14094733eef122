package pseudo

import (
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
)

// Builder makes the fixed inodes of an instance, numbered one after the other. It
// is for one goroutine.
type Builder struct {
	Dev  uint64
	Time int64 // of all inodes
	// LastIno is the number that was given out last.
	LastIno uint64
}

// facts returns the attributes of the next inode.
func (b *Builder) facts(mode uint32) Facts {
	b.LastIno++
	return Facts{Ino: b.LastIno, Dev: b.Dev, Mode: mode, Time: b.Time}
}

// Dir returns a new empty directory; perm are its permission bits.
func (b *Builder) Dir(perm uint32) *Dir {
	return &Dir{Meta: b.facts(unix.S_IFDIR | perm).Meta()}
}

// File returns a new file.
func (b *Builder) File(perm uint32, gen Generator) *File {
	return &File{Meta: b.facts(unix.S_IFREG | perm).Meta(), Generate: gen}
}

// Symlink returns a new link.
func (b *Builder) Symlink(target func(vfs.Context) (string, error)) *Symlink {
	return &Symlink{Meta: b.facts(unix.S_IFLNK | 0o777).Meta(), Target: target}
}

// MkdirAll returns the directory at path below root, and makes what is missing of
// it, with permission bits perm. Nothing but directories may be in the way.
func (b *Builder) MkdirAll(root *Dir, path string, perm uint32) *Dir {
	at := root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		next, ok := at.nodes[name].(*Dir)
		if !ok {
			next = b.Dir(perm)
			at.Put(name, next)
		}
		at = next
	}
	return at
}

// PutFile makes a file at path below root, with its directories, and returns it.
func (b *Builder) PutFile(root *Dir, path string, perm uint32, gen Generator) *File {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	f := b.File(perm, gen)
	b.MkdirAll(root, dir, 0o555).Put(name, f)
	return f
}

// ReadOnly is a Check for files that nobody may write, whatever his privileges:
// EACCES, as for the settings and attributes that Linux only shows.
func ReadOnly(_ vfs.Context, flags uint32) error {
	if flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0 {
		return unix.EACCES
	}
	return nil
}
