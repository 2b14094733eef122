// Package vfstest lets tests of files run without a kernel: a vfs.Context that
// is nobody's task, and memory that is a slice.
//
// A Context belongs to one goroutine, but for Interrupt. A Memory is not for
// concurrent use.
package vfstest

import (
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sched"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Context is a task without a kernel.
type Context struct {
	Cred *auth.Credentials
	Mem  usermem.Memory
	PID  int32
	// Stop makes Block return EINTR when it delivers; nil for never.
	Stop <-chan struct{}
	// Blocked gets a token, if there is room, each time before Block sleeps.
	Blocked chan struct{}
}

// NewContext returns the superuser's context, with an account of its own that has
// no limit.
func NewContext() *Context {
	cred := auth.NewRoot(auth.NewRootUserNamespace())
	cred.Account = memfile.NewHeapAccount(0)
	return &Context{Cred: cred, PID: 1, Mem: make(Memory, 65536), Blocked: make(chan struct{}, 1)}
}

// Credentials implements vfs.Context, as all that follows.
func (c *Context) Credentials() *auth.Credentials { return c.Cred }
func (c *Context) Memory() usermem.Memory         { return c.Mem }
func (c *Context) FileSizeLimit() uint64          { return math.MaxUint64 }
func (c *Context) FileSizeExceeded()              {}
func (c *Context) ThreadGroupID() int32           { return c.PID }

func (c *Context) Block(k *waiter.Token) error {
	select {
	case c.Blocked <- struct{}{}:
	default:
	}
	t := sched.This()
	k.Expect(t)
	var stopped atomic.Bool
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-c.Stop:
			stopped.Store(true)
			t.Unpark()
		case <-over:
		}
	}()
	for !k.Take() {
		if stopped.Load() {
			return unix.EINTR
		}
		t.Park()
	}
	return nil
}

// Memory is a slice whose index is the address.
type Memory []byte

// CopyIn implements usermem.Memory, as all that follows.
func (m Memory) CopyIn(a usermem.Addr, dst []byte) (int, error) {
	return m.part(a, len(dst), func(b []byte) int { return copy(dst, b) })
}

func (m Memory) CopyOut(a usermem.Addr, src []byte) (int, error) {
	return m.part(a, len(src), func(b []byte) int { return copy(b, src) })
}

func (m Memory) ZeroOut(a usermem.Addr, n uint64) (uint64, error) {
	got, err := m.part(a, int(min(n, math.MaxInt)), func(b []byte) int { clear(b); return len(b) })
	return uint64(got), err
}

func (m Memory) Blocks(r usermem.AddrRange, _ usermem.Access, f func(b []byte) (int, error)) (uint64, error) {
	var ferr error
	n, err := m.part(r.Start, int(r.Len()), func(b []byte) int {
		var k int
		k, ferr = f(b)
		return k
	})
	if ferr != nil {
		err = ferr
	}
	return uint64(n), err
}

func (m Memory) part(a usermem.Addr, n int, f func(b []byte) int) (int, error) {
	if uint64(a) >= uint64(len(m)) {
		if n == 0 {
			return 0, nil
		}
		return 0, unix.EFAULT
	}
	b := m[a:]
	if len(b) >= n {
		return f(b[:n]), nil
	}
	return f(b), unix.EFAULT
}
