package proc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/pseudo"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// copyPart appends what lies at start+at in m to b, a part of it, and says where
// to go on before end. Memory that can't be read ends the file.
func copyPart(m *mm.MemoryManager, b *bytes.Buffer, r usermem.AddrRange, at int64) int64 {
	from := r.Start + usermem.Addr(at)
	if at < 0 || from < r.Start || from >= r.End {
		return pseudo.Done
	}
	part := make([]byte, min(uint64(r.End-from), pseudo.PartSize))
	n, err := m.CopyInForce(from, part)
	b.Write(part[:n])
	if err != nil || from+usermem.Addr(n) >= r.End {
		return pseudo.Done
	}
	return at + int64(n)
}

// cmdline is the program's arguments as they are in its memory now. A program
// that wrote over the last one's end has made them one string, which may go on
// into the environment (proc(5), and setproctitle(3)).
func cmdline(s subject) pseudo.Generator {
	return func(_ vfs.Context, b *bytes.Buffer, at int64) (int64, error) {
		next := pseudo.Done
		err := s.memory(func(m *mm.MemoryManager) error {
			args, env := m.Args()
			if args.Empty() {
				return nil
			}
			var last [1]byte
			_, err := m.CopyInForce(args.End-1, last[:])
			if err == nil && last[0] != 0 && at == 0 {
				title(m, b, usermem.AddrRange{Start: args.Start, End: max(args.End, env.End)}, args.Len())
				return nil
			}
			next = copyPart(m, b, args, at)
			return nil
		})
		return next, err
	}
}

// maxTitle bounds a command line that was written over.
const maxTitle = 4 * pageSize

// title appends the string at the start of r. If it ends before argsLen, all of
// the arguments are meant after all.
func title(m *mm.MemoryManager, b *bytes.Buffer, r usermem.AddrRange, argsLen uint64) {
	buf := make([]byte, min(r.Len(), max(argsLen, maxTitle), 32*maxTitle))
	n, _ := m.CopyInForce(r.Start, buf)
	buf = buf[:n]
	if i := bytes.IndexByte(buf, 0); i >= 0 {
		buf = buf[:i]
	}
	b.Write(buf)
}

func environ(s subject) pseudo.Generator {
	return func(_ vfs.Context, b *bytes.Buffer, at int64) (int64, error) {
		next := pseudo.Done
		err := s.memory(func(m *mm.MemoryManager) error {
			_, env := m.Args()
			next = copyPart(m, b, env, at)
			return nil
		})
		return next, err
	}
}

func auxv(s subject) pseudo.Generator {
	return pseudo.Whole(func(_ vfs.Context, b *bytes.Buffer) error {
		return s.memory(func(m *mm.MemoryManager) error {
			v := m.Auxv()
			for _, e := range v {
				b.Write(binary.LittleEndian.AppendUint64(nil, e.Type))
				b.Write(binary.LittleEndian.AppendUint64(nil, e.Value))
			}
			if len(v) == 0 || v[len(v)-1].Type != 0 {
				b.Write(make([]byte, 16))
			}
			return nil
		})
	})
}

