// Package memmap is the contract between the memory manager and whatever can
// be mapped by mmap(2): regular files, shared memory, device memory.
//
// A Mappable turns ranges of an object's offsets into ranges of a host File:
// the memory file, or a descriptor that the gofer donated. It keeps a list of
// the address spaces that map it, to take pages away from them when the object
// is truncated.
//
// Lock order: a memory manager's mapping lock comes before any lock that a
// Mappable takes in Translate, AddMapping or RemoveMapping; the memory
// manager's Invalidate takes only its page lock, so a Mappable may call it with
// its own locks held, but never from within Translate.
package memmap

import (
	"vitrine/pkg/sentry/platform"
	"vitrine/pkg/usermem"
)

// File is a host file whose pages can be mapped into applications and into
// the Sentry. Offsets are in bytes and page-aligned unless said otherwise.
type File interface {
	platform.File
	// Slice returns the Sentry's own view of [offset, offset+length), or a
	// prefix of it that isn't empty; neither need be aligned. The view is
	// valid as long as the caller holds a reference on the range. Touching it
	// may fault where the host file has shrunk: see usermem.Guard.
	Slice(offset, length uint64) ([]byte, error)
	// IncRef and DecRef count references on a range; the last DecRef frees
	// pages of the memory file. For donated descriptors they keep the
	// descriptor open.
	IncRef(offset, length uint64)
	DecRef(offset, length uint64)
}

// Range is a half-open range of offsets in a Mappable, in bytes.
type Range struct{ Start, End uint64 }

// Len returns the length in bytes.
func (r Range) Len() uint64 { return r.End - r.Start }

// Translation says where a range of a Mappable is found.
type Translation struct {
	Source Range
	File   File
	Offset uint64 // in File, of Source.Start
	// Access is what the mapping may be given at the most; a copy-on-write
	// or dirty-tracking object leaves Write out until it is asked for.
	Access usermem.Access
}

// MappingSpace is an address space as a Mappable sees it. It is comparable.
type MappingSpace interface {
	// Invalidate takes the pages that map offsets of m in r away from the
	// address space: the next touch asks Translate again. With private also
	// private copies made from that range go (a truncation); otherwise they
	// stay.
	Invalidate(m Mappable, r Range, private bool)
}

// Mappable is an object that can be mapped.
type Mappable interface {
	// Translate returns translations that cover required, or a prefix of it
	// with an error: a BusError where the object ends before it. It may cover
	// more, up to optional. Both are page-aligned; optional contains
	// required. Each translation comes with a reference on its file range,
	// that the caller gives back with DecRef.
	Translate(required, optional Range, access usermem.Access) ([]Translation, error)
	// AddMapping says that space maps r, page-aligned, with writable shared
	// mappings counted apart (memfd seals). It may refuse.
	AddMapping(space MappingSpace, r Range, writableShared bool) error
	// RemoveMapping takes an earlier AddMapping back, wholly or in part.
	RemoveMapping(space MappingSpace, r Range, writableShared bool)
}

// Identity is what a mapping shows in /proc/PID/maps, and what keeps the file
// open while it is mapped.
type Identity interface {
	// MappedName is the path as /proc/PID/maps prints it.
	MappedName() string
	DeviceID() uint64
	InodeID() uint64
	IncRef()
	DecRef()
}

// BusError is the error of Translate where the object has no such page: the
// application gets SIGBUS, a copy by the Sentry EFAULT.
type BusError struct{ Err error }

func (e BusError) Error() string { return "no such page in the mapped object: " + e.Err.Error() }

// Unwrap returns the cause.
func (e BusError) Unwrap() error { return e.Err }
