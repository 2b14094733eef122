// Package syscalls has the table of system calls. The calls themselves are in
// the packages below it, by what they are about: files, events, memory,
// processes, sockets, sysv, clocks; what those share is package call. A handler
// decodes, calls an object that knows the rules, and encodes; it never panics on
// what an application does.
//
// The table is data: a row for each number with the name, the typed handler, how
// much of Linux's behaviour is there, and a note. Dispatch, the strace-style log
// and the compatibility list all come from it. A number without a handler is
// ENOSYS and is logged once for each sandbox.
package syscalls

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/syscalls/clocks"
	"vitrine/pkg/sentry/syscalls/events"
	"vitrine/pkg/sentry/syscalls/files"
	"vitrine/pkg/sentry/syscalls/memory"
	"vitrine/pkg/sentry/syscalls/processes"
	"vitrine/pkg/sentry/syscalls/sockets"
	"vitrine/pkg/sentry/syscalls/sysv"
)

// Table is all system calls, by number.
type Table struct {
	rows []call.Row
	// told remembers which missing calls were logged.
	told []atomic.Bool
}

// NewTable returns the table for Linux 4.4 on x86-64.
func NewTable() *Table {
	t := &Table{rows: make([]call.Row, maxNumber+1), told: make([]atomic.Bool, maxNumber+1)}
	for i := range t.rows {
		t.rows[i] = call.Row{Number: uint64(i), Name: nameOf(uint64(i))}
	}
	for _, family := range families {
		for _, r := range family {
			t.rows[r.Number] = r
		}
	}
	return t
}

// Rows lists the table.
func (t *Table) Rows() []call.Row { return t.rows }

// Lookup returns the row of a number, or nil.
func (t *Table) Lookup(no uint64) *call.Row {
	if no >= uint64(len(t.rows)) {
		return nil
	}
	return &t.rows[no]
}

// Call implements kernel.SyscallHandler.
func (t *Table) Call(task *kernel.Task, no uint64) (uint64, error) {
	no = uint64(uint32(no)) // the rest of rax doesn't count
	if no >= uint64(len(t.rows)) || t.rows[no].Handle == nil {
		if no < uint64(len(t.told)) && !t.told[no].Swap(true) {
			task.Kernel().Logf("system call %d (%s) is not implemented", no, t.rows[no].Name)
		}
		return 0, unix.ENOSYS
	}
	return t.rows[no].Handle(task, &task.State().Regs)
}

// row helpers: the number of arguments is in the name, their types in the
// handler's.

// families are the rows, by what the calls are about.
var families = slices.Concat(
	clocks.Rows,
	events.Rows,
	files.Rows,
	memory.Rows,
	processes.Rows,
	sockets.Rows,
	sysv.Rows,
	[][]call.Row{refusedRows},
)
