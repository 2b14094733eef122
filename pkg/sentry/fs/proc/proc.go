// Package proc is /proc (proc(5)): what the kernel shows of its tasks and of
// itself, in the formats that programs parse.
//
// New makes an instance, which shows the tasks of one PID namespace, under their
// numbers there. Inodes of what isn't about a task are made once and stay the
// same, so that mounts on them hold. Those below /proc/PID are made anew by each
// lookup (vfs.Ephemeral): nothing of a task is kept when it has gone, and a mount
// on one of them is found only by those who hold it open.
//
// A subject is a process, or one thread of it, as the files below its directory
// see it. Everything is asked of package kernel at the moment of reading; a task
// that has gone gives ESRCH. What is private is protected twice: by owner and
// mode, which follow the task's effective ids (root's where the process is not
// dumpable), and by kernel.Task.AccessibleTo at opening.
//
// /proc/sys has no setting that can be written without effect: what can't be
// changed can't be opened for writing (EACCES), not even by the superuser, as it
// is for Linux's read-only settings.
//
// No lock is held but those of package pseudo; the kernel's come below it. An
// average of the load is kept under load.mu, a leaf.
//
// What it doesn't do: processor time by CPU (the total is shared out evenly), what
// of I/O reaches a disk, soft-dirty pages, syscall and map_files.
package proc

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/vfs"
)

// rootIno is the inode number of /proc, staticInos where those of its fixed files
// begin, as in Linux.
const (
	rootIno    = 1
	staticInos = 0xF0000000 + 1<<16
)

// Options say what an instance is like.
type Options struct {
	// HidePID is hidepid=: 0 shows all processes, 1 lets nobody into the
	// directories of others, 2 doesn't show them either.
	HidePID int
	// GID is gid=: the group that sees all regardless.
	GID auth.KGID
	// Host is what was read of the host; nil shows processors without
	// properties, and as much memory as is in use.
	Host *Host
	// Account bounds and counts the sandbox's memory. Nil: the whole memory
	// file counts, and the host's memory is the limit.
	Account *memfile.Account
	// CommandLine is /proc/cmdline, without the newline.
	CommandLine string
}

// ParseOptions reads the data of mount(2) into o; ids are taken in ns. Unknown
// options give EINVAL.
func (o *Options) ParseOptions(data string, ns *auth.UserNamespace) error {
	for opt := range strings.SplitSeq(data, ",") {
		key, val, _ := strings.Cut(opt, "=")
		switch key {
		case "":
		case "hidepid":
			switch val {
			case "0", "off":
				o.HidePID = 0
			case "1", "noaccess":
				o.HidePID = 1
			case "2", "invisible":
				o.HidePID = 2
			default:
				return unix.EINVAL
			}
		case "gid":
			id, err := strconv.ParseUint(val, 10, 32)
			g, ok := ns.KGID(uint32(id))
			if err != nil || !ok {
				return unix.EINVAL
			}
			o.GID = g
		default:
			return unix.EINVAL
		}
	}
	return nil
}

// String returns the options as /proc/mounts shows them.
func (o *Options) String() string {
	var s string
	if o.GID != 0 {
		s = ",gid=" + strconv.FormatUint(uint64(o.GID), 10)
	}
	if o.HidePID != 0 {
		s += ",hidepid=" + strconv.Itoa(o.HidePID)
	}
	return s
}

// procfs is an instance. Constant but for load.
type procfs struct {
	k    *kernel.Kernel
	ns   *kernel.PIDNamespace
	opts Options
	dev  uint64
	// build makes the fixed files; only New uses it.
	build pseudo.Builder
	load  load
}

// New returns an instance that shows the tasks of ns. Only Options.Host may be
// shared with other instances.
func New(k *kernel.Kernel, ns *kernel.PIDNamespace, opts Options) (*vfs.Filesystem, error) {
	if opts.HidePID < 0 || opts.HidePID > 2 {
		return nil, unix.EINVAL
	}
	if opts.Host == nil {
		opts.Host = &Host{}
	}
	fs := &vfs.Filesystem{Type: "proc", Fixed: true, Dev: vfs.NewDev(), Magic: unix.PROC_SUPER_MAGIC, Policy: vfs.CacheDynamic, Options: opts.String()}
	p := &procfs{k: k, ns: ns, opts: opts, dev: fs.Dev}
	p.build = pseudo.Builder{Dev: fs.Dev, Time: k.BootTime, LastIno: staticInos}
	fs.Impl = p
	root := &rootDir{p: p}
	root.Facts = pseudo.Facts{Ino: rootIno, Dev: p.dev, Mode: unix.S_IFDIR | 0o555, Time: k.BootTime}
	p.fillSystem(&root.Dir)
	sys := p.build.Dir(0o555)
	p.fillSys(sys)
	root.Put("sys", sys)
	fs.SetRoot(root)
	return fs, nil
}

