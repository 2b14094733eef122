package gofer

import (
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"vitrine/pkg/seccomp"
)

// Capabilities are those the jailed file server keeps, in its permitted and effective sets, each for a reason. They
// act in the user namespace the process is in. Numbers from capabilities(7), linux/capability.h.
var Capabilities = []struct {
	Number int
	Name   string
	Why    string
}{
	{unix.CAP_CHOWN, "CAP_CHOWN", "new files and chown(2) give files to the container's users"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "the Sentry has checked permissions as the container's user; here all users are one process"},
	{unix.CAP_FOWNER, "CAP_FOWNER", "chmod, utimes, sticky directories and links of files that belong to the container's users"},
	{unix.CAP_FSETID, "CAP_FSETID", "writes and chmod keep the set-id bits the Sentry has decided on"},
}

// JailError says which step of the jail failed.
type JailError struct {
	Step string
	Err  error
}

func (e *JailError) Error() string { return "jail: " + e.Step + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *JailError) Unwrap() error { return e.Err }

// EnterJail takes from the process all it does not need to serve trees over connections:
//
//   - every descriptor but those of keep is closed;
//   - the root is an empty read-only tmpfs, the old one is unmounted; the working directory is a detached copy of
//     this process's /proc/self/fd, for the reopening that the package comment tells of;
//   - capabilities but those of Capabilities are dropped from every set (those the process never had stay away);
//   - no core dumps, not dumpable, no_new_privs, and the seccomp filter of Filter on all threads.
//
// The one who starts the process has put it into namespaces of its own with clone(2) flags: CLONE_NEWNS and CLONE_NEWPID at
// least, and for a full jail CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS too. Without them this fails before it touches
// anything. The steps are not undone on failure: the process then should end.
func EnterJail(keep []int) error {
	if err := checkNamespaces(); err != nil {
		return err
	}
	self, err := emptyRoot()
	if err != nil {
		return err
	}
	if err := unix.Fchdir(self); err != nil {
		return &JailError{"change to the descriptors' directory", err}
	}
	// The detached mount lives as long as a descriptor of it.
	if err := closeOthers(append(slices.Clone(keep), self)); err != nil {
		return &JailError{"close other descriptors", err}
	}
	if err := limits(); err != nil {
		return err
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	// After the change of credentials, which may reset it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return &JailError{"set not dumpable", err}
	}
	if err := seccomp.Install(Filter()); err != nil {
		return &JailError{"install the system call filter", err}
	}
	return nil
}

// checkNamespaces refuses to take the root away from a process that shares it with others.
func checkNamespaces() error {
	if unix.Getpid() != 1 {
		return &JailError{"the process must be started in PID and mount namespaces of its own", unix.EPERM}
	}
	// Through a proc of the namespace above, process 1 is its first process; being refused a look at it
	// is answer enough.
	var own, first [64]byte
	n, err := unix.Readlink("/proc/self/ns/mnt", own[:])
	if err != nil {
		return &JailError{"look at the mount namespace (/proc/self/ns/mnt)", err}
	}
	link := make([]byte, 64)
	if m, err := unix.Readlink("/proc/self", link); err != nil || string(link[:m]) == "1" {
		return nil // a proc of our own namespace: it was mounted in our mount namespace
	}
	if m, err := unix.Readlink("/proc/1/ns/mnt", first[:]); err == nil && string(own[:n]) == string(first[:m]) {
		return &JailError{"the process must be started in a mount namespace of its own", unix.EPERM}
	}
	return nil
}

// emptyRoot leaves the process without the host's tree and returns the detached copy of /proc/self/fd.
func emptyRoot() (self int, err error) {
	// Nothing done here may reach the namespace this one was copied from.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, &JailError{"make mounts private", err}
	}
	self, err = unix.OpenTree(unix.AT_FDCWD, "/proc/self/fd", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &JailError{"copy the mount of /proc/self/fd", err}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// On top of /proc, a directory that is there for certain.
	if err := unix.Mount("vitrine-empty", "/proc", "tmpfs", flags, "size=4k,nr_inodes=2,mode=555"); err != nil {
		return -1, &JailError{"mount an empty tmpfs", err}
	}
	if err := unix.Chdir("/proc"); err != nil {
		return -1, &JailError{"change to the empty root", err}
	}
	// With both arguments ".", the old root ends up on top of the new one, and is taken off (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return -1, &JailError{"pivot_root", err}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return -1, &JailError{"unmount the old root", err}
	}
	if err := unix.Mount("", "/", "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return -1, &JailError{"make the empty root read-only", err}
	}
	return self, nil
}

// closeOthers closes every descriptor not in keep.
func closeOthers(keep []int) error {
	slices.Sort(keep)
	next := 0
	for _, fd := range keep {
		if fd > next {
			if err := unix.CloseRange(uint(next), uint(fd-1), 0); err != nil {
				return err
			}
		}
		next = max(next, fd+1)
	}
	return unix.CloseRange(uint(next), 1<<32-1, 0)
}

func limits() error {
	unix.Umask(0)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return &JailError{"forbid core dumps", err}
	}
	// A fid is a descriptor: have as many as we may.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return &JailError{"ask how many files may be open", err}
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return &JailError{"raise the number of open files", err}
	}
	return nil
}

// dropCapabilities keeps Capabilities, as far as they are there, permitted and effective, and nothing inheritable, ambient
// or bounding. Capabilities are per thread: each call goes to all of them.
func dropCapabilities() error {
	header := capHeader{version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]capData
	if err := capget(&header, &have); err != nil {
		return &JailError{"read the capabilities", err}
	}
	var keep [2]uint32
	for _, c := range Capabilities {
		keep[c.Number/32] |= 1 << (c.Number % 32)
	}
	// Without CAP_SETPCAP the bounding set cannot shrink. It only limits what an exec could bring, and none
	// is possible under the filter.
	if have[0].effective&(1<<unix.CAP_SETPCAP) != 0 {
		for n := range 64 {
			_, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n), 0)
			if errno == unix.EINVAL {
				break // above the last there is
			}
			if errno != 0 {
				return &JailError{"drop capability " + strconv.Itoa(n) + " from the bounding set", errno}
			}
		}
	}
	var set [2]capData
	for i := range set {
		set[i].permitted = have[i].permitted & keep[i]
		set[i].effective = set[i].permitted
	}
	if err := capset(&header, &set); err != nil {
		return &JailError{"drop capabilities", err}
	}
	return nil
}
