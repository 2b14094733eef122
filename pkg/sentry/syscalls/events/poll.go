// Package events has the calls that wait for several files or make a file of
// something else: poll, select, epoll, eventfd, timerfd, signalfd and inotify.
package events

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
	"vitrine/pkg/waiter"
)

// Rows are the rows of this package's calls.
var Rows = [][]call.Row{epollRows, eventfdRows, pollRows}

var pollRows = []call.Row{
	call.Full(unix.SYS_POLL, "poll", call.Args3(poll)),
	call.Full(unix.SYS_PPOLL, "ppoll", call.Args5(ppoll)),
	call.Full(unix.SYS_SELECT, "select", call.Args5(selectCall)),
	call.Full(unix.SYS_PSELECT6, "pselect6", call.Args6(pselect6)),
}

// watch is one file that poll or select asks for.
type watch struct {
	// file is nil for a descriptor that isn't open, or that is skipped.
	file *vfs.File
	on   waiter.Waitable // file, as the task waits for it
	// want is what is asked for. poll(2) tells Err and Hup unasked; select(2)
	// does not, and sets exact.
	want  waiter.Mask
	exact bool
	got   waiter.Mask
	entry waiter.Entry
}

// readiness asks the file.
func (w *watch) readiness() waiter.Mask {
	mask := w.want
	if !w.exact {
		mask |= waiter.Err | waiter.Hup
	}
	return w.on.Readiness(mask) & mask
}

// waitAny waits until one of ws is ready, or until the monotonic time end;
// zero is now. It returns how many are, or EINTR if a signal came before any
// was: what becomes of that is for the caller.
func waitAny(t *kernel.Task, ws []watch, end int64) (int, error) {
	scan := func() (n int) {
		for i := range ws {
			w := &ws[i]
			if w.file != nil {
				w.got = w.readiness()
			}
			if w.got != 0 {
				n++
			}
		}
		return n
	}
	if n := scan(); n > 0 {
		return n, nil
	}
	if end == 0 {
		if t.SignalPending() {
			return 0, unix.EINTR
		}
		return 0, nil
	}
	ready := new(waiter.Token)
	for i := range ws {
		if w := &ws[i]; w.file != nil {
			w.entry.Listener, w.entry.Mask = ready, w.want
			w.on.EventRegister(&w.entry)
			defer w.on.EventUnregister(&w.entry)
		}
	}
	for {
		if n := scan(); n > 0 {
			return n, nil
		}
		switch err := t.BlockUntil(ready, end); err {
		case nil:
		case kernel.ErrTimeout:
			return scan(), nil
		default:
			// What came together with the signal counts.
			if n := scan(); n > 0 {
				return n, nil
			}
			return 0, unix.EINTR
		}
	}
}

// release drops the references of ws.
func release(ws []watch) {
	for i := range ws {
		if ws[i].file != nil {
			ws[i].file.DecRef()
		}
	}
}

// maxWatches bounds what all calls of poll(2) together wait for: arrays of a
// million descriptors, from many threads, must not eat up the Sentry.
const maxWatches = 1 << 21

var watches atomic.Int64

// pollFDs does the work of poll(2) up to the monotonic time end.
func pollFDs(t *kernel.Task, fds usermem.Addr, n uint32, end int64) (uint64, error) {
	if uint64(n) > call.FDLimit(t) {
		return 0, unix.EINVAL
	}
	defer watches.Add(-int64(n))
	if watches.Add(int64(n)) > maxWatches {
		return 0, unix.ENOMEM
	}
	const size = 8 // struct pollfd
	raw := make([]byte, size*int(n))
	if _, err := t.MM().CopyIn(fds, raw); err != nil {
		return 0, err
	}
	ws := make([]watch, n)
	defer release(ws)
	for i := range ws {
		w, p := &ws[i], raw[size*i:]
		w.want = waiter.Mask(call.U16(p[4:]))
		fd := call.FD(call.U32(p))
		if fd < 0 {
			continue
		}
		f, err := fd.IOFile(t)
		if err != nil {
			w.got = waiter.Nval
			continue
		}
		w.file, w.on = f, t.Waitable(f)
	}
	ready, err := waitAny(t, ws, end)
	if err != nil {
		return 0, err
	}
	for i := range ws {
		binary.LittleEndian.PutUint16(raw[size*i+6:], uint16(ws[i].got))
	}
	// Only the results are the kernel's to write; the rest is as it was read,
	// and mustn't undo what another thread stored meanwhile.
	for i := range ws {
		if _, err := t.MM().CopyOut(fds+usermem.Addr(size*i+6), raw[size*i+6:size*i+8]); err != nil {
			return 0, err
		}
	}
	return uint64(ready), nil
}

func poll(t *kernel.Task, fds usermem.Addr, n uint32, timeout int32) (uint64, error) {
	end := kernel.Forever
	switch {
	case timeout == 0:
		end = 0
	case timeout > 0:
		end = call.Deadline(t, int64(timeout)*1_000_000)
	}
	return pollUntil(t, fds, n, end)
}

func pollUntil(t *kernel.Task, fds usermem.Addr, n uint32, end int64) (uint64, error) {
	ready, err := pollFDs(t, fds, n, end)
	if err == unix.EINTR {
		t.SetRestart(func(t *kernel.Task) (uint64, error) { return pollUntil(t, fds, n, end) })
		return 0, kernel.RestartBlock
	}
	return ready, err
}

