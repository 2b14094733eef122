package p9

// Message types: those of 9P2000.L (https://github.com/chaos/diod/blob/master/protocol.md), and from 200 on the
// extensions of docs/9p.md. An R is always its T plus one.
const (
	typeRlerror      = 7
	typeTstatfs      = 8
	typeRstatfs      = 9
	typeTlopen       = 12
	typeRlopen       = 13
	typeTlcreate     = 14
	typeRlcreate     = 15
	typeTsymlink     = 16
	typeRsymlink     = 17
	typeTmknod       = 18
	typeRmknod       = 19
	typeTrename      = 20
	typeRrename      = 21
	typeTreadlink    = 22
	typeRreadlink    = 23
	typeTgetattr     = 24
	typeRgetattr     = 25
	typeTsetattr     = 26
	typeRsetattr     = 27
	typeTxattrwalk   = 30
	typeRxattrwalk   = 31
	typeTxattrcreate = 32
	typeRxattrcreate = 33
	typeTreaddir     = 40
	typeRreaddir     = 41
	typeTfsync       = 50
	typeRfsync       = 51
	typeTlock        = 52
	typeRlock        = 53
	typeTgetlock     = 54
	typeRgetlock     = 55
	typeTlink        = 70
	typeRlink        = 71
	typeTmkdir       = 72
	typeRmkdir       = 73
	typeTrenameat    = 74
	typeRrenameat    = 75
	typeTunlinkat    = 76
	typeRunlinkat    = 77
	typeTversion     = 100
	typeRversion     = 101
	typeTauth        = 102
	typeTattach      = 104
	typeRattach      = 105
	typeTflush       = 108
	typeRflush       = 109
	typeTwalk        = 110
	typeRwalk        = 111
	typeTread        = 116
	typeRread        = 117
	typeTwrite       = 118
	typeRwrite       = 119
	typeTclunk       = 120
	typeRclunk       = 121
	typeTremove      = 122
	typeRremove      = 123
	typeTwalkgetattr = 200
	typeRwalkgetattr = 201
	typeTopenfd      = 202
	typeRopenfd      = 203
	typeTmake        = 204
	typeRmake        = 205
	typeTreaddirplus = 206
	typeRreaddirplus = 207
	typeTclunks      = 208
	typeRclunks      = 209
	typeTlist        = 210
	typeRlist        = 211
	typeRauth        = 103
)

// The answers that say nothing but that it is done (Rclunk, Rlink, ...) have no type.

// message is what every message can do: go over the wire, in the direction the coder says.
type message interface{ wire(c *coder) }

// Rlerror is the answer to a request that failed.
type Rlerror struct {
	Errno uint32
}

func (m *Rlerror) wire(c *coder) {
	c.u32(&m.Errno)
}

// Tstatfs asks for the file system's numbers.
type Tstatfs struct {
	Fid uint32
}

func (m *Tstatfs) wire(c *coder) {
	c.u32(&m.Fid)
}

// Rstatfs is the answer to Tstatfs.
type Rstatfs struct {
	Statfs Statfs
}

func (m *Rstatfs) wire(c *coder) {
	c.statfs(&m.Statfs)
}

// Tlopen opens a fid for Tread, Twrite and Treaddir.
type Tlopen struct {
	Fid   uint32
	Flags uint32
}

func (m *Tlopen) wire(c *coder) {
	c.u32(&m.Fid, &m.Flags)
}

// Rlopen is the answer to Tlopen.
type Rlopen struct {
	Qid    Qid
	IOUnit uint32
}

func (m *Rlopen) wire(c *coder) {
	c.qid(&m.Qid)
	c.u32(&m.IOUnit)
}

// Tlcreate creates and opens a regular file; the directory's fid becomes the file's.
type Tlcreate struct {
	Fid   uint32
	Name  string
	Flags uint32
	Mode  uint32
	GID   uint32
}

func (m *Tlcreate) wire(c *coder) {
	c.u32(&m.Fid)
	c.str(&m.Name, MaxName)
	c.u32(&m.Flags, &m.Mode, &m.GID)
}

// Rlcreate is the answer to Tlcreate.
type Rlcreate = Rlopen

// Tsymlink makes a symbolic link.
type Tsymlink struct {
	DirFid uint32
	Name   string
	Target string
	GID    uint32
}

