#include "textflag.h"

// func Call(fn, a, b, c uintptr) uintptr
// SAFETY: Go's assembly functions may clobber all registers but SP, which the
// callee restores, R14 and X15, which the wrapper reloads. NOSPLIT leaves the
// callee the room that the linker keeps below every function.
TEXT ·Call(SB), NOSPLIT, $0-40
	MOVQ fn+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ c+24(FP), DX
	CALL AX
	MOVQ AX, ret+32(FP)
	RET
