// Package memfile will hold the memory file.
package memfile

// File is the memory file.
type File struct{}

// Account counts what one container uses.
type Account struct{}

// New makes a memory file.
func New() (*File, error) { panic("not yet") }

// NewAccount returns an account; limit is in bytes, zero is none.
func (f *File) NewAccount(name string, limit uint64) *Account { panic("not yet") }
