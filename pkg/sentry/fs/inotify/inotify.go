// Package inotify is inotify(7).
//
// An Instance has watches, one for each inode, and a queue of events. An inode
// that is watched has the list of its watches attached, which the VFS finds
// through the package's Observer; files that nobody watches cost one atomic
// load per event. A watch keeps the inode's dentry, so that the inode stays the
// same as long as it is watched.
//
// The queue is bounded in number, and in memory by who pays for the instance; what is too
// much becomes one IN_Q_OVERFLOW.
//
// Lock order: locks of directories (held by the VFS when it tells of an event);
// Instance.mu; watchList.mu; InodeBase.mu; wait queues.
//
// Not done: IN_UNMOUNT is sent only if the VFS tells of it. IN_DELETE_SELF of a
// directory doesn't wait for open files that were in it.
package inotify

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Limits, as in /proc/sys/fs/inotify.
const (
	MaxQueuedEvents  = 16384
	MaxUserInstances = 128
	MaxUserWatches   = 65536
)

const (
	allEvents = unix.IN_ALL_EVENTS
	// asked are the bits of a mask that inotify_add_watch(2) keeps.
	asked   = allEvents | unix.IN_EXCL_UNLINK | unix.IN_ONESHOT
	options = unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK | unix.IN_MASK_CREATE | unix.IN_MASK_ADD |
		unix.IN_ISDIR | unix.IN_ONESHOT | unix.IN_Q_OVERFLOW | unix.IN_UNMOUNT | unix.IN_IGNORED
)

// event is what a read returns.
type event struct {
	wd     int32
	mask   uint32
	cookie uint32
	name   string
}

// size is that of the struct inotify_event, with the name filled up with NULs to
// a multiple of 16.
func (e *event) size() int {
	if e.name == "" {
		return 16
	}
	return 16 + (len(e.name)+1+15)&^15
}

func (e *event) append(b []byte) []byte {
	le := binary.LittleEndian
	n := e.size()
	b = le.AppendUint32(b, uint32(e.wd))
	b = le.AppendUint32(b, e.mask)
	b = le.AppendUint32(b, e.cookie)
	b = le.AppendUint32(b, uint32(n-16))
	b = append(b, e.name...)
	return append(b, make([]byte, n-16-len(e.name))...)
}

// watchCost is what a watch takes of the Sentry's memory, about, in bytes.
const watchCost = 256

// cost is what an event takes of the Sentry's memory, about.
func (e *event) cost() int64 { return int64(64 + len(e.name)) }

// watch is one watched inode of one Instance.
type watch struct {
	in   *Instance
	wd   int32
	path vfs.Path
	mask uint32 // guarded by in.mu
	gone bool   // guarded by in.mu
}

// watchList are the watches of an inode. The slice is replaced, not changed.
type watchList struct {
	mu   locks.Mutex[locks.Leaf]
	list atomic.Pointer[[]*watch]
}

type watchesKey struct{}

func watchesOf(b *vfs.InodeBase, create bool) *watchList {
	var mk func() any
	if create {
		mk = func() any { l := &watchList{}; l.list.Store(new([]*watch)); return l }
	}
	l, _ := b.Attachment(watchesKey{}, mk).(*watchList)
	return l
}

func (w *watch) attach() {
	b := w.path.Inode().Base()
	l := watchesOf(b, true)
	l.mu.Lock()
	next := append(slices.Clone(*l.list.Load()), w)
	l.list.Store(&next)
	l.mu.Unlock()
	b.Watch()
}

func (w *watch) detach() {
	b := w.path.Inode().Base()
	l := watchesOf(b, true)
	l.mu.Lock()
	next := slices.DeleteFunc(slices.Clone(*l.list.Load()), func(o *watch) bool { return o == w })
	l.list.Store(&next)
	l.mu.Unlock()
	b.Unwatch()
}

// Instance is what inotify_init(2) makes. Safe for concurrent use.
type Instance struct {
	queue waiter.Queue
	user  auth.KUID
	payer *memfile.Account

	mu      locks.Mutex[locks.Inotify]
	watches map[int32]*watch
	byInode map[*vfs.InodeBase]*watch
	lastWD  int32
	events  []event
	bytes   int // what a read of all events returns
}

var users struct {
	mu locks.Mutex[locks.Leaf]
	of map[auth.KUID]*usage
}

type usage struct{ instances, watches int }

