#include "textflag.h"

// STREAM is how far the four places are apart that are read at once: pages of
// their own, and lines of their own in each set of the first cache.
#define STREAM 0x2400
#define BLOCK 0x9000

// One cache line of the place at off: SI and DI are in the first of four.
#define LINE(off, lo, hi) \
	VMOVDQU off(SI), lo      \
	VMOVDQU off+32(SI), hi   \
	VMOVDQU lo, off(DI)      \
	VMOVDQU hi, off+32(DI)

// func moveBlocksAVX(dst, src *byte, n int) int
//
// SAFETY: the caller says that dst and src have n bytes each; whole blocks of at
// most n bytes are touched. It has no frame and calls nothing, so a fault in here
// is a panic of the caller's, as one in the built-in copy is.
TEXT ·moveBlocksAVX(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ $0, ret+24(FP)

	// Neither begins inside the other, their last bytes included, which are moved later.
	MOVQ DI, AX
	SUBQ SI, AX
	CMPQ AX, CX
	JB   done
	NEGQ AX
	CMPQ AX, CX
	JB   done

	XORQ AX, AX

block:
	SUBQ $BLOCK, CX
	JLT  end
	MOVQ $(STREAM/64), DX

line:
	LINE(0*STREAM, Y0, Y1)
	LINE(1*STREAM, Y2, Y3)
	LINE(2*STREAM, Y4, Y5)
	LINE(3*STREAM, Y6, Y7)
	ADDQ $64, SI
	ADDQ $64, DI
	DECQ DX
	JNZ  line

	ADDQ $(BLOCK-STREAM), SI
	ADDQ $(BLOCK-STREAM), DI
	ADDQ $BLOCK, AX
	JMP  block

end:
	VZEROUPPER
	MOVQ AX, ret+24(FP)

done:
	RET
