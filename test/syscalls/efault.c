/* Bad pointers: EFAULT, never a signal and never a crash, over the breadth of the table. */
#include "tap.h"
#include <sys/epoll.h>

#define BAD ((void *)0x10)           /* not mapped */
#define KERNEL ((void *)0xffff800000000000) /* the kernel's half */
#define WILD ((void *)0x8000000000000000)   /* not canonical */

static void *const bad[] = {BAD, KERNEL, WILD, (void *)-1L, (void *)-4096L};
#define EACH for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)

TEST(paths)
{
	EACH
	{
		CHECK_ERRNO(syscall(SYS_open, bad[i], O_RDONLY), EFAULT);
		CHECK_ERRNO(syscall(SYS_stat, bad[i], BAD), EFAULT);
		CHECK_ERRNO(syscall(SYS_mkdir, bad[i], 0700), EFAULT);
		CHECK_ERRNO(syscall(SYS_rename, bad[i], "x"), EFAULT);
		CHECK_ERRNO(syscall(SYS_unlink, bad[i]), EFAULT);
		CHECK_ERRNO(syscall(SYS_chdir, bad[i]), EFAULT);
		CHECK_ERRNO(syscall(SYS_symlink, bad[i], "x"), EFAULT);
		CHECK_ERRNO(syscall(SYS_execve, bad[i], NULL, NULL), EFAULT);
	}
	CHECK_ERRNO(syscall(SYS_rename, "x", BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_truncate, BAD, 0), EFAULT);
	CHECK_ERRNO(syscall(SYS_chmod, BAD, 0), EFAULT);
	CHECK_ERRNO(syscall(SYS_chown, BAD, 0, 0), EFAULT);
	CHECK_ERRNO(syscall(SYS_access, BAD, 0), EFAULT);
	CHECK_ERRNO(syscall(SYS_statfs, BAD, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_mknod, BAD, S_IFIFO, 0), EFAULT);
	CHECK_ERRNO(syscall(SYS_link, BAD, "x"), EFAULT);
	CHECK_ERRNO(syscall(SYS_chroot, BAD), EFAULT);
}

TEST(buffers)
{
	int z = open("/dev/zero", O_RDWR), p[2], s[2];
	pipe(p);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	write(p[1], "data", 4);
	write(s[1], "data", 4);
	EACH
	{
		CHECK_ERRNO(syscall(SYS_read, z, bad[i], 10), EFAULT);
		CHECK_ERRNO(syscall(SYS_write, p[1], bad[i], 10), EFAULT);
		CHECK_ERRNO(syscall(SYS_read, p[0], bad[i], 10), EFAULT);
		CHECK_ERRNO(syscall(SYS_readv, z, bad[i], 1), EFAULT);
		CHECK_ERRNO(syscall(SYS_sendto, s[0], bad[i], 10, 0, NULL, 0), EFAULT);
		CHECK_ERRNO(syscall(SYS_recvfrom, s[0], bad[i], 10, MSG_DONTWAIT, NULL, NULL), EFAULT);
		CHECK_ERRNO(syscall(SYS_fstat, z, bad[i]), EFAULT);
		CHECK_ERRNO(syscall(SYS_pipe, bad[i]), EFAULT);
		CHECK_ERRNO(syscall(SYS_nanosleep, bad[i], NULL), EFAULT);
		CHECK_ERRNO(syscall(SYS_rt_sigaction, SIGUSR1, bad[i], NULL, 8), EFAULT);
		CHECK_ERRNO(syscall(SYS_getrlimit, RLIMIT_NOFILE, bad[i]), EFAULT);
		CHECK_ERRNO(syscall(SYS_poll, bad[i], 1, 0), EFAULT);
	}
	char buf[8];
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	CHECK_EQ(read(p[0], buf, 8), 4); /* failed reads took nothing away */
	CHECK_EQ(recv(s[0], buf, 8, MSG_DONTWAIT), 4);
	close(z), close(p[0]), close(p[1]), close(s[0]), close(s[1]);
}

TEST(results)
{
	int ep = epoll_create1(0);
	CHECK_ERRNO(syscall(SYS_times, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_time, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_getitimer, ITIMER_REAL, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_getresgid, BAD, BAD, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_sched_getparam, 0, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, BAD, 8), EFAULT);
	CHECK_ERRNO(syscall(SYS_rt_sigpending, BAD, 8), EFAULT);
	CHECK_ERRNO(syscall(SYS_sigaltstack, NULL, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, 0, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_fcntl, ep, F_GETLK, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_getcwd, BAD, 100), EFAULT);
	CHECK_ERRNO(syscall(SYS_futex, BAD, 0, 0, NULL), EFAULT);
	CHECK_ERRNO(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, BAD), EFAULT);
	CHECK_ERRNO(syscall(SYS_setitimer, ITIMER_VIRTUAL, BAD, NULL), EFAULT);
	CHECK_ERRNO(syscall(SYS_prctl, PR_GET_NAME, BAD), EFAULT);
	close(ep);
	/* wait4: the child is gone though its status could not be stored. */
	pid_t pid = tap_fork();
	if (pid == 0)
		_exit(0);
	CHECK_ERRNO(syscall(SYS_wait4, pid, BAD, 0, NULL), EFAULT);
	CHECK_ERRNO(syscall(SYS_wait4, pid, NULL, 0, NULL), ECHILD);
}

TEST(strings_at_the_end_of_memory)
{
	/* A path that ends exactly at an unmapped page is fine; one that runs into it is not. */
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(m + 4096, 4096);
	memcpy(m + 4096 - 2, ".", 2);
	CHECK_OK(syscall(SYS_access, m + 4096 - 2, F_OK));
	m[4095] = 'x';
	CHECK_ERRNO(syscall(SYS_access, m + 4096 - 2, F_OK), EFAULT);
	struct timespec *t = (void *)(m + 4096 - 8); /* half of the struct is missing */
	CHECK_ERRNO(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, t), EFAULT);
	munmap(m, 4096);
}
