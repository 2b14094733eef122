package proc

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/executable"
	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
)

// subject is whom a directory is about: a process, or one thread. It is a value.
type subject struct {
	p  *procfs
	tg *kernel.ThreadGroup
	// thread is nil where the process is meant, whose leader may change by
	// execve(2).
	thread *kernel.Task
}

// Classes of inode numbers.
const (
	classDir = iota + 1
	classEntry
	classFD
	classFDInfo
	classNS
	classNet
	classThreads = 8 // added for those below task/TID
)

// ino returns the inode number of something below the subject's directory: the
// same as long as the task lives.
func (s subject) ino(class, index uint64) uint64 {
	id := s.tg.ID(s.p.k.RootPIDNS)
	if s.thread != nil {
		id, class = s.thread.TID(s.p.k.RootPIDNS), class+classThreads
	}
	return uint64(id)<<40 | class<<32 | index
}

// task returns the task to ask: ESRCH when it has gone.
func (s subject) task() (*kernel.Task, error) {
	t := s.thread
	if t == nil {
		t = s.tg.Leader()
	}
	if t == nil || s.p.ns.Task(t.TID(s.p.ns)) != t {
		return nil, unix.ESRCH
	}
	return t, nil
}

// mayInspect reports whether ctx's task may look into t.
func (s subject) mayInspect(ctx vfs.Context, t *kernel.Task) bool {
	return t.AccessibleTo(s.p.caller(ctx), ctx.Credentials(), auth.FSIDs)
}

// inspect returns the task: EACCES unless ctx's task may look into it.
func (s subject) inspect(ctx vfs.Context) (*kernel.Task, error) {
	t, err := s.task()
	if err != nil {
		return nil, err
	}
	if !s.mayInspect(ctx, t) {
		return t, unix.EACCES
	}
	return t, nil
}

// memory calls f with the subject's address space. Where it has none (a zombie),
// nothing happens.
func (s subject) memory(f func(m *mm.MemoryManager) error) error {
	t, err := s.task()
	if err != nil {
		return err
	}
	m := t.SharedMM()
	if m == nil {
		return nil
	}
	defer m.DecUsers()
	return f(m)
}

// shown reports whether hidepid lets ctx's task see the subject.
func (s subject) shown(ctx vfs.Context) bool {
	if s.p.opts.HidePID == 0 || ctx.Credentials().InGroup(s.p.opts.GID) {
		return true
	}
	_, err := s.inspect(ctx)
	return err == nil
}

// user is the owner of the subject's directories that anybody may enter.
func (s subject) user() (auth.KUID, auth.KGID) {
	t, err := s.task()
	if err != nil {
		return auth.RootKUID, auth.RootKGID
	}
	c := t.Credentials()
	return c.EUID, c.EGID
}

// owner is the owner of all else: the superuser where the process is not
// dumpable.
func (s subject) owner() (auth.KUID, auth.KGID) {
	t, err := s.task()
	if err != nil {
		return auth.RootKUID, auth.RootKGID
	}
	if m := t.SharedMM(); m != nil {
		dumpable := m.Dumpable()
		m.DecUsers()
		if dumpable != 1 {
			return auth.RootKUID, auth.RootKGID
		}
	}
	c := t.Credentials()
	return c.EUID, c.EGID
}

// meta returns the attributes of an inode below the subject's directory.
func (s subject) meta(class, index uint64, mode uint32) pseudo.Facts {
	m := pseudo.Facts{Ino: s.ino(class, index), Dev: s.p.dev, Mode: mode,
		Time: s.p.k.BootTime + s.tg.StartTime() - s.p.k.BootMonotonic, Owner: s.owner}
	if mode == unix.S_IFDIR|0o555 {
		m.Owner = s.user
	}
	return m
}

// taskFile is an inode below a task's directory.
type (
	taskFile struct{ pseudo.File }
)

// Ephemeral implements vfs.Ephemeral.
func (*taskFile) Ephemeral() {}

// entry is a name in a task's directory.
type entry struct {
	name string
	mode uint32
	// only says where the name is: in both kinds of directory unless set.
	only uint8
	make func(s subject, m pseudo.Facts) vfs.Inode
}

const (
	processOnly = iota + 1
	threadOnly
)

