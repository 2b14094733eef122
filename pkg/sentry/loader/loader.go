// Package loader turns a file into a program that is ready to run: the part of
// execve(2) between opening the file and the first instruction.
//
// It works in two steps, because Linux does. Prepare reads the file, follows
// "#!" lines, opens the ELF interpreter and checks all that execve(2) can
// still refuse: its errors are what the caller of execve gets (ENOEXEC, E2BIG,
// ENOENT, ELOOP, ELIBBAD, ...). The Program it returns is then put into an empty
// address space by Map. When Map fails (segments that cannot be mapped), Linux has
// already given up the old program and ends the task with SIGSEGV; the caller
// should do the same. Load does both.
//
//	Args      what execve was given, and what it may use
//	File      an open file that may be executed, implemented over vfs
//	Opener    opens script interpreters and ELF interpreters by path
//	Memory    the part of the memory manager that loading needs
//	Program   a checked program, not yet in memory
//	Image     where the program was put, and where it starts
//
// What is understood: ELF64 for x86-64, ET_EXEC and ET_DYN, with or without
// PT_INTERP, and scripts. Everything else is ENOEXEC: i386 and x32 binaries,
// too. PT_GNU_PROPERTY is ignored: there is no shadow stack and no IBT.
// The rules are those of execve(2), elf(5) and getauxval(3); where these say
// nothing, the tests run the same bytes on the host's kernel and compare.
//
// The layout is Linux's: a position-independent executable with an interpreter
// lies at two thirds of the address space, one without an interpreter and the
// interpreter itself in the mmap area, the break after the image, the stack at
// the top. Each is moved by a random distance unless Args.NoRandom is set:
//
//	stack top   0 to 16 GiB below the end of the user range
//	PIE base    0 to 1 TiB above two thirds
//	break       0 to 32 MiB above the image
//
// Set-user-id bits, capabilities, close-on-exec, killing other threads and the
// task's name are the caller's business.
//
// Nothing here is locked and nothing is kept between calls: a Program belongs to
// one goroutine. Files come from an attacker: they may be malformed, and may
// change between two reads; every header is read once.
package loader

import (
	"io"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/cpuid"
	"vitrine/pkg/sentry/memmap"
	"vitrine/pkg/sentry/mm"
	"vitrine/pkg/usermem"
)

// File is an open regular file that the caller may execute.
type File interface {
	// ReadAt is io.ReaderAt's. A short read at the end may come with io.EOF
	// or without an error.
	ReadAt(p []byte, off int64) (int, error)
	// Mappable returns what to map, and what /proc/PID/maps shows of it. It
	// fails where the file can't be mapped. No references are passed on.
	Mappable() (memmap.Mappable, memmap.Identity, error)
	// Release gives the open file up.
	Release()
}

// Versioned is a File that says which it is, and in which state.
type Versioned interface {
	File
	Version() cpuid.File
}

// Opener opens files by path for the loader, as the task that calls execve:
// with its root, working directory and credentials. A path that is missing, a
// directory or not executable fails as execve(2) does (ENOENT, EACCES, ...).
// The path is not empty.
type Opener interface {
	OpenExec(path string) (File, error)
}

// Memory is the address space that a program is loaded into:
// *mm.MemoryManager, or a fake in tests.
type Memory interface {
	usermem.Memory
	CopyOutForce(addr usermem.Addr, src []byte) (int, error)
	MMap(opts mm.MMapOpts) (usermem.Addr, error)
	MUnmap(addr usermem.Addr, length uint64) error
	SetBrk(start usermem.Addr)
	SetArgs(args, env usermem.AddrRange)
	SetAuxv(v []mm.AuxvEntry)
	SetCodeRange(code, data usermem.AddrRange)
	SetStackStart(a usermem.Addr)
}

// Credentials are what the auxiliary vector tells of the new credentials.
type Credentials struct {
	UID, EUID, GID, EGID uint32
	// Secure is AT_SECURE: the program got privileges by being executed.
	Secure bool
}

// VDSO is the shared object that every program gets mapped, preceded by its
// data pages.
type VDSO struct {
	// Mappable holds DataSize bytes of data pages and then CodeSize bytes of
	// the object; both are multiples of the page size.
	Mappable           memmap.Mappable
	DataSize, CodeSize uint64
}

// Args is what Prepare is given.
type Args struct {
	// File is the program, already opened. It stays the caller's.
	File File
	// Path is the program's path as execve(2) was given it: AT_EXECFN, and
	// what a script's interpreter is told to run.
	Path string
	// PathInaccessible says that Path will not name the file once the exec is
	// done (execveat(2) of a close-on-exec descriptor): scripts are ENOENT.
	PathInaccessible bool
	Opener           Opener

	Argv, Envv []string
	// StackLimit is RLIMIT_STACK in bytes; it bounds Argv and Envv.
	StackLimit uint64
}

// Target says where and how Map puts a Program.
type Target struct {
	Memory Memory
	// UserRange is what applications may map (platform.UserRange).
	UserRange usermem.AddrRange
	// NoRandom is personality(ADDR_NO_RANDOMIZE).
	NoRandom bool
	// Random yields random bytes; it must not fail.
	Random      io.Reader
	Credentials Credentials
	CPU         CPUFeatures
	// VDSO may be nil.
	VDSO *VDSO
	// CPUID changes what runs first if it is Versioned; it may be nil.
	CPUID *cpuid.Rewriter
}

