package gofer

import (
	"math"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/hostfd"
	"vitrine/pkg/usermem"
)

// descriptor is a host descriptor that the gofer donated. Its node's mu guards
// users and dropped.
type descriptor struct {
	node   *node
	fd     int
	access uint32 // O_RDONLY, O_WRONLY or O_RDWR
	file   *hostfd.File
	users  int // open files
	// guessed: it came with a lookup, and nobody has used it yet.
	guessed bool
}

// donated counts the descriptors of all file systems.
var donated atomic.Int64

// donatedLimit leaves the rest of the process a quarter of the descriptors it may have. It is found out when the program
// starts, because later the jail allows no such question.
var donatedLimit = func() int64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 256
	}
	return int64(min(r.Cur, math.MaxInt32)) * 3 / 4
}()

// serves reports whether d is good for an access mode.
func (d *descriptor) serves(access uint32) bool { return d.access == access || d.access == unix.O_RDWR }

// close gives up the node's reference. The descriptor is closed when no mapping is left either.
func (d *descriptor) close() { d.file.Release() }

// borrow returns a descriptor, for the time until giveBack, nil if there is none.
func (n *node) borrow(writable bool) *descriptor {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.descriptors {
		if !writable || d.access != unix.O_RDONLY {
			d.file.IncRef(0, usermem.PageSize)
			return d
		}
	}
	return nil
}

func (d *descriptor) giveBack() { d.file.DecRef(0, usermem.PageSize) }

// use returns a descriptor that is there already, counting a user.
func (n *node) use(access uint32) *descriptor {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range n.descriptors {
		if d.serves(access) {
			n.useLocked(d)
			return d
		}
	}
	return nil
}

// useLocked counts a user of d, or with nil of a file opened without one.
func (n *node) useLocked(d *descriptor) {
	if d != nil {
		d.users++
		if d.guessed {
			d.guessed = false
			n.reward(2)
		}
	}
	if n.users++; n.users == 1 {
		n.fs.mu.Lock()
		n.fs.idle.remove(n)
		n.fs.mu.Unlock()
	}
}

// reward tells the directory that the file was found in of its opening.
func (n *node) reward(worth int32) {
	if at := n.at.Load(); at != nil {
		at.parent.opened(worth)
	}
}

// keep makes a descriptor, for reading, of a fd that came with a lookup.
func (n *node) keep(fd int) {
	n.mu.Lock()
	if len(n.descriptors) > 0 {
		n.mu.Unlock()
		unix.Close(fd)
		return
	}
	d := n.descriptor(fd, unix.O_RDONLY)
	d.guessed = true
	n.descriptors = append(n.descriptors, d)
	if n.users == 0 {
		n.fs.mu.Lock()
		n.fs.idle.touch(n)
		n.fs.mu.Unlock()
	}
	n.mu.Unlock()
	n.fs.closeIdle(n.fs.opts.MaxIdle)
}

// descriptor makes a descriptor of fd, which it takes over.
func (n *node) descriptor(fd int, access uint32) *descriptor {
	donated.Add(1)
	d := &descriptor{node: n, fd: fd, access: access}
	closing := n.fs.opts.Closing
	d.file = hostfd.New(fd, hostfd.Options{
		Writable: access == unix.O_RDWR,
		Size:     func() uint64 { return uint64(n.size.Load()) },
		Closing: func(fd int) {
			donated.Add(-1)
			if closing != nil {
				closing(fd)
			}
		},
	})
	return d
}

// add makes a descriptor of fd, with a user. Those that it replaces and nobody uses go.
func (n *node) add(fd int, access uint32) *descriptor {
	d := n.descriptor(fd, access)
	var old []*descriptor
	n.mu.Lock()
	n.descriptors = slices.DeleteFunc(n.descriptors, func(o *descriptor) bool {
		if o.users == 0 && d.serves(o.access) {
			old = append(old, o)
			return true
		}
		return false
	})
	// Those that serve most come first.
	if access == unix.O_RDWR {
		n.descriptors = slices.Insert(n.descriptors, 0, d)
	} else {
		n.descriptors = append(n.descriptors, d)
	}
	n.useLocked(d)
	n.mu.Unlock()
	for _, o := range old {
		o.close()
	}
	return d
}

