package vfs

import (
	"hash/maphash"
	"sync/atomic"
)

// names are a directory's cached dentries by name: an open-addressed table that
// is read without a lock. Writers hold the directory's lock.
//
// A reader may meet a dentry that is just being renamed, so it believes only
// what the dentry's own place says, which is parent and name in one. What it
// finds was in the table during the search; that it finds nothing proves nothing
// unless the lock is held.
type names struct {
	table atomic.Pointer[nameTable]
	// used counts slots that aren't nil, n the dentries among them.
	used, n int
}

// nameTable has a power of two slots, of which one is nil at least.
type nameTable struct{ slots []atomic.Pointer[Dentry] }

const minSlots = 4

var (
	nameSeed = maphash.MakeSeed()
	// removed marks slots whose dentry has gone.
	removed = new(Dentry)
)

// slot returns the slot of dir's dentry called name, or nil.
func (t *nameTable) slot(dir *Dentry, name string) *atomic.Pointer[Dentry] {
	mask := uint64(len(t.slots) - 1)
	for i := maphash.String(nameSeed, name); ; i++ {
		s := &t.slots[i&mask]
		c := s.Load()
		if c == nil {
			return nil
		}
		if c == removed {
			continue
		}
		if at := c.at.Load(); at.name == name && at.parent == dir {
			return s
		}
	}
}

// find returns dir's dentry called name, or nil.
func (n *names) find(dir *Dentry, name string) *Dentry {
	t := n.table.Load()
	if t == nil {
		return nil
	}
	mask := uint64(len(t.slots) - 1)
	for i := maphash.String(nameSeed, name); ; i++ {
		c := t.slots[i&mask].Load()
		if c == nil {
			return nil
		}
		if c == removed {
			continue
		}
		if at := c.at.Load(); at.name == name && at.parent == dir {
			return c
		}
	}
}

// put enters c, whose place says where; there is no other of its name.
func (n *names) put(c *Dentry) {
	t := n.table.Load()
	if t == nil || (n.used+1)*4 > len(t.slots)*3 {
		t = n.grow(t)
	}
	mask := uint64(len(t.slots) - 1)
	for i := maphash.String(nameSeed, c.at.Load().name); ; i++ {
		s := &t.slots[i&mask]
		switch s.Load() {
		case nil:
			n.used++
		case removed:
		default:
			continue
		}
		s.Store(c)
		n.n++
		return
	}
}

// grow puts a table in place of t that is half full at the most.
func (n *names) grow(t *nameTable) *nameTable {
	size := minSlots
	for size < 2*(n.n+1) {
		size *= 2
	}
	nt := &nameTable{make([]atomic.Pointer[Dentry], size)}
	n.used = n.n
	if t != nil {
		for i := range t.slots {
			c := t.slots[i].Load()
			if c == nil || c == removed {
				continue
			}
			j := maphash.String(nameSeed, c.at.Load().name)
			for nt.slots[j&uint64(size-1)].Load() != nil {
				j++
			}
			nt.slots[j&uint64(size-1)].Store(c)
		}
	}
	n.table.Store(nt)
	return nt
}

// take removes c, which is dir's, and reports whether it was there.
func (n *names) take(dir, c *Dentry) bool {
	t := n.table.Load()
	if t == nil {
		return false
	}
	s := t.slot(dir, c.at.Load().name)
	if s == nil || s.Load() != c {
		return false
	}
	s.Store(removed)
	if n.n--; n.n == 0 {
		if n.used = 0; len(t.slots) > minSlots {
			n.table.Store(nil)
		} else {
			// Nothing is searched for behind what has gone.
			for i := range t.slots {
				t.slots[i].Store(nil)
			}
		}
	}
	return true
}

// each calls f for all dentries; f may take the one it is called for.
func (n *names) each(f func(c *Dentry)) {
	t := n.table.Load()
	if t == nil {
		return
	}
	for i := range t.slots {
		if c := t.slots[i].Load(); c != nil && c != removed {
			f(c)
		}
	}
}
