package gofer

import (
	"runtime"
	"weak"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/p9"
	"vitrine/pkg/sentry/vfs"
)

// Options are the parameters of New.
type Options struct {
	// Shared says that others change the tree too: everything is looked at again
	// each time. Otherwise what is known once is believed for ever.
	Shared bool
	// ReadOnly refuses all changes with EROFS.
	ReadOnly bool
	// Name is what to attach to ("" for the gofer's default).
	Name string
	// Closing, unless nil, is told of each donated descriptor before it is
	// closed: the platform is to forget it.
	Closing func(fd int)
	// MaxFids bounds the fids, MaxIdle the descriptors that are kept without anybody
	// using them. Zero means the default.
	MaxFids, MaxIdle int
}

const (
	defaultMaxFids = 4096
	defaultMaxIdle = 384
	// maxListed bounds the names kept in listings of directories.
	maxListed = 1 << 17
	// clunkBatch is how many fids are given back at once.
	clunkBatch = 64
)

// v9fsMagic is V9FS_MAGIC of statfs(2).
const v9fsMagic = 0x01021997

// filesystem is one attached tree.
type filesystem struct {
	vfs.Filesystem
	client *p9.Client
	opts   Options
	// extended: the peer has our messages.
	extended bool
	root     *inode

	mu    locks.Mutex[locks.Leaf]
	table map[uint64]weak.Pointer[inode]
	// withFid and idle are the nodes that hold fids and descriptors nobody uses, the longest unused first.
	withFid nodeList
	idle    nodeList
	clunks  []*p9.Fid
	// listed counts entries of listings; listings are their directories, oldest first.
	listed   int
	listings []kept
	// collections counts inodes that the collector took.
	collections uint64
}

// New returns the file system of the tree that client attaches to. The client is the file system's from now on;
// several may share one.
func New(client *p9.Client, opts Options) (*vfs.Filesystem, error) {
	if opts.MaxFids == 0 {
		opts.MaxFids = defaultMaxFids
	}
	if opts.MaxIdle == 0 {
		opts.MaxIdle = defaultMaxIdle
	}
	fs := &filesystem{client: client, opts: opts, table: map[uint64]weak.Pointer[inode]{}}
	need := p9.ExtWalk | p9.ExtMake
	fs.extended = client.Extensions()&need == need
	fs.withFid.init(fidLinks)
	fs.idle.init(idleLinks)
	fs.Filesystem = vfs.Filesystem{
		Type: "9p", Dev: vfs.NewDev(), Magic: v9fsMagic, ReadOnly: opts.ReadOnly,
		Options: ",trans=fd,version=9p2000.L", Impl: fs,
	}
	if opts.Shared {
		fs.Policy = vfs.CacheRevalidate
	}
	fid, _, err := client.Attach("root", p9.NoID, opts.Name)
	if err != nil {
		return nil, err
	}
	pa, err := fid.Getattr()
	if err != nil {
		return nil, err
	}
	i, err := fs.inode(&pa, nil, "")
	if err != nil {
		return nil, err
	}
	// The root's fid stays for good: all walks begin there.
	i.node.fid = newFidRef(fid)
	i.node.isRoot = true
	fs.root = i
	fs.SetRoot(i.outer)
	return &fs.Filesystem, nil
}

// Dial is New with a connection: a stream socket that becomes the file system's.
func Dial(socket int, opts Options) (*vfs.Filesystem, error) {
	client, err := p9.Dial(socket, 0, p9.AllExtensions)
	if err != nil {
		return nil, err
	}
	fs, err := New(client, opts)
	if err != nil {
		client.Close()
	}
	return fs, err
}

// Close ends the connection of a file system that Dial or New returned: whatever needs the gofer is EIO from then on.
func Close(fs *vfs.Filesystem) {
	if g, ok := fs.Impl.(*filesystem); ok {
		g.closeIdle(0)
		g.client.Close()
	}
}

// Statfs implements vfs.Statfser.
func (fs *filesystem) Statfs(_ vfs.Context, s *unix.Statfs_t) error {
	st, err := fs.root.node.fid.fid.Statfs()
	if err != nil {
		return err
	}
	s.Bsize, s.Frsize = int64(st.BlockSize), int64(st.BlockSize)
	s.Blocks, s.Bfree, s.Bavail = st.Blocks, st.BlocksFree, st.BlocksAvailable
	s.Files, s.Ffree = st.Files, st.FilesFree
	if st.NameLength != 0 {
		s.Namelen = int64(min(st.NameLength, vfs.NameMax))
	}
	return nil
}

// inode returns the inode of the file with attributes pa, which was met as name
// in parent, and brings the inode's attributes up to date.
func (fs *filesystem) inode(pa *p9.Attr, parent *directory, name string) (*inode, error) {
	s, err := fs.snapshot(pa)
	if err != nil {
		return nil, err
	}
	var at *place
	if parent != nil {
		at = &place{parent, name}
	}
	fs.mu.Lock()
	i := fs.table[pa.Qid.Path].Value()
	if i != nil && i.node.kind == s.Type() && !i.node.gone.Load() {
		fs.mu.Unlock()
		if at != nil {
			i.node.named(at)
		}
		if fs.opts.Shared {
			i.adopt(s, true)
		}
		return i, nil
	}
	n := &node{fs: fs, path: pa.Qid.Path, kind: s.Type()}
	n.attr.Store(s)
	n.size.Store(s.Size)
	n.at.Store(at)
	switch n.kind {
	case unix.S_IFDIR:
		d := &directory{}
		i, d.outer = &d.inode, d
	case unix.S_IFLNK:
		l := &symlink{}
		i, l.outer = &l.inode, l
	default:
		i = &inode{}
		i.outer = i
	}
	i.node = n
	fs.table[n.path] = weak.Make(i)
	fs.mu.Unlock()
	runtime.AddCleanup(i, collected, n)
	return i, nil
}

// collected gives back what a node held for its inode, which nobody can reach any more.
func collected(n *node) {
	fs := n.fs
	fs.mu.Lock()
	fs.collections++
	if p, ok := fs.table[n.path]; ok && p.Value() == nil {
		delete(fs.table, n.path)
	}
	fs.mu.Unlock()
	n.release()
}

// nodeList is a list of nodes by when they were last used. The file system's lock guards it.
type nodeList struct {
	links func(*node) *links
	first *node
	last  *node
	n     int
}

// links are a node's neighbours in one list.
type links struct {
	in         bool
	prev, next *node
}

func fidLinks(n *node) *links  { return &n.fidLinks }
func idleLinks(n *node) *links { return &n.idleLinks }

func (l *nodeList) init(of func(*node) *links) { l.links = of }

// touch puts n at the end, whether it was in the list or not.
func (l *nodeList) touch(n *node) {
	if l.last == n {
		return
	}
	l.remove(n)
	k := l.links(n)
	k.in, k.prev = true, l.last
	if l.last != nil {
		l.links(l.last).next = n
	} else {
		l.first = n
	}
	l.last = n
	l.n++
}

func (l *nodeList) remove(n *node) {
	k := l.links(n)
	if !k.in {
		return
	}
	if k.prev != nil {
		l.links(k.prev).next = k.next
	} else {
		l.first = k.next
	}
	if k.next != nil {
		l.links(k.next).prev = k.prev
	} else {
		l.last = k.prev
	}
	*k = links{}
	l.n--
}
