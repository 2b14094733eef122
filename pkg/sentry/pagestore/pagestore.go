// Package pagestore holds the bytes of objects that live in the memory file: tmpfs files, shared memory, memfds.
package pagestore

import (
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// Store is a sparse object of pages. It implements memmap.Mappable.
type Store struct{}

// New returns an empty Store of size zero.
func New(f *memfile.File, acct *memfile.Account) *Store { panic("not yet") }

func (s *Store) Size() uint64 { panic("not yet") }

// ReadAt reads up to dst.Len() bytes from off, not beyond size; it returns 0, nil at the end.
func (s *Store) ReadAt(dst *usermem.Buffer, off uint64) (uint64, error) { panic("not yet") }

// WriteAt writes all of src at off, growing the store.
func (s *Store) WriteAt(src *usermem.Buffer, off uint64) (uint64, error) { panic("not yet") }
func (s *Store) Truncate(size uint64) error                              { panic("not yet") }
func (s *Store) PunchHole(off, length uint64) error                      { panic("not yet") }

// Allocate allocates the pages of [off, off+length); without keepSize the store grows.
func (s *Store) Allocate(off, length uint64, keepSize bool) error { panic("not yet") }

// NextData and NextHole are lseek's SEEK_DATA and SEEK_HOLE; ENXIO beyond the size.
func (s *Store) NextData(off uint64) (uint64, error) { panic("not yet") }
func (s *Store) NextHole(off uint64) (uint64, error) { panic("not yet") }

// Pages is how many pages are allocated.
func (s *Store) Pages() uint64 { panic("not yet") }

// Release frees the pages; nobody maps the store and no call is under way.
func (s *Store) Release() { panic("not yet") }
func (s *Store) Translate(required, optional memmap.Range, access usermem.Access) ([]memmap.Translation, error) {
	panic("not yet")
}
func (s *Store) AddMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) error {
	panic("not yet")
}
func (s *Store) RemoveMapping(space memmap.MappingSpace, r memmap.Range, writableShared bool) {
	panic("not yet")
}

// SetSeals sets memfd seals (F_SEAL_*); EBUSY for F_SEAL_WRITE while writable shared mappings exist.
func (s *Store) AddSeals(seals uint32) error { panic("not yet") }
func (s *Store) Seals() uint32               { panic("not yet") }
