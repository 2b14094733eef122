// Package tmpfs keeps files in memory (tmpfs(5)), and is what other file
// systems of the Sentry's own are built from: the overlay's upper half, /dev,
// memfd_create(2), shared anonymous memory.
//
// Storage is an instance: its limits, its inode numbers, where pages come from.
// Meta is what every inode has: owner, mode, times, extended attributes, and
// the counts of names and openings that decide when it ends. Dir, Regular,
// Symlink and Special embed it. A Dir holds Children, which may be inodes of
// another package that embed these.
//
// The bytes of a Regular are a Content: the page store of the memory file, or
// something in front of it. Pages are given back when the last name and the last
// open file (mappings hold open files) are gone, at that moment; pages of an
// instance that is unmounted with files in it, when the garbage collector finds
// the inodes.
//
// The order of a directory is that in which names came; a cookie of readdir is
// a name's number in that order and stays right whatever else changes.
//
// A stat takes one lock that is never held for long, and allocates nothing.
//
// Lock order: Regular.data (held while bytes move from or to application
// memory, so mm locks come below it), Dir.names, Meta.mu, a leaf. Two of a kind
// are never held together: that names change one after the other is seen to by
// the VFS, which locks directories.
//
// What it doesn't do: quotas, swap, huge pages, NUMA policies, ACLs.
package tmpfs

import (
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/pagestore"
	"vitrine/pkg/sentry/vfs"
)

const (
	blockSize = 4096
	// defaultInodes bounds an instance without nr_inodes where it isn't known how
	// much memory there is; otherwise there is an inode for two pages of it
	// (tmpfs(5)).
	defaultInodes = 1 << 20
	// inodeUnit is how many bytes of extended attributes and link targets
	// count as one inode, and what an inode is charged as.
	inodeUnit = 1024
	// instanceCost is what an instance is charged as.
	instanceCost = 1024
	// nameCost is what a name is charged as besides its bytes, xattrCost what
	// an extended attribute counts.
	nameCost  = 256
	xattrCost = 64
	// dirEntrySize is what each name adds to st_size of its directory, as in
	// Linux.
	dirEntrySize = 20
)

// Options say what an instance is like.
type Options struct {
	// Memory is where pages come from, Account what is charged, for inodes and
	// names too; with a Size an account below it is made for pages.
	Memory  *memfile.File
	Account *memfile.Account
	// NewContent makes the contents of regular files. Nil: a page store.
	NewContent func() Content
	// Size is the most that file contents may take, in bytes, Inodes the most
	// inodes; zero is no limit of its own for Size and a default for Inodes.
	Size   uint64
	Inodes uint64
	// Mode, UID and GID are those of the root directory. Mode zero is 01777.
	Mode uint32
	UID  auth.KUID
	GID  auth.KGID
	// Type is the name of the file system, "tmpfs" if empty.
	Type string
}

// ParseOptions reads the data of mount(2) into o: size, nr_blocks, nr_inodes,
// mode, uid, gid. total is the memory there is, for percentages. Ids are taken
// in ns. Unknown options give EINVAL.
func (o *Options) ParseOptions(data string, total uint64, ns *auth.UserNamespace) error {
	for opt := range strings.SplitSeq(data, ",") {
		if opt == "" {
			continue
		}
		key, val, _ := strings.Cut(opt, "=")
		var err error
		switch key {
		case "size":
			if pc, ok := strings.CutSuffix(val, "%"); ok {
				var n uint64
				if n, err = strconv.ParseUint(pc, 10, 16); err == nil {
					o.Size = total / 100 * n
				}
			} else {
				o.Size, err = parseSize(val)
			}
			if o.Size != 0 {
				o.Size = (o.Size + blockSize - 1) &^ (blockSize - 1)
			}
		case "nr_blocks":
			var n uint64
			n, err = parseSize(val)
			if n > 1<<50 {
				return unix.EINVAL
			}
			o.Size = n * blockSize
		case "nr_inodes":
			o.Inodes, err = parseSize(val)
		case "mode":
			var n uint64
			n, err = strconv.ParseUint(val, 8, 32)
			o.Mode = uint32(n)&0o7777 | unix.S_IFDIR
		case "uid":
			id, e := strconv.ParseUint(val, 10, 32)
			k, ok := ns.KUID(uint32(id))
			if e != nil || !ok {
				return unix.EINVAL
			}
			o.UID = k
		case "gid":
			id, e := strconv.ParseUint(val, 10, 32)
			k, ok := ns.KGID(uint32(id))
			if e != nil || !ok {
				return unix.EINVAL
			}
			o.GID = k
		case "huge", "mpol", "inode64", "inode32", "noswap":
			// How pages are placed: no difference to see.
		default:
			return unix.EINVAL
		}
		if err != nil {
			return unix.EINVAL
		}
	}
	return nil
}

// parseSize reads a number with an optional k, m, g, t, p or e.
func parseSize(s string) (uint64, error) {
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgtpe", s[n-1]|0x20); i >= 0 {
			shift, s = 10*(i+1), s[:n-1]
		}
	}
	v, err := strconv.ParseUint(s, 0, 64)
	if err == nil && v<<shift>>shift != v {
		err = unix.EINVAL
	}
	return v << shift, err
}

