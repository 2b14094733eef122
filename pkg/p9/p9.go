package p9

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Protocol limits and special values.
const (
	// HeaderSize is size[4] type[1] tag[2].
	HeaderSize = 7
	// NoTag is the tag of Tversion.
	NoTag = ^uint16(0)
	// NoFid stands for "no fid".
	NoFid = ^uint32(0)
	// NoID stands for "no user or group id given".
	NoID = ^uint32(0)

	// MinMsize is the smallest message size either side accepts. A message of names and attributes of the
	// longest walk fits.
	MinMsize = 4096
	// MaxMsize is the largest message size either side agrees to.
	MaxMsize = 1 << 20
	// DefaultMsize is what a client asks for.
	DefaultMsize = 256 << 10

	// MaxWalk is the most names in one walk (MAXWELEM).
	MaxWalk = 16
	// MaxName is the longest file name in bytes (NAME_MAX).
	MaxName = 255
	// MaxPath is the longest symbolic link target in bytes.
	MaxPath = 4096
	// MaxXattr is the largest extended attribute value in bytes (XATTR_SIZE_MAX).
	MaxXattr = 64 << 10

	// ioHeader is the room other implementations want left around the data of Rread and Twrite (P9_IOHDRSZ of v9fs
	// and diod, which refuse more); 23 bytes would be enough.
	ioHeader = 24
)

// Extensions is a set of additions to 9P2000.L, as agreed in the version message.
type Extensions uint32

// The extensions. docs/9p.md has their messages.
const (
	ExtWalk   Extensions = 1 << iota // Twalkgetattr: walk with attributes
	ExtOpenFD                        // descriptors donated with SCM_RIGHTS; needs a Unix socket
	ExtMake                          // Tmake: any file made, owned and described in one message
	ExtPlus                          // Treaddirplus: directory entries with attributes
	ExtClunks                        // Tclunks: many clunks in one message
	ExtList                          // Tlist: walk to a directory and list it, in one message

	AllExtensions = ExtWalk | ExtOpenFD | ExtMake | ExtPlus | ExtClunks | ExtList
)

var extensionNames = [...]string{"walk", "openfd", "make", "plus", "clunks", "list"}

const baseVersion = "9P2000.L"

// versionString writes "9P2000.L+walk+openfd...".
func versionString(e Extensions) string {
	var b strings.Builder
	b.WriteString(baseVersion)
	for i, name := range extensionNames {
		if e&(1<<i) != 0 {
			b.WriteByte('+')
			b.WriteString(name)
		}
	}
	return b.String()
}

// parseVersion reads a version string; ok is false if it is not 9P2000.L. Unknown extensions are passed over.
func parseVersion(s string) (e Extensions, ok bool) {
	rest, ok := strings.CutPrefix(s, baseVersion)
	if !ok || (rest != "" && rest[0] != '+') {
		return 0, false
	}
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest[1:], "+")
		if rest != "" {
			rest = "+" + rest
		}
		for i, name := range extensionNames {
			if word == name {
				e |= 1 << i
			}
		}
	}
	return e, true
}

// Qid names a file on the server. Path is unique among the files of an attach point that exist at one time.
type Qid struct {
	Type    uint8
	Version uint32
	Path    uint64
}

// Bits of Qid.Type.
const (
	QidDir     = 0x80
	QidSymlink = 0x02
	QidFile    = 0x00
)

// QidType gives the Qid.Type for a st_mode.
func QidType(mode uint32) uint8 {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return QidDir
	case unix.S_IFLNK:
		return QidSymlink
	}
	return QidFile
}

// Time is a file's time stamp: seconds and nanoseconds since 1970.
type Time struct {
	Sec  uint64
	Nsec uint64
}

// Attr is what stat(2) tells about a file. Qid is the server's; Dev and Ino are the host's own.
type Attr struct {
	Qid                 Qid
	Mode                uint32
	UID, GID            uint32
	Nlink               uint64
	Rdev                uint64
	Size                uint64
	BlockSize           uint64
	Blocks              uint64 // of 512 bytes
	Atime, Mtime, Ctime Time
	Dev, Ino            uint64 // zero if the peer has no extensions
}

// IsRegular says whether a is a regular file's.
func (a *Attr) IsRegular() bool { return a.Mode&unix.S_IFMT == unix.S_IFREG }

// IsDir says whether a is a directory's.
func (a *Attr) IsDir() bool { return a.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsSymlink says whether a is a symbolic link's.
func (a *Attr) IsSymlink() bool { return a.Mode&unix.S_IFMT == unix.S_IFLNK }

// Bits of SetAttr.Valid (P9_ATTR_*).
const (
	SetMode     = 1 << 0
	SetUID      = 1 << 1
	SetGID      = 1 << 2
	SetSize     = 1 << 3
	SetAtime    = 1 << 4 // to now, unless SetAtimeTo is there too
	SetMtime    = 1 << 5 // to now, unless SetMtimeTo is there too
	SetCtime    = 1 << 6 // accepted, and implied by the rest
	SetAtimeTo  = 1 << 7
	SetMtimeTo  = 1 << 8
	setAttrBits = 1<<9 - 1
)

// SetAttr is a change of a file's attributes: of those that Valid names.
type SetAttr struct {
	Valid        uint32
	Mode         uint32 // permission bits
	UID, GID     uint32
	Size         uint64
	Atime, Mtime Time
}

// Dirent is one entry of a directory. Offset is where a later read goes on behind it.
type Dirent struct {
	Qid    Qid
	Offset uint64
	Type   uint8 // DT_*
	Name   string
	// Attr is only there in answers to ReaddirPlus, and only if HasAttr: the file may have gone meanwhile.
	HasAttr bool
	Attr    Attr
}

// Statfs is what statfs(2) tells about a file system.
type Statfs struct {
	Type            uint32
	BlockSize       uint32
	Blocks          uint64
	BlocksFree      uint64
	BlocksAvailable uint64
	Files           uint64
	FilesFree       uint64
	FSID            uint64
	NameLength      uint32
}

// Lock types of Tlock and Tgetlock.
const (
	LockRead   = 0
	LockWrite  = 1
	LockUnlock = 2
)

// Answers of Tlock.
const (
	LockSuccess = 0
	LockBlocked = 1
	LockError   = 2
	LockGrace   = 3
)

// FileLock is a record lock. Length 0 means to the end of the file, wherever that is.
type FileLock struct {
	Type          uint8
	Start, Length uint64
	PID           uint32
	ClientID      string
}

// OpenFlags are those of Tlopen, which are Linux's for open(2) on x86. This package passes these on:
const (
	// OpenMask is what a server lets through to the host. Everything else is dropped: creation flags mean
	// nothing to Tlopen, O_NOFOLLOW and O_CLOEXEC are always on.
	OpenMask = unix.O_ACCMODE | unix.O_TRUNC | unix.O_APPEND | unix.O_DIRECTORY | unix.O_SYNC | unix.O_DSYNC
)

// MakeArgs says which file Tmake makes.
type MakeArgs struct {
	Name     string
	Mode     uint32 // with the type bits; 0 there means a regular file
	Rdev     uint64 // for devices, as st_rdev
	UID, GID uint32 // NoID: as the server sees fit
	Target   string // for symbolic links
}
