package unix

import (
	"slices"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/socket"
	"vitrine/pkg/sentry/vfs"
)

// rights are files in flight (SCM_RIGHTS), with a reference each.
type rights struct {
	files []*vfs.File
	user  auth.KUID
}

// flight knows all files in flight. Messages with files go into inboxes, and
// out, only with mu held: while it is held, a socket whose only references are
// in flight can't come back to any process but through another's inbox.
var flight struct {
	mu locks.Mutex[locks.FilesInFlight]
	// users count files by who sent them, for the limit.
	users map[auth.KUID]int
	// sockets count how often each unix socket is in flight.
	sockets map[*Socket]int
}

// newRights notes files as in flight; ETOOMANYREFS when the sender has more
// there than it may have open (unix(7)). flight.mu is held. The references
// become the rights'.
func newRights(ctx socket.Context, files []*vfs.File) (*rights, error) {
	if len(files) > socket.MaxFiles {
		return nil, unix.EINVAL
	}
	c := ctx.Credentials()
	if flight.users == nil {
		flight.users, flight.sockets = map[auth.KUID]int{}, map[*Socket]int{}
	}
	if uint64(flight.users[c.RUID]) > ctx.FileLimit() && !c.HasRootCap(unix.CAP_SYS_RESOURCE) && !c.HasRootCap(unix.CAP_SYS_ADMIN) {
		return nil, unix.ETOOMANYREFS
	}
	// Nobody, however privileged, makes the Sentry keep files without end.
	if flight.users[c.RUID] > maxInFlight {
		return nil, unix.ETOOMANYREFS
	}
	r := &rights{files: slices.Clone(files), user: c.RUID}
	flight.users[r.user] += len(files)
	for _, f := range files {
		if s, ok := f.Impl().(*Socket); ok {
			flight.sockets[s]++
		}
	}
	return r, nil
}

// maxInFlight bounds the files in flight of one user, whatever its limits.
const maxInFlight = 1 << 18

// land takes the files out of flight; the references are the caller's. flight.mu
// is held.
func (r *rights) land() []*vfs.File {
	if flight.users[r.user] -= len(r.files); flight.users[r.user] <= 0 {
		delete(flight.users, r.user)
	}
	for _, f := range r.files {
		if s, ok := f.Impl().(*Socket); ok {
			if flight.sockets[s]--; flight.sockets[s] <= 0 {
				delete(flight.sockets, s)
			}
		}
	}
	return r.files
}

// copies returns the files with new references (MSG_PEEK).
func (r *rights) copies() []*vfs.File {
	for _, f := range r.files {
		f.IncRef()
	}
	return slices.Clone(r.files)
}

// dropping is the queue of files to be released. Releasing a socket may queue
// more: one goroutine at a time works it off, so that a long chain of sockets
// in each other's inboxes is no deep recursion.
var dropping struct {
	mu    locks.Mutex[locks.Leaf]
	files []*vfs.File
	busy  bool
}

// drop gives references back. No lock is held by the caller.
func drop(files []*vfs.File) {
	if len(files) == 0 {
		return
	}
	d := &dropping
	d.mu.Lock()
	d.files = append(d.files, files...)
	if d.busy {
		d.mu.Unlock()
		return
	}
	d.busy = true
	for len(d.files) > 0 {
		f := d.files[len(d.files)-1]
		d.files[len(d.files)-1] = nil
		d.files = d.files[:len(d.files)-1]
		d.mu.Unlock()
		f.DecRef()
		d.mu.Lock()
	}
	d.files, d.busy = nil, false
	d.mu.Unlock()
}

// each calls f for every socket in flight inside what s holds: its inbox, and
// those of connections that nobody accepted. flight.mu is held.
func (s *Socket) each(f func(t *Socket)) {
	visit := func(r *rights) {
		if r == nil {
			return
		}
		for _, file := range r.files {
			if t, ok := file.Impl().(*Socket); ok {
				f(t)
			}
		}
	}
	s.mu.Lock()
	pending := slices.Clone(s.pending)
	s.mu.Unlock()
	s.in.mu.Lock()
	for i := 0; i < s.in.spans.len(); i++ {
		visit(s.in.spans.at(i).rights)
	}
	for i := 0; i < s.in.messages.len(); i++ {
		visit(s.in.messages.at(i).rights)
	}
	s.in.mu.Unlock()
	for _, p := range pending {
		p.each(f)
	}
}

// collect finds sockets that can be reached only from each other's inboxes, and
// empties those. It is called when a socket is closed: only that can cut the
// last way to them.
func collect() {
	flight.mu.Lock()
	files := unreachable()
	flight.mu.Unlock()
	drop(files)
}

// unreachable returns the files in the inboxes of garbage. flight.mu is held.
func unreachable() (files []*vfs.File) {
	// Candidates have no reference but those in flight.
	inside := map[*Socket]int{} // how many of those are held by candidates
	for s, n := range flight.sockets {
		if f := s.file.Load(); f != nil && f.References() == int64(n) {
			inside[s] = 0
		}
	}
	if len(inside) == 0 {
		return nil
	}
	for s := range inside {
		s.each(func(t *Socket) {
			if _, ok := inside[t]; ok {
				inside[t]++
			}
		})
	}
	// What is held from outside is alive, and what that holds.
	var live []*Socket
	for s, n := range inside {
		if n < flight.sockets[s] {
			live = append(live, s)
		}
	}
	for _, s := range live {
		delete(inside, s)
	}
	for len(live) > 0 {
		s := live[len(live)-1]
		live = live[:len(live)-1]
		s.each(func(t *Socket) {
			if _, ok := inside[t]; ok {
				delete(inside, t)
				live = append(live, t)
			}
		})
	}
	for s := range inside {
		got, _ := s.purgeLocked()
		files = append(files, got...)
		s.mu.Lock()
		pending := slices.Clone(s.pending)
		s.mu.Unlock()
		for _, p := range pending {
			got, _ := p.purgeLocked()
			files = append(files, got...)
		}
	}
	return files
}
