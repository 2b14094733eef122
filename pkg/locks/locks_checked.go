//go:build lockcheck

package locks

import "sync"

// Checked reports whether this build checks the order of locks.
const Checked = true

// A Mutex is a mutual exclusion lock of rank R. The zero value is unlocked.
type Mutex[R Rank] struct{ mu sync.Mutex }

// Lock waits for m and takes it.
func (m *Mutex[R]) Lock() {
	mayWait[R](m, inOrder)
	m.mu.Lock()
	taken[R](m, writing)
}

// NestedLock is Lock for a caller that holds another lock of rank R, and that
// has a rule of its own for which of the two comes first.
func (m *Mutex[R]) NestedLock() {
	mayWait[R](m, nested)
	m.mu.Lock()
	taken[R](m, writing)
}

// TryLock takes m if that needs no waiting, and reports whether it did.
func (m *Mutex[R]) TryLock() bool {
	ok := m.mu.TryLock()
	if ok {
		taken[R](m, writing)
	}
	return ok
}

// Unlock releases m, which the calling goroutine holds.
func (m *Mutex[R]) Unlock() {
	released[R](m, writing)
	m.mu.Unlock()
}

// AssertHeld panics unless the calling goroutine holds m.
func (m *Mutex[R]) AssertHeld() { assertHeld[R](m, writing) }

// A RWMutex is a reader/writer lock of rank R. The zero value is unlocked.
type RWMutex[R Rank] struct{ mu sync.RWMutex }

// Lock waits for m and takes it for writing.
func (m *RWMutex[R]) Lock() {
	mayWait[R](m, inOrder)
	m.mu.Lock()
	taken[R](m, writing)
}

// NestedLock is Lock for a caller that holds another lock of rank R, and that
// has a rule of its own for which of the two comes first.
func (m *RWMutex[R]) NestedLock() {
	mayWait[R](m, nested)
	m.mu.Lock()
	taken[R](m, writing)
}

// TryLock takes m for writing if that needs no waiting, and reports whether it did.
func (m *RWMutex[R]) TryLock() bool {
	ok := m.mu.TryLock()
	if ok {
		taken[R](m, writing)
	}
	return ok
}

// Unlock releases m, which the calling goroutine holds for writing.
func (m *RWMutex[R]) Unlock() {
	released[R](m, writing)
	m.mu.Unlock()
}

// RLock waits for m and takes it for reading.
func (m *RWMutex[R]) RLock() {
	mayWait[R](m, inOrder)
	m.mu.RLock()
	taken[R](m, reading)
}

// NestedRLock is to RLock what NestedLock is to Lock.
func (m *RWMutex[R]) NestedRLock() {
	mayWait[R](m, nested)
	m.mu.RLock()
	taken[R](m, reading)
}

// TryRLock takes m for reading if that needs no waiting, and reports whether it did.
func (m *RWMutex[R]) TryRLock() bool {
	ok := m.mu.TryRLock()
	if ok {
		taken[R](m, reading)
	}
	return ok
}

// RUnlock releases m, which the calling goroutine holds for reading.
func (m *RWMutex[R]) RUnlock() {
	released[R](m, reading)
	m.mu.RUnlock()
}

// AssertHeld panics unless the calling goroutine holds m for writing.
func (m *RWMutex[R]) AssertHeld() { assertHeld[R](m, writing) }

// AssertRHeld panics unless the calling goroutine holds m for reading or for writing.
func (m *RWMutex[R]) AssertRHeld() { assertHeld[R](m, writing|reading) }

// AssertNoneHeld panics if the calling goroutine holds a lock of this package;
// it is for places that wait without bound, such as a task's switch to the
// application.
func AssertNoneHeld() { assertNoneHeld() }
