// The platform's code in a stub. None of it runs in the Sentry: program.go
// copies the bytes out and puts each piece at its place. The pieces use no Go
// runtime, and the stack of the slot only to return to the application. Each
// ends with the eight bytes of pieceEnd.
//
// In the threads that run application code R15 is the address of the slot's
// shared page, except where registers of the application are being loaded.
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

#define FUTEX_CALL \
	MOVL	$202, AX; \
	SYSCALL

// XSAVE64 (DI) and XRSTOR64 (DI); DX:AX says what.
#define XSAVE64_DI \
	BYTE	$0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x27
#define XRSTOR64_DI \
	BYTE	$0x48; BYTE $0x0f; BYTE $0xae; BYTE $0x2f

#define GOTO(addr) \
	MOVQ	$addr, R11; \
	JMP	R11

// stubChild is where a new stub starts: R12 is the region. It makes a thread for
// application code, says who they are, and becomes the memory thread, which
// makes the commands in the command page whenever their number changes (R13 is the last
// one) and adds the result to an eventfd.
TEXT ·stubChild(SB),NOSPLIT|NOFRAME,$0
	MUST(39)			// getpid
	MOVQ	AX, R13
	MOVQ	$const_firstPageAddr, R15
	MOVQ	$const_threadFlags, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX			// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	thread
	JLT	fail
	// The page for messages is that of the first slot's stack by now.
	MOVQ	$const_messageAddr, BX
	MOVQ	R13, 0(BX)
	MOVQ	AX, 8(BX)
	MOVQ	R12, 16(BX)
	MOVQ	$const_socket, DI
	MOVQ	BX, SI
	MOVQ	$const_replySize, DX
	MOVQ	$0x4000, R10		// MSG_NOSIGNAL
	XORL	R8, R8
	XORL	R9, R9
	MUST(44)			// sendto
	XORL	R13, R13

idle:
	MOVQ	$const_cmdNumberAddr, DI
	MOVL	0(DI), AX
	CMPL	AX, R13
	JNE	work
	XORL	SI, SI			// FUTEX_WAIT
	MOVL	R13, DX
	XORL	R10, R10
	FUTEX_CALL
	JMP	idle

work:
	MOVL	AX, R13
	MOVQ	$const_cmdCountAddr, DI
	MOVQ	0(DI), R12
	MOVQ	$const_cmdListAddr, BX
again:
	TESTQ	R12, R12
	JEQ	done
	MOVQ	0(BX), AX
	CMPQ	AX, $const_spawnCommand
	JEQ	spawn
	MOVQ	8(BX), DI
	MOVQ	16(BX), SI
	MOVQ	24(BX), DX
	MOVQ	32(BX), R10
	MOVQ	40(BX), R8
	MOVQ	48(BX), R9
	SYSCALL
	CMPQ	AX, $-4095
	JCC	failed
next:
	ADDQ	$const_commandSize, BX
	DECQ	R12
	JMP	again

spawn:
	MOVQ	8(BX), R15
	MOVQ	$const_threadFlags, DI
	XORL	SI, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	MOVL	$56, AX			// clone
	SYSCALL
	TESTQ	AX, AX
	JEQ	thread
	CMPQ	AX, $-4095
	JCS	next

failed:
	NEGQ	AX
	ANDL	$255, AX
	MOVQ	AX, R14
	MOVQ	$const_leftTableAddr, SI
	LEAQ	(SI)(R12*8), SI
	MOVQ	$const_cmdEventAddr, DI
	MOVQ	0(DI), DI
	MOVL	$8, DX
	MOVL	$1, AX			// write
	SYSCALL
	MOVQ	$const_errnoTableAddr, SI
	LEAQ	(SI)(R14*8), SI
	JMP	report
done:
	MOVQ	$const_errnoTableAddr, SI
report:
	MOVQ	$const_cmdEventAddr, DI
	MOVQ	0(DI), DI
	MOVL	$8, DX
	MOVL	$1, AX			// write
	SYSCALL
	JMP	idle

thread:
	GOTO(const_startAddr)

fail:
	MOVL	$1, DI
	MOVL	$231, AX		// exit_group
	SYSCALL
	INT	$3
	PIECE_END

