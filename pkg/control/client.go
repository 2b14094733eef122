package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"vitrine/pkg/locks"

	"golang.org/x/sys/unix"
)

// methods of the wire. The numbers are the protocol.
const (
	methodCreate uint32 = iota + 1
	methodStart
	methodExec
	methodWait
	methodSignal
	methodProcesses
	methodPause
	methodResume
	methodResize
	methodDestroy
	methodState
	methodStats
	methodContainers
	methodUpdate
)

// Client is a Sandbox on the other side of a socket. A call that finds no idle
// connection makes one.
type Client struct {
	path string

	mu     locks.Mutex[locks.Leaf]
	idle   *conn // nil if there is none
	closed bool
}

var _ Sandbox = (*Client)(nil)

// Dial connects to the sentry that listens at path. An error that is ENOENT or
// ECONNREFUSED says that there is none.
func Dial(path string) (*Client, error) {
	c := &Client{path: path}
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	c.idle = conn
	return c, nil
}

// Close closes the idle connection. Calls under way go on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.idle != nil {
		c.idle.close()
		c.idle = nil
	}
	return nil
}

func (c *Client) connect() (*conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	err = WithShortPath(c.path, func(path string) error {
		return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connecting to the sentry at %s: %w", c.path, err)
	}
	return newConn(fd)
}

func (c *Client) take() (*conn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, &Error{KindCancelled, "the control connection is closed"}
	}
	conn := c.idle
	c.idle = nil
	c.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	return c.connect()
}

func (c *Client) giveBack(conn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.idle != nil {
		conn.close()
		return
	}
	c.idle = conn
}

// call makes one request and fills result, which may be nil.
func (c *Client) call(ctx context.Context, method uint32, args, result coded) error {
	f := &frame{kind: method}
	if a, ok := args.(interface {
		coded
		filer
	}); ok {
		w := &withFiles{value: a}
		w.there, f.files = present(a.files())
		f.body = marshal(w)
		// The sentry has its own copies once the frame is sent.
		defer closeFiles(a.files())
	} else {
		f.body = marshal(args)
	}
	conn, err := c.take()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		// Ends the exchange, on both sides.
		conn.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	})
	answer, err := exchange(conn, f)
	if !stop() || err != nil {
		conn.close()
	} else {
		c.giveBack(conn)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == io.EOF || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
			return &Error{KindGone, "the sentry ended before it answered"}
		}
		return fmt.Errorf("talking to the sentry: %w", err)
	}
	for _, file := range answer.files {
		file.Close()
	}
	if answer.kind == replyError {
		e := &Error{}
		if err := unmarshal(answer.body, e); err != nil {
			return fmt.Errorf("error of the sentry: %w", err)
		}
		return e
	}
	if err := unmarshal(answer.body, result); err != nil {
		return fmt.Errorf("answer of the sentry: %w", err)
	}
	return nil
}

func exchange(conn *conn, f *frame) (*frame, error) {
	sendErr := conn.send(f)
	// A sentry that ends may have answered before.
	answer, err := conn.receive()
	if err != nil && sendErr != nil {
		return nil, sendErr
	}
	return answer, err
}

// Create implements Sandbox. The files in args are closed.
func (c *Client) Create(args *CreateArgs) error {
	return c.call(context.Background(), methodCreate, args, nil)
}

// Start implements Sandbox.
func (c *Client) Start(id string) error {
	return c.call(context.Background(), methodStart, &processRef{ID: id}, nil)
}

// Exec implements Sandbox. The files in args are closed.
func (c *Client) Exec(args *ExecArgs) (int32, error) {
	var r pidResult
	err := c.call(context.Background(), methodExec, args, &r)
	return r.PID, err
}

// Wait implements Sandbox.
func (c *Client) Wait(ctx context.Context, id string, pid int32) (WaitStatus, error) {
	var s WaitStatus
	err := c.call(ctx, methodWait, &processRef{ID: id, PID: pid}, &s)
	return s, err
}

// Signal implements Sandbox.
func (c *Client) Signal(id string, pid int32, signo int, all bool) error {
	return c.call(context.Background(), methodSignal, &processRef{ID: id, PID: pid, Signo: signo, All: all}, nil)
}

// Processes implements Sandbox.
func (c *Client) Processes(id string) ([]ProcessInfo, error) {
	var l processList
	err := c.call(context.Background(), methodProcesses, &processRef{ID: id}, &l)
	return l.Processes, err
}

// Pause implements Sandbox.
func (c *Client) Pause(id string) error {
	return c.call(context.Background(), methodPause, &processRef{ID: id}, nil)
}

// Resume implements Sandbox.
func (c *Client) Resume(id string) error {
	return c.call(context.Background(), methodResume, &processRef{ID: id}, nil)
}

// Resize implements Sandbox.
func (c *Client) Resize(id string, pid int32, rows, cols uint16) error {
	return c.call(context.Background(), methodResize, &processRef{ID: id, PID: pid, Rows: rows, Cols: cols}, nil)
}

// Destroy implements Sandbox. That the sentry ends meanwhile is no error: the
// container is gone.
func (c *Client) Destroy(id string) error {
	err := c.call(context.Background(), methodDestroy, &processRef{ID: id}, nil)
	if ErrorKind(err) == KindGone {
		return nil
	}
	return err
}

// State implements Sandbox.
func (c *Client) State(id string) (ContainerState, error) {
	var s ContainerState
	err := c.call(context.Background(), methodState, &processRef{ID: id}, &s)
	return s, err
}

// Stats implements Sandbox.
func (c *Client) Stats(id string) (Stats, error) {
	var s Stats
	err := c.call(context.Background(), methodStats, &processRef{ID: id}, &s)
	return s, err
}

// Update implements Sandbox.
func (c *Client) Update(id string, r *Resources) error {
	return c.call(context.Background(), methodUpdate, &update{ID: id, Resources: *r}, nil)
}

// Containers implements Sandbox.
func (c *Client) Containers() ([]string, error) {
	var l idList
	err := c.call(context.Background(), methodContainers, nil, &l)
	return l.IDs, err
}

// WithShortPath calls f with a name for the socket path that fits into
// sockaddr_un (unix(7): 108 bytes): path itself or one by way of a descriptor.
func WithShortPath(path string, f func(string) error) error {
	if len(path) < 108 {
		return f(path)
	}
	dir, base := ".", path
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			dir, base = path[:i+1], path[i+1:]
			break
		}
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", fd, base))
}
