package control

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// A coder writes values to buf, or reads them from it: one description of each
// type serves both ways. After the first failure reads leave values as they are.
type coder struct {
	buf     []byte
	reading bool
	err     error
}

var errTruncated = errors.New("message is truncated")
var errTrailing = errors.New("message has bytes behind its end")

// coded is a type that describes its fields.
type coded interface{ code(c *coder) }

// marshal returns v's bytes.
func marshal(v coded) []byte {
	if v == nil {
		return nil
	}
	c := coder{}
	v.code(&c)
	return c.buf
}

// unmarshal fills v from b.
func unmarshal(b []byte, v coded) error {
	if v == nil {
		if len(b) != 0 {
			return errTrailing
		}
		return nil
	}
	c := coder{buf: b, reading: true}
	v.code(&c)
	if c.err == nil && len(c.buf) != 0 {
		c.err = errTrailing
	}
	return c.err
}

func (c *coder) u64(v *uint64) {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, *v)
		return
	}
	x, n := binary.Uvarint(c.buf)
	if n <= 0 {
		c.err, c.buf = errTruncated, nil
		return
	}
	*v, c.buf = x, c.buf[n:]
}

func (c *coder) str(v *string) {
	if !c.reading {
		c.buf = append(binary.AppendUvarint(c.buf, uint64(len(*v))), *v...)
		return
	}
	var n uint64
	c.u64(&n)
	if n > uint64(len(c.buf)) {
		c.err, c.buf = errTruncated, nil
		return
	}
	*v, c.buf = string(c.buf[:n]), c.buf[n:]
}

func (c *coder) bool(v *bool) {
	var x uint64
	if *v {
		x = 1
	}
	c.u64(&x)
	if c.reading {
		*v = x != 0
	}
}

// integer codes any integer; negative ones take ten bytes.
func integer[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](c *coder, v *T) {
	x := uint64(*v)
	c.u64(&x)
	if c.reading {
		*v = T(x)
	}
}

// text codes any string type.
func text[T ~string](c *coder, v *T) {
	x := string(*v)
	c.str(&x)
	*v = T(x)
}

// slice codes a length and each element. An element takes a byte or more, so
// that a length that is a lie is found out before memory is taken for it.
func slice[T any](c *coder, v *[]T, element func(*T)) {
	n := uint64(len(*v))
	c.u64(&n)
	if c.reading {
		if n > uint64(len(c.buf)) {
			c.err, c.buf = errTruncated, nil
			return
		}
		*v = nil
		// Elements are bigger than their encoding: let append grow the rest.
		if n > 0 {
			*v = make([]T, 0, min(n, 1024))
		}
		for i := uint64(0); i < n && c.err == nil; i++ {
			var e T
			element(&e)
			*v = append(*v, e)
		}
		return
	}
	for i := range *v {
		element(&(*v)[i])
	}
}

// optional codes a pointer that may be nil.
func optional[T any](c *coder, v **T, element func(*T)) {
	there := *v != nil
	c.bool(&there)
	if !there {
		return
	}
	if c.reading {
		*v = new(T)
	}
	element(*v)
}

// stringMap codes a map in no particular order.
func stringMap(c *coder, v *map[string]string) {
	n := uint64(len(*v))
	c.u64(&n)
	if !c.reading {
		for k, x := range *v {
			c.str(&k)
			c.str(&x)
		}
		return
	}
	*v = nil
	for i := uint64(0); i < n && c.err == nil; i++ {
		var k, x string
		c.str(&k)
		c.str(&x)
		if c.err == nil {
			if *v == nil {
				*v = make(map[string]string)
			}
			(*v)[k] = x
		}
	}
}

func (a *CreateArgs) code(c *coder) {
	c.str(&a.ID)
	c.bool(&a.RootReadonly)
	text(c, &a.RootOverlay)
	c.bool(&a.RootShared)
	c.bool(&a.PlainInit)
	slice(c, &a.Mounts, func(m *Mount) { m.code(c) })
	slice(c, &a.Devices, func(d *Device) { d.code(c) })
	c.str(&a.Hostname)
	c.str(&a.Domainname)
	stringMap(c, &a.Sysctls)
	slice(c, &a.MaskedPaths, c.str)
	slice(c, &a.ReadonlyPaths, c.str)
	slice(c, &a.Namespaces, func(n *Namespace) {
		text(c, &n.Type)
		c.str(&n.Join)
	})
	slice(c, &a.UIDMap, func(m *IDMap) { m.code(c) })
	slice(c, &a.GIDMap, func(m *IDMap) { m.code(c) })
	a.Resources.code(c)
	slice(c, &a.Seccomp, func(f *unix.SockFilter) {
		integer(c, &f.Code)
		integer(c, &f.Jt)
		integer(c, &f.Jf)
		integer(c, &f.K)
	})
	stringMap(c, &a.Annotations)
	a.Init.code(c)
}