func (m *Tsymlink) wire(c *coder) {
	c.u32(&m.DirFid)
	c.str(&m.Name, MaxName)
	c.str(&m.Target, MaxPath)
	c.u32(&m.GID)
}

// Rsymlink is the answer to Tsymlink.
type Rsymlink struct {
	Qid Qid
}

func (m *Rsymlink) wire(c *coder) {
	c.qid(&m.Qid)
}

// Tmknod makes a file of any type.
type Tmknod struct {
	DirFid uint32
	Name   string
	Mode   uint32
	Major  uint32
	Minor  uint32
	GID    uint32
}

func (m *Tmknod) wire(c *coder) {
	c.u32(&m.DirFid)
	c.str(&m.Name, MaxName)
	c.u32(&m.Mode, &m.Major, &m.Minor, &m.GID)
}

// Rmknod is the answer to Tmknod.
type Rmknod = Rsymlink

// Trename moves the file of a fid.
type Trename struct {
	Fid    uint32
	DirFid uint32
	Name   string
}

func (m *Trename) wire(c *coder) {
	c.u32(&m.Fid, &m.DirFid)
	c.str(&m.Name, MaxName)
}

// Treadlink reads a symbolic link.
type Treadlink struct {
	Fid uint32
}

func (m *Treadlink) wire(c *coder) {
	c.u32(&m.Fid)
}

// Rreadlink is the answer to Treadlink.
type Rreadlink struct {
	Target string
}

func (m *Rreadlink) wire(c *coder) {
	c.str(&m.Target, MaxPath)
}

// Tgetattr asks for attributes.
type Tgetattr struct {
	Fid  uint32
	Mask uint64
}

func (m *Tgetattr) wire(c *coder) {
	c.u32(&m.Fid)
	c.u64(&m.Mask)
}

// Rgetattr is the answer to Tgetattr.
type Rgetattr struct {
	Valid uint64
	Attr  Attr
}

func (m *Rgetattr) wire(c *coder) {
	c.u64(&m.Valid)
	c.getattr(&m.Attr)
}

// Tsetattr changes attributes.
type Tsetattr struct {
	Fid uint32
	Set SetAttr
}

func (m *Tsetattr) wire(c *coder) {
	c.u32(&m.Fid)
	c.setattr(&m.Set)
}

// Txattrwalk makes a fid from which an extended attribute, or with no name the list of them, is read.
type Txattrwalk struct {
	Fid    uint32
	NewFid uint32
	Name   string
}

func (m *Txattrwalk) wire(c *coder) {
	c.u32(&m.Fid, &m.NewFid)
	c.str(&m.Name, MaxName)
}

// Rxattrwalk is the answer to Txattrwalk.
type Rxattrwalk struct {
	Size uint64
}

func (m *Rxattrwalk) wire(c *coder) {
	c.u64(&m.Size)
}

// Txattrcreate turns a fid into one to which an extended attribute is written; the clunk sets it.
type Txattrcreate struct {
	Fid   uint32
	Name  string
	Size  uint64
	Flags uint32
}

func (m *Txattrcreate) wire(c *coder) {
	c.u32(&m.Fid)
	c.str(&m.Name, MaxName)
	c.u64(&m.Size)
	c.u32(&m.Flags)
}

// Treaddir reads directory entries, and so does the message typeTreaddirplus, with attributes.
type Treaddir struct {
	Fid    uint32
	Offset uint64
	Count  uint32
}

func (m *Treaddir) wire(c *coder) {
	c.u32(&m.Fid)
	c.u64(&m.Offset)
	c.u32(&m.Count)
}

// Rreaddir is the answer to Treaddir.
type Rreaddir struct {
	Data []byte
}

func (m *Rreaddir) wire(c *coder) {
	c.data(&m.Data)
}

// Tfsync brings a file to stable storage. Older clients leave DataOnly out.
type Tfsync struct {
	Fid      uint32
	DataOnly uint32
}

func (m *Tfsync) wire(c *coder) {
	c.u32(&m.Fid)
	c.tail32(&m.DataOnly)
}

// Tlock sets or drops a record lock.
type Tlock struct {
	Fid      uint32
	Type     uint8
	Flags    uint32
	Start    uint64
	Length   uint64
	PID      uint32
	ClientID string
}

func (m *Tlock) wire(c *coder) {
	c.u32(&m.Fid)
	c.u8(&m.Type)
	c.u32(&m.Flags)
	c.u64(&m.Start, &m.Length)
	c.u32(&m.PID)
	c.str(&m.ClientID, MaxName)
}

