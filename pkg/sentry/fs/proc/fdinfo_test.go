package proc

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/anon"
	"vitrine/pkg/sentry/fs/epoll"
	"vitrine/pkg/sentry/fs/eventfd"
	"vitrine/pkg/sentry/fs/signalfd"
	"vitrine/pkg/sentry/fs/timerfd"
	"vitrine/pkg/sentry/kernel/kerneltest"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/vfs"
)

// TestFDInfoIsThatOfLinux makes the same objects here and on the host.
func TestFDInfoIsThatOfLinux(t *testing.T) {
	m := newMachine(t, Options{})
	c := m.task.Credentials()
	number := regexp.MustCompile(`(ino|sdev|mnt_id|tfd): *\t?[0-9a-f]+`)
	newer := regexp.MustCompile(`(?m)^(ino|eventfd-id|eventfd-semaphore):.*\n`)
	shape := func(s string) string { return number.ReplaceAllString(newer.ReplaceAllString(s, ""), "$1:N") }
	check := func(f *vfs.File, theirs int, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		fd, err := m.task.FDs().Add(f, 0, false, 1024)
		if err != nil {
			t.Fatal(err)
		}
		got := shape(m.read(fmt.Sprintf("/proc/self/fdinfo/%d", fd)))
		if want := shape(host(t, fmt.Sprintf("/proc/self/fdinfo/%d", theirs))); got != want {
			t.Errorf("fdinfo is %q, the host's %q", got, want)
		}
		link, err := m.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Error(err)
		}
		var b [256]byte
		n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", theirs), b[:])
		if want := string(b[:max(n, 0)]); err != nil || link != want {
			t.Errorf("the link is %q, the host's %q", link, want)
		}
	}
	ev, err := eventfd.New(77, 0, c)
	if err != nil {
		t.Fatal(err)
	}
	hostEvent, err := unix.Eventfd(77, 0)
	check(ev, hostEvent, err)
	defer unix.Close(hostEvent)

	ep := epoll.New(c)
	hostEpoll, err := unix.EpollCreate1(0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(hostEpoll)
	if err := ep.Impl().(*epoll.Epoll).Control(unix.EPOLL_CTL_ADD, 9, ev, epoll.Event{Events: unix.EPOLLIN | unix.EPOLLET, Data: 0x500000005}); err != nil {
		t.Fatal(err)
	}
	err = unix.EpollCtl(hostEpoll, unix.EPOLL_CTL_ADD, hostEvent, &unix.EpollEvent{Events: unix.EPOLLIN | 1<<31, Fd: 5, Pad: 5})
	check(ep, hostEpoll, err)

	k := m.k
	tf, err := timerfd.New(timerfd.OnQueue(k.Timers, k.Clock.Monotonic, k.Clock.Monotonic), unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK, c)
	if err != nil {
		t.Fatal(err)
	}
	hostTimer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK)
	check(tf, hostTimer, err)
	defer unix.Close(hostTimer)

	sf := signalfd.New(m.task.ThreadGroup(), signals.SetOf(signals.Signal(unix.SIGUSR1), 40), 0, c)
	hostSignal, err := unix.Signalfd(-1, &unix.Sigset_t{Val: [16]uint64{1<<9 | 1<<39}}, 0)
	check(sf, hostSignal, err)
	unix.Close(hostSignal)

	told := anon.NewFile("[eventfd]", told{}, unix.O_RDWR, c)
	if fd, err := m.task.FDs().Add(told, 0, false, 1024); err != nil || !strings.HasSuffix(m.read(fmt.Sprintf("/proc/self/fdinfo/%d", fd)), "\neventfd-count: 7\n") {
		t.Errorf("a file that tells of itself isn't heard, %v", err)
	}
}

// TestMountsOnFixedFilesHold covers and write-protects parts of /proc as OCI's
// maskedPaths and readonlyPaths do.
func TestMountsOnFixedFilesHold(t *testing.T) {
	m := newMachine(t, Options{})
	mount := func(src, dst string) *vfs.Mount {
		t.Helper()
		s, err := m.Resolve(src, true)
		if err != nil {
			t.Fatal(err)
		}
		d, err := m.Resolve(dst, true)
		if err != nil {
			t.Fatal(err)
		}
		mnt, err := m.NS.Bind(s, d, false)
		if err != nil {
			t.Fatal(err)
		}
		return mnt
	}
	mount("/bin/prog", "/proc/kallsyms")
	mount("/bin", "/proc/sys/net")
	sys := mount("/proc/sys", "/proc/sys")
	sys.SetFlags(sys.Flags() | vfs.MountReadOnly)
	for range 2 {
		if got := m.read("/proc/kallsyms"); got != string(kerneltest.Program()) {
			t.Errorf("a covered file reads %q", got)
		}
		if err := m.write("/proc/sys/kernel/hostname", "x"); err != unix.EROFS {
			t.Errorf("writing below a mount that is read-only: %v", err)
		}
		if got := m.read("/proc/sys/kernel/ostype"); got != "Linux\n" {
			t.Errorf("reading there: %q", got)
		}
		walkAll(m, &reader{m.task}) // as much as the dentry cache can be asked for
	}
	if names, err := m.ReadDir("/proc/sys/net"); err != nil || slices.Contains(names, "prog 8") {
		t.Errorf("below a mount that is not recursive there are %q, %v", names, err)
	}
}
