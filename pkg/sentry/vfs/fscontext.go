package vfs

import (
	"sync/atomic"

	"vitrine/pkg/locks"
)

// FSContext is what CLONE_FS shares: root, working directory and umask. Safe for
// concurrent use. Path walks read it without a lock.
type FSContext struct {
	mu    locks.Mutex[locks.Leaf] // held for changes of view
	view  atomic.Pointer[FSView]  // Start is the working directory
	umask atomic.Uint32
}

// NewFSContext returns a context at root.
func NewFSContext(root, cwd Path, umask uint32) *FSContext {
	c := &FSContext{}
	c.view.Store(&FSView{Root: root, Start: cwd})
	c.umask.Store(umask & 0o777)
	return c
}

// Fork returns a copy.
func (c *FSContext) Fork() *FSContext {
	v := c.view.Load()
	return NewFSContext(v.Root, v.Start, c.umask.Load())
}

// Root returns the root directory.
func (c *FSContext) Root() Path { return c.view.Load().Root }

// Cwd returns the working directory.
func (c *FSContext) Cwd() Path { return c.view.Load().Start }

// View returns from where relative paths are resolved.
func (c *FSContext) View() FSView { return *c.view.Load() }

// change puts what f makes of the view in place of it.
func (c *FSContext) change(f func(v *FSView)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := *c.view.Load()
	f(&v)
	c.view.Store(&v)
}

// SetRoot changes the root directory.
func (c *FSContext) SetRoot(p Path) { c.change(func(v *FSView) { v.Root = p }) }

// SetCwd changes the working directory.
func (c *FSContext) SetCwd(p Path) { c.change(func(v *FSView) { v.Start = p }) }

// Move applies f to both: after a change of the mount namespace or its root.
func (c *FSContext) Move(f func(Path) Path) {
	c.change(func(v *FSView) { v.Root, v.Start = f(v.Root), f(v.Start) })
}

// Umask returns the file mode creation mask.
func (c *FSContext) Umask() uint32 { return c.umask.Load() }

// SetUmask sets the mask and returns the old one.
func (c *FSContext) SetUmask(m uint32) uint32 { return c.umask.Swap(m & 0o777) }
