//go:build !lockcheck

package locks

import "sync"

// Checked reports whether this build checks the order of locks.
const Checked = false

// A Mutex is a mutual exclusion lock of rank R. The zero value is unlocked.
type Mutex[R Rank] struct{ mu sync.Mutex }

// Lock waits for m and takes it.
func (m *Mutex[R]) Lock() { m.mu.Lock() }

// NestedLock is Lock for a caller that holds another lock of rank R, and that
// has a rule of its own for which of the two comes first.
func (m *Mutex[R]) NestedLock() { m.mu.Lock() }

// TryLock takes m if that needs no waiting, and reports whether it did.
func (m *Mutex[R]) TryLock() bool { return m.mu.TryLock() }

// Unlock releases m, which the calling goroutine holds.
func (m *Mutex[R]) Unlock() { m.mu.Unlock() }

// AssertHeld does nothing in an ordinary build. With lockcheck it panics
// unless the calling goroutine holds m.
func (m *Mutex[R]) AssertHeld() {}

// A RWMutex is a reader/writer lock of rank R. The zero value is unlocked.
type RWMutex[R Rank] struct{ mu sync.RWMutex }

// Lock waits for m and takes it for writing.
func (m *RWMutex[R]) Lock() { m.mu.Lock() }

// NestedLock is Lock for a caller that holds another lock of rank R, and that
// has a rule of its own for which of the two comes first.
func (m *RWMutex[R]) NestedLock() { m.mu.Lock() }

// TryLock takes m for writing if that needs no waiting, and reports whether it did.
func (m *RWMutex[R]) TryLock() bool { return m.mu.TryLock() }

// Unlock releases m, which the calling goroutine holds for writing.
func (m *RWMutex[R]) Unlock() { m.mu.Unlock() }

// RLock waits for m and takes it for reading.
func (m *RWMutex[R]) RLock() { m.mu.RLock() }

// NestedRLock is to RLock what NestedLock is to Lock.
func (m *RWMutex[R]) NestedRLock() { m.mu.RLock() }

// TryRLock takes m for reading if that needs no waiting, and reports whether it did.
func (m *RWMutex[R]) TryRLock() bool { return m.mu.TryRLock() }

// RUnlock releases m, which the calling goroutine holds for reading.
func (m *RWMutex[R]) RUnlock() { m.mu.RUnlock() }

// AssertHeld does nothing in an ordinary build. With lockcheck it panics
// unless the calling goroutine holds m for writing.
func (m *RWMutex[R]) AssertHeld() {}

// AssertRHeld does nothing in an ordinary build. With lockcheck it panics
// unless the calling goroutine holds m for reading or for writing.
func (m *RWMutex[R]) AssertRHeld() {}

// AssertNoneHeld does nothing in an ordinary build. With lockcheck it panics
// if the calling goroutine holds a lock of this package; it is for places that
// wait without bound, such as a task's switch to the application.
func AssertNoneHeld() {}
