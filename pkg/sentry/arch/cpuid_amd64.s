#include "textflag.h"

// func cpuid(leaf, sub uint32) (a, b, c, d uint32)
//
// SAFETY: CPUID changes AX to DX only.
TEXT ·cpuid(SB),NOSPLIT,$0-24
	MOVL	leaf+0(FP), AX
	MOVL	sub+4(FP), CX
	CPUID
	MOVL	AX, a+8(FP)
	MOVL	BX, b+12(FP)
	MOVL	CX, c+16(FP)
	MOVL	DX, d+20(FP)
	RET

// func xgetbv() uint64
//
// SAFETY: callers have found OSXSAVE in CPUID; without it the instruction is
// undefined.
TEXT ·xgetbv(SB),NOSPLIT,$0-8
	XORL	CX, CX
	XGETBV
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET
