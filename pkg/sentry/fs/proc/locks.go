package proc

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/vfs"
)

// locks is /proc/locks: what is locked on files, by processes that the instance
// knows. Who waits for a lock isn't shown.
func (p *procfs) locks(b *bytes.Buffer) {
	n := 0
	for _, l := range vfs.HeldLocks() {
		if pid, ok := p.lockOwner(l.PID); ok {
			n++
			lockLine(b, n, &l, pid)
		}
	}
}

// lockOwner returns the number that a lock's owner has here. An open file
// description has none: -1.
func (p *procfs) lockOwner(pid int32) (int32, bool) {
	if pid < 0 || p.ns == p.k.RootPIDNS {
		return pid, true
	}
	if tg := p.k.RootPIDNS.ThreadGroup(pid); tg != nil {
		if id := tg.ID(p.ns); id != 0 {
			return id, true
		}
	}
	return 0, false
}

// lockLine is a line of /proc/locks or /proc/PID/fdinfo.
func lockLine(b *bytes.Buffer, n int, l *vfs.HeldLock, pid int32) {
	kind, end := "POSIX ", "EOF"
	switch l.Kind {
	case vfs.WholeFileLock:
		kind = "FLOCK "
	case vfs.DescriptionLock:
		kind = "OFDLCK"
	}
	access := "READ"
	if l.Type == unix.F_WRLCK {
		access = "WRITE"
	}
	if l.End != math.MaxInt64 {
		end = strconv.FormatInt(l.End, 10)
	}
	fmt.Fprintf(b, "%d: %s ADVISORY  %s %d %02x:%02x:%d %d %s\n", n, kind, access, pid, unix.Major(l.Dev), unix.Minor(l.Dev), l.Ino, l.Start, end)
}