// escape replaces the bytes of what by their octal codes.
func escape(s, what string) string {
	if !strings.ContainsAny(s, what) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if strings.IndexByte(what, s[i]) >= 0 {
			fmt.Fprintf(&b, "\\%03o", s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// nameColumn is where the name stands in a line of maps.
const nameColumn = 73

func mapsLine(b *bytes.Buffer, v *mm.VMAInfo) {
	perm := []byte("---s")
	for i, a := range []usermem.Access{usermem.Read, usermem.Write, usermem.Execute} {
		if v.Prot.Has(a) {
			perm[i] = "rwx"[i]
		}
	}
	if v.Private {
		perm[3] = 'p'
	}
	offset := v.Offset
	if strings.HasPrefix(v.Name, "[") {
		offset = 0 // what is behind the vDSO is no file to the application
	}
	start := b.Len()
	fmt.Fprintf(b, "%08x-%08x %s %08x %02x:%02x %d ", uint64(v.Range.Start), uint64(v.Range.End), perm, offset,
		unix.Major(v.Device), unix.Minor(v.Device), v.Inode)
	if v.Name != "" {
		for b.Len()-start < nameColumn {
			b.WriteByte(' ')
		}
		b.WriteString(escape(v.Name, "\n"))
	}
	b.WriteByte('\n')
}

// vsyscallLine shows the page that programs from before the vDSO call into
// (vdso(7)); it belongs to no address space.
const vsyscallLine = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"

// maps returns a Generator of maps or smaps: the position is the address that
// the next part begins at.
func (s subject) maps(details bool) pseudo.Generator {
	return func(_ vfs.Context, b *bytes.Buffer, at int64) (int64, error) {
		next := pseudo.Done
		err := s.memory(func(m *mm.MemoryManager) error {
			m.VMAsFrom(usermem.Addr(at), func(v mm.VMAInfo) bool {
				mapsLine(b, &v)
				if details {
					newSizes(&v).print(b)
					fmt.Fprintf(b, "THPeligible:    0\nVmFlags:%s\n", vmFlags(&v))
				}
				if b.Len() >= pseudo.PartSize {
					next = int64(v.Range.End)
					return false
				}
				return true
			})
			if next == pseudo.Done && !details {
				b.WriteString(vsyscallLine)
			}
			return nil
		})
		return next, err
	}
}

// sizes are the numbers of smaps, in bytes.
type sizes struct {
	size                              uint64
	rss, pss, anonymous, locked       uint64
	sharedClean, sharedDirty          uint64
	privateClean, privateDirty        uint64
	pssAnonymous, pssFile, pssSharedM uint64
}

// newSizes counts a page of a shared mapping as shared, all others as private:
// who else has a page isn't known.
func newSizes(v *mm.VMAInfo) sizes {
	z := sizes{size: v.Range.Len(), rss: v.Resident, pss: v.Resident, anonymous: v.PrivateResident}
	if v.Private {
		z.privateDirty = v.PrivateResident
		z.privateClean = v.Resident - v.PrivateResident
		z.pssAnonymous, z.pssFile = z.privateDirty, z.privateClean
	} else {
		z.sharedDirty = v.Resident
		z.pssSharedM = v.Resident
	}
	if v.Locked {
		z.locked = v.Resident
	}
	return z
}

func (z *sizes) add(o sizes) {
	z.size += o.size
	z.rss += o.rss
	z.pss += o.pss
	z.anonymous += o.anonymous
	z.locked += o.locked
	z.sharedClean += o.sharedClean
	z.sharedDirty += o.sharedDirty
	z.privateClean += o.privateClean
	z.privateDirty += o.privateDirty
	z.pssAnonymous += o.pssAnonymous
	z.pssFile += o.pssFile
	z.pssSharedM += o.pssSharedM
}

func sizeLine(b *bytes.Buffer, name string, bytes uint64) {
	fmt.Fprintf(b, "%-15s %8d kB\n", name+":", bytes>>10)
}

func (z sizes) print(b *bytes.Buffer) {
	sizeLine(b, "Size", z.size)
	sizeLine(b, "KernelPageSize", pageSize)
	sizeLine(b, "MMUPageSize", pageSize)
	sizeLine(b, "Rss", z.rss)
	sizeLine(b, "Pss", z.pss)
	z.printRest(b)
}

func (z sizes) printRest(b *bytes.Buffer) {
	sizeLine(b, "Shared_Clean", z.sharedClean)
	sizeLine(b, "Shared_Dirty", z.sharedDirty)
	sizeLine(b, "Private_Clean", z.privateClean)
	sizeLine(b, "Private_Dirty", z.privateDirty)
	sizeLine(b, "Referenced", z.rss)
	sizeLine(b, "Anonymous", z.anonymous)
	for _, none := range []string{"LazyFree", "AnonHugePages", "ShmemPmdMapped", "FilePmdMapped", "Shared_Hugetlb", "Private_Hugetlb", "Swap", "SwapPss"} {
		sizeLine(b, none, 0)
	}
	sizeLine(b, "Locked", z.locked)
}

// vmFlags are the two-letter flags of smaps.
func vmFlags(v *mm.VMAInfo) string {
	var out string
	for _, f := range []struct {
		on   bool
		name string
	}{
		{v.Prot.Has(usermem.Read), "rd"}, {v.Prot.Has(usermem.Write), "wr"}, {v.Prot.Has(usermem.Execute), "ex"}, {!v.Private, "sh"},
		{v.MaxProt.Has(usermem.Read), "mr"}, {v.MaxProt.Has(usermem.Write), "mw"}, {v.MaxProt.Has(usermem.Execute), "me"},
		{!v.Private, "ms"}, {v.GrowsDown, "gd"}, {v.Locked, "lo"}, {v.DontFork, "dc"}, {v.NoReserve, "nr"}, {v.WipeOnFork, "wf"},
	} {
		if f.on {
			out += " " + f.name
		}
	}
	return out + " "
}

func smapsRollup(s subject) pseudo.Generator {
	return pseudo.Whole(func(_ vfs.Context, b *bytes.Buffer) error {
		return s.memory(func(m *mm.MemoryManager) error {
			var sum sizes
			var all mm.VMAInfo
			m.VMAsFrom(0, func(v mm.VMAInfo) bool {
				if all.Range.End == 0 {
					all.Range.Start = v.Range.Start
				}
				all.Range.End = v.Range.End
				sum.add(newSizes(&v))
				return true
			})
			all.Private, all.Name = true, "[rollup]"
			mapsLine(b, &all)
			sizeLine(b, "Rss", sum.rss)
			sizeLine(b, "Pss", sum.pss)
			sizeLine(b, "Pss_Anon", sum.pssAnonymous)
			sizeLine(b, "Pss_File", sum.pssFile)
			sizeLine(b, "Pss_Shmem", sum.pssSharedM)
			sum.printRest(b)
			return nil
		})
	})
}

// memInode is /proc/PID/mem.
type memInode struct {
	pseudo.Meta
	s subject
}

// Ephemeral implements vfs.Ephemeral.
func (*memInode) Ephemeral() {}

// Open implements vfs.Inode.
func (i *memInode) Open(ctx vfs.Context, _ vfs.Path, _ uint32) (any, error) {
	t, err := i.s.inspect(ctx)
	if err != nil {
		return nil, err
	}
	m := t.SharedMM()
	if m != nil {
		// Not held: a file must not keep a dead process's memory.
		m.DecUsers()
	}
	return &memFile{m, i.s.tg, t}, nil
}

// memFile is the memory that the process had when the file was opened: after an
// exec or the end there is nothing in it.
type memFile struct {
	m    *mm.MemoryManager
	tg   *kernel.ThreadGroup
	task *kernel.Task
}

// transfer moves bytes, a part at a time. The offset is the address.
func (f *memFile) transfer(off int64, n uint64, op func(at usermem.Addr, part []byte) (int, error)) (int64, error) {
	if f.m == nil || !f.m.IncUsersIfAlive() {
		return 0, nil
	}
	defer f.m.DecUsers()
	done := int64(0)
	part := make([]byte, min(n, 16*pageSize))
	for uint64(done) < n {
		want := min(n-uint64(done), uint64(len(part)))
		got, err := op(usermem.Addr(off+done), part[:want])
		done += int64(got)
		if err != nil || uint64(got) < want {
			if done > 0 {
				return done, nil
			}
			return 0, unix.EIO
		}
	}
	return done, nil
}

// ReadAt implements vfs.ReaderAt.
func (f *memFile) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	var fault error
	n, err := f.transfer(off, dst.Len(), func(at usermem.Addr, part []byte) (int, error) {
		n, err := f.m.CopyInForce(at, part)
		if n > 0 {
			if n, fault = dst.Write(part[:n]); fault != nil {
				return n, fault
			}
		}
		return n, err
	})
	if n == 0 && fault != nil {
		err = fault
	}
	return n, err
}

// WriteAt implements vfs.WriterAt.
func (f *memFile) WriteAt(_ vfs.Context, src *usermem.Buffer, off int64) (int64, error) {
	var fault error
	n, err := f.transfer(off, src.Len(), func(at usermem.Addr, part []byte) (int, error) {
		var n int
		if n, fault = src.Read(part); n == 0 {
			return 0, fault
		}
		return f.m.CopyOutForce(at, part[:n])
	})
	if n == 0 && fault != nil {
		err = fault
	}
	return n, err
}
