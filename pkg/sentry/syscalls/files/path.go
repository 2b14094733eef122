package files

import (
	"encoding/binary"
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var pathRows = []call.Row{
	call.Full(unix.SYS_OPEN, "open", call.Args3(open)),
	call.Full(unix.SYS_OPENAT, "openat", call.Args4(openat)),
	call.Full(unix.SYS_CREAT, "creat", call.Args2(creat)),
	call.Full(unix.SYS_STAT, "stat", call.Args2(stat)),
	call.Full(unix.SYS_LSTAT, "lstat", call.Args2(lstat)),
	call.Full(unix.SYS_FSTAT, "fstat", call.Args2(fstat)),
	call.Full(unix.SYS_NEWFSTATAT, "newfstatat", call.Args4(newfstatat)),
	call.Full(unix.SYS_STATX, "statx", call.Args5(statx)),
	call.Full(unix.SYS_ACCESS, "access", call.Args2(access)),
	call.Full(unix.SYS_FACCESSAT, "faccessat", call.Args3(faccessat)),
	call.Full(unix.SYS_FACCESSAT2, "faccessat2", call.Args4(faccessat2)),
	call.Full(unix.SYS_CHMOD, "chmod", call.Args2(chmod)),
	call.Full(unix.SYS_FCHMOD, "fchmod", call.Args2(fchmod)),
	call.Full(unix.SYS_FCHMODAT, "fchmodat", call.Args3(fchmodat)),
	call.Full(unix.SYS_CHOWN, "chown", call.Args3(chown)),
	call.Full(unix.SYS_LCHOWN, "lchown", call.Args3(lchown)),
	call.Full(unix.SYS_FCHOWN, "fchown", call.Args3(fchown)),
	call.Full(unix.SYS_FCHOWNAT, "fchownat", call.Args5(fchownat)),
	call.Full(unix.SYS_UMASK, "umask", call.Args1(umask)),
	call.Full(unix.SYS_LINK, "link", call.Args2(link)),
	call.Full(unix.SYS_LINKAT, "linkat", call.Args5(linkat)),
	call.Full(unix.SYS_UNLINK, "unlink", call.Args1(unlink)),
	call.Full(unix.SYS_UNLINKAT, "unlinkat", call.Args3(unlinkat)),
	call.Full(unix.SYS_RMDIR, "rmdir", call.Args1(rmdir)),
	call.Full(unix.SYS_RENAME, "rename", call.Args2(rename)),
	call.Full(unix.SYS_RENAMEAT, "renameat", call.Args4(renameat)),
	call.Full(unix.SYS_RENAMEAT2, "renameat2", call.Args5(renameat2)),
	call.Full(unix.SYS_MKDIR, "mkdir", call.Args2(mkdir)),
	call.Full(unix.SYS_MKDIRAT, "mkdirat", call.Args3(mkdirat)),
	call.Full(unix.SYS_MKNOD, "mknod", call.Args3(mknod)),
	call.Full(unix.SYS_MKNODAT, "mknodat", call.Args4(mknodat)),
	call.Full(unix.SYS_SYMLINK, "symlink", call.Args2(symlink)),
	call.Full(unix.SYS_SYMLINKAT, "symlinkat", call.Args3(symlinkat)),
	call.Full(unix.SYS_READLINK, "readlink", call.Args3(readlink)),
	call.Full(unix.SYS_READLINKAT, "readlinkat", call.Args4(readlinkat)),
	call.Full(unix.SYS_TRUNCATE, "truncate", call.Args2(truncate)),
	call.Full(unix.SYS_STATFS, "statfs", call.Args2(statfs)),
	call.Full(unix.SYS_FSTATFS, "fstatfs", call.Args2(fstatfs)),
	call.Full(unix.SYS_GETCWD, "getcwd", call.Args2(getcwd)),
	call.Full(unix.SYS_CHDIR, "chdir", call.Args1(chdir)),
	call.Full(unix.SYS_FCHDIR, "fchdir", call.Args1(fchdir)),
	call.Full(unix.SYS_CHROOT, "chroot", call.Args1(chroot)),
	call.Full(unix.SYS_UTIMENSAT, "utimensat", call.Args4(utimensat)),
	call.Full(unix.SYS_UTIMES, "utimes", call.Args2(utimes)),
	call.Full(unix.SYS_UTIME, "utime", call.Args2(utime)),
	call.Full(unix.SYS_FUTIMESAT, "futimesat", call.Args3(futimesat)),
}

func open(t *kernel.Task, p call.PathPtr, flags call.OpenFlags, mode call.Mode) (uint64, error) {
	return openat(t, call.CWD, p, flags, mode)
}

func creat(t *kernel.Task, p call.PathPtr, mode call.Mode) (uint64, error) {
	return openat(t, call.CWD, p, unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, mode)
}

func openat(t *kernel.Task, d call.DirFD, p call.PathPtr, flags call.OpenFlags, mode call.Mode) (uint64, error) {
	if vfs.Creates(uint32(flags)) {
		return openCreating(t, d, p, flags, mode)
	}
	f, err := d.OpenExisting(t, p, flags)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.O_CLOEXEC != 0)
}