// show is an entry that is a file, written by f from what the kernel knows of
// the task.
func show(name string, mode uint32, f func(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error) entry {
	return entry{name: name, mode: unix.S_IFREG | mode, make: func(s subject, m pseudo.Facts) vfs.Inode {
		return &taskFile{pseudo.File{Meta: m.Meta(), Generate: s.whole(f)}}
	}}
}

func (s subject) whole(f func(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error) pseudo.Generator {
	return pseudo.Whole(func(ctx vfs.Context, b *bytes.Buffer) error {
		t, err := s.task()
		if err != nil {
			return err
		}
		return f(s, t, ctx, b)
	})
}

// private makes an entry one that only those may open who may inspect the task.
func private(e entry) entry {
	inner := e.make
	e.make = func(s subject, m pseudo.Facts) vfs.Inode {
		i := inner(s, m)
		i.(*taskFile).Check = func(ctx vfs.Context, _ uint32) error {
			_, err := s.inspect(ctx)
			return err
		}
		return i
	}
	return e
}

// stored adds to a file what takes writes.
func stored(e entry, f func(s subject, t *kernel.Task, ctx vfs.Context, data string) error) entry {
	inner := e.make
	e.make = func(s subject, m pseudo.Facts) vfs.Inode {
		i := inner(s, m)
		i.(*taskFile).Store = func(ctx vfs.Context, data []byte) error {
			t, err := s.task()
			if err != nil {
				return err
			}
			return f(s, t, ctx, string(data))
		}
		return i
	}
	return e
}

// parts is an entry that is a file written part by part.
func parts(name string, mode uint32, gen func(s subject) pseudo.Generator) entry {
	return entry{name: name, mode: unix.S_IFREG | mode, make: func(s subject, m pseudo.Facts) vfs.Inode {
		return &taskFile{pseudo.File{Meta: m.Meta(), Generate: gen(s)}}
	}}
}

// only restricts an entry to one kind of directory.
func only(where uint8, e entry) entry {
	e.only = where
	return e
}

// entries are the names in /proc/PID and /proc/PID/task/TID. They are set by
// init, since some of them lead back here.
var entries []entry

func init() {
	entries = []entry{
		only(processOnly, entry{name: "task", mode: unix.S_IFDIR | 0o555, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &threadsDir{subDir: subDir{Meta: m.Meta(), s: s}}
		}}),
		{name: "fd", mode: unix.S_IFDIR | 0o500, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &fdDir{subDir: subDir{Meta: m.Meta(), s: s}}
		}},
		{name: "fdinfo", mode: unix.S_IFDIR | 0o555, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &fdDir{subDir: subDir{Meta: m.Meta(), s: s}, info: true}
		}},
		{name: "ns", mode: unix.S_IFDIR | 0o511, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &nsDir{subDir: subDir{Meta: m.Meta(), s: s}}
		}},
		{name: "net", mode: unix.S_IFDIR | 0o555, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &netDir{subDir: subDir{Meta: m.Meta(), s: s}}
		}},
		private(parts("environ", 0o400, environ)),
		private(parts("auxv", 0o400, auxv)),
		show("status", 0o444, status),
		private(show("personality", 0o400, personality)),
		show("limits", 0o444, showLimits),
		stored(show("comm", 0o644, comm), setComm),
		parts("cmdline", 0o444, cmdline),
		show("stat", 0o444, stat),
		show("statm", 0o444, statm),
		private(parts("maps", 0o444, func(s subject) pseudo.Generator { return s.maps(false) })),
		{name: "mem", mode: unix.S_IFREG | 0o600, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &memInode{Meta: m.Meta(), s: s}
		}},
		placeLink("cwd", func(t *kernel.Task) (vfs.Path, error) {
			if fs := t.FS(); fs != nil {
				return fs.Cwd(), nil
			}
			return vfs.Path{}, unix.ENOENT
		}),
		placeLink("root", func(t *kernel.Task) (vfs.Path, error) {
			if fs := t.FS(); fs != nil {
				return fs.Root(), nil
			}
			return vfs.Path{}, unix.ENOENT
		}),
		placeLink("exe", programOf),
		parts("mounts", 0o444, func(s subject) pseudo.Generator { return s.mounts(mountsLine) }),
		parts("mountinfo", 0o444, func(s subject) pseudo.Generator { return s.mounts(mountinfoLine) }),
		only(processOnly, parts("mountstats", 0o400, func(s subject) pseudo.Generator { return s.mounts(mountstatsLine) })),
		private(parts("smaps", 0o444, func(s subject) pseudo.Generator { return s.maps(true) })),
		private(parts("smaps_rollup", 0o444, smapsRollup)),
		{name: "pagemap", mode: unix.S_IFREG | 0o400, make: func(s subject, m pseudo.Facts) vfs.Inode {
			return &pagemapInode{memInode{Meta: m.Meta(), s: s}}
		}},
		only(processOnly, stored(show("clear_refs", 0o200, unreadable), clearRefs)),
		show("wchan", 0o444, func(_ subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
			b.WriteByte('0')
			return nil
		}),
		show("stack", 0o400, func(subject, *kernel.Task, vfs.Context, *bytes.Buffer) error { return unix.EPERM }),
		show("schedstat", 0o444, schedstat),
		show("cpuset", 0o444, text("/\n")),
		show("cgroup", 0o444, text("0::/\n")),
		show("oom_score", 0o444, oomScore),
		stored(show("oom_adj", 0o644, oomAdj), setOOMAdj),
		stored(show("oom_score_adj", 0o644, oomScoreAdj), setOOMScoreAdj),
		stored(show("loginuid", 0o644, text("4294967295")), func(subject, *kernel.Task, vfs.Context, string) error { return unix.EPERM }),
		show("sessionid", 0o444, text("4294967295")),
		only(threadOnly, show("children", 0o444, children)),
		private(show("io", 0o400, ioCounts)),
		stored(show("uid_map", 0o644, func(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error {
			return showIDMap(t, ctx, b, false)
		}), func(s subject, t *kernel.Task, ctx vfs.Context, data string) error {
			return setIDMap(t, ctx, data, false)
		}),
		stored(show("gid_map", 0o644, func(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error {
			return showIDMap(t, ctx, b, true)
		}), func(s subject, t *kernel.Task, ctx vfs.Context, data string) error {
			return setIDMap(t, ctx, data, true)
		}),
		only(processOnly, stored(show("setgroups", 0o644, setgroups), storeSetgroups)),
		only(processOnly, show("coredump_filter", 0o444, text("00000033\n"))),
		only(processOnly, stored(show("timerslack_ns", 0o666, timerSlack), setTimerSlack)),
	}
}

