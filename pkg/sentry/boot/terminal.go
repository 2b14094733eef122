package boot

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"vitrine/pkg/control"
	"vitrine/pkg/sentry/auth"
	"vitrine/pkg/sentry/fs/devpts"
	"vitrine/pkg/sentry/fs/tty"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

// terminal is a process's own terminal, connected with one of the host.
type terminal struct {
	tty    *tty.TTY
	path   vfs.Path // of the slave
	bridge *tty.Bridge
	fd     int // the host's terminal
}

// newTerminal makes a terminal in the container's /dev/pts for a process that
// was given console.
func (c *container) newTerminal(console *os.File, p *control.Process, cred *auth.Credentials) (*terminal, error) {
	ctx := vfs.KernelContext(c.cred)
	pts, err := vfs.Resolve(ctx, c.view(), "/dev/pts", vfs.FollowFinal|vfs.WantDirectory)
	if err != nil {
		return nil, failf(control.KindInvalid, "a terminal needs /dev/pts in the container: %v", err)
	}
	fs, ok := pts.Dentry.Filesystem().Impl.(*devpts.FS)
	if !ok {
		return nil, failf(control.KindInvalid, "a terminal needs a devpts file system at /dev/pts in the container")
	}
	t, err := fs.NewTerminal(cred)
	if err != nil {
		return nil, err
	}
	t.Unlock()
	t.Resize(tty.WindowSize{Rows: p.ConsoleRows, Cols: p.ConsoleCols})
	at, err := vfs.Resolve(ctx, c.view(), "/dev/pts/"+strconv.Itoa(int(t.Index())), 0)
	if err != nil {
		return nil, err
	}
	fd, err := duplicate(console)
	if err != nil {
		return nil, err
	}
	b, err := tty.NewBridge(t, fd, fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &terminal{tty: t, path: at, bridge: b, fd: fd}, nil
}

// open opens the slave.
func (t *terminal) open(cred *auth.Credentials) (*vfs.File, error) {
	impl, err := t.tty.OpenSlave(vfs.KernelContext(cred), unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return nil, err
	}
	return vfs.NewFile(t.path, impl, unix.O_RDWR|unix.O_NOCTTY, cred), nil
}

// terminalName is the name below /dev of a terminal with a device number, as ps(1)
// shows it.
func terminalName(rdev uint64) string {
	const slaves = 136 // major numbers 136 to 143 (Documentation/admin-guide/devices.txt)
	if major := unix.Major(rdev); major >= slaves && major < slaves+8 {
		return "pts/" + strconv.Itoa(int((major-slaves)<<8|unix.Minor(rdev)))
	}
	return "?"
}

// drainTime is how long the end of a process waits for a host terminal that
// doesn't take its last output.
const drainTime = 2 * time.Second

// finish closes the terminal when the process has ended, once all that was
// written to it has been shown.
func (t *terminal) finish(tg *kernel.ThreadGroup, done chan<- struct{}) {
	select {
	case <-tg.Done():
	case <-t.bridge.InputDone():
		// The host's terminal has gone, and with it this one: the foreground
		// group and the session's leader are told by SIGHUP.
		t.bridge.Close()
		<-tg.Done()
	}
	select {
	case <-t.bridge.Done():
	case <-time.After(drainTime):
	}
	close(done)
	t.close()
}

// close hangs the terminal up.
func (t *terminal) close() {
	t.bridge.Close()
	unix.Close(t.fd)
}
