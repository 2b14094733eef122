#include "textflag.h"

// The functions below follow the System V ABI and are never called where they stand: New copies
// each, up to the mark at its end, into the vDSO. They are position-independent,
// use no stack, no symbol and no register but those that a callee may
// clobber, and know the layout of clock.Page.
//
// SAFETY: they read the page before the image and write where their arguments
// point to, in the application's address space and with its rights.

// PAGE loads the address of the data page into R8: LEAQ mark(IP), R8, where
// New replaces the mark by the distance.
#define PAGE \
	BYTE $0x4C; BYTE $0x8D; BYTE $0x05; LONG $0x7A6DFE5A

// END marks the end of a function.
#define END \
	UD2; LONG $0x0DE5D500; LONG $0x5AFEF00D

#define CALLNO(n) \
	MOVL $n, AX \
	SYSCALL \
	RET

// BEGIN begins a reading of the page: the sequence number is in R9 and
// the cycles since the page's base in AX. R10 counts attempts.
#define BEGIN(retry, busy, fallback) \
	MOVL $1000, R10 \
	JMP  retry \
busy: \
	PAUSE \
	DECL R10 \
	JEQ  fallback \
retry: \
	MOVQ 0(R8), R9 \
	TESTL $1, R9 \
	JNE  busy \
	LFENCE \
	RDTSC \
	SHLQ $32, DX \
	ORQ  DX, AX \
	SUBQ 8(R8), AX \
	CMPQ AX, 16(R8) \
	JHI  fallback

// REALTIME turns cycles in AX into CLOCK_REALTIME: CX seconds and AX nanoseconds,
// which may be more than a second.
#define REALTIME \
	MULQ 24(R8) \
	SHRQ $56, DX, AX \
	MOVQ 64(R8), CX \
	ADDQ 72(R8), AX

// CARRY makes AX nanoseconds less than a second. Numbers hold for a second: once or
// twice round.
#define CARRY(loop, out) \
loop: \
	CMPQ AX, $1000000000 \
	JCS  out \
	SUBQ $1000000000, AX \
	INCQ CX \
	JMP  loop \
out:

// int clock_gettime(clockid_t id, struct timespec *ts)
TEXT ·clockGettime(SB), NOSPLIT|NOFRAME, $0-0
	CMPL DI, $11
	JHI  fallback
	MOVL DI, DI
	MOVL $0x8F3, AX // the clocks that a page knows, a bit each
	BTL  DI, AX
	JCC  fallback
	PAGE
	MOVL DI, R11
	SHLL $4, R11
	BEGIN(retry, busy, fallback)
	CMPL DI, $4 // CLOCK_MONOTONIC_RAW
	JEQ  raw
	MULQ 24(R8)
check:
	SHRQ $56, DX, AX
	MOVQ 64(R8)(R11*1), CX
	ADDQ 72(R8)(R11*1), AX
	CMPQ R9, 0(R8)
	JNE  retry
	CARRY(carry, done)
	MOVQ CX, 0(SI)
	MOVQ AX, 8(SI)
	XORL AX, AX
	RET
raw:
	MULQ 32(R8)
	JMP  check
fallback:
	CALLNO(228)
	END

// int gettimeofday(struct timeval *tv, struct timezone *tz)
TEXT ·gettimeofday(SB), NOSPLIT|NOFRAME, $0-0
	TESTQ DI, DI
	JEQ  zone
	PAGE
	BEGIN(retry, busy, fallback)
	REALTIME
	CMPQ R9, 0(R8)
	JNE  retry
	CARRY(carry, split)
	MOVQ CX, 0(DI)
	IMUL3Q $274877907, AX, AX // nanoseconds to microseconds: 2^38/1000, rounded up
	SHRQ $38, AX
	MOVQ AX, 8(DI)
zone:
	XORL AX, AX
	TESTQ SI, SI
	JEQ  done
	MOVQ AX, 0(SI) // both fields: the kernel's time zone is UTC
done:
	RET
fallback:
	CALLNO(96)
	END

// time_t time(time_t *t)
TEXT ·time(SB), NOSPLIT|NOFRAME, $0-0
	PAGE
	BEGIN(retry, busy, fallback)
	REALTIME
	CMPQ R9, 0(R8)
	JNE  retry
	CARRY(carry, split)
	MOVQ CX, AX
	TESTQ DI, DI
	JEQ  done
	MOVQ AX, 0(DI)
done:
	RET
fallback:
	CALLNO(201)
	END

// int clock_getres(clockid_t id, struct timespec *res)
TEXT ·clockGetres(SB), NOSPLIT|NOFRAME, $0-0
	CMPL DI, $11
	JHI  fallback
	MOVL $0x893, AX // the fine clocks
	BTL  DI, AX
	MOVL $1, CX
	JCS  known
	MOVL $0x60, AX // the coarse clocks
	BTL  DI, AX
	MOVL $4000000, CX // clock.CoarseResolution
	JCC  fallback
known:
	XORL AX, AX
	TESTQ SI, SI
	JEQ  done
	MOVQ AX, 0(SI)
	MOVQ CX, 8(SI)
done:
	RET
fallback:
	CALLNO(229)
	END

// int getcpu(unsigned *cpu, unsigned *node, void *unused)
TEXT ·getcpu(SB), NOSPLIT|NOFRAME, $0-0
	PAGE
	MOVL $0x7B, AX // GDT_ENTRY_CPUNODE, at ring 3
	BYTE $0x0F; BYTE $0x03; BYTE $0xC0 // LSL AX, AX
	JNE  fallback // no such segment
	ANDL $0xFFF, AX
	CMPQ AX, 40(R8)
	JCC  fallback
	TESTQ DI, DI
	JEQ  node
	MOVL AX, 0(DI)
node:
	TESTQ SI, SI
	JEQ  done
	MOVL $0, 0(SI) // there is but one
done:
	XORL AX, AX
	RET
fallback:
	CALLNO(309)
	END

// func codeAddresses() [5]uintptr
TEXT ·codeAddresses(SB), NOSPLIT, $0-40
	LEAQ ·clockGettime(SB), AX
	MOVQ AX, ret_0+0(FP)
	LEAQ ·gettimeofday(SB), AX
	MOVQ AX, ret_1+8(FP)
	LEAQ ·time(SB), AX
	MOVQ AX, ret_2+16(FP)
	LEAQ ·clockGetres(SB), AX
	MOVQ AX, ret_3+24(FP)
	LEAQ ·getcpu(SB), AX
	MOVQ AX, ret_4+32(FP)
	RET