// print makes a Generator of a function that only writes.
func print(f func(b *bytes.Buffer)) pseudo.Generator {
	return func(_ vfs.Context, b *bytes.Buffer, _ int64) (int64, error) {
		f(b)
		return pseudo.Done, nil
	}
}

// caller returns the process that ctx acts for, or nil.
func (p *procfs) caller(ctx vfs.Context) *kernel.ThreadGroup {
	if t, ok := ctx.(*kernel.Task); ok {
		return t.ThreadGroup()
	}
	return p.k.RootPIDNS.ThreadGroup(ctx.ThreadGroupID())
}

// callerTask returns the task that ctx is, or the first of its process, or nil.
func (p *procfs) callerTask(ctx vfs.Context) *kernel.Task {
	if t, ok := ctx.(*kernel.Task); ok {
		return t
	}
	if tg := p.caller(ctx); tg != nil {
		return tg.Leader()
	}
	return nil
}

// rootDir is /proc: fixed names, and one for each process.
type rootDir struct {
	pseudo.Dir
	p *procfs
}

// Attributes implements vfs.Inode: processes count as links, as on Linux.
func (d *rootDir) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	d.Dir.Attributes(ctx, a)
	a.Nlink += uint32(d.p.ns.ProcessCount())
	return nil
}

// parsePID reads a number as it stands in a path: no sign, no leading zero.
func parsePID(name string) (int32, bool) {
	if name == "" || name[0] < '1' || name[0] > '9' || len(name) > 10 {
		return 0, false
	}
	n, err := strconv.ParseInt(name, 10, 32)
	return int32(n), err == nil
}

// Lookup implements vfs.Directory. As on Linux a thread's number is found though
// it is not listed.
func (d *rootDir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	id, ok := parsePID(name)
	if !ok {
		return d.Dir.Lookup(ctx, name)
	}
	t := d.p.ns.Task(id)
	if t == nil {
		return nil, unix.ENOENT
	}
	s := subject{p: d.p, tg: t.ThreadGroup()}
	if t != s.tg.Leader() {
		s.thread = t
	}
	if d.p.opts.HidePID == 2 && !s.shown(ctx) {
		return nil, unix.ENOENT
	}
	return s.newDir(false), nil
}

// Open implements vfs.Inode.
func (d *rootDir) Open(_ vfs.Context, p vfs.Path, _ uint32) (any, error) {
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// firstPID is the cookie before that of process 0.
const firstPID = 1 << 16

// List implements pseudo.Lister: the fixed names, then processes by number.
func (d *rootDir) List(ctx vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	if cookie < firstPID {
		full := false
		err := d.Dir.List(ctx, cookie, func(e vfs.DirEntry) bool {
			full = !emit(e)
			return !full
		})
		if err != nil || full {
			return err
		}
		cookie = firstPID
	}
	type process struct {
		id int32
		tg *kernel.ThreadGroup
	}
	var all []process
	for _, t := range d.p.ns.Tasks() {
		tg := t.ThreadGroup()
		if id := t.TID(d.p.ns); tg.Leader() == t && int64(id)+firstPID+1 > cookie {
			all = append(all, process{id, tg})
		}
	}
	slices.SortFunc(all, func(a, b process) int { return cmp.Compare(a.id, b.id) })
	for _, o := range all {
		s := subject{p: d.p, tg: o.tg}
		if d.p.opts.HidePID == 2 && !s.shown(ctx) {
			continue
		}
		e := vfs.DirEntry{Name: strconv.Itoa(int(o.id)), Ino: s.ino(classDir, 0), Type: unix.DT_DIR, Next: int64(o.id) + firstPID + 1}
		if !emit(e) {
			return nil
		}
	}
	return nil
}