// Storage is an instance of tmpfs, or the part of another file system that is
// in memory. It is the Impl of its Filesystem.
type Storage struct {
	dev        uint64
	lastIno    atomic.Uint64
	used       atomic.Int64 // inodes
	maxInodes  atomic.Int64
	newContent func() Content
	account    *memfile.Account // of pages; may be the instance's own
	tab        *memfile.Tab     // of inodes and names
	size       uint64
}

// New returns an instance with an empty root directory.
func New(o Options) (*vfs.Filesystem, error) {
	fs := &vfs.Filesystem{Type: "tmpfs", Dev: vfs.NewDev(), Magic: unix.TMPFS_MAGIC, Policy: vfs.CacheAll}
	if o.Type != "" {
		fs.Type = o.Type
	}
	s, err := NewStorage(o, fs.Dev, 0)
	if err != nil {
		return nil, err
	}
	fs.Impl = s
	fs.Options = o.String()
	mode := o.Mode & 0o7777
	if o.Mode == 0 {
		mode = 0o1777
	}
	d, err := s.NewDir(&vfs.NewAttr{Mode: unix.S_IFDIR | mode, UID: o.UID, GID: o.GID})
	if err != nil {
		return nil, err
	}
	fs.SetRoot(d)
	return fs, nil
}

// String returns the options as /proc/mounts shows them, with a comma before
// each.
func (o *Options) String() string {
	var b strings.Builder
	if o.Size != 0 {
		b.WriteString(",size=" + strconv.FormatUint(o.Size>>10, 10) + "k")
	}
	if o.Inodes != 0 {
		b.WriteString(",nr_inodes=" + strconv.FormatUint(o.Inodes, 10))
	}
	if m := o.Mode & 0o7777; o.Mode != 0 && m != 0o1777 {
		b.WriteString(",mode=" + strconv.FormatUint(uint64(m), 8))
	}
	if o.UID != 0 {
		b.WriteString(",uid=" + strconv.FormatUint(uint64(o.UID), 10))
	}
	if o.GID != 0 {
		b.WriteString(",gid=" + strconv.FormatUint(uint64(o.GID), 10))
	}
	return b.String()
}

// NewStorage returns storage for inodes with device number dev, numbered from
// firstIno+1 on.
func NewStorage(o Options, dev, firstIno uint64) (*Storage, error) {
	s := &Storage{dev: dev, size: o.Size, newContent: o.NewContent, account: o.Account}
	s.lastIno.Store(firstIno)
	s.maxInodes.Store(defaultInodes)
	if o.Inodes != 0 {
		s.maxInodes.Store(int64(min(o.Inodes, 1<<62)))
	} else if o.Account != nil && o.Account.Machine() != math.MaxUint64 {
		s.maxInodes.Store(int64(max(o.Account.Machine()/(2*blockSize), 1)))
	}
	if o.Size != 0 && o.Account != nil {
		a, err := o.Account.NewAccount("tmpfs", o.Size)
		if err != nil {
			return nil, unix.ENOMEM
		}
		s.account = a
		// The instance goes with the last of its inodes.
		runtime.AddCleanup(s, (*memfile.Account).Close, a)
	}
	tab, err := memfile.NewTab(o.Account, s, instanceCost)
	if err != nil {
		return nil, err
	}
	s.tab = tab
	if s.newContent == nil {
		mem, acct := o.Memory, s.account
		s.newContent = func() Content { return pagestore.New(mem, acct) }
	}
	return s, nil
}

// Statfs implements vfs.Statfser.
func (s *Storage) Statfs(_ vfs.Context, st *unix.Statfs_t) error {
	st.Bsize, st.Frsize = blockSize, blockSize
	if a := s.account; a != nil {
		if limit := a.Limit(); limit != 0 {
			st.Blocks = limit / blockSize
			if used := a.Usage(); used < limit {
				st.Bfree = (limit - used) / blockSize
			}
			st.Bavail = st.Bfree
		}
	}
	st.Files = uint64(s.maxInodes.Load())
	st.Ffree = uint64(max(0, s.maxInodes.Load()-s.used.Load()))
	return nil
}

// Usage returns the bytes of contents that the instance's account holds, and
// the number of inodes.
func (s *Storage) Usage() (bytes uint64, inodes int64) {
	if a := s.account; a != nil {
		bytes = a.FileUsage()
	}
	return bytes, s.used.Load()
}

// charge counts n inodes, or what counts as so many, or takes -n back; ENOSPC.
func (s *Storage) charge(n int64) error {
	if n <= 0 {
		s.used.Add(n)
		s.tab.Uncharge(-n * inodeUnit)
		return nil
	}
	if s.used.Add(n) > s.maxInodes.Load() {
		s.used.Add(-n)
		return unix.ENOSPC
	}
	if s.tab.Charge(n*inodeUnit) != nil {
		s.used.Add(-n)
		return unix.ENOSPC
	}
	return nil
}

// NewContent returns a content for a file.
func (s *Storage) NewContent() Content { return s.newContent() }

// NewIno returns the next inode number.
func (s *Storage) NewIno() uint64 { return s.lastIno.Add(1) }

// Dev returns the device number.
func (s *Storage) Dev() uint64 { return s.dev }

// Now is the time that inodes get, in nanoseconds since the epoch.
func Now() int64 { return time.Now().UnixNano() }
