/* select(2), pselect6(2). */
#include "tap.h"
#include <sys/select.h>

TEST(sets)
{
	int p[2], q[2];
	fd_set r, w, e;
	struct timeval zero = {0, 0};
	pipe(p);
	pipe(q);
	write(p[1], "x", 1);
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_ZERO(&e);
	FD_SET(p[0], &r);
	FD_SET(q[0], &r);
	FD_SET(q[1], &w);
	FD_SET(p[0], &e);
	CHECK_EQ(select(64, &r, &w, &e, &zero), 2);
	CHECK(FD_ISSET(p[0], &r));
	CHECK(!FD_ISSET(q[0], &r));
	CHECK(FD_ISSET(q[1], &w));
	CHECK(!FD_ISSET(p[0], &e));
	/* One descriptor in two sets counts twice. */
	int s[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	write(s[1], "x", 1);
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_SET(s[0], &r);
	FD_SET(s[0], &w);
	CHECK_EQ(select(s[0] + 1, &r, &w, NULL, &zero), 2);
	/* Only descriptors below n are looked at. */
	FD_ZERO(&r);
	FD_SET(p[0], &r);
	CHECK_EQ(select(p[0], &r, NULL, NULL, &zero), 0);
	/* End of file and hang-up count as readable. */
	close(q[1]);
	FD_ZERO(&r);
	FD_SET(q[0], &r);
	CHECK_EQ(select(q[0] + 1, &r, NULL, NULL, NULL), 1);
	close(p[0]), close(p[1]), close(q[0]), close(s[0]), close(s[1]);
}

TEST(errors)
{
	fd_set r;
	struct timeval zero = {0, 0};
	FD_ZERO(&r);
	int closed = dup(1);
	close(closed);
	FD_SET(closed, &r);
	CHECK_ERRNO(select(closed + 1, &r, NULL, NULL, &zero), EBADF);
	/* Descriptors beyond the size of the table (64 at first, it doubles as needed and does not
	 * shrink) are not looked at: the same question about 200 is EBADF or 0. */
	FD_ZERO(&r);
	CHECK_ERRNO(select(-1, &r, NULL, NULL, &zero), EINVAL);
	struct timeval bad = {-1, 0};
	CHECK_ERRNO(select(0, NULL, NULL, NULL, &bad), EINVAL);
	CHECK_ERRNO(syscall(SYS_select, 1, (void *)8, NULL, NULL, &zero), EFAULT);
	CHECK_ERRNO(syscall(SYS_select, 0, NULL, NULL, NULL, (void *)8), EFAULT);
	/* n is cut to the size of the table: bits above it are not even read. */
	fd_set huge[8];
	memset(huge, 0, sizeof huge);
	CHECK_EQ(syscall(SYS_select, 8192, huge, NULL, NULL, &zero), 0);
}

TEST(timeout_is_updated)
{
	int p[2];
	fd_set r;
	pipe(p);
	FD_ZERO(&r);
	FD_SET(p[0], &r);
	struct timeval t = {0, 2000};
	CHECK_EQ(select(p[0] + 1, &r, NULL, NULL, &t), 0);
	CHECK_EQ(t.tv_sec * 1000000 + t.tv_usec, 0);
	CHECK(!FD_ISSET(p[0], &r));
	write(p[1], "x", 1);
	FD_SET(p[0], &r);
	t = (struct timeval){1000, 0};
	CHECK_EQ(select(p[0] + 1, &r, NULL, NULL, &t), 1);
	CHECK(t.tv_sec >= 900);
	close(p[0]), close(p[1]);
}

static volatile sig_atomic_t caught;
static void on_signal(int sig)
{
	caught = sig;
}

TEST(pselect)
{
	int p[2];
	sigset_t blocked, none;
	fd_set r;
	pipe(p);
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	signal(SIGUSR1, on_signal);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	kill(getpid(), SIGUSR1);
	FD_ZERO(&r);
	FD_SET(p[0], &r);
	CHECK_ERRNO(pselect(p[0] + 1, &r, NULL, NULL, NULL, &none), EINTR);
	CHECK_EQ(caught, SIGUSR1);
	/* A ready descriptor wins over a pending signal, which stays pending afterwards. */
	caught = 0;
	kill(getpid(), SIGUSR1);
	write(p[1], "x", 1);
	FD_SET(p[0], &r);
	CHECK_EQ(pselect(p[0] + 1, &r, NULL, NULL, NULL, &blocked), 1);
	CHECK_EQ(caught, 0);
	sigset_t pending;
	sigpending(&pending);
	CHECK(sigismember(&pending, SIGUSR1));
	struct {
		const sigset_t *set;
		size_t size;
	} arg = {&none, 7};
	CHECK_ERRNO(syscall(SYS_pselect6, 0, NULL, NULL, NULL, NULL, &arg), EINVAL);
	struct timespec bad = {0, -1};
	CHECK_ERRNO(syscall(SYS_pselect6, 0, NULL, NULL, NULL, &bad, NULL), EINVAL);
	close(p[0]), close(p[1]);
}
