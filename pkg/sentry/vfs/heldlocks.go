package vfs

import (
	"cmp"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/rangemap"
)

// LockKind is what sort of lock a HeldLock is.
type LockKind uint8

const (
	// ProcessLock is a record lock of fcntl(2) that a process owns.
	ProcessLock LockKind = iota
	// DescriptionLock is one that an open file description owns (F_OFD_SETLK).
	DescriptionLock
	// WholeFileLock is one of flock(2).
	WholeFileLock
)

// HeldLock is a lock that somebody has, for /proc/locks.
type HeldLock struct {
	LockRange
	Kind     LockKind
	Dev, Ino uint64 // the file's
}

// lockedFiles are the files on which there is a lock.
var lockedFiles struct {
	mu locks.Mutex[locks.Leaf]
	of map[*fileLocks]bool
}

// list enters l into lockedFiles, or strikes it off. l.mu is held.
func (l *fileLocks) list() {
	locked := len(l.whole) > 0 || len(l.owners) > 0
	if locked == l.listed {
		return
	}
	l.listed = locked
	lockedFiles.mu.Lock()
	defer lockedFiles.mu.Unlock()
	if !locked {
		delete(lockedFiles.of, l)
		return
	}
	if lockedFiles.of == nil {
		lockedFiles.of = map[*fileLocks]bool{}
	}
	lockedFiles.of[l] = true
}

// held appends the locks that mine, which may be nil, doesn't refuse: it is told by
// which file each was made, and its owner, which is a *File but for locks of
// processes.
func (l *fileLocks) held(all []HeldLock, mine func(f *File, owner any) bool) []HeldLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.whole {
		if mine == nil || mine(w.f, w.f) {
			r := LockRange{Type: unix.F_RDLCK, End: math.MaxInt64, PID: w.pid}
			if w.exclusive {
				r.Type = unix.F_WRLCK
			}
			all = append(all, HeldLock{r, WholeFileLock, l.dev, l.ino})
		}
	}
	for owner, r := range l.owners {
		kind := ProcessLock
		if _, ok := owner.(*File); ok {
			kind = DescriptionLock
		}
		for _, access := range []int16{unix.F_RDLCK, unix.F_WRLCK} {
			r.of(access).Ascend(0, func(e rangemap.Entry[record]) bool {
				if mine == nil || mine(e.Value.f, owner) {
					all = append(all, HeldLock{lockRange(access, e), kind, l.dev, l.ino})
				}
				return true
			})
		}
	}
	return all
}

// HeldLocks lists the locks on all files, by file and range.
func HeldLocks() (all []HeldLock) {
	lockedFiles.mu.Lock()
	files := make([]*fileLocks, 0, len(lockedFiles.of))
	for l := range lockedFiles.of {
		files = append(files, l)
	}
	lockedFiles.mu.Unlock()
	for _, l := range files {
		all = l.held(all, nil)
	}
	slices.SortFunc(all, compareLocks)
	return all
}

func compareLocks(a, b HeldLock) int {
	return cmp.Or(cmp.Compare(a.Dev, b.Dev), cmp.Compare(a.Ino, b.Ino), cmp.Compare(b.Kind, a.Kind), cmp.Compare(a.Start, b.Start), cmp.Compare(a.PID, b.PID))
}

// HeldLocks lists the locks that were made by f: its own, and those of the process
// with descriptors table.
func (f *File) HeldLocks(table *FDTable) (all []HeldLock) {
	if l := f.locks(false); l != nil {
		all = l.held(nil, func(by *File, owner any) bool { return by == f && (owner == any(f) || owner == any(table)) })
		slices.SortFunc(all, compareLocks)
	}
	return all
}
