package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/arch"
	"vitrine/pkg/sentry/signals"
)

// Filters of system calls that applications put on themselves (seccomp(2)), or
// that a container starts with.

// BPF is an instruction of a filter: struct sock_filter.
type BPF struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// Modes of seccomp, as /proc/PID/status shows them.
const (
	SeccompOff    = 0
	SeccompStrict = 1
	SeccompFilter = 2
)

// What filters answer with (seccomp(2)): an action, and data in the low bits.
// KillProcess and Log are younger than 4.4; newer programs ask for them.
const (
	seccompKillProcess = 0x80000000
	seccompKillThread  = 0x00000000
	seccompTrap        = 0x00030000
	seccompErrno       = 0x00050000
	seccompTrace       = 0x7ff00000
	seccompLog         = 0x7ffc0000
	seccompAllow       = 0x7fff0000
	seccompAction      = 0xffff0000
	seccompData        = 0x0000ffff
)

const (
	auditArchX8664 = 0xc000003e
	// maxBPF is BPF_MAXINSNS; maxBPFChain bounds all filters of a task, each
	// with four instructions more.
	maxBPF      = 4096
	maxBPFChain = 32768
	dataSize    = 64 // of struct seccomp_data
	maxErrno    = 4095
)

// filter is a program and those installed before it. Immutable.
type filter struct {
	program []BPF
	before  *filter
	total   int
}

// seccompState is a task's: a pointer to it is replaced as a whole.
type seccompState struct {
	mode    int
	filters *filter
}

// Instructions of classic BPF (Documentation/networking/filter.txt).
const (
	bpfLd, bpfLdx, bpfSt, bpfStx, bpfAlu, bpfJmp, bpfRet, bpfMisc = 0, 1, 2, 3, 4, 5, 6, 7

	bpfImm, bpfAbs, bpfMem, bpfLen = 0x00, 0x20, 0x60, 0x80

	bpfAdd, bpfSub, bpfMul, bpfDiv, bpfOr, bpfAnd = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50
	bpfLsh, bpfRsh, bpfNeg, bpfXor                = 0x60, 0x70, 0x80, 0xa0

	bpfJa, bpfJeq, bpfJgt, bpfJge, bpfJset = 0x00, 0x10, 0x20, 0x30, 0x40

	bpfX, bpfA = 0x08, 0x10
	bpfTxa     = 0x80
)

// checkFilter refuses programs that seccomp(2) doesn't take (EINVAL): unknown
// instructions, jumps out of the program, loads that aren't of whole words of
// the data, division by zero, scratch memory that is read before it is written,
// and an end without an answer. Such a program ends, for it only jumps forward.
func checkFilter(p []BPF) error {
	if len(p) == 0 || len(p) > maxBPF {
		return unix.EINVAL
	}
	// written[i] are the words of scratch memory that are surely written
	// before instruction i.
	written := make([]uint16, len(p))
	for i := range written {
		written[i] = 0xffff
	}
	known := uint16(0)
	for i, in := range p {
		known &= written[i]
		flow := func(n uint32) bool {
			if uint64(n) >= uint64(len(p)-i-1) {
				return false
			}
			written[i+1+int(n)] &= known
			return true
		}
		ok := true
		switch in.Code {
		case bpfLd | bpfAbs:
			ok = in.K < dataSize && in.K&3 == 0
		case bpfLd | bpfLen, bpfLdx | bpfLen, bpfLd | bpfImm, bpfLdx | bpfImm, bpfMisc, bpfMisc | bpfTxa, bpfAlu | bpfNeg,
			bpfAlu | bpfAdd, bpfAlu | bpfAdd | bpfX, bpfAlu | bpfSub, bpfAlu | bpfSub | bpfX, bpfAlu | bpfMul, bpfAlu | bpfMul | bpfX,
			bpfAlu | bpfDiv | bpfX, bpfAlu | bpfAnd, bpfAlu | bpfAnd | bpfX, bpfAlu | bpfOr, bpfAlu | bpfOr | bpfX,
			bpfAlu | bpfXor, bpfAlu | bpfXor | bpfX, bpfAlu | bpfLsh | bpfX, bpfAlu | bpfRsh | bpfX:
		case bpfAlu | bpfLsh, bpfAlu | bpfRsh:
			ok = in.K < 32
		case bpfAlu | bpfDiv:
			ok = in.K != 0
		case bpfLd | bpfMem, bpfLdx | bpfMem:
			ok = in.K < 16 && known&(1<<in.K) != 0
		case bpfSt, bpfStx:
			if ok = in.K < 16; ok {
				known |= 1 << in.K
			}
		case bpfRet, bpfRet | bpfA:
			known = 0xffff
		case bpfJmp | bpfJa:
			ok = flow(in.K)
			known = 0xffff
		case bpfJmp | bpfJeq, bpfJmp | bpfJeq | bpfX, bpfJmp | bpfJgt, bpfJmp | bpfJgt | bpfX,
			bpfJmp | bpfJge, bpfJmp | bpfJge | bpfX, bpfJmp | bpfJset, bpfJmp | bpfJset | bpfX:
			ok = flow(uint32(in.JT)) && flow(uint32(in.JF))
			known = 0xffff
		default:
			ok = false
		}
		if !ok {
			return unix.EINVAL
		}
	}
	if p[len(p)-1].Code&^bpfA != bpfRet {
		return unix.EINVAL
	}
	return nil
}

