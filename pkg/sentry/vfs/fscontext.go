package vfs

import "vitrine/pkg/locks"

// FSContext is what CLONE_FS shares: root, working directory and umask. Safe for
// concurrent use.
type FSContext struct {
	mu    locks.Mutex[locks.Leaf]
	root  Path
	cwd   Path
	umask uint32
}

// NewFSContext returns a context at root.
func NewFSContext(root, cwd Path, umask uint32) *FSContext {
	return &FSContext{root: root, cwd: cwd, umask: umask & 0o777}
}

// Fork returns a copy.
func (c *FSContext) Fork() *FSContext {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &FSContext{root: c.root, cwd: c.cwd, umask: c.umask}
}

// Root returns the root directory.
func (c *FSContext) Root() Path { c.mu.Lock(); defer c.mu.Unlock(); return c.root }

// Cwd returns the working directory.
func (c *FSContext) Cwd() Path { c.mu.Lock(); defer c.mu.Unlock(); return c.cwd }

// View returns from where relative paths are resolved.
func (c *FSContext) View() FSView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return FSView{Root: c.root, Start: c.cwd}
}

// SetRoot changes the root directory.
func (c *FSContext) SetRoot(p Path) { c.mu.Lock(); c.root = p; c.mu.Unlock() }

// SetCwd changes the working directory.
func (c *FSContext) SetCwd(p Path) { c.mu.Lock(); c.cwd = p; c.mu.Unlock() }

// Move applies f to both: after a change of the mount namespace or its root.
func (c *FSContext) Move(f func(Path) Path) {
	c.mu.Lock()
	c.root, c.cwd = f(c.root), f(c.cwd)
	c.mu.Unlock()
}

// Umask returns the file mode creation mask.
func (c *FSContext) Umask() uint32 { c.mu.Lock(); defer c.mu.Unlock(); return c.umask }

// SetUmask sets the mask and returns the old one.
func (c *FSContext) SetUmask(m uint32) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.umask
	c.umask = m & 0o777
	return old
}
