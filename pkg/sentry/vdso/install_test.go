package vdso

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/usermem"
)

// pieces is a Mappable whose pages lie in reverse order in its File.
type pieces struct {
	memmap.Mappable
	mem []byte
}

func (p *pieces) Translate(required, _ memmap.Range, _ usermem.Access) (ts []memmap.Translation, err error) {
	for at := required.Start; at < required.End; at += pageSize {
		if at >= uint64(len(p.mem)) {
			return ts, memmap.BusError{Err: unix.ENXIO}
		}
		ts = append(ts, memmap.Translation{
			Source: memmap.Range{Start: at, End: at + pageSize}, File: reversed{mem: p.mem},
			Offset: uint64(len(p.mem)) - pageSize - at, Access: usermem.ReadWrite,
		})
	}
	return ts, nil
}

type reversed struct {
	memmap.File
	mem []byte
}

func (r reversed) Slice(offset, length uint64) ([]byte, error) {
	return r.mem[offset : offset+length], nil
}

func TestInstallWritesImageBehindThePage(t *testing.T) {
	size := int(Size())
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	data, n, err := Install(&pieces{mem: mem})
	if err != nil || n != uint64(size-DataSize) {
		t.Fatalf("image of %d bytes, %v", n, err)
	}
	data.Page.Seq.Store(0x1234)
	if b, _ := data.File.Slice(data.Offset, 2); b[0] != 0x34 || b[1] != 0x12 {
		t.Error("the clocks' page is not where it is said to be")
	}
	var got []byte
	for at := size - pageSize; at >= 0; at -= pageSize {
		got = append(got, mem[at:at+pageSize]...)
	}
	if got[0] != 0x34 || got[1] != 0x12 {
		t.Error("the clocks' page is not the first")
	}
	if !bytes.Equal(got[DataSize:], New()) {
		t.Error("the image is not behind it")
	}
	if _, _, err := Install(&pieces{mem: mem[:DataSize]}); err == nil {
		t.Error("an object that is too small was accepted")
	}
}