// run returns what a checked program answers to data.
func (f *filter) run(data *[dataSize]byte) uint32 {
	var a, x uint32
	var mem [16]uint32
	p := f.program
	for i := 0; i < len(p); i++ {
		in := &p[i]
		operand := in.K
		if class := in.Code & 7; (class == bpfAlu || class == bpfJmp) && in.Code&bpfX != 0 {
			operand = x
		}
		switch in.Code &^ bpfX {
		case bpfLd | bpfAbs:
			a = binary.LittleEndian.Uint32(data[in.K:])
		case bpfLd | bpfLen:
			a = dataSize
		case bpfLdx | bpfLen:
			x = dataSize
		case bpfLd | bpfImm:
			a = in.K
		case bpfLdx | bpfImm:
			x = in.K
		case bpfLd | bpfMem:
			a = mem[in.K]
		case bpfLdx | bpfMem:
			x = mem[in.K]
		case bpfSt:
			mem[in.K] = a
		case bpfStx:
			mem[in.K] = x
		case bpfMisc:
			x = a
		case bpfMisc | bpfTxa:
			a = x
		case bpfRet:
			return in.K
		case bpfRet | bpfA:
			return a
		case bpfAlu | bpfAdd:
			a += operand
		case bpfAlu | bpfSub:
			a -= operand
		case bpfAlu | bpfMul:
			a *= operand
		case bpfAlu | bpfDiv:
			if operand == 0 {
				return seccompKillThread
			}
			a /= operand
		case bpfAlu | bpfOr:
			a |= operand
		case bpfAlu | bpfAnd:
			a &= operand
		case bpfAlu | bpfXor:
			a ^= operand
		case bpfAlu | bpfLsh:
			a <<= operand & 31
		case bpfAlu | bpfRsh:
			a >>= operand & 31
		case bpfAlu | bpfNeg:
			a = -a
		case bpfJmp | bpfJa:
			i += int(in.K)
		default:
			var yes bool
			switch in.Code &^ bpfX {
			case bpfJmp | bpfJeq:
				yes = a == operand
			case bpfJmp | bpfJgt:
				yes = a > operand
			case bpfJmp | bpfJge:
				yes = a >= operand
			case bpfJmp | bpfJset:
				yes = a&operand != 0
			}
			if yes {
				i += int(in.JT)
			} else {
				i += int(in.JF)
			}
		}
	}
	return seccompKillThread
}

// SeccompMode returns the mode of any task.
func (t *Task) SeccompMode() int {
	if s := t.filters.Load(); s != nil {
		return s.mode
	}
	return SeccompOff
}

// SeccompFilters returns how many filters there are.
func (t *Task) SeccompFilters() (n int) {
	if s := t.filters.Load(); s != nil {
		for f := s.filters; f != nil; f = f.before {
			n++
		}
	}
	return n
}

// SetSeccompStrict leaves the task read, write, exit and sigreturn.
func (t *Task) SetSeccompStrict() error {
	if t.SeccompMode() == SeccompFilter {
		return unix.EINVAL
	}
	t.setSeccomp(&seccompState{mode: SeccompStrict})
	return nil
}

func (t *Task) setSeccomp(s *seccompState) {
	t.filters.Store(s)
	if s != nil {
		t.setHooks(0, hookSeccomp)
	}
}

// InstallFilter adds a filter to a task, which is the caller or hasn't started:
// EINVAL for a program that isn't one, ENOMEM where there are too many. Whether
// the task may do so is for the caller to check.
func (t *Task) InstallFilter(program []BPF) error {
	s, err := t.withFilter(program)
	if err == nil {
		t.setSeccomp(s)
	}
	return err
}

func (t *Task) withFilter(program []BPF) (*seccompState, error) {
	if err := checkFilter(program); err != nil {
		return nil, err
	}
	old := t.filters.Load()
	f := &filter{program: program, total: len(program)}
	if old != nil {
		if old.mode == SeccompStrict {
			return nil, unix.EINVAL
		}
		f.before = old.filters
	}
	for b := f.before; b != nil; b = b.before {
		f.total += len(b.program) + 4
	}
	if f.total > maxBPFChain {
		return nil, unix.ENOMEM
	}
	return &seccompState{mode: SeccompFilter, filters: f}, nil
}

