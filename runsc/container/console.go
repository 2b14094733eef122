package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"vitrine/pkg/control"
)

// Console is a host terminal for a container, in raw mode: the sandbox has a
// line discipline of its own.
type Console struct {
	File       *os.File
	Rows, Cols uint16
	// Own is set if it is the caller's terminal.
	Own    bool
	before *unix.Termios
}

// CallerConsole takes the caller's own terminal: the first of the standard
// files that is one.
func CallerConsole() (*Console, error) {
	for _, f := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			c := &Console{File: f, Own: true, before: before}
			c.readSize()
			return c, makeRaw(f, before)
		}
	}
	return nil, fmt.Errorf("a terminal is asked for, and neither standard input, output nor error is one")
}

// NewConsole makes a pseudo-terminal whose master goes over the unix socket at
// path, as engines expect it: one message with the descriptor and a name.
func NewConsole(path string) (*Console, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("making a terminal: %w", err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlocking the terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, fmt.Errorf("the terminal's name: %w", err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	file, err := openPeer(fd, name)
	if err != nil {
		return nil, fmt.Errorf("opening the terminal: %w", err)
	}
	c := &Console{File: file}
	before, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	if err == nil {
		err = makeRaw(file, before)
	}
	if err == nil {
		err = sendConsole(path, master, name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	c.readSize()
	return c, nil
}

// openPeer opens the terminal of a master. The name need not lead to it, where another
// devpts is mounted, or none: then Linux 4.13 opens it all the same (ioctl_tty(2)).
func openPeer(master int, name string) (*os.File, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	switch errno {
	case 0:
		return os.NewFile(fd, name), nil
	case unix.EINVAL, unix.ENOTTY:
		return os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: errno}
}

func sendConsole(path string, master *os.File, name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("--console-socket: %w", err)
	}
	defer unix.Close(fd)
	err = control.WithShortPath(path, func(short string) error {
		return unix.Connect(fd, &unix.SockaddrUnix{Name: short})
	})
	if err == nil {
		err = unix.Sendmsg(fd, []byte(name), unix.UnixRights(int(master.Fd())), nil, unix.MSG_NOSIGNAL)
	}
	if err != nil {
		return fmt.Errorf("--console-socket %s: %w", path, err)
	}
	return nil
}

func (c *Console) readSize() {
	if size, err := unix.IoctlGetWinsize(int(c.File.Fd()), unix.TIOCGWINSZ); err == nil {
		c.Rows, c.Cols = size.Row, size.Col
	}
}

// Size reads the size anew.
func (c *Console) Size() (rows, cols uint16) {
	c.readSize()
	return c.Rows, c.Cols
}

// makeRaw is cfmakeraw(3).
func makeRaw(f *os.File, before *unix.Termios) error {
	raw := *before
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return fmt.Errorf("putting the terminal into raw mode: %w", err)
	}
	return nil
}

// Release gives the caller's terminal back as it was, and closes any other.
func (c *Console) Release() {
	if c.Own {
		unix.IoctlSetTermios(int(c.File.Fd()), unix.TCSETSW, c.before)
		return
	}
	c.File.Close()
}