// unuse ends a use.
func (n *node) unuse(d *descriptor) {
	n.mu.Lock()
	if d != nil {
		d.users--
	}
	n.users--
	idle := n.users == 0
	if idle {
		n.fs.mu.Lock()
		n.fs.idle.touch(n)
		n.fs.mu.Unlock()
	}
	n.mu.Unlock()
	if !idle {
		return
	}
	if n.gone.Load() {
		n.trim()
		return
	}
	n.fs.closeIdle(n.fs.opts.MaxIdle)
}

// closeIdle closes descriptors that nobody uses until at most keep nodes have some.
func (fs *filesystem) closeIdle(keep int) {
	for {
		fs.mu.Lock()
		if fs.idle.n <= keep {
			fs.mu.Unlock()
			return
		}
		n := fs.idle.first
		fs.idle.remove(n)
		fs.mu.Unlock()
		n.mu.Lock()
		var ds []*descriptor
		if n.users == 0 {
			ds, n.descriptors = n.descriptors, nil
		}
		n.mu.Unlock()
		for _, d := range ds {
			d.close()
		}
	}
}

// mayReceive is ENFILE if the process has no room for another descriptor: a connection that can't
// take one it was sent is broken.
func (fs *filesystem) mayReceive() error {
	if donated.Load() < donatedLimit {
		return nil
	}
	fs.closeIdle(0)
	if donated.Load() < donatedLimit {
		return nil
	}
	return unix.ENFILE
}

// open returns a descriptor for an access mode, counting a user. It is EOPNOTSUPP if the gofer has none to give.
func (i *inode) open(access uint32) (*descriptor, error) {
	n := i.node
	if d := n.use(access); d != nil {
		return d, nil
	}
	if n.fs.client.Extensions()&p9.ExtOpenFD == 0 {
		return nil, unix.EOPNOTSUPP
	}
	if err := n.fs.mayReceive(); err != nil {
		return nil, err
	}
	n.fetchMu.Lock()
	defer n.fetchMu.Unlock()
	if d := n.use(access); d != nil {
		return d, nil
	}
	// One that can read and write serves all.
	want := access
	if access == unix.O_WRONLY {
		want = unix.O_RDWR
	}
	fd, a, err := n.fetch(want)
	if err == unix.EACCES && want != access {
		want = access
		fd, a, err = n.fetch(want)
	}
	if err != nil {
		return nil, err
	}
	if n.fs.opts.Shared {
		if s, err := n.fs.snapshot(&a); err == nil {
			i.adopt(s, true)
		}
	}
	n.reward(1)
	return n.add(fd, want), nil
}

// fetch asks for a descriptor, in one message.
func (n *node) fetch(flags uint32) (int, p9.Attr, error) {
	f := n.heldFid()
	if f == nil {
		r, err := n.walk(p9.WalkOptions{NoFid: true, Open: true, OpenFlags: flags})
		if err != nil {
			return -1, p9.Attr{}, err
		}
		if r.File >= 0 {
			return r.File, r.Attrs[len(r.Attrs)-1], nil
		}
		// It couldn't be opened. This tells why.
		if f, err = n.walkFid(); err != nil {
			return -1, p9.Attr{}, err
		}
	}
	defer n.fs.putFid(f)
	return f.fid.OpenFile(flags)
}

// walkFid is takeFid for who holds fetchMu.
func (n *node) walkFid() (*fidRef, error) {
	r, err := n.walk(p9.WalkOptions{})
	if err != nil {
		return nil, err
	}
	return n.keepFid(r.Fids[0]), nil
}