// use changes what a user has; false, and no change, beyond the limits.
func use(u auth.KUID, instances, watches int) bool {
	users.mu.Lock()
	defer users.mu.Unlock()
	if users.of == nil {
		users.of = map[auth.KUID]*usage{}
	}
	n := users.of[u]
	if n == nil {
		n = &usage{}
		users.of[u] = n
	}
	if n.instances+instances > MaxUserInstances || n.watches+watches > MaxUserWatches {
		return false
	}
	n.instances += instances
	if n.watches += watches; *n == (usage{}) {
		delete(users.of, u)
	}
	return true
}

// observer implements vfs.Observer for all Instances.
type observer struct{}

var installed sync.Once

// New does inotify_init1(2): flags has IN_NONBLOCK. EMFILE when the user has
// MaxUserInstances.
func New(c *auth.Credentials, flags uint32) (*vfs.File, error) {
	if flags&^(unix.IN_NONBLOCK|unix.IN_CLOEXEC) != 0 {
		return nil, unix.EINVAL
	}
	if !use(c.RUID, 1, 0) {
		return nil, unix.EMFILE
	}
	installed.Do(func() { vfs.SetObserver(observer{}) })
	in := &Instance{user: c.RUID, payer: c.Account, watches: map[int32]*watch{}, byInode: map[*vfs.InodeBase]*watch{}}
	return anon.NewFile("inotify", in, unix.O_RDONLY|flags&unix.IN_NONBLOCK, c), nil
}

// Of returns the Instance behind f, or nil.
func Of(f *vfs.File) *Instance { in, _ := f.Impl().(*Instance); return in }

// CheckMask is what inotify_add_watch(2) checks before it looks for the file:
// EINVAL for a mask without a known bit, as Linux has it, or one that
// contradicts itself.
func CheckMask(mask uint32) error {
	if mask&(allEvents|options) == 0 || mask&unix.IN_MASK_ADD != 0 && mask&unix.IN_MASK_CREATE != 0 {
		return unix.EINVAL
	}
	return nil
}

// AddWatch does inotify_add_watch(2) for the file at p, which the caller has
// resolved as IN_ONLYDIR and IN_DONT_FOLLOW want. It returns the watch
// descriptor.
func (in *Instance) AddWatch(ctx vfs.Context, p vfs.Path, mask uint32) (int32, error) {
	if err := CheckMask(mask); err != nil {
		return 0, err
	}
	var a vfs.Attr
	if err := p.Inode().Attributes(ctx, &a); err != nil {
		return 0, err
	}
	if err := vfs.CheckPermission(ctx.Credentials(), &a, vfs.MayRead); err != nil {
		return 0, err
	}
	base := p.Inode().Base()
	in.mu.Lock()
	defer in.mu.Unlock()
	if w := in.byInode[base]; w != nil {
		if mask&unix.IN_MASK_CREATE != 0 {
			return 0, unix.EEXIST
		}
		if mask&unix.IN_MASK_ADD != 0 {
			w.mask |= mask & asked
		} else {
			w.mask = mask & asked
		}
		return w.wd, nil
	}
	if !use(in.user, 0, 1) {
		return 0, unix.ENOSPC
	}
	if err := in.payer.Charge(watchCost); err != nil {
		use(in.user, 0, -1)
		return 0, err
	}
	in.lastWD++
	for in.lastWD <= 0 || in.watches[in.lastWD] != nil {
		in.lastWD = max(in.lastWD+1, 1)
	}
	w := &watch{in: in, wd: in.lastWD, path: p, mask: mask & asked}
	in.watches[w.wd], in.byInode[base] = w, w
	w.attach()
	return w.wd, nil
}

// RemoveWatch does inotify_rm_watch(2); EINVAL if there is no such watch.
func (in *Instance) RemoveWatch(wd int32) error {
	in.mu.Lock()
	w := in.watches[wd]
	if w == nil {
		in.mu.Unlock()
		return unix.EINVAL
	}
	in.remove(w)
	in.mu.Unlock()
	in.queue.Notify(waiter.Readable)
	return nil
}

// remove drops w and says so in an event. mu is held.
func (in *Instance) remove(w *watch) {
	in.forget(w)
	in.push(event{wd: w.wd, mask: unix.IN_IGNORED})
}

func (in *Instance) forget(w *watch) {
	w.gone = true
	delete(in.watches, w.wd)
	delete(in.byInode, w.path.Inode().Base())
	w.detach()
	in.payer.Uncharge(watchCost)
	use(in.user, 0, -1)
}

// push queues e, unless the last event is the same. mu is held.
func (in *Instance) push(e event) {
	if k := len(in.events); k > 0 {
		last := &in.events[k-1]
		if last.mask&unix.IN_IGNORED == 0 && last.mask == e.mask && last.wd == e.wd && last.name == e.name {
			return
		}
		if last.mask == unix.IN_Q_OVERFLOW {
			return
		}
	}
	if len(in.events) >= MaxQueuedEvents || in.payer.Charge(e.cost()) != nil {
		e = event{wd: -1, mask: unix.IN_Q_OVERFLOW}
		in.payer.ChargeAlways(e.cost())
	}
	in.events = append(in.events, e)
	in.bytes += e.size()
}

// FileEvent implements vfs.Observer.
func (observer) FileEvent(b *vfs.InodeBase, ev vfs.FileEvent, name string, cookie uint32) {
	l := watchesOf(b, false)
	if l == nil {
		return
	}
	for _, w := range *l.list.Load() {
		w.tell(uint32(ev), name, cookie)
	}
}

func (w *watch) tell(ev uint32, name string, cookie uint32) {
	in := w.in
	in.mu.Lock()
	last := ev&(unix.IN_DELETE_SELF|unix.IN_UNMOUNT) != 0
	wanted := ev&w.mask&allEvents != 0 || ev&unix.IN_UNMOUNT != 0
	if unlinked := ev&uint32(vfs.EventUnlinked) != 0; unlinked && w.mask&unix.IN_EXCL_UNLINK != 0 {
		wanted = false
	}
	if w.gone || !wanted && !last {
		in.mu.Unlock()
		return
	}
	if wanted {
		in.push(event{w.wd, ev & (allEvents | unix.IN_ISDIR | unix.IN_UNMOUNT), cookie, name})
	}
	if last || w.mask&unix.IN_ONESHOT != 0 {
		in.remove(w)
	}
	in.mu.Unlock()
	in.queue.Notify(waiter.Readable)
}

// Read implements vfs.Reader: as many whole events as fit; EINVAL if not even
// the first does.
func (in *Instance) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	in.mu.Lock()
	if len(in.events) == 0 {
		in.mu.Unlock()
		return 0, vfs.ErrWouldBlock
	}
	var out []byte
	n := 0
	for n < len(in.events) && uint64(len(out)+in.events[n].size()) <= dst.Len() {
		e := &in.events[n]
		out = e.append(out)
		in.payer.Uncharge(e.cost())
		n++
	}
	in.bytes -= len(out)
	if n == len(in.events) {
		in.events = nil
	} else {
		clear(in.events[:n])
		in.events = in.events[n:]
	}
	in.mu.Unlock()
	if n == 0 {
		return 0, unix.EINVAL
	}
	got, err := dst.Write(out)
	if got > 0 {
		err = nil
	}
	return int64(got), err
}

// Ioctl implements vfs.Ioctler: FIONREAD.
func (in *Instance) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	if cmd != unix.TIOCINQ {
		return 0, unix.ENOTTY
	}
	in.mu.Lock()
	n := in.bytes
	in.mu.Unlock()
	return 0, usermem.CopyOutUint32(ctx.Memory(), usermem.Addr(arg), uint32(n))
}

// Release implements vfs.Releaser.
func (in *Instance) Release(*vfs.File) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.watches {
		in.forget(w)
	}
	for i := range in.events {
		in.payer.Uncharge(in.events[i].cost())
	}
	in.events = nil
	use(in.user, -1, 0)
}

// Watch is one line of /proc/PID/fdinfo.
type Watch struct {
	WD   int32
	Mask uint32
	Path vfs.Path
}

// Watches lists the watches by descriptor.
func (in *Instance) Watches() []Watch {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := make([]Watch, 0, len(in.watches))
	for _, w := range in.watches {
		all = append(all, Watch{w.wd, w.mask, w.path})
	}
	slices.SortFunc(all, func(a, b Watch) int { return int(a.WD - b.WD) })
	return all
}

// Readiness implements waiter.Waitable.
func (in *Instance) Readiness(mask waiter.Mask) waiter.Mask {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.events) > 0 {
		return mask & waiter.Readable
	}
	return 0
}

// EventRegister implements waiter.Waitable.
func (in *Instance) EventRegister(e *waiter.Entry) { in.queue.Register(e) }

// EventUnregister implements waiter.Waitable.
func (in *Instance) EventUnregister(e *waiter.Entry) { in.queue.Unregister(e) }
