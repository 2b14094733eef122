package vfs

import "sync/atomic"

// FileEvent is something that happened to a file, with the values of inotify(7).
type FileEvent uint32

// Events, as in sys/inotify.h.
const (
	EventAccess       FileEvent = 0x001
	EventModify       FileEvent = 0x002
	EventAttrib       FileEvent = 0x004
	EventCloseWrite   FileEvent = 0x008
	EventCloseNoWrite FileEvent = 0x010
	EventOpen         FileEvent = 0x020
	EventMovedFrom    FileEvent = 0x040
	EventMovedTo      FileEvent = 0x080
	EventCreate       FileEvent = 0x100
	EventDelete       FileEvent = 0x200
	EventDeleteSelf   FileEvent = 0x400
	EventMoveSelf     FileEvent = 0x800
	EventUnmount      FileEvent = 0x2000
	EventIsDir        FileEvent = 0x40000000
	// EventUnlinked marks what is done through an open file whose name is no
	// longer there: watches with IN_EXCL_UNLINK, which has this value, don't
	// want it.
	EventUnlinked FileEvent = 0x04000000
)

// Observer is told of events on inodes with Watched set. inode is the watched
// one; name is that of the child that the event is about, or empty. It is called
// with directory locks held and must not call back into the VFS.
type Observer interface {
	FileEvent(inode *InodeBase, ev FileEvent, name string, cookie uint32)
}

var (
	observer   atomic.Pointer[Observer]
	moveCookie atomic.Uint32
)

// SetObserver installs the receiver of events: inotify.
func SetObserver(o Observer) { observer.Store(&o) }

// Watch and Unwatch count watches on the inode.
func (b *InodeBase) Watch()   { b.watched.Add(1) }
func (b *InodeBase) Unwatch() { b.watched.Add(-1) }

func send(b *InodeBase, ev FileEvent, name string, cookie uint32) {
	if b.watched.Load() == 0 {
		return
	}
	if o := observer.Load(); o != nil {
		(*o).FileEvent(b, ev, name, cookie)
	}
}

// sendDeleted tells that the last name of the inode is gone: now, or when the
// last open file is closed.
func sendDeleted(b *InodeBase) {
	b.gone.Store(true)
	if b.opens.Load() == 0 {
		b.sendIfGone()
	}
}

func (b *InodeBase) sendIfGone() {
	if b.gone.CompareAndSwap(true, false) {
		send(b, EventDeleteSelf, "", 0)
	}
}

// notify tells of an event at d: to the inode's watchers and, with the name, to
// the directory's.
func notify(d *Dentry, ev FileEvent) {
	if d.inode == nil || observer.Load() == nil {
		return
	}
	if d.isDir {
		ev |= EventIsDir
	}
	if d.Deleted() && ev&EventAttrib == 0 {
		ev |= EventUnlinked
	}
	if at := d.at.Load(); at.parent != nil {
		send(at.parent.inode.Base(), ev, at.name, 0)
	}
	send(d.inode.Base(), ev, "", 0)
}

// notifyEntry tells the watchers of directory d of an event about its entry.
func notifyEntry(d *Dentry, ev FileEvent, name string, child Inode, cookie uint32) {
	if _, ok := child.(Directory); ok {
		ev |= EventIsDir
	}
	send(d.inode.Base(), ev, name, cookie)
}

func notifyAccess(f *File) { notify(f.path.Dentry, EventAccess) }
func notifyModify(f *File) { notify(f.path.Dentry, EventModify) }

func notifyClose(f *File) {
	if f.PathOnly() {
		return
	}
	ev := EventCloseNoWrite
	if f.Writable() {
		ev = EventCloseWrite
	}
	notify(f.path.Dentry, ev)
}

// NotifyAttrib tells of changed attributes.
func NotifyAttrib(d *Dentry) { notify(d, EventAttrib) }