// stubStart is where a thread for application code starts.
TEXT ·stubStart(SB),NOSPLIT|NOFRAME,$0
	LEAQ	-64(R15), SP
	MOVQ	$const_cmdStackAddr, DI
	XORL	SI, SI
	MUST(131)			// sigaltstack
	MOVL	$2, DI			// SIG_SETMASK
	MOVQ	$const_noSignalsAddr, SI
	XORL	DX, DX
	MOVL	$8, R10
	MUST(14)			// rt_sigprocmask
	MUST(186)			// gettid
	MOVL	AX, const_ctxTID(R15)
	// From here on only what follows this piece calls the host. Syscall User
	// Dispatch (Linux 5.11) costs nothing to set up, where a filter is compiled
	// for each, and catches uretprobe(2), which the kernel lets pass by filters.
	MOVL	$59, DI			// PR_SET_SYSCALL_USER_DISPATCH
	MOVL	$1, SI			// PR_SYS_DISPATCH_ON
	MOVQ	$const_allowedAddr, DX
	MOVQ	$const_allowedSize, R10
	XORL	R8, R8
	MOVL	$157, AX		// prctl
	SYSCALL
	TESTQ	AX, AX
	JEQ	confined
	MOVL	$1, DI			// SECCOMP_SET_MODE_FILTER
	XORL	SI, SI
	MOVQ	$const_fprogAddr, DX
	MUST(317)			// seccomp
confined:
	MOVQ	SP, const_ctxSP(R15)
	MOVL	$1, const_ctxSeen(R15)
	MOVL	$const_kindReady, R13
	GOTO(const_postAddr)
fail:
	MOVL	$1, DI
	MOVL	$231, AX		// exit_group
	SYSCALL
	INT	$3
	PIECE_END

// stubPost tells the Sentry of an event, of the kind in R13, and waits for what to do
// next. All host calls of application threads but rt_sigreturn and sched_yield are in
// here. The vector state of a call, which the Sentry needs seldom, is saved while it
// looks at the call, unless there is but one CPU for both; at DI, for from the post
// on the Sentry may say where another context's is to be.
#define SAVE_VECTORS \
	MOVQ	$const_featuresAddr, SI; \
	MOVL	4(SI), DX; \
	MOVL	0(SI), AX; \
	XSAVE64_DI; \
	MOVL	R14, const_ctxSaved(R15)
// What it has written about a call the Sentry finds sooner in the cache that both
// CPUs share: DEMOTE is CLDEMOTE off(R15), which does nothing on processors without. Once
// the Sentry has it, it is fetched back, which would otherwise delay the return.
#define DEMOTE(off) \
	BYTE	$0x41; BYTE $0x0f; BYTE $0x1c; BYTE $0x87; \
	LONG	$(off)
TEXT ·stubPost(SB),NOSPLIT|NOFRAME,$0
	MOVL	const_ctxSeen(R15), R14
	MOVQ	R13, BX
	SHLQ	$32, BX
	ORQ	R14, BX
	CMPL	R13, $const_kindCall
	JNE	post
	MOVQ	const_ctxArea(R15), DI
	MOVQ	DI, const_ctxFP(R15)
	CMPL	const_ctxSpin(R15), $0
	JEQ	first
	DEMOTE(const_ctxCall+0*64)
	DEMOTE(const_ctxCall+1*64)
	DEMOTE(const_ctxCall+2*64)
	XCHGQ	BX, const_ctxEvent(R15)
	SAVE_VECTORS
	JMP	posted
first:
	SAVE_VECTORS
post:
	XCHGQ	BX, const_ctxEvent(R15)
posted:
	CMPL	const_ctxSentrySleeps(R15), $0
	JEQ	wait
	LEAQ	const_ctxEvent(R15), DI
	MOVL	$1, SI			// FUTEX_WAKE
	MOVL	$1, DX
	FUTEX_CALL
wait:
	MOVL	const_ctxSpin(R15), CX
	LEAL	-const_fetchAfter(CX), R13
spin:
	MOVQ	const_ctxGo(R15), AX
	CMPL	AX, R14
	JNE	gone
	SHRQ	$32, AX
	JNE	sleep
	SUBL	$1, CX
	JLE	sleep
	CMPL	CX, R13
	JEQ	fetch
	PAUSE
	JMP	spin
fetch:
	PREFETCHT0	(const_ctxCall+0*64)(R15)
	PREFETCHT0	(const_ctxCall+1*64)(R15)
	PREFETCHT0	(const_ctxCall+2*64)(R15)
	JMP	spin
sleep:
	MOVL	$1, AX
	XCHGL	AX, const_ctxStubSleeps(R15)
	MOVL	const_ctxGo(R15), AX
	CMPL	AX, R14
	JNE	awake
	LEAQ	const_ctxGo(R15), DI
	XORL	SI, SI			// FUTEX_WAIT
	MOVL	R14, DX
	XORL	R10, R10
	FUTEX_CALL
awake:
	MOVL	$0, const_ctxStubSleeps(R15)
	MOVL	const_ctxGo(R15), AX
	CMPL	AX, R14
	JEQ	sleep
gone:
	MOVL	AX, const_ctxSeen(R15)
	GOTO(const_resumeAddr)
	PIECE_END

