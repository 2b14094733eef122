// Package trim gives back memory that a program needed only to start.
//
// A Go program that reads its configuration and sets things up touches most of
// its code and tables once. They stay in its resident set, though it never
// comes to them again: megabytes for each process of an idle sandbox. [Program]
// drops these pages; those that are needed after all come back from the host's
// page cache at a fault. [Soon] does so once, when the start is over: what runs
// for a shorter time pays nothing.
//
// The package leaves the heap alone: that is the Go runtime's.
package trim

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// header is a program header (elf(5)).
type header struct {
	kind, flags                                    uint32
	offset, vaddr, paddr, filesize, memsize, align uint64
}

const (
	atPhdr  = 3 // AT_PHDR, AT_PHNUM: getauxval(3)
	atPhnum = 5

	ptLoad = 1 // PT_LOAD, PT_PHDR: elf(5)
	ptPhdr = 6
	pfW    = 2 // PF_W

	page = 4096
)

// settled is how long after its start a program has what it goes on with.
const settled = time.Second

// Soon calls Program once, a second from now: that is the only wake-up. It uses
// no timer, for which the Go runtime would make itself an epoll instance: the
// gofer has none.
func Soon() {
	go func() {
		d := unix.NsecToTimespec(int64(settled))
		unix.Nanosleep(&d, nil)
		Program()
	}()
}

// Program drops the pages of the program that cannot be written. It makes a few
// calls of madvise(2), whatever is wrong is nobody's loss, and it is safe for
// concurrent use.
func Program() {
	for _, r := range fixed() {
		// SAFETY: the range is a read-only mapping of the program's file, of
		// which no page differs from the file: dropping them changes nothing
		// that can be read. The call takes no pointer to Go memory.
		unix.Syscall(unix.SYS_MADVISE, uintptr(r.start), uintptr(r.end-r.start), unix.MADV_DONTNEED)
	}
}

type span struct{ start, end uint64 }

// fixed returns where the program's segments are that can't be written.
func fixed() (spans []span) {
	vector, err := unix.Auxv()
	if err != nil {
		return nil
	}
	var at uintptr
	var n uint64
	for _, pair := range vector {
		switch pair[0] {
		case atPhdr:
			at = pair[1]
		case atPhnum:
			n = uint64(pair[1])
		}
	}
	if at == 0 || n == 0 {
		return nil
	}
	// SAFETY: the host's kernel says that the program's n headers are at that
	// address, which is in a mapping that lasts as long as the program does.
	headers := unsafe.Slice((*header)(*(*unsafe.Pointer)(unsafe.Pointer(&at))), n)
	bias, known := uint64(0), false
	for _, h := range headers {
		if h.kind == ptPhdr {
			bias, known = uint64(at)-h.vaddr, true
		}
	}
	if !known {
		return nil
	}
	for _, h := range headers {
		if h.kind != ptLoad || h.flags&pfW != 0 {
			continue
		}
		start := h.vaddr &^ (page - 1)
		end := (h.vaddr + h.filesize + page - 1) &^ (page - 1)
		spans = append(spans, span{bias + start, bias + end})
	}
	// With relocations read-only pages might differ from the file.
	if bias != 0 {
		return nil
	}
	return spans
}
