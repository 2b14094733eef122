package systrap

import (
	"time"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/platform/stub"
)

// Vector state stays in the stub: in the registers of the thread that has it, in a
// signal frame on that thread's stack, or in an area, which is memory of the stub's
// that belongs to a context. There it is left when the context gives its thread up:
// the next one that takes the thread has an area of its own, and neither's state
// has to come by the Sentry. A context keeps its area for as long as it is in the
// stub, unless too many do so.

// area is room for the vector state of a context.
type area struct {
	proc  *process
	bytes []byte
	addr  uint64 // in the stub
	// A thread saves vector registers as soon as it has posted a call: they are in
	// the area when its shared.saved has come to number. saver is nil otherwise.
	saver  *thread
	number uint32
}

const (
	areaSize = 4096
	// maxKept is how many contexts without a thread keep an area of a stub. Those
	// that have a thread always get one: each thread brings one along.
	maxKept = 512
)

// newArea returns the area at off in the threads' memory.
func (p *process) newArea(off int) *area {
	n := arch.FPSize()
	return &area{proc: p, bytes: p.Slots()[off : off+n : off+n], addr: stub.SlotsAddr + uint64(off)}
}

// takeArea sees to it that c, which has a thread of a's, has an area of the same stub.
func (c *context) takeArea(a *addressSpace) error {
	p := a.proc
	if ar := c.area; ar != nil && ar.proc == p {
		c.unkeep()
		return nil
	}
	c.giveArea()
	p.mu.Lock()
	n := len(p.areas) - 1
	if n < 0 {
		p.mu.Unlock()
		return c.makeAreas(a)
	}
	c.area, p.areas = p.areas[n], p.areas[:n]
	p.mu.Unlock()
	return nil
}

// makeAreas is takeArea where the stub has none that is free.
func (c *context) makeAreas(a *addressSpace) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.proc
	if p.slots == maxSlots {
		return errFull
	}
	at := p.slots * slotSize
	p.slots++
	p.mu.Lock()
	defer p.mu.Unlock()
	for off := at + areaSize; off < at+slotSize; off += areaSize {
		p.areas = append(p.areas, p.newArea(off))
	}
	c.area = p.newArea(at)
	return nil
}

// giveArea gives up c's area, if it has one.
func (c *context) giveArea() {
	ar := c.area
	if ar == nil {
		return
	}
	c.unkeep()
	c.area, c.inArea = nil, false
	p := ar.proc
	p.mu.Lock()
	p.areas = append(p.areas, ar)
	p.mu.Unlock()
}

// keep reports whether c, which gives its thread up, may keep its area.
func (c *context) keep() bool {
	p := c.area.proc
	if p.kept.Add(1) > maxKept {
		p.kept.Add(-1)
		return false
	}
	c.kept = true
	return true
}

func (c *context) unkeep() {
	if c.kept {
		c.kept = false
		c.area.proc.kept.Add(-1)
	}
}

// await returns when nobody saves vector registers in the area any more. A stub in
// which they aren't saved within limit is ended.
func (ar *area) await(limit time.Duration) {
	if ar.saver == nil {
		return
	}
	saved, number := &ar.saver.shared.saved, ar.number
	ar.saver = nil
	if int32(saved.Load()-number) >= 0 || spinOn(saved, number, looks) {
		return
	}
	// The host has taken its CPU away.
	for since := time.Now(); int32(saved.Load()-number) < 0 && !ar.proc.lost.Load(); time.Sleep(unsaved) {
		if time.Since(since) > limit {
			ar.proc.kill()
			return
		}
	}
}

// unsaved is how often await looks when the thread isn't running.
const unsaved = 50 * time.Microsecond

// pointAt has th load the vector state that is in c's area.
func (c *context) pointAt(th *thread) {
	th.fpOwner = c
	th.live = false
}

// loadFP has the thread load state.FP.
func (c *context) loadFP(th *thread, state *arch.State) {
	arch.SanitizeFP(state.FP)
	c.area.await(c.platform.watchdog.limit)
	n, _ := arch.FPInUse(state.FP)
	copy(c.area.bytes, state.FP[:n])
	c.fp, c.inArea = c.area.bytes, true
	c.fpAt = &state.FP[0]
	c.fpPulled = true
	c.pointAt(th)
}

// pullFP makes state.FP current.
func (c *context) pullFP(state *arch.State) {
	if c.fpPulled || c.fpAt == nil || c.fpAt != &state.FP[0] || !c.hasFP() {
		return
	}
	if c.inArea {
		c.area.await(c.platform.watchdog.limit)
	}
	arch.CopyFP(state.FP, c.fp)
	clear(state.FP[464:512]) // the frame's own notes
	arch.SanitizeFP(state.FP)
	c.fpPulled = true
}

// hasFP reports whether c's vector state is where c says: in its area, or in a frame
// of the thread that it has, or had and nobody else since.
func (c *context) hasFP() bool {
	if c.inArea {
		if c.area.proc.released.Load() {
			c.area, c.inArea, c.kept = nil, false, false
		}
		return c.inArea
	}
	th := c.held()
	return th != nil && th.fpOwner == c
}

// PullFP implements platform.Context.
func (c *context) PullFP(state *arch.State) {
	c.pullFP(state)
	c.fpAt = nil
}

// DropFP implements platform.Context.
func (c *context) DropFP() { c.fpAt = nil }