// LOAD_REGS loads the general registers but RSP and R15, and no flags.
#define LOAD_REGS \
	MOVQ	(const_ctxRegs+0*8)(R15), R8; \
	MOVQ	(const_ctxRegs+1*8)(R15), R9; \
	MOVQ	(const_ctxRegs+2*8)(R15), R10; \
	MOVQ	(const_ctxRegs+3*8)(R15), R11; \
	MOVQ	(const_ctxRegs+4*8)(R15), R12; \
	MOVQ	(const_ctxRegs+5*8)(R15), R13; \
	MOVQ	(const_ctxRegs+6*8)(R15), R14; \
	MOVQ	(const_ctxRegs+8*8)(R15), DI; \
	MOVQ	(const_ctxRegs+9*8)(R15), SI; \
	MOVQ	(const_ctxRegs+10*8)(R15), AX; \
	XCHGQ	BP, AX; \
	MOVQ	(const_ctxRegs+11*8)(R15), BX; \
	MOVQ	(const_ctxRegs+12*8)(R15), DX; \
	MOVQ	(const_ctxRegs+13*8)(R15), AX; \
	MOVQ	(const_ctxRegs+14*8)(R15), CX

// stubResume goes to the application. Nothing of what it reads is changed, so it
// can be given up at any instruction and begun anew, with all that is to be loaded.
TEXT ·stubResume(SB),NOSPLIT|NOFRAME,$0
	CMPL	const_ctxInterrupt(R15), $0
	JNE	interrupted
	MOVL	const_ctxLoad(R15), CX
	TESTL	$const_loadResult, CX
	JNE	result
	PREFETCHT0	(const_ctxRegs+0*64)(R15)
	PREFETCHT0	(const_ctxRegs+1*64)(R15)
	PREFETCHT0	(const_ctxRegs+2*64)(R15)
	MOVQ	$const_featuresAddr, SI
	MOVL	4(SI), DX
	MOVL	0(SI), AX
	MOVQ	const_ctxFP(R15), DI
	TESTL	$const_loadFrame, CX
	JNE	load
	TESTL	$const_loadVectors, CX
	JEQ	haveFP
	TESTL	$const_loadArea, CX
	JEQ	restore
	MOVQ	const_ctxArea(R15), DI
restore:
	XRSTOR64_DI
haveFP:
	TESTL	$const_saveFrame, CX
	JNE	save
haveVectors:
	TESTL	$const_loadFS, CX
	JEQ	haveFS
	MOVQ	const_ctxRegFS(R15), AX
	WRFSBASEQ	AX
haveFS:
	TESTL	$const_loadGS, CX
	JEQ	haveGS
	MOVQ	const_ctxRegGS(R15), AX
	WRGSBASEQ	AX
haveGS:
	// Below the frame that the vector state may have come from.
	MOVQ	const_ctxSP(R15), SP
	TESTL	$const_loadJump, CX
	JNE	jump
	PUSHQ	(const_ctxRegs+19*8)(R15)	// ss
	PUSHQ	(const_ctxRegs+15*8)(R15)	// rsp
	PUSHQ	(const_ctxRegs+17*8)(R15)	// eflags
	PUSHQ	(const_ctxRegs+18*8)(R15)	// cs
	PUSHQ	(const_ctxRegs+16*8)(R15)	// rip
	LOAD_REGS
	MOVQ	(const_ctxRegs+7*8)(R15), R15
	IRETQ
jump:
	PUSHQ	(const_ctxRegs+17*8)(R15)	// eflags
	POPFQ
	LOAD_REGS
	MOVQ	(const_ctxRegs+15*8)(R15), SP
	MOVQ	(const_ctxRegs+7*8)(R15), R15
	BYTE	$0x65; BYTE $0xff; BYTE $0x24; BYTE $0x25	// JMP *GS:
	LONG	$const_ctxRegs+16*8
result:
	// Back to the trampoline, or where that goes to.
	MOVQ	(const_ctxCall+const_callR8*8)(R15), R8
	MOVQ	(const_ctxCall+const_callR9*8)(R15), R9
	MOVQ	(const_ctxCall+const_callR10*8)(R15), R10
	MOVQ	(const_ctxCall+const_callR12*8)(R15), R12
	MOVQ	(const_ctxCall+const_callR13*8)(R15), R13
	MOVQ	(const_ctxCall+const_callR14*8)(R15), R14
	MOVQ	(const_ctxCall+const_callRDI*8)(R15), DI
	MOVQ	(const_ctxCall+const_callRSI*8)(R15), SI
	MOVQ	(const_ctxCall+const_callRBP*8)(R15), AX
	XCHGQ	BP, AX
	MOVQ	(const_ctxCall+const_callRBX*8)(R15), BX
	MOVQ	(const_ctxCall+const_callRDX*8)(R15), DX
	MOVQ	(const_ctxCall+const_callEflags*8)(R15), R11
	MOVQ	(const_ctxCall+const_callRIP*8)(R15), CX
	MOVQ	(const_ctxCall+const_callRSP*8)(R15), SP
	MOVL	(const_ctxCall+const_callFlags*8)(R15), AX
	ADDB	$0x7f, AX
	SAHF
	MOVQ	const_ctxResult(R15), AX
	MOVQ	(const_ctxCall+const_callR15*8)(R15), R15
	BYTE	$0x65; BYTE $0xff; BYTE $0x24; BYTE $0x25	// JMP *GS:
	LONG	$const_ctxCall+const_callTail*8
load:
	// What isn't as saveFrame leaves it the Sentry looks at.
	MOVQ	$const_notesAddr, SI
	MOVQ	0(SI), R8
	CMPQ	R8, 464(DI)
	JNE	refused
	MOVQ	8(SI), R8
	CMPQ	R8, 472(DI)
	JNE	refused
	MOVL	16(SI), R8
	CMPL	R8, 480(DI)
	JNE	refused
	MOVL	const_notesMagic(SI), R9
	CMPL	R9, (DI)(R8*1)
	JNE	refused
	MOVQ	8(SI), R8		// the features
	NOTQ	R8
	TESTQ	R8, 512(DI)
	JNE	refused
	XRSTOR64_DI
	JMP	haveVectors
save:
	MOVQ	const_ctxFrameAt(R15), DI
	MOVQ	$0, 512(DI)
	XSAVE64_DI
	ORQ	$3, 512(DI)
	MOVQ	$const_notesAddr, SI
#define NOTE(off) \
	MOVQ	off(SI), R8; \
	MOVQ	R8, (464+off)(DI)
	NOTE(0)
	NOTE(8)
	NOTE(16)
	NOTE(24)
	NOTE(32)
	NOTE(40)
	XORL	R8, R8
	MOVQ	R8, 520(DI)
	MOVQ	R8, 528(DI)
	MOVQ	R8, 536(DI)
	MOVQ	R8, 544(DI)
	MOVQ	R8, 552(DI)
	MOVQ	R8, 560(DI)
	MOVQ	R8, 568(DI)
	MOVL	const_notesSize(SI), R8
	MOVL	const_notesMagic(SI), R9
	MOVL	R9, (DI)(R8*1)
	MOVQ	$const_initAddr, DI
	XRSTOR64_DI
	JMP	haveVectors
refused:
	MOVL	$const_kindRefused, R13
	MOVQ	const_ctxSP(R15), SP
	GOTO(const_postAddr)
interrupted:
	GOTO(const_interruptedAddr)
	PIECE_END

// stubInterrupted tells that application code hasn't run since the last event.
TEXT ·stubInterrupted(SB),NOSPLIT|NOFRAME,$0
	MOVL	$0, const_ctxInterrupt(R15)
	MOVL	$const_kindInterrupted, R13
	MOVQ	const_ctxSP(R15), SP
	GOTO(const_postAddr)
	PIECE_END

// stubHandler is the handler of all signals: DI is the number, SI the address
// of the siginfo_t, DX that of the ucontext, and SP that of the frame.
TEXT ·stubHandler(SB),NOSPLIT|NOFRAME,$0
	MOVQ	SP, R15
	ANDQ	$-const_slotSize, R15
	ADDQ	$const_stackSize, R15
	TESTL	$0x4000, (40+17*8)(DX)	// eflags: NT, with which iretq faults
	JEQ	canReturn
	PUSHQ	$2
	POPFQ
canReturn:
	MOVQ	(40+16*8)(DX), AX	// rip
	MOVQ	$const_codeBase, CX
	SUBQ	CX, AX
	CMPQ	AX, $const_codeSize
	JCS	inside
event:
	MOVL	DI, const_ctxSigno(R15)
	MOVQ	DX, const_ctxFrame(R15)
	MOVQ	SI, const_ctxInfo(R15)
	MOVQ	(40+23*8)(DX), AX	// fpstate
	MOVQ	AX, const_ctxFP(R15)
	RDFSBASEQ	AX
	MOVQ	AX, const_ctxFSBase(R15)
	RDGSBASEQ	AX
	MOVQ	AX, const_ctxGSBase(R15)
	MOVQ	SP, const_ctxSP(R15)
	MOVL	$const_kindSignal, R13
	GOTO(const_postAddr)

inside:
	// In the stub's own code.
	SUBQ	$const_resumeOff, AX
	CMPL	DI, $const_interruptSignal
	JNE	fault
	CMPQ	AX, $const_resumeSize
	JCC	remember
	GOTO(const_interruptedAddr)
