#include "textflag.h"

// func vforkExec(socket, image, control uintptr, argv, envp *uintptr, empty *byte) (pid, errno uintptr)
//
// SAFETY: between clone and execveat the child shares memory and stack with
// this thread, which the kernel keeps suspended (CLONE_VFORK). The child writes
// nothing but the errno word in this frame, calls nothing, and no signal handler
// can run in it, for all signals are blocked. The Go runtime never sees it.
TEXT ·vforkExec(SB),NOSPLIT,$32-64
	MOVQ	$-1, AX
	MOVQ	AX, 0(SP)	// all signals
	MOVQ	$0, 16(SP)	// errno of the child
	MOVQ	$2, DI		// SIG_SETMASK
	LEAQ	0(SP), SI
	LEAQ	8(SP), DX
	MOVQ	$8, R10
	MOVQ	$14, AX		// rt_sigprocmask
	SYSCALL
	TESTQ	AX, AX
	JNE	failed

	MOVQ	$0x4111, DI	// CLONE_VM|CLONE_VFORK|SIGCHLD
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVQ	$56, AX		// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	MOVQ	AX, R12

	MOVQ	$2, DI
	LEAQ	8(SP), SI
	XORL	DX, DX
	MOVQ	$8, R10
	MOVQ	$14, AX		// rt_sigprocmask
	SYSCALL
	MOVQ	R12, AX
	TESTQ	AX, AX
	JLT	failed
	MOVQ	AX, pid+48(FP)
	MOVQ	16(SP), AX
	NEGQ	AX
	MOVQ	AX, errno+56(FP)
	RET

failed:
	NEGQ	AX
	MOVQ	$0, pid+48(FP)
	MOVQ	AX, errno+56(FP)
	RET

child:
	MOVQ	socket+0(FP), DI
	XORL	SI, SI
	XORL	DX, DX
	MOVQ	$292, AX	// dup3
	SYSCALL
	TESTQ	AX, AX
	JLT	giveup
	MOVQ	image+8(FP), DI
	MOVQ	$1, SI
	XORL	DX, DX
	MOVQ	$292, AX	// dup3
	SYSCALL
	TESTQ	AX, AX
	JLT	giveup
	MOVQ	control+16(FP), DI
	MOVQ	$2, SI
	XORL	DX, DX
	MOVQ	$292, AX	// dup3
	SYSCALL
	TESTQ	AX, AX
	JLT	giveup
	MOVQ	$1, DI
	MOVQ	empty+40(FP), SI
	MOVQ	argv+24(FP), DX
	MOVQ	envp+32(FP), R10
	MOVQ	$0x1000, R8	// AT_EMPTY_PATH
	MOVQ	$322, AX	// execveat
	SYSCALL
giveup:
	MOVQ	AX, 16(SP)
	MOVQ	$1, DI
	MOVQ	$60, AX		// exit
	SYSCALL
	INT	$3