func openCreating(t *kernel.Task, d call.DirFD, p call.PathPtr, flags call.OpenFlags, mode call.Mode) (uint64, error) {
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	m := uint32(mode) & 0o7777 &^ t.Umask()
	f, err := t.Kernel().Opener.Open(t, view, path, uint32(flags), m, 0)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.O_CLOEXEC != 0)
}

func stat(t *kernel.Task, p call.PathPtr, buf usermem.Addr) (uint64, error) {
	return newfstatat(t, call.CWD, p, buf, 0)
}
func lstat(t *kernel.Task, p call.PathPtr, buf usermem.Addr) (uint64, error) {
	return newfstatat(t, call.CWD, p, buf, unix.AT_SYMLINK_NOFOLLOW)
}

func fstat(t *kernel.Task, fd call.FD, buf usermem.Addr) (uint64, error) {
	f, err := fd.Use(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	a := t.Attr()
	if err := f.Stat(t, a); err != nil {
		return 0, err
	}
	return 0, putStat(t, buf, a)
}

func newfstatat(t *kernel.Task, d call.DirFD, p call.PathPtr, buf usermem.Addr, flags call.AtFlags) (uint64, error) {
	a := t.Attr()
	if err := attributes(t, d, p, flags, a); err != nil {
		return 0, err
	}
	return 0, putStat(t, buf, a)
}

// attributes fills a with those of what a path of the stat calls leads to.
func attributes(t *kernel.Task, d call.DirFD, p call.PathPtr, flags call.AtFlags, a *vfs.Attr) error {
	w, err := flags.Walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT)
	if err != nil {
		return err
	}
	at, err := d.Resolve(t, p, w)
	if err != nil {
		return err
	}
	return at.Inode().Attributes(t, a)
}

// putStat writes a struct stat.
func putStat(t *kernel.Task, buf usermem.Addr, a *vfs.Attr) error {
	ns := t.Credentials().UserNS
	var b [144]byte
	binary.LittleEndian.PutUint64(b[0:], a.Dev)
	binary.LittleEndian.PutUint64(b[8:], a.Ino)
	binary.LittleEndian.PutUint64(b[16:], uint64(a.Nlink))
	binary.LittleEndian.PutUint32(b[24:], a.Mode)
	binary.LittleEndian.PutUint32(b[28:], ns.UID(a.UID))
	binary.LittleEndian.PutUint32(b[32:], ns.GID(a.GID))
	binary.LittleEndian.PutUint64(b[40:], a.Rdev)
	binary.LittleEndian.PutUint64(b[48:], uint64(a.Size))
	binary.LittleEndian.PutUint64(b[56:], uint64(a.BlockSize))
	binary.LittleEndian.PutUint64(b[64:], a.Blocks)
	call.PutTimespec(b[72:], a.Atime)
	call.PutTimespec(b[88:], a.Mtime)
	call.PutTimespec(b[104:], a.Ctime)
	_, err := t.MM().CopyOut(buf, b[:])
	return err
}

