#include "textflag.h"

// func readTSC() uint64
// SAFETY: reads a counter; touches no memory but its result.
TEXT ·readTSC(SB), NOSPLIT, $0-8
	LFENCE // not before the loads that come before it
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func readTSCAbout() uint64
// SAFETY: reads a counter; touches no memory but its result.
TEXT ·readTSCAbout(SB), NOSPLIT, $0-8
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, ret+0(FP)
	RET

// func cpuid(leaf uint32) (eax, ebx, ecx, edx uint32)
// SAFETY: CPUID has no effect but on the registers it is given.
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET
