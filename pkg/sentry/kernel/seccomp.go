package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/memfile"
	"vitrine/pkg/sentry/signals"
)

// What the filters of package callfilter, and the strict mode of seccomp(2), do
// to a task.

// Modes of seccomp, as /proc/PID/status shows them.
const (
	SeccompOff    = 0
	SeccompStrict = 1
	SeccompFilter = 2
)

const maxErrno = 4095

// What a filter is charged as, in bytes.
const (
	filterCost      = 256
	instructionCost = 8
)

// seccompState is a task's: a pointer to it is replaced as a whole.
type seccompState struct {
	mode    int
	filters *callfilter.Chain
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
		n = s.filters.Len()
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
func (t *Task) InstallFilter(program []callfilter.Instruction) error {
	s, err := t.withFilter(program)
	if err == nil {
		t.setSeccomp(s)
	}
	return err
}

func (t *Task) withFilter(program []callfilter.Instruction) (*seccompState, error) {
	var before *callfilter.Chain
	if old := t.filters.Load(); old != nil {
		if old.mode == SeccompStrict {
			return nil, unix.EINVAL
		}
		before = old.filters
	}
	f, err := before.Add(program)
	if err != nil {
		return nil, err
	}
	if err := memfile.ChargeFor(t.Credentials().Account, f, filterCost+int64(len(program))*instructionCost); err != nil {
		return nil, err
	}
	return &seccompState{mode: SeccompFilter, filters: f}, nil
}

// descends reports whether s is one of those that n was built on.
func (n *seccompState) descends(s *seccompState) bool {
	return s == nil || s.mode == SeccompFilter && n.filters.Descends(s.filters)
}

// InstallFilterAll is InstallFilter with SECCOMP_FILTER_FLAG_TSYNC: for all
// threads of the process. It returns the number of a thread that has gone its
// own way, if there is one, and installs nothing then.
func (t *Task) InstallFilterAll(program []callfilter.Instruction) (int32, error) {
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
	if s.filters.Allows(r.SyscallNo()) {
		return true
	}
	data := callfilter.DataOf(r)
	return t.seccompAct(s.filters.Ask(&data))
}

func (t *Task) seccompAct(answer uint32) bool {
	r := &t.state.Regs
	data := answer & callfilter.DataMask
	switch answer & callfilter.ActionMask {
	case callfilter.Allow:
		return true
	case callfilter.Log:
		t.k.Logf("seccomp: task %d (%s) makes system call %d", t.ids.num[0], t.Name(), r.SyscallNo())
		return true
	case callfilter.Errno:
		r.SetReturn(failure(unix.Errno(min(data, maxErrno))))
	case callfilter.Trap:
		// The call looks as if it hadn't been made: rax has its number.
		info := signals.Info{Signo: int32(unix.SIGSYS), Errno: int32(data), Code: signals.SysSeccomp}
		info.SetSyscall(r.Rip, int32(r.SyscallNo()), callfilter.AuditArch)
		r.SetReturn(r.SyscallNo())
		t.ForceSignal(&info)
	case callfilter.Trace:
		if !t.traceEvent(TraceSeccomp, eventSeccomp, uint64(data), false) {
			r.SetReturn(failure(unix.ENOSYS))
			return false
		}
		// The tracer may have put another call in place, or none.
		return int64(r.OrigRax) >= 0 && !t.dying()
	case callfilter.KillThread:
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
