package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Server answers for a Sandbox.
type Server struct {
	sandbox Sandbox

	// requests are those whose answer is not sent yet.
	requests sync.WaitGroup
}

// NewServer returns a Server for sandbox.
func NewServer(sandbox Sandbox) *Server { return &Server{sandbox: sandbox} }

// Listen binds a listening socket at path, for Serve. A stale socket is
// replaced: the caller holds the lock that says that nobody uses it.
func Listen(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	unix.Unlink(path)
	err = WithShortPath(path, func(path string) error {
		return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	})
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Serve accepts connections until listener, a non-blocking socket in the
// poller's care, is closed or fails.
func (s *Server) Serve(listener *os.File) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	for {
		fd := -1
		var acceptErr error
		err := raw.Read(func(l uintptr) bool {
			for {
				fd, _, acceptErr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
				switch acceptErr {
				case unix.EINTR, unix.ECONNABORTED:
					continue
				case unix.EAGAIN:
					return false
				}
				return true
			}
		})
		if err == nil {
			err = acceptErr
		}
		if err != nil {
			if _, err := listener.Stat(); errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("accepting a control connection: %w", err)
		}
		if c, err := newConn(fd); err == nil {
			go s.serveConn(c)
		}
	}
}

// Drain returns when the answers to all requests that were received are sent.
// The caller sees to it that the Sandbox's methods return.
func (s *Server) Drain() { s.requests.Wait() }

// serveConn answers the requests of one connection. While one is being
// handled the next is already being read: that shows when the peer goes away.
func (s *Server) serveConn(c *conn) {
	ctx, cancel := context.WithCancel(context.Background())
	var handling sync.WaitGroup
	defer func() {
		cancel()
		handling.Wait()
		c.close()
	}()
	for {
		request, err := c.receive()
		if err != nil {
			return
		}
		handling.Wait()
		handling.Add(1)
		s.requests.Add(1)
		go func() {
			defer s.requests.Done()
			defer handling.Done()
			if c.send(s.answer(ctx, request)) != nil {
				cancel()
			}
		}()
	}
}

// answer handles one request.
func (s *Server) answer(ctx context.Context, request *frame) *frame {
	result, err := s.dispatch(ctx, request)
	if err == nil {
		return &frame{kind: replyOK, body: marshal(result)}
	}
	e := &Error{}
	if !errors.As(err, &e) {
		e = &Error{Kind: KindInternal}
	}
	return &frame{kind: replyError, body: marshal(&Error{e.Kind, err.Error()})}
}

// dispatch decodes the arguments and calls the Sandbox.
func (s *Server) dispatch(ctx context.Context, request *frame) (coded, error) {
	switch request.kind {
	case methodCreate:
		args := &CreateArgs{}
		if err := decodeWithFiles(request, args); err != nil {
			return nil, err
		}
		defer args.CloseFiles()
		return nil, s.sandbox.Create(args)
	case methodExec:
		args := &ExecArgs{}
		if err := decodeWithFiles(request, args); err != nil {
			return nil, err
		}
		defer args.CloseFiles()
		pid, err := s.sandbox.Exec(args)
		return &pidResult{pid}, err
	}
	for _, f := range request.files {
		f.Close()
	}
	if request.kind == methodContainers {
		ids, err := s.sandbox.Containers()
		return &idList{ids}, err
	}
	if request.kind == methodUpdate {
		var u update
		if err := unmarshal(request.body, &u); err != nil {
			return nil, &Error{KindInvalid, err.Error()}
		}
		return nil, s.sandbox.Update(u.ID, &u.Resources)
	}
	var r processRef
	if err := unmarshal(request.body, &r); err != nil {
		return nil, &Error{KindInvalid, err.Error()}
	}
	switch request.kind {
	case methodStart:
		return nil, s.sandbox.Start(r.ID)
	case methodWait:
		status, err := s.sandbox.Wait(ctx, r.ID, r.PID)
		if err != nil && ctx.Err() != nil {
			err = &Error{KindCancelled, "the caller went away"}
		}
		return &status, err
	case methodSignal:
		return nil, s.sandbox.Signal(r.ID, r.PID, r.Signo, r.All)
	case methodProcesses:
		ps, err := s.sandbox.Processes(r.ID)
		return &processList{ps}, err
	case methodPause:
		return nil, s.sandbox.Pause(r.ID)
	case methodResume:
		return nil, s.sandbox.Resume(r.ID)
	case methodResize:
		return nil, s.sandbox.Resize(r.ID, r.PID, r.Rows, r.Cols)
	case methodDestroy:
		return nil, s.sandbox.Destroy(r.ID)
	case methodState:
		state, err := s.sandbox.State(r.ID)
		return &state, err
	case methodStats:
		stats, err := s.sandbox.Stats(r.ID)
		return &stats, err
	}
	return nil, &Error{KindInvalid, fmt.Sprintf("unknown control method %d", request.kind)}
}

// decodeWithFiles fills args, which then owns the frame's files.
func decodeWithFiles(request *frame, args interface {
	coded
	filer
}) error {
	w := &withFiles{value: args}
	err := unmarshal(request.body, w)
	if err == nil {
		err = fill(args, w.there, request.files)
	}
	if err != nil {
		for _, f := range request.files {
			f.Close()
		}
		return &Error{KindInvalid, err.Error()}
	}
	return nil
}