func (a *ExecArgs) code(c *coder) {
	c.str(&a.ID)
	a.Process.code(c)
	c.bool(&a.KeepExit)
	c.bool(&a.BeforeStart)
}

func (p *Process) code(c *coder) {
	slice(c, &p.Args, c.str)
	c.str(&p.Path)
	slice(c, &p.Env, c.str)
	c.str(&p.Cwd)
	integer(c, &p.User.UID)
	integer(c, &p.User.GID)
	slice(c, &p.User.AdditionalGIDs, func(g *uint32) { integer(c, g) })
	optional(c, &p.User.Umask, func(m *uint32) { integer(c, m) })
	for _, set := range []*uint64{
		&p.Capabilities.Bounding, &p.Capabilities.Effective, &p.Capabilities.Inheritable,
		&p.Capabilities.Permitted, &p.Capabilities.Ambient,
	} {
		c.u64(set)
	}
	c.bool(&p.NoNewPrivileges)
	slice(c, &p.Rlimits, func(r *Rlimit) {
		integer(c, &r.Resource)
		c.u64(&r.Soft)
		c.u64(&r.Hard)
	})
	optional(c, &p.OOMScoreAdj, func(v *int) { integer(c, v) })
	optional(c, &p.Scheduler, func(s *Scheduler) {
		integer(c, &s.Policy)
		integer(c, &s.Nice)
		integer(c, &s.Priority)
		c.bool(&s.ResetOnFork)
	})
	optional(c, &p.IOPriority, func(v *int32) { integer(c, v) })
	integer(c, &p.ConsoleRows)
	integer(c, &p.ConsoleCols)
}

func (m *Mount) code(c *coder) {
	c.str(&m.Destination)
	c.str(&m.Type)
	c.str(&m.Source)
	c.u64(&m.Flags)
	slice(c, &m.Data, c.str)
	c.bool(&m.CopyUp)
	c.bool(&m.Shared)
	text(c, &m.Overlay)
}

func (d *Device) code(c *coder) {
	c.str(&d.Path)
	integer(c, &d.Type)
	integer(c, &d.Major)
	integer(c, &d.Minor)
	integer(c, &d.Mode)
	integer(c, &d.UID)
	integer(c, &d.GID)
}

func (m *IDMap) code(c *coder) {
	integer(c, &m.ContainerID)
	integer(c, &m.HostID)
	integer(c, &m.Size)
}

func (r *Resources) code(c *coder) {
	integer(c, &r.MemoryLimit)
	integer(c, &r.PidsLimit)
	integer(c, &r.CPUQuota)
	integer(c, &r.CPUPeriod)
	integer(c, &r.CPUShares)
	c.str(&r.Cpus)
}

func (s *WaitStatus) code(c *coder) {
	integer(c, &s.Signal)
	c.bool(&s.CoreDumped)
	integer(c, &s.ExitCode)
}

func (s *ContainerState) code(c *coder) {
	text(c, &s.Status)
	integer(c, &s.InitPID)
	s.Exit.code(c)
}

func (p *ProcessInfo) code(c *coder) {
	integer(c, &p.PID)
	integer(c, &p.NSPID)
	integer(c, &p.PPID)
	integer(c, &p.UID)
	integer(c, &p.Threads)
	integer(c, &p.StartTime)
	integer(c, &p.CPUTime)
	integer(c, &p.State)
	c.str(&p.TTY)
	c.str(&p.Comm)
	slice(c, &p.Args, c.str)
}

func (s *Stats) code(c *coder) {
	integer(c, &s.Pids)
	integer(c, &s.MemoryUsage)
	integer(c, &s.MemoryPeak)
	integer(c, &s.MemoryLimit)
	integer(c, &s.CPUTime)
	integer(c, &s.OOMKills)
}

func (e *Error) code(c *coder) {
	text(c, &e.Kind)
	c.str(&e.Message)
}

// processRef is the argument of the methods that are about one process.
type processRef struct {
	ID         string
	PID        int32
	Signo      int
	All        bool
	Rows, Cols uint16
}

func (r *processRef) code(c *coder) {
	c.str(&r.ID)
	integer(c, &r.PID)
	integer(c, &r.Signo)
	c.bool(&r.All)
	integer(c, &r.Rows)
	integer(c, &r.Cols)
}

// update is the argument of Update.
type update struct {
	ID        string
	Resources Resources
}

func (u *update) code(c *coder) {
	c.str(&u.ID)
	u.Resources.code(c)
}

// pidResult is the answer to Exec.
type pidResult struct{ PID int32 }

func (r *pidResult) code(c *coder) { integer(c, &r.PID) }

// processList is the answer to Processes.
type processList struct{ Processes []ProcessInfo }

func (l *processList) code(c *coder) {
	slice(c, &l.Processes, func(p *ProcessInfo) { p.code(c) })
}

// idList is the answer to Containers.
type idList struct{ IDs []string }

func (l *idList) code(c *coder) { slice(c, &l.IDs, c.str) }
