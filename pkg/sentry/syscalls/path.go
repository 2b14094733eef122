package syscalls

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

var pathRows = []Row{
	full(unix.SYS_OPEN, "open", call3(open)),
	full(unix.SYS_OPENAT, "openat", call4(openat)),
	full(unix.SYS_CREAT, "creat", call2(creat)),
	full(unix.SYS_STAT, "stat", call2(stat)),
	full(unix.SYS_LSTAT, "lstat", call2(lstat)),
	full(unix.SYS_FSTAT, "fstat", call2(fstat)),
	full(unix.SYS_NEWFSTATAT, "newfstatat", call4(newfstatat)),
	full(unix.SYS_STATX, "statx", call5(statx)),
	full(unix.SYS_ACCESS, "access", call2(access)),
	full(unix.SYS_FACCESSAT, "faccessat", call3(faccessat)),
	full(unix.SYS_FACCESSAT2, "faccessat2", call4(faccessat2)),
	full(unix.SYS_CHMOD, "chmod", call2(chmod)),
	full(unix.SYS_FCHMOD, "fchmod", call2(fchmod)),
	full(unix.SYS_FCHMODAT, "fchmodat", call3(fchmodat)),
	full(unix.SYS_CHOWN, "chown", call3(chown)),
	full(unix.SYS_LCHOWN, "lchown", call3(lchown)),
	full(unix.SYS_FCHOWN, "fchown", call3(fchown)),
	full(unix.SYS_FCHOWNAT, "fchownat", call5(fchownat)),
	full(unix.SYS_UMASK, "umask", call1(umask)),
	full(unix.SYS_LINK, "link", call2(link)),
	full(unix.SYS_LINKAT, "linkat", call5(linkat)),
	full(unix.SYS_UNLINK, "unlink", call1(unlink)),
	full(unix.SYS_UNLINKAT, "unlinkat", call3(unlinkat)),
	full(unix.SYS_RMDIR, "rmdir", call1(rmdir)),
	full(unix.SYS_RENAME, "rename", call2(rename)),
	full(unix.SYS_RENAMEAT, "renameat", call4(renameat)),
	full(unix.SYS_RENAMEAT2, "renameat2", call5(renameat2)),
	full(unix.SYS_MKDIR, "mkdir", call2(mkdir)),
	full(unix.SYS_MKDIRAT, "mkdirat", call3(mkdirat)),
	full(unix.SYS_MKNOD, "mknod", call3(mknod)),
	full(unix.SYS_MKNODAT, "mknodat", call4(mknodat)),
	full(unix.SYS_SYMLINK, "symlink", call2(symlink)),
	full(unix.SYS_SYMLINKAT, "symlinkat", call3(symlinkat)),
	full(unix.SYS_READLINK, "readlink", call3(readlink)),
	full(unix.SYS_READLINKAT, "readlinkat", call4(readlinkat)),
	full(unix.SYS_TRUNCATE, "truncate", call2(truncate)),
	full(unix.SYS_STATFS, "statfs", call2(statfs)),
	full(unix.SYS_FSTATFS, "fstatfs", call2(fstatfs)),
	full(unix.SYS_GETCWD, "getcwd", call2(getcwd)),
	full(unix.SYS_CHDIR, "chdir", call1(chdir)),
	full(unix.SYS_FCHDIR, "fchdir", call1(fchdir)),
	full(unix.SYS_CHROOT, "chroot", call1(chroot)),
	full(unix.SYS_UTIMENSAT, "utimensat", call4(utimensat)),
	full(unix.SYS_UTIMES, "utimes", call2(utimes)),
	full(unix.SYS_UTIME, "utime", call2(utime)),
	full(unix.SYS_FUTIMESAT, "futimesat", call3(futimesat)),
}

func open(t *kernel.Task, p PathPtr, flags OpenFlags, mode Mode) (uint64, error) {
	return openat(t, cwd, p, flags, mode)
}

func creat(t *kernel.Task, p PathPtr, mode Mode) (uint64, error) {
	return openat(t, cwd, p, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, mode)
}

func openat(t *kernel.Task, d DirFD, p PathPtr, flags OpenFlags, mode Mode) (uint64, error) {
	view, path, err := d.pathOf(t, p)
	if err != nil {
		return 0, err
	}
	m := uint32(mode) & 0o7777 &^ t.FS().Umask()
	f, err := t.Kernel().Opener.Open(t, view, path, uint32(flags), m, 0)
	if err != nil {
		return 0, err
	}
	fd, err := t.FDs().Add(f, 0, flags&unix.O_CLOEXEC != 0, fdLimit(t))
	if err != nil {
		f.DecRef()
	}
	return uint64(fd), err
}