// masked runs do with the signal mask at set in place, which stays until
// handlers have run if it is interrupted. NULL changes nothing.
func masked(t *kernel.Task, set usermem.Addr, size call.Size, do func() (uint64, error)) (uint64, error) {
	if set == 0 {
		return do()
	}
	m, err := call.ReadSignalSet(t, set, size)
	if err != nil {
		return 0, err
	}
	t.WithMask(m &^ signals.Unblockable)
	n, err := do()
	if err != unix.EINTR && err != kernel.RestartNoHand {
		t.RestoreMask()
	}
	return n, err
}

func ppoll(t *kernel.Task, fds usermem.Addr, n uint32, timeout, set usermem.Addr, size call.Size) (uint64, error) {
	limit, err := call.SpecLimit(t, timeout)
	if err != nil {
		return 0, err
	}
	return masked(t, set, size, func() (uint64, error) {
		ready, err := pollFDs(t, fds, n, limit.End)
		return ready, limit.Finish(t, err)
	})
}

// What select(2) calls readable, writable and exceptional.
const (
	selectRead   = waiter.Readable | waiter.RdBand | waiter.Hup | waiter.Err
	selectWrite  = waiter.Writable | waiter.WrBand | waiter.Err
	selectExcept = waiter.Pri
)

// minTable is how many descriptors select looks at where the table is smaller,
// as a Linux process has it whose parents had some open.
const minTable = 256

// fdSets are the three sets of select(2), nil where not given.
type fdSets struct {
	addr [3]usermem.Addr
	bits [3][]byte
}

func readSets(t *kernel.Task, n int, addrs [3]usermem.Addr) (*fdSets, error) {
	s := &fdSets{addr: addrs}
	for i, a := range addrs {
		if a == 0 {
			continue
		}
		s.bits[i] = make([]byte, (n+63)/64*8)
		if _, err := t.MM().CopyIn(a, s.bits[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

var selectMasks = [3]waiter.Mask{selectRead, selectWrite, selectExcept}

// wants returns what the sets ask of fd.
func (s *fdSets) wants(fd int) (m waiter.Mask) {
	for i, b := range s.bits {
		if b != nil && b[fd/8]>>(fd%8)&1 != 0 {
			m |= selectMasks[i]
		}
	}
	return m
}

// result leaves those of fd's bits set that got answers, and returns how many.
func (s *fdSets) result(fd int, got waiter.Mask) (n uint64) {
	for i, b := range s.bits {
		if b == nil || b[fd/8]>>(fd%8)&1 == 0 {
			continue
		}
		if got&selectMasks[i] != 0 {
			n++
		} else {
			b[fd/8] &^= 1 << (fd % 8)
		}
	}
	return n
}

func selectFDs(t *kernel.Task, n int32, addrs [3]usermem.Addr, end int64) (uint64, error) {
	if n < 0 {
		return 0, unix.EINVAL
	}
	count := min(int(n), max(t.FDs().Size(), minTable))
	sets, err := readSets(t, count, addrs)
	if err != nil {
		return 0, err
	}
	var ws []watch
	var fds []int
	defer func() { release(ws) }()
	for fd := range count {
		want := sets.wants(fd)
		if want == 0 {
			continue
		}
		f, err := call.FD(fd).IOFile(t)
		if err != nil {
			return 0, unix.EBADF
		}
		ws = append(ws, watch{file: f, on: t.Waitable(f), want: want, exact: true})
		fds = append(fds, fd)
	}
	if _, err := waitAny(t, ws, end); err != nil {
		return 0, err
	}
	var ready uint64
	for i, fd := range fds {
		ready += sets.result(fd, ws[i].got)
	}
	// Bits beyond count in the last word are cleared, as Linux does.
	for i, b := range sets.bits {
		if b == nil {
			continue
		}
		for fd := count; fd < 8*len(b); fd++ {
			b[fd/8] &^= 1 << (fd % 8)
		}
		if _, err := t.MM().CopyOut(sets.addr[i], b); err != nil {
			return 0, err
		}
	}
	return ready, nil
}

func selectCall(t *kernel.Task, n int32, in, out, ex, timeout usermem.Addr) (uint64, error) {
	limit, err := call.ValLimit(t, timeout)
	if err != nil {
		return 0, err
	}
	ready, err := selectFDs(t, n, [3]usermem.Addr{in, out, ex}, limit.End)
	return ready, limit.Finish(t, err)
}

func pselect6(t *kernel.Task, n int32, in, out, ex, timeout, arg usermem.Addr) (uint64, error) {
	var set, size uint64
	if arg != 0 {
		var err error
		if set, err = usermem.CopyInUint64(t.MM(), arg); err != nil {
			return 0, err
		}
		if size, err = usermem.CopyInUint64(t.MM(), arg+8); err != nil {
			return 0, err
		}
	}
	limit, err := call.SpecLimit(t, timeout)
	if err != nil {
		return 0, err
	}
	return masked(t, usermem.Addr(set), call.Size(size), func() (uint64, error) {
		ready, err := selectFDs(t, n, [3]usermem.Addr{in, out, ex}, limit.End)
		return ready, limit.Finish(t, err)
	})
}
