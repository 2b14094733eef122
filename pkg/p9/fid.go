package p9

import "golang.org/x/sys/unix"

// Fid is a file on the server. Its methods are safe for concurrent use; after Clunk or Remove it must not be used again.
type Fid struct {
	c  *Client
	id uint32
}

// makeFid reserves a number for a request that will make a fid.
func (c *Client) makeFid() (*Fid, error) {
	id := c.newFids(1)
	if id == NoFid {
		return nil, unix.EMFILE
	}
	return &Fid{c: c, id: id}, nil
}

// drop gives back the number of a fid whose making failed. After EIO the server may have made it all the same.
func (f *Fid) drop(err error) {
	if err != unix.EIO {
		f.c.freeFid(f.id)
	}
}

// Client is the connection f belongs to.
func (f *Fid) Client() *Client { return f.c }

// Attach introduces a user and returns the root of the tree named aname.
func (c *Client) Attach(uname string, uid uint32, aname string) (*Fid, Qid, error) {
	f, err := c.makeFid()
	if err != nil {
		return nil, Qid{}, err
	}
	var r Rattach
	if err := c.ask(typeTattach, &Tattach{Fid: f.id, AFid: NoFid, Uname: uname, Aname: aname, NUname: uid}, &r); err != nil {
		f.drop(err)
		return nil, Qid{}, err
	}
	return f, r.Qid, nil
}

// Walk makes a fid for the file names lead to; with no names, another one for f's own file. It is all or
// nothing: a name that isn't there is ENOENT. Links are not followed.
func (f *Fid) Walk(names ...string) (*Fid, []Qid, error) {
	c := f.c
	to, err := c.makeFid()
	if err != nil {
		return nil, nil, err
	}
	var r Rwalk
	if err := c.ask(typeTwalk, &Twalk{Fid: f.id, NewFid: to.id, Names: names}, &r); err != nil {
		to.drop(err)
		return nil, nil, err
	}
	if len(r.Qids) != len(names) {
		c.freeFid(to.id)
		return nil, nil, unix.ENOENT
	}
	return to, r.Qids, nil
}

// WalkOptions says what WalkGetattr brings besides attributes.
type WalkOptions struct {
	Each      bool   // a fid for each file met, not only for the end
	Open      bool   // a descriptor of the end, if it is a regular file and can be opened with OpenFlags
	OpenFlags uint32 // O_RDONLY, O_RDWR, ...
	NoFid     bool   // no fid is wanted, only what is found out; not with Each
}

// WalkResult is what a walk found. It may be used again for another walk, and then keeps its slices.
type WalkResult struct {
	// Attrs are those of the files met, one for each name walked; with no names, of the starting fid's file.
	Attrs []Attr
	// Err is 0 if the walk went all the way; otherwise why the name number len(Attrs) could not be walked:
	// ENOENT, ENOTDIR (also for a name behind a symbolic link), EACCES...
	Err unix.Errno
	// Fids holds a fid for each of Attrs if Each was asked for. Otherwise it holds one, for the end, or
	// none if Err is set or with NoFid.
	Fids []*Fid
	// File is an open descriptor of the end, the caller's to close, or -1: OpenFile then says why.
	File int
}