func text(s string) func(subject, *kernel.Task, vfs.Context, *bytes.Buffer) error {
	return func(_ subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
		b.WriteString(s)
		return nil
	}
}

// subDir is what the directories of a subject share.
type subDir struct {
	pseudo.Meta
	vfs.StaticDirectory
	s subject
}

// Ephemeral implements vfs.Ephemeral.
func (*subDir) Ephemeral() {}

// taskDir is /proc/PID or /proc/PID/task/TID.
type taskDir struct {
	subDir
	where uint8
}

func (s subject) newDir(thread bool) *taskDir {
	d := &taskDir{subDir: subDir{Meta: s.meta(classDir, 0, unix.S_IFDIR|0o555).Meta(), s: s}, where: processOnly}
	if thread {
		d.where = threadOnly
	}
	for i := range entries {
		if d.has(&entries[i]) && entries[i].mode&unix.S_IFMT == unix.S_IFDIR {
			d.Links++
		}
	}
	d.Links += 2
	return d
}

func (d *taskDir) has(e *entry) bool { return e.only == 0 || e.only == d.where }

// enter applies hidepid=1.
func (d *taskDir) enter(ctx vfs.Context) error {
	if d.s.p.opts.HidePID != 0 && !d.s.shown(ctx) {
		return unix.EPERM
	}
	return nil
}

// Lookup implements vfs.Directory.
func (d *taskDir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	if _, err := d.s.task(); err != nil {
		return nil, unix.ENOENT
	}
	for i := range entries {
		if e := &entries[i]; e.name == name && d.has(e) {
			return e.make(d.s, d.s.meta(classEntry, uint64(i), e.mode)), nil
		}
	}
	return nil, unix.ENOENT
}

