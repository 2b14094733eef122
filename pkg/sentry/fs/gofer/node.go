package gofer

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/vfs"
)

// node is an inode's state. Nothing in it leads to the inode it belongs to.
type node struct {
	fs     *filesystem
	path   uint64 // of the qid
	kind   uint32 // S_IFMT bits; never changes
	isRoot bool

	// at is a name that leads here, nil if none is known any more. others, guarded by attrMu, are further ones of a
	// file with several.
	at     atomic.Pointer[place]
	others []*place
	// gone is set when the last name was removed.
	gone atomic.Bool

	attr   atomic.Pointer[snapshot]
	attrMu locks.Mutex[locks.Leaf] // one change of attr at a time
	// writes counts changes to the file that attr doesn't have yet. While there are mappings that write, stored is
	// set: nobody tells of those changes.
	writes atomic.Uint64
	stored atomic.Bool
	// size is that of a regular file, always up to date but for what others do.
	size atomic.Int64
	// reads counts small reads, up to viewReads.
	reads atomic.Uint32
	// writeMu is held while the file is written and while its size changes.
	writeMu locks.Mutex[locks.GoferWrite]

	// fetchMu is held while a descriptor is asked for.
	fetchMu locks.Mutex[locks.GoferFetch]
	// mu guards descriptors and users.
	mu          locks.Mutex[locks.GoferDescriptors]
	descriptors []*descriptor
	users       int // of all descriptors

	// Guarded by filesystem.mu.
	fid       *fidRef
	fidLinks  links
	idleLinks links
}

// place is a name in a directory.
type place struct {
	parent *directory
	name   string
}

// maxNames bounds what is remembered of the names of one file.
const maxNames = 64

// named says that p leads to n.
func (n *node) named(p *place) {
	old := n.at.Load()
	if old != nil && *old == *p {
		return
	}
	n.attrMu.Lock()
	defer n.attrMu.Unlock()
	if old = n.at.Swap(p); old == nil || n.kind == unix.S_IFDIR || n.attr.Load().Nlink <= 1 {
		n.others = nil
		return
	}
	n.others = slices.DeleteFunc(n.others, func(o *place) bool { return *o == *p })
	if len(n.others) < maxNames {
		n.others = append(n.others, old)
	}
}

// unnamed says that the name no longer leads to n.
func (n *node) unnamed(d *directory, name string) {
	n.attrMu.Lock()
	defer n.attrMu.Unlock()
	p := place{d, name}
	n.others = slices.DeleteFunc(n.others, func(o *place) bool { return *o == p })
	if at := n.at.Load(); at != nil && *at == p {
		n.at.Store(nil)
		if last := len(n.others) - 1; last >= 0 {
			n.at.Store(n.others[last])
			n.others = n.others[:last]
		}
	}
}

// snapshot is what is known of a file's attributes. It doesn't change; a newer one replaces it.
type snapshot struct {
	vfs.Attr
	seq     uint64 // node.writes at the time
	checked int64  // when, in nanoseconds; only kept for shared trees
}

// snapshot makes attributes of what the peer sent, EIO if they make no sense.
func (fs *filesystem) snapshot(pa *p9.Attr) (*snapshot, error) {
	switch pa.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return nil, unix.EIO
	}
	if pa.Size > math.MaxInt64 {
		return nil, unix.EIO
	}
	s := &snapshot{Attr: vfs.Attr{
		Mode: pa.Mode, Nlink: uint32(min(pa.Nlink, math.MaxUint32)),
		UID: auth.KUID(pa.UID), GID: auth.KGID(pa.GID),
		Ino: pa.Qid.Path, Dev: fs.Dev, Rdev: pa.Rdev,
		Size: int64(pa.Size), Blocks: pa.Blocks, BlockSize: uint32(min(max(pa.BlockSize, 512), 1<<30)),
		Atime: fromTime(pa.Atime), Mtime: fromTime(pa.Mtime), Ctime: fromTime(pa.Ctime),
	}}
	if fs.opts.Shared {
		s.checked = monotonic()
	}
	return s, nil
}

var started = time.Now()

func monotonic() int64 { return int64(time.Since(started)) }

// now is the host's coarse clock, which its file systems stamp with.
func now() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts) != nil {
		return time.Now().UnixNano()
	}
	return ts.Nano()
}

// fromTime and toTime convert between nanoseconds and the wire's times, whose
// seconds are a negative number's two's complement before 1970.
func fromTime(t p9.Time) int64 {
	const most = math.MaxInt64/int64(1e9) - 1
	return min(max(int64(t.Sec), -most), most)*1e9 + int64(min(t.Nsec, 999_999_999))
}

func toTime(ns int64) p9.Time {
	sec, rest := ns/1e9, ns%1e9
	if rest < 0 {
		sec, rest = sec-1, rest+1e9
	}
	return p9.Time{Sec: uint64(sec), Nsec: uint64(rest)}
}

