package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"vitrine/pkg/locks"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls"
)

// log writes lines to the debug log.
type log struct {
	mu    locks.Mutex[locks.Leaf]
	file  *os.File
	debug bool
}

func (l *log) line(s string) {
	if l.file == nil {
		return
	}
	l.mu.Lock()
	l.file.WriteString(s + "\n")
	l.mu.Unlock()
}

func (l *log) debugf(format string, args ...any) {
	if l.debug && l.file != nil {
		l.line(fmt.Sprintf(format, args...))
	}
}

// tracer logs system calls as strace(1) does.
type tracer struct {
	table *syscalls.Table
	log   *log
}

func who(t *kernel.Task) string {
	return "[" + strconv.Itoa(int(t.TID(t.PIDNamespace()))) + " " + t.Name() + "] "
}

// Enter implements kernel.Tracer.
func (tr *tracer) Enter(t *kernel.Task, no uint64) {
	tr.log.line(who(t) + "E " + tr.format(t, no))
}

func (tr *tracer) format(t *kernel.Task, no uint64) string {
	row := tr.table.Lookup(no)
	if row == nil {
		return "syscall_" + strconv.FormatUint(no, 10)
	}
	args := t.State().Regs.SyscallArgs()
	return row.Name + "(" + strings.Join(row.Format(t, &args), ", ") + ")"
}

// Exit implements kernel.Tracer.
func (tr *tracer) Exit(t *kernel.Task, no uint64, ret uint64, err error) {
	name := "syscall_" + strconv.FormatUint(no, 10)
	if row := tr.table.Lookup(no); row != nil {
		name = row.Name
	}
	s := who(t) + "X " + name + " = "
	if err != nil {
		tr.log.line(s + "-1 " + err.Error())
		return
	}
	if int64(ret) < 0 || ret > 1<<31 {
		tr.log.line(s + "0x" + strconv.FormatUint(ret, 16))
		return
	}
	tr.log.line(s + strconv.FormatUint(ret, 10))
}

// Signal implements kernel.Tracer.
func (tr *tracer) Signal(t *kernel.Task, signo int32, what string) {
	tr.log.line(who(t) + "--- signal " + strconv.Itoa(int(signo)) + " " + what + " ---")
}

// Exec implements kernel.Tracer.
func (tr *tracer) Exec(t *kernel.Task, path string) {
	tr.log.line(who(t) + "--- exec " + strconv.Quote(path) + " ---")
}

// ExitTask implements kernel.Tracer.
func (tr *tracer) ExitTask(t *kernel.Task, st kernel.ExitStatus) {
	tr.log.line(who(t) + "+++ exited with " + strconv.Itoa(int(st.Code)) + " signal " + strconv.Itoa(int(st.Signal)) + " +++")
}
