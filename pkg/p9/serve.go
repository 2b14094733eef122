package p9

import (
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// dispatch handles one request: decodes it, does it, and encodes the answer's body.
func (w *worker) dispatch(kind uint8) error {
	switch kind {
	case typeTversion:
		return w.version()
	case typeTauth:
		return errNoAuth
	case typeTattach:
		return w.attach()
	case typeTflush:
		return w.flush()
	case typeTwalk:
		return w.walk()
	case typeTclunk:
		return w.clunk()
	case typeTremove:
		return w.removeFile()
	case typeTgetattr:
		return w.getattr()
	case typeTsetattr:
		return w.setattr()
	case typeTstatfs:
		return w.statfs()
	case typeTlopen:
		return w.open()
	case typeTlcreate:
		return w.create()
	case typeTread:
		return w.read()
	case typeTwrite:
		return w.write()
	case typeTreaddir:
		return w.readdir(false)
	case typeTfsync:
		return w.fsync()
	case typeTlock:
		return w.lock()
	case typeTgetlock:
		return w.getlock()
	case typeTreadlink:
		return w.readlink()
	case typeTsymlink, typeTmknod, typeTmkdir:
		return w.makeNode(kind)
	case typeTlink:
		return w.link()
	case typeTrename:
		return w.rename()
	case typeTrenameat:
		return w.renameAt()
	case typeTunlinkat:
		return w.unlinkAt()
	case typeTxattrwalk:
		return w.xattrWalk()
	case typeTxattrcreate:
		return w.xattrCreate()
	}
	ext := w.s.ext
	switch {
	case kind == typeTwalkgetattr && ext&ExtWalk != 0:
		return w.walkGetattr()
	case kind == typeTopenfd && ext&ExtOpenFD != 0:
		return w.openFile()
	case kind == typeTmake && ext&ExtMake != 0:
		return w.makeAny()
	case kind == typeTreaddirplus && ext&ExtPlus != 0:
		return w.readdir(true)
	case kind == typeTlist && ext&ExtList != 0:
		return w.list()
	case kind == typeTclunks && ext&ExtClunks != 0:
		return w.clunks()
	}
	return unix.EOPNOTSUPP
}

func (w *worker) version() error {
	var m Tversion
	if err := w.request(&m); err != nil {
		return err
	}
	s := w.s
	s.dropFids()
	s.agreed = false
	r := Rversion{Msize: min(m.Msize, s.options.Msize), Version: "unknown"}
	if ext, ok := parseVersion(m.Version); ok && m.Msize >= MinMsize {
		s.ext = ext & s.options.Extensions
		s.msize = r.Msize
		s.agreed = true
		r.Version = versionString(s.ext)
	}
	r.wire(&w.out)
	return nil
}

func (w *worker) attach() error {
	var m Tattach
	if err := w.request(&m); err != nil {
		return err
	}
	if m.AFid != NoFid {
		return unix.EINVAL
	}
	node, err := w.s.root.Attach(m.Uname, m.NUname, m.Aname)
	if err != nil {
		return err
	}
	a, err := node.GetAttr()
	if err != nil {
		node.Release()
		return err
	}
	if err := w.s.install(m.Fid, &fid{ref: newRef(node)}, false); err != nil {
		return err
	}
	r := Rattach{Qid: a.Qid}
	r.wire(&w.out)
	return nil
}

// flush answers once the request it is about has been answered: nothing here can be called back halfway. A flush
// of a flush does not wait, or two of them could wait for each other.
func (w *worker) flush() error {
	var m Tflush
	if err := w.request(&m); err != nil {
		return err
	}
	w.s.mu.Lock()
	old := w.s.tags[m.OldTag]
	w.s.mu.Unlock()
	if old != nil && !old.flush {
		<-old.answered
	}
	return nil
}

// step walks one name from at. "." and ".." are not names that a node ever hears: the first is the node itself, the second
// the node this one was walked from, or at the root the root. Sessions with extensions do without
// parents, and so without "..".
func (w *worker) step(at *nodeRef, name string) (*nodeRef, Attr, error) {
	if name == "." || name == ".." && w.s.ext == 0 {
		a, err := at.node.GetAttr()
		if err == nil && !a.IsDir() {
			err = unix.ENOTDIR
		}
		if err != nil {
			return nil, Attr{}, err
		}
		to := at
		w.s.mu.Lock()
		if name == ".." && at.parent != nil {
			to = at.parent
		}
		to.take()
		w.s.mu.Unlock()
		if to != at {
			if a, err = to.node.GetAttr(); err != nil {
				to.put()
				return nil, Attr{}, err
			}
		}
		return to, a, nil
	}
	if err := checkName(name); err != nil {
		return nil, Attr{}, err
	}
	node, a, err := at.node.Walk(name)
	if err != nil {
		return nil, Attr{}, err
	}
	to := newRef(node)
	w.s.adopt(to, at, name)
	return to, a, nil
}

// adopt notes whose child a node is, for Trename and Tremove; sessions with extensions do without these two and
// spare the descriptors of directories nobody holds.
func (s *session) adopt(child, parent *nodeRef, name string) {
	if s.ext == 0 {
		child.parent, child.name = parent.take(), name
	}
}

func (w *worker) walk() error {
	m := Twalk{Names: w.names[:0]}
	m.wire(&w.in)
	w.names = m.Names
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	if f.xattr != nil {
		return unix.EBADF
	}
	var qids [MaxWalk]Qid
	r := Rwalk{Qids: qids[:0]}
	at := f.ref.take()
	for i, name := range m.Names {
		to, a, err := w.step(at, name)
		if err != nil {
			at.put()
			if i == 0 {
				return err
			}
			r.wire(&w.out) // some of the qids: no fid was made
			return nil
		}
		at.put()
		at = to
		r.Qids = append(r.Qids, a.Qid)
	}
	if err := w.s.install(m.NewFid, &fid{ref: at}, m.NewFid == m.Fid); err != nil {
		return err
	}
	r.wire(&w.out)
	return nil
}

func (w *worker) walkGetattr() error {
	m := Twalkgetattr{Names: w.names[:0]}
	m.wire(&w.in)
	w.names = m.Names
	if err := w.decoded(); err != nil {
		return err
	}
	if m.How&^(howEach|howOpen) != 0 {
		return unix.EINVAL
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	if f.xattr != nil {
		return unix.EBADF
	}
	r := Rwalkgetattr{Attrs: w.attrs[:0]}
	defer func() { w.attrs = r.Attrs[:0] }()
	var made [MaxWalk]uint32
	fids := made[:0]
	undo := func() {
		for _, id := range fids {
			if f, err := w.s.remove(id); err == nil {
				w.s.putFid(f)
			}
		}
	}
	at := f.ref.take()
	defer func() { at.put() }()
	if len(m.Names) == 0 {
		a, err := at.node.GetAttr()
		if err != nil {
			return err
		}
		r.Attrs = append(r.Attrs, a)
	}
	for i, name := range m.Names {
		to, a, err := w.step(at, name)
		if err != nil {
			errno, ok := err.(unix.Errno)
			if !ok || errno == 0 {
				errno = unix.EIO
			}
			r.Errno = uint32(errno)
			break
		}
		if m.How&howEach != 0 && m.NewFid != NoFid {
			id := m.NewFid + uint32(i)
			if err := w.s.install(id, &fid{ref: to.take()}, false); err != nil {
				to.put()
				undo()
				return err
			}
			fids = append(fids, id)
		}
		at.put()
		at = to
		r.Attrs = append(r.Attrs, a)
	}
	if r.Errno == 0 {
		if m.NewFid != NoFid && len(fids) == 0 {
			if err := w.s.install(m.NewFid, &fid{ref: at.take()}, false); err != nil {
				return err
			}
			fids = append(fids, m.NewFid)
		}
		last := &r.Attrs[len(r.Attrs)-1]
		if m.How&howOpen != 0 && last.IsRegular() && w.s.ext&ExtOpenFD != 0 {
			// Failing to open is not failing to walk: the client asks again, and then learns why.
			if file, a, err := donate(at.node, m.OpenFlags); err == nil {
				w.file, *last, r.HasFD = file, a, true
			}
		}
	}
	r.wire(&w.out)
	if w.out.bad || len(w.out.buf) > int(w.s.msize) {
		undo()
		return unix.EMSGSIZE
	}
	return nil
}

func donate(n Node, flags uint32) (int, Attr, error) {
	d, ok := n.(Donor)
	if !ok {
		return -1, Attr{}, unix.EOPNOTSUPP
	}
	return d.OpenFile(flags & OpenMask)
}

func (w *worker) openFile() error {
	var m Topenfd
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	file, a, err := donate(f.ref.node, m.Flags)
	if err != nil {
		return err
	}
	w.file = file
	r := Ropenfd{Attr: a, HasFD: true}
	r.wire(&w.out)
	return nil
}

// clunkFid drops a fid; of one that an extended attribute was written to, this sets the attribute.
func (w *worker) clunkFid(id uint32) error {
	f, err := w.s.remove(id)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	x := f.xattr
	if x == nil || !x.writing {
		return nil
	}
	n, ok := f.ref.node.(Attributes)
	if !ok {
		return unix.EOPNOTSUPP
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.value) != cap(x.value) {
		return unix.EINVAL
	}
	if len(x.value) == 0 && x.flags&unix.XATTR_REPLACE != 0 {
		return n.RemoveXattr(x.name) // how 9P2000.L says it
	}
	return n.SetXattr(x.name, x.value, x.flags)
}

func (w *worker) clunk() error {
	var m Tclunk
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	return w.clunkFid(m.Fid)
}

func (w *worker) clunks() error {
	var m Tclunks
	if err := w.request(&m); err != nil {
		return err
	}
	var first error
	for _, id := range m.Fids {
		if err := w.clunkFid(id); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (w *worker) getattr() error {
	var m Tgetattr
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	a, err := f.ref.node.GetAttr()
	if err != nil {
		return err
	}
	r := Rgetattr{Valid: getattrBasic, Attr: a}
	r.wire(&w.out)
	return nil
}

func (w *worker) setattr() error {
	var m Tsetattr
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	if m.Set.Valid&^setAttrBits != 0 || m.Set.Mode&^0o7777 != 0 && m.Set.Valid&SetMode != 0 && m.Set.Mode&unix.S_IFMT == 0 {
		return unix.EINVAL
	}
	m.Set.Mode &= 0o7777
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	set := m.Set
	return f.ref.node.SetAttr(&set)
}

func (w *worker) statfs() error {
	var m Tstatfs
	f, err := w.about(&m, &m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	n, ok := f.ref.node.(FileSystem)
	if !ok {
		return unix.EOPNOTSUPP
	}
	var r Rstatfs
	if r.Statfs, err = n.Statfs(); err != nil {
		return err
	}
	r.wire(&w.out)
	return nil
}

func (w *worker) open() error {
	var m Tlopen
	f, err := w.about(&m, &m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handle != nil || f.xattr != nil {
		return unix.EBUSY
	}
	h, err := f.ref.node.Open(m.Flags & OpenMask)
	if err != nil {
		return err
	}
	a, err := f.ref.node.GetAttr()
	if err != nil {
		h.Close()
		return err
	}
	f.handle, f.flags = h, m.Flags&OpenMask
	r := Rlopen{Qid: a.Qid}
	r.wire(&w.out)
	return nil
}

// makeOrFind is creat(2) without the opening: it makes a regular file or, unless exclusive, finds the one there.
func (w *worker) makeOrFind(dir *nodeRef, args *MakeArgs, exclusive bool) (ref *nodeRef, a Attr, created bool, err error) {
	d, ok := dir.node.(Directory)
	if !ok {
		return nil, Attr{}, false, unix.ENOTDIR
	}
	if err := checkName(args.Name); err != nil {
		return nil, Attr{}, false, err
	}
	// Somebody else may make the file between our trying to and our looking, or remove it: a few tries.
	for range 4 {
		var node Node
		node, a, err = d.Make(args)
		if err == nil {
			created = true
		} else if err == unix.EEXIST && !exclusive {
			node, a, err = dir.node.Walk(args.Name)
			if err == unix.ENOENT {
				continue
			}
		}
		if err != nil {
			return nil, Attr{}, false, err
		}
		ref = newRef(node)
		w.s.adopt(ref, dir, args.Name)
		return ref, a, created, nil
	}
	return nil, Attr{}, false, unix.EEXIST
}

func (w *worker) create() error {
	var m Tlcreate
	f, err := w.about(&m, &m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	f.mu.Lock()
	busy := f.handle != nil || f.xattr != nil
	f.mu.Unlock()
	if busy {
		return unix.EBUSY
	}
	args := MakeArgs{Name: m.Name, Mode: m.Mode&0o7777 | unix.S_IFREG, UID: NoID, GID: m.GID}
	ref, a, _, err := w.makeOrFind(f.ref, &args, m.Flags&unix.O_EXCL != 0)
	if err != nil {
		return err
	}
	if !a.IsRegular() {
		ref.put()
		if a.IsSymlink() {
			return unix.ELOOP
		}
		return unix.EISDIR
	}
	h, err := ref.node.Open(m.Flags & OpenMask &^ unix.O_DIRECTORY)
	if err != nil {
		ref.put()
		return err
	}
	if err := w.s.install(m.Fid, &fid{ref: ref, handle: h, flags: m.Flags & OpenMask}, true); err != nil {
		return err
	}
	r := Rlcreate{Qid: a.Qid}
	r.wire(&w.out)
	return nil
}

func (w *worker) makeAny() error {
	var m Tmake
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	if m.How&^(howOpen|howExclusive) != 0 {
		return unix.EINVAL
	}
	f, err := w.s.lookup(m.DirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	args := MakeArgs{Name: m.Name, Mode: m.Mode, Rdev: m.Rdev, UID: m.UID, GID: m.GID, Target: m.Target}
	if args.Mode&unix.S_IFMT == 0 {
		args.Mode |= unix.S_IFREG
	}
	regular := args.Mode&unix.S_IFMT == unix.S_IFREG
	ref, a, created, err := w.makeOrFind(f.ref, &args, m.How&howExclusive != 0 || !regular)
	if err != nil {
		return err
	}
	r := Rmake{Attr: a, Created: created}
	if m.How&howOpen != 0 && a.IsRegular() && w.s.ext&ExtOpenFD != 0 {
		file, after, err := donate(ref.node, m.OpenFlags)
		if err != nil {
			ref.put()
			return err
		}
		w.file, r.Attr, r.HasFD = file, after, true
	}
	if m.NewFid == NoFid {
		ref.put()
	} else if err := w.s.install(m.NewFid, &fid{ref: ref}, false); err != nil {
		return err
	}
	r.wire(&w.out)
	return nil
}

// makeNode is Tsymlink, Tmknod and Tmkdir.
func (w *worker) makeNode(kind uint8) error {
	var dir uint32
	args := MakeArgs{UID: NoID}
	switch kind {
	case typeTsymlink:
		var m Tsymlink
		m.wire(&w.in)
		dir, args.Name, args.Target, args.GID, args.Mode = m.DirFid, m.Name, m.Target, m.GID, unix.S_IFLNK|0o777
	case typeTmknod:
		var m Tmknod
		m.wire(&w.in)
		dir, args.Name, args.Mode, args.GID = m.DirFid, m.Name, m.Mode, m.GID
		args.Rdev = unix.Mkdev(m.Major, m.Minor)
		if args.Mode&unix.S_IFMT == 0 {
			args.Mode |= unix.S_IFREG
		}
		if t := args.Mode & unix.S_IFMT; t == unix.S_IFDIR || t == unix.S_IFLNK {
			w.in.bad = true
		}
	case typeTmkdir:
		var m Tmkdir
		m.wire(&w.in)
		dir, args.Name, args.Mode, args.GID = m.DirFid, m.Name, m.Mode&0o7777|unix.S_IFDIR, m.GID
	}
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(dir)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	ref, a, _, err := w.makeOrFind(f.ref, &args, true)
	if err != nil {
		return err
	}
	ref.put()
	w.out.qid(&a.Qid) // Rsymlink, Rmknod and Rmkdir alike
	return nil
}

// opened gives the handle of an open fid.
func (f *fid) opened() (Handle, uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handle == nil {
		return nil, 0, unix.EBADF
	}
	return f.handle, f.flags, nil
}

func (w *worker) read() error {
	var m Tread
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	count := int(min(m.Count, w.s.msize-ioHeader))
	if x := f.xattr; x != nil {
		if x.writing {
			return unix.EBADF
		}
		from := int(min(m.Offset, uint64(len(x.value))))
		data := x.value[from:min(from+count, len(x.value))]
		w.out.data(&data)
		return nil
	}
	h, flags, err := f.opened()
	if err != nil {
		return err
	}
	reader, ok := h.(Reader)
	if !ok {
		return unix.EISDIR
	}
	if flags&unix.O_ACCMODE == unix.O_WRONLY {
		return unix.EBADF
	}
	// Straight into the answer, behind its header and the count.
	const start = HeaderSize + 4
	w.out.buf = slices.Grow(w.out.buf, 4+count)
	n, err := reader.ReadAt(w.out.buf[start:start+count], m.Offset)
	if err != nil {
		return err
	}
	w.out.buf = binary.LittleEndian.AppendUint32(w.out.buf, uint32(n))[:start+n]
	return nil
}

func (w *worker) write() error {
	var m Twrite
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	r := Rwrite{Count: uint32(len(m.Data))}
	if x := f.xattr; x != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.writing || m.Offset != uint64(len(x.value)) {
			return unix.EBADF
		}
		if len(m.Data) > cap(x.value)-len(x.value) {
			return unix.ENOSPC
		}
		x.value = append(x.value, m.Data...)
		r.wire(&w.out)
		return nil
	}
	h, flags, err := f.opened()
	if err != nil {
		return err
	}
	writer, ok := h.(Writer)
	if !ok || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return unix.EBADF
	}
	n, err := writer.WriteAt(m.Data, m.Offset)
	if err != nil {
		return err
	}
	r.Count = uint32(n)
	r.wire(&w.out)
	return nil
}

func (w *worker) readdir(plus bool) error {
	var m Treaddir
	m.wire(&w.in)
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	h, _, err := f.opened()
	if err != nil {
		return err
	}
	lister, ok := h.(Lister)
	if !ok {
		return unix.ENOTDIR
	}
	limit := int(min(m.Count, w.s.msize-ioHeader))
	const start = HeaderSize + 4
	w.out.buf = append(w.out.buf, 0, 0, 0, 0)
	full := false
	err = lister.ReadDir(m.Offset, plus, func(d *Dirent) bool {
		if len(w.out.buf)-start+direntSize(d, plus) > limit {
			full = true
			return false
		}
		w.out.dirent(d, plus)
		return true
	})
	n := len(w.out.buf) - start
	if err != nil && n == 0 {
		return err
	}
	if full && n == 0 {
		return unix.EINVAL // as getdents(2) with a buffer too small for one entry
	}
	binary.LittleEndian.PutUint32(w.out.buf[HeaderSize:], uint32(n))
	return nil
}

// list is a walk, an open, and the first readdir with attributes.
func (w *worker) list() error {
	m := Tlist{Names: w.names[:0]}
	m.wire(&w.in)
	w.names = m.Names
	if err := w.decoded(); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	if f.xattr != nil {
		return unix.EBADF
	}
	at := f.ref.take()
	defer func() { at.put() }()
	var r Rlist
	for _, name := range m.Names {
		to, _, err := w.step(at, name)
		if err != nil {
			return err
		}
		at.put()
		at = to
	}
	if r.Attr, err = at.node.GetAttr(); err != nil {
		return err
	}
	if !r.Attr.IsDir() {
		return unix.ENOTDIR
	}
	h, err := at.node.Open(unix.O_RDONLY | unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	lister, ok := h.(Lister)
	if !ok {
		h.Close()
		return unix.ENOTDIR
	}
	r.wire(&w.out)
	start := len(w.out.buf)
	limit := int(min(m.Count, w.s.msize-ioHeader-attrSize))
	r.Whole = true
	err = lister.ReadDir(0, true, func(d *Dirent) bool {
		if len(w.out.buf)-start+direntSize(d, true) > limit {
			r.Whole = false
			return false
		}
		w.out.dirent(d, true)
		return true
	})
	n := len(w.out.buf) - start
	if !r.Whole && n == 0 {
		err = unix.EINVAL
	}
	if err != nil {
		h.Close()
		return err
	}
	if r.Whole {
		h.Close()
		w.out.buf[start-5] = 1 // behind attr, before count
	} else if err := w.s.install(m.NewFid, &fid{ref: at.take(), handle: h}, false); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(w.out.buf[start-4:], uint32(n))
	return nil
}

func (w *worker) fsync() error {
	var m Tfsync
	f, err := w.about(&m, &m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	h, _, err := f.opened()
	if err != nil {
		return err
	}
	syncer, ok := h.(Syncer)
	if !ok {
		return unix.EINVAL
	}
	return syncer.Sync(m.DataOnly != 0)
}

// locker gives the handle for Tlock and Tgetlock.
func (w *worker) locker(id uint32, kind uint8) (*fid, Locker, error) {
	if kind > LockUnlock {
		return nil, nil, unix.EINVAL
	}
	f, err := w.s.lookup(id)
	if err != nil {
		return nil, nil, err
	}
	h, _, err := f.opened()
	if err != nil {
		w.s.putFid(f)
		return nil, nil, err
	}
	l, ok := h.(Locker)
	if !ok {
		w.s.putFid(f)
		return nil, nil, unix.EINVAL
	}
	return f, l, nil
}

func (w *worker) lock() error {
	var m Tlock
	if err := w.request(&m); err != nil {
		return err
	}
	f, l, err := w.locker(m.Fid, m.Type)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	var r Rlock
	r.Status, err = l.Lock(&FileLock{Type: m.Type, Start: m.Start, Length: m.Length, PID: m.PID, ClientID: m.ClientID})
	if err != nil {
		return err
	}
	r.wire(&w.out)
	return nil
}

func (w *worker) getlock() error {
	var m Tgetlock
	if err := w.request(&m); err != nil {
		return err
	}
	f, l, err := w.locker(m.Fid, m.Type)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	got, err := l.GetLock(&FileLock{Type: m.Type, Start: m.Start, Length: m.Length, PID: m.PID, ClientID: m.ClientID})
	if err != nil {
		return err
	}
	r := Rgetlock{Type: got.Type, Start: got.Start, Length: got.Length, PID: got.PID, ClientID: got.ClientID}
	r.wire(&w.out)
	return nil
}

func (w *worker) readlink() error {
	var m Treadlink
	f, err := w.about(&m, &m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	n, ok := f.ref.node.(Linker)
	if !ok {
		return unix.EINVAL
	}
	var r Rreadlink
	if r.Target, err = n.Readlink(); err != nil {
		return err
	}
	r.wire(&w.out)
	return nil
}

// directory takes a fid and its node as a directory.
func (w *worker) directory(id uint32) (*fid, Directory, error) {
	f, err := w.s.lookup(id)
	if err != nil {
		return nil, nil, err
	}
	d, ok := f.ref.node.(Directory)
	if !ok {
		w.s.putFid(f)
		return nil, nil, unix.ENOTDIR
	}
	return f, d, nil
}

func (w *worker) link() error {
	var m Tlink
	if err := w.request(&m); err != nil {
		return err
	}
	if err := checkName(m.Name); err != nil {
		return err
	}
	f, d, err := w.directory(m.DirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	file, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(file)
	return d.Link(m.Name, file.ref.node)
}

func (w *worker) renameAt() error {
	var m Trenameat
	if err := w.request(&m); err != nil {
		return err
	}
	if err := checkName(m.OldName); err != nil {
		return err
	}
	if err := checkName(m.NewName); err != nil {
		return err
	}
	f, d, err := w.directory(m.OldDirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	to, err := w.s.lookup(m.NewDirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(to)
	return d.Rename(m.OldName, to.ref.node, m.NewName)
}

func (w *worker) unlinkAt() error {
	var m Tunlinkat
	if err := w.request(&m); err != nil {
		return err
	}
	if m.Flags&^unix.AT_REMOVEDIR != 0 {
		return unix.EINVAL
	}
	if err := checkName(m.Name); err != nil {
		return err
	}
	f, d, err := w.directory(m.DirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	return d.Unlink(m.Name, m.Flags)
}

// origin finds the directory and the name a fid came by, if that name still is that file's.
func (w *worker) origin(ref *nodeRef) (parent *nodeRef, name string, a Attr, err error) {
	w.s.mu.Lock()
	parent, name = ref.parent, ref.name
	if parent != nil {
		parent.take()
	}
	w.s.mu.Unlock()
	if parent == nil {
		return nil, "", Attr{}, unix.EOPNOTSUPP
	}
	mine, err := ref.node.GetAttr()
	if err == nil {
		var there Node
		if there, a, err = parent.node.Walk(name); err == nil {
			there.Release()
			if a.Qid.Path != mine.Qid.Path {
				err = unix.ESTALE
			}
		}
	}
	if err != nil {
		parent.put()
		return nil, "", Attr{}, err
	}
	return parent, name, a, nil
}

func (w *worker) rename() error {
	var m Trename
	if err := w.request(&m); err != nil {
		return err
	}
	if err := checkName(m.Name); err != nil {
		return err
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	to, err := w.s.lookup(m.DirFid)
	if err != nil {
		return err
	}
	defer w.s.putFid(to)
	parent, name, _, err := w.origin(f.ref)
	if err != nil {
		return err
	}
	defer parent.put()
	d, ok := parent.node.(Directory)
	if !ok {
		return unix.ENOTDIR
	}
	if err := d.Rename(name, to.ref.node, m.Name); err != nil {
		return err
	}
	w.s.mu.Lock()
	old := f.ref.parent
	f.ref.parent, f.ref.name = to.ref.take(), m.Name
	for up := to.ref; up != nil; up = up.parent {
		if up == f.ref {
			// Moves by other fids have made the chain a ring, which would never be released. Forget where it
			// came from instead.
			f.ref.parent = nil
			defer to.ref.put()
			break
		}
	}
	w.s.mu.Unlock()
	old.put()
	return nil
}

func (w *worker) removeFile() error {
	var m Tremove
	if err := w.request(&m); err != nil {
		return err
	}
	f, err := w.s.remove(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	parent, name, a, err := w.origin(f.ref)
	if err != nil {
		return err
	}
	defer parent.put()
	d, ok := parent.node.(Directory)
	if !ok {
		return unix.ENOTDIR
	}
	if a.IsDir() {
		return d.Unlink(name, unix.AT_REMOVEDIR)
	}
	return d.Unlink(name, 0)
}

func (w *worker) xattrWalk() error {
	var m Txattrwalk
	if err := w.request(&m); err != nil {
		return err
	}
	if strings.IndexByte(m.Name, 0) >= 0 {
		return unix.EINVAL
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	n, ok := f.ref.node.(Attributes)
	if !ok {
		return unix.EOPNOTSUPP
	}
	var value []byte
	if m.Name == "" {
		value, err = n.ListXattr()
	} else {
		value, err = n.GetXattr(m.Name)
	}
	if err != nil {
		return err
	}
	value = slices.Clip(value)
	if err := w.s.reserveXattr(cap(value)); err != nil {
		return err
	}
	x := &xattrFid{name: m.Name, value: value}
	if err := w.s.install(m.NewFid, &fid{ref: f.ref.take(), xattr: x}, m.NewFid == m.Fid); err != nil {
		return err
	}
	r := Rxattrwalk{Size: uint64(len(value))}
	r.wire(&w.out)
	return nil
}

func (w *worker) xattrCreate() error {
	var m Txattrcreate
	if err := w.request(&m); err != nil {
		return err
	}
	if m.Name == "" || strings.IndexByte(m.Name, 0) >= 0 || m.Flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return unix.EINVAL
	}
	if m.Size > MaxXattr {
		return unix.E2BIG
	}
	f, err := w.s.lookup(m.Fid)
	if err != nil {
		return err
	}
	defer w.s.putFid(f)
	if _, ok := f.ref.node.(Attributes); !ok || f.xattr != nil {
		return unix.EOPNOTSUPP
	}
	if err := w.s.reserveXattr(int(m.Size)); err != nil {
		return err
	}
	value := make([]byte, 0, m.Size)
	x := &xattrFid{name: m.Name, writing: true, flags: m.Flags, value: value}
	return w.s.install(m.Fid, &fid{ref: f.ref.take(), xattr: x}, true)
}
