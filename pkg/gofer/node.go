package gofer

import (
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/p9"
)

// node is a file of the tree: an O_PATH descriptor (the root's may be another kind). It never changes.
type node struct {
	tree *Tree
	fd   int
	kind uint32 // S_IFMT bits
	dev  uint64
}

// writable is EROFS in a read-only tree.
func (n *node) writable() error {
	if n.tree.readOnly {
		return unix.EROFS
	}
	return nil
}

// Walk implements p9.Node.
func (n *node) Walk(name string) (p9.Node, p9.Attr, error) {
	child, a, err := n.child(name)
	if err != nil {
		return nil, a, err // a nil *node would not be a nil p9.Node
	}
	return child, a, nil
}

func (n *node) child(name string) (*node, p9.Attr, error) {
	if n.kind != unix.S_IFDIR {
		return nil, p9.Attr{}, unix.ENOTDIR
	}
	fd, err := beneath(n.fd, name, unix.O_PATH)
	if err != nil {
		return nil, p9.Attr{}, err
	}
	return n.tree.node(fd)
}

// Release implements p9.Node.
func (n *node) Release() { unix.Close(n.fd) }

// GetAttr implements p9.Node.
func (n *node) GetAttr() (p9.Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstat(n.fd, &st); err != nil {
		return p9.Attr{}, err
	}
	return n.tree.attr(&st), nil
}

// SetAttr implements p9.Node. The order matters: a change of owner takes set-id bits away, a change of size
// moves the times.
func (n *node) SetAttr(s *p9.SetAttr) error {
	if err := n.writable(); err != nil {
		return err
	}
	if s.Valid&p9.SetSize != 0 {
		switch {
		case n.kind == unix.S_IFDIR:
			return unix.EISDIR
		case n.kind != unix.S_IFREG, int64(s.Size) < 0:
			return unix.EINVAL
		}
		if err := unix.Truncate(n.tree.way(n.fd), int64(s.Size)); err != nil {
			return err
		}
	}
	if s.Valid&(p9.SetUID|p9.SetGID) != 0 {
		uid, gid := -1, -1
		if s.Valid&p9.SetUID != 0 {
			uid = int(int32(s.UID))
		}
		if s.Valid&p9.SetGID != 0 {
			gid = int(int32(s.GID))
		}
		if err := unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return err
		}
	}
	if s.Valid&p9.SetMode != 0 {
		if err := n.chmod(s.Mode); err != nil {
			return err
		}
	}
	return n.setTimes(s)
}

func (n *node) chmod(mode uint32) error {
	if n.kind == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return unix.Fchmodat(unix.AT_FDCWD, n.tree.way(n.fd), mode&0o7777, 0)
}

func (n *node) setTimes(s *p9.SetAttr) error {
	if s.Valid&(p9.SetAtime|p9.SetMtime) == 0 {
		return nil
	}
	stamp := func(now, to uint32, t p9.Time) (unix.Timespec, error) {
		switch {
		case s.Valid&now == 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}, nil
		case s.Valid&to == 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}, nil
		case t.Nsec >= 1e9:
			return unix.Timespec{}, unix.EINVAL
		}
		return unix.Timespec{Sec: int64(t.Sec), Nsec: int64(t.Nsec)}, nil
	}
	atime, err := stamp(p9.SetAtime, p9.SetAtimeTo, s.Atime)
	if err != nil {
		return err
	}
	mtime, err := stamp(p9.SetMtime, p9.SetMtimeTo, s.Mtime)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(n.fd, "", []unix.Timespec{atime, mtime}, unix.AT_EMPTY_PATH)
}

