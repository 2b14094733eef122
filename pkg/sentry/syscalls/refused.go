package syscalls

import (
	"golang.org/x/sys/unix"

	"vitrine/pkg/sentry/syscalls/call"
)

// refusedRows are calls that always fail: as they do on Linux without
// the feature, or without a capability over the machine, which nobody in
// the sandbox has.
var refusedRows = []call.Row{
	call.Refused(unix.SYS_LOOKUP_DCOOKIE, "lookup_dcookie", unix.ENOSYS, "as Linux without profiling"),
	call.Refused(unix.SYS_FANOTIFY_INIT, "fanotify_init", unix.ENOSYS, "as Linux without fanotify"),
	call.Refused(unix.SYS_FANOTIFY_MARK, "fanotify_mark", unix.ENOSYS, "as Linux without fanotify"),
	call.Refused(unix.SYS_USELIB, "uselib", unix.ENOSYS, "as Linux without a.out"),
	call.Refused(unix.SYS_SYSFS, "sysfs", unix.ENOSYS, "as Linux without this call; /proc/filesystems has it all"),
	call.Refused(unix.SYS_QUOTACTL, "quotactl", unix.ENOSYS, "as Linux without quotas"),
	call.Refused(unix.SYS_SWAPON, "swapon", unix.EPERM, noMachine),
	call.Refused(unix.SYS_SWAPOFF, "swapoff", unix.EPERM, noMachine),
	call.Refused(unix.SYS_REBOOT, "reboot", unix.EPERM, noMachine),
	call.Refused(unix.SYS_VHANGUP, "vhangup", unix.EPERM, noMachine),
	call.Refused(unix.SYS_ACCT, "acct", unix.EPERM, noMachine),
	call.Refused(unix.SYS_INIT_MODULE, "init_module", unix.EPERM, noMachine),
	call.Refused(unix.SYS_FINIT_MODULE, "finit_module", unix.EPERM, noMachine),
	call.Refused(unix.SYS_DELETE_MODULE, "delete_module", unix.EPERM, noMachine),
	call.Refused(unix.SYS_KEXEC_LOAD, "kexec_load", unix.EPERM, noMachine),
	call.Refused(unix.SYS_KEXEC_FILE_LOAD, "kexec_file_load", unix.EPERM, noMachine),
	call.Refused(unix.SYS_SYSLOG, "syslog", unix.EPERM, noMachine),
	call.Refused(unix.SYS_IOPL, "iopl", unix.EPERM, noMachine),
	call.Refused(unix.SYS_IOPERM, "ioperm", unix.EPERM, noMachine),
	call.Refused(unix.SYS_BPF, "bpf", unix.EPERM, noMachine),
	call.Refused(unix.SYS_PERF_EVENT_OPEN, "perf_event_open", unix.ENOSYS, "as Linux without performance events"),
	call.Refused(unix.SYS_USERFAULTFD, "userfaultfd", unix.ENOSYS, "as Linux without userfaultfd"),
	call.Refused(unix.SYS_MODIFY_LDT, "modify_ldt", unix.ENOSYS, "as Linux without support for 16-bit segments"),
	call.Refused(unix.SYS__SYSCTL, "_sysctl", unix.ENOSYS, "as Linux without this call; /proc/sys has it all"),
	call.Refused(unix.SYS_IO_SETUP, "io_setup", unix.ENOSYS, noAIO),
	call.Refused(unix.SYS_IO_DESTROY, "io_destroy", unix.ENOSYS, noAIO),
	call.Refused(unix.SYS_IO_GETEVENTS, "io_getevents", unix.ENOSYS, noAIO),
	call.Refused(unix.SYS_IO_SUBMIT, "io_submit", unix.ENOSYS, noAIO),
	call.Refused(unix.SYS_IO_CANCEL, "io_cancel", unix.ENOSYS, noAIO),
	call.Refused(unix.SYS_MBIND, "mbind", unix.ENOSYS, noNUMA),
	call.Refused(unix.SYS_SET_MEMPOLICY, "set_mempolicy", unix.ENOSYS, noNUMA),
	call.Refused(unix.SYS_GET_MEMPOLICY, "get_mempolicy", unix.ENOSYS, noNUMA),
	call.Refused(unix.SYS_MIGRATE_PAGES, "migrate_pages", unix.ENOSYS, noNUMA),
	call.Refused(unix.SYS_MOVE_PAGES, "move_pages", unix.ENOSYS, noNUMA),
	call.Refused(unix.SYS_ADD_KEY, "add_key", unix.ENOSYS, noKeys),
	call.Refused(unix.SYS_REQUEST_KEY, "request_key", unix.ENOSYS, noKeys),
	call.Refused(unix.SYS_KEYCTL, "keyctl", unix.ENOSYS, noKeys),
	call.Refused(unix.SYS_SET_THREAD_AREA, "set_thread_area", unix.ENOSYS, "for 32-bit programs only"),
	call.Refused(unix.SYS_GET_THREAD_AREA, "get_thread_area", unix.ENOSYS, "for 32-bit programs only"),
	call.Refused(unix.SYS_CREATE_MODULE, "create_module", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_GET_KERNEL_SYMS, "get_kernel_syms", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_QUERY_MODULE, "query_module", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_NFSSERVCTL, "nfsservctl", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_GETPMSG, "getpmsg", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_PUTPMSG, "putpmsg", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_AFS_SYSCALL, "afs_syscall", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_TUXCALL, "tuxcall", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_SECURITY, "security", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_VSERVER, "vserver", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_EPOLL_CTL_OLD, "epoll_ctl_old", unix.ENOSYS, givenUp),
	call.Refused(unix.SYS_EPOLL_WAIT_OLD, "epoll_wait_old", unix.ENOSYS, givenUp),
}

const (
	noAIO   = "as Linux without asynchronous I/O"
	noNUMA  = "as Linux on a machine with uniform memory"
	noKeys  = "as Linux without key rings"
	givenUp = "Linux has given this call up"
)

const noMachine = "no capability in the sandbox reaches the host"
