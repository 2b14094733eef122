package locks

// A Rank is one of the types below. Its position in order is its rank.
type Rank interface{ isRank() }

type rank struct{}

func (rank) isRank() {}

// The ranks, in their order. A package that needs a lock between two of these
// adds a type here and a line in order; it does not borrow a rank whose
// description does not fit.
type (
	// HeapWatch is what the Sentry's heap has been charged.
	HeapWatch struct{ rank }
	// Containers is the sandbox's table of containers.
	Containers struct{ rank }
	// AsyncSignals is held while signals of O_ASYNC are sent.
	AsyncSignals struct{ rank }

	// What is asked, read and written by descriptors, and may touch
	// application memory meanwhile.

	// FileOffset is an open file's offset, held while it is read or written.
	FileOffset struct{ rank }
	// PseudoFile is an open file of proc or sysfs, held while its contents are made.
	PseudoFile struct{ rank }
	// EpollNesting is which epoll instances are in which.
	EpollNesting struct{ rank }
	// Epoll is an epoll instance's files. An outer instance's comes before
	// those of instances in it.
	Epoll struct{ rank }
	// Pipe is a pipe's bytes. Of two the one with the lower id comes first.
	Pipe struct{ rank }
	// FilesInFlight is which files are in messages of unix sockets.
	FilesInFlight struct{ rank }
	// Socket is a unix socket's connection. Of two the one with the lower id
	// comes first.
	Socket struct{ rank }
	// SocketForward is whose room a unix socket waits for.
	SocketForward struct{ rank }
	// SocketInbox is what a unix socket has received.
	SocketInbox struct{ rank }
	// Inode is the data of a file in memory.
	Inode struct{ rank }
	// GoferWrite is held while a gofer's file is written or changes its size.
	GoferWrite struct{ rank }
	// FutexBucket is one bucket of a futex table. Two are nested by index.
	FutexBucket struct{ rank }
	// MemoryMappings is an address space's VMAs.
	MemoryMappings struct{ rank }

	// The tree of files. Mappings are here already: their files have names,
	// and are closed when the last mapping goes.

	// Rename is held by a file system while directories move.
	Rename struct{ rank }
	// Dentry is a directory entry's name, parent and children. Two are nested
	// ancestor first, or in any order under Rename.
	Dentry struct{ rank }
	// MountNamespace is the tree of mounts of a namespace.
	MountNamespace struct{ rank }
	// OverlayNode is the copying-up of one inode of an overlay file system.
	OverlayNode struct{ rank }
	// OverlayPages is which pages of a file in an overlay are its own.
	OverlayPages struct{ rank }
	// OverlaySource is the opening of a file below an overlay.
	OverlaySource struct{ rank }
	// GoferLink is a gofer's symbolic link.
	GoferLink struct{ rank }
	// GoferFetch is held while a gofer is asked for a fid or a descriptor.
	GoferFetch struct{ rank }
	// GoferMappings is the set of mappings of a gofer's file.
	GoferMappings struct{ rank }
	// GoferDescriptors is the host descriptors of a gofer's file.
	GoferDescriptors struct{ rank }
	// GoferListing is what a gofer's directory holds.
	GoferListing struct{ rank }
	// Names is the table of names of a directory in memory.
	Names struct{ rank }
	// Attributes is the metadata of a file in memory, under which its data is
	// made and freed.
	Attributes struct{ rank }
	// Inotify is an inotify instance's watches and events.
	Inotify struct{ rank }
	// FileLocks is the record locks and flocks of a file.
	FileLocks struct{ rank }

	// Processes.

	// Tasks is the tree of thread groups, sessions, process groups and tasks.
	Tasks struct{ rank }
	// Signals is a thread group's and its tasks' pending signals, masks and handlers.
	Signals struct{ rank }
	// SystemV is the objects of System V IPC of one namespace.
	SystemV struct{ rank }
	// ProcessTimers is the interval timers and POSIX timers of a process.
	ProcessTimers struct{ rank }
	// TimerFD is one timerfd.
	TimerFD struct{ rank }

	// Memory.

	// Mappables is the set of mappings, and the pages, of one mappable object.
	Mappables struct{ rank }
	// MemoryPages is an address space's areas: what is faulted in, and where it
	// is. A new address space's comes after that it is a copy of.
	MemoryPages struct{ rank }
	// AddressSpace is what the platform has mapped for one address space.
	AddressSpace struct{ rank }
	// StubPool is the platform's processes that wait for use.
	StubPool struct{ rank }
	// StubThreads is the threads of one of the platform's processes.
	StubThreads struct{ rank }
	// StubWatchdog is which contexts the platform watches.
	StubWatchdog struct{ rank }
	// StubSpinners is which of the platform's threads looks on which CPU.
	StubSpinners struct{ rank }
	// StubReports is which eventfds of the platform no process has.
	StubReports struct{ rank }
	// StubFactory is the socket on which processes are ordered.
	StubFactory struct{ rank }
	// MemoryFile is the memory file's free and used ranges and their owners.
	MemoryFile struct{ rank }

	// A gofer's own.

	// P9Fid is the open state of a fid of a 9P server, or an attribute that is
	// written to one.
	P9Fid struct{ rank }
	// P9Directory is the position of a directory that a gofer reads.
	P9Directory struct{ rank }
	// P9Send is held while an answer goes onto a 9P server's socket.
	P9Send struct{ rank }

	// What any of the above may tell or take.

	// Waiters is the queue of those who wait for one object's events. Two are
	// nested from an object to who passes its events on.
	Waiters struct{ rank }
	// FDTable is a descriptor table.
	FDTable struct{ rank }
	// Timers is the queue of timers of one clock.
	Timers struct{ rank }
	// Scheduler is who runs the threads of the kernel, and which of them wait for that.
	Scheduler struct{ rank }
	// Leaf is for a lock under which no other is taken.
	Leaf struct{ rank }
)

// order is the order in which locks are taken, first to last. It is the only
// place where the order is written.
var order = [...]Rank{
	HeapWatch{},
	Containers{},
	AsyncSignals{},
	FileOffset{},
	PseudoFile{},
	EpollNesting{},
	Epoll{},
	Pipe{},
	FilesInFlight{},
	Socket{},
	SocketForward{},
	SocketInbox{},
	Inode{},
	GoferWrite{},
	FutexBucket{},
	MemoryMappings{},
	Rename{},
	Dentry{},
	MountNamespace{},
	OverlayNode{},
	OverlayPages{},
	OverlaySource{},
	GoferLink{},
	GoferFetch{},
	GoferMappings{},
	GoferDescriptors{},
	GoferListing{},
	Names{},
	Attributes{},
	Inotify{},
	FileLocks{},
	Tasks{},
	Signals{},
	SystemV{},
	ProcessTimers{},
	TimerFD{},
	Mappables{},
	MemoryPages{},
	AddressSpace{},
	StubPool{},
	StubThreads{},
	StubWatchdog{},
	StubSpinners{},
	StubReports{},
	StubFactory{},
	MemoryFile{},
	P9Fid{},
	P9Directory{},
	P9Send{},
	Waiters{},
	FDTable{},
	Timers{},
	Scheduler{},
	Leaf{},
}