remember:
	SUBQ	$const_answerOff, AX
	CMPQ	AX, $const_answerSize
	JCS	event
	MOVL	$1, const_ctxInterrupt(R15)
	ADDQ	$8, SP
	MOVL	$15, AX			// rt_sigreturn
	SYSCALL
	INT	$3
fault:
	CMPQ	AX, $const_resumeSize
	JCC	event			// the application has jumped here
	// The processor refuses to go where the registers say.
	MOVL	$const_kindRefused, R13
	MOVQ	const_ctxSP(R15), SP
	GOTO(const_postAddr)
	PIECE_END

// FIND finds the slot of a thread that has come by a trampoline, by the base of
// GS unless the application uses that itself; R11 and the flags are free. ENTER
// goes to its stack. SAVE saves what else there is, but for RAX and where to go
// on, and posts the call.
#define FIND \
	RDGSBASEQ	R11; \
	SHRQ	$const_slotsShift, R11; \
	CMPL	R11, $const_slotsPrefix; \
	JNE	trap; \
	RDGSBASEQ	R11

#define ENTER \
	MOVQ	R15, (const_ctxCall+const_callR15*8)(R11); \
	MOVQ	R11, R15; \
	MOVQ	SP, (const_ctxCall+const_callRSP*8)(R15); \
	LEAQ	-64(R15), SP

// ANSWER looks for the answer to the call number in CX, with RAX and the tail
// saved, and the page's address in R11. It goes to clocks where there may be one
// that has to be made, to none where there isn't any, and on with that in R11 and
// the tail in CX otherwise.
#define ANSWER \
	MOVQ	$const_answerIndexAddr, AX; \
	MOVBLZX	(AX)(CX*1), AX; \
	TESTL	AX, AX; \
	JEQ	none; \
	CMPL	AX, $const_answerMade; \
	JEQ	clocks; \
	ANDL	$const_slotMask, R11; \
	SHRL	$const_answerShift, R11; \
	ADDL	AX, R11; \
	MOVQ	$const_answersAddr, AX; \
	MOVL	(AX)(R11*1), R11; \
	TESTL	R11, R11; \
	JEQ	none; \
	SUBL	$1, R11; \
	RDGSBASEQ	AX; \
	MOVQ	(const_ctxCall+const_callTail*8)(AX), CX

// CLOCKS makes the answers of the calls that read clocks, as the functions of the
// vDSO do (vdso_amd64.s), but asks the Sentry where these try again, and that of
// sched_yield, which is the host's, and of getcpu. It goes to give with the answer in R11 and the
// tail in CX, or to none. While R8 is the address of the clocks and R11 that of
// the page, what was in DX and R8 to R10 is in the page: a store where nothing is
// mapped ends in leaveEntry. Masks are those of the clocks: of all, the fine and the
// coarse ones.
#define PLACE(reg, size) \
	MOVQ	$(const_userEnd-size), AX; \
	CMPQ	reg, AX; \
	JHI	ask
#define READ \
	MOVQ	0(R8), R9; \
	TESTL	$1, R9; \
	JNE	ask; \
	LFENCE; \
	RDTSC; \
	SHLQ	$32, DX; \
	ORQ	DX, AX; \
	SUBQ	8(R8), AX; \
	CMPQ	AX, 16(R8); \
	JHI	ask
#define UNSCALE(clock) \
	SHRQ	$56, DX, AX; \
	MOVQ	64(R8)(clock*1), CX; \
	ADDQ	72(R8)(clock*1), AX; \
	CMPQ	R9, 0(R8); \
	JNE	ask
#define CLOCKS \
clocks: \
	MOVQ	DX, (const_ctxCall+const_callRDX*8)(R11); \
	MOVQ	R8, (const_ctxCall+const_callR8*8)(R11); \
	MOVQ	R9, (const_ctxCall+const_callR9*8)(R11); \
	MOVQ	R10, (const_ctxCall+const_callR10*8)(R11); \
	MOVL	R11, DX; \
	ANDL	$const_slotMask, DX; \
	SHRL	$const_answerShift, DX; \
	MOVQ	$const_answersAddr, AX; \
	CMPL	const_answerOpen(AX)(DX*1), $0; \
	JEQ	ask; \
	CMPL	CX, $24; \
	JEQ	yield; \
	MOVQ	$const_clocksAddr, R8; \
	XORL	R10, R10; \
	CMPL	CX, $309; \
	JEQ	cpu; \
	CMPL	CX, $201; \
	JEQ	time; \
	CMPL	CX, $96; \
	JEQ	timeofday; \
	CMPL	DI, $11; \
	JHI	ask; \
	CMPL	CX, $229; \
	JEQ	resolution; \
	MOVL	$0x8f3, AX; \
	BTL	DI, AX; \
	JCC	ask; \
	PLACE(SI, 16); \
	MOVL	DI, R10; \
	SHLL	$4, R10; \
	READ; \
	CMPL	DI, $4; \
	JEQ	raw; \
	MULQ	24(R8); \
	JMP	scaled; \
