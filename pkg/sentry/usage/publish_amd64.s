#include "textflag.h"

// func publish(p *atomic.Int64, v int64)
// SAFETY: stores eight bytes at p, which is aligned and lives until the call returns.
TEXT ·publish(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), AX
	MOVQ v+8(FP), CX
	MOVQ CX, (AX)
	RET
