package vfs

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memfile"
)

// FDTable maps descriptors to open files. Threads, and processes made with
// CLONE_FILES, share one. Safe for concurrent use.
type FDTable struct {
	mu    locks.RWMutex[locks.FDTable]
	files []fdEntry
	used  []uint64 // bit set: which slots are taken
	refs  int      // tasks that use the table
	payer *memfile.Account
}

// slotCost is what a slot is charged as, in bytes.
const slotCost = 17

type fdEntry struct {
	file    *File
	cloexec bool
}

// NewFDTable returns an empty table with one user.
func NewFDTable() *FDTable { return &FDTable{refs: 1} }

// IncRef adds a user.
func (t *FDTable) IncRef() {
	t.mu.Lock()
	t.refs++
	t.mu.Unlock()
}

// Shared reports whether the table has more than one user.
func (t *FDTable) Shared() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.refs > 1
}

// DecRef takes a user away; the last one closes all files. It returns them, to
// be flushed and released without the table's lock.
func (t *FDTable) DecRef() []*File {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refs--; t.refs > 0 {
		return nil
	}
	var all []*File
	for _, e := range t.files {
		if e.file != nil {
			all = append(all, e.file)
		}
	}
	t.payer.Uncharge(int64(len(t.files)) * slotCost)
	t.files, t.used = nil, nil
	return all
}

// Get returns the file at fd with a reference, or EBADF.
func (t *FDTable) Get(fd int32) (*File, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if uint32(fd) < uint32(len(t.files)) {
		if f := t.files[fd].file; f != nil {
			f.IncRef()
			return f, nil
		}
	}
	return nil, unix.EBADF
}

// CloseOnExec returns the descriptor's FD_CLOEXEC flag.
func (t *FDTable) CloseOnExec(fd int32) (bool, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if uint32(fd) >= uint32(len(t.files)) || t.files[fd].file == nil {
		return false, unix.EBADF
	}
	return t.files[fd].cloexec, nil
}

// SetCloseOnExec sets it.
func (t *FDTable) SetCloseOnExec(fd int32, on bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if uint32(fd) >= uint32(len(t.files)) || t.files[fd].file == nil {
		return unix.EBADF
	}
	t.files[fd].cloexec = on
	return nil
}

// free returns the lowest free slot at or above from. mu is held.
func (t *FDTable) free(from int32) int32 {
	for w := int(from / 64); w < len(t.used); w++ {
		open := ^t.used[w]
		if w == int(from/64) {
			open &= ^uint64(0) << (from % 64)
		}
		if open != 0 {
			return int32(w*64 + bits.TrailingZeros64(open))
		}
	}
	return max(from, int32(len(t.used)*64))
}

// put stores a file at fd, growing the table: ENOMEM. Who opened the first file
// pays for the table. mu is held.
func (t *FDTable) put(fd int32, e fdEntry) error {
	if err := e.file.pay(); err != nil {
		return err
	}
	if int(fd) >= len(t.files) {
		n := max(64, int(fd)+1, min(2*len(t.files), int(fd)+4096))
		n = (n + 63) &^ 63
		if len(t.files) == 0 {
			t.payer = e.file.cred.Account
		}
		if err := t.payer.Charge(int64(n-len(t.files)) * slotCost); err != nil {
			return err
		}
		files := make([]fdEntry, n)
		copy(files, t.files)
		t.files = files
		used := make([]uint64, n/64)
		copy(used, t.used)
		t.used = used
	}
	t.set(fd, e)
	return nil
}

// set stores e at fd, which the table has. mu is held.
func (t *FDTable) set(fd int32, e fdEntry) {
	t.files[fd] = e
	if e.file != nil {
		t.used[fd/64] |= 1 << (fd % 64)
	} else {
		t.used[fd/64] &^= 1 << (fd % 64)
	}
}

// Add puts f at the lowest free descriptor at or above from and below limit
// (RLIMIT_NOFILE): EMFILE if there is none, ENOMEM if nobody pays for it. The
// table takes over the caller's reference, but only if it succeeds.
func (t *FDTable) Add(f *File, from int32, cloexec bool, limit uint64) (int32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fd := t.free(from)
	if uint64(fd) >= limit {
		return 0, unix.EMFILE
	}
	if err := t.put(fd, fdEntry{f, cloexec}); err != nil {
		return 0, err
	}
	return fd, nil
}

// Replace puts f at fd (dup2(2)) and returns what was there, to be flushed and
// released: EBADF beyond limit, ENOMEM as for Add. The table takes over the
// caller's reference, but only if it succeeds.
func (t *FDTable) Replace(f *File, fd int32, cloexec bool, limit uint64) (*File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fd < 0 || uint64(fd) >= limit {
		return nil, unix.EBADF
	}
	var old *File
	if int(fd) < len(t.files) {
		old = t.files[fd].file
	}
	if err := t.put(fd, fdEntry{f, cloexec}); err != nil {
		return nil, err
	}
	return old, nil
}

// Remove takes fd out and returns its file, with the table's reference.
func (t *FDTable) Remove(fd int32) (*File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if uint32(fd) >= uint32(len(t.files)) || t.files[fd].file == nil {
		return nil, unix.EBADF
	}
	f := t.files[fd].file
	t.set(fd, fdEntry{})
	return f, nil
}

// RemoveIf takes out all descriptors for which pick returns true and returns
// their files.
func (t *FDTable) RemoveIf(pick func(fd int32, cloexec bool) bool) []*File {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*File
	for fd, e := range t.files {
		if e.file != nil && pick(int32(fd), e.cloexec) {
			out = append(out, e.file)
			t.set(int32(fd), fdEntry{})
		}
	}
	return out
}

// Close ends with a file what close(2) ends with the descriptor, which has been
// taken out of t: the process' record locks on the file go, and the reference.
// The error is Flush's.
func (t *FDTable) Close(ctx Context, f *File) error {
	if !f.PathOnly() {
		f.ReleaseLocks(t)
	}
	err := f.Flush(ctx)
	f.DecRef()
	return err
}

// Fork returns a copy of the table with one user, as large as what is open wants:
// ENOMEM.
func (t *FDTable) Fork() (*FDTable, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	words := len(t.used)
	for words > 1 && t.used[words-1] == 0 {
		words--
	}
	if err := t.payer.Charge(int64(words) * 64 * slotCost); err != nil {
		return nil, err
	}
	n := &FDTable{refs: 1, files: make([]fdEntry, words*64), used: make([]uint64, words), payer: t.payer}
	copy(n.files, t.files)
	copy(n.used, t.used)
	for _, e := range n.files {
		if e.file != nil {
			e.file.IncRef()
		}
	}
	return n, nil
}

// FDs lists the open descriptors in order, for /proc/PID/fd.
func (t *FDTable) FDs() []int32 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var fds []int32
	for fd, e := range t.files {
		if e.file != nil {
			fds = append(fds, int32(fd))
		}
	}
	return fds
}

// Size returns how many slots the table has (FDSize of /proc/PID/status): a
// number above all open descriptors.
func (t *FDTable) Size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.files)
}

// Len returns how many descriptors are open.
func (t *FDTable) Len() (n int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, w := range t.used {
		n += bits.OnesCount64(w)
	}
	return n
}
