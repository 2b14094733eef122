/* poll(2), ppoll(2). */
#include "tap.h"

static short poll1(int fd, short events)
{
	struct pollfd f = {fd, events, 0};
	int n = poll(&f, 1, 0);
	return n < 0 ? -1 : n == 0 && f.revents != 0 ? -2 : f.revents;
}

TEST(pipes)
{
	int p[2];
	pipe(p);
	CHECK_EQ(poll1(p[0], POLLIN), 0);
	CHECK_EQ(poll1(p[1], POLLOUT), POLLOUT);
	CHECK_EQ(poll1(p[1], POLLIN), 0);
	write(p[1], "x", 1);
	CHECK_EQ(poll1(p[0], POLLIN | POLLRDNORM | POLLOUT), POLLIN | POLLRDNORM);
	close(p[1]);
	CHECK_EQ(poll1(p[0], POLLIN), POLLIN | POLLHUP);
	char c;
	read(p[0], &c, 1);
	CHECK_EQ(poll1(p[0], POLLIN), POLLHUP);
	CHECK_EQ(poll1(p[0], 0), POLLHUP); /* reported without being asked */
	close(p[0]);
	pipe(p);
	close(p[0]);
	CHECK_EQ(poll1(p[1], POLLOUT), POLLOUT | POLLERR);
	close(p[1]);
	/* A pipe is writable while a whole page is free. */
	static char big[65536];
	pipe2(p, O_NONBLOCK);
	write(p[1], big, 65536);
	CHECK_EQ(poll1(p[1], POLLOUT), 0);
	read(p[0], big, 100);
	CHECK_EQ(poll1(p[1], POLLOUT), 0);
	read(p[0], big, 4000);
	CHECK_EQ(poll1(p[1], POLLOUT), POLLOUT);
	close(p[0]);
	close(p[1]);
}

TEST(always_ready)
{
	tap_write_file("f", "");
	int fd = open("f", O_RDWR), d = open(".", O_RDONLY), n = open("/dev/null", O_RDWR);
	CHECK_EQ(poll1(fd, POLLIN | POLLOUT), POLLIN | POLLOUT);
	CHECK_EQ(poll1(d, POLLIN | POLLOUT), POLLIN | POLLOUT);
	CHECK_EQ(poll1(n, POLLIN | POLLOUT), POLLIN | POLLOUT);
	CHECK_EQ(poll1(fd, POLLPRI), 0);
	close(fd);
	close(d);
	CHECK_EQ(poll1(fd, POLLIN), POLLNVAL);
	CHECK_EQ(poll1(-1, POLLIN), 0); /* negative descriptors are skipped */
	close(n);
}

TEST(sockets)
{
	int s[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	CHECK_EQ(poll1(s[0], POLLIN | POLLOUT), POLLOUT);
	write(s[1], "x", 1);
	CHECK_EQ(poll1(s[0], POLLIN | POLLOUT), POLLIN | POLLOUT);
	char c;
	read(s[0], &c, 1);
	shutdown(s[1], SHUT_WR);
	CHECK_EQ(poll1(s[0], POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
	CHECK_EQ(poll1(s[0], 0), 0); /* half closed is not a hang-up */
	close(s[1]);
	CHECK_EQ(poll1(s[0], POLLIN | POLLOUT | POLLRDHUP), POLLIN | POLLOUT | POLLHUP | POLLRDHUP);
	close(s[0]);
}

TEST(many_and_errors)
{
	int p[2];
	pipe(p);
	write(p[1], "x", 1);
	struct pollfd f[4] = {{p[0], POLLIN, 77}, {-1, POLLIN, 77}, {p[1], POLLOUT, 77}, {900, 0, 77}};
	CHECK_EQ(poll(f, 4, -1), 3);
	CHECK_EQ(f[0].revents, POLLIN);
	CHECK_EQ(f[1].revents, 0);
	CHECK_EQ(f[2].revents, POLLOUT);
	CHECK_EQ(f[3].revents, POLLNVAL);
	CHECK_EQ(poll(NULL, 0, 0), 0);
	CHECK_ERRNO(syscall(SYS_poll, (void *)8, 1, 0), EFAULT);
	struct rlimit r;
	getrlimit(RLIMIT_NOFILE, &r);
	if (r.rlim_cur < (1u << 24))
		CHECK_ERRNO(syscall(SYS_poll, f, r.rlim_cur + 1, 0), EINVAL);
	close(p[0]);
	close(p[1]);
}

TEST(wakes_up)
{
	int p[2];
	pipe(p);
	pid_t child = tap_fork();
	if (child == 0) {
		struct pollfd f = {p[0], POLLIN, 0};
		close(p[1]);
		_exit(poll(&f, 1, -1) == 1 && f.revents & POLLIN ? 0 : 1);
	}
	write(p[1], "x", 1);
	CHECK_EQ(tap_reap(child), 0);
	close(p[0]);
	close(p[1]);
}

static volatile sig_atomic_t caught;
static void on_signal(int sig)
{
	caught = sig;
}

TEST(ppoll)
{
	int p[2];
	sigset_t blocked, none, now;
	pipe(p);
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	signal(SIGUSR1, on_signal);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	kill(getpid(), SIGUSR1);
	CHECK_EQ(caught, 0);
	struct pollfd f = {p[0], POLLIN, 0};
	/* The mask is swapped atomically: the pending signal ends the wait at once. */
	CHECK_ERRNO(ppoll(&f, 1, NULL, &none), EINTR);
	CHECK_EQ(caught, SIGUSR1);
	sigprocmask(SIG_SETMASK, NULL, &now);
	CHECK(sigismember(&now, SIGUSR1));
	struct timespec t = {0, 1000000};
	CHECK_EQ(ppoll(&f, 1, &t, NULL), 0);
	t.tv_nsec = 1000000000;
	CHECK_ERRNO(syscall(SYS_ppoll, &f, 1, &t, NULL, 8), EINVAL);
	t.tv_nsec = 0;
	CHECK_ERRNO(syscall(SYS_ppoll, &f, 1, &t, &none, 4), EINVAL);
	/* The kernel's call writes the remaining time back; this wait ended with none left. */
	t = (struct timespec){0, 2000000};
	CHECK_EQ(syscall(SYS_ppoll, &f, 1, &t, NULL, 8), 0);
	CHECK_EQ(t.tv_nsec, 0);
	t = (struct timespec){1000, 0};
	write(p[1], "x", 1);
	CHECK_EQ(syscall(SYS_ppoll, &f, 1, &t, NULL, 8), 1);
	CHECK(t.tv_sec >= 900 && t.tv_sec <= 1000);
	close(p[0]);
	close(p[1]);
}
