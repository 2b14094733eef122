// Package pseudo is what file systems are made of whose files are written at the
// moment they are read: proc and sysfs.
//
// A File has a Generator, which writes its contents part by part, and may have a
// Store, which takes what is written. A Dir holds names that never change. A
// Symlink is a link whose target may depend on who reads it. Directories whose
// names come and go implement Lister and use OpenDir.
//
// An open file keeps the part that was generated last, so that reads in small
// pieces fit together; a read at offset zero begins anew, as with Linux's
// seq_file. What an open file keeps is about PartSize bytes: files that can be
// longer are generated in parts.
//
// Lock order: an open file's lock is held while its contents are generated and
// copied to application memory; whatever these need comes below it.
//
// What it doesn't do: caching, notification of changes, poll.
package pseudo

import (
	"bytes"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// PartSize is about how many bytes a Generator writes in one call, where it has
// a choice: a page, as in Linux.
const PartSize = 4096

// maxStore is the most that one write(2) takes: a page, as in Linux.
const maxStore = 4096

// Done is what a Generator returns when nothing follows.
const Done int64 = -1

// A Generator appends a part of a file's contents to b. at is zero for the
// first part, and otherwise what the call for the part before returned; Done
// when there is no more. It is called for ctx's task, without locks but the open
// file's.
type Generator func(ctx vfs.Context, b *bytes.Buffer, at int64) (next int64, err error)

// Whole returns a Generator of a file that is written in one part.
func Whole(f func(ctx vfs.Context, b *bytes.Buffer) error) Generator {
	return func(ctx vfs.Context, b *bytes.Buffer, _ int64) (int64, error) { return Done, f(ctx, b) }
}

// Text returns a Generator of a file that always reads s.
func Text(s string) Generator {
	return func(_ vfs.Context, b *bytes.Buffer, _ int64) (int64, error) {
		b.WriteString(s)
		return Done, nil
	}
}

// Meta is what every inode has.
type Meta struct {
	vfs.InodeBase
	Facts
}

// Facts are the attributes of an inode. They are set before the inode is used,
// and constant after.
type Facts struct {
	Ino  uint64
	Dev  uint64
	Mode uint32 // with the type
	// Links is st_nlink; zero means 1, or 2 for a directory.
	Links uint32
	// Size is st_size.
	Size int64
	// Time is the nanosecond that all time stamps show.
	Time int64
	// Owner, if not nil, tells whom the inode belongs to at the moment. Otherwise
	// the superuser owns it.
	Owner func() (auth.KUID, auth.KGID)
}

// Meta returns the Meta of a new inode.
func (f Facts) Meta() Meta { return Meta{Facts: f} }

// Attributes implements vfs.Inode.
func (m *Meta) Attributes(_ vfs.Context, a *vfs.Attr) error {
	*a = vfs.Attr{Mode: m.Mode, Nlink: m.Links, Ino: m.Ino, Dev: m.Dev, BlockSize: 1024, Size: m.Size,
		Atime: m.Time, Mtime: m.Time, Ctime: m.Time}
	if a.Nlink == 0 {
		if a.Nlink = 1; a.IsDir() {
			a.Nlink = 2
		}
	}
	if m.Owner != nil {
		a.UID, a.GID = m.Owner()
	}
	return nil
}

// SetAttributes implements vfs.Inode: owners and modes are what they are (EPERM).
// Truncation has no effect (O_TRUNC comes with every ">" of a shell), and neither
// have times.
func (m *Meta) SetAttributes(_ vfs.Context, s *vfs.SetAttr) error {
	if s.Mask&(vfs.SetMode|vfs.SetUID|vfs.SetGID) != 0 {
		return unix.EPERM
	}
	return nil
}

// File is a regular file.
type File struct {
	Meta
	// Generate may be nil: reading gives EINVAL.
	Generate Generator
	// Store takes what one write(2) gave, without regard to the offset. Nil:
	// writing gives EIO.
	Store func(ctx vfs.Context, data []byte) error
	// Check, if not nil, decides whether ctx's task may open the file.
	Check func(ctx vfs.Context, flags uint32) error
}

// Open implements vfs.Inode.
func (f *File) Open(ctx vfs.Context, _ vfs.Path, flags uint32) (any, error) {
	if f.Check != nil {
		if err := f.Check(ctx, flags); err != nil {
			return nil, err
		}
	}
	return &open{file: f}, nil
}

// open is an open File.
type open struct {
	file *File
	mu   locks.Mutex[locks.PseudoFile]
	// part is what was generated last; it begins at offset start of the file,
	// and next is where the Generator goes on.
	part    []byte
	start   int64
	next    int64
	started bool
}

// ReadAt implements vfs.ReaderAt.
func (o *open) ReadAt(ctx vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	gen := o.file.Generate
	if gen == nil {
		return 0, unix.EINVAL
	}
	if dst.Len() == 0 {
		return 0, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if off == 0 || off < o.start || !o.started {
		o.part, o.start, o.next, o.started = nil, 0, 0, true
	}
	total := int64(0)
	for dst.Len() > 0 {
		end := o.start + int64(len(o.part))
		if off < end {
			n, err := dst.Write(o.part[off-o.start:])
			total += int64(n)
			off += int64(n)
			if err != nil {
				if total > 0 {
					err = nil
				}
				return total, err
			}
			continue
		}
		if o.next == Done {
			// Read to the end: nothing need be kept to say so again.
			o.part, o.start = nil, end
			break
		}
		var b bytes.Buffer
		next, err := gen(ctx, &b, o.next)
		if err != nil {
			if total > 0 {
				return total, nil
			}
			o.started = false
			return 0, err
		}
		o.part, o.start, o.next = bytes.Clone(b.Bytes()), end, next
	}
	return total, nil
}

// WriteAt implements vfs.WriterAt.
func (o *open) WriteAt(ctx vfs.Context, src *usermem.Buffer, _ int64) (int64, error) {
	if o.file.Store == nil {
		return 0, unix.EIO
	}
	n := min(src.Len(), maxStore)
	data := make([]byte, n)
	got, err := src.Read(data)
	if err != nil {
		return 0, err
	}
	if err := o.file.Store(ctx, data[:got]); err != nil {
		return 0, err
	}
	return int64(got), nil
}

// Symlink is a symbolic link.
type Symlink struct {
	Meta
	Target func(ctx vfs.Context) (string, error)
}

// Readlink implements vfs.Link.
func (l *Symlink) Readlink(ctx vfs.Context) (string, error) { return l.Target(ctx) }

// Open implements vfs.Inode; links aren't opened.
func (l *Symlink) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ELOOP }

// FixedTarget returns the Target of a link that is the same for everybody.
func FixedTarget(s string) func(vfs.Context) (string, error) {
	return func(vfs.Context) (string, error) { return s, nil }
}

// Lister emits the names of a directory behind cookie, which is 2 or more, but
// for "." and "..". Each entry's Next is greater than cookie.
type Lister interface {
	List(ctx vfs.Context, cookie int64, emit func(e vfs.DirEntry) bool) error
}

// FirstCookie is what List begins with.
const FirstCookie = 2

// OpenDir returns what the Open of a directory returns: ino is the directory's.
func OpenDir(p vfs.Path, ino uint64, l Lister) any { return &openDir{p, ino, l} }

type openDir struct {
	path vfs.Path
	ino  uint64
	list Lister
}

// ReadDir implements vfs.DirReader.
func (d *openDir) ReadDir(ctx vfs.Context, _ *vfs.File, cookie int64, emit func(vfs.DirEntry) bool) error {
	if cookie <= 0 {
		if !emit(vfs.DirEntry{Name: ".", Ino: d.ino, Type: unix.DT_DIR, Next: 1}) {
			return nil
		}
	}
	if cookie <= 1 {
		up := d.ino
		if p := d.path.Dentry.Parent(); p != nil {
			var a vfs.Attr
			if p.Inode().Attributes(ctx, &a) == nil {
				up = a.Ino
			}
		}
		if !emit(vfs.DirEntry{Name: "..", Ino: up, Type: unix.DT_DIR, Next: 2}) {
			return nil
		}
	}
	return d.list.List(ctx, max(cookie, FirstCookie), emit)
}

// Dir is a directory whose names are put in before it is used.
type Dir struct {
	Meta
	vfs.StaticDirectory
	names []string
	nodes map[string]vfs.Inode
}

// Put enters a name.
func (d *Dir) Put(name string, i vfs.Inode) {
	if d.nodes == nil {
		d.nodes = map[string]vfs.Inode{}
	}
	if _, ok := d.nodes[name]; !ok {
		d.names = append(d.names, name)
	}
	d.nodes[name] = i
	if _, ok := i.(vfs.Directory); ok {
		d.Links = max(d.Links, 2) + 1
	}
}

// Len returns the number of names.
func (d *Dir) Len() int { return len(d.names) }

// Lookup implements vfs.Directory.
func (d *Dir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if i := d.nodes[name]; i != nil {
		return i, nil
	}
	return nil, unix.ENOENT
}

// Open implements vfs.Inode.
func (d *Dir) Open(_ vfs.Context, p vfs.Path, _ uint32) (any, error) {
	return OpenDir(p, d.Ino, d), nil
}

// List implements Lister.
func (d *Dir) List(ctx vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	for i := cookie - FirstCookie; i >= 0 && i < int64(len(d.names)); i++ {
		var a vfs.Attr
		if err := d.nodes[d.names[i]].Attributes(ctx, &a); err != nil {
			return err
		}
		if !emit(vfs.DirEntry{Name: d.names[i], Ino: a.Ino, Type: vfs.DTType(a.Mode), Next: i + FirstCookie + 1}) {
			return nil
		}
	}
	return nil
}
