package stub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PieceEnd marks the end of a piece of code in an assembly file: eight bytes.
const PieceEnd = 0x5f65636569705f5f

// pieceEnd is for this package's own.
const pieceEnd = PieceEnd

//go:noescape
func pieceAddrs(p *[2]uintptr)

//go:noescape
func vforkExec(socket, image, control uintptr, argv, envp *uintptr, empty *byte) (pid, errno uintptr)

// Piece returns the code at addr, the address of a function in the program's
// text that ends with PieceEnd, or nil where no mark is near.
func Piece(addr uintptr) []byte {
	const longest = 0x800
	// SAFETY: addr is a function in the program's text, which lives as long as
	// the program and goes on behind the last piece: the Go code of the packages
	// that read them is longer than what is looked at.
	text := unsafe.Slice((*byte)(ptr(addr)), longest)
	var mark [8]byte
	binary.LittleEndian.PutUint64(mark[:], pieceEnd)
	for n := 0; n+8 <= longest; n++ {
		if text[n] == mark[0] && bytes.Equal(text[n:n+8], mark[:]) {
			return text[:n]
		}
	}
	return nil
}

// ptr turns the address of something that isn't Go's into a pointer.
func ptr(a uintptr) unsafe.Pointer {
	// SAFETY: the garbage collector doesn't manage what a points to, so the
	// integer can't go stale.
	return *(*unsafe.Pointer)(unsafe.Pointer(&a))
}

// startFactory starts the image as a child process. It returns when execve has
// worked or failed.
func startFactory(socket, image, control int) (int, error) {
	name := []byte("vitrine-stub\x00")
	var empty byte
	// SAFETY: argv and envp hold addresses of name, which the KeepAlive-like
	// use below keeps alive; the child copies them before vforkExec returns,
	// and name does not move as it escapes to the heap.
	argv := [2]uintptr{uintptr(unsafe.Pointer(&name[0])), 0}
	envp := [1]uintptr{0}
	pid, errno := vforkExec(uintptr(socket), uintptr(image), uintptr(control), &argv[0], &envp[0], &empty)
	keep(name)
	if errno != 0 {
		if pid != 0 {
			var status unix.WaitStatus
			unix.Wait4(int(pid), &status, unix.WALL, nil)
		}
		return 0, unix.Errno(errno)
	}
	return int(pid), nil
}

//go:noinline
func keep([]byte) {}

var errNoPiece = errors.New("stub: a piece of the stub's code has no end mark, or no room")

// buildImage returns the contents of the image file.
func buildImage(prog *Program, filter []unix.SockFilter) ([]byte, error) {
	img := make([]byte, imageCode+codeSize)
	code := img[imageCode:]
	var addrs [2]uintptr
	pieceAddrs(&addrs)
	offs := [...]int{offBoot, offFactory, offActHandler}
	for i, a := range addrs {
		b := Piece(a)
		if b == nil || offs[i]+len(b) > offs[i+1] {
			return nil, errNoPiece
		}
		copy(code[offs[i]:], b)
	}
	if len(prog.Code) == 0 || len(prog.Code) > codeSize-offPlatform || len(prog.Signals) >= offFilter-offSignals {
		return nil, errNoPiece
	}
	copy(code[offPlatform:], prog.Code)
	for i, sig := range prog.Signals {
		code[offSignals+i] = byte(sig)
	}

	le := binary.LittleEndian
	// struct kernel_sigaction: handler, flags, restorer, mask. The frame is
	// never returned from. SA_SIGINFO|SA_ONSTACK|SA_RESTORER|SA_NODEFER.
	le.PutUint64(code[offActHandler:], prog.Handler)
	le.PutUint64(code[offActHandler+8:], 0x4|0x08000000|0x04000000|0x40000000)
	le.PutUint64(code[offActHandler+16:], prog.Handler)
	le.PutUint64(code[offActIgnore:], 1) // SIG_IGN
	le.PutUint32(code[offCapHeader:], unix.LINUX_CAPABILITY_VERSION_3)
	copy(code[offName:], "vitrine-stub\x00")
	le.PutUint16(code[offFprog:], uint16(len(filter)))
	le.PutUint64(code[offFprog+8:], codeBase+offFilter)
	f := code[offFilter:offPlatform]
	if len(filter)*8 > len(f) {
		return nil, errors.New("stub: the filter is too long")
	}
	for i, ins := range filter {
		le.PutUint16(f[i*8:], ins.Code)
		f[i*8+2], f[i*8+3] = ins.Jt, ins.Jf
		le.PutUint32(f[i*8+4:], ins.K)
	}

	// elf(5): Ehdr and one loadable segment.
	copy(img, "\x7fELF\x02\x01\x01")
	le.PutUint16(img[16:], 2)  // ET_EXEC
	le.PutUint16(img[18:], 62) // EM_X86_64
	le.PutUint32(img[20:], 1)
	le.PutUint64(img[24:], imageEntry)
	le.PutUint64(img[32:], 64) // e_phoff
	le.PutUint16(img[52:], 64) // e_ehsize
	le.PutUint16(img[54:], 56) // e_phentsize
	le.PutUint16(img[56:], 1)  // e_phnum
	ph := img[64:]
	le.PutUint32(ph[0:], 1) // PT_LOAD
	le.PutUint32(ph[4:], 5) // PF_R|PF_X
	le.PutUint64(ph[16:], imageBase)
	le.PutUint64(ph[24:], imageBase)
	le.PutUint64(ph[32:], uint64(len(img)))
	le.PutUint64(ph[40:], uint64(len(img)))
	le.PutUint64(ph[48:], 0x1000)
	return img, nil
}