// WalkGetattr walks names in one message and brings the attributes of everything met. A name that cannot be walked is no error
// of the call but in res.Err. With a peer without ExtWalk it costs two messages a name, and brings no descriptor.
func (f *Fid) WalkGetattr(names []string, o WalkOptions, res *WalkResult) error {
	res.Attrs, res.Fids, res.Err, res.File = res.Attrs[:0], res.Fids[:0], 0, -1
	if len(names) > MaxWalk {
		return unix.ENAMETOOLONG
	}
	c := f.c
	if c.ext&ExtWalk == 0 {
		err := f.walkOneByOne(names, o.Each, res)
		if err == nil && o.NoFid && len(res.Fids) > 0 {
			res.Fids[0].Clunk()
			res.Fids = res.Fids[:0]
		}
		return err
	}
	wanted := 1
	if o.Each {
		wanted = max(1, len(names))
	}
	first := NoFid
	if o.NoFid {
		wanted = 0
	} else if first = c.newFids(wanted); first == NoFid {
		return unix.EMFILE
	}
	m := Twalkgetattr{Fid: f.id, NewFid: first, Names: names}
	if o.Each {
		m.How |= howEach
	}
	if o.Open && c.ext&ExtOpenFD != 0 {
		m.How |= howOpen
		m.OpenFlags = o.OpenFlags
	}
	cl := c.start(typeTwalkgetattr)
	defer c.done(cl)
	m.wire(&cl.out)
	in, err := c.exchange(cl)
	if err == nil {
		r := Rwalkgetattr{Attrs: res.Attrs}
		r.wire(&in)
		err = in.end()
		res.Attrs, res.Err = r.Attrs, unix.Errno(r.Errno)
		if err == nil && (len(r.Attrs) > max(1, len(names)) || r.Errno > 4095 ||
			(r.Errno == 0) != (len(r.Attrs) == max(1, len(names)))) {
			err = unix.EIO
		}
	}
	if err != nil {
		if err != unix.EIO {
			for i := range wanted {
				c.freeFid(first + uint32(i))
			}
		}
		res.Attrs, res.Err = res.Attrs[:0], 0
		return err
	}
	made := 0
	if o.Each {
		made = len(res.Attrs)
	} else if res.Err == 0 {
		made = wanted
	}
	for i := range wanted {
		if i < made {
			res.Fids = append(res.Fids, &Fid{c: c, id: first + uint32(i)})
		} else {
			c.freeFid(first + uint32(i))
		}
	}
	res.File = cl.takeFile()
	return nil
}

// walkOneByOne is WalkGetattr in plain 9P2000.L.
func (f *Fid) walkOneByOne(names []string, each bool, res *WalkResult) error {
	at := f
	step := func(name ...string) error {
		to, _, err := at.Walk(name...)
		if err != nil {
			return err
		}
		a, err := to.Getattr()
		if err != nil {
			to.Clunk()
			return err
		}
		res.Attrs = append(res.Attrs, a)
		if at != f && !each {
			at.Clunk()
			res.Fids = res.Fids[:0]
		}
		at = to
		res.Fids = append(res.Fids, to)
		return nil
	}
	if len(names) == 0 {
		return step()
	}
	for _, name := range names {
		if err := step(name); err != nil {
			if err == unix.EIO {
				return err
			}
			res.Err = err.(unix.Errno)
			if at != f && !each {
				at.Clunk()
				res.Fids = res.Fids[:0]
			}
			break
		}
	}
	return nil
}

// OpenFile asks for a descriptor of f's file, which must be a regular one, opened with flags (access mode,
// O_TRUNC, O_APPEND, O_SYNC, O_DSYNC). It is the caller's to close. f itself stays as it is. The attributes are
// those after opening. It is EOPNOTSUPP if the peer can't.
func (f *Fid) OpenFile(flags uint32) (file int, a Attr, err error) {
	c := f.c
	if c.ext&ExtOpenFD == 0 {
		return -1, Attr{}, unix.EOPNOTSUPP
	}
	cl := c.start(typeTopenfd)
	defer c.done(cl)
	m := Topenfd{Fid: f.id, Flags: flags}
	m.wire(&cl.out)
	in, err := c.exchange(cl)
	if err != nil {
		return -1, Attr{}, err
	}
	var r Ropenfd
	r.wire(&in)
	if err := in.end(); err != nil {
		return -1, Attr{}, err
	}
	if !r.HasFD {
		return -1, Attr{}, unix.EOPNOTSUPP
	}
	if file = cl.takeFile(); file < 0 {
		return -1, Attr{}, unix.EMFILE
	}
	return file, r.Attr, nil
}

// Open prepares f for Read, Write and Readdir through the server.
func (f *Fid) Open(flags uint32) (Qid, error) {
	var r Rlopen
	err := f.c.ask(typeTlopen, &Tlopen{Fid: f.id, Flags: flags}, &r)
	return r.Qid, err
}

// Create makes a regular file in the directory f and opens it; f then is that file.
func (f *Fid) Create(name string, flags, mode, gid uint32) (Qid, error) {
	var r Rlcreate
	err := f.c.ask(typeTlcreate, &Tlcreate{Fid: f.id, Name: name, Flags: flags, Mode: mode, GID: gid}, &r)
	return r.Qid, err
}

// MakeOptions says how Make treats what it makes.
type MakeOptions struct {
	Exclusive bool   // a regular file that exists is EEXIST (all other types always are)
	Open      bool   // a descriptor is wanted
	OpenFlags uint32 // for that; O_TRUNC counts for an existing file
	NoFid     bool   // no fid is wanted
}

// MakeResult is what Make made.
type MakeResult struct {
	Fid     *Fid // nil with NoFid
	Attr    Attr
	Created bool // false: the regular file was there already
	File    int  // an open descriptor, the caller's to close, or -1
}

// Make makes a file of any type in the directory f, with its owner, in one message; it is EOPNOTSUPP with a
// peer without ExtMake.
func (f *Fid) Make(args *MakeArgs, o MakeOptions) (MakeResult, error) {
	res := MakeResult{File: -1}
	c := f.c
	if c.ext&ExtMake == 0 {
		return res, unix.EOPNOTSUPP
	}
	m := Tmake{DirFid: f.id, NewFid: NoFid, Name: args.Name, Mode: args.Mode, Rdev: args.Rdev,
		UID: args.UID, GID: args.GID, Target: args.Target}
	var to *Fid
	if !o.NoFid {
		var err error
		if to, err = c.makeFid(); err != nil {
			return res, err
		}
		m.NewFid = to.id
	}
	if o.Exclusive {
		m.How |= howExclusive
	}
	if o.Open && c.ext&ExtOpenFD != 0 {
		m.How |= howOpen
	}
	m.OpenFlags = o.OpenFlags
	cl := c.start(typeTmake)
	defer c.done(cl)
	m.wire(&cl.out)
	in, err := c.exchange(cl)
	var r Rmake
	if err == nil {
		r.wire(&in)
		err = in.end()
	}
	if err != nil {
		if to != nil {
			to.drop(err)
		}
		return res, err
	}
	return MakeResult{Fid: to, Attr: r.Attr, Created: r.Created, File: cl.takeFile()}, nil
}

// Read fills p from offset on, through the server; f must be open. Less than len(p) without an error is the end of the file.
func (f *Fid) Read(p []byte, offset uint64) (int, error) {
	total := 0
	for len(p) > 0 {
		piece := p[:min(len(p), f.c.MaxIO())]
		n, err := f.readPiece(piece, offset)
		total += n
		if err != nil {
			if total > 0 {
				return total, nil
			}
			return 0, err
		}
		if n < len(piece) {
			break
		}
		p, offset = p[n:], offset+uint64(n)
	}
	return total, nil
}

func (f *Fid) readPiece(p []byte, offset uint64) (int, error) {
	cl := f.c.start(typeTread)
	defer f.c.done(cl)
	m := Tread{Fid: f.id, Offset: offset, Count: uint32(len(p))}
	m.wire(&cl.out)
	cl.into = p
	if _, err := f.c.exchange(cl); err != nil {
		return 0, err
	}
	return cl.n, nil
}

// Write puts p at offset, through the server; f must be open for writing. A short count comes with no error if
// part of p was written.
func (f *Fid) Write(p []byte, offset uint64) (int, error) {
	total := 0
	for len(p) > 0 {
		cl := f.c.start(typeTwrite)
		m := Twrite{Fid: f.id, Offset: offset, Data: p[:min(len(p), f.c.MaxIO())]}
		m.wire(&cl.out)
		in, err := f.c.exchange(cl)
		var r Rwrite
		if err == nil {
			r.wire(&in)
			if err = in.end(); err == nil && int(r.Count) > len(m.Data) {
				err = unix.EIO
			}
		}
		f.c.done(cl)
		if err != nil {
			if total > 0 {
				return total, nil
			}
			return 0, err
		}
		n := int(r.Count)
		total += n
		if n < len(m.Data) {
			break
		}
		p, offset = p[n:], offset+uint64(n)
	}
	return total, nil
}

// Getattr brings f's attributes.
func (f *Fid) Getattr() (Attr, error) {
	cl := f.c.start(typeTgetattr)
	defer f.c.done(cl)
	if f.c.ext&ExtWalk != 0 {
		// The extension's layout has the host's device and inode numbers too.
		cl.out.buf = begin(cl.out.buf, typeTwalkgetattr, NoTag)
		m := Twalkgetattr{Fid: f.id, NewFid: NoFid}
		m.wire(&cl.out)
		in, err := f.c.exchange(cl)
		if err != nil {
			return Attr{}, err
		}
		var one [1]Attr
		r := Rwalkgetattr{Attrs: one[:0]}
		r.wire(&in)
		if in.end() != nil || len(r.Attrs) != 1 {
			return Attr{}, unix.EIO
		}
		return r.Attrs[0], nil
	}
	m := Tgetattr{Fid: f.id, Mask: getattrBasic}
	m.wire(&cl.out)
	in, err := f.c.exchange(cl)
	if err != nil {
		return Attr{}, err
	}
	var r Rgetattr
	r.wire(&in)
	return r.Attr, in.end()
}

// tell sends a message whose answer is empty.
func (c *Client) tell(kind uint8, m message) error {
	cl := c.start(kind)
	defer c.done(cl)
	m.wire(&cl.out)
	in, err := c.exchange(cl)
	if err != nil {
		return err
	}
	return in.end()
}

// Setattr changes attributes.
func (f *Fid) Setattr(s *SetAttr) error {
	return f.c.tell(typeTsetattr, &Tsetattr{Fid: f.id, Set: *s})
}

// Readdir appends entries behind offset (0: the beginning) to list, as many as fit one message. No entries
// and no error is the end. f must be open. "." and ".." are among the entries.
func (f *Fid) Readdir(offset uint64, list []Dirent) ([]Dirent, error) {
	return f.readdir(typeTreaddir, offset, list)
}

// ReaddirPlus is Readdir with the attributes of the entries; with a peer without ExtPlus, without them.
func (f *Fid) ReaddirPlus(offset uint64, list []Dirent) ([]Dirent, error) {
	if f.c.ext&ExtPlus == 0 {
		return f.readdir(typeTreaddir, offset, list)
	}
	return f.readdir(typeTreaddirplus, offset, list)
}

func (f *Fid) readdir(kind uint8, offset uint64, list []Dirent) ([]Dirent, error) {
	cl := f.c.start(kind)
	defer f.c.done(cl)
	m := Treaddir{Fid: f.id, Offset: offset, Count: uint32(min(f.c.MaxIO(), keepBuffers-HeaderSize-4))}
	m.wire(&cl.out)
	in, err := f.c.exchange(cl)
	if err != nil {
		return list, err
	}
	var r Rreaddir
	r.wire(&in)
	if err := in.end(); err != nil {
		return list, err
	}
	return appendEntries(list, r.Data, kind == typeTreaddirplus)
}

func appendEntries(list []Dirent, data []byte, plus bool) ([]Dirent, error) {
	entries := coder{buf: data, dec: true}
	for entries.pos < len(entries.buf) {
		var d Dirent
		entries.dirent(&d, plus)
		if entries.bad {
			return list, unix.EIO
		}
		list = append(list, d)
	}
	return list, nil
}

// ListResult is a directory's beginning, or all of it.
type ListResult struct {
	Attr    Attr // the directory's
	Entries []Dirent
	// Rest is nil if Entries are all; otherwise the directory, opened, for ReaddirPlus to go on behind them.
	Rest *Fid
}

// List walks names and lists the directory there, with attributes, in one message for one that is not too long. It is
// EOPNOTSUPP with a peer without ExtList.
func (f *Fid) List(names []string) (r ListResult, err error) {
	if len(names) > MaxWalk {
		return r, unix.ENAMETOOLONG
	}
	c := f.c
	if c.ext&ExtList == 0 {
		return r, unix.EOPNOTSUPP
	}
	rest, err := c.makeFid()
	if err != nil {
		return r, err
	}
	cl := c.start(typeTlist)
	defer c.done(cl)
	m := Tlist{Fid: f.id, NewFid: rest.id, Count: uint32(min(c.MaxIO(), keepBuffers-HeaderSize-4) - attrSize), Names: names}
	m.wire(&cl.out)
	var a Rlist
	in, err := c.exchange(cl)
	if err == nil {
		a.wire(&in)
		err = in.end()
	}
	if err != nil {
		rest.drop(err)
		return r, err
	}
	r.Attr = a.Attr
	if a.Whole {
		c.freeFid(rest.id)
		rest = nil
	}
	if r.Entries, err = appendEntries(nil, a.Data, true); err != nil {
		if rest != nil {
			rest.Clunk()
		}
		return ListResult{}, err
	}
	r.Rest = rest
	return r, nil
}

