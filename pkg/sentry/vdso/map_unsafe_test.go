package vdso

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/vdso/internal/sysv"
)

// object is a vDSO mapped into this process.
type object struct {
	page *clock.Page
	base uintptr // of the image
	fn   map[string]uintptr
	mem  []byte
}

// mapObject maps the data page and the image as a process gets them.
func mapObject(tb testing.TB, image []byte, symbols map[string]uint64) *object {
	tb.Helper()
	mem, err := unix.Mmap(-1, 0, DataSize+len(image), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Munmap(mem) })
	copy(mem[DataSize:], image)
	if err := unix.Mprotect(mem[DataSize:], unix.PROT_READ|unix.PROT_EXEC); err != nil {
		tb.Fatal(err)
	}
	o := &object{page: clock.PageAt(mem), fn: map[string]uintptr{}, mem: mem}
	// SAFETY: only the address is used.
	o.base = uintptr(unsafe.Pointer(&mem[DataSize]))
	for name, at := range symbols {
		o.fn[name] = o.base + uintptr(at)
	}
	return o
}

// clockCall calls a function that fills a timespec.
func (o *object) clockCall(name string, id int32) (ts [2]int64, ret int) {
	// SAFETY: the function writes ts, which lives until it returns; it is one
	// of those that Call may call.
	ret = int(int32(sysv.Call(o.fn[name], uintptr(uint32(id)), uintptr(unsafe.Pointer(&ts)), 0)))
	return ts, ret
}

func (o *object) gettimeofday(withTV, withZone bool) (tv [2]int64, zone [2]int32, ret int) {
	var a, b unsafe.Pointer
	if withTV {
		a = unsafe.Pointer(&tv)
	}
	if withZone {
		zone = [2]int32{-1, -1}
		b = unsafe.Pointer(&zone)
	}
	// SAFETY: as above.
	ret = int(int32(sysv.Call(o.fn["__vdso_gettimeofday"], uintptr(a), uintptr(b), 0)))
	return tv, zone, ret
}

func (o *object) time(store bool) (ret, stored int64) {
	var p unsafe.Pointer
	if store {
		p = unsafe.Pointer(&stored)
	}
	// SAFETY: as above.
	return int64(sysv.Call(o.fn["__vdso_time"], uintptr(p), 0, 0)), stored
}

func (o *object) getcpu() (cpu, node uint32, ret int) {
	// SAFETY: as above.
	ret = int(int32(sysv.Call(o.fn["__vdso_getcpu"], uintptr(unsafe.Pointer(&cpu)), uintptr(unsafe.Pointer(&node)), 0)))
	return cpu, node, ret
}

// clockCaller returns a function that reads CLOCK_MONOTONIC with the
// clock_gettime at fn, and no more than that.
func clockCaller(fn uintptr) func() {
	ts := new([2]int64)
	// SAFETY: the closure keeps ts alive, and heap objects don't move.
	at := uintptr(unsafe.Pointer(ts))
	return func() { sysv.Call(fn, unix.CLOCK_MONOTONIC, at, 0); _ = ts }
}
