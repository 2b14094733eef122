package systrap

import "vitrine/pkg/sentry/platform/stub"

// The command page, which only the Sentry writes: the number of the list of
// commands, how many there are, the stub's descriptor of the eventfd that the
// memory thread reports to, the stack_t of the next thread, and the commands.
const (
	cmdNumber = 0
	cmdCount  = 8
	cmdEvent  = 16
	cmdStack  = 24
	cmdList   = 64
	// The answers for each thread, by its slot: see answer.go.
	cmdAnswers = 0x20000

	cmdNumberAddr = stub.CommandAddr + cmdNumber
	cmdCountAddr  = stub.CommandAddr + cmdCount
	cmdEventAddr  = stub.CommandAddr + cmdEvent
	cmdStackAddr  = stub.CommandAddr + cmdStack
	cmdListAddr   = stub.CommandAddr + cmdList
	answersAddr   = stub.CommandAddr + cmdAnswers

	// commandSize is the size of a command: number and six arguments.
	commandSize = 56
	maxCommands = 256
	// spawnCommand as a command's number makes a thread for application code;
	// the first argument is the address of its shared page.
	spawnCommand = -1

	// What the memory thread adds to the eventfd: after each list reportDone,
	// with the errno of the command that failed in the bits from reportErrno
	// on; before that, if one failed, how many were left, that one included, in
	// the bits from reportLeft on. The Sentry itself adds reportLost.
	reportDone  = 1
	reportLeft  = 16
	reportErrno = 32
	reportLost  = 1 << 48
)

// A slot is the memory of one thread for application code: its signal stack,
// and the page that it shares with the Sentry; or four areas for vector state. The
// largest frame, with all of AVX-512, takes 3.6 KiB; up to three are on the stack at
// a time.
const (
	slotSize  = 16384
	stackSize = slotSize - 4096
	maxSlots  = stub.SlotsBytes / slotSize

	// Places in the shared page: see shared. What one side waits for is on a cache
	// line of its own with what goes along with it, and written in one go: that line
	// comes and goes with each look of the other side.
	ctxGo           = 0x00
	ctxSpin         = 0x08
	ctxLoad         = 0x0c
	ctxResult       = 0x10
	ctxArea         = 0x18
	ctxEvent        = 0x40
	ctxStubSleeps   = 0x80
	ctxSentrySleeps = 0xc0
	ctxInterrupt    = 0x100
	ctxTID          = 0x104
	ctxSeen         = 0x108
	ctxSigno        = 0x10c
	ctxFrame        = 0x110
	ctxInfo         = 0x118
	ctxFP           = 0x120
	ctxFSBase       = 0x128
	ctxGSBase       = 0x130
	ctxSP           = 0x138
	ctxSaved        = 0x140
	ctxFrameAt      = 0x150
	ctxRegs         = 0x180
	ctxRegFS        = ctxRegs + 20*8
	ctxRegGS        = ctxRegs + 21*8
	ctxCall         = 0x240
	ctxFPArea       = 0x400

	// fetchAfter is how often a thread looks for an answer before it fetches what it
	// has told back: by then the Sentry has read it, most often.
	fetchAfter = 10

	// Bits of shared.load.
	loadFS = 1
	loadGS = 2
	// loadResult: the thread still has all registers, but for rax and what it
	// has saved in shared.call itself.
	loadResult = 4
	// loadVectors: the vector state at shared.fp.
	loadVectors = 8
	// loadFrame: the same, from a signal frame of the application's, if that is
	// whole.
	loadFrame = 16
	// saveFrame: the vector state is to be saved to a signal frame at
	// shared.frameAt, and is that of the start of a program from then on.
	saveFrame = 32
	// loadArea, with loadVectors: that at shared.area instead.
	loadArea = 64
	// loadJump: the base of GS is the slot's, and the flags are such that the
	// application can be jumped to; iretq takes 0.1 us.
	loadJump = 128

	// To see whether an address is of a slot.
	slotsShift  = 25
	slotsPrefix = stub.SlotsAddr >> slotsShift
)

