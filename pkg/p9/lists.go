package p9

// This file has the wire forms that are neither a number nor a string: lists, and the older attribute layouts.

// Bits of Twalkgetattr.How and Tmake.How.
const (
	// howEach: NewFid, NewFid+1, ... are the fids of the elements met, each of them, also when the walk ends early.
	howEach = 1 << 0
	// howOpen: a descriptor opened with OpenFlags is wanted if the end is a regular file.
	howOpen = 1 << 1
	// howExclusive (Tmake): a name that exists is an error.
	howExclusive = 1 << 2
	howBits      = howEach | howOpen | howExclusive
)

// maxClunks is the most fids in one Tclunks.
const maxClunks = 512

func (c *coder) names(p *[]string) {
	n := c.count(len(*p), MaxWalk, 2)
	if c.dec {
		clear(*p)
		*p = (*p)[:0]
		for range n {
			*p = append(*p, "")
		}
	}
	for i := range n {
		c.str(&(*p)[i], MaxName)
	}
}

func (c *coder) qids(p *[]Qid) {
	n := c.count(len(*p), MaxWalk, 13)
	if c.dec {
		*p = (*p)[:0]
		for range n {
			*p = append(*p, Qid{})
		}
	}
	for i := range n {
		c.qid(&(*p)[i])
	}
}

func (c *coder) attrs(p *[]Attr) {
	n := c.count(len(*p), MaxWalk, attrSize)
	if c.dec {
		*p = (*p)[:0]
		for range n {
			*p = append(*p, Attr{})
		}
	}
	for i := range n {
		c.attr(&(*p)[i])
	}
}

func (c *coder) fids(p *[]uint32) {
	n := c.count(len(*p), maxClunks, 4)
	if c.dec {
		*p = (*p)[:0]
		for range n {
			*p = append(*p, 0)
		}
	}
	for i := range n {
		c.u32(&(*p)[i])
	}
}

func (c *coder) statfs(s *Statfs) {
	c.u32(&s.Type)
	c.u32(&s.BlockSize)
	c.u64(&s.Blocks)
	c.u64(&s.BlocksFree)
	c.u64(&s.BlocksAvailable)
	c.u64(&s.Files)
	c.u64(&s.FilesFree)
	c.u64(&s.FSID)
	c.u32(&s.NameLength)
}

// Masks of Tgetattr and Rgetattr: the basic attributes (P9_GETATTR_BASIC); birth time, generation and data version have no bits here
// because this server has none to give.
const getattrBasic = 0x7ff

// getattr is the layout of Rgetattr behind its mask: without Dev and Ino, with three fields nobody fills.
func (c *coder) getattr(a *Attr) {
	c.qid(&a.Qid)
	c.u32(&a.Mode)
	c.u32(&a.UID)
	c.u32(&a.GID)
	c.u64(&a.Nlink)
	c.u64(&a.Rdev)
	c.u64(&a.Size)
	c.u64(&a.BlockSize)
	c.u64(&a.Blocks)
	c.time(&a.Atime)
	c.time(&a.Mtime)
	c.time(&a.Ctime)
	var birth Time
	var generation, version uint64
	c.time(&birth)
	c.u64(&generation)
	c.u64(&version)
}

func (c *coder) setattr(s *SetAttr) {
	c.u32(&s.Valid)
	c.u32(&s.Mode)
	c.u32(&s.UID)
	c.u32(&s.GID)
	c.u64(&s.Size)
	c.time(&s.Atime)
	c.time(&s.Mtime)
}

// tail32 is a number that may be missing at the end of a message, and then is 0.
func (c *coder) tail32(p *uint32) {
	if c.dec && c.pos == len(c.buf) {
		*p = 0
		return
	}
	c.u32(p)
}
