package gofer

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// fidRef is a fid shared by its node and the requests that use it. The last one clunks it.
type fidRef struct {
	fid  *p9.Fid
	refs atomic.Int32
}

func newFidRef(f *p9.Fid) *fidRef {
	r := &fidRef{fid: f}
	r.refs.Store(1)
	return r
}

// heldFid returns n's fid if it has one. putFid gives it back.
func (n *node) heldFid() *fidRef {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if n.fid == nil {
		return nil
	}
	n.fid.refs.Add(1)
	if !n.isRoot {
		n.fs.withFid.touch(n)
	}
	return n.fid
}

// takeFid returns n's fid, walking to it if it has none. putFid gives it back.
func (n *node) takeFid() (*fidRef, error) {
	if f := n.heldFid(); f != nil {
		return f, nil
	}
	n.fetchMu.Lock()
	defer n.fetchMu.Unlock()
	if f := n.heldFid(); f != nil {
		return f, nil
	}
	r, err := n.walk(p9.WalkOptions{})
	if err != nil {
		return nil, err
	}
	return n.keepFid(r.Fids[0]), nil
}

// takeFids is takeFid for two nodes of a file system.
func takeFids(a, b *node) (fa, fb *fidRef, err error) {
	if fa, err = a.takeFid(); err != nil {
		return nil, nil, err
	}
	if fb, err = b.takeFid(); err != nil {
		a.fs.putFid(fa)
		return nil, nil, err
	}
	return fa, fb, nil
}

// keepFid gives n a fid, unless it has one, and returns n's for the caller's use (putFid). Too many of them, and the one
// that was longest unused goes.
func (n *node) keepFid(f *p9.Fid) *fidRef {
	fs := n.fs
	fs.mu.Lock()
	if n.fid != nil {
		fs.clunks = append(fs.clunks, f)
	} else {
		n.fid = newFidRef(f)
		fs.withFid.touch(n)
		// A file without a name has no other way back to it.
		for tries := 8; fs.withFid.n > fs.opts.MaxFids && tries > 0; tries-- {
			old := fs.withFid.first
			if old == n {
				break
			}
			if old.at.Load() == nil {
				fs.withFid.touch(old)
				continue
			}
			fs.dropFidLocked(old)
		}
	}
	held := n.fid
	held.refs.Add(1)
	fs.mu.Unlock()
	fs.flush(false)
	return held
}

func (n *node) dropFid() {
	n.fs.mu.Lock()
	n.fs.dropFidLocked(n)
	n.fs.mu.Unlock()
}

func (fs *filesystem) dropFidLocked(n *node) {
	fs.withFid.remove(n)
	if f := n.fid; f != nil {
		n.fid = nil
		if f.refs.Add(-1) == 0 {
			fs.clunks = append(fs.clunks, f.fid)
		}
	}
}

// putFid ends a use of a fid.
func (fs *filesystem) putFid(f *fidRef) {
	if f.refs.Add(-1) == 0 {
		fs.discard(f.fid)
	}
}

// discard clunks a fid, soon.
func (fs *filesystem) discard(f *p9.Fid) {
	fs.mu.Lock()
	fs.clunks = append(fs.clunks, f)
	fs.mu.Unlock()
	fs.flush(false)
}

// flush clunks the fids that wait for it, if they are many or it must be now.
func (fs *filesystem) flush(now bool) {
	fs.mu.Lock()
	if len(fs.clunks) == 0 || !now && len(fs.clunks) < clunkBatch {
		fs.mu.Unlock()
		return
	}
	fids := fs.clunks
	fs.clunks = nil
	fs.mu.Unlock()
	fs.client.Clunk(fids...)
}

// maxDepth bounds the way up from a file, which would be endless only if the tree were no tree.
const maxDepth = 1 << 16

// walk walks to n from the nearest directory above it that has a fid, in one message unless that is far away. The
// end of the result's attributes are n's. A file that is no longer where it was is ESTALE.
func (n *node) walk(o p9.WalkOptions) (*p9.WalkResult, error) {
	var err error
	// A rename of a directory above may cross our way: look again.
	for range 3 {
		var r *p9.WalkResult
		if r, err = n.walkOnce(o); err != unix.ESTALE {
			return r, err
		}
	}
	return nil, err
}

// way returns the nearest fid on the way to n, n's own if it has one, and the names from there.
func (n *node) way() (from *fidRef, names []string, err error) {
	for {
		if from = n.heldFid(); from != nil {
			slices.Reverse(names)
			return from, names, nil
		}
		at := n.at.Load()
		if at == nil || len(names) > maxDepth {
			return nil, nil, unix.ESTALE
		}
		names = append(names, at.name)
		n = at.parent.node
	}
}

func (n *node) walkOnce(o p9.WalkOptions) (*p9.WalkResult, error) {
	fs := n.fs
	from, names, err := n.way()
	if err != nil {
		return nil, err
	}
	defer func() { fs.putFid(from) }()
	r := new(p9.WalkResult)
	for len(names) > p9.MaxWalk {
		if err := from.fid.WalkGetattr(names[:p9.MaxWalk], p9.WalkOptions{}, r); err != nil {
			return nil, err
		}
		if r.Err != 0 {
			return nil, unix.ESTALE
		}
		fs.putFid(from)
		from, names = newFidRef(r.Fids[0]), names[p9.MaxWalk:]
	}
	if err := from.fid.WalkGetattr(names, o, r); err != nil {
		return nil, err
	}
	switch r.Err {
	case 0:
	case unix.ENOENT, unix.ENOTDIR:
		return nil, unix.ESTALE
	default:
		return nil, r.Err
	}
	if end := &r.Attrs[len(r.Attrs)-1]; end.Qid.Path != n.path || end.Mode&unix.S_IFMT != n.kind {
		if r.File >= 0 {
			unix.Close(r.File)
		}
		for _, f := range r.Fids {
			fs.discard(f)
		}
		return nil, unix.ESTALE
	}
	return r, nil
}