// freshFor is how long attributes of a shared tree hold without being asked for again: the time
// between resolving a path and using what it led to.
const freshFor = int64(time.Millisecond)

// current returns attributes that are up to date.
func (i *inode) current() (*snapshot, error) {
	n := i.node
	s := n.attr.Load()
	if s.seq == n.writes.Load() && !n.stored.Load() && (!n.fs.opts.Shared || monotonic()-s.checked < freshFor) {
		return s, nil
	}
	r, err := i.refresh()
	if err == unix.ESTALE && n.gone.Load() {
		return s, nil // nobody can tell any more, nor change it
	}
	return r, err
}

// refresh asks for the attributes: the descriptor if there is one, otherwise the gofer.
func (i *inode) refresh() (*snapshot, error) {
	n := i.node
	for {
		old := n.attr.Load()
		seq := n.writes.Load()
		s, err := n.ask()
		if err != nil {
			return nil, err
		}
		s.seq = seq
		if n.fs.opts.Shared {
			i.adopt(s, false)
			return s, nil
		}
		if n.attr.CompareAndSwap(old, s) {
			return s, nil
		}
	}
}

// ask brings attributes.
func (n *node) ask() (*snapshot, error) {
	if d := n.borrow(false); d != nil {
		defer d.giveBack()
		var st unix.Stat_t
		if err := unix.Fstat(d.fd, &st); err != nil {
			return nil, err
		}
		s := &snapshot{Attr: n.attr.Load().Attr}
		s.Mode, s.Nlink = s.Type()|st.Mode&0o7777, uint32(st.Nlink)
		s.UID, s.GID = auth.KUID(st.Uid), auth.KGID(st.Gid)
		s.Size, s.Blocks = st.Size, uint64(st.Blocks)
		s.Atime, s.Mtime, s.Ctime = st.Atim.Nano(), st.Mtim.Nano(), st.Ctim.Nano()
		if n.fs.opts.Shared {
			s.checked = monotonic()
		}
		return s, nil
	}
	pa, err := n.getattr()
	if err != nil {
		return nil, err
	}
	return n.fs.snapshot(&pa)
}

func (n *node) getattr() (p9.Attr, error) {
	if f := n.heldFid(); f != nil {
		defer n.fs.putFid(f)
		return f.fid.Getattr()
	}
	r, err := n.walk(p9.WalkOptions{NoFid: true})
	if err != nil {
		return p9.Attr{}, err
	}
	return r.Attrs[len(r.Attrs)-1], nil
}

// adopt takes over attributes that say what others did, in a shared tree. With seq the
// caller says that no write is under way of which they know nothing.
func (i *inode) adopt(s *snapshot, keepSeq bool) {
	n := i.node
	if n.kind == unix.S_IFREG {
		if !n.writeMu.TryLock() {
			// Somebody is writing here: what s says of the size is already old.
			n.attrMu.Lock()
			n.attr.Store(s)
			n.attrMu.Unlock()
			return
		}
		old := n.size.Swap(s.Size)
		if s.Size < old {
			i.truncated(s.Size)
		}
		n.writeMu.Unlock()
	}
	n.attrMu.Lock()
	if keepSeq {
		s.seq = n.attr.Load().seq
	}
	n.attr.Store(s)
	n.attrMu.Unlock()
}

// update changes what is known of the attributes.
func (n *node) update(change func(a *vfs.Attr)) {
	n.attrMu.Lock()
	defer n.attrMu.Unlock()
	for {
		old := n.attr.Load()
		s := *old
		change(&s.Attr)
		if n.attr.CompareAndSwap(old, &s) {
			return
		}
	}
}

// unlinked counts one name less, that in d.
func (n *node) unlinked(d *directory, name string, at int64) {
	n.update(func(a *vfs.Attr) {
		if n.kind == unix.S_IFDIR {
			a.Nlink = 0
		} else if a.Nlink > 0 {
			a.Nlink--
		}
		a.Ctime = at
		if a.Nlink == 0 {
			n.gone.Store(true)
		}
	})
	n.unnamed(d, name)
	if n.gone.Load() {
		n.trim()
	}
}

// release gives back all that n holds, unless somebody has it open.
func (n *node) release() {
	n.mu.Lock()
	if n.users > 0 {
		n.mu.Unlock()
		return
	}
	ds := n.descriptors
	n.descriptors = nil
	n.mu.Unlock()
	n.dropFid()
	n.fs.mu.Lock()
	n.fs.idle.remove(n)
	n.fs.mu.Unlock()
	for _, d := range ds {
		d.close()
	}
	n.fs.flush(false)
}

// trim gives back what a file without a name doesn't need while nobody has it
// open, so that the host can free it.
func (n *node) trim() {
	n.release()
	n.fs.flush(true)
}
