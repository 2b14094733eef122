package vfs

import (
	"math/bits"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/memfile"
)

// FDTable maps descriptors to open files. Threads, and processes made with
// CLONE_FILES, share one. Safe for concurrent use. Files are looked up without a lock.
type FDTable struct {
	mu    locks.Mutex[locks.FDTable] // held for changes
	slots atomic.Pointer[[]fdSlot]   // replaced to grow; nil at first
	used  []uint64                   // bit set: which slots are taken
	exec  []uint64                   // bit set: FD_CLOEXEC
	refs  atomic.Int32               // tasks that use the table
	payer *memfile.Account
}

// fdSlot is a descriptor's file, nil without. A slot holds a reference.
type fdSlot = atomic.Pointer[File]

// slotCost is what a slot is charged as, in bytes.
const slotCost = 9

// NewFDTable returns an empty table with one user.
func NewFDTable() *FDTable {
	t := &FDTable{}
	t.refs.Store(1)
	return t
}

// IncRef adds a user, on behalf of a task that is one.
func (t *FDTable) IncRef() { t.refs.Add(1) }

// Shared reports whether the table has more than one user.
func (t *FDTable) Shared() bool { return t.refs.Load() > 1 }

// DecRef takes a user away; the last one closes all files. It returns them, to
// be flushed and released without the table's lock.
func (t *FDTable) DecRef() []*File {
	if t.refs.Add(-1) > 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*File
	slots := t.all()
	for fd := range slots {
		if f := slots[fd].Swap(nil); f != nil {
			all = append(all, f)
		}
	}
	t.payer.Uncharge(int64(len(slots)) * slotCost)
	t.slots.Store(nil)
	t.used, t.exec = nil, nil
	return all
}

// all returns the slots there are.
func (t *FDTable) all() []fdSlot {
	if p := t.slots.Load(); p != nil {
		return *p
	}
	return nil
}

// at returns the file at fd, or nil. Without mu another thread may be closing it.
func (t *FDTable) at(fd int32) *File {
	if p := t.slots.Load(); p != nil && uint32(fd) < uint32(len(*p)) {
		return (*p)[fd].Load()
	}
	return nil
}

// Get returns the file at fd with a reference, or EBADF.
func (t *FDTable) Get(fd int32) (*File, error) {
	for {
		f := t.at(fd)
		if f == nil {
			return nil, unix.EBADF
		}
		// One without references has just been closed, and its slot emptied, or the
		// slots replaced.
		if f.TryIncRef() {
			return f, nil
		}
	}
}

// Use is Get for the length of a system call of a task that uses the table. A task
// that is the only user needs no reference: nobody but itself closes its files.
func (t *FDTable) Use(fd int32) (InUse, error) {
	if t.refs.Load() == 1 {
		if f := t.at(fd); f != nil {
			return InUse{f, false}, nil
		}
		return InUse{}, unix.EBADF
	}
	f, err := t.Get(fd)
	return InUse{f, true}, err
}

// InUse is a file that a system call uses, until DecRef. The call neither keeps it,
// unless with a reference of its own, nor closes descriptors meanwhile.
type InUse struct {
	*File
	counted bool
}

// DecRef ends the use.
func (u InUse) DecRef() {
	if u.counted {
		u.File.DecRef()
	}
}

// CloseOnExec returns the descriptor's FD_CLOEXEC flag.
func (t *FDTable) CloseOnExec(fd int32) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at(fd) == nil {
		return false, unix.EBADF
	}
	return t.exec[fd/64]&(1<<(fd%64)) != 0, nil
}

// SetCloseOnExec sets it.
func (t *FDTable) SetCloseOnExec(fd int32, on bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at(fd) == nil {
		return unix.EBADF
	}
	t.setExec(fd, on)
	return nil
}

