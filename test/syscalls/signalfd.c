/* signalfd(2). */
#include "tap.h"
#include <sys/signalfd.h>

static sigset_t set_of(int a, int b)
{
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, a);
	if (b)
		sigaddset(&s, b);
	return s;
}

TEST(reads_signals)
{
	sigset_t s = set_of(SIGUSR1, SIGRTMIN);
	struct signalfd_siginfo i[4];
	sigprocmask(SIG_BLOCK, &s, NULL);
	int fd = signalfd(-1, &s, SFD_NONBLOCK | SFD_CLOEXEC);
	REQUIRE(fd >= 0);
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
	CHECK_ERRNO(read(fd, i, sizeof i), EAGAIN);
	struct pollfd f = {fd, POLLIN, 0};
	CHECK_EQ(poll(&f, 1, 0), 0);
	kill(getpid(), SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 7});
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 8});
	CHECK_EQ(poll(&f, 1, 0), 1);
	CHECK_EQ(read(fd, i, sizeof i), 3 * (int)sizeof *i);
	CHECK_EQ(sizeof *i, 128);
	CHECK_EQ(i[0].ssi_signo, SIGUSR1);
	CHECK_EQ(i[0].ssi_code, SI_USER);
	CHECK_EQ(i[0].ssi_pid, getpid());
	CHECK_EQ(i[0].ssi_uid, 0);
	CHECK_EQ(i[1].ssi_signo, SIGRTMIN);
	CHECK_EQ(i[1].ssi_int, 7);
	CHECK_EQ(i[1].ssi_code, SI_QUEUE);
	CHECK_EQ(i[2].ssi_int, 8);
	CHECK_ERRNO(read(fd, i, sizeof i), EAGAIN);
	close(fd);
}

TEST(mask_change_and_errors)
{
	sigset_t s = set_of(SIGUSR1, 0), t = set_of(SIGUSR2, SIGKILL);
	struct signalfd_siginfo i;
	sigset_t both = set_of(SIGUSR1, SIGUSR2);
	sigprocmask(SIG_BLOCK, &both, NULL);
	int fd = signalfd(-1, &s, SFD_NONBLOCK);
	kill(getpid(), SIGUSR2);
	CHECK_ERRNO(read(fd, &i, sizeof i), EAGAIN);
	CHECK_EQ(signalfd(fd, &t, 0), fd);
	CHECK_EQ(read(fd, &i, sizeof i), (int)sizeof i);
	CHECK_EQ(i.ssi_signo, SIGUSR2);
	CHECK_ERRNO(read(fd, &i, sizeof i - 1), EINVAL);
	CHECK_ERRNO(write(fd, &i, sizeof i), EINVAL);
	int n = open("/dev/null", O_RDWR);
	CHECK_ERRNO(signalfd(n, &s, 0), EINVAL);
	CHECK_ERRNO(signalfd(900, &s, 0), EBADF);
	CHECK_ERRNO(signalfd(-1, &s, 0x40000000), EINVAL);
	CHECK_ERRNO(syscall(SYS_signalfd4, -1, &s, 7, 0), EINVAL);
	close(n);
	close(fd);
}

TEST(child_info)
{
	sigset_t s = set_of(SIGCHLD, 0);
	struct signalfd_siginfo i;
	sigprocmask(SIG_BLOCK, &s, NULL);
	int fd = signalfd(-1, &s, 0);
	pid_t child = tap_fork();
	if (child == 0)
		_exit(3);
	CHECK_EQ(read(fd, &i, sizeof i), (int)sizeof i); /* waits */
	CHECK_EQ(i.ssi_signo, SIGCHLD);
	CHECK_EQ(i.ssi_pid, child);
	CHECK_EQ(i.ssi_code, CLD_EXITED);
	CHECK_EQ(i.ssi_status, 3);
	tap_reap(child);
	close(fd);
}

TEST(reader_decides)
{
	/* A descriptor passed on reads the signals of whoever reads it. */
	sigset_t s = set_of(SIGUSR1, 0);
	sigprocmask(SIG_BLOCK, &s, NULL);
	int fd = signalfd(-1, &s, SFD_NONBLOCK);
	kill(getpid(), SIGUSR1);
	IN_CHILD
	{
		struct signalfd_siginfo i;
		CHECK_ERRNO(read(fd, &i, sizeof i), EAGAIN); /* pending signals are not inherited */
		kill(getpid(), SIGUSR1);
		CHECK_EQ(read(fd, &i, sizeof i), (int)sizeof i);
		CHECK_EQ(i.ssi_pid, getpid());
	}
	struct signalfd_siginfo i;
	CHECK_EQ(read(fd, &i, sizeof i), (int)sizeof i);
	close(fd);
}
