package systrap

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher hears of the end of stubs, whoever ended them: the application can
// have its own killed by the host, and who waits for a stub mustn't wait for ever.
type watcher struct {
	epoll int
	stop  int      // an eventfd
	procs sync.Map // of pidfd to *process
}

func newWatcher() (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watching stubs: %w", err)
	}
	w := &watcher{epoll: fd}
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
		err = w.listen(w.stop)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watching stubs: %w", err)
	}
	return w, nil
}

func (w *watcher) listen(fd int) error {
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)})
}

func (w *watcher) close() { unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (w *watcher) add(p *process) error {
	w.procs.Store(p.pidfd, p)
	if err := w.listen(p.pidfd); err != nil {
		return fmt.Errorf("watching a stub: %w", err)
	}
	return nil
}

// run calls f for each stub that ends, until the watcher is closed.
func (w *watcher) run(f func(*process)) {
	var events [16]unix.EpollEvent
	for {
		n, err := epollWait(w.epoll, events[:])
		if err != 0 && err != unix.EINTR {
			return
		}
		for _, e := range events[:n] {
			if int(e.Fd) == w.stop {
				return
			}
			if v, ok := w.procs.LoadAndDelete(int(e.Fd)); ok {
				f(v.(*process))
			}
		}
	}
}