raw: \
	MULQ	32(R8); \
scaled: \
	UNSCALE(R10); \
carry: \
	CMPQ	AX, $1000000000; \
	JCS	carried; \
	SUBQ	$1000000000, AX; \
	INCQ	CX; \
	JMP	carry; \
carried: \
	MOVQ	CX, 0(SI); \
	MOVQ	AX, 8(SI); \
	XORL	AX, AX; \
	JMP	made; \
resolution: \
	MOVL	$0x893, AX; \
	BTL	DI, AX; \
	MOVL	$1, CX; \
	JCS	known; \
	MOVL	$0x60, AX; \
	BTL	DI, AX; \
	MOVL	$4000000, CX; \
	JCC	ask; \
known: \
	TESTQ	SI, SI; \
	JEQ	store; \
	PLACE(SI, 16); \
	MOVQ	$0, 0(SI); \
	MOVQ	CX, 8(SI); \
store: \
	XORL	AX, AX; \
	JMP	made; \
timeofday: \
	TESTQ	SI, SI; \
	JNE	ask; \
	TESTQ	DI, DI; \
	JEQ	ask; \
	PLACE(DI, 16); \
	READ; \
	MULQ	24(R8); \
	UNSCALE(R10); \
round: \
	CMPQ	AX, $1000000000; \
	JCS	rounded; \
	SUBQ	$1000000000, AX; \
	INCQ	CX; \
	JMP	round; \
rounded: \
	MOVQ	CX, 0(DI); \
	IMUL3Q	$274877907, AX, AX; \
	SHRQ	$38, AX; \
	MOVQ	AX, 8(DI); \
	XORL	AX, AX; \
	JMP	made; \
time: \
	PLACE(DI, 8); \
	READ; \
	MULQ	24(R8); \
	UNSCALE(R10); \
whole: \
	CMPQ	AX, $1000000000; \
	JCS	seconds; \
	SUBQ	$1000000000, AX; \
	INCQ	CX; \
	JMP	whole; \
seconds: \
	MOVQ	CX, AX; \
	TESTQ	DI, DI; \
	JEQ	made; \
	MOVQ	AX, 0(DI); \
	JMP	made; \
cpu: \
	MOVL	const_answerCPU(AX)(DX*1), R9; \
	SUBL	$1, R9; \
	JCS	ask; \
	TESTL	R9, R9; \
	JPL	fixed; \
	ANDL	$0x7fffffff, R9; \
	RDTSCP; \
	ANDL	$0xfff, CX; \
	CMPL	CX, R9; \
	JHI	ask; \
	MOVL	CX, R9; \
fixed: \
	TESTQ	DI, DI; \
	JEQ	node; \
	PLACE(DI, 4); \
	MOVL	R9, 0(DI); \
node: \
	TESTQ	SI, SI; \
	JEQ	store; \
	PLACE(SI, 4); \
	MOVL	$0, 0(SI); \
	JMP	store; \
made: \
	MOVQ	(const_ctxCall+const_callRDX*8)(R11), DX; \
	MOVQ	(const_ctxCall+const_callR8*8)(R11), R8; \
	MOVQ	(const_ctxCall+const_callR9*8)(R11), R9; \
	MOVQ	(const_ctxCall+const_callR10*8)(R11), R10; \
	MOVQ	(const_ctxCall+const_callTail*8)(R11), CX; \
	MOVQ	AX, R11; \
	JMP	give; \
yield: \
	MOVQ	(const_ctxCall+const_callRDX*8)(R11), DX; \
	MOVL	CX, AX; \
	SYSCALL; \
	RDGSBASEQ	CX; \
	MOVQ	(const_ctxCall+const_callTail*8)(CX), CX; \
	XORL	R11, R11; \
	JMP	give; \
ask: \
	MOVQ	(const_ctxCall+const_callRDX*8)(R11), DX; \
	MOVQ	(const_ctxCall+const_callR8*8)(R11), R8; \
	MOVQ	(const_ctxCall+const_callR9*8)(R11), R9; \
	MOVQ	(const_ctxCall+const_callR10*8)(R11), R10; \
	JMP	none

