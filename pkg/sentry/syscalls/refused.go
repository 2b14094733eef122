package syscalls

import "golang.org/x/sys/unix"

// refusedRows are calls that always fail: as they do on Linux without
// the feature, or without a capability over the machine, which nobody in
// the sandbox has.
var refusedRows = []Row{
	refused(unix.SYS_LOOKUP_DCOOKIE, "lookup_dcookie", unix.ENOSYS, "as Linux without profiling"),
	refused(unix.SYS_FANOTIFY_INIT, "fanotify_init", unix.ENOSYS, "as Linux without fanotify"),
	refused(unix.SYS_FANOTIFY_MARK, "fanotify_mark", unix.ENOSYS, "as Linux without fanotify"),
	refused(unix.SYS_USELIB, "uselib", unix.ENOSYS, "as Linux without a.out"),
	refused(unix.SYS_SYSFS, "sysfs", unix.ENOSYS, "as Linux without this call; /proc/filesystems has it all"),
	refused(unix.SYS_QUOTACTL, "quotactl", unix.ENOSYS, "as Linux without quotas"),
	refused(unix.SYS_SWAPON, "swapon", unix.EPERM, noMachine),
	refused(unix.SYS_SWAPOFF, "swapoff", unix.EPERM, noMachine),
	refused(unix.SYS_REBOOT, "reboot", unix.EPERM, noMachine),
	refused(unix.SYS_VHANGUP, "vhangup", unix.EPERM, noMachine),
	refused(unix.SYS_ACCT, "acct", unix.EPERM, noMachine),
	refused(unix.SYS_INIT_MODULE, "init_module", unix.EPERM, noMachine),
	refused(unix.SYS_FINIT_MODULE, "finit_module", unix.EPERM, noMachine),
	refused(unix.SYS_DELETE_MODULE, "delete_module", unix.EPERM, noMachine),
	refused(unix.SYS_KEXEC_LOAD, "kexec_load", unix.EPERM, noMachine),
	refused(unix.SYS_KEXEC_FILE_LOAD, "kexec_file_load", unix.EPERM, noMachine),
}

const noMachine = "no capability in the sandbox reaches the host"
