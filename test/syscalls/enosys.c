/* Numbers without a call behind them, calls Linux has given up, and flags kept in registers' high halves. */
#include "tap.h"

TEST(unknown_numbers)
{
	CHECK_ERRNO(syscall(9999), ENOSYS);
	CHECK_ERRNO(syscall(-1), ENOSYS);
	CHECK_ERRNO(syscall(1L << 31), ENOSYS);
	CHECK_ERRNO(syscall(0x7fffffff), ENOSYS);
	CHECK_ERRNO(syscall(512 + 1000), ENOSYS);
	/* The number is the low half of rax: the high half does not count. */
	CHECK_EQ(syscall(0xffffffff00000000L | SYS_getpid), getpid());
}

TEST(given_up)
{
	CHECK_ERRNO(syscall(SYS_create_module), ENOSYS);
	CHECK_ERRNO(syscall(SYS_get_kernel_syms), ENOSYS);
	CHECK_ERRNO(syscall(SYS_query_module), ENOSYS);
	CHECK_ERRNO(syscall(SYS_nfsservctl), ENOSYS);
	CHECK_ERRNO(syscall(SYS_getpmsg), ENOSYS);
	CHECK_ERRNO(syscall(SYS_putpmsg), ENOSYS);
	CHECK_ERRNO(syscall(SYS_afs_syscall), ENOSYS);
	CHECK_ERRNO(syscall(SYS_tuxcall), ENOSYS);
	CHECK_ERRNO(syscall(SYS_security), ENOSYS);
	CHECK_ERRNO(syscall(SYS_vserver), ENOSYS);
	CHECK_ERRNO(syscall(SYS_epoll_ctl_old), ENOSYS);
	CHECK_ERRNO(syscall(SYS_epoll_wait_old), ENOSYS);
	CHECK_ERRNO(syscall(SYS_set_thread_area, 0), ENOSYS); /* 32-bit only */
	CHECK_ERRNO(syscall(SYS_get_thread_area, 0), ENOSYS);
}

TEST(int_arguments_ignore_high_halves)
{
	/* An int argument is the low 32 bits of its register. */
	CHECK_ERRNO(syscall(SYS_close, 0x1ffffffffL), EBADF);
	int fd = open("/dev/null", O_RDONLY);
	CHECK_EQ(syscall(SYS_fcntl, 0xabcd00000000L | fd, F_GETFD), 0);
	CHECK_EQ(syscall(SYS_close, 0xabcd00000000L | fd), 0);
	CHECK_EQ(syscall(SYS_getpgid, 0xabcd00000000L), getpgrp());
	CHECK_OK(syscall(SYS_kill, 0xabcd00000000L | getpid(), 0));
}

TEST(identities)
{
	CHECK_EQ(syscall(SYS_getpid), getpid());
	CHECK_EQ(syscall(SYS_gettid), getpid());
	CHECK_EQ(syscall(SYS_getuid), 0);
	CHECK_EQ(syscall(SYS_getegid), 0);
	CHECK_EQ(syscall(SYS_getpgrp), getpgrp());
	CHECK_EQ(syscall(SYS_alarm, TAP_SECONDS) <= TAP_SECONDS, 1);
	CHECK_EQ(syscall(SYS_restart_syscall), -1); /* nothing to restart: EINTR */
	CHECK_EQ(errno, EINTR);
}

TEST(privileged)
{
	IN_CHILD
	{
		tap_become(12345, 12345);
		CHECK_ERRNO(syscall(SYS_reboot, 0, 0, 0, 0), EPERM);
		CHECK_ERRNO(syscall(SYS_swapon, "x", 0), EPERM);
		CHECK_ERRNO(syscall(SYS_swapoff, "x"), EPERM);
		CHECK_ERRNO(syscall(SYS_pivot_root, ".", "."), EPERM);
		CHECK_ERRNO(syscall(SYS_vhangup), EPERM);
		CHECK_ERRNO(syscall(SYS_settimeofday, &(struct timeval){0, 0}, NULL), EPERM);
	}
}
