package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unavailable is the error of a row that can't be measured here, which is no
// failure.
type unavailable struct{ error }

// hostCalls is a row that counts the system calls that the host's kernel
// serves, for all processes of a subject, per operation. Natively that is what
// the operation itself takes, so a ratio is host calls per call of the
// application.
func hostCalls(name string, n int, operation string) row {
	return row{name: name, unit: calls, measure: func(b *bench, s subject) (float64, error) {
		return b.hostCalls(s, n, operation)
	}}
}

// hostCalls does an operation n times and returns the calls for each.
func (b *bench) hostCalls(s subject, n int, operation string) (float64, error) {
	event, err := enteredCall()
	if err != nil {
		return 0, err
	}
	cmd, done, err := b.opsCommand(s, "-c", strconv.Itoa(n), operation)
	if err != nil {
		return 0, err
	}
	defer done()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	late := time.AfterFunc(timeout, func() { cmd.Process.Kill() })
	count, err := b.countCalls(event, bufio.NewReader(stdout), stdin)
	stdin.Close()
	if err != nil {
		// It may wait for what never comes.
		cmd.Process.Kill()
	}
	ended := cmd.Wait()
	switch {
	case !late.Stop():
		return 0, fmt.Errorf("it took more than %v", timeout)
	case err != nil:
		return 0, fmt.Errorf("%w %s", err, strings.TrimSpace(stderr.String()))
	case ended != nil:
		return 0, fmt.Errorf("%w: %s", ended, strings.TrimSpace(stderr.String()))
	}
	return count / float64(n), nil
}

// countCalls counts the calls of all processes below this one from ops's
// "ready" to its "done".
func (b *bench) countCalls(event uint64, stdout *bufio.Reader, stdin io.Writer) (float64, error) {
	if err := expect(stdout, "ready\n"); err != nil {
		return 0, err
	}
	c, err := b.openCounters(event)
	if err != nil {
		return 0, err
	}
	defer c.close()
	before, err := c.read()
	if err != nil {
		return 0, err
	}
	if _, err := stdin.Write([]byte{0}); err != nil {
		return 0, err
	}
	if err := expect(stdout, "done\n"); err != nil {
		return 0, err
	}
	after, err := c.read()
	if err != nil {
		return 0, err
	}
	_, err = stdin.Write([]byte{0})
	return float64(after - before), err
}

func expect(r *bufio.Reader, want string) error {
	got, err := r.ReadString('\n')
	if err == nil && got != want {
		err = errors.New("it isn't that")
	}
	if err != nil {
		return fmt.Errorf("ops printed %q, not %q: %w", got, want, err)
	}
	return nil
}

// enteredCall is the number of the tracepoint that each system call passes.
// Calls that a seccomp filter or PTRACE_SYSEMU intercepts don't: those are the
// application's own, which the host doesn't serve.
func enteredCall() (uint64, error) {
	b, err := os.ReadFile("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")
	if err != nil {
		return 0, unavailable{fmt.Errorf("host calls can't be counted without tracefs: %w", err)}
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
}

// counters are the descriptors that count an event, one a thread, which counts
// the threads and processes that this one starts later as well.
type counters []int

// openCounters begins to count for all threads of all processes below this one.
// They should be at rest: it is done again while threads come or go.
func (b *bench) openCounters(event uint64) (counters, error) {
	const attempts = 20
	for range attempts {
		threads, err := b.threadsBelow()
		if err != nil {
			return nil, err
		}
		var c counters
		for _, tid := range slices.Sorted(maps.Keys(threads)) {
			attr := unix.PerfEventAttr{
				Type:   unix.PERF_TYPE_TRACEPOINT,
				Size:   unix.PERF_ATTR_SIZE_VER0,
				Config: event,
				Bits:   unix.PerfBitInherit,
			}
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err == unix.ESRCH {
				continue // it has ended
			}
			if err != nil {
				c.close()
				return nil, unavailable{fmt.Errorf("host calls can't be counted: perf_event_open: %w", err)}
			}
			c = append(c, fd)
		}
		// A thread that has come in between is counted or not, which can't be
		// known.
		again, err := b.threadsBelow()
		if err == nil && maps.Equal(threads, again) {
			return c, nil
		}
		c.close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("threads come and go too quickly to be counted")
}

func (c counters) close() {
	for _, fd := range c {
		unix.Close(fd)
	}
}

// read returns the sum.
func (c counters) read() (uint64, error) {
	var sum uint64
	var b [8]byte
	for _, fd := range c {
		if _, err := unix.Read(fd, b[:]); err != nil {
			return 0, fmt.Errorf("reading a perf event: %w", err)
		}
		sum += binary.NativeEndian.Uint64(b[:])
	}
	return sum, nil
}

// threadsBelow returns the IDs of the threads of all processes below this one.
func (b *bench) threadsBelow() (map[int]bool, error) {
	pids, err := b.below(true)
	if err != nil {
		return nil, err
	}
	threads := map[int]bool{}
	for _, pid := range pids {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has ended
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil {
				return nil, err
			}
			threads[tid] = true
		}
	}
	return threads, nil
}