func statx(t *kernel.Task, d call.DirFD, p call.PathPtr, flags call.AtFlags, mask uint32, buf usermem.Addr) (uint64, error) {
	const sync = unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC
	if mask&unix.STATX__RESERVED != 0 || flags&sync == sync {
		return 0, unix.EINVAL
	}
	a := t.Attr()
	if err := attributes(t, d, p, flags&^sync, a); err != nil {
		return 0, err
	}
	ns := t.Credentials().UserNS
	got := uint32(unix.STATX_BASIC_STATS)
	if a.Btime != 0 {
		got |= unix.STATX_BTIME
	}
	var room [256]byte
	o := call.Writer{Buf: room[:0]}
	o.U32(got)
	o.U32(a.BlockSize)
	o.U64(0)
	o.U32(a.Nlink)
	o.U32(ns.UID(a.UID))
	o.U32(ns.GID(a.GID))
	o.U16(uint16(a.Mode))
	o.U16(0)
	o.U64(a.Ino)
	o.I64(a.Size)
	o.U64(a.Blocks)
	o.U64(0)
	for _, ts := range []int64{a.Atime, a.Btime, a.Ctime, a.Mtime} {
		s, n := ts/call.Second, ts%call.Second
		if n < 0 {
			s, n = s-1, n+call.Second
		}
		o.I64(s)
		o.U32(uint32(n))
		o.U32(0)
	}
	o.U32(unix.Major(a.Rdev))
	o.U32(unix.Minor(a.Rdev))
	o.U32(unix.Major(a.Dev))
	o.U32(unix.Minor(a.Dev))
	o.Zero(256 - len(o.Buf))
	return 0, o.To(t, buf)
}

func access(t *kernel.Task, p call.PathPtr, mode uint32) (uint64, error) {
	return faccessat2(t, call.CWD, p, mode, 0)
}

func faccessat(t *kernel.Task, d call.DirFD, p call.PathPtr, mode uint32) (uint64, error) {
	return faccessat2(t, d, p, mode, 0)
}

func faccessat2(t *kernel.Task, d call.DirFD, p call.PathPtr, mode uint32, flags call.AtFlags) (uint64, error) {
	if mode&^7 != 0 {
		return 0, unix.EINVAL
	}
	w, err := (flags &^ unix.AT_EACCESS).Walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
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
	at, err := d.Resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Access(t, at, t.Credentials(), vfs.Permission(mode))
}

func chmod(t *kernel.Task, p call.PathPtr, mode call.Mode) (uint64, error) {
	return fchmodat(t, call.CWD, p, mode)
}

func fchmodat(t *kernel.Task, d call.DirFD, p call.PathPtr, mode call.Mode) (uint64, error) {
	at, err := d.Resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Chmod(t, at, uint32(mode))
}

func fchmod(t *kernel.Task, fd call.FD, mode call.Mode) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, vfs.Chmod(t, f.Path(), uint32(mode))
}

func chown(t *kernel.Task, p call.PathPtr, uid, gid uint32) (uint64, error) {
	return fchownat(t, call.CWD, p, uid, gid, 0)
}

func lchown(t *kernel.Task, p call.PathPtr, uid, gid uint32) (uint64, error) {
	return fchownat(t, call.CWD, p, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}

func fchownat(t *kernel.Task, d call.DirFD, p call.PathPtr, uid, gid uint32, flags call.AtFlags) (uint64, error) {
	w, err := flags.Walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	at, err := d.Resolve(t, p, w)
	if err != nil {
		return 0, err
	}
	return 0, chownPath(t, at, uid, gid)
}

func chownPath(t *kernel.Task, at vfs.Path, uid, gid uint32) error {
	u, err := call.KUID(t, uid)
	if err != nil {
		return err
	}
	g, err := call.KGID(t, gid)
	if err != nil {
		return err
	}
	return vfs.Chown(t, at, u, g)
}

func fchown(t *kernel.Task, fd call.FD, uid, gid uint32) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, chownPath(t, f.Path(), uid, gid)
}

func umask(t *kernel.Task, m call.Mode) (uint64, error) {
	return uint64(t.FS().SetUmask(uint32(m))), nil
}

func link(t *kernel.Task, old, n call.PathPtr) (uint64, error) {
	return linkat(t, call.CWD, old, call.CWD, n, 0)
}