// Symlink makes a symbolic link in the directory f.
func (f *Fid) Symlink(name, target string, gid uint32) (Qid, error) {
	var r Rsymlink
	err := f.c.ask(typeTsymlink, &Tsymlink{DirFid: f.id, Name: name, Target: target, GID: gid}, &r)
	return r.Qid, err
}

// Mknod makes a file of any type in the directory f.
func (f *Fid) Mknod(name string, mode, major, minor, gid uint32) (Qid, error) {
	var r Rmknod
	err := f.c.ask(typeTmknod, &Tmknod{DirFid: f.id, Name: name, Mode: mode, Major: major, Minor: minor, GID: gid}, &r)
	return r.Qid, err
}

// Mkdir makes a directory in the directory f.
func (f *Fid) Mkdir(name string, mode, gid uint32) (Qid, error) {
	var r Rmkdir
	err := f.c.ask(typeTmkdir, &Tmkdir{DirFid: f.id, Name: name, Mode: mode, GID: gid}, &r)
	return r.Qid, err
}

// Link gives the file another name, in the directory f.
func (f *Fid) Link(file *Fid, name string) error {
	return f.c.tell(typeTlink, &Tlink{DirFid: f.id, Fid: file.id, Name: name})
}

// RenameAt moves a name from the directory f to the directory to.
func (f *Fid) RenameAt(name string, to *Fid, newName string) error {
	return f.c.tell(typeTrenameat, &Trenameat{OldDirFid: f.id, OldName: name, NewDirFid: to.id, NewName: newName})
}

// Rename moves f's file. Servers answer EOPNOTSUPP in sessions with extensions: use RenameAt.
func (f *Fid) Rename(to *Fid, newName string) error {
	return f.c.tell(typeTrename, &Trename{Fid: f.id, DirFid: to.id, Name: newName})
}

// UnlinkAt removes a name from the directory f; flags is 0 or AT_REMOVEDIR.
func (f *Fid) UnlinkAt(name string, flags uint32) error {
	return f.c.tell(typeTunlinkat, &Tunlinkat{DirFid: f.id, Name: name, Flags: flags})
}

// Remove removes f's file and, whether that works or not, f. Servers answer EOPNOTSUPP in sessions with
// extensions: use UnlinkAt.
func (f *Fid) Remove() error {
	err := f.c.tell(typeTremove, &Tremove{Fid: f.id})
	f.drop(err)
	return err
}

// Readlink reads a symbolic link.
func (f *Fid) Readlink() (string, error) {
	var r Rreadlink
	err := f.c.ask(typeTreadlink, &Treadlink{Fid: f.id}, &r)
	return r.Target, err
}

// Statfs brings the numbers of f's file system.
func (f *Fid) Statfs() (Statfs, error) {
	var r Rstatfs
	err := f.c.ask(typeTstatfs, &Tstatfs{Fid: f.id}, &r)
	return r.Statfs, err
}

// Fsync brings f's data, and unless dataOnly all its attributes, to stable storage.
func (f *Fid) Fsync(dataOnly bool) error {
	m := Tfsync{Fid: f.id}
	if dataOnly {
		m.DataOnly = 1
	}
	return f.c.tell(typeTfsync, &m)
}

// xattr reads what Txattrwalk leads to.
func (f *Fid) xattr(name string) ([]byte, error) {
	to, err := f.c.makeFid()
	if err != nil {
		return nil, err
	}
	var r Rxattrwalk
	if err := f.c.ask(typeTxattrwalk, &Txattrwalk{Fid: f.id, NewFid: to.id, Name: name}, &r); err != nil {
		to.drop(err)
		return nil, err
	}
	defer to.Clunk()
	if r.Size > MaxXattr {
		return nil, unix.E2BIG
	}
	value := make([]byte, r.Size)
	n, err := to.Read(value, 0)
	return value[:n], err
}