// Rlock is the answer to Tlock.
type Rlock struct {
	Status uint8
}

func (m *Rlock) wire(c *coder) {
	c.u8(&m.Status)
}

// Tgetlock asks for a lock in the way of this one.
type Tgetlock struct {
	Fid      uint32
	Type     uint8
	Start    uint64
	Length   uint64
	PID      uint32
	ClientID string
}

func (m *Tgetlock) wire(c *coder) {
	c.u32(&m.Fid)
	c.u8(&m.Type)
	c.u64(&m.Start, &m.Length)
	c.u32(&m.PID)
	c.str(&m.ClientID, MaxName)
}

// Rgetlock is the answer to Tgetlock.
type Rgetlock struct {
	Type     uint8
	Start    uint64
	Length   uint64
	PID      uint32
	ClientID string
}

func (m *Rgetlock) wire(c *coder) {
	c.u8(&m.Type)
	c.u64(&m.Start, &m.Length)
	c.u32(&m.PID)
	c.str(&m.ClientID, MaxName)
}

// Tlink makes a hard link.
type Tlink struct {
	DirFid uint32
	Fid    uint32
	Name   string
}

func (m *Tlink) wire(c *coder) {
	c.u32(&m.DirFid, &m.Fid)
	c.str(&m.Name, MaxName)
}

// Tmkdir makes a directory.
type Tmkdir struct {
	DirFid uint32
	Name   string
	Mode   uint32
	GID    uint32
}

func (m *Tmkdir) wire(c *coder) {
	c.u32(&m.DirFid)
	c.str(&m.Name, MaxName)
	c.u32(&m.Mode, &m.GID)
}

// Rmkdir is the answer to Tmkdir.
type Rmkdir = Rsymlink

// Trenameat moves a name.
type Trenameat struct {
	OldDirFid uint32
	OldName   string
	NewDirFid uint32
	NewName   string
}

func (m *Trenameat) wire(c *coder) {
	c.u32(&m.OldDirFid)
	c.str(&m.OldName, MaxName)
	c.u32(&m.NewDirFid)
	c.str(&m.NewName, MaxName)
}

// Tunlinkat removes a name.
type Tunlinkat struct {
	DirFid uint32
	Name   string
	Flags  uint32
}

func (m *Tunlinkat) wire(c *coder) {
	c.u32(&m.DirFid)
	c.str(&m.Name, MaxName)
	c.u32(&m.Flags)
}

// Tversion begins a session.
type Tversion struct {
	Msize   uint32
	Version string
}

func (m *Tversion) wire(c *coder) {
	c.u32(&m.Msize)
	c.str(&m.Version, MaxName)
}

// Rversion is the answer to Tversion.
type Rversion = Tversion

// Tauth would begin an authentication.
type Tauth struct {
	AFid   uint32
	Uname  string
	Aname  string
	NUname uint32
}

func (m *Tauth) wire(c *coder) {
	c.u32(&m.AFid)
	c.str(&m.Uname, MaxName)
	c.str(&m.Aname, MaxPath)
	c.u32(&m.NUname)
}

// Tattach introduces a user and gets the root's fid.
type Tattach struct {
	Fid    uint32
	AFid   uint32
	Uname  string
	Aname  string
	NUname uint32
}

func (m *Tattach) wire(c *coder) {
	c.u32(&m.Fid, &m.AFid)
	c.str(&m.Uname, MaxName)
	c.str(&m.Aname, MaxPath)
	c.u32(&m.NUname)
}

// Rattach is the answer to Tattach.
type Rattach = Rsymlink

// Tflush asks that the answer to OldTag be given now or never.
type Tflush struct {
	OldTag uint16
}

func (m *Tflush) wire(c *coder) {
	c.u16(&m.OldTag)
}

// Twalk makes a fid for a descendant.
type Twalk struct {
	Fid    uint32
	NewFid uint32
	Names  []string
}

func (m *Twalk) wire(c *coder) {
	c.u32(&m.Fid, &m.NewFid)
	c.names(&m.Names)
}

// Rwalk is the answer to Twalk.
type Rwalk struct {
	Qids []Qid
}

func (m *Rwalk) wire(c *coder) {
	c.qids(&m.Qids)
}