func stat(t *kernel.Task, p PathPtr, buf Addr) (uint64, error) { return newfstatat(t, cwd, p, buf, 0) }
func lstat(t *kernel.Task, p PathPtr, buf Addr) (uint64, error) {
	return newfstatat(t, cwd, p, buf, unix.AT_SYMLINK_NOFOLLOW)
}

func fstat(t *kernel.Task, fd FD, buf Addr) (uint64, error) {
	f, err := fd.file(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	var a vfs.Attr
	if err := f.Stat(t, &a); err != nil {
		return 0, err
	}
	return 0, putStat(t, buf, &a)
}

func newfstatat(t *kernel.Task, d DirFD, p PathPtr, buf Addr, flags AtFlags) (uint64, error) {
	w, err := flags.walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return 0, err
	}
	at, err := d.resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	var a vfs.Attr
	if err := at.Inode().Attributes(t, &a); err != nil {
		return 0, err
	}
	return 0, putStat(t, buf, &a)
}

// putStat writes a struct stat.
func putStat(t *kernel.Task, buf Addr, a *vfs.Attr) error {
	ns := t.Credentials().UserNS
	var room [144]byte
	w := writer{b: room[:0]}
	w.u64(a.Dev)
	w.u64(a.Ino)
	w.u64(uint64(a.Nlink))
	w.u32(a.Mode)
	w.u32(ns.UID(a.UID))
	w.u32(ns.GID(a.GID))
	w.u32(0)
	w.u64(a.Rdev)
	w.i64(a.Size)
	w.i64(int64(a.BlockSize))
	w.u64(a.Blocks)
	w.timespec(a.Atime)
	w.timespec(a.Mtime)
	w.timespec(a.Ctime)
	w.zero(24)
	return w.to(t, buf)
}

func statx(t *kernel.Task, d DirFD, p PathPtr, flags AtFlags, mask uint32, buf Addr) (uint64, error) {
	const sync = unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC
	if mask&unix.STATX__RESERVED != 0 || flags&sync == sync {
		return 0, unix.EINVAL
	}
	w, err := (flags &^ sync).walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return 0, err
	}
	at, err := d.resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	var a vfs.Attr
	if err := at.Inode().Attributes(t, &a); err != nil {
		return 0, err
	}
	ns := t.Credentials().UserNS
	got := uint32(unix.STATX_BASIC_STATS)
	if a.Btime != 0 {
		got |= unix.STATX_BTIME
	}
	var o writer
	o.u32(got)
	o.u32(a.BlockSize)
	o.u64(0)
	o.u32(a.Nlink)
	o.u32(ns.UID(a.UID))
	o.u32(ns.GID(a.GID))
	o.u16(uint16(a.Mode))
	o.u16(0)
	o.u64(a.Ino)
	o.i64(a.Size)
	o.u64(a.Blocks)
	o.u64(0)
	for _, ts := range []int64{a.Atime, a.Btime, a.Ctime, a.Mtime} {
		s, n := ts/second, ts%second
		if n < 0 {
			s, n = s-1, n+second
		}
		o.i64(s)
		o.u32(uint32(n))
		o.u32(0)
	}
	o.u32(unix.Major(a.Rdev))
	o.u32(unix.Minor(a.Rdev))
	o.u32(unix.Major(a.Dev))
	o.u32(unix.Minor(a.Dev))
	o.zero(256 - len(o.b))
	return 0, o.to(t, buf)
}

func access(t *kernel.Task, p PathPtr, mode uint32) (uint64, error) {
	return faccessat2(t, cwd, p, mode, 0)
}

func faccessat(t *kernel.Task, d DirFD, p PathPtr, mode uint32) (uint64, error) {
	return faccessat2(t, d, p, mode, 0)
}

func faccessat2(t *kernel.Task, d DirFD, p PathPtr, mode uint32, flags AtFlags) (uint64, error) {
	if mode&^7 != 0 {
		return 0, unix.EINVAL
	}
	w, err := (flags &^ unix.AT_EACCESS).walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	c := t.Credentials()
	if flags&unix.AT_EACCESS == 0 {
		// With the real ids, and the capabilities they would have.
		n := c.Fork()
		n.FSUID, n.FSGID = c.RUID, c.RGID
		if c.SecureBits&auth.SecbitNoSetuidFixup == 0 {
			if root, ok := c.UserNS.KUID(0); ok && c.RUID == root {
				n.Effective = c.Permitted
			} else {
				n.Effective = 0
			}
		}
		t.SetCredentials(n)
		defer t.SetCredentials(c)
	}
	at, err := d.resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Access(t, at, t.Credentials(), vfs.Permission(mode))
}

