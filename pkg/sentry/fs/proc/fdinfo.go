package proc

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/fs/epoll"
	"vitrine/pkg/sentry/fs/eventfd"
	"vitrine/pkg/sentry/fs/inotify"
	"vitrine/pkg/sentry/fs/signalfd"
	"vitrine/pkg/sentry/fs/timerfd"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/vfs"
)

// FDInformer is what an open file implements (what vfs.File.Impl returns) that
// has more to show in /proc/PID/fdinfo/FD than its position and flags, and is
// none of those known here: whole lines.
type FDInformer interface{ FDInfo(w io.Writer) }

// kernelDevice is a device number as the kernel keeps it, which is how fdinfo
// prints it.
func kernelDevice(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// describe writes what is special about f: proc(5), /proc/PID/fdinfo.
func (s subject) describe(w io.Writer, f *vfs.File) {
	switch i := f.Impl().(type) {
	case *eventfd.EventFD:
		fmt.Fprintf(w, "eventfd-count: %16x\n", i.Count())
	case *epoll.Epoll:
		const always = unix.EPOLLERR | unix.EPOLLHUP // epoll_ctl(2) adds these
		for _, e := range i.Watches() {
			fmt.Fprintf(w, "tfd: %8d events: %8x data: %16x  pos:%d ino:%x sdev:%x\n",
				e.FD, e.Events|always, e.Data, e.File.Offset(), e.File.InodeID(), kernelDevice(e.File.DeviceID()))
		}
	case *inotify.Instance:
		for _, e := range i.Watches() {
			var a vfs.Attr
			if e.Path.Inode().Attributes(vfs.KernelContext(f.Opener()), &a) != nil {
				continue
			}
			fmt.Fprintf(w, "inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:0 \n", e.WD, a.Ino, kernelDevice(a.Dev), e.Mask)
		}
	case *timerfd.TimerFD:
		s := i.Get()
		ticks, flags := i.Ticks()
		fmt.Fprintf(w, "clockid: %d\nticks: %d\nsettime flags: 0%o\nit_value: (%d, %d)\nit_interval: (%d, %d)\n", i.ClockID(), ticks, flags,
			s.Value/second, s.Value%second, s.Interval/second, s.Interval%second)
	case *signalfd.SignalFD:
		fmt.Fprintf(w, "sigmask:\t%016x\n", uint64(i.Mask()))
	case *kernel.PIDFile:
		tg := i.Process()
		if tg == nil {
			fmt.Fprint(w, "Pid:\t-1\nNSpid:\t-1\n")
			break
		}
		fmt.Fprintf(w, "Pid:\t%d\nNSpid:", tg.ID(s.p.ns))
		for _, ns := range s.p.chain(tg.PIDNamespace()) {
			fmt.Fprintf(w, "\t%d", tg.ID(ns))
		}
		fmt.Fprintln(w)
	case FDInformer:
		i.FDInfo(w)
	}
}
