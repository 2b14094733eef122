package p9

import "encoding/binary"

// coder is a message on its way in or out. The same wire method of a message drives both ways: with dec set
// the primitives read from buf at pos, otherwise they append to buf. A read behind the end, or a value out
// of its limits, sets bad and yields zeros from then on; nothing panics and nothing larger than the message
// is ever allocated.
type coder struct {
	buf []byte
	pos int
	dec bool
	bad bool
}

// take gives the next n bytes of a message being decoded, or nil and bad.
func (c *coder) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.buf)-c.pos {
		c.bad = true
		return nil
	}
	b := c.buf[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return b
}

func (c *coder) u8(p *uint8) {
	if !c.dec {
		c.buf = append(c.buf, *p)
	} else if b := c.take(1); b != nil {
		*p = b[0]
	} else {
		*p = 0
	}
}

func (c *coder) u16(p *uint16) {
	if !c.dec {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, *p)
	} else if b := c.take(2); b != nil {
		*p = binary.LittleEndian.Uint16(b)
	} else {
		*p = 0
	}
}

func (c *coder) u32(ps ...*uint32) {
	for _, p := range ps {
		if !c.dec {
			c.buf = binary.LittleEndian.AppendUint32(c.buf, *p)
		} else if b := c.take(4); b != nil {
			*p = binary.LittleEndian.Uint32(b)
		} else {
			*p = 0
		}
	}
}

func (c *coder) u64(ps ...*uint64) {
	for _, p := range ps {
		if !c.dec {
			c.buf = binary.LittleEndian.AppendUint64(c.buf, *p)
		} else if b := c.take(8); b != nil {
			*p = binary.LittleEndian.Uint64(b)
		} else {
			*p = 0
		}
	}
}

// flag is a byte that is 0 or 1.
func (c *coder) flag(p *bool) {
	var b uint8
	if *p {
		b = 1
	}
	c.u8(&b)
	if b > 1 {
		c.bad = true
	}
	*p = b == 1
}

// str is a string of at most limit bytes behind its 16-bit length.
func (c *coder) str(p *string, limit int) {
	n := uint16(len(*p))
	if !c.dec && (len(*p) > limit || len(*p) > 0xffff) {
		c.bad = true
		n = 0
	}
	c.u16(&n)
	if !c.dec {
		c.buf = append(c.buf, (*p)[:n]...)
		return
	}
	*p = ""
	if int(n) > limit {
		c.bad = true
	} else if b := c.take(int(n)); b != nil {
		*p = string(b)
	}
}

// data is bytes behind their 32-bit length. Decoded, it is a part of the message's buffer, not a copy.
func (c *coder) data(p *[]byte) {
	n := uint32(len(*p))
	c.u32(&n)
	if !c.dec {
		c.buf = append(c.buf, *p...)
		return
	}
	if uint64(n) > uint64(len(c.buf)) {
		c.bad = true
	}
	*p = c.take(int(n))
}

// count is the 16-bit length of a list of things of at least size bytes each. It refuses more than limit, and
// more than the message can hold, before anything is allocated for them.
func (c *coder) count(n, limit, size int) int {
	v := uint16(n)
	if !c.dec && n > limit {
		c.bad = true
		v = 0
	}
	c.u16(&v)
	if c.dec && (int(v) > limit || int(v)*size > len(c.buf)-c.pos) {
		c.bad = true
	}
	if c.bad {
		return 0
	}
	return int(v)
}

func (c *coder) qid(q *Qid) {
	c.u8(&q.Type)
	c.u32(&q.Version)
	c.u64(&q.Path)
}

func (c *coder) time(t *Time) {
	c.u64(&t.Sec, &t.Nsec)
}

// attrSize is what attr writes.
const attrSize = 13 + 3*4 + 5*8 + 3*16 + 2*8

func (c *coder) attr(a *Attr) {
	c.qid(&a.Qid)
	c.u32(&a.Mode, &a.UID, &a.GID)
	c.u64(&a.Nlink, &a.Rdev, &a.Size, &a.BlockSize, &a.Blocks)
	c.time(&a.Atime)
	c.time(&a.Mtime)
	c.time(&a.Ctime)
	c.u64(&a.Dev, &a.Ino)
}

// dirent is an entry as Treaddir (or, with plus, Treaddirplus) carries it.
func (c *coder) dirent(d *Dirent, plus bool) {
	c.qid(&d.Qid)
	c.u64(&d.Offset)
	c.u8(&d.Type)
	c.str(&d.Name, MaxName)
	if plus {
		c.flag(&d.HasAttr)
		if d.HasAttr {
			c.attr(&d.Attr)
		}
	}
}

// direntSize is how many bytes d takes.
func direntSize(d *Dirent, plus bool) int {
	n := 13 + 8 + 1 + 2 + len(d.Name)
	if plus {
		n++
		if d.HasAttr {
			n += attrSize
		}
	}
	return n
}
