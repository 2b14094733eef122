// Package hostfd maps host files whose descriptors the gofer donated: into
// applications, by giving the descriptor to the platform, and into the Sentry,
// for the copies that system calls make.
//
// A File is a memmap.File and a memmap.Mappable at once. Offsets are those of
// the host file. The host file may shrink at any time, so who touches a Slice
// does so in usermem.Guard.
//
// File.mu is taken in Translate and AddMapping (see package memmap for what
// that means), and held when address spaces are told to let pages go. The lock
// of the Sentry's own mappings is a leaf.
package hostfd

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

const (
	// chunkSize is how much of a file the Sentry maps at a time.
	chunkSize = 64 << 20

	// maxChunks bounds the mappings of all files together: the host bounds
	// them too (vm.max_map_count), and everything else in the Sentry needs
	// some.
	maxChunks = 16384
)

var chunks atomic.Int64 // of all files

// Options are the parameters of New.
type Options struct {
	// Writable says that the descriptor can be written.
	Writable bool
	// Size returns the size of the file as far as the file system knows;
	// pages beyond are bus errors. It is called with locks held and must not
	// call back.
	Size func() uint64
	// Closing, unless nil, is called with the descriptor before it is
	// closed: the platform is to forget it.
	Closing func(fd int)
}

// File is a host file.
type File struct {
	fd   int
	opts Options
	refs atomic.Int64 // the owner's, and one for each page mapped or referred to

	mu       locks.Mutex[locks.Mappables]
	mappings memmap.Mappings

	// first is views[0], which is looked up without a lock: most files have no other.
	first  atomic.Pointer[[]byte]
	viewMu locks.RWMutex[locks.Leaf]
	views  map[uint64][]byte // by offset / chunkSize
}

// New returns a File that owns fd, with one reference for the caller, who gives
// it back with Release.
func New(fd int, opts Options) *File {
	f := &File{fd: fd, opts: opts}
	f.refs.Store(1)
	return f
}

// Release drops the owner's reference. The descriptor is closed when no mapping
// is left either.
func (f *File) Release() { f.drop(1) }

func (f *File) drop(n int64) {
	if f.refs.Add(-n) != 0 {
		return
	}
	f.viewMu.Lock()
	defer f.viewMu.Unlock()
	for _, v := range f.views {
		unix.Munmap(v)
		chunks.Add(-1)
	}
	f.views = nil
	f.first.Store(nil)
	if f.opts.Closing != nil {
		f.opts.Closing(f.fd)
	}
	unix.Close(f.fd)
}

// FD implements platform.File.
func (f *File) FD() int { return f.fd }

// IncRef implements memmap.File.
func (f *File) IncRef(offset, length uint64) { f.refs.Add(int64(length / usermem.PageSize)) }

// DecRef implements memmap.File.
func (f *File) DecRef(offset, length uint64) { f.drop(int64(length / usermem.PageSize)) }

// Slice implements memmap.File. It fails with ENOMEM when the Sentry maps too
// much.
func (f *File) Slice(offset, length uint64) ([]byte, error) {
	if v := f.first.Load(); v != nil && offset < chunkSize {
		b := (*v)[offset:]
		return b[:min(length, uint64(len(b)))], nil
	}
	n := offset / chunkSize
	f.viewMu.RLock()
	v := f.views[n]
	f.viewMu.RUnlock()
	if v == nil {
		var err error
		if v, err = f.view(n); err != nil {
			return nil, err
		}
	}
	v = v[offset%chunkSize:]
	return v[:min(length, uint64(len(v)))], nil
}

func (f *File) view(n uint64) ([]byte, error) {
	f.viewMu.Lock()
	defer f.viewMu.Unlock()
	if v := f.views[n]; v != nil {
		return v, nil
	}
	if chunks.Add(1) > maxChunks {
		chunks.Add(-1)
		return nil, unix.ENOMEM
	}
	prot := unix.PROT_READ
	if f.opts.Writable {
		prot |= unix.PROT_WRITE
	}
	v, err := unix.Mmap(f.fd, int64(n*chunkSize), chunkSize, prot, unix.MAP_SHARED)
	if err != nil {
		chunks.Add(-1)
		return nil, err
	}
	if f.views == nil {
		f.views = make(map[uint64][]byte)
	}
	f.views[n] = v
	if n == 0 {
		f.first.Store(&v)
	}
	return v, nil
}

// Translate implements memmap.Mappable: offsets are the same.
func (f *File) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end := (f.opts.Size() + usermem.PageMask) &^ usermem.PageMask
	if required.End > end {
		return nil, memmap.BusError{Err: unix.ENXIO}
	}
	may := usermem.Read | usermem.Execute
	if f.opts.Writable {
		may |= usermem.Write
	}
	optional.End = min(optional.End, end)
	f.IncRef(optional.Start, optional.Len())
	return []memmap.Translation{{Source: optional, File: f, Offset: optional.Start, Access: may}}, nil
}

// AddMapping implements memmap.Mappable.
func (f *File) AddMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) error {
	if writableShared && !f.opts.Writable {
		return unix.EACCES
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mappings.Add(space, r, writableShared)
	f.IncRef(r.Start, r.Len()) // a mapping without pages keeps the file, too
	return nil
}

// RemoveMapping implements memmap.Mappable.
func (f *File) RemoveMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) {
	f.mu.Lock()
	f.mappings.Remove(space, r, writableShared)
	f.mu.Unlock()
	f.DecRef(r.Start, r.Len())
}

// Truncated says that the file's size, which Size returns by now, was reduced:
// mappings of pages beyond it are taken away.
func (f *File) Truncated(size uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	start := (size + usermem.PageMask) &^ usermem.PageMask
	f.mappings.Invalidate(f, memmap.Range{Start: start, End: ^uint64(0) &^ usermem.PageMask}, true)
}

// Sync writes changes out: msync(2). The range is not looked at.
func (f *File) Sync(memmap.Range) error { return unix.Fdatasync(f.fd) }