func linkat(t *kernel.Task, od call.DirFD, old call.PathPtr, nd call.DirFD, n call.PathPtr, flags call.AtFlags) (uint64, error) {
	w, err := flags.Walk(unix.AT_SYMLINK_FOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	if flags&unix.AT_EMPTY_PATH != 0 && !t.Credentials().HasCap(unix.CAP_DAC_READ_SEARCH) {
		return 0, unix.ENOENT
	}
	at, err := od.Resolve(t, old, w)
	if err != nil {
		return 0, err
	}
	view, path, err := nd.PathOf(t, n)
	if err != nil {
		return 0, err
	}
	return 0, vfs.LinkPath(t, at, view, path)
}

func unlink(t *kernel.Task, p call.PathPtr) (uint64, error) { return unlinkat(t, call.CWD, p, 0) }
func rmdir(t *kernel.Task, p call.PathPtr) (uint64, error) {
	return unlinkat(t, call.CWD, p, unix.AT_REMOVEDIR)
}

func unlinkat(t *kernel.Task, d call.DirFD, p call.PathPtr, flags call.AtFlags) (uint64, error) {
	if flags&^unix.AT_REMOVEDIR != 0 {
		return 0, unix.EINVAL
	}
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	if flags&unix.AT_REMOVEDIR != 0 {
		return 0, vfs.Rmdir(t, view, path)
	}
	return 0, vfs.Unlink(t, view, path)
}

func rename(t *kernel.Task, old, n call.PathPtr) (uint64, error) {
	return renameat2(t, call.CWD, old, call.CWD, n, 0)
}

func renameat(t *kernel.Task, od call.DirFD, old call.PathPtr, nd call.DirFD, n call.PathPtr) (uint64, error) {
	return renameat2(t, od, old, nd, n, 0)
}

func renameat2(t *kernel.Task, od call.DirFD, old call.PathPtr, nd call.DirFD, n call.PathPtr, flags uint32) (uint64, error) {
	ov, op, err := od.PathOf(t, old)
	if err != nil {
		return 0, err
	}
	nv, np, err := nd.PathOf(t, n)
	if err != nil {
		return 0, err
	}
	if flags&unix.RENAME_WHITEOUT != 0 && !t.Credentials().HasCap(unix.CAP_MKNOD) {
		return 0, unix.EPERM
	}
	return 0, vfs.Rename(t, ov, op, nv, np, flags)
}

func mkdir(t *kernel.Task, p call.PathPtr, mode call.Mode) (uint64, error) {
	return mkdirat(t, call.CWD, p, mode)
}

func mkdirat(t *kernel.Task, d call.DirFD, p call.PathPtr, mode call.Mode) (uint64, error) {
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Mkdir(t, view, path, uint32(mode)&0o1777&^t.Umask())
}

func mknod(t *kernel.Task, p call.PathPtr, mode call.Mode, dev uint32) (uint64, error) {
	return mknodat(t, call.CWD, p, mode, dev)
}

func mknodat(t *kernel.Task, d call.DirFD, p call.PathPtr, mode call.Mode, dev uint32) (uint64, error) {
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	// mknod(2)'s device number is the 32-bit encoding.
	rdev := unix.Mkdev(dev>>8&0xfff, dev&0xff|dev>>12&0xfff00)
	_, err = vfs.Mknod(t, view, path, uint32(mode)&(unix.S_IFMT|0o7777&^t.Umask()), rdev)
	return 0, err
}

func symlink(t *kernel.Task, target, p call.PathPtr) (uint64, error) {
	return symlinkat(t, target, call.CWD, p)
}

func symlinkat(t *kernel.Task, target call.PathPtr, d call.DirFD, p call.PathPtr) (uint64, error) {
	to, err := target.Read(t)
	if err != nil {
		return 0, err
	}
	view, path, err := d.PathOf(t, p)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Symlink(t, view, to, path)
}

func readlink(t *kernel.Task, p call.PathPtr, buf usermem.Addr, n int32) (uint64, error) {
	return readlinkat(t, call.CWD, p, buf, n)
}

func readlinkat(t *kernel.Task, d call.DirFD, p call.PathPtr, buf usermem.Addr, n int32) (uint64, error) {
	if n <= 0 {
		return 0, unix.EINVAL
	}
	path, err := p.Read(t)
	if err != nil {
		return 0, err
	}
	view, err := d.View(t, path)
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

func truncate(t *kernel.Task, p call.PathPtr, size int64) (uint64, error) {
	if size < 0 {
		return 0, unix.EINVAL
	}
	at, err := call.CWD.Resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, vfs.Truncate(t, at, nil, size)
}

func statfs(t *kernel.Task, p call.PathPtr, buf usermem.Addr) (uint64, error) {
	at, err := call.CWD.Resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, putStatfs(t, at, buf)
}

func fstatfs(t *kernel.Task, fd call.FD, buf usermem.Addr) (uint64, error) {
	f, err := fd.File(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, putStatfs(t, f.Path(), buf)
}

func putStatfs(t *kernel.Task, at vfs.Path, buf usermem.Addr) error {
	var s unix.Statfs_t
	if err := vfs.Statfs(t, at, &s); err != nil {
		return err
	}
	var w call.Writer
	w.I64(s.Type)
	w.I64(s.Bsize)
	w.U64(s.Blocks)
	w.U64(s.Bfree)
	w.U64(s.Bavail)
	w.U64(s.Files)
	w.U64(s.Ffree)
	w.U32(uint32(s.Fsid.Val[0]))
	w.U32(uint32(s.Fsid.Val[1]))
	w.I64(s.Namelen)
	w.I64(s.Frsize)
	w.I64(s.Flags)
	w.Zero(32)
	return w.To(t, buf)
}

func getcwd(t *kernel.Task, buf usermem.Addr, n call.Size) (uint64, error) {
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

func chdir(t *kernel.Task, p call.PathPtr) (uint64, error) {
	at, err := call.CWD.Resolve(t, p, vfs.FollowFinal|vfs.WantDirectory)
	if err == nil {
		err = enter(t, at)
	}
	if err != nil {
		return 0, err
	}
	t.FS().SetCwd(at)
	return 0, nil
}

func fchdir(t *kernel.Task, fd call.FD) (uint64, error) {
	f, err := fd.File(t)
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

func chroot(t *kernel.Task, p call.PathPtr) (uint64, error) {
	at, err := call.CWD.Resolve(t, p, vfs.FollowFinal|vfs.WantDirectory)
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

func utimensat(t *kernel.Task, d call.DirFD, p call.PathPtr, ptr usermem.Addr, flags call.AtFlags) (uint64, error) {
	w, err := flags.Walk(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH)
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
			s, n := int64(call.U64(b[16*i:])), int64(call.U64(b[16*i+8:]))
			switch {
			case n == unix.UTIME_NOW:
				now[i] = true
			case n == unix.UTIME_OMIT:
				omit[i] = true
			case n < 0 || n >= call.Second:
				return 0, unix.EINVAL
			default:
				times[i] = s*call.Second + n
			}
		}
		if omit[0] && omit[1] {
			return 0, nil
		}
	}
	var at vfs.Path
	if p == 0 { // futimens
		f, err := call.FD(d).File(t)
		if err != nil {
			return 0, err
		}
		defer f.DecRef()
		if f.PathOnly() {
			return 0, unix.EBADF
		}
		at = f.Path()
	} else if at, err = d.Resolve(t, p, w); err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, now, omit)
}

func utimes(t *kernel.Task, p call.PathPtr, ptr usermem.Addr) (uint64, error) {
	return futimesat(t, call.CWD, p, ptr)
}

func futimesat(t *kernel.Task, d call.DirFD, p call.PathPtr, ptr usermem.Addr) (uint64, error) {
	var times *[2]int64
	if ptr != 0 {
		times = new([2]int64)
		var b [32]byte
		if _, err := t.MM().CopyIn(ptr, b[:]); err != nil {
			return 0, err
		}
		for i := range 2 {
			us := int64(call.U64(b[16*i+8:]))
			if us < 0 || us >= 1_000_000 {
				return 0, unix.EINVAL
			}
			times[i] = int64(call.U64(b[16*i:]))*call.Second + us*1000
		}
	}
	var at vfs.Path
	var err error
	if p == 0 {
		f, err := call.FD(d).File(t)
		if err != nil {
			return 0, err
		}
		defer f.DecRef()
		at = f.Path()
	} else if at, err = d.Resolve(t, p, vfs.FollowFinal); err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, [2]bool{}, [2]bool{})
}

func utime(t *kernel.Task, p call.PathPtr, ptr usermem.Addr) (uint64, error) {
	var times *[2]int64
	if ptr != 0 {
		var b [16]byte
		if _, err := t.MM().CopyIn(ptr, b[:]); err != nil {
			return 0, err
		}
		times = &[2]int64{int64(call.U64(b[:])) * call.Second, int64(call.U64(b[8:])) * call.Second}
	}
	at, err := call.CWD.Resolve(t, p, vfs.FollowFinal)
	if err != nil {
		return 0, err
	}
	return 0, utimesAt(t, at, times, [2]bool{}, [2]bool{})
}