func chmod(t *kernel.Task, p PathPtr, mode Mode) (uint64, error) { return fchmodat(t, cwd, p, mode) }

func fchmodat(t *kernel.Task, d DirFD, p PathPtr, mode Mode) (uint64, error) {
	at, err := d.resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Chmod(t, at, uint32(mode))
}

func fchmod(t *kernel.Task, fd FD, mode Mode) (uint64, error) {
	f, err := fd.ioFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, vfs.Chmod(t, f.Path(), uint32(mode))
}

func chown(t *kernel.Task, p PathPtr, uid, gid uint32) (uint64, error) {
	return fchownat(t, cwd, p, uid, gid, 0)
}

func lchown(t *kernel.Task, p PathPtr, uid, gid uint32) (uint64, error) {
	return fchownat(t, cwd, p, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func fchownat(t *kernel.Task, d DirFD, p PathPtr, uid, gid uint32, flags AtFlags) (uint64, error) {
	w, err := flags.walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	at, err := d.resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	return 0, chownPath(t, at, uid, gid)
}

func chownPath(t *kernel.Task, at vfs.Path, uid, gid uint32) error {
	u, err := kuid(t, uid)
	if err != nil {
		return err
	}
	g, err := kgid(t, gid)
	if err != nil {
		return err
	}
	return vfs.Chown(t, at, u, g)
}

func fchown(t *kernel.Task, fd FD, uid, gid uint32) (uint64, error) {
	f, err := fd.ioFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, chownPath(t, f.Path(), uid, gid)
}

func umask(t *kernel.Task, m Mode) (uint64, error) {
	return uint64(t.FS().SetUmask(uint32(m))), nil
}

func link(t *kernel.Task, old, n PathPtr) (uint64, error) { return linkat(t, cwd, old, cwd, n, 0) }

func linkat(t *kernel.Task, od DirFD, old PathPtr, nd DirFD, n PathPtr, flags AtFlags) (uint64, error) {
	w, err := flags.walk(unix.AT_SYMLINK_FOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	if flags&unix.AT_EMPTY_PATH != 0 && !t.Credentials().HasCap(unix.CAP_DAC_READ_SEARCH) {
		return 0, unix.ENOENT
	}
	at, err := od.resolve(t, old, w)
	if err != nil {
		return 0, err
	}
	view, path, err := nd.pathOf(t, n)
	if err != nil {
		return 0, err
	}
	return 0, vfs.LinkPath(t, at, view, path)
}

func unlink(t *kernel.Task, p PathPtr) (uint64, error) { return unlinkat(t, cwd, p, 0) }
func rmdir(t *kernel.Task, p PathPtr) (uint64, error)  { return unlinkat(t, cwd, p, unix.AT_REMOVEDIR) }

func unlinkat(t *kernel.Task, d DirFD, p PathPtr, flags AtFlags) (uint64, error) {
	if flags&^unix.AT_REMOVEDIR != 0 {
		return 0, unix.EINVAL
	}
	view, path, err := d.pathOf(t, p)
	if err != nil {
		return 0, err
	}
	if flags&unix.AT_REMOVEDIR != 0 {
		return 0, vfs.Rmdir(t, view, path)
	}
	return 0, vfs.Unlink(t, view, path)
}

func rename(t *kernel.Task, old, n PathPtr) (uint64, error) {
	return renameat2(t, cwd, old, cwd, n, 0)
}

func renameat(t *kernel.Task, od DirFD, old PathPtr, nd DirFD, n PathPtr) (uint64, error) {
	return renameat2(t, od, old, nd, n, 0)
}

func renameat2(t *kernel.Task, od DirFD, old PathPtr, nd DirFD, n PathPtr, flags uint32) (uint64, error) {
	ov, op, err := od.pathOf(t, old)
	if err != nil {
		return 0, err
	}
	nv, np, err := nd.pathOf(t, n)
	if err != nil {
		return 0, err
	}
	if flags&unix.RENAME_WHITEOUT != 0 && !t.Credentials().HasCap(unix.CAP_MKNOD) {
		return 0, unix.EPERM
	}
	return 0, vfs.Rename(t, ov, op, nv, np, flags)
}

func mkdir(t *kernel.Task, p PathPtr, mode Mode) (uint64, error) { return mkdirat(t, cwd, p, mode) }

func mkdirat(t *kernel.Task, d DirFD, p PathPtr, mode Mode) (uint64, error) {
	view, path, err := d.pathOf(t, p)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Mkdir(t, view, path, uint32(mode)&0o1777&^t.FS().Umask())
}

func mknod(t *kernel.Task, p PathPtr, mode Mode, dev uint32) (uint64, error) {
	return mknodat(t, cwd, p, mode, dev)
}

func mknodat(t *kernel.Task, d DirFD, p PathPtr, mode Mode, dev uint32) (uint64, error) {
	view, path, err := d.pathOf(t, p)
	if err != nil {
		return 0, err
	}
	// mknod(2)'s device number is the 32-bit encoding.
	rdev := unix.Mkdev(dev>>8&0xfff, dev&0xff|dev>>12&0xfff00)
	_, err = vfs.Mknod(t, view, path, uint32(mode)&(unix.S_IFMT|0o7777&^t.FS().Umask()), rdev)
	return 0, err
}

func symlink(t *kernel.Task, target, p PathPtr) (uint64, error) {
	return symlinkat(t, target, cwd, p)
}

func symlinkat(t *kernel.Task, target PathPtr, d DirFD, p PathPtr) (uint64, error) {
	to, err := target.read(t)
	if err != nil {
		return 0, err
	}
	view, path, err := d.pathOf(t, p)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Symlink(t, view, to, path)
}

func readlink(t *kernel.Task, p PathPtr, buf Addr, n int32) (uint64, error) {
	return readlinkat(t, cwd, p, buf, n)
}

func readlinkat(t *kernel.Task, d DirFD, p PathPtr, buf Addr, n int32) (uint64, error) {
	if n <= 0 {
		return 0, unix.EINVAL
	}
	path, err := p.read(t)
	if err != nil {
		return 0, err
	}
	view, err := d.view(t, path)
	if err != nil {
		return 0, err
	}
	at, err := vfs.Resolve(t, view, path, vfs.AllowEmpty)
	if err != nil {
		return 0, err
	}
	l, ok := at.Inode().(vfs.Link)
	if !ok {
		if path == "" {
			return 0, unix.ENOENT
		}
		return 0, unix.EINVAL
	}
	target, err := l.Readlink(t)
	if err != nil {
		return 0, err
	}
	b := []byte(target)
	b = b[:min(len(b), int(n))]
	_, err = t.MM().CopyOut(buf, b)
	return uint64(len(b)), err
}

func truncate(t *kernel.Task, p PathPtr, size int64) (uint64, error) {
	if size < 0 {
		return 0, unix.EINVAL
	}
	at, err := cwd.resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Truncate(t, at, nil, size)
}

func statfs(t *kernel.Task, p PathPtr, buf Addr) (uint64, error) {
	at, err := cwd.resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, putStatfs(t, at, buf)
}

func fstatfs(t *kernel.Task, fd FD, buf Addr) (uint64, error) {
	f, err := fd.file(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, putStatfs(t, f.Path(), buf)
}

func putStatfs(t *kernel.Task, at vfs.Path, buf Addr) error {
	var s unix.Statfs_t
	if err := vfs.Statfs(t, at, &s); err != nil {
		return err
	}
	var w writer
	w.i64(s.Type)
	w.i64(s.Bsize)
	w.u64(s.Blocks)
	w.u64(s.Bfree)
	w.u64(s.Bavail)
	w.u64(s.Files)
	w.u64(s.Ffree)
	w.u32(uint32(s.Fsid.Val[0]))
	w.u32(uint32(s.Fsid.Val[1]))
	w.i64(s.Namelen)
	w.i64(s.Frsize)
	w.i64(s.Flags)
	w.zero(32)
	return w.to(t, buf)
}

func getcwd(t *kernel.Task, buf Addr, n Size) (uint64, error) {
	v := t.FS().View()
	if v.Start.Dentry.Deleted() {
		return 0, unix.ENOENT
	}
	path, ok := vfs.PathName(v.Root, v.Start)
	if !ok {
		path = "(unreachable)" + path
	}
	if uint64(len(path))+1 > uint64(n) {
		return 0, unix.ERANGE
	}
	_, err := t.MM().CopyOut(buf, append([]byte(path), 0))
	return uint64(len(path) + 1), err
}

// enter checks that the task may make p its working directory.
func enter(t *kernel.Task, p vfs.Path) error {
	if _, ok := p.Inode().(vfs.Directory); !ok {
		return unix.ENOTDIR
	}
	return vfs.Access(t, p, t.Credentials(), vfs.MayExec)
}

func chdir(t *kernel.Task, p PathPtr) (uint64, error) {
	at, err := cwd.resolve(t, p, vfs.FollowFinal|vfs.WantDirectory)
	if err == nil {
		err = enter(t, at)
	}
	if err != nil {
		return 0, err
	}
	t.FS().SetCwd(at)
	return 0, nil
}

func fchdir(t *kernel.Task, fd FD) (uint64, error) {
	f, err := fd.file(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	if err := enter(t, f.Path()); err != nil {
		return 0, err
	}
	t.FS().SetCwd(f.Path())
	return 0, nil
}

func chroot(t *kernel.Task, p PathPtr) (uint64, error) {
	at, err := cwd.resolve(t, p, vfs.FollowFinal|vfs.WantDirectory)
	if err == nil {
		err = enter(t, at)
	}
	if err != nil {
		return 0, err
	}
	if !t.Credentials().HasCap(unix.CAP_SYS_CHROOT) {
		return 0, unix.EPERM
	}
	t.FS().SetRoot(at)
	return 0, nil
}

// utimesAt sets times: nil pointers mean now.
func utimesAt(t *kernel.Task, at vfs.Path, times *[2]int64, now [2]bool, omit [2]bool) error {
	current := t.Kernel().Clock.Realtime()
	var mask vfs.SetMask
	set := [2]int64{current, current}
	for i := range 2 {
		if omit[i] {
			continue
		}
		mask |= []vfs.SetMask{vfs.SetAtime, vfs.SetMtime}[i]
		if times != nil && !now[i] {
			set[i] = times[i]
		}
	}
	bothNow := times == nil || now[0] && now[1]
	if omit[0] && omit[1] {
		return nil
	}
	return vfs.Utimes(t, at, set[0], set[1], mask, bothNow)
}

func utimensat(t *kernel.Task, d DirFD, p PathPtr, ptr Addr, flags AtFlags) (uint64, error) {
	w, err := flags.walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	var times *[2]int64
	var now, omit [2]bool
	if ptr != 0 {
		var b [32]byte
		if _, err := t.MM().CopyIn(ptr, b[:]); err != nil {
			return 0, err
		}
		times = new([2]int64)
		for i := range 2 {
			s, n := int64(le64(b[16*i:])), int64(le64(b[16*i+8:]))
			switch {
			case n == unix.UTIME_NOW:
				now[i] = true
			case n == unix.UTIME_OMIT:
				omit[i] = true
			case n < 0 || n >= second:
				return 0, unix.EINVAL
			default:
				times[i] = s*second + n
			}
		}
		if omit[0] && omit[1] {
			return 0, nil
		}
	}
	var at vfs.Path
	if p == 0 { // futimens
		f, err := FD(d).file(t)
		if err != nil {
			return 0, err
		}
		defer f.DecRef()
		if f.PathOnly() {
			return 0, unix.EBADF
		}
		at = f.Path()
	} else if at, err = d.resolve(t, p, w); err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, now, omit)
}

func utimes(t *kernel.Task, p PathPtr, ptr Addr) (uint64, error) { return futimesat(t, cwd, p, ptr) }

func futimesat(t *kernel.Task, d DirFD, p PathPtr, ptr Addr) (uint64, error) {
	var times *[2]int64
	if ptr != 0 {
		times = new([2]int64)
		var b [32]byte
		if _, err := t.MM().CopyIn(ptr, b[:]); err != nil {
			return 0, err
		}
		for i := range 2 {
			us := int64(le64(b[16*i+8:]))
			if us < 0 || us >= 1_000_000 {
				return 0, unix.EINVAL
			}
			times[i] = int64(le64(b[16*i:]))*second + us*1000
		}
	}
	var at vfs.Path
	var err error
	if p == 0 {
		f, err := FD(d).file(t)
		if err != nil {
			return 0, err
		}
		defer f.DecRef()
		at = f.Path()
	} else if at, err = d.resolve(t, p, vfs.FollowFinal); err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, [2]bool{}, [2]bool{})
}

func utime(t *kernel.Task, p PathPtr, ptr Addr) (uint64, error) {
	var times *[2]int64
	if ptr != 0 {
		var b [16]byte
		if _, err := t.MM().CopyIn(ptr, b[:]); err != nil {
			return 0, err
		}
		times = &[2]int64{int64(le64(b[:])) * second, int64(le64(b[8:])) * second}
	}
	at, err := cwd.resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, [2]bool{}, [2]bool{})
}