// open opens the node's file for real.
func (n *node) open(flags uint32) (int, error) {
	changes := flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
	switch n.kind {
	case unix.S_IFDIR:
		if changes {
			return -1, unix.EISDIR
		}
		return beneath(n.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return -1, unix.ELOOP
	default:
		return -1, unix.ENXIO
	}
	if flags&unix.O_DIRECTORY != 0 {
		return -1, unix.ENOTDIR
	}
	if flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return -1, unix.EINVAL
	}
	if changes {
		if err := n.writable(); err != nil {
			return -1, err
		}
	}
	for {
		fd, err := unix.Openat(unix.AT_FDCWD, n.tree.way(n.fd), int(flags)|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Open implements p9.Node.
func (n *node) Open(flags uint32) (p9.Handle, error) {
	fd, err := n.open(flags)
	if err != nil {
		return nil, err
	}
	if n.kind == unix.S_IFDIR {
		return &directory{node: n, fd: fd}, nil
	}
	return &file{fd: fd}, nil
}

// OpenFile implements p9.Donor. Directories are not given away: from a directory's descriptor a name could
// be looked up without us.
func (n *node) OpenFile(flags uint32) (int, p9.Attr, error) {
	if n.kind == unix.S_IFDIR {
		return -1, p9.Attr{}, unix.EISDIR
	}
	fd, err := n.open(flags)
	if err != nil {
		return -1, p9.Attr{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, p9.Attr{}, err
	}
	return fd, n.tree.attr(&st), nil
}

// Make implements p9.Directory.
func (n *node) Make(args *p9.MakeArgs) (p9.Node, p9.Attr, error) {
	if n.kind != unix.S_IFDIR {
		return nil, p9.Attr{}, unix.ENOTDIR
	}
	if err := n.writable(); err != nil {
		// A name that exists says so, as Linux does on a read-only file system.
		if fd, e := beneath(n.fd, args.Name, unix.O_PATH); e == nil {
			unix.Close(fd)
			err = unix.EEXIST
		}
		return nil, p9.Attr{}, err
	}
	kind, mode := args.Mode&unix.S_IFMT, args.Mode&0o7777
	var err error
	switch kind {
	case unix.S_IFDIR:
		err = unix.Mkdirat(n.fd, args.Name, mode)
	case unix.S_IFLNK:
		if args.Target == "" {
			return nil, p9.Attr{}, unix.ENOENT
		}
		if strings.IndexByte(args.Target, 0) >= 0 {
			return nil, p9.Attr{}, unix.EINVAL
		}
		err = unix.Symlinkat(args.Target, n.fd, args.Name)
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		err = unix.Mknodat(n.fd, args.Name, kind|mode, 0)
	case unix.S_IFCHR, unix.S_IFBLK:
		if kind == unix.S_IFBLK || args.Rdev != 0 {
			return nil, p9.Attr{}, unix.EPERM
		}
		err = unix.Mknodat(n.fd, args.Name, kind|mode, 0)
	default:
		return nil, p9.Attr{}, unix.EINVAL
	}
	if err != nil {
		return nil, p9.Attr{}, err
	}
	made, a, err := n.child(args.Name)
	if err != nil {
		return nil, p9.Attr{}, err
	}
	if made.kind != kind {
		made.Release() // somebody has put another file there
		return nil, p9.Attr{}, unix.ESTALE
	}
	if a, err = made.own(args, a); err != nil {
		made.Release()
		flags := 0
		if kind == unix.S_IFDIR {
			flags = unix.AT_REMOVEDIR
		}
		unix.Unlinkat(n.fd, args.Name, flags)
		return nil, p9.Attr{}, err
	}
	return made, a, nil
}

// own gives a new file the owner asked for, and the set-id bits back that changing owners takes away.
func (n *node) own(args *p9.MakeArgs, a p9.Attr) (p9.Attr, error) {
	uid, gid := -1, -1
	if args.UID != p9.NoID && args.UID != a.UID {
		uid = int(int32(args.UID))
	}
	if args.GID != p9.NoID && args.GID != a.GID {
		gid = int(int32(args.GID))
	}
	if uid == -1 && gid == -1 {
		return a, nil
	}
	if err := unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return a, err
	}
	if args.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && n.kind == unix.S_IFREG {
		if err := n.chmod(args.Mode); err != nil {
			return a, err
		}
	}
	return n.GetAttr()
}

// Link implements p9.Directory.
func (n *node) Link(name string, target p9.Node) error {
	if err := n.writable(); err != nil {
		return err
	}
	t, ok := target.(*node)
	if !ok || t.tree != n.tree {
		return unix.EXDEV
	}
	// By the descriptor's entry in proc: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH.
	return unix.Linkat(unix.AT_FDCWD, n.tree.way(t.fd), n.fd, name, unix.AT_SYMLINK_FOLLOW)
}

// Rename implements p9.Directory.
func (n *node) Rename(name string, to p9.Node, newName string) error {
	if err := n.writable(); err != nil {
		return err
	}
	t, ok := to.(*node)
	if !ok || t.tree != n.tree {
		return unix.EXDEV
	}
	return unix.Renameat2(n.fd, name, t.fd, newName, 0)
}

// Unlink implements p9.Directory.
func (n *node) Unlink(name string, flags uint32) error {
	if err := n.writable(); err != nil {
		return err
	}
	return unix.Unlinkat(n.fd, name, int(flags))
}

// Readlink implements p9.Linker.
func (n *node) Readlink() (string, error) {
	if n.kind != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	buf := make([]byte, p9.MaxPath)
	size, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:size]), nil
}

// Statfs implements p9.FileSystem.
func (n *node) Statfs() (p9.Statfs, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(n.fd, &st); err != nil {
		return p9.Statfs{}, err
	}
	return p9.Statfs{
		Type: uint32(st.Type), BlockSize: uint32(st.Bsize),
		Blocks: st.Blocks, BlocksFree: st.Bfree, BlocksAvailable: st.Bavail,
		Files: st.Files, FilesFree: st.Ffree,
		FSID:       uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32,
		NameLength: uint32(st.Namelen),
	}, nil
}

const capabilityXattr = "security.capability"

// xattrPath gives the path for the xattr calls if the name may be used.
func (n *node) xattrPath(name string) (string, error) {
	if n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR || !strings.HasPrefix(name, "user.") {
		return "", unix.EOPNOTSUPP
	}
	return n.tree.way(n.fd), nil
}

// GetXattr implements p9.Attributes.
func (n *node) GetXattr(name string) ([]byte, error) {
	path, err := n.xattrPath(name)
	if err != nil {
		if name != capabilityXattr || n.kind != unix.S_IFREG {
			return nil, err
		}
		path = n.tree.way(n.fd)
	}
	return sized(func(buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
}

// sized calls get with a buffer it fits in. The size may change between asking and getting.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	for range 8 {
		size, err := get(nil)
		if err != nil || size == 0 {
			return nil, err
		}
		buf := make([]byte, size)
		size, err = get(buf)
		if err != unix.ERANGE {
			return buf[:max(size, 0)], err
		}
	}
	return nil, unix.ERANGE
}

// ListXattr implements p9.Attributes. It leaves out the names GetXattr would refuse.
func (n *node) ListXattr() ([]byte, error) {
	if n.kind != unix.S_IFREG && n.kind != unix.S_IFDIR {
		return nil, nil
	}
	path := n.tree.way(n.fd)
	all, err := sized(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) })
	if err != nil {
		return nil, err
	}
	var list []byte
	for rest := string(all); rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "\x00")
		if strings.HasPrefix(name, "user.") || name == capabilityXattr {
			list = append(append(list, name...), 0)
		}
	}
	return list, nil
}

// SetXattr implements p9.Attributes.
func (n *node) SetXattr(name string, value []byte, flags uint32) error {
	if err := n.writable(); err != nil {
		return err
	}
	path, err := n.xattrPath(name)
	if err != nil {
		return err
	}
	return unix.Setxattr(path, name, value, int(flags))
}

// RemoveXattr implements p9.Attributes.
func (n *node) RemoveXattr(name string) error {
	if err := n.writable(); err != nil {
		return err
	}
	path, err := n.xattrPath(name)
	if err != nil {
		return err
	}
	return unix.Removexattr(path, name)
}
