package tmpfs

import "runtime"

// addCleanup marks l dead, and settles it, when s is garbage.
func addCleanup(s *Storage, l *ledger) {
	runtime.AddCleanup(s, func(l *ledger) {
		l.dead.Store(true)
		l.settle()
	}, l)
}

// pages is what a file leaves behind: its content and who pays for it.
type pages struct {
	content Content
	ledger  *ledger
}

func (p pages) release() {
	p.content.Release()
	p.ledger.settle()
}

// releaseWhenLost gives the pages of c back when r is garbage: its file system
// was unmounted with the file in it.
func (r *Regular) releaseWhenLost(c Content) {
	r.lost = runtime.AddCleanup(r, pages.release, pages{c, r.storage.ledger})
	r.hasLost = true
}
