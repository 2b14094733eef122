package events

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/clock"
	"vitrine/pkg/sentry/fs/eventfd"
	"vitrine/pkg/sentry/fs/inotify"
	"vitrine/pkg/sentry/fs/signalfd"
	"vitrine/pkg/sentry/fs/timerfd"
	"vitrine/pkg/sentry/kernel"
	"vitrine/pkg/sentry/signals"
	"vitrine/pkg/sentry/syscalls/call"
	"vitrine/pkg/sentry/vfs"
	"vitrine/pkg/usermem"
)

var eventfdRows = []call.Row{
	call.Full(unix.SYS_EVENTFD, "eventfd", call.Args1(eventfdCall)),
	call.Full(unix.SYS_EVENTFD2, "eventfd2", call.Args2(eventfd2)),
	call.Partial(unix.SYS_TIMERFD_CREATE, "timerfd_create", call.Args2(timerfdCreate), "steps of the host's clock cancel nothing"),
	call.Full(unix.SYS_TIMERFD_SETTIME, "timerfd_settime", call.Args4(timerfdSettime)),
	call.Full(unix.SYS_TIMERFD_GETTIME, "timerfd_gettime", call.Args2(timerfdGettime)),
	call.Full(unix.SYS_SIGNALFD, "signalfd", call.Args3(signalfdCall)),
	call.Full(unix.SYS_SIGNALFD4, "signalfd4", call.Args4(signalfd4)),
	call.Full(unix.SYS_INOTIFY_INIT, "inotify_init", call.Args0(inotifyInit)),
	call.Full(unix.SYS_INOTIFY_INIT1, "inotify_init1", call.Args1(inotifyInit1)),
	call.Full(unix.SYS_INOTIFY_ADD_WATCH, "inotify_add_watch", call.Args3(inotifyAddWatch)),
	call.Full(unix.SYS_INOTIFY_RM_WATCH, "inotify_rm_watch", call.Args2(inotifyRmWatch)),
}

func eventfdCall(t *kernel.Task, count uint32) (uint64, error) { return eventfd2(t, count, 0) }

func eventfd2(t *kernel.Task, count, flags uint32) (uint64, error) {
	f, err := eventfd.New(count, flags, t.Credentials())
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.EFD_CLOEXEC != 0)
}

func timerfdCreate(t *kernel.Task, id int32, flags uint32) (uint64, error) {
	if flags&^(unix.TFD_CLOEXEC|unix.TFD_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	base := clock.ID(id)
	switch id {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME:
	case unix.CLOCK_REALTIME_ALARM, unix.CLOCK_BOOTTIME_ALARM:
		if !t.Credentials().HasRootCap(unix.CAP_WAKE_ALARM) {
			return 0, unix.EPERM
		}
		if base = clock.Boottime; id == unix.CLOCK_REALTIME_ALARM {
			base = clock.Realtime
		}
	default:
		return 0, unix.EINVAL
	}
	k := t.Kernel()
	now := func() int64 {
		ns, _ := k.Clock.Now(base)
		return ns
	}
	f, err := timerfd.New(timerfd.OnQueue(k.Timers, k.Clock.Monotonic, now), id, flags, t.Credentials())
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.TFD_CLOEXEC != 0)
}

// timerOf returns the timer at fd, with its file.
func timerOf(t *kernel.Task, fd call.FD) (*vfs.File, *timerfd.TimerFD, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return nil, nil, err
	}
	tf := timerfd.Of(f)
	if tf == nil {
		f.DecRef()
		return nil, nil, unix.EINVAL
	}
	return f, tf, nil
}

func putSetting(w *call.Writer, s timerfd.Setting) {
	w.Timespec(s.Interval)
	w.Timespec(s.Value)
}

func timerfdSettime(t *kernel.Task, fd call.FD, flags uint32, n, old usermem.Addr) (uint64, error) {
	interval, err := call.ReadTimespec(t, n)
	if err == unix.EFAULT {
		return 0, err
	}
	value, err2 := call.ReadTimespec(t, n+16)
	if err2 == unix.EFAULT {
		return 0, err2
	}
	const cancelOnSet = 2
	if err != nil || err2 != nil || flags&^(unix.TFD_TIMER_ABSTIME|cancelOnSet) != 0 {
		return 0, unix.EINVAL
	}
	f, tf, err := timerOf(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	was, err := tf.Set(timerfd.Setting{Value: value, Interval: interval}, flags)
	if err != nil || old == 0 {
		return 0, err
	}
	var w call.Writer
	putSetting(&w, was)
	return 0, w.To(t, old)
}

func timerfdGettime(t *kernel.Task, fd call.FD, at usermem.Addr) (uint64, error) {
	f, tf, err := timerOf(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	var w call.Writer
	putSetting(&w, tf.Get())
	return 0, w.To(t, at)
}

func signalfdCall(t *kernel.Task, fd call.FD, set usermem.Addr, size call.Size) (uint64, error) {
	return signalfd4(t, fd, set, size, 0)
}

func signalfd4(t *kernel.Task, fd call.FD, set usermem.Addr, size call.Size, flags uint32) (uint64, error) {
	if flags&^(unix.SFD_CLOEXEC|unix.SFD_NONBLOCK) != 0 || size != 8 {
		return 0, unix.EINVAL
	}
	v, err := usermem.CopyInUint64(t.MM(), set)
	if err != nil {
		return 0, unix.EINVAL // and not EFAULT: so it is on Linux 4.4
	}
	if fd == -1 {
		return call.AddFile(t, signalfd.New(t.ThreadGroup(), signals.Set(v), flags, t.Credentials()), flags&unix.SFD_CLOEXEC != 0)
	}
	f, err := fd.IOFile(t)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	s := signalfd.Of(f)
	if s == nil {
		return 0, unix.EINVAL
	}
	s.SetMask(t.ThreadGroup(), signals.Set(v))
	return uint64(fd), nil
}

func inotifyInit(t *kernel.Task) (uint64, error) { return inotifyInit1(t, 0) }

func inotifyInit1(t *kernel.Task, flags uint32) (uint64, error) {
	f, err := inotify.New(t.Credentials(), flags)
	if err != nil {
		return 0, err
	}
	return call.AddFile(t, f, flags&unix.IN_CLOEXEC != 0)
}

// inotifyAt returns the instance at fd, with its file.
func inotifyAt(t *kernel.Task, fd call.FD) (*vfs.File, *inotify.Instance, error) {
	f, err := fd.IOFile(t)
	if err != nil {
		return nil, nil, err
	}
	in := inotify.Of(f)
	if in == nil {
		f.DecRef()
		return nil, nil, unix.EINVAL
	}
	return f, in, nil
}

func inotifyAddWatch(t *kernel.Task, fd call.FD, p call.PathPtr, mask uint32) (uint64, error) {
	if err := inotify.CheckMask(mask); err != nil {
		return 0, err
	}
	f, in, err := inotifyAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	var flags vfs.WalkFlags
	if mask&unix.IN_DONT_FOLLOW == 0 {
		flags |= vfs.FollowFinal
	}
	if mask&unix.IN_ONLYDIR != 0 {
		flags |= vfs.WantDirectory
	}
	at, err := call.CWD.Resolve(t, p, flags)
	if err != nil {
		return 0, err
	}
	wd, err := in.AddWatch(t, at, mask)
	return uint64(wd), err
}

func inotifyRmWatch(t *kernel.Task, fd call.FD, wd int32) (uint64, error) {
	f, in, err := inotifyAt(t, fd)
	if err != nil {
		return 0, err
	}
	defer f.DecRef()
	return 0, in.RemoveWatch(wd)
}
