package memfile

import "vitrine/pkg/locks"

// leaving is who is about to give pages back: a channel for each, that is closed
// when they are.
type leaving struct {
	mu    locks.Mutex[locks.Leaf]
	going map[chan struct{}]struct{}
}

// Leaving says that pages are about to be given back, by somebody who doesn't wait
// for memory, and who calls back then. An Alloc that an account refuses meanwhile
// waits for it.
func (f *File) Leaving() (back func()) {
	l := &f.leaving
	c := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.going == nil {
		l.going = make(map[chan struct{}]struct{})
	}
	l.going[c] = struct{}{}
	return func() {
		l.mu.Lock()
		delete(l.going, c)
		l.mu.Unlock()
		close(c)
	}
}

// awaitLeaving waits for those who are leaving now, and reports whether there was
// anybody.
func (f *File) awaitLeaving() bool {
	l := &f.leaving
	l.mu.Lock()
	going := make([]chan struct{}, 0, len(l.going))
	for c := range l.going {
		going = append(going, c)
	}
	l.mu.Unlock()
	for _, c := range going {
		<-c
	}
	return len(going) > 0
}
