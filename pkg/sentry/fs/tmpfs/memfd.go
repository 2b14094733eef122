package tmpfs

import (
	"runtime"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// Anonymous is an instance for files without a place: memfds and shared memory.
// Safe for concurrent use.
type Anonymous struct {
	memory  *memfile.File
	storage *Storage
	fs      *vfs.Filesystem
	mount   *vfs.Mount
}

// NewAnonymous returns an instance. Of o only where memory comes from counts.
func NewAnonymous(o Options) (*Anonymous, error) {
	o.Mode, o.Size = 0, 0
	fs, err := New(o)
	if err != nil {
		return nil, err
	}
	return &Anonymous{o.Memory, fs.Impl.(*Storage), fs, vfs.NewInternalMount(fs)}, nil
}

// maxMemfdName is the length of a name in memfd_create(2).
const maxMemfdName = 249

// NewMemfd does memfd_create(2): a file open for reading and writing. The
// caller sees to MFD_CLOEXEC.
func (a *Anonymous) NewMemfd(cred *auth.Credentials, name string, flags uint32) (*vfs.File, error) {
	if flags&^uint32(unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING) != 0 || len(name) > maxMemfdName {
		return nil, unix.EINVAL
	}
	return a.open(cred, "/memfd:"+name, 0o777, flags&unix.MFD_ALLOW_SEALING != 0, 0)
}

// NewShared returns a file of size bytes for memory that processes share: a
// shared anonymous mapping, or shmget(2). name is what /proc/PID/maps shows.
func (a *Anonymous) NewShared(cred *auth.Credentials, name string, size uint64) (*vfs.File, error) {
	return a.open(cred, name, 0o777, false, size)
}

func (a *Anonymous) open(cred *auth.Credentials, name string, mode uint32, sealing bool, size uint64) (*vfs.File, error) {
	r, err := a.storage.memfd(cred, mode, sealing)
	if err != nil {
		return nil, err
	}
	if cred.Account != nil { // who makes it pays for its pages, not all who share the instance
		r.SetContent(pagestore.New(a.memory, cred.Account))
	}
	r.hold()
	if size != 0 {
		if err := r.Truncate(size); err != nil {
			r.Unpin()
			return nil, err
		}
	}
	p := vfs.Path{Mount: a.mount, Dentry: vfs.NewUnlinkedDentry(a.fs, name, r)}
	return vfs.NewFile(p, r, unix.O_RDWR, cred), nil
}

// NewObject returns shared memory of size bytes that belongs to nothing but its
// mappings (/dev/zero), and that cred's account pays for. The garbage collector
// finds out when the last is gone.
func (a *Anonymous) NewObject(cred *auth.Credentials, size uint64) (memmap.Mappable, error) {
	c := a.storage.newContent()
	if cred.Account != nil {
		c = pagestore.New(a.memory, cred.Account)
	}
	if err := c.Truncate(size); err != nil {
		return nil, err
	}
	o := &object{c}
	runtime.AddCleanup(o, Content.Release, c)
	return o, nil
}

// object is what address spaces know of the Content; the Content doesn't know
// it, so that it can be garbage.
type object struct{ content Content }

// Translate implements memmap.Mappable.
func (o *object) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	return o.content.Translate(required, optional, access)
}

// AddMapping and RemoveMapping implement memmap.Mappable. Nobody truncates the
// object, so nobody need know where it is mapped.
func (o *object) AddMapping(memmap.MappingSpace, memmap.Range, bool) error { return nil }
func (o *object) RemoveMapping(memmap.MappingSpace, memmap.Range, bool)    {}
