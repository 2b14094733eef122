package files

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var openRows = []call.Row{
	call.Partial(unix.SYS_OPENAT2, "openat2", call.Args4(openat2), "RESOLVE_CACHED always gives EAGAIN"),
	call.Partial(unix.SYS_NAME_TO_HANDLE_AT, "name_to_handle_at", call.Args5(nameToHandleAt), "no file system has handles"),
	call.Partial(unix.SYS_OPEN_BY_HANDLE_AT, "open_by_handle_at", call.Args3(openByHandleAt), "no file system has handles"),
	call.Full(unix.SYS_USTAT, "ustat", call.Args2(ustat)),
	call.Partial(unix.SYS_PREADV2, "preadv2", call.Args6(preadv2), "RWF_APPEND gives EOPNOTSUPP"),
	call.Partial(unix.SYS_PWRITEV2, "pwritev2", call.Args6(pwritev2), "RWF_APPEND gives EOPNOTSUPP"),
	call.Full(unix.SYS_READAHEAD, "readahead", call.Args3(readahead)),
	call.Full(unix.SYS_FADVISE64, "fadvise64", call.Args4(fadvise)),
	call.Full(unix.SYS_SYNC_FILE_RANGE, "sync_file_range", call.Args4(syncFileRange)),
}

// howSize is the size of the first version of struct open_how.
const howSize = 24

// resolveCached is RESOLVE_CACHED of openat2(2).
const resolveCached = 0x20

// openKnown are the flags that openat2(2) takes: it refuses others, where
// open(2) ignores them.
const openKnown = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND |
	unix.O_NONBLOCK | unix.O_SYNC | unix.O_DSYNC | unix.O_ASYNC | unix.O_DIRECT | 0x8000 /* O_LARGEFILE */ |
	unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE

// readHow reads a struct open_how.
func readHow(t *kernel.Task, a usermem.Addr, size call.Size) (flags, mode, resolve uint64, err error) {
	b, err := call.CopyInStruct(t, a, size, howSize, howSize)
	if err != nil {
		return 0, 0, 0, err
	}
	return call.U64(b), call.U64(b[8:]), call.U64(b[16:]), nil
}

func openat2(t *kernel.Task, d call.DirFD, p call.PathPtr, how usermem.Addr, size call.Size) (uint64, error) {
	flags, mode, resolve, err := readHow(t, how, size)
	if err != nil {
		return 0, err
	}
	walks := []struct {
		flag uint64
		walk vfs.WalkFlags
	}{
		{unix.RESOLVE_NO_XDEV, vfs.ResolveNoXDev}, {unix.RESOLVE_NO_MAGICLINKS, vfs.ResolveNoMagicLinks},
		{unix.RESOLVE_NO_SYMLINKS, vfs.ResolveNoSymlinks}, {unix.RESOLVE_BENEATH, vfs.ResolveBeneath},
		{unix.RESOLVE_IN_ROOT, vfs.ResolveInRoot}, {resolveCached, 0},
	}
	var walk vfs.WalkFlags
	rest := resolve
	for _, w := range walks {
		if rest&w.flag != 0 {
			rest &^= w.flag
			walk |= w.walk
		}
	}
	const both = unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT
	creates := flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE
	switch {
	case flags&^openKnown != 0, rest != 0, resolve&both == both:
		return 0, unix.EINVAL
	case creates && mode&^0o7777 != 0, !creates && mode != 0:
		return 0, unix.EINVAL
	case flags&unix.O_PATH != 0 && flags&^(unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_PATH|unix.O_CLOEXEC) != 0:
		return 0, unix.EINVAL
	case resolve&resolveCached != 0:
		return 0, unix.EAGAIN
	}
	path, err := p.Read(t)
	if err != nil {
		return 0, err
	}
	// With RESOLVE_IN_ROOT absolute paths start at the directory too.
	from := path
	if resolve&both != 0 && path != "" {
		from = "."
	}
	view, err := d.View(t, from)
	if err != nil {
		return 0, err
	}
	m := uint32(mode) &^ t.Umask()
	f, err := t.Kernel().Opener.Open(t, view, path, uint32(flags), m, walk)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.O_CLOEXEC != 0)
}

func nameToHandleAt(t *kernel.Task, d call.DirFD, p call.PathPtr, _, _ usermem.Addr, flags call.AtFlags) (uint64, error) {
	w, err := flags.Walk(unix.AT_SYMLINK_FOLLOW | unix.AT_EMPTY_PATH)
	if err != nil {
		return 0, err
	}
	if _, err := d.Resolve(t, p, w); err != nil {
		return 0, err
	}
	return 0, unix.EOPNOTSUPP
}