// Image is a program in memory.
type Image struct {
	Entry        usermem.Addr // of the interpreter, where there is one
	StackPointer usermem.Addr
	// Comm is the task's new name: the last part of Args.Path, cut to 15 bytes.
	Comm string
	// File is the ELF executable, for /proc/PID/exe: Args.File, or the
	// interpreter of a script. The caller releases it if Opened is set.
	File   File
	Opened bool
	// Interpreter is PT_INTERP's path, or empty.
	Interpreter string
	// ExecutableStack says that PT_GNU_STACK asked for one.
	ExecutableStack bool
	VDSO            usermem.Addr // or zero
}

// Program is an executable that has passed the checks of Prepare.
type Program struct {
	args   Args
	argv   []string
	elf    *elfFile
	opened bool // elf.file came from the Opener

	interp     *elfFile
	interpPath string

	execStack bool
}

// maxDepth is how many files may be opened as a script's interpreter, one for
// the other, before execve(2) fails with ELOOP.
const maxDepth = 5

// Prepare reads and checks the program that a names. Its errors are unix.Errno
// values, or what Opener and File returned. The caller calls Map or Release on
// the Program.
func Prepare(a Args) (*Program, error) {
	p := &Program{args: a, argv: a.Argv}
	if len(p.argv) == 0 {
		// Linux since 5.18: programs that take argv[0] for granted must not
		// read the environment instead.
		p.argv = []string{""}
	}
	if err := p.checkStrings(); err != nil {
		return nil, err
	}
	file, opened, path := a.File, false, a.Path
	fail := func(err error) (*Program, error) {
		if opened {
			file.Release()
		}
		return nil, err
	}
	for depth := 0; ; depth++ {
		if depth > maxDepth {
			return fail(unix.ELOOP)
		}
		h := newHead()
		if err := h.read(file); err != nil {
			h.free()
			return fail(err)
		}
		if !h.isScript() {
			err := p.prepareELF(file, h)
			h.free()
			if err != nil {
				return fail(err)
			}
			p.opened = opened
			return p, nil
		}
		name, arg, hasArg, ok := parseScript(h.buf[:scriptHead])
		h.free()
		if !ok {
			return fail(unix.ENOEXEC)
		}
		if a.PathInaccessible {
			return fail(unix.ENOENT)
		}
		argv := make([]string, 0, len(p.argv)+2)
		argv = append(argv, name)
		if hasArg {
			argv = append(argv, arg)
		}
		argv = append(argv, path)
		p.argv = append(argv, p.argv[1:]...)
		if err := p.checkStrings(); err != nil {
			return fail(err)
		}
		next, err := p.open(name)
		if err != nil {
			return fail(err)
		}
		if opened {
			file.Release()
		}
		file, opened, path = next, true, name
	}
}

// open opens an interpreter. An empty name is the working directory, which
// can't be executed, not ENOENT as from user space.
func (p *Program) open(path string) (File, error) {
	if path == "" {
		return nil, unix.EACCES
	}
	return p.args.Opener.OpenExec(path)
}

// prepareELF checks that file, whose beginning is h, is an ELF executable that
// can run, and opens its interpreter.
func (p *Program) prepareELF(file File, h *head) (err error) {
	p.elf, err = parseELF(file, h)
	if err != nil {
		return err
	}
	path, ok, err := p.elf.interpreter(h)
	if err != nil {
		return err
	}
	for i := range p.elf.phdrs {
		if ph := &p.elf.phdrs[i]; ph.kind == ptGNUStack {
			p.execStack = ph.flags&pfExecute != 0
		}
	}
	if !ok {
		return nil
	}
	interp, err := p.open(path)
	if err != nil {
		return err
	}
	ih := newHead()
	defer ih.free()
	if err = ih.read(interp); err == nil && ih.n < elfHeaderSize {
		err = unix.EIO
	}
	if err == nil {
		if p.interp, err = parseELFHeader(interp, ih, false); err != nil {
			err = unix.ELIBBAD
		}
	}
	if err != nil {
		interp.Release()
		return err
	}
	p.interpPath = path
	return nil
}

// Release gives up the files that Prepare opened, where Map is not called.
func (p *Program) Release() {
	p.releaseInterp()
	if p.opened {
		p.elf.file.Release()
	}
}

func (p *Program) releaseInterp() {
	if p.interp != nil {
		p.interp.file.Release()
		p.interp = nil
	}
}

// File returns the ELF executable: Args.File, or a script's last interpreter.
// Its set-user-id bits are the ones that count.
func (p *Program) File() File { return p.elf.file }

// Load prepares a program and maps it into an address space that the caller
// throws away when this fails. It is for the first program of a container, where nothing
// runs yet that a failure could end.
func Load(a Args, t Target) (Image, error) {
	p, err := Prepare(a)
	if err != nil {
		return Image{}, err
	}
	return p.Map(t)
}

// comm returns the task name for a path.
func comm(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			path = path[i+1:]
			break
		}
	}
	return path[:min(len(path), 15)]
}
