package vfs

import "sync/atomic"

// Recent is the directory that the last walk of a task found its last name in, so
// that the next one, which often begins with the same names, has a head start. Only
// the task uses it. The zero value is ready.
//
// It is good as long as no directory has moved or been removed, and nothing been
// mounted: see moves. What else a walk depends on isn't kept: a walk that met a
// symbolic link, "..", a mount, or a directory that isn't cached, or that may not search
// everything, is not noted, nor one with flags of openat2(2).
type Recent struct {
	from, dir Path
	moves     uint64
	prefix    int // how much of names is used
	names     [recentMax]byte
}

// recentMax is how long the names may be.
const recentMax = 120

// moves counts what may change where the names of directories lead, in all file
// systems and namespaces: what has begun, and what has ended since.
var moves changes

type changes struct{ begun, ended atomic.Uint64 }

func (c *changes) begin() { c.begun.Add(1) }
func (c *changes) end()   { c.ended.Add(1) }

// none returns how many changes there were, if none is under way.
func (c *changes) none() (uint64, bool) {
	ended := c.ended.Load() // first: it can't catch up in between
	begun := c.begun.Load()
	return begun, begun == ended
}

// begins says that a walk begins at w.cur.
func (w *walker) begins() {
	const resolve = ResolveNoXDev | ResolveNoMagicLinks | ResolveNoSymlinks | ResolveBeneath | ResolveInRoot
	if w.view.Recent == nil || !w.anywhere || w.flags&resolve != 0 {
		return
	}
	n, ok := moves.none()
	if ok {
		w.recent, w.moves, w.base = w.view.Recent, n, w.cur
	}
}

// ahead goes to the directory of the last walk, if path leads through that, and
// returns what is left of path, which isn't empty.
func (w *walker) ahead(path string) string {
	r := w.recent
	if r == nil || r.moves != w.moves || r.from != w.base || len(path) <= r.prefix || path[:r.prefix] != string(r.names[:r.prefix]) {
		return path
	}
	w.cur = r.dir
	return path[r.prefix:]
}

// note says that the walk came to w.cur by prefix, which ends in a slash. w.recent
// isn't nil: it met nothing but directories.
func (w *walker) note(prefix string) {
	r := w.recent
	same := w.cur == r.dir && r.moves == w.moves && r.from == w.base && r.prefix == len(prefix)
	if same || w.cur == w.base || len(prefix) > recentMax {
		return
	}
	r.from, r.dir, r.moves = w.base, w.cur, w.moves
	r.prefix = copy(r.names[:], prefix)
}