// GetXattr brings the value of an extended attribute.
func (f *Fid) GetXattr(name string) ([]byte, error) {
	if name == "" {
		return nil, unix.ERANGE
	}
	return f.xattr(name)
}

// ListXattr brings the names of the extended attributes.
func (f *Fid) ListXattr() ([]string, error) {
	list, err := f.xattr("")
	if err != nil {
		return nil, err
	}
	var names []string
	start := 0
	for i, b := range list {
		if b == 0 {
			names = append(names, string(list[start:i]))
			start = i + 1
		}
	}
	return names, nil
}

// SetXattr sets an extended attribute; flags is 0, XATTR_CREATE or XATTR_REPLACE. An empty value with XATTR_REPLACE
// is not to be told from a removal in this protocol, and refused with EINVAL.
func (f *Fid) SetXattr(name string, value []byte, flags uint32) error {
	if len(value) == 0 && flags&unix.XATTR_REPLACE != 0 {
		return unix.EINVAL
	}
	return f.setXattr(name, value, flags)
}

// RemoveXattr removes an extended attribute.
func (f *Fid) RemoveXattr(name string) error { return f.setXattr(name, nil, unix.XATTR_REPLACE) }

func (f *Fid) setXattr(name string, value []byte, flags uint32) error {
	if len(value) > MaxXattr {
		return unix.E2BIG
	}
	to, _, err := f.Walk()
	if err != nil {
		return err
	}
	err = f.c.tell(typeTxattrcreate, &Txattrcreate{Fid: to.id, Name: name, Size: uint64(len(value)), Flags: flags})
	if err == nil {
		_, err = to.Write(value, 0)
	}
	if clunked := to.Clunk(); err == nil {
		err = clunked
	}
	return err
}

// Lock sets or drops a record lock and does not wait: a conflict is EAGAIN. f must be open. The lock is the
// open fid's, and gone when it is clunked.
func (f *Fid) Lock(l *FileLock) error {
	var r Rlock
	if err := f.c.ask(typeTlock, &Tlock{Fid: f.id, Type: l.Type, Start: l.Start, Length: l.Length, PID: l.PID, ClientID: l.ClientID}, &r); err != nil {
		return err
	}
	switch r.Status {
	case LockSuccess:
		return nil
	case LockBlocked, LockGrace:
		return unix.EAGAIN
	}
	return unix.ENOLCK
}

// GetLock brings a lock that would be in l's way; its Type is LockUnlock if there is none.
func (f *Fid) GetLock(l *FileLock) (FileLock, error) {
	var r Rgetlock
	err := f.c.ask(typeTgetlock, &Tgetlock{Fid: f.id, Type: l.Type, Start: l.Start, Length: l.Length, PID: l.PID, ClientID: l.ClientID}, &r)
	return FileLock{Type: r.Type, Start: r.Start, Length: r.Length, PID: r.PID, ClientID: r.ClientID}, err
}

// Clunk drops f. Its number is free again even if the server complains, as it does if an extended attribute
// could not be set.
func (f *Fid) Clunk() error {
	err := f.c.tell(typeTclunk, &Tclunk{Fid: f.id})
	f.drop(err)
	return err
}

// Clunk drops many fids, in as few messages as the peer allows.
func (c *Client) Clunk(fids ...*Fid) error {
	var first error
	keep := func(err error) {
		if first == nil {
			first = err
		}
	}
	if c.ext&ExtClunks == 0 {
		for _, f := range fids {
			keep(f.Clunk())
		}
		return first
	}
	for len(fids) > 0 {
		some := fids[:min(len(fids), maxClunks)]
		fids = fids[len(some):]
		m := Tclunks{Fids: make([]uint32, len(some))}
		for i, f := range some {
			m.Fids[i] = f.id
		}
		err := c.tell(typeTclunks, &m)
		keep(err)
		for _, f := range some {
			f.drop(err)
		}
	}
	return first
}
