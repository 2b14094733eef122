// The platform's code in a stub. None of it runs in the Sentry: program.go
// copies the bytes out and puts each piece at its place. The pieces use neither
// stack nor Go runtime. Each ends with the eight bytes of pieceEnd.
//
// SAFETY: none of these is ever called from Go; they are read as bytes.

#include "go_asm.h"
#include "textflag.h"

#define PIECE_END QUAD $const_pieceEnd

#define MUST(nr) \
	MOVQ	$nr, AX; \
	SYSCALL; \
	CMPQ	AX, $0; \
	JLT	fail

// stubChild is where a new stub starts. It becomes two sleeping threads.
TEXT ·stubChild(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$const_threadFlags, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVQ	$56, AX			// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	idle
	JLT	fail
	MOVQ	AX, 8(BX)
	MUST(39)			// getpid
	MOVQ	AX, 0(BX)
	MOVQ	R12, 16(BX)
	MOVQ	$const_socket, DI
	MOVQ	BX, SI
	MOVQ	$const_replySize, DX
	MOVQ	$0x4000, R10		// MSG_NOSIGNAL
	XORL	R8, R8
	XORL	R9, R9
	MUST(44)			// sendto
idle:
	MOVQ	$34, AX			// pause
	SYSCALL
	JMP	idle
fail:
	MOVQ	AX, DI
	NEGQ	DI
	MOVQ	$231, AX		// exit_group
	SYSCALL
	INT	$3
	PIECE_END

// stubHandler is the handler of the signals of exceptions. The syscall stops
// under PTRACE_SYSEMU; the Sentry finds the frame from RDX.
TEXT ·stubHandler(SB),NOSPLIT|NOFRAME,$0
	SYSCALL
	INT	$3
	PIECE_END

TEXT ·stubCall(SB),NOSPLIT|NOFRAME,$0
	SYSCALL
	INT	$3
	PIECE_END

// stubBatch keeps everything in registers or reads it from the command page,
// which the application can't write.
TEXT ·stubBatch(SB),NOSPLIT|NOFRAME,$0
again:
	TESTQ	R12, R12
	JEQ	done
	MOVQ	0(BX), AX
	MOVQ	8(BX), DI
	MOVQ	16(BX), SI
	MOVQ	24(BX), DX
	MOVQ	32(BX), R10
	MOVQ	40(BX), R8
	MOVQ	48(BX), R9
	SYSCALL
	CMPQ	AX, $-4095
	JCC	done
	ADDQ	$const_commandSize, BX
	DECQ	R12
	JMP	again
done:
	INT	$3
	PIECE_END

TEXT ·stubSpawn(SB),NOSPLIT|NOFRAME,$0
	SYSCALL
	TESTQ	AX, AX
	JEQ	idle
	MOVQ	AX, R13
	MOVQ	R14, DI
	XORL	SI, SI
	MOVQ	$131, AX		// sigaltstack
	SYSCALL
	INT	$3
idle:
	MOVQ	$34, AX			// pause
	SYSCALL
	JMP	idle
	PIECE_END

// func pieceAddrs(p *[5]uintptr)
TEXT ·pieceAddrs(SB),NOSPLIT,$0-8
	MOVQ	p+0(FP), DI
	LEAQ	·stubChild(SB), AX
	MOVQ	AX, 0(DI)
	LEAQ	·stubHandler(SB), AX
	MOVQ	AX, 8(DI)
	LEAQ	·stubCall(SB), AX
	MOVQ	AX, 16(DI)
	LEAQ	·stubBatch(SB), AX
	MOVQ	AX, 24(DI)
	LEAQ	·stubSpawn(SB), AX
	MOVQ	AX, 32(DI)
	RET
