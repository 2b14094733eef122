// The code of a stub. None of it runs in the Sentry: image_unsafe.go copies the
// bytes out and puts each piece at its place in the code area (layout.go). The
// pieces use neither stack nor Go runtime, and reach each other by absolute
// addresses only. Each ends with the eight bytes of pieceEnd.
//
// SAFETY: none of these is ever called from Go; they are read as bytes.

#include "go_asm.h"
#include "textflag.h"

#define PIECE_END QUAD $const_pieceEnd

// stubBoot is where execve leaves the factory, at the image's own low address.
// It maps the code area to its place and goes on there.
TEXT ·stubBoot(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$const_codeBase, DI
	MOVQ	$const_codeSize, SI
	MOVQ	$5, DX			// PROT_READ|PROT_EXEC
	MOVQ	$0x12, R10		// MAP_PRIVATE|MAP_FIXED
	MOVQ	$const_fdImage, R8
	MOVQ	$const_imageCode, R9
	MOVQ	$9, AX			// mmap
	SYSCALL
	CMPQ	AX, DI
	JNE	fail
	MOVQ	$const_factoryEntry, AX
	JMP	AX
fail:
	MOVQ	$1, DI
	MOVQ	$231, AX		// exit_group
	SYSCALL
	INT	$3
	PIECE_END

// CALL1 is a system call that must succeed.
#define MUST(nr) \
	MOVQ	$nr, AX; \
	SYSCALL; \
	CMPQ	AX, $0; \
	JLT	fail

// stubFactory gives up all memory but the code area, jails itself and serves
// requests from the socket until that is closed.
TEXT ·stubFactory(SB),NOSPLIT|NOFRAME,$0
	XORL	DI, DI
	MOVQ	$const_codeBase, SI
	MUST(11)			// munmap
	MOVQ	$const_codeEnd, DI
	MOVQ	$const_aboveCode, SI
	MUST(11)
	MOVQ	$const_fdFree, DI
	MOVL	$0xffffffff, SI
	XORL	DX, DX
	MUST(436)			// close_range

	// A page for messages: BX.
	MOVQ	$const_slotsBase, DI
	MOVQ	$4096, SI
	MOVQ	$3, DX			// PROT_READ|PROT_WRITE
	MOVQ	$0x32, R10		// MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS
	MOVQ	$-1, R8
	XORL	R9, R9
	MUST(9)				// mmap
	MOVQ	AX, BX

	// All signals are blocked since the vfork, and stay so in threads that
	// nobody traces: a signal from outside can't kill them.
	MOVQ	$const_addrSignals, R12
handler:
	MOVBQZX	0(R12), DI
	TESTQ	DI, DI
	JEQ	handled
	MOVQ	$const_addrActHandle, SI
	XORL	DX, DX
	MOVQ	$8, R10
	MUST(13)			// rt_sigaction
	INCQ	R12
	JMP	handler
handled:
	MOVQ	$17, DI			// SIGCHLD: stubs are reaped by themselves
	MOVQ	$const_addrActIgnore, SI
	XORL	DX, DX
	MOVQ	$8, R10
	MUST(13)

	MOVQ	$15, DI			// PR_SET_NAME
	MOVQ	$const_addrName, SI
	MUST(157)			// prctl
	MOVQ	$38, DI			// PR_SET_NO_NEW_PRIVS
	MOVQ	$1, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MUST(157)			// prctl
	MOVQ	$const_addrCapHeader, DI
	MOVQ	$const_addrCapData, SI
	MUST(126)			// capset
	MOVQ	$1, DI			// SECCOMP_SET_MODE_FILTER
	XORL	SI, SI
	MOVQ	$const_addrFprog, DX
	MUST(317)			// seccomp

	// Say that all of this worked.
	MOVQ	$0, 128(BX)
	JMP	reply

next:
	// struct msghdr at 0, iovec at 64, data at 128, control data at 256.
	MOVQ	$0, 0(BX)
	MOVQ	$0, 8(BX)
	LEAQ	64(BX), AX
	MOVQ	AX, 16(BX)
	MOVQ	$1, 24(BX)
	LEAQ	256(BX), AX
	MOVQ	AX, 32(BX)
	MOVQ	$24, 40(BX)
	MOVQ	$0, 48(BX)
	LEAQ	128(BX), AX
	MOVQ	AX, 64(BX)
	MOVQ	$const_requestSize, 72(BX)
	MOVQ	$const_fdSocket, DI
	MOVQ	BX, SI
	MOVQ	$0x40000000, DX		// MSG_CMSG_CLOEXEC
	MOVQ	$47, AX			// recvmsg
	SYSCALL
	CMPQ	AX, $-4			// EINTR
	JEQ	next
	CMPQ	AX, $const_requestSize
	JNE	fail
	MOVQ	136(BX), R12
	MOVQ	128(BX), AX
	CMPQ	AX, $const_opClone
	JEQ	clone
	CMPQ	AX, $const_opTake
	JEQ	take
	CMPQ	AX, $const_opClose
	JNE	fail
	MOVQ	R12, DI
	MOVQ	$3, AX			// close
	SYSCALL
	MOVQ	AX, 128(BX)
	JMP	reply

take:
	MOVQ	$-9, 128(BX)		// EBADF
	CMPQ	40(BX), $20
	JCS	reply
	MOVLQSX	272(BX), AX
	MOVQ	AX, 128(BX)

reply:
	MOVQ	R12, 144(BX)
	MOVQ	$const_fdSocket, DI
	LEAQ	128(BX), SI
	MOVQ	$const_replySize, DX
	MOVQ	$0x4000, R10		// MSG_NOSIGNAL
	XORL	R8, R8
	XORL	R9, R9
	MUST(44)			// sendto
	JMP	next

clone:
	MOVQ	$const_forkFlags, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVQ	$56, AX			// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	MOVQ	AX, 128(BX)
	MOVQ	$const_fromFactory, 136(BX)
	JMP	reply			// the child answers, too

child:
	// Dies with the factory, which dies with the Sentry.
	MOVQ	$1, DI			// PR_SET_PDEATHSIG
	MOVQ	$9, SI
	MUST(157)			// prctl
	MOVQ	$const_cmdBase, DI
	MOVQ	$const_cmdSize, SI
	MOVQ	$1, DX			// PROT_READ
	MOVQ	$0x11, R10		// MAP_SHARED|MAP_FIXED
	MOVQ	$const_fdControl, R8
	MOVQ	R12, R9
	MUST(9)				// mmap
	MOVQ	$const_slotsBase, DI
	MOVQ	$const_slotsSize, SI
	MOVQ	$3, DX			// PROT_READ|PROT_WRITE
	LEAQ	const_cmdSize(R12), R9
	MUST(9)				// mmap
	// The platform's code goes on: BX is the page for messages, R12 the
	// region.
	MOVQ	$const_childEntry, AX
	JMP	AX

fail:
	MOVQ	AX, DI
	NEGQ	DI
	MOVQ	$231, AX		// exit_group
	SYSCALL
	INT	$3
	PIECE_END

// func pieceAddrs(p *[2]uintptr)
TEXT ·pieceAddrs(SB),NOSPLIT,$0-8
	MOVQ	p+0(FP), DI
	LEAQ	·stubBoot(SB), AX
	MOVQ	AX, 0(DI)
	LEAQ	·stubFactory(SB), AX
	MOVQ	AX, 8(DI)
	RET