// Tread reads bytes.
type Tread struct {
	Fid    uint32
	Offset uint64
	Count  uint32
}

func (m *Tread) wire(c *coder) {
	c.u32(&m.Fid)
	c.u64(&m.Offset)
	c.u32(&m.Count)
}

// Rread is the answer to Tread.
type Rread struct {
	Data []byte
}

func (m *Rread) wire(c *coder) {
	c.data(&m.Data)
}

// Twrite writes bytes.
type Twrite struct {
	Fid    uint32
	Offset uint64
	Data   []byte
}

func (m *Twrite) wire(c *coder) {
	c.u32(&m.Fid)
	c.u64(&m.Offset)
	c.data(&m.Data)
}

// Rwrite is the answer to Twrite.
type Rwrite struct {
	Count uint32
}

func (m *Rwrite) wire(c *coder) {
	c.u32(&m.Count)
}

// Tclunk drops a fid.
type Tclunk struct {
	Fid uint32
}

func (m *Tclunk) wire(c *coder) {
	c.u32(&m.Fid)
}

// Tremove removes the file of a fid and drops the fid.
type Tremove struct {
	Fid uint32
}

func (m *Tremove) wire(c *coder) {
	c.u32(&m.Fid)
}

// Twalkgetattr walks, with attributes of everything met on the way and maybe a descriptor of the end.
type Twalkgetattr struct {
	Fid       uint32
	NewFid    uint32
	How       uint8
	OpenFlags uint32
	Names     []string
}

func (m *Twalkgetattr) wire(c *coder) {
	c.u32(&m.Fid, &m.NewFid)
	c.u8(&m.How)
	c.u32(&m.OpenFlags)
	c.names(&m.Names)
}

// Rwalkgetattr is the answer to Twalkgetattr.
type Rwalkgetattr struct {
	Attrs []Attr
	Errno uint32
	HasFD bool
}

func (m *Rwalkgetattr) wire(c *coder) {
	c.attrs(&m.Attrs)
	c.u32(&m.Errno)
	c.flag(&m.HasFD)
}

// Topenfd asks for a descriptor of a regular file. The fid stays as it is.
type Topenfd struct {
	Fid   uint32
	Flags uint32
}

func (m *Topenfd) wire(c *coder) {
	c.u32(&m.Fid, &m.Flags)
}

// Ropenfd is the answer to Topenfd.
type Ropenfd struct {
	Attr  Attr
	HasFD bool
}

func (m *Ropenfd) wire(c *coder) {
	c.attr(&m.Attr)
	c.flag(&m.HasFD)
}

// Tmake makes any file.
type Tmake struct {
	DirFid    uint32
	NewFid    uint32
	How       uint8
	OpenFlags uint32
	Name      string
	Mode      uint32
	Rdev      uint64
	UID       uint32
	GID       uint32
	Target    string
}

func (m *Tmake) wire(c *coder) {
	c.u32(&m.DirFid, &m.NewFid)
	c.u8(&m.How)
	c.u32(&m.OpenFlags)
	c.str(&m.Name, MaxName)
	c.u32(&m.Mode)
	c.u64(&m.Rdev)
	c.u32(&m.UID, &m.GID)
	c.str(&m.Target, MaxPath)
}

// Rmake is the answer to Tmake.
type Rmake struct {
	Attr    Attr
	Created bool
	HasFD   bool
}

func (m *Rmake) wire(c *coder) {
	c.attr(&m.Attr)
	c.flag(&m.Created)
	c.flag(&m.HasFD)
}

// Tclunks drops many fids.
type Tclunks struct {
	Fids []uint32
}

func (m *Tclunks) wire(c *coder) {
	c.fids(&m.Fids)
}

// Tlist walks to a directory and reads entries with attributes from its beginning.
type Tlist struct {
	Fid    uint32
	NewFid uint32
	Count  uint32
	Names  []string
}

func (m *Tlist) wire(c *coder) {
	c.u32(&m.Fid, &m.NewFid, &m.Count)
	c.names(&m.Names)
}

// Rlist is the answer to Tlist. Unless Whole, NewFid is the directory, opened, for Treaddirplus to go on with.
type Rlist struct {
	Attr  Attr
	Whole bool
	Data  []byte
}

func (m *Rlist) wire(c *coder) {
	c.attr(&m.Attr)
	c.flag(&m.Whole)
	c.data(&m.Data)
}
