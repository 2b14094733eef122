package kernel

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/callfilter"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/tracing"
)

// What the filters of package callfilter, and the strict mode of seccomp(2), do
// to a task.

const maxErrno = 4095

// Seccomp returns which system calls a task, any task, may make.
func (t *Task) Seccomp() *callfilter.State { return t.filters.Load() }

// SetSeccompStrict leaves the task read, write, exit and sigreturn.
func (t *Task) SetSeccompStrict() error {
	s, err := t.Seccomp().Strict()
	if err == nil {
		t.setSeccomp(s)
	}
	return err
}

func (t *Task) setSeccomp(s *callfilter.State) {
	t.filters.Store(s)
	t.setHooks(0, hookSeccomp)
}

// InstallFilter adds a filter to a task, which is the caller or hasn't started:
// EINVAL for a program that isn't one, ENOMEM where there are too many. Whether
// the task may do so is for the caller to check.
func (t *Task) InstallFilter(program []callfilter.Instruction) error {
	s, err := t.Seccomp().Add(program, t.Credentials().Account)
	if err == nil {
		t.setSeccomp(s)
	}
	return err
}

// InstallFilterAll is InstallFilter with SECCOMP_FILTER_FLAG_TSYNC: for all
// threads of the process. It returns the number of a thread that has gone its
// own way, if there is one, and installs nothing then.
func (t *Task) InstallFilterAll(program []callfilter.Instruction) (int32, error) {
	s, err := t.Seccomp().Add(program, t.Credentials().Account)
	if err != nil {
		return 0, err
	}
	t.k.tree.Lock() // no thread is made meanwhile
	defer t.k.tree.Unlock()
	for _, o := range t.tg.tasks {
		if o != t && !s.Descends(o.Seccomp()) {
			return o.ids.In(t.ids.NS), nil
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
	s, r := t.Seccomp(), &t.state.Regs
	if s.Refuses(r.SyscallNo()) {
		t.tg.Kill(ExitStatus{Signal: sigKill})
		return false
	}
	return t.seccompAct(s.Ask(r))
}

func (t *Task) seccompAct(answer uint32) bool {
	r := &t.state.Regs
	data := answer & callfilter.DataMask
	switch answer & callfilter.ActionMask {
	case callfilter.Allow:
		return true
	case callfilter.Log:
		t.k.Logf("seccomp: task %d (%s) makes system call %d", t.ids.Root(), t.Name(), r.SyscallNo())
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
		if !t.traceEvent(tracing.Seccomp, uint64(data), false) {
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