func openByHandleAt(t *kernel.Task, d call.DirFD, _ usermem.Addr, _ call.OpenFlags) (uint64, error) {
	if !t.Credentials().HasRootCap(unix.CAP_DAC_READ_SEARCH) {
		return 0, unix.EPERM
	}
	if _, err := d.View(t, ""); err != nil {
		return 0, err
	}
	return 0, unix.EOPNOTSUPP
}

// ustat looks for a mounted file system by its device number (ustat(2)).
func ustat(t *kernel.Task, dev uint32, a usermem.Addr) (uint64, error) {
	want := unix.Mkdev(dev>>8&0xfff, dev&0xff|dev>>12&0xfff00)
	for _, m := range t.Namespaces().Mount.Mounts() {
		if m.Mount.Filesystem().Dev != want {
			continue
		}
		var s unix.Statfs_t
		if err := vfs.Statfs(t, m.Point, &s); err != nil {
			return 0, err
		}
		var w call.Writer
		w.U32(uint32(s.Bfree))
		w.U32(0)
		w.U64(s.Ffree)
		w.Zero(16)
		return 0, w.To(t, a)
	}
	return 0, unix.EINVAL
}

const rwfKnown = unix.RWF_HIPRI | unix.RWF_DSYNC | unix.RWF_SYNC | unix.RWF_NOWAIT

func preadv2(t *kernel.Task, fd call.FD, a usermem.Addr, count int32, off int64, _ uint64, flags uint32) (uint64, error) {
	if flags&^rwfKnown != 0 {
		return 0, unix.EOPNOTSUPP
	}
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	switch {
	case off != -1:
		return readAt(t, f.File, b, off)
	case flags&unix.RWF_NOWAIT != 0:
		n, err := f.Read(t, b)
		return readResult(t, n, err)
	}
	return readBuffer(t, f.File, b)
}

func pwritev2(t *kernel.Task, fd call.FD, a usermem.Addr, count int32, off int64, _ uint64, flags uint32) (uint64, error) {
	if flags&^rwfKnown != 0 {
		return 0, unix.EOPNOTSUPP
	}
	f, b, err := withVector(t, fd, a, count)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	var n uint64
	switch {
	case off != -1:
		n, err = writeAt(t, f.File, b, off)
	case flags&unix.RWF_NOWAIT != 0:
		var got int64
		got, err = f.Write(t, b)
		n, err = writeResult(t, got, err)
	default:
		n, err = writeBuffer(t, f.File, b)
	}
	if n > 0 && flags&(unix.RWF_DSYNC|unix.RWF_SYNC) != 0 {
		if e := f.Sync(t, flags&unix.RWF_SYNC == 0); e != nil && e != unix.EINVAL {
			return 0, e
		}
	}
	return n, err
}

// fileType returns the S_IFMT bits of f.
func fileType(t *kernel.Task, f *vfs.File) (uint32, error) {
	var a vfs.Attr
	err := f.Stat(t, &a)
	return a.Type(), err
}

func readahead(t *kernel.Task, fd call.FD, _ int64, _ call.Size) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	if !f.Readable() {
		return 0, unix.EBADF
	}
	if kind, err := fileType(t, f); err != nil || kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return 0, unix.EINVAL
	}
	return 0, nil
}

func fadvise(t *kernel.Task, fd call.FD, _ int64, n int64, advice uint32) (uint64, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	kind, err := fileType(t, f)
	switch {
	case err != nil:
		return 0, err
	case kind == unix.S_IFIFO:
		return 0, unix.ESPIPE
	case n < 0, advice > unix.FADV_NOREUSE:
		return 0, unix.EINVAL
	}
	return 0, nil
}

func syncFileRange(t *kernel.Task, fd call.FD, off, n int64, flags uint32) (uint64, error) {
	const known = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if flags&^known != 0 || off < 0 || n < 0 || off+n < 0 {
		return 0, unix.EINVAL
	}
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	kind, err := fileType(t, f)
	if err != nil {
		return 0, err
	}
	switch kind {
	case unix.S_IFREG, unix.S_IFBLK, unix.S_IFDIR, unix.S_IFLNK:
	default:
		return 0, unix.ESPIPE
	}
	if flags&(unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WAIT_AFTER) == 0 {
		return 0, nil
	}
	return 0, f.Sync(t, true)
}
