package stub

import "vitrine/pkg/locks"

// poolSize is how many empty stubs are kept ready.
const poolSize = 4

// Pool has stubs ready, P being what a platform knows of one. Its methods are safe
// for concurrent use.
type Pool[P any] struct {
	// Make makes a stub. It runs without the pool's lock.
	Make func() (P, error)

	mu      locks.Mutex[locks.StubPool]
	ready   []P
	filling bool
}

// Fill makes one stub, before it returns: a process that is forked in the
// background while the jail's root directory is put in place keeps the old one.
func (p *Pool[P]) Fill() error {
	s, err := p.Make()
	if err != nil {
		return err
	}
	p.Put(s)
	return nil
}

// Take returns a stub that is ready, or makes one, and has others made in the
// background.
func (p *Pool[P]) Take() (P, error) {
	p.mu.Lock()
	p.refill()
	if n := len(p.ready); n > 0 {
		s := p.ready[n-1]
		p.ready = p.ready[:n-1]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	return p.Make()
}

// Put takes an empty stub, and reports whether there was room for it.
func (p *Pool[P]) Put(s P) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) >= 2*poolSize {
		return false
	}
	p.ready = append(p.ready, s)
	return true
}

// refill has the pool filled up in the background if the next stub that is
// taken leaves too few. Caller holds p.mu.
func (p *Pool[P]) refill() {
	if p.filling || len(p.ready) > poolSize/2 {
		return
	}
	p.filling = true
	go func() {
		for {
			s, err := p.Make()
			p.mu.Lock()
			if err == nil {
				p.ready = append(p.ready, s)
			}
			if err != nil || len(p.ready) >= poolSize {
				p.filling = false
				p.mu.Unlock()
				return
			}
			p.mu.Unlock()
		}
	}()
}
