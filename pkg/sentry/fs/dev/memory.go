package dev

import (
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/tmpfs"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// RegisterMemory registers null, zero, full, random and urandom. shared is
// where the memory of shared mappings of /dev/zero comes from; nil refuses
// them.
func RegisterMemory(r *Registry, shared *tmpfs.Anonymous) {
	is := func(impl any) Driver {
		return DriverFunc(func(vfs.Context, vfs.Path, uint64, uint32) (any, *vfs.File, error) { return impl, nil, nil })
	}
	r.Register(memMajor, nullMinor, is(null{}))
	r.Register(memMajor, zeroMinor, is(zero{shared: shared}))
	r.Register(memMajor, fullMinor, is(full{}))
	r.Register(memMajor, randomMinor, is(random{}))
	r.Register(memMajor, urandomMinor, is(random{}))
}

// position is lseek(2) of devices without one.
type position struct{}

// Seek implements vfs.Seeker.
func (position) Seek(vfs.Context, *vfs.File, int64, int64, int) (int64, error) { return 0, nil }

// sink takes everything.
type sink struct{ position }

// Write implements vfs.Writer.
func (sink) Write(_ vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	n := src.Len()
	src.Drop(n)
	return int64(n), nil
}

// WriteAt implements vfs.WriterAt.
func (s sink) WriteAt(ctx vfs.Context, src *usermem.Buffer, _ int64) (int64, error) {
	return s.Write(ctx, nil, src)
}

// zeros gives zeros without end.
type zeros struct{}

// Read implements vfs.Reader.
func (zeros) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	n, err := dst.Zero(dst.Len())
	return int64(n), err
}

// ReadAt implements vfs.ReaderAt.
func (z zeros) ReadAt(ctx vfs.Context, dst *usermem.Buffer, _ int64) (int64, error) {
	return z.Read(ctx, nil, dst)
}

// null is /dev/null.
type null struct{ sink }

// Read and ReadAt are always at the end.
func (null) Read(vfs.Context, *vfs.File, *usermem.Buffer) (int64, error) { return 0, nil }
func (null) ReadAt(vfs.Context, *usermem.Buffer, int64) (int64, error)   { return 0, nil }

// zero is /dev/zero.
type zero struct {
	sink
	zeros
	shared *tmpfs.Anonymous
}

// Mappable implements vfs.Mapper: each mapping is memory of its own, as
// anonymous memory is.
func (z zero) Mappable(ctx vfs.Context, f *vfs.File, o *vfs.MapOptions) (memmap.Mappable, error) {
	if z.shared == nil {
		return nil, unix.ENODEV
	}
	return z.shared.NewObject(ctx.Credentials(), o.Offset+o.Length)
}

// full is /dev/full.
type full struct {
	position
	zeros
}

// Write implements vfs.Writer, WriteAt vfs.WriterAt.
func (full) Write(_ vfs.Context, _ *vfs.File, src *usermem.Buffer) (int64, error) {
	if src.Len() == 0 {
		return 0, nil
	}
	return 0, unix.ENOSPC
}
func (f full) WriteAt(ctx vfs.Context, src *usermem.Buffer, _ int64) (int64, error) {
	return f.Write(ctx, nil, src)
}

// maxRandom is the most that one read returns (random(4)).
const maxRandom = 1<<25 - 1

// random is /dev/random and /dev/urandom, which are the same since Linux 5.6:
// the host's generator. What is written is swallowed.
type random struct{ sink }

// Read implements vfs.Reader.
func (random) Read(_ vfs.Context, _ *vfs.File, dst *usermem.Buffer) (int64, error) {
	dst.Limit(maxRandom)
	var done int64
	var b [1024]byte
	for dst.Len() > 0 {
		chunk := b[:min(uint64(len(b)), dst.Len())]
		if _, err := rand.Read(chunk); err != nil {
			return done, unix.EIO
		}
		n, err := dst.Write(chunk)
		done += int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// ReadAt implements vfs.ReaderAt.
func (r random) ReadAt(ctx vfs.Context, dst *usermem.Buffer, _ int64) (int64, error) {
	return r.Read(ctx, nil, dst)
}

// Readiness, EventRegister and EventUnregister implement waiter.Waitable: it
// is always ready, and may be given to epoll(7).
func (random) Readiness(m waiter.Mask) waiter.Mask { return m & (waiter.Readable | waiter.Writable) }
func (random) EventRegister(*waiter.Entry)         {}
func (random) EventUnregister(*waiter.Entry)       {}

// ioctls of random(4).
const (
	rndGetEntCnt   = 0x80045200
	rndAddToEntCnt = 0x40045201
	rndAddEntropy  = 0x40085203
	rndZapEntCnt   = 0x5204
	rndClearPool   = 0x5206
	rndReseedCRNG  = 0x5207

	// poolBits is the size of the pool, which is always full.
	poolBits = 256
)

// Ioctl implements vfs.Ioctler.
func (random) Ioctl(ctx vfs.Context, _ *vfs.File, cmd uint32, arg uint64) (uint64, error) {
	switch cmd {
	case rndGetEntCnt:
		var b [4]byte
		binary.LittleEndian.PutUint32(b[:], poolBits)
		if ctx.Memory() == nil {
			return 0, unix.EFAULT
		}
		_, err := ctx.Memory().CopyOut(usermem.Addr(arg), b[:])
		return 0, err
	case rndAddToEntCnt, rndAddEntropy, rndZapEntCnt, rndClearPool, rndReseedCRNG:
		if !ctx.Credentials().HasRootCap(unix.CAP_SYS_ADMIN) {
			return 0, unix.EPERM
		}
		return 0, nil
	}
	return 0, unix.ENOTTY
}
