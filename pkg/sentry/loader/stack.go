package loader

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

// Limits of execve(2), "Limits on size of arguments and environment".
const (
	// MaxArgLen is the longest string with its NUL, in bytes (MAX_ARG_STRLEN).
	MaxArgLen = 32 * usermem.PageSize

	minArgSpace = 128 << 10       // ARG_MAX: granted whatever the stack limit
	maxArgSpace = 8 << 20 / 4 * 3 // three quarters of the default stack
	pointerSize = 8
)

// ArgSpace returns how many bytes the strings and pointers of argv and envp may
// take together under a stack limit (RLIMIT_STACK).
func ArgSpace(stackLimit uint64) uint64 {
	return max(min(maxArgSpace, stackLimit/4), minArgSpace)
}

// checkStrings fails with E2BIG when the program's path, arguments and
// environment take more than they may. The pointers of what a script adds are not
// counted, as on Linux.
func (p *Program) checkStrings() error {
	space := ArgSpace(p.args.StackLimit)
	pointers := uint64(max(len(p.args.Argv), 1)+len(p.args.Envv)) * pointerSize
	if space <= pointers {
		return unix.E2BIG
	}
	space -= pointers
	use := func(s string) bool {
		n := uint64(len(s)) + 1
		if n > MaxArgLen || n > space {
			return false
		}
		space -= n
		return true
	}
	ok := use(p.args.Path)
	for _, s := range p.args.Envv {
		ok = ok && use(s)
	}
	for _, s := range p.argv {
		ok = ok && use(s)
	}
	if !ok {
		return unix.E2BIG
	}
	return nil
}

// CopyInStrings reads a NULL-terminated array of strings from addr, as argv and
// envp of execve(2); a zero addr is an empty array. It takes what the strings and
// their pointers need off *space, which starts as ArgSpace, and fails with E2BIG
// before it has read much more than that.
func CopyInStrings(m usermem.Memory, addr usermem.Addr, space *uint64) ([]string, error) {
	var out []string
	if addr == 0 {
		return nil, nil
	}
	for {
		at, ok := addr.Add(uint64(len(out)) * pointerSize)
		if !ok {
			return nil, unix.EFAULT
		}
		ptr, err := usermem.CopyInUint64(m, at)
		if err != nil {
			return nil, err
		}
		if ptr == 0 {
			return out, nil
		}
		if *space <= pointerSize {
			return nil, unix.E2BIG
		}
		*space -= pointerSize
		s, err := usermem.CopyInString(m, usermem.Addr(ptr), int(min(MaxArgLen, *space)))
		if err == unix.ENAMETOOLONG {
			return nil, unix.E2BIG
		}
		if err != nil {
			return nil, err
		}
		*space -= uint64(len(s)) + 1
		out = append(out, s)
	}
}

// stackTop is the upper end of the stack, with the strings in place.
//
// From the top down: 8 zero bytes, the program's path, the environment's
// strings, the arguments', a random gap, the platform's name, 16 random bytes,
// then what the System V ABI asks for: the auxiliary vector, the
// pointers, argc.
type stackTop struct {
	args, env usermem.AddrRange
	execfn    usermem.Addr
	platform  usermem.Addr
	random    usermem.Addr
}

const platformName = "x86_64\x00" // AT_PLATFORM

// stackSlack is how much stack is there beyond what is used, before it has to
// grow.
const stackSlack = 128 << 10

// mapStack maps the stack and writes the strings.
func (p *Program) mapStack(t *Target, rnd *random) (stackTop, error) {
	var argLen, envLen uint64
	for _, s := range p.argv {
		argLen += uint64(len(s)) + 1
	}
	for _, s := range p.args.Envv {
		envLen += uint64(len(s)) + 1
	}
	pathLen := uint64(len(p.args.Path)) + 1
	strings := argLen + envLen + pathLen + 8
	tables := p.tableLen(maxAuxv) + uint64(len(platformName)) + 16 + 64

	used, _ := usermem.PageRoundUp(strings + stackRandomBytes + tables)
	limit := p.args.StackLimit &^ usermem.PageMask
	size := max(used, min(used+stackSlack, limit))
	if size+rnd.stack > t.UserRange.Len()/2 {
		rnd.stack = 0 // a test's tiny address space
	}
	if size > t.UserRange.Len()/2 {
		return stackTop{}, unix.ENOMEM
	}
	top := t.UserRange.End - usermem.Addr(rnd.stack)
	prot := usermem.ReadWrite
	if p.execStack {
		prot |= usermem.Execute
	}
	if _, err := t.Memory.MMap(mm.MMapOpts{
		Addr: top - usermem.Addr(size), Length: size, Prot: prot,
		Private: true, Fixed: true, GrowsDown: true, Stack: true, Name: "[stack]",
	}); err != nil {
		return stackTop{}, err
	}

	start := top - usermem.Addr(strings)
	var st stackTop
	st.args = usermem.AddrRange{Start: start, End: start + usermem.Addr(argLen)}
	st.env = usermem.AddrRange{Start: st.args.End, End: st.args.End + usermem.Addr(envLen)}
	st.execfn = st.env.End
	t.Memory.SetArgs(st.args, st.env)

	// Random bytes and platform name lie below a gap of up to 8 KiB.
	low := (start - usermem.Addr(rnd.stackBytes)) &^ 15
	st.platform = low - usermem.Addr(len(platformName))
	st.random = st.platform - 16

	b := make([]byte, 0, strings)
	for _, s := range p.argv {
		b = append(append(b, s...), 0)
	}
	for _, s := range p.args.Envv {
		b = append(append(b, s...), 0)
	}
	b = append(append(b, p.args.Path...), 0)
	b = b[:strings]
	_, err := t.Memory.CopyOut(start, b)
	return st, err
}

// tableLen is the size of argc, the pointers and n auxiliary entries.
func (p *Program) tableLen(n int) uint64 {
	return uint64(1+len(p.argv)+1+len(p.args.Envv)+1)*pointerSize + uint64(n)*16
}

// writeTables writes what lies below the strings and returns the stack pointer.
func (p *Program) writeTables(t *Target, rnd *random, st stackTop, auxv []mm.AuxvEntry) (usermem.Addr, error) {
	sp := (st.random - usermem.Addr(p.tableLen(len(auxv)))) &^ 15
	b := make([]byte, 0, uint64(st.platform-sp)+uint64(len(platformName)))
	word := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	word(uint64(len(p.argv)))
	at := uint64(st.args.Start)
	list := func(l []string) {
		for _, s := range l {
			word(at)
			at += uint64(len(s)) + 1
		}
		word(0)
	}
	list(p.argv)
	list(p.args.Envv)
	for _, a := range auxv {
		word(a.Type)
		word(a.Value)
	}
	b = b[:st.random-sp]
	b = append(b, rnd.auxv[:]...)
	b = append(b, platformName...)
	if _, err := t.Memory.CopyOut(sp, b); err != nil {
		return 0, err
	}
	t.Memory.SetAuxv(auxv)
	return sp, nil
}