func (t *FDTable) setExec(fd int32, on bool) {
	if on {
		t.exec[fd/64] |= 1 << (fd % 64)
	} else {
		t.exec[fd/64] &^= 1 << (fd % 64)
	}
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

// put stores a file at fd, growing the table: ENOMEM. It returns what was there. Who
// opened the first file pays for the table. mu is held.
func (t *FDTable) put(fd int32, f *File, cloexec bool) (*File, error) {
	if err := f.pay(); err != nil {
		return nil, err
	}
	slots := t.all()
	if int(fd) >= len(slots) {
		n := max(64, int(fd)+1, min(2*len(slots), int(fd)+4096))
		n = (n + 63) &^ 63
		if len(slots) == 0 {
			t.payer = f.cred.Account
		}
		if err := t.payer.Charge(int64(n-len(slots)) * slotCost); err != nil {
			return nil, err
		}
		slots = t.grow(n)
	}
	t.used[fd/64] |= 1 << (fd % 64)
	t.setExec(fd, cloexec)
	return slots[fd].Swap(f), nil
}

// grow replaces the slots by n, which is more and a multiple of 64. Who still looks
// into the old ones sees what was there at that time. mu is held.
func (t *FDTable) grow(n int) []fdSlot {
	old := t.all()
	slots := make([]fdSlot, n)
	for fd := range old {
		slots[fd].Store(old[fd].Load())
	}
	t.slots.Store(&slots)
	used, exec := make([]uint64, n/64), make([]uint64, n/64)
	copy(used, t.used)
	copy(exec, t.exec)
	t.used, t.exec = used, exec
	return slots
}

// take empties slot fd, which there is, and returns what was there. mu is held.
func (t *FDTable) take(fd int32) *File {
	t.used[fd/64] &^= 1 << (fd % 64)
	return t.all()[fd].Swap(nil)
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
	if _, err := t.put(fd, f, cloexec); err != nil {
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
	return t.put(fd, f, cloexec)
}

// Remove takes fd out and returns its file, with the table's reference.
func (t *FDTable) Remove(fd int32) (*File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at(fd) == nil {
		return nil, unix.EBADF
	}
	return t.take(fd), nil
}

// RemoveIf takes out all descriptors for which pick returns true and returns
// their files.
func (t *FDTable) RemoveIf(pick func(fd int32, cloexec bool) bool) []*File {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*File
	t.each(func(fd int32, _ *File) {
		if pick(fd, t.exec[fd/64]&(1<<(fd%64)) != 0) {
			out = append(out, t.take(fd))
		}
	})
	return out
}

// each calls f for all open descriptors, in order. mu is held.
func (t *FDTable) each(f func(fd int32, file *File)) {
	slots := t.all()
	for w, word := range t.used {
		for ; word != 0; word &= word - 1 {
			fd := int32(w*64 + bits.TrailingZeros64(word))
			f(fd, slots[fd].Load())
		}
	}
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
	t.mu.Lock()
	defer t.mu.Unlock()
	words := len(t.used)
	for words > 1 && t.used[words-1] == 0 {
		words--
	}
	if err := t.payer.Charge(int64(words) * 64 * slotCost); err != nil {
		return nil, err
	}
	n := NewFDTable()
	n.payer = t.payer
	n.used, n.exec = slices.Clone(t.used[:words]), slices.Clone(t.exec[:words])
	slots := make([]fdSlot, words*64)
	t.each(func(fd int32, f *File) {
		f.IncRef()
		slots[fd].Store(f)
	})
	n.slots.Store(&slots)
	return n, nil
}

// FDs lists the open descriptors in order, for /proc/PID/fd.
func (t *FDTable) FDs() []int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fds []int32
	t.each(func(fd int32, _ *File) { fds = append(fds, fd) })
	return fds
}

// Size returns how many slots the table has (FDSize of /proc/PID/status): a
// number above all open descriptors.
func (t *FDTable) Size() int { return len(t.all()) }

// Cost returns what the table and the files in it are charged as, in bytes.
func (t *FDTable) Cost() int64 {
	return int64(t.Size())*slotCost + int64(t.Len())*fileCost
}

// Len returns how many descriptors are open.
func (t *FDTable) Len() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.used {
		n += bits.OnesCount64(w)
	}
	return n
}
