package proc

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

// pagemapInode is /proc/PID/pagemap (Documentation/vm/pagemap.txt): 64 bits for
// each page of an address space, as a reader without CAP_SYS_ADMIN sees them.
// There are no page frames for anybody: those are the host's.
type pagemapInode struct{ memInode }

// Open implements vfs.Inode.
func (i *pagemapInode) Open(ctx vfs.Context, p vfs.Path, flags uint32) (any, error) {
	f, err := i.memInode.Open(ctx, p, flags)
	if err != nil {
		return nil, err
	}
	return &pagemapFile{f.(*memFile).m}, nil
}

type pagemapFile struct{ m *mm.MemoryManager }

// Bits of an entry.
const (
	pagePresent   = 1 << 63
	pageShared    = 1 << 61 // of a file or of shared memory
	pageExclusive = 1 << 56
)

const (
	pageEntry = 8
	// pageEntries is how many entries are made at a time.
	pageEntries = 4096
)

// ReadAt implements vfs.ReaderAt: EINVAL for parts of entries.
func (f *pagemapFile) ReadAt(_ vfs.Context, dst *usermem.Buffer, off int64) (int64, error) {
	if off%pageEntry != 0 || dst.Len()%pageEntry != 0 {
		return 0, unix.EINVAL
	}
	if f.m == nil || !f.m.IncUsersIfAlive() {
		return 0, nil
	}
	defer f.m.DecUsers()
	first, end := uint64(off)/pageEntry, uint64(f.m.Bounds().End)/pageSize
	var done int64
	for dst.Len() > 0 && first < end {
		n := min(dst.Len()/pageEntry, end-first, pageEntries)
		part := make([]byte, n*pageEntry)
		r := usermem.AddrRange{Start: usermem.Addr(first * pageSize), End: usermem.Addr((first + n) * pageSize)}
		f.m.Resident(r, func(p mm.Pages) {
			e := uint64(pagePresent)
			if !p.Anonymous {
				e |= pageShared
			}
			if p.Exclusive {
				e |= pageExclusive
			}
			for a := p.Range.Start; a < p.Range.End; a += pageSize {
				binary.LittleEndian.PutUint64(part[uint64(a-r.Start)/pageSize*pageEntry:], e)
			}
		})
		got, err := dst.Write(part)
		done += int64(got)
		if err != nil {
			if done > 0 {
				err = nil
			}
			return done, err
		}
		first += n
	}
	return done, nil
}

// unreadable is a file that is only written.
func unreadable(subject, *kernel.Task, vfs.Context, *bytes.Buffer) error { return unix.EINVAL }

// What a write to clear_refs asks for (proc(5)).
const (
	clearAll      = 1
	clearPeakRSS  = 5
	clearRefsLast = clearPeakRSS
)

// clearRefs takes writes to /proc/PID/clear_refs. Which pages were referenced is
// told by nothing here, so that there is only the peak of what was resident to
// forget.
func clearRefs(s subject, _ *kernel.Task, _ vfs.Context, data string) error {
	n, err := parseNumber(data, clearAll, clearRefsLast)
	if err != nil || n != clearPeakRSS {
		return err
	}
	return s.memory(func(m *mm.MemoryManager) error {
		m.ResetPeakRSS()
		return nil
	})
}
