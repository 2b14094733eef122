package call

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/usermem"
)

// MaxRW is how much one call reads or writes at the most (MAX_RW_COUNT).
const MaxRW = 0x7ffff000

// Buffer returns the memory of a read or write call: EFAULT where it isn't all
// in the application's half. What it and Vector return is the task's own Buffer, which
// a call has one of.
func Buffer(t *kernel.Task, a usermem.Addr, n Size) (*usermem.Buffer, error) {
	// All of it must be there, though only a part may be used.
	if r, ok := a.Range(uint64(n)); n != 0 && (!ok || r.End > t.MM().Bounds().End) {
		return nil, unix.EFAULT
	}
	r, _ := a.Range(min(uint64(n), MaxRW))
	b := t.Buffer()
	b.Set(t.MM(), r)
	return b, nil
}

// Vector reads an array of struct iovec (readv(2)): EINVAL for too many or too
// long ones, EFAULT where one isn't all in the application's half.
func Vector(t *kernel.Task, a usermem.Addr, count int32) (*usermem.Buffer, error) {
	if count < 0 || count > 1024 {
		return nil, unix.EINVAL
	}
	raw := make([]byte, 16*count)
	if _, err := t.MM().CopyIn(a, raw); err != nil {
		return nil, err
	}
	rs := make([]usermem.AddrRange, 0, count)
	var total uint64
	for i := range int(count) {
		base, n := usermem.Addr(U64(raw[16*i:])), U64(raw[16*i+8:])
		if int64(n) < 0 {
			return nil, unix.EINVAL
		}
		n = min(n, MaxRW-total)
		r, ok := base.Range(n)
		if n > 0 && (!ok || r.End > t.MM().Bounds().End) {
			return nil, unix.EFAULT
		}
		total += n
		rs = append(rs, r)
	}
	b := t.Buffer()
	*b = usermem.VectorBuffer(t.MM(), rs)
	return b, nil
}
