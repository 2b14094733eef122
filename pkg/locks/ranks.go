package locks

// A Rank is one of the types below. Its position in order is its rank.
type Rank interface{ isRank() }

type rank struct{}

func (rank) isRank() {}

// The ranks. A package that needs a lock between two of these adds a type here
// and a line in order; it does not borrow a rank whose description does not fit.
type (
	// Tasks is the tree of thread groups, sessions, process groups and tasks.
	Tasks struct{ rank }
	// FSContext is a task's root, working directory and umask.
	FSContext struct{ rank }
	// MountNamespaces is the set of mount namespaces and the tree of mounts in each.
	MountNamespaces struct{ rank }
	// Mount is one mount's state: its flags, its point, its propagation.
	Mount struct{ rank }
	// Dentry is a directory entry's name, parent and children. Two are nested
	// ancestor first.
	Dentry struct{ rank }
	// Inode is an inode's attributes and, for file systems in memory, its data.
	Inode struct{ rank }
	// MemoryMappings is an address space's VMAs.
	MemoryMappings struct{ rank }
	// OverlayNode is the copying-up of one inode of an overlay file system.
	OverlayNode struct{ rank }
	// OverlayPages is which pages of a file in an overlay are its own.
	OverlayPages struct{ rank }
	// MemoryPages is an address space's areas: what is faulted in, and where it is.
	MemoryPages struct{ rank }
	// Mappables is the set of mappings of one mappable object.
	Mappables struct{ rank }
	// MemoryFile is the memory file's free and used ranges and their owners.
	MemoryFile struct{ rank }
	// Names is the table of names of a directory in memory.
	Names struct{ rank }
	// Waiters is the queue of those who wait for one object's events.
	Waiters struct{ rank }
	// FDTable is a descriptor table.
	FDTable struct{ rank }
	// Signals is a thread group's and its tasks' pending signals, masks and handlers.
	Signals struct{ rank }
	// FutexBucket is one bucket of a futex table. Two are nested by index.
	FutexBucket struct{ rank }
	// Timers is the queue of timers of one clock.
	Timers struct{ rank }
	// Leaf is for a lock under which no other is taken.
	Leaf struct{ rank }
)

// order is the order in which locks are taken, first to last. It is the only
// place where the order is written.
var order = [...]Rank{
	Tasks{},
	FSContext{},
	MountNamespaces{},
	Mount{},
	Dentry{},
	Inode{},
	MemoryMappings{},
	OverlayNode{},
	OverlayPages{},
	MemoryPages{},
	Mappables{},
	MemoryFile{},
	Names{},
	Waiters{},
	FDTable{},
	Signals{},
	FutexBucket{},
	Timers{},
	Leaf{},
}