// descends reports whether s is one of those that n was built on.
func (n *seccompState) descends(s *seccompState) bool {
	if s == nil {
		return true
	}
	if s.mode != SeccompFilter {
		return false
	}
	for f := n.filters; f != nil; f = f.before {
		if f == s.filters {
			return true
		}
	}
	return false
}

// InstallFilterAll is InstallFilter with SECCOMP_FILTER_FLAG_TSYNC: for all
// threads of the process. It returns the number of a thread that has gone its
// own way, if there is one, and installs nothing then.
func (t *Task) InstallFilterAll(program []BPF) (int32, error) {
	s, err := t.withFilter(program)
	if err != nil {
		return 0, err
	}
	t.k.tree.Lock() // no thread is made meanwhile
	defer t.k.tree.Unlock()
	for _, o := range t.tg.tasks {
		if o != t && !s.descends(o.filters.Load()) {
			return o.ids.in(t.ids.ns), nil
		}
	}
	noNew := t.Credentials().NoNewPrivs
	for _, o := range t.tg.tasks {
		if c := o.creds.Load(); o != t && noNew && !c.NoNewPrivs {
			// The task itself may put others in place at this moment.
			for !c.NoNewPrivs {
				n := c.Fork()
				n.NoNewPrivs = true
				if o.creds.CompareAndSwap(c, n) {
					break
				}
				c = o.creds.Load()
			}
		}
		o.setSeccomp(s)
	}
	return 0, nil
}

// severity orders actions: the lower wins.
func severity(answer uint32) int32 { return int32(answer & seccompAction) }

// seccompCheck asks the task's filters about the system call in its registers.
// It reports whether the call is to be made; if not, the registers have the
// result.
func (t *Task) seccompCheck() bool {
	s := t.filters.Load()
	if s == nil {
		return true
	}
	r := &t.state.Regs
	if s.mode == SeccompStrict {
		switch r.SyscallNo() {
		case unix.SYS_READ, unix.SYS_WRITE, unix.SYS_EXIT, unix.SYS_RT_SIGRETURN:
			return true
		}
		t.tg.Kill(ExitStatus{Signal: sigKill})
		return false
	}
	args := r.SyscallArgs()
	data := seccompInput(r, args)
	answer := uint32(seccompAllow)
	for f := s.filters; f != nil; f = f.before {
		if a := f.run(&data); severity(a) < severity(answer) {
			answer = a
		}
	}
	return t.seccompAct(answer)
}

// seccompInput encodes struct seccomp_data.
func seccompInput(r *arch.Registers, args arch.SyscallArgs) (d [dataSize]byte) {
	le := binary.LittleEndian
	le.PutUint32(d[0:], uint32(r.SyscallNo()))
	le.PutUint32(d[4:], auditArchX8664)
	le.PutUint64(d[8:], r.Rip)
	for i, a := range args {
		le.PutUint64(d[16+8*i:], a)
	}
	return d
}

func (t *Task) seccompAct(answer uint32) bool {
	r := &t.state.Regs
	data := answer & seccompData
	switch answer & seccompAction {
	case seccompAllow:
		return true
	case seccompLog:
		t.k.Logf("seccomp: task %d (%s) makes system call %d", t.ids.num[0], t.Name(), r.SyscallNo())
		return true
	case seccompErrno:
		r.SetReturn(failure(unix.Errno(min(data, maxErrno))))
	case seccompTrap:
		// The call looks as if it hadn't been made: rax has its number.
		info := signals.Info{Signo: int32(unix.SIGSYS), Errno: int32(data), Code: signals.SysSeccomp}
		info.SetSyscall(r.Rip, int32(r.SyscallNo()), auditArchX8664)
		r.SetReturn(r.SyscallNo())
		t.ForceSignal(&info)
	case seccompTrace:
		if !t.traceEvent(TraceSeccomp, eventSeccomp, uint64(data), false) {
			r.SetReturn(failure(unix.ENOSYS))
			return false
		}
		// The tracer may have put another call in place, or none.
		return int64(r.OrigRax) >= 0 && !t.dying()
	case seccompKillThread:
		if !t.onlyThread() {
			t.leaving = true
			t.exitCode = ExitStatus{Signal: signals.Signal(unix.SIGSYS)}
			t.work.Store(true)
			return false
		}
		fallthrough
	default: // kill the process
		t.leaving = true
		t.tg.Kill(ExitStatus{Signal: signals.Signal(unix.SIGSYS)})
	}
	return false
}

// onlyThread reports whether t is the only thread that lives.
func (t *Task) onlyThread() bool {
	g := &t.tg.signals
	g.lock()
	defer g.unlock()
	return len(t.tg.liveTasks()) == 1
}