#define SAVE \
	MOVQ	AX, (const_ctxCall+const_callRAX*8)(R15); \
	MOVQ	R8, (const_ctxCall+const_callR8*8)(R15); \
	MOVQ	R9, (const_ctxCall+const_callR9*8)(R15); \
	MOVQ	R10, (const_ctxCall+const_callR10*8)(R15); \
	MOVQ	R12, (const_ctxCall+const_callR12*8)(R15); \
	MOVQ	R13, (const_ctxCall+const_callR13*8)(R15); \
	MOVQ	R14, (const_ctxCall+const_callR14*8)(R15); \
	MOVQ	DI, (const_ctxCall+const_callRDI*8)(R15); \
	MOVQ	SI, (const_ctxCall+const_callRSI*8)(R15); \
	MOVQ	BP, (const_ctxCall+const_callRBP*8)(R15); \
	MOVQ	BX, (const_ctxCall+const_callRBX*8)(R15); \
	MOVQ	DX, (const_ctxCall+const_callRDX*8)(R15); \
	RDFSBASEQ	AX; \
	MOVQ	AX, (const_ctxCall+const_callFS*8)(R15); \
	MOVQ	SP, const_ctxSP(R15); \
	MOVL	$const_kindCall, R13; \
	GOTO(const_postAddr)

// stubEntry is where a trampoline that sets the flags hands a system call over:
// RCX is the place behind its syscall instruction.
TEXT ·stubEntry(SB),NOSPLIT|NOFRAME,$0
	FIND
	MOVQ	AX, (const_ctxCall+const_callRAX*8)(R11)
	MOVQ	CX, (const_ctxCall+const_callTail*8)(R11)
	CMPQ	AX, $const_answerNumbers
	JCC	full
	MOVL	AX, CX
	ANSWER
give:
	MOVLQSX	7(CX), AX
	LEAQ	5(CX)(AX*1), CX
	MOVQ	$const_answerAddr, AX
	JMP	AX
	CLOCKS
none:
	RDGSBASEQ	R11
	MOVQ	(const_ctxCall+const_callRAX*8)(R11), AX
	MOVQ	(const_ctxCall+const_callTail*8)(R11), CX
full:
	ENTER
	PUSHFQ
	POPQ	R11
	TESTL	$0x4000, R11		// NT, with which iretq faults
	JNE	back
	MOVQ	R11, (const_ctxCall+const_callEflags*8)(R15)
	MOVQ	CX, (const_ctxCall+const_callTail*8)(R15)
	// There: cmp $imm32, %rax (6 bytes); jmp rel32 (5 bytes).
	MOVLQSX	7(CX), R11
	LEAQ	5(CX)(R11*1), R11
	MOVQ	R11, (const_ctxCall+const_callRIP*8)(R15)
	SAVE
back:
	MOVQ	(const_ctxCall+const_callRSP*8)(R15), SP
	MOVQ	(const_ctxCall+const_callR15*8)(R15), R15
trap:
	SUBQ	$2, CX			// the syscall instruction itself
	JMP	CX
	PIECE_END

// stubPlainEntry is for other trampolines: RAX is the number, R11 the place behind
// the syscall instruction, and the flags are the application's. The slot is found
// without changing them: RCX is zero where the base of GS is one.
TEXT ·stubPlainEntry(SB),NOSPLIT|NOFRAME,$0
	RDGSBASEQ	CX
	RORXQ	$const_slotsShift, CX, CX
	MOVL	CX, CX
	LEAQ	-const_slotsPrefix(CX), CX
	JCXZQ	own
	LEAQ	-2(R11), CX
	JMP	CX			// the syscall instruction itself
own:
	RDGSBASEQ	CX
	MOVQ	R11, (const_ctxCall+const_callTail*8)(CX)
	MOVQ	AX, (const_ctxCall+const_callRAX*8)(CX)
	MOVQ	CX, R11
	MOVQ	AX, CX
	SETOS	AX
	LAHF
	MOVQ	AX, (const_ctxCall+const_callFlags*8)(R11)
	CMPQ	CX, $const_answerNumbers
	JCC	full
	ANSWER
give:
	MOVQ	$const_plainAnswerAddr, AX
	JMP	AX
	CLOCKS
none:
	RDGSBASEQ	R11
	MOVQ	(const_ctxCall+const_callFlags*8)(R11), AX
full:
	ENTER
	ADDB	$0x7f, AX
	SAHF
	PUSHFQ
	POPQ	R11
	TESTL	$0x4000, R11		// NT
	JNE	back
	MOVQ	R11, (const_ctxCall+const_callEflags*8)(R15)
	MOVQ	(const_ctxCall+const_callTail*8)(R15), CX
	MOVQ	CX, (const_ctxCall+const_callRIP*8)(R15)
	MOVQ	(const_ctxCall+const_callRAX*8)(R15), AX
	SAVE
