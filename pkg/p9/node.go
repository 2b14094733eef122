package p9

// This file is what a tree of files must offer to be served. Names given to these methods are single
// components the server has checked (not empty, not "." or "..", no slash, no NUL, at most MaxName bytes).
// Methods must be safe for concurrent use. Errors other than unix.Errno reach the client as EIO.

// Attacher gives the root of a tree to a client that attaches.
type Attacher interface {
	Attach(uname string, uid uint32, aname string) (Node, error)
}

// Node is a file, a directory, a link, whatever has a name; not an open file. What else it can do it says by having the
// methods of Donor, Directory, Linker, Attributes or FileSystem.
type Node interface {
	// Walk finds a name in a directory. It follows no links.
	Walk(name string) (Node, Attr, error)
	GetAttr() (Attr, error)
	SetAttr(*SetAttr) error
	// Open opens the node with flags, which are within OpenMask.
	Open(flags uint32) (Handle, error)
	// Release ends the node's use; nothing is called on it afterwards.
	Release()
}

// Donor is a node that can give away a descriptor of itself.
type Donor interface {
	// OpenFile returns a new descriptor, which then is the caller's, and the attributes after opening. A file
	// that can be opened but not given away is EOPNOTSUPP.
	OpenFile(flags uint32) (file int, a Attr, err error)
}

// Directory is a node in which names are made and removed.
type Directory interface {
	// Make makes a file; a name that exists is EEXIST.
	Make(args *MakeArgs) (Node, Attr, error)
	Link(name string, file Node) error
	Rename(name string, to Node, newName string) error
	// Unlink removes a name; flags is 0 or AT_REMOVEDIR.
	Unlink(name string, flags uint32) error
}

// Linker is a node that may be a symbolic link.
type Linker interface {
	Readlink() (string, error)
}

// Attributes is a node with extended attributes.
type Attributes interface {
	GetXattr(name string) ([]byte, error)
	// ListXattr returns the names, each followed by a NUL.
	ListXattr() ([]byte, error)
	SetXattr(name string, value []byte, flags uint32) error
	RemoveXattr(name string) error
}

// FileSystem is a node that knows its file system's numbers.
type FileSystem interface {
	Statfs() (Statfs, error)
}

// Handle is an open node. What else it can do it says by having the methods of Reader, Writer, Lister, Syncer, Locker.
type Handle interface {
	Close()
}

// Reader is a handle to read from. n < len(p) without an error is the end of the file.
type Reader interface {
	ReadAt(p []byte, offset uint64) (n int, err error)
}

// Writer is a handle to write to.
type Writer interface {
	WriteAt(p []byte, offset uint64) (n int, err error)
}

// Lister is an open directory. ReadDir calls yield with the entries behind offset until that says false
// or there are no more; with plus the entries have attributes where they can be had. The entry is the
// callee's again when yield returns.
type Lister interface {
	ReadDir(offset uint64, plus bool, yield func(*Dirent) bool) error
}

// Syncer is a handle whose file can be brought to stable storage.
type Syncer interface {
	Sync(dataOnly bool) error
}

// Locker is a handle with record locks. Neither method waits.
type Locker interface {
	// Lock returns LockSuccess, LockBlocked or an error.
	Lock(l *FileLock) (status uint8, err error)
	GetLock(l *FileLock) (FileLock, error)
}