// Open implements vfs.Inode.
func (d *taskDir) Open(ctx vfs.Context, p vfs.Path, _ uint32) (any, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// List implements pseudo.Lister.
func (d *taskDir) List(_ vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	if _, err := d.s.task(); err != nil {
		return unix.ENOENT
	}
	for i := cookie - pseudo.FirstCookie; i < int64(len(entries)); i++ {
		e := &entries[i]
		if !d.has(e) {
			continue
		}
		if !emit(vfs.DirEntry{Name: e.name, Ino: d.s.ino(classEntry, uint64(i)), Type: vfs.DTType(e.mode), Next: i + pseudo.FirstCookie + 1}) {
			return nil
		}
	}
	return nil
}

// threadsDir is /proc/PID/task.
type threadsDir struct{ subDir }

// threads returns the process's threads by number, with a leader that has ended
// but not the others.
func (d *threadsDir) threads() []*kernel.Task {
	ns := d.s.p.ns
	all := d.s.tg.Tasks()
	if l := d.s.tg.Leader(); !slices.Contains(all, l) {
		all = append(all, l)
	}
	all = slices.DeleteFunc(all, func(t *kernel.Task) bool { return ns.Task(t.TID(ns)) != t })
	slices.SortFunc(all, func(a, b *kernel.Task) int { return cmp.Compare(a.TID(ns), b.TID(ns)) })
	return all
}

// Attributes implements vfs.Inode.
func (d *threadsDir) Attributes(ctx vfs.Context, a *vfs.Attr) error {
	d.Meta.Attributes(ctx, a)
	a.Nlink = 2 + uint32(len(d.s.tg.Tasks()))
	return nil
}

// Lookup implements vfs.Directory.
func (d *threadsDir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	id, ok := parsePID(name)
	if !ok {
		return nil, unix.ENOENT
	}
	t := d.s.p.ns.Task(id)
	if t == nil || t.ThreadGroup() != d.s.tg {
		return nil, unix.ENOENT
	}
	return subject{p: d.s.p, tg: d.s.tg, thread: t}.newDir(true), nil
}

// Open implements vfs.Inode.
func (d *threadsDir) Open(_ vfs.Context, p vfs.Path, _ uint32) (any, error) {
	return pseudo.OpenDir(p, d.Ino, d), nil
}

// List implements pseudo.Lister.
func (d *threadsDir) List(_ vfs.Context, cookie int64, emit func(vfs.DirEntry) bool) error {
	for _, t := range d.threads() {
		id := t.TID(d.s.p.ns)
		next := int64(id) + pseudo.FirstCookie
		if next <= cookie {
			continue
		}
		s := subject{p: d.s.p, tg: d.s.tg, thread: t}
		if !emit(vfs.DirEntry{Name: strconv.Itoa(int(id)), Ino: s.ino(classDir, 0), Type: unix.DT_DIR, Next: next}) {
			return nil
		}
	}
	return nil
}

// placeLink is an entry that is a link to a place.
func placeLink(name string, f func(t *kernel.Task) (vfs.Path, error)) entry {
	return entry{name: name, mode: unix.S_IFLNK | 0o777, make: func(s subject, m pseudo.Facts) vfs.Inode {
		return &magicLink{Meta: m.Meta(), s: s, target: f}
	}}
}

// magicLink leads to a place.
type magicLink struct {
	pseudo.Meta
	s      subject
	target func(t *kernel.Task) (vfs.Path, error)
}

// Ephemeral implements vfs.Ephemeral.
func (*magicLink) Ephemeral() {}

// Open implements vfs.Inode; links aren't opened.
func (*magicLink) Open(vfs.Context, vfs.Path, uint32) (any, error) { return nil, unix.ELOOP }

// Target implements vfs.MagicLink.
func (l *magicLink) Target(ctx vfs.Context) (vfs.Path, error) {
	t, err := l.s.inspect(ctx)
	if err != nil {
		if err == unix.ESRCH {
			err = unix.ENOENT
		}
		return vfs.Path{}, err
	}
	return l.target(t)
}

// Readlink implements vfs.Link.
func (l *magicLink) Readlink(ctx vfs.Context) (string, error) {
	p, err := l.Target(ctx)
	if err != nil {
		return "", err
	}
	return l.s.p.pathName(ctx, p), nil
}

// pathName returns p as ctx's task sees it.
func (p *procfs) pathName(ctx vfs.Context, at vfs.Path) string {
	var root vfs.Path
	if t := p.callerTask(ctx); t != nil {
		if fs := t.FS(); fs != nil {
			root = fs.Root()
		}
	}
	name, _ := vfs.PathName(root, at)
	if at.Dentry.Deleted() {
		name += " (deleted)"
	}
	return name
}

func programOf(t *kernel.Task) (vfs.Path, error) {
	m := t.SharedMM()
	if m == nil {
		return vfs.Path{}, unix.ENOENT
	}
	defer m.DecUsers()
	if e, ok := m.Executable().(*executable.Kept); ok {
		return e.Path(), nil
	}
	return vfs.Path{}, unix.ENOENT
}

func comm(_ subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	b.WriteString(t.Name())
	b.WriteByte('\n')
	return nil
}

// setComm changes the name of a thread of the caller's own process (EINVAL for
// others).
func setComm(s subject, t *kernel.Task, ctx vfs.Context, data string) error {
	if s.p.caller(ctx) != s.tg {
		return unix.EINVAL
	}
	name, _, _ := strings.Cut(data, "\x00")
	t.SetName(name)
	return nil
}

func personality(_ subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	fmt.Fprintf(b, "%08x\n", t.Personality().Load())
	return nil
}

func children(s subject, t *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	for _, c := range t.Children() {
		if id := c.ID(s.p.ns); id != 0 {
			fmt.Fprintf(b, "%d ", id)
		}
	}
	return nil
}

// parseNumber reads the number that a write gave, with white space around it.
func parseNumber(data string, lowest, highest int64) (int64, error) {
	data, _, _ = strings.Cut(data, "\x00")
	n, err := strconv.ParseInt(strings.TrimSpace(data), 0, 64)
	if err != nil || n < lowest || n > highest {
		return 0, unix.EINVAL
	}
	return n, nil
}

func oomScoreAdj(s subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	fmt.Fprintf(b, "%d\n", s.tg.OOMScoreAdj().Load())
	return nil
}

func setOOMScoreAdj(s subject, _ *kernel.Task, ctx vfs.Context, data string) error {
	n, err := parseNumber(data, -1000, 1000)
	if err != nil {
		return err
	}
	return s.adjustOOM(ctx, int32(n))
}

// adjustOOM sets the adjustment; making the process less likely to be killed is
// a privilege (proc(5)).
func (s subject) adjustOOM(ctx vfs.Context, n int32) error {
	if n < s.tg.OOMScoreAdj().Load() && !ctx.Credentials().HasRootCap(unix.CAP_SYS_RESOURCE) {
		return unix.EACCES
	}
	s.tg.OOMScoreAdj().Store(n)
	return nil
}

// oom_adj is the older scale, -17 to 15.
func oomAdj(s subject, _ *kernel.Task, _ vfs.Context, b *bytes.Buffer) error {
	n := s.tg.OOMScoreAdj().Load()
	if n == 1000 {
		n = 15
	} else {
		n = n * 17 / 1000
	}
	fmt.Fprintf(b, "%d\n", n)
	return nil
}

func setOOMAdj(s subject, _ *kernel.Task, ctx vfs.Context, data string) error {
	n, err := parseNumber(data, -17, 15)
	if err != nil {
		return err
	}
	if n == 15 {
		return s.adjustOOM(ctx, 1000)
	}
	return s.adjustOOM(ctx, int32(n*1000/17))
}

func timerSlack(s subject, t *kernel.Task, ctx vfs.Context, b *bytes.Buffer) error {
	if !s.mayInspect(ctx, t) {
		return unix.EPERM
	}
	fmt.Fprintf(b, "%d\n", t.Scheduling().TimerSlack)
	return nil
}

func setTimerSlack(s subject, t *kernel.Task, ctx vfs.Context, data string) error {
	n, err := parseNumber(data, 0, 1<<62)
	if err != nil {
		return err
	}
	if s.p.caller(ctx) != s.tg && !ctx.Credentials().HasCapIn(unix.CAP_SYS_NICE, t.Credentials().UserNS) {
		return unix.EPERM
	}
	t.SetScheduling(func(c *kernel.Scheduling) {
		if c.TimerSlack = uint64(n); n == 0 {
			c.TimerSlack = 50000
		}
	})
	return nil
}
