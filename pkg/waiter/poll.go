package waiter

// Polled is one object of a Poll: what poll(2) calls a pollfd.
type Polled struct {
	Object Waitable
	Mask   Mask
	// Ready is what Check found.
	Ready Mask

	entry      Entry
	registered bool
}

// Poll waits for many objects at once, for poll(2), select(2) and the like. It
// belongs to one goroutine: Check; if nothing is ready Register, Check again,
// sleep on C, and so on; Unregister in the end. An object may come twice.
type Poll struct {
	// C gets a token when anything registered may have become ready.
	C       ChannelListener
	Objects []Polled
}

// Reset makes p ready for n new objects, and keeps its memory.
func (p *Poll) Reset(n int) {
	if p.C == nil {
		p.C = NewChannelListener()
	}
	select {
	case <-p.C:
	default:
	}
	if cap(p.Objects) < n {
		p.Objects = make([]Polled, n)
	} else {
		p.Objects = p.Objects[:n]
		clear(p.Objects)
	}
}

// Check asks each object, sets its Ready and returns how many have any. An
// object that is nil is skipped, and keeps the Ready it has.
func (p *Poll) Check() int {
	n := 0
	for i := range p.Objects {
		o := &p.Objects[i]
		if o.Object != nil {
			o.Ready = o.Object.Readiness(o.Mask|Err|Hup) & (o.Mask | Err | Hup)
		}
		if o.Ready != 0 {
			n++
		}
	}
	return n
}

// Register makes the objects put a token into C when they have events.
func (p *Poll) Register() {
	for i := range p.Objects {
		o := &p.Objects[i]
		if o.Object != nil && !o.registered {
			o.registered = true
			o.entry.Listener, o.entry.Mask = p.C, o.Mask
			o.Object.EventRegister(&o.entry)
		}
	}
}

// Unregister takes Register back.
func (p *Poll) Unregister() {
	for i := range p.Objects {
		if o := &p.Objects[i]; o.registered {
			o.Object.EventUnregister(&o.entry)
			o.registered = false
		}
	}
}
