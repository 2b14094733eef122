package gofer

import (
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
)

// Tree is an attach point. Its methods are safe for concurrent use.
type Tree struct {
	root     int // descriptor of the root, O_PATH or not
	readOnly bool
	name     string
	self     string // what leads to this process's descriptors by number: "/proc/self/fd/", or "" in the jail

	rootDev uint64

	mu   locks.Mutex[locks.Leaf]
	devs map[uint64]uint64 // other devices (of mounts below the root) by the order they were met in
}

// NewTree makes a tree of the directory or file root, a descriptor that becomes the tree's. A client
// may attach to it as name, "" or "/". inJail says that the working directory is what EnterJail makes it.
func NewTree(root int, name string, readOnly, inJail bool) (*Tree, error) {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return nil, err
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFDIR && t != unix.S_IFREG {
		return nil, unix.ENOTDIR
	}
	t := &Tree{root: root, readOnly: readOnly, name: name, rootDev: st.Dev}
	if !inJail {
		t.self = "/proc/self/fd/"
	}
	return t, nil
}

// Attach gives the root.
func (t *Tree) Attach(_ string, _ uint32, aname string) (p9.Node, error) {
	if aname != "" && aname != "/" && aname != t.name {
		return nil, unix.ENOENT
	}
	fd, err := unix.FcntlInt(uintptr(t.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	n, _, err := t.node(fd)
	if err != nil {
		return nil, err
	}
	return n, nil
}

// node makes a node of a descriptor, which it takes over.
func (t *Tree) node(fd int) (*node, p9.Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, p9.Attr{}, err
	}
	return &node{tree: t, fd: fd, kind: st.Mode & unix.S_IFMT, dev: st.Dev}, t.attr(&st), nil
}

// way is the path that leads to a descriptor's file itself.
func (t *Tree) way(fd int) string { return t.self + strconv.Itoa(fd) }

// qidPath makes a number that is a file's own among all of the tree: the inode's on the root's device, and
// elsewhere mixed with a number for the device in the bits that inode numbers hardly ever reach.
func (t *Tree) qidPath(dev, ino uint64) uint64 {
	if dev == t.rootDev {
		return ino
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.devs[dev]
	if !ok {
		if t.devs == nil {
			t.devs = map[uint64]uint64{}
		}
		n = uint64(len(t.devs) + 1)
		if n < 1<<15 { // a bound on what mounts coming and going can make us keep
			t.devs[dev] = n
		}
	}
	return ino ^ n<<48
}

func (t *Tree) attr(st *unix.Stat_t) p9.Attr {
	time := func(ts unix.Timespec) p9.Time { return p9.Time{Sec: uint64(ts.Sec), Nsec: uint64(ts.Nsec)} }
	return p9.Attr{
		Qid: p9.Qid{
			Type:    p9.QidType(st.Mode),
			Version: uint32(st.Mtim.Sec) ^ uint32(st.Mtim.Nsec),
			Path:    t.qidPath(st.Dev, st.Ino),
		},
		Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Nlink: st.Nlink, Rdev: st.Rdev, Size: uint64(st.Size),
		BlockSize: uint64(st.Blksize), Blocks: uint64(st.Blocks),
		Atime: time(st.Atim), Mtime: time(st.Mtim), Ctime: time(st.Ctim),
		Dev: st.Dev, Ino: st.Ino,
	}
}

// beneath opens a name in a directory, and nothing else.
func beneath(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS,
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, &how)
		// EAGAIN: a rename or mount elsewhere made the kernel unsure (openat2(2)). It says to try again.
		if err == unix.EINTR || err == unix.EAGAIN && try < 16 {
			continue
		}
		return fd, err
	}
}
