package loader

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"sort"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

// memFile is a File over bytes, and its own Mappable.
type memFile struct {
	data     []byte
	unmapped bool // Mappable fails
	refs     int
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, unix.EINVAL
	}
	if off >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Mappable() (memmap.Mappable, memmap.Identity, error) {
	if f.unmapped {
		return nil, nil, unix.ENODEV
	}
	return f, nil, nil
}

func (f *memFile) Release() { f.refs-- }

func (f *memFile) Version() cpuid.File {
	return cpuid.File{Inode: uint64(crc32.ChecksumIEEE(f.data)), Size: int64(len(f.data))}
}

func (f *memFile) Translate(_, _ memmap.Range, _ usermem.Access) ([]memmap.Translation, error) {
	return nil, errors.New("a fake file has no host file")
}
func (f *memFile) AddMapping(memmap.MappingSpace, memmap.Range, bool) error { return nil }
func (f *memFile) RemoveMapping(memmap.MappingSpace, memmap.Range, bool)    {}

// memFS is an Opener over a map.
type memFS map[string]*memFile

func (fs memFS) OpenExec(path string) (File, error) {
	f := fs[path]
	if f == nil {
		return nil, unix.ENOENT
	}
	f.refs++
	return f, nil
}

type vma struct {
	usermem.AddrRange
	opts mm.MMapOpts
}

// fakeMemory is a Memory with the rules of mmap(2) that loading relies on.
type fakeMemory struct {
	user  usermem.AddrRange
	vmas  []vma // sorted
	pages map[usermem.Addr]*[usermem.PageSize]byte

	brk, stackStart       usermem.Addr
	args, env, code, data usermem.AddrRange
	auxv                  []mm.AuxvEntry
}

var testRange = usermem.AddrRange{Start: 0x10000, End: 0x7ffffffff000}

func newFakeMemory() *fakeMemory {
	return &fakeMemory{user: testRange, pages: map[usermem.Addr]*[usermem.PageSize]byte{}}
}

func (m *fakeMemory) overlaps(r usermem.AddrRange) bool {
	for _, v := range m.vmas {
		if v.Overlaps(r) {
			return true
		}
	}
	return false
}

func (m *fakeMemory) MMap(o mm.MMapOpts) (usermem.Addr, error) {
	n, ok := usermem.PageRoundUp(o.Length)
	if !ok || n == 0 || !o.Addr.PageAligned() || o.Offset&usermem.PageMask != 0 {
		return 0, unix.EINVAL
	}
	if !o.Fixed && !o.FixedNoReplace {
		// Top down, below a gap for the stack.
		end := min(0x7f0000000000, m.user.End-MaxStackRandom-(1<<30))
		for i := len(m.vmas) - 1; i >= 0; i-- {
			v := m.vmas[i]
			if v.End <= end && uint64(end-v.End) >= n {
				break
			}
			end = min(end, v.Start)
		}
		if uint64(end-m.user.Start) < n {
			return 0, unix.ENOMEM
		}
		o.Addr = end - usermem.Addr(n)
	}
	r, ok := o.Addr.Range(n)
	if !ok || !m.user.Covers(r) {
		return 0, unix.ENOMEM
	}
	if o.FixedNoReplace && m.overlaps(r) {
		return 0, unix.EEXIST
	}
	m.unmap(r)
	m.vmas = append(m.vmas, vma{r, o})
	sort.Slice(m.vmas, func(i, j int) bool { return m.vmas[i].Start < m.vmas[j].Start })
	return r.Start, nil
}

func (m *fakeMemory) MUnmap(a usermem.Addr, n uint64) error {
	n, _ = usermem.PageRoundUp(n)
	r, ok := a.Range(n)
	if !ok || n == 0 {
		return unix.EINVAL
	}
	m.unmap(r)
	return nil
}