// Words of shared.call, from ctxCall on: what a call that was handed over without
// a signal leaves there.
const (
	callR8 = iota
	callR9
	callR10
	callR12
	callR13
	callR14
	callR15
	callRDI
	callRSI
	callRBP
	callRBX
	callRDX
	callRAX
	callRSP
	callEflags
	callTail  // where to go on
	callRIP   // what the Sentry sees for that
	callFlags // by lahf and seto, for a trampoline that doesn't set them itself
	callFS
	callWords
)

// What a thread for application code has to say.
const (
	// kindReady: it has started.
	kindReady = 1 + iota
	// kindSignal: a signal; shared.frame and shared.info tell more.
	kindSignal
	// kindInterrupted: the Sentry has interrupted it before it went to the
	// application.
	kindInterrupted
	// kindRefused: the processor doesn't go where the registers say.
	kindRefused
	// kindCall: a system call by way of a trampoline: shared.call.
	kindCall
)

// Where things are in the platform's part of the code area.
const (
	offChild       = 0x000
	offStart       = 0x200
	offPost        = 0x300
	offResume      = 0x480
	offInterrupted = 0x840
	offHandler     = 0x880
	offEntry       = 0x9c0
	offPlainEntry  = 0xec0
	offAnswer      = 0x13c0
	offPlainAnswer = 0x1400
	offAnswerUndo  = 0x1440
	offPlainUndo   = 0x1460
	offNoSignals   = 0x14a0
	offFprog       = 0x14b0
	offFeatures    = 0x14c0
	offFilter      = 0x14e0
	offLeftTable   = 0x1a80
	offErrnoTable  = 0x2380
	offAnswerIndex = 0x2b80
	offNotes       = 0x2cc0
	offInit        = 0x2d00
	offEnd         = 0x2f40

	childAddr       = stub.PlatformCode + offChild
	startAddr       = stub.PlatformCode + offStart
	postAddr        = stub.PlatformCode + offPost
	resumeAddr      = stub.PlatformCode + offResume
	interruptedAddr = stub.PlatformCode + offInterrupted
	handlerAddr     = stub.PlatformCode + offHandler
	answerAddr      = stub.PlatformCode + offAnswer
	plainAnswerAddr = stub.PlatformCode + offPlainAnswer
	answerUndoAddr  = stub.PlatformCode + offAnswerUndo
	plainUndoAddr   = stub.PlatformCode + offPlainUndo
	answerIndexAddr = stub.PlatformCode + offAnswerIndex
	plainEntryAddr  = stub.PlatformCode + offPlainEntry
	entryAddr       = stub.PlatformCode + offEntry
	featuresAddr    = stub.PlatformCode + offFeatures
	noSignalsAddr   = stub.PlatformCode + offNoSignals
	notesAddr       = stub.PlatformCode + offNotes
	initAddr        = stub.PlatformCode + offInit
	fprogAddr       = stub.PlatformCode + offFprog
	filterAddr      = stub.PlatformCode + offFilter
	leftTableAddr   = stub.PlatformCode + offLeftTable
	errnoTableAddr  = stub.PlatformCode + offErrnoTable

	// Threads for application code may make host calls from here on.
	allowedAddr = postAddr
	allowedSize = stub.CodeBase + stub.CodeSize - postAddr

	// Behind the notes of a frame: the size of an image, and the word behind it.
	notesSize  = 48
	notesMagic = 52

	resumeOff  = resumeAddr - stub.CodeBase
	resumeSize = offInterrupted - offResume

	// From where on what is answered in the stub can't be taken for a call any
	// more, counted from resumeOff.
	answerOff  = offAnswer - offResume
	answerSize = offAnswerUndo - offAnswer

	// interruptSignal has a thread leave application code.
	interruptSignal = 23 // SIGURG

	// For the assembly: the first slot's shared page, and where in the last
	// slot a new stub writes its message.
	firstPageAddr = stub.SlotsAddr + stackSize
	messageAddr   = stub.SlotsAddr + stub.SlotsBytes - slotSize

	// The clocks' page, and where what the application can map ends.
	clocksAddr = stub.SharedAddr
	clocksSize = 4096
	userEnd    = stub.UserEnd

	codeBase    = stub.CodeBase
	codeSize    = stub.CodeSize
	threadFlags = stub.ThreadFlags
	socket      = stub.Socket
	replySize   = stub.ReplySize
	pieceEnd    = stub.PieceEnd
)