back:
	MOVQ	(const_ctxCall+const_callRSP*8)(R15), SP
	MOVQ	(const_ctxCall+const_callR15*8)(R15), R15
	MOVQ	$const_plainUndoAddr, AX
	JMP	AX
	PIECE_END

// stubAnswer gives an answer, which is in R11. CX is the place of the cmp in the
// program. An interruption makes the call one that hasn't begun, at any
// instruction here; an earlier one has the Sentry answer.
TEXT ·stubAnswer(SB),NOSPLIT|NOFRAME,$0
	RDGSBASEQ	AX
	CMPL	const_ctxInterrupt(AX), $0
	JNE	undo
	MOVQ	R11, AX
	MOVL	$0x202, R11
	BYTE	$0x65; BYTE $0xff; BYTE $0x24; BYTE $0x25	// JMP *GS:
	LONG	$const_ctxCall+const_callTail*8
undo:
	MOVQ	$const_answerUndoAddr, AX
	JMP	AX
	PIECE_END

// stubPlainAnswer is the same for the other trampolines. CX is the place behind
// the syscall instruction.
TEXT ·stubPlainAnswer(SB),NOSPLIT|NOFRAME,$0
	RDGSBASEQ	AX
	CMPL	const_ctxInterrupt(AX), $0
	JNE	undo
	MOVQ	(const_ctxCall+const_callFlags*8)(AX), AX
	ADDB	$0x7f, AX
	SAHF
	MOVQ	R11, AX
	MOVL	$0x202, R11
	JMP	CX
undo:
	MOVQ	$const_plainUndoAddr, AX
	JMP	AX
	PIECE_END

// stubAnswerUndo and stubPlainUndo make the call by its instruction.
TEXT ·stubAnswerUndo(SB),NOSPLIT|NOFRAME,$0
	RDGSBASEQ	AX
	MOVQ	(const_ctxCall+const_callTail*8)(AX), CX
	MOVQ	(const_ctxCall+const_callRAX*8)(AX), AX
	SUBQ	$2, CX
	JMP	CX
	PIECE_END

TEXT ·stubPlainUndo(SB),NOSPLIT|NOFRAME,$0
	RDGSBASEQ	R11
	MOVQ	(const_ctxCall+const_callTail*8)(R11), CX
	MOVQ	(const_ctxCall+const_callFlags*8)(R11), AX
	ADDB	$0x7f, AX
	SAHF
	MOVQ	(const_ctxCall+const_callRAX*8)(R11), AX
	LEAQ	-2(CX), CX
	JMP	CX
	PIECE_END

// func pieceAddrs(p *[12]uintptr)
TEXT ·pieceAddrs(SB),NOSPLIT,$0-8
	MOVQ	p+0(FP), DI
	LEAQ	·stubChild(SB), AX
	MOVQ	AX, 0(DI)
	LEAQ	·stubStart(SB), AX
	MOVQ	AX, 8(DI)
	LEAQ	·stubPost(SB), AX
	MOVQ	AX, 16(DI)
	LEAQ	·stubResume(SB), AX
	MOVQ	AX, 24(DI)
	LEAQ	·stubInterrupted(SB), AX
	MOVQ	AX, 32(DI)
	LEAQ	·stubHandler(SB), AX
	MOVQ	AX, 40(DI)
	LEAQ	·stubEntry(SB), AX
	MOVQ	AX, 48(DI)
	LEAQ	·stubPlainEntry(SB), AX
	MOVQ	AX, 56(DI)
	LEAQ	·stubAnswer(SB), AX
	MOVQ	AX, 64(DI)
	LEAQ	·stubPlainAnswer(SB), AX
	MOVQ	AX, 72(DI)
	LEAQ	·stubAnswerUndo(SB), AX
	MOVQ	AX, 80(DI)
	LEAQ	·stubPlainUndo(SB), AX
	MOVQ	AX, 88(DI)
	RET

// func spin(word *uint32, want uint32, n int) bool
TEXT ·spin(SB),NOSPLIT,$0-25
	MOVQ	word+0(FP), DI
	MOVL	want+8(FP), AX
	MOVQ	n+16(FP), CX
look:
	CMPL	0(DI), AX
	JEQ	yes
	SUBQ	$1, CX
	JLT	no
	PAUSE
	JMP	look
yes:
	MOVB	$1, ret+24(FP)
	RET
no:
	MOVB	$0, ret+24(FP)
	RET

// func processorID() uint32
TEXT ·processorID(SB),NOSPLIT,$0-4
	RDTSCP
	MOVL	CX, ret+0(FP)
	RET

// func threadBase() uintptr
TEXT ·threadBase(SB),NOSPLIT,$0-8
	RDFSBASEQ	AX
	MOVQ	AX, ret+0(FP)
	RET
