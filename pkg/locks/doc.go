// Package locks gives mutexes a place in one order, so that two goroutines can
// never wait for each other in a circle.
//
// [Mutex] and [RWMutex] are sync.Mutex and sync.RWMutex with a rank, named by
// a type of this package:
//
//	type MM struct {
//		mu locks.RWMutex[locks.MemoryMappings]
//		...
//	}
//
// The zero value is an unlocked mutex, and it may not be copied after first
// use. The ranks stand in ranks.go, in the order in which locks are taken: a
// goroutine that holds a lock may wait only for locks further down the list. A
// second lock of the same rank (two inodes of a rename, say) is taken with
// NestedLock, by which the caller says that a rule of its own, such as "the
// ancestor first" or "by address", orders the two.
//
// In an ordinary build the types cost nothing: they have the size of the
// mutexes of package sync, their methods inline to the same calls, and the
// rank exists for the compiler alone.
//
// In a build with the tag lockcheck each goroutine's held locks are recorded,
// with the places where they were taken, and the program panics with both
// places when a goroutine
//
//   - waits for a lock of a rank above or beside one that it holds;
//   - waits for a lock that it holds already, for reading too: a writer that
//     arrives between two read locks of one goroutine stops both for ever;
//   - releases a lock that it does not hold, or fails an AssertHeld.
//
// A lock is therefore released by the goroutine that took it; handing a locked
// mutex to another goroutine, which package sync permits, is not supported.
// TryLock does not wait and so may be used out of order, but what it took
// counts for the locks taken after it.
//
// The check finds an inversion when one goroutine runs the two orders, whether
// or not another was there to deadlock with. It sees only code that runs, and
// only locks of this package.
package locks
