package loader

import (
	"encoding/binary"
	"io"
	"math"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

// How far things are moved at random: Linux's numbers for amd64.
const (
	pieRandomPages   = 1 << 28
	stackRandomPages = 1 << 22
	brkRandomPages   = 1 << 13
	stackRandomBytes = 8192
)

// MaxStackRandom is by how much the top of the stack may lie below the end of
// the user range, in bytes. The memory manager's mmap area begins below that and the stack limit.
const MaxStackRandom = stackRandomPages * usermem.PageSize

// random is the random bytes of one exec, read at once.
type random struct {
	auxv              [16]byte // what AT_RANDOM points to
	pie, brk          uint64
	stack, stackBytes uint64
}

func (t *Target) random() (r random, err error) {
	var b [48]byte
	if _, err := io.ReadFull(t.Random, b[:]); err != nil {
		return r, err
	}
	copy(r.auxv[:], b[:16])
	if !t.NoRandom {
		le := binary.LittleEndian
		r.pie = le.Uint64(b[16:]) % pieRandomPages * usermem.PageSize
		r.stack = le.Uint64(b[24:]) % stackRandomPages * usermem.PageSize
		r.brk = le.Uint64(b[32:]) % brkRandomPages * usermem.PageSize
		r.stackBytes = le.Uint64(b[40:]) % stackRandomBytes
	}
	return r, nil
}

// Map puts the program into t.Memory, an empty address space, and gives up what
// Prepare opened, but for Image.File. After an error the address space is no
// use any more, and Linux would end the task with SIGSEGV.
func (p *Program) Map(t Target) (img Image, err error) {
	defer p.releaseInterp()
	defer func() {
		if err != nil && p.opened {
			p.elf.file.Release()
		}
	}()
	rnd, err := t.random()
	if err != nil {
		return Image{}, err
	}
	stack, err := p.mapStack(&t, &rnd)
	if err != nil {
		return Image{}, err
	}
	main, err := mapProgram(&t, p.elf, p.interp != nil, &rnd)
	if err != nil {
		return Image{}, err
	}
	first, at := p.elf, main.bias
	img = Image{
		Comm: comm(p.args.Path), File: p.elf.file, Opened: p.opened,
		Interpreter: p.interpPath, ExecutableStack: p.execStack,
		Entry: main.entry,
	}
	var base usermem.Addr
	if p.interp != nil {
		i, err := mapInterpreter(&t, p.interp)
		if err != nil {
			return Image{}, err
		}
		img.Entry, base = i.entry, i.bias
		first, at = p.interp, i.bias
	}
	first.answerCPUID(&t, at)
	if uint64(img.Entry) >= uint64(t.UserRange.End) {
		return Image{}, unix.EINVAL
	}
	if t.VDSO != nil {
		if img.VDSO, err = mapVDSO(t.Memory, t.VDSO); err != nil {
			return Image{}, err
		}
	}
	t.Memory.SetBrk(main.brk)
	t.Memory.SetCodeRange(main.code, main.data)
	img.StackPointer, err = p.writeTables(&t, &rnd, stack, p.auxv(&t, &img, main, base, stack))
	if err != nil {
		return Image{}, err
	}
	t.Memory.SetStackStart(img.StackPointer)
	return img, nil
}

// placed says where an ELF file was mapped.
type placed struct {
	bias       usermem.Addr // what is added to its addresses
	entry      usermem.Addr
	phdrs      usermem.Addr // zero when they are in no segment
	brk        usermem.Addr
	code, data usermem.AddrRange
}

// mapProgram maps the executable itself.
func mapProgram(t *Target, e *elfFile, dynamic bool, rnd *random) (placed, error) {
	end := uint64(t.UserRange.End)
	pieBase := (end / 3 * 2) &^ usermem.PageMask
	var bias uint64
	if e.kind == etDyn && dynamic {
		bias = (pieBase + rnd.pie) &^ (e.alignment() - 1)
		if first := e.firstLoad(); first != nil {
			bias = (bias - first.vaddr) &^ usermem.PageMask
		}
	}
	pl, err := mapSegments(t, e, bias, !dynamic, mm.MMapOpts{FixedNoReplace: true})
	if err != nil {
		return pl, err
	}
	if e.kind == etDyn && !dynamic {
		// The image is in the mmap area, where the break could not grow.
		pl.brk = usermem.Addr(pieBase)
	}
	up, ok := pl.brk.RoundUp()
	if !ok {
		return pl, unix.ENOMEM
	}
	pl.brk = up + usermem.Addr(rnd.brk)
	return pl, nil
}

// mapInterpreter maps the ELF interpreter, into the mmap area if it can be moved.
func mapInterpreter(t *Target, e *elfFile) (placed, error) {
	if e.kind != etExec && e.kind != etDyn {
		return placed{}, unix.ELIBBAD
	}
	if e.extent() == 0 {
		return placed{}, unix.EINVAL
	}
	return mapSegments(t, e, 0, true, mm.MMapOpts{Fixed: true})
}

func (e *elfFile) firstLoad() *phdr {
	for i := range e.phdrs {
		if e.phdrs[i].kind == ptLoad {
			return &e.phdrs[i]
		}
	}
	return nil
}

// mapSegments maps the PT_LOAD segments at bias. With anywhere, an ET_DYN
// file goes where the memory manager finds room for all of it; otherwise the
// first segment goes where it must as how says, over what is there or not.
func mapSegments(t *Target, e *elfFile, bias uint64, anywhere bool, firstHow mm.MMapOpts) (placed, error) {
	end := uint64(t.UserRange.End)
	pl := placed{bias: usermem.Addr(bias)}
	var codeStart, dataStart, codeEnd, dataEnd, brk uint64 = math.MaxUint64, 0, 0, 0, 0
	var phdrs uint64
	first := true
	for i := range e.phdrs {
		ph := &e.phdrs[i]
		if ph.kind != ptLoad {
			continue
		}
		if ph.vaddr >= end || ph.filesz > ph.memsz || ph.memsz > end || end-ph.memsz < ph.vaddr {
			return pl, unix.EINVAL
		}
		how := mm.MMapOpts{Fixed: true}
		var extent uint64
		if first {
			if e.kind == etDyn {
				if extent = e.extent(); extent == 0 {
					return pl, unix.EINVAL
				}
				if anywhere {
					var err error
					if bias, err = reserve(t, e, ph, extent); err != nil {
						return pl, err
					}
					extent = 0
				}
			}
			if e.kind == etExec || !anywhere {
				how = firstHow
			}
			pl.bias = usermem.Addr(bias)
		}
		if err := mapSegment(t, e, ph, bias+ph.vaddr, how, extent); err != nil {
			return pl, err
		}
		first = false
		if ph.offset <= e.phoff && e.phoff-ph.offset < ph.filesz {
			phdrs = e.phoff - ph.offset + ph.vaddr
		}
		fileEnd := ph.vaddr + ph.filesz
		if ph.flags&pfExecute != 0 {
			codeStart, codeEnd = min(codeStart, ph.vaddr), max(codeEnd, fileEnd)
		}
		dataStart, dataEnd = max(dataStart, ph.vaddr), max(dataEnd, fileEnd)
		brk = max(brk, ph.vaddr+ph.memsz)
	}
	at := func(a uint64) usermem.Addr { return usermem.Addr(a + bias) }
	pl.entry, pl.phdrs, pl.brk = at(e.entry), at(phdrs), at(brk)
	if codeEnd > codeStart {
		pl.code = usermem.AddrRange{Start: at(codeStart), End: at(codeEnd)}
	}
	pl.data = usermem.AddrRange{Start: at(dataStart), End: at(dataEnd)}
	return pl, nil
}

// reserve finds room in the mmap area for all segments of e and returns the
// bias that puts them there. Nothing stays mapped: there is nobody else in the
// address space who could take the room.
func reserve(t *Target, e *elfFile, first *phdr, extent uint64) (uint64, error) {
	size, ok := usermem.PageRoundUp(extent)
	if !ok || size > uint64(t.UserRange.End) {
		return 0, unix.ENOMEM
	}
	align := min(e.alignment(), 1<<62)
	padded := size + align - usermem.PageSize
	got, err := t.Memory.MMap(mm.MMapOpts{Length: padded, Private: true, NoReserve: true})
	if err != nil && align > usermem.PageSize {
		// As on Linux, an alignment that can't be had does not matter.
		align, padded = usermem.PageSize, size
		got, err = t.Memory.MMap(mm.MMapOpts{Length: padded, Private: true, NoReserve: true})
	}
	if err != nil {
		return 0, err
	}
	// The lowest address of the image must be right modulo align.
	low := first.vaddr &^ usermem.PageMask
	for i := range e.phdrs {
		if ph := &e.phdrs[i]; ph.kind == ptLoad {
			low = min(low, ph.vaddr&^usermem.PageMask)
		}
	}
	start := uint64(got) + (low-uint64(got))&(align-1)
	if err := t.Memory.MUnmap(got, padded); err != nil {
		return 0, err
	}
	return start - low, nil
}

// mapSegment maps one segment at addr. Where extent isn't zero, so much from
// addr's page on must be free.
func mapSegment(t *Target, e *elfFile, ph *phdr, addr uint64, how mm.MMapOpts, extent uint64) error {
	m, prot := t.Memory, ph.access()
	skew := ph.vaddr & usermem.PageMask
	page := addr &^ usermem.PageMask
	// No sum can overflow: memsz and filesz are below the end of the user
	// range, 2^47; only addr may be anything.
	fileEnd := (skew + ph.filesz + usermem.PageMask) &^ usermem.PageMask
	memEnd := (skew + ph.memsz + usermem.PageMask) &^ usermem.PageMask
	if page < uint64(t.UserRange.Start) || page > uint64(t.UserRange.End) ||
		uint64(t.UserRange.End)-page < max(memEnd, extent) {
		return unix.ENOMEM
	}
	if ph.filesz == 0 {
		fileEnd = 0
	}
	if extent != 0 && how.FixedNoReplace {
		// Try the whole extent first, so that no segment lands on something.
		size, _ := usermem.PageRoundUp(extent)
		try := how
		try.Addr, try.Length, try.Private, try.NoReserve = usermem.Addr(page), size, true, true
		if _, err := m.MMap(try); err != nil {
			return err
		}
		if err := m.MUnmap(usermem.Addr(page), size); err != nil {
			return err
		}
	}
	if fileEnd != 0 {
		if ph.offset&usermem.PageMask != skew || ph.offset > math.MaxInt64-fileEnd {
			return unix.EINVAL
		}
		o := how
		o.Addr, o.Length, o.Offset = usermem.Addr(page), fileEnd, ph.offset-skew
		o.Prot, o.Private, o.Steady = prot, true, true
		o.Mappable, o.Identity = e.mappable, e.identity
		if _, err := m.MMap(o); err != nil {
			return err
		}
		if ph.memsz > ph.filesz {
			// What follows the segment in its last page is the file's; bss is
			// zero. A segment that can't be written keeps the file's bytes.
			from := skew + ph.filesz
			if n := fileEnd - from; n > 0 {
				if _, err := m.ZeroOut(usermem.Addr(page+from), n); err != nil && prot.Has(usermem.Write) {
					return unix.EFAULT
				}
			}
		}
		how = mm.MMapOpts{Fixed: true}
	}
	if ph.memsz > ph.filesz && memEnd > fileEnd {
		o := how
		o.FixedNoReplace, o.Fixed = false, true
		o.Addr, o.Length, o.Private = usermem.Addr(page+fileEnd), memEnd-fileEnd, true
		o.Prot = usermem.ReadWrite | prot&usermem.Execute
		if _, err := m.MMap(o); err != nil {
			return err
		}
	}
	return nil
}

// answerCPUID has t.CPUID change the code of e, which was mapped at bias and begins to run.
func (e *elfFile) answerCPUID(t *Target, bias usermem.Addr) {
	f, ok := e.file.(Versioned)
	if t.CPUID == nil || !ok {
		return
	}
	for i := range e.phdrs {
		ph := &e.phdrs[i]
		if ph.kind != ptLoad || ph.access() != usermem.Read|usermem.Execute || ph.filesz != ph.memsz || e.shares(ph) {
			continue
		}
		t.CPUID.Apply(t.Memory, &cpuid.Segment{
			File: f.Version(), Read: func(b []byte, off int64) error { return readFull(e.file, b, off) },
			Offset: ph.offset, Size: ph.filesz, Addr: bias + usermem.Addr(ph.vaddr),
		})
	}
}

// shares reports whether a page of ph is another segment's, too.
func (e *elfFile) shares(ph *phdr) bool {
	pages := func(p *phdr) (start, end uint64) {
		return p.vaddr &^ usermem.PageMask, (p.vaddr + p.memsz + usermem.PageMask) &^ usermem.PageMask
	}
	start, end := pages(ph)
	for i := range e.phdrs {
		o := &e.phdrs[i]
		if s, n := pages(o); o != ph && o.kind == ptLoad && s < end && start < n {
			return true
		}
	}
	return false
}

// readFull reads b at off; what lies behind the file's end is zero.
func readFull(f File, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := f.ReadAt(b, off)
		b, off = b[n:], off+int64(n)
		if err == io.EOF || n == 0 && err == nil {
			clear(b)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mapVDSO maps the vDSO and its data and returns where its ELF header is.
func mapVDSO(m Memory, v *VDSO) (usermem.Addr, error) {
	base, err := m.MMap(mm.MMapOpts{
		Length: v.DataSize + v.CodeSize, Prot: usermem.Read, MaxProt: usermem.Read,
		Mappable: v.Mappable, Private: true, Name: "[vvar]",
	})
	if err != nil {
		return 0, err
	}
	code := base + usermem.Addr(v.DataSize)
	// Private and writable on demand: debuggers set breakpoints in it.
	_, err = m.MMap(mm.MMapOpts{
		Addr: code, Length: v.CodeSize, Offset: v.DataSize, Fixed: true,
		Prot: usermem.Read | usermem.Execute, Mappable: v.Mappable, Private: true, Name: "[vdso]",
	})
	return code, err
}