func (m *fakeMemory) unmap(r usermem.AddrRange) {
	var out []vma
	for _, v := range m.vmas {
		if !v.Overlaps(r) {
			out = append(out, v)
			continue
		}
		if v.Start < r.Start {
			out = append(out, vma{usermem.AddrRange{Start: v.Start, End: r.Start}, v.opts})
		}
		if v.End > r.End {
			o := v.opts
			o.Offset += uint64(r.End - v.Start)
			out = append(out, vma{usermem.AddrRange{Start: r.End, End: v.End}, o})
		}
	}
	m.vmas = out
	for a := range m.pages {
		if r.Contains(a) {
			delete(m.pages, a)
		}
	}
}

func (m *fakeMemory) find(a usermem.Addr) *vma {
	for i := range m.vmas {
		if m.vmas[i].Contains(a) {
			return &m.vmas[i]
		}
	}
	return nil
}

// page returns the page at a, filled from its file, or nil.
func (m *fakeMemory) page(a usermem.Addr, access usermem.Access) *[usermem.PageSize]byte {
	v := m.find(a)
	if v == nil || !v.opts.Prot.Effective().Has(access) {
		return nil
	}
	if p := m.pages[a]; p != nil {
		return p
	}
	p := new([usermem.PageSize]byte)
	if f, ok := v.opts.Mappable.(*memFile); ok {
		off := v.opts.Offset + uint64(a-v.Start)
		if off >= uint64(len(f.data)) {
			return nil
		}
		copy(p[:], f.data[off:])
	}
	m.pages[a] = p
	return p
}

func (m *fakeMemory) each(a usermem.Addr, n int, access usermem.Access, f func(b []byte, done int)) (int, error) {
	for done := 0; done < n; {
		at := a + usermem.Addr(done)
		p := m.page(at.RoundDown(), access)
		if p == nil {
			return done, unix.EFAULT
		}
		b := p[at.PageOffset():]
		b = b[:min(len(b), n-done)]
		f(b, done)
		done += len(b)
	}
	return n, nil
}

func (m *fakeMemory) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	return m.each(a, len(dst), usermem.Read, func(b []byte, done int) { copy(dst[done:], b) })
}

func (m *fakeMemory) CopyOut(a usermem.Addr, src []byte) (int, error) {
	return m.each(a, len(src), usermem.Write, func(b []byte, done int) { copy(b, src[done:]) })
}

func (m *fakeMemory) CopyOutForce(a usermem.Addr, src []byte) (int, error) {
	return m.each(a, len(src), usermem.NoAccess, func(b []byte, done int) { copy(b, src[done:]) })
}

func (m *fakeMemory) ZeroOut(a usermem.Addr, n uint64) (uint64, error) {
	got, err := m.each(a, int(n), usermem.Write, func(b []byte, _ int) { clear(b) })
	return uint64(got), err
}

func (m *fakeMemory) Blocks(usermem.AddrRange, usermem.Access, func([]byte) (int, error)) (uint64, error) {
	return 0, unix.EFAULT
}

func (m *fakeMemory) SetBrk(a usermem.Addr)                     { m.brk = a }
func (m *fakeMemory) SetArgs(args, env usermem.AddrRange)       { m.args, m.env = args, env }
func (m *fakeMemory) SetAuxv(v []mm.AuxvEntry)                  { m.auxv = v }
func (m *fakeMemory) SetCodeRange(code, data usermem.AddrRange) { m.code, m.data = code, data }
func (m *fakeMemory) SetStackStart(a usermem.Addr)              { m.stackStart = a }

func (m *fakeMemory) aux(kind uint64) uint64 {
	for _, a := range m.auxv {
		if a.Type == kind {
			return a.Value
		}
	}
	return ^uint64(0)
}

var _ Memory = (*mm.MemoryManager)(nil)

// seededRandom yields the same bytes each time.
func seededRandom() io.Reader { return bytes.NewReader(bytes.Repeat([]byte{0x5a, 0xc3, 0x17}, 16)) }
