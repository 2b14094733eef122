// Package mqueue is the file system of POSIX message queues (mq_overview(7)), so
// far as it can be mounted on /dev/mqueue: an empty directory. There are no
// queues: making one gives ENOSYS, as mq_open(2) does.
//
// The directory's owner and mode are fixed. Nothing is locked here.
package mqueue

import (
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/vfs"
)

// magic is MQUEUE_MAGIC of statfs(2).
const magic = 0x19800202

// dir is the root directory.
type dir struct{ pseudo.Dir }

// Make implements vfs.Directory.
func (*dir) Make(vfs.Context, string, *vfs.NewAttr) (vfs.Inode, error) { return nil, unix.ENOSYS }

// New returns an instance that belongs to uid and gid.
func New(uid auth.KUID, gid auth.KGID) *vfs.Filesystem {
	fs := &vfs.Filesystem{Type: "mqueue", Dev: vfs.NewDev(), Magic: magic, Policy: vfs.CacheAll}
	root := &dir{}
	root.Facts = pseudo.Facts{Ino: 1, Dev: fs.Dev, Mode: unix.S_IFDIR | 0o1777, Time: time.Now().UnixNano(),
		Owner: func() (auth.KUID, auth.KGID) { return uid, gid }}
	fs.SetRoot(root)
	return fs
}
